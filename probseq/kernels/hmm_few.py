"""Hidden Markov models of few states, one compiled call per question: parameters and data in, the answer out.

With few states a step costs less than the arrays it would leave for the next kernel, and a call less than its
arguments. So everything happens in one place: stored parameters become probabilities, a row of data becomes e_t in the
registers (`vectors`, `state_densities`), and **the filter and its adjoint run side by side**,

    w_t = u_t * e_t,   u_{t+1} = A' w_t / sum(w_t)        from the first step on
    v_t = h_t * e_t,   h_{t-1} = A  v_t / sum(v_t)        from the last step back

since each alone mostly waits for itself. Where the two have passed each other, at any step,

    p(y) = prod_{s < t} c_s  *  sum(w_t * h_t)  *  prod_{s > t} d_s        c = sum(w), d = sum(v), up to exp(shift)

so the likelihood needs half of either: they meet in the middle; and the posterior needs e_t once, by whichever comes
first. Logarithms of the normalisers are not taken one by one: exponents are added as integers, mantissas multiplied.

| array          | shape     |                                                                                     |
|----------------|-----------|-------------------------------------------------------------------------------------|
| size, kind     | W, 0 .. 2 | tuples of zeros, whose lengths the compiler knows: the width of a row in memory,    |
|                | zeros     | the kind of emission                                                                |
| log_initial    | (K,)      | up to a constant                                                                    |
| log_transition | (K, K)    | up to a constant per row; the same at every step of every sequence                  |
| emission       | of arrays | () where `values` is the table (B, T, K) of log p(y_t given z_t), else parameters   |
|                |           | as emissions store them: (log_probs,) of symbols, (means, covariances) of Gaussians |
| values         | (B, T, D) | the data                                                                            |
| room           |           | scratch                                                                             |

**Nothing is decided here.** All entries of A are at least SMALLEST_MOVE, or the call returns False at once. Then no
entry of u or h is smaller (each is a mean of entries of A), no state can be lost in them, and it suffices that every
normaliser is at least SMALLEST_NORMALISER (`hmm` says why). Where one is not, the call returns False, and what it wrote
is meaningless: the caller asks the kernels that look at every step.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from probseq.kernels import vectors as V
from probseq.kernels.hmm import LOG_SMALLEST_PROBABILITY, SMALLEST_EVIDENCE, SMALLEST_NORMALISER
from probseq.kernels.state_densities import collect, emitted, normalise_logs, prepare, relative
from probseq.kernels.viterbi import add_compensated

SMALLEST_MOVE = 1e-100
OFTEN = 16  # steps after which a path's score is put aside
LN_2 = math.log(2)

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
_INLINE = {**_OPTIONS, "inline": "always"}

# ---------------------------------------------------------------------------------------------- parameters


@njit(**_OPTIONS)
def read_chain(log_initial, log_transition, initial, moves):
    """Write log-probabilities (W,) and (W, W), -inf behind the last state."""
    n = log_initial.shape[0]
    initial[:] = -np.inf
    moves[:] = -np.inf
    fine = normalise_logs(log_initial, initial[:n])
    for i in range(n):
        fine &= normalise_logs(log_transition[i], moves[i, :n])
    return fine


@njit(**_OPTIONS)
def read_probabilities(log_initial, log_transition, start, matrices):
    """Write p(z_0) and ones (2, W), A and A' (2, W, W); False where scaled recursions would have to look at each step.

    Entries behind the last state are 0.
    """
    n, initial = log_initial.shape[0], start[0]
    fine = read_chain(log_initial, log_transition, initial, matrices[0])
    for i in range(initial.shape[0]):
        start[1, i] = 1.0 if i < n else 0.0
        fine &= not (-np.inf < initial[i] < LOG_SMALLEST_PROBABILITY)
        initial[i] = math.exp(initial[i])
        for j in range(initial.shape[0]):
            matrices[0, i, j] = math.exp(matrices[0, i, j]) if i < n and j < n else 0.0
            matrices[1, j, i] = matrices[0, i, j]
    smallest = 1.0
    for i in range(n):
        for j in range(n):
            smallest = min(smallest, matrices[0, i, j])
    return fine and smallest >= SMALLEST_MOVE


# ---------------------------------------------------------------------------------------------- likelihood


@njit(**_OPTIONS)
def log_prob(size, kind, log_initial, log_transition, emission, values, lengths, out):
    """Write log p(y) (B,): filter and adjoint each go half of the way. Returns whether all is well."""
    n, width = log_initial.shape[0], len(size)
    start, matrices = np.empty((2, width)), np.empty((2, width, width))
    if not read_probabilities(log_initial, log_transition, start, matrices):
        return False
    all_entries, all_centres, tops = prepare(size, emission, n, True)
    entries, centres = all_entries[0], all_centres[0]
    for b in range(values.shape[0]):
        length = lengths[b]
        half, fine, shifts, lost, product, power = (length - 1) // 2, length >= 0, 0.0, 0.0, 1.0, 0
        u, h = V.load(size, start, 0), V.load(size, start, 1)
        if length > 0 and length % 2 == 0:
            e, shifts = emitted(size, kind, entries, centres, tops, values, b, length - 1)
            v = V.multiply(h, e)
            product = V.total(v)
            fine = product >= SMALLEST_NORMALISER
            h = V.multiply(V.times(v, matrices, 1), 1.0 / product)
        last = 2 * half
        for t in range(half):
            e, shift = emitted(size, kind, entries, centres, tops, values, b, t)
            w = V.multiply(u, e)
            c = V.total(w)
            u = V.multiply(V.times(w, matrices, 0), 1.0 / c)
            e, more = emitted(size, kind, entries, centres, tops, values, b, last - t)
            v = V.multiply(h, e)
            d = V.total(v)
            h = V.multiply(V.times(v, matrices, 1), 1.0 / d)
            fine &= c >= SMALLEST_NORMALISER and d >= SMALLEST_NORMALISER
            shifts, lost = add_compensated(shift + more, shifts, lost)
            product, more_power = V.split(product * (c * d))
            power += more_power
        if length > 0:
            e, shift = emitted(size, kind, entries, centres, tops, values, b, half)
            w = V.multiply(u, e)
            fine &= V.total(w) >= SMALLEST_NORMALISER
            shifts += shift
            product *= V.total(V.multiply(w, h))
        out[b] = shifts + lost + (math.log(product) + LN_2 * power)
        if not (fine and -np.inf < out[b] < np.inf):
            return False
    return True


# ---------------------------------------------------------------------------------------------- filter


@njit(**_OPTIONS)
def filter(
    size, kind, log_initial, log_transition, emission, values, lengths, log_predicted, log_updated, log_steps
):  # fmt: skip
    """Write log u_t and log p(z_t given y_<=t) (B, T, K), and log p(y_t given y_<t) (B, T); `hmm.finish_filter` else.

    Padding repeats the last belief, and 0. Returns whether all is well.
    """
    n, width, n_steps = log_initial.shape[0], len(size), values.shape[1]
    start, matrices = np.empty((2, width)), np.empty((2, width, width))
    if not read_probabilities(log_initial, log_transition, start, matrices):
        return False
    all_entries, all_centres, tops = prepare(size, emission, n, False)
    entries, centres = all_entries[0], all_centres[0]
    for b in range(values.shape[0]):
        before, after = log_predicted[b].reshape(n_steps * n), log_updated[b].reshape(n_steps * n)
        u = V.load(size, start, 0)
        last = V.logarithm(u)
        for t in range(n_steps):
            log_u = V.logarithm(u) if t < lengths[b] else last
            V.store_part(before, t * n, n, log_u)
            if t < lengths[b]:
                row, shift = relative(size, kind, entries, centres, tops, values, b, t)
                weight = V.multiply(u, V.exponential(row))
                c = V.total(weight)
                if not c >= SMALLEST_NORMALISER:
                    return False
                log_c = V.logarithm(V.fill(size, c))
                u = V.multiply(V.times(weight, matrices, 0), 1.0 / c)
                last = V.subtract(V.add(log_u, row), log_c)
                log_steps[b, t] = V.largest(log_c) + shift
            else:
                log_steps[b, t] = 0.0
            V.store_part(after, t * n, n, last)
    return True


# ---------------------------------------------------------------------------------------------- posterior


@njit(**_OPTIONS)
def write_small_logarithms(size, kind, emission, values, b, length, start, matrices, w, later, c, out):
    """Replace log gamma (T K,) of what may have left the range of numbers by a sum of logarithms."""
    n = start.shape[1]
    while n > 0 and start[1, n - 1] == 0.0:
        n -= 1
    all_entries, all_centres, tops = prepare(size, emission, n, False)
    entries, centres = all_entries[0], all_centres[0]
    row = np.empty((1, len(size)))
    for t in range(length):
        evidence, least = 0.0, 1.0
        for k in range(n):
            joint = w[t, k] * later[t, k]
            evidence, least = evidence + joint, min(least, joint)
        if least >= SMALLEST_EVIDENCE:
            continue
        logs, _ = relative(size, kind, entries, centres, tops, values, b, t)
        V.store(row, 0, logs)
        for k in range(n):
            if w[t, k] * later[t, k] < SMALLEST_EVIDENCE and row[0, k] > -np.inf:
                u = start[0, k]
                if t > 0:
                    u = 0.0
                    for i in range(n):
                        u += w[t - 1, i] * matrices[0, i, k] / c[t - 1]
                if u > 0.0:
                    out[t * n + k] = math.log(u) + math.log(later[t, k]) + (row[0, k] - math.log(evidence))


@njit(**_INLINE)
def meet(size, kind, entries, centres, tops, values, b, length, start, matrices, room, c):
    """Both passes up to where they meet: u and h there, the shifts in two parts, log p(y) without them, and whether
    all is well. `room` gets e of all steps, w of the first half, h and h e / sum(h e) of the second; c its normalisers.
    """
    w, later, e, moves = room[0], room[1], room[2], room[3]
    shifts, lost, product, power, fine, d = 0.0, 0.0, 1.0, 0, True, 1.0
    u, h = V.load(size, start, 0), V.load(size, start, 1)
    rest = V.fill(size, 1.0)
    for t in range((length + 1) // 2):
        row, shift = emitted(size, kind, entries, centres, tops, values, b, t)
        V.store(e, t, row)
        shifts, lost = add_compensated(shift, shifts, lost)
        if 2 * t + 1 == length:
            rest, d = V.multiply(h, row), 1.0
            break
        weight = V.multiply(u, row)
        V.store(w, t, weight)
        c[t] = V.total(weight)
        u = V.multiply(V.times(weight, matrices, 0), 1.0 / c[t])
        back = length - 1 - t
        row, shift = emitted(size, kind, entries, centres, tops, values, b, back)
        V.store(e, back, row)
        shifts, lost = add_compensated(shift, shifts, lost)
        V.store(later, back, h)
        rest = V.multiply(h, row)
        d = V.total(rest)
        fine &= d >= SMALLEST_NORMALISER and c[t] >= SMALLEST_NORMALISER
        V.store(moves, back, V.multiply(rest, 1.0 / d))
        h = V.multiply(V.times(rest, matrices, 1), 1.0 / d)
        product, more_power = V.split(product * (c[t] * d))
        power += more_power
    if length > 0:  # the last of these d belongs to h behind it, not to u before it
        product *= V.total(V.multiply(u, rest)) / d
    return u, h, shifts, lost, math.log(product) + LN_2 * power, fine


@njit(**_INLINE)
def go_on(size, length, matrices, room, c, u, h):
    """Both passes from where they met to the ends of the sequence."""
    w, later, e, moves, fine = room[0], room[1], room[2], room[3], True
    for t in range(length // 2, length):
        weight = V.multiply(u, V.load(size, e, t))
        V.store(w, t, weight)
        c[t] = V.total(weight)
        u = V.multiply(V.times(weight, matrices, 0), 1.0 / c[t])
        back = length - 1 - t
        V.store(later, back, h)
        weight = V.multiply(h, V.load(size, e, back))
        d = V.total(weight)
        fine &= d >= SMALLEST_NORMALISER and c[t] >= SMALLEST_NORMALISER
        V.store(moves, back, V.multiply(weight, 1.0 / d))
        h = V.multiply(V.times(weight, matrices, 1), 1.0 / d)
    return fine


@njit(**_INLINE)
def gather(size, kind, centres, values, b, length, n, matrices, room, weight, out, first, counts, xi, sums):
    """gamma, times the weight, into `out` (T K,), if it has entries, and sums; the weighted moves into xi."""
    w, later, moves, with_gamma, with_sums = room[0], room[1], room[3], out.size > 0, sums.size > 0
    earlier = V.fill(size, 0.0)
    for t in range(length):
        joint = V.multiply(V.load(size, w, t), V.load(size, later, t))
        inverse = 1.0 / V.total(joint)
        joint = V.multiply(joint, inverse * weight)
        if with_gamma:
            V.store_part(out, t * n, n, joint)
        if with_sums:
            collect(size, kind, sums, centres, values, b, t, joint)
        if t == 0:
            V.store_part(first, 0, n, V.add(V.load_part(size, first, 0), joint))
        V.add_outer(counts, earlier, V.load(size, moves, t))
        earlier = V.multiply(V.load(size, w, t), inverse)
    for i in range(n):
        for j in range(n):
            xi[i, j] += weight * (counts[i, j] * matrices[0, i, j])
    counts[:] = 0.0


@njit(**_OPTIONS)
def expectations(
    size, kind, log_initial, log_transition, emission, values, lengths, weights, places, room, log_probs, gamma, xi,
    first, sums,
):  # fmt: skip
    """Write log p(y) (B,) and gamma (B, T, K) times weights (B,), unless it has no entries.

    Sequence b adds its expected moves, its gamma of the first step and what `collect` makes of all, times its weight,
    to the entries places[b] of xi (G, K, K), first (G, K) and sums (G, 1, S, W). `room` (4, T, W) is scratch for w, h,
    e, and h e / sum(h e). Returns whether all is well.
    """
    n, width = log_initial.shape[0], len(size)
    start, matrices, counts = np.empty((2, width)), np.empty((2, width, width)), np.zeros((width, width))
    if not read_probabilities(log_initial, log_transition, start, matrices):
        return False
    all_entries, all_centres, tops = prepare(size, emission, n, True)
    entries, centres, c = all_entries[0], all_centres[0], np.empty(room.shape[1])
    for b in range(values.shape[0]):
        length, g = lengths[b], places[b]
        u, h, shifts, lost, value, fine = meet(
            size, kind, entries, centres, tops, values, b, length, start, matrices, room, c
        )
        log_probs[b] = shifts + lost + value
        if not (go_on(size, length, matrices, room, c, u, h) and fine and -np.inf < log_probs[b] < np.inf):
            return False
        gamma[b, length:] = 0.0
        out = gamma[b, : length if gamma.size > 0 else 0]
        gather(
            size, kind, centres, values, b, length, n, matrices, room, weights[b], out.reshape(out.size), first[g],
            counts, xi[g], sums[g, 0],
        )  # fmt: skip
    return True


@njit(**_OPTIONS)
def begin(size, kind, n, emission, values, lengths, start, matrices, kept, flow, scales, log_probs):
    """Write log p(y) (B,), and what `finish` goes on from: kept (B, 4, T, W), flow (B, 2, W), scales (B, 1, T).

    From what `read_probabilities` made of the chain. Returns whether all is well.
    """
    all_entries, all_centres, tops = prepare(size, emission, n, True)
    entries, centres = all_entries[0], all_centres[0]
    for b in range(values.shape[0]):
        u, h, shifts, lost, value, fine = meet(
            size, kind, entries, centres, tops, values, b, lengths[b], start, matrices, kept[b], scales[b, 0]
        )
        V.store(flow[b], 0, u)
        V.store(flow[b], 1, h)
        log_probs[b] = shifts + lost + value
        if not (fine and -np.inf < log_probs[b] < np.inf):
            return False
    return True


@njit(**_OPTIONS)
def finish(
    size, kind, n, emission, values, lengths, weights, places, matrices, kept, flow, scales, gamma, xi, first, sums
):  # fmt: skip
    """The rest of `expectations` behind `begin`, whose work is used up."""
    _, all_centres, _ = prepare(size, emission, n, True)
    centres, counts = all_centres[0], np.zeros((len(size), len(size)))
    for b in range(values.shape[0]):
        length, g = lengths[b], places[b]
        u, h = V.load(size, flow[b], 0), V.load(size, flow[b], 1)
        if not go_on(size, length, matrices, kept[b], scales[b, 0], u, h):
            return False
        gamma[b, length:] = 0.0
        out = gamma[b, : length if gamma.size > 0 else 0]
        gather(
            size, kind, centres, values, b, length, n, matrices, kept[b], weights[b], out.reshape(out.size), first[g],
            counts, xi[g], sums[g, 0],
        )  # fmt: skip
    return True


@njit(**_OPTIONS)
def log_posterior(size, kind, log_initial, log_transition, emission, values, lengths, room, log_gamma):
    """Write log gamma (B, T, K), -inf in padding, also of what has left the range of numbers; `room` as above."""
    n, width = log_initial.shape[0], len(size)
    start, matrices = np.empty((2, width)), np.empty((2, width, width))
    if not read_probabilities(log_initial, log_transition, start, matrices):
        return False
    all_entries, all_centres, tops = prepare(size, emission, n, True)
    entries, centres, c = all_entries[0], all_centres[0], np.empty(room.shape[1])
    w, later = room[0], room[1]
    absent = V.subtract(V.fill(size, 1.0), V.load(size, start, 1))
    for b in range(values.shape[0]):
        length, least = lengths[b], V.fill(size, 1.0)
        u, h, shifts, _, value, fine = meet(
            size, kind, entries, centres, tops, values, b, length, start, matrices, room, c
        )
        if not (go_on(size, length, matrices, room, c, u, h) and fine and -np.inf < shifts + value < np.inf):
            return False
        log_gamma[b, length:] = -np.inf
        out = log_gamma[b, :length].reshape(length * n)
        for t in range(length):
            joint = V.multiply(V.load(size, w, t), V.load(size, later, t))
            least = V.smaller(least, V.add(joint, absent))
            V.store_part(out, t * n, n, V.logarithm(V.multiply(joint, 1.0 / V.total(joint))))
        if -V.largest(V.multiply(least, -1.0)) < SMALLEST_EVIDENCE:
            write_small_logarithms(size, kind, emission, values, b, length, start, matrices, w, later, c, out)
    return True


# ---------------------------------------------------------------------------------------------- the best path


@njit(**_OPTIONS)
def decode(size, kind, log_initial, log_transition, emission, values, lengths, room, states, scores):
    """Write the most probable states (B, T), -1 in padding, ties to the lowest, and log p(states, y) (B,).

    `viterbi.decode` otherwise; the best score so far is subtracted now and then. `room` (T, W) is scratch. Structural
    zeros are welcome; returns whether every sequence has a path.
    """
    n, width = log_initial.shape[0], len(size)
    start, moves = np.empty((1, width)), np.empty((2, width, width))
    if not read_chain(log_initial, log_transition, start[0], moves[0]):
        return False
    for i in range(width):
        for j in range(width):
            moves[1, j, i] = moves[0, i, j]
    all_entries, all_centres, tops = prepare(size, emission, n, False)
    entries, centres = all_entries[0], all_centres[0]
    for b in range(values.shape[0]):
        length, total, lost, best = lengths[b], 0.0, 0.0, 0.0
        states[b, length:] = -1
        d = V.load(size, start, 0)
        for t in range(length):
            row, shift = relative(size, kind, entries, centres, tops, values, b, t)
            d = V.add(d if t == 0 else V.plus(d, moves, 0), row)
            total, lost = add_compensated(shift, total, lost)
            if t % OFTEN == 0 or t + 1 == length:
                best = V.largest(d)
                if not -np.inf < best < np.inf:
                    return False
                d = V.subtract(d, best)
                total, lost = add_compensated(best, total, lost)
            V.store(room, t, d)
        scores[b] = total + lost
        state = V.first_place(d, 0.0)
        if length > 0:
            states[b, length - 1] = state
        for back in range(1, length):
            t = length - back
            d = V.add(V.load(size, room, t - 1), V.load(size, moves[1], state))
            state = V.first_place(d, V.largest(d))
            states[b, t - 1] = state
    return True
