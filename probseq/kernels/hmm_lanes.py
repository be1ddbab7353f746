"""The scaled recursions over many sequences at once, for few states: a sequence per lane of the vector registers.

A step of one sequence with four states waits for its own sums and its division; LANES sequences side by side, the
states unrolled, fill the registers and the waiting time. Symbols and shapes are those of `hmm.py` and `hmm_adjoint.py`,
with W = 4 states in a row, one transition matrix without zeros for all steps of all sequences, and

    e, u       (BLOCK, W, LANES)   emission and prediction of some steps, a sequence in each column
    doubt      (LANES,)            > 0 where `hmm` or `hmm_adjoint` would have to look at the sequence

Nothing is decided here: **a sequence of which any step needs a look is left to the recursions of single sequences**,
with their claim that no state is lost (its status stays SCALED; all that was written is written again). Lanes do not
see each other, so results depend neither on the order of the sequences nor on how they are dealt to threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.hmm import DONE, SAFE_SUM, SCALED, SMALLEST_EVIDENCE, SMALLEST_NORMALISER
from probseq.kernels.rows import exponentiate, take_logarithms

LANES, BLOCK, WIDTH = 16, 32, 4

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
_INLINE = {**_OPTIONS, "inline": "always"}


@njit(**_INLINE)
def smaller(x, y):
    """min(x, y) as one processor instruction."""
    return x if x < y else y


@njit(**_OPTIONS)
def gather(table, first_sequence, first_step, lengths, other, out):
    """out[i, k, lane] = table[first_sequence + lane, first_step + i, k], `other` where there is no such step."""
    n, n_steps = table.shape[2], out.shape[0]
    for lane in range(LANES):
        present = max(0, min(n_steps, lengths[lane] - first_step))
        if present > 0:
            rows = table[first_sequence + lane, first_step:]
            if n == WIDTH:
                for i in range(present):
                    for k in range(WIDTH):
                        out[i, k, lane] = rows[i, k]
            else:
                for i in range(present):
                    for k in range(n):
                        out[i, k, lane] = rows[i, k]
        for i in range(n_steps - present):
            for k in range(WIDTH):
                out[present + i, k, lane] = other


@njit(**_OPTIONS)
def scatter(block, first_sequence, first_step, lengths, table):
    """The way back of `gather`."""
    n, n_steps = table.shape[2], block.shape[0]
    for lane in range(LANES):
        present = min(n_steps, lengths[lane] - first_step)
        if present > 0:
            rows = table[first_sequence + lane, first_step:]
            if n == WIDTH:
                for i in range(present):
                    for k in range(WIDTH):
                        rows[i, k] = block[i, k, lane]
            else:
                for i in range(present):
                    for k in range(n):
                        rows[i, k] = block[i, k, lane]


@njit(**_OPTIONS)
def scatter_row(block, first_sequence, first_step, lengths, table):
    """The same of one number per step, table (B, T)."""
    for lane in range(min(LANES, table.shape[0] - first_sequence)):
        row = table[first_sequence + lane, first_step:]
        for i in range(min(block.shape[0], lengths[lane] - first_step)):
            row[i] = block[i, lane]


@njit(**_OPTIONS)
def ends(lengths, status, first_sequence, out):
    """The lengths of the sequences in the lanes, 0 where there is none to do; returns the longest."""
    longest = 0
    for lane in range(LANES):
        b = first_sequence + lane
        out[lane] = lengths[b] if b < lengths.shape[0] and status[b] == SCALED else 0
        longest = max(longest, out[lane])
    return longest


@njit(**_OPTIONS)
def all_doubtful(doubt, stop):
    """Whether no sequence can be finished here any more."""
    n_good = 0
    for lane in range(LANES):
        n_good += stop[lane] > 0 and not doubt[lane] > 0.0
    return n_good == 0


@njit(**_OPTIONS)
def settle(doubt, stop, first_sequence, status):
    """Mark the sequences that are done."""
    for lane in range(LANES):
        if stop[lane] > 0 and not doubt[lane] > 0.0:
            status[first_sequence + lane] = DONE


@njit(**_OPTIONS)
def emit(observation, n, shift, e, rounded, bits):
    """Turn gathered log p(y_t | z_t), -inf behind the last state, into e_t, and write the shifts."""
    for i in range(e.shape[0]):
        for lane in range(LANES):
            m = -np.inf
            for k in range(WIDTH):
                x = observation[i, k, lane]
                m = x if x > m else m
            m = m if m > -np.inf else 0.0
            shift[i, lane] = m
            for k in range(WIDTH):
                e[i, k, lane] = observation[i, k, lane] - m
    exponentiate(e.reshape(e.size), rounded, bits)


@njit(**_OPTIONS)
def forward(belief, transition, log_observation, lengths, emission, predicted, shift, normaliser, status):
    """`hmm.forward` of what can be done in lanes, which gets status DONE; transition (W, W)."""
    n_sequences, _, n = log_observation.shape
    keep = emission.size > 0
    a = transition
    observation, e, kept = (
        np.empty((BLOCK, WIDTH, LANES)),
        np.empty((BLOCK, WIDTH, LANES)),
        np.empty((BLOCK, WIDTH, LANES)),
    )
    rounded, bits = np.empty(e.size), np.empty(e.size, np.int64)
    shifts, normalisers = np.empty((BLOCK, LANES)), np.empty((BLOCK, LANES))
    u, doubt, stop = np.zeros((WIDTH, LANES)), np.empty(LANES), np.empty(LANES, np.int64)
    counted = np.zeros(WIDTH)
    counted[n:] = 1.0  # a state that is not there is 0 without doubt
    f0, f1, f2, f3 = counted[0], counted[1], counted[2], counted[3]
    a00, a01, a02, a03 = a[0, 0], a[0, 1], a[0, 2], a[0, 3]
    a10, a11, a12, a13 = a[1, 0], a[1, 1], a[1, 2], a[1, 3]
    a20, a21, a22, a23 = a[2, 0], a[2, 1], a[2, 2], a[2, 3]
    a30, a31, a32, a33 = a[3, 0], a[3, 1], a[3, 2], a[3, 3]
    for first_sequence in range(0, n_sequences, LANES):
        longest = ends(lengths, status, first_sequence, stop)
        doubt[:] = 0.0
        u[:] = 0.25
        for lane in range(min(LANES, n_sequences - first_sequence)):
            for k in range(WIDTH):
                u[k, lane] = belief[first_sequence + lane, k]
        for first in range(0, longest, BLOCK):
            steps = min(BLOCK, longest - first)
            gather(log_observation, first_sequence, first, stop, 0.0, observation[:steps])
            for i in range(steps):
                for k in range(n, WIDTH):
                    for lane in range(LANES):
                        observation[i, k, lane] = -np.inf
            emit(observation[:steps], n, shifts, e[:steps], rounded, bits)
            for i in range(steps):
                following = first + i + 1
                for lane in range(LANES):
                    u0, u1, u2, u3 = u[0, lane], u[1, lane], u[2, lane], u[3, lane]
                    kept[i, 0, lane] = u0
                    kept[i, 1, lane] = u1
                    kept[i, 2, lane] = u2
                    kept[i, 3, lane] = u3
                    w0, w1, w2, w3 = u0 * e[i, 0, lane], u1 * e[i, 1, lane], u2 * e[i, 2, lane], u3 * e[i, 3, lane]
                    c = (w0 + w1) + (w2 + w3)
                    normalisers[i, lane] = c
                    scale = 1.0 / c
                    u0 = ((w0 * a00 + w1 * a10) + (w2 * a20 + w3 * a30)) * scale
                    u1 = ((w0 * a01 + w1 * a11) + (w2 * a21 + w3 * a31)) * scale
                    u2 = ((w0 * a02 + w1 * a12) + (w2 * a22 + w3 * a32)) * scale
                    u3 = ((w0 * a03 + w1 * a13) + (w2 * a23 + w3 * a33)) * scale
                    u[0, lane] = u0
                    u[1, lane] = u1
                    u[2, lane] = u2
                    u[3, lane] = u3
                    low = smaller(smaller(u0 + f0, u1 + f1), smaller(u2 + f2, u3 + f3))
                    look = 0.0 if c >= SMALLEST_NORMALISER else 1.0
                    moved = 0.0 if low >= SAFE_SUM else 1.0
                    look = look if following >= stop[lane] else look + moved
                    doubt[lane] += look if following <= stop[lane] else 0.0
            if all_doubtful(doubt, stop):
                break
            scatter_row(shifts[:steps], first_sequence, first, stop, shift)
            scatter_row(normalisers[:steps], first_sequence, first, stop, normaliser)
            if keep:
                scatter(e[:steps], first_sequence, first, stop, emission)
                scatter(kept[:steps], first_sequence, first, stop, predicted)
        settle(doubt, stop, first_sequence, status)


@njit(**_OPTIONS)
def backward(transition, emission, predicted, lengths, weights, logarithms, status, gamma, places, xi):
    """`hmm_adjoint.backward` of what can be done in lanes, which gets status DONE; xi (G, 1, K, K)."""
    n_sequences, _, n = gamma.shape
    a = transition
    e, u, posterior = (
        np.empty((BLOCK, WIDTH, LANES)),
        np.empty((BLOCK, WIDTH, LANES)),
        np.empty((BLOCK, WIDTH, LANES)),
    )
    h, column, counts = np.empty((WIDTH, LANES)), np.empty((WIDTH, LANES)), np.empty((WIDTH, WIDTH, LANES))
    doubt, stop, weight = np.empty(LANES), np.empty(LANES, np.int64), np.ones(LANES)
    smallest = SMALLEST_EVIDENCE if logarithms else 0.0
    counted = np.zeros(WIDTH)
    counted[n:] = 1.0
    f0, f1, f2, f3 = counted[0], counted[1], counted[2], counted[3]
    a00, a01, a02, a03 = a[0, 0], a[0, 1], a[0, 2], a[0, 3]
    a10, a11, a12, a13 = a[1, 0], a[1, 1], a[1, 2], a[1, 3]
    a20, a21, a22, a23 = a[2, 0], a[2, 1], a[2, 2], a[2, 3]
    a30, a31, a32, a33 = a[3, 0], a[3, 1], a[3, 2], a[3, 3]
    for first_sequence in range(0, n_sequences, LANES):
        longest = ends(lengths, status, first_sequence, stop)
        doubt[:] = 0.0
        counts[:] = 0.0
        column[:] = 0.0
        h[:] = 0.0
        h[:n] = 1.0
        for lane in range(min(LANES, n_sequences - first_sequence)):
            weight[lane] = weights[first_sequence + lane]
        for block in range((longest + BLOCK - 1) // BLOCK - 1, -1, -1):
            first = block * BLOCK
            steps = min(BLOCK, longest - first)
            gather(emission, first_sequence, first, stop, 1.0, e[:steps])
            gather(predicted, first_sequence, first, stop, 1.0, u[:steps])
            for back in range(steps):
                i = steps - 1 - back
                t = first + i
                for lane in range(LANES):
                    inside = t < stop[lane]
                    u0, u1, u2, u3 = u[i, 0, lane], u[i, 1, lane], u[i, 2, lane], u[i, 3, lane]
                    e0, e1, e2, e3 = e[i, 0, lane], e[i, 1, lane], e[i, 2, lane], e[i, 3, lane]
                    h0, h1, h2, h3 = h[0, lane], h[1, lane], h[2, lane], h[3, lane]
                    w0, w1, w2, w3 = h0 * e0, h1 * e1, h2 * e2, h3 * e3
                    j0, j1, j2, j3 = u0 * w0, u1 * w1, u2 * w2, u3 * w3
                    c, evidence = (w0 + w1) + (w2 + w3), (j0 + j1) + (j2 + j3)
                    inverse = 1.0 / evidence
                    scale = inverse * weight[lane]
                    posterior[i, 0, lane] = j0 * scale
                    posterior[i, 1, lane] = j1 * scale
                    posterior[i, 2, lane] = j2 * scale
                    posterior[i, 3, lane] = j3 * scale
                    scale = 1.0 / c
                    n0 = ((w0 * a00 + w1 * a01) + (w2 * a02 + w3 * a03)) * scale
                    n1 = ((w0 * a10 + w1 * a11) + (w2 * a12 + w3 * a13)) * scale
                    n2 = ((w0 * a20 + w1 * a21) + (w2 * a22 + w3 * a23)) * scale
                    n3 = ((w0 * a30 + w1 * a31) + (w2 * a32 + w3 * a33)) * scale
                    h[0, lane] = n0 if inside else h0
                    h[1, lane] = n1 if inside else h1
                    h[2, lane] = n2 if inside else h2
                    h[3, lane] = n3 if inside else h3
                    low = smaller(smaller(n0 + f0, n1 + f1), smaller(n2 + f2, n3 + f3))
                    small = smaller(smaller(j0 + f0, j1 + f1), smaller(j2 + f2, j3 + f3))
                    look = 0.0 if c >= SMALLEST_NORMALISER else 1.0
                    look += 0.0 if evidence >= SMALLEST_EVIDENCE else 1.0
                    look += 0.0 if small >= smallest else 1.0
                    moved = 0.0 if low >= SAFE_SUM else 1.0
                    look = look + moved if t > 0 else look
                    doubt[lane] += look if inside else 0.0
                    w0, w1, w2, w3 = w0 * scale, w1 * scale, w2 * scale, w3 * scale
                    p0, p1, p2, p3 = u0 * e0 * inverse, u1 * e1 * inverse, u2 * e2 * inverse, u3 * e3 * inverse
                    q0, q1, q2, q3 = column[0, lane], column[1, lane], column[2, lane], column[3, lane]
                    counts[0, 0, lane] += p0 * q0
                    counts[0, 1, lane] += p0 * q1
                    counts[0, 2, lane] += p0 * q2
                    counts[0, 3, lane] += p0 * q3
                    counts[1, 0, lane] += p1 * q0
                    counts[1, 1, lane] += p1 * q1
                    counts[1, 2, lane] += p1 * q2
                    counts[1, 3, lane] += p1 * q3
                    counts[2, 0, lane] += p2 * q0
                    counts[2, 1, lane] += p2 * q1
                    counts[2, 2, lane] += p2 * q2
                    counts[2, 3, lane] += p2 * q3
                    counts[3, 0, lane] += p3 * q0
                    counts[3, 1, lane] += p3 * q1
                    counts[3, 2, lane] += p3 * q2
                    counts[3, 3, lane] += p3 * q3
                    column[0, lane] = w0 if inside else 0.0
                    column[1, lane] = w1 if inside else 0.0
                    column[2, lane] = w2 if inside else 0.0
                    column[3, lane] = w3 if inside else 0.0
            if all_doubtful(doubt, stop):
                break
            if logarithms:
                take_logarithms(posterior[:steps].reshape(steps * WIDTH * LANES))
            scatter(posterior[:steps], first_sequence, first, stop, gamma)
        settle(doubt, stop, first_sequence, status)
        for lane in range(min(LANES, n_sequences - first_sequence)):
            b = first_sequence + lane
            if stop[lane] > 0 and status[b] == DONE:
                for i in range(n):
                    for j in range(n):
                        xi[places[b], 0, i, j] += weights[b] * (counts[i, j, lane] * a[i, j])
