"""The square-root form of the covariance recursion, and the exact diffuse start, which is its limit; compiled.

The belief about the state is N(m, E E') + B delta with `delta` diffuse: its variance kappa goes to infinity.  A step
puts the noise of the observation beside the state, F = diag(E, R^1/2), so that every observed coordinate is an exact
reading c' of (z, v).  Readings are taken one by one (which any R allows, singular ones too):

    q = B' c is not zero:   K = B q / |q|^2,    F <- (I - K c') F,   B <- B without the direction of q,
                            log density -1/2 (log 2 pi + log |q|^2)
    q = 0:                  g = F' c,   K = F g / |g|^2,             F <- F without the direction of g,
                            log density -1/2 (log 2 pi + log |g|^2 + innovation^2 / |g|^2)

The first line is the limit of the second, with the term d/2 log kappa left off (Durbin and Koopman's convention).
"Without the direction of g" is a reflection from the right that gathers g in one column, which is dropped:

    F_j <- F_j - g_j w,    w = (F g + s |g| F_p) / (|g| (|g| + |g_p|)),   s = sign g_p,   p the largest |g_j|.

Nothing is subtracted from a covariance, so that none loses its sign, and because the large column is the one that is
dropped, a precise reading of a vague state leaves its small variance with all digits (Potter's form does the same).
The gains of the single readings compose to K and W of the whole step, which the mean recursion of `kalman.py` uses as
it uses those of `kalman_covariance.py`: of a diffuse reading W has no row.

    symbol      shape        meaning
    root        (n, n)       E;   diffuse (n, d) B, whose first `count` columns are in use
    root_Q, root_R           factors of Q and R, like them
    extended    (n + m, n + m)   F;   readings (m, n + m) the gains of single readings

References: Durbin and Koopman, Time Series Analysis by State Space Methods, 2nd ed. (2012), sec. 5.2, 6.4; Koopman and
Durbin, J. Time Series Analysis 24 (2003) 85-98; Bierman, Factorization Methods for Discrete Sequential Estimation
(1977), sec. II.5, V; Kaminski, Bryson and Schmidt, IEEE Trans. Automatic Control 16 (1971) 727-736.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from probseq.kernels.kalman_conditions import OVERFLOW, SINGULAR, carry_reach, has_perfect
from probseq.kernels.kalman_covariance import LOG_TWO_PI, STEADY, same_pattern, settled
from probseq.kernels.kalman_readings import extend, gather, length_of_row, store_diffuse, take
from probseq.kernels.kalman_updates import close_loop
from probseq.kernels.linalg import EPSILON, copy, product_right_transposed, store, unchanged


@njit(cache=True, nogil=True, error_model="numpy")
def predict_root(transition, root_Q, extended, columns, wide, g, root):
    """Write the lower-triangular root of A F F' A' + Q, F being the first rows and `columns` of `extended`."""
    n = root.shape[0]
    width = columns + n
    for i in range(n):
        for j in range(columns):
            total = 0.0
            for k in range(n):
                total += transition[i, k] * extended[k, j]
            wide[i, j] = total
        for j in range(n):
            wide[i, columns + j] = root_Q[i, j]
    for i in range(n):
        total = 0.0
        for j in range(i, width):
            g[j] = wide[i, j]
            total += g[j] * g[j]
        if total > 0.0:
            gather(wide, n, i, width, g, math.sqrt(total))
        for j in range(n):
            root[i, j] = wide[i, j] if j <= i else 0.0
    for i in range(n):  # rows below the pivot changed after they were copied
        for j in range(i + 1):
            root[i, j] = wide[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def predict_diffuse(transition, diffuse, count, moved, reach, g):
    """B <- A B with full column rank; return its number of columns.

    A direction that A takes away leaves rounding errors, which do not count: rows are judged against the sums of the
    sizes of their terms.
    """
    n = diffuse.shape[0]
    for i in range(n):
        reach[i] = 0.0
        for k in range(n):
            reach[i] += abs(transition[i, k]) * length_of_row(diffuse, k, count)
        for j in range(count):
            total = 0.0
            for k in range(n):
                total += transition[i, k] * diffuse[k, j]
            moved[i, j] = total
    copy(moved, diffuse)
    for first in range(count):
        best, row = 0.0, -1
        for i in range(n):
            total = 0.0
            for j in range(first, count):
                total += diffuse[i, j] * diffuse[i, j]
            if reach[i] > 0.0 and math.sqrt(total) > best * reach[i]:
                best, row = math.sqrt(total) / reach[i], i
        if best <= 64.0 * n * EPSILON:
            return first
        total = 0.0
        for j in range(first, count):
            g[j] = diffuse[row, j]
            total += g[j] * g[j]
        gather(diffuse, n, first, count, g, math.sqrt(total))
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def exhausted(P, emission, noise, process, reach, mask):
    """Whether a perfectly measured coordinate has no variance left but what rounding made of the step before."""
    m, n = emission.shape
    for j in range(m):
        if mask[j] and noise[j, j] == 0.0:
            variance, fed, carried = 0.0, 0.0, 0.0
            for i in range(n):
                carried += abs(emission[j, i]) * reach[i]
                for k in range(n):
                    variance += emission[j, i] * P[i, k] * emission[j, k]
                    fed += emission[j, i] * process[i, k] * emission[j, k]
            if math.sqrt(max(variance, 0.0)) <= 64.0 * n * EPSILON * carried and 2.0 * fed < variance:
                return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def root_steps(
    start, stop, last, base, A, Q, C, R, root_Q, root_R, seen, always, root, diffuse, P, mask, reach, memory,
    cov, roots, diffuses, gain, whitener, log_norm, slot, status,
):  # fmt: skip
    """`covariance_steps` in square-root form, over steps [start, stop) or, unless `always`, until nothing is diffuse.

    root (n, n), diffuse (n, d), memory[4], its columns in use, and memory[5], the steps predicted from a diffuse
    belief so far, carry the state beside P, mask, reach and the rest of memory; `roots` and `diffuses` (T, 2, n, d),
    predicted and updated, are written where they are not empty.  Returns the step reached.
    """
    n, m = P.shape[0], C.shape[1]
    fixed = A.shape[0] == 1 and Q.shape[0] == 1 and C.shape[0] == 1 and R.shape[0] == 1
    partial, keep, perfect = seen.shape[0] > 0, cov.shape[0] > 0, has_perfect(R)
    extended, sizes, diffuse_sizes = np.empty((n + m, n + m)), np.empty(n + m), np.empty(n)
    readings, order, K, W = np.empty((m, n + m)), np.empty((m, m)), np.empty((m, n)), np.empty((m, m))
    wide, g, moved, following = np.empty((n, 2 * n + m)), np.empty(2 * n + m), np.empty_like(diffuse), np.empty((n, n))
    carried, closed = np.empty((m, n)), np.empty((n, n))
    if memory[0] > 0 and base == start:
        copy(gain[memory[0]], gain[0])
        copy(whitener[memory[0]], whitener[0])
        log_norm[0] = log_norm[memory[0]]
        memory[0] = 0
    for t in range(start, stop):
        if memory[4] > 0:
            memory[5] = t + 1
        elif not always:
            return t
        row = t - base
        if partial and not same_pattern(seen, t, mask):
            memory[0], memory[1], memory[2] = -1, 0, 0
        if memory[0] >= 0:
            slot[row] = memory[0]
            continue
        c, r = t if C.shape[0] > 1 else 0, t if R.shape[0] > 1 else 0
        slot[row] = row
        if keep:
            store(P, cov, row)
        if roots.shape[0] > 0:
            store(root, roots, row)
        if diffuses.shape[0] > 0:
            store_diffuse(diffuse, memory[4], diffuses, row, 0)
        if perfect and exhausted(P, C[c], R[r], Q[t if Q.shape[0] > 1 else 0], reach, mask):
            status[0], status[2] = SINGULAR, t
            return t
        extend(root, root_R[r], extended, sizes, diffuse, memory[4], diffuse_sizes)
        log_det, columns, count = take(
            C[c], mask, extended, diffuse, memory[4], sizes, diffuse_sizes, readings, order, g, K, W, True
        )
        if not abs(log_det) < np.inf:
            status[0], status[2] = SINGULAR, t
            return t
        observed = 0
        for j in range(m):
            observed += mask[j]
        log_norm[row] = -0.5 * (observed * LOG_TWO_PI + log_det)
        memory[4] = count
        store(K, gain, row)
        store(W, whitener, row)
        if diffuses.shape[0] > 0:
            store_diffuse(diffuse, count, diffuses, row, 1)
        if t + 1 >= last:
            return t + 1
        a, q = t + 1 if A.shape[0] > 1 else 0, t + 1 if Q.shape[0] > 1 else 0
        predict_root(A[a], root_Q[q], extended, columns, wide, g, root)
        if count > 0:
            memory[4] = predict_diffuse(A[a], diffuse, count, moved, reach, g)
        product_right_transposed(root, root, following, None)
        close_loop(A[a], C[c], K, carried, closed, None)
        carry_reach(A[a], C[c], carried, P, reach)
        for i in range(n):
            if not following[i, i] < np.inf:
                status[0], status[2] = OVERFLOW, t + 1
                return t + 1
        memory[2] += 1
        if fixed and memory[4] == 0:
            memory[1] = memory[1] + 1 if unchanged(following, P, STEADY) else 0
            if settled(memory[1], memory[2]):
                memory[0] = row
        copy(following, P)
    return stop
