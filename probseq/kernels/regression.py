"""Sums over the rows of a linear regression on hidden states, compiled.

    x_t = (state_t, u_{t+shift}, 1)  (k,)        y_t = target_{t+shift}  (d,)

    moments    gram += sum x_t x_t',   moment += sum y_t x_t'
    scatter    total += sum (y_t - W x_t) (y_t - W x_t)'

The rows are the steps t < T - shift of every sequence, of state (B, T, n), inputs (B, T, p) or (B, 0, p) for none and
target (B, T, d), that `rows` (B, T - shift) marks; all where it is (B, 0).  BLOCK rows at a time are brought together
as columns, in the nearest caches: a design of all rows would be written and read again.
"""

from __future__ import annotations

import numpy as np
from numba import njit

BLOCK = 512
"""Rows multiplied at a time."""

FEW = 12
"""Columns up to which products are sums written out."""


@njit(cache=True, nogil=True, error_model="numpy")
def copy_steps(source, b, t, steps, target, row, count):
    """target[row + i, count + h] = source[b, t + h, i] for h < steps."""
    for i in range(source.shape[2]):
        for h in range(steps):
            target[row + i, count + h] = source[b, t + h, i]


@njit(cache=True, nogil=True, error_model="numpy")
def fill(state, inputs, target, rows, shift, b, t, design, goal):
    """Write rows from step t of sequence b on, zeros behind them; return how many, and where to go on."""
    n, p = state.shape[2], inputs.shape[2] if inputs.shape[1] > 0 else 0
    count, last = 0, state.shape[1] - shift
    while b < state.shape[0] and count < BLOCK:
        while t < last and count < BLOCK:
            steps = min(last - t, BLOCK - count)
            if rows.shape[1] > 0:
                steps = 1
                if not rows[b, t]:
                    t += 1
                    continue
            copy_steps(state, b, t, steps, design, 0, count)
            if p > 0:
                copy_steps(inputs, b, t + shift, steps, design, n, count)
            copy_steps(target, b, t + shift, steps, goal, 0, count)
            count += steps
            t += steps
        if t >= last:
            b, t = b + 1, 0
    design[n + p, :count] = 1.0
    design[:, count:] = 0.0
    goal[:, count:] = 0.0
    return count, b, t


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def inner(left, i, right, j):
    """The sum of left[i, h] right[j, h], in vector registers."""
    total = 0.0
    for h in range(BLOCK):
        total += left[i, h] * right[j, h]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def add_product(left, right, out):
    """out += left right'."""
    if max(out.shape) > FEW:
        out += np.dot(left, right.T)
        return
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] += inner(left, i, right, j)


@njit(cache=True, nogil=True, error_model="numpy")
def moments(state, inputs, target, rows, shift, gram, moment):
    """Add to gram (k, k) and moment (d, k); return the number of rows."""
    design, goal = np.empty((gram.shape[0], BLOCK)), np.empty((moment.shape[0], BLOCK))
    b, t, total = 0, 0, 0
    while b < state.shape[0]:
        count, b, t = fill(state, inputs, target, rows, shift, b, t, design, goal)
        add_product(design, design, gram)
        add_product(goal, design, moment)
        total += count
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def scatter(state, inputs, target, rows, shift, weights, total):
    """Add to total (d, d), for W (d, k)."""
    d, k = weights.shape
    design, goal = np.empty((k, BLOCK)), np.empty((d, BLOCK))
    b, t = 0, 0
    while b < state.shape[0]:
        _, b, t = fill(state, inputs, target, rows, shift, b, t, design, goal)
        for i in range(d):
            for j in range(k):
                factor = weights[i, j]
                for h in range(BLOCK):
                    goal[i, h] -= factor * design[j, h]
        add_product(goal, goal, total)
