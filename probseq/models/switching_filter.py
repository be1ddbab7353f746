"""The compiled filter of a switching linear system on whole sequences; the kernel is `probseq.kernels.switching`."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.base import Filtered
from probseq.beliefs import Gaussian, Mixture
from probseq.errors import SingularInnovation
from probseq.models.switching_steps import Regimes
from probseq.ops.modes import array_of
from probseq.sequences import Sequences


def filtered(parts: Regimes, pairs: bool, start: Mixture, sequences: Sequences) -> Filtered[Mixture]:
    """Filter a flat batch from predicted beliefs; no gradients. SingularInnovation where y_t has no density."""
    kernel: Any = importlib.import_module("probseq.kernels.switching")
    batch, steps, k, n = *sequences.values.shape[:2], parts.n_regimes, len(parts.initial_mean)
    before, after = _room(batch, steps, k * k if pairs else k, n), _room(batch, steps, k, n)
    first = (start.log_weights, start.components.mean, start.components.cov)
    for array, value in zip(before, first, strict=True):
        array[:, 0] = value.detach().numpy()
    scores, status = np.empty((batch, steps)), np.full(2, -1)
    moves = tuple(map(_array, (parts.transition_matrix, parts.transition_offset, parts.transition_cov)))
    emits = tuple(map(_array, (parts.emission_matrix, parts.emission_offset, parts.emission_cov)))
    data = tuple(map(_array, (sequences.values, sequences.observed, sequences.lengths)))
    kernel.filter_all(_array(parts.log_moves), moves, emits, *data, before, after, scores, status)
    if status[0] >= 0:
        where = f"sequence {status[0]}, step {status[1]}" if batch > 1 else f"step {status[1]}"
        raise SingularInnovation(
            f"the predicted covariance of the observation is singular at {where}; add emission noise or drop a "
            "coordinate"
        )
    return Filtered(_mixture(before), _mixture(after), torch.from_numpy(scores))


def _room(batch: int, steps: int, count: int, n: int) -> tuple[Any, Any, Any]:
    shape = (batch, steps, count)
    return np.empty(shape), np.empty((*shape, n)), np.empty((*shape, n, n))


def _array(value: Tensor) -> Any:
    return np.ascontiguousarray(array_of(value.detach()))


def _mixture(arrays: tuple[Any, Any, Any]) -> Mixture:
    weights, means, covs = map(torch.from_numpy, arrays)
    return Mixture(weights, Gaussian(means, covs))
