"""Windows across gaps against the sum over all paths, and against the four steps where they carry gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.models.windows import windows_of
from tests import reference, zoo


def gappy(seed: int, batch: int, steps: int, dim: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(batch, steps, dim))
    y[rng.random(y.shape) < 0.4] = np.nan
    return torch.as_tensor(y)


@pytest.mark.parametrize(("dim", "order", "kind"), [(1, 1, "full"), (2, 2, "full"), (3, 2, "diag"), (3, 1, "full")])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_windows_are_those_of_the_sum_over_paths(dim, order, kind, scale):
    model = zoo.hmm(1, zoo.autoregressive_emission(dim, order, kind), 2).rescale(scale)
    y = scale * gappy(2, 3, 6, dim)
    lengths = [6, 2, 5]
    with torch.no_grad():
        found = windows_of(model, ps.Sequences.of(y, lengths=lengths), None)
    for b, n in enumerate(lengths):
        _, expected = reference.windowed_table(model, y[b, :n].numpy())
        np.testing.assert_allclose(found[b, 1 : n + 1], np.array(expected), rtol=1e-10, atol=1e-10 * scale)
        assert torch.equal(found[b, n:], found[b, n : n + 1].expand_as(found[b, n:]))


def test_structural_zeros_and_driven_moves_agree_with_the_four_steps():
    rng = np.random.default_rng(3)
    matrix = [[0.7, 0.3, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]]
    model = ps.HMM(
        emission=zoo.autoregressive_emission(2, 2)(rng, 3),
        initial_probs=[1.0, 0.0, 0.0],
        transition_matrix=matrix,
        transition_weights=rng.normal(size=(3, 3, 1)),
    )
    u = torch.as_tensor(rng.normal(size=(2, 12, 1)))
    data = ps.Sequences.of(gappy(4, 2, 12, 2), u)
    slow = windows_of(model, data, None).detach()
    with torch.no_grad():
        np.testing.assert_allclose(windows_of(model, data, None), slow, rtol=1e-10)
