"""Autoregression: against statsmodels, least squares by numpy, and its start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from statsmodels.tsa.arima.model import ARIMA

import probseq as ps
from probseq.errors import DegenerateWarning
from probseq.models.autoregressive import stationary_cov


def simulated(n: int = 150, seed: int = 0) -> np.ndarray:
    model = ps.AR(transition_matrices=[[[0.6]], [[-0.3]]], transition_offset=[2.0], transition_cov=[[1.5]])
    return model.sample(n, seed=seed).numpy()[:, 0]


def test_exact_likelihood_equals_statsmodels():
    y = simulated()
    model = ps.AR(transition_matrices=[[[0.6]], [[-0.3]]], transition_offset=[2.0], transition_cov=[[1.5]])
    mean = 2.0 / (1 - 0.6 + 0.3)
    expected = ARIMA(y, order=(2, 0, 0), trend="c").loglike([mean, 0.6, -0.3, 1.5])
    assert model.log_prob(y).item() == pytest.approx(expected, rel=1e-10)
    gappy = y.copy()
    gappy[[0, 7, 8, 60]] = np.nan
    expected = ARIMA(gappy, order=(2, 0, 0), trend="c").loglike([mean, 0.6, -0.3, 1.5])
    assert model.log_prob(gappy).item() == pytest.approx(expected, rel=1e-9)


def test_maximum_likelihood_equals_statsmodels():
    y = simulated()
    fitted = ARIMA(y, order=(2, 0, 0), trend="c").fit()
    model = ps.AR(2).fit(y, tolerance=1e-9)
    assert model.log_prob(y).item() == pytest.approx(fitted.llf, abs=1e-5)
    np.testing.assert_allclose(model.transition_matrices.detach().flatten(), fitted.params[1:3], atol=2e-4)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_least_squares_equals_numpy(scale):
    y = scale * np.stack([simulated(seed=1), simulated(seed=2)], -1)
    model = ps.AR(2, 2).fit(y, method="least_squares")
    design = np.concatenate([y[1:-1], y[:-2], scale * np.ones((len(y) - 2, 1))], 1)
    weights, *_ = np.linalg.lstsq(design, y[2:], rcond=None)
    np.testing.assert_allclose(model.transition_matrices[0].detach(), weights[:2].T, rtol=1e-8)
    np.testing.assert_allclose(model.transition_matrices[1].detach(), weights[2:4].T, rtol=1e-8)
    residual = y[2:] - design @ weights
    np.testing.assert_allclose(model.transition_cov.detach(), residual.T @ residual / len(residual), rtol=1e-8)


def test_stationary_start_solves_its_equation():
    draws = np.random.default_rng(0)
    for radius in (0.3, 0.9, 0.999):
        matrix = draws.normal(size=(4, 4))
        matrix *= radius / np.abs(np.linalg.eigvals(matrix)).max()
        cov = np.eye(4) + 0.3
        ours = stationary_cov(torch.as_tensor(matrix), torch.as_tensor(cov)).numpy()
        np.testing.assert_allclose(ours, solve_discrete_lyapunov(matrix, cov), rtol=1e-9)


def test_a_held_offset_is_held_in_the_units_of_the_data():
    """The constrained maximum, where the gradient in the taps vanishes."""
    y = simulated(300)
    model = ps.AR(transition_matrices=[[[0.3]], [[0.0]]], transition_offset=[1.0], transition_cov=[[2.0]])
    model.fit(y, fixed="transition_offset", tolerance=1e-10)
    assert model.transition_offset.item() == 1.0
    gradients = torch.autograd.grad(model.log_prob(y), [model.raw_transition_matrices, model.raw_transition_cov])
    assert all(g.abs().max() < 1e-2 for g in gradients)


def test_an_unstable_model_starts_at_the_fitted_moments():
    y = np.cumsum(1.0 + np.random.default_rng(0).normal(size=80))
    model = ps.AR(1).fit(y, method="least_squares")
    model.transition_matrices = [[[1.05]]]
    assert not model.is_stable
    np.testing.assert_allclose(model.initial_belief().mean, model.initial_mean.detach())
    assert np.isfinite(model.log_prob(y).item())
    with pytest.raises(ValueError, match='initial="stationary" needs'):
        ps.AR(transition_matrices=[[[1.05]]], transition_cov=[[1.0]], initial="stationary").log_prob(y)


def test_deterministic_data_are_said():
    with pytest.warns(DegenerateWarning, match="follows from its past exactly"):
        model = ps.AR(2).fit(np.sin(0.3 * np.arange(50)), method="least_squares")
    np.testing.assert_allclose(model.transition_matrices.detach().flatten(), [2 * np.cos(0.3), -1], rtol=1e-6)


def test_gaps_are_filled_by_smoothing():
    y = simulated()
    truth, y[70] = y[70], np.nan
    belief = ps.AR(2).fit(y).smooth(y)
    spread = belief.cov[70, 0, 0].sqrt()
    assert abs(belief.mean[70, 0].item() - truth) < 4 * spread
    np.testing.assert_allclose(belief.mean[71:, 0], y[71:], rtol=1e-9)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({}, "order must be a positive integer, got None"),
        ({"order": 0}, "order must be a positive integer, got 0"),
        ({"order": 1, "obs_dim": -1}, "obs_dim must be a positive integer"),
        ({"transition_matrices": [[1.0]]}, r"transition_matrices must have shape \(order, D, D\)"),
        ({"order": 1, "initial": "diffuse"}, "initial must be"),
        (
            {"transition_matrices": [[[0.5]]], "transition_cov": [[-1.0]]},
            "transition_cov must be positive semidefinite",
        ),
    ],
)
def test_bad_arguments_are_named(keywords, words):
    with pytest.raises(ValueError, match=words):
        ps.AR(**keywords)
    with pytest.raises(TypeError, match="unknown arguments"):
        ps.AR(1, taps=2)


def test_too_short_data_are_refused():
    with pytest.raises(ValueError, match="longer than the order"):
        ps.AR(3).fit([1.0, 2.0])
