"""Scores against closed forms of scipy, quadrature, double sums and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
import scoringrules
import statsmodels.api as sm
import torch
from scipy import integrate, stats
from torch import distributions as D

from probseq.emissions.product import Columns
from probseq.evaluation.scores import (
    covered,
    crps,
    crps_of_draws,
    default_bandwidth,
    energy_of_draws,
    energy_score,
    hac_standard_error,
    log_score,
    mean_score,
)


def autocorrelated(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n + 1)
    return 3.0 + noise[1:] + 0.7 * noise[:-1]


def double(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def quadrature_crps(cdf, y: float, low: float, high: float) -> float:
    left = integrate.quad(lambda x: cdf(x) ** 2, low, y, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
    right = integrate.quad(lambda x: (1 - cdf(x)) ** 2, y, high, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
    return left + right


def double_sum_crps(values: np.ndarray, probs: np.ndarray, y: float) -> float:
    pairs = np.abs(values[:, None] - values[None, :])
    return float(probs @ np.abs(values - y) - 0.5 * probs @ pairs @ probs)


@pytest.mark.parametrize(("n", "lags"), [(2, 1), (17, 0), (17, 6), (100, 1), (100, 4), (250, 4), (250, 20)])
def test_hac_standard_error_is_that_of_statsmodels(n: int, lags: int) -> None:
    scores = autocorrelated(n)
    fit = sm.OLS(scores, np.ones(n)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False})
    assert hac_standard_error(scores, lags) == pytest.approx(fit.bse[0], rel=1e-10)
    if lags == int(4 * (n / 100) ** (2 / 9)):
        assert hac_standard_error(scores) == pytest.approx(fit.bse[0], rel=1e-10)


def test_default_bandwidth_values() -> None:
    assert [default_bandwidth(n) for n in (1, 2, 30, 100, 1000)] == [1, 1, 3, 4, 6]


def test_hac_with_gaps_is_the_double_sum_over_pairs_in_time() -> None:
    scores = autocorrelated(40)
    scores[[0, 7, 8, 20, 39]] = np.nan
    seen = ~np.isnan(scores)
    away = np.where(seen, scores - scores[seen].mean(), 0)
    total = sum(away[i] * away[j] * (1 - abs(i - j) / 5) for i in range(40) for j in range(40) if abs(i - j) <= 4)
    assert hac_standard_error(scores, 4) == pytest.approx(np.sqrt(total) / seen.sum(), rel=1e-10)


def test_hac_of_several_sequences_adds_their_sums() -> None:
    rows = np.stack([autocorrelated(30, seed) for seed in range(3)])
    centred = rows - rows.mean()
    singles = 0.0
    for row in centred:
        for i in range(30):
            for j in range(30):
                singles += row[i] * row[j] * max(0.0, 1 - abs(i - j) / 3)
    assert hac_standard_error(rows, 2) == pytest.approx(np.sqrt(singles) / 90, rel=1e-10)
    padded = np.concatenate([np.full((3, 5), np.nan), rows], 1)
    assert hac_standard_error(padded, 2) == pytest.approx(hac_standard_error(rows, 2), rel=1e-12)


def test_hac_has_no_value_without_two_finite_scores() -> None:
    assert np.isnan(hac_standard_error([1.0]))
    assert np.isnan(hac_standard_error([np.nan, 1.0, np.nan]))
    assert np.isnan(hac_standard_error([-np.inf, 1.0, 2.0]))
    assert hac_standard_error([2.0, 2.0, 2.0]) == 0


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_crps_of_normals_is_the_closed_form(scale: float) -> None:
    rng = np.random.default_rng(1)
    mean, deviation, y = rng.normal(size=(3, 20, 2)) * scale
    deviation = np.abs(deviation)
    z = (y - mean) / deviation
    expected = deviation * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    independent = D.Independent(D.Normal(torch.as_tensor(mean), torch.as_tensor(deviation)), 1)
    dense = D.MultivariateNormal(torch.as_tensor(mean), torch.diag_embed(torch.as_tensor(deviation) ** 2))
    for distribution in (independent, dense):
        np.testing.assert_allclose(crps(distribution, torch.as_tensor(y)), expected, rtol=1e-9)


def test_crps_of_normal_mixtures_is_the_integral() -> None:
    weights, means = double([[0.2, 0.5, 0.3]]), double([[[-2.0], [0.5], [3.0]]])
    deviations = double([[[0.5], [1.0], [2.0]]])
    mixture = D.MixtureSameFamily(D.Categorical(weights), D.Independent(D.Normal(means, deviations), 1))

    def cdf(x: float) -> float:
        return float(weights[0].numpy() @ stats.norm.cdf(x, means[0, :, 0], deviations[0, :, 0]))

    for y in (-1.3, 0.0, 5.0):
        expected = quadrature_crps(cdf, y, -12.0, 20.0)
        np.testing.assert_allclose(crps(mixture, double([[y]]))[0, 0], expected, rtol=1e-7)


def test_crps_of_counts_is_the_double_sum() -> None:
    values = np.arange(120)
    weights = double([[0.4, 0.6]])
    rates = double([[[2.0], [9.0]]])
    mixture = D.MixtureSameFamily(D.Categorical(weights), D.Independent(D.Poisson(rates), 1))
    mixed = 0.4 * stats.poisson.pmf(values, 2) + 0.6 * stats.poisson.pmf(values, 9)
    alone = D.Independent(D.Poisson(double([[9.0]])), 1)
    for y in (0.0, 4.0, 31.0, 90.0):
        at = double([[y]])
        np.testing.assert_allclose(crps(mixture, at)[0, 0], double_sum_crps(values, mixed, y), rtol=1e-10)
        expected = double_sum_crps(values, stats.poisson.pmf(values, 9), y)
        np.testing.assert_allclose(crps(alone, at)[0, 0], expected, rtol=1e-10)


def test_crps_of_binary_data_is_the_brier_score() -> None:
    weights = double([0.25, 0.75])
    probs = double([[0.2, 0.5], [0.8, 0.9]])
    mixture = D.MixtureSameFamily(D.Categorical(weights), D.Independent(D.Bernoulli(probs), 1))
    mixed = np.array([0.25 * 0.2 + 0.75 * 0.8, 0.25 * 0.5 + 0.75 * 0.9])
    np.testing.assert_allclose(crps(mixture, double([1.0, 0.0])), (mixed - [1, 0]) ** 2, rtol=1e-12)


def test_crps_of_draws_is_the_unbiased_double_sum() -> None:
    rng = np.random.default_rng(2)
    draws, y = rng.normal(size=(3, 2, 40)), rng.normal(size=(3, 2))
    apart = np.abs(draws[..., :, None] - draws[..., None, :]).sum((-1, -2)) / (40 * 39)
    expected = np.abs(draws - y[..., None]).mean(-1) - apart / 2
    np.testing.assert_allclose(crps_of_draws(torch.as_tensor(draws), torch.as_tensor(y)), expected, rtol=1e-10)


def test_crps_elsewhere_comes_from_draws_and_leaves_the_global_generator_alone() -> None:
    distribution = D.Independent(D.StudentT(double([[5.0]])), 1)
    expected = quadrature_crps(lambda x: float(stats.t.cdf(x, 5)), 0.7, -200.0, 200.0)
    before = torch.get_rng_state()
    found = crps(distribution, double([[0.7]]), n_samples=40_000, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_allclose(found[0, 0], expected, rtol=0.02)


def test_symbols_have_no_crps() -> None:
    symbols = D.Independent(D.Categorical(torch.ones(4, 1, 3)), 1)
    assert bool(torch.isnan(crps(symbols, torch.zeros(4, 1))).all())


def test_log_score_coverage_and_mean() -> None:
    y = double([[0.3, -0.2]])
    normal = D.Independent(D.Normal(torch.zeros(1, 2).double(), 1.0), 1)
    np.testing.assert_allclose(log_score(normal, y), stats.norm.logpdf(y).sum(-1), rtol=1e-12)
    inside = covered(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.1]))
    assert inside.tolist() == [1.0, 0.0]
    assert mean_score([1.0, np.nan, 2.0]) == 1.5
    assert np.isnan(mean_score([np.nan]))


@pytest.mark.parametrize("dim", [1, 3])
def test_energy_score_of_draws_is_that_of_scoringrules(dim: int) -> None:
    rng = np.random.default_rng(4)
    draws, y = rng.normal(size=(5, dim, 30)), rng.normal(size=(5, dim))
    expected = scoringrules.es_ensemble(y, np.moveaxis(draws, -1, -2), estimator="akr")
    np.testing.assert_allclose(energy_of_draws(torch.as_tensor(draws), torch.as_tensor(y)), expected, rtol=1e-10)


def test_energy_score_of_one_column_is_the_crps_and_of_a_normal_its_double_sum() -> None:
    normal = D.Independent(D.Normal(double([[0.5]]), double([[2.0]])), 1)
    y = double([[1.5]])
    np.testing.assert_allclose(energy_score(normal, y, n_samples=40_000), crps(normal, y)[:, 0], rtol=0.05)
    both = D.MultivariateNormal(torch.zeros(1, 2).double(), torch.eye(2).double())
    rayleigh = np.sqrt(np.pi / 2)  # E||X|| in the plane; X - X' has twice the variance
    found = energy_score(both, torch.zeros(1, 2).double(), n_samples=40_000)
    np.testing.assert_allclose(found, rayleigh - np.sqrt(2) * rayleigh / 2, rtol=0.03)
    symbols = D.Independent(D.Categorical(torch.ones(4, 1, 3)), 1)
    assert bool(torch.isnan(energy_score(symbols, torch.zeros(4, 1))).all())


def test_crps_of_mixed_columns_is_that_of_its_parts() -> None:
    parts = [
        D.Independent(D.Normal(double([[0.0]]), double([[1.0]])), 1),
        D.Independent(D.Bernoulli(double([[0.3]])), 1),
    ]
    found = crps(Columns(parts), double([[0.7, 1.0]]))
    np.testing.assert_allclose(found, [[float(crps(parts[0], double([[0.7]]))), 0.49]], rtol=1e-12)
