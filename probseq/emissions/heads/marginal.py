"""The marginal that a head starts at, where it has no closed form: a few M-steps of the same emission of one state."""

from __future__ import annotations

import warnings
from typing import TypeVar

import torch
from torch import Tensor

from probseq.emissions.base import Emission
from probseq.errors import ProbseqWarning

E = TypeVar("E", bound=Emission)

#: M-steps of a start, and the most rows that it looks at, evenly spaced
N_STEPS, MOST_ROWS = 8, 2000


def thinned(values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, D) in which anything was seen, evenly spaced, at most `MOST_ROWS`."""
    rows = seen.any(-1).nonzero().squeeze(-1)
    rows = rows[:: 1 + (len(rows) - 1) // MOST_ROWS]
    return values[rows], seen[rows]


def settled(emission: E, values: Tensor, seen: Tensor, seed: int) -> E:
    """The emission with one state, started at rows (N, D) and moved by some M-steps; a start, so nothing is said."""
    values, seen = thinned(values, seen)
    emission.bind(1)
    weights = torch.ones(len(values), 1, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProbseqWarning)
        emission.start(values, seen, seed)
        for _ in range(N_STEPS):
            emission.maximise(values, seen, weights)
    return emission
