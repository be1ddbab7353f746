"""Residual diagnostics and auxiliary residuals against statsmodels and Durbin and Koopman's book."""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import probseq as ps
from probseq import evaluation
from probseq.evaluation import diagnostics as D
from tests import zoo

NILE = {"emission_var": 15098.5, "transition_var": 1469.1}


def local_level(y: Any, **more: Any) -> ps.LDS:
    """The level starts at the first observation: the filter from the second one on is that of a diffuse start."""
    return ps.LDS(
        transition_matrix=[[1.0]],
        transition_cov=[[NILE["transition_var"]]],
        emission_matrix=[[1.0]],
        emission_cov=[[NILE["emission_var"]]],
        **{"initial_mean": [0.0], "initial_cov": [[1e10]], **more},
    )


def statsmodels_lds(model: ps.LDS, y: np.ndarray) -> Any:
    """Smoothed results of the same system."""
    from statsmodels.tsa.statespace.mlemodel import MLEModel

    n, m = model.state_dim, model.obs_dim
    with torch.no_grad():
        kalman = MLEModel(y, k_states=n, k_posdef=n)
        kalman["design"], kalman["obs_cov"] = model.emission_matrix.numpy(), model.emission_cov.numpy()
        kalman["transition"], kalman["state_cov"] = model.transition_matrix.numpy(), model.transition_cov.numpy()
        kalman["selection"] = np.eye(n)
        kalman["obs_intercept"] = model.emission_offset.numpy().reshape(m, 1)
        kalman["state_intercept"] = model.transition_offset.numpy().reshape(n, 1)
        kalman.initialize_known(model.initial_mean.numpy(), model.initial_cov.numpy())
    kalman.ssm.tolerance = 0
    return kalman.smooth([])


@pytest.fixture(scope="module")
def system() -> tuple[ps.LDS, np.ndarray]:
    model = zoo.lds_offsets(3)
    y = model.sample(90, seed=4).numpy()
    y[np.random.default_rng(0).random(y.shape) < 0.1] = np.nan
    y[10] = np.nan
    return model, y


def close(mine: Any, theirs: Any, tolerance: float = 1e-8) -> None:
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance * np.nanmax(np.abs(theirs)))


def test_residuals_equal_those_of_statsmodels(system):
    model, y = system
    theirs = statsmodels_lds(model, y).filter_results.standardized_forecasts_error.T
    mine = evaluation.standardized_residuals(model, y)
    close(mine[~np.isnan(y)], theirs[~np.isnan(y)])
    assert torch.isnan(mine[np.isnan(y)]).all()


def test_tests_equal_those_of_statsmodels(system):
    model, _ = system
    y = model.sample(90, seed=5).numpy()
    results = statsmodels_lds(model, y)
    table = evaluation.diagnose(model, y, lags=7)
    close(table[["jarque_bera", "jarque_bera_p", "skewness", "kurtosis"]], results.test_normality("jarquebera"))
    close(table[["heteroskedasticity", "heteroskedasticity_p"]], results.test_heteroskedasticity("breakvar"))
    close(table[["ljung_box", "ljung_box_p"]], results.test_serial_correlation("ljungbox", lags=7)[:, :, -1])


def test_tests_with_gaps_equal_those_of_statsmodels_on_the_same_residuals(system):
    """(Its own results count a missing residual as zero.)"""
    from statsmodels.stats.stattools import jarque_bera
    from statsmodels.tsa.stattools import breakvar_heteroskedasticity_test

    model, y = system
    table = evaluation.diagnose(model, y)
    for column, (_, row) in zip(evaluation.standardized_residuals(model, y).mT.numpy(), table.iterrows(), strict=True):
        normal = ["jarque_bera", "jarque_bera_p", "skewness", "kurtosis"]
        close(row[normal], jarque_bera(column[~np.isnan(column)]))
        start = int(np.isfinite(column).argmax())
        steady = breakvar_heteroskedasticity_test(column[start:], round((90 - start) / 3))
        close(row[["heteroskedasticity", "heteroskedasticity_p"]], tuple(steady))


def test_correlations_leave_out_pairs_with_a_gap():
    values = np.random.default_rng(0).normal(size=50)
    values[[7, 20, 21]] = np.nan
    away = values - np.nanmean(values)
    expected = np.nansum(away[3:] * away[:-3]) / np.nansum(away**2)
    found = D.autocorrelations(values, 3)
    close(found[3], expected, 1e-12)
    total = sum(found[k] ** 2 / (50 - k) for k in (1, 2, 3))
    close(evaluation.ljung_box(values, 3).statistic, 50 * 52 * total, 1e-12)


