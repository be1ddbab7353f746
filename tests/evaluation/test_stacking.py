"""Stacking weights against scipy's optimiser, the pool against sums by hand, the stacked model against the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, special
from torch import distributions as D

import probseq as ps
from probseq.evaluation.pool import Pool, linear_pool
from probseq.evaluation.stacking import Stacked, best_weights, stack, stacking_weights


def double(values: object) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def ar(coefficient: float, variance: float = 1.0) -> ps.AR:
    return ps.AR(transition_matrices=[[[coefficient]]], transition_cov=[[variance]], initial="stationary")


def hmm() -> ps.HMM:
    return ps.HMM(
        initial_probs=[0.5, 0.5],
        transition_matrix=[[0.9, 0.1], [0.2, 0.8]],
        emission=ps.emissions.Gaussian(means=[[-1.0], [2.0]], covs=[[[1.0]], [[0.5]]]),
    )


def mean_log_score(weights: np.ndarray, table: np.ndarray) -> float:
    with np.errstate(divide="ignore"):
        return float(special.logsumexp(table + np.log(weights), axis=1).mean())


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_those_of_a_general_optimiser(seed: int) -> None:
    table = np.random.default_rng(seed).normal(size=(60, 4))
    found = best_weights(table)
    assert found.sum() == pytest.approx(1, rel=1e-12)

    def loss(free: np.ndarray) -> float:
        return -mean_log_score(special.softmax(free), table)

    best = optimize.minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
    assert mean_log_score(found, table) == pytest.approx(-best.fun, abs=1e-8)
    assert mean_log_score(found, table) >= -best.fun - 1e-9


def test_a_member_better_at_every_step_takes_all_and_equal_members_share() -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(size=50)
    found = stacking_weights({"good": good, "poor": good - 1})
    assert found["good"] == pytest.approx(1, abs=1e-9)
    halves = np.where(np.arange(50) % 2, 0.0, -2.0)
    found = stacking_weights({"odd": halves, "even": -2 - halves})
    assert found["odd"] == pytest.approx(0.5, abs=1e-9)
    gaps = np.where(np.arange(50) < 3, np.nan, good)
    assert stacking_weights({"good": gaps, "poor": good - 1})["poor"] < 1e-9


def test_scores_that_cannot_be_stacked_are_refused() -> None:
    with pytest.raises(ValueError, match="calls step 1 impossible"):
        best_weights([[0.0, 0.0], [-np.inf, -np.inf]])
    with pytest.raises(ValueError, match="step in common"):
        best_weights([[np.nan, 0.0]])
    with pytest.raises(ValueError, match="at least one"):
        stacking_weights({})
    with pytest.raises(ValueError, match="same steps"):
        stacking_weights({"a": [1.0], "b": [1.0, 2.0]})


PARTS = {
    "normals": (
        D.MultivariateNormal(double([[1.0]]), double([[[2.0]]])),
        D.Independent(D.Normal(double([[0.0]]), double([[1.0]])), 1),
        D.MixtureSameFamily(
            D.Categorical(double([[0.3, 0.7]])),
            D.Independent(D.Normal(double([[[0.0], [3.0]]]), double([[[1.0], [2.0]]])), 1),
        ),
    ),
    "planes": (
        D.MultivariateNormal(double([[1.0, 0.0]]), double([[[2.0, 0.3], [0.3, 1.0]]])),
        D.MultivariateNormal(double([[0.0, 2.0]]), double([[[1.0, 0.0], [0.0, 1.0]]])),
    ),
    "counts": (D.Independent(D.Poisson(double([[1.0]])), 1), D.Independent(D.Poisson(double([[4.0]])), 1)),
    "binary": (
        D.Independent(D.Bernoulli(double([[0.2, 0.5]])), 1),
        D.Independent(D.Bernoulli(double([[0.9, 0.1]])), 1),
    ),
    "symbols": (
        D.Independent(D.Categorical(double([[[0.2, 0.8]]])), 1),
        D.Independent(D.Categorical(double([[[0.6, 0.4]]])), 1),
    ),
    "unlike": (
        D.Independent(D.Normal(double([[0.0]]), double([[1.0]])), 1),
        D.Independent(D.StudentT(double([[4.0]]), double([[1.0]]), double([[2.0]])), 1),
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_the_pool_is_the_weighted_sum_and_draws_from_it(name: str) -> None:
    parts = list(PARTS[name])
    weights = double([0.2, 0.8] if len(parts) == 2 else [0.2, 0.3, 0.5])
    pool = linear_pool(weights, parts)
    assert isinstance(pool, Pool) == (name == "unlike")
    assert pool.batch_shape == (1,)
    width = parts[0].event_shape[0]
    for value in (0.0, 1.0):
        y = torch.full((1, width), value, dtype=torch.float64)
        expected = sum(w * part.log_prob(y).exp() for w, part in zip(weights, parts, strict=True))
        torch.testing.assert_close(pool.log_prob(y).exp(), expected, rtol=1e-12, atol=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = pool.sample(torch.Size([20_000])).to(torch.float64)
    if name == "symbols":
        assert float(draws.mean()) == pytest.approx(0.2 * 0.8 + 0.8 * 0.4, abs=0.02)
        return
    mean = sum(w * part.mean for w, part in zip(weights, parts, strict=True))
    second = sum(w * (part.variance + part.mean**2) for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(pool.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pool.variance, second - mean**2, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.06)
    torch.testing.assert_close(draws.var(0), pool.variance, rtol=0.08, atol=0)


def test_the_stacked_model_scores_the_weighted_sum_of_its_members() -> None:
    members = [ar(0.9), hmm(), ar(-0.3, 2.0)]
    model = Stacked(members, weights=[0.5, 0.3, 0.2])
    y = np.random.default_rng(0).normal(size=20)
    table = np.stack([member.filter(y).log_prob.numpy() for member in members], -1)
    expected = special.logsumexp(table, axis=1, b=[0.5, 0.3, 0.2])
    np.testing.assert_allclose(model.filter(y).log_prob, expected, rtol=1e-12)
    assert model.likelihood_kind == "exact"
    assert model.n_parameters == sum(member.n_parameters for member in members) + 2


def test_fit_learns_the_weights_and_leaves_the_members_alone() -> None:
    members = [ar(0.9), hmm(), ar(-0.3, 2.0)]
    model = Stacked(members)
    y = np.random.default_rng(1).normal(size=80).cumsum() / 3
    before = [member.filter(y).log_prob.numpy() for member in members]
    model.fit(y, max_iterations=3000, tolerance=1e-13)
    after = [member.filter(y).log_prob.numpy() for member in model.members]
    np.testing.assert_allclose(after, before, rtol=1e-9)
    np.testing.assert_allclose(model.weights.detach(), best_weights(np.stack(before, -1)), atol=1e-4)
    assert (np.diff(model.history.objective) >= -1e-9).all()


def test_forecasts_are_those_of_the_pooled_process() -> None:
    """Two steps ahead of two AR(1): every member reads the pool's own first draw."""
    model = Stacked([ar(0.9), ar(0.1)], weights=[0.5, 0.5])
    forecast = model.forecast([2.0], 2, n_samples=4000, seed=0)
    assert float(forecast.mean[0, 0]) == pytest.approx(0.5 * 1.8 + 0.5 * 0.2, abs=0.05)
    assert float(forecast.mean[1, 0]) == pytest.approx(0.5**2 * 2.0, abs=0.06)
    low, high = forecast.interval(0.9)
    inside = ((forecast.samples >= low) & (forecast.samples <= high)).to(torch.float64).mean((0, -1))
    np.testing.assert_allclose(inside, 0.9, atol=0.02)


def test_stack_weighs_by_the_part_it_did_not_fit() -> None:
    y = np.zeros(120)
    rng = np.random.default_rng(2)
    for t in range(1, 120):
        y[t] = 0.8 * y[t - 1] + rng.normal()
    model = stack({"ar": ps.AR(1), "hmm": ps.HMM(2, emission=ps.emissions.Gaussian(1))}, y, train=80)
    table = np.stack([member.filter(y).log_prob[80:].numpy() for member in model.members], -1)
    np.testing.assert_allclose(model.weights.detach(), best_weights(table), rtol=1e-9)
    pooled = model.filter(y).log_prob[80:].mean()
    assert float(pooled) >= table.mean(0).max() - 1e-9


def test_members_that_do_not_go_together_are_refused() -> None:
    poisson = ps.HMM(initial_probs=[1.0], transition_matrix=[[1.0]], emission=ps.emissions.Poisson(rates=[[1.0]]))
    with pytest.raises(ValueError, match="densities or all"):
        Stacked([ar(0.5), poisson])
    with pytest.raises(ValueError, match="same event shape"):
        Stacked([ar(0.5), ps.AR(1, 2)])
    with pytest.raises(ValueError, match="hold at least one"):
        Stacked([])
