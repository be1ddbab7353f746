"""Linearisation rules against closed forms, dense quadrature and the covariance form of the textbooks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import probseq as ps
from probseq.errors import IllConditionedWarning
from probseq.ops.linearise import Regression, derivative

RULES = [
    ps.ExtendedKalman(),
    ps.UnscentedTransform(),
    ps.UnscentedTransform(0.5, 2.0, 1.0),
    ps.UnscentedTransform(1.0, 2.0, -0.5),
    ps.Cubature(),
    ps.GaussHermite(2),
    ps.GaussHermite(5),
]


def gaussian(n: int, batch: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(n)
    mean = torch.randn(*batch, n, dtype=torch.float64, generator=draws)
    root = torch.randn(*batch, n, n, dtype=torch.float64, generator=draws).tril()
    return mean, root


def bent(points: Tensor) -> Tensor:
    x, z = points[..., 0], points[..., -1]
    return torch.stack([x.sin() + 0.3 * z, (0.4 * x * z).exp(), x.square() - z], -1)


def textbook_unscented(rule: ps.UnscentedTransform, mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, covariance and cross covariance as sums over weighted sigma points (Julier and Uhlmann 2004)."""
    n = len(mean)
    kappa = max(3 - n, 0) if rule.kappa is None else rule.kappa
    spread = rule.alpha**2 * (n + kappa)
    arms = math.sqrt(spread) * root.mT
    points = torch.cat([mean.unsqueeze(0), mean + arms, mean - arms])
    weights = torch.full((2 * n + 1,), 1 / (2 * spread), dtype=torch.float64)
    weights[0] = (spread - n) / spread
    about = weights.clone()
    about[0] += 1 - rule.alpha**2 + rule.beta
    values = bent(points)
    centre = weights @ values
    away = values - centre
    return centre, (about.unsqueeze(-1) * away).mT @ away, (about.unsqueeze(-1) * (points - mean)).mT @ away


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_affine_functions_have_no_residual(rule, scale):
    mean, root = gaussian(3, (2,))
    matrix, offset = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    said = rule(lambda points: scale * (points @ matrix.mT + offset), mean, root)
    torch.testing.assert_close(said.mean / scale, mean @ matrix.mT + offset, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(said.slope / scale, matrix @ root, rtol=1e-12, atol=1e-12)
    assert float(said.residual_cov.abs().max()) <= 1e-20 * scale**2


@pytest.mark.parametrize("rule", [r for r in RULES if isinstance(r, ps.UnscentedTransform)], ids=repr)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_unscented_transform_is_the_weighted_sum(rule, n):
    mean, root = gaussian(n)
    said = rule(bent, mean, root)
    for mine, theirs in zip(
        (said.mean, said.cov, root @ said.slope.mT), textbook_unscented(rule, mean, root), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_cubature_is_the_unscented_transform_without_a_centre():
    mean, root = gaussian(3, (4,))
    pair = [rule(bent, mean, root) for rule in (ps.Cubature(), ps.UnscentedTransform(1.0, 0.0, 0.0))]
    for mine, theirs in zip(*pair, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "degree"), [(ps.Cubature(), 3), (ps.UnscentedTransform(), 3), (ps.GaussHermite(4), 7)]
)
def test_means_of_polynomials(rule, degree):
    """E[x^a z^b] for a + b <= degree, from the moments of a normal distribution."""
    root = torch.tensor([[1.3, 0.0], [0.0, 0.7]], dtype=torch.float64)

    def moment(k: int, deviation: float) -> float:
        return 0.0 if k % 2 else deviation**k * math.prod(range(1, k, 2))

    for a in range(degree + 1):
        for b in range(degree + 1 - a):
            said = rule(lambda p, a=a, b=b: (p[..., :1] ** a) * (p[..., 1:] ** b), torch.zeros(2).double(), root)
            assert said.mean.item() == pytest.approx(moment(a, 1.3) * moment(b, 0.7), abs=1e-11)


def test_many_points_give_the_moments_themselves():
    """Against Monte Carlo of the same Gaussian, within six standard errors."""
    mean, root = gaussian(2)
    root = 0.5 * root
    said = ps.GaussHermite(30)(bent, mean, root)
    draws = torch.randn(200_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = bent(mean + draws @ root.mT)
    assert bool(((values.mean(0) - said.mean).abs() < 6 * values.std(0) / len(draws) ** 0.5).all())
    products = (values - said.mean).unsqueeze(-1) * draws.unsqueeze(-2)
    assert bool(((products.mean(0) - said.slope).abs() < 6 * products.std(0) / len(draws) ** 0.5).all())
    squares = (values - said.mean).unsqueeze(-1) * (values - said.mean).unsqueeze(-2)
    assert bool(((squares.mean(0) - said.cov).abs() < 6 * squares.std(0) / len(draws) ** 0.5).all())


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_residuals_are_semidefinite_and_singular_beliefs_are_fine(rule):
    mean, root = gaussian(2, (5,))
    for factor in (root, root * torch.tensor([1.0, 0.0]), 0 * root):
        said: Regression = rule(bent, mean, factor)
        smallest = torch.linalg.eigvalsh(said.residual_cov).min()
        assert smallest >= -1e-12 * said.cov.abs().max()
    torch.testing.assert_close(said.mean, bent(mean), rtol=1e-12, atol=1e-12)


def test_negative_weights_cannot_make_a_covariance_indefinite():
    """kappa = 3 - n for many states: the textbook's sum is indefinite, the nearest legal beta is taken and said."""
    rule, n = ps.UnscentedTransform(1.0, 0.0, 3.0 - 8), 8
    mean, root = torch.zeros(n).double(), torch.eye(n).double()
    wild = lambda points: points.square().sum(-1, keepdim=True)  # noqa: E731
    values = wild(math.sqrt(3) * torch.eye(n).double())
    naive = (n / 3) * float(values[0]) ** 2 + (1 - n / 3) * 0.0 - ((n / 3) * float(values[0])) ** 2
    assert naive < 0
    with pytest.warns(IllConditionedWarning, match="beta is taken as"):
        rule.check(n)
    said = rule(wild, mean, root)
    assert said.mean.item() == pytest.approx(n)
    assert float(said.cov) >= 0


def test_derivatives_are_exact():
    mean, _ = gaussian(2, (3,))
    value, jacobian = derivative(bent, mean)
    torch.testing.assert_close(value, bent(mean))
    for b in range(3):
        torch.testing.assert_close(jacobian[b], torch.autograd.functional.jacobian(bent, mean[b]))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_gradients(rule):
    mean, root = gaussian(2)
    inputs = (mean.requires_grad_(), root.requires_grad_())
    assert torch.autograd.gradcheck(lambda m, r: tuple(rule(bent, m, r)), inputs)


def test_bad_options():
    with pytest.raises(ValueError, match="alpha must be positive"):
        ps.UnscentedTransform(alpha=0.0)
    with pytest.raises(ValueError, match="beta must be finite"):
        ps.UnscentedTransform(beta=np.inf)
    with pytest.raises(ValueError, match="kappa must be more than -2"):
        ps.UnscentedTransform(kappa=-2.0).check(2)
    with pytest.raises(ValueError, match="order must be an integer of at least 2"):
        ps.GaussHermite(1)
    with pytest.raises(ValueError, match="cubature rule instead"):
        ps.GaussHermite(5).check(12)
    with pytest.raises(ValueError, match="iterations must be a non-negative integer"):
        ps.ExtendedKalman(-1)
