"""Structural time series against statsmodels' exact diffuse likelihood and fits, published numbers and laws of sums."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import probseq as ps
from probseq.ops import kalman_arrays, kalman_backward, kalman_single

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


@pytest.fixture
def few_known_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that know six to ten states take twenty seconds each to compile; here those for any number do."""
    for module in (kalman_arrays, kalman_backward, kalman_single):
        monkeypatch.setattr(module, "KNOWN_STATES", 5)


@pytest.mark.usefixtures("few_known_sizes")
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


# ------------------------------------------------------------------------------------------- published numbers


def test_nile_fit_is_the_published_one() -> None:
    """Durbin and Koopman's maximum, with standard errors from the exact observed information."""
    nile = ps.datasets.nile()
    model = ps.Structural(level=True).fit(nile)
    assert model.emission_var.item() == pytest.approx(15098.52, rel=2e-6)
    assert model.level_var.item() == pytest.approx(1469.18, rel=2e-5)
    errors = model.standard_errors(nile)["standard_error"]
    assert errors["emission_var"] == pytest.approx(3145.54, rel=1e-3)
    assert errors["level_var"] == pytest.approx(1280.37, rel=1e-3)
    assert "level_var" in repr(model.summary())
    assert "log p(y)" in repr(model.summary(nile))


#: statsmodels' golden values have an approximate diffuse start of variance 1e6 and leave the first state_dim terms out
UNEMPLOYMENT: dict[str, tuple[dict[str, Any], dict[str, float], float]] = {
    "local level": ({}, {"emission_var": 4.256647886e-6, "level_var": 0.1182078808}, -70.97242557),
    "local linear trend": (
        {"trend": True},
        {"emission_var": 1.339852549e-6, "level_var": 0.01008704925, "trend_var": 0.0609176081},
        -31.15640107,
    ),
    "smooth trend": (
        {"trend": True},
        {"emission_var": 0.0008824099119, "level_var": 0.0, "trend_var": 0.0753064234342},
        -31.92261408,
    ),
}


def unemployment() -> np.ndarray:
    return pytest.importorskip("statsmodels.api").datasets.macrodata.load_pandas().data["unemp"].to_numpy()


@pytest.mark.parametrize("case", UNEMPLOYMENT.values(), ids=UNEMPLOYMENT)
def test_us_unemployment(case: Any) -> None:
    """The exact start differs from the approximate one in the terms that statsmodels leaves out, and by 1e-6 after."""
    parts, values, published = case
    model, y = ps.Structural(**parts, **values), unemployment()
    scores = model.filter(y).log_prob
    assert float(scores[model.state_dim :].sum()) == pytest.approx(published, abs=1e-3)


def test_clark_real_gdp() -> None:
    """Kim and Nelson's trend and autoregression, every state at N(0, 100) a step before the first; from step 20 on."""
    results = pytest.importorskip("statsmodels.tsa.statespace.tests.results.results_kalman_filter").uc_uni
    y = np.log(np.asarray(results["data"], dtype=float))
    level_sd, ar_sd, trend_sd, *coefficients = results["parameters"]
    model = ps.Structural(
        trend=True,
        ar=2,
        level_var=level_sd**2,
        trend_var=trend_sd**2,
        ar_var=ar_sd**2,
        ar_coefficients=coefficients,
        emission_var=0.0,
    )
    system = model.system()
    names = ("transition_matrix", "transition_cov", "emission_matrix", "emission_cov")
    matrices = {name: getattr(system, name).detach() for name in names}
    moved = matrices["transition_matrix"] @ matrices["transition_matrix"].mT
    vague = ps.LDS(**matrices, initial_mean=np.zeros(4), initial_cov=100 * moved)
    published = 578.520887
    assert float(vague.filter(y).log_prob[20:].sum()) == pytest.approx(published, abs=1e-5)


