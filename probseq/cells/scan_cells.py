"""Cells whose state moves linearly, with factors that do not depend on it: whole sequences at once, by a scan.

    MinGRU     z_t = sigma(W_z x_t + b_z)
               h_t = (1 - z_t) h_{t-1} + z_t (W_h x_t + b_h)

    MinLSTM    f_t, i_t = sigma(W_f x_t + b_f), sigma(W_i x_t + b_i)
               h_t = f_t / (f_t + i_t) h_{t-1} + i_t / (f_t + i_t) (W_h x_t + b_h)

    LRU        s_t = lambda s_{t-1} + gamma B x_t                      # N complex numbers
               h_t = gelu(Re(C s_t) + D x_t + b)                       # what the rest of the network sees

| symbol           | shape            | meaning                                                                   |
|------------------|------------------|---------------------------------------------------------------------------|
| W, b             | (blocks H, .)    | `input_weights`, `bias`, blocks in the order z, h or f, i, h              |
| lambda           | (N,)             | exp(-exp(`log_decay`) + i exp(`log_phase`)): inside the unit disc always  |
| gamma            | (N,)             | exp(`log_gain`), sqrt(1 - |lambda|^2) at the start, so that |s| stays put |
| B, C, D          | complex, as pairs| `input_matrix` (2, N, input), `output_matrix` (2, H, N), `input_weights`  |

Without a nonlinearity in the recurrence a layer cannot do what depends on order in a nonlinear way; stacks can.
The state of an LRU is (h_t, Re s_t, Im s_t). lambda starts uniform on the ring `least_modulus` .. `greatest_modulus`.
Runs over time by `probseq.ops.scan.linear_scan`.

Feng, L. et al. (2024). Were RNNs all we needed? arXiv:2410.01201, sections 3.1 and 3.2.
Orvieto, A. et al. (2023). Resurrecting recurrent neural networks for long sequences. arXiv:2303.06349, section 3.
"""

from __future__ import annotations

import abc
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from probseq.cells.base import Cell, uniform
from probseq.checks import whole_number
from probseq.ops.scan import linear_scan


