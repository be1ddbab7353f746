"""Which ways of differentiation a compiled function allows: reverse mode, once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


class _ReverseOnly(torch.autograd.Function):
    """The identity, which refuses forward-mode differentiation; a compiled op would return zero tangents."""

    @staticmethod
    def forward(name: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (None, *gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        raise NotImplementedError(f"the {ctx.name} has no forward-mode derivative: use reverse mode")


def refuse_forward_mode(name: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The same tensors; inside forward-mode differentiation, ones that raise when they carry a tangent."""
    if forward_ad._current_level < 0:
        return tensors
    return _ReverseOnly.apply(name, *tensors)  # type: ignore[return-value]


def needs_autograd(*tensors: Tensor) -> bool:
    """Whether a call must go through the dispatcher: gradients, tracing or a tensor subclass are involved."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    return forward_ad._current_level >= 0 or torch.compiler.is_compiling() or type(tensors[0].data) is not Tensor
