"""The means of the Kalman filter and of its adjoint for many sequences with the same covariances; compiled.

The recursions are `mean_steps` of `kalman.py` and `mean_adjoint` of `kalman_adjoint.py`, with LANES sequences in the
innermost loops.  Data and moments stand one sequence after another; TILE steps of LANES sequences at a time are brought
into the order of the lanes and back, so that a line of memory is read once.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.linalg import clear

LANES = 128
"""Sequences that run side by side in the innermost loops."""

TILE = 8
"""Steps that are brought from the sequences' own order into that of the lanes, and back, at a time."""


@njit(cache=True, nogil=True, error_model="numpy")
def gather_tile(source, origin, width, begin, stop, lengths, tile):
    """tile[t - begin, i, b] = source[origin + b, t, i], and 0 past the end of a sequence and beyond `width` of them."""
    for b in range(tile.shape[2]):
        end = min(stop, lengths[origin + b]) if b < width else begin
        for t in range(begin, end):
            for i in range(tile.shape[1]):
                tile[t - begin, i, b] = source[origin + b, t, i]
        for t in range(max(begin, end), stop):
            for i in range(tile.shape[1]):
                tile[t - begin, i, b] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def scatter_tile(tile, begin, stop, target, origin, width):
    """target[origin + b, t, i] = tile[t - begin, i, b]."""
    for b in range(width):
        for t in range(begin, stop):
            for i in range(tile.shape[1]):
                target[origin + b, t, i] = tile[t - begin, i, b]


@njit(cache=True, nogil=True, error_model="numpy")
def mean_lanes(m0, A, d, C, y, seen, lengths, gain, whitener, log_norm, slot, mean, log_prob):
    """`mean_steps` for many sequences with the same covariances, the innermost loops running over LANES sequences.

    For the workspaces that `filter_forward` leaves with `covariances_only`.  Past the end of a sequence its lane runs
    on without effect.  Weighted innovations are not kept: `mean_adjoint_lanes` has them from the means.
    """
    batch, n = m0.shape
    m = y.shape[2]
    partial, keep = seen.shape[0] > 0, mean.shape[1] > 0
    v, w, square, total = np.zeros((m, LANES)), np.empty((m, LANES)), np.empty(LANES), np.empty(LANES)
    state, following = np.empty((n, LANES)), np.empty((n, LANES))
    of_mean = np.empty((TILE, n, LANES))
    for origin in range(0, batch, LANES):
        width = min(LANES, batch - origin)
        values, ends = y[origin : origin + width], lengths[origin : origin + width]
        shifts = d[origin : origin + width] if d.shape[0] > 1 else d
        last, shortest, constant = 0, ends[0], 0.0
        for b in range(LANES):
            total[b], square[b] = 0.0, 0.0
            if b < width:
                last, shortest = max(last, ends[b]), min(shortest, ends[b])
            for i in range(n):
                state[i, b] = m0[origin + b, i] if b < width else 0.0
        for t in range(last):
            s, own = slot[t], t % TILE
            c = t if C.shape[0] > 1 else 0
            for j in range(m):
                if partial and not seen[t, j]:
                    for b in range(LANES):
                        v[j, b] = 0.0
                else:
                    for b in range(width):
                        v[j, b] = values[b, t, j]
                    for b in range(width, LANES):
                        v[j, b] = 0.0
                    for i in range(n):
                        factor = C[c, j, i]
                        for b in range(LANES):
                            v[j, b] -= factor * state[i, b]
                factor = whitener[s, j, 0]
                for b in range(LANES):
                    w[j, b] = factor * v[0, b]
                for k in range(1, j + 1):
                    factor = whitener[s, j, k]
                    for b in range(LANES):
                        w[j, b] += factor * v[k, b]
                for b in range(LANES):
                    square[b] += w[j, b] * w[j, b]
            if t < shortest:
                constant += log_norm[s]
            else:
                for b in range(width):
                    if t < ends[b]:
                        total[b] += log_norm[s] - 0.5 * square[b]
            if t + 1 >= shortest:  # from here on by step, since some sequence is over
                for b in range(width):
                    if t < shortest:
                        total[b] -= 0.5 * square[b]
                    square[b] = 0.0
            if keep:
                for i in range(n):
                    for b in range(LANES):
                        of_mean[own, i, b] = state[i, b]
                if own == TILE - 1 or t + 1 == last:
                    scatter_tile(of_mean, t - own, t + 1, mean, origin, width)
            for j in range(m):
                for i in range(n):
                    factor = gain[s, j, i]
                    for b in range(LANES):
                        state[i, b] += factor * v[j, b]
            if t + 1 < last:
                a, o = t + 1 if A.shape[0] > 1 else 0, t + 1 if d.shape[1] > 1 else 0
                for i in range(n):
                    if d.shape[0] > 1:
                        for b in range(width):
                            following[i, b] = shifts[b, o, i]
                        for b in range(width, LANES):
                            following[i, b] = 0.0
                    else:
                        factor = shifts[0, o, i]
                        for b in range(LANES):
                            following[i, b] = factor
                    for j in range(n):
                        factor = A[a, i, j]
                        for b in range(LANES):
                            following[i, b] += factor * state[j, b]
                for i in range(n):
                    for b in range(LANES):
                        state[i, b] = following[i, b]
        for b in range(width):
            log_prob[origin + b] = total[b] + constant


