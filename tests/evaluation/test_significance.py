"""Diebold-Mariano, the stationary bootstrap and the model confidence set: by hand, by double sums, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from probseq.evaluation.bootstrap import automatic_block_length, resampled_means, stationary_indices
from probseq.evaluation.significance import (
    cosine_standard_error,
    diebold_mariano,
    model_confidence_set,
)


def autoregressive(n: int, coefficient: float, seed: int = 0, batch: tuple[int, ...] = ()) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(*batch, n))
    out = noise.copy()
    for t in range(1, n):
        out[..., t] += coefficient * out[..., t - 1]
    return out


def test_hac_statistic_is_that_of_statsmodels_over_its_share_under_white_noise() -> None:
    n, h, lags = 80, 3, 5
    a, b = autoregressive(n, 0.3), autoregressive(n, 0.1, 1)
    found = diebold_mariano(a, b, horizon=h, errors="hac", bandwidth=lags)
    fit = sm.OLS(a - b, np.ones(n)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False})
    b = (lags + 1) / n
    factor = np.sqrt(1 - b + b**2 / 3)
    assert found.difference == pytest.approx(fit.params[0], rel=1e-12)
    assert found.standard_error == pytest.approx(fit.bse[0] / factor, rel=1e-10)
    assert found.statistic == pytest.approx(factor * fit.tvalues[0], rel=1e-10)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.statistic), 3 * n / (2 * (lags + 1))), rel=1e-10)


def test_cosine_error_is_the_mean_of_squared_transforms() -> None:
    x = autoregressive(60, 0.4)
    k = int(0.4 * 60 ** (2 / 3))
    squares = []
    for j in range(1, k + 1):
        transform = np.sqrt(2 / 60) * sum(x[t] * np.cos(np.pi * j * (t + 0.5) / 60) for t in range(60))
        squares.append(transform**2)
    error, freedom = cosine_standard_error(x)
    assert error == pytest.approx(np.sqrt(np.mean(squares) / 60), rel=1e-10)
    assert freedom == k
    both, total = cosine_standard_error(np.stack([x, x]))
    assert both == pytest.approx(error / np.sqrt(2), rel=1e-10)
    assert total == 2 * k


@pytest.mark.parametrize(
    ("errors", "n", "horizon"),
    [("cosine", 100, 1), ("cosine", 250, 1), ("cosine", 250, 4), ("hac", 100, 1), ("hac", 250, 1)],
)
def test_equal_models_are_rejected_one_time_in_twenty(errors: str, n: int, horizon: int) -> None:
    """2,000 replicates of moving averages of order horizon - 1, what h-step errors of a true model are."""
    noise = np.random.default_rng([20261128, n, horizon]).normal(size=(2000, n + horizon))
    differences = sum(noise[:, j : n + j] for j in range(horizon))
    zero = np.zeros(n)
    rejected = [diebold_mariano(d, zero, horizon=horizon, errors=errors).p_value < 0.05 for d in differences]
    assert np.mean(rejected) == pytest.approx(0.05, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("errors", ["cosine", "hac", "bootstrap"])
def test_nominal_size_of_forecasts_by_equal_models(errors: str) -> None:
    """Two forecasters whose errors differ and whose expected log scores are equal, 4,000 replicates of 200 steps.

    The target is an AR(1); one is told too high a mean at even blocks of five steps, the other at odd ones.
    """
    rng = np.random.default_rng(20261128)
    rejected = 0
    for replicate in range(4000):
        y = autoregressive(200, 0.6, seed=int(rng.integers(2**31)))
        predicted = 0.6 * np.r_[0.0, y[:-1]]
        bias = 0.5 * (np.arange(200) // 5 % 2)
        first = stats.norm.logpdf(y, predicted + bias)
        second = stats.norm.logpdf(y, predicted + 0.5 - bias)
        found = diebold_mariano(first, second, errors=errors, n_bootstrap=400, seed=replicate)
        rejected += found.p_value < 0.05
    print(f"{errors}: size {rejected / 4000:.4f}")
    assert rejected / 4000 == pytest.approx(0.05, abs=0.015)


def test_unequal_models_are_told_apart() -> None:
    y = autoregressive(200, 0.6)
    good = stats.norm.logpdf(y[1:], 0.6 * y[:-1])
    poor = stats.norm.logpdf(y[1:], 0, 1.25)
    for errors in ("cosine", "hac", "bootstrap"):
        found = diebold_mariano(good, poor, errors=errors)
        assert found.difference > 0
        assert found.p_value < 0.01


def test_gaps_keep_their_place_and_impossible_outcomes_are_refused() -> None:
    a, b = autoregressive(40, 0.2), autoregressive(40, 0.2, 1)
    a[5] = np.nan
    found = diebold_mariano(a, b)
    assert found.n == 39
    assert found.difference == pytest.approx(np.nanmean(a - b), rel=1e-12)
    with pytest.raises(ValueError, match="impossible"):
        diebold_mariano(np.r_[a[:-1], -np.inf], b)
    with pytest.raises(ValueError, match="same steps"):
        diebold_mariano(a, b[1:])
    with pytest.raises(ValueError, match="errors must be"):
        diebold_mariano(a, b, errors="white")  # type: ignore[arg-type]
    assert np.isnan(diebold_mariano(a, a).p_value)


# ---- the bootstrap


def test_blocks_go_on_and_have_geometric_lengths() -> None:
    index = stationary_indices(50, 5.0, 400, seed=0)
    assert index.shape == (400, 50)
    goes_on = (index[:, 1:] - index[:, :-1]) % 50 == 1
    assert goes_on.mean() == pytest.approx(1 - 1 / 5 + 1 / 250, abs=0.01)
    assert np.bincount(index.ravel(), minlength=50).std() / 400 < 0.15
    np.testing.assert_array_equal(index, stationary_indices(50, 5.0, 400, seed=0))
    with pytest.raises(ValueError, match="block_length"):
        stationary_indices(5, 0.5, 1, 0)


def test_the_variance_of_resampled_means_is_politis_and_romanos() -> None:
    """sum over lags of (1 - p)^k (1 - k / n) + ..., their eq. 6 with circular autocovariances."""
    n, length = 40, 4.0
    x = autoregressive(n, 0.5)
    p = 1 / length
    away = x - x.mean()
    circular = np.array([away @ np.roll(away, k) for k in range(n)]) / n
    weights = [(1 - k / n) * (1 - p) ** k for k in range(1, n)]
    expected = (circular[0] + 2 * np.sum(weights * circular[1:])) / n
    means = resampled_means(x[None, :, None], length, 40_000, seed=3)[:, 0]
    assert means.mean() == pytest.approx(x.mean(), abs=4 * np.sqrt(expected / 40_000))
    assert means.var() == pytest.approx(expected, rel=0.03)


def test_block_length_of_an_autoregression_is_near_its_theory() -> None:
    """G = sum |k| R(k) and the spectrum at 0 of an AR(1) in closed form."""
    n, a = 20_000, 0.5
    spectrum = 1 / (1 - a) ** 2
    g = 2 * a / (1 - a) ** 2 / (1 - a**2)
    expected = (g**2 / spectrum**2) ** (1 / 3) * n ** (1 / 3)
    assert automatic_block_length(autoregressive(n, a)) == pytest.approx(expected, rel=0.2)
    assert automatic_block_length(np.ones(20)) == 1.0


def test_block_length_is_that_of_the_arch_package() -> None:
    """arch 8.0.0, optimal_block_length(x)["stationary"], on series whose last significant lag is the first."""
    for n, a, seed, expected in ((60, 0.0, 0, 1.8936280875398452), (150, 0.25, 4, 2.32849048624506)):
        assert automatic_block_length(autoregressive(n, a, seed)) == pytest.approx(expected, rel=1e-10)


# ---- the confidence set


def losses() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(300, 5)) + rng.normal(size=(300, 1)) + np.array([0, 0.05, 0.1, 0.2, 0.3])


#: arch 8.0.0, MCS(losses, 0.1, reps=20000, block_size=4, method=..., bootstrap="stationary", seed=1)
ARCH = {"range": [1.0, 0.19925, 0.35745, 0.0864, 0.0], "max": [1.0, 0.19845, 0.35745, 0.0826, 0.0]}


@pytest.mark.parametrize("statistic", ["range", "max"])
def test_p_values_are_those_of_the_arch_package(statistic: str) -> None:
    table = {str(i): -column for i, column in enumerate(losses().T)}
    found = model_confidence_set(table, statistic=statistic, n_bootstrap=8000, block_length=4)  # type: ignore[arg-type]
    for name, expected in enumerate(ARCH[statistic]):
        assert found.p_values[str(name)] == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 8000))
    assert found.members == ("0", "1", "2")


def test_two_models_are_the_bootstrap_test() -> None:
    a, b = autoregressive(80, 0.3), autoregressive(80, 0.3, 1) + 0.2
    found = model_confidence_set({"a": a, "b": b}, statistic="range", block_length=3, n_bootstrap=4000)
    test = diebold_mariano(a, b, errors="bootstrap", block_length=3, n_bootstrap=4000)
    worse, better = ("b", "a") if test.difference > 0 else ("a", "b")
    assert found.p_values[worse] == pytest.approx(test.p_value, abs=1e-3)
    assert found.p_values[better] == 1.0


def test_identical_models_stay_together_and_worse_ones_leave() -> None:
    a = autoregressive(200, 0.2)
    found = model_confidence_set({"a": a, "same": a, "worse": a - 0.5 + 0.1 * autoregressive(200, 0.0, 4)})
    assert found.members == ("a", "same")
    assert found.p_values["worse"] < 0.01


def test_the_set_holds_the_best_nine_times_in_ten() -> None:
    """Three equal models and a worse one: all three are the best, so 90 % of the sets must hold any of them."""
    rng = np.random.default_rng(5)
    held = []
    for replicate in range(150):
        table = rng.normal(size=(120, 4)) + np.array([0, 0, 0, -1.0])
        found = model_confidence_set(dict(enumerate(table.T)), n_bootstrap=300, block_length=1, seed=replicate)
        held.append("0" in found.members)
        assert "3" not in found.members
    assert np.mean(held) >= 0.9 - 3 * np.sqrt(0.09 / 150)


def test_a_table_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one model"):
        model_confidence_set({})
    with pytest.raises(ValueError, match="finite"):
        model_confidence_set({"a": [1.0, -np.inf], "b": [1.0, 2.0]})
    with pytest.raises(ValueError, match="step in common"):
        model_confidence_set({"a": [1.0, np.nan], "b": [np.nan, 2.0]})
    with pytest.raises(ValueError, match="statistic must be"):
        model_confidence_set({"a": [1.0, 2.0]}, statistic="mean")  # type: ignore[arg-type]
