"""Nonlinear Gaussian models: against the Kalman filter, a dense grid, another library, textbook recursions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import probseq as ps
from probseq.errors import ConvergenceWarning, SingularInnovation, StateOverflow
from tests import reference, zoo

RULES = [
    ps.ExtendedKalman(),
    ps.ExtendedKalman(iterations=3),
    ps.UnscentedTransform(),
    ps.UnscentedTransform(0.5, 2.0, 1.0),
    ps.Cubature(),
    ps.GaussHermite(3),
]


def one_state(rule: object = None, **changes: object) -> ps.NonlinearGaussian:
    """A double well of one state, seen through two curved sensors."""
    values: dict[str, object] = {
        "transition": lambda z: 0.9 * z + 1.2 * z.sin(),
        "emission": lambda z: torch.cat([z + 0.15 * z.square(), 2 * z.tanh()], -1),
        "transition_cov": [[0.3]],
        "emission_cov": [[0.5, 0.1], [0.1, 0.4]],
        "initial_mean": [0.5],
        "initial_cov": [[1.0]],
        "linearize": rule,
    }
    return ps.NonlinearGaussian(**{**values, **changes})  # type: ignore[arg-type]


def data_of_one_state() -> np.ndarray:
    y = one_state().sample(60, seed=4).numpy()
    y[5] = np.nan
    y[9, 0] = np.nan
    y[20:23, 1] = np.nan
    return y


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


# ------------------------------------------------------------------------------------------------ linear, disguised


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_rule_is_the_kalman_filter_on_linear_models(rule, scale):
    linear = ps.LDS(**zoo.lds_parts(3, 3, 2))
    model = zoo.linear_in_disguise(linear, rule).rescale(scale)
    linear.rescale(scale)
    y = linear.sample(40, (3,), seed=1)
    y[0, 3:6], y[1, ::3, 0] = torch.nan, torch.nan
    mine, truth = model.filter(y), linear.filter(y)
    torch.testing.assert_close(mine.log_prob, truth.log_prob, rtol=1e-10, atol=1e-10)
    for actual, expected in [
        (mine.updated, truth.updated),
        (mine.predicted, truth.predicted),
        (model.smooth(y), linear.smooth(y)),
    ]:
        close(actual.mean, expected.mean)
        close(actual.cov, expected.cov)
    draws = (model.sample_states(y, 4000, seed=0).mean(0) - linear.smooth(y).mean).abs()
    assert bool((draws <= 5 * linear.smooth(y).std / 4000**0.5).all())
    forecast = model.forecast(y, 6)
    close(forecast.mean, linear.forecast(y, 6).mean)
    close(forecast.distribution.covariance_matrix, linear.forecast(y, 6).distribution.covariance_matrix)


def test_singular_covariances():
    """Noise along one direction of three, one noiseless sensor, a known part of the start: still the Kalman filter."""
    parts = zoo.lds_parts(3, 3, 2)
    direction = np.array([[1.0], [0.5], [-1.0]])
    start, sensors = np.diag([1, 0, 2.0]), np.diag([0, 0.5])
    parts.update(transition_cov=direction @ direction.T, emission_cov=sensors, initial_cov=start)
    linear = ps.LDS(**parts)
    y = linear.sample(8, (5,), seed=0)
    for rule in RULES:
        model = zoo.linear_in_disguise(linear, rule)
        torch.testing.assert_close(model.log_prob(y), linear.log_prob(y), rtol=1e-9, atol=1e-9)
        close(model.smooth(y).mean, linear.smooth(y).mean, 1e-8)
    known = ps.LDS(**{**parts, "initial_cov": np.zeros((3, 3)), "emission_cov": np.zeros((2, 2))})
    with pytest.raises(SingularInnovation):
        zoo.linear_in_disguise(known, ps.Cubature()).log_prob(y)


# ------------------------------------------------------------------------------------------------- other references


def swing(z: Tensor) -> Tensor:
    angle, velocity = z.unbind(-1)
    return torch.stack([angle + 0.3 * velocity, velocity - 0.3 * 9.81 / 4 * angle.sin()], -1)


def pendulum(rule: object) -> ps.NonlinearGaussian:
    return ps.NonlinearGaussian(
        transition=swing,
        emission=lambda z: z[..., :1].sin(),
        transition_cov=[[0.02, 0.005], [0.005, 0.04]],
        emission_cov=[[0.1]],
        initial_mean=[1.2, -0.4],
        initial_cov=[[0.3, 0.05], [0.05, 0.2]],
        linearize=rule,  # type: ignore[arg-type]
    )


#: filterpy's UnscentedKalmanFilter with MerweScaledSigmaPoints(2, alpha, beta, kappa), points drawn again before every
#: update, no prediction before the first: summed log_likelihood and the last state
FILTERPY = [
    ((0.5, 2.0, 1.0), -11.896721710648318, (0.13184263194684764, 1.583506560425966)),
    ((1.0, 0.0, 1.0), -13.267484093886146, (0.439512456458261, 1.7625728516051473)),
    ((0.1, 2.0, 0.0), -12.095542804998248, (0.30361775728567886, 1.573190482787223)),
]


@pytest.mark.parametrize(("options", "log_prob", "last"), FILTERPY)
def test_filterpys_unscented_filter(options, log_prob, last):
    y = np.array([0.7, 0.3, -0.2, -0.9, -0.8, -0.1, 0.5, 0.9])
    filtered = pendulum(ps.UnscentedTransform(*options)).filter(y)
    assert float(filtered.log_prob.sum()) == pytest.approx(log_prob, rel=1e-11)
    np.testing.assert_allclose(filtered.updated.mean[-1], last, rtol=1e-10)


def extended_by_hand(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The pendulum's extended filter and smoother with derivatives by hand (Sarkka and Svensson 2023, alg. 7.4)."""
    model = pendulum(None)
    q, r = reference.array(model.transition_cov), reference.array(model.emission_cov)
    m, p = reference.array(model.initial_mean), reference.array(model.initial_cov)
    predicted, filtered, matrices, total = [], [], [], 0.0
    for t, value in enumerate(y):
        if t:
            matrices.append(np.array([[1, 0.3], [-0.3 * 9.81 / 4 * np.cos(m[0]), 1]]))
            m = np.array([m[0] + 0.3 * m[1], m[1] - 0.3 * 9.81 / 4 * np.sin(m[0])])
            p = matrices[-1] @ p @ matrices[-1].T + q
        predicted.append((m, p))
        h = np.array([[np.cos(m[0]), 0.0]])
        s = h @ p @ h.T + r
        gain = p @ h.T @ np.linalg.inv(s)
        total += reference.log_normal(np.array([value]), np.array([np.sin(m[0])]), s)
        m, p = m + gain @ np.array([value - np.sin(m[0])]), p - gain @ s @ gain.T
        filtered.append((m, p))
    means, covs = [m], [p]
    for t in reversed(range(len(y) - 1)):
        back = filtered[t][1] @ matrices[t].T @ np.linalg.inv(predicted[t + 1][1])
        means.append(filtered[t][0] + back @ (means[-1] - predicted[t + 1][0]))
        covs.append(filtered[t][1] + back @ (covs[-1] - predicted[t + 1][1]) @ back.T)
    return np.array(means[::-1]), np.array(covs[::-1]), total


