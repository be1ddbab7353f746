"""A reservoir: a random recurrent network that is not trained; only what reads it is (Jaeger 2001).

    h_t = (1 - a) h_{t-1} + a tanh(W x_t + U h_{t-1} + b)

| symbol           | shape       | meaning                                                                         |
|------------------|-------------|---------------------------------------------------------------------------------|
| U                | (H, H)      | normal where not zero, scaled so that its largest eigenvalue has modulus        |
|                  |             | `spectral_radius`: below one, what was read fades (the echo state property)     |
| W, b             | (H, .), (H,)| uniform on (-`input_scaling`, `input_scaling`)                                  |
| a                |             | `leak`, in (0, 1]; small for slow units                                         |

`sparsity` is the share of entries of U that are zero. Weights and start are buffers: a fit draws them, as it draws
every network's first weights, and learns the head alone.

Jaeger, H. (2001). The "echo state" approach to analysing and training recurrent neural networks. GMD report 148.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from probseq.cells.base import Cell, uniform
from probseq.checks import whole_number


class Reservoir(Cell):
    """Random, fixed, leaky tanh units; see the module's equation."""

    frozen = True
    input_weights: Tensor
    recurrent_weights: Tensor
    bias: Tensor

    def __init__(
        self,
        hidden_size: int,
        spectral_radius: float = 0.9,
        leak: float = 1.0,
        input_scaling: float = 1.0,
        sparsity: float = 0.0,
        *,
        input_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        hidden_size = whole_number("hidden_size", hidden_size)
        for name, value, legal, words in (
            ("spectral_radius", spectral_radius, 0 <= spectral_radius < float("inf"), "finite and not negative"),
            ("leak", leak, 0 < leak <= 1, "in (0, 1]"),
            ("input_scaling", input_scaling, 0 <= input_scaling < float("inf"), "finite and not negative"),
            ("sparsity", sparsity, 0 <= sparsity < 1, "in [0, 1)"),
        ):
            if not legal:
                raise ValueError(f"{name} must be {words}, got {value!r}")
        super().__init__(hidden_size, state_size=hidden_size, dtype=dtype)
        self.spectral_radius, self.leak = float(spectral_radius), float(leak)
        self.input_scaling, self.sparsity = float(input_scaling), float(sparsity)
        self._room("input_weights", "recurrent_weights", "bias")
        if input_size is not None:
            self.bind(input_size, generator_seed=seed)

    def sizes(self) -> dict[str, Any]:
        names = ("spectral_radius", "leak", "input_scaling", "sparsity")
        return {**super().sizes(), **{name: getattr(self, name) for name in names}}

    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        super()._build(input_size, dtype)
        self.input_weights = self._zeros(self.hidden_size, input_size, dtype=dtype)
        self.recurrent_weights = self._zeros(self.hidden_size, self.hidden_size, dtype=dtype)
        self.bias = self._zeros(self.hidden_size, dtype=dtype)

    def _draw(self, draws: torch.Generator) -> None:
        super()._draw(draws)
        self.input_weights.copy_(uniform(self.input_weights.shape, self.input_scaling, draws))
        self.bias.copy_(uniform(self.bias.shape, self.input_scaling, draws))
        self.recurrent_weights.copy_(self._scaled(draws))

    def _scaled(self, draws: torch.Generator) -> Tensor:
        """U: normal, with zeros, of the wanted spectral radius."""
        shape = self.recurrent_weights.shape
        weights = torch.randn(shape, generator=draws, dtype=torch.float64)
        weights *= torch.rand(shape, generator=draws, dtype=torch.float64) >= self.sparsity
        radius = float(torch.linalg.eigvals(weights).abs().max())
        if radius < 1e-8 * float(weights.norm()) or radius == 0:
            raise ValueError(
                f"sparsity {self.sparsity:g} leaves {self.hidden_size} units without a loop, so that no scale gives "
                f"the spectral radius {self.spectral_radius:g}: lower sparsity or raise hidden_size"
            )
        return weights * (self.spectral_radius / radius)

    def step(
        self, inputs: Float[Tensor, "*batch input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """The state after one more input, (*batch, hidden_size)."""
        self._require_bound()
        return self._advance(F.linear(inputs, self.input_weights, self.bias), state)

    def _advance(self, driven: Tensor, state: Tensor) -> Tensor:
        return torch.lerp(state, torch.tanh(driven + F.linear(state, self.recurrent_weights)), self.leak)

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        states: list[Tensor] = []
        for driven in F.linear(inputs, self.input_weights, self.bias).unbind(1):
            state = self._advance(driven, state)
            states.append(state)
        return torch.stack(states, dim=1)

    def _whole(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self._fused(inputs, state)
