"""Series of dynamical systems: Mackey-Glass, Lorenz, and the nonlinear moving average NARMA10.

    Mackey-Glass   dx/dt = 0.2 x(t - tau) / (1 + x(t - tau)^10) - 0.1 x(t)
    Lorenz         dx/dt = s (y - x),  dy/dt = x (r - z) - y,  dz/dt = x y - b z
    NARMA10        y_t = 0.3 y_{t-1} + 0.05 y_{t-1} sum_{i=1..10} y_{t-i} + 1.5 u_{t-9} u_t + 0.1,  u_t ~ U(0, 1/2)

Mackey-Glass is solved by the method of steps: over one delay the delayed term is a known function of time, so that
the equation is linear, x' = g(t) - 0.1 x, and a step of size h of the classical Runge-Kutta method is the recursion
x_{n+1} = a x_n + b_0 g_n + b_1 g_{n+1/2} + b_2 g_{n+1}. Halfway values are cubic Hermite interpolants, so the whole
is of fourth order in h. Euler's method with h = 0.1 is what Jaeger (2001) used. Tau = 17 is mildly chaotic.

Mackey, M. & Glass, L. (1977). Oscillation and chaos in physiological control systems. Science 197.
Jaeger, H. (2001). The "echo state" approach to analysing and training recurrent neural networks. GMD report 148.
Lorenz, E. (1963). Deterministic nonperiodic flow. J. Atmospheric Sciences 20.
Atiya, A. & Parlos, A. (2000). New results on recurrent network training. IEEE Trans. Neural Networks 11 (NARMA10;
    there y_t is called y(t + 1): here the input of a step acts on the target of that step).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probseq.checks import whole_number
from probseq.datasets.streams import Arrays, draws

DECAY, GAIN, POWER = 0.1, 0.2, 10


def mackey_glass(
    length: int,
    tau: float = 17.0,
    seed: int | None = None,
    *,
    washout: int = 1000,
    step: float = 0.1,
    method: Literal["runge_kutta", "euler"] = "runge_kutta",
) -> NDArray[np.float64]:
    """x at t = washout + 1, washout + 2, ..., (length,), from a constant past drawn from U(1.1, 1.3).

    `step` is the size of the integration step; 1 and `tau` must be whole multiples of it.
    """
    length, washout = whole_number("length", length), whole_number("washout", washout, least=0)
    if method not in ("runge_kutta", "euler"):
        raise ValueError(f'method must be "runge_kutta" or "euler", got {method!r}')
    every, lag = _multiple("1", 1.0, step), _multiple("tau", tau, step)
    past = np.full(lag + 1, draws(seed).uniform(1.1, 1.3))
    points, middles, blocks = past, past[1:], [past[-1:]]
    for _ in range(-(-(length + washout) * every // lag)):
        points, middles = _one_delay(points, middles, step, method)
        blocks.append(points[1:])
    return np.concatenate(blocks)[every * (washout + 1) :: every][:length]


def _multiple(name: str, value: float, step: float) -> int:
    count = round(value / step) if 0 < step <= 1 else 0
    if count < 1 or abs(count * step - value) > 1e-9 * value:
        raise ValueError(f"step must divide {name}, got {name} {value:g} and step {step:g}")
    return count


def _one_delay(
    points: NDArray[np.float64], middles: NDArray[np.float64], step: float, method: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x on the grid (lag + 1,) and halfway (lag,) over the delay after the one in which it was `points`, `middles`."""
    from scipy.signal import lfilter

    forcing, halfway = (GAIN * x / (1 + x**POWER) for x in (points, middles))
    stages = np.stack([forcing[:-1], halfway, forcing[1:]])
    weight = _euler(step) if method == "euler" else _runge_kutta(step)
    driven = weight[1:] @ stages
    x, _ = lfilter([1.0], [1.0, -weight[0]], driven, zi=[weight[0] * points[-1]])
    x = np.concatenate([points[-1:], x])
    slope = forcing - DECAY * x
    return x, (x[:-1] + x[1:]) / 2 + step / 8 * (slope[:-1] - slope[1:])


def _euler(step: float) -> NDArray[np.float64]:
    """The weights of x_n, g_n, g_{n+1/2}, g_{n+1} in x_{n+1}."""
    return np.array([1 - step * DECAY, step, 0.0, 0.0])


def _runge_kutta(step: float) -> NDArray[np.float64]:
    """The same for the classical method: its four stages, taken of the unit vectors."""
    x, before, halfway, after = np.eye(4)
    first = before - DECAY * x
    second = halfway - DECAY * (x + step / 2 * first)
    third = halfway - DECAY * (x + step / 2 * second)
    fourth = after - DECAY * (x + step * third)
    return x + step / 6 * (first + 2 * second + 2 * third + fourth)


def lorenz(
    length: int,
    step: float = 0.02,
    seed: int | None = None,
    *,
    sigma: float = 10.0,
    rho: float = 28.0,
    beta: float = 8.0 / 3.0,
    washout: float = 20.0,
) -> NDArray[np.float64]:
    """(x, y, z) at times `step` apart, (length, 3), after `washout` units of time from a random point near (0, 1, 1).

    Solved by an adaptive Runge-Kutta method of order 8, relative tolerance 1e-10.
    """
    from scipy.integrate import solve_ivp

    length = whole_number("length", length)
    if not (step > 0 and washout >= 0):
        raise ValueError(f"step must be positive and washout not negative, got {step!r} and {washout!r}")

    def flow(_: float, state: Any) -> list[float]:
        x, y, z = state
        return [sigma * (y - x), x * (rho - z) - y, x * y - beta * z]

    times = washout + step * np.arange(length)
    start = np.array([0.0, 1.0, 1.0]) + 0.1 * draws(seed).standard_normal(3)
    solution = solve_ivp(flow, (0.0, times[-1]), start, "DOP853", t_eval=times, rtol=1e-10, atol=1e-10)
    return np.ascontiguousarray(solution.y.T)


def narma10(length: int, seed: int | None = None, *, washout: int = 100) -> Arrays:
    """Inputs u (length, 1), uniform on (0, 1/2), and the series y (length, 1) they drive, `washout` steps from 0.

    The recursion runs away for a rare input; such inputs are drawn again.
    """
    length, washout = whole_number("length", length), whole_number("washout", washout, least=10)
    random = draws(seed)
    while True:
        u = random.uniform(0.0, 0.5, length + washout)
        y = _narma10(u)
        if np.isfinite(y).all() and y.max() < 10:  # its ordinary range ends below 1
            return u[washout:, None], y[washout:, None]


def _narma10(u: NDArray[np.float64]) -> NDArray[np.float64]:
    y = np.zeros(len(u))
    for t in range(10, len(u)):
        y[t] = min(0.3 * y[t - 1] + 0.05 * y[t - 1] * y[t - 10 : t].sum() + 1.5 * u[t - 9] * u[t] + 0.1, 1e9)
    return y
