"""Normal densities of which some coordinates are not observed, and covariances of linear dynamics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from probseq.errors import SingularInnovation

LOG_2PI = math.log(2 * math.pi)
#: beyond this spectral radius the stationary covariance has lost half its digits
STABLE = 1 - 1e-8
#: an equilibrated pivot of the covariance of an observation below this is rounding error, not variance
SINGULAR = 1e-13


def symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2


def stationary_cov(matrix: Tensor, cov: Tensor) -> Tensor:
    """P with P == matrix P matrix' + cov, for a stable matrix; the sum of A^k Q A'^k doubled at each turn."""
    total, power = cov, matrix
    for _ in range(64):
        step = power @ total @ power.mT
        total = total + step
        if bool(step.abs().max() <= 1e-17 * total.abs().max()):
            break
        power = power @ power
    return symmetric(total)


def log_normal(residual: Tensor, cov: Tensor, name: str, observed: Tensor | None = None) -> Tensor:
    """log N(residual; 0, cov) over the observed coordinates; ValueError where no density exists."""
    seen = torch.ones_like(residual) if observed is None else observed.to(residual.dtype)
    masked = seen.unsqueeze(-1) * cov * seen.unsqueeze(-2)
    try:
        factor, unit = whitener(masked, seen)
    except SingularInnovation as error:
        raise ValueError(f"{name} is singular, so state paths have no density under this model") from error
    white = torch.linalg.solve_triangular(factor, (seen * residual * unit).unsqueeze(-1), upper=False).squeeze(-1)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - (seen * unit.log()).sum(-1)
    return -0.5 * (white.square().sum(-1) + seen.sum(-1) * LOG_2PI) - log_det


def log_densities(residual: Tensor, cov: Tensor, observed: Tensor | None) -> Tensor:
    """log N(residual; 0, cov) of residuals (*batch, N, m) over the observed coordinates (*batch, m)."""
    seen = residual.new_ones(cov.shape[-1]) if observed is None else observed.to(residual.dtype)
    factor, unit = whitener(seen.unsqueeze(-1) * cov * seen.unsqueeze(-2), seen)
    scaled = torch.where(seen.unsqueeze(-2) > 0, residual, 0.0) * unit.unsqueeze(-2)
    white = torch.linalg.solve_triangular(factor, scaled.mT, upper=False)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - (seen * unit.log()).sum(-1)
    return -0.5 * (white.square().sum(-2) + seen.sum(-1, keepdim=True) * LOG_2PI) - log_det.unsqueeze(-1)


def whitener(cov: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor of the covariance in units where its observed diagonal is 1 and, unobserved, the identity."""
    variance = cov.diagonal(dim1=-2, dim2=-1)
    if bool(((variance <= 0) & (seen > 0)).any()):
        raise SingularInnovation(_singular("a predicted variance is zero"))
    unit = torch.where(seen > 0, torch.where(seen > 0, variance, 1.0).rsqrt(), 1.0)
    scaled = unit.unsqueeze(-1) * cov * unit.unsqueeze(-2) + torch.diag_embed(1 - seen)
    factor, info = torch.linalg.cholesky_ex(scaled)
    if bool((info != 0).any()) or bool((factor.diagonal(dim1=-2, dim2=-1).square() < SINGULAR).any()):
        raise SingularInnovation(_singular("observed coordinates determine each other exactly"))
    return factor, unit


def _singular(why: str) -> str:
    return f"the predicted covariance of the observation is singular ({why}); add emission noise or drop a coordinate"
