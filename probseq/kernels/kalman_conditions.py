"""When a step of the Kalman filter must not be taken as it is; compiled.

A condition is a number: SINGULAR where an observation has no density, OVERFLOW where a moment is not finite, and
ILL_CONDITIONED where an update would lose half the digits, for which `kalman_root.py` has another form.  All are judged
in shares of variances, so without units.  Symbols and shapes are those of `kalman.py`.
"""

from __future__ import annotations

import math

from numba import njit

from probseq.kernels.linalg import EPSILON, SINGULAR_PIVOT

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
