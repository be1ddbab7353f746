"""The gradient of the Kalman log-likelihood on numpy arrays.

    space = run_forward(inputs, ...)             the filter
    Filtered(inputs, space).gradients(weights)   d sum(weights log p) in the seven parameters and y: the smoother

The recursions are `kernels/kalman_adjoint.py`, before the step where an exact diffuse start is over
`kernels/kalman_diffuse_adjoint.py`, and where packs of sequences served, sums that they left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from probseq.ops import kalman_arrays as arrays
from probseq.ops import kalman_backward as adjoint
from probseq.ops import kalman_packs as packs
from probseq.ops import kalman_single as single
from probseq.ops.kalman_workspace import Inputs, blas, kernels, with_every_axis
from probseq.ops.pool import lease

SHORT = 1 << 16
"""Steps times states cubed up to which the gradient of a sequence is taken with its value."""


def at_once(y: Any, n: int) -> bool:
    """Whether book-keeping between value and gradient takes longer than the gradient: for one short sequence y."""
    return y.shape[0] == 1 and y.shape[1] * n**3 <= SHORT


class Left(NamedTuple):
    """The workspaces that the adjoint reads, in the order of the operators."""

    mean: Any
    weighted: Any
    cov: Any
    gain: Any
    whitener: Any
    slot: Any
    diffuses: Any
    until: Any
    sums: Any
    series: Any


class Filtered(NamedTuple):
    """A problem and what its filter left."""

    inputs: Inputs
    left: Left

    def gradients(self, load: Any, shapes: list[Any]) -> list[Any]:
        """Gradients of sum(load * log_prob) in parameters of these shapes, and y."""
        batch, n, left = len(load), self.left.cov.shape[-1], self.left
        packed = left.sums.shape[0] > 0
        gradients = [np.zeros(shape) for shape in shapes]
        shape = self.inputs.y.shape
        gradients.append(np.zeros(shape) if not packed else lease(*shape) if left.series.size else np.empty(0))
        into = [*with_every_axis(gradients[:7]), gradients[7]]
        shared_mean = into[0].shape[0] != batch
        if shared_mean:
            into[0] = np.zeros((batch, n))
        if packed:
            packs.gradients(left.sums, left.series, load, into)
            self._covariances(load.sum(keepdims=True), shape[1:2], [0], into, np.empty((0, n, n)))
        else:
            self._both(load, into)
        if shared_mean:
            gradients[0][...] = into[0].sum(0)
        return gradients

    def _covariances(self, loads: Any, spans: Any, spaces: Any, into: list[Any], edge: Any) -> None:
        """Add what the covariances have of the gradients, for groups of these weights, lengths and covariance rows."""
        left, a, c = self.left, self.inputs.parameters[2], self.inputs.parameters[5]
        n, nothing = a.shape[-1], np.empty((1, 0, *left.cov.shape[2:]))
        kernels("kalman_adjoint").covariance_adjoint(
            a, c, left.cov, left.gain, left.whitener, left.slot, np.asarray(spans), np.asarray(spaces), left.until,
            loads, *into[1:4], *into[5:7], nothing, nothing, edge, 0.0, blas(n),
        )  # fmt: skip

    def _both(self, load: Any, into: list[Any]) -> None:
        """Add both halves of the gradients, and what an exact diffuse start has."""
        left, (y, pattern, lengths), batch = self.left, self.inputs.data, len(load)
        _, _, a, _, _, c, r = self.inputs.parameters
        n, improper = a.shape[-1], left.diffuses.shape[1] > 0
        spaces, spans, group_spaces, group_of = adjoint.groups(lengths, left.slot.shape[0])
        kept = (left.cov, left.gain, left.whitener, left.slot, left.mean, left.weighted)
        nothing, edge = np.empty((1, 0, n, n)), np.empty((batch if improper else 0, n))
        edge_cov, none = np.empty((len(spans) if improper else 0, n, n)), np.empty((1, 0, n))
        unused = (none, nothing, nothing)
        joint = adjoint.run_small_adjoint(
            a, c, kept, left.until, lengths, load, into, unused, (edge_cov, edge), 0.0
        )  # fmt: skip
        if joint is None:
            loads = np.bincount(group_of, load, len(spans))
            self._covariances(loads, spans, group_spaces, into, edge_cov)
            adjoint.run_mean_adjoint(
                a, c, kept, spaces, left.until, lengths, y, pattern, load, into, none, edge
            )  # fmt: skip
        if improper:
            kernels("kalman_diffuse_adjoint").diffuse_adjoint(
                a, c, r, y, pattern, lengths, spaces, group_of, left.until, left.cov, left.diffuses,
                left.whitener, left.mean, load, edge, edge_cov, *into,
            )  # fmt: skip


Pull = Callable[[Any, Sequence[int]], list[Any]]
"""Of weights (B,) the gradient of sum(weights log p) in some of the seven parameters and y, by their places."""


def value_and_pull(
    inputs: Inputs, lead: int, numerics: str, packed: packs.Answer | None, shapes: list[Any]
) -> tuple[Any, Pull]:
    """log p(y) (B,), and the gradient in the parameters, of these shapes, and y; of one short series it is ready."""
    n = inputs.parameters[2].shape[-1]
    found = single.value_and_gradient(inputs) if numerics == "auto" and at_once(inputs.y, n) else None
    if found is not None:
        value, gradient = found
        m, every = inputs.y.shape[2], [*shapes, inputs.y.shape]
        return value, lambda load, places: [
            (load[0] * single.part(gradient, place, n, m)).reshape(every[place]) for place in places
        ]
    space = arrays.run_forward(inputs, lead, numerics, keep=True, packed=packed)
    filtered = Filtered(inputs, Left(*(getattr(space, name) for name in Left._fields)))

    def pull(load: Any, places: Sequence[int]) -> list[Any]:
        every = filtered.gradients(load, shapes)
        return [every[place] for place in places]

    return space.log_prob, pull
