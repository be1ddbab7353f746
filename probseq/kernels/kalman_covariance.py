"""The covariance half of the Kalman filter, which does not see the data; compiled.

    S_t = C_t P_t C_t' + R_t,   W_t S_t W_t' = I,   K_t = P_t C_t' W_t' W_t
    P_{t+1} = L_t P_t L_t' + (A_{t+1} K_t) R_t (A_{t+1} K_t)' + Q_{t+1},   L_t = A_{t+1} (I - K_t C_t)

The second line is Joseph's form carried through the transition: a sum of positive semidefinite terms, right for any
gain, and without updated moments.  Where every sensor leaves a good share of a variance (`BLUNT`) nothing can cancel,
and A (P - P C' S^-1 C P) A' + Q is the same to rounding for fewer products.

Missing entries have zero rows in C, so zero columns in K and W: the update is the one of the observed rows, exactly.
A covariance that has stopped changing is not computed again (`STEADY`); the array `slot` names, for every step, the
row of the workspace that holds its covariance, gain and whitener.  Symbols and shapes are those of `kalman.py`.

References: Bucy and Joseph, Filtering for Stochastic Processes (1968); Anderson and Moore, Optimal Filtering (1979),
sec. 4.4.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from probseq.kernels.linalg import (
    EPSILON,
    SINGULAR_PIVOT,
    product,
    product_left_transposed,
    product_right_transposed,
    symmetrise,
    unchanged,
    whiten,
)

STEADY = 1e-14
"""Largest relative change of a covariance, in units of its own standard deviations, that counts as none."""

BLUNT = 1e-2
"""Share of a predicted variance of y that is noise from which an update may subtract."""

FEW = 4
"""States up to which the saving is not worth the decision."""

LOG_TWO_PI = math.log(2.0 * math.pi)
SINGULAR, OVERFLOW, ILL_CONDITIONED = 1, 2, 3

SHARE = 1e-7
"""Share of a variance below which what is left of it has lost half the digits to cancellation."""


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def ill_conditioned(cov, emission, noise, mask, scale, factor):
    """Whether this step's update loses half the digits, in shares of variances, so without units.

    scale_j^2 = S_jj and the Cholesky factor of the correlations of S are what `whiten` leaves.  Digits go where a
    predicted variance c' P c is a small rest of its terms, where one coordinate is nearly a combination of others,
    and where a sensor is far better than what was known before.
    """
    m, n = emission.shape
    for j in range(m):
        if not mask[j]:
            continue
        variance, terms = scale[j] * scale[j], 0.0
        for i in range(n):
            terms += emission[j, i] * emission[j, i] * cov[i, i]
        if variance < SHARE * terms or factor[j, j] * factor[j, j] < SHARE:
            return True
        if 0.0 < noise[j, j] < 0.1 * SHARE * variance:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def copy(source, target):
    """target[:] = source, for matrices (a slice assignment costs more than a small copy)."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def clear(target):
    """target[:] = 0, for matrices."""
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def settled(quiet, steps):
    """Whether `quiet` steps without change out of `steps` prove convergence.

    Where changes decay like rho^t, reaching STEADY took about 30 time constants, so a quarter of that again leaves
    a remainder some e^-7 of a change that is already at rounding level, however slow the decay.
    """
    return quiet >= 2 and 4 * quiet >= steps


@njit(cache=True, nogil=True, error_model="numpy")
def load_emission(emission, noise, mask, masked_emission, masked_noise):
    """Copy C and R with missing entries decoupled (zero row of C, unit variance); return the number observed."""
    m, n = emission.shape
    count = 0
    for j in range(m):
        count += mask[j]
        for i in range(n):
            masked_emission[j, i] = emission[j, i] if mask[j] else 0.0
        for k in range(m):
            masked_noise[j, k] = noise[j, k] if mask[j] and mask[k] else 0.0
        if not mask[j]:
            masked_noise[j, j] = 1.0
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def has_perfect(noise):
    """Whether some coordinate is ever measured without error."""
    for t in range(noise.shape[0]):
        for j in range(noise.shape[1]):
            if noise[t, j, j] == 0.0:
                return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def vanishing(cov, emission, noise, process, reach):
    """Whether some perfectly measured combination has no variance left but rounding, so that its density is void.

    The variance of c' z is rounding where c' P c cancels, or where it is at rounding level of what the step before
    carried here (`reach`, in standard deviations) and is not the process noise of this step.
    """
    m, n = emission.shape
    for j in range(m):
        if noise[j, j] == 0.0:
            variance, size, fed, carried = 0.0, 0.0, 0.0, 0.0
            for i in range(n):
                carried += abs(emission[j, i]) * reach[i]
                for k in range(n):
                    term = emission[j, i] * cov[i, k] * emission[j, k]
                    variance += term
                    size += abs(term)
                    fed += emission[j, i] * process[i, k] * emission[j, k]
            exhausted = math.sqrt(max(variance, 0.0)) <= math.sqrt(8.0 * n * EPSILON) * carried
            if variance <= SINGULAR_PIVOT * size or (exhausted and 2.0 * fed < variance):
                return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def store(source, target, row):
    """target[row] = source, without the view that costs more than the copy."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[row, i, j] = source[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def carry_reach(transition, emission, carried_gain, cov, reach):
    """reach_i = sum_j (|A| + |A K| |C|)_ij sqrt(P_jj): what L P L' would have been without its cancellations."""
    m, n = emission.shape
    for i in range(n):
        reach[i] = 0.0
        for j in range(n):
            size = abs(transition[i, j])
            for k in range(m):
                size += abs(carried_gain[k, i] * emission[k, j])
            reach[i] += size * math.sqrt(cov[j, j])


