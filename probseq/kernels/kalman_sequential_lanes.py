"""`kalman_sequential.py` for few states and many sequences with patterns of missing entries of their own; compiled."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from probseq.kernels.kalman_conditions import SHARE
from probseq.kernels.kalman_covariance import LOG_TWO_PI
from probseq.kernels.kalman_sequential import SMALLEST_NORMAL
from probseq.kernels.rows import extent

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}

LANES = 64
"""Sequences side by side: a few vector registers wide, and the covariances of all fit into the nearest cache."""

EXPONENT, ONE, MANTISSA = 52, 1023 << 52, (1 << 52) - 1
"""The layout of a double: x = 2^((bits >> 52) - 1023) m with m in [1, 2) for normal positive x."""

AT_ONCE = 1000
"""Factors in [1, 2) whose product does not overflow."""


@njit(**_OPTIONS)
def lanes_by_one(size, m0, P0, A, Q, d, C, r, y, seen, lengths, log_prob):
    """`one_by_one` for few states and many sequences, the innermost loops running over LANES of them."""
    n, m, batch, partial = extent(size), C.shape[0], lengths.shape[0], seen.shape[1] > 0
    P, left = np.empty((n, n, LANES)), np.empty((n, n, LANES))
    x, M, K, spread = np.empty((n, LANES)), np.empty((n, LANES)), np.empty((n, LANES)), np.empty((n, LANES))
    F, v, weight, terms, rest = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    square, factors, log_det = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    powers, count, bits = np.empty(LANES, np.int64), np.empty(LANES, np.int64), F.view(np.int64)
    plain_bits = np.empty(LANES, np.int64)
    plain = plain_bits.view(np.float64)
    for origin in range(0, batch, LANES):
        width = min(LANES, batch - origin)
        values, ends = y[origin : origin + width], lengths[origin : origin + width]
        mask = seen[origin : origin + width] if partial else seen
        own, start = origin if d.shape[0] > 1 else 0, origin if P0.shape[0] > 1 else 0
        last, pending = 0, 0
        for b in range(LANES):
            square[b], factors[b], log_det[b], powers[b], count[b] = 0.0, 1.0, 0.0, 0, 0
            v[b], weight[b] = 0.0, 0.0
            row = min(b, width - 1)
            if b < width:
                last = max(last, ends[b])
            for i in range(n):
                x[i, b] = m0[origin + row, i]
                for k in range(n):
                    P[i, k, b] = P0[start + (row if P0.shape[0] > 1 else 0), i, k]
        for t in range(last):
            for i in range(n):
                for b in range(LANES):
                    spread[i, b] = P[i, i, b]
            for j in range(m):
                noise = r[j]
                for b in range(width):
                    use = t < ends[b] and (not partial or mask[b, t, j])
                    weight[b] = 1.0 if use else 0.0
                    v[b] = values[b, t, j] if use else 0.0
                for b in range(LANES):
                    F[b], terms[b] = noise, 0.0
                for i in range(n):
                    factor = C[j, i]
                    for b in range(LANES):
                        v[b] -= weight[b] * factor * x[i, b]
                        terms[b] += factor * factor * spread[i, b]
                        M[i, b] = 0.0
                    for k in range(n):
                        other = C[j, k]
                        for b in range(LANES):
                            M[i, b] += other * P[i, k, b]
                    for b in range(LANES):
                        F[b] += factor * M[i, b]
                lost = 0
                for b in range(LANES):
                    fine = (noise >= SHARE * F[b]) & (F[b] >= SHARE * n * terms[b])
                    fine = fine & (F[b] >= SMALLEST_NORMAL) & (abs(v[b]) < np.inf)
                    lost += 0 if fine | (weight[b] == 0.0) else 1
                if lost > 0:
                    return False
                for b in range(LANES):
                    used = np.int64(weight[b])
                    count[b] += used
                    powers[b] += used * ((bits[b] >> EXPONENT) - 1023)
                    plain_bits[b] = (bits[b] & MANTISSA) | ONE
                for b in range(LANES):
                    factors[b] *= 1.0 + weight[b] * (plain[b] - 1.0)
                    gain = 1.0 / F[b] if weight[b] > 0.0 else 0.0
                    square[b] += gain * v[b] * v[b] if weight[b] > 0.0 else 0.0
                    rest[b] = gain
                for i in range(n):
                    for b in range(LANES):
                        K[i, b] = M[i, b] * rest[b]
                        x[i, b] += K[i, b] * v[b]
                for i in range(n):
                    for k in range(n):
                        for b in range(LANES):
                            P[i, k, b] -= K[i, b] * M[k, b]
                for i in range(n):
                    for b in range(LANES):
                        rest[b] = -noise * K[i, b]
                    for k in range(n):
                        factor = C[j, k]
                        for b in range(LANES):
                            rest[b] += P[i, k, b] * factor
                    for k in range(n):
                        for b in range(LANES):
                            P[i, k, b] -= rest[b] * K[k, b]
                pending += 1
                if pending == AT_ONCE:
                    pending = 0
                    for b in range(LANES):
                        log_det[b] += math.log(factors[b])
                        factors[b] = 1.0
            if t + 1 < last:
                o = t + 1 if d.shape[1] > 1 else 0
                for i in range(n):
                    for k in range(n):
                        for b in range(LANES):
                            left[i, k, b] = 0.0
                        for h in range(n):
                            factor = A[i, h]
                            for b in range(LANES):
                                left[i, k, b] += factor * P[h, k, b]
                    for b in range(LANES):
                        M[i, b] = d[0, o, i]
                    if d.shape[0] > 1:
                        for b in range(width):
                            M[i, b] = d[own + b, o, i]
                    for h in range(n):
                        factor = A[i, h]
                        for b in range(LANES):
                            M[i, b] += factor * x[h, b]
                for i in range(n):
                    for b in range(LANES):
                        x[i, b] = M[i, b]
                    for k in range(i + 1):
                        added = Q[i, k]
                        for b in range(LANES):
                            rest[b] = added
                        for h in range(n):
                            factor = A[k, h]
                            for b in range(LANES):
                                rest[b] += left[i, h, b] * factor
                        for b in range(LANES):
                            P[i, k, b] = rest[b]
                        for b in range(LANES):
                            P[k, i, b] = rest[b]
        for b in range(width):
            total = log_det[b] + math.log(factors[b]) + powers[b] * math.log(2.0) + square[b]
            log_prob[origin + b] = -0.5 * (count[b] * LOG_TWO_PI + total)
            if not abs(log_prob[origin + b]) < np.inf:
                return False
    return True
