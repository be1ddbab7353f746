"""The LSTM with any of its parts over whole sequences, as one torch function with its adjoint.

    for t in range(T):
        a = W x_t + b + U r_{t-1} + V q_{t-1}
        i, f = logistic(a_i + p_i c_{t-1}), logistic(a_f + p_f c_{t-1})
        c_t = f c_{t-1} + i tanh(a_g)
        o = logistic(a_o + p_o c_t)
        r_t = R (o tanh(c_t));    q_t = (i, f, o)

| argument            | shape                    | meaning                                                            |
|---------------------|--------------------------|--------------------------------------------------------------------|
| inputs              | (T, B, X)                | x                                                                  |
| input_weights       | (blocks H, X)            | W, blocks in the order i, f, g, o of those there are               |
| recurrent_weights   | (blocks H, P)            | U                                                                  |
| bias                | (blocks H,)              | b                                                                  |
| peepholes           | (gates, H) or empty      | p of the gates i, f, o there are                                   |
| projection          | (P, H) or empty          | R; P = H and R = 1 where it is empty                               |
| gate_weights        | (gates H, gates H)       | V, or empty                                                        |
| start               | (B, P + H [+ gates H])   | r, c and, with gate_weights, q before the first step               |
| parts               | `Parts`                  | what the cell has                                                  |

float32 and float64, on the CPU. Second derivatives and forward mode raise (`modes`). Kernels: `probseq.kernels.cells`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from probseq.kernels import cells as kernels
from probseq.kernels.tiles import ROWS, steps_at_once, width_of
from probseq.ops.modes import OnceDifferentiable, array_of, operator


class Parts(NamedTuple):
    """Which parts an LSTM has; without a gate its value is 1, and `coupled` makes f = 1 - i."""

    input_gate: bool = True
    forget_gate: bool = True
    output_gate: bool = True
    coupled: bool = False
    input_activation: bool = True
    output_activation: bool = True

    @property
    def blocks(self) -> str:
        """The blocks of weights there are, in their order."""
        there = {"i": self.input_gate, "f": self.forget_gate and not self.coupled, "g": True, "o": self.output_gate}
        return "".join(name for name in "ifgo" if there[name])

    @property
    def gates(self) -> str:
        """The gates with weights of their own."""
        return self.blocks.replace("g", "")


def lstm(
    inputs: Float[Tensor, "batch time input"],
    input_weights: Float[Tensor, "rows input"],
    recurrent_weights: Float[Tensor, "rows output"],
    bias: Float[Tensor, " rows"],
    peepholes: Float[Tensor, "gates hidden"],
    projection: Float[Tensor, "_ _"],
    gate_weights: Float[Tensor, "_ _"],
    start: Float[Tensor, "batch state"],
    parts: Parts,
) -> Float[Tensor, "batch time output"]:
    """r_t at every step, differentiable once in reverse mode; shapes above, but for the batch first."""
    weights = (input_weights, recurrent_weights, bias, peepholes, projection, gate_weights)
    wanted = inputs.requires_grad and torch.is_grad_enabled()  # of data nobody asks a derivative
    return _differentiable(inputs.transpose(0, 1), *weights, start, list(parts), wanted)[0].transpose(0, 1)


def lstm_states(inputs: Tensor, *arguments: Any) -> Tensor:
    """The whole state (r, c [, q]) at every step, (B, T, state), without derivatives; arguments as for `lstm`."""
    *tensors, parts = arguments
    outputs, gates, memory, *_ = _forward(inputs.transpose(0, 1), *tensors, list(parts))
    plan = _Plan.of(inputs.transpose(0, 1), *tensors, list(parts))
    kept = [outputs, plan.rows(memory[1:], plan.hidden)]
    if tensors[5].numel():
        kept += [plan.rows(gates[1:, k], plan.hidden) for k in range(len(plan.parts.gates))]
    return torch.cat(kept, -1).transpose(0, 1)


class _Plan(NamedTuple):
    """Sizes, and how matrices are laid out in panels."""

    parts: Parts
    steps: int
    batch: int
    hidden: int
    output: int
    width: int

    @classmethod
    def of(cls, inputs: Tensor, *arguments: Any) -> _Plan:
        parts = Parts(*arguments[7])
        rows, output = arguments[1].shape
        hidden = rows // len(parts.blocks)
        return cls(parts, inputs.shape[0], inputs.shape[1], hidden, output, width_of(str(inputs.dtype)[6:]))

    def padded(self, columns: Any) -> Any:
        return -(-columns // self.width) * self.width

    def length(self, columns: Any) -> Any:
        """Numbers in the panels of (B, columns)."""
        return self.batch * self.padded(columns)

    def panels(self, matrix: Tensor) -> Tensor:
        """(*, rows, columns) as (*, panels, rows, width)."""
        missing = self.padded(matrix.shape[-1]) - matrix.shape[-1]
        wide = F.pad(matrix, (0, missing)) if missing else matrix
        return wide.unflatten(-1, (-1, self.width)).transpose(-3, -2).contiguous()

    def rows(self, panels: Tensor, columns: int) -> Tensor:
        """The inverse of `panels` for (*, panels * B * width), (*, B, columns)."""
        apart = panels.unflatten(-1, (self.padded(columns) // self.width, self.batch, self.width))
        return apart.transpose(-3, -2).flatten(-2)[..., :columns]

    def write(self, matrix: Tensor, panels: Tensor) -> None:
        """panels = the panels of (*, B, columns), each flat."""
        apart = panels.unflatten(-1, (-1, self.batch, self.width)).transpose(-3, -2)
        if apart.shape[-2] * self.width == matrix.shape[-1]:
            apart.copy_(matrix.unflatten(-1, (-1, self.width)))
        else:
            panels.copy_(self.panels(matrix).flatten(-3))

    def inside(self, weights: Tensor) -> Tensor:
        """Rows of weights by block i, f, g, o -> i, f, o, g, each block padded."""
        blocks = self._swapped(weights, self.hidden).unflatten(0, (-1, self.hidden))
        return F.pad(blocks, (0, 0, 0, self.padded(self.hidden) - self.hidden)).flatten(0, 1)

    def outside(self, weights: Tensor) -> Tensor:
        """The inverse of `inside`."""
        blocks = weights.unflatten(0, (-1, self.padded(self.hidden)))[:, : self.hidden]
        return self._swapped(blocks.flatten(0, 1), self.hidden)

    def _swapped(self, weights: Tensor, size: int) -> Tensor:
        """The last two blocks of weights, of so many rows, in the other order where they are g and o."""
        if not self.parts.output_gate or len(weights) != size * len(self.parts.blocks):
            return weights
        return torch.cat([weights[: -2 * size], weights[-size:], weights[-2 * size : -size]])

    def unpadded(self, weights: Tensor) -> Tensor:
        """Rows of weights without those that were added to each gate."""
        return weights.unflatten(0, (-1, self.padded(self.hidden)))[:, : self.hidden].flatten(0, 1)

    def between(self, gate_weights: Tensor) -> Tensor:
        """V with the rows and columns of each gate padded; empty where it is."""
        return self.inside(self.inside(gate_weights).t()).t() if gate_weights.numel() else gate_weights

    def peeps(self, peepholes: Tensor) -> Any:
        spread = peepholes.unsqueeze(1).expand(-1, self.batch, -1)
        return self.panels(spread).flatten(1).numpy() if peepholes.numel() else array_of(peepholes)

    def factor(self, matrix: Tensor) -> Any:
        """The panels of a right factor, (0, 0, width) for none."""
        return (self.panels(matrix) if matrix.numel() else matrix.new_zeros(0, 0, self.width)).numpy()

    @property
    def places(self) -> Any:
        names = (*self.parts.gates, "g")
        return np.array([names.index(name) if name in names else -1 for name in "ifog"])

    @property
    def flags(self) -> Any:
        return np.array([self.parts.coupled, self.parts.input_activation, self.parts.output_activation])

    def buffers(self, like: Tensor, projection: Tensor) -> list[Tensor]:
        """Room for the outputs and for what the adjoint reads: gates, memory, squashed, read, hidden."""
        t, length = self.steps, self.length(self.hidden)
        shapes = [
            (t + 1, len(self.parts.blocks), length),
            (t + 1, length),
            (t if self.parts.output_activation else 0, length),
            (t if projection.numel() else 0, length),
            (t + 1, self.length(self.output)),
        ]
        outputs = like.new_empty((self.batch, t, self.output)).transpose(0, 1)  # contiguous for who reads them
        return [outputs, *(like.new_empty(shape) for shape in shapes)]

    def start(self, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """r, c and q before the first step, in panels; zeros for q where it is no part of the start."""
        hidden, rest = start[:, : self.output], start[:, self.output :].unflatten(1, (-1, self.hidden)).transpose(0, 1)
        flat = self.panels(rest).flatten(1)
        before = flat[1:] if len(flat) > 1 else flat.new_zeros(len(self.parts.gates), flat.shape[1])
        return self.panels(hidden).flatten(), flat[0], before


_ARGUMENTS = (
    "Tensor inputs, Tensor input_weights, Tensor recurrent_weights, Tensor bias, Tensor peepholes, "
    "Tensor projection, Tensor gate_weights, Tensor start, bool[] parts, bool pull_inputs"
)


def _shapes(inputs: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(_Plan.of(inputs, *arguments).buffers(inputs, arguments[4]))


@torch.no_grad()
def _forward(inputs: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    into, recurrent, bias, peepholes, projection, gate_weights, start, *_ = arguments
    plan = _Plan.of(inputs, *arguments)
    made = plan.buffers(inputs, projection)
    outputs, gates, memory, squashed, read, hidden = made
    gates[0] = 0
    hidden[0], memory[0], gates[0, : len(plan.parts.gates)] = plan.start(start)
    kernels.forward(
        array_of(_with_ones(inputs)),
        plan.factor(plan.inside(torch.cat([into, bias.unsqueeze(1)], 1)).t()),
        plan.factor(plan.inside(recurrent).t()),
        plan.factor(plan.between(gate_weights).t()),
        plan.factor(projection.t()),
        plan.peeps(peepholes),
        plan.places,
        plan.flags,
        *(tensor.numpy() for tensor in (outputs.transpose(0, 1), gates, memory, squashed, read, hidden)),
    )
    return tuple(made)


def _with_ones(inputs: Tensor, multiple: int = 1) -> Tensor:
    """The inputs, a one, and zeros up to a multiple of so many columns."""
    width = inputs.shape[-1]
    wide = inputs.new_zeros(*inputs.shape[:-1], -(-(width + 1) // multiple) * multiple)
    wide[..., :width] = inputs
    wide[..., width] = 1
    return wide


def _adjoint_shapes(gradient: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in arguments[:8])


@torch.no_grad()
def _backward(gradient: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """d loss / d of the eight tensors from d loss / d r_t (T, B, P)."""
    inputs, into, recurrent, _, peepholes, projection, gate_weights, *_ = arguments
    pull_inputs, *saved = arguments[9:]
    plan = _Plan.of(*arguments[:9])
    n_gates, length = len(plan.parts.gates), plan.length(plan.hidden)
    d_hidden = torch.empty_like(saved[4])
    made = _Gradients.like(plan, inputs, peepholes, projection, gate_weights)
    block = (steps_at_once(plan.batch), len(plan.parts.blocks) * plan.padded(plan.hidden) // plan.width)
    d_gates = inputs.new_empty(*block, plan.batch, plan.width)  # begins where a cache line does, as vectors like it
    kernels.backward(
        array_of(_with_ones(inputs, ROWS).unsqueeze(1)),
        plan.factor(plan.inside(into) if pull_inputs else into[:0]),
        plan.factor(plan.inside(recurrent)),
        plan.factor(plan.between(gate_weights)),
        plan.factor(projection),
        plan.peeps(peepholes),
        plan.places,
        plan.flags,
        array_of(gradient.transpose(0, 1)),
        *(tensor.numpy() for tensor in (*saved, *made, d_hidden, d_gates)),
    )
    d_start = [plan.rows(d_hidden[0], plan.output), plan.rows(made.memory, plan.hidden)]
    if gate_weights.numel():
        d_start += [plan.rows(part, plan.hidden) for part in made.before.reshape(n_gates, length)]
    d_into = plan.outside(made.input_weights.t())
    return (
        plan.rows(made.inputs.flatten(1), inputs.shape[2]).contiguous() if pull_inputs else torch.zeros_like(inputs),
        d_into[:, : inputs.shape[2]].contiguous(),
        plan.outside(made.recurrent_weights.t())[:, : plan.output].contiguous(),
        d_into[:, inputs.shape[2]].contiguous(),
        plan.rows(made.peepholes, plan.hidden).sum(1) if peepholes.numel() else torch.zeros_like(peepholes),
        made.projection.t()[: projection.shape[0], : projection.shape[1]].contiguous(),
        plan.unpadded(plan.unpadded(made.gate_weights).t()).contiguous(),
        torch.cat(d_start, -1),
    )


class _Gradients(NamedTuple):
    """Room for what the adjoint finds, in panels; weights transposed."""

    inputs: Tensor
    input_weights: Tensor
    recurrent_weights: Tensor
    gate_weights: Tensor
    projection: Tensor
    peepholes: Tensor
    before: Tensor
    memory: Tensor

    @classmethod
    def like(
        cls, plan: _Plan, inputs: Tensor, peepholes: Tensor, projection: Tensor, gate_weights: Tensor
    ) -> _Gradients:
        rows, length = len(plan.parts.blocks) * plan.padded(plan.hidden), plan.length(plan.hidden)
        n_gates, lines = len(plan.parts.gates), -(-(inputs.shape[2] + 1) // ROWS) * ROWS
        between = n_gates * plan.padded(plan.hidden) if gate_weights.numel() else 0
        panels = plan.padded(inputs.shape[2]) // plan.width
        return cls(
            inputs.new_empty(plan.steps, panels, plan.batch, plan.width),
            inputs.new_empty(lines, rows),
            inputs.new_empty(plan.padded(plan.output), rows),
            inputs.new_empty(between, between),
            inputs.new_empty(plan.padded(plan.hidden), plan.padded(plan.output) if projection.numel() else 0),
            inputs.new_zeros(n_gates if peepholes.numel() else 0, length),
            inputs.new_empty(n_gates * length if between else 0),
            inputs.new_empty(length),
        )


_differentiable = OnceDifferentiable(
    "fused LSTM",
    operator("lstm", f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)", _shapes)(_forward),
    operator(
        "lstm_backward",
        f"(Tensor gradient, {_ARGUMENTS}, Tensor gates, Tensor memory, Tensor squashed, Tensor read, Tensor hidden)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        _adjoint_shapes,
    )(_backward),
    n_inputs=8,
    kept=range(10),
)
