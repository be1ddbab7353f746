"""The scaled forward-backward recursions of a hidden Markov model, compiled.

    z_0 ~ p(z_0);   z_t ~ p(z_t | z_{t-1});   y_t ~ p(y_t | z_t)

One idea carries the module: **a step of the filter and a step of its adjoint are the same step**,
taken with the transition matrix or with its transpose,

    u_{t+1} = A'(u_t * e_t) / sum(u_t * e_t)        u_t = p(z_t | y_<t),              forwards
    h_{t-1} = A (h_t * e_t) / sum(h_t * e_t)        h_t ~ p(y_>t | z_t),              backwards

so one helper, `transport`, serves both, and the forward normalisers are p(y_t | y_<t).

Symbols (B sequences, T steps, K states; S in {1, B} and R in {1, T} say whether transitions are shared)
    initial      (B, K)         p(z_0)
    transition   (S, R, K, K)   A[i, j] = p(z_t = j | z_{t-1} = i) into step t; [.., 0] is unused where R = T
    emission     (B, T, K)      e_t = exp(log p(y_t | z_t) - shift_t), so that its largest entry is 1
    predicted    (B, T, K)      u_t
    normaliser   (B, T)         c_t = sum(u_t * e_t) = p(y_t | y_<t) / exp(shift_t)
    beta         (B, T, K)      h_t; gamma_t = u_t * e_t * h_t / s_t is the smoothed belief
    evidence     (B, T)         s_t = sum(u_t * e_t * h_t)
    status       (B,)           SCALED, CAREFUL (redo in `hmm_log`) or IMPOSSIBLE

**No state that matters is lost.** Nothing is clipped: a step that may lose a state ends the sequence with
status CAREFUL, and `hmm_log` redoes it with logarithms. Call a state *possible* if its true weight is not
zero. The claim, by induction over t: every entry of u_t is accurate to K * 1e-20 (besides rounding), or the
state is truly impossible and the entry an exact zero. Let w = u_t * e_t, c = sum(w).
 - c >= SMALLEST_NORMALISER is demanded. All of u and e is at most 1, so a term w_i A_ij / c >= SMALLEST_TERM
   has w_i >= 1e-300: neither w_i, e_i nor the product has left the range of normal numbers (2e-308), and
   the term is accurate. Terms that flushed to zero or lost digits are below SMALLEST_TERM.
 - A sum u_j >= SAFE_SUM has thereby lost at most K * SMALLEST_TERM, which is K * 1e-20 of it.
 - For a sum below SAFE_SUM, `loses` demands that *every* possible term is at least SMALLEST_TERM.
   If none is possible the sum is an exact zero. Otherwise some possible term is doubtful: redo.
A fully positive matrix never meets the last case as long as its smallest entry exceeds SAFE_SUM: the test is
one comparison per state. The same holds backwards for h. Then s_t, a sum of accurate products, only has to
stay clear of underflow itself. These constants belong to the range of double precision, not to the data.

Reference: Rabiner (1989), Proc. IEEE 77, equations 19-37 and section V.A (scaling).
"""

from __future__ import annotations

import numpy as np
from numba import njit

SCALED, CAREFUL, IMPOSSIBLE = 0, 1, 2
SMALLEST_NORMALISER = 1e-100
SMALLEST_TERM = 1e-200
SAFE_SUM = 1e-180
SMALLEST_EVIDENCE = 1e-280  # terms 1e-16 below it are still normal numbers
LOG_SMALLEST_PROBABILITY = -667.0  # log 1e-290: an initial probability that exp still returns with all digits

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
_INLINE = {**_OPTIONS, "inline": "always"}  # a call with array arguments counts references: 20 ns


