"""The adjoint of the scaled forward recursion, which is the smoother of a hidden Markov model, compiled.

    h_{n-1} = 1;   h_{t-1} = A (h_t * e_t) / sum(h_t * e_t)           proportional to p(y_>t | z_t)

    gamma_t = u_t * e_t * h_t / s_t,    s_t = sum(u_t * e_t * h_t)    p(z_t | y)
    xi_t[i, j] = (u e / s)_{t-1, i}  A[i, j]  (h e / sum(h e))_{t, j}  p(z_{t-1} = i, z_t = j | y)

which are also the derivatives of log p(y) in log p(y_t | z_t) and in log A. Both are formed while h passes, so that no
h is stored. Symbols, shapes, and the argument why no state that matters is lost are those of `hmm.py`, whose step this
is with the matrix transposed.

Reference: Rabiner (1989), Proc. IEEE 77, equations 24-27 and 36-37.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.hmm import CAREFUL, SCALED, SMALLEST_EVIDENCE, SMALLEST_NORMALISER, loses, transport
from probseq.kernels.rows import SMALLEST_NORMAL, extent, take_logarithms, total

RANK = 8  # steps gathered before they are added to the K x K transition counts

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


@njit(**_OPTIONS)
def add_outer(rows, columns, n_rows, out):
    """out += rows[:n_rows].T @ columns[:n_rows]; a full set of RANK rows is added in one pass over `out`."""
    n = out.shape[0]
    if n_rows == RANK:
        for i in range(n):
            r0, r1, r2, r3 = rows[0, i], rows[1, i], rows[2, i], rows[3, i]
            r4, r5, r6, r7 = rows[4, i], rows[5, i], rows[6, i], rows[7, i]
            for j in range(n):
                out[i, j] += ((r0 * columns[0, j] + r1 * columns[1, j]) + (r2 * columns[2, j] + r3 * columns[3, j])) + (
                    (r4 * columns[4, j] + r5 * columns[5, j]) + (r6 * columns[6, j] + r7 * columns[7, j])
                )
        return
    for q in range(n_rows):
        for i in range(n):
            r0 = rows[q, i]
            for j in range(n):
                out[i, j] += r0 * columns[q, j]


@njit(**_OPTIONS)
def add_moves(xi, weight, e, u, transition, column, n):
    """xi += weight * (u e)_i A[i, j] column_j: the moves of one step."""
    for i in range(n):
        scale = u[i] * e[i] * weight
        for j in range(n):
            xi[i, j] += scale * (transition[i, j] * column[j])


@njit(**_OPTIONS)
def write_small_logarithms(joint, evidence, u, h, log_observation, shift, b, t, gamma):
    """Replace entries of gamma that may have left the range of numbers by their logarithms (0 where impossible)."""
    log_scale = -np.log(evidence) - shift[b, t]
    for k in range(log_observation.shape[2]):
        if joint[k] < SMALLEST_EVIDENCE and u[k] > 0.0 and h[k] > 0.0 and log_observation[b, t, k] > -np.inf:
            product = u[k] * h[k]
            log_product = np.log(product) if product >= SMALLEST_NORMAL else np.log(u[k]) + np.log(h[k])
            gamma[b, t, k] = log_product + (log_observation[b, t, k] + log_scale)


@njit(**_OPTIONS)
def smooth_steps(
    size, h, before, weight, joint, column, matrix, n, e, u, n_moves, scale, smallest, gamma, pairs, columns, filled,
    counts,
):  # fmt: skip
    """The inner loop of `backward` over the rows of e and u (steps, W) from the last: how many before one to look at.

    There gamma is written and h moved on (as after the first `n_moves` steps), unless the evidence is too small. A look
    is also wanted where a product u h e is below `smallest`; `before` is h_t, `weight` h_t * e_t and `joint`
    u_t * h_t * e_t. filled[0] of the rows of `pairs` and `columns` wait to be added to `counts`, which are of no
    interest if `matrix` varies. `size` is W, as a number or as the length of a tuple.
    """
    width, n_steps = extent(size), e.shape[0]
    varying = matrix.shape[0] > 1
    for done in range(n_steps):
        i = n_steps - 1 - done
        for k in range(width):
            before[k] = h[k]
            weight[k] = h[k] * e[i, k]
            joint[k] = u[i, k] * weight[k]
        c, evidence = total(weight, width), total(joint, width)
        if not (c >= SMALLEST_NORMALISER and evidence >= SMALLEST_EVIDENCE):
            return done
        inverse = 1.0 / evidence
        if not varying:
            q = filled[0]
            for k in range(width):
                pairs[q, k] = u[i, k] * e[i, k] * inverse
                columns[q, k] = column[k]
            filled[0] = q + 1
            if q + 1 == RANK:
                add_outer(pairs, columns, filled[0], counts)
                filled[0] = 0
        inverse *= scale
        look = False
        for k in range(n):
            gamma[i, k] = joint[k] * inverse
            look |= joint[k] < smallest
        inverse = 1.0 / c
        for k in range(width):
            column[k] = weight[k] * inverse
        if done < n_moves:
            look |= transport(weight, c, matrix, i if varying else 0, width, n, h)
        if look:
            return done
    return n_steps


@njit(**_OPTIONS)
def backward(
    transition,
    transposed,
    log_transition,
    log_observation,
    shift,
    emission,
    predicted,
    lengths,
    later,
    goes_on,
    weights,
    logarithms,
    status,
    gamma,
    places,
    xi,
):
    """The posterior of sequences of status SCALED, backwards: write gamma (B, T, K), add xi_t to xi (G, R, K, K).

    `transposed` (S, R, W, W) holds A'. Sequences that need logarithms get status CAREFUL, and add nothing to xi.
    - weights (B,) multiply gamma and xi; places (B,) are the sequences' entries in xi (R = 1: sums over the steps).
    - later (B, 2, W) carries h and (h e / sum(h e)) of the step behind the last, whose second part is 0 where there is
      none; with `goes_on` (R = 1) they are left there for the steps before the first.
    - with `logarithms`, the logarithm of gamma is written, also of what has left the range of numbers.
    """
    n_sequences, _, n = log_observation.shape
    width = emission.shape[2]
    h, weight, joint, before, column = (
        np.empty(width),
        np.empty(width),
        np.empty(width),
        np.empty(width),
        np.empty(width),
    )
    pairs, columns, counts = np.empty((RANK, width)), np.empty((RANK, width)), np.empty((width, width))
    varying, filled = transposed.shape[1] > 1, np.zeros(1, np.int64)
    smallest = SMALLEST_EVIDENCE if logarithms else 0.0
    for b in range(n_sequences):
        length = lengths[b]
        if length == 0:  # without steps `transition` and `xi` may have no row either
            continue
        s = b if transposed.shape[0] > 1 else 0
        # moves of single steps go to xi at once, so whether the sequence stays SCALED has to be known before
        for writes in range(0 if varying else 1, 2):
            if status[b] != SCALED:
                break
            for k in range(width):
                h[k], column[k] = later[b, 0, k], later[b, 1, k]
            counts[:] = 0.0
            filled[0] = 0
            t = length - 1
            while t >= 0:
                e, u = emission[b, : t + 1], predicted[b, : t + 1]
                if varying:
                    e, u = emission[b, t : t + 1], predicted[b, t : t + 1]
                    if writes == 1 and t + 1 < length:
                        evidence = 0.0
                        for k in range(width):
                            evidence += u[0, k] * (h[k] * e[0, k])
                        add_moves(
                            xi[places[b], t + 1], weights[b] / evidence, e[0], u[0], transition[s, t + 1], column, n
                        )
                matrix = transposed[s, t : t + 1] if varying else transposed[s]
                low, n_moves = t + 1 - len(e), t + 1 if goes_on else t
                if width == 4:
                    done = smooth_steps(
                        (0, 0, 0, 0), h, before, weight, joint, column, matrix, n, e, u, n_moves, weights[b],
                        smallest, gamma[b, low : t + 1], pairs, columns, filled, counts,
                    )  # fmt: skip
                elif width == 8:
                    done = smooth_steps(
                        (0, 0, 0, 0, 0, 0, 0, 0), h, before, weight, joint, column, matrix, n, e, u, n_moves,
                        weights[b], smallest, gamma[b, low : t + 1], pairs, columns, filled, counts,
                    )  # fmt: skip
                else:
                    done = smooth_steps(
                        width, h, before, weight, joint, column, matrix, n, e, u, n_moves, weights[b],
                        smallest, gamma[b, low : t + 1], pairs, columns, filled, counts,
                    )  # fmt: skip
                t = t if varying else t - done
                if t < 0:
                    break
                c, evidence, r = total(weight, width), total(joint, width), t if varying else 0
                unsafe = not (c >= SMALLEST_NORMALISER and evidence >= SMALLEST_EVIDENCE)
                if unsafe or ((t > 0 or goes_on) and loses(
                    h, weight, c, before, log_observation, b, t, transposed, log_transition, s, r, True
                )):  # fmt: skip
                    status[b] = CAREFUL
                    break
                if logarithms and writes == 1:
                    write_small_logarithms(
                        joint, evidence, predicted[b, t], before, log_observation, shift, b, t, gamma
                    )
                t -= 1
            if writes == 1 and status[b] == SCALED:
                if logarithms:
                    take_logarithms(gamma[b, :length].reshape(length * n))
                for k in range(width):
                    later[b, 0, k], later[b, 1, k] = h[k], column[k]
                if not varying:
                    add_outer(pairs, columns, filled[0], counts)
                    for i in range(n):
                        for j in range(n):
                            xi[places[b], 0, i, j] += weights[b] * (counts[i, j] * transition[s, 0, i, j])
