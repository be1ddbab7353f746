"""Draws from a chain of states: the whole path first, then every row at once.

    z ~ p(z)            the posterior draws of paths, with nothing observed
    y_t ~ p(y | z_t)    one call of the emission for all t

The same law as drawing step by step from the belief, without a step's calls; for emissions that do not read earlier
rows.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from probseq.sequences import Sequences


class Chain(Protocol):
    """What is asked of a model: its states, its emission, draws of its paths."""

    emission: Any
    n_states: int

    @property
    def event_shape(self) -> torch.Size: ...

    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor: ...


def draw_rows(model: Chain, sample_shape: tuple[int, ...], length: int, inputs: Tensor | None) -> Tensor:
    """(*sample_shape, length, *event) from torch's global generator; inputs (*sample_shape, length, P) or None."""
    n = math.prod(sample_shape)
    flat = None if inputs is None else inputs.reshape(n, length, inputs.shape[-1])
    nothing = Sequences.of(torch.full((n, length, *model.event_shape), torch.nan, dtype=torch.float64), flat)
    states = model._sample_states(nothing, 1, torch.default_generator)[0]
    one_hot = torch.nn.functional.one_hot(states, model.n_states).double()
    rows = model.emission.given(flat).mixture(one_hot.log()).sample().to(torch.float64)
    return rows.reshape(*sample_shape, length, *model.event_shape)
