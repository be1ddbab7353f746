"""The parameters of the Kalman functions: their shapes, what is wrong with them, and when sequences share covariances.

n states, m observed coordinates, B sequences of T steps. Axes that are 1 and stand before the others may be left out,
so that a model which does not vary passes its matrices as they are.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor


class LinearGaussianSystem(NamedTuple):
    """The parameters, float64; every R is 1, or T where the parameter varies.

    Entry t of a transition parameter is the step into t; entry 0 is unused when R = T.
    """

    initial_mean: Tensor  # (1 or B, n)
    initial_cov: Tensor  # (1 or B, n, n)
    transition_matrix: Tensor  # (R, n, n)
    transition_cov: Tensor  # (R, n, n)
    transition_offset: Tensor  # (1 or B, R, n)
    emission_matrix: Tensor  # (R, m, n)
    emission_cov: Tensor  # (R, m, m)

    def full(self, batch: int) -> LinearGaussianSystem:
        """The same system with every axis, and with an initial mean for each of the sequences."""
        mean, *others = (
            value if value.ndim == n_axes else value[(None,) * (n_axes - value.ndim)]
            for value, n_axes in zip(self, N_AXES, strict=True)
        )
        return LinearGaussianSystem(mean if mean.shape[0] == batch else mean.expand(batch, -1), *others)


N_AXES = (2, 3, 3, 3, 3, 3, 3)
_CHECKED = (*LinearGaussianSystem._fields, "y")


def check(
    system: LinearGaussianSystem, y: Tensor, observed: Tensor | None, lengths: Tensor, diffuse: Tensor | None = None
) -> None:
    """Compare every shape and type with the table above: a compiled kernel does not."""
    _check_shapes(
        tuple(value.shape for value in system), y.shape, None if observed is None else observed.shape, lengths.shape
    )
    for name, value in zip(_CHECKED, (*system, y), strict=True):
        if value.dtype != torch.float64:
            raise ValueError(f"{name} must be float64, not {value.dtype}")
    if lengths.dtype != torch.int64 or (observed is not None and observed.dtype != torch.bool):
        raise ValueError("lengths must be int64, and observed boolean")
    if diffuse is not None:
        n, shape = system.initial_mean.shape[-1], tuple(diffuse.shape)
        if diffuse.ndim != 3 or shape[0] not in (1, y.shape[0]) or shape[1] != n or diffuse.dtype != torch.float64:
            raise ValueError(f"diffuse must be float64 of shape (1 or {y.shape[0]}, {n}, d), not {shape}")
    ends = lengths.tolist()
    if ends and not 0 <= min(ends) <= max(ends) <= y.shape[1]:
        raise ValueError(f"lengths must lie in 0 .. {y.shape[1]}, not {ends}")


@functools.lru_cache(maxsize=256)
def _check_shapes(
    system: tuple[torch.Size, ...], y: torch.Size, observed: torch.Size | None, lengths: torch.Size
) -> None:
    """Refuse shapes that do not fit together, naming the argument (remembered: it costs more than a filter)."""
    parameters = [(1,) * (n_axes - len(shape)) + tuple(shape) for shape, n_axes in zip(system, N_AXES, strict=True)]
    (batch, steps, m), n = y, parameters[2][-2]
    often, shared = {1, steps}, {1, batch}
    allowed = {
        "initial_mean": (shared, {n}),
        "initial_cov": (shared, {n}, {n}),
        "transition_matrix": (often, {n}, {n}),
        "transition_cov": (often, {n}, {n}),
        "transition_offset": (shared, often, {n}),
        "emission_matrix": (often, {m}, {n}),
        "emission_cov": (often, {m}, {m}),
        "observed": ({batch}, {steps}, {m}),
        "lengths": ({batch},),
    }
    for (name, sizes), shape in zip(allowed.items(), (*parameters, observed or y, lengths), strict=True):
        if len(shape) != len(sizes) or any(size not in choices for size, choices in zip(shape, sizes, strict=True)):
            wanted = ", ".join(" or ".join(str(size) for size in sorted(choices)) for choices in sizes)
            raise ValueError(f"{name} must have shape ({wanted}), not {tuple(shape)}")


def shared_lead(
    system: LinearGaussianSystem, observed: Tensor | None, lengths: Tensor, diffuse: Tensor | None = None
) -> int:
    """The sequence (the longest) whose covariances hold for all, or -1: they depend on P_0 and the pattern only."""
    batch = lengths.shape[0]
    if batch == 1:
        return 0
    if batch == 0 or (system.initial_cov.ndim == 3 and system.initial_cov.shape[0] > 1):
        return -1
    if diffuse is not None and diffuse.shape[0] > 1:
        return -1
    return lead_of_pattern(lengths, observed)


def lead_of_pattern(lengths: Tensor, observed: Tensor | None) -> int:
    """`shared_lead` of sequences with the same start."""
    lead = int(lengths.argmax()) if len(lengths) else -1
    if observed is None or lead < 0:
        return lead
    outside = torch.arange(observed.shape[1]) >= lengths[:, None]
    return lead if bool(((observed == observed[lead]) | outside[..., None]).all()) else -1
