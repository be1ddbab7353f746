"""The adjoint of the scaled forward recursion, which is the smoother of a hidden Markov model, compiled.

    h_{n-1} = 1;   h_{t-1} = A (h_t * e_t) / sum(h_t * e_t)           proportional to p(y_>t | z_t)

    gamma_t = u_t * e_t * h_t / s_t,    s_t = sum(u_t * e_t * h_t)    p(z_t | y)
    xi_t[i, j] = (u e / s)_{t-1, i}  A[i, j]  (h e / sum(h e))_{t, j}  p(z_{t-1} = i, z_t = j | y)

which are also the derivatives of log p(y) in log p(y_t | z_t) and in log A. Symbols, shapes, and the argument why no
state that matters is lost are those of `hmm.py`, whose step this is with the matrix transposed.

Reference: Rabiner (1989), Proc. IEEE 77, equations 24-27 and 36-37.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.hmm import CAREFUL, SCALED, SMALLEST_EVIDENCE, SMALLEST_NORMALISER, loses, total, transport

RANK = 8  # steps gathered before they are added to the K x K transition counts

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def backward(transposed, log_transition, log_observation, emission, predicted, lengths, status, beta, evidence):
    """The adjoint recursion: h_{n-1} = 1, h_{t-1} = A (h_t * e_t) / sum(h_t * e_t), for sequences of status SCALED.

    `transposed` (S, R, K, K) holds A'. Sequences that need logarithms get status CAREFUL.
    """
    n = emission.shape[2]
    h, weight, product = np.empty(n), np.empty(n), np.empty(n)
    for b in range(emission.shape[0]):
        if status[b] != SCALED:
            continue
        s = b if transposed.shape[0] > 1 else 0
        for k in range(n):
            h[k] = 1.0
        for t in range(lengths[b] - 1, -1, -1):
            for k in range(n):
                beta[b, t, k] = h[k]
                weight[k] = h[k] * emission[b, t, k]
                product[k] = predicted[b, t, k] * weight[k]
            s_t = total(product)
            c = total(weight)
            evidence[b, t] = s_t
            if not (c >= SMALLEST_NORMALISER and s_t >= SMALLEST_EVIDENCE):
                status[b] = CAREFUL
                break
            if t > 0:
                r = t if transposed.shape[1] > 1 else 0
                low = transport(weight, c, transposed, s, r, h)
                if low and loses(
                    h, weight, c, beta, b, t, log_observation, b, t, transposed, log_transition, s, r, True
                ):
                    status[b] = CAREFUL
                    break


@njit(**_OPTIONS)
def add_outer(rows, columns, n_rows, out):
    """out += rows[:n_rows].T @ columns[:n_rows]; a full set of RANK rows is added in one pass over `out`."""
    n = out.shape[0]
    if n_rows == RANK:
        c0, c1, c2, c3 = columns[0], columns[1], columns[2], columns[3]
        c4, c5, c6, c7 = columns[4], columns[5], columns[6], columns[7]
        for i in range(n):
            r0, r1, r2, r3 = rows[0, i], rows[1, i], rows[2, i], rows[3, i]
            r4, r5, r6, r7 = rows[4, i], rows[5, i], rows[6, i], rows[7, i]
            target = out[i]
            for j in range(n):
                target[j] += ((r0 * c0[j] + r1 * c1[j]) + (r2 * c2[j] + r3 * c3[j])) + (
                    (r4 * c4[j] + r5 * c5[j]) + (r6 * c6[j] + r7 * c7[j])
                )
        return
    for q in range(n_rows):
        column = columns[q]
        for i in range(n):
            r0 = rows[q, i]
            target = out[i]
            for j in range(n):
                target[j] += r0 * column[j]


@njit(**_OPTIONS)
def expectations(transition, emission, predicted, beta, evidence, lengths, status, weights, gamma, xi):
    """Weighted posterior expectations: gamma_t = u_t e_t h_t / s_t and the sum of xi_t, from what the passes stored.

    xi_t[i, j] = p(z_{t-1} = i, z_t = j | y) = (u e / s)_{t-1, i}  A[i, j]  (h e / sum(h e))_{t, j}.
    Adds weights[b] * xi_t to xi[s, r], s = b (or 0) and r = t (or 0) as `xi` (S, R, K, K) allows.
    `gamma` may be `beta` or `emission` itself: each row is read before it is overwritten.
    """
    n = emission.shape[2]
    rows, columns = np.empty((RANK, n)), np.empty((RANK, n))
    filtered, product, counts = np.empty(n), np.empty(n), np.empty((n, n))
    per_step = xi.shape[1] > 1
    for b in range(emission.shape[0]):
        if status[b] != SCALED or lengths[b] == 0:  # without steps `transition` and `xi` may have no row either
            continue
        s = b if transition.shape[0] > 1 else 0
        target = b if xi.shape[0] > 1 else 0
        for i in range(n):
            for j in range(n):
                counts[i, j] = 0.0
        filled = np.int64(0)  # a literal 0 would compile `add_outer` once more
        for t in range(lengths[b] - 1, -1, -1):
            inverse = 1.0 / evidence[b, t]
            for k in range(n):
                filtered[k] = predicted[b, t, k] * emission[b, t, k] * inverse
            if t + 1 < lengths[b]:  # `product` is (h e / sum(h e)) of the step t + 1
                if per_step:
                    for i in range(n):
                        scale = filtered[i] * weights[b]
                        for j in range(n):
                            xi[target, t + 1, i, j] += scale * (transition[s, t + 1, i, j] * product[j])
                else:
                    for k in range(n):
                        rows[filled, k] = filtered[k]
                        columns[filled, k] = product[k]
                    filled += 1
                    if filled == RANK:
                        add_outer(rows, columns, filled, counts)
                        filled = np.int64(0)
            for k in range(n):
                product[k] = emission[b, t, k] * beta[b, t, k]
                filtered[k] *= beta[b, t, k] * weights[b]
            if t > 0:
                inverse = 1.0 / total(product)
                for k in range(n):
                    product[k] *= inverse
            for k in range(n):
                gamma[b, t, k] = filtered[k]
        if not per_step:
            add_outer(rows, columns, filled, counts)
            for i in range(n):
                for j in range(n):
                    xi[target, 0, i, j] += weights[b] * (counts[i, j] * transition[s, 0, i, j])
