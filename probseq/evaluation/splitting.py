"""Where training ends: data in two parts, the first to fit and the rest to score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.evaluation.naive import refuse_constant
from probseq.sequences import Sequences


def train_length(length: int, train: float | int, name: str = "y") -> int:
    """A share or number of steps as a number, with at least one step on both sides."""
    whole = isinstance(train, (int, np.integer)) and not isinstance(train, bool)
    if not whole and not (isinstance(train, float) and 0 < train < 1):
        raise ValueError(f"train must be a share strictly between 0 and 1 or a number of steps, got {train!r}")
    n_train = int(train) if whole else round(length * train)
    if not 1 <= n_train < length:
        raise ValueError(
            f"train must leave at least one step on both sides, got {n_train} of the {length} steps of {name}"
        )
    return n_train


def train_lengths(data: Sequences, train: float | int) -> Tensor:
    """The number of training steps of every sequence."""
    lengths = data.lengths.reshape(-1).tolist()
    names = ["y"] if len(lengths) == 1 else [f"sequence {i} of y" for i in range(len(lengths))]
    return torch.tensor([train_length(length, train, name) for length, name in zip(lengths, names, strict=True)])


def with_held_out(y: Any, u: Any, test: Any, test_u: Any) -> tuple[Sequences, int]:
    """The held-out sequences and after them those of training, as one list, and how many come first."""
    held, rest = Sequences.of(test, test_u), Sequences.of(y, u)
    if held.event_shape != rest.event_shape:
        raise ValueError(f"test must have {rest.event_shape[0]} columns like y, got {held.event_shape[0]}")
    if (held.inputs is None) != (rest.inputs is None):
        raise ValueError("u and test_u must be given both or neither")
    parts = [(part, i) for part in (held.flat(), rest.flat()) for i in range(len(part.lengths))]
    values = [torch.where(part.observed[i], part.values[i], torch.nan)[: int(part.lengths[i])] for part, i in parts]
    inputs = [part.inputs[i, : int(part.lengths[i])] for part, i in parts if part.inputs is not None]
    joined = Sequences.of(values, inputs or None)
    indexes = (*(held.indexes or (None,) * held.lengths.numel()), *(rest.indexes or (None,) * rest.lengths.numel()))
    complete = len(indexes) == len(parts)
    return replace(joined, names=rest.names, indexes=indexes if complete else joined.indexes), held.lengths.numel()


def held_out_first(data: Sequences, n_held_out: int) -> Tensor:
    """Held-out sequences are tested from their first step on, the others not at all."""
    place = torch.arange(data.lengths.numel())
    return torch.where(place < n_held_out, 0, data.lengths.reshape(-1))


def head(data: Sequences, first: Tensor) -> Sequences:
    """The first steps of every sequence that has any, as a flat batch."""
    rows = first.nonzero().squeeze(-1)
    return span(data.flat().select(rows), torch.zeros_like(rows), first[rows])


def span(data: Sequences, starts: Tensor, ends: Tensor) -> Sequences:
    """Steps starts[i] .. ends[i] - 1 of every sequence of a flat batch; one that has none is empty."""
    y = torch.where(data.observed, data.values, torch.nan)
    spans = list(zip(starts.tolist(), torch.maximum(ends, starts).tolist(), strict=True))
    u = None if data.inputs is None else [data.inputs[i, a:b] for i, (a, b) in enumerate(spans)]
    return replace(Sequences.of([y[i, a:b] for i, (a, b) in enumerate(spans)], u), layout="batch")


def check_parts(
    models: Mapping[str, StateSpaceModel[Any]], data: Sequences, training: Sequences, first: Tensor
) -> None:
    """Both parts say something: the training part varies, the test part has observed steps."""
    if any(model.real_valued for model in models.values()):
        refuse_constant(training)
    flat = data.flat()
    if not bool((flat.seen & (torch.arange(flat.n_steps) >= first.unsqueeze(-1))).any()):
        raise ValueError("y must have at least one observed step in the test part, got none")
