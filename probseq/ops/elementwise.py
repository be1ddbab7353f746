"""Functions that torch takes in threads of its own, taken in those of blocks or in one.

Torch's threads go on spinning for a while after an exponential of many numbers or a softmax of few, on a core that the
next kernels want.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from probseq.kernels import simplex, vectors
from probseq.ops.modes import array_of, untracked
from probseq.ops.threads import over_blocks

#: entries from which torch takes several threads, and those that a block goes through at a time
LARGE = 1 << 15
_COST = 4  # operations per entry, as `over_blocks` counts


def exponential(x: Tensor) -> Tensor:
    """x.exp() for entries up to 709, differentiable."""
    if x.numel() < LARGE or x.dtype != torch.float64 or not untracked(x):
        return x.exp()
    flat = array_of(x).reshape(-1)
    out = np.empty_like(flat)
    rows = -(-flat.size // LARGE)

    def run(block: slice) -> None:
        part = slice(block.start * LARGE, block.stop * LARGE)
        vectors.exponentials_of(flat[part], out[part])

    over_blocks(run, rows, _COST * flat.size)
    return torch.from_numpy(out.reshape(x.shape))


def softmax(x: Tensor, *, logarithms: bool = False) -> Tensor:
    """x.softmax(-1), or x.log_softmax(-1), differentiable."""
    if x.dtype != torch.float64 or not x.numel() or not untracked(x):
        return x.log_softmax(-1) if logarithms else x.softmax(-1)
    rows = array_of(x).reshape(-1, x.shape[-1])
    out = np.empty_like(rows)
    simplex.normalise(rows, logarithms, out)
    return torch.from_numpy(out.reshape(x.shape))
