"""The Kalman log-likelihood behind torch's dispatcher, with its gradient.

    kalman_forward(parameters, y, observed, lengths, lead, diffuse, numerics)
        ->  log p(y), and the workspaces mean ... until
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
from probseq.ops import kalman_workspace as memory
from probseq.ops.kalman_system import LinearGaussianSystem
from probseq.ops.modes import OnceDifferentiable, array_of, operator

_PARAMETERS = (
    "Tensor initial_mean, Tensor initial_cov, Tensor transition_matrix, Tensor transition_cov, "
    "Tensor transition_offset, Tensor emission_matrix, Tensor emission_cov, Tensor y"
)
_WORKSPACES = (
    "Tensor mean, Tensor weighted, Tensor cov, Tensor gain, Tensor whitener, Tensor slot, Tensor diffuses, Tensor until"
)


def _shapes_of_value(*arguments: Any) -> tuple[Tensor, ...]:
    y, (m, n) = arguments[7], arguments[5].shape[-2:]
    batch, steps = y.shape[0], y.shape[1]
    groups = batch if arguments[10] < 0 else 1
    d = 0 if arguments[11] is None else arguments[11].shape[-1]
    return (
        y.new_empty(batch),
        y.new_empty(batch, steps, n),
        y.new_empty(0 if arrays.side_by_side(arguments[10], batch) else batch, steps, m),
        y.new_empty(groups, steps, n, n),
        y.new_empty(groups, steps, m, n),
        y.new_empty(groups, steps, m, m),
        y.new_empty(groups, steps, dtype=torch.int64),
        y.new_empty(groups, steps if d else 0, 2, n, d),
        y.new_empty(groups, dtype=torch.int64),
    )


@operator(
    "kalman_forward",
    f"({_PARAMETERS}, Tensor? observed, Tensor lengths, int lead, Tensor? diffuse, str numerics) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _shapes_of_value,
)
def _value(*arguments: Any) -> tuple[Tensor, ...]:
    """log p(y) (B,), and for the adjoint: mean, weighted, cov, gain, whitener, slot, diffuses, until."""
    space = arrays.run_forward(LinearGaussianSystem(*arguments[:7]), *arguments[7:], keep=True)
    outputs = (space.log_prob, space.mean, space.weighted, space.cov, space.gain, space.whitener, space.slot)
    return tuple(map(torch.from_numpy, (*outputs, space.diffuses, space.until)))


def _shapes_of_adjoint(weights: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(argument, memory_format=torch.contiguous_format) for argument in arguments[:8])


@operator(
    "kalman_backward",
    f"(Tensor weights, {_PARAMETERS}, Tensor? observed, Tensor lengths, {_WORKSPACES}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _shapes_of_adjoint,
)
def _adjoint(weights: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of sum(weights * log_prob) in the seven parameters and y, each of the shape that was given."""
    y, observed = arguments[7:9]
    batch, _, m = y.shape
    _, _, a, _, _, c, r = memory.parameter_arrays(arguments[:7], batch)
    lengths, mean, weighted, cov, gain, whitener, slot, diffuses, until = map(array_of, arguments[9:])
    gradients, load, n = [np.zeros(argument.shape) for argument in arguments[:8]], array_of(weights), a.shape[-1]
    into = [*memory.with_every_axis(gradients[:7]), gradients[7]]
    shared_mean = into[0].shape[0] != batch
    if shared_mean:
        into[0] = np.zeros((batch, n))
    spaces, spans, group_spaces, group_of = arrays.groups(lengths, slot.shape[0])
    nothing, improper = np.empty((1, 0, n, n)), diffuses.shape[1] > 0
    edges = np.empty((len(spans) if improper else 0, n, n)), np.empty((batch if improper else 0, n))
    kept = (cov, gain, whitener, slot, mean, weighted)
    unused = (np.empty((1, 0, n)), nothing, nothing)
    if arrays.run_small_adjoint(a, c, kept, until, lengths, load, into, unused, edges, 0.0) is None:
        memory.kernels("kalman_adjoint").covariance_adjoint(
            a, c, cov, gain, whitener, slot, spans, group_spaces, until, np.bincount(group_of, load, len(spans)),
            *into[1:4], *into[5:7], nothing, nothing, edges[0], 0.0, memory.blas(n),
        )  # fmt: skip
        pattern = memory.pattern_of(observed, m)
        arrays.run_mean_adjoint(
            a, c, kept, spaces, until, lengths, array_of(y), pattern, load, into, unused[0], edges[1]
        )
    if improper:
        memory.kernels("kalman_diffuse_adjoint").diffuse_adjoint(
            a, c, r, array_of(y), memory.pattern_of(observed, m), lengths, spaces, group_of, until, cov, diffuses,
            whitener, mean, load, edges[1], edges[0], *into,
        )  # fmt: skip
    if shared_mean:
        gradients[0][...] = into[0].sum(0)
    return tuple(map(torch.from_numpy, gradients))


differentiable = OnceDifferentiable("Kalman log-likelihood", _value, _adjoint, n_inputs=8, kept=tuple(range(10)))
