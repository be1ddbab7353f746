"""Windows of an AR-HMM across gaps: the forward recursion that decides what a missing value is expected to be.

| name      | shape              |                                                                       |
|-----------|--------------------|-----------------------------------------------------------------------|
| y, seen   | (B, T, D)          | rows, and which entries count                                         |
| first     | (B, K)             | log p(z_0)                                                            |
| moves     | (B or 1, T or 1,   | log p(z_t given z_{t-1}), -inf where impossible                       |
|           |  K, K)             |                                                                       |
| slopes    | (K, D, p D)        | of the window, newest row first                                       |
| covs      | (K, D, D)          |                                                                       |
| windows   | (B, T + 1, p, D)   | written; [:, 0] holds the first ones                                  |

The belief is carried as logarithms, normalised at every step.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from probseq.kernels.linalg import whiten


@njit(cache=True, nogil=True, error_model="numpy")
def fill(y, seen, lengths, first, moves, slopes, intercepts, covs, windows):
    """Write the windows after every step; a missing entry is its expectation given all that was observed so far."""
    n_batch, n_steps, dim = y.shape
    n_states = first.shape[1]
    whole, log_dets, scale = np.zeros((n_states, dim, dim)), np.zeros(n_states), np.empty(dim)
    for k in range(n_states):
        log_dets[k] = whiten(covs[k].copy(), whole[k], scale)
    belief, ahead = np.empty(n_states), np.empty(n_states)
    expected = np.empty((n_states, dim))
    everything = np.arange(dim)
    for b in range(n_batch):
        for t in range(n_steps):
            before, after = windows[b, t], windows[b, t + 1]
            if t >= lengths[b]:
                after[:] = before
                continue
            if t == 0:
                belief[:] = first[b]
            else:
                _move(belief, moves[b if moves.shape[0] > 1 else 0, t if moves.shape[1] > 1 else 0], ahead)
            shown = everything[seen[b, t]]
            for k in range(n_states):
                _mean(slopes[k], intercepts[k], before, expected[k])
                if len(shown) == dim:
                    ahead[k] = belief[k] + _density(y[b, t], expected[k], whole[k], log_dets[k])
                else:
                    ahead[k] = belief[k] + _condition(y[b, t], shown, covs[k], expected[k])
            total = _log_total(ahead)
            if total > -np.inf:
                belief[:] = ahead - total
            after[1:] = before[:-1]
            for d in range(dim):
                if seen[b, t, d]:
                    after[0, d] = y[b, t, d]
                else:
                    after[0, d] = 0.0
                    for k in range(n_states):
                        after[0, d] += math.exp(belief[k]) * expected[k, d]


@njit(cache=True, nogil=True, error_model="numpy")
def _move(belief, moves, ahead):
    """belief_j = log sum_i exp(belief_i + moves_ij), in place."""
    n_states = len(belief)
    for j in range(n_states):
        top = -np.inf
        for i in range(n_states):
            top = max(top, belief[i] + moves[i, j])
        total = 0.0
        if top > -np.inf:
            for i in range(n_states):
                total += math.exp(belief[i] + moves[i, j] - top)
        ahead[j] = top + math.log(total) if total > 0 else -np.inf
    belief[:] = ahead


@njit(cache=True, nogil=True, error_model="numpy")
def _log_total(terms):
    """log sum exp, -inf for nothing."""
    top = terms.max()
    return top + math.log(np.exp(terms - top).sum()) if top > -np.inf else -np.inf


@njit(cache=True, nogil=True, error_model="numpy")
def _mean(slopes, intercepts, window, mean):
    """intercepts + slopes (window, newest row first)."""
    order, dim = window.shape
    for d in range(dim):
        total = intercepts[d]
        for j in range(order):
            for e in range(dim):
                total += slopes[d, j * dim + e] * window[j, e]
        mean[d] = total


@njit(cache=True, nogil=True, error_model="numpy")
def _density(row, mean, whitener, log_det):
    """log N(row; mean, S) from the whitener of S."""
    size, total = len(row), 0.0
    for i in range(size):
        white = 0.0
        for j in range(i + 1):
            white += whitener[i, j] * (row[j] - mean[j])
        total += white * white
    return -0.5 * (total + log_det + size * math.log(2 * math.pi))


@njit(cache=True, nogil=True, error_model="numpy")
def _condition(row, shown, cov, expected):
    """log p(the shown entries), and `expected` moved from the mean to E[row given them]."""
    size = len(shown)
    if size == 0:
        return 0.0
    inner, whitener, scale = np.empty((size, size)), np.zeros((size, size)), np.empty(size)
    for i in range(size):
        for j in range(size):
            inner[i, j] = cov[shown[i], shown[j]]
    log_det = whiten(inner, whitener, scale)
    density = _density(row[shown], expected[shown], whitener, log_det)
    white = whitener @ (row[shown] - expected[shown])
    pull = whitener.T @ white
    for d in range(len(row)):
        for i in range(size):
            expected[d] += cov[d, shown[i]] * pull[i]
    return density