class _Convex(Cell, abc.ABC):
    """h_t = keep_t h_{t-1} + (1 - keep_t) new_t. To write: `_mix`."""

    input_weights: Tensor
    bias: Tensor

    def __init__(
        self,
        hidden_size: int,
        *,
        blocks: int,
        input_size: int | None,
        dtype: torch.dtype,
        seed: int | None,
    ) -> None:
        hidden_size = whole_number("hidden_size", hidden_size)
        super().__init__(hidden_size, state_size=hidden_size, dtype=dtype)
        self._blocks = blocks
        self._room("input_weights", "bias")
        if input_size is not None:
            self.bind(input_size, generator_seed=seed)

    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        super()._build(input_size, dtype)
        rows = self._blocks * self.hidden_size
        self.input_weights, self.bias = self._zeros(rows, input_size, dtype=dtype), self._zeros(rows, dtype=dtype)

    def _draw(self, draws: torch.Generator) -> None:
        super()._draw(draws)
        bound = 1 / math.sqrt(self.input_weights.shape[1])
        self.input_weights.copy_(uniform(self.input_weights.shape, bound, draws))
        self.bias.zero_()

    def _reading(self) -> list[Tensor]:
        return [self.input_weights]

    @abc.abstractmethod
    def _mix(self, blocks: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """keep and (1 - keep) * new, from W x + b by block."""

    def _read(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        self._require_bound()
        return self._mix(F.linear(inputs, self.input_weights, self.bias).chunk(self._blocks, -1))

    def step(
        self, inputs: Float[Tensor, "*batch input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """The state after one more input, (*batch, hidden_size)."""
        keep, new = self._read(inputs)
        return keep * state + new

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        return linear_scan(*self._read(inputs), state)

    def _whole(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self._fused(inputs, state)

    def _unroll(self, inputs: Tensor, state: Tensor) -> Tensor:
        return linear_scan(*self._read(inputs), state, "associative")


class MinGRU(_Convex):
    """The GRU without its recurrent weights; see the module's equations."""

    def __init__(
        self,
        hidden_size: int,
        *,
        input_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__(hidden_size, blocks=2, input_size=input_size, dtype=dtype, seed=seed)

    def _mix(self, blocks: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        update, new = blocks
        return torch.sigmoid(-update), torch.sigmoid(update) * new


class MinLSTM(_Convex):
    """The LSTM without its recurrent weights, gates brought to sum to one; see the module's equations."""

    def __init__(
        self,
        hidden_size: int,
        *,
        input_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__(hidden_size, blocks=3, input_size=input_size, dtype=dtype, seed=seed)

    def _mix(self, blocks: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        forget, write, new = blocks
        odds = F.logsigmoid(forget) - F.logsigmoid(write)  # log f / i, also where both are closed
        return torch.sigmoid(odds), torch.sigmoid(-odds) * new


class LRU(Cell):
    """A linear recurrent unit: complex modes that turn and fade; see the module's equations."""

    log_decay: Tensor
    log_phase: Tensor
    log_gain: Tensor
    input_matrix: Tensor
    output_matrix: Tensor
    input_weights: Tensor
    bias: Tensor

    def __init__(
        self,
        hidden_size: int,
        n_modes: int | None = None,
        *,
        least_modulus: float = 0.4,
        greatest_modulus: float = 0.99,
        input_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        hidden_size = whole_number("hidden_size", hidden_size)
        self.n_modes = hidden_size if n_modes is None else whole_number("n_modes", n_modes)
        if not 0 < least_modulus <= greatest_modulus < 1:
            raise ValueError(
                "least_modulus and greatest_modulus must be 0 < least <= greatest < 1, "
                f"got {least_modulus!r} and {greatest_modulus!r}"
            )
        self.least_modulus, self.greatest_modulus = float(least_modulus), float(greatest_modulus)
        super().__init__(hidden_size, state_size=hidden_size + 2 * self.n_modes, dtype=dtype)
        self._room("log_decay", "log_phase", "log_gain", "input_matrix", "output_matrix", "input_weights", "bias")
        if input_size is not None:
            self.bind(input_size, generator_seed=seed)

    def sizes(self) -> dict[str, Any]:
        names = ("n_modes", "least_modulus", "greatest_modulus")
        return {**super().sizes(), **{name: getattr(self, name) for name in names}}

    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        super()._build(input_size, dtype)
        n, hidden = self.n_modes, self.hidden_size
        self.log_decay, self.log_phase, self.log_gain = (self._zeros(n, dtype=dtype) for _ in range(3))
        self.input_matrix = self._zeros(2, n, input_size, dtype=dtype)
        self.output_matrix = self._zeros(2, hidden, n, dtype=dtype)
        self.input_weights, self.bias = self._zeros(hidden, input_size, dtype=dtype), self._zeros(hidden, dtype=dtype)

    def _draw(self, draws: torch.Generator) -> None:
        super()._draw(draws)
        n, width = self.n_modes, self.input_weights.shape[1]
        area = torch.rand(n, generator=draws, dtype=torch.float64)
        square = self.least_modulus**2 + area * (self.greatest_modulus**2 - self.least_modulus**2)
        self.log_decay.copy_((-0.5 * square.log()).log())
        turn = 1.0 - torch.rand(n, generator=draws, dtype=torch.float64)  # in (0, 1]
        self.log_phase.copy_((2 * math.pi * turn).log())
        self.log_gain.copy_(0.5 * (1 - square).log())
        for matrix, fan in ((self.input_matrix, 2 * width), (self.output_matrix, n), (self.input_weights, width)):
            normal = torch.randn(matrix.shape, generator=draws, dtype=torch.float64)
            matrix.copy_(normal / math.sqrt(fan))
        self.bias.zero_()

    def _reading(self) -> list[Tensor]:
        return [self.input_matrix, self.input_weights]

    @property
    def factors(self) -> Tensor:
        """lambda (n_modes,), complex."""
        self._require_bound()
        return torch.exp(torch.complex(-self.log_decay.exp(), self.log_phase.exp()))

    def _driven(self, inputs: Tensor) -> Tensor:
        """gamma B x, complex."""
        self._require_bound()
        rows = self.log_gain.exp().unsqueeze(-1) * self.input_matrix
        return torch.complex(F.linear(inputs, rows[0]), F.linear(inputs, rows[1]))

    def _shown(self, modes: Tensor, inputs: Tensor) -> Tensor:
        """gelu(Re(C s) + D x + b)."""
        real = F.linear(modes.real, self.output_matrix[0]) - F.linear(modes.imag, self.output_matrix[1])
        return F.gelu(real + F.linear(inputs, self.input_weights, self.bias))

    def _modes(self, state: Tensor) -> Tensor:
        return torch.complex(*state[..., self.hidden_size :].chunk(2, -1))

    def step(
        self, inputs: Float[Tensor, "*batch input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """The state after one more input, (*batch, hidden_size + 2 n_modes)."""
        return self._joined(self.factors * self._modes(state) + self._driven(inputs), inputs)

    def _run(self, inputs: Tensor, state: Tensor, method: Literal["associative"] | None = None) -> Tensor:
        driven = self._driven(inputs)
        return linear_scan(self.factors.expand_as(driven), driven, self._modes(state), method)

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self._shown(self._run(inputs, state), inputs)

    def _whole(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self._joined(self._run(inputs, state), inputs)

    def _unroll(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self._joined(self._run(inputs, state, "associative"), inputs)

    def _joined(self, modes: Tensor, inputs: Tensor) -> Tensor:
        """The state: what is shown, and the modes."""
        return torch.cat([self._shown(modes, inputs), modes.real, modes.imag], -1)
