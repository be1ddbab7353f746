"""Paths of a hidden Markov model: the most probable one (Viterbi), and draws from the posterior.

    d_t[j] = log p(y_t | j) + max_i (d_{t-1}[i] + log A[i, j])                        max-plus scores
    z_{t-1} = argmax_i (d_{t-1}[i] + log A[i, z_t])                                   on the way back

No back-pointers are stored: the arg-max is recomputed along the single path that is needed, from the same sums,
which makes the forward pass a vectorised max-plus product. The maximum of each d_t is subtracted at the next
step and summed apart with compensation, so that scores keep their digits over long sequences.

Sampling is forward filtering, backward sampling: z_t ~ u_t * e_t * A[:, z_{t+1}] (symbols as in `hmm`).

References: Viterbi (1967); Rabiner (1989), equations 32-35; Chib (1996), J. Econometrics 75.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.hmm import SCALED
from probseq.kernels.hmm_log import invert
from probseq.kernels.rows import maximum

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
_INLINE = {**_OPTIONS, "inline": "always"}


@njit(**_INLINE)
def larger(x, y):
    """max(x, y) as one processor instruction."""
    return x if x > y else y


@njit(**_INLINE)
def max_plus(score, matrix, s, r, out):
    """out[j] = max_i (score[i] + matrix[s, r, i, j]), four rows at a time."""
    n = score.shape[0]
    i = 0
    for j in range(n):
        out[j] = -np.inf
    while i + 4 <= n:
        s0, s1, s2, s3 = score[i], score[i + 1], score[i + 2], score[i + 3]
        m0, m1, m2, m3 = matrix[s, r, i], matrix[s, r, i + 1], matrix[s, r, i + 2], matrix[s, r, i + 3]
        for j in range(n):
            pair = larger(larger(s0 + m0[j], s1 + m1[j]), larger(s2 + m2[j], s3 + m3[j]))
            out[j] = larger(out[j], pair)
        i += 4
    while i < n:
        s0, m0 = score[i], matrix[s, r, i]
        for j in range(n):
            out[j] = larger(out[j], s0 + m0[j])
        i += 1


@njit(**_INLINE)
def add_compensated(value, partial_sum, lost_digits):
    """One step of Neumaier's sum: the new (partial_sum, lost_digits); their sum is the result."""
    new_sum = partial_sum + value
    if abs(partial_sum) >= abs(value):
        lost_digits += (partial_sum - new_sum) + value
    else:
        lost_digits += (value - new_sum) + partial_sum
    return new_sum, lost_digits


@njit(**_OPTIONS)
def trace_back(log_transition, s, scores, length, states, b):
    """Write the states of the best path from its scores (1, T, K), ties to the lowest index."""
    n = scores.shape[2]
    state = 0
    for k in range(1, n):
        if scores[0, length - 1, k] > scores[0, length - 1, state]:
            state = k
    states[b, length - 1] = state
    for t in range(length - 1, 0, -1):
        r = t if log_transition.shape[1] > 1 else 0
        best, value = 0, scores[0, t - 1, 0] + log_transition[s, r, 0, state]
        for i in range(1, n):
            candidate = scores[0, t - 1, i] + log_transition[s, r, i, state]
            if candidate > value:
                best, value = i, candidate
        state = best
        states[b, t - 1] = state


@njit(**_OPTIONS)
def decode(log_initial, log_transition, log_observation, lengths, scores, states, best_score):
    """Write the most probable states (B, T), -1 in padding, and log p(states, y) (B,).

    A sequence of probability zero has no path: score -inf, states -1. `scores` (1, T, K) is scratch.
    """
    n = log_initial.shape[1]
    previous, current = np.empty(n), np.empty(n)
    for b in range(log_initial.shape[0]):
        s = b if log_transition.shape[0] > 1 else 0
        for t in range(states.shape[1]):
            states[b, t] = -1
        best_score[b] = 0.0
        if lengths[b] == 0:
            continue
        for k in range(n):
            scores[0, 0, k] = log_initial[b, k] + log_observation[b, 0, k]
        top = maximum(scores, 0, 0)
        sum_of_tops, lost_digits = 0.0, 0.0
        for t in range(1, lengths[b]):
            if not top > -np.inf:
                break
            sum_of_tops, lost_digits = add_compensated(top, sum_of_tops, lost_digits)
            r = t if log_transition.shape[1] > 1 else 0
            for k in range(n):
                previous[k] = scores[0, t - 1, k]
            max_plus(previous, log_transition, s, r, current)
            for k in range(n):
                scores[0, t, k] = current[k] + (log_observation[b, t, k] - top)
            top = maximum(scores, 0, t)
        if top > -np.inf:
            best_score[b] = (sum_of_tops + top) + lost_digits
            trace_back(log_transition, s, scores, lengths[b], states, b)
        else:
            best_score[b] = -np.inf


@njit(**_OPTIONS)
def sample(transposed, emission, predicted, lengths, status, uniforms, states):
    """Draw paths (N, B, T) of the sequences with status SCALED, by inversion of the uniforms (N, B, T).

    `transposed` (S, R, K, K) holds A', so that the weights of all predecessors of a state are contiguous.
    """
    n = emission.shape[2]
    filtered, weight = np.empty(n), np.empty(n)
    for b in range(emission.shape[0]):
        if status[b] != SCALED:
            continue
        s = b if transposed.shape[0] > 1 else 0
        for t in range(lengths[b] - 1, -1, -1):
            r = t + 1 if transposed.shape[1] > 1 else 0
            for k in range(n):
                filtered[k] = predicted[b, t, k] * emission[b, t, k]
            for draw in range(states.shape[0]):
                if t + 1 < lengths[b]:
                    row = transposed[s, r, states[draw, b, t + 1]]
                    for k in range(n):
                        weight[k] = filtered[k] * row[k]
                    states[draw, b, t] = invert(weight, uniforms[draw, b, t])
                else:
                    states[draw, b, t] = invert(filtered, uniforms[draw, b, t])