@pytest.mark.parametrize("name", ["level", "trend", "smooth-trend", "seasonal", "ar", "regression"])
def test_fit_reaches_the_maximum_of_statsmodels(name: str) -> None:
    parts, theirs, values, _ = CASES[name]
    y, u = series(steps=80), inputs(steps=80) if parts.get("regressors") else None
    zeros = {key: value for key, value in values.items() if value == 0.0}
    model = ps.Structural(**parts, **zeros).fit(y, u, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = rival(y, theirs, u).fit(disp=0, maxiter=500).llf
    assert model.log_prob(y, u).item() >= best - 1e-4
    assert model.history.converged


@pytest.mark.parametrize("name", UNEMPLOYMENT)
def test_fit_of_us_unemployment_reaches_the_published_maximum(name: str) -> None:
    """Two of these maxima lie at or next to a variance of zero."""
    parts, values, _ = UNEMPLOYMENT[name]
    y = unemployment()
    zeros = {key: value for key, value in values.items() if value == 0.0}
    fitted, published = ps.Structural(**parts, **zeros).fit(y, seed=0), ps.Structural(**parts, **values)
    assert fitted.log_prob(y).item() >= published.log_prob(y).item() - 1e-4


def test_fit_keeps_a_variance_of_zero() -> None:
    model = ps.Structural(trend=True, level_var=0.0).fit(series(), n_restarts=2, seed=0)
    assert model.level_var.item() == 0
    assert model.trend_var.item() > 0


# ------------------------------------------------------------------------------------------------- parts of parts


@pytest.mark.usefixtures("few_known_sizes")
def test_a_period_has_as_many_free_effects_as_steps_less_one() -> None:
    """All waves of an even period span what the dummies span: without noise the likelihoods differ by a constant."""
    y, other = series(seed=0), series(seed=1)
    dummies = ps.Structural(seasonal=6, **LEVEL, seasonal_var=0.0)
    waves = ps.Structural(fourier=6, **LEVEL, fourier_var=[0.0])
    assert waves.state_dim == dummies.state_dim == 6
    gaps = [(waves.log_prob(x) - dummies.log_prob(x)).item() for x in (y, other)]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-9)


def test_a_damping_of_one_is_the_undamped_trend() -> None:
    y = series()
    damped = ps.Structural(trend=True, damped=True, trend_damping=1.0, **TREND)
    assert damped.log_prob(y).item() == pytest.approx(ps.Structural(trend=True, **TREND).log_prob(y).item(), rel=1e-12)


