"""The covariance half of the Kalman filter, which does not see the data; compiled.

The steps are those of `kalman_updates.py`.  A covariance that has stopped changing is not computed again (`STEADY`);
the array `slot` names, for every step, the row of the workspace that holds its covariance, gain and whitener.  Symbols
and shapes are those of `kalman.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from probseq.kernels.kalman_conditions import (
    ILL_CONDITIONED,
    OVERFLOW,
    SINGULAR,
    carry_reach,
    has_perfect,
    ill_conditioned,
    vanishing,
)
from probseq.kernels.kalman_updates import (
    blunt,
    close_loop,
    joseph,
    load_emission,
    predict_blunt,
    predict_small,
    update_covariance,
    update_small,
)
from probseq.kernels.linalg import clear, copy, store, unchanged

STEADY = 1e-14
"""Largest relative change of a covariance, in units of its own standard deviations, that counts as none."""

LOG_TWO_PI = math.log(2.0 * math.pi)

FEW = 4
"""States up to which the saving is not worth the decision."""


@njit(cache=True, nogil=True, error_model="numpy")
def settled(quiet, steps):
    """Whether `quiet` steps without change out of `steps` prove convergence.

    Where changes decay like rho^t, reaching STEADY took about 30 time constants, so a quarter of that again leaves
    a remainder some e^-7 of a change that is already at rounding level, however slow the decay.
    """
    return quiet >= 2 and 4 * quiet >= steps


@njit(cache=True, nogil=True, error_model="numpy")
def same_pattern(seen, t, mask):
    """Whether the pattern of step t equals the current mask; the mask becomes that pattern."""
    same = True
    for j in range(mask.shape[0]):
        same = same and seen[t, j] == mask[j]
        mask[j] = seen[t, j]
    return same


@njit(cache=True, nogil=True, error_model="numpy")
def covariance_steps(
    start, stop, last, base, A, Q, C, R, seen, P, mask, reach, memory, cov, gain, whitener, log_norm, slot, status,
    watch, blas,
):  # fmt: skip
    """Run the covariance recursion over steps [start, stop) of a group whose sequences end before `last`.

    Row t - base of the workspace belongs to step t.  P (n, n), mask (m,), reach (n,) and memory = (steady row or -1,
    quiet steps, steps since the pattern changed, observed entries) carry the state from one call to the next.
    `seen` is the group's pattern (T, m), or (0, 0).  With `watch` an ill-conditioned step is a condition.
    """
    n, m = P.shape[0], C.shape[1]
    fixed = A.shape[0] == 1 and Q.shape[0] == 1 and C.shape[0] == 1 and R.shape[0] == 1
    emission_varies, transition_varies = C.shape[0] > 1 or R.shape[0] > 1, A.shape[0] > 1 or Q.shape[0] > 1
    partial = seen.shape[0] > 0
    perfect = has_perfect(R)
    emission, noise, A_next, Q_next = np.empty((m, n)), np.empty((m, m)), A[0], Q[0]
    emitted, root, carried, weighted = np.empty((m, n)), np.empty((m, n)), np.empty((m, n)), np.empty((m, n))
    variance, W, scale, K = np.empty((m, m)), np.empty((m, m)), np.empty(m), np.empty((m, n))
    closed, left, following = np.empty((n, n)), np.empty((n, n)), np.empty((n, n))
    keep = cov.shape[0] > 0
    stale = True
    if memory[0] > 0 and base == start:
        copy(gain[memory[0]], gain[0])
        copy(whitener[memory[0]], whitener[0])
        log_norm[0] = log_norm[memory[0]]
        memory[0] = 0
    for t in range(start, stop):
        row = t - base
        if partial and not same_pattern(seen, t, mask):
            stale = True
            memory[0], memory[1], memory[2] = -1, 0, 0
        if memory[0] >= 0:
            slot[row] = memory[0]
            continue
        if stale or emission_varies:
            c, r = t if C.shape[0] > 1 else 0, t if R.shape[0] > 1 else 0
            memory[3] = load_emission(C[c], R[r], mask, emission, noise)
            stale = False
        slot[row] = row
        log_norm[row] = 0.0
        if memory[3] > 0:
            if perfect and vanishing(P, emission, noise, Q[t if Q.shape[0] > 1 else 0], reach):
                status[0], status[2] = SINGULAR, t
                return
            if blas is None:
                log_det = update_small(P, emission, noise, mask, emitted, variance, scale, root, K, W)
            else:
                log_det = update_covariance(P, emission, noise, mask, emitted, variance, scale, root, K, W, blas)
            if not abs(log_det) < np.inf:
                status[0], status[2] = SINGULAR, t
                return
            if watch and ill_conditioned(P, emission, noise, mask, scale, variance):
                status[0], status[2] = ILL_CONDITIONED, t
                return
            log_norm[row] = -0.5 * (memory[3] * LOG_TWO_PI + log_det)
        else:
            clear(K)
            clear(W)
            clear(root)
        store(K, gain, row)
        store(W, whitener, row)
        if keep:
            store(P, cov, row)
        if t + 1 >= last:
            return
        if transition_varies:
            A_next, Q_next = A[t + 1 if A.shape[0] > 1 else 0], Q[t + 1 if Q.shape[0] > 1 else 0]
        if n > FEW and not perfect and (memory[3] == 0 or blunt(noise, mask, scale)):
            predict_blunt(P, A_next, Q_next, root, closed, left, following, blas)
        elif blas is None:
            predict_small(P, A_next, Q_next, emission, noise, K, carried, closed, left, weighted, following)
        else:
            close_loop(A_next, emission, K, carried, closed, blas)
            joseph(closed, P, carried, noise, Q_next, left, weighted, following, blas)
        if perfect:
            carry_reach(A_next, emission, carried, P, reach)
        for i in range(n):
            if not following[i, i] < np.inf:
                status[0], status[2] = OVERFLOW, t + 1
                return
        memory[2] += 1
        if fixed:
            memory[1] = memory[1] + 1 if unchanged(following, P, STEADY) else 0
            if settled(memory[1], memory[2]):
                memory[0] = row
        copy(following, P)
