"""Rows of probabilities, stored as logarithms."""

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def maximise_rows(counts, share, stored):
    """Write log(counts / mass) over the last of two axes; a row whose mass is at most `share` of all mass stays."""
    total = 0.0
    for r in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            total += counts[r, j]
    for r in range(counts.shape[0]):
        mass = 0.0
        for j in range(counts.shape[1]):
            mass += counts[r, j]
        if mass > share * total:
            for j in range(counts.shape[1]):
                stored[r, j] = math.log(counts[r, j] / mass)


@njit(cache=True, nogil=True, error_model="numpy")
def maximise_chain(first_gamma, xi, share, initial, transition):
    """`maximise_rows` of the start (1, K) and the transitions (K, K) of a Markov chain; returns its least state's mass.

    first_gamma (G, K) and xi (G, K, K), sums of first states and of moves. The mass is the expected number of steps.
    """
    n = transition.shape[0]
    first, moves, least = np.zeros((1, n)), np.zeros((n, n)), np.inf
    for g in range(first_gamma.shape[0]):
        for k in range(n):
            first[0, k] += first_gamma[g, k]
    for g in range(xi.shape[0]):
        for i in range(n):
            for j in range(n):
                moves[i, j] += xi[g, i, j]
    for j in range(n):
        mass = first[0, j]
        for i in range(n):
            mass += moves[i, j]
        least = min(least, mass)
    maximise_rows(first, share, initial)
    maximise_rows(moves, share, transition)
    return least


@njit(cache=True, nogil=True, error_model="numpy")
def pull_rows(counts, stored, out):
    """out = counts - mass p, p = softmax(stored): the derivative of sum(counts * log p) in what is stored, by rows."""
    for r in range(stored.shape[0]):
        top, mass, total = -np.inf, 0.0, 0.0
        for j in range(stored.shape[1]):
            top = max(top, stored[r, j])
            mass += counts[r, j]
        for j in range(stored.shape[1]):
            out[r, j] = math.exp(stored[r, j] - top)
            total += out[r, j]
        for j in range(stored.shape[1]):
            out[r, j] = counts[r, j] - mass * (out[r, j] / total)


@njit(cache=True, nogil=True, error_model="numpy")
def pull_chain(first_gamma, xi, initial, transition, into_initial, into_transition):
    """`pull_rows` of the start (K,) and the transitions (K, K); sums as for `maximise_chain`."""
    first, moves = np.zeros((1, initial.shape[0])), np.zeros(transition.shape)
    for g in range(first_gamma.shape[0]):
        for k in range(initial.shape[0]):
            first[0, k] += first_gamma[g, k]
    for g in range(xi.shape[0]):
        for i in range(moves.shape[0]):
            for j in range(moves.shape[1]):
                moves[i, j] += xi[g, i, j]
    pull_rows(first, initial.reshape(first.shape), into_initial.reshape(first.shape))
    pull_rows(moves, transition, into_transition)


@njit(cache=True, nogil=True, error_model="numpy")
def normalise(stored, logarithms, out):
    """out = softmax(stored), or its logarithm, by rows."""
    for r in range(stored.shape[0]):
        top, total = -np.inf, 0.0
        for j in range(stored.shape[1]):
            top = max(top, stored[r, j])
        for j in range(stored.shape[1]):
            out[r, j] = math.exp(stored[r, j] - top)
            total += out[r, j]
        constant = top + math.log(total)
        for j in range(stored.shape[1]):
            out[r, j] = stored[r, j] - constant if logarithms else out[r, j] / total
