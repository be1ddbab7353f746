"""Gaussian log-densities of many rows under many states, and their adjoint.

    z = W_k (x_n - mu_k),     table[n, k] = log |W_k| - (D log 2 pi + z'z) / 2,     W_k' W_k = covs[k]^-1

| array    | shape     |                                                                         |
|----------|-----------|-------------------------------------------------------------------------|
| rows     | (N, D)    | x                                                                       |
| means    | (K, D)    | mu                                                                      |
| whitener | (K, D, D) | W, lower triangular; only the diagonal is read when `diagonal`          |
| table    | (N, K)    | log-densities; `weight` is the incoming gradient of the same shape      |

Rows are handled in blocks, transposed so that the innermost loop runs over the rows of a block. The sums over rows may
be reordered by the compiler, which needs no assumption about NaN or infinity, and come out the same every time.
"""

import math

import numpy as np
from numba import njit

BLOCK = 64
LOG_2PI = math.log(2 * math.pi)

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}


@njit(**_OPTIONS)
def _take(rows, block):
    """block (D, BLOCK) = rows' (at most BLOCK of them)."""
    for r in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            block[j, r] = rows[r, j]


@njit(**_OPTIONS)
def _whiten(block, mean, whitener, k, diagonal, away, white):
    """Write away = (x - mu)' and white = (W (x - mu))' for one block of rows, all (D, BLOCK)."""
    dim = block.shape[0]
    for j in range(dim):
        centre = mean[k, j]
        for r in range(BLOCK):
            away[j, r] = block[j, r] - centre
    for d in range(dim):
        one = whitener[k, d, d]
        for r in range(BLOCK):
            white[d, r] = one * away[d, r]
        if diagonal:
            continue
        for q in range(d // 4):  # four columns at a time: one load and store of `white` for four products
            j = 4 * q
            one, two, three, four = (
                whitener[k, d, j], whitener[k, d, j + 1], whitener[k, d, j + 2], whitener[k, d, j + 3]
            )  # fmt: skip
            for r in range(BLOCK):
                white[d, r] += (one * away[j, r] + two * away[j + 1, r]) + (
                    three * away[j + 2, r] + four * away[j + 3, r]
                )
        for j in range(d - d % 4, d):
            one = whitener[k, d, j]
            for r in range(BLOCK):
                white[d, r] += one * away[j, r]


@njit(**_OPTIONS)
def forward(rows, means, whitener, diagonal, table):
    """Fill the table (N, K)."""
    n_rows, dim = rows.shape
    n_states = means.shape[0]
    block, away, white = np.zeros((dim, BLOCK)), np.empty((dim, BLOCK)), np.empty((dim, BLOCK))
    total, result, constant = np.empty(BLOCK), np.empty((n_states, BLOCK)), np.empty(n_states)
    for k in range(n_states):
        constant[k] = -0.5 * dim * LOG_2PI
        for d in range(dim):
            constant[k] += math.log(whitener[k, d, d])
    for start in range(0, n_rows, BLOCK):
        stop = min(start + BLOCK, n_rows)
        _take(rows[start:stop], block)
        for k in range(n_states):
            _whiten(block, means, whitener, k, diagonal, away, white)
            for r in range(BLOCK):
                total[r] = white[0, r] * white[0, r]
            for d in range(1, dim):
                for r in range(BLOCK):
                    total[r] += white[d, r] * white[d, r]
            for r in range(BLOCK):
                result[k, r] = constant[k] - 0.5 * total[r]
        out = table[start:stop]
        for r in range(out.shape[0]):
            for k in range(n_states):
                out[r, k] = result[k, r]


@njit(**_OPTIONS)
def pull_rows(rows, means, whitener, diagonal, weight, grad_rows):
    """Add the derivative of sum(weight * table) in the rows: -weight W'W (x - mu), summed over the states."""
    n_rows, dim = rows.shape
    block, away, white = np.zeros((dim, BLOCK)), np.empty((dim, BLOCK)), np.empty((dim, BLOCK))
    for start in range(0, n_rows, BLOCK):
        stop = min(start + BLOCK, n_rows)
        _take(rows[start:stop], block)
        out, pull = grad_rows[start:stop], weight[start:stop]
        for k in range(means.shape[0]):
            _whiten(block, means, whitener, k, diagonal, away, white)
            for d in range(dim):
                for j in range(d if diagonal else 0, d + 1):
                    one = whitener[k, d, j]
                    for r in range(out.shape[0]):
                        out[r, j] -= one * (white[d, r] * pull[r, k])


@njit(**_OPTIONS)
def scatter(rows, seen, means, weights, diagonal, mass, away_sum, total):
    """Add the sums over n of w, w (x - mu) and w (x - mu)(x - mu)', w = weights[n, k], to the last three arguments.

    mass (K,), away_sum (K, D), total (K, D, D): its diagonal alone when `diagonal`. `seen` (N, D) zeroes single
    coordinates of x - mu, or is (0, 0) where all count.
    """
    n_rows, dim = rows.shape
    n_states = means.shape[0]
    partial = seen.shape[0] > 0
    block, shown, away = np.zeros((dim, BLOCK)), np.zeros((dim, BLOCK)), np.empty((dim, BLOCK))
    weight, weighted = np.zeros((n_states, BLOCK)), np.empty(BLOCK)
    for start in range(0, n_rows, BLOCK):
        stop = min(start + BLOCK, n_rows)
        if stop - start < BLOCK:
            weight[:] = 0.0
        _take(rows[start:stop], block)
        _take(weights[start:stop], weight)
        if partial:
            _take(seen[start:stop], shown)
        for k in range(n_states):
            one = 0.0
            for r in range(BLOCK):
                one += weight[k, r]
            mass[k] += one
            for j in range(dim):
                centre = means[k, j]
                for r in range(BLOCK):
                    away[j, r] = block[j, r] - centre
                if partial:
                    for r in range(BLOCK):
                        away[j, r] *= shown[j, r]
            for d in range(dim):
                one = 0.0
                for r in range(BLOCK):
                    weighted[r] = weight[k, r] * away[d, r]
                    one += weighted[r]
                away_sum[k, d] += one
                for j in range(d if diagonal else 0, d + 1):
                    one = 0.0
                    for r in range(BLOCK):
                        one += weighted[r] * away[j, r]
                    total[k, d, j] += one