@njit(cache=True, nogil=True, error_model="numpy")
def blunt(noise, mask, scale):
    """Whether no sensor removes nearly all of a variance; scale_j^2 = S_jj."""
    result = True
    for j in range(noise.shape[0]):
        result = result and not (mask[j] and noise[j, j] < BLUNT * scale[j] * scale[j])
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def predict_blunt(cov, transition, process, root, updated, left, out, blas):
    """out = A (P - root' root) A' + Q, symmetric, for root = W C P."""
    n, m = cov.shape[0], root.shape[0]
    if blas is not None:
        product_left_transposed(root, root, updated, blas)
        for i in range(n):
            for j in range(n):
                updated[i, j] = cov[i, j] - updated[i, j]
        product(transition, updated, left, blas)
        product_right_transposed(left, transition, out, blas)
        for i in range(n):
            for j in range(n):
                out[i, j] += process[i, j]
        symmetrise(out)
    else:
        for i in range(n):
            for j in range(i + 1):
                total = cov[i, j]
                for k in range(m):
                    total -= root[k, i] * root[k, j]
                updated[i, j] = total
                updated[j, i] = total
        for i in range(n):
            for k in range(n):
                total = 0.0
                for j in range(n):
                    total += transition[i, j] * updated[j, k]
                left[i, k] = total
            for k in range(i + 1):
                total = 0.5 * (process[i, k] + process[k, i])
                for j in range(n):
                    total += left[i, j] * transition[k, j]
                out[i, k] = total
                out[k, i] = total


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def update_small(cov, emission, noise, mask, emitted, variance, scale, root, gain, whitener):
    """`update_covariance` with its loops written out: for few states a call costs more than a product."""
    m, n = emission.shape
    for j in range(m):
        for i in range(n):
            total = 0.0
            for k in range(n):
                total += emission[j, k] * cov[k, i]
            emitted[j, i] = total
    for i in range(m):
        for j in range(i + 1):
            total = noise[i, j]
            for k in range(n):
                total += emitted[i, k] * emission[j, k]
            variance[i, j] = total
    log_det = whiten(variance, whitener, scale)
    for j in range(m):
        if not mask[j]:
            whitener[j, j] = 0.0
    for i in range(n):
        for j in range(m):
            total = 0.0
            for k in range(j + 1):
                total += whitener[j, k] * emitted[k, i]
            root[j, i] = total
        for j in range(m):
            total = 0.0
            for k in range(j, m):
                total += whitener[k, j] * root[k, i]
            gain[j, i] = total
    return log_det


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def predict_small(cov, transition, process, emission, noise, gain, carried_gain, closed, left, weighted_gain, out):
    """`close_loop` and `joseph` with their loops written out."""
    m, n = emission.shape
    for i in range(n):
        for j in range(m):
            total = 0.0
            for k in range(n):
                total += transition[i, k] * gain[j, k]
            carried_gain[j, i] = total
        for k in range(n):
            total = transition[i, k]
            for j in range(m):
                total -= carried_gain[j, i] * emission[j, k]
            closed[i, k] = total
        for j in range(m):
            total = 0.0
            for k in range(m):
                total += noise[j, k] * carried_gain[k, i]
            weighted_gain[j, i] = total
        for k in range(n):
            total = 0.0
            for j in range(n):
                total += closed[i, j] * cov[j, k]
            left[i, k] = total
        for k in range(i + 1):
            total = 0.5 * (process[i, k] + process[k, i])
            for j in range(n):
                total += left[i, j] * closed[k, j]
            for j in range(m):
                total += weighted_gain[j, i] * carried_gain[j, k]
            out[i, k] = total
            out[k, i] = total


@njit(cache=True, nogil=True, error_model="numpy")
def update_covariance(cov, emission, noise, mask, emitted, variance, scale, root, gain, whitener, blas):
    """Write gain' and whitener of one step from the predicted covariance; return log det S, NaN where S is singular."""
    m = emission.shape[0]
    product(emission, cov, emitted, blas)
    product_right_transposed(emitted, emission, variance, blas)
    for i in range(m):
        for j in range(m):
            variance[i, j] += noise[i, j]
    log_det = whiten(variance, whitener, scale)
    for j in range(m):
        if not mask[j]:
            whitener[j, j] = 0.0
    product(whitener, emitted, root, blas)
    product_left_transposed(whitener, root, gain, blas)
    return log_det


@njit(cache=True, nogil=True, error_model="numpy")
def close_loop(transition, emission, gain, carried_gain, closed, blas):
    """Write (A K)' and L = A - A K C."""
    n = emission.shape[1]
    product_right_transposed(gain, transition, carried_gain, blas)
    product_left_transposed(carried_gain, emission, closed, blas)
    for i in range(n):
        for j in range(n):
            closed[i, j] = transition[i, j] - closed[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def joseph(closed, cov, carried_gain, noise, process, left, weighted_gain, out, blas):
    """out = L P L' + (A K) R (A K)' + Q, symmetric."""
    n = cov.shape[0]
    product(closed, cov, left, blas)
    product_right_transposed(left, closed, out, blas)
    product(noise, carried_gain, weighted_gain, blas)
    product_left_transposed(carried_gain, weighted_gain, left, blas)
    for i in range(n):
        for j in range(n):
            out[i, j] += left[i, j] + process[i, j]
    symmetrise(out)


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
