"""The log-density table of Gaussian states as one differentiable torch function."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probseq.kernels import gaussian as kernel
from probseq.ops.modes import OnceDifferentiable, array_of, operator, untracked


def log_prob(
    rows: Float[Tensor, "row coord"],
    means: Float[Tensor, "state coord"],
    whitener: Float[Tensor, "state coord coord"],
    diagonal: bool = False,
) -> Float[Tensor, "row state"]:
    """log N(rows[n]; means[k], (W_k' W_k)^-1) with W lower triangular; differentiable once in rows, means and W.

    With `diagonal` only the diagonals of W are read (and get gradients).
    """
    function = _value.run if untracked(rows, means, whitener) else _differentiable
    return function(rows, means, whitener, diagonal)


@torch.no_grad()
def scatter(
    rows: Float[Tensor, "row coord"],
    seen: Bool[Tensor, "row coord"] | None,
    means: Float[Tensor, "state coord"],
    weights: Float[Tensor, "row state"],
    diagonal: bool = False,
) -> Float[Tensor, "state coord coord"]:
    """sum_n weights[n, k] (x_n - mu_k)(x_n - mu_k)', only its diagonal when `diagonal`; what is not seen counts 0."""
    total = np.zeros((*means.shape, means.shape[1]))
    mask = np.zeros((0, 0)) if seen is None else array_of(seen.to(torch.float64))
    kernel.scatter(array_of(rows), mask, array_of(means), array_of(weights), diagonal, total)
    return torch.from_numpy(total)


_INPUTS = "Tensor rows, Tensor means, Tensor whitener, bool diagonal"


def _shape_of_value(rows: Tensor, means: Tensor, whitener: Tensor, diagonal: bool) -> Tensor:
    return rows.new_empty(rows.shape[0], means.shape[0])


@operator("gaussian_log_prob", f"({_INPUTS}) -> Tensor", _shape_of_value)
def _value(rows: Tensor, means: Tensor, whitener: Tensor, diagonal: bool) -> Tensor:
    """The table (N, K)."""
    table = rows.new_empty(rows.shape[0], means.shape[0])
    kernel.forward(array_of(rows), array_of(means), array_of(whitener), diagonal, table.numpy())
    return table


def _shapes_of_adjoint(weight: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(argument.new_empty(argument.shape) for argument in arguments[:3])


@operator("gaussian_log_prob_backward", f"(Tensor weight, {_INPUTS}) -> (Tensor, Tensor, Tensor)", _shapes_of_adjoint)
def _adjoint(weight: Tensor, rows: Tensor, means: Tensor, whitener: Tensor, diagonal: bool) -> tuple[Tensor, ...]:
    """Gradients of sum(weight * table) in rows, means and whitener."""
    into_rows, into_means, into_whitener = (np.zeros(tensor.shape) for tensor in (rows, means, whitener))
    inputs = (array_of(rows), array_of(means), array_of(whitener))
    kernel.backward(*inputs, diagonal, array_of(weight), into_rows, into_means, into_whitener)
    return torch.from_numpy(into_rows), torch.from_numpy(into_means), torch.from_numpy(into_whitener)


_differentiable = OnceDifferentiable("Gaussian log-density", _value, _adjoint, n_inputs=3, kept=(0, 1, 2, 3))
