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
from probseq.ops.modes import array_of, eager
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
OFFSET = 7


@functools.cache
def _kernels() -> Any:
    """Compiled loops over a matrix, imported when first needed."""
    return importlib.import_module("probseq.kernels.stored")


class Stored:
    """A problem whose matrices were made of stored numbers, in the order of `NAMES` with the emission offset last."""

    def __init__(self, model: LDS, sequences: Sequences, raw: list[Tensor]) -> None:
        self.raw, self.numerics, self.diffuse = raw, model.numerics, model.initial == "diffuse"
        self.arrays = [array_of(one) for one in raw]
        n, m = model.state_dim, model.obs_dim
        parameters, improper = self.arrays[:OFFSET], None
        for place, size in zip(COVARIANCES, (n, n, m), strict=True):
            parameters[place] = np.empty((size, size))
            if place == 1 and self.diffuse:
                parameters[0], parameters[1] = np.zeros(n), np.zeros((n, n))
                improper = np.diag(array_of(model.get_buffer("diffuse_scale")))[None]
            elif self.arrays[place].ndim == 2:
                _kernels().square(self.arrays[place], parameters[place])
            else:
                _kernels().spread(self.arrays[place], parameters[place])
        y = array_of(sequences.values)
        self.offset = raw[OFFSET].requires_grad or bool(self.arrays[OFFSET].any())
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

    def value_and_gradient(self) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """log p(y) (B,), and pairs of what is learned with the gradient of the sum in it."""
        value, gradients = kalman.value_and_gradient_of_arrays(self.inputs, self.numerics, self.offset)
        pairs = [
            (one, torch.from_numpy(self._pulled(place, gradients[place])))
            for place, one in enumerate(self.raw)
            if one.requires_grad and not (self.diffuse and place < 2)
        ]
        return value, pairs

    def _pulled(self, place: int, gradient: Any) -> Any:
        """The gradient in what is stored, from that in the matrix, or in y."""
        if place == OFFSET:
            return -gradient.sum((0, 1))
        if place not in COVARIANCES:
            return gradient
        stored = self.arrays[place]
        out = np.empty(stored.shape)
        pull = _kernels().pull_square if stored.ndim == 2 else _kernels().pull_spread
        pull(gradient, stored, out)
        return out
