"""One observation of the square-root form: exact readings of state and noise, one by one; compiled.

The reflections and gains are those of `kalman_root.py`, with its symbols.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from probseq.kernels.linalg import EPSILON, clear

STILL_DIFFUSE = 1e-10
"""Size of a reading's diffuse part, relative to the sum of its terms, from which it is no rounding error."""


@njit(cache=True, nogil=True, error_model="numpy")
def gather(factor, rows, first, last, g, norm):
    """Reflect columns [first, last) of `factor` so that what is g there stands in one column, moved to `first`.

    The other columns lose their part along g; the gathered column is factor g / |g|.
    """
    p = first
    for j in range(first, last):
        if abs(g[j]) > abs(g[p]):
            p = j
    signed = norm if g[p] >= 0.0 else -norm
    share = 1.0 / (norm * (norm + abs(g[p])))
    for i in range(rows):
        total = 0.0
        for j in range(first, last):
            total += factor[i, j] * g[j]
        along = (total + signed * factor[i, p]) * share
        for j in range(first, last):
            factor[i, j] -= g[j] * along
        factor[i, p] = factor[i, first]
        factor[i, first] = total / norm
    g[p] = g[first]


@njit(cache=True, nogil=True, error_model="numpy")
def drop_first(factor, rows, last):
    """Move the last column into the place of the first: one column less."""
    for i in range(rows):
        factor[i, 0] = factor[i, last - 1]


@njit(cache=True, nogil=True, error_model="numpy")
def length_of_row(factor, i, columns):
    total = 0.0
    for j in range(columns):
        total += factor[i, j] * factor[i, j]
    return math.sqrt(total)


@njit(cache=True, nogil=True, error_model="numpy")
def read(reading, noise_row, extended, columns, diffuse, count, sizes, diffuse_sizes, tolerance, gain, g):
    """Take one exact reading c' (z, v) = reading' z + v[noise_row - n].

    Writes its gain (n + m,).  Returns the norm of g or q, whether it was diffuse, and the columns left of both.
    A reading whose variance is rounding error (`tolerance` of the `sizes` of its terms) has norm 0 and gain 0.
    """
    n, rows = reading.shape[0], extended.shape[0]
    for i in range(rows):
        gain[i] = 0.0
    if count > 0:
        total, size = 0.0, 0.0
        for j in range(count):
            part = 0.0
            for i in range(n):
                part += reading[i] * diffuse[i, j]
            g[j] = part
            total += part * part
        for i in range(n):
            size += abs(reading[i]) * diffuse_sizes[i]
        norm = math.sqrt(total)
        if norm > STILL_DIFFUSE * size:
            for i in range(n):
                part = 0.0
                for j in range(count):
                    part += diffuse[i, j] * g[j]
                gain[i] = part / total
            gather(diffuse, n, 0, count, g, norm)
            drop_first(diffuse, n, count)
            for j in range(columns):
                part = extended[noise_row, j]
                for i in range(n):
                    part += reading[i] * extended[i, j]
                for i in range(n):
                    extended[i, j] -= gain[i] * part
            return norm, True, columns, count - 1
    total, size = 0.0, sizes[noise_row]
    for j in range(columns):
        part = extended[noise_row, j]
        for i in range(n):
            part += reading[i] * extended[i, j]
        g[j] = part
        total += part * part
    for i in range(n):
        size += abs(reading[i]) * sizes[i]
    norm = math.sqrt(total)
    if not norm > tolerance * size:
        return 0.0, False, columns, count
    for i in range(rows):
        part = 0.0
        for j in range(columns):
            part += extended[i, j] * g[j]
        gain[i] = part / total
    gather(extended, rows, 0, columns, g, norm)
    drop_first(extended, rows, columns)
    return norm, False, columns - 1, count


@njit(cache=True, nogil=True, error_model="numpy")
def extend(root, noise_root, extended, sizes, diffuse, count, diffuse_sizes):
    """extended = diag(root, noise_root) with the lengths of its rows and of those of the diffuse part."""
    n, m = root.shape[0], noise_root.shape[0]
    clear(extended)
    for i in range(n):
        for j in range(n):
            extended[i, j] = root[i, j]
        diffuse_sizes[i] = length_of_row(diffuse, i, count)
    for i in range(m):
        for j in range(m):
            extended[n + i, n + j] = noise_root[i, j]
    for i in range(n + m):
        sizes[i] = length_of_row(extended, i, n + m)


@njit(cache=True, nogil=True, error_model="numpy")
def take(emission, mask, extended, diffuse, count, sizes, diffuse_sizes, readings, order, g, gain, whitener, strict):
    """Take all observed readings of a step; write gain' (m, n) and whitener (m, m) of the whole step.

    Returns -2 times the log-density's constant part without log 2 pi, the columns left of `extended` and of `diffuse`;
    the first is NaN where, with `strict`, a reading has no variance.  Otherwise such a reading is passed over.
    `order` (m, m) is scratch.
    """
    m, n = emission.shape
    columns, log_det = extended.shape[1], 0.0
    tolerance = 16.0 * extended.shape[0] * EPSILON
    clear(gain)
    clear(whitener)
    clear(order)
    for j in range(m):
        if not mask[j]:
            continue
        norm, was_diffuse, columns, count = read(
            emission[j], n + j, extended, columns, diffuse, count, sizes, diffuse_sizes, tolerance, readings[j], g
        )
        if norm == 0.0:
            if strict:
                return np.nan, columns, count
            continue
        log_det += 2.0 * math.log(norm)
        order[j, j] = 1.0
        for i in range(j):
            if mask[i]:
                known = readings[i, n + j]
                for k in range(n):
                    known += emission[j, k] * readings[i, k]
                for k in range(i + 1):
                    order[j, k] -= known * order[i, k]
        for k in range(j + 1):
            if not was_diffuse:
                whitener[j, k] = order[j, k] / norm
            for i in range(n):
                gain[k, i] += readings[j, i] * order[j, k]
    return log_det, columns, count


@njit(cache=True, nogil=True, error_model="numpy")
def columns_in_use(diffuse):
    """The number of columns before the first that is zero."""
    for j in range(diffuse.shape[1]):
        empty = True
        for i in range(diffuse.shape[0]):
            empty = empty and diffuse[i, j] == 0.0
        if empty:
            return j
    return diffuse.shape[1]


@njit(cache=True, nogil=True, error_model="numpy")
def store_diffuse(diffuse, count, target, row, which):
    """Store the columns in use, and zeros for the others."""
    for i in range(diffuse.shape[0]):
        for j in range(diffuse.shape[1]):
            target[row, which, i, j] = diffuse[i, j] if j < count else 0.0
