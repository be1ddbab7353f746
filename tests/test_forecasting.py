"""Forecasts: indexes that continue, what may be asked of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import probseq as ps
from probseq.forecasting import continue_index


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (pd.RangeIndex(1871, 1971), [1971, 1972, 1973]),
        (pd.Index([10, 20, 30]), [40, 50, 60]),
        (pd.period_range("2000-11", periods=2, freq="M"), list(pd.period_range("2001-01", periods=3, freq="M"))),
        (pd.date_range("2020-01-31", periods=4, freq="ME"), list(pd.date_range("2020-05-31", periods=3, freq="ME"))),
        (pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-03"]), list(pd.date_range("2020-01-04", periods=3))),
        (None, [7, 8, 9]),
        (pd.Index(["a", "b"]), [7, 8, 9]),
    ],
)
def test_indexes_continue(index, expected):
    assert list(continue_index(index, 3, 7)) == expected


def test_dates_without_frequency_raise_only_when_extended():
    dates = pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-03-09", "2020-03-10"])
    model = ps.AR(transition_matrices=[[[0.5]]], transition_cov=[[1.0]])
    forecast = model.forecast(pd.Series([1.0, 2.0, 3.0, 4.0], index=dates), steps=2)
    assert torch.isfinite(forecast.mean).all()
    with pytest.raises(ValueError, match="no frequency that can be inferred"):
        forecast.to_frame()


def test_symbols_have_probabilities_only():
    model = ps.HMM(
        initial_probs=[0.5, 0.5],
        transition_matrix=[[0.9, 0.1], [0.2, 0.8]],
        emission=ps.emissions.Categorical(probs=[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]),
    )
    forecast = model.forecast([0, 1, 2], steps=2)
    assert forecast.probs.shape == (2, 3)
    torch.testing.assert_close(forecast.probs.sum(-1), torch.ones(2).double())
    assert list(forecast.to_frame().columns) == ["prob_0", "prob_1", "prob_2"]
    for ask in (lambda: forecast.mean, lambda: forecast.quantile(0.5), lambda: forecast.interval(0.9)):
        with pytest.raises(ValueError, match="symbols have no"):
            ask()
    for q in (1.0, 95, [0.1, 0.9], "0.5", True):
        with pytest.raises(ValueError, match="q must lie strictly"):
            forecast.quantile(q)


def test_samples_agree_with_the_marginals():
    y = ps.datasets.nile()
    model = ps.AR(transition_matrices=[[[0.5]]], transition_offset=[450.0], transition_cov=[[20000.0]])
    forecast = model.forecast(y, steps=4, n_samples=4000, seed=0)
    assert forecast.samples.shape == (4000, 4, 1)
    error = forecast.samples.mean(0) - forecast.mean
    assert (error.abs() < 5 * (forecast.distribution.variance / 4000).sqrt()).all()
    again = model.forecast(y, steps=4, n_samples=4000, seed=0)
    assert torch.equal(again.samples, forecast.samples)


def test_frames_of_several_series_and_columns():
    model = ps.AR(transition_matrices=[0.5 * np.eye(2)], transition_cov=np.eye(2))
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [0.0, 1.0]})
    table = model.forecast(frame, steps=1).to_frame(level=0.5)
    assert list(table.columns) == [f"{c}_{p}" for c in "ab" for p in ("mean", "lower_50", "upper_50")]
    twice = model.forecast(frame.set_axis(["a", "a"], axis=1), steps=1).to_frame(level=0.5)
    assert list(twice.columns) == [f"{c}_{p}" for c in "01" for p in ("mean", "lower_50", "upper_50")]
    np.testing.assert_array_equal(twice, table)
    many = model.forecast([np.ones((3, 2)), np.ones((5, 2))], steps=2).to_frame()
    assert list(many.index) == [(0, 3), (0, 4), (1, 5), (1, 6)]
