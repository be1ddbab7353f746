"""The scaled forward-backward recursions of a hidden Markov model, compiled.

    z_0 ~ p(z_0);   z_t ~ p(z_t | z_{t-1});   y_t ~ p(y_t | z_t)

One idea carries the module: **a step of the filter and a step of its adjoint are the same step**,
taken with the transition matrix or with its transpose,

    u_{t+1} = A'(u_t * e_t) / sum(u_t * e_t)        u_t = p(z_t | y_<t),              forwards
    h_{t-1} = A (h_t * e_t) / sum(h_t * e_t)        h_t ~ p(y_>t | z_t),              backwards

so one helper, `transport`, serves both, and the forward normalisers are p(y_t | y_<t).

Symbols (B sequences, T steps, K states; S in {1, B} and R in {1, T} say whether transitions are shared; W >= K is
the width of a row in memory, a whole number of vector registers: `width_of`; entries K .. W - 1 are 0)
    belief       (B, W)         u of the first step, and after a pass that goes on of the step behind the last
    transition   (S, R, W, W)   A[i, j] = p(z_t = j | z_{t-1} = i) into step t; [.., 0] is unused where R = T
    emission     (B, T, W)      e_t = exp(log p(y_t | z_t) - shift_t), so that its largest entry is 1
    predicted    (B, T, W)      u_t
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

from probseq.kernels.registers import TURNING, move, rescale, weigh
from probseq.kernels.rows import exponentiate, extent, maximum, total, vector_matrix

SCALED, CAREFUL, IMPOSSIBLE = 0, 1, 2
SMALLEST_NORMALISER = 1e-100
SMALLEST_TERM = 1e-200
SAFE_SUM = 1e-180
SMALLEST_EVIDENCE = 1e-280  # terms 1e-16 below it are still normal numbers
LOG_SMALLEST_PROBABILITY = -667.0  # log 1e-290: an initial probability that exp still returns with all digits

BLOCK = 2048  # emission entries exponentiated together: they stay in the fastest cache

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
_INLINE = {**_OPTIONS, "inline": "always"}  # a call with array arguments counts references: 20 ns


@njit(**_INLINE)
def shift_row(log_observation, b, t):
    """What is subtracted from log_observation[b, t]: its maximum, or 0 if every state forbids the data."""
    m = maximum(log_observation, b, t)
    return m if m > -np.inf else 0.0


@njit(**_OPTIONS)
def shift_rows(log_observation, b, length, shift):
    """Write what is subtracted from each row of log_observation[b], for the careful recursions."""
    for t in range(length):
        shift[t] = shift_row(log_observation, b, t)


@njit(**_OPTIONS)
def shift_parameters(log_initial, log_transition, initial, transition, initial_offset, transition_offset, status):
    """Write log-parameters minus max(0, their maximum): proper probabilities stay, larger potentials become <= 1.

    Returns whether any offset is not 0. `initial` and `transition` still have to go through exp; entries behind the
    last state are -inf.
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
        for k in range(log_initial.shape[1], initial.shape[1]):
            initial[b, k] = -np.inf
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
            for i in range(transition.shape[2]):
                for j in range(transition.shape[3]):
                    inside = i < n and j < n
                    transition[s, r, i, j] = log_transition[s, r, i, j] - offset if inside else -np.inf
    return any_offset


@njit(**_OPTIONS)
def emit(log_observation, b, first, shift, e, rounded, bits):
    """Write e (steps, W) of the steps from `first` on, and their shifts."""
    n, width = log_observation.shape[2], e.shape[1]
    for i in range(e.shape[0]):
        t = first + i
        m = shift_row(log_observation, b, t)
        shift[b, t] = m
        for k in range(n):
            e[i, k] = log_observation[b, t, k] - m
        for k in range(n, width):
            e[i, k] = -np.inf
    exponentiate(e.reshape(e.size), rounded, bits)


@njit(**_INLINE)
def transport(weight, normaliser, matrix, r, width, n, out):
    """out = weight @ matrix[r] / normaliser; returns whether one of the first n entries is below SAFE_SUM."""
    vector_matrix(weight, matrix, r, width, out)
    scale = 1.0 / normaliser
    for j in range(width):
        out[j] *= scale
    low = False
    for j in range(n):
        low |= out[j] < SAFE_SUM
    return low


@njit(**_OPTIONS)
def loses(out, weight, normaliser, source, log_observation, b, t, matrix, log_matrix, s, r, transposed):
    """Whether an entry of `out` (the transport of `weight`) below SAFE_SUM has a possible term below SMALLEST_TERM.

    State i was possible before the transport if source[o + i] > 0 and log_observation[b, t, i] > -inf.
    """
    n = log_observation.shape[2]
    smallest = SMALLEST_TERM * normaliser
    for j in range(n):
        if out[j] < SAFE_SUM:
            for i in range(n):
                small = weight[i] * matrix[s, r, i, j] < smallest
                if small and source[i] > 0.0 and log_observation[b, t, i] > -np.inf:
                    log_entry = log_matrix[s, r, j, i] if transposed else log_matrix[s, r, i, j]
                    if log_entry > -np.inf:
                        return True
    return False


