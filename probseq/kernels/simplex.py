"""Rows of probabilities, stored as logarithms."""

import math

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
