"""The adjoint of the Kalman filter for few states and sensors, whose numbers the compiler knows.

Both recursions of `kalman_adjoint.py`, of r_t and of N_t, in one pass over a sequence with covariances of its own and
parameters constant in time.  With B_t = I - K_t C, so that L_t = A B_t, and G = A' N_{t+1} A,

    N_t = C' S_t^-1 C + B' G B      D_t = S_t^-1 + K' G K      (AK)' N L = K' G B

and all that is multiplied by P_t goes through the updated covariance B_t P_t.  Where the forward covariances and N_t
have both settled, the terms of the gradient repeat: they are counted, and added once.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.kalman_adjoint import LOST
from probseq.kernels.kalman_covariance import settled
from probseq.kernels.kalman_sequential import still
from probseq.kernels.rows import extent

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


@njit(**_OPTIONS, forceinline=True)
def multiply(n, k, m, a, b, out):
    """out = a b for a (n, k), b (k, m)."""
    for i in range(n):
        for j in range(m):
            out[i, j] = 0.0
        for h in range(k):
            factor = a[i, h]
            for j in range(m):
                out[i, j] += factor * b[h, j]


@njit(**_OPTIONS, forceinline=True)
def multiply_transposed(n, k, m, a, b, out):
    """out = a' b for a (k, n), b (k, m)."""
    for i in range(n):
        for j in range(m):
            out[i, j] = 0.0
        for h in range(k):
            factor = a[h, i]
            for j in range(m):
                out[i, j] += factor * b[h, j]


@njit(**_OPTIONS, forceinline=True)
def collect(n, m, times, slope, rest, spread, sum_A, sum_C, sum_R):
    """Subtract the matrix terms of `times` equal steps from the gradients of A, C and R."""
    for i in range(n):
        for k in range(n):
            sum_A[i, k] -= times * slope[i, k]
    for j in range(m):
        for k in range(n):
            sum_C[j, k] -= times * rest[j, k]
        for k in range(m):
            sum_R[j, k] -= 0.5 * times * spread[j, k]


@njit(**_OPTIONS, forceinline=True)
def add_start(n, b, load, N, grad_P0):
    """The matrix term of the gradient of the first covariance."""
    row = b if grad_P0.shape[0] > 1 else 0
    for i in range(n):
        for k in range(n):
            grad_P0[row, i, k] -= 0.5 * load * N[i, k]


