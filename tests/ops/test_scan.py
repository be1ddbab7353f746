"""Scans against the plain loop, every length from 0 to 19, real and complex, with derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from probseq.ops.scan import associative_scan, linear_scan

KINDS = [torch.float64, torch.complex128]


def random_case(steps: int, kind: torch.dtype = torch.float64, batch: int = 2, size: int = 3) -> tuple[Tensor, ...]:
    draws = torch.Generator().manual_seed(steps)
    shapes = [(batch, steps, size), (batch, steps, size), (batch, size)]
    return tuple(torch.randn(shape, generator=draws, dtype=kind).requires_grad_() for shape in shapes)


def looped(decay: Tensor, drive: Tensor, start: Tensor) -> Tensor:
    states = [start]
    for t in range(decay.shape[1]):
        states.append(decay[:, t] * states[-1] + drive[:, t])
    return torch.stack(states, 1)[:, 1:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", range(20))
@pytest.mark.parametrize("method", ["serial", "associative", None])
def test_linear_scan_equals_the_loop_with_its_gradients(method, steps, kind):
    case = random_case(steps, kind)
    expected, found = looped(*case), linear_scan(*case, method)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    if steps:
        weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=kind)

        def gradients(out: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad((out * weights).real.sum(), case)

        for one, other in zip(gradients(found), gradients(expected), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("steps", range(1, 20))
def test_prefixes_of_matrix_products_keep_their_order(steps):
    matrices = torch.randn(2, steps, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (found,) = associative_scan(lambda a, b: (b[0] @ a[0],), (matrices,), dim=1)
    for t in range(steps):
        product = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
        for k in range(t + 1):
            product = matrices[:, k] @ product
        torch.testing.assert_close(found[:, t], product, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind):
    case = random_case(5, kind)
    assert torch.autograd.gradcheck(linear_scan, case)
    assert torch.autograd.gradcheck(lambda *x: linear_scan(*x, "associative"), case)
    assert torch.autograd.gradgradcheck(lambda *x: linear_scan(*x, "associative"), case)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.gradgradcheck(linear_scan, case)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: linear_scan(x, *case[1:]), (case[0].detach(),), (torch.ones_like(case[0]),))


@pytest.mark.parametrize("kind", [*KINDS, torch.float32])
def test_opcheck(kind):
    case = random_case(4, kind)
    torch.library.opcheck(torch.ops.probseq.linear_scan.default, case)
    fixed = tuple(tensor.detach() for tensor in case)
    torch.library.opcheck(torch.ops.probseq.linear_scan_backward.default, (torch.randn(2, 4, 3, dtype=kind), *fixed))


def test_views_are_read_rightly():
    decay, drive, start = (tensor.detach() for tensor in random_case(6, torch.complex128))
    expected = looped(decay.conj(), drive.flip(1), start)
    torch.testing.assert_close(linear_scan(decay.conj(), drive.flip(1), start), expected)
    constant = decay[0, 0].expand_as(drive)
    torch.testing.assert_close(linear_scan(constant, drive, start), looped(constant, drive, start))
