"""The simple recurrent network of Elman (1990): one layer of units that reads its own last activities.

    h_t = f(W x_t + U h_{t-1} + b)

| symbol | shape            | meaning                                        |
|--------|------------------|------------------------------------------------|
| x_t    | (*batch, input)  | the input                                      |
| h_t    | (*batch, H)      | activities, the whole state                    |
| f      |                  | tanh, max(0, .) ("relu"), 1 / (1 + exp(-.))    |
|        |                  | ("logistic") or nothing ("linear")             |

The rectified net has no bound: recurrent weights of norm above one can make its activities grow without limit.
Started at U = 1 ("identity") it begins as a sum of its inputs, whose gradient neither dies nor grows: the IRNN. The
linear net is what a Kalman filter becomes whose gain has settled (`RNN.from_lds`).

`initialization=EchoStateInit(spectral_radius=1.1, fan_in=15, input_scale=0.001)` starts it as a reservoir, see
`probseq.cells.initialization`.

Elman, J. L. (1990). Finding structure in time. Cognitive Science 14, 179-211.
Le, Q., Jaitly, N. & Hinton, G. (2015). A simple way to initialize recurrent networks of rectified linear units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probseq.cells.gated import GatedCell
from probseq.cells.initialization import Initialization
from probseq.checks import whole_number

Activation = Literal["tanh", "relu", "logistic", "linear"]
RecurrentStart = Literal["orthogonal", "identity"]

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "logistic": torch.sigmoid,
    "linear": lambda z: z,
}


def inverse_slopes(activation: Activation, values: Tensor) -> Tensor:
    """1 / f'(z) of units at f(z), 0 where they are saturated; 1 for rectified and linear units."""
    if activation in ("relu", "linear"):
        return torch.ones_like(values)
    slope = 1 - values * values if activation == "tanh" else values * (1 - values)
    return torch.where(slope > 0, 1 / slope, 0.0)


class Elman(GatedCell):
    """h_t = f(W x_t + U h_{t-1} + b), f tanh, relu, logistic or linear; U starts as a rotation or as the identity."""

    def __init__(
        self,
        hidden_size: int,
        activation: Activation = "tanh",
        *,
        recurrent_start: RecurrentStart = "orthogonal",
        initialization: Initialization | None = None,
        layer_norm: bool = False,
        input_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        if activation not in FUNCTIONS:
            raise ValueError(f"activation must be one of {', '.join(FUNCTIONS)}, got {activation!r}")
        if recurrent_start not in ("orthogonal", "identity"):
            raise ValueError(f'recurrent_start must be "orthogonal" or "identity", got {recurrent_start!r}')
        if initialization is not None and not isinstance(initialization, Initialization):
            raise TypeError(f"initialization must be one such as probseq.cells.EchoStateInit(), got {initialization!r}")
        hidden_size = whole_number("hidden_size", hidden_size)
        self.initialization = initialization
        self.activation: Activation = activation
        self.recurrent_start: RecurrentStart = recurrent_start
        super().__init__(
            hidden_size,
            gates=1,
            bias_start=(0.0,),
            state_size=hidden_size,
            layer_norm=layer_norm,
            input_size=input_size,
            dtype=dtype,
            seed=seed,
        )

    def sizes(self) -> dict[str, Any]:
        names = ("activation", "recurrent_start", "initialization")
        return {**super().sizes(), **{name: getattr(self, name) for name in names}}

    def _draw(self, draws: torch.Generator) -> None:
        super()._draw(draws)
        if self.initialization is not None:
            self.input_weights.copy_(self.initialization.inputs(self.input_weights.shape, draws))
            self.recurrent_weights.copy_(self.initialization.recurrent(self.hidden_size, draws))

    def _reading(self) -> list[Tensor]:
        return super()._reading() if self.initialization is None else []

    def _recurrent_start(self, draws: torch.Generator) -> Tensor:
        if self.recurrent_start == "identity":
            return torch.eye(self.hidden_size, dtype=torch.float64)
        return super()._recurrent_start(draws)

    def state_metric(self, states: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch state"]:
        """1 / f', as the base class says; 1 for rectified and linear units."""
        return inverse_slopes(self.activation, states)

    def _advance(self, projected: Tensor, state: Tensor) -> Tensor:
        return FUNCTIONS[self.activation](self._recur(projected, state))

    def _compiled(self, inputs: Tensor, state: Tensor) -> Tensor:
        if self.activation in ("logistic", "linear"):  # torch has no kernels; this loop costs less than its tanh kernel
            return self._unroll(inputs, state)
        run = torch.rnn_tanh if self.activation == "tanh" else torch.rnn_relu
        start = state.unsqueeze(0).contiguous()
        return run(inputs, start, self._torch_weights(), True, 1, 0.0, self.training, False, True)[0]
