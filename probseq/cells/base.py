"""What every recurrent cell is.

    s = cell.initial_state(batch_shape)        # learned, zero before training
    for t in range(T):
        s = cell.step(x[t], s)                 # the only recursion
        h = cell.output(s)                     # what an output head reads

The state `s` is one tensor, whatever the cell keeps in it, (*batch, state_size): an LSTM concatenates its hidden and
its memory activities, a stack those of its layers. `output` is (*batch, output_size).

Two ways of running over time share the parameters. `step` is the specification. `sequence` runs whole sequences,
compiled where there is a kernel; it equals the loop over `step` up to rounding. `states` gives the full state after
every step; so does `unrolled`, of torch's own operations alone, for derivatives beyond the first in reverse mode.

Cells are made without the width of their inputs and get their parameters when a network binds them (`bind`).
All draws are made in float64 from the seed alone, so both precisions start at the same place. Dropout acts in
training mode only, which a fit sets and leaves.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
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


def uniform(shape: Sequence[int], bound: float, draws: torch.Generator) -> Tensor:
    """Numbers uniform on (-bound, bound), float64."""
    return bound * (2.0 * torch.rand(*shape, generator=draws, dtype=torch.float64) - 1.0)


class Cell(nn.Module, abc.ABC):
    """To write: `_build`, `_draw`, `step` and `_fused`.  You get: bind, starts, sequence, states."""

    #: weights and start are drawn and never learned
    frozen: ClassVar[bool] = False
    #: how many of the last input columns are activities of units, which no one may standardise
    n_given: int = 0
    initial_activity: Tensor

    def __init__(
        self, hidden_size: int, *, state_size: int, output_size: int | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.hidden_size, self.state_size = hidden_size, state_size
        self.output_size = hidden_size if output_size is None else output_size
        self.input_size: int | None = None
        self._dtype = floating_dtype(dtype)
        self._room("initial_activity")

    def sizes(self) -> dict[str, Any]:
        """The constructor's arguments that rebuild this cell up to its weights."""
        return {"hidden_size": self.hidden_size}

    def extra_repr(self) -> str:
        return ", ".join(
            [f"{name}={value}" for name, value in self.sizes().items()] + [f"input_size={self.input_size}"]
        )

    # ---------------------------------------------------------------- parameters

    def _room(self, *names: str) -> None:
        """Announce parameters, or buffers of a frozen cell, that binding will make."""
        for name in names:
            (self.register_buffer if self.frozen else self.register_parameter)(name, None)

    def _zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        zeros = torch.zeros(allow(*shape), dtype=dtype)
        return zeros if self.frozen else nn.Parameter(zeros)

    def bind(self, input_size: int, *, dtype: torch.dtype | None = None, generator_seed: int | None = None) -> None:
        """Create the parameters for inputs of this width; a second call with the same width changes nothing.

        Raises ValueError when the cell is already bound to another width or dtype.
        """
        input_size = whole_number("input_size", input_size)
        wanted = self._dtype if dtype is None else floating_dtype(dtype)
        if self.input_size is not None:
            if self.input_size != input_size:
                raise ValueError(f"cell is bound to input_size {self.input_size}, asked for {input_size}")
            bound = self.initial_state().dtype
            if dtype is not None and bound != wanted:
                raise ValueError(f"cell is bound with dtype {bound}, asked for {wanted}")
            return
        self._build(input_size, wanted)
        self.input_size, self._dtype = input_size, wanted
        self.reset_parameters(generator_seed)

    @torch.no_grad()
    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw new weights, a function of `seed` alone (None: a new one each time); no global generator is touched."""
        self._require_bound()
        self._draw(generator(seed))

    @torch.no_grad()
    def scale_inputs(self, gains: Float[Tensor, " input"]) -> None:
        """Multiply the weights on every column of the inputs, for columns whose mean square is not 1.

        Weights of a size that the caller chose stay as they are, and so do those on activities.
        """
        for weights in self._reading():
            weights.mul_(gains.to(weights.dtype))

    def _reading(self) -> list[Tensor]:
        """The weights on inputs whose size is the cell's own choice, columns last."""
        return []

    @abc.abstractmethod
    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        """Make all parameters."""
        self.initial_activity = self._zeros(self.state_size, dtype=dtype)

    @abc.abstractmethod
    def _draw(self, draws: torch.Generator) -> None:
        """Fill them."""
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

    def begin(
        self, batch_shape: Sequence[int], inputs: Float[Tensor, "*batch input"] | None
    ) -> Float[Tensor, "*batch state"]:
        """The state before the first step, whose inputs these are: the learned one, unless the inputs give it."""
        return self.initial_state(batch_shape)

    def output(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch output"]:
        """The part of the state that the head reads, (*batch, output_size): its first entries, unless it is a stack."""
        return state[..., : self.output_size]

    def state_metric(self, states: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch state"]:
        """What the square of a small change of each entry counts as a distance between states, the same shape.

        1, but 1 / f' for units h = f(z) with a logistic or tanh f: the divergence whose slope in z is f (Martens &
        Sutskever 2011, section 3), under which a change of z counts f'. A saturated unit does not move and counts 0.
        """
        return torch.ones_like(states)

    @abc.abstractmethod
    def step(
        self, inputs: Float[Tensor, "*batch input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """The state after one more input, (*batch, state_size)."""

    # ---------------------------------------------------------------- many steps

    def sequence(
        self, inputs: Float[Tensor, "*batch time input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch time output"]:
        """What the head reads at every step. Satisfies sequence(x, s) == output(states(x, s)); `state` precedes x_0."""
        flat, start, batch_shape = self._flatten(inputs, state)
        outputs = self._fused(flat, start) if flat.numel() else self.output(self._no_steps(flat, start))
        return outputs.reshape(*batch_shape, *outputs.shape[1:])

    def states(
        self, inputs: Float[Tensor, "*batch time input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch time state"]:
        """The full state after every step. Satisfies states(x, s)[:, t] == step(x[:, t], states(x, s)[:, t - 1])."""
        flat, start, batch_shape = self._flatten(inputs, state)
        states = self._whole(flat, start) if flat.numel() else self._no_steps(flat, start)
        return states.reshape(*batch_shape, *states.shape[1:])

    def unrolled(
        self, inputs: Float[Tensor, "*batch time input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch time state"]:
        """`states` without compiled kernels: differentiable as often as one likes, and in forward mode."""
        flat, start, batch_shape = self._flatten(inputs, state)
        states = self._unroll(flat, start) if flat.numel() else self._no_steps(flat, start)
        return states.reshape(*batch_shape, *states.shape[1:])

    def carry(
        self, inputs: Float[Tensor, "*batch time input"], state: Float[Tensor, "*batch state"]
    ) -> tuple[Float[Tensor, "*batch time output"], Float[Tensor, "*batch state"]]:
        """sequence(x, s), and states(x, s)[:, -1] without its gradient: what the next window of x starts from."""
        outputs = self.sequence(inputs, state)
        return outputs, self._after(inputs, state, outputs)

    @torch.no_grad()
    def _after(self, inputs: Tensor, state: Tensor, outputs: Tensor) -> Tensor:
        """The state after the last step, where `outputs` are known."""
        return self.states(inputs, state)[..., -1, :]

    @abc.abstractmethod
    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Outputs (B, T, output_size) from inputs (B, T, input_size), T > 0, B > 0, and the state (B, state_size)."""

    def _whole(self, inputs: Tensor, state: Tensor) -> Tensor:
        """States (B, T, state_size), likewise."""
        return self._unroll(inputs, state)

    def _unroll(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The same by the loop over `step`, or as plain."""
        states: list[Tensor] = []
        for x in inputs.unbind(1):
            state = self.step(x, state)
            states.append(state)
        return torch.stack(states, dim=1)

    def _flatten(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """Inputs as (B, T, input_size), the state as (B, state_size), and the batch shape that B stands for."""
        width = self._require_bound()
        if inputs.ndim < 2 or inputs.shape[-1] != width:
            raise ValueError(f"inputs must be (*batch, time, {width}), got {tuple(inputs.shape)}")
        batch_shape, time = inputs.shape[:-2], inputs.shape[-2]
        size = math.prod(batch_shape)
        start = state.expand(*batch_shape, self.state_size).reshape(size, self.state_size)
        return inputs.reshape(size, time, width), start, batch_shape

    def _no_steps(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The empty states for no steps or no sequences, which torch's kernels refuse, still on the graph."""
        return state[:, None].expand(-1, inputs.shape[1], -1)
