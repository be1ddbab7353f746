"""One elementwise step of an LSTM in vector instructions against the formulas in higher precision."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from probseq.kernels.cells_steps import hold_peephole_step, pull_peephole_step
from probseq.kernels.tiles import width_of

KINDS = [np.float32, np.float64]
PANELS, ROWS = 2, 3


@njit(error_model="numpy")
def hold(gates, memory, peep, following, shown, hidden, first, last, panels, rows):
    hold_peephole_step(gates, memory, peep, following, shown, hidden, first, last, panels, rows)


@njit(error_model="numpy")
def pull(gates, memory, following, shown, peep, d_out, d_memory, d_gates, d_peep, panels, rows):
    pull_peephole_step(gates, memory, following, shown, peep, d_out, d_memory, d_gates, d_peep, panels, rows)


def drawn(kind: type, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(len(shape)).normal(size=(*shape, PANELS, ROWS, width_of(kind)))).astype(kind)


def weights(kind: type) -> np.ndarray:
    """One for each unit, repeated for every sequence."""
    one = np.random.default_rng(5).normal(size=(3, PANELS, 1, width_of(kind)))
    return np.repeat(one, ROWS, 2).astype(kind)


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def flat(array: np.ndarray) -> np.ndarray:
    """A view of the last three axes as one."""
    return array.reshape(*array.shape[:-3], -1)


def exact_step(arguments: np.ndarray, before: np.ndarray, peep: np.ndarray) -> tuple[np.ndarray, ...]:
    a, c, p = (array.astype(np.longdouble) for array in (arguments, before, peep))
    i, f, g = logistic(a[0] + p[0] * c), logistic(a[1] + p[1] * c), np.tanh(a[3])
    now = f * c + i * g
    o = logistic(a[2] + p[2] * now)
    return np.stack([i, f, o, g]), now, np.tanh(now), o * np.tanh(now)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 4.0])
def test_forward_step(kind, scale):
    arguments, before, peep = drawn(kind, 4, scale=scale), drawn(kind), weights(kind)
    gates, made = arguments.copy(), [np.full_like(before, 7) for _ in range(3)]
    for q in range(PANELS):  # one panel after another, as the product of each is ready
        hold(flat(gates), flat(before), flat(peep), *map(flat, made), q, q + 1, PANELS, ROWS)
        assert (made[0][q + 1 :] == 7).all()
    exact = exact_step(arguments, before, peep)
    units = 8 * np.finfo(kind).eps * max(1.0, 4 * scale)  # of a gate's argument, rounded before its exponential
    for found, wanted in zip((gates, *made), exact, strict=True):
        np.testing.assert_allclose(found, wanted.astype(np.float64), rtol=units, atol=units * 1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_step_saturates_and_nan_stays_where_it_is(kind):
    arguments, before, peep = drawn(kind, 4), drawn(kind), weights(kind)
    arguments[:, 0, 0, 0] = [np.inf, -np.inf, 1e30, -1e30]
    arguments[1, 1, 2, 3] = np.nan
    gates, made = arguments.copy(), [np.empty_like(before) for _ in range(3)]
    hold(flat(gates), flat(before), flat(peep), *map(flat, made), 0, PANELS, PANELS, ROWS)
    np.testing.assert_allclose(gates[:, 0, 0, 0], [1, 0, 1, -1], rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(made[0][0, 0, 0], -1, rtol=1e-6)
    for array in made:
        assert np.argwhere(np.isnan(array)).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("kind", KINDS)
def test_adjoint_step(kind):
    arguments, before, peep = drawn(kind, 4), drawn(kind), weights(kind)
    gates, now, shown, _ = (array.astype(kind) for array in exact_step(arguments, before, peep))
    d_out, d_later, d_peep = drawn(kind, scale=0.7), drawn(kind, scale=-0.3), np.zeros_like(peep)
    d_peep[:, :, 0] = 2
    d_memory, d_gates = d_later.copy(), np.empty_like(gates)
    pull(
        flat(gates), flat(before), flat(now), flat(shown), flat(peep),
        flat(d_out), flat(d_memory), flat(d_gates), flat(d_peep), PANELS, ROWS,
    )  # fmt: skip

    def loss(a: np.ndarray, c: np.ndarray, p: np.ndarray) -> np.ndarray:
        _, after, _, r = exact_step(a, c, p)
        return (r * d_out.astype(np.longdouble)).sum() + (after * d_later.astype(np.longdouble)).sum()

    step = np.longdouble(1e-7)
    sources = [array.astype(np.longdouble) for array in (arguments, before, peep)]
    for place, found in ((0, d_gates), (1, d_memory), (2, d_peep[:, :, :1] - 2)):
        for index in np.ndindex(*found.shape):
            moved = []
            for sign in (1, -1):
                shifted = [array.copy() for array in sources]
                where = (*index[:2], slice(None), index[3]) if place == 2 else index
                shifted[place][where] += sign * step
                moved.append(loss(*shifted))
            slope = float((moved[0] - moved[1]) / (2 * step))
            assert abs(found[index] - slope) < 20 * np.finfo(kind).eps + 1e-10, (place, index)
    assert not d_peep[:, :, 1:].any()