@njit(cache=True, nogil=True, error_model="numpy")
def add_lanes(sums, weights, scale, target, row):
    """target[row, i, j] += scale * sum_b weights_b sums[i, j, b]; the sums become zero."""
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            total = 0.0
            for b in range(sums.shape[2]):
                total += weights[b] * sums[i, j, b]
                sums[i, j, b] = 0.0
            target[row, i, j] += scale * total


@njit(cache=True, nogil=True, error_model="numpy")
def multiply_lanes(x, y, sums):
    """sums[i, j, b] += x[i, b] y[j, b]."""
    for i in range(x.shape[0]):
        for j in range(y.shape[0]):
            for b in range(x.shape[1]):
                sums[i, j, b] += x[i, b] * y[j, b]


@njit(cache=True, nogil=True, error_model="numpy")
def mean_adjoint_lanes(
    A, C, cov, gain, whitener, slot, until, lengths, y, seen, mean, weights,
    grad_m0, grad_P0, grad_A, grad_Q, grad_d, grad_C, grad_R, grad_y, smoothed, edge,
):  # fmt: skip
    """`mean_adjoint` for many sequences with the same covariances (cov (T, n, n), ...) and the pattern `seen` (T, m) or
    (0, m), LANES of them innermost.

    Past its end a lane holds zeros.  Sums over sequences are kept by lane, and added up once, or at every step where
    some parameter varies in time.
    """
    batch, m, n = mean.shape[0], C.shape[1], C.shape[2]
    wanted, moments = grad_A.shape[0] > 0, smoothed.shape[1] > 0
    varying = max(grad_A.shape[0], grad_Q.shape[0], grad_d.shape[1], grad_C.shape[0], grad_R.shape[0]) > 1
    r, p, z, e = np.empty((n, LANES)), np.empty((n, LANES)), np.empty((n, LANES)), np.empty((m, LANES))
    load, ones = np.empty(LANES), np.ones((1, LANES))
    of_mean, of_y, of_error = np.empty((TILE, n, LANES)), np.empty((TILE, m, LANES)), np.empty((TILE, m, LANES))
    v, total = np.empty((m, LANES)), np.empty(LANES)
    sum_A, sum_Q, sum_d = np.zeros((n, n, LANES)), np.zeros((n, n, LANES)), np.zeros((1, n, LANES))
    sum_C, sum_R = np.zeros((m, n, LANES)), np.zeros((m, m, LANES))
    for origin in range(0, batch, LANES):
        width = min(LANES, batch - origin)
        last = 0
        clear(r)
        clear(p)
        clear(z)
        clear(e)
        for b in range(LANES):
            load[b] = 0.0
        for b in range(width):
            load[b] = weights[origin + b]
            last = max(last, lengths[origin + b])
        for t in range(last - 1, until - 1, -1):
            s = slot[t]
            a, c = t + 1 if A.shape[0] > 1 and t + 1 < last else 0, t if C.shape[0] > 1 else 0
            own = t % TILE
            if own == TILE - 1 or t + 1 == last:
                gather_tile(y, origin, width, t - own, t + 1, lengths, of_y)
                gather_tile(mean, origin, width, t - own, t + 1, lengths, of_mean)
            for i in range(n):
                for b in range(LANES):
                    z[i, b] = of_mean[own, i, b]
            for j in range(m):
                use = seen.shape[0] == 0 or seen[t, j]
                for b in range(LANES):
                    v[j, b] = of_y[own, j, b] if use else 0.0
                    e[j, b] = 0.0
                if use:
                    for i in range(n):
                        factor = C[c, j, i]
                        for b in range(LANES):
                            v[j, b] -= factor * z[i, b]
            for j in range(m):  # e = W' W v
                for b in range(LANES):
                    total[b] = 0.0
                for k in range(j + 1):
                    factor = whitener[s, j, k]
                    for b in range(LANES):
                        total[b] += factor * v[k, b]
                for k in range(j + 1):
                    factor = whitener[s, j, k]
                    for b in range(LANES):
                        e[k, b] += factor * total[b]
            for i in range(n):
                for b in range(LANES):
                    p[i, b] = 0.0
                for j in range(n):
                    factor = A[a, j, i]
                    for b in range(LANES):
                        p[i, b] += factor * r[j, b]
            for j in range(m):
                for i in range(n):
                    factor = gain[s, j, i]
                    for b in range(LANES):
                        e[j, b] -= factor * p[i, b]
            for i in range(n):
                for j in range(m):
                    factor = C[c, j, i]
                    for b in range(LANES):
                        p[i, b] += factor * e[j, b]
            for i in range(n):
                for j in range(n):
                    factor = cov[s, i, j]
                    for b in range(LANES):
                        z[i, b] += factor * p[j, b]
            if moments:
                for i in range(n):
                    for b in range(LANES):
                        of_mean[own, i, b] = z[i, b]
                if own == 0 or t == until:
                    scatter_tile(of_mean[own:], t, min(t - own + TILE, last), smoothed, origin, width)
            if wanted:
                for j in range(m):
                    for b in range(LANES):
                        of_error[own, j, b] = -load[b] * e[j, b]
                if own == 0 or t == until:
                    scatter_tile(of_error[own:], t, min(t - own + TILE, last), grad_y, origin, width)
                multiply_lanes(r, z, sum_A)
                multiply_lanes(e, z, sum_C)
                multiply_lanes(e, e, sum_R)
                if t == 0:
                    for b in range(width):
                        for i in range(n):
                            grad_m0[origin + b, i] = load[b] * p[i, b]
                            for j in range(n):
                                grad_P0[0, i, j] += 0.5 * load[b] * p[i, b] * p[j, b]
                elif t > until:
                    multiply_lanes(p, p, sum_Q)
                    if grad_d.shape[0] == 1:
                        multiply_lanes(ones, p, sum_d)
                    else:
                        for b in range(width):
                            for i in range(n):
                                grad_d[origin + b, t if grad_d.shape[1] > 1 else 0, i] += load[b] * p[i, b]
                if varying or t == until:
                    add_lanes(sum_A, load, 1.0, grad_A, a)
                    add_lanes(sum_C, load, 1.0, grad_C, c)
                    add_lanes(sum_R, load, 0.5, grad_R, t if grad_R.shape[0] > 1 else 0)
                    add_lanes(sum_Q, load, 0.5, grad_Q, t if grad_Q.shape[0] > 1 else 0)
                    if grad_d.shape[0] == 1:
                        by_step = grad_d.reshape(grad_d.shape[1], 1, n)
                        add_lanes(sum_d, load, 1.0, by_step, t if grad_d.shape[1] > 1 else 0)
            for i in range(n):
                for b in range(LANES):
                    r[i, b] = p[i, b]
        if edge.shape[0] > 0:
            for b in range(width):
                for i in range(n):
                    edge[origin + b, i] = r[i, b]
