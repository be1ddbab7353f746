"""Draws from a linear Gaussian model, and the filter of their means; compiled.

Symbols and shapes are those of `kalman.py`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.kalman import mean_steps


@njit(cache=True, nogil=True, error_model="numpy")
def simulate(A, C, root_P0, root_Q, root_R, normals, lengths, states, emitted):
    """Run the model without means on standard normals (paths, T, n + m), path p being one of sequence p mod B.

    The roots satisfy F F' = covariance, one for every covariance.
    """
    m, n = C.shape[1], C.shape[2]
    batch = lengths.shape[0]
    for path in range(normals.shape[0]):
        b = path % batch
        for t in range(lengths[b]):
            a, c = t if A.shape[0] > 1 else 0, t if C.shape[0] > 1 else 0
            q, o, k = t if root_Q.shape[0] > 1 else 0, t if root_R.shape[0] > 1 else 0, b if root_P0.shape[0] > 1 else 0
            for i in range(n):
                total = 0.0
                for j in range(n):
                    if t == 0:
                        total += root_P0[k, i, j] * normals[path, t, j]
                    else:
                        total += A[a, i, j] * states[path, t - 1, j] + root_Q[q, i, j] * normals[path, t, j]
                states[path, t, i] = total
            for j in range(m):
                total = 0.0
                for i in range(n):
                    total += C[c, j, i] * states[path, t, i]
                for i in range(m):
                    total += root_R[o, j, i] * normals[path, t, n + i]
                emitted[path, t, j] = total


@njit(cache=True, nogil=True, error_model="numpy")
def path_means(A, d, C, y, observed, lengths, spaces, gain, whitener, log_norm, slot, x, mean, weighted, status, blas):
    """Filter the means of paths y (paths, T, m) with covariances known; x (paths, n) holds the initial means."""
    batch = lengths.shape[0]
    partial = observed.shape[1] > 0
    steps, zero = np.empty(0), np.int64(0)  # a literal 0 would compile `mean_steps` once more
    for path in range(y.shape[0]):
        b = path % batch
        g = spaces[b]
        mean_steps(
            zero, lengths[b], lengths[b], zero, A, d[b if d.shape[0] > 1 else 0], C, y[path],
            observed[b if partial else 0], gain[g], whitener[g], log_norm[g], slot[g], x[path],
            mean[path], weighted[path], steps, status, blas,
        )  # fmt: skip
        if status[0] != 0:
            status[1] = b
            return
