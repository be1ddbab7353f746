"""The lines by which linear dynamical systems are introduced, as they are written there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import probseq as ps


def test_a_known_local_level() -> None:
    nile = ps.datasets.nile()
    m = ps.LDS(
        transition_matrix=[[1.0]],
        transition_cov=[[1469.1]],
        emission_matrix=[[1.0]],
        emission_cov=[[15099.0]],
        initial="diffuse",
    )
    assert float(m.log_prob(nile)) == pytest.approx(-633.4645636, abs=5e-8)


def test_a_fitted_local_level_and_its_components() -> None:
    nile = ps.datasets.nile()
    m = ps.Structural(level=True).fit(nile)
    assert "level_var" in str(m.summary())
    assert (float(m.level_var), float(m.emission_var)) == pytest.approx((1469.18, 15098.52), rel=1e-4)
    lower, upper = m.components(nile).level.interval(0.9)
    assert len(lower) == 100
    assert bool((lower < upper).all())


def test_a_monthly_series_and_its_forecast() -> None:
    rng, time = np.random.default_rng(0), np.arange(72)
    index = pd.date_range("2015-01-01", periods=72, freq="MS")
    monthly = pd.Series(10 + 0.1 * time + np.sin(np.pi * time / 6) + 0.2 * rng.normal(size=72), index)
    m = ps.Structural(level=True, trend=True, seasonal=12).fit(monthly, seed=0)
    frame = m.forecast(monthly, steps=24).to_frame()
    assert len(frame) == 24
    assert frame.index[-1] == pd.Timestamp("2022-12-01")


def test_sequences_with_inputs() -> None:
    rng = np.random.default_rng(0)
    list_of_arrays = [rng.normal(size=(t, 3)) for t in (30, 45, 20)]
    list_of_inputs = [rng.normal(size=(len(one), 2)) for one in list_of_arrays]
    m = ps.LDS(state_dim=4, obs_dim=3, input_dim=2).fit(list_of_arrays, u=list_of_inputs, method="em")
    assert m.history.converged


def test_a_nonlinear_model_is_two_functions_and_two_covariances() -> None:
    y = np.sin(np.arange(30.0) / 5) + 0.1 * np.random.default_rng(0).normal(size=30)
    belief = ps.NonlinearGaussian(
        transition=lambda z: 0.9 * z.sin(),
        emission=lambda z: z + 0.1 * z**2,
        transition_cov=[[0.1]],
        emission_cov=[[0.01]],
        initial_mean=[0.0],
        initial_cov=[[1.0]],
        linearize=ps.UnscentedTransform(),
    ).smooth(y)
    assert belief.mean.shape == (30, 1)
    assert bool((belief.cov > 0).all())
