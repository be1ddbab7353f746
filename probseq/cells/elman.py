"""The simple recurrent network of Elman (1990): one layer of units that reads its own last activities.

    h_t = f(W x_t + U h_{t-1} + b)

| symbol | shape            | meaning                                        |
|--------|------------------|------------------------------------------------|
| x_t    | (*batch, input)  | the input                                      |
| h_t    | (*batch, H)      | activities, the whole state                    |
| f      |                  | tanh, max(0, .) ("relu") or 1 / (1 + exp(-.))  |

The rectified net has no bound: recurrent weights of norm above one can make its activities grow without limit.

Elman, J. L. (1990). Finding structure in time. Cognitive Science 14, 179-211.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from probseq.cells.base import Cell

Nonlinearity = Literal["tanh", "relu", "logistic"]

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "logistic": torch.sigmoid,
}


class Elman(Cell):
    """h_t = f(W x_t + U h_{t-1} + b) with f one of tanh, relu, logistic."""

    def __init__(
        self,
        hidden_size: int,
        nonlinearity: Nonlinearity = "tanh",
        *,
        input_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        if nonlinearity not in FUNCTIONS:
            raise ValueError(f"nonlinearity must be one of {', '.join(FUNCTIONS)}, got {nonlinearity!r}")
        super().__init__(
            hidden_size, gates=1, bias_start=(0.0,), state_parts=1, input_size=input_size, dtype=dtype, seed=seed
        )
        self.nonlinearity: Nonlinearity = nonlinearity

    def sizes(self) -> dict[str, Any]:
        return {**super().sizes(), "nonlinearity": self.nonlinearity}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, nonlinearity={self.nonlinearity}"

    def _advance(self, projected: Tensor, state: Tensor) -> Tensor:
        return FUNCTIONS[self.nonlinearity](self._recur(projected, state))

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        if self.nonlinearity == "logistic":  # torch has no kernel; this loop costs less than its tanh kernel
            return self._loop(inputs, state)
        run = torch.rnn_tanh if self.nonlinearity == "tanh" else torch.rnn_relu
        start = state.unsqueeze(0).contiguous()
        return run(inputs, start, self._torch_weights(), True, 1, 0.0, self.training, False, True)[0]
