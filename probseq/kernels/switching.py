"""The filter of a switching linear system, compiled: interacting multiple models and generalised pseudo-Bayes.

    M components, K of them ("imm") or K^2 ("gpb2", pair (i, j) at i K + j); component c is in regime c mod K
    for t in range(length):
        predicted[t] = M components, their log-weights, means, covariances
        each is conditioned on y_t; log p(y_t given y_<t) = log sum_c w_c N_c
        updated[t] = K components, pairs with one end collapsed
        the next M: pairs with one end collapsed ("imm"), or all pairs, moved by F, b, Q of the regime moved into

| array                        | shape               |   | array             | shape     |
|------------------------------|---------------------|---|-------------------|-----------|
| predicted weight, mean, cov  | (B, T, M, 1, n, n n)|   | log_moves         | (K, K)    |
| updated weight, mean, cov    | (B, T, K, 1, n, n n)|   | matrix, offset, cov | (K, n, n) |
| y, seen                      | (B, T, m)           |   | emission, level, noise | (K, m, n) |

The first predicted belief is what the caller wrote to predicted[:, 0]. Beyond the end of a sequence beliefs repeat
the last ones and scores are 0. `status` is (sequence, step) of an innovation covariance that is singular, or -1.
The specification is the four-step loop of `probseq.models.switching`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from probseq.kernels.linalg import symmetrise, whiten

LOG_2PI = math.log(2.0 * math.pi)


@njit(cache=True, nogil=True, error_model="numpy")
def log_sum(values):
    """log sum exp, -inf for an empty sum, and the largest value."""
    top = -np.inf
    for value in values:
        top = max(top, value)
    if top == -np.inf:
        return top
    total = 0.0
    for value in values:
        total += math.exp(value - top)
    return math.log(total) + top


@njit(cache=True, nogil=True, error_model="numpy")
def add_outer(total, vector, factor):
    """total += factor vector vector'."""
    for a in range(len(vector)):
        for b in range(len(vector)):
            total[a, b] += factor * vector[a] * vector[b]


@njit(cache=True, nogil=True, error_model="numpy")
def collapse(logs, means, covs, shares, mean, cov, away):
    """One Gaussian for components (R,), (R, n), (R, n, n); returns the log of their weight."""
    total = log_sum(logs)
    mean[:] = 0.0
    cov[:] = 0.0
    for i in range(len(logs)):
        shares[i] = math.exp(logs[i] - total) if total > -np.inf else 1.0 / len(logs)
        for a in range(len(mean)):
            mean[a] += shares[i] * means[i, a]
    for i in range(len(logs)):
        for a in range(len(mean)):
            away[a] = means[i, a] - mean[a]
            for b in range(len(mean)):
                cov[a, b] += shares[i] * covs[i, a, b]
        add_outer(cov, away, shares[i])
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def sandwich(left, middle, out, scratch, rows, inner):
    """out += left middle left', for left (rows, inner), with scratch of its shape."""
    for a in range(rows):
        for b in range(inner):
            total = 0.0
            for c in range(inner):
                total += left[a, c] * middle[c, b]
            scratch[a, b] = total
    for a in range(rows):
        for b in range(rows):
            total = 0.0
            for c in range(inner):
                total += scratch[a, c] * left[b, c]
            out[a, b] += total


@njit(cache=True, nogil=True, error_model="numpy")
def move(mean, cov, matrix, offset, noise, new_mean, new_cov, scratch):
    """N(F m + b, F P F' + Q)."""
    n = len(mean)
    for a in range(n):
        total = offset[a]
        for b in range(n):
            total += matrix[a, b] * mean[b]
        new_mean[a] = total
    new_cov[:] = 0.0
    sandwich(matrix, cov, new_cov, scratch, n, n)
    symmetrise(new_cov)
    for a in range(n):
        for b in range(n):
            new_cov[a, b] += noise[a, b]


