"""Regression on inputs: least squares, holds, gaps, other libraries, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.optimize
import torch

import probseq as ps
from tests import reference, zoo


def regression(seed: int = 0, k: int = 2, dim: int = 2, inputs: int = 2, kind: str = "full"):
    return zoo.regression_emission(dim, kind, inputs)(np.random.default_rng(seed), k)


def switching_data(seed: int, steps: int, dim: int = 2, inputs: int = 2):
    """y, u and the states of a chain that stays for 20 steps on average."""
    rng = np.random.default_rng(seed)
    states = np.cumsum(rng.random(steps) < 0.05) % 2
    weights, levels = 2 * rng.normal(size=(2, dim, inputs)), rng.normal(size=(2, dim))
    u = rng.normal(size=(steps, inputs))
    y = np.einsum("tdp,tp->td", weights[states], u) + levels[states] + 0.3 * rng.normal(size=(steps, dim))
    return y, u, states, weights


# ---- one state: least squares


@pytest.mark.parametrize("kind", ["full", "diag", "tied", "spherical"])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_one_state_is_least_squares(kind, scale):
    y, u, _, _ = switching_data(0, 60)
    y = scale * y
    model = ps.HMM(1, emission=ps.emissions.LinearRegression(2, 2, covariance=kind)).fit(y, u, seed=0)
    design = np.column_stack([u, np.ones(len(u))])
    truth, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ truth
    cov = residual.T @ residual / len(y)
    expected = {"full": cov, "tied": cov, "diag": np.diag(np.diag(cov)), "spherical": np.eye(2) * np.trace(cov) / 2}
    emission = model.emission
    np.testing.assert_allclose(reference.array(emission.weights)[0], truth[:2].T, rtol=1e-10)
    np.testing.assert_allclose(reference.array(emission.intercepts)[0], truth[2], rtol=1e-10)
    np.testing.assert_allclose(reference.array(emission.covs)[0], expected[kind], rtol=1e-10, atol=1e-10 * scale**2)
    assert model.n_parameters == 2 * 2 + 2 + {"full": 3, "tied": 3, "diag": 2, "spherical": 1}[kind]


def test_the_m_step_maximises():
    """No other values of the parameters give a higher expected log-probability, found by a generic optimiser."""
    rng = np.random.default_rng(1)
    emission = regression(1)
    y, x = torch.as_tensor(rng.normal(size=(30, 2))), torch.as_tensor(rng.normal(size=(30, 2)))
    weights = torch.as_tensor(rng.dirichlet([1.0, 1.0], size=30))
    emission.maximise(y, torch.ones_like(y, dtype=torch.bool), weights, x)

    def expected() -> float:
        with torch.no_grad():
            return float((weights * emission.log_prob(y, None, x)).sum())

    best, start = expected(), emission.snapshot()
    for name, parameter in emission.named_parameters():
        begun = parameter.detach().clone()

        def minus(v, parameter=parameter):
            with torch.no_grad():
                parameter.copy_(torch.as_tensor(v).reshape(parameter.shape))
            return -expected()

        found = scipy.optimize.minimize(minus, begun.numpy().ravel(), method="Powell")
        assert -found.fun <= best + 1e-9 * abs(best), name
        emission.restore(start)


@pytest.mark.parametrize("held", [{"emission.weights"}, {"emission.intercepts"}, {"emission.covs"}])
def test_held_parameters_stay_and_the_others_are_best(held):
    y, u, _, _ = switching_data(2, 50)
    model = ps.HMM(emission=regression(3, 1), initial_probs=[1.0], transition_matrix=[[1.0]])
    before = {n: reference.array(getattr(model.emission, n)).copy() for n in ("weights", "intercepts", "covs")}
    model.fit(y, u, fixed=held, seed=0)
    (name,) = (one.partition(".")[2] for one in held)
    np.testing.assert_array_equal(reference.array(getattr(model.emission, name)), before[name])
    b, c = reference.array(model.emission.weights)[0], reference.array(model.emission.intercepts)[0]
    if name == "weights":
        np.testing.assert_allclose(c, (y - u @ b.T).mean(0), rtol=1e-10)
    if name == "intercepts":
        truth, *_ = np.linalg.lstsq(u, y - c, rcond=None)
        np.testing.assert_allclose(b, truth.T, rtol=1e-9)


def test_collinear_inputs_have_a_shortest_solution():
    y, u, _, _ = switching_data(4, 40)
    model = ps.HMM(1, emission=ps.emissions.LinearRegression(2, 3)).fit(y, np.column_stack([u, u[:, 0]]), seed=0)
    plain = ps.HMM(1, emission=ps.emissions.LinearRegression(2, 2)).fit(y, u, seed=0)
    weights, truth = reference.array(model.emission.weights)[0], reference.array(plain.emission.weights)[0]
    np.testing.assert_allclose(weights[:, 0], weights[:, 2], rtol=1e-8)
    np.testing.assert_allclose(weights[:, 0] + weights[:, 2], truth[:, 0], rtol=1e-8)


# ---- gaps


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_gaps_in_one_state_reach_the_maximum(kind):
    """EM with missing coordinates ends where the gradient of the marginal likelihood vanishes."""
    y, u, _, _ = switching_data(5, 60)
    rng = np.random.default_rng(0)
    y[rng.random(y.shape) < 0.3] = np.nan
    model = ps.HMM(1, emission=ps.emissions.LinearRegression(2, 2, covariance=kind))
    model.fit(y, u, tolerance=1e-13, max_iterations=2000, seed=0)
    total = model.log_prob(y, u)
    total.backward()
    for name, parameter in model.emission.named_parameters():
        assert float(parameter.grad.abs().max()) < 1e-4, name
    if kind == "diag":  # every coordinate by itself
        for d in range(2):
            seen = ~np.isnan(y[:, d])
            design = np.column_stack([u, np.ones(len(u))])[seen]
            truth, *_ = np.linalg.lstsq(design, y[seen, d], rcond=None)
            np.testing.assert_allclose(reference.array(model.emission.weights)[0, d], truth[:2], rtol=1e-10)


# ---- several states


def test_two_regimes_are_found():
    y, u, states, weights = switching_data(6, 400)
    model = ps.HMM(2, emission=ps.emissions.LinearRegression(2, 2)).fit(y, u, seed=0)
    path = model.decode(y, u).numpy()
    agree = max((path == states).mean(), (path != states).mean())
    assert agree > 0.98
    order = [0, 1] if (path == states).mean() > 0.5 else [1, 0]
    np.testing.assert_allclose(reference.array(model.emission.weights)[order], weights, atol=0.15)


def test_statsmodels_markov_regression_has_the_same_likelihood():
    from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

    y, u, _, _ = switching_data(7, 80, dim=1, inputs=2)
    theirs = MarkovRegression(y[:, 0], k_regimes=2, exog=u, switching_variance=True)
    stay, leave = 0.9, 0.2  # p(0 -> 0), p(1 -> 0)
    levels, slopes, variances = [0.5, -0.3], np.array([[1.0, 2.0], [-0.5, 0.3]]), [0.4, 1.5]
    values = [stay, leave, *levels, *slopes.T.ravel(), *variances]
    emission = ps.emissions.LinearRegression(
        weights=slopes[:, None], intercepts=np.array(levels)[:, None], covs=np.array(variances)[:, None, None]
    )
    matrix = [[stay, 1 - stay], [leave, 1 - leave]]
    model = ps.HMM(emission=emission, transition_matrix=matrix, initial="stationary")
    assert model.log_prob(y, u).item() == pytest.approx(theirs.loglike(values), rel=1e-10)


def test_driven_transitions_and_driven_emission_share_the_inputs():
    emission = regression(8, 3, 1, 2)
    model = ps.HMM(3, emission=emission, input_dim=2)
    assert (model.input_dim, model.n_drivers) == (2, 2)
    alone = ps.HMM(2, emission=ps.emissions.LinearRegression(1, 2))
    assert (alone.input_dim, alone.n_drivers) == (2, 0)
    y, u, _, _ = switching_data(9, 40, dim=1)
    alone.fit(y, u, seed=0)
    assert alone.transition_weights.numel() == 0


def test_transitions_alone_are_driven_as_before():
    rng = np.random.default_rng(0)
    ys, us = [rng.normal(size=(n, 2)) for n in (30, 20)], [rng.normal(size=(n, 1)) for n in (30, 20)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ps.HMM(4, emission=ps.emissions.Gaussian(2), input_dim=1).fit(ys, u=us, max_iterations=3, seed=0)
    assert model.emission.input_dim == 0
    assert model.transition_weights.shape == (4, 4, 1)


def test_forecast_needs_and_uses_future_inputs():
    y, u, _, _ = switching_data(10, 100)
    model = ps.HMM(2, emission=ps.emissions.LinearRegression(2, 2)).fit(y, u, seed=0)
    future = np.array([[1.0, 0.0], [0.0, 1.0]])
    says = model.forecast(y, 2, u, future_u=future)
    probs = reference.array(model.filter(y, u).updated.probs)[-1]
    for h in range(2):
        probs = probs @ reference.array(model.transition_matrix)
        means = reference.array(model.emission.weights) @ future[h] + reference.array(model.emission.intercepts)
        np.testing.assert_allclose(reference.array(says.mean)[h], probs @ means, rtol=1e-10)
    with pytest.raises(ValueError, match="future_u must be given"):
        model.forecast(y, 2, u)


def test_statistics_of_a_regression():
    y, u, _, _ = switching_data(11, 300, dim=1, inputs=1)
    model = ps.HMM(1, emission=ps.emissions.LinearRegression(1, 1)).fit(y, u, seed=0)
    table = model.standard_errors(y, u)
    design = np.column_stack([u, np.ones(len(u))])
    cov = np.linalg.inv(design.T @ design) * reference.array(model.emission.covs)[0, 0, 0]
    errors = table["standard_error"]
    assert errors["emission.weights[0, 0, 0]"] == pytest.approx(np.sqrt(cov[0, 0]), rel=1e-5)
    assert errors["emission.intercepts[0, 0]"] == pytest.approx(np.sqrt(cov[1, 1]), rel=1e-5)
    assert "emission.weights" in str(model.summary(y, u))


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ps.emissions.LinearRegression(2), "input_dim must be"),
        (lambda: ps.emissions.LinearRegression(2, 0), "input_dim must be"),
        (lambda: ps.emissions.LinearRegression(weights=[[1.0]]), "weights must have shape"),
        (lambda: ps.HMM(2, emission=ps.emissions.LinearRegression(2, 1), input_dim=2), "read the same inputs"),
        (
            lambda: ps.emissions.Product(ps.emissions.LinearRegression(1, 1), ps.emissions.LinearRegression(1, 2)),
            "read the same inputs",
        ),
        (lambda: ps.emissions.Product(ps.emissions.Autoregressive(1, 1)), "reads the rows before"),
    ],
)
def test_wrong_sizes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_inputs():
    y, u, _, _ = switching_data(12, 20)
    model = ps.HMM(emission=regression(0), initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.1, 0.9]])
    with pytest.raises(ValueError, match="u must be given"):
        model.log_prob(y)
    with pytest.raises(ValueError, match="u must have 2 columns"):
        model.log_prob(y, u[:, :1])
    u[3, 1] = np.nan
    with pytest.raises(ValueError, match="u must be known at every step, got NaN at step 3, column 1"):
        model.fit(y, u)
    with pytest.raises(ValueError, match="depend on more than the state"):
        model.emission.log_prob(torch.zeros(2, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="u must be given"):
        model.update(model.initial_belief(), torch.zeros(2, dtype=torch.float64))