def test_regression_coefficients_are_generalised_least_squares() -> None:
    """Their posterior at the end against the closed form, with the level's diffuse start integrated by differences."""
    y, u = series(steps=40), inputs(steps=40)
    model = ps.Structural(regressors=2, **LEVEL)
    steps = np.diff(np.eye(40), axis=0)
    cov = steps @ (1.3 * np.eye(40) + 0.7 * np.minimum.outer(np.arange(40), np.arange(40))) @ steps.T
    design, target = steps @ u, steps @ y
    information = design.T @ np.linalg.solve(cov, design)
    expected = np.linalg.solve(information, design.T @ np.linalg.solve(cov, target))
    last = ps.at(model.smooth(y, u), -1)
    np.testing.assert_allclose(last.mean[1:].numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(last.cov[1:, 1:].numpy(), np.linalg.inv(information), rtol=1e-9)


@pytest.mark.parametrize("coefficients", [[0.5], [0.9, -0.3], [1.2, -0.6, 0.1], [-0.2, 0.1, 0.3, -0.4]])
def test_stationary_coefficients_come_back(coefficients: list[float]) -> None:
    model = ps.Structural(level=False, ar=len(coefficients), ar_coefficients=coefficients)
    np.testing.assert_allclose(model.ar_coefficients.detach().numpy(), coefficients, rtol=1e-12)


# ------------------------------------------------------------------------------------------------------ components

FULL: dict[str, Any] = {
    **TREND,
    "seasonal_var": 0.2,
    "fourier_var": [0.1],
    "ar_var": 0.5,
    "ar_coefficients": [0.6],
    **CYCLE,
}


def full_model() -> ps.Structural:
    return ps.Structural(trend=True, seasonal=4, fourier={7: 2}, cycle=True, ar=1, regressors=2, **FULL)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_components_add_up_to_the_smoothed_signal(scale: float) -> None:
    y, u = scale * series(missing=7) + 3 * scale, inputs()
    model = full_model().rescale(scale, 3 * scale)
    parts = model.components(y, u)
    assert parts.additive == ["level", "seasonal", "fourier", "cycle", "autoregression", "regression"]
    assert list(parts) == [*parts.additive, "signal", "trend"]
    total = sum(parts[name].mean for name in parts.additive)
    belief = model.smooth(y, u)
    emission = model.system_at(None, torch.as_tensor(u)).emission_matrix.detach()
    signal = (emission @ belief.mean.unsqueeze(-1)).flatten() + model.origin
    spread = (emission @ belief.cov @ emission.mT).flatten().sqrt()
    np.testing.assert_allclose(total, signal, rtol=0, atol=1e-9 * float(signal.abs().max()))
    np.testing.assert_allclose(parts.signal.mean, signal, rtol=0, atol=1e-12 * float(signal.abs().max()))
    np.testing.assert_allclose(parts.signal.std, spread, rtol=1e-8)


def test_components_are_those_of_statsmodels() -> None:
    parts, theirs, values, sm_values = CASES["seasonal"]
    y = series(missing=9)
    other = rival(y, theirs, None)
    smoothed = other.smooth(np.array([sm_values[name] for name in other.param_names]))
    mine = ps.Structural(**parts, **values).components(y)
    for name in ("level", "trend", "seasonal"):
        np.testing.assert_allclose(mine[name].mean, getattr(smoothed, name).smoothed, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(mine[name].std ** 2, getattr(smoothed, name).smoothed_cov, rtol=1e-7)


def test_components_keep_the_index_and_the_layout() -> None:
    index = pd.period_range("2001-01", periods=60, freq="M")
    y = pd.Series(series(missing=5), index)
    model = ps.Structural(seasonal=4, **LEVEL, seasonal_var=0.2)
    parts = model.components(y)
    frame = parts.level.to_frame(0.8)
    assert list(frame) == ["mean", "lower_80", "upper_80"]
    assert frame.index.equals(index)
    assert list(parts.to_frame()) == ["level", "seasonal", "signal"]
    lower, upper = parts.level.interval(0.9)
    np.testing.assert_allclose(upper - lower, 2 * 1.6448536269514722 * parts.level.std)
    several = model.components([y, y.iloc[:20]])
    assert [len(one.level.mean) for one in several] == [60, 20]
    assert several[1].level.to_frame().index.equals(index[:20])
    np.testing.assert_allclose(several[0].seasonal.mean, parts.seasonal.mean, rtol=1e-10, atol=1e-12)
    with pytest.raises(AttributeError, match="no part 'cycle'"):
        _ = parts.cycle


def test_components_that_the_data_leave_open_are_not_known() -> None:
    parts = ps.Structural(seasonal=4, **LEVEL, seasonal_var=0.2).components([1.0, 2.0])
    assert bool(parts.level.std.isinf().all())
    assert bool(parts.level.mean.isnan().all())
    assert bool(parts.signal.mean.isfinite().all())


# -------------------------------------------------------------------------------------------- forecasts, batches


def test_monthly_series_as_in_the_manual() -> None:
    rng, time = np.random.default_rng(3), np.arange(84)
    values = 100 + 0.5 * time + 10 * np.sin(np.pi * time / 6) + rng.normal(size=84)
    monthly = pd.Series(values, pd.date_range("2010-01-01", periods=84, freq="MS"))
    monthly.iloc[[5, 30, 31]] = np.nan
    model = ps.Structural(level=True, trend=True, seasonal=12).fit(monthly, seed=0)
    frame = model.forecast(monthly, steps=24).to_frame()
    assert frame.index[0] == pd.Timestamp("2017-01-01")
    coming = np.arange(84, 108)
    truth = 100 + 0.5 * coming + 10 * np.sin(np.pi * coming / 6)
    assert np.abs(frame["mean"] - truth).max() < 3
    assert bool(((frame["lower_90"] < truth) & (truth < frame["upper_90"])).all())


def test_sequences_with_inputs_of_their_own_are_read_one_by_one() -> None:
    model = ps.Structural(regressors=2, **LEVEL)
    ys, us = [series(seed=s, steps=30 + s) for s in range(3)], [inputs(seed=s, steps=30 + s) for s in range(3)]
    alone = [model.log_prob(y, u).item() for y, u in zip(ys, us, strict=True)]
    np.testing.assert_allclose(model.log_prob(ys, us).detach(), alone, rtol=1e-12)
    shared = torch.as_tensor(us[0]).expand(2, -1, -1).clone().requires_grad_(True)
    both = torch.as_tensor(np.stack([ys[0], ys[0][::-1]]))[..., None]
    (slope,) = torch.autograd.grad(model.log_prob(both, shared).sum(), shared)
    own = shared[1].detach().requires_grad_(True)
    np.testing.assert_allclose(slope[1], torch.autograd.grad(model.log_prob(both[1], own), own)[0], rtol=1e-10)


# ---------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": False}, "at least one part"),
        ({"level": False, "trend": True}, "trend=True needs level=True"),
        ({"damped": True}, "damped=True needs trend=True"),
        ({"seasonal": 1}, "seasonal must be"),
        ({"fourier": {12: 7}}, "at most 6 waves"),
        ({"fourier": 1.5}, "periods of 2 steps or more"),
        ({"cycle_var": 1.0}, "cycle_var was given, but this model has no part"),
        ({"level_var": -1.0}, "level_var must be non-negative"),
        ({"cycle": True, "cycle_frequency": 4.0}, "strictly between 0 and 3.14159"),
        ({"ar": 2, "ar_coefficients": [0.9, 0.2]}, "stationary autoregression"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ps.Structural(**arguments)


def test_inputs_missing_for_the_horizon_are_named() -> None:
    model = ps.Structural(regressors=1, **LEVEL)
    with pytest.raises(ValueError, match="future_u must be given"):
        model.forecast(series(), 3, inputs(columns=1))
