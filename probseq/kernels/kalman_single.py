"""One series of few states, a diffuse start, independent sensors: log p(y) and its gradient in one call; compiled.

What `ops/kalman_gradient.py` does with the same kernels one after another. For a short series the calls, each with
some thirty arrays, and their workspaces would take longer than the recursions.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.kalman import mean_steps
from probseq.kernels.kalman_adjoint_small import small_adjoint
from probseq.kernels.kalman_diffuse_adjoint import diffuse_adjoint
from probseq.kernels.kalman_readings import columns_in_use
from probseq.kernels.kalman_root import root_steps
from probseq.kernels.kalman_sequential import one_by_one
from probseq.kernels.linalg import semidefinite_factor
from probseq.kernels.rows import extent

START, ALWAYS = np.int64(0), np.bool_(True)  # arguments: for a literal one the steps would be compiled anew


@njit(cache=True, nogil=True, error_model="numpy")
def part(numbers, place, shape):
    """A view of this shape of the numbers from a place on."""
    size = 1
    for length in shape:
        size *= length
    return numbers[place : place + size].reshape(shape)


@njit(cache=True, nogil=True, error_model="numpy")
def value_and_gradient(
    states, sensors, begin, m0, P0, A, Q, d, C, R, y, observed, lengths, diffuse_start,
    log_prob, gradient,
):  # fmt: skip
    """Write log p(y) (1,) and add its gradient; False where an update may lose digits, or the start is diffuse longer.

    False too where the noise of the sensors is correlated. `gradient` holds those in m0, P0, A, Q, d, C, R and y one
    after another. The first `begin` >= 1 steps, more than a diffuse start (1, n, d) lasts, are taken on square roots.
    """
    n, m, steps = extent(states), extent(sensors), y.shape[1]
    for j in range(m):
        for k in range(m):
            if j != k and R[0, j, k] != 0.0:
                return False
    grad_m0, grad_P0 = part(gradient, 0, (1, n)), part(gradient, n, (1, n, n))
    place = n + n * n
    grad_A, grad_Q = part(gradient, place, (1, n, n)), part(gradient, place + n * n, (1, n, n))
    place += 2 * n * n
    grad_d, grad_C = part(gradient, place, (1, 1, n)), part(gradient, place + n, (1, m, n))
    place += n + m * n
    grad_R, grad_y = part(gradient, place, (1, m, m)), part(gradient, place + m * m, (1, steps, m))
    cov, gain, whitener = np.empty((1, steps, n, n)), np.empty((1, steps, m, n)), np.empty((1, steps, m, m))
    log_norm, slot = np.empty((1, steps)), np.zeros((1, steps), np.int64)
    mean, weighted, load, until = np.empty((1, steps, n)), np.empty((1, steps, m)), np.ones(1), np.zeros(1, np.int64)
    diffuses = np.zeros((1, begin + 1, 2, n, diffuse_start.shape[2]))
    edge_cov, edge = np.empty((1, n, n)), np.empty((1, n))
    root, root_Q, root_R = np.empty_like(P0), np.empty_like(Q), np.empty_like(R)
    semidefinite_factor(P0, root)
    semidefinite_factor(Q, root_Q)
    semidefinite_factor(R, root_R)
    P, diffuse, x, densities = P0[0].copy(), diffuse_start[0].copy(), m0[0].copy(), np.empty(begin + 1)
    mask, reach, memory, status = np.ones(m, np.bool_), np.zeros(n), np.zeros(6, np.int64), np.zeros(3, np.int64)
    memory[0], memory[4] = -1, columns_in_use(diffuse)
    root_steps(
        START, begin + 1, begin + 1, START, A, Q, C, R, root_Q, root_R, observed[0], ALWAYS, root[0], diffuse, P, mask,
        reach, memory, cov[0], np.empty((0, n, n)), diffuses[0], gain[0], whitener[0], log_norm[0], slot[0], status,
    )  # fmt: skip
    until[0] = memory[5]
    if status[0] != 0 or until[0] > begin:
        return False
    mean_steps(
        START, begin + 1, begin + 1, START, A, d[0], C, y[0], observed[0], gain[0], whitener[0], log_norm[0], slot[0],
        x, mean[0], weighted[0], densities, status, None,
    )  # fmt: skip
    if status[0] != 0:
        return False
    start, spread = mean[:, begin].copy(), cov[:, slot[0, begin]].copy()
    of_head = 0.0
    for t in range(begin):
        of_head += densities[t]
    noise = np.empty(m)
    for j in range(m):
        noise[j] = R[0, j, j]
    if not one_by_one(
        states, begin, start, spread, A[0], Q[0], d, C[0], noise, y, observed, lengths, log_prob,
        cov, gain, whitener, log_norm, slot, mean, weighted, None,
    ):  # fmt: skip
        return False
    log_prob[0] += of_head
    none, nothing = np.empty((1, 0, n)), np.empty((1, 0, n, n))
    small_adjoint(
        states, sensors, A[0], C[0], cov, gain, whitener, slot, until, lengths, mean, weighted, load,
        grad_m0, grad_P0, grad_A, grad_Q, grad_d, grad_C, grad_R, grad_y, none, nothing, nothing, edge_cov, edge, 0.0,
    )  # fmt: skip
    every = np.zeros(1, np.int64)
    diffuse_adjoint(
        A, C, R, y, observed, lengths, every, every, until, cov, diffuses, whitener, mean, load, edge, edge_cov,
        grad_m0, grad_P0, grad_A, grad_Q, grad_d, grad_C, grad_R, grad_y,
    )  # fmt: skip
    return True
