"""Rows of log-probabilities looked up by symbol, and weighted counts of symbols.

| array    | shape  |                                                     |
|----------|--------|-----------------------------------------------------|
| symbols  | (N,)   | 0 .. M - 1, as floating-point numbers               |
| observed | (N,)   | whether a symbol counts, or (0,) where all do       |
| log_probs| (K, M) | log p(symbol given state)                           |
| table    | (N, K) | their columns; 0 where nothing is observed          |
| weights  | (N, K) | responsibilities                                    |
| counts   | (K, M) | sums of weights                                     |
"""

import numpy as np
from numba import njit

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def are_symbols(values, n_symbols):
    """Whether every number is one of 0 .. n_symbols - 1."""
    fine = True
    for n in range(values.shape[0]):
        fine &= 0 <= values[n] < n_symbols and values[n] == np.floor(values[n])
    return fine


@njit(**_OPTIONS)
def look_up(symbols, observed, log_probs, table):
    """Fill the table; False, and an unfinished table, at a number that is no symbol."""
    for n in range(table.shape[0]):
        if observed.shape[0] > 0 and not observed[n]:
            table[n] = 0.0
            continue
        if not 0 <= symbols[n] < log_probs.shape[1]:
            return False
        m = int(symbols[n])
        for k in range(table.shape[1]):
            table[n, k] = log_probs[k, m]
    return True


@njit(**_OPTIONS)
def count(symbols, observed, weights, counts):
    """Add the weights of every symbol to the counts."""
    by_symbol = np.zeros((counts.shape[1], counts.shape[0]))
    for n in range(weights.shape[0]):
        if observed.shape[0] == 0 or observed[n]:
            m = int(symbols[n])
            for k in range(weights.shape[1]):
                by_symbol[m, k] += weights[n, k]
    for k in range(counts.shape[0]):
        for m in range(counts.shape[1]):
            counts[k, m] += by_symbol[m, k]
