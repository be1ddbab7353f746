"""The backward pass of `hmm_adjoint` for many states and one transition matrix for all steps, in blocks of steps.

    q_t = h_t e_t / sum(h_t e_t),    p_t = u_t e_t / s_t,    xi = A * sum_t outer(p_{t-1}, q_t)

Symbols and shapes are those of `hmm.py`, and so is the argument why no state that matters is lost. A block goes through
three loops: h backwards, which alone waits for the step behind; gamma, p and q of its steps; and the product of all p
with all q, at the rate of the multipliers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.hmm import CAREFUL, SAFE_SUM, SCALED, SMALLEST_EVIDENCE, SMALLEST_NORMALISER, loses
from probseq.kernels.registers import TURNING, add_pairs, move, rescale, weigh
from probseq.kernels.rows import SMALLEST_NORMAL, take_logarithms

STEPS = 64  # in a block: K x K counts are read and written once for so many products

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


@njit(**_OPTIONS)
def recede(h, q, normaliser, e, matrix, n, last, n_fixed):
    """h[i] from h[i + 1], which is that of row i of e, from row `last` on: the row that needs a look, or -1.

    q gets h e, `normaliser` its sum. The first n_fixed rows of e have no step before them.
    """
    width = h.shape[1]
    turns = width > TURNING
    for i in range(last, -1, -1):
        c = weigh(h, (i + 1) * width, e, i * width, q, i * width, width)
        normaliser[i] = c
        if not c >= SMALLEST_NORMALISER:
            return i
        if i >= n_fixed:
            move(q, i * width, matrix, 0, width, h, i * width, i if turns else 0)
            if rescale(h, i * width, width, 1.0 / c, SAFE_SUM, n):
                return i
    return -1


@njit(**_OPTIONS)
def balance(u, e, q, normaliser, scale, joint, p, gamma, evidence):
    """gamma * scale, p, q (h e before) and s of the rows of e; False where s is too small."""
    n_steps, n = gamma.shape
    width = e.shape[1]
    for i in range(n_steps):
        s = weigh(u, i * width, q, i * width, joint, i * width, width)
        evidence[i] = s
        if not s >= SMALLEST_EVIDENCE:
            return False
        weigh(u, i * width, e, i * width, p, i * width, width)
        rescale(p, i * width, width, 1.0 / s, 0.0, 0)
        rescale(q, i * width, width, 1.0 / normaliser[i], 0.0, 0)
        inverse = scale / s
        for k in range(n):
            gamma[i, k] = joint[i, k] * inverse
    return True


@njit(**_OPTIONS)
def logarithms_of(joint, evidence, u, h, log_observation, shift, gamma):
    """gamma = log gamma (steps, K), also of what has left the range of numbers: log u h + log e - log s there."""
    n_steps, n = gamma.shape
    for i in range(n_steps):
        tiny = False
        for k in range(n):
            product = u[i, k] * h[i + 1, k] if log_observation[i, k] > -np.inf else 0.0
            small = joint[i, k] < SMALLEST_EVIDENCE
            tiny |= small & (product < SMALLEST_NORMAL)
            gamma[i, k] = product if small else gamma[i, k]
        if tiny:
            for k in range(n):
                possible = u[i, k] > 0.0 and h[i + 1, k] > 0.0 and log_observation[i, k] > -np.inf
                if possible and gamma[i, k] < SMALLEST_NORMAL and joint[i, k] < SMALLEST_EVIDENCE:
                    gamma[i, k] = np.log(u[i, k]) + np.log(h[i + 1, k])  # negative: it stays as it is
    take_logarithms(gamma.reshape(n_steps * n))
    for i in range(n_steps):
        log_scale = np.log(evidence[i]) + shift[i]
        for k in range(n):
            gamma[i, k] += log_observation[i, k] - log_scale if joint[i, k] < SMALLEST_EVIDENCE else 0.0


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
    """`hmm_adjoint.backward` where W > 8 and R = 1."""
    n_sequences, _, n = log_observation.shape
    width = emission.shape[2]
    h, q = np.empty((STEPS + 1, width)), np.empty((STEPS + 1, width))
    p, joint, counts = np.empty((STEPS, width)), np.empty((STEPS, width)), np.empty((width, width))
    normaliser, evidence = np.empty(STEPS), np.empty(STEPS)
    for b in range(n_sequences):
        length, s = lengths[b], b if transposed.shape[0] > 1 else 0
        if status[b] != SCALED or length == 0:
            continue
        counts[:] = 0.0
        n_steps = min(STEPS, length)
        h[n_steps], q[n_steps] = later[b, 0], later[b, 1]
        stop = length
        while stop > 0:
            n_steps = min(STEPS, stop)
            first = stop - n_steps
            e, u = emission[b, first:stop], predicted[b, first:stop]
            i = n_steps - 1
            while i >= 0:
                i = recede(h, q, normaliser, e, transposed[s], n, i, 0 if first > 0 or goes_on else 1)
                if i >= 0:
                    if not normaliser[i] >= SMALLEST_NORMALISER or loses(
                        h[i], q[i], normaliser[i], h[i + 1], log_observation, b, first + i, transposed, log_transition,
                        s, 0, True,
                    ):  # fmt: skip
                        status[b] = CAREFUL
                        break
                    i -= 1
            out = gamma[b, first:stop]
            if status[b] == SCALED and not balance(u, e, q, normaliser, weights[b], joint, p, out, evidence):
                status[b] = CAREFUL
            if status[b] != SCALED:
                break
            if logarithms:
                logarithms_of(
                    joint, evidence, u, h, log_observation[b, first:stop], shift[b, first:stop], out
                )  # fmt: skip
            add_pairs(p, q, width, n_steps, width, counts)
            stop = first
            n_steps = min(STEPS, stop)
            h[n_steps], q[n_steps] = h[0], q[0]
        if status[b] == SCALED:
            later[b, 0], later[b, 1] = h[0], q[0]
            for i in range(n):
                for j in range(n):
                    xi[places[b], 0, i, j] += weights[b] * (counts[i, j] * transition[s, 0, i, j])
