"""Posteriors and expectations of hidden Markov models of few states; arrays and terms are those of `hmm_few`.

Filter and adjoint go to where they meet (`meet`), which is all that a likelihood needs, and on to the ends (`go_on`);
`begin` and `finish` are these halves as calls of their own, for a value whose gradient comes later.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from probseq.kernels import vectors as V
from probseq.kernels.hmm import SMALLEST_EVIDENCE, SMALLEST_NORMALISER
from probseq.kernels.hmm_few import LN_2, read_probabilities
from probseq.kernels.state_densities import collect, emitted, prepare, relative
from probseq.kernels.viterbi import add_compensated

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
_INLINE = {**_OPTIONS, "inline": "always"}


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
