"""Factors and solutions with covariances of any rank, as differentiable torch functions.

A positive semidefinite matrix has a lower-triangular L with L L' = P in which a variable that the earlier ones
determine has a zero column. Put a one on the diagonal of P at every such variable and the matrix is definite, its
Cholesky factor has the same other columns: so the derivative is that of an ordinary Cholesky factor, and it is right
along every change of P that keeps the rank.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probseq.ops.kalman import semidefinite_root


def cholesky(cov: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Lower-triangular L with L L' == cov for semidefinite matrices, differentiable where the rank does not change."""
    found = _root(cov)
    if not (cov.requires_grad and torch.is_grad_enabled()):
        return found
    unit, dropped = _units(cov), _dropped(found)
    return unit.unsqueeze(-1) * _filled_factor(cov, unit, dropped) * (1 - dropped).unsqueeze(-2)


def solve(cov: Float[Tensor, "*batch n n"], right: Float[Tensor, "*batch n k"]) -> Float[Tensor, "*batch n k"]:
    """x with cov x == right, for a semidefinite cov whose range holds the columns of `right`."""
    unit, dropped = _units(cov), _dropped(_root(cov))
    kept = (1 - dropped).unsqueeze(-1)
    masked = kept * cov * kept.mT
    white = kept * right / unit.unsqueeze(-1)
    return kept * torch.cholesky_solve(white, _filled_factor(masked, unit, dropped)) / unit.unsqueeze(-1)


def _root(cov: Tensor) -> Tensor:
    flat = cov.detach().reshape(-1, *cov.shape[-2:]).contiguous()
    return semidefinite_root(flat).reshape(cov.shape)


def _units(cov: Tensor) -> Tensor:
    variance = cov.detach().diagonal(dim1=-2, dim2=-1)
    return torch.where(variance > 0, variance, 1.0).sqrt()


def _dropped(root: Tensor) -> Tensor:
    return (root.diagonal(dim1=-2, dim2=-1) == 0).to(root.dtype)


def _filled_factor(cov: Tensor, unit: Tensor, dropped: Tensor) -> Tensor:
    """The Cholesky factor of cov in units of its standard deviations, with a one where a variable was dropped."""
    return torch.linalg.cholesky(cov / unit.unsqueeze(-1) / unit.unsqueeze(-2) + torch.diag_embed(dropped))
