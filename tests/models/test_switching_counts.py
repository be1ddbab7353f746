"""Switching linear systems that are seen through counts, against quadrature on a line."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

import probseq as ps
from probseq.beliefs import Gaussian
from probseq.errors import ProbseqWarning
from probseq.models.switching_counts import Laplace
from probseq.models.switching_recurrent import infer_recurrent
from probseq.models.switching_regression import regressed
from tests import zoo


def on_a_line(model: ps.SwitchingLDS, y: Tensor, points: int = 2001) -> float:
    """log p(y) of a model with state_dim 1 by the trapezoidal rule, over regimes and states together."""
    p = {name: getattr(model, name).detach().numpy() for name in model.params()}
    z = np.linspace(-14, 14, points)
    width, spread = z[1] - z[0], np.sqrt(p["initial_cov"][0, 0])
    ahead = p["initial_probs"][:, None] * stats.norm.pdf(z, p["initial_mean"][0], spread)
    for t, row in enumerate(y.numpy()):
        if t:
            moved = p["regime_transition_matrix"].T @ now
            ahead = np.empty_like(moved)
            for k, density in enumerate(moved):
                mean = p["transition_matrices"][k, 0, 0] * z + p["transition_offsets"][k, 0]
                kernel = stats.norm.pdf(z[:, None], mean, np.sqrt(p["transition_covs"][k, 0, 0]))
                ahead[k] = kernel @ density * width
        rates = np.exp(p["emission_matrices"] @ z[None] + p["emission_offsets"][..., None])  # (K, m, points)
        seen = ~np.isnan(row)
        now = ahead * stats.poisson.pmf(row[seen, None], rates[:, seen]).prod(1)
    return float(np.log(now.sum() * width))


def line(seed: int, k: int = 2, scale: float = 1.0) -> ps.SwitchingLDS:
    model = zoo.switching_counts(seed, k, 1, 2)
    with torch.no_grad():
        model.initial_cov = scale * model.initial_cov
        model.transition_covs = scale * model.transition_covs
    return model


def laplace_of(model: ps.SwitchingLDS, mean: float, cov: float, y: Tensor) -> Laplace:
    one = Gaussian(torch.full((1, 1), mean, dtype=torch.float64), torch.full((1, 1, 1), cov, dtype=torch.float64))
    return Laplace(model.regimes(), one, torch.zeros(1, dtype=torch.long), y, None)


@pytest.mark.parametrize(("cov", "worst"), [(1e-3, 1e-7), (0.1, 2e-4), (1.0, 0.01)])
def test_one_update_against_quadrature(cov: float, worst: float) -> None:
    """The error of Laplace's evidence vanishes with the variance of the state."""
    errors = []
    for seed in range(5):
        model, rng = line(seed, 1), np.random.default_rng([seed, 41])
        with torch.no_grad():
            model.initial_cov = torch.full((1, 1), cov).double()
            y = torch.as_tensor(rng.poisson(2.0, size=(1, 2)).astype(float))
            mean, root = float(model.initial_mean), np.sqrt(cov)
            z = mean + root * np.linspace(-12, 12, 4001)
            rates = np.exp(model.emission_matrices[0].numpy() @ z[None] + model.emission_offsets[0].numpy()[:, None])
            terms = stats.norm.pdf(z, mean, root) * stats.poisson.pmf(y[0].numpy()[:, None], rates).prod(0)
            errors.append(abs(float(model.log_prob(y)) - np.log(terms.sum() * (z[1] - z[0]))))
    print(f"variance {cov}: Laplace evidence within {max(errors):.1e} nats of quadrature")
    assert max(errors) < worst


def test_a_known_state_is_exact() -> None:
    """Without variance y is a product of Poisson laws."""
    model = line(3, 1)
    y, z = torch.tensor([2.0, 5.0]).double(), torch.tensor([0.7], dtype=torch.float64)
    found = laplace_of(model, 0.7, 0.0, y)
    rates = (model.emission_matrices[0] @ z + model.emission_offsets[0]).exp().detach()
    truth = stats.poisson.logpmf(y.numpy(), rates.numpy()).sum()
    assert float(found.log_evidence().detach()) == pytest.approx(truth, rel=1e-12)
    assert float(found.posterior().mean.detach()) == pytest.approx(0.7, rel=1e-12)


