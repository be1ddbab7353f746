"""Hidden Markov models of many states, one compiled call per question: parameters and data in, the answer out.

What `hmm_few` does in registers, done in rows of whole registers (`registers`), for a row of W > 16 states. **The
filter and its adjoint run side by side**,

    w_t = u_t * e_t,   u_{t+1} = A' w_t / sum(w_t)        from the first step on
    v_t = h_t * e_t,   h_{t-1} = A  v_t / sum(v_t)        from the last step back

so that A, which is larger than the fastest cache, is read once for both. Steps come in blocks of `STEPS`: their e_t is
made at once; and once the two have passed each other, gamma, p_t = w_t / s_t and q_t = v_t / sum(v_t) of a block are
made, its moves added up as one product of matrices, xi = A * sum_t outer(p_{t-1}, q_t), and its rows collected for the
derivatives in the emission, all from the second cache at most.

The arrays are those of `hmm_few`, and so is the argument why nothing has to be decided here: False comes back where the
kernels that look at every step have to be asked. Matrices and rows of scratch begin with a cache line.

| scratch        | shape        |                                                                                  |
|----------------|--------------|----------------------------------------------------------------------------------|
| matrix         | (W, W)       | A                                                                                |
| kept           | (2, T, W)    | e_t; and w_t of the first half of the steps, h_t of the second                   |
| blocks         | (5, STEPS+1, W) | w and v of a block, its gamma in either direction, q or p                     |
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from probseq.kernels import vectors as V
from probseq.kernels.hmm import LOG_SMALLEST_PROBABILITY, SMALLEST_NORMALISER
from probseq.kernels.hmm_few import LN_2, SMALLEST_MOVE
from probseq.kernels.registers import add_pairs, move_both, rescale, weigh
from probseq.kernels.state_densities import collect, emit_rows, prepare
from probseq.kernels.viterbi import add_compensated

STEPS = 64
LANES = (0,) * 8  # states that a vector holds

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


@njit(**_OPTIONS)
def probabilities(stored, row):
    """Write softmax(stored) to row (W / 8, 8), 0 behind its end; returns the smallest, 0 where it is none."""
    flat, top, mass, smallest = row.reshape(row.size), -np.inf, 0.0, np.inf
    for k in range(stored.shape[0]):
        top = max(top, stored[k])
    if not -np.inf < top < np.inf:
        return 0.0
    for k in range(flat.shape[0]):
        flat[k] = stored[k] - top if k < stored.shape[0] else -np.inf
    for g in range(row.shape[0]):
        logs = V.exponential(V.load(LANES, row, g))
        mass += V.total(logs)
        V.store(row, g, logs)
    for k in range(stored.shape[0]):
        flat[k] /= mass
        smallest = min(smallest, flat[k])
    return smallest if mass > 0.0 else 0.0


@njit(**_OPTIONS)
def read(log_initial, log_transition, start, matrix):
    """Write p(z_0) and ones (2, W), and A (W, W); False where scaled recursions would have to look at each step."""
    n, width, smallest = log_initial.shape[0], matrix.shape[0], 1.0
    probabilities(log_initial, start[0].reshape(width // 8, 8))
    for k in range(width):
        start[1, k] = 1.0 if k < n else 0.0
    for i in range(n):
        smallest = min(smallest, probabilities(log_transition[i], matrix[i].reshape(width // 8, 8)))
    matrix[n:] = 0.0
    top, fine = -np.inf, True
    for k in range(n):
        top = max(top, log_initial[k])
    for k in range(n):
        fine &= not -np.inf < log_initial[k] - top < LOG_SMALLEST_PROBABILITY
    return fine and smallest >= SMALLEST_MOVE and -np.inf < top < np.inf


@njit(**_OPTIONS)
def log_prob(size, kind, log_initial, log_transition, emission, values, lengths, matrix, blocks, out):
    """Write log p(y) (B,): filter and adjoint each go half of the way. Returns whether all is well."""
    n, width = log_initial.shape[0], matrix.shape[0]
    start, flow = np.empty((2, width)), np.empty((4, width))
    if not read(log_initial, log_transition, start, matrix):
        return False
    entries, centres, tops = prepare(LANES, emission, n, True)
    u, h, w, v = flow[0], flow[1], flow[2], flow[3]
    front, back = blocks[0, :STEPS].reshape(STEPS * width // 8, 8), blocks[1, :STEPS].reshape(STEPS * width // 8, 8)
    shifts = np.empty((2, STEPS))
    for b in range(values.shape[0]):
        length, total, lost, product, power = lengths[b], 0.0, 0.0, 1.0, 0
        half, fine = (length - 1) // 2, True
        u[:], h[:], w[:] = start[0], start[1], 0.0
        if length > 0 and length % 2 == 0:
            emit_rows(LANES, kind, entries, centres, tops, values, b, length - 1, 1, back[: width // 8], shifts[1])
            total = shifts[1, 0]
            product = weigh(h, 0, back, 0, v, 0, width)
            fine = product >= SMALLEST_NORMALISER
            move_both(w, 0, matrix, width, 1.0, flow, 2 * width, v, 0, 1.0 / product, h, 0, 0)
        last = 2 * half
        for first in range(0, half, STEPS):
            steps = min(STEPS, half - first)
            size = steps * width // 8
            low = last - first - steps + 1
            emit_rows(LANES, kind, entries, centres, tops, values, b, first, steps, front[:size], shifts[0])
            emit_rows(LANES, kind, entries, centres, tops, values, b, low, steps, back[:size], shifts[1])
            for i in range(steps):
                other = steps - 1 - i
                c = weigh(u, 0, front, i * width, w, 0, width)
                d = weigh(h, 0, back, other * width, v, 0, width)
                fine &= c >= SMALLEST_NORMALISER and d >= SMALLEST_NORMALISER
                move_both(w, 0, matrix, width, 1.0 / c, u, 0, v, 0, 1.0 / d, h, 0, i)
                total, lost = add_compensated(shifts[0, i] + shifts[1, other], total, lost)
                product, more = V.split(product * (c * d))
                power += more
            if not fine:
                return False
        if length > 0:
            emit_rows(LANES, kind, entries, centres, tops, values, b, half, 1, front[: width // 8], shifts[0])
            fine &= weigh(u, 0, front, 0, w, 0, width) >= SMALLEST_NORMALISER
            total += shifts[0, 0]
            product *= weigh(w, 0, h, 0, v, 0, width)
        out[b] = total + lost + (math.log(product) + LN_2 * power)
        if not (fine and -np.inf < out[b] < np.inf):
            return False
    return True


# ---------------------------------------------------------------------------------------------- posterior


@njit(**_OPTIONS)
def settle(kind, centres, values, b, step, stride, joint, evidence, n, weight, gamma, first_gamma, sums):
    """gamma of a block's rows, of the steps step, step + stride, ..: written, added to the first step's, collected."""
    width, steps = joint.shape[1], evidence.shape[0]
    groups = width // 8
    lines = joint.reshape(joint.size // 8, 8)
    for i in range(steps):
        rescale(joint, i * width, width, weight / evidence[i], 0.0, 0)
        t = step + stride * i
        if gamma.size > 0:
            for k in range(n):
                gamma[b, t, k] = joint[i, k]
        if t == 0 and first_gamma.size > 0:
            for k in range(n):
                first_gamma[k] += joint[i, k]
    for g in range(groups if sums.size > 0 else 0):
        own, means = sums[g], centres[min(g, centres.shape[0] - 1)]
        for i in range(steps):
            collect(LANES, kind, own, means, values, b, step + stride * i, V.load(LANES, lines, i * groups + g))


@njit(**_OPTIONS)
def meet(kind, entries, centres, tops, values, b, length, matrix, flow, kept, v, c, d, shifts):
    """Filter the first half and go back through the second, from the rows of `flow`; False where one must look."""
    width = matrix.shape[0]
    n_pairs, groups, u, h, e, held = length // 2, width // 8, flow[0], flow[1], kept[0], kept[1]
    lines = e.reshape(e.size // 8, 8)
    for first in range(0, n_pairs, STEPS):
        steps = min(STEPS, n_pairs - first)
        for begin in (first, length - first - steps):
            part = lines[begin * groups : (begin + steps) * groups]
            emit_rows(LANES, kind, entries, centres, tops, values, b, begin, steps, part, shifts[begin:])
        for t in range(first, first + steps):
            back = length - 1 - t
            c[t] = weigh(u, 0, e, t * width, held, t * width, width)
            d[back] = weigh(h, 0, e, back * width, v, 0, width)
            for k in range(width):
                held[back, k] = h[k]
            if not (c[t] >= SMALLEST_NORMALISER and d[back] >= SMALLEST_NORMALISER):
                return False
            move_both(held, t * width, matrix, width, 1.0 / c[t], u, 0, v, 0, 1.0 / d[back], h, 0, t)
    if length % 2 == 0:
        return True
    part = lines[n_pairs * groups : (n_pairs + 1) * groups]
    emit_rows(LANES, kind, entries, centres, tops, values, b, n_pairs, 1, part, shifts[n_pairs:])
    held[n_pairs] = h
    d[n_pairs] = weigh(h, 0, e, n_pairs * width, v, 0, width)
    if not d[n_pairs] >= SMALLEST_NORMALISER:
        return False
    v[1] = 0.0
    move_both(v, width, matrix, width, 1.0, v, 2 * width, v, 0, 1.0 / d[n_pairs], h, 0, n_pairs)
    return True


@njit(**_OPTIONS)
def go_on(matrix, flow, kept, first, steps, middle, w, v, ahead, behind, c, d, s):
    """The steps `first` .. of the second half and their counterparts in the first; row 0 of w and v is not theirs."""
    width = matrix.shape[0]
    u, h, e, held = flow[0], flow[1], kept[0], kept[1]
    for i in range(steps):
        t, back, row = first + i, 2 * middle - 1 - first - i, (i + 1) * width
        c[t] = weigh(u, 0, e, t * width, w, row, width)
        s[0, i] = weigh(w, row, held, t * width, ahead, i * width, width)
        if not c[t] >= SMALLEST_NORMALISER:
            return False
        if back < 0:  # an odd step more
            return True
        d[back] = weigh(h, 0, e, back * width, v, row, width)
        s[1, i] = weigh(h, 0, held, back * width, behind, i * width, width)
        if not d[back] >= SMALLEST_NORMALISER:
            return False
        move_both(w, row, matrix, width, 1.0 / c[t], u, 0, v, row, 1.0 / d[back], h, 0, i)
    return True


@njit(**_OPTIONS)
def logarithm_of(numbers, shifts):
    """log(prod numbers) + sum shifts."""
    total, lost, product, power = 0.0, 0.0, 1.0, 0
    for t in range(numbers.shape[0]):
        total, lost = add_compensated(shifts[t], total, lost)
        product, more = V.split(product * numbers[t])
        power += more
    return total + lost + (math.log(product) + LN_2 * power)


@njit(**_OPTIONS)
def halves(kind, entries, centres, tops, values, b, length, start, matrix, flow, kept, v, c, d, shifts):
    """`meet` from the start, and log p(y); NaN where one must look."""
    width, middle = matrix.shape[0], length // 2
    for k in range(width):
        flow[0, k], flow[1, k] = start[0, k], start[1, k]
    if length == 0:
        return 0.0
    if not meet(kind, entries, centres, tops, values, b, length, matrix, flow, kept, v, c, d, shifts):
        return np.nan
    if middle == 0:  # p(y) = sum(u_0 e_0)
        c[0] = weigh(flow[0], 0, kept[0], 0, v, 0, width)
        return logarithm_of(c[:1], shifts) if c[0] >= SMALLEST_NORMALISER else np.nan
    # p(y) = prod_{t < m - 1} c_t  sum(w_{m-1} h_{m-1})  prod_{t >= m} d_t
    joint = weigh(flow[1], 0, kept[1], (middle - 1) * width, v, 0, width)
    last, c[middle - 1] = c[middle - 1], joint
    value = logarithm_of(c[:middle], shifts) + logarithm_of(d[middle:length], shifts[middle:])
    c[middle - 1] = last
    return value


@njit(**_OPTIONS)
def rest(
    kind, centres, values, b, length, weight, n, matrix, flow, kept, blocks, c, d, s, counts, gamma, xi, first_gamma,
    sums,
):  # fmt: skip
    """What follows `halves` of one sequence: its expectations, times its weight. Returns whether all is well."""
    width, middle = matrix.shape[0], length // 2
    e, held, w, v, ahead, behind, other = kept[0], kept[1], blocks[0], blocks[1], blocks[2], blocks[3], blocks[4]
    counts[:] = 0.0
    w[0], v[0] = 0.0, 0.0  # p of the step before an ascending block, q of the step behind a descending one
    if middle > 0:
        weigh(held, middle * width, e, middle * width, v, 0, width)
        rescale(v, 0, width, 1.0 / d[middle], 0.0, 0)
    for first in range(middle, length, STEPS):
        steps = min(STEPS, length - first)
        if not go_on(matrix, flow, kept, first, steps, middle, w, v, ahead, behind, c, d, s):
            return False
        settle(kind, centres, values, b, first, 1, ahead, s[0, :steps], n, weight, gamma, first_gamma, sums)
        for i in range(steps):
            t = first + i
            rescale(w, (i + 1) * width, width, 1.0 / s[0, i], 0.0, 0)
            weigh(held, t * width, e, t * width, other, i * width, width)
            rescale(other, i * width, width, 1.0 / d[t], 0.0, 0)
        add_pairs(w, other, 0, steps, width, counts)
        w[0] = w[steps]
        high = 2 * middle - 1 - first
        steps = min(steps, high + 1)
        settle(kind, centres, values, b, high, -1, behind, s[1, :steps], n, weight, gamma, first_gamma, sums)
        for i in range(steps):
            for k in range(width):
                other[i, k] = held[high - i, k]
            rescale(other, i * width, width, 1.0 / s[1, i], 0.0, 0)
            rescale(v, (i + 1) * width, width, 1.0 / d[high - i], 0.0, 0)
        add_pairs(other, v, 0, steps, width, counts)
        if steps > 0:
            v[0] = v[steps]
    for i in range(n if xi.size > 0 else 0):
        for j in range(n):
            xi[i, j] += weight * (counts[i, j] * matrix[i, j])
    return True


@njit(**_OPTIONS)
def begin(size, kind, n, emission, values, lengths, start, matrix, blocks, kept, flow, scales, log_probs):
    """Write log p(y) (B,), and what `finish` goes on from: kept (B, 2, T, W), flow (B, 2, W), scales (B, 3, T).

    From what `read` made of the chain. Returns whether all is well.
    """
    entries, centres, tops = prepare(LANES, emission, n, True)
    for b in range(values.shape[0]):
        log_probs[b] = halves(
            kind, entries, centres, tops, values, b, lengths[b], start, matrix, flow[b], kept[b], blocks[0],
            scales[b, 0], scales[b, 1], scales[b, 2],
        )  # fmt: skip
        if not -np.inf < log_probs[b] < np.inf:
            return False
    return True


@njit(**_OPTIONS)
def finish(
    size, kind, n, emission, values, lengths, weights, places, matrix, blocks, kept, flow, scales, gamma, xi,
    first_gamma, sums,
):  # fmt: skip
    """The rest of `expectations` behind `begin`, whose work is used up."""
    width, (_, centres, _) = matrix.shape[0], prepare(LANES, emission, n, True)
    counts, s = np.empty((width, width)), np.empty((2, STEPS))
    for b in range(values.shape[0]):
        g = places[b]
        gamma[b, lengths[b] :] = 0.0
        if not rest(
            kind, centres, values, b, lengths[b], weights[b], n, matrix, flow[b], kept[b], blocks, scales[b, 0],
            scales[b, 1], s, counts, gamma, xi[g], first_gamma[g], sums[g],
        ):  # fmt: skip
            return False
    return True


@njit(**_OPTIONS)
def expectations(
    size, kind, log_initial, log_transition, emission, values, lengths, weights, places, matrix, kept, blocks,
    log_probs, gamma, xi, first_gamma, sums,
):  # fmt: skip
    """`hmm_few.expectations`, one sequence after another in the memory of one, kept (2, T, W).

    What has no entries among gamma and sums is left out. Returns whether all is well.
    """
    n, width = log_initial.shape[0], matrix.shape[0]
    start, flow, counts, n_steps = np.empty((2, width)), np.empty((2, width)), np.empty((width, width)), kept.shape[1]
    if not read(log_initial, log_transition, start, matrix):
        return False
    entries, centres, tops = prepare(LANES, emission, n, True)
    c, d, shifts, s = np.empty(n_steps), np.empty(n_steps), np.empty(n_steps), np.empty((2, STEPS))
    for b in range(values.shape[0]):
        g = places[b]
        gamma[b, lengths[b] :] = 0.0
        log_probs[b] = halves(
            kind, entries, centres, tops, values, b, lengths[b], start, matrix, flow, kept, blocks[0], c, d, shifts
        )  # fmt: skip
        if not -np.inf < log_probs[b] < np.inf or not rest(
            kind, centres, values, b, lengths[b], weights[b], n, matrix, flow, kept, blocks, c, d, s, counts, gamma,
            xi[g], first_gamma[g], sums[g],
        ):  # fmt: skip
            return False
    return True
