"""Long short-term memory: a memory cell that is written, kept and read through gates.

    i_t = sigma(W_i x_t + U_i h_{t-1} + p_i * c_{t-1} + b_i)    # input gate: what is written
    f_t = sigma(W_f x_t + U_f h_{t-1} + p_f * c_{t-1} + b_f)    # forget gate: what is kept
    g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)                     # what may be written
    c_t = f_t * c_{t-1} + i_t * g_t                             # memory
    o_t = sigma(W_o x_t + U_o h_{t-1} + p_o * c_t + b_o)        # output gate: what is read
    h_t = R (o_t * tanh(c_t))                                   # what the rest of the network sees

| symbol          | shape            | meaning                                                          |
|-----------------|------------------|------------------------------------------------------------------|
| x_t             | (*batch, input)  | the input                                                        |
| h_t, c_t        | (*batch, P or H) | hidden activities, memory; the state is (h_t, c_t)               |
| W, U, `bias`    | (4 H, .)         | blocks in the order i, f, g, o (torch's) of those there are      |
| p               | (3, H)           | `peephole_weights` of i, f, o, with `peepholes`                  |
| R               | (P, H)           | `projection_weights`, with `projection_size=P`; else h_t itself  |
| V               | (3 H, 3 H)       | `gate_weights`, with `full_gate_recurrence`                      |

The variants of Greff et al., each by one flag; the vanilla LSTM there is `peepholes=True`:

| flag                           | cell                                                                           |
|--------------------------------|--------------------------------------------------------------------------------|
| `input_gate=False`             | i = 1, and it has no weights; likewise `forget_gate`, `output_gate`            |
| `input_activation=False`       | g is not squashed; `output_activation=False`: c is not squashed when read      |
| `coupled=True`                 | f = 1 - i                                                                      |
| `full_gate_recurrence=True`    | gates also read V (i, f, o)_{t-1}, which then belong to the state              |

The forget gate starts open (`forget_bias`, 1 by default; of a coupled cell the input gate starts closed), so that
memory survives long enough at the start of training for its use to be learned (Jozefowicz, Zaremba & Sutskever 2015).
That is some four steps. `memory_span=n` takes its place where what counts lies further back: memories of 2 to n steps,
and input gates that start as closed as the forget gates are open (`probseq.cells.gated`).

`sequence` of the plain cell runs torch's kernel; every other one runs our own (`probseq.ops.cells`), which has a first
derivative in reverse mode only. `states` without derivatives runs it too, else the loop.

Hochreiter, S. & Schmidhuber, J. (1997). Long short-term memory. Neural Computation 9, 1735-1780.
Gers, F., Schmidhuber, J. & Cummins, F. (2000). Learning to forget. Neural Computation 12, 2451-2471.
Gers, F., Schraudolph, N. & Schmidhuber, J. (2002). Learning precise timing. JMLR 3 (peepholes).
Sak, H., Senior, A. & Beaufays, F. (2014). LSTM recurrent neural network architectures. Interspeech (projection).
Greff, K. et al. (2017). LSTM: a search space odyssey. IEEE TNNLS 28, arXiv:1503.04069.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from probseq.cells.base import uniform
from probseq.cells.gated import GatedCell, checked_span, keeping_biases
from probseq.checks import whole_number
from probseq.ops import cells as ops
from probseq.ops.modes import untracked


class LSTM(GatedCell):
    """Long short-term memory, plain or with the parts that the flags add and take away; see the module's equations."""

    peephole_weights: Tensor | None
    projection_weights: Tensor | None
    gate_weights: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        peepholes: bool = False,
        coupled: bool = False,
        projection_size: int | None = None,
        *,
        input_gate: bool = True,
        forget_gate: bool = True,
        output_gate: bool = True,
        input_activation: bool = True,
        output_activation: bool = True,
        full_gate_recurrence: bool = False,
        forget_bias: float = 1.0,
        memory_span: int | None = None,
        layer_norm: bool = False,
        input_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        hidden_size = whole_number("hidden_size", hidden_size)
        if projection_size is not None:
            projection_size = whole_number("projection_size", projection_size)
        if not math.isfinite(forget_bias):
            raise ValueError(f"forget_bias must be finite, got {forget_bias!r}")
        if coupled and not (input_gate and forget_gate):
            raise ValueError("coupled=True sets f = 1 - i and needs input_gate and forget_gate, got one without")
        parts = ops.Parts(input_gate, forget_gate, output_gate, coupled, input_activation, output_activation)
        if (peepholes or full_gate_recurrence) and not parts.gates:
            raise ValueError("peepholes and full_gate_recurrence act on gates, but this cell has none")
        self.memory_span = checked_span(memory_span)
        if memory_span is not None and not forget_gate:
            raise ValueError("memory_span sets how soon a cell forgets, but forget_gate=False never does")
        self.parts = parts
        self.peepholes, self.projection_size = bool(peepholes), projection_size
        self.full_gate_recurrence, self.forget_bias = bool(full_gate_recurrence), float(forget_bias)
        output_size = hidden_size if projection_size is None else projection_size
        starts = {"f": self.forget_bias, "i": -self.forget_bias if coupled else 0.0}
        super().__init__(
            hidden_size,
            gates=len(parts.blocks),
            bias_start=[starts.get(name, 0.0) for name in parts.blocks],
            state_size=output_size + hidden_size * (1 + self.full_gate_recurrence * len(parts.gates)),
            output_size=output_size,
            layer_norm=layer_norm,
            dtype=dtype,
        )
        self._room("peephole_weights", "projection_weights", "gate_weights")
        if input_size is not None:
            self.bind(input_size, generator_seed=seed)

    def sizes(self) -> dict[str, Any]:
        own = ("peepholes", "projection_size", "full_gate_recurrence", "forget_bias", "memory_span")
        return {**super().sizes(), **self.parts._asdict(), **{name: getattr(self, name) for name in own}}

    @property
    def is_plain(self) -> bool:
        """Whether this is the cell of torch.nn.LSTM."""
        extras = self.peepholes or self.full_gate_recurrence or self.projection_size is not None
        return self.parts == ops.Parts() and not extras

    # ---------------------------------------------------------------- parameters

    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        super()._build(input_size, dtype)
        n_gates, hidden = len(self.parts.gates), self.hidden_size
        if self.peepholes:
            self.peephole_weights = self._zeros(n_gates, hidden, dtype=dtype)
        if self.projection_size is not None:
            self.projection_weights = self._zeros(self.projection_size, hidden, dtype=dtype)
        if self.full_gate_recurrence:
            self.gate_weights = self._zeros(n_gates * hidden, n_gates * hidden, dtype=dtype)

    def _draw(self, draws: torch.Generator) -> None:
        super()._draw(draws)
        if self.memory_span is not None:
            keep = keeping_biases(self.memory_span, self.hidden_size)
            for name, rows in zip(self.parts.blocks, self.bias.chunk(len(self.parts.blocks)), strict=True):
                rows.copy_({"f": keep, "i": -keep}.get(name, rows))
        for weights in (self.peephole_weights, self.projection_weights, self.gate_weights):
            if weights is not None:
                weights.copy_(uniform(weights.shape, 1 / math.sqrt(self.hidden_size), draws))

    # ---------------------------------------------------------------- one step

    def _advance(self, projected: Tensor, state: Tensor) -> Tensor:
        hidden, memory, *before = state.split([self.output_size, *self._memory_sizes], dim=-1)
        total = self._recur(projected, hidden)
        blocks = dict(zip(self.parts.blocks, total.chunk(len(self.parts.blocks), dim=-1), strict=True))
        if self.gate_weights is not None:
            extra = F.linear(torch.cat(before, -1), self.gate_weights).chunk(len(self.parts.gates), dim=-1)
            blocks |= {name: blocks[name] + more for name, more in zip(self.parts.gates, extra, strict=True)}
        write, keep = self._gate("i", blocks, memory), self._gate("f", blocks, memory)
        if self.parts.coupled:
            keep = 1 - write
        new = torch.tanh(blocks["g"]) if self.parts.input_activation else blocks["g"]
        memory = keep * memory + write * new
        read = self._gate("o", blocks, memory)
        shown = read * (torch.tanh(memory) if self.parts.output_activation else memory)
        if self.projection_weights is not None:
            shown = F.linear(shown, self.projection_weights)
        values = {"i": write, "f": keep, "o": read}
        after = [values[name] for name in self.parts.gates] if self.full_gate_recurrence else []
        return torch.cat([shown, memory, *after], dim=-1)

    @property
    def _memory_sizes(self) -> list[int]:
        return [self.hidden_size] * ((self.state_size - self.output_size) // self.hidden_size)

    def _gate(self, name: str, blocks: dict[str, Tensor], memory: Tensor) -> Tensor:
        """i, f or o: what it lets through of each unit, 1 where there is no such gate."""
        if name not in self.parts.gates:
            return torch.ones_like(memory)
        total = blocks[name]
        if self.peephole_weights is not None:
            total = total + self.peephole_weights[self.parts.gates.index(name)] * memory
        return torch.sigmoid(total)

    # ---------------------------------------------------------------- many steps

    def _compiled(self, inputs: Tensor, state: Tensor) -> Tensor:
        if not self.is_plain:
            return ops.lstm(inputs, *self._weights(), state, self.parts)
        return self._by_torch(inputs, state)[0]

    def _by_torch(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (B, T, H), and what is shown and remembered in the end, (1, B, H) each."""
        hidden, memory = (part.contiguous() for part in state.unsqueeze(0).chunk(2, dim=-1))
        return torch.lstm(inputs, [hidden, memory], self._torch_weights(), True, 1, 0.0, self.training, False, True)

    def carry(
        self, inputs: Float[Tensor, "*batch time input"], state: Float[Tensor, "*batch state"]
    ) -> tuple[Float[Tensor, "*batch time output"], Float[Tensor, "*batch state"]]:
        """sequence(x, s), and states(x, s)[:, -1] without its gradient, in one go where torch has the cell."""
        if not self.is_plain or self.layer_norm or not inputs.numel():
            return super().carry(inputs, state)
        flat, start, batch_shape = self._flatten(inputs, state)
        outputs, hidden, memory = self._by_torch(flat, start)
        after = torch.cat([hidden[0], memory[0]], -1).detach()
        return outputs.reshape(*batch_shape, *outputs.shape[1:]), after.reshape(*batch_shape, -1)

    def _whole(self, inputs: Tensor, state: Tensor) -> Tensor:
        if not self.layer_norm and untracked(inputs, state, *self.parameters()):
            return ops.lstm_states(inputs, *self._weights(), state, self.parts)
        return self._unroll(inputs, state)

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """W, U, b, p, R, V, those that are not there empty."""
        empty = self.bias.new_zeros(0, 0)
        peepholes = empty if self.peephole_weights is None else self.peephole_weights
        projection = empty if self.projection_weights is None else self.projection_weights
        gates = empty if self.gate_weights is None else self.gate_weights
        return self.input_weights, self.recurrent_weights, self.bias, peepholes, projection, gates
