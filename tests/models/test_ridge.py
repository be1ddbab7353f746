"""Ridge regression by its evidence, against dense Gaussians and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.linear_model import Ridge

from probseq.errors import DegenerateWarning
from probseq.models.ridge import _log_evidence, _rotate, fit_ridge
from tests.reference import log_normal


def problem(n: int, n_features: int, dim: int, noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng([n, n_features, dim])
    features = rng.normal(size=(n, n_features)) @ np.diag(np.logspace(0, -3, n_features))
    weights = rng.normal(size=(n_features, dim))
    mix = rng.normal(size=(dim, dim))
    return torch.as_tensor(features), torch.as_tensor(features @ weights + noise * rng.normal(size=(n, dim)) @ mix)


@pytest.mark.parametrize(("n", "n_features", "dim"), [(30, 6, 1), (30, 6, 2), (5, 9, 1), (7, 7, 2)])
def test_weights_and_evidence(n, n_features, dim):
    x, y = problem(n, n_features, dim)
    found = fit_ridge(x, y)
    peer = Ridge(alpha=found.penalty, fit_intercept=False, solver="svd").fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(found.weights, peer.coef_.reshape(dim, -1), rtol=1e-9, atol=1e-12)
    gram = x.mT @ x + found.penalty * torch.eye(n_features, dtype=torch.float64)
    np.testing.assert_allclose(found.root @ found.root.mT, torch.linalg.inv(gram), rtol=1e-8, atol=1e-12)
    rows = np.eye(n) + (x @ x.mT).numpy() / found.penalty
    joint = multivariate_normal(cov=np.kron(rows, found.noise_cov.numpy()))  # row after row of y
    np.testing.assert_allclose(found.log_evidence, joint.logpdf(y.numpy().ravel()), rtol=1e-10)


@pytest.mark.parametrize(("n", "dim"), [(25, 1), (25, 3)])
def test_the_penalty_and_the_noise_maximise_the_evidence(n, dim):
    x, y = problem(n, 6, dim, noise=2.0)
    found = fit_ridge(x, y)
    penalties = found.penalty * torch.logspace(-6, 6, 4001, dtype=torch.float64)
    best = _log_evidence(_rotate(x, y), penalties).max()
    assert float(best) <= found.log_evidence + 1e-6
    rows = np.eye(n) + (x @ x.mT).numpy() / found.penalty
    for change in (0.9, 1.1):
        other = multivariate_normal(cov=np.kron(rows, change * found.noise_cov.numpy())).logpdf(y.numpy().ravel())
        assert other < found.log_evidence


def test_prediction_is_conditioning():
    """N(W x, (1 + x' A^-1 x) S) equals the quotient of two evidences with the same penalty and noise."""
    x, y = problem(12, 5, 2)
    found = fit_ridge(x[:-1], y[:-1])
    rows = np.eye(12) + (x @ x.mT).numpy() / found.penalty

    def joint(k: int) -> float:
        return log_normal(y[:k].numpy().ravel(), np.zeros(2 * k), np.kron(rows[:k, :k], found.noise_cov.numpy()))

    spread = 1 + float((x[-1] @ found.root).square().sum())
    predictive = log_normal(y[-1].numpy(), (found.weights @ x[-1]).numpy(), spread * found.noise_cov.numpy())
    np.testing.assert_allclose(predictive, joint(12) - joint(11), rtol=1e-9)


def test_ill_conditioned_features_keep_their_digits():
    """Features that differ in the tenth digit: normal equations could not tell them apart."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 1))
    x = torch.as_tensor(base + 1e-10 * rng.normal(size=(200, 3)))
    y = (x[:, :1] - x[:, 1:2]) * 1e10
    found = fit_ridge(x, y + 1e-4 * torch.as_tensor(rng.normal(size=(200, 1))))
    residual = y - x @ found.weights.mT
    assert float(residual.square().mean().sqrt()) < 1e-3


def test_targets_that_follow_exactly_are_told():
    x, _ = problem(20, 4, 1)
    with pytest.warns(DegenerateWarning, match="follows exactly"):
        found = fit_ridge(x, torch.zeros(20, 2, dtype=torch.float64))
    assert bool((found.noise_cov.diagonal() > 0).all())
    assert bool((found.weights == 0).all())


def test_collinear_targets_have_a_singular_noise_that_is_held():
    x, y = problem(40, 4, 1, noise=0.01)
    with pytest.warns(DegenerateWarning, match="follows exactly"):
        found = fit_ridge(x, torch.cat([y, 2 * y], 1))
    single = fit_ridge(x, y)
    assert bool((torch.linalg.eigvalsh(found.noise_cov) > 0).all())
    torch.testing.assert_close(found.weights, torch.cat([found.weights[:1], 2 * found.weights[:1]]))
    torch.testing.assert_close(found.weights[:1], single.weights, rtol=0.1, atol=0.01)