@njit(**_OPTIONS)
def filter_steps(size, u, weight, matrix, n, e, kept, n_moves, normaliser):
    """The inner loop of `forward` over the rows of e (steps, W): returns the one that needs a look, or their number.

    There u is moved on already (as after the first `n_moves` steps), and `weight` is u_t * e_t. `kept` gets u. The move
    behind row i is by matrix[i], or by matrix[0] if that is all. `size` is a tuple of length W.
    """
    width = extent(size)
    varying = matrix.shape[0] > 1
    for i in range(e.shape[0]):
        for k in range(width):
            kept[i, k] = u[k]
            weight[k] = u[k] * e[i, k]
        c = total(weight, width)
        normaliser[i] = c
        if not c >= SMALLEST_NORMALISER:
            return i
        if i < n_moves:
            low = transport(weight, c, matrix, i if varying else 0, width, n, u)
            if low:
                return i
    return e.shape[0]


@njit(**_OPTIONS)
def filter_wide(u, weight, matrix, n, e, kept, n_moves, normaliser):
    """`filter_steps` for rows of more than eight numbers, in `registers`; all arrays are contiguous."""
    width = u.shape[0]
    varying, turns = matrix.shape[0] > 1, width > TURNING
    for i in range(e.shape[0]):
        for k in range(width):
            kept[i, k] = u[k]
        c = weigh(u, 0, e, i * width, weight, 0, width)
        normaliser[i] = c
        if not c >= SMALLEST_NORMALISER:
            return i
        if i < n_moves:
            move(weight, 0, matrix, i * width * width if varying else 0, width, u, 0, i if turns else 0)
            if rescale(u, 0, width, 1.0 / c, SAFE_SUM, n):
                return i
    return e.shape[0]


@njit(**_OPTIONS)
def forward(
    belief,
    transition,
    log_transition,
    log_observation,
    lengths,
    goes_on,
    emission,
    predicted,
    shift,
    normaliser,
    status,
):
    """Filter sequences of status SCALED; `emission` and `predicted` are kept unless they have no entries.

    With `goes_on` (R = 1) the belief is moved once more behind the last step, so that these may be the first steps of a
    longer sequence. A sequence that needs logarithms gets status CAREFUL, and its numbers are then meaningless.
    """
    n_sequences, _, n = log_observation.shape
    width = belief.shape[1]
    keep = emission.size > 0
    n_block = max(1, BLOCK // width)
    rounded, bits = np.empty(n_block * width), np.empty(n_block * width, np.int64)
    block_e, block_u = np.empty((n_block, width)), np.empty((n_block, width))
    u, weight = np.empty(width), np.empty(width)
    varying = transition.shape[1] > 1
    for b in range(n_sequences):
        length = lengths[b]
        if keep:
            predicted[b, length:] = 1.0
            emission[b, length:] = 0.0
        if status[b] != SCALED or length == 0:
            continue
        s = b if transition.shape[0] > 1 else 0
        n_moves = length if goes_on else length - 1
        for k in range(width):
            u[k] = belief[b, k]
        for first in range(0, length, n_block):
            stop = min(first + n_block, length)
            e = emission[b, first:stop] if keep else block_e[: stop - first]
            kept = predicted[b, first:stop] if keep else block_u[: stop - first]
            emit(log_observation, b, first, shift, e, rounded, bits)
            t = first
            while t < stop:
                matrix = transition[s, t + 1 :] if varying and t + 1 < length else transition[s, :1]
                rest, room, c = e[t - first :], kept[t - first :], normaliser[b, t:]
                if width == 4:
                    t += filter_steps((0, 0, 0, 0), u, weight, matrix, n, rest, room, n_moves - t, c)
                elif width == 8:
                    t += filter_steps((0, 0, 0, 0, 0, 0, 0, 0), u, weight, matrix, n, rest, room, n_moves - t, c)
                else:
                    t += filter_wide(u, weight, matrix, n, rest, room, n_moves - t, c)
                if t < stop:
                    r = t + 1 if varying else 0
                    if not normaliser[b, t] >= SMALLEST_NORMALISER or loses(
                        u,
                        weight,
                        normaliser[b, t],
                        kept[t - first],
                        log_observation,
                        b,
                        t,
                        transition,
                        log_transition,
                        s,
                        r,
                        False,
                    ):
                        status[b] = CAREFUL
                        break
                    t += 1
            if status[b] != SCALED:
                break
        for k in range(width):
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
