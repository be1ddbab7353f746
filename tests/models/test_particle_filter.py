"""Particle filters: unbiased against the Kalman filter, smoothing against its smoother, degenerate weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import probseq as ps
from probseq.errors import ImpossibleSequence
from probseq.models.normal import log_densities
from probseq.ops.resampling import SCHEMES
from tests import reference, zoo
from tests.models.test_nonlinear import data_of_one_state, one_state


def linear() -> tuple[ps.LDS, Tensor]:
    """A two-dimensional system and data with gaps."""
    model = ps.LDS(**zoo.lds_parts(3, 2, 2))
    y = model.sample(12, seed=5)
    y[4], y[7, 0] = torch.nan, torch.nan
    return model, y


def unbiased(n_runs: int, n_particles: int, proposal: str, scheme: str, seed: int = 0) -> tuple[float, float]:
    """The mean of Z / p(y) over independent runs and its standard error."""
    model, y = linear()
    judge = ps.ParticleFilter(model, n_particles, proposal=proposal, resampling=scheme)  # type: ignore[arg-type]
    ratio = (judge.repeated_log_prob(y, n_runs, seed=seed)[:, 0] - model.log_prob(y).detach()).exp()
    assert len(ratio.unique()) == n_runs
    return float(ratio.mean()), float(ratio.std()) / math.sqrt(n_runs)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("proposal", "n_particles"), [("bootstrap", 256), ("guided", 32)])
def test_likelihood_is_unbiased(proposal, n_particles, scheme):
    mean, error = unbiased(200, n_particles, proposal, scheme)
    assert abs(mean - 1) < 3 * error < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("proposal", "n_particles"), [("bootstrap", 64), ("guided", 64)])
def test_likelihood_is_unbiased_in_ten_thousand_runs(proposal, n_particles, scheme):
    mean, error = unbiased(10_000, n_particles, proposal, scheme)
    assert abs(mean - 1) < 3 * error < 0.06


def test_the_logarithm_lies_below():
    """Jensen: E[log Z] < log p(y), and fewer particles lie lower."""
    model, y = linear()
    gaps = [
        float((ps.ParticleFilter(model, n).repeated_log_prob(y, 200, seed=1) - model.log_prob(y).detach()).mean())
        for n in (32, 512)
    ]
    assert gaps[0] < gaps[1] < 0


def test_guided_is_locally_optimal_for_linear_emissions():
    """The weight is p(y_t | origin): it does not depend on what was drawn, so the first step has no error at all."""
    model, y = linear()
    judge = ps.ParticleFilter(model, 5, proposal="guided", seed=1)
    first = judge.filter(y[:1])
    torch.testing.assert_close(first.log_prob, model.filter(y[:1]).log_prob, rtol=1e-12, atol=1e-12)
    assert float(first.updated.effective_size) == pytest.approx(5, rel=1e-12)
    spread = {
        p: float(ps.ParticleFilter(model, 64, proposal=p).repeated_log_prob(y, 100, seed=2).std())  # type: ignore[arg-type]
        for p in ("bootstrap", "guided")
    }
    assert spread["guided"] < 0.3 * spread["bootstrap"]


@pytest.mark.parametrize("proposal", ["bootstrap", "guided"])
def test_against_a_dense_grid(proposal):
    y = data_of_one_state()
    truth = reference.grid_posterior(one_state(), y, -12, 14)
    judge = ps.ParticleFilter(one_state(), 1000, proposal=proposal, seed=1)
    estimate = judge.estimate_log_prob(y, n_samples=10, seed=2)
    assert abs(float(estimate.value) - truth.log_probs.sum()) < 4 * float(estimate.standard_error) < 0.15
    filtered, smoothed = judge.filter(y).updated, judge.smooth(y)
    for found, mean, var in (
        (filtered, truth.mean, truth.var),
        (smoothed, truth.smoothed_mean, truth.smoothed_var),
    ):
        away = (found.mean[:, 0].numpy() - mean) / np.sqrt(var)
        assert abs(away).max() < 8 / math.sqrt(1000)
        assert np.median(abs(found.cov[:, 0, 0].numpy() / var - 1)) < 0.1


@pytest.mark.parametrize(("proposal", "scheme"), [("bootstrap", "stratified"), ("guided", "systematic")])
def test_backward_simulation_has_the_smoothers_moments(proposal, scheme):
    model, y = linear()
    truth = model.smooth(y)
    judge = ps.ParticleFilter(model, 1000, proposal=proposal, resampling=scheme, seed=3)  # type: ignore[arg-type]
    cloud = judge.smooth(y)
    assert cloud.values.shape == (12, 1000, 2)
    assert bool(((cloud.mean - truth.mean).abs() < 8 * truth.std / math.sqrt(1000)).all())
    size = truth.std.unsqueeze(-1) * truth.std.unsqueeze(-2)
    assert bool(((cloud.cov - truth.cov).abs() < 12 * size / math.sqrt(1000)).all())
    torch.testing.assert_close(judge.decode(y), cloud.mean)


def test_drawn_paths_are_joint():
    """Successive states of a path have the smoother's lag-one covariance, which clouds of marginals do not show."""
    model, y = linear()
    joint = reference.joint_of_lds(model, 12).condition(y.numpy())
    paths = ps.ParticleFilter(model, 2000, proposal="guided", seed=0).sample_states(y, 4000, seed=1)
    assert paths.shape == (4000, 12, 2)
    flat = paths.reshape(4000, -1).numpy()
    size = np.sqrt(np.diag(joint.joint_cov))
    assert (abs(np.cov(flat.T) - joint.joint_cov) < 0.15 * np.outer(size, size)).all()
    scores = ps.ParticleFilter(model).path_log_prob(paths[:3], y.expand(3, 12, 2))
    torch.testing.assert_close(scores, model.path_log_prob(paths[:3], y.expand(3, 12, 2)).detach())


