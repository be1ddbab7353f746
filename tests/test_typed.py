"""The test run checks types, and shapes where they are named: that it does."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import probseq  # noqa: F401  what there is to check
from probseq.emissions import Gaussian
from probseq.ops import semidefinite
from probseq.ops.linearise import ExtendedKalman
from tests import typed

if TYPE_CHECKING:
    from nowhere import Unknown

SQUARE = torch.eye(2, dtype=torch.float64)


def members(owner: Any) -> list[Any]:
    """Functions written in a module or a class of it."""
    found = []
    for part in vars(owner).values():
        part = part.__func__ if isinstance(part, (staticmethod, classmethod)) else part
        if inspect.isfunction(part) and part.__module__ == getattr(owner, "__module__", owner.__name__):
            found.append(part)
        elif inspect.isclass(part) and inspect.ismodule(owner) and part.__module__ == owner.__name__:
            found.extend(members(part))
    return found


def test_every_function_of_the_packages_is_wrapped() -> None:
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(typed.PACKAGES)]
    functions = [f for module in modules for f in members(module) if set(f.__annotations__.values()) - {Any}]
    assert len(functions) > 800
    assert not [function for function in functions if not hasattr(function, "__wrapped__")]


def test_a_wrong_type_and_a_wrong_shape_are_refused() -> None:
    with pytest.raises(TypeCheckError, match="covariance"):
        Gaussian(means=[[0.0]], covs=[[[1.0]]], covariance="round")  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError, match="iterations"):
        ExtendedKalman(iterations="two")  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError, match="right"):
        semidefinite.solve(SQUARE, torch.zeros(3, 1, dtype=torch.float64))
    semidefinite.solve(SQUARE, torch.zeros(2, 1, dtype=torch.float64))


def test_results_are_checked_and_sizes_belong_to_one_call() -> None:
    def first(rows: Float[Tensor, "n m"], keep: bool) -> Float[Tensor, " m"]:
        return rows[0] if keep else rows

    def plain(rows: Tensor, other: Unknown) -> Tensor:
        return other

    first.__annotations__ |= {"rows": Float[Tensor, "n m"], "return": Float[Tensor, " m"]}
    function = typed.checked(first)
    assert function(torch.zeros(2, 3), True).shape == (3,)
    assert function(torch.zeros(3, 2), True).shape == (2,)
    with pytest.raises(TypeCheckError, match="return"):
        function(torch.zeros(2, 3), False)
    function = typed.checked(plain)
    assert function(SQUARE, SQUARE) is SQUARE
    for arguments in ((SQUARE, 1), ([], SQUARE)):
        with pytest.raises(TypeCheckError, match="violates type hint"):
            function(*arguments)


def test_dataclasses_and_methods_of_classes_are_checked() -> None:
    @dataclass
    class Pair:
        first: int

        @staticmethod
        def half(number: float) -> float:
            return number / 2

    Pair.half = typed.checked(Pair.__dict__["half"])  # type: ignore[method-assign]
    assert typed.checked(Pair)(3).first == 3
    assert Pair.half(3.0) == 1.5
    for call in (lambda: Pair("3"), lambda: Pair.half("3")):  # type: ignore[arg-type]
        with pytest.raises(TypeCheckError):
            call()
