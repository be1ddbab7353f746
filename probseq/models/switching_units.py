"""Other units of the data for a switching linear system, in the stored numbers: C -> s C, R -> s R s, d -> s d + b."""

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
        ("emission_matrices", rows, torch.zeros(())),
        ("emission_offsets", scale, shift),
        ("emission_covs", rows, torch.zeros(())),  # stored as a factor
    ):
        raw = model._parameters[f"raw_{name}"]
        if raw is not None and name not in model.unset:
            with torch.no_grad():
                raw.mul_(factor).add_(moved)
