"""Choosing ancestors: every particle k is to be taken N w_k times on average.

| array     | shape  |                                                        |
|-----------|--------|--------------------------------------------------------|
| weights   | (B, N) | non-negative, any positive sum                          |
| points    | (B, N) | in [0, 1); sorted for `invert`                          |
| ancestors | (B, N) | indices of the particles to go on from, in order        |

`trace` draws the state from which a path came, for backward simulation:

| array       | shape     |                                                                  |
|-------------|-----------|------------------------------------------------------------------|
| log_weights | (B, N)    | of the particles                                                 |
| moved       | (B, N, n) | where the transition takes them, in units of the transition noise |
| reached     | (B, M, n) | where the paths went on, in the same units                       |
| free        | (B,)      | true where nothing comes after: the weights alone decide         |
| points      | (B, M)    | in [0, 1)                                                        |
| chosen      | (B, M)    | indices of particles                                             |

Reference: Douc, Cappe and Moulines (2005), Comparison of resampling schemes for particle filtering.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def sweep(weights, total, points, ancestors):
    """The inverse of the cumulative weights at sorted points; a particle of weight 0 is never taken."""
    last = weights.shape[0] - 1
    while last > 0 and not weights[last] > 0.0:
        last -= 1
    k, reached = 0, weights[0]
    for i in range(points.shape[0]):
        target = points[i] * total
        while reached <= target and k < last:
            k += 1
            reached += weights[k]
        ancestors[i] = k


@njit(cache=True, nogil=True, error_model="numpy")
def invert(weights, points, ancestors):
    """`sweep` for every row."""
    for b in range(weights.shape[0]):
        sweep(weights[b], weights[b].sum(), points[b], ancestors[b])


@njit(cache=True, nogil=True, error_model="numpy")
def residual(weights, points, ancestors):
    """floor(N w_k) copies of every particle, and the rest drawn in proportion to what the floor left over."""
    size = weights.shape[1]
    left = np.empty(size)
    for b in range(weights.shape[0]):
        total = weights[b].sum()
        taken = 0
        for k in range(size):
            expected = size * (weights[b, k] / total)
            copies = min(int(expected), size - taken)
            for i in range(taken, taken + copies):
                ancestors[b, i] = k
            taken += copies
            left[k] = expected - copies
        if taken < size:
            sweep(left, left.sum(), np.sort(points[b, taken:]), ancestors[b, taken:])


@njit(cache=True, nogil=True, error_model="numpy")
def trace(log_weights, moved, reached, free, points, chosen):
    """Draw k with probability in proportion to exp(log_weights_k - |reached - moved_k|^2 / 2), for every path."""
    size, width = moved.shape[1], moved.shape[2]
    scores = np.empty(size)
    for b in range(moved.shape[0]):
        for i in range(reached.shape[1]):
            highest = -np.inf
            for k in range(size):
                score = log_weights[b, k]
                if not free[b]:
                    for j in range(width):
                        away = reached[b, i, j] - moved[b, k, j]
                        score -= 0.5 * away * away
                scores[k] = score
                highest = max(highest, score)
            shares = np.exp(scores - highest)
            sweep(shares, shares.sum(), points[b, i : i + 1], chosen[b, i : i + 1])
