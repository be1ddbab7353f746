"""Positive numbers from outputs, triangular factors, and the scores of a Gaussian-shaped density.

softplus(x) = log(1 + exp(x));    deviation = floor + softplus(x);    z = factor^-1 (y - mean)
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Covariance = Literal["diag", "full"]

#: below it softplus(x) is exp(x) to the last digit of a double
NEGLIGIBLE = -37.0


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) to full precision; torch's own drops exp(-x) above 20."""
    return -F.logsigmoid(-x)


def log_softplus(x: Tensor) -> Tensor:
    """log softplus(x), finite where softplus(x) underflows."""
    low = x < NEGLIGIBLE
    return torch.where(low, x, softplus(torch.where(low, 0.0, x)).log())


def inverse_softplus(x: Tensor) -> Tensor:
    """The x' with softplus(x') == x, for x > 0."""
    return x + torch.log(-torch.expm1(-x))


def checked_covariance(covariance: Covariance) -> Covariance:
    """The argument of a head, or a ValueError."""
    if covariance not in ("diag", "full"):
        raise ValueError(f"covariance must be 'diag' or 'full', got {covariance!r}")
    return covariance


def checked_floor(scale_floor: float) -> float:
    """Likewise."""
    if not 0.0 <= scale_floor < 1.0:
        raise ValueError(f"scale_floor must be in [0, 1), in standardised units, got {scale_floor!r}")
    return float(scale_floor)


def n_below(covariance: Covariance, dim: int) -> int:
    """Entries below the diagonal of a factor."""
    return dim * (dim - 1) // 2 if covariance == "full" else 0


def lower_factor(diagonal: Tensor, below: Tensor) -> Tensor:
    """The lower triangular matrix (*, D, D) of a diagonal (*, D) and the entries below it, row by row."""
    dim = diagonal.shape[-1]
    rows, columns = torch.tril_indices(dim, dim, -1, device=below.device)
    lower = below.new_zeros(*below.shape[:-1], dim * dim).index_add(-1, rows * dim + columns, below)
    return lower.unflatten(-1, (dim, dim)) + torch.diag_embed(diagonal)


def factor_outputs(factor: Tensor, covariance: Covariance, scale_floor: float) -> Tensor:
    """The outputs (*, D) or (*, D (D + 1) / 2) that say a factor (*, D, D), held off the floor."""
    smallest = max(2.0 * scale_floor, torch.finfo(torch.float32).eps)
    spread = inverse_softplus(factor.diagonal(dim1=-2, dim2=-1).clamp(min=smallest) - scale_floor)
    if covariance == "diag":
        return spread
    dim = factor.shape[-1]
    rows, columns = torch.tril_indices(dim, dim, -1, device=factor.device)
    return torch.cat([spread, factor[..., rows, columns]], -1)


def whiten(factor: Tensor, residual: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores z (*, D) and log |diag R| (*, D) of N(residual; 0, marginal of factor factor').

    The rows of the factor that belong to observed coordinates, beside unit rows for the others, are a wide
    square root of the marginal covariance; its QR triangle is a square one, and no covariance is ever formed.
    """
    if observed is not None and not bool(observed.all()):
        shape = torch.broadcast_shapes(factor.shape[:-1], residual.shape, observed.shape)
        factors, seen = (
            factor.expand(*shape, shape[-1]).reshape(-1, shape[-1], shape[-1]),
            observed.expand(shape).reshape(-1, shape[-1]),
        )
        rows = (~seen.all(-1)).nonzero().squeeze(-1)  # complete rows keep their factor as it is
        part = seen[rows].unsqueeze(-1)
        wide = torch.cat([torch.where(part, factors[rows], 0.0), torch.diag_embed((~seen[rows]).to(factor))], dim=-1)
        triangles = torch.linalg.qr(wide.mT).R.mT
        factor, residual = factors.index_copy(0, rows, triangles).reshape(*shape, shape[-1]), residual.expand(shape)
    return _substitute(factor, residual), factor.diagonal(dim1=-2, dim2=-1).abs().log()


def _substitute(factor: Tensor, residual: Tensor) -> Tensor:
    """factor^-1 residual; of two coordinates written out, as a library's call takes longer than so small a solve."""
    if factor.shape[-1] != 2:
        return torch.linalg.solve_triangular(factor, residual.unsqueeze(-1), upper=False).squeeze(-1)
    first = residual[..., 0] / factor[..., 0, 0]
    return torch.stack([first, (residual[..., 1] - factor[..., 1, 0] * first) / factor[..., 1, 1]], -1)
