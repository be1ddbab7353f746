"""The most probable path of hidden Markov models of few states; arrays and terms are those of `hmm_few`."""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels import vectors as V
from probseq.kernels.hmm_few import read_chain
from probseq.kernels.state_densities import prepare, relative
from probseq.kernels.viterbi import add_compensated

OFTEN = 16  # steps after which a path's score is put aside

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


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