@njit(**_INLINE)
def vector_matrix(weight, matrix, s, r, out):
    """out = weight @ matrix[s, r], several rows at a time so that the inner loop over targets vectorises."""
    n = weight.shape[0]
    i = 0
    if n >= 8:
        for j in range(n):
            out[j] = 0.0
        while i + 8 <= n:
            w0, w1, w2, w3 = weight[i], weight[i + 1], weight[i + 2], weight[i + 3]
            w4, w5, w6, w7 = weight[i + 4], weight[i + 5], weight[i + 6], weight[i + 7]
            m0, m1, m2, m3 = matrix[s, r, i], matrix[s, r, i + 1], matrix[s, r, i + 2], matrix[s, r, i + 3]
            m4, m5, m6, m7 = matrix[s, r, i + 4], matrix[s, r, i + 5], matrix[s, r, i + 6], matrix[s, r, i + 7]
            for j in range(n):
                out[j] += ((w0 * m0[j] + w1 * m1[j]) + (w2 * m2[j] + w3 * m3[j])) + (
                    (w4 * m4[j] + w5 * m5[j]) + (w6 * m6[j] + w7 * m7[j])
                )
            i += 8
    elif n >= 4:
        w0, w1, w2, w3 = weight[0], weight[1], weight[2], weight[3]
        m0, m1, m2, m3 = matrix[s, r, 0], matrix[s, r, 1], matrix[s, r, 2], matrix[s, r, 3]
        for j in range(n):
            out[j] = (w0 * m0[j] + w1 * m1[j]) + (w2 * m2[j] + w3 * m3[j])
        i = 4
    else:
        w0, m0 = weight[0], matrix[s, r, 0]
        for j in range(n):
            out[j] = w0 * m0[j]
        i = 1
    while i < n:
        w0, m0 = weight[i], matrix[s, r, i]
        for j in range(n):
            out[j] += w0 * m0[j]
        i += 1


@njit(**_INLINE)
def total(row):
    """sum(row) in four independent partial sums, which the processor overlaps."""
    n = row.shape[0]
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    k = 0
    while k + 4 <= n:
        s0 += row[k]
        s1 += row[k + 1]
        s2 += row[k + 2]
        s3 += row[k + 3]
        k += 4
    while k < n:
        s0 += row[k]
        k += 1
    return (s0 + s1) + (s2 + s3)


@njit(**_INLINE)
def maximum(table, b, t):
    """max(table[b, t]), NaN ignored (-inf if nothing else is there), in four independent comparisons."""
    n = table.shape[2]
    m0, m1, m2, m3 = -np.inf, -np.inf, -np.inf, -np.inf
    k = 0
    while k + 4 <= n:
        x0, x1, x2, x3 = table[b, t, k], table[b, t, k + 1], table[b, t, k + 2], table[b, t, k + 3]
        m0 = x0 if x0 > m0 else m0
        m1 = x1 if x1 > m1 else m1
        m2 = x2 if x2 > m2 else m2
        m3 = x3 if x3 > m3 else m3
        k += 4
    while k < n:
        x0 = table[b, t, k]
        m0 = x0 if x0 > m0 else m0
        k += 1
    m0 = m0 if m0 > m1 else m1
    m2 = m2 if m2 > m3 else m3
    return m0 if m0 > m2 else m2


@njit(**_INLINE)
def shift_row(log_observation, b, t):
    """What is subtracted from log_observation[b, t]: its maximum, or 0 if every state forbids the data."""
    m = maximum(log_observation, b, t)
    return m if m > -np.inf else 0.0


@njit(**_OPTIONS)
def shift_parameters(log_initial, log_transition, initial, transition, initial_offset, transition_offset, status):
    """Write log-parameters minus max(0, their maximum): proper probabilities stay, larger potentials become <= 1.

    Returns whether any offset is not 0. `initial` and `transition` still have to go through exp.
    """
    any_offset = False
    for b in range(log_initial.shape[0]):
        offset = 0.0
        for k in range(log_initial.shape[1]):
            offset = max(offset, log_initial[b, k])
        initial_offset[b] = offset
        any_offset |= offset != 0.0
        for k in range(log_initial.shape[1]):
            shifted = log_initial[b, k] - offset
            initial[b, k] = shifted
            if -np.inf < shifted < LOG_SMALLEST_PROBABILITY:
                status[b] = CAREFUL
    n_sets, n_times, n, _ = log_transition.shape
    for s in range(n_sets):
        for r in range(n_times):
            offset = 0.0
            if n_times == 1 or r > 0:
                for i in range(n):
                    for j in range(n):
                        offset = max(offset, log_transition[s, r, i, j])
            transition_offset[s, r] = offset
            any_offset |= offset != 0.0
            for i in range(n):
                for j in range(n):
                    transition[s, r, i, j] = log_transition[s, r, i, j] - offset
    return any_offset