def test_extended_filter_and_smoother_by_hand():
    y = np.array([0.7, 0.3, -0.2, -0.9, -0.8, -0.1, 0.5, 0.9])
    model, (means, covs, total) = pendulum(ps.ExtendedKalman()), extended_by_hand(y)
    assert model.log_prob(y).item() == pytest.approx(total, rel=1e-11)
    np.testing.assert_allclose(model.smooth(y).mean, means, rtol=1e-9)
    np.testing.assert_allclose(model.smooth(y).cov, covs, rtol=1e-9, atol=1e-12)


def test_iterated_update_finds_the_mode():
    """Gauss-Newton on log p(z, y): the gradient of the joint density vanishes where the update ends."""
    model = one_state(ps.ExtendedKalman(iterations=60))
    y = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    mode = model.filter(y).updated.mean.requires_grad_()
    (slope,) = torch.autograd.grad(model.path_log_prob(mode, y), mode)
    assert float(slope.abs().max()) < 1e-8
    plain = one_state(ps.ExtendedKalman()).filter(y)
    assert model.log_prob(y).item() == pytest.approx(float(plain.log_prob.sum()), rel=1e-12)


def test_errors_against_a_dense_grid():
    """Measured: how far each Gaussian belief is from the posterior, and that more points do better."""
    y = data_of_one_state()
    truth = reference.grid_posterior(one_state(), y, -12, 14)
    coarse = reference.grid_posterior(one_state(), y, -12, 14, points=1000)
    np.testing.assert_allclose(coarse.log_probs, truth.log_probs, rtol=1e-10, atol=1e-12)  # the reference has converged
    filtered, smoothed, evidence = {}, {}, {}
    for name, rule in {"ekf": ps.ExtendedKalman(), "ukf": ps.UnscentedTransform(), "gh": ps.GaussHermite(10)}.items():
        model = one_state(rule)
        means = model.filter(y).updated.mean[:, 0].numpy()
        filtered[name] = np.sqrt(np.mean((means - truth.mean) ** 2))
        smoothed[name] = np.sqrt(np.mean((model.smooth(y).mean[:, 0].numpy() - truth.smoothed_mean) ** 2))
        evidence[name] = abs(model.log_prob(y).item() - truth.log_probs.sum())
    assert filtered["gh"] < filtered["ukf"] < filtered["ekf"] < 0.1  # 0.027, 0.041, 0.073; states spread over 3
    assert smoothed["gh"] < smoothed["ukf"] < smoothed["ekf"] < 0.08  # 0.024, 0.038, 0.062
    assert max(evidence.values()) < 0.5  # of -104.868: 0.115, 0.395, 0.171


