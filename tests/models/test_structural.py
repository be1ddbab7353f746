"""Structural time series against statsmodels' exact diffuse likelihood and fits, published numbers and laws of sums."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import probseq as ps

UC: Any = pytest.importorskip("statsmodels.tsa.statespace.structural").UnobservedComponents


def series(steps: int = 60, seed: int = 0, missing: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, 41])
    time = np.arange(steps)
    y = rng.normal(size=steps).cumsum() + 2 * np.sin(2 * np.pi * time / 7) + rng.normal(size=steps)
    y[rng.choice(steps, missing, replace=False)] = np.nan
    return y


def inputs(steps: int = 60, columns: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 42]).normal(size=(steps, columns))


#: name: (our parts, statsmodels' parts, our parameters, statsmodels' parameters)
LEVEL, TREND = {"level_var": 0.7, "emission_var": 1.3}, {"level_var": 0.7, "trend_var": 0.05, "emission_var": 1.3}
CYCLE = {"cycle_var": 0.4, "cycle_damping": 0.9, "cycle_frequency": 0.8}
SM_CYCLE = {"sigma2.cycle": 0.4, "damping.cycle": 0.9, "frequency.cycle": 0.8}
SM_LEVEL = {"sigma2.level": 0.7, "sigma2.irregular": 1.3}
SM_TREND = {"sigma2.level": 0.7, "sigma2.trend": 0.05, "sigma2.irregular": 1.3}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, float]]] = {
    "level": ({}, {"level": "llevel"}, LEVEL, SM_LEVEL),
    "trend": ({"trend": True}, {"level": "lltrend"}, TREND, SM_TREND),
    "smooth-trend": (
        {"trend": True},
        {"level": "strend"},
        {**TREND, "level_var": 0.0},
        {"sigma2.trend": 0.05, "sigma2.irregular": 1.3},
    ),
    "fixed-slope": ({"trend": True}, {"level": "lldtrend"}, {**TREND, "trend_var": 0.0}, SM_LEVEL),
    "seasonal": (
        {"trend": True, "seasonal": 7},
        {"level": "lltrend", "seasonal": 7},
        {**TREND, "seasonal_var": 0.2},
        {**SM_TREND, "sigma2.seasonal": 0.2},
    ),
    "fourier": (
        {"fourier": {7: 2, 12.5: 1}},
        {"level": "llevel", "freq_seasonal": [{"period": 7, "harmonics": 2}, {"period": 12.5, "harmonics": 1}]},
        {**LEVEL, "fourier_var": [0.1, 0.3]},
        {**SM_LEVEL, "sigma2.freq_seasonal_7(2)": 0.1, "sigma2.freq_seasonal_12.5(1)": 0.3},
    ),
    "ar": (
        {"ar": 2},
        {"level": "llevel", "autoregressive": 2},
        {**LEVEL, "ar_var": 0.5, "ar_coefficients": [0.9, -0.3]},
        {**SM_LEVEL, "sigma2.ar": 0.5, "ar.L1": 0.9, "ar.L2": -0.3},
    ),
    "regression": (
        {"regressors": 2},
        {"level": "llevel", "mle_regression": False},
        LEVEL,
        SM_LEVEL,
    ),
    "all": (
        {"trend": True, "seasonal": 4, "ar": 1, "regressors": 2},
        {"level": "lltrend", "seasonal": 4, "autoregressive": 1, "mle_regression": False},
        {**TREND, "seasonal_var": 0.2, "ar_var": 0.5, "ar_coefficients": [0.6]},
        {**SM_TREND, "sigma2.seasonal": 0.2, "sigma2.ar": 0.5, "ar.L1": 0.6},
    ),
}


def rival(y: np.ndarray, parts: dict[str, Any], u: np.ndarray | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return UC(y, exog=u, use_exact_diffuse=True, **parts)


@pytest.mark.parametrize("missing", [0, 9])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_likelihood_is_that_of_statsmodels(case: Any, missing: int) -> None:
    parts, theirs, values, sm_values = case
    y, u = series(missing=missing), inputs() if parts.get("regressors") else None
    model = ps.Structural(**parts, **values)
    other = rival(y, theirs, u)
    expected = other.loglike(np.array([sm_values[name] for name in other.param_names]))
    assert model.log_prob(y, u).item() == pytest.approx(expected, rel=1e-10, abs=1e-8)


@pytest.mark.parametrize("missing", [0, 9])
def test_cycle_likelihood_is_that_of_statsmodels_with_a_stationary_start(missing: int) -> None:
    """statsmodels starts its cycle diffuse; told to start it in its stationary law it agrees."""
    from statsmodels.tsa.statespace.initialization import Initialization

    y = series(missing=missing)
    other = rival(y, {"level": "llevel", "cycle": True, "stochastic_cycle": True, "damped_cycle": True}, None)
    mixed = Initialization(3)
    mixed.set((0, 1), "diffuse")
    mixed.set((1, 3), "stationary")
    other.ssm.initialize(mixed)
    expected = other.loglike(np.array([{**SM_LEVEL, **SM_CYCLE}[name] for name in other.param_names]))
    model = ps.Structural(cycle=True, **LEVEL, **CYCLE)
    assert model.log_prob(y).item() == pytest.approx(expected, rel=1e-10, abs=1e-8)
