"""The most probable paths of many sequences at once, for few states: a sequence per lane of the vector registers.

The recursion, and what comes out to the last digit, are those of `viterbi`; the arrangement is that of `hmm_lanes`.
On the way back log A[i, z] is chosen by comparing z with every state, which lanes do together, where a load per lane
waits. A sequence whose scores are not all numbers or -inf, or whose best is -inf, is left to `viterbi` (status SCALED).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.hmm_lanes import BLOCK, LANES, WIDTH, ends, gather, scatter_row, settle
from probseq.kernels.viterbi import add_compensated, larger

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
_INLINE = {**_OPTIONS, "inline": "always"}


@njit(**_INLINE)
def choose(state, x0, x1, x2, x3):
    """The number of that state."""
    low, high = (x1 if state == 1 else x0), (x3 if state == 3 else x2)
    return high if state >= 2 else low


@njit(**_OPTIONS)
def trace_back(a, scores, longest, stop, path):
    """Write the states path (T, LANES) of the best paths from their scores (T, W, LANES), ties to the lowest index."""
    state = np.zeros(LANES, np.int64)
    a00, a01, a02, a03 = a[0, 0], a[0, 1], a[0, 2], a[0, 3]
    a10, a11, a12, a13 = a[1, 0], a[1, 1], a[1, 2], a[1, 3]
    a20, a21, a22, a23 = a[2, 0], a[2, 1], a[2, 2], a[2, 3]
    a30, a31, a32, a33 = a[3, 0], a[3, 1], a[3, 2], a[3, 3]
    for back in range(longest):
        t = longest - 1 - back
        for lane in range(LANES):
            z, moves = state[lane], t + 1 < stop[lane]
            d0, d1, d2, d3 = scores[t, 0, lane], scores[t, 1, lane], scores[t, 2, lane], scores[t, 3, lane]
            d0 = d0 + choose(z, a00, a01, a02, a03) if moves else d0
            d1 = d1 + choose(z, a10, a11, a12, a13) if moves else d1
            d2 = d2 + choose(z, a20, a21, a22, a23) if moves else d2
            d3 = d3 + choose(z, a30, a31, a32, a33) if moves else d3
            low, lower = (1 if d1 > d0 else 0), larger(d1, d0)
            high, higher = (3 if d3 > d2 else 2), larger(d3, d2)
            z = high if higher > lower else low
            state[lane] = z
            path[t, lane] = z


@njit(**_OPTIONS)
def decode(log_initial, log_transition, log_observation, lengths, states, best_score, status):
    """`viterbi.decode` of what can be done in lanes, which gets status DONE; log_transition (K, K)."""
    n_sequences, n_steps, n = log_observation.shape
    a = np.full((WIDTH, WIDTH), -np.inf)
    a[:n, :n] = log_transition
    a00, a01, a02, a03 = a[0, 0], a[0, 1], a[0, 2], a[0, 3]
    a10, a11, a12, a13 = a[1, 0], a[1, 1], a[1, 2], a[1, 3]
    a20, a21, a22, a23 = a[2, 0], a[2, 1], a[2, 2], a[2, 3]
    a30, a31, a32, a33 = a[3, 0], a[3, 1], a[3, 2], a[3, 3]
    observation = np.empty((BLOCK, WIDTH, LANES))
    scores, path = np.empty((n_steps, WIDTH, LANES)), np.empty((n_steps, LANES), np.int64)
    top, partial, lost, doubt = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    d, stop = np.empty((WIDTH, LANES)), np.empty(LANES, np.int64)
    for first_sequence in range(0, n_sequences, LANES):
        longest = ends(lengths, status, first_sequence, stop)
        top[:] = 0.0
        partial[:] = 0.0
        lost[:] = 0.0
        doubt[:] = 0.0
        d[:] = -np.inf
        for lane in range(min(LANES, n_sequences - first_sequence)):
            for k in range(n):
                d[k, lane] = log_initial[first_sequence + lane, k]
        for first in range(0, longest, BLOCK):
            steps = min(BLOCK, longest - first)
            gather(log_observation, first_sequence, first, stop, 0.0, observation[:steps])
            observation[:steps, n:] = -np.inf
            for i in range(steps):
                t = first + i
                for lane in range(LANES):
                    inside, old = t < stop[lane], top[lane]
                    s0, s1, s2, s3 = d[0, lane], d[1, lane], d[2, lane], d[3, lane]
                    if t > 0:
                        new_partial, new_lost = add_compensated(old, partial[lane], lost[lane])
                        partial[lane] = new_partial if inside else partial[lane]
                        lost[lane] = new_lost if inside else lost[lane]
                        m0 = larger(larger(s0 + a00, s1 + a10), larger(s2 + a20, s3 + a30))
                        m1 = larger(larger(s0 + a01, s1 + a11), larger(s2 + a21, s3 + a31))
                        m2 = larger(larger(s0 + a02, s1 + a12), larger(s2 + a22, s3 + a32))
                        m3 = larger(larger(s0 + a03, s1 + a13), larger(s2 + a23, s3 + a33))
                        s0, s1, s2, s3 = m0, m1, m2, m3
                    s0 += observation[i, 0, lane] - old
                    s1 += observation[i, 1, lane] - old
                    s2 += observation[i, 2, lane] - old
                    s3 += observation[i, 3, lane] - old
                    d[0, lane] = s0
                    d[1, lane] = s1
                    d[2, lane] = s2
                    d[3, lane] = s3
                    scores[t, 0, lane] = s0
                    scores[t, 1, lane] = s1
                    scores[t, 2, lane] = s2
                    scores[t, 3, lane] = s3
                    best, total = larger(larger(s0, s1), larger(s2, s3)), (s0 + s1) + (s2 + s3)
                    look = 0.0 if -np.inf < best < np.inf else 1.0
                    look = look if total == total else 1.0
                    doubt[lane] += look if inside else 0.0
                    top[lane] = best if inside else old
        trace_back(a, scores, longest, stop, path)
        scatter_row(path[:longest], first_sequence, 0, stop, states)
        for lane in range(LANES):
            if stop[lane] > 0:
                best_score[first_sequence + lane] = (partial[lane] + top[lane]) + lost[lane]
        settle(doubt, stop, first_sequence, status)