def test_small_noise_makes_every_rule_exact():
    """The error of the Gaussian belief vanishes with the noise: the law of the state becomes Gaussian."""
    errors = []
    for size in (1.0, 1e-2, 1e-4):
        changes = {"transition_cov": [[0.3 * size]], "emission_cov": 0.4 * size * np.eye(2), "initial_cov": [[size]]}
        model = one_state(ps.UnscentedTransform(), **changes)
        y = model.sample(8, seed=2).numpy()
        reach = (float(np.min(y[:, 0])) - 4, float(np.max(y[:, 0])) + 4)
        truth = reference.grid_posterior(model, y, *reach, points=6000)
        errors.append(abs(model.log_prob(y).item() - truth.log_probs.sum()))
    assert errors[2] < 0.3 * errors[1] < 0.06 * errors[0]  # 0.0038, 0.0215, 0.2198


# --------------------------------------------------------------------------------------------------- the model itself


def test_samples_follow_the_model():
    """Moments of simulated paths are those of a plain numpy simulation, within Monte Carlo error."""
    y = one_state().sample(5, (20_000,), seed=0).numpy()
    rng = np.random.default_rng(1)
    z = 0.5 + rng.normal(size=20_000)
    factor = np.linalg.cholesky([[0.5, 0.1], [0.1, 0.4]])
    for t in range(5):
        z = 0.9 * z + 1.2 * np.sin(z) + np.sqrt(0.3) * rng.normal(size=20_000) if t else z
        other = np.stack([z + 0.15 * z**2, 2 * np.tanh(z)], -1) + rng.normal(size=(20_000, 2)) @ factor.T
        error = np.sqrt(2) * other.std(0) / np.sqrt(20_000)
        assert (abs(y[:, t].mean(0) - other.mean(0)) < 5 * error).all()
        assert (abs(y[:, t].std(0) / other.std(0) - 1) < 0.05).all()


def test_path_log_prob_is_exact():
    model, y = one_state(), data_of_one_state()[:12]
    states = np.random.default_rng(0).normal(size=(12, 1))
    total = reference.log_normal(states[0], np.array([0.5]), np.eye(1))
    for t, row in enumerate(y):
        if t:
            moved = 0.9 * states[t - 1] + 1.2 * np.sin(states[t - 1])
            total += reference.log_normal(states[t], moved, 0.3 * np.eye(1))
        seen, said = ~np.isnan(row), np.array([states[t, 0] + 0.15 * states[t, 0] ** 2, 2 * np.tanh(states[t, 0])])
        cov = np.array([[0.5, 0.1], [0.1, 0.4]])[np.ix_(seen, seen)]
        total += reference.log_normal(row[seen], said[seen], cov)
    assert model.path_log_prob(states, y).item() == pytest.approx(total, rel=1e-12)


def test_inputs_drive_both_functions():
    """An input added to state and emission is the offset of a linear system."""
    linear = zoo.lds_inputs(1)
    model = zoo.linear_in_disguise(linear, ps.UnscentedTransform())
    u = np.random.default_rng(0).normal(size=(30, 1))
    y = linear.sample(30, u=u, seed=0)
    torch.testing.assert_close(model.log_prob(y, u), linear.log_prob(y, u), rtol=1e-11, atol=1e-11)
    future = np.ones((4, 1))
    close(model.forecast(y, 4, u, future_u=future).mean, linear.forecast(y, 4, u, future_u=future).mean)
    assert model.forecast(y, 4, u, future_u=future, n_samples=7, seed=0).samples.shape == (7, 4, 1)


