"""What the columns of an observation are, read off a predictive distribution.

| kind   | is                                       | log score   | has a mean, an interval, CRPS |
|--------|------------------------------------------|-------------|-------------------------------|
| real   | a number with a unit                     | density     | yes                           |
| angle  | a direction in radians                   | density     | no                            |
| count  | 0, 1, 2, ...                             | probability | yes                           |
| binary | 0 or 1                                   | probability | CRPS, the Brier score         |
| symbol | one of M names                           | probability | no                            |

Pen strokes (dx, dy, pen) are two real columns and a binary one.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributions as D

from probseq.base import StateSpaceModel
from probseq.emissions.product import Columns
from probseq.sequences import Sequences

ColumnKind = Literal["real", "angle", "count", "binary", "symbol"]


def column_kinds(distribution: D.Distribution) -> tuple[ColumnKind, ...]:
    """The kind of every coordinate of a distribution with event shape (D,)."""
    if isinstance(distribution, D.MixtureSameFamily):
        return column_kinds(distribution.component_distribution)
    if isinstance(distribution, Columns):
        return tuple(kind for part in distribution.parts for kind in column_kinds(part))
    base = distribution.base_dist if isinstance(distribution, D.Independent) else distribution
    return (_kind(base),) * distribution.event_shape[0]


def _kind(base: D.Distribution) -> ColumnKind:
    if isinstance(base, D.Categorical):
        return "symbol"
    if isinstance(base, D.Bernoulli):
        return "binary"
    if isinstance(base, D.VonMises):
        return "angle"
    return "count" if getattr(base.support, "is_discrete", False) else "real"


def marginal_parts(distribution: D.Distribution) -> list[D.Distribution]:
    """The marginals of columns that stand side by side, in order; one entry, itself, of anything else."""
    if isinstance(distribution, Columns):
        return list(distribution.parts)
    if isinstance(distribution, D.MixtureSameFamily):
        parts = marginal_parts(distribution.component_distribution)
        if len(parts) > 1:
            mix = distribution.mixture_distribution
            return [D.MixtureSameFamily(mix, part, validate_args=False) for part in parts]
    return [distribution]


def first_prediction(model: StateSpaceModel[Any], data: Sequences) -> D.Distribution:
    """What a model says of the first step of these data."""
    flat = data.flat()
    u = None if flat.inputs is None or not model.input_dim else flat.inputs[0, 0]
    with torch.no_grad():
        return model.emit(model.initial_belief((), u), u)


def kinds_of(model: StateSpaceModel[Any], data: Sequences) -> tuple[ColumnKind, ...]:
    """The kind of every column that a fitted model describes."""
    if model.real_valued:
        return ("real",) * data.event_shape[0]
    return column_kinds(first_prediction(model, data))


def measure_of(kinds: tuple[ColumnKind, ...]) -> Literal["density", "probability", "mixed"]:
    """What a log score over such columns is the logarithm of."""
    dense = [kind in ("real", "angle") for kind in kinds]
    return "density" if all(dense) else "mixed" if any(dense) else "probability"


def marked(kinds: tuple[ColumnKind, ...], *wanted: ColumnKind) -> Tensor:
    """Which columns are of one of these kinds, (D,)."""
    return torch.tensor([kind in wanted for kind in kinds])
