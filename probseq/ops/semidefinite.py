"""Factors and solutions with covariances of any rank, as differentiable torch functions.

A positive semidefinite matrix has a lower-triangular L with L L' = P in which a variable that the earlier ones
determine has a zero column. Put a one on the diagonal of P at every such variable and the matrix is definite, and its
Cholesky factor has the same other columns: so the derivative is that of an ordinary Cholesky factor F,

    dL = F half(F^-1 dP F^-T),   half: the lower triangle with half of the diagonal,

without the columns that are zero. It is right along every change of P that keeps the rank.

Reference: Murray (2016), Differentiation of the Cholesky decomposition, arXiv:1602.07527, sec. 3.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from probseq.ops.kalman import semidefinite_root
from probseq.ops.modes import untracked


def cholesky(cov: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Lower-triangular L with L L' == cov for semidefinite matrices, differentiable where the rank does not change."""
    return _root(cov) if untracked(cov) else cast(Tensor, _Cholesky.apply(cov))


def solve(cov: Float[Tensor, "*batch n n"], right: Float[Tensor, "*batch n k"]) -> Float[Tensor, "*batch n k"]:
    """x with cov x == right, for a semidefinite cov whose range holds the columns of `right`."""
    factor = cholesky(cov)
    kept = 1 - _empty(factor).unsqueeze(-1)
    return kept * torch.cholesky_solve(kept * right, kept * factor + torch.diag_embed(_empty(factor)))


def _root(cov: Tensor) -> Tensor:
    return semidefinite_root(cov.detach().reshape(-1, *cov.shape[-2:])).reshape(cov.shape)


def _empty(factor: Tensor) -> Tensor:
    """1 at every variable whose column is zero, (*batch, n)."""
    return (factor.diagonal(dim1=-2, dim2=-1) == 0).to(factor.dtype)


class _Cholesky(torch.autograd.Function):
    @staticmethod
    def forward(cov: Tensor) -> Tensor:
        return _root(cov)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        filled, kept = _filled(*ctx.saved_tensors)
        inner = _half(filled.mT @ (gradients[0] * kept).tril())
        left = torch.linalg.solve_triangular(filled.mT, inner + inner.mT, upper=True)
        return torch.linalg.solve_triangular(filled.mT, left.mT, upper=True) / 2

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        filled, kept = _filled(*ctx.saved_tensors)
        left = torch.linalg.solve_triangular(filled, (tangents[0] + tangents[0].mT) / 2, upper=False)
        return filled @ _half(torch.linalg.solve_triangular(filled, left.mT, upper=False)) * kept


def _filled(factor: Tensor) -> tuple[Tensor, Tensor]:
    """The factor with a one on the diagonal of every zero column, and 1 at the other columns."""
    empty = _empty(factor)
    return factor + torch.diag_embed(empty), (1 - empty).unsqueeze(-2)


def _half(matrix: Tensor) -> Tensor:
    return matrix.tril() - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1)) / 2
