"""The memory of the Kalman functions: parameters as arrays, and the workspaces that their kernels write."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from probseq.ops.kalman_system import N_AXES
from probseq.ops.modes import array_of
from probseq.ops.pool import lease

BLAS_STATES = 12
"""State dimension from which matrix products go to BLAS instead of written-out loops."""


class Inputs(NamedTuple):
    """A problem as arrays: the seven parameters with every axis, (B, ...) data, pattern, lengths, and diffuse start."""

    parameters: list[Any]
    y: Any
    pattern: Any
    lengths: Any
    diffuse: Any = None

    @classmethod
    def of(
        cls, system: Iterable[Tensor], y: Tensor, observed: Tensor | None, lengths: Tensor, diffuse: Tensor | None
    ) -> Inputs:
        start = None if diffuse is None else array_of(diffuse)
        return cls(parameter_arrays(system, y.shape[0]), array_of(y), pattern_of(observed, y.shape[2]),
                   array_of(lengths), start)  # fmt: skip

    @property
    def data(self) -> tuple[Any, Any, Any]:
        return self.y, self.pattern, self.lengths


class Workspace(NamedTuple):
    """What the forward recursion leaves for the backward one; shapes in kernels/kalman.py and kalman_root.py.

    `sums`, and as `series` the smoothed means or e, are those of kernels/kalman_packs.py, where that runs both.
    """

    log_prob: Any
    mean: Any
    weighted: Any
    cov: Any
    gain: Any
    whitener: Any
    log_norm: Any
    slot: Any
    steps: Any
    roots: Any
    diffuses: Any
    until: Any
    sums: Any
    series: Any
    square_root: bool = False


class Roots(NamedTuple):
    """How the square-root form is used (`always` as in kernels/kalman.py) and the factors that it reads."""

    always: bool | None
    initial: Any
    transition: Any
    emission: Any
    diffuse: Any


def allocate(
    shape: tuple[int, ...], n: int, groups: int, rows: int, *,
    keep: bool, per_step: bool, weights: bool = True, means: bool = True,
) -> Workspace:  # fmt: skip
    """`rows` of what the means need, for each group of sequences; what only the adjoint reads has T steps or none."""
    batch, steps, m = shape
    owners, kept = (batch, steps) if keep else (1, 0)
    return Workspace(
        log_prob=np.empty(batch),
        mean=lease(owners, kept if means else 0, n),
        weighted=lease(owners if weights else 0, kept, m),
        cov=lease(groups, kept, n, n),
        gain=lease(groups, rows, m, n),
        whitener=lease(groups, rows, m, m),
        log_norm=np.empty((groups, rows)),
        slot=np.zeros((groups, rows), dtype=np.int64),
        steps=np.zeros((batch, steps) if per_step else (1, 0)),
        roots=np.empty((groups, 0, n, n)),
        diffuses=np.empty((groups, 0, 2, n, 0)),
        until=np.zeros(groups, dtype=np.int64),
        sums=np.empty((0, batch)),
        series=np.empty((batch, 0, n)),
    )


def with_roots(space: Workspace, roots: Roots, steps: int, *, keep_roots: bool) -> Workspace:
    """With room for the roots and the diffuse part of every step; most of it is never touched."""
    if roots.always is None:
        return space
    (groups, _, n, _), d = space.cov.shape, roots.diffuse.shape[-1]
    diffuses = np.zeros((groups, steps if d else 0, 2, n, d))
    kept = lease(groups, steps if keep_roots else 0, n, n)
    return space._replace(roots=kept, diffuses=diffuses, square_root=roots.always)


def roots_of(parameters: list[Any], diffuse: Any, root: bool) -> Roots:
    """Factors of the covariances where the square-root form needs them."""
    _, p0, _, q, _, _, r = parameters
    start = np.zeros((1, p0.shape[1], 0)) if diffuse is None else diffuse
    if diffuse is None and not root:
        return Roots(None, p0[:1], q[:1], r[:1], start)
    factors = [np.empty(matrices.shape) for matrices in (p0, q, r)]
    for matrices, factor in zip((p0, q, r), factors, strict=True):
        kernels("linalg").semidefinite_factor(matrices, factor)
    return Roots(root, factors[0], factors[1], factors[2], start)


@functools.cache
def kernels(module: str) -> Any:
    """A module of compiled recursions, imported when first needed: most of its import is loading numba."""
    return importlib.import_module(f"probseq.kernels.{module}")


def parameter_arrays(system: Iterable[Tensor], batch: int) -> list[Any]:
    """The memory of the parameters with every axis, and an initial mean for each sequence."""
    full = with_every_axis(map(array_of, system))
    if full[0].shape[0] != batch:
        full[0] = np.repeat(full[0], batch, 0)
    return full


def with_every_axis(arrays: Iterable[Any]) -> list[Any]:
    """Views of arrays shaped like the parameters, with the axes of 1 that were left out."""
    return [
        array if array.ndim == n_axes else array[(None,) * (n_axes - array.ndim)]
        for array, n_axes in zip(arrays, N_AXES, strict=True)
    ]


def pattern_of(observed: Tensor | None, m: int) -> Any:
    return np.empty((1, 0, m), dtype=np.bool_) if observed is None else array_of(observed)


def blas(states: int) -> bool | None:
    return True if states >= BLAS_STATES else None
