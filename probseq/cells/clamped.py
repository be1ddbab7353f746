"""A cell some of whose units are given, at every step or at the start: a way in beside the input weights.

    x_t = (what the cell reads, v_t)                       # the last columns of the inputs are the given activities
    every step:   s_t = cell.step(x_t, s_{t-1});  s_t[units] = v_t
    start:        s_{-1} = the learned start;     s_{-1}[units] = v_0,  and v_t is not looked at later

Those are the lecture's ways of giving a recurrent network its input: the initial states of all its units or of some,
and the states of the same units at every time step (Hinton 2012, Neural networks for machine learning, lecture 7b).
Values are activities and go in as they are: a network standardises its other inputs, not these.

    ps.RNN(input_dim=2, cell=ps.cells.Clamped(ps.cells.Elman(8), units=[0, 3]), head=..., feedback=False)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probseq.cells.base import Cell
from probseq.checks import whole_number


class Clamped(Cell):
    """A cell with given units: entries of its state (an LSTM's shown activities come first, then its memory)."""

    def __init__(self, cell: Cell, units: Sequence[int], at: Literal["every step", "start"] = "every step") -> None:
        if not isinstance(cell, Cell) or cell.n_given:
            raise TypeError(f"cell must be a Cell without given units, got {cell!r}")
        units = [whole_number("units", unit, least=0) for unit in units]
        if not units or len(set(units)) < len(units) or max(units) >= cell.state_size:
            raise ValueError(f"units must be different entries of a state of {cell.state_size}, got {units}")
        if at not in ("every step", "start"):
            raise ValueError(f'at must be "every step" or "start", got {at!r}')
        super().__init__(cell.hidden_size, state_size=cell.state_size, output_size=cell.output_size)
        self.cell, self.units, self.at = cell, units, at
        self.n_given = len(units)

    def sizes(self) -> dict[str, Any]:
        return {"cell": self.cell, "units": self.units, "at": self.at}

    def extra_repr(self) -> str:
        return f"units={self.units}, at={self.at!r}"

    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        if input_size <= self.n_given:
            raise ValueError(
                f"inputs must have columns for the cell and {self.n_given} more for its given units, got {input_size}"
            )
        self.cell.bind(input_size - self.n_given, dtype=dtype, generator_seed=0)

    def _draw(self, draws: torch.Generator) -> None:
        self.cell.reset_parameters(int(torch.randint(2**62, (), generator=draws)))

    def scale_inputs(self, gains: Float[Tensor, " input"]) -> None:
        """Those of the cell inside, which does not read what is given."""
        self.cell.scale_inputs(gains[: -self.n_given])

    def initial_state(self, batch_shape: Sequence[int] = ()) -> Float[Tensor, "*batch state"]:
        """The learned start of the cell inside."""
        self._require_bound()
        return self.cell.initial_state(batch_shape)

    def begin(
        self, batch_shape: Sequence[int], inputs: Float[Tensor, "*batch input"] | None
    ) -> Float[Tensor, "*batch state"]:
        """The learned start, with the values given in the first step's inputs."""
        start = self.initial_state(batch_shape)
        return start if inputs is None or self.at == "every step" else self._with(start, inputs[..., -self.n_given :])

    def _with(self, state: Tensor, values: Tensor) -> Tensor:
        """The state with these values in its given units."""
        places = torch.tensor(self.units)
        return state.index_copy(-1, places, values.expand(*state.shape[:-1], self.n_given))

    def output(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch output"]:
        """What the cell inside shows of it."""
        return self.cell.output(state)

    def state_metric(self, states: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch state"]:
        """That of the cell inside; 0 for units held at every step, which do not move."""
        metric = self.cell.state_metric(states)
        return metric if self.at == "start" else self._with(metric, metric.new_zeros(self.n_given))

    def step(
        self, inputs: Float[Tensor, "*batch input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """The state after one more input, (*batch, state_size), its given units as they are given."""
        after = self.cell.step(inputs[..., : -self.n_given], state)
        return after if self.at == "start" else self._with(after, inputs[..., -self.n_given :])

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        if self.at == "start":
            return self.cell.sequence(inputs[..., : -self.n_given], state)
        return self.cell.output(self._whole(inputs, state))

    def _whole(self, inputs: Tensor, state: Tensor) -> Tensor:
        if self.at == "start":
            return self.cell.states(inputs[..., : -self.n_given], state)
        return super()._whole(inputs, state)
