"""The adjoint of the Kalman filter, which is the smoother.

The log-likelihood of y_t, y_{t+1}, ... as a function of the predicted belief N(m_t, P_t) is the one of a Gaussian
vector, so its derivatives are Durbin and Koopman's smoothing quantities:

    d log L / d m_t = r_t,      d log L / d P_t = (r_t r_t' - N_t) / 2.

With K_t, W_t, L_t as in `kalman.py`, u_t = S_t^-1 v_t, and r, N zero after the last step, they run backward as

    e_t = u_t - (A K)' r_{t+1}                      D_t = S_t^-1 + (A K)' N_{t+1} (A K)
    r_t = C' e_t + A' r_{t+1}                       N_t = C' S_t^-1 C + L' N_{t+1} L

(A is the transition into t+1) and everything else is read off them:

    smoothed moments       zhat_t = m_t + P_t r_t,   V_t = P_t - P_t N_t P_t
    lag one                Cov(z_{t+1}, z_t | y) = (I - P_{t+1} N_{t+1}) L_t P_t
    derivatives            y_t: -e_t     offset into t: r_t     Q_t: (r_t r_t' - N_t) / 2     R_t: (e_t e_t' - D_t) / 2
                           A_{t+1}: r_{t+1} zhat_t' - N_{t+1} L_t P_t
                           C_t: e_t zhat_t' - (S_t^-1 C - (A K)' N_{t+1} L_t) P_t

No covariance of the model is inverted: singular Q, zero R and missing entries (zero columns of K and W) are no special
cases.  Like the filter it is two recursions, one for matrices, which does not see the data and is shared by
sequences of equal length and equal covariances, and one for vectors.

    symbol        shape       meaning
    spans         (H,)        length of each group of sequences;   spaces (H,) its row in the covariance workspaces
    loads         (H,)        sum over the group of d loss / d log L
    weights       (B,)        d loss / d log L of each sequence
    grad_*        like the parameter; accumulated.  Written only where their first axis is not empty.

References: Durbin and Koopman, Time Series Analysis by State Space Methods, 2nd ed. (2012), sec. 4.4, 4.5.3, 4.7;
de Jong, Biometrika 75 (1988) 165-169; Koopman and Shephard, Biometrika 79 (1992) 823-826.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.kalman_covariance import STEADY, settled
from probseq.kernels.kalman_updates import close_loop
from probseq.kernels.linalg import (
    clear,
    copy,
    product,
    product_left_transposed,
    product_right_transposed,
    symmetrise,
    unchanged,
)

LOST = 1e-5
"""Share of a predicted variance below which P - P N P is judged to have lost too much."""


@njit(cache=True, nogil=True, error_model="numpy")
def add(scale, source, target, row):
    """target[row] += scale * source."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[row, i, j] += scale * source[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def covariance_adjoint(
    A, C, cov, gain, whitener, slot, spans, spaces, until, loads,
    grad_P0, grad_A, grad_Q, grad_C, grad_R, smoothed, lagged, edge, spent, blas,
):  # fmt: skip
    """Run N_t backward for every group; add the matrix terms of the gradients, write V_t (H, T, n, n) and the lag-one
    covariances (H, T - 1, n, n), each where it has steps.  A share of a variance up to `spent` counts as none.

    It stops at step `until` (G,), 0 unless the start is diffuse, and leaves N there in `edge` (H, n, n). Where the
    forward covariances and N_t have both settled, steps repeat: they are counted and added at once.  Returns whether
    some V_t lost its digits in the subtraction.
    """
    lost = False
    m, n = C.shape[1], C.shape[2]
    wanted, moments, lagging = grad_A.shape[0] > 0, smoothed.shape[1] > 0, lagged.shape[1] > 0
    N, earlier, D, inverse = np.empty((n, n)), np.empty((n, n)), np.empty((m, m)), np.empty((m, m))
    L, H, LP, HP, square = np.empty((n, n)), np.empty((n, n)), np.empty((n, n)), np.empty((n, n)), np.empty((n, n))
    AK, NAK, WC, X, Z = np.empty((m, n)), np.empty((m, n)), np.empty((m, n)), np.empty((m, n)), np.empty((m, n))
    for h in range(spans.shape[0]):
        g, last, load = spaces[h], spans[h], loads[h]
        clear(N)
        quiet, steps, repeating = 0, 0, False
        for t in range(last - 1, until[g] - 1, -1):
            s = slot[g, t]
            inner = t + 1 < last
            a, c = t + 1 if A.shape[0] > 1 and inner else 0, t if C.shape[0] > 1 else 0
            same = inner and s == slot[g, t + 1]
            if not same:
                quiet, steps, repeating = 0, 0, False
            if not repeating:
                W, P = whitener[g, s], cov[g, s]
                if not same:
                    product_left_transposed(W, W, inverse, blas)
                    product(inverse, C[c], WC, blas)
                    close_loop(A[a], C[c], gain[g, s], AK, L, blas)
                    if lagging:
                        product(L, P, LP, blas)
                if inner:
                    product(N, L, H, blas)
                    product_left_transposed(L, H, earlier, blas)
                else:
                    clear(H)
                    clear(earlier)
                product_left_transposed(C[c], WC, square, blas)
                for i in range(n):
                    for j in range(n):
                        earlier[i, j] += square[i, j]
                symmetrise(earlier)
                if wanted or lagging:
                    product(H, P, HP, blas)
                if wanted:
                    product_right_transposed(AK, N, NAK, blas)  # N is that of the step after, and 0 after the last
                    product_right_transposed(NAK, AK, D, blas)
                    product(AK, H, X, blas)
                    for j in range(m):
                        for k in range(m):
                            D[j, k] += inverse[j, k]
                        for i in range(n):
                            X[j, i] = WC[j, i] - X[j, i]
                    symmetrise(D)
                    product(X, P, Z, blas)
                if lagging and inner:
                    lag_one(cov[g, slot[g, t + 1]], HP, LP, square, lagged[h, t], blas)
                if moments:
                    lost = smooth_covariance(earlier, P, square, smoothed[h, t], spent, blas) or lost
                steps += 1
                quiet = quiet + 1 if unchanged(earlier, N, STEADY) else 0
                repeating = settled(quiet, steps)
                copy(earlier, N)
            else:
                if lagging:
                    copy(lagged[h, t + 1], lagged[h, t])
                if moments:
                    copy(smoothed[h, t + 1], smoothed[h, t])
            if wanted:
                if inner:
                    add(-load, HP, grad_A, a)
                add(-load, Z, grad_C, c)
                add(-0.5 * load, D, grad_R, t if grad_R.shape[0] > 1 else 0)
                if t > until[g]:
                    add(-0.5 * load, N, grad_Q, t if grad_Q.shape[0] > 1 else 0)
                elif t == 0:
                    add(-0.5 * load, N, grad_P0, g if grad_P0.shape[0] > 1 else 0)
        if edge.shape[0] > 0:
            copy(N, edge[h])
    return lost


