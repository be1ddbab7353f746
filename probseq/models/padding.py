"""Whole sequences of networks: where they may be run at once, and what stands beyond their ends."""

from __future__ import annotations

import torch
from torch import Tensor

from probseq.sequences import Sequences


def seen_first(sequences: Sequences) -> bool:
    """Whether every sequence is fully observed up to some step and not at all after it."""
    if sequences.complete:
        return True
    whole = sequences.observed.all(-1)
    return bool((whole[:, :-1] | ~sequences.seen[:, 1:]).all()) and bool((whole[:, 1:] <= whole[:, :-1]).all())


def hold(values: Tensor, sequences: Sequences) -> Tensor:
    """(B, T, ...) with, beyond each sequence's end, its last value."""
    if sequences.rectangular:
        return values
    last = (sequences.lengths - 1).clamp(min=0).unsqueeze(-1)
    steps = torch.minimum(torch.arange(values.shape[1]).expand(values.shape[:2]), last)
    return values[torch.arange(len(values)).unsqueeze(-1), steps]
