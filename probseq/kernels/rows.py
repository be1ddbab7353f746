"""Rows of numbers: product with a matrix, sum, maximum, exponential, for the kernels that go step by step.

What keeps their innermost loops in vector registers (each measured to cost a factor of two to five):
- entries are read one by one, matrix[r, i, j]: a row taken as an array counts references, 5 ns each;
- an index is a loop variable that starts at 0, never a sum with an unknown offset, which might be negative and would be
  wrapped around; where only a part of an array is meant, the caller passes that part;
- up to eight entries, the size of the loop is known to the compiler: `extent`.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

# exp(x) = 2^q exp(r), q = round(x / log 2): adding ROUND leaves q in the last bits; log 2 in two parts, r exact
LOG2_E, ROUND = 1.4426950408889634, 6755399441055744.0
LOG_2_HIGH, LOG_2_LOW = 6.93145751953125e-1, 1.42860682030941723212e-6
LOG_SMALLEST = -708.0  # exp of less is no normal number any more

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
_INLINE = {**_OPTIONS, "inline": "always"}  # a call with array arguments counts references: 20 ns


def extent(size):
    """`size` itself, or the length of a tuple: a size that the compiler knows, which unrolls loops over few entries."""
    return len(size) if isinstance(size, tuple) else size


@overload(extent)
def _extent(size):
    if isinstance(size, types.BaseTuple):
        return lambda size: len(size)
    return lambda size: size


def width_of(n_states):
    """The width of a row of weights in memory: 4, or the next multiple of 8."""
    return 4 if n_states <= 4 else -(-n_states // 8) * 8


@njit(**_INLINE)
def vector_matrix(weight, matrix, r, n, out):
    """out = weight @ matrix[r], all of size n, several rows at a time, the inner loop over targets."""
    i = 0
    if n >= 8:
        w0, w1, w2, w3 = weight[0], weight[1], weight[2], weight[3]
        w4, w5, w6, w7 = weight[4], weight[5], weight[6], weight[7]
        for j in range(n):
            out[j] = ((w0 * matrix[r, 0, j] + w1 * matrix[r, 1, j]) + (w2 * matrix[r, 2, j] + w3 * matrix[r, 3, j])) + (
                (w4 * matrix[r, 4, j] + w5 * matrix[r, 5, j]) + (w6 * matrix[r, 6, j] + w7 * matrix[r, 7, j])
            )
        for i8 in range(8, n - 7, 8):
            w0, w1, w2, w3 = weight[i8], weight[i8 + 1], weight[i8 + 2], weight[i8 + 3]
            w4, w5, w6, w7 = weight[i8 + 4], weight[i8 + 5], weight[i8 + 6], weight[i8 + 7]
            for j in range(n):
                out[j] += (
                    (w0 * matrix[r, i8, j] + w1 * matrix[r, i8 + 1, j])
                    + (w2 * matrix[r, i8 + 2, j] + w3 * matrix[r, i8 + 3, j])
                ) + (
                    (w4 * matrix[r, i8 + 4, j] + w5 * matrix[r, i8 + 5, j])
                    + (w6 * matrix[r, i8 + 6, j] + w7 * matrix[r, i8 + 7, j])
                )
        i = n - n % 8
    elif n >= 4:
        w0, w1, w2, w3 = weight[0], weight[1], weight[2], weight[3]
        for j in range(n):
            out[j] = (w0 * matrix[r, 0, j] + w1 * matrix[r, 1, j]) + (w2 * matrix[r, 2, j] + w3 * matrix[r, 3, j])
        i = 4
    else:
        w0 = weight[0]
        for j in range(n):
            out[j] = w0 * matrix[r, 0, j]
        i = 1
    while i < n:
        w0 = weight[i]
        for j in range(n):
            out[j] += w0 * matrix[r, i, j]
        i += 1


@njit(**_INLINE)
def total(row, n):
    """sum(row[:n]) in independent partial sums, which the processor overlaps."""
    s0, s1, s2, s3, s4, s5, s6, s7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(0, n - 7, 8):
        s0 += row[k]
        s1 += row[k + 1]
        s2 += row[k + 2]
        s3 += row[k + 3]
        s4 += row[k + 4]
        s5 += row[k + 5]
        s6 += row[k + 6]
        s7 += row[k + 7]
    k = n - n % 8
    if k + 4 <= n:
        s0 += row[k]
        s1 += row[k + 1]
        s2 += row[k + 2]
        s3 += row[k + 3]
        k += 4
    while k < n:
        s0 += row[k]
        k += 1
    return ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7))


@njit(**_INLINE)
def maximum(table, b, t):
    """max(table[b, t]), NaN ignored (-inf if nothing else is there), in four independent comparisons."""
    n = table.shape[2]
    m0, m1, m2, m3 = -np.inf, -np.inf, -np.inf, -np.inf
    k = 0
    while k + 4 <= n:
        x0, x1, x2, x3 = table[b, t, k], table[b, t, k + 1], table[b, t, k + 2], table[b, t, k + 3]
        m0 = x0 if x0 > m0 else m0
        m1 = x1 if x1 > m1 else m1
        m2 = x2 if x2 > m2 else m2
        m3 = x3 if x3 > m3 else m3
        k += 4
    while k < n:
        x0 = table[b, t, k]
        m0 = x0 if x0 > m0 else m0
        k += 1
    m0 = m0 if m0 > m1 else m1
    m2 = m2 if m2 > m3 else m3
    return m0 if m0 > m2 else m2


@njit(**_OPTIONS)
def exponentiate(flat, rounded, bits):
    """flat = exp(flat) for numbers up to 0, to the last digit but one; NaN stays NaN.

    What is no normal number any more becomes 0. `rounded` and `bits` (int64) are scratch of at least the same size.
    """
    for i in range(flat.shape[0]):
        x = flat[i]
        inside = LOG_SMALLEST if x < LOG_SMALLEST else x
        shifted = inside * LOG2_E + ROUND
        rounded[i] = shifted
        q = shifted - ROUND
        r = (inside - q * LOG_2_HIGH) - q * LOG_2_LOW
        p = 1 / 6227020800.0
        p = p * r + 1 / 479001600.0
        p = p * r + 1 / 39916800.0
        p = p * r + 1 / 3628800.0
        p = p * r + 1 / 362880.0
        p = p * r + 1 / 40320.0
        p = p * r + 1 / 5040.0
        p = p * r + 1 / 720.0
        p = p * r + 1 / 120.0
        p = p * r + 1 / 24.0
        p = p * r + 1 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        flat[i] = 0.0 if x < LOG_SMALLEST else p
    last_bits = rounded.view(np.int64)
    for i in range(flat.shape[0]):
        bits[i] = (last_bits[i] + 1023) << 52
    powers = bits.view(np.float64)
    for i in range(flat.shape[0]):
        flat[i] *= powers[i]
