"""The likelihood of an LDS straight from its stored numbers, and its gradient in them.

The same numbers as by `system()`; but where that makes matrices of parameters in torch's operations, which for a short
series take longer than its filter, these are arrays, and the gradient goes back through them by hand:

    stored                     matrix                  gradient in what is stored, from G in the matrix
    real                       as it is                G
    factor of a covariance     L L', L = tril(raw)     tril((G + G') L)
    diagonal, spherical        diag(exp(raw))          diag(G) exp(raw), its sum
    emission offset b          y - b                   minus the sum of the gradient in y

`Stored.of` is None where more happens: inputs, a transition kept stable, a start that follows from the dynamics or is
diffuse in part, matrices that vary in time, overridden parameters, or more than reverse mode watching.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from probseq.ops import kalman
from probseq.ops.modes import array_of, attach, eager
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from probseq.models.lds import LDS

#: the parameters in the order of `LinearGaussianSystem`
NAMES = (
    "initial_mean", "initial_cov", "transition_matrix", "transition_cov", "transition_offset", "emission_matrix",
    "emission_cov",
)  # fmt: skip
RAW = tuple(f"raw_{name}" for name in (*NAMES, "emission_offset"))
COVARIANCES = (1, 3, 6)
SHIFT, OFFSET = 4, 7
OFFSETS = ((SHIFT, "transition_offset"), (OFFSET, "emission_offset"))


@functools.cache
def _kernels() -> Any:
    """Compiled loops over a matrix, imported when first needed."""
    return importlib.import_module("probseq.kernels.stored")


class Stored:
    """A problem whose matrices were made of stored numbers, in the order of `NAMES` with the emission offset last."""

    def __init__(self, model: LDS, sequences: Sequences, raw: list[Tensor]) -> None:
        self.raw, self.numerics, self.diffuse = raw, model.numerics, model.initial == "diffuse"
        sizes, improper = (model.state_dim, model.state_dim, model.obs_dim), None
        absent = [place for place, name in OFFSETS if not model.has_offset(name)] + ([0, 1] if self.diffuse else [])
        self.arrays: list[Any] = [None if place in absent else array_of(one) for place, one in enumerate(raw)]
        parameters = self.arrays[:OFFSET]
        if SHIFT in absent:
            parameters[SHIFT] = np.zeros(sizes[0])
        if self.diffuse:
            parameters[0], parameters[1] = np.zeros(sizes[0]), np.zeros(sizes[:2])
            improper = np.diag(array_of(model._buffers["diffuse_scale"]))[None]  # type: ignore[arg-type]
        for place, size in zip(COVARIANCES, sizes, strict=True):
            stored = self.arrays[place]
            if stored is not None:
                parameters[place] = np.empty((size, size))
                (_kernels().square if stored.ndim == 2 else _kernels().spread)(stored, parameters[place])
        y = array_of(sequences.values)
        self.offset = OFFSET not in absent
        if self.offset:
            y = y - self.arrays[OFFSET]
        observed = None if sequences.complete else sequences.observed
        self.inputs = kalman.inputs_of_arrays(parameters, y, observed, sequences.lengths, improper)

    @classmethod
    def of(cls, model: LDS, sequences: Sequences) -> Stored | None:
        if model.stable or model.varying or model.overrides or model.unset or sequences.inputs is not None:
            return None
        marked, values = "diffuse_scale" in model._buffers, sequences.values
        if model.initial == "stationary" or marked != (model.initial == "diffuse") or not sequences.n_steps:
            return None
        raw: list[Any] = [model._parameters[name] for name in RAW]
        if not eager(*raw, values) or values.requires_grad or any(one.dtype != torch.float64 for one in raw):
            return None
        return cls(model, sequences, raw)

    def log_prob(self) -> Tensor:
        """log p(y) (B,), without a gradient."""
        return kalman.log_prob_of_arrays(self.inputs, self.numerics)

    def differentiable(self) -> Tensor:
        """log p(y) (B,), whose gradient is that in what is stored."""
        value, pull = kalman.value_and_pull_of_arrays(self.inputs, self.numerics, self.offset)
        learned = self._learned()

        def pulled(load: Tensor) -> list[Tensor]:
            return list(map(self._pulled, learned, pull(array_of(load), learned)))

        return attach("Kalman log-likelihood", value, [self.raw[place] for place in learned], pulled)

    def value_and_gradient(self) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """log p(y) (B,), and pairs of what is learned with the gradient of the sum in it."""
        value, pull = kalman.value_and_pull_of_arrays(self.inputs, self.numerics, self.offset)
        learned = self._learned()
        gradients = map(self._pulled, learned, pull(np.ones(len(value)), learned))
        return value, [(self.raw[place], one) for place, one in zip(learned, gradients, strict=True)]

    def _learned(self) -> list[int]:
        return [place for place, one in enumerate(self.raw) if one.requires_grad and not (self.diffuse and place < 2)]

    def _pulled(self, place: int, gradient: Any) -> Tensor:
        """The gradient in what is stored, from that in the matrix, or in y."""
        if place == OFFSET:
            return torch.from_numpy(-gradient.sum((0, 1)))
        if place not in COVARIANCES:
            return torch.from_numpy(gradient)
        stored = self.arrays[place]
        out = np.empty(stored.shape)
        pull = _kernels().pull_square if stored.ndim == 2 else _kernels().pull_spread
        pull(gradient, stored, out)
        return torch.from_numpy(out)
