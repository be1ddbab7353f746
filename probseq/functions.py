"""Functions of a state that files can hold: what a nonlinear model is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class StateFunction(nn.Module):
    """A transition or an emission that can be saved: a module that says by `sizes` how to build it again.

    class Pendulum(StateFunction):
        def __init__(self, step: float = 0.1) -> None:
            super().__init__()
            self.step = step
            self.gravity = nn.Parameter(torch.tensor(9.81, dtype=torch.float64))

        def sizes(self):
            return {"step": self.step}

        def forward(self, z):
            angle, velocity = z.unbind(-1)
            return torch.stack([angle + self.step * velocity, velocity - self.step * self.gravity * angle.sin()], -1)

    Parameters are learned by `fit` and stored with the model. Everything in `sizes` is a number, a string or a list.
    """

    def sizes(self) -> dict[str, Any]:
        """The constructor's arguments that rebuild this function up to its parameter values."""
        return {}


def checked_function(name: str, function: Any) -> Callable[..., Any]:
    """A callable whose parameters, if it has any, are float64; TypeError naming the argument otherwise."""
    if not callable(function):
        raise TypeError(f"{name} must be a function of the state, got {function!r}")
    if isinstance(function, nn.Module):
        wrong = [f"{path} {p.dtype}" for path, p in function.named_parameters() if p.dtype != torch.float64]
        if wrong:
            raise TypeError(f"{name} must have float64 parameters, got {wrong[0]}; call .double() on it")
    return function