@pytest.mark.parametrize("mean", [-30.0, 0.0, 5.0, 40.0])
def test_the_mode_is_that_of_a_bracketed_search(mean: float) -> None:
    """From far away too, where the first Newton steps are damped."""
    model, y = line(2, 1), torch.tensor([0.0, 40.0]).double()
    with torch.no_grad():
        found = laplace_of(model, mean, 4.0, y)
        c, d = model.emission_matrices[0, :, 0].numpy(), model.emission_offsets[0].numpy()

        def slope(z: float) -> float:
            return float(c @ (y.numpy() - np.exp(c * z + d)) - (z - mean) / 4.0)

        root = optimize.brentq(slope, mean - 200, mean + 200, xtol=1e-13, rtol=1e-14)
        assert float(found.posterior().mean) == pytest.approx(root, rel=1e-10, abs=1e-10)
        curvature = float(c**2 @ np.exp(c * root + d) + 0.25)
        assert float(found.posterior().cov) == pytest.approx(1 / curvature, rel=1e-9)


def test_emitted_law_is_that_of_the_update() -> None:
    model = zoo.switching_counts(4, 3)
    y = model.sample(6, (2,), seed=1)
    with torch.no_grad():
        predicted = model.filter(y).predicted
        says = model.emit(predicted)
        assert torch.equal(says.log_prob(y), model.update(predicted, y)[1])
        drawn = y + torch.arange(3.0).double().reshape(3, 1, 1, 1)
        assert says.log_prob(drawn).shape == (3, 2, 6)
        assert torch.allclose(says.log_prob(drawn)[2], model.update(predicted, drawn[2])[1], rtol=1e-12)
        torch.manual_seed(0)
        rows = says.sample((20_000,))
        error = rows.std(0) / np.sqrt(20_000)
        assert bool(((rows.mean(0) - says.mean).abs() < 5 * error).all())
        assert torch.allclose(rows.var(0).log(), says.variance.log(), atol=0.5)


@pytest.mark.parametrize("seed", range(3))
def test_filter_and_particles_against_quadrature(seed: int) -> None:
    """Three steps with a gap: the filter is near, the particles unbiased."""
    model = line(seed, scale=0.3)
    y = model.sample(3, seed=seed)
    y[1, 0] = torch.nan
    truth = on_a_line(model, y)
    found = model.estimate_log_prob(y, n_samples=400, n_particles=20, seed=seed)
    ratio, error = float((found.value - truth).exp()), float(found.standard_error * (found.value - truth).exp())
    with torch.no_grad():
        away = float(model.log_prob(y)) - truth
    print(f"filter - quadrature {away:+.4f} nats; particles / quadrature = {ratio:.4f} +- {error:.4f}")
    assert abs(away) < 0.1  # of collapsing, too
    assert 0 < error < 0.05
    assert abs(ratio - 1) < 4 * error


def test_smoothed_states_are_those_of_drawn_paths() -> None:
    model = zoo.switching_counts(1)
    with torch.no_grad():  # where the mode is near the mean
        model.initial_cov = 0.2 * model.initial_cov
        model.transition_covs = 0.2 * model.transition_covs
    y = model.sample(6, seed=2)
    smoothed, drawn = model.smooth(y), model.sample_states(y, 1000, seed=0)
    spread = smoothed.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert bool(((drawn[..., 1:].mean(0) - smoothed.mean).abs() < 0.25 * spread).all())
    assert bool(((drawn[..., 0] == 1).double().mean(0) - smoothed.probs[:, 1]).abs().max() < 0.1)


def test_refusals() -> None:
    model = zoo.switching_counts(1)
    with pytest.raises(ValueError, match=r"counts 0, 1, 2"):
        model.log_prob(torch.tensor([[1.0, 0.5]]))
    with pytest.raises(ValueError, match=r"counts 0, 1, 2"):
        model.log_prob(torch.tensor([[1.0, -1.0]]))
    with pytest.raises(ValueError, match="no unit to rescale"):
        model.rescale(2.0)
    with pytest.raises(ValueError, match="emission must be one of"):
        zoo.switching(1, emission="binomial")
    with pytest.raises(ValueError, match="emission_covs must be left out"):
        zoo.switching(1, emission="poisson")
    with pytest.raises(ValueError, match='is for emission="gaussian"'):
        model.estimate_log_prob(torch.ones(3, 2), kind="enumeration")
    with pytest.raises(ValueError, match="the emission is not Gaussian"):
        model.path_log_prob(torch.tensor([0, 1, 0]), torch.ones(3, 2))


# ----------------------------------------------------------------------------------------------------- learning


def _bound(model: ps.SwitchingLDS, y: Tensor, passes: int) -> float:
    with torch.no_grad():
        start = torch.full((len(y), model.n_regimes), 1 / model.n_regimes, dtype=torch.float64)
        return float(infer_recurrent(model.regimes(), model._door(y).flat(), 0, start, passes).bound)


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_lies_below_quadrature(seed: int) -> None:
    """It rises with every round; with one regime it is as near as a Gaussian comes."""
    for k in (1, 2):
        model = line(seed, k, scale=0.3)
        y = model.sample(3, seed=seed)
        y[1, 0] = torch.nan
        truth, bounds = on_a_line(model, y), [_bound(model, y, passes) for passes in (0, 1, 3, 20)]
        print(f"{k} regimes: quadrature - bound after 0, 1, 3, 20 rounds:", np.round(truth - np.array(bounds), 4))
        assert bounds == sorted(bounds)
        assert bounds[-1] <= truth + 1e-6
        assert k > 1 or bounds[-1] > truth - 0.02


