"""The derivative of the filter through the steps of an exact diffuse start; compiled.

The readings of `kalman_root.py` in terms of covariances, P of (z, v) and X = B B', with M = P c, h = X c:

    diffuse     K = h / F,  F = c' h,     P <- P - K M' - M K' + S K K',  S = c' M,    X <- X - h h' / F
    ordinary    K = M / S,  S = c' M,     P <- P - M M' / S

and m <- m + K e with e = y - c' m.  A predicted belief then moves on by P <- A P A' + Q, X <- A X A'.  The adjoint runs
these lines backwards, one sequence at a time, from the derivatives in the belief after the last diffuse step, which
the smoothing recursion of `kalman_adjoint.py` gives: weight r and weight (r r' - N) / 2.  A step's readings are run
again from the stored belief before they are run back.

Symbols and shapes are those of `kalman_adjoint.py` and `kalman_root.py`; `r` (B, n) and `N` (H, n, n) belong to step
`until`, and `group` (B,) says which N.  bar_x is d loss / d x; bar_P and bar_X are symmetric.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.linalg import clear, copy, symmetrise


@njit(cache=True, nogil=True, error_model="numpy")
def times(matrix, vector, out):
    """out = matrix vector, the vector being that of the first columns."""
    for i in range(out.shape[0]):
        total = 0.0
        for k in range(vector.shape[0]):
            total += matrix[i, k] * vector[k]
        out[i] = total


@njit(cache=True, nogil=True, error_model="numpy")
def dot(a, b):
    total = 0.0
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def read_forward(c, y, is_diffuse, P, X, m, M, h, K):
    """One reading on P, X (n + m square) and m (n + m,); returns S, F and e, and leaves M, h, K."""
    size = P.shape[0]
    times(P, c, M)
    S, F = dot(c, M), 0.0
    e = y - dot(c, m)
    if is_diffuse:
        times(X, c, h)
        F = dot(c, h)
    for i in range(size):
        K[i] = h[i] / F if is_diffuse else M[i] / S
    for i in range(size):
        m[i] += K[i] * e
        for j in range(i + 1):
            P[i, j] += S * K[i] * K[j] - K[i] * M[j] - M[i] * K[j]
            P[j, i] = P[i, j]
            if is_diffuse:
                X[i, j] -= h[i] * h[j] / F
                X[j, i] = X[i, j]
    return S, F, e


@njit(cache=True, nogil=True, error_model="numpy")
def read_back(c, is_diffuse, weight, P, X, m, M, h, K, S, F, e, bar_P, bar_X, bar_m, bar_c, PM, bar_K, bar_M):
    """Turn the derivatives after a reading into those before it, add to bar_c; returns that in y.

    P, X, m are those before the reading.
    """
    size = P.shape[0]
    bar_e = dot(K, bar_m)
    times(bar_P, M, PM)
    if is_diffuse:
        times(bar_P, K, bar_M)  # first bar_P K
        bar_S = dot(K, bar_M)
        for i in range(size):
            bar_K[i] = bar_m[i] * e - 2.0 * PM[i] + 2.0 * S * bar_M[i]
            bar_M[i] = -2.0 * bar_M[i]
        times(bar_X, h, PM)  # bar_X h
        bar_F = -dot(K, bar_K) / F + dot(h, PM) / (F * F) - 0.5 * weight / F
        for i in range(size):
            bar_K[i] = (bar_K[i] - 2.0 * PM[i]) / F  # now the derivative in h
        add_product(c, X, h, bar_K, bar_F, bar_X, bar_c)
    else:
        bar_S = -dot(M, bar_m) * e / (S * S) + dot(M, PM) / (S * S) - 0.5 * weight * (1.0 / S - e * e / (S * S))
        bar_e -= weight * e / S
        for i in range(size):
            bar_M[i] = bar_m[i] * e / S - 2.0 * PM[i] / S
    add_product(c, P, M, bar_M, bar_S, bar_P, bar_c)
    for i in range(size):
        bar_m[i] -= bar_e * c[i]
        bar_c[i] -= bar_e * m[i]
    return bar_e


@njit(cache=True, nogil=True, error_model="numpy")
def add_product(c, P, M, bar_M, bar_S, bar_P, bar_c):
    """Add the derivatives of M = P c and S = c' P c in P and in c."""
    size = P.shape[0]
    for i in range(size):
        total = 2.0 * bar_S * M[i]
        for j in range(size):
            total += P[i, j] * bar_M[j]
            bar_P[i, j] += 0.5 * (bar_M[i] * c[j] + c[i] * bar_M[j]) + bar_S * c[i] * c[j]
        bar_c[i] += total


@njit(cache=True, nogil=True, error_model="numpy")
def move_back(A, bar, belief, half, out, grad_A, a):
    """For P' = A P A': out = A' bar A, and grad_A += 2 bar A P."""
    n = out.shape[0]
    for i in range(n):
        for j in range(n):
            total = 0.0
            for k in range(n):
                total += bar[i, k] * A[k, j]
            half[i, j] = total
    for i in range(n):
        for j in range(n):
            total, moved = 0.0, 0.0
            for k in range(n):
                total += A[k, i] * half[k, j]
                moved += half[i, k] * belief[k, j]
            out[i, j] = total
            grad_A[a, i, j] += 2.0 * moved


