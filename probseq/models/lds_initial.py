"""How a linear dynamical system starts: as given, stationary, diffuse, or in part.

A stationary start solves m = A m + transition_offset and P = A P A' + Q. Where single elements are diffuse, it is the
law that is stationary for the others by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from probseq.errors import StateOverflow
from probseq.models.normal import STABLE, stationary_cov

if TYPE_CHECKING:
    from probseq.models.lds import LDS


def initial_moments(model: LDS, matrix: Tensor, cov: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mean and covariance of the elements that are not diffuse (0 for the others), and the diffuse directions."""
    scale, n = model._buffers.get("diffuse_scale"), model.state_dim
    if scale is None and model.initial == "given":
        return model.initial_mean, model.initial_cov, None
    if model.initial == "diffuse" and scale is not None:
        return scale.new_zeros(n), scale.new_zeros(n, n), torch.diag(scale)
    proper = torch.ones(n, dtype=torch.bool) if scale is None else scale == 0
    improper = None if scale is None else torch.diag(scale)[:, ~proper]
    if model.initial == "stationary":
        if set(model.varying) & {"transition_matrix", "transition_cov", "transition_offset"}:
            raise ValueError('initial="stationary" needs a transition that does not vary in time')
        return *_stationary_moments(model, matrix, cov, proper), improper
    both = proper.to(matrix.dtype)
    return both * model.initial_mean, both.unsqueeze(-1) * model.initial_cov * both, improper


def _stationary_moments(model: LDS, matrix: Tensor, cov: Tensor, proper: Tensor) -> tuple[Tensor, Tensor]:
    """m = A m + offset and P = A P A' + Q of the elements `proper` by themselves, without what the others add."""
    places = torch.eye(model.state_dim, dtype=matrix.dtype)[:, proper]
    own = places.mT @ matrix @ places
    with torch.no_grad():
        radius = float(torch.linalg.eigvals(own).abs().max()) if own.numel() else 0.0
    if not radius < STABLE:
        raise StateOverflow(
            f'initial="stationary" needs all eigenvalues of transition_matrix inside the unit circle, the largest '
            f'has modulus {radius:.10g}; make these elements diffuse (initial="diffuse" or initial_diffuse)'
        )
    spread = places @ stationary_cov(own, places.mT @ cov @ places) @ places.mT
    if not model.has_offset("transition_offset"):
        return matrix.new_zeros(model.state_dim), spread
    level = torch.eye(len(own), dtype=matrix.dtype) - own
    return places @ torch.linalg.solve(level, places.mT @ model.transition_offset), spread