def calm(**values: object) -> ps.NonlinearGaussian:
    return ps.NonlinearGaussian(transition=zoo.Swing(), emission=zoo.Shadow(), **values)  # type: ignore[arg-type]


CALM = {
    "transition_cov": 0.01 * np.eye(2),
    "emission_cov": 0.05 * np.eye(2),
    "initial_mean": [1.0, 0.0],
    "initial_cov": 0.1 * np.eye(2),
}


def test_parameters_of_functions_are_learned():
    truth, model = calm(**CALM), calm(**CALM)
    y = truth.sample(30, (10,), seed=0)
    with torch.no_grad():
        model.transition.gravity.fill_(1.2)
    model.fit(y, fixed=set(CALM), seed=0)
    assert model.history.converged
    assert model.log_prob(y).sum().item() > truth.log_prob(y).sum().item()
    assert torch.equal(model.transition_cov, truth.transition_cov)
    error = model.standard_errors(y, fixed=set(CALM)).loc["transition.gravity", "standard_error"]
    assert 0 < error < 0.1  # 0.038; the estimate is 2.028
    assert abs(model.transition.gravity.item() - 2.0) < 3 * error


def test_fit_from_sizes_and_round_trip_of_units():
    y = calm(**CALM).sample(30, (10,), seed=0)
    model = calm(state_dim=2, obs_dim=2)
    with pytest.warns(ConvergenceWarning):
        model.fit(y, max_iterations=5, fixed={"transition.gravity"}, seed=0)
    assert torch.equal(model.emission_shift, torch.zeros(2).double())
    assert torch.equal(model.emission_scale, torch.ones(2).double())
    assert model.history.objective[-1] > model.history.objective[0]
    assert model.score(y) == pytest.approx(max(model.history.objective) / 300, rel=1e-10)


def test_estimate_measures_the_approximation():
    y = data_of_one_state()
    truth = reference.grid_posterior(one_state(), y, -12, 14).log_probs.sum()
    estimate = one_state().estimate_log_prob(y, n_particles=500, n_samples=20, seed=0)
    assert estimate.kind == "particle"
    assert abs(float(estimate.value) - truth) < 4 * float(estimate.standard_error) < 0.1
    assert one_state().likelihood_kind == "approximate"


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"transition": lambda z: z.sum(-1)}, ValueError, r"transition must return shape \(1, 3, 1\) for states"),
        ({"emission": lambda z: z}, ValueError, r"emission must return shape \(1, 3, 2\)"),
        ({"transition": lambda z: z / 0}, StateOverflow, "transition must return finite values, got .* at state"),
        ({"emission": lambda z: torch.cat([z, z], -1).float()}, TypeError, "emission must return a float64 tensor"),
        ({"transition": lambda z: z.numpy()}, TypeError, "transition must return a float64 tensor, got ndarray"),
    ],
)
def test_functions_that_return_the_wrong_thing(changes, error, match):
    with pytest.raises(error, match=match):
        one_state(ps.UnscentedTransform(), **changes).filter(data_of_one_state())


def test_bad_construction():
    with pytest.raises(TypeError, match="transition must be a function of the state, got 3"):
        one_state(transition=3)
    with pytest.raises(TypeError, match=r"emission must have float64 parameters.*call .double\(\)"):
        one_state(emission=torch.nn.Linear(1, 2))
    with pytest.raises(TypeError, match="linearize must be a rule such as"):
        one_state("unscented")
    with pytest.raises(ValueError, match="transition_cov must be positive semidefinite; smallest eigenvalue -1"):
        one_state(transition_cov=[[-1.0]])
    with pytest.raises(ValueError, match=r"initial_mean must have shape \(1,\), got \(2,\)"):
        one_state(initial_mean=[0.0, 1.0])
    with pytest.raises(ValueError, match="obs_dim must be given, or one of emission_cov"):
        ps.NonlinearGaussian(transition=swing, emission=swing, state_dim=2)
    with pytest.raises(ValueError, match="u must be given"):
        one_state(input_dim=1).log_prob(data_of_one_state())
    with pytest.raises(ValueError, match=r"states must be vectors of shape \(1,\)"):
        one_state().path_log_prob(np.zeros((60, 2)), data_of_one_state())


def test_plain_functions_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="a file cannot hold the function"):
        one_state().save(tmp_path / "model")
