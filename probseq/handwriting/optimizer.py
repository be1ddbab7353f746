"""The RMSprop of Graves: gradients over their running standard deviation, with momentum.

    n = a n + (1 - a) g^2;    m = a m + (1 - a) g
    v = b v - rate g / sqrt(n - m^2 + c);    x = x + v          # a = 0.95, b = 0.9, rate = c = 0.0001

torch.optim.RMSprop with `centered=True` is nearly this; it adds its constant outside of the square root, where 1e-4 is
a hundredth of what it is here.

Graves, A. (2013). Generating sequences with recurrent neural networks. arXiv:1308.0850, equations (38)-(41).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class GravesRMSprop(torch.optim.Optimizer):
    """For `fit(optimizer=GravesRMSprop, learning_rate=1e-4)`."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-4,
        decay: float = 0.95,
        momentum: float = 0.9,
        constant: float = 1e-4,
    ) -> None:
        for name, value in (("decay", decay), ("momentum", momentum)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value!r}")
        if not constant > 0:
            raise ValueError(f"constant must be positive, got {constant!r}")
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": momentum, "constant": constant})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for x in group["params"]:
                if x.grad is not None:
                    _move(x, x.grad, self._memory(x), group)
        return loss

    def _memory(self, x: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[x]
        for name in ("square", "mean", "velocity"):
            if name not in state:
                state[name] = torch.zeros_like(x)
        return state


def _move(x: Tensor, gradient: Tensor, memory: dict[str, Tensor], group: dict[str, Any]) -> None:
    square, mean, velocity = memory["square"], memory["mean"], memory["velocity"]
    square.mul_(group["decay"]).addcmul_(gradient, gradient, value=1 - group["decay"])
    mean.mul_(group["decay"]).add_(gradient, alpha=1 - group["decay"])
    size = square.addcmul(mean, mean, value=-1).clamp_(min=0).add_(group["constant"]).sqrt_()
    velocity.mul_(group["momentum"]).addcdiv_(gradient, size, value=-group["lr"])
    x.add_(velocity)
