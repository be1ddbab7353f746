"""Every compiled function under every way of differentiation: reverse mode once, everything else refused aloud."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jvp, vjp, vmap

from probseq.ops import gaussian, hmm, kalman, modes


def draws(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


ONE = torch.eye(2, dtype=torch.float64)
START, TRANSITION = draws(1, 3).log_softmax(-1), draws(1, 1, 3, 3).log_softmax(-1)
SYSTEM = kalman.LinearGaussianSystem(draws(2), ONE, 0.5 * ONE, ONE, draws(2), draws(1, 2), ONE[:1, :1])
MEANS, WHITENER = draws(3, 2), ONE.expand(3, 2, 2)
LENGTHS, UNIFORMS, NORMALS = torch.tensor([5]), torch.full((1, 1, 5), 0.5, dtype=torch.float64), draws(1, 1, 5, 3)


def chain(table: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return START, TRANSITION, table, LENGTHS


def linear(y: Tensor) -> tuple[kalman.LinearGaussianSystem, Tensor, None, Tensor]:
    return SYSTEM, y, None, LENGTHS


Function = Callable[[Tensor], Tensor]
VALUES: dict[str, tuple[Function, Tensor]] = {
    "hmm": (lambda table: hmm.log_prob(*chain(table)).sum(), draws(1, 5, 3)),
    "kalman": (lambda y: kalman.log_prob(*linear(y)).sum(), draws(1, 5, 1)),
    "gaussian": (lambda rows: gaussian.log_prob(rows, MEANS, WHITENER).sum(), draws(4, 2)),
}
WITHOUT_DERIVATIVE: dict[str, tuple[Function, Tensor]] = {
    "hmm filter": (lambda table: hmm.filter(*chain(table)).log_prob, draws(1, 5, 3)),
    "hmm posterior": (lambda table: hmm.posterior(*chain(table)).log_gamma, draws(1, 5, 3)),
    "hmm viterbi": (lambda table: hmm.viterbi(*chain(table)).score, draws(1, 5, 3)),
    "hmm paths": (lambda table: hmm.sample_paths(*chain(table), UNIFORMS).double(), draws(1, 5, 3)),
    "kalman filter": (lambda y: kalman.filter(*linear(y)).log_prob, draws(1, 5, 1)),
    "kalman smooth": (lambda y: kalman.smooth(*linear(y)).mean, draws(1, 5, 1)),
    "kalman paths": (lambda y: kalman.sample_paths(*linear(y), NORMALS), draws(1, 5, 1)),
}
every_value = pytest.mark.parametrize("name", VALUES)
every_function = pytest.mark.parametrize("name", [*VALUES, *WITHOUT_DERIVATIVE])


def gradient(function: Function, x: Tensor, create_graph: bool = False) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x, create_graph=create_graph)[0]


@every_value
def test_functional_gradient_is_the_gradient(name: str) -> None:
    function, x = VALUES[name]
    expected = gradient(function, x)
    torch.testing.assert_close(grad(function)(x), expected, rtol=0, atol=0)
    value, pull_back = vjp(function, x)
    torch.testing.assert_close(value, function(x), rtol=1e-14, atol=0)
    torch.testing.assert_close(pull_back(torch.ones_like(value))[0], expected, rtol=0, atol=0)


@every_value
def test_gradient_inside_another_gradient(name: str) -> None:
    """d/dx d/dw (w f(x)) at w = 1 is f'(x): the inner level does not watch the kernel, the outer one does."""
    function, x = VALUES[name]
    one = torch.ones((), dtype=torch.float64)
    mixed = grad(lambda z: grad(lambda weight: weight * function(z))(one))(x)
    torch.testing.assert_close(mixed, gradient(function, x), rtol=0, atol=0)


@every_value
def test_second_derivatives_raise(name: str) -> None:
    function, x = VALUES[name]
    with pytest.raises(NotImplementedError, match="second derivatives"):
        gradient(function, x, create_graph=True).square().sum().backward()
    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad(lambda z: grad(function)(z).square().sum())(x)
    with pytest.raises(NotImplementedError, match=r"forward-mode|second derivatives"):
        jvp(grad(function), (x,), (x,))


@every_function
def test_forward_mode_raises_where_a_tangent_comes_in_and_only_there(name: str) -> None:
    function, x = (VALUES | WITHOUT_DERIVATIVE)[name]
    expected = function(x)
    with forward_ad.dual_level():
        torch.testing.assert_close(function(x), expected)
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            function(dual)
        with torch.no_grad(), pytest.raises(NotImplementedError, match="forward-mode"):
            function(dual)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        jvp(function, (x,), (x,))


@every_value
def test_forward_mode_of_the_adjoint_raises(name: str) -> None:
    """A tangent that enters with the incoming gradient alone."""
    function, x = VALUES[name]
    x = x.clone().requires_grad_()
    value = function(x)
    with forward_ad.dual_level():
        incoming = forward_ad.make_dual(torch.ones_like(value), torch.ones_like(value))
        with pytest.raises(NotImplementedError, match="second derivatives"):
            torch.autograd.grad(value, x, incoming)


@every_value
def test_mapped(name: str) -> None:
    """vmap sees the registered operator, as compilation does (see the `opcheck` tests)."""
    function, x = VALUES[name]
    expected = torch.stack([function(x), function(2 * x)])
    torch.testing.assert_close(vmap(function)(torch.stack([x, 2 * x])), expected)


def test_untracked() -> None:
    plain, tracked = draws(2), draws(2).requires_grad_()
    assert modes.untracked(plain, torch.nn.Parameter(plain, requires_grad=False))
    assert not modes.untracked(plain, tracked)
    with torch.no_grad():
        assert modes.untracked(plain, tracked)
    with forward_ad.dual_level():
        assert not modes.untracked(plain)
    assert not modes.untracked(plain, plain.as_subclass(type("Other", (Tensor,), {})))
    seen: list[bool] = []
    vmap(lambda row: (row, seen.append(modes.untracked(row)))[0])(draws(2, 2))
    assert seen == [False]
