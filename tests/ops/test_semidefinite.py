"""Factors and solutions with covariances of any rank."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from probseq.ops import semidefinite

SCALES = [1e-8, 1.0, 1e8]


def root_of_rank(rank: int, n: int = 4, batch: int = 3) -> Tensor:
    return torch.randn(batch, n, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("rank", [0, 1, 2, 4])
def test_factor_and_solution(rank, scale):
    unit = scale * torch.logspace(-3, 3, 4, dtype=torch.float64).unsqueeze(-1)
    root = unit * root_of_rank(rank)
    cov = root @ root.mT
    tracked = semidefinite.cholesky(cov.clone().requires_grad_()).detach()
    for lower in (semidefinite.cholesky(cov), tracked):
        assert torch.equal(lower, lower.tril())
        torch.testing.assert_close(lower @ lower.mT / unit / unit.mT, cov / unit / unit.mT, rtol=1e-12, atol=1e-13)
    right = cov @ (torch.ones(4, 2, dtype=torch.float64) / unit)
    solution = semidefinite.solve(cov, right)
    torch.testing.assert_close(cov @ solution / unit, right / unit, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_derivative_along_changes_that_keep_the_rank(rank):
    root = root_of_rank(rank).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: semidefinite.cholesky(b @ b.mT), root)


def test_forward_mode_and_transforms_agree_with_reverse_mode():
    root = root_of_rank(2)
    cov, move = root @ root.mT, root @ root.mT * 0.3

    def total(matrix: Tensor) -> Tensor:
        return semidefinite.cholesky(matrix).pow(3).sum()

    gradient = torch.autograd.grad(total(tracked := cov.clone().requires_grad_()), tracked)[0]
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(total(forward_ad.make_dual(cov, move))).tangent
    torch.testing.assert_close(tangent, (gradient * move).sum(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.func.grad(total)(cov), gradient, rtol=1e-12, atol=1e-12)


def test_second_derivatives():
    root = root_of_rank(4).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda b: semidefinite.cholesky(b @ b.mT), root)