@njit(cache=True, nogil=True, error_model="numpy")
def smooth_covariance(N, P, scratch, out, spent, blas):
    """out = P - P N P, symmetric.  Returns whether a variance is a small rest of that in P: below LOST, not `spent`."""
    product(N, P, scratch, blas)
    product(P, scratch, out, blas)
    for i in range(P.shape[0]):
        for j in range(P.shape[0]):
            out[i, j] = P[i, j] - out[i, j]
    symmetrise(out)
    lost = False
    for i in range(P.shape[0]):
        lost = lost or spent * P[i, i] < abs(out[i, i]) < LOST * P[i, i]
    return lost


@njit(cache=True, nogil=True, error_model="numpy")
def lag_one(later, HP, LP, scratch, out, blas):
    """out = (I - P_{t+1} N_{t+1}) L_t P_t."""
    product(later, HP, scratch, blas)
    for i in range(later.shape[0]):
        for j in range(later.shape[0]):
            out[i, j] = LP[i, j] - scratch[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def mean_adjoint(
    A, C, cov, gain, slot, spaces, until, lengths, mean, weighted, weights,
    grad_m0, grad_P0, grad_A, grad_Q, grad_d, grad_C, grad_R, grad_y, smoothed, edge, blas,
):  # fmt: skip
    """Run r_t backward for every sequence; add the vector terms of the gradients, write zhat_t (B, T, n).

    `spaces` (B,) names each sequence's row in the covariance workspaces. It stops at step `until` (G,) and leaves r
    there in `edge` (B, n).
    """
    batch, m, n = mean.shape[0], C.shape[1], C.shape[2]
    wanted, moments = grad_A.shape[0] > 0, smoothed.shape[1] > 0
    r, p, z, e = np.empty(n), np.empty(n), np.empty(n), np.empty(m)
    for b in range(batch):
        g, last, weight = spaces[b], lengths[b], weights[b]
        for i in range(n):
            r[i] = 0.0
        for t in range(last - 1, until[g] - 1, -1):
            s = slot[g, t]
            inner = t + 1 < last
            a, c = t + 1 if A.shape[0] > 1 and inner else 0, t if C.shape[0] > 1 else 0
            if blas is not None:
                np.dot(A[a].T, r, p)
            else:
                for i in range(n):
                    p[i] = 0.0
                for j in range(n):
                    for i in range(n):
                        p[i] += A[a, j, i] * r[j]
            for j in range(m):
                total = weighted[b, t, j]
                for i in range(n):
                    total -= gain[g, s, j, i] * p[i]
                e[j] = total
            for j in range(m):
                for i in range(n):
                    p[i] += C[c, j, i] * e[j]
            if blas is not None:
                np.dot(cov[g, s], p, z)
                for i in range(n):
                    z[i] += mean[b, t, i]
            else:
                for i in range(n):
                    total = mean[b, t, i]
                    for j in range(n):
                        total += cov[g, s, i, j] * p[j]
                    z[i] = total
            if moments:
                for i in range(n):
                    smoothed[b, t, i] = z[i]
            if wanted:
                if inner:
                    for i in range(n):
                        for j in range(n):
                            grad_A[a, i, j] += weight * r[i] * z[j]
                q, o = t if grad_Q.shape[0] > 1 else 0, t if grad_R.shape[0] > 1 else 0
                for j in range(m):
                    grad_y[b, t, j] = -weight * e[j]
                    for i in range(n):
                        grad_C[c, j, i] += weight * e[j] * z[i]
                    for k in range(m):
                        grad_R[o, j, k] += 0.5 * weight * e[j] * e[k]
                if t > until[g]:
                    k, u = b if grad_d.shape[0] > 1 else 0, t if grad_d.shape[1] > 1 else 0
                    for i in range(n):
                        grad_d[k, u, i] += weight * p[i]
                        for j in range(n):
                            grad_Q[q, i, j] += 0.5 * weight * p[i] * p[j]
                elif t == 0:
                    k = b if grad_P0.shape[0] > 1 else 0
                    for i in range(n):
                        grad_m0[b, i] = weight * p[i]
                        for j in range(n):
                            grad_P0[k, i, j] += 0.5 * weight * p[i] * p[j]
            for i in range(n):
                r[i] = p[i]
        if edge.shape[0] > 0:
            for i in range(n):
                edge[b, i] = r[i]
