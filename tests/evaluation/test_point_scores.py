"""Point, quantile and interval scores against scoringrules, statsmodels and hand computation."""

from __future__ import annotations

import numpy as np
import pytest
import scoringrules
import torch
from scipy import integrate, stats
from statsmodels.tools import eval_measures

from probseq.evaluation.point_scores import interval_score, mae, mase, naive_scale, quantile_score, rmse


def random_targets(n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=n), rng.normal(size=n)


@pytest.mark.parametrize("q", [0.05, 0.5, 0.9])
def test_quantile_score_is_that_of_scoringrules(q: float) -> None:
    y, x = random_targets()
    found = quantile_score(torch.as_tensor(x), torch.as_tensor(y), q)
    np.testing.assert_allclose(found, scoringrules.quantile_score(y, x, q), rtol=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_interval_score_is_that_of_scoringrules_and_of_its_quantiles(level: float) -> None:
    y, x = random_targets()
    lower, upper = torch.as_tensor(x) - 0.5, torch.as_tensor(x) + 0.7
    at = torch.as_tensor(y)
    found = interval_score(lower, upper, at, level)
    np.testing.assert_allclose(
        found, scoringrules.interval_score(y, lower.numpy(), upper.numpy(), 1 - level), rtol=1e-12
    )
    a = (1 - level) / 2
    ends = quantile_score(lower, at, a) + quantile_score(upper, at, 1 - a)
    np.testing.assert_allclose(found, 2 / (1 - level) * ends, rtol=1e-10)


def test_crps_is_twice_the_integral_of_quantile_scores() -> None:
    y = torch.tensor(0.8, dtype=torch.float64)

    def at(q: float) -> float:
        return float(quantile_score(torch.tensor(stats.norm.ppf(q), dtype=torch.float64), y, q))

    total = integrate.quad(at, 0, 1, limit=200)[0]
    assert 2 * total == pytest.approx(float(scoringrules.crps_normal(0.8, 0.0, 1.0)), rel=1e-7)


def test_rmse_and_mae_are_those_of_statsmodels_without_the_gaps() -> None:
    y, x = random_targets()
    errors = y - x
    assert rmse(errors) == pytest.approx(eval_measures.rmse(y, x), rel=1e-12)
    assert mae(errors) == pytest.approx(eval_measures.meanabs(y, x), rel=1e-12)
    assert rmse(np.append(errors, np.nan)) == pytest.approx(rmse(errors), rel=1e-12)
    assert np.isnan(rmse([np.nan])) and np.isnan(mae([]))  # noqa: PT018


def test_mase_by_hand() -> None:
    train = [1.0, 3.0, 2.0, 6.0]  # moves 2, 1, 4; two apart 1, 3
    assert mase([1.0, -3.0], train) == pytest.approx(2 / (7 / 3), rel=1e-12)
    assert mase([1.0, -3.0], train, season=2) == pytest.approx(2 / 2, rel=1e-12)
    gap = [1.0, np.nan, 2.0, 6.0]
    assert float(naive_scale(gap)) == 4.0
    np.testing.assert_allclose(naive_scale([np.array([1.0, 2.0]), np.array([5.0, 8.0, 6.0])]), [2.0], rtol=1e-12)
    assert bool(torch.isnan(naive_scale([2.0, 2.0, 2.0])).all())


def test_what_makes_no_sense_is_refused() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="level must lie"):
        interval_score(one, one, one, 1.0)
    with pytest.raises(ValueError, match="season must be"):
        naive_scale([1.0, 2.0], 0)
    with pytest.raises(ValueError, match="one column"):
        mase([1.0], np.ones((3, 2)))
