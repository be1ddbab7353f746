"""Hidden Markov models of few states, one compiled call per question: parameters and data in, the answer out.

With few states a step costs less than the arrays it would leave for the next kernel, and a call less than its
arguments. So everything happens in one place: stored parameters become probabilities, a row of data becomes e_t in the
registers (`vectors`, `state_densities`), and **the filter and its adjoint run side by side**,

    w_t = u_t * e_t,   u_{t+1} = A' w_t / sum(w_t)        from the first step on
    v_t = h_t * e_t,   h_{t-1} = A  v_t / sum(v_t)        from the last step back

since each alone mostly waits for itself. Where the two have passed each other, at any step,

    p(y) = prod_{s < t} c_s  *  sum(w_t * h_t)  *  prod_{s > t} d_s        c = sum(w), d = sum(v), up to exp(shift)

so the likelihood needs half of either: they meet in the middle; and the posterior (`hmm_few_posterior`) needs e_t once,
by whichever comes first. Logarithms of the normalisers are not taken one by one: exponents are added as integers,
mantissas multiplied.

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
from probseq.kernels.hmm import LOG_SMALLEST_PROBABILITY, SMALLEST_NORMALISER
from probseq.kernels.state_densities import emitted, normalise_logs, prepare, relative
from probseq.kernels.viterbi import add_compensated

SMALLEST_MOVE = 1e-100
LN_2 = math.log(2)

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}

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