@njit(cache=True, nogil=True, error_model="numpy")
def diffuse_adjoint(
    A, C, R, y, observed, lengths, spaces, group, until, cov, diffuses, whitener, mean, weights, r, N,
    grad_m0, grad_P0, grad_A, grad_Q, grad_d, grad_C, grad_R, grad_y,
):  # fmt: skip
    """Add the derivatives of the steps before `until` (G,) to the gradients, and of the start to grad_m0, grad_P0.

    A reading was diffuse where it left no row in the whitener.
    """
    batch, m, n = mean.shape[0], C.shape[1], C.shape[2]
    d, size = diffuses.shape[4], n + m
    P, X, state = np.empty((m + 1, size, size)), np.empty((m + 1, size, size)), np.empty((m + 1, size))
    M, h, K, c = np.empty((m, size)), np.zeros((m, size)), np.empty((m, size)), np.zeros((m, size))
    S, F, e, improper = np.empty(m), np.empty(m), np.empty(m), np.empty(m, np.bool_)
    bar_P, bar_X, bar_m, bar_c = np.empty((size, size)), np.empty((size, size)), np.empty(size), np.empty(size)
    next_P, next_X, next_m = np.empty((n, n)), np.empty((n, n)), np.empty(n)
    PM, bar_K, bar_M, half = np.empty(size), np.empty(size), np.empty(size), np.empty((n, n))
    for b in range(batch):
        g, last, weight = spaces[b], lengths[b], weights[b]
        first = min(until[g], last)
        for i in range(n):
            next_m[i] = weight * r[b, i] if last > first else 0.0
            for j in range(n):
                next_X[i, j] = 0.0
                following = r[b, i] * r[b, j] - N[group[b], i, j] if last > first else 0.0
                next_P[i, j] = 0.5 * weight * following
        for t in range(first - 1, -1, -1):
            a, k, o = t + 1 if A.shape[0] > 1 else 0, t if C.shape[0] > 1 else 0, t if R.shape[0] > 1 else 0
            clear(P[0])
            clear(X[0])
            for i in range(n):
                state[0, i] = mean[b, t, i]
                for j in range(n):
                    P[0, i, j] = cov[g, t, i, j]
                    for q in range(d):
                        X[0, i, j] += diffuses[g, t, 0, i, q] * diffuses[g, t, 0, j, q]
            for j in range(m):
                state[0, n + j] = 0.0
                for i in range(m):
                    P[0, n + i, n + j] = R[o, i, j]
            for j in range(m):
                copy(P[j], P[j + 1])
                copy(X[j], X[j + 1])
                state[j + 1, :] = state[j]
                if observed.shape[1] > 0 and not observed[b, t, j]:
                    continue
                for i in range(n):
                    c[j, i] = C[k, j, i]
                c[j, n + j] = 1.0
                improper[j] = whitener[g, t, j, j] == 0.0
                S[j], F[j], e[j] = read_forward(
                    c[j], y[b, t, j], improper[j], P[j + 1], X[j + 1], state[j + 1], M[j], h[j], K[j]
                )
            clear(bar_P)
            clear(bar_X)
            for i in range(size):
                bar_m[i] = 0.0
            if t + 1 < last:
                q, u, w = t + 1 if grad_Q.shape[0] > 1 else 0, t + 1 if grad_d.shape[1] > 1 else 0, b
                for i in range(n):
                    grad_d[w if grad_d.shape[0] > 1 else 0, u, i] += next_m[i]
                    for j in range(n):
                        grad_Q[q, i, j] += next_P[i, j]
                        grad_A[a, i, j] += next_m[i] * state[m, j]
                        bar_m[j] += A[a, i, j] * next_m[i]
                move_back(A[a], next_P, P[m], half, bar_P[:n, :n], grad_A, a)
                move_back(A[a], next_X, X[m], half, bar_X[:n, :n], grad_A, a)
            for j in range(m - 1, -1, -1):
                grad_y[b, t, j] = 0.0
                if observed.shape[1] > 0 and not observed[b, t, j]:
                    continue
                for i in range(size):
                    bar_c[i] = 0.0
                grad_y[b, t, j] = read_back(
                    c[j], improper[j], weight, P[j], X[j], state[j], M[j], h[j], K[j], S[j], F[j], e[j],
                    bar_P, bar_X, bar_m, bar_c, PM, bar_K, bar_M,
                )  # fmt: skip
                for i in range(n):
                    grad_C[k, j, i] += bar_c[i]
            symmetrise(bar_P)
            for i in range(m):
                for j in range(m):
                    grad_R[o if grad_R.shape[0] > 1 else 0, i, j] += bar_P[n + i, n + j]
            for i in range(n):
                next_m[i] = bar_m[i]
                for j in range(n):
                    next_P[i, j] = bar_P[i, j]
                    next_X[i, j] = bar_X[i, j]
        if until[g] > 0 and last > 0:
            k = b if grad_P0.shape[0] > 1 else 0
            for i in range(n):
                grad_m0[b, i] = next_m[i]
                for j in range(n):
                    grad_P0[k, i, j] += next_P[i, j]
