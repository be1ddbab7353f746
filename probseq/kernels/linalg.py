"""Small dense linear algebra for compiled recursions.

Every routine writes into arrays that the caller gives, so that a recursion of a million steps allocates nothing.
The argument `blas` is None for loops written out (a BLAS call costs about 200 ns, more than the product of two 4 x 4
matrices) and anything else for BLAS; the compiler sees the difference and builds only the branch that is used.  All
arrays are float64, C-contiguous, and `out` must not overlap the operands.

Whitening.  For a covariance S of k variables, write d = sqrt(diag S) and let L be the Cholesky factor of the
correlation matrix S_ij / (d_i d_j).  The whitener is the lower-triangular

    W = L^-1 diag(d)^-1,      so that      W S W' = I,   S^-1 = W' W,   log det S = -2 sum_i log W_ii.

Scaling first makes the result independent of the units of the single variables: a sensor in metres beside one in
nanometres loses no digits (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sec. 10.1).  The pivots
of L are then the shares of each variance that the earlier variables leave unexplained, numbers between 0 and 1, and a
pivot at rounding level means that S is singular.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

EPSILON = 2.0**-52

SINGULAR_PIVOT = 1e-13
"""Unexplained share of a variance (dimensionless) at which rounding alone could have left it."""


@njit(cache=True, nogil=True, error_model="numpy")
def product(a, b, out, blas):
    """out = a b, for a (p, q), b (q, r)."""
    p, q = a.shape
    r = b.shape[1]
    if blas is not None:
        np.dot(a, b, out)
        return
    for i in range(p):
        j = 0
        while j + 4 <= r:  # four sums at a time: one alone waits for itself
            first, second, third, fourth = 0.0, 0.0, 0.0, 0.0
            for k in range(q):
                factor = a[i, k]
                first += factor * b[k, j]
                second += factor * b[k, j + 1]
                third += factor * b[k, j + 2]
                fourth += factor * b[k, j + 3]
            out[i, j], out[i, j + 1], out[i, j + 2], out[i, j + 3] = first, second, third, fourth
            j += 4
        while j < r:
            total = 0.0
            for k in range(q):
                total += a[i, k] * b[k, j]
            out[i, j] = total
            j += 1


@njit(cache=True, nogil=True, error_model="numpy")
def product_right_transposed(a, b, out, blas):
    """out = a b', for a (p, q), b (r, q)."""
    p, q = a.shape
    r = b.shape[0]
    if blas is not None:
        np.dot(a, b.T, out)
        return
    for i in range(p):
        for j in range(r):
            total = 0.0
            for k in range(q):
                total += a[i, k] * b[j, k]
            out[i, j] = total


@njit(cache=True, nogil=True, error_model="numpy")
def product_left_transposed(a, b, out, blas):
    """out = a' b, for a (q, p), b (q, r)."""
    q, p = a.shape
    r = b.shape[1]
    if blas is not None:
        np.dot(a.T, b, out)
        return
    for i in range(p):
        for j in range(r):
            total = 0.0
            for k in range(q):
                total += a[k, i] * b[k, j]
            out[i, j] = total


@njit(cache=True, nogil=True, error_model="numpy")
def symmetrise(a):
    """Replace a by (a + a') / 2, exactly symmetric."""
    for i in range(a.shape[0]):
        for j in range(i):
            middle = 0.5 * (a[i, j] + a[j, i])
            a[i, j] = middle
            a[j, i] = middle


@njit(cache=True, nogil=True, error_model="numpy")
def whiten(covariance, whitener, scale):
    """Write the whitener of a covariance, W S W' = I; return log det S, or NaN where S is singular or not finite.

    Only the lower triangle of `covariance` is read, and it is overwritten.  `scale` is scratch of the same size.
    """
    size = covariance.shape[0]
    log_det = 0.0
    for i in range(size):
        if not 0.0 < covariance[i, i] < np.inf:
            return np.nan
        scale[i] = math.sqrt(covariance[i, i])
    for i in range(size):
        for j in range(i):
            total = covariance[i, j] / scale[i] / scale[j]
            for k in range(j):
                total -= covariance[i, k] * covariance[j, k]
            covariance[i, j] = total / covariance[j, j]
        pivot = 1.0
        for k in range(i):
            pivot -= covariance[i, k] * covariance[i, k]
        if not pivot > SINGULAR_PIVOT:
            return np.nan
        covariance[i, i] = math.sqrt(pivot)
        log_det += math.log(scale[i] * covariance[i, i])
    for i in range(size):
        inverse = 1.0 / covariance[i, i]
        for j in range(i):
            total = 0.0
            for k in range(j, i):
                total -= covariance[i, k] * whitener[k, j]
            whitener[i, j] = total * inverse
        whitener[i, i] = inverse
        for j in range(i + 1, size):
            whitener[i, j] = 0.0
    for i in range(size):
        for j in range(i + 1):
            whitener[i, j] /= scale[j]
    return 2.0 * log_det