def test_the_best_regression_has_no_slope() -> None:
    """Its maximum against a general optimiser; what is held stays."""
    rng, free = np.random.default_rng(3), torch.ones(3, dtype=torch.float64)
    means, covs = torch.as_tensor(rng.normal(size=(40, 2))), torch.as_tensor(0.1 * zoo.covariance(rng, 2, 40))
    y, weights = torch.as_tensor(rng.poisson(3.0, size=40).astype(float)), torch.as_tensor(rng.uniform(size=40))

    def loss(now: np.ndarray) -> float:
        c, d = now[:2], now[2]
        level = means.numpy() @ c + d
        rate = np.exp(level + 0.5 * np.einsum("i,tij,j->t", c, covs.numpy(), c))
        return -float(weights.numpy() @ (y.numpy() * level - rate))

    found = optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-7})
    best = regressed(torch.zeros(3).double(), y, means, covs, weights, free)
    assert np.allclose(best.numpy(), found.x, atol=1e-5)
    assert loss(best.numpy()) <= found.fun + 1e-10
    held = regressed(torch.zeros(3).double(), y, means, covs, weights, torch.tensor([1.0, 1.0, 0.0]).double())
    assert float(held[2]) == 0
    assert loss(held.numpy()) > found.fun
    none = regressed(torch.zeros(3).double(), torch.zeros(40).double(), means, covs, weights, free)
    assert bool(none.isfinite().all())


def _largest_fall(seed: int) -> float:
    """How far the bound falls at most, relative, over fits to data with gaps."""
    rng = np.random.default_rng([seed, 42])
    k, n, m = int(rng.integers(1, 4)), int(rng.integers(1, 3)), int(rng.integers(1, 4))
    truth = zoo.switching_counts(seed, k, n, m)
    y = truth.sample(25, (2,), seed=seed)
    y[torch.as_tensor(rng.random(tuple(y.shape)) < 0.15)] = torch.nan
    model = ps.SwitchingLDS(
        k, n, m, emission="poisson", shared_emission=bool(rng.integers(2)), recurrent=bool(rng.integers(2))
    )
    with warnings.catch_warnings(action="ignore", category=ProbseqWarning):
        model.fit(y, seed=seed, max_iterations=6, tolerance=1e-12)
    trace = np.array(model.history.objective)
    assert len(trace) > 3
    return float((trace[:-1] - trace[1:]).max() / (abs(trace).max() + y.shape[0] * y.shape[1]))


def test_the_bound_never_falls() -> None:
    falls = [_largest_fall(seed) for seed in range(2)]
    print("largest fall of the bound, relative:", max(falls))
    assert max(falls) <= 1e-9


@pytest.mark.slow
def test_the_bound_never_falls_on_many_problems() -> None:
    falls = [_largest_fall(100 + seed) for seed in range(20)]
    print("largest fall of the bound, relative:", max(falls))
    assert max(falls) <= 1e-9


def two_regimes() -> ps.SwitchingLDS:
    """A slow and a fast rotation, seen by ten counters."""

    def turn(angle: float) -> np.ndarray:
        return 0.97 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    return ps.SwitchingLDS(
        initial_probs=[0.5, 0.5],
        regime_transition_matrix=[[0.98, 0.02], [0.02, 0.98]],
        transition_matrices=[turn(0.15), turn(-0.8)],
        transition_covs=np.stack([0.05 * np.eye(2)] * 2),
        emission_matrices=0.7 * np.random.default_rng(0).normal(size=(10, 2)),
        emission_offsets=1.5 * np.ones(10),
        initial_mean=[0.0, 0.0],
        initial_cov=np.eye(2),
        emission="poisson",
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_regimes_are_recovered(seed: int) -> None:
    drawn = two_regimes().sample_paths(300, seed=1 + seed)
    model = ps.SwitchingLDS(2, 2, 10, emission="poisson")
    with warnings.catch_warnings(action="ignore", category=ProbseqWarning):
        model.fit(drawn.values, seed=0, max_iterations=10)
    right = (model.decode(drawn.values) == drawn.regimes).double().mean()
    share = float(torch.maximum(right, 1 - right))
    most = float((two_regimes().decode(drawn.values) == drawn.regimes).double().mean())
    print(f"regimes recovered after fit: {share:.3f} (true parameters {most:.3f})")
    assert share >= 0.95
