"""The log-probability table of symbols as one differentiable torch function: columns looked up, weights counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probseq.kernels import symbols as kernel
from probseq.ops import memory
from probseq.ops.modes import OnceDifferentiable, array_of, operator, untracked


def log_prob(
    log_probs: Float[Tensor, "state symbol"], symbols: Float[Tensor, " row"], observed: Tensor
) -> Float[Tensor, "row state"]:
    """table[n, k] = log_probs[k, symbols[n]], 0 where `observed` (N,) is False (all count if it is empty).

    Symbols must be whole numbers 0 .. M - 1. Differentiable once in log_probs, whose gradient are weighted counts.
    """
    return (_value.run if untracked(log_probs) else _differentiable)(log_probs, symbols, observed)


_INPUTS = "Tensor log_probs, Tensor symbols, Tensor observed"


def _shape_of_value(log_probs: Tensor, symbols: Tensor, observed: Tensor) -> Tensor:
    return log_probs.new_empty(symbols.shape[0], log_probs.shape[0])


@operator("symbol_log_prob", f"({_INPUTS}) -> Tensor", _shape_of_value)
def _value(log_probs: Tensor, symbols: Tensor, observed: Tensor) -> Tensor:
    """The table (N, K)."""
    table = memory.empty("table", (symbols.shape[0], log_probs.shape[0]))
    if not kernel.look_up(array_of(symbols), array_of(observed), array_of(log_probs), table):
        raise ValueError(f"symbols must be 0 .. {log_probs.shape[1] - 1}")
    return torch.from_numpy(table)


def _shape_of_adjoint(weights: Tensor, log_probs: Tensor, *_: Any) -> Tensor:
    return log_probs.new_empty(1, *log_probs.shape)


@operator("symbol_log_prob_backward", f"(Tensor weights, {_INPUTS}) -> Tensor", _shape_of_adjoint)
def _adjoint(weights: Tensor, log_probs: Tensor, symbols: Tensor, observed: Tensor) -> Tensor:
    """A row of gradients, of which there is one: counts (1, K, M)."""
    counts = np.zeros((1, *log_probs.shape))
    kernel.count(array_of(symbols), array_of(observed), array_of(weights), counts[0])
    return torch.from_numpy(counts)


_differentiable = OnceDifferentiable("log-probability of symbols", _value, _adjoint, n_inputs=1, kept=(0, 1, 2))
