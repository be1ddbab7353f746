"""Resampling: counts, their means, weights of zero."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from probseq.ops.resampling import SCHEMES, ancestors


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def counts(chosen: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(chosen, chosen.shape[-1]).sum(-2).double()


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_particle_is_taken_in_proportion_to_its_weight(scheme, scale):
    n, repeats = 7, 20_000
    weights = drawn(n, seed=1) ** 3
    weights[2] = 0.0
    expected = n * weights / weights.sum()
    found = counts(ancestors(scale * weights.expand(repeats, n), drawn(repeats, n), scheme))
    assert bool((found.sum(-1) == n).all())
    error = found.std(0) / math.sqrt(repeats) + 1e-12
    assert bool(((found.mean(0) - expected).abs() <= 5 * error).all())
    assert bool((found[:, 2] == 0).all())


def test_how_far_counts_stray():
    n, repeats = 8, 5000
    weights = drawn(n, seed=2)
    expected = n * weights / weights.sum()
    away = {s: counts(ancestors(weights.expand(repeats, n), drawn(repeats, n), s)) - expected for s in SCHEMES}
    assert float(away["systematic"].abs().max()) < 1
    assert float(away["stratified"].abs().max()) < 2
    assert float(away["residual"].min()) > -1  # never fewer copies than the whole part
    spread = {s: float(x.square().sum(-1).mean()) for s, x in away.items()}
    assert max(spread["systematic"], spread["stratified"], spread["residual"]) < 0.7 * spread["multinomial"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_edges(scheme):
    one = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    for uniforms in (torch.zeros(3).double(), torch.full((3,), 1 - 2.0**-53).double()):
        assert ancestors(one, uniforms, scheme).tolist() == [1, 1, 1]
    assert ancestors(torch.ones(1).double(), drawn(1), scheme).tolist() == [0]
    tail = torch.tensor([0.3, 0.7, 0.0, 0.0], dtype=torch.float64)
    assert int(ancestors(tail, torch.full((4,), 1 - 2.0**-53).double(), scheme).max()) <= 1
    shaped = ancestors(drawn(2, 3, 5), drawn(2, 3, 5), scheme)
    assert shaped.shape == (2, 3, 5)
    assert bool((shaped[..., 1:] >= shaped[..., :-1]).all()) or scheme == "residual"


def test_systematic_and_stratified_take_equal_weights_once_each():
    equal = torch.full((6,), 1 / 6).double()
    for scheme in ("systematic", "stratified", "residual"):
        assert ancestors(equal, drawn(6), scheme).sort().values.tolist() == list(range(6))
