"""One step of a covariance of the Kalman filter: the update on an observation, and the prediction; compiled.

    S = C P C' + R,   W S W' = I,   K = P C' W' W
    P <- L P L' + (A K) R (A K)' + Q,   L = A (I - K C)

The second line is Joseph's form carried through the transition: a sum of positive semidefinite terms, right for any
gain, and without updated moments.  Where every sensor leaves a good share of a variance (`BLUNT`) nothing can cancel,
and A (P - P C' S^-1 C P) A' + Q is the same to rounding for fewer products.  With few states the loops of a step are
written out in one function, `*_small`: a call costs more than a product.

Missing entries have zero rows in C, so zero columns in K and W: the update is the one of the observed rows, exactly.
Symbols and shapes are those of `kalman.py`.

References: Bucy and Joseph, Filtering for Stochastic Processes (1968); Anderson and Moore, Optimal Filtering (1979),
sec. 4.4.
"""

from __future__ import annotations

from numba import njit

from probseq.kernels.linalg import product, product_left_transposed, product_right_transposed, symmetrise, whiten

BLUNT = 1e-2
"""Share of a predicted variance of y that is noise from which an update may subtract."""


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
