"""The Kalman filter, compiled.

    z_0 ~ N(m_0, P_0)                                     the state before y_0 is seen
    for t = 0, 1, ...:
        y_t = C_t z_t + v_t,                v_t ~ N(0, R_t)
        z_{t+1} = A_{t+1} z_t + d_{t+1} + w_{t+1},    w_{t+1} ~ N(0, Q_{t+1})

Covariances do not depend on the data, only on the pattern of observed entries.  So the filter is two recursions: one
over covariances, run once for every group of sequences that share P_0 and the pattern, and one over means.

    innovation    v_t = y_t - C_t m_t,   S_t = C_t P_t C_t' + R_t,   W_t S_t W_t' = I   (see linalg.whiten)
    gain          K_t = P_t C_t' W_t' W_t
    log p(y_t | y_<t) = -1/2 (k log 2 pi + log det S_t + |W_t v_t|^2),     k observed entries
    mean          m_{t+1} = A_{t+1} (m_t + K_t v_t) + d_{t+1}
    covariance    P_{t+1} = L_t P_t L_t' + (A_{t+1} K_t) R_t (A_{t+1} K_t)' + Q_{t+1},   L_t = A_{t+1} (I - K_t C_t)

The covariances are in `kalman_covariance.py`, the means here and, of many sequences at once, in `kalman_lanes.py`.  A
covariance that has stopped changing is not computed again; the array `slot` names, for every step, the row of the
workspace that holds its covariance, gain and whitener.

    symbol      shape        meaning                                  (R is 1, or T where the parameter varies in time)
    m0, P0      (B, n), (1 or B, n, n)
    A, Q        (R, n, n)    entry t is the step into t; entry 0 is unused when R = T
    d           (1 or B, 1 or T, n)
    C, R        (R, m, n), (R, m, m)
    y           (B, T, m);   observed (B, T, m) boolean, or (0, 0, 0) where every entry below lengths is observed
    cov         (G, T, n, n) P_t by slot; gain (G, T, m, n) K_t'; whitener (G, T, m, m) W_t; slot (G, T)
    mean        (B, T, n)    m_t;  weighted (B, T, m)  W_t' W_t v_t = S_t^-1 v_t
    status      (3,)         condition (0 none, 1 singular innovation, 2 overflow, 3 ill-conditioned), sequence, step

`kalman_root.py` has the same covariance recursion on square roots, for the steps of an exact diffuse start and for
ill-conditioned problems.

Reference: Durbin and Koopman, Time Series Analysis by State Space Methods, 2nd ed. (2012), sec. 4.3 and 4.10.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.kalman_conditions import OVERFLOW, SINGULAR
from probseq.kernels.kalman_covariance import covariance_steps
from probseq.kernels.kalman_readings import columns_in_use
from probseq.kernels.kalman_root import root_steps
from probseq.kernels.linalg import copy

__all__ = ["CHUNK", "OVERFLOW", "SINGULAR", "filter_forward", "mean_steps"]

CHUNK = 256
"""Steps whose gains are kept at a time when no workspace is asked for."""


@njit(cache=True, nogil=True, error_model="numpy")
def mean_steps(
    start, stop, last, base, A, d, C, y, seen, gain, whitener, log_norm, slot, x, mean, weighted, steps, status, blas
):
    """Run the mean recursion of one sequence over [start, stop); return the sum of its log-densities.

    x (n,) carries the predicted mean.  y and seen are (T, m), d is (1 or T, n); mean, weighted and steps (the
    log-densities) are written where they are not empty.
    """
    n, m = x.shape[0], y.shape[1]
    partial, keep, per_step = seen.shape[0] > 0, mean.shape[0] > 0, steps.shape[0] > 0
    v, w, updated = np.empty(m), np.empty(m), np.empty(n)
    total = 0.0
    for t in range(start, stop):
        s = slot[t - base]
        c = t if C.shape[0] > 1 else 0
        if blas is not None:
            np.dot(C[c], x, v)
        for j in range(m):
            if partial and not seen[t, j]:
                v[j] = 0.0
                continue
            residual = y[t, j]
            if blas is None:
                for i in range(n):
                    residual -= C[c, j, i] * x[i]
            else:
                residual -= v[j]
            v[j] = residual
        square = 0.0
        for j in range(m):
            white = 0.0
            for k in range(j + 1):
                white += whitener[s, j, k] * v[k]
            w[j] = white
            square += white * white
        density = log_norm[s] - 0.5 * square
        if not abs(density) < np.inf:
            status[0], status[2] = OVERFLOW, t
            return total
        total += density
        if per_step:
            steps[t] = density
        if keep:
            for i in range(n):
                mean[t, i] = x[i]
            for j in range(m):
                weight = 0.0
                for k in range(j, m):
                    weight += whitener[s, k, j] * w[k]
                weighted[t, j] = weight
        for i in range(n):
            moved = x[i]
            for j in range(m):
                moved += gain[s, j, i] * v[j]
            updated[i] = moved
        if t + 1 < last:
            a, o = t + 1 if A.shape[0] > 1 else 0, t + 1 if d.shape[0] > 1 else 0
            if blas is not None:
                np.dot(A[a], updated, x)
                for i in range(n):
                    x[i] += d[o, i]
                continue
            for i in range(n):
                moved = d[o, i]
                for j in range(n):
                    moved += A[a, i, j] * updated[j]
                x[i] = moved
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def filter_forward(
    m0, P0, A, Q, d, C, R, y, observed, lengths, shared,
    cov, gain, whitener, log_norm, slot, mean, weighted, steps, log_prob, status, covariances_only, blas,
    watch, always, root_P0, root_Q, root_R, diffuse_start, roots, diffuses, until,
):  # fmt: skip
    """Filter a batch: write log p(y) (B,), and every workspace whose time axis is not empty (see the module's table).

    With `watch` an ill-conditioned step is a condition. `always` is None where no step needs square roots, True where
    all do and False for those of a diffuse start, `diffuse_start` (1 or B, n, d). Then the factors root_* and the
    workspaces of `kalman_root.py` are used, and `until` (G,) gets the number of steps with a diffuse predicted belief.

    `shared` is the index of a sequence whose covariances hold for all (the longest), or -1 where each has its own.
    Without workspaces, `gain`, `whitener`, `log_norm` and `slot` have one group and CHUNK or T rows.  With
    `covariances_only` they must be shared and have T rows, and `mean_lanes` does the rest.
    """
    batch, n = m0.shape
    m = y.shape[2]
    keep, partial, per_step = cov.shape[1] > 0, observed.shape[1] > 0, steps.shape[1] > 0
    P, x = np.empty((n, n)), np.empty((batch, n))
    mask, reach, memory = np.empty(m, np.bool_), np.empty(n), np.empty(6, np.int64)
    root, diffuse = np.empty((n, n)), np.empty((n, diffuse_start.shape[2]))
    for b in range(batch):
        log_prob[b] = 0.0
        for i in range(n):
            x[b, i] = m0[b, i]
    for lead in range(batch) if shared < 0 else range(shared, shared + 1):
        first, beyond = (lead, lead + 1) if shared < 0 else (0, 0 if covariances_only else batch)
        g = lead if keep and shared < 0 else 0
        last = lengths[lead]
        copy(P0[lead if P0.shape[0] > 1 else 0], P)
        for j in range(m):
            mask[j] = True
        for i in range(n):
            reach[i] = 0.0
        memory[0], memory[1], memory[2], memory[3] = -1, 0, 0, 0
        memory[4], memory[5] = 0, 0
        if always is not None:
            copy(root_P0[lead if root_P0.shape[0] > 1 else 0], root)
            copy(diffuse_start[lead if diffuse_start.shape[0] > 1 else 0], diffuse)
            memory[4] = columns_in_use(diffuse)
        for start in range(0, last, CHUNK):
            stop, base = min(start + CHUNK, last), 0 if gain.shape[1] >= last else start
            status[1] = lead
            reached = start
            if always is not None and (always or memory[4] > 0):
                reached = root_steps(
                    start, stop, last, base, A, Q, C, R, root_Q, root_R, observed[lead if partial else 0], always,
                    root, diffuse, P, mask, reach, memory, cov[g], roots[g], diffuses[g], gain[g], whitener[g],
                    log_norm[g], slot[g], status,
                )  # fmt: skip
                if status[0] != 0:
                    return
                until[g] = memory[5]
            if reached < stop:
                covariance_steps(
                    reached, stop, last, base, A, Q, C, R, observed[lead if partial else 0], P, mask, reach, memory,
                    cov[g], gain[g], whitener[g], log_norm[g], slot[g], status, watch, blas,
                )  # fmt: skip
                if status[0] != 0:
                    return
            for b in range(first, beyond):
                log_prob[b] += mean_steps(
                    start, min(stop, lengths[b]), lengths[b], base, A, d[b if d.shape[0] > 1 else 0], C, y[b],
                    observed[b if partial else 0], gain[g], whitener[g], log_norm[g], slot[g], x[b],
                    mean[b if keep else 0], weighted[b if keep else 0], steps[b if per_step else 0], status, blas,
                )  # fmt: skip
                if status[0] != 0:
                    status[1] = b
                    return