@njit(cache=True, nogil=True, error_model="numpy")
def twice_product(a, b):
    """a b without error, as the sum of two numbers (Dekker 1971)."""
    high = a * b
    shifted = 134217729.0 * a  # 2^27 + 1
    a_high = shifted - (shifted - a)
    shifted = 134217729.0 * b
    b_high = shifted - (shifted - b)
    a_low, b_low = a - a_high, b - b_high
    return high, ((a_high * b_high - high) + a_high * b_low + a_low * b_high) + a_low * b_low


@njit(cache=True, nogil=True, error_model="numpy")
def less_product(high, low, a, a_low, b, b_low):
    """(high + low) - (a + a_low) (b + b_low), with twice the digits."""
    term, rest = twice_product(-a, b)
    rest -= a * b_low + a_low * b
    total = high + term
    part = total - high
    low += ((high - (total - part)) + (term - part)) + rest
    high = total + low
    return high, low - (high - total)


@njit(cache=True, nogil=True, error_model="numpy")
def semidefinite_factor(covariances, factors):
    """Write lower-triangular F with F F' = S for positive semidefinite S (R, k, k) of any rank.

    Cholesky's recursion with twice the digits, so that a share of a variance that the earlier variables leave keeps
    its own digits, however small; a variable whose share is at rounding level of S gets a zero column, since a
    semidefinite matrix has nothing left there.  Variables are scaled by powers of two first.
    """
    size = covariances.shape[1]
    scale, low = np.empty(size), np.zeros((size, size))
    for r in range(covariances.shape[0]):
        for j in range(size):
            variance = covariances[r, j, j]
            scale[j] = 2.0 ** math.floor(0.5 * math.log2(variance)) if 0.0 < variance < np.inf else 0.0
        for j in range(size):
            for i in range(size):
                factors[r, i, j] = 0.0
                low[i, j] = 0.0
            if scale[j] == 0.0:
                continue
            own = covariances[r, j, j] / scale[j] / scale[j]
            pivot, rest = own, 0.0
            for k in range(j):
                pivot, rest = less_product(pivot, rest, factors[r, j, k], low[j, k], factors[r, j, k], low[j, k])
            if pivot <= 4.0 * size * EPSILON * own:
                continue
            root = math.sqrt(pivot)
            left, left_low = less_product(pivot, rest, root, 0.0, root, 0.0)
            factors[r, j, j], low[j, j] = root, (left + left_low) / (2.0 * root)
            for i in range(j + 1, size):
                if scale[i] > 0.0:
                    total, rest = covariances[r, i, j] / scale[i] / scale[j], 0.0
                    for k in range(j):
                        total, rest = less_product(
                            total, rest, factors[r, i, k], low[i, k], factors[r, j, k], low[j, k]
                        )
                    quotient = total / root
                    left, left_low = less_product(total, rest, quotient, 0.0, root, low[j, j])
                    factors[r, i, j], low[i, j] = quotient, (left + left_low) / root
        for i in range(size):
            for j in range(i + 1):
                factors[r, i, j] = (factors[r, i, j] + low[i, j]) * scale[i]


@njit(cache=True, nogil=True, error_model="numpy")
def unchanged(new, old, tolerance):
    """Whether |new - old|_ij <= tolerance sqrt(old_ii old_jj) in every entry: a test without units."""
    size = new.shape[0]
    for i in range(size):
        if not abs(new[i, i] - old[i, i]) <= tolerance * old[i, i]:
            return False
    for i in range(size):
        for j in range(i):
            bound = tolerance * math.sqrt(old[i, i]) * math.sqrt(old[j, j])
            if not abs(new[i, j] - old[i, j]) <= bound:
                return False
    return True


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
def store(source, target, row):
    """target[row] = source, without the view that costs more than the copy."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[row, i, j] = source[i, j]