@njit(**_OPTIONS)
def small_adjoint(
    states, sensors, A, C, cov, gain, whitener, slot, until, lengths, mean, weighted, weights,
    grad_m0, grad_P0, grad_A, grad_Q, grad_d, grad_C, grad_R, grad_y,
    smoothed, smoothed_cov, lagged, edge_cov, edge, spent,
):  # fmt: skip
    """`covariance_adjoint` and `mean_adjoint` of sequences (B,) that share nothing; returns whether digits were lost.

    `states` and `sensors` are n and m, as numbers or lengths of tuples.  Gradients have no time axis but for that of y.
    """
    n, m = extent(states), extent(sensors)
    wanted, moments, lagging = grad_A.shape[0] > 0, smoothed_cov.shape[1] > 0, lagged.shape[1] > 0
    N, NA, G, GB, B, BP = (
        np.empty((n, n)), np.empty((n, n)), np.empty((n, n)), np.empty((n, n)), np.empty((n, n)), np.empty((n, n)),
    )  # fmt: skip
    P, K, W, S, SC, later = (
        np.empty((n, n)), np.empty((m, n)), np.empty((m, m)), np.empty((m, m)), np.empty((m, n)), np.empty((n, n)),
    )  # fmt: skip
    KG, D, X, Z, slope, following = (
        np.empty((m, n)), np.empty((m, m)), np.empty((m, n)), np.empty((m, n)), np.empty((n, n)), np.empty((n, n)),
    )  # fmt: skip
    r, p, z, e = np.empty(n), np.empty(n), np.empty(n), np.empty(m)
    sum_A, sum_Q, sum_C, sum_R, sum_d = (
        np.empty((n, n)), np.empty((n, n)), np.empty((m, n)), np.empty((m, m)), np.empty(n),
    )  # fmt: skip
    lost = False
    for b in range(lengths.shape[0]):
        last, load, first = lengths[b], weights[b], until[b]
        for i in range(n):
            r[i], sum_d[i] = 0.0, 0.0
            for k in range(n):
                N[i, k], sum_A[i, k], sum_Q[i, k], slope[i, k] = 0.0, 0.0, 0.0, 0.0
        for j in range(m):
            for k in range(n):
                sum_C[j, k] = 0.0
            for k in range(m):
                sum_R[j, k] = 0.0
        quiet, steps, repeating, pending, pending_Q = 0, 0, False, 0.0, 0.0
        for t in range(last - 1, first - 1, -1):
            s = slot[b, t]
            inner = t + 1 < last
            same = inner and s == slot[b, t + 1]
            if not same:
                if pending > 0.0:
                    collect(n, m, pending, slope, Z, D, sum_A, sum_C, sum_R)
                    for i in range(n):
                        for k in range(n):
                            sum_Q[i, k] -= 0.5 * pending_Q * N[i, k]
                quiet, steps, repeating, pending, pending_Q = 0, 0, False, 0.0, 0.0
                for i in range(n):
                    for k in range(n):
                        later[i, k] = P[i, k] if inner else 0.0
                        P[i, k] = cov[b, s, i, k]
                for j in range(m):
                    for k in range(n):
                        K[j, k] = gain[b, s, j, k]
                    for k in range(m):
                        W[j, k] = whitener[b, s, j, k]
            elif steps == 1:
                for i in range(n):
                    for k in range(n):
                        later[i, k] = P[i, k]
            for i in range(n):
                total = 0.0
                for k in range(n):
                    total += A[k, i] * r[k]
                p[i] = total
            for j in range(m):
                total = weighted[b, t, j]
                for i in range(n):
                    total -= K[j, i] * p[i]
                e[j] = total
            for j in range(m):
                for i in range(n):
                    p[i] += C[j, i] * e[j]
            for i in range(n):
                total = mean[b, t, i]
                for k in range(n):
                    total += P[i, k] * p[k]
                z[i] = total
            if smoothed.shape[1] > 0:
                for i in range(n):
                    smoothed[b, t, i] = z[i]
            if wanted:
                for i in range(n):
                    for k in range(n):
                        sum_A[i, k] += r[i] * z[k]
                for j in range(m):
                    grad_y[b, t, j] = -load * e[j]
                    for k in range(n):
                        sum_C[j, k] += e[j] * z[k]
                    for k in range(m):
                        sum_R[j, k] += 0.5 * e[j] * e[k]
                if t > first:
                    for i in range(n):
                        sum_d[i] += p[i]
                        for k in range(n):
                            sum_Q[i, k] += 0.5 * p[i] * p[k]
                elif t == 0:
                    h = b if grad_P0.shape[0] > 1 else 0
                    for i in range(n):
                        grad_m0[b, i] = load * p[i]
                        for k in range(n):
                            grad_P0[h, i, k] += 0.5 * load * p[i] * p[k]
            for i in range(n):
                r[i] = p[i]
            if repeating:
                pending += 1.0
                pending_Q += 1.0 if t > first else 0.0
                if wanted and t == 0 and first == 0:
                    add_start(n, b, load, N, grad_P0)
                if lagging:
                    for i in range(n):
                        for k in range(n):
                            lagged[b, t, i, k] = lagged[b, t + 1, i, k]
                if moments:
                    for i in range(n):
                        for k in range(n):
                            smoothed_cov[b, t, i, k] = smoothed_cov[b, t + 1, i, k]
            else:
                if not same:
                    multiply_transposed(m, m, m, W, W, S)
                    multiply(m, m, n, S, C, SC)
                    multiply_transposed(n, m, n, K, C, B)
                    for i in range(n):
                        for k in range(n):
                            B[i, k] = (1.0 if i == k else 0.0) - B[i, k]
                    if wanted or lagging:
                        multiply(n, n, n, B, P, BP)
                multiply(n, n, n, N, A, NA)
                multiply_transposed(n, n, n, A, NA, G)
                multiply(n, n, n, G, B, GB)
                if wanted or lagging:
                    multiply(n, n, n, NA, BP, slope)
                if wanted:
                    multiply(m, n, n, K, G, KG)
                    for j in range(m):
                        for k in range(m):
                            total = S[j, k]
                            for i in range(n):
                                total += KG[j, i] * K[k, i]
                            D[j, k] = total
                    multiply(m, n, n, KG, BP, X)
                    multiply(m, n, n, SC, P, Z)
                    for j in range(m):
                        for k in range(n):
                            Z[j, k] -= X[j, k]
                multiply_transposed(n, n, n, B, GB, following)
                for h in range(m):
                    for i in range(n):
                        factor = C[h, i]
                        for k in range(n):
                            following[i, k] += factor * SC[h, k]
                for i in range(n):
                    for k in range(i):
                        middle = 0.5 * (following[i, k] + following[k, i])
                        following[i, k] = middle
                        following[k, i] = middle
                unchanged = same and still(n, following, N)
                for i in range(n):
                    for k in range(n):
                        N[i, k] = following[i, k]
                if lagging and inner:
                    multiply(n, n, n, later, slope, GB)
                    multiply(n, n, n, A, BP, G)
                    for i in range(n):
                        for k in range(n):
                            lagged[b, t, i, k] = G[i, k] - GB[i, k]
                if moments:
                    multiply(n, n, n, N, P, NA)
                    multiply(n, n, n, P, NA, G)
                    for i in range(n):
                        for k in range(n):
                            smoothed_cov[b, t, i, k] = P[i, k] - 0.5 * (G[i, k] + G[k, i])
                        lost = lost or spent * P[i, i] < abs(smoothed_cov[b, t, i, i]) < LOST * P[i, i]
                if wanted:
                    collect(n, m, 1.0, slope, Z, D, sum_A, sum_C, sum_R)
                    if t > first:
                        for i in range(n):
                            for k in range(n):
                                sum_Q[i, k] -= 0.5 * N[i, k]
                    elif t == 0:
                        add_start(n, b, load, N, grad_P0)
                steps += 1
                quiet = quiet + 1 if unchanged else 0
                repeating = settled(quiet, steps)
        if pending > 0.0:
            collect(n, m, pending, slope, Z, D, sum_A, sum_C, sum_R)
            for i in range(n):
                for k in range(n):
                    sum_Q[i, k] -= 0.5 * pending_Q * N[i, k]
        if wanted:
            h = b if grad_d.shape[0] > 1 else 0
            for i in range(n):
                grad_d[h, 0, i] += load * sum_d[i]
                for k in range(n):
                    grad_A[0, i, k] += load * sum_A[i, k]
                    grad_Q[0, i, k] += load * sum_Q[i, k]
            for j in range(m):
                for k in range(n):
                    grad_C[0, j, k] += load * sum_C[j, k]
                for k in range(m):
                    grad_R[0, j, k] += load * sum_R[j, k]
        if edge.shape[0] > 0:
            for i in range(n):
                edge[b, i] = r[i]
                for k in range(n):
                    edge_cov[b, i, k] = N[i, k]
    return lost
