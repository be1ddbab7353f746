"""What the Elman network, the GRU and the LSTM share: one layout of weights, a block of rows for each gate.

    a = W x_t + b + U h_{t-1}          # all gates at once; then each cell's own function of a and its state

| parameter           | shape                  | meaning                                                       |
|---------------------|------------------------|---------------------------------------------------------------|
| `input_weights`     | (blocks H, input_size) | W, from the input                                             |
| `recurrent_weights` | (blocks H, output)     | U, from what the cell showed at the step before               |
| `bias`              | (bias blocks, H) flat  | b, one per gate (torch's second, redundant one is left out)   |
| `initial_activity`  | (state_size,)          | s before the first step                                       |
| `input_gain`, `recurrent_gain` | (blocks H,) | with `layer_norm` only                                        |

Starts: U is orthogonal in each gate, so that neither activity nor gradient dies or explodes at once
(Saxe, McClelland & Ganguli 2014), or uniform like W where it is not square; W is uniform on (-1/sqrt(H), 1/sqrt(H)),
times what `scale_inputs` says of columns whose mean square is not 1; b is zero except where a cell says otherwise;
gains are 1.

A gate that keeps the share sigma(b) of a memory forgets it over 1 / (1 - sigma(b)) = 1 + exp(b) steps: two, where
b = 0. What lies further back has no gradient then, and training stays where it is as long as the rest says the mean.
With `memory_span=n` the units of a GRU or LSTM start with memories from 2 to n steps, evenly spread in logarithms, and
an input gate lets in what its memory forgets, 1 - sigma(b), so that a long memory is not filled with noise (the
"chrono initialization" of Tallec & Ollivier 2018, arXiv:1804.11188, section 3, without its random numbers).

With `layer_norm`, W x and U h are each brought to mean 0 and variance 1 over the units of a gate, then scaled by
gains (Ba, Kiros & Hinton 2016, arXiv:1607.06450, equations 15 to 31). Such cells run by the loop over steps.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from probseq.cells.base import Cell, uniform
from probseq.checks import whole_number


def keeping_biases(span: int, n_units: int) -> Tensor:
    """b (n_units,) with 1 + exp(b) from 2 to `span`, evenly spread in b; float64."""
    return torch.linspace(0.0, math.log(span - 1.0), n_units, dtype=torch.float64)


def checked_span(memory_span: int | None) -> int | None:
    """The argument of a cell, or a ValueError."""
    return None if memory_span is None else whole_number("memory_span", memory_span, least=2)


class GatedCell(Cell):
    """To write: `_advance`, one step from W x + b, and `_compiled`, many.  You get: the weights and their starts."""

    input_weights: Tensor
    recurrent_weights: Tensor
    bias: Tensor
    input_gain: Tensor | None
    recurrent_gain: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        *,
        gates: int,
        bias_start: Sequence[float],
        state_size: int,
        output_size: int | None = None,
        layer_norm: bool = False,
        input_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__(hidden_size, state_size=state_size, output_size=output_size, dtype=dtype)
        self.layer_norm = bool(layer_norm)
        self._gates = gates
        self._bias_start = tuple(bias_start)
        self._room("input_weights", "recurrent_weights", "bias", "input_gain", "recurrent_gain")
        if input_size is not None:
            self.bind(input_size, generator_seed=seed)

    def sizes(self) -> dict[str, Any]:
        return {**super().sizes(), "layer_norm": self.layer_norm}

    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        super()._build(input_size, dtype)
        rows, hidden = self._gates * self.hidden_size, self.hidden_size
        self.input_weights = self._zeros(rows, input_size, dtype=dtype)
        self.recurrent_weights = self._zeros(rows, self.output_size, dtype=dtype)
        self.bias = self._zeros(len(self._bias_start) * hidden, dtype=dtype)
        if self.layer_norm:
            self.input_gain, self.recurrent_gain = self._zeros(rows, dtype=dtype), self._zeros(rows, dtype=dtype)

    def _draw(self, draws: torch.Generator) -> None:
        super()._draw(draws)
        hidden = self.hidden_size
        self.input_weights.copy_(uniform(self.input_weights.shape, 1 / math.sqrt(hidden), draws))
        self.recurrent_weights.copy_(self._recurrent_start(draws))
        self.bias.copy_(torch.tensor(self._bias_start, dtype=torch.float64).repeat_interleave(hidden))
        for gain in (self.input_gain, self.recurrent_gain):
            if gain is not None:
                gain.fill_(1.0)

    def _reading(self) -> list[Tensor]:
        return [self.input_weights]

    def _recurrent_start(self, draws: torch.Generator) -> Tensor:
        hidden = self.hidden_size
        if self.output_size != hidden:
            return uniform(self.recurrent_weights.shape, 1 / math.sqrt(hidden), draws)
        normal = torch.randn(self._gates, hidden, hidden, generator=draws, dtype=torch.float64)
        rotation, triangle = torch.linalg.qr(normal)
        signs = torch.diagonal(triangle, dim1=-2, dim2=-1).sign()  # makes the draw uniform over rotations
        return (rotation * signs.unsqueeze(-2)).reshape(-1, hidden)

    # ---------------------------------------------------------------- one step

    def step(
        self, inputs: Float[Tensor, "*batch input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """The state after one more input, (*batch, state_size)."""
        return self._advance(self._project(inputs), state)

    @abc.abstractmethod
    def _advance(self, projected: Tensor, state: Tensor) -> Tensor:
        """The next state from W x + b (*batch, gates H) and the state (*batch, state_size)."""

    def _project(self, inputs: Tensor) -> Tensor:
        """W x + b for any leading shape, (*, gates H)."""
        self._require_bound()
        bias = self.bias[: self.input_weights.shape[0]]
        if self.input_gain is None:
            return F.linear(inputs, self.input_weights, bias)
        return self._normalise(F.linear(inputs, self.input_weights), self.input_gain) + bias

    def _recurrent(self, hidden: Tensor) -> Tensor:
        """U h, (*, gates H)."""
        product = F.linear(hidden, self.recurrent_weights)
        return product if self.recurrent_gain is None else self._normalise(product, self.recurrent_gain)

    def _recur(self, projected: Tensor, hidden: Tensor) -> Tensor:
        """W x + b + U h, in one call where the batch has one axis."""
        if projected.ndim == 2 and hidden.ndim == 2 and not self.layer_norm:
            return torch.addmm(projected, hidden, self.recurrent_weights.t())
        return projected + self._recurrent(hidden)

    def _normalise(self, rows: Tensor, gain: Tensor) -> Tensor:
        """Mean 0 and variance 1 over the units of each gate, times the gain. (1e-5: of activities, whose unit is 1.)"""
        blocks = F.layer_norm(rows.unflatten(-1, (-1, self.hidden_size)), (self.hidden_size,), eps=1e-5)
        return blocks.flatten(-2) * gain

    # ---------------------------------------------------------------- many steps

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self.output(self._whole(inputs, state)) if self.layer_norm else self._compiled(inputs, state)

    def _after(self, inputs: Tensor, state: Tensor, outputs: Tensor) -> Tensor:
        if self.state_size == self.output_size:
            return outputs[..., -1, :].detach()
        return super()._after(inputs, state, outputs)

    @abc.abstractmethod
    def _compiled(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Like `_fused`, without layer normalisation."""

    def _whole(self, inputs: Tensor, state: Tensor) -> Tensor:
        if self.state_size == self.output_size and not self.layer_norm:
            return self._compiled(inputs, state)
        return self._unroll(inputs, state)

    def _unroll(self, inputs: Tensor, state: Tensor) -> Tensor:
        """States (B, T, state_size) by the loop over steps, with the products W x + b taken at once."""
        states: list[Tensor] = []
        for projected in self._project(inputs).unbind(1):
            state = self._advance(projected, state)
            states.append(state)
        return torch.stack(states, dim=1)

    def _torch_weights(self) -> list[Tensor]:
        """The parameters as torch's kernels want them: W, U, input bias, recurrent bias."""
        rows = self.recurrent_weights.shape[0]
        return [self.input_weights, self.recurrent_weights, self.bias[:rows], self.bias.new_zeros(rows)]
