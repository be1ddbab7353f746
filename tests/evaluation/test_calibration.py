"""PIT values of true and wrong models, and tests of them against statsmodels, brute force and hand computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy import stats
from torch import distributions as D

import probseq as ps
from probseq.evaluation.calibration import (
    berkowitz_test,
    calibration,
    coverage_test,
    independence_test,
    pit,
    pit_values,
    uniform_test,
)

SEED = 20261128


def double(values: object) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


CHAIN: dict[str, Any] = {"initial_probs": [0.5, 0.5], "transition_matrix": [[0.9, 0.1], [0.2, 0.8]]}


def hmm(emission: Any) -> ps.HMM:
    return ps.HMM(emission=emission, **CHAIN)


def level(noise: float = 1.0) -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[0.9]],
        transition_cov=[[0.5]],
        emission_matrix=[[1.0]],
        emission_cov=[[noise]],
        initial_mean=[0.0],
        initial_cov=[[2.0]],
    )


E = ps.emissions
PAIRS = {
    "linear": (level(), level(0.25)),
    "gaussian": (
        hmm(E.Gaussian(means=[[-1.0], [2.0]], covs=[[[1.0]], [[0.5]]])),
        hmm(E.Gaussian(means=[[-1.0], [2.0]], covs=[[[2.0]], [[1.5]]])),
    ),
    "counts": (hmm(E.Poisson(rates=[[1.0], [6.0]])), hmm(E.Poisson(rates=[[2.0], [6.0]]))),
    "binary": (hmm(E.Bernoulli(probs=[[0.1], [0.8]])), hmm(E.Bernoulli(probs=[[0.3], [0.9]]))),
    "symbols": (
        hmm(E.Categorical(probs=[[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])),
        hmm(E.Categorical(probs=[[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pit_of_the_true_model_is_uniform_and_of_a_wrong_one_is_not(name: str) -> None:
    """200 replicates of 200 steps: the Kolmogorov-Smirnov p-values are uniform themselves."""
    true, wrong = PAIRS[name]
    y = true.sample(200, (200,), seed=SEED)
    right = [uniform_test(row).p_value for row in pit_values(true, y, seed=SEED)]
    off = [uniform_test(row).p_value for row in pit_values(wrong, y, seed=SEED)]
    p = float(stats.kstest(right, "uniform").pvalue)
    q = float(stats.kstest(off, "uniform").pvalue)
    print(f"{name}: p-values of 200 true replicates uniform, p = {p:.3f}; of the wrong model {q:.1e}")
    assert p > 0.01
    assert q < 1e-6


def test_all_tests_have_their_size_under_the_true_model() -> None:
    y = level().sample(200, (300,), seed=SEED)
    found = [calibration(row) for row in pit_values(level(), y).numpy().squeeze(-1)]
    for test in ("uniform", "berkowitz", "coverage_90", "independence_90"):
        rejected = np.mean([getattr(one, test).p_value < 0.05 for one in found])
        assert rejected == pytest.approx(0.05, abs=0.045), test
    assert np.mean([one.inside_90 for one in found]) == pytest.approx(0.9, abs=0.01)
    assert np.mean([one.inside_50 for one in found]) == pytest.approx(0.5, abs=0.01)


def test_pit_of_a_normal_is_its_distribution_function_and_of_counts_lies_in_its_segment() -> None:
    y = double([[0.3, -2.0]])
    normal = D.Independent(D.Normal(double([[0.0, 1.0]]), double([[1.0, 2.0]])), 1)
    np.testing.assert_allclose(pit(normal, y), stats.norm.cdf(y, [0, 1], [1, 2]), rtol=1e-12)
    counts = D.Independent(D.Poisson(double([[3.0]])), 1)
    many = torch.cat([pit(counts, double([[2.0]]), seed=seed) for seed in range(300)])[:, 0].numpy()
    low, high = stats.poisson.cdf([1, 2], 3.0)
    assert low <= many.min() < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < many.max() <= high
    assert stats.kstest(many, stats.uniform(low, high - low).cdf).pvalue > 0.01


def test_pit_of_mixed_columns_is_that_of_its_parts() -> None:
    emission = E.Product(
        E.Gaussian(means=[[0.0], [2.0]], covs=[[[1.0]], [[1.0]]]),
        E.Categorical(probs=[[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]),
    )
    model = hmm(emission)
    emitted = model.emit(model.initial_belief())
    found = pit(emitted, double([0.4, 1.0]), seed=1)
    assert float(found[0]) == pytest.approx(0.5 * stats.norm.cdf(0.4) + 0.5 * stats.norm.cdf(0.4 - 2), rel=1e-12)
    assert 0.4 <= float(found[1]) <= 0.7


def test_values_keep_the_layout_and_gaps_of_the_data() -> None:
    y = [np.array([0.1, np.nan, 0.3]), np.array([1.0, 2.0])]
    found = pit_values(level(), y)
    assert [len(one) for one in found] == [3, 2]
    assert bool(torch.isnan(found[0][1, 0]))
    assert float(found[1][0, 0]) == pytest.approx(stats.norm.cdf(1.0, 0, np.sqrt(3.0)), rel=1e-12)


# ---- the tests by other ways


def test_berkowitz_is_a_likelihood_ratio_against_a_regression_of_statsmodels() -> None:
    values = np.random.default_rng(0).uniform(size=60)
    z = stats.norm.ppf(values)
    fit = sm.OLS(z[1:], sm.add_constant(z[:-1])).fit()
    statistic = 2 * (fit.llf - stats.norm.logpdf(z[1:]).sum())
    found = berkowitz_test(values)
    assert found.statistic == pytest.approx(statistic, rel=1e-10)
    assert found.p_value == pytest.approx(stats.chi2.sf(statistic, 3), rel=1e-10)


def test_coverage_and_independence_by_hand() -> None:
    hits = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1, 1.0])
    expected = -2 * stats.binom.logpmf(7, 10, 0.9) + 2 * stats.binom.logpmf(7, 10, 0.7)
    assert coverage_test(hits, 0.9).statistic == pytest.approx(expected, rel=1e-10)
    after_hit, after_miss = [1, 0, 1, 1, 0, 1], [1, 0, 1]

    def log_lik(outcomes: list[int], rate: float) -> float:
        return float(stats.bernoulli.logpmf(outcomes, rate).sum())

    apart = log_lik(after_hit, 4 / 6) + log_lik(after_miss, 2 / 3)
    together = log_lik(after_hit + after_miss, 6 / 9)
    assert independence_test(hits).statistic == pytest.approx(2 * (apart - together), abs=1e-10)
    assert independence_test(np.ones(5)).p_value == 1.0
    gaps = np.insert(hits, 3, np.nan)
    assert coverage_test(gaps, 0.9).statistic == pytest.approx(expected, rel=1e-10)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="one number or more"):
        uniform_test([np.nan])
    with pytest.raises(ValueError, match="4 neighbouring pairs"):
        berkowitz_test([0.5, 0.2])
    with pytest.raises(ValueError, match="level must lie"):
        coverage_test([1.0], 0.0)
    with pytest.raises(ValueError, match="two neighbouring"):
        independence_test([1.0])
