"""Covariances from the numbers that stand for them, and gradients back to these; compiled.

stored (n, n)           L L', L its lower triangle          gradient tril((G + G') L)
stored (n,) or (1,)     diag(exp(stored))                   gradient diag(G) exp(stored), their sum where it is one
"""

from __future__ import annotations

import math

from numba import njit

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def square(stored, out):
    """out = L L'."""
    for i in range(out.shape[0]):
        for j in range(i + 1):
            total = 0.0
            for k in range(j + 1):
                total += stored[i, k] * stored[j, k]
            out[i, j] = total
            out[j, i] = total


@njit(**_OPTIONS)
def pull_square(gradient, stored, out):
    """out = tril((G + G') L)."""
    n = out.shape[0]
    for i in range(n):
        for j in range(n):
            total = 0.0
            if j <= i:
                for k in range(j, n):
                    total += (gradient[i, k] + gradient[k, i]) * stored[k, j]
            out[i, j] = total


@njit(**_OPTIONS)
def spread(stored, out):
    """out = diag(exp(stored))."""
    out[:] = 0.0
    for i in range(out.shape[0]):
        out[i, i] = math.exp(stored[i if stored.shape[0] > 1 else 0])


@njit(**_OPTIONS)
def pull_spread(gradient, stored, out):
    """out = diag(G) exp(stored), or the sum of that."""
    out[:] = 0.0
    for i in range(gradient.shape[0]):
        place = i if stored.shape[0] > 1 else 0
        out[place] += gradient[i, i] * math.exp(stored[place])
