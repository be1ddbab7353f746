"""The Gaussian table as a torch function."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

from probseq.ops import gaussian


def random_states(k: int, d: int, seed: int = 0):
    draws = torch.Generator().manual_seed(seed)
    means = torch.randn(k, d, dtype=torch.float64, generator=draws)
    half = torch.randn(k, d, d, dtype=torch.float64, generator=draws)
    factor = torch.linalg.cholesky(half @ half.mT + torch.eye(d))
    return means, factor, torch.linalg.inv(factor)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize(("k", "d"), [(1, 1), (3, 2), (4, 6)])
def test_equals_torchs_density(k, d, scale):
    means, factor, whitener = random_states(k, d)
    rows = scale * torch.randn(50, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.distributions.MultivariateNormal(scale * means, scale_tril=scale * factor).log_prob(rows[:, None])
    table = gaussian.log_prob(rows, scale * means, whitener / scale)
    torch.testing.assert_close(table, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("diagonal", [False, True])
def test_gradients(diagonal):
    means, _, whitener = random_states(2, 3)
    rows = torch.randn(5, 3, dtype=torch.float64)
    inputs = tuple(x.clone().requires_grad_() for x in (rows, means, whitener))
    lower = torch.eye(3) if diagonal else torch.ones(3, 3).tril()
    assert torch.autograd.gradcheck(lambda x, m, w: gaussian.log_prob(x, m, w * lower, diagonal), inputs)


def test_operators_keep_torchs_rules():
    means, _, whitener = random_states(2, 3)
    rows = torch.randn(5, 3, dtype=torch.float64)
    inputs = tuple(x.clone().requires_grad_() for x in (rows, means, whitener))
    torch.library.opcheck(torch.ops.probseq.gaussian_log_prob.default, (*inputs, False, True))
    weight = torch.randn(5, 2, dtype=torch.float64)
    backward = torch.ops.probseq.gaussian_log_prob_backward.default
    torch.library.opcheck(backward, (weight, rows, means, whitener, False, True))


def test_what_is_not_defined_raises():
    means, _, whitener = random_states(2, 3)
    rows = torch.randn(5, 3, dtype=torch.float64)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        gaussian.log_prob(forward_ad.make_dual(rows, torch.ones_like(rows)), means, whitener)
    means.requires_grad_()
    (gradient,) = torch.autograd.grad(gaussian.log_prob(rows, means, whitener).sum(), means, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.sum(), means)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("n", [0, 1, 64, 150])
def test_scatter_is_the_weighted_sum_of_outer_products(n, diagonal, scale):
    draws = torch.Generator().manual_seed(n)
    rows, means = (scale * torch.randn(k, 3, dtype=torch.float64, generator=draws) for k in (n, 2))
    weights = torch.rand(n, 2, dtype=torch.float64, generator=draws)
    seen = torch.rand(n, 3, generator=draws) < 0.7
    for mask in (None, seen):
        away = (rows[:, None] - means) * (1.0 if mask is None else mask[:, None])
        expected = torch.einsum("nk,nkd,nke->kde", weights, away, away)
        expected = expected * torch.eye(3) if diagonal else expected
        found = gaussian.scatter(rows, mask, means, weights, diagonal)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13 * scale**2 * max(n, 1))
