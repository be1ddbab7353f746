"""Other units for a switching linear system: of the data, and of the states, in the stored numbers.

s y + b    C -> s C,  R -> s R s,  d -> s d + b
f z        F -> f F / f,  C -> C / f,  Q -> f Q f,  b -> f b,  initial moments and recurrent weights alike
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from probseq.models.switching import SwitchingLDS


def rescale(model: SwitchingLDS, scale: Tensor, shift: Tensor) -> None:
    """Make `model` that of scale * y + shift."""
    rows = scale.unsqueeze(-1)
    for name, factor, moved in (
        ("emission_matrices", rows, 0.0),
        ("emission_offsets", scale, shift),
        ("emission_covs", rows, 0.0),  # stored as a factor
    ):
        _scale(model, name, factor, moved)


def rescale_states(model: SwitchingLDS, factor: Tensor) -> None:
    """Make the state factor * z, in the same law of y."""
    column = factor.unsqueeze(-1)
    factors = {
        "transition_matrices": column / factor,
        "transition_offsets": factor,
        "transition_covs": column,
        "emission_matrices": 1 / factor,
        "initial_mean": factor,
        "initial_cov": column,
        "recurrent_weights": 1 / factor,
    }
    for name, own in factors.items():
        if model.recurrent or name != "recurrent_weights":
            _scale(model, name, own)


def _scale(model: SwitchingLDS, name: str, factor: Tensor, shift: Tensor | float = 0.0) -> None:
    raw = model._parameters[f"raw_{name}"]
    if raw is not None and name not in model.unset:
        with torch.no_grad():
            raw.mul_(factor).add_(shift)
