"""Random numbers of a cloud of particles, and its resampling: functions of the seed and of the number of the draw.

The belief carries that number, so a particle filter is a deterministic function of the data like any other: it can be
resumed and streamed, and a sequence's result does not depend on its neighbours in a batch.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from probseq.beliefs import Particles
from probseq.ops.resampling import Scheme, ancestors

#: draws of different repetitions are this far apart: no sequence is longer
FAR = 2**32
#: what a draw is for
MOVE, RESAMPLE, GUIDE, BACKWARD = range(4)


def numbers(seed: int, draw: Tensor, purpose: int, shape: tuple[int, ...]) -> Tensor:
    """Numbers (*batch, *shape) for draws (*batch,): uniform ones to resample, else standard normal ones."""
    keys, places = draw.reshape(-1).unique(return_inverse=True)
    tables = [torch.from_numpy(_table(seed, int(key), purpose, shape)) for key in keys.tolist()]
    if len(tables) == 1:
        return tables[0].expand(*draw.shape, *shape)
    if not tables:
        return torch.zeros(*draw.shape, *shape, dtype=torch.float64)
    return torch.stack(tables)[places].reshape(*draw.shape, *shape)


def backward_generator(seed: int) -> torch.Generator:
    """What draws paths backwards, whatever was drawn forwards."""
    return torch.Generator().manual_seed(int(_source(seed, 0, BACKWARD).integers(2**62)))


def equal_weights(*shape: int) -> Tensor:
    """Log-weights (*batch, N) of particles that count the same."""
    return torch.full(shape, -math.log(shape[-1]), dtype=torch.float64)


def resampled(belief: Particles, threshold: float, seed: int, scheme: Scheme = "systematic") -> tuple[Tensor, Tensor]:
    """Log-weights and values, equally weighted copies where the effective share of the particles is below threshold."""
    weights, values = belief.log_weights, belief.values
    size = weights.shape[-1]
    low = belief.effective_size < threshold * size
    if not bool(low.any()):
        return weights, values
    uniforms = numbers(seed, cast(Tensor, belief.draw), RESAMPLE, (size,))
    chosen = ancestors(weights.exp(), uniforms, scheme).unsqueeze(-1)
    again = values.gather(-2, chosen.expand(values.shape))
    weights = torch.where(low.unsqueeze(-1), equal_weights(*weights.shape), weights)
    return weights, torch.where(low[..., None, None], again, values)


def _table(seed: int, draw: int, purpose: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    source = _source(seed, draw, purpose)
    return source.random(shape) if purpose == RESAMPLE else source.standard_normal(shape)


def _source(seed: int, draw: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, draw, purpose, 0]))
