"""The log-density table of Gaussian states as one differentiable torch function."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probseq.kernels import gaussian as kernel
from probseq.ops.modes import needs_autograd, refuse_forward_mode

_INPUTS = "Tensor rows, Tensor means, Tensor whitener, bool diagonal"


def log_prob(
    rows: Float[Tensor, "row coord"],
    means: Float[Tensor, "state coord"],
    whitener: Float[Tensor, "state coord coord"],
    diagonal: bool = False,
) -> Float[Tensor, "row state"]:
    """log N(rows[n]; means[k], (W_k' W_k)^-1) with W lower triangular; differentiable once in rows, means and W.

    With `diagonal` only the diagonals of W are read (and get gradients).
    """
    inputs = refuse_forward_mode("Gaussian log-density", rows, means, whitener)
    if needs_autograd(*inputs):
        return torch.ops.probseq.gaussian_log_prob(*inputs, diagonal)
    return _forward(*inputs, diagonal)


def _forward(rows: Tensor, means: Tensor, whitener: Tensor, diagonal: bool) -> Tensor:
    table = rows.new_empty(rows.shape[0], means.shape[0])
    kernel.forward(_array(rows), _array(means), _array(whitener), diagonal, table.numpy())
    return table


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().contiguous().numpy()


@torch.library.custom_op(
    "probseq::gaussian_log_prob", mutates_args=(), device_types="cpu", schema=f"({_INPUTS}) -> Tensor"
)
def _log_prob_op(rows: Tensor, means: Tensor, whitener: Tensor, diagonal: bool) -> Tensor:
    return _forward(rows, means, whitener, diagonal)


@torch.library.custom_op(
    "probseq::gaussian_log_prob_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor weight, {_INPUTS}) -> (Tensor, Tensor, Tensor)",
)
def _backward_op(
    weight: Tensor, rows: Tensor, means: Tensor, whitener: Tensor, diagonal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = (
        torch.zeros(rows.shape).double(),
        torch.zeros(means.shape).double(),
        torch.zeros(whitener.shape).double(),
    )
    into_rows, into_means, into_whitener = gradients
    kernel.backward(
        _array(rows), _array(means), _array(whitener), diagonal, _array(weight),
        into_rows.numpy(), into_means.numpy(), into_whitener.numpy(),
    )  # fmt: skip
    return into_rows, into_means, into_whitener


@_log_prob_op.register_fake
def _(rows: Tensor, means: Tensor, whitener: Tensor, diagonal: bool) -> Tensor:
    return rows.new_empty(rows.shape[0], means.shape[0])


@_backward_op.register_fake
def _(weight: Tensor, rows: Tensor, means: Tensor, whitener: Tensor, diagonal: bool) -> tuple[Tensor, ...]:
    return rows.new_empty(rows.shape), means.new_empty(means.shape), whitener.new_empty(whitener.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.diagonal = inputs[3]


def _adjoint(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
    return (*torch.ops.probseq.gaussian_log_prob_backward(weight, *ctx.saved_tensors, ctx.diagonal), None)


_log_prob_op.register_autograd(_adjoint, setup_context=_save)