@njit(**_OPTIONS)
def shift_emissions(log_observation, lengths, first_sequence, first_step, emission, shift):
    """Write log_observation minus its row maximum for a block of sequences and steps; padding becomes 0."""
    n_sequences, n_steps, n = emission.shape
    for row in range(n_sequences):
        b = first_sequence + row
        stop = max(0, min(lengths[b] - first_step, n_steps))
        for step in range(stop):
            t = first_step + step
            m = shift_row(log_observation, b, t)
            shift[b, t] = m
            for k in range(n):
                emission[row, step, k] = log_observation[b, t, k] - m
        for step in range(stop, n_steps):
            for k in range(n):
                emission[row, step, k] = 0.0


@njit(**_INLINE)
def transport(weight, normaliser, matrix, s, r, out):
    """out = weight @ matrix[s, r] / normaliser; returns whether an entry is below SAFE_SUM."""
    vector_matrix(weight, matrix, s, r, out)
    scale = 1.0 / normaliser
    low = False
    for j in range(out.shape[0]):
        out[j] *= scale
        low |= out[j] < SAFE_SUM
    return low


@njit(**_OPTIONS)
def loses(out, weight, normaliser, source, row, step, log_observation, b, t, matrix, log_matrix, s, r, transposed):
    """Whether an entry of `out` (the transport of `weight`) below SAFE_SUM has a possible term below SMALLEST_TERM.

    State i was possible before the transport if source[row, step, i] > 0 and log_observation[b, t, i] > -inf.
    """
    n = out.shape[0]
    smallest = SMALLEST_TERM * normaliser
    for j in range(n):
        if out[j] < SAFE_SUM:
            for i in range(n):
                small = weight[i] * matrix[s, r, i, j] < smallest
                if small and source[row, step, i] > 0.0 and log_observation[b, t, i] > -np.inf:
                    log_entry = log_matrix[s, r, j, i] if transposed else log_matrix[s, r, i, j]
                    if log_entry > -np.inf:
                        return True
    return False


@njit(**_OPTIONS)
def forward(
    belief,
    transition,
    log_transition,
    log_observation,
    emission,
    lengths,
    first_sequence,
    first_step,
    predicted,
    normaliser,
    status,
):
    """Filter a block of sequences and steps; `belief` (B, K) carries u from block to block.

    `emission` and `predicted` hold the block alone, (sequences, steps, K); everything else is whole.
    A sequence that needs logarithms gets status CAREFUL, and its numbers are then meaningless.
    """
    n_sequences, n_steps, n = emission.shape
    u, weight = np.empty(n), np.empty(n)
    for row in range(n_sequences):
        b = first_sequence + row
        s = b if transition.shape[0] > 1 else 0
        stop = max(0, min(lengths[b] - first_step, n_steps))
        for step in range(stop, n_steps):
            for k in range(n):
                predicted[row, step, k] = 1.0
        if status[b] != SCALED or stop == 0:
            continue
        for k in range(n):
            u[k] = belief[b, k]
        for step in range(stop):
            t = first_step + step
            for k in range(n):
                predicted[row, step, k] = u[k]
                weight[k] = u[k] * emission[row, step, k]
            c = total(weight)
            normaliser[b, t] = c
            if not c >= SMALLEST_NORMALISER:
                status[b] = CAREFUL
                break
            if t + 1 < lengths[b]:
                r = t + 1 if transition.shape[1] > 1 else 0
                low = transport(weight, c, transition, s, r, u)
                if low and loses(
                    u, weight, c, predicted, row, step, log_observation, b, t, transition, log_transition, s, r, False
                ):
                    status[b] = CAREFUL
                    break
        for k in range(n):
            belief[b, k] = u[k]


@njit(**_OPTIONS)
def finish_filter(log_initial, log_observation, shift, log_normaliser, lengths, log_predicted, log_updated):
    """log_updated = log_predicted + log_observation - log p(y_t | y_<t); after an impossible step it is log_predicted.

    Padding repeats the last valid belief (the start, where there is none).
    """
    n_sequences, n_steps, n = log_updated.shape
    for b in range(n_sequences):
        for t in range(lengths[b]):
            if log_normaliser[b, t] == -np.inf:
                for k in range(n):
                    log_updated[b, t, k] = log_predicted[b, t, k]
            else:
                for k in range(n):
                    relative = log_observation[b, t, k] - shift[b, t]
                    log_updated[b, t, k] = (log_predicted[b, t, k] + relative) - log_normaliser[b, t]
        for t in range(lengths[b], n_steps):
            for k in range(n):
                last = log_updated[b, lengths[b] - 1, k] if lengths[b] > 0 else log_initial[b, k]
                log_predicted[b, t, k] = last
                log_updated[b, t, k] = last