def test_ragged_batches_smooth_and_draw():
    model, y = linear()
    judge = ps.ParticleFilter(model, 50, seed=0)
    parts = [y[:5], y, y[:0]]
    assert [c.values.shape for c in judge.smooth(parts)] == [(5, 50, 2), (12, 50, 2), (0, 50, 2)]
    assert [p.shape for p in judge.sample_states(parts, 4, seed=0)] == [(4, 5, 2), (4, 12, 2), (4, 0, 2)]
    estimate = judge.estimate_log_prob(parts, n_samples=40, seed=1)
    assert estimate.value.shape == estimate.standard_error.shape == (3,)
    truth = model.log_prob(parts).detach()
    assert bool(((estimate.value - truth).abs()[:2] < 5 * estimate.standard_error[:2]).all())
    assert float(estimate.value[2]) == 0


def test_forecast_and_samples():
    """From many particles, the mixture has the moments of the Kalman forecast; sample is the model's own."""
    model, y = linear()
    judge = ps.ParticleFilter(model, 20_000, proposal="guided", seed=0)
    mine, truth = judge.forecast(y, 3, n_samples=2000, seed=0), model.forecast(y, 3)
    spread = truth.distribution.variance.sqrt()
    assert bool(((mine.mean - truth.mean).abs() < 0.05 * spread).all())
    assert bool(((mine.interval(0.8)[0] - truth.interval(0.8)[0]).abs() < 0.06 * spread).all())
    assert bool(((mine.samples.mean(0) - truth.mean).abs() < 0.15 * spread).all())
    few = ps.ParticleFilter(model, 2, seed=0).sample(1, (4000,), seed=1)
    assert len(few.unique(dim=0)) == 4000
    said = model.emit(model.initial_belief())
    assert bool(((few[:, 0].mean(0) - said.mean).abs() < 5 * said.variance.sqrt() / math.sqrt(4000)).all())


def test_repetitions_depend_on_the_seed_alone():
    model, y = linear()
    judge = ps.ParticleFilter(model, 30, seed=0)
    runs = [judge.repeated_log_prob(y, 6, seed=s) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(judge.repeated_log_prob(y, 3, seed=1), runs[0][:3])
    assert float(judge.log_prob(y)) == pytest.approx(float(judge.repeated_log_prob(y, 1)[0, 0]), rel=1e-13)
    single = judge.estimate_log_prob(y, n_samples=1)
    assert math.isnan(float(single.standard_error))


def test_no_resampling_is_importance_sampling():
    model, y = linear()
    judge = ps.ParticleFilter(model, 40, ess_threshold=0.0, seed=0)
    filtered = judge.filter(y)
    paths = filtered.updated.values.movedim(1, 0)  # never mixed: particle i is one path of the prior
    prior = model.path_log_prob(paths, torch.full((40, 12, 2), torch.nan)).detach()
    weights = model.path_log_prob(paths, y.expand(40, 12, 2)).detach() - prior
    assert float(filtered.log_prob.sum()) == pytest.approx(float(weights.logsumexp(0)) - math.log(40), rel=1e-10)
    torch.testing.assert_close(filtered.updated.log_weights[-1], weights - weights.logsumexp(0))


def test_density_of_residuals():
    cov = torch.tensor([[2.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
    residual = torch.randn(3, 4, 2, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), cov)
    torch.testing.assert_close(log_densities(residual, cov, None), law.log_prob(residual))
    seen = torch.tensor([[True, True], [False, True], [False, False]])
    found = log_densities(residual, cov, seen)
    torch.testing.assert_close(found[0], law.log_prob(residual[0]))
    normal = torch.distributions.Normal(torch.zeros(()).double(), cov[1, 1].sqrt())
    torch.testing.assert_close(found[1], normal.log_prob(residual[1, :, 1]))
    assert bool((found[2] == 0).all())


@pytest.mark.parametrize("proposal", ["bootstrap", "guided"])
def test_weights_that_all_vanish(proposal):
    model, y = linear()
    y[6] = 1e200
    judge = ps.ParticleFilter(model, 20, proposal=proposal, seed=0)
    with pytest.raises(ImpossibleSequence, match="every particle has zero weight at sequence 1, step 6"):
        judge.filter(torch.stack([y[:6].repeat(2, 1), y]))


def test_bad_arguments():
    model, y = linear()
    with pytest.raises(TypeError, match="model must have additive Gaussian noise"):
        ps.ParticleFilter(ps.HMM(2, emission=ps.emissions.Gaussian(1)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='proposal must be "bootstrap" or "guided"'):
        ps.ParticleFilter(model, proposal="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="resampling must be one of"):
        ps.ParticleFilter(model, resampling="lottery")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ess_threshold must be a share"):
        ps.ParticleFilter(model, ess_threshold=2)
    with pytest.raises(ValueError, match="n_particles must be a positive integer"):
        ps.ParticleFilter(model, 0)
    with pytest.raises(ValueError, match="has nothing to fit"):
        ps.ParticleFilter(model).fit(y)
    with pytest.raises(ValueError, match='kind must be "particle"'):
        ps.ParticleFilter(model).estimate_log_prob(y, kind="exact")
    with pytest.raises(ValueError, match="transition_cov is singular"):
        ps.ParticleFilter(zoo.lds_singular(0)).smooth(y[:, :1].nan_to_num())
    assert ps.ParticleFilter(model).log_prob(y).requires_grad is False
