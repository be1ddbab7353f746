"""What every recurrent cell is.

    s = cell.initial_state(batch_shape)        # learned, zero before training
    for t in range(T):
        s = cell.step(x[t], s)                 # the only recursion
        h = cell.output(s)                     # what an output head reads

The state `s` is one tensor, whatever the cell keeps in it: an LSTM concatenates its hidden and its memory
activities. All cells share one layout of parameters, in blocks of `hidden_size` rows, one block per gate:

| parameter           | shape                  | meaning                                                       |
|---------------------|------------------------|---------------------------------------------------------------|
| `input_weights`     | (gates H, input_size)  | W, from the input                                             |
| `recurrent_weights` | (gates H, H)           | U, from the hidden activities of the step before              |
| `bias`              | (bias blocks, H) flat  | b, one per gate (torch's second, redundant one is left out)   |
| `initial_activity`  | (state_size,)          | s before the first step                                       |

Two ways of running over time share these parameters. `step` is the specification. `sequence` takes the
products with all inputs at once, and torch's compiled recursion where there is one; it equals the loop over
`step` up to rounding. Every one of them can be differentiated twice, except the LSTM's `sequence` in float32 on a
CPU, where torch uses a library kernel that has a first derivative only, and raises for the second.

Starts: U is orthogonal in each gate, so that neither activity nor gradient dies or explodes at once
(Saxe, McClelland & Ganguli 2014); W is uniform on (-1/sqrt(H), 1/sqrt(H)); b is zero except where a cell says
otherwise. The draws are made in float64 from the seed alone, so both precisions start at the same place.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from probseq.checks import whole_number
from probseq.parameters import allow
from probseq.randomness import generator


def floating_dtype(dtype: object) -> torch.dtype:
    """`dtype` if a network can compute in it: float32 or float64. Raises ValueError otherwise."""
    if not isinstance(dtype, torch.dtype) or dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")
    return dtype


class Cell(nn.Module, abc.ABC):
    """To write: `_advance` (one step) and `_fused` (many).  You get: step, sequence, states, bind, starts."""

    input_weights: nn.Parameter
    recurrent_weights: nn.Parameter
    bias: nn.Parameter
    initial_activity: nn.Parameter

    def __init__(
        self,
        hidden_size: int,
        *,
        gates: int,
        bias_start: Sequence[float],
        state_parts: int,
        input_size: int | None,
        dtype: torch.dtype,
        seed: int | None,
    ) -> None:
        super().__init__()
        self.hidden_size = whole_number("hidden_size", hidden_size)
        self.state_size = state_parts * self.hidden_size
        self.input_size: int | None = None
        self._gates = gates
        self._bias_start = tuple(bias_start)
        self._dtype = floating_dtype(dtype)
        for name in ("input_weights", "recurrent_weights", "bias", "initial_activity"):
            self.register_parameter(name, None)
        if input_size is not None:
            self.bind(input_size, generator_seed=seed)

    def sizes(self) -> dict[str, Any]:
        """The constructor's arguments that rebuild this cell up to its weights."""
        return {"hidden_size": self.hidden_size}

    def extra_repr(self) -> str:
        return f"hidden_size={self.hidden_size}, input_size={self.input_size}"

    # ---------------------------------------------------------------- parameters

    def bind(self, input_size: int, *, dtype: torch.dtype | None = None, generator_seed: int | None = None) -> None:
        """Create the parameters for inputs of this width; a second call with the same width changes nothing.

        Raises ValueError when the cell is already bound to another width or dtype.
        """
        input_size = whole_number("input_size", input_size)
        wanted = self._dtype if dtype is None else floating_dtype(dtype)
        if self.input_size is not None:
            if self.input_size != input_size:
                raise ValueError(f"cell is bound to input_size {self.input_size}, asked for {input_size}")
            if dtype is not None and self.input_weights.dtype != wanted:
                raise ValueError(f"cell is bound with dtype {self.input_weights.dtype}, asked for {wanted}")
            return
        rows, hidden = self._gates * self.hidden_size, self.hidden_size
        self.input_weights = nn.Parameter(torch.zeros(allow(rows, input_size), dtype=wanted))
        self.recurrent_weights = nn.Parameter(torch.zeros(allow(rows, hidden), dtype=wanted))
        self.bias = nn.Parameter(torch.zeros(len(self._bias_start) * hidden, dtype=wanted))
        self.initial_activity = nn.Parameter(torch.zeros(self.state_size, dtype=wanted))
        self.input_size, self._dtype = input_size, wanted
        self.reset_parameters(generator_seed)

    @torch.no_grad()
    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw new weights, a function of `seed` alone (None: a new one each time); no global generator is touched."""
        self._require_bound()
        draws, hidden = generator(seed), self.hidden_size
        uniform = torch.rand(self.input_weights.shape, generator=draws, dtype=torch.float64)
        self.input_weights.copy_((2.0 * uniform - 1.0) / math.sqrt(hidden))
        normal = torch.randn(self._gates, hidden, hidden, generator=draws, dtype=torch.float64)
        rotation, triangle = torch.linalg.qr(normal)
        signs = torch.diagonal(triangle, dim1=-2, dim2=-1).sign()  # makes the draw uniform over rotations
        self.recurrent_weights.copy_((rotation * signs.unsqueeze(-2)).reshape(-1, hidden))
        start = torch.tensor(self._bias_start, dtype=torch.float64)
        self.bias.copy_(start.repeat_interleave(hidden))
        self.initial_activity.zero_()

    def _require_bound(self) -> int:
        if self.input_size is None:
            raise RuntimeError(f"this {type(self).__name__} cell has no parameters yet: call bind(input_size) first")
        return self.input_size

    # ---------------------------------------------------------------- one step

    def initial_state(self, batch_shape: Sequence[int] = ()) -> Float[Tensor, "*batch state"]:
        """The learned state before the first step, (*batch, state_size); one parameter, shared by the batch."""
        self._require_bound()
        return self.initial_activity.expand(*batch_shape, self.state_size)

    def output(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch hidden"]:
        """The part of the state that the head reads, (*batch, hidden_size): its first `hidden_size` entries."""
        return state[..., : self.hidden_size]

    def step(
        self, inputs: Float[Tensor, "*batch input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """The state after one more input, (*batch, state_size)."""
        return self._advance(self._project(inputs), state)

    def _project(self, inputs: Tensor) -> Tensor:
        """W x + b for any leading shape, (*, gates H)."""
        self._require_bound()
        return F.linear(inputs, self.input_weights, self.bias[: self.input_weights.shape[0]])

    @abc.abstractmethod
    def _advance(self, projected: Tensor, state: Tensor) -> Tensor:
        """The next state from W x + b (*batch, gates H) and the state (*batch, state_size)."""

    # ---------------------------------------------------------------- many steps

    def sequence(
        self, inputs: Float[Tensor, "*batch time input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch time hidden"]:
        """What the head reads at every step. Satisfies sequence(x, s) == output(states(x, s)); `state` precedes x_0."""
        flat, start, batch_shape = self._flatten(inputs, state)
        outputs = self._fused(flat, start) if flat.numel() else self._no_steps(flat, start, self.hidden_size)
        return outputs.reshape(*batch_shape, *outputs.shape[1:])

    def states(
        self, inputs: Float[Tensor, "*batch time input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch time state"]:
        """The full state after every step. Satisfies states(x, s)[:, t] == step(x[:, t], states(x, s)[:, t - 1])."""
        if self.state_size == self.hidden_size:
            return self.sequence(inputs, state)
        flat, start, batch_shape = self._flatten(inputs, state)
        states = self._loop(flat, start) if flat.numel() else self._no_steps(flat, start, self.state_size)
        return states.reshape(*batch_shape, *states.shape[1:])

    @abc.abstractmethod
    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Outputs (B, T, H) from inputs (B, T, input_size), T > 0, B > 0, and the state (B, state_size)."""

    def _loop(self, inputs: Tensor, state: Tensor) -> Tensor:
        """States (B, T, state_size) by the loop over steps, with the products W x + b taken at once."""
        states: list[Tensor] = []
        for projected in self._project(inputs).unbind(1):
            state = self._advance(projected, state)
            states.append(state)
        return torch.stack(states, dim=1)

    def _recur(self, projected: Tensor, hidden: Tensor) -> Tensor:
        """W x + b + U h, in one call where the batch has one axis."""
        if projected.ndim == 2 and hidden.ndim == 2:
            return torch.addmm(projected, hidden, self.recurrent_weights.t())
        return projected + F.linear(hidden, self.recurrent_weights)

    def _torch_weights(self) -> list[Tensor]:
        """The parameters as torch's kernels want them: W, U, input bias, recurrent bias."""
        rows = self.recurrent_weights.shape[0]
        return [self.input_weights, self.recurrent_weights, self.bias[:rows], self.bias.new_zeros(rows)]

    def _flatten(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """Inputs as (B, T, input_size), the state as (B, state_size), and the batch shape that B stands for."""
        width = self._require_bound()
        if inputs.ndim < 2 or inputs.shape[-1] != width:
            raise ValueError(f"inputs must be (*batch, time, {width}), got {tuple(inputs.shape)}")
        batch_shape, time = inputs.shape[:-2], inputs.shape[-2]
        size = math.prod(batch_shape)
        start = state.expand(*batch_shape, self.state_size).reshape(size, self.state_size)
        return inputs.reshape(size, time, width), start, batch_shape

    def _no_steps(self, inputs: Tensor, state: Tensor, width: int) -> Tensor:
        """The empty result for no steps or no sequences, which torch's kernels refuse, still on the graph."""
        return state[:, None, :width].expand(-1, inputs.shape[1], -1)
