"""The careful forward-backward recursions: per-step normalised logarithms, for the sequences that scaling would damage.

The recursions are those of `hmm`, on logarithms,

    forwards    log u_{t+1, j} = log sum_i A[i, j] exp(y_i),    y = log u_t + log e_t - log sum(u_t e_t)
    backwards   log h_{t-1, i} = log sum_j A[i, j] exp(y_j),    y = log h_t + log e_t - log sum(h_t e_t)

and cost little more than scaled ones, because a sum that comes out above SAFE_SUM in ordinary numbers has lost
less than K * 1e-308 of absolute weight, nothing beside it. Only the sums below are redone term by term, over
the possible transitions alone (`starts`, `sources`): few in the banded matrices that make such sums.
All functions take one sequence: log_predicted, log_beta, log_observation (T, K); transition, log_transition
(1, R, K, K) with R in {1, T}; offset (1, R) is what was subtracted from log_transition before `transition` = exp.
`shift` (T,), the largest entry of each row of log_observation, is subtracted first, which keeps the digits of large
log-densities.

A path that looks lost for a thousand steps of 300 nats may be the likeliest in the end. Its logarithm, -300 000, has
an ulp of 6e-11, so every logarithm that is carried from step to step has a second part, `low`, with what rounding took
away (Knuth's exact sum, TAOCP 2, 4.2.2, theorem B): the value is log_x + x_low, and tables hold it rounded once.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.hmm import SAFE_SUM
from probseq.kernels.rows import total, vector_matrix

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
_INLINE = {**_OPTIONS, "inline": "always"}


@njit(**_INLINE)
def add(high, low, term):
    """high + low + term as a rounded sum and what rounding took away; -inf and NaN have no second part."""
    result = high + term
    if not np.isfinite(result):
        return result, 0.0
    back = result - high
    return result, low + ((high - (result - back)) + (term - back))


@njit(**_INLINE)
def add_emission(high, low, log_density, shift):
    """high + low + log_density - shift in two parts."""
    gap, rest = add(log_density, 0.0, -shift)
    high, low = add(high, low, gap)
    return high, low + rest


@njit(**_OPTIONS)
def list_sources(log_matrix, r, transposed, starts, sources):
    """Write, target by target, the states with a possible transition into it: sources[starts[j]:starts[j + 1]]."""
    n = log_matrix.shape[2]
    filled = 0
    for j in range(n):
        starts[j] = filled
        for i in range(n):
            entry = log_matrix[0, r, j, i] if transposed else log_matrix[0, r, i, j]
            if entry != -np.inf:
                sources[filled] = i
                filled += 1
    starts[n] = filled


@njit(**_OPTIONS)
def log_sum(log_weight, low, log_matrix, offset, r, target, transposed, starts, sources):
    """log sum_i exp(log_weight[i] + A[i, target]) in two parts, A = log_matrix[0, r] - offset[0, r] (or A')."""
    largest, rest = -np.inf, 0.0
    for place in range(starts[target], starts[target + 1]):
        i = sources[place]
        entry, small = add(
            log_weight[i], low[i], log_matrix[0, r, target, i] if transposed else log_matrix[0, r, i, target]
        )
        if entry > largest or np.isnan(entry):  # a NaN stays
            largest, rest = entry, small
    if largest == -np.inf:
        return largest, 0.0
    result = 0.0
    for place in range(starts[target], starts[target + 1]):
        i = sources[place]
        entry, small = add(
            log_weight[i], low[i], log_matrix[0, r, target, i] if transposed else log_matrix[0, r, i, target]
        )
        if entry != -np.inf:
            result += np.exp((entry - largest) + (small - rest))
    largest, rest = add(largest, rest, -offset[0, r])
    return add(largest, rest, np.log(result))


@njit(**_OPTIONS)
def normalise(log_weight, low, weight):
    """Subtract log c = log sum exp(log_weight + low) in place, write weight = exp of the result, return log c.

    Everything -inf stays as it is (log c = -inf); a NaN makes everything NaN.
    """
    n = log_weight.shape[0]
    largest = -np.inf
    for k in range(n):
        if log_weight[k] > largest or np.isnan(log_weight[k]):  # a NaN stays
            largest = log_weight[k]
    if largest == -np.inf:
        for k in range(n):
            weight[k] = 0.0
        return largest
    for k in range(n):
        weight[k] = np.exp((log_weight[k] - largest) + low[k])
    c = total(weight, n)
    log_c = np.log(c)
    for k in range(n):
        weight[k] /= c
        log_weight[k], low[k] = add(log_weight[k], low[k], -largest)
        log_weight[k], low[k] = add(log_weight[k], low[k], -log_c)
    return largest + log_c


@njit(**_OPTIONS)
def log_transport(
    log_weight,
    low,
    weight,
    matrix,
    log_matrix,
    offset,
    r,
    transposed,
    starts,
    sources,
    product,
    log_table,
    low_table,
    t,
):
    """log(weight @ matrix[0, r]) into step t: from ordinary numbers where those are safe, else term by term."""
    vector_matrix(weight, matrix[0], r, weight.shape[0], product)
    for j in range(product.shape[0]):
        if product[j] >= SAFE_SUM:
            log_table[t, j], low_table[t, j] = np.log(product[j]), 0.0
        else:
            high, rest = log_sum(log_weight, low, log_matrix, offset, r, j, transposed, starts, sources)
            log_table[t, j], low_table[t, j] = add(high, 0.0, rest)


@njit(**_OPTIONS)
def forward(
    log_initial,
    initial_offset,
    transition,
    log_transition,
    offset,
    log_observation,
    shift,
    length,
    log_predicted,
    low_predicted,
    log_normaliser,
):
    """Filter one sequence in logarithms; returns the first step with probability zero, or -1.

    After such a step (log_normaliser -inf) the filter goes on from the belief it had before it.
    """
    n = log_initial.shape[0]
    log_weight, low, weight, product = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    starts, sources = np.empty(n + 1, np.int64), np.empty(n * n, np.int64)
    list_sources(log_transition, 0, False, starts, sources)
    impossible_at = -1
    for k in range(n):
        log_predicted[0, k], low_predicted[0, k] = add(log_initial[k], 0.0, -initial_offset)
    for t in range(length):
        u, observed = log_predicted[t], log_observation[t]
        for k in range(n):
            log_weight[k], low[k] = add_emission(u[k], low_predicted[t, k], observed[k], shift[t])
        log_normaliser[t] = normalise(log_weight, low, weight)
        if log_normaliser[t] == -np.inf:
            impossible_at = t if impossible_at < 0 else impossible_at
            for k in range(n):
                log_weight[k], low[k] = u[k], low_predicted[t, k]
            normalise(log_weight, low, weight)
        if t + 1 < length:
            r = t + 1 if transition.shape[1] > 1 else 0
            if r > 0:
                list_sources(log_transition, r, False, starts, sources)
            log_transport(
                log_weight, low, weight, transition, log_transition, offset, r, False, starts, sources, product,
                log_predicted, low_predicted, t + 1,
            )  # fmt: skip
    return impossible_at


@njit(**_OPTIONS)
def backward(transposed, log_transition, offset, log_observation, shift, length, log_beta, low_beta):
    """The adjoint recursion of one possible sequence in logarithms: log h_{n-1} = 0, and down from there."""
    n = log_beta.shape[1]
    log_weight, low, weight, product = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    starts, sources = np.empty(n + 1, np.int64), np.empty(n * n, np.int64)
    list_sources(log_transition, 0, True, starts, sources)
    for k in range(n):
        log_beta[length - 1, k], low_beta[length - 1, k] = 0.0, 0.0
    for t in range(length - 1, 0, -1):
        for k in range(n):
            log_weight[k], low[k] = add_emission(log_beta[t, k], low_beta[t, k], log_observation[t, k], shift[t])
        normalise(log_weight, low, weight)
        r = t if transposed.shape[1] > 1 else 0
        if r > 0:
            list_sources(log_transition, r, True, starts, sources)
        log_transport(
            log_weight, low, weight, transposed, log_transition, offset, r, True, starts, sources, product,
            log_beta, low_beta, t - 1,
        )  # fmt: skip


@njit(**_OPTIONS)
def expectations(
    transition,
    log_transition,
    offset,
    log_observation,
    shift,
    log_predicted,
    low_predicted,
    log_beta,
    low_beta,
    length,
    weighting,
    log_gamma,
    xi,
):
    """Write log gamma (T, K) and add weighting * xi_t to xi (R, K, K), r = t or 0.

    xi_t[i, j] = gamma_{t-1, i} p(z_t = j | z_{t-1} = i, y), with p = A[i, j] exp(y_j) / h_{t-1, i}.
    """
    n = log_gamma.shape[1]
    log_weight, low, weight, gamma = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for t in range(length):
        smoothed, observed = log_gamma[t], log_observation[t]
        if t > 0:
            for k in range(n):
                log_weight[k], low[k] = add_emission(log_beta[t, k], low_beta[t, k], observed[k], shift[t])
            normalise(log_weight, low, weight)
            r = t if transition.shape[1] > 1 else 0
            target = xi[t] if xi.shape[0] > 1 else xi[0]
            for i in range(n):
                log_h = log_beta[t - 1, i]
                mass = weighting * gamma[i]
                if gamma[i] == 0.0:
                    continue
                if log_h > np.log(SAFE_SUM):
                    mass *= np.exp(-log_h)
                    for j in range(n):
                        target[i, j] += mass * (transition[0, r, i, j] * weight[j])
                else:
                    for j in range(n):
                        entry, rest = add(log_weight[j], low[j] - low_beta[t - 1, i], -log_h)
                        entry, rest = add(entry, rest, log_transition[0, r, i, j])
                        target[i, j] += mass * np.exp(entry - offset[0, r] + rest)
        for k in range(n):
            high, rest = add(log_predicted[t, k], low_predicted[t, k] + low_beta[t, k], log_beta[t, k])
            smoothed[k], low[k] = add_emission(high, rest, observed[k], shift[t])
        normalise(smoothed, low, gamma)
        for k in range(n):
            smoothed[k] += low[k]


@njit(**_OPTIONS)
def sample(log_transition, log_observation, shift, log_predicted, length, uniforms, states):
    """Draw paths (N, T) backwards: z_t ~ p(z_t | y_<=t) A[z_t, z_{t+1}], by inversion of the uniforms (N, T)."""
    n = log_observation.shape[1]
    log_filtered, log_weight, low, weight = np.empty(n), np.empty(n), np.zeros(n), np.empty(n)
    for t in range(length - 1, -1, -1):
        r = t + 1 if log_transition.shape[1] > 1 else 0
        for k in range(n):
            log_filtered[k] = log_predicted[t, k] + (log_observation[t, k] - shift[t])
        for draw in range(states.shape[0]):
            for k in range(n):
                log_weight[k] = log_filtered[k]
                if t + 1 < length:
                    log_weight[k] += log_transition[0, r, k, states[draw, t + 1]]
            for k in range(n):
                low[k] = 0.0
            normalise(log_weight, low, weight)
            states[draw, t] = invert(weight, uniforms[draw, t])


@njit(**_OPTIONS)
def invert(weight, uniform):
    """The first state whose cumulative weight exceeds uniform * sum(weight); never one of weight zero."""
    threshold = uniform * total(weight, weight.shape[0])
    cumulative = 0.0
    chosen = 0
    for k in range(weight.shape[0]):
        if weight[k] > 0.0:
            chosen = k
            cumulative += weight[k]
            if cumulative > threshold:
                break
    return chosen
