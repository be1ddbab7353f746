"""Gaussian log-densities of many rows under many states, and their adjoint.

    z = W_k (x_n - mu_k),     table[n, k] = log |W_k| - (D log 2 pi + z'z) / 2,     W_k' W_k = covs[k]^-1

| array    | shape     |                                                                         |
|----------|-----------|-------------------------------------------------------------------------|
| rows     | (N, D)    | x                                                                       |
| means    | (K, D)    | mu                                                                      |
| whitener | (K, D, D) | W, lower triangular; only the diagonal is read when `diagonal`          |
| table    | (N, K)    | log-densities; `weight` is the incoming gradient of the same shape      |

Rows are handled in blocks, transposed so that the innermost loop runs over the rows of a block.
"""

import math

import numpy as np
from numba import njit

BLOCK = 64
LOG_2PI = math.log(2 * math.pi)


@njit(cache=True, nogil=True, error_model="numpy")
def _take(rows, start, width, block):
    for r in range(width):
        for j in range(rows.shape[1]):
            block[j, r] = rows[start + r, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _whiten(block, width, mean, whitener, diagonal, away, white):
    """Write away = (x - mu)' and white = (W (x - mu))' for one block of rows, all (D, BLOCK)."""
    dim = block.shape[0]
    for j in range(dim):
        centre = mean[j]
        for r in range(width):
            away[j, r] = block[j, r] - centre
    for d in range(dim):
        one = whitener[d, d]
        for r in range(width):
            white[d, r] = one * away[d, r]
        if diagonal:
            continue
        j = 0
        while j + 4 <= d:  # four columns at a time: one load and store of `white` for four products
            one, two, three, four = whitener[d, j], whitener[d, j + 1], whitener[d, j + 2], whitener[d, j + 3]
            for r in range(width):
                white[d, r] += (one * away[j, r] + two * away[j + 1, r]) + (
                    three * away[j + 2, r] + four * away[j + 3, r]
                )
            j += 4
        while j < d:
            one = whitener[d, j]
            for r in range(width):
                white[d, r] += one * away[j, r]
            j += 1


@njit(cache=True, nogil=True, error_model="numpy")
def forward(rows, means, whitener, diagonal, table):
    """Fill the table (N, K)."""
    n_rows, dim = rows.shape
    n_states = means.shape[0]
    block = np.empty((dim, BLOCK))
    away = np.empty((dim, BLOCK))
    white = np.empty((dim, BLOCK))
    total = np.empty(BLOCK)
    constant = np.empty(n_states)
    for k in range(n_states):
        constant[k] = -0.5 * dim * LOG_2PI
        for d in range(dim):
            constant[k] += math.log(whitener[k, d, d])
    for start in range(0, n_rows, BLOCK):
        width = min(BLOCK, n_rows - start)
        _take(rows, start, width, block)
        for k in range(n_states):
            _whiten(block, width, means[k], whitener[k], diagonal, away, white)
            for r in range(width):
                total[r] = 0.0
            for d in range(dim):
                for r in range(width):
                    total[r] += white[d, r] * white[d, r]
            for r in range(width):
                table[start + r, k] = constant[k] - 0.5 * total[r]


@njit(cache=True, nogil=True, error_model="numpy")
def backward(rows, means, whitener, diagonal, weight, grad_rows, grad_means, grad_whitener):
    """Add the derivatives of sum(weight * table) to the three gradients."""
    n_rows, dim = rows.shape
    n_states = means.shape[0]
    block = np.empty((dim, BLOCK))
    away = np.empty((dim, BLOCK))
    white = np.empty((dim, BLOCK))
    for start in range(0, n_rows, BLOCK):
        width = min(BLOCK, n_rows - start)
        _take(rows, start, width, block)
        for k in range(n_states):
            _whiten(block, width, means[k], whitener[k], diagonal, away, white)
            for d in range(dim):
                for r in range(width):
                    g = weight[start + r, k]
                    white[d, r] *= g
                    grad_whitener[k, d, d] += g / whitener[k, d, d]
                for j in range(d if diagonal else 0, d + 1):
                    total = 0.0
                    for r in range(width):
                        total += white[d, r] * away[j, r]
                    grad_whitener[k, d, j] -= total
                    for r in range(width):
                        pull = whitener[k, d, j] * white[d, r]
                        grad_rows[start + r, j] -= pull
                        grad_means[k, j] += pull


@njit(cache=True, nogil=True, error_model="numpy")
def scatter(rows, seen, means, weights, diagonal, total):
    """Add sum_n weights[n, k] (x_n - mu_k)(x_n - mu_k)' to total (K, D, D), its diagonal alone when `diagonal`.

    `seen` (N, D) zeroes single coordinates, or is (0, 0) where all count. Eight partial sums keep the additions of a
    block independent of each other, in a fixed order.
    """
    n_rows, dim = rows.shape
    partial = seen.shape[0] > 0
    block = np.empty((dim, BLOCK))
    shown = np.empty((dim, BLOCK))
    away = np.empty((dim, BLOCK))
    weighted = np.empty(BLOCK)
    for start in range(0, n_rows, BLOCK):
        width = min(BLOCK, n_rows - start)
        for j in range(dim):
            for r in range(BLOCK):
                block[j, r] = 0.0
        _take(rows, start, width, block)
        if partial:
            _take(seen, start, width, shown)
        for k in range(means.shape[0]):
            for j in range(dim):
                centre = means[k, j]
                for r in range(width):
                    away[j, r] = block[j, r] - centre
                if partial:
                    for r in range(width):
                        away[j, r] *= shown[j, r]
                for r in range(width, BLOCK):
                    away[j, r] = 0.0
            for d in range(dim):
                for r in range(width):
                    weighted[r] = weights[start + r, k] * away[d, r]
                for r in range(width, BLOCK):
                    weighted[r] = 0.0
                for j in range(d if diagonal else 0, d + 1):
                    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
                    for r in range(0, BLOCK, 8):
                        s0 += weighted[r] * away[j, r]
                        s1 += weighted[r + 1] * away[j, r + 1]
                        s2 += weighted[r + 2] * away[j, r + 2]
                        s3 += weighted[r + 3] * away[j, r + 3]
                        s4 += weighted[r + 4] * away[j, r + 4]
                        s5 += weighted[r + 5] * away[j, r + 5]
                        s6 += weighted[r + 6] * away[j, r + 6]
                        s7 += weighted[r + 7] * away[j, r + 7]
                    total[k, d, j] += ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
    for k in range(means.shape[0]):
        for d in range(dim):
            for j in range(d):
                total[k, j, d] = total[k, d, j]
