"""Forward, backward, Viterbi and sampling recursions of a hidden semi-Markov model, compiled, in logarithms.

The state is (k, e): state k has lasted e steps, this one included. It lasts on to (k, e + 1), or it ends and jumps
to (j, 1). Per step this is O(K (K + D)), with nothing of size (K D)^2:

    end_t(k)        = sum_e u_t(k, e) ends(k, e)                  u_t(k, e) = p(z_t = (k, e) | y_<=t)
    p_{t+1}(j, 1)   = sum_k end_t(k) A(k, j)                      p_{t+1}   = p(z_{t+1} | y_<=t)
    p_{t+1}(k, e+1) = u_t(k, e) lasts(k, e)
    h_t(k, e)       = lasts(k, e) g_{t+1}(k) h_{t+1}(k, e+1) + ends(k, e) sum_j A(k, j) g_{t+1}(j) h_{t+1}(j, 1)

with g_t(k) = p(y_t | k) / p(y_t | y_<t), so that u_t h_t = p(z_t | y). All of it is kept as logarithms, normalised
at every step: no state that matters can underflow.

| symbol     | shape        |                                                                    |
|------------|--------------|--------------------------------------------------------------------|
| start      | (B, K, D)    | log p(z_0 = (k, e))                                                |
| jumps      | (K, K)       | log A                                                              |
| ends, lasts| (K, D)       | log-probabilities to end, to last on, after e = 1 .. D steps       |
| table      | (B, T, K)    | log p(y_t | k)                                                     |
| predicted  | (B, T, K, D) | log p_t; `table` and the normaliser turn it into log u_t           |
| scores     | (B, T)       | log p(y_t | y_<t)                                                  |

Reference: Yu (2010), Hidden semi-Markov models, Artificial Intelligence 174, section 3; Guedon (2003), section 3.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def log_sum(row):
    """log sum exp of a vector, -inf where nothing is possible."""
    top = -np.inf
    for i in range(row.shape[0]):
        top = max(top, row[i])
    if top == -np.inf:
        return top
    total = 0.0
    for i in range(row.shape[0]):
        total += np.exp(row[i] - top)
    return top + np.log(total)


@njit(**_OPTIONS)
def condition(belief, emitted, work, out):
    """out = belief conditioned on a step with log-probabilities `emitted` (K,); returns the step's log-probability.

    An impossible step leaves the belief as it was.
    """
    n, longest = belief.shape
    for k in range(n):
        work[k] = log_sum(belief[k]) + emitted[k]
    score = log_sum(work)
    for k in range(n):
        gain = emitted[k] - score if score > -np.inf else 0.0
        for e in range(longest):
            out[k, e] = belief[k, e] + gain
    return score


@njit(**_OPTIONS)
def advance(updated, jumps, ends, lasts, row, work, column, out):
    """out = p_{t+1} from u_t, all logarithms; `work` (K,) is left holding log end_t."""
    n, longest = updated.shape
    for k in range(n):
        for e in range(longest):
            row[e] = updated[k, e] + ends[k, e]
        work[k] = log_sum(row)
        for e in range(longest - 1):
            out[k, e + 1] = updated[k, e] + lasts[k, e]
    for j in range(n):
        for k in range(n):
            column[k] = work[k] + jumps[k, j]
        out[j, 0] = log_sum(column)


@njit(**_OPTIONS)
def forward(start, jumps, ends, lasts, table, lengths, predicted, updated, scores):
    """Filter. `predicted` and `updated` have T steps, or none where they are not wanted; padding repeats the last."""
    n_sequences, n_steps, n = table.shape
    longest = ends.shape[1]
    row, work, column = np.empty(longest), np.empty(n), np.empty(n)
    belief, after = np.empty((n, longest)), np.empty((n, longest))
    keep_predicted, keep_updated = predicted.shape[1] > 0, updated.shape[1] > 0
    for b in range(n_sequences):
        belief[:] = start[b]
        after[:] = start[b]
        for t in range(lengths[b]):
            scores[b, t] = condition(belief, table[b, t], work, after)
            if keep_predicted:
                predicted[b, t] = belief
            if keep_updated:
                updated[b, t] = after
            if t + 1 < lengths[b]:
                advance(after, jumps, ends, lasts, row, work, column, belief)
        for t in range(lengths[b], n_steps):
            scores[b, t] = 0.0
            if keep_predicted:
                predicted[b, t] = after
            if keep_updated:
                updated[b, t] = after


@njit(**_OPTIONS)
def backward(jumps, ends, lasts, table, lengths, updated, scores, weights, gamma, pairs, ended, lasted):
    """The adjoint, which is the smoother: log p(z_t | y) in `gamma`, and weighted expected counts added up.

    pairs (K, K) counts jumps, ended and lasted (K, D) what happened after e steps; sequences of weight 0 are skipped.
    """
    n = table.shape[2]
    longest = ends.shape[1]
    h, column = np.zeros((n, longest)), np.empty(n)
    onward, leave, first = np.empty(n), np.empty(n), np.empty(n)
    for b in range(table.shape[0]):
        if weights[b] == 0.0 or lengths[b] == 0:
            continue
        last = lengths[b] - 1
        h[:] = 0.0
        gamma[b, last] = updated[b, last]
        for t in range(last - 1, -1, -1):
            for k in range(n):
                onward[k] = table[b, t + 1, k] - scores[b, t + 1]
                first[k] = onward[k] + h[k, 0]
            for k in range(n):
                for j in range(n):
                    column[j] = jumps[k, j] + first[j]
                leave[k] = log_sum(column)
            for k in range(n):
                through = 0.0
                for e in range(longest):
                    stay = lasts[k, e] + onward[k] + h[k, e + 1] if e + 1 < longest else -np.inf
                    go = ends[k, e] + leave[k]
                    top = max(stay, go)
                    if top == -np.inf:
                        h[k, e] = top
                        gamma[b, t, k, e] = top
                        continue
                    share_stay, share_go = np.exp(stay - top), np.exp(go - top)
                    total = share_stay + share_go
                    h[k, e] = top + np.log(total)  # h[k, e + 1] of step t + 1 has been read
                    gamma[b, t, k, e] = updated[b, t, k, e] + h[k, e]
                    mass = np.exp(gamma[b, t, k, e]) / total
                    lasted[k, e] += weights[b] * (mass * share_stay)
                    ended[k, e] += weights[b] * (mass * share_go)
                    through += mass * share_go
                if leave[k] > -np.inf:
                    for j in range(n):
                        pairs[k, j] += weights[b] * (through * np.exp(jumps[k, j] + first[j] - leave[k]))


@njit(**_OPTIONS)
def decode(start, jumps, ends, lasts, table, lengths, states, score):
    """The most probable path of (k, e), ties to the lowest index; an impossible sequence gets states -1."""
    n_sequences, n_steps, n = table.shape
    longest = ends.shape[1]
    best, moved = np.empty((n, longest)), np.empty((n, longest))
    before, elapsed, leave = np.empty((n_steps, n), np.int64), np.empty((n_steps, n), np.int64), np.empty(n)
    for b in range(n_sequences):
        states[b] = -1
        score[b] = 0.0
        if lengths[b] == 0:
            continue
        for k in range(n):
            for e in range(longest):
                best[k, e] = start[b, k, e] + table[b, 0, k]
        for t in range(1, lengths[b]):
            for k in range(n):
                elapsed[t - 1, k] = 0
                leave[k] = best[k, 0] + ends[k, 0]
                for e in range(1, longest):
                    moved[k, e] = best[k, e - 1] + lasts[k, e - 1] + table[b, t, k]
                    if best[k, e] + ends[k, e] > leave[k]:
                        leave[k] = best[k, e] + ends[k, e]
                        elapsed[t - 1, k] = e
            for j in range(n):
                before[t, j] = 0
                for k in range(1, n):
                    if leave[k] + jumps[k, j] > leave[before[t, j]] + jumps[before[t, j], j]:
                        before[t, j] = k
                moved[j, 0] = leave[before[t, j]] + jumps[before[t, j], j] + table[b, t, j]
            best, moved = moved, best
        state, lasted = np.int64(0), np.int64(0)
        for k in range(n):
            for e in range(longest):
                if best[k, e] > best[state, lasted]:
                    state, lasted = np.int64(k), np.int64(e)
        score[b] = best[state, lasted]
        if score[b] == -np.inf:
            continue
        t = lengths[b] - 1
        while t >= 0:
            begin = t - lasted
            for s in range(max(begin, 0), t + 1):
                states[b, s] = state
            if begin > 0:
                state = before[begin, state]
                lasted = elapsed[begin - 1, state]
            t = begin - 1


@njit(**_OPTIONS)
def draw(weights, uniform):
    """An index in proportion to exp(weights), by inversion of a number in [0, 1)."""
    top = weights.max()
    total = 0.0
    for i in range(weights.shape[0]):
        total += np.exp(weights[i] - top)
    target, running, last = uniform * total, 0.0, 0
    for i in range(weights.shape[0]):
        mass = np.exp(weights[i] - top)
        if mass > 0.0:
            running += mass
            last = i
            if running > target:
                return i
    return last


@njit(**_OPTIONS)
def sample(jumps, ends, lengths, updated, possible, uniforms, states):
    """Draws from p(z | y), segment by segment backwards; `uniforms` and `states` are (draws, B, T)."""
    n, longest = ends.shape
    weights = np.empty(n * longest)
    for b in range(updated.shape[0]):
        if not possible[b] or lengths[b] == 0:
            continue
        for i in range(uniforms.shape[0]):
            t = lengths[b] - 1
            following = -1
            while t >= 0:
                for k in range(n):
                    for e in range(longest):
                        weight = updated[b, t, k, e]
                        if following >= 0:
                            weight += ends[k, e] + jumps[k, following]
                        weights[k * longest + e] = weight
                chosen = draw(weights, uniforms[i, b, t])
                following, lasted = chosen // longest, chosen % longest
                begin = t - lasted
                for s in range(max(begin, 0), t + 1):
                    states[i, b, s] = following
                t = begin - 1
