"""The log-likelihood of a filter that takes independent sensors one by one, compiled.

Where R is diagonal, the coordinates of y_t may be taken in turn, each as a step of its own that does not move:

    M = P c,   F = c' M + r,   K = M / F,   v = y - c' x          c a row of C, r its variance
    log p += -1/2 (log 2 pi F + v^2 / F)
    x <- x + K v,   P <- (I - K c') P (I - K c')' + r K K'

so that nothing is factored, and a missing entry is left out at no cost.  Where r leaves a good share of F nothing can
cancel, and P - K M' is the same to rounding.  A covariance that has stopped changing between complete rows is not
computed again.  This is for single sequences and for patterns of missing entries that differ between sequences: where
they are the same, covariances are shared (`kalman.py`).

`one_by_one` runs sequence after sequence, and `lanes_by_one` of `kalman_sequential_lanes.py` many side by side.  Both
return False, and what they wrote then does not count, where an update may lose digits, or a number is not finite: the
caller then runs the filter that names the place or goes over to square roots.  All parameters are constant in time, but
for the offset d (1 or B, 1 or T, n); r (m,) is the diagonal of R, and `size` is n, as a number or as the length of a
tuple (`extent`).

Reference: Durbin and Koopman, Time Series Analysis by State Space Methods, 2nd ed. (2012), sec. 6.4.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from probseq.kernels.kalman_conditions import SHARE
from probseq.kernels.kalman_covariance import LOG_TWO_PI, STEADY, settled
from probseq.kernels.kalman_updates import BLUNT
from probseq.kernels.linalg import product, product_right_transposed
from probseq.kernels.rows import extent

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}

SMALL, LARGE = 2.0**-500, 2.0**500
"""Between these a product of two neither underflows nor overflows."""

SMALLEST_NORMAL = 2.0**-1022


@njit(**_OPTIONS, forceinline=True)
def correct(n, P, x, c, j, M, K, F, r, v):
    """Condition N(x, P) on coordinate j, given M = P c and F, in place."""
    inverse = 1.0 / F
    for i in range(n):
        K[i] = M[i] * inverse
        x[i] += K[i] * v
    for i in range(n):
        factor = K[i]
        for k in range(n):
            P[i, k] -= factor * M[k]
    if r < BLUNT * F:
        for i in range(n):
            total = 0.0
            for k in range(n):
                total += P[i, k] * c[j, k]
            total -= r * K[i]
            for k in range(n):
                P[i, k] -= total * K[k]


@njit(**_OPTIONS, forceinline=True)
def unify(n, m, j, C, gains, U):
    """Row j of U, for which U v is the sequential innovations of the joint v = y_t - C m_t."""
    for h in range(m):
        U[j, h] = 1.0 if h == j else 0.0
    for h in range(j):
        slope = 0.0
        for i in range(n):
            slope += C[j, i] * gains[h, i]
        for k in range(h + 1):
            U[j, k] -= slope * U[h, k]


@njit(**_OPTIONS, forceinline=True)
def skip(n, m, j, gains, U):
    """Row j of a coordinate that is missing."""
    for h in range(m):
        U[j, h] = 0.0
    for i in range(n):
        gains[j, i] = 0.0


@njit(**_OPTIONS, forceinline=True)
def weigh(m, b, t, U, weights, errors, weighted):
    """S^-1 v of all coordinates together."""
    for h in range(m):
        total = 0.0
        for j in range(h, m):
            total += U[j, h] * weights[j] * errors[j]
        weighted[b, t, h] = total


@njit(**_OPTIONS, forceinline=True)
def advance(n, A, shift, o, x, moved):
    """x <- A x + d."""
    for i in range(n):
        total = shift[o, i]
        for k in range(n):
            total += A[i, k] * x[k]
        moved[i] = total
    for i in range(n):
        x[i] = moved[i]


@njit(**_OPTIONS, forceinline=True)
def still(n, new, old):
    """`unchanged` of `linalg.py`, by STEADY, for an n that may be known."""
    same = True
    for i in range(n):
        same = same and abs(new[i, i] - old[i, i]) <= STEADY * old[i, i]
    if same:
        for i in range(n):
            for k in range(i):
                bound = STEADY * math.sqrt(old[i, i]) * math.sqrt(old[k, k])
                same = same and abs(new[i, k] - old[i, k]) <= bound
    return same


@njit(**_OPTIONS, forceinline=True)
def join(n, m, b, t, gains, U, weights, errors, gain, whitener, weighted):
    """The gain, whitener and weighted innovation of all coordinates together; weights 1 / F, or 0 where missing."""
    for j in range(m):
        root = math.sqrt(weights[j])
        for h in range(m):
            whitener[b, t, j, h] = root * U[j, h] if h <= j else 0.0
    weigh(m, b, t, U, weights, errors, weighted)
    for h in range(m):
        for i in range(n):
            gain[b, t, h, i] = 0.0
        for j in range(h, m):
            factor = U[j, h]
            for i in range(n):
                gain[b, t, h, i] += factor * gains[j, i]


@njit(**_OPTIONS)
def one_by_one(
    size, begin, m0, P0, A, Q, d, C, r, y, seen, lengths, log_prob,
    cov, gain, whitener, log_norm, slot, mean, weighted, blas,
):  # fmt: skip
    """Write log p(y_begin, ...) (B,) of sequences with patterns of their own; `seen` (B, T, m) or (1, 0, m).

    m0 and P0 are the predicted moments of step `begin`. With workspaces (see `kalman.py`, a
    group for each sequence) what the adjoint reads is written too.
    """
    n, m, keep = extent(size), C.shape[0], cov.shape[1] > 0
    gains, U, weights, errors = np.empty((m, n)), np.empty((m, m)), np.empty(m), np.empty(m)
    partial = seen.shape[1] > 0
    P, left, turned, before = np.empty((n, n)), np.empty((n, n)), np.empty((n, n)), np.empty((n, n))
    x, moved, M, K, spread = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        for k in range(n):
            turned[i, k] = A[k, i]
    for b in range(lengths.shape[0]):
        start, shift = P0[b if P0.shape[0] > 1 else 0], d[b if d.shape[0] > 1 else 0]
        values, mask = y[b], seen[b if partial else 0]
        for i in range(n):
            x[i] = m0[b, i]
            for k in range(n):
                P[i, k] = start[i, k]
        square, log_det, factors, count, last = 0.0, 0.0, 1.0, 0, lengths[b]
        quiet, streak, steady, settled_log_det = 0, 0, -1, 0.0
        for t in range(begin, last):
            complete = True
            if partial:
                for j in range(m):
                    complete = complete and mask[t, j]
            if keep:
                for i in range(n):
                    mean[b, t, i] = x[i]
            if steady >= 0 and complete:
                for j in range(m):
                    v = values[t, j]
                    for i in range(n):
                        v -= C[j, i] * x[i]
                    for i in range(n):
                        x[i] += gains[j, i] * v
                    square += v * v * weights[j]
                    errors[j] = v
                log_det += settled_log_det
                count += m
                if keep:
                    slot[b, t] = steady
                    weigh(m, b, t, U, weights, errors, weighted)
                if t + 1 < last:
                    advance(n, A, shift, t + 1 if shift.shape[0] > 1 else 0, x, moved)
                continue
            steady = -1
            for i in range(n):
                spread[i] = P[i, i]
                for k in range(n):
                    before[i, k] = P[i, k]
            if keep:
                slot[b, t] = t
                for i in range(n):
                    for k in range(n):
                        cov[b, t, i, k] = P[i, k]
            step_log_det, step_count = 0.0, 0
            for j in range(m):
                if partial and not mask[t, j]:
                    if keep:
                        weights[j], errors[j] = 0.0, 0.0
                        skip(n, m, j, gains, U)
                    continue
                F, v, terms = r[j], values[t, j], 0.0
                for k in range(n):
                    M[k] = 0.0
                for i in range(n):
                    factor = C[j, i]
                    if factor != 0.0:
                        v -= factor * x[i]
                        terms += factor * factor * spread[i]
                        for k in range(n):
                            M[k] += factor * P[i, k]
                for i in range(n):
                    F += C[j, i] * M[i]
                sharp = r[j] < SHARE * F or SHARE * n * terms > F
                if sharp or not (SMALLEST_NORMAL <= F < np.inf and abs(v) < np.inf):
                    return False
                if SMALL < F < LARGE:
                    factors *= F
                    if not SMALL < factors < LARGE:
                        log_det += math.log(factors)
                        factors = 1.0
                else:
                    log_det += math.log(F)
                square += v * v / F
                count += 1
                correct(n, P, x, C, j, M, K, F, r[j], v)
                if keep:
                    step_log_det += math.log(F)
                    step_count += 1
                    unify(n, m, j, C, gains, U)
                weights[j], errors[j] = 1.0 / F, v
                for i in range(n):
                    gains[j, i] = K[i]
            if keep:
                log_norm[b, t] = -0.5 * (step_count * LOG_TWO_PI + step_log_det)
                join(n, m, b, t, gains, U, weights, errors, gain, whitener, weighted)
            if t + 1 < last:
                advance(n, A, shift, t + 1 if shift.shape[0] > 1 else 0, x, moved)
                if blas is not None:
                    product(A, P, left, blas)
                    product_right_transposed(left, A, P, blas)
                else:
                    for i in range(n):
                        for k in range(n):
                            left[i, k] = 0.0
                        for h in range(n):
                            factor = A[i, h]
                            for k in range(n):
                                left[i, k] += factor * P[h, k]
                    for i in range(n):
                        for k in range(n):
                            P[i, k] = 0.0
                        for h in range(n):
                            factor = left[i, h]
                            for k in range(n):
                                P[i, k] += factor * turned[h, k]
                for i in range(n):
                    for k in range(i + 1):
                        middle = 0.5 * (P[i, k] + P[k, i]) + Q[i, k]
                        P[i, k] = middle
                        P[k, i] = middle
                if complete:
                    streak += 1
                    quiet = quiet + 1 if still(n, P, before) else 0
                    if settled(quiet, streak):
                        steady, settled_log_det = t, 0.0
                        for j in range(m):
                            settled_log_det -= math.log(weights[j])
                else:
                    streak, quiet = 0, 0
        log_prob[b] = -0.5 * (count * LOG_TWO_PI + log_det + math.log(factors) + square)
        if not abs(log_prob[b]) < np.inf:
            return False
    return True
