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
def invert_factors(stored, whitener):
    """Write W = L^-1 (K, D, D) for factors L stored lower triangular with a log diagonal, (K, D, D) or one for all."""
    dim = whitener.shape[1]
    for k in range(whitener.shape[0]):
        s = k if stored.shape[0] > 1 else 0
        for i in range(dim):
            for m in range(dim):
                whitener[k, i, m] = 0.0
            for j in range(i):
                for m in range(j + 1):
                    whitener[k, i, m] -= stored[s, i, j] * whitener[k, j, m]
            inverse = math.exp(-stored[s, i, i])
            for m in range(i):
                whitener[k, i, m] *= inverse
            whitener[k, i, i] = inverse


@njit(**_OPTIONS)
def invert_variances(stored, whitener):
    """Write the diagonals of W for log variances (K, D) or (K, 1); nothing else of W is read then."""
    for k in range(whitener.shape[0]):
        for d in range(whitener.shape[1]):
            whitener[k, d, d] = math.exp(-0.5 * stored[k, d if stored.shape[1] > 1 else 0])


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
def scatter_groups(first, last, n_groups, rows, seen, means, weights, diagonal, mass, away_sum, total):
    """`scatter` of the groups `first` to `last` of `n_groups` stretches of rows, each into its own sums."""
    n = rows.shape[0]
    for g in range(first, last + 1):
        begin, stop = (g * n + n_groups - 1) // n_groups, ((g + 1) * n + n_groups - 1) // n_groups
        scatter(
            rows[begin:stop], seen[begin:stop], means, weights[begin:stop], diagonal, mass[g], away_sum[g], total[g]
        )  # fmt: skip


@njit(**_OPTIONS)
def add_groups(mass, away_sum, total):
    """Add up groups of moments into the first."""
    dim = total.shape[3]
    for g in range(1, mass.shape[0]):
        for k in range(mass.shape[1]):
            mass[0, k] += mass[g, k]
            for i in range(dim):
                away_sum[0, k, i] += away_sum[g, k, i]
                for j in range(dim):
                    total[0, k, i, j] += total[g, k, i, j]


@njit(**_OPTIONS)
def recentre(mass, away_sum, total, means):
    """Add up groups of moments about `means` into the first, and move these and the means to the weighted means.

    mass (G, K), away_sum (G, K, D), total (G, K, D, D), its lower triangle. S - a a' / m loses digits where the means
    move far, in units of what is left: False then, with the means moved and the scatter to be found again.
    """
    fine = True
    add_groups(mass, away_sum, total)
    for k in range(means.shape[0]):
        if mass[0, k] > 0:
            for i in range(means.shape[1]):
                for j in range(i + 1):
                    moved = away_sum[0, k, i] * away_sum[0, k, j] / mass[0, k]
                    total[0, k, i, j] -= moved
                fine &= total[0, k, i, i] >= 0.125 * moved
            for i in range(means.shape[1]):
                means[k, i] += away_sum[0, k, i] / mass[0, k]
    return fine


@njit(**_OPTIONS)
def _factorise(matrix, lower):
    """Write the Cholesky factor; False where a pivot is not positive."""
    for i in range(matrix.shape[0]):
        for j in range(i + 1):
            rest = matrix[i, j]
            for m in range(j):
                rest -= lower[i, m] * lower[j, m]
            if i > j:
                lower[i, j] = rest / lower[j, j]
            elif not 0 < rest < np.inf:
                return False
            else:
                lower[i, i] = math.sqrt(rest)
    return True


@njit(**_OPTIONS)
def _least(total, mass, means, share):
    """`share` of the variances of the rows, (D,), when the weights of a row sum to 1."""
    least, whole = np.empty(means.shape[1]), 0.0
    for k in range(means.shape[0]):
        whole += mass[k]
    for d in range(means.shape[1]):
        centre, variance = 0.0, 0.0
        for k in range(means.shape[0]):
            centre += mass[k] / whole * means[k, d]
        for k in range(means.shape[0]):
            variance += (total[k, d, d] + mass[k] * (means[k, d] - centre) ** 2) / whole
        least[d] = share * variance
    return least


@njit(**_OPTIONS)
def store_factors(total, mass, means, share, stored):
    """Write the factors of total / mass with log diagonals (K, D, D), or (1, D, D) that of their sums.

    A state without mass keeps its own. False, and unfinished factors, where an eigenvalue in units of the floor, which
    is `share` of the variances of the rows, is below 1: total / mass less the floor has no factor then.
    """
    dim, tied = total.shape[1], stored.shape[0] < total.shape[0]
    floor, lower, cov = _least(total, mass, means, share), np.zeros((dim, dim)), np.zeros((dim, dim))
    for s in range(stored.shape[0]):
        weight, stop = 0.0, total.shape[0] if tied else s + 1
        for k in range(s, stop):
            weight += mass[k]
        if not weight > 0:
            continue
        for i in range(dim):
            for j in range(i + 1):
                cov[i, j] = 0.0
                for k in range(s, stop):
                    cov[i, j] += total[k, i, j] / weight
        for d in range(dim):
            cov[d, d] -= floor[d]
            if not floor[d] > 0:
                return False
        if not _factorise(cov, lower):
            return False
        for d in range(dim):
            cov[d, d] += floor[d]
        if not _factorise(cov, lower):
            return False
        for i in range(dim):
            for j in range(dim):
                stored[s, i, j] = math.log(lower[i, i]) if i == j else lower[i, j]
    return True


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


@njit(**_OPTIONS)
def pull_stored(mass, away_sum, total, stored, into_means, into_stored):
    """The derivative of sum(weight * table) in means and factors with log diagonals (K or 1, D, D), from moments.

    With W = L^-1: W'W a in a mean, and tril(W' (W S W')) - diag(m W) in L. mass (G, K), away_sum (G, K, D) and
    total (G, K, D, D), its lower triangle, are added up in the first; into_stored is added to.
    """
    n_states, dim = into_means.shape
    add_groups(mass, away_sum, total)
    whitener, half, white = np.empty((n_states, dim, dim)), np.zeros((dim, dim)), np.empty(dim)
    invert_factors(stored, whitener)
    for k in range(n_states):
        w, s = whitener[k], (k if stored.shape[0] > 1 else 0)
        for i in range(dim):
            white[i] = 0.0
            for j in range(i + 1):
                white[i] += w[i, j] * away_sum[0, k, j]
            for j in range(dim):
                half[i, j] = 0.0
                for m in range(i + 1):
                    half[i, j] += w[i, m] * total[0, k, max(m, j), min(m, j)]
        for i in range(dim):
            into_means[k, i] = 0.0
            for m in range(i, dim):
                into_means[k, i] += w[m, i] * white[m]
            for j in range(i + 1):
                pulled = 0.0
                for m in range(i, dim):
                    square = 0.0
                    for q in range(j + 1):
                        square += half[m, q] * w[j, q]
                    pulled += w[m, i] * square
                into_stored[s, i, j] += pulled / w[i, i] - mass[0, k] if i == j else pulled
