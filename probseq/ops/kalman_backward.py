"""The adjoint of the Kalman filter on numpy arrays: its kernels are chosen and called here.

    run_small_adjoint(...)   both halves at once, few states     run_mean_adjoint(...)   the half of the vectors alone

Gradient arrays, seven parameters and y, have no first axis where they are not wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from probseq.ops.kalman_arrays import KNOWN_STATES, side_by_side
from probseq.ops.kalman_packs import MANY_SEQUENCES
from probseq.ops.kalman_system import N_AXES
from probseq.ops.kalman_workspace import blas, kernels
from probseq.ops.threads import first_of, group, n_groups, over_blocks


def summed(call: Callable[[slice, list[Any]], Any], gradients: list[Any], batch: int, n_operations: int) -> list[Any]:
    """Call call(members, gradients) for stretches of members, on threads; what they share is added up in order.

    The stretches depend on the batch alone, so that one thread and two give the same digits.
    """
    by_member = {0, 7, *(i for i in (1, 4) if gradients[i].shape[0] > 1)}

    def run(block: slice) -> list[tuple[Any, list[Any]]]:
        results: list[tuple[Any, list[Any]]] = []
        for g in range(group(block.start, batch), group(block.stop - 1, batch) + 1):
            members = slice(first_of(g, batch), first_of(g + 1, batch))
            parts = [part[members] if i in by_member else np.zeros_like(part) for i, part in enumerate(gradients)]
            results.append((call(members, parts), parts))
        return results

    returned: list[Any] = []
    for value, parts in (result for block in over_blocks(run, batch, n_operations) for result in block):
        returned.append(value)
        for i, part in enumerate(parts):
            if i not in by_member:
                gradients[i] += part
    return returned


def run_small_adjoint(
    a: Any, c: Any, space: tuple[Any, ...], until: Any, lengths: Any, weights: Any, gradients: list[Any],
    moments: tuple[Any, Any, Any], edges: tuple[Any, Any], spent: float,
) -> bool | None:  # fmt: skip
    """Both halves of the backward recursion in one pass, where few states and sensors are those of one sequence.

    `space` is cov, gain, whitener, slot, mean, weighted. Returns whether digits were lost; None where not applicable.
    """
    (m, n), slot = c.shape[1:], space[3]
    times = len(a), len(c), gradients[3].shape[0], gradients[4].shape[:2][-1], gradients[6].shape[0]
    if max(n, m) > KNOWN_STATES or slot.shape[0] != len(lengths) or max(times) > 1 or min(times[:2]) == 0:
        return None
    adjoint = kernels("kalman_adjoint_small").small_adjoint

    def run(members: slice, parts: list[Any]) -> bool:
        own_space = tuple(part[members] for part in space)
        return adjoint(
            (0,) * n, (0,) * m, a[0], c[0], *own_space[:4], until[members], lengths[members], *own_space[4:],
            weights[members], *parts, *(part[members] for part in (*moments, *edges)), spent,
        )  # fmt: skip

    batch = len(lengths)
    if batch < MANY_SEQUENCES:
        return run(slice(0, batch), gradients)
    return any(summed(run, gradients, batch, batch * slot.shape[1] * n**3))


def run_mean_adjoint(
    a: Any, c: Any, space: tuple[Any, ...], spaces: Any, until: Any, lengths: Any, y: Any, pattern: Any, weights: Any,
    gradients: list[Any], smoothed: Any, edge: Any,
) -> None:  # fmt: skip
    """Run the vector half of the backward recursion, by lanes where many sequences share their covariances.

    `space` is cov, gain, whitener, slot, mean, weighted; the last is not read by lanes.
    """
    batch, lanes = len(lengths), kernels("kalman_lanes")
    cov, gain, whitener, slot, mean, weighted = space
    if slot.shape[0] > 1 or not side_by_side(0, batch):
        kernels("kalman_adjoint").mean_adjoint(
            a, c, cov, gain, slot, spaces, until, lengths, mean, weighted, weights, *gradients, smoothed, edge,
            blas(a.shape[1]),
        )  # fmt: skip
        return
    seen = pattern[int(lengths.argmax()) % len(pattern)]

    def run(members: slice, parts: list[Any]) -> None:
        lanes.mean_adjoint_lanes(
            a, c, cov[0], gain[0], whitener[0], slot[0], until[0], lengths[members], y[members], seen, mean[members],
            weights[members], *parts, smoothed[members], edge[members],
        )  # fmt: skip

    if n_groups(batch) * lanes.LANES <= 1.4 * batch:  # lanes are mostly filled
        summed(run, gradients, batch, batch * slot.shape[1] * a.shape[1] ** 2)
    else:
        run(slice(0, batch), gradients)


def spent(emission_cov: Tensor, states: int) -> float:
    """The share of a variance that is rounding: with a perfect sensor a variance may vanish, elsewhere none does."""
    perfect = bool((emission_cov.diagonal(dim1=-2, dim2=-1) == 0).any())
    return 16 * states * 2.0**-52 if perfect else 0.0


def no_gradients() -> list[Any]:
    """Empty gradient arrays for the adjoint kernels: the seven parameters and y."""
    return [np.empty((0,) * n_axes) for n_axes in (*N_AXES, 3)]


def groups(ends: Any, covariance_groups: int) -> tuple[Any, Any, Any, Any]:
    """Which sequences share the backward covariances, those of equal length and equal forward covariances.

    Returns the covariance row of each sequence, then length and covariance row of each group, and each one's group.
    """
    if covariance_groups > 1 or len(ends) == 1:
        every = np.arange(len(ends))
        return every, ends, every, every
    spans, group_of = np.unique(ends, return_inverse=True)
    return np.zeros_like(ends), spans, np.zeros_like(spans), group_of