def test_nile_diagnostics_of_the_book():
    """Durbin and Koopman, 2nd ed., p. 40: Q(9) = 8.84, S = -0.03, K = 3.09, H(33) = 0.61, from the second year on."""
    y = ps.datasets.nile().to_numpy()
    residuals = evaluation.standardized_residuals(local_level(y), y)[1:]
    assert round(evaluation.ljung_box(residuals, 9).statistic, 2) == 8.84
    assert round(evaluation.skewness(residuals), 2) == -0.03
    assert round(evaluation.kurtosis(residuals), 2) == 3.09
    assert round(evaluation.heteroskedasticity(residuals).statistic, 2) == 0.61


def test_disturbances_equal_those_of_statsmodels(system):
    model, y = system
    results = statsmodels_lds(model, y)
    mine = evaluation.smoothed_disturbances(model, y)
    seen = ~np.isnan(y)
    close(mine.emission_mean[seen], results.smoothed_measurement_disturbance.T[seen])
    left = np.einsum("iit->ti", results.smoothed_measurement_disturbance_cov)
    complete = seen.all(-1)
    close(mine.emission_var[complete], left[complete])
    close(mine.transition_mean[1:], results.smoothed_state_disturbance.T[:-1])
    close(mine.transition_var[1:], np.einsum("iit->ti", results.smoothed_state_disturbance_cov)[:-1])
    assert torch.isnan(mine.transition_mean[0]).all()


def test_nile_outliers_and_break_of_the_book():
    """Durbin and Koopman, sec. 2.12.2: the largest outlier residuals are 1877 and 1913, the level breaks in 1899."""
    y = ps.datasets.nile()
    found = evaluation.auxiliary_residuals(local_level(y), y)
    emission, transition = found.emission[1:, 0].numpy(), found.transition[1:, 0].numpy()
    years = np.asarray(y.index)[1:]
    assert set(years[np.argsort(-np.abs(emission))[:2]]) == {1913, 1877}
    assert years[np.abs(transition).argmax()] == 1899
    assert transition.min() < -3


def test_auxiliary_residuals_have_unit_variance_under_the_true_model():
    model = zoo.lds_offsets(1)
    y = model.sample(30, (2000,), seed=2)
    found = evaluation.auxiliary_residuals(model, y)
    for part in (found.emission, found.transition[:, 1:]):
        assert abs(part.mean()) < 0.02
        assert (part.square().mean(0) - 1).abs().max() < 6 * (2 / 2000) ** 0.5


def test_lists_and_batches_keep_their_layout():
    model = zoo.lds_offsets(1)
    y = [model.sample(t, seed=t).numpy() for t in (1, 5, 3)]
    for one, residual, found in zip(
        y, evaluation.standardized_residuals(model, y), evaluation.auxiliary_residuals(model, y), strict=True
    ):
        assert residual.shape == one.shape
        assert found.transition.shape == (len(one), 2)
        close(residual, evaluation.standardized_residuals(model, one), 1e-12)


def test_what_has_no_gaussian_prediction_is_refused():
    hmm = next(row for row in zoo.ROWS if row.name == "hmm-poisson").make(0)
    with pytest.raises(TypeError, match="need Gaussian predictions"):
        evaluation.standardized_residuals(hmm, hmm.sample(5, seed=0))
    with pytest.raises(ValueError, match="lags must lie in"):
        evaluation.ljung_box(np.arange(5.0), 5)
    with pytest.raises(ValueError, match="3 finite values"):
        evaluation.jarque_bera([1.0, np.nan])
    with pytest.raises(ValueError, match="one column"):
        evaluation.jarque_bera(np.zeros((4, 2)))


def test_plot_draws_four_panels():
    y = ps.datasets.nile()
    panels = evaluation.plot_diagnostics(local_level(y), y)
    assert panels.shape == (2, 2)
    again = evaluation.plot_diagnostics(local_level(y), y, panels.ravel())
    assert again[0] is panels[0, 0]
    with pytest.raises(ValueError, match="axes must hold 4"):
        evaluation.plot_diagnostics(local_level(y), y, panels[0])
    plt.close("all")
