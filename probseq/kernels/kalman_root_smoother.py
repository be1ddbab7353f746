"""The smoother that goes with the square-root form: each state given the next one, backwards; compiled.

Given the data up to t the state is z_t ~ N(m_f, F F') + B delta (the updated belief).  The state that follows,
z_{t+1} = A z_t + d + w, is an exact reading of it, as an observation was, so the same readings give

    z_t = m_f + G (z_{t+1} - m_{t+1}) + e,       Cov e = E_t,      e independent of z_{t+1} and of what comes after,

and with the posterior moments zhat, V of t + 1 those of t are

    zhat_t = m_f + G (zhat_{t+1} - m_{t+1}),     V_t = E_t + G V_{t+1} G',     Cov(z_{t+1}, z_t | y) = V_{t+1} G'.

Sums of covariances only: nothing cancels, whatever the size of the predicted covariance, where the adjoint recursion
P - P N P loses everything (Rauch, Tung and Striebel's smoother in Joseph's form).  Components of z_{t+1} that the data
up to t say already are passed over, so that singular transition covariances are no special case.  While the start is
diffuse, a direction of z_t that neither y nor z_{t+1} shows stays diffuse.

    symbol        shape            meaning
    until         (G,)             steps of the covariance group that are smoothed in this way, from 0 on
    back          (G, U, n, n)     G';   rest (G, U, n, n) E_t;   rest_diffuse (G, U, n, n) the same of delta
    updated, updated_diffuse       (G, U, n, n)   covariances of the updated belief

References: Rauch, Tung and Striebel, AIAA Journal 3 (1965) 1445-1450; Bierman, Int. J. Control 38 (1983) 1117-1139.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.kalman_readings import columns_in_use, extend, length_of_row, take
from probseq.kernels.linalg import clear, copy


@njit(cache=True, nogil=True, error_model="numpy")
def square(factor, rows, columns, out):
    """out = F F' of the first rows and columns."""
    for i in range(rows):
        for j in range(i + 1):
            total = 0.0
            for k in range(columns):
                total += factor[i, k] * factor[j, k]
            out[i, j] = total
            out[j, i] = total


@njit(cache=True, nogil=True, error_model="numpy")
def smoothing_gains(
    A, C, root_Q, root_R, observed, leads, roots, diffuses, slot, until,
    back, rest, rest_diffuse, updated, updated_diffuse,
):  # fmt: skip
    """Write what the backward pass needs, which does not depend on the data; `leads` (G,) names the pattern."""
    n, m, d = A.shape[1], C.shape[1], diffuses.shape[4]
    extended, sizes, diffuse_sizes = np.empty((n + m, n + m)), np.empty(n + m), np.empty(n)
    readings, order, K, W, mask = (
        np.empty((m, n + m)), np.empty((m, m)), np.empty((m, n)), np.empty((m, m)), np.ones(m, np.bool_),
    )  # fmt: skip
    beside, beside_sizes, g = np.empty((2 * n, 2 * n + m)), np.empty(2 * n), np.empty(2 * n + m)
    steps, step_order, unused, every = np.empty((n, 2 * n)), np.empty((n, n)), np.empty((n, n)), np.ones(n, np.bool_)
    diffuse = np.empty((n, d))
    for b in range(until.shape[0]):
        for t in range(until[b]):
            s = slot[b, t]
            if t > 0 and s == slot[b, t - 1]:
                for source in (back, rest, rest_diffuse, updated, updated_diffuse):
                    copy(source[b, t - 1], source[b, t])
                continue
            if observed.shape[1] > 0:
                for j in range(m):
                    mask[j] = observed[leads[b], t, j]
            copy(diffuses[b, s, 0], diffuse)
            count = columns_in_use(diffuse)
            r = t if root_R.shape[0] > 1 else 0
            extend(roots[b, s], root_R[r], extended, sizes, diffuse, count, diffuse_sizes)
            _, columns, count = take(
                C[t if C.shape[0] > 1 else 0], mask, extended, diffuse, count, sizes, diffuse_sizes, readings, order,
                g, K, W, False,
            )  # fmt: skip
            square(extended, n, columns, updated[b, t])
            square(diffuse, n, count, updated_diffuse[b, t])
            a, q = t + 1 if A.shape[0] > 1 else 0, t + 1 if root_Q.shape[0] > 1 else 0
            if a >= A.shape[0] or q >= root_Q.shape[0]:
                continue
            clear(beside)
            for i in range(n):
                for j in range(columns):
                    beside[i, j] = extended[i, j]
                for j in range(n):
                    beside[n + i, columns + j] = root_Q[q, i, j]
            for i in range(2 * n):
                beside_sizes[i] = length_of_row(beside, i, columns + n)
            for i in range(n):
                diffuse_sizes[i] = length_of_row(diffuse, i, count)
            _, left, count = take(
                A[a], every, beside, diffuse, count, beside_sizes, diffuse_sizes, steps, step_order, g,
                back[b, t], unused, False,
            )  # fmt: skip
            square(beside, n, left, rest[b, t])
            square(diffuse, n, count, rest_diffuse[b, t])


