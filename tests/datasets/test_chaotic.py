"""Series of dynamical systems, against other integrators and the recursion itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import probseq as ps


def mackey_glass_by_steps(start: float, tau: float, delays: int) -> np.ndarray:
    """x at t = 0, 1, ..., delays * tau from scipy's integrator, one delay after the other."""
    past, values = (lambda t: np.array([start])), [np.array([start])]
    for k in range(delays):
        before, span = past, (k * tau, (k + 1) * tau)
        flow = lambda t, x, before=before: 0.2 * (z := before(t - tau)) / (1 + z**10) - 0.1 * x  # noqa: E731
        solution = solve_ivp(flow, span, values[-1][-1:], "DOP853", rtol=1e-12, atol=1e-12, dense_output=True)
        past = solution.sol
        values.append(past(np.arange(span[0] + 1, span[1] + 0.5))[0])
    return np.concatenate(values)


def test_mackey_glass_agrees_with_another_integrator():
    start = np.random.default_rng(4).uniform(1.1, 1.3)
    expected = mackey_glass_by_steps(start, 17, 12)[1:]
    coarse, fine = (ps.datasets.mackey_glass(204, seed=4, washout=0, step=step) for step in (0.1, 0.05))
    errors = [np.abs(series - expected).max() for series in (coarse, fine)]
    assert errors[0] < 2e-6
    assert 10 < errors[0] / errors[1] < 22  # of fourth order: 16


def test_mackey_glass_by_euler_is_jaegers_recursion():
    start = np.random.default_rng(4).uniform(1.1, 1.3)
    x = [start] * 171
    for _ in range(1000):
        x.append(x[-1] + 0.1 * (0.2 * x[-171] / (1 + x[-171] ** 10) - 0.1 * x[-1]))
    series = ps.datasets.mackey_glass(100, seed=4, washout=0, method="euler")
    np.testing.assert_allclose(series, x[180::10], rtol=1e-12)


def test_mackey_glass_arguments():
    series = ps.datasets.mackey_glass(500, seed=0)
    assert series.shape == (500,)
    assert 0.2 < series.min() < 0.6
    assert 1.1 < series.max() < 1.5
    np.testing.assert_array_equal(series[40:60], ps.datasets.mackey_glass(20, seed=0, washout=1040))
    assert not np.array_equal(series, ps.datasets.mackey_glass(500, seed=1))
    for wrong in ({"step": 0.3}, {"step": 0.0}, {"tau": 17.05}, {"tau": 0.0}, {"step": float("nan")}):
        with pytest.raises(ValueError, match="step must divide"):
            ps.datasets.mackey_glass(10, **wrong)
    with pytest.raises(ValueError, match="method must be"):
        ps.datasets.mackey_glass(10, method="midpoint")


def test_lorenz_solves_its_equation():
    step = 0.002
    series = ps.datasets.lorenz(2001, step, seed=0)
    x, y, z = series.T
    slope = (series[:-4] - 8 * series[1:-3] + 8 * series[3:-1] - series[4:]) / (12 * step)
    flow = np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)[2:-2]
    assert np.abs(slope - flow).max() < 1e-4 * np.abs(flow).max()
    assert np.abs(series).max() < 60
    np.testing.assert_array_equal(series, ps.datasets.lorenz(2001, step, seed=0))
    with pytest.raises(ValueError, match="step must be positive"):
        ps.datasets.lorenz(10, 0.0)


def test_lorenz_settles_where_the_algebra_says():
    """Below rho = 24.7 the fixed points (+-sqrt(beta (rho - 1)), ., rho - 1) attract."""
    last = ps.datasets.lorenz(1, rho=14.0, washout=60.0, seed=0)[0]
    side = np.sqrt(8 / 3 * 13)
    np.testing.assert_allclose(np.abs(last), [side, side, 13], rtol=1e-6)


def test_narma10_follows_its_recursion():
    u, y = ps.datasets.narma10(500, seed=0)
    assert u.shape == y.shape == (500, 1)
    assert u.min() >= 0
    assert u.max() <= 0.5
    for t in range(10, 500):
        past = sum(y[t - i, 0] for i in range(1, 11))
        expected = 0.3 * y[t - 1, 0] + 0.05 * y[t - 1, 0] * past + 1.5 * u[t - 9, 0] * u[t, 0] + 0.1
        assert y[t, 0] == pytest.approx(expected, rel=1e-12)
    assert max(ps.datasets.narma10(2000, seed=s)[1].max() for s in range(20)) < 2
