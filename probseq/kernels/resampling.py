"""Choosing ancestors: every particle k is to be taken N w_k times on average.

| array     | shape  |                                                        |
|-----------|--------|--------------------------------------------------------|
| weights   | (B, N) | non-negative, any positive sum                          |
| points    | (B, N) | in [0, 1); sorted for `invert`                          |
| ancestors | (B, N) | indices of the particles to go on from, in order        |

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