@njit(cache=True, nogil=True, error_model="numpy")
def carry(gain, later, earlier, lagged):
    """lagged = V G', earlier += G V G', for gain = G'."""
    n = later.shape[0]
    for i in range(n):
        for j in range(n):
            total = 0.0
            for k in range(n):
                total += later[i, k] * gain[k, j]
            lagged[i, j] = total
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for k in range(n):
                total += gain[k, i] * lagged[k, j]
            earlier[i, j] += total
            earlier[j, i] = earlier[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def smoothed_covariances(
    back, rest, rest_diffuse, updated, updated_diffuse, until, spans, spaces, smoothed, diffuse, lagged
):
    """Continue V (H, T, n, n) backwards from `until`, or begin it at the last step.

    So too the lag-one covariances where they have steps.
    `diffuse` (H, T, n, n), the diffuse part of the posterior, is written where `until` reaches.
    """
    n = back.shape[2]
    unused = np.empty((n, n))
    for h in range(spans.shape[0]):
        g, first = spaces[h], until[spaces[h]]
        if spans[h] <= first and spans[h] > 0:
            first = spans[h] - 1
            copy(updated[g, first], smoothed[h, first])
            copy(updated_diffuse[g, first], diffuse[h, first])
        for t in range(min(first, spans[h]) - 1, -1, -1):
            copy(rest[g, t], smoothed[h, t])
            copy(rest_diffuse[g, t], diffuse[h, t])
            carry(back[g, t], diffuse[h, t + 1], diffuse[h, t], unused)
            carry(back[g, t], smoothed[h, t + 1], smoothed[h, t], unused)
            if lagged.shape[1] > 0:
                copy(unused, lagged[h, t])


@njit(cache=True, nogil=True, error_model="numpy")
def smoothed_means(C, y, observed, lengths, spaces, until, gain, back, slot, mean, smoothed):
    """Continue zhat (paths, T, n) backwards; path p, of y (paths, T, m), is one of sequence p mod B."""
    n, m = back.shape[2], C.shape[1]
    x, ahead = np.empty(n), np.empty(n)
    batch = lengths.shape[0]
    for path in range(y.shape[0]):
        b = path % batch
        g, last = spaces[b], lengths[b]
        first = min(until[g], last)
        for t in range(first - 1, -1, -1):
            s, c = slot[g, t], t if C.shape[0] > 1 else 0
            for i in range(n):
                x[i] = mean[path, t, i]
            for j in range(m):
                if observed.shape[1] > 0 and not observed[b, t, j]:
                    continue
                v = y[path, t, j]
                for i in range(n):
                    v -= C[c, j, i] * mean[path, t, i]
                for i in range(n):
                    x[i] += gain[g, s, j, i] * v
            if t + 1 < last:
                for i in range(n):
                    ahead[i] = smoothed[path, t + 1, i] - mean[path, t + 1, i]
                for i in range(n):
                    for k in range(n):
                        x[i] += back[g, t, k, i] * ahead[k]
            for i in range(n):
                smoothed[path, t, i] = x[i]
