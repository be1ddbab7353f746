"""What models of discrete hidden states share: their number, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from probseq import parameters as P
from probseq.checks import whole_number
from probseq.errors import ImpossibleSequence
from probseq.sequences import Sequences

#: expected steps below which a state is empty
NO_MASS = 1e-8
EMPTY_STATE = "a state explains no data any more and keeps its last parameters; fewer states may be enough"


def refuse_impossible(impossible_at: Tensor, sequences: Sequences) -> None:
    bad = np.flatnonzero(impossible_at.numpy() >= 0)
    if bad.size:
        sequence = int(bad[0])
        where = f"sequence {sequence}, " if len(sequences.values) > 1 else ""
        raise ImpossibleSequence(
            f"y has probability zero under this model from {where}step {int(impossible_at[sequence])} on, "
            "so it has no posterior; check zeros in initial_probs, transition_matrix and the emission"
        )


def count_states(n_states: int | None, initial_probs: Any, transition_matrix: Any, **parts: int) -> int:
    """n_states as passed or as read off what was given; a part that is not bound yet has 0 states."""
    found: dict[str, int] = {}
    if n_states is not None:
        found["n_states"] = whole_number("n_states", n_states)
    for name, value in (("initial_probs", initial_probs), ("transition_matrix", transition_matrix)):
        if value is not None:
            shape = tuple(P.as_parameter(name, value).shape)
            if not shape:
                raise ValueError(f"{name} must be an array, got a single number")
            found[name] = shape[0]
    found.update({name: size for name, size in parts.items() if size})
    if not found:
        raise ValueError("n_states must be given, or parameters from which it follows")
    if len(set(found.values())) > 1:
        raise ValueError(f"the number of states must be the same everywhere, got {found}")
    return next(iter(found.values()))