@njit(cache=True, nogil=True, error_model="numpy")
def condition(mean, cov, emission, level, noise, y, seen, new_mean, new_cov, space):
    """Kalman's step on the observed coordinates, in Joseph's form; returns log p(y), NaN where it has no density."""
    chosen, residual, cross, spread, whitener, scale, gain, keep, own, left, wide = space
    n, q = len(mean), 0
    for i in range(len(y)):
        if seen[i]:
            chosen[q] = i
            q += 1
    new_mean[:] = mean
    new_cov[:] = cov
    if q == 0:
        return 0.0
    for i in range(q):
        row = chosen[i]
        residual[i] = y[row] - level[row]
        for a in range(n):
            residual[i] -= emission[row, a] * mean[a]
        for a in range(n):
            total = 0.0
            for b in range(n):
                total += cov[a, b] * emission[row, b]
            cross[a, i] = total
    for i in range(q):
        for j in range(q):
            own[i, j] = noise[chosen[i], chosen[j]]
            total = own[i, j]
            for a in range(n):
                total += emission[chosen[i], a] * cross[a, j]
            spread[i, j] = total
    log_det = whiten(spread[:q, :q], whitener[:q, :q], scale)
    if not log_det < np.inf:
        return np.nan
    square = 0.0
    for i in range(q):
        white = 0.0
        for j in range(i + 1):
            white += whitener[i, j] * residual[j]
        square += white * white
    for a in range(n):
        for i in range(q):  # P C' W', then that times W
            total = 0.0
            for j in range(i + 1):
                total += cross[a, j] * whitener[i, j]
            wide[a, i] = total
        for i in range(q):
            total = 0.0
            for j in range(i, q):
                total += wide[a, j] * whitener[j, i]
            gain[a, i] = total
    for a in range(n):
        for i in range(q):
            new_mean[a] += gain[a, i] * residual[i]
        for b in range(n):
            total = 1.0 if a == b else 0.0
            for i in range(q):
                total -= gain[a, i] * emission[chosen[i], b]
            keep[a, b] = total
    new_cov[:] = 0.0
    sandwich(keep, cov, new_cov, left, n, n)
    sandwich(gain, own, new_cov, wide, n, q)
    symmetrise(new_cov)
    return -0.5 * (square + log_det + q * LOG_2PI)


@njit(cache=True, nogil=True, error_model="numpy")
def filter_sequence(log_moves, moves, emits, y, seen, length, before, after, scores):
    """One sequence; returns the step at which an innovation covariance is singular, or -1."""
    matrix, offset, process = moves
    emission, level, noise = emits
    weights, means, covs = before
    new_weights, new_means, new_covs = after
    steps, count, n = means.shape
    k, m = log_moves.shape[0], y.shape[1]
    pairs = count > k
    space = (
        np.empty(m, dtype=np.int64), np.empty(m), np.empty((n, m)), np.empty((m, m)), np.empty((m, m)), np.empty(m),
        np.empty((n, m)), np.empty((n, n)), np.empty((m, m)), np.empty((n, n)), np.empty((n, m)),
    )  # fmt: skip
    joint, own_means, own_covs = np.empty(count), np.empty((count, n)), np.empty((count, n, n))
    logs, group_means, group_covs = np.empty(k), np.empty((k, n)), np.empty((k, n, n))
    shares, away, mean, cov, scratch = np.empty(k), np.empty(n), np.empty(n), np.empty((n, n)), np.empty((n, n))
    for t in range(length):
        for c in range(count):
            r = c % k
            density = condition(
                means[t, c], covs[t, c], emission[r], level[r], noise[r], y[t], seen[t], own_means[c], own_covs[c],
                space,
            )  # fmt: skip
            if math.isnan(density):
                return t
            joint[c] = weights[t, c] + density
        scores[t] = log_sum(joint)
        for j in range(k):
            if pairs:
                for i in range(k):
                    logs[i] = joint[i * k + j] - scores[t]
                    group_means[i] = own_means[i * k + j]
                    group_covs[i] = own_covs[i * k + j]
                new_weights[t, j] = collapse(logs, group_means, group_covs, shares, mean, cov, away)
                new_means[t, j] = mean
                new_covs[t, j] = cov
            else:
                new_weights[t, j] = joint[j] - scores[t]
                new_means[t, j] = own_means[j]
                new_covs[t, j] = own_covs[j]
        if t + 1 == length:
            break
        for j in range(k):
            for i in range(k):
                logs[i] = new_weights[t, i] + log_moves[i, j]
                if pairs:
                    c = i * k + j
                    weights[t + 1, c] = logs[i]
                    move(
                        new_means[t, i], new_covs[t, i], matrix[j], offset[j], process[j], means[t + 1, c],
                        covs[t + 1, c], scratch,
                    )  # fmt: skip
            if not pairs:
                weights[t + 1, j] = collapse(logs, new_means[t], new_covs[t], shares, mean, cov, away)
                move(mean, cov, matrix[j], offset[j], process[j], means[t + 1, j], covs[t + 1, j], scratch)
    last = max(length - 1, 0)
    for t in range(length, steps):
        weights[t], means[t], covs[t] = weights[last], means[last], covs[last]
        if length > 0:
            new_weights[t], new_means[t], new_covs[t] = new_weights[last], new_means[last], new_covs[last]
        else:
            new_weights[t], new_means[t], new_covs[t] = weights[0, :k], means[0, :k], covs[0, :k]
        scores[t] = 0.0
    return -1


@njit(cache=True, nogil=True, error_model="numpy")
def filter_all(log_moves, moves, emits, y, seen, lengths, before, after, scores, status):
    """Every sequence in turn."""
    for b in range(len(lengths)):
        found = filter_sequence(
            log_moves, moves, emits, y[b], seen[b], lengths[b], (before[0][b], before[1][b], before[2][b]),
            (after[0][b], after[1][b], after[2][b]), scores[b],
        )  # fmt: skip
        if found >= 0:
            status[0], status[1] = b, found
            return
