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
from probseq.ops import kalman_backward as adjoint
from probseq.ops import kalman_packs as packs
from probseq.ops import kalman_workspace as memory
from probseq.ops.kalman_system import LinearGaussianSystem
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
    system, packed = LinearGaussianSystem(*arguments[:7]), arguments[13] or None
    space = arrays.run_forward(system, *arguments[7:13], keep=True, packed=packed)
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
    batch = arguments[7].shape[0]
    lengths, mean, weighted, cov, gain, whitener, slot, diffuses, until, sums, series = map(array_of, arguments[9:])
    load, packed = array_of(weights), sums.shape[0] > 0
    gradients = [np.zeros(argument.shape) for argument in arguments[:7]]
    gradients.append(np.empty(arguments[7].shape if not packed or series.size else 0))
    into = [*memory.with_every_axis(gradients[:7]), gradients[7]]
    shared_mean = into[0].shape[0] != batch
    if shared_mean:
        into[0] = np.zeros((batch, cov.shape[-1]))
    kept = (cov, gain, whitener, slot, mean, weighted)
    if packed:
        packs.gradients(sums, series, load, into)
        _covariances(arguments, lengths, kept, until, load, into)
    else:
        gradients[7][...] = 0.0
        _both(arguments, lengths, kept, until, diffuses, load, into)
    if shared_mean:
        gradients[0][...] = into[0].sum(0)
    return tuple(map(torch.from_numpy, gradients))


def _covariances(
    arguments: tuple[Any, ...], lengths: Any, kept: tuple[Any, ...], until: Any, load: Any, into: list[Any],
    edge: Any = None,
) -> Any:  # fmt: skip
    """Add what the covariances have of the gradients; returns the group of every sequence."""
    cov, gain, whitener, slot = kept[:4]
    _, _, a, _, _, c, _ = memory.with_every_axis(map(array_of, arguments[:7]))
    n, nothing = a.shape[-1], np.empty((1, 0, *cov.shape[2:]))
    _, spans, group_spaces, group_of = adjoint.groups(lengths, slot.shape[0])
    memory.kernels("kalman_adjoint").covariance_adjoint(
        a, c, cov, gain, whitener, slot, spans, group_spaces, until, np.bincount(group_of, load, len(spans)),
        *into[1:4], *into[5:7], nothing, nothing, np.empty((0, n, n)) if edge is None else edge, 0.0, memory.blas(n),
    )  # fmt: skip
    return group_of


def _both(
    arguments: tuple[Any, ...], lengths: Any, kept: tuple[Any, ...], until: Any, diffuses: Any, load: Any,
    into: list[Any],
) -> None:  # fmt: skip
    """Add both halves of the gradients, and what an exact diffuse start has."""
    y, observed = arguments[7:9]
    batch, _, m = y.shape
    _, _, a, _, _, c, r = memory.with_every_axis(map(array_of, arguments[:7]))
    (cov, _, whitener, slot, mean, _), n, improper = kept, a.shape[-1], diffuses.shape[1] > 0
    spaces, spans, _, group_of = adjoint.groups(lengths, slot.shape[0])
    nothing, edge = np.empty((1, 0, n, n)), np.empty((batch if improper else 0, n))
    edge_cov = np.empty((len(spans) if improper else 0, n, n))
    unused = (np.empty((1, 0, n)), nothing, nothing)
    if adjoint.run_small_adjoint(a, c, kept, until, lengths, load, into, unused, (edge_cov, edge), 0.0) is None:
        _covariances(arguments, lengths, kept, until, load, into, edge_cov)
        pattern = memory.pattern_of(observed, m)
        adjoint.run_mean_adjoint(a, c, kept, spaces, until, lengths, array_of(y), pattern, load, into, unused[0], edge)
    if improper:
        memory.kernels("kalman_diffuse_adjoint").diffuse_adjoint(
            a, c, r, array_of(y), memory.pattern_of(observed, m), lengths, spaces, group_of, until, cov, diffuses,
            whitener, mean, load, edge, edge_cov, *into,
        )  # fmt: skip


differentiable = OnceDifferentiable("Kalman log-likelihood", _value, _adjoint, n_inputs=8, kept=tuple(range(10)))
