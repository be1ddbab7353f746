"""Layers of cells: each reads what the one below shows.

    x_t -> layer 1 -> layer 2 -> ... -> layer n -> output                        # plain
    layer k reads (x_t, output of layer k - 1);  output = those of all layers    # with skip connections

The state is that of all layers, side by side. With `skip`, the way from any layer to input and output is one step long
(Graves 2013, arXiv:1308.0850, figure 1). Dropout sets that share of what goes from layer to layer to zero, anew at
every step, and never touches the way from step to step (Zaremba, Sutskever & Vinyals 2014, arXiv:1409.2329); it acts
in training mode alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from probseq.cells.base import Cell


class Stack(Cell):
    """Several cells as one, `Stack([GRU(32), GRU(32)], skip=True, dropout=0.2)`."""

    def __init__(self, layers: Sequence[Cell], *, skip: bool = False, dropout: float = 0.0) -> None:
        layers = list(layers)
        if not layers or not all(isinstance(layer, Cell) for layer in layers):
            raise TypeError(f"layers must be one or more Cells, got {layers!r}")
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("layers must be different cells, got the same one twice")
        if any(layer.n_given for layer in layers):
            raise TypeError("layers must not have given units: use Clamped(Stack(...), units)")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be a share in [0, 1), got {dropout!r}")
        shown = sum(layer.output_size for layer in layers) if skip else layers[-1].output_size
        super().__init__(shown, state_size=sum(layer.state_size for layer in layers))
        self.layers = nn.ModuleList(layers)
        self.skip, self.dropout = bool(skip), float(dropout)

    def sizes(self) -> dict[str, Any]:
        return {"layers": self._cells, "skip": self.skip, "dropout": self.dropout}

    def extra_repr(self) -> str:
        return f"skip={self.skip}, dropout={self.dropout:g}"

    @property
    def _cells(self) -> list[Cell]:
        return [layer for layer in self.layers if isinstance(layer, Cell)]

    # ---------------------------------------------------------------- parameters

    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        below = 0
        for layer in self._cells:
            layer.bind(below + (input_size if self.skip or not below else 0), dtype=dtype, generator_seed=0)
            below = layer.output_size

    def _draw(self, draws: torch.Generator) -> None:
        for layer in self._cells:
            layer.reset_parameters(int(torch.randint(2**62, (), generator=draws)))

    @torch.no_grad()
    def scale_inputs(self, gains: Float[Tensor, " input"]) -> None:
        """Multiply the weights on every column of the stack's inputs, in every layer that reads them."""
        for layer in self._cells if self.skip else self._cells[:1]:
            below = gains.new_ones(layer._require_bound() - len(gains))
            layer.scale_inputs(torch.cat([gains, below]))

    def initial_state(self, batch_shape: Sequence[int] = ()) -> Float[Tensor, "*batch state"]:
        """The learned starts of all layers, side by side."""
        self._require_bound()
        return torch.cat([layer.initial_state(batch_shape) for layer in self._cells], -1)

    # ---------------------------------------------------------------- running

    def _parts(self, state: Tensor) -> tuple[Tensor, ...]:
        return state.split([layer.state_size for layer in self._cells], -1)

    def output(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch output"]:
        """What the last layer shows, or all of them with `skip`, (*batch, output_size)."""
        shown = [layer.output(part) for layer, part in zip(self._cells, self._parts(state), strict=True)]
        return torch.cat(shown, -1) if self.skip else shown[-1]

    def state_metric(self, states: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch state"]:
        """Those of the layers, side by side."""
        return torch.cat([c.state_metric(part) for c, part in zip(self._cells, self._parts(states), strict=True)], -1)

    def _into(self, inputs: Tensor, below: Tensor | None) -> Tensor:
        """What a layer reads, from the stack's inputs and the output of the layer below."""
        if below is None:
            return inputs
        below = F.dropout(below, self.dropout, self.training) if self.dropout else below
        return torch.cat([inputs, below], -1) if self.skip else below

    def step(
        self, inputs: Float[Tensor, "*batch input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """The state after one more input, (*batch, state_size)."""
        self._require_bound()
        states, below = [], None
        for layer, part in zip(self._cells, self._parts(state), strict=True):
            states.append(layer.step(self._into(inputs, below), part))
            below = layer.output(states[-1])
        return torch.cat(states, -1)

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        shown: list[Tensor] = []
        for layer, part in zip(self._cells, self._parts(state), strict=True):
            shown.append(layer.sequence(self._into(inputs, shown[-1] if shown else None), part))
        return torch.cat(shown, -1) if self.skip else shown[-1]

    def carry(
        self, inputs: Float[Tensor, "*batch time input"], state: Float[Tensor, "*batch state"]
    ) -> tuple[Float[Tensor, "*batch time output"], Float[Tensor, "*batch state"]]:
        """sequence(x, s), and states(x, s)[:, -1] without its gradient, with one draw of what is dropped."""
        flat, start, batch_shape = self._flatten(inputs, state)
        shown: list[Tensor] = []
        after: list[Tensor] = []
        for layer, part in zip(self._cells, self._parts(start), strict=True):
            outputs, last = layer.carry(self._into(flat, shown[-1] if shown else None), part)
            shown.append(outputs)
            after.append(last)
        outputs = torch.cat(shown, -1) if self.skip else shown[-1]
        return outputs.reshape(*batch_shape, *outputs.shape[1:]), torch.cat(after, -1).reshape(*batch_shape, -1)

    def _whole(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self._layered(inputs, state, [layer.states for layer in self._cells])

    def _unroll(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self._layered(inputs, state, [layer.unrolled for layer in self._cells])

    def _layered(self, inputs: Tensor, state: Tensor, runs: Sequence[Callable[[Tensor, Tensor], Tensor]]) -> Tensor:
        """The states of all layers, each run over all steps by its own function."""
        states, below = [], None
        for layer, run, part in zip(self._cells, runs, self._parts(state), strict=True):
            states.append(run(self._into(inputs, below), part))
            below = layer.output(states[-1])
        return torch.cat(states, -1)
