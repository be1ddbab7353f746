"""The Kalman log-likelihood behind torch's dispatcher, with its gradient.

    kalman_forward(parameters, y, observed, lengths, lead, diffuse, numerics, packed)
        ->  log p(y), and the workspaces mean ... series
    kalman_backward(weights, parameters, y, observed, lengths, *workspaces)
        ->  d sum(weights * log p) / d parameters and y

The gradient is the smoothing recursion (`kernels/kalman_adjoint.py`), which reads the workspaces of the filter, and
before the step where an exact diffuse start is over, `kernels/kalman_diffuse_adjoint.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.ops import kalman_arrays as arrays
from probseq.ops import kalman_packs as packs
from probseq.ops.kalman_gradient import Filtered, Left, at_once, value_and_pull
from probseq.ops.kalman_workspace import Inputs
from probseq.ops.modes import OnceDifferentiable, array_of, operator

_PARAMETERS = (
    "Tensor initial_mean, Tensor initial_cov, Tensor transition_matrix, Tensor transition_cov, "
    "Tensor transition_offset, Tensor emission_matrix, Tensor emission_cov, Tensor y"
)
_WORKSPACES = (
    "Tensor mean, Tensor weighted, Tensor cov, Tensor gain, Tensor whitener, Tensor slot, Tensor diffuses, "
    "Tensor until, Tensor sums, Tensor series"
)


def _shapes_of_value(*arguments: Any) -> tuple[Tensor, ...]:
    y, (m, n), packed = arguments[7], arguments[5].shape[-2:], arguments[13]
    batch, steps = y.shape[0], y.shape[1]
    groups = batch if arguments[10] < 0 else 1
    d = 0 if arguments[11] is None else arguments[11].shape[-1]
    sums = packs.shape_of_sums(n, m, batch) if packed else (0, batch)
    return (
        y.new_empty(batch),
        y.new_empty(batch, 0 if packed else steps, n),
        y.new_empty(0 if packed or arrays.side_by_side(arguments[10], batch) else batch, steps, m),
        y.new_empty(groups, steps, n, n),
        y.new_empty(groups, steps, m, n),
        y.new_empty(groups, steps, m, m),
        y.new_empty(groups, steps, dtype=torch.int64),
        y.new_empty(groups, steps if d else 0, 2, n, d),
        y.new_empty(groups, dtype=torch.int64),
        y.new_empty(sums),
        y.new_empty(batch, steps if packed == "gradient in y" else 0, m if packed else n),
    )


@operator(
    "kalman_forward",
    f"({_PARAMETERS}, Tensor? observed, Tensor lengths, int lead, Tensor? diffuse, str numerics, str packed) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _shapes_of_value,
)
def _value(*arguments: Any) -> tuple[Tensor, ...]:
    """log p(y) (B,), and for the adjoint: mean, weighted, cov, gain, whitener, slot, diffuses, until, sums, series."""
    lead, diffuse, numerics, packed = arguments[10:14]
    inputs = Inputs.of(arguments[:7], arguments[7], arguments[8], arguments[9], diffuse)
    space = arrays.run_forward(inputs, lead, numerics, keep=True, packed=packed or None)
    outputs = (space.log_prob, space.mean, space.weighted, space.cov, space.gain, space.whitener, space.slot)
    return tuple(map(torch.from_numpy, (*outputs, space.diffuses, space.until, space.sums, space.series)))


def _shapes_of_adjoint(weights: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    shapes = [argument.shape for argument in arguments[:8]]
    if arguments[18].shape[0] and not arguments[19].shape[1]:
        shapes[7] = torch.Size([0])
    return tuple(weights.new_empty(shape) for shape in shapes)


@operator(
    "kalman_backward",
    f"(Tensor weights, {_PARAMETERS}, Tensor? observed, Tensor lengths, {_WORKSPACES}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _shapes_of_adjoint,
)
def _adjoint(weights: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of sum(weights * log_prob) in the seven parameters and y, each of the shape that was given.

    That of y has no entries where packs of sequences left none.
    """
    inputs = Inputs.of(arguments[:7], arguments[7], arguments[8], arguments[9], None)
    left, shapes = Left._make(map(array_of, arguments[10:])), [argument.shape for argument in arguments[:7]]
    return tuple(map(torch.from_numpy, Filtered(inputs, left).gradients(array_of(weights), shapes)))


def _at_once(*arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """Value and gradient of one short sequence, for which torch's book-keeping between the two would take longer."""
    if not at_once(arguments[7], arguments[0].shape[-1]):
        return None
    lead, diffuse, numerics, _ = arguments[10:14]
    inputs = Inputs.of(arguments[:7], arguments[7], arguments[8], arguments[9], diffuse)
    shapes = [argument.shape for argument in arguments[:7]]
    value, pull = value_and_pull(inputs, lead, numerics, None, shapes)
    return torch.from_numpy(value), tuple(map(torch.from_numpy, pull(np.ones(1), range(8))))


differentiable = OnceDifferentiable(
    "Kalman log-likelihood", _value, _adjoint, n_inputs=8, kept=tuple(range(10)), at_once=_at_once
)
