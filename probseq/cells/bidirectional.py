"""Two cells that read a sequence from both ends, for models that see all of it before they answer.

    h_t = forward cell's output after x_0 .. x_t;    k_t = backward cell's output after x_{T-1} .. x_t
    output_t = (h_t, k_t)

No `Cell`: what it says about step t depends on later steps, so there is no `step` and no belief to filter with. Each
sequence is turned round within its own length, whatever the padding holds.

Schuster, M. & Paliwal, K. (1997). Bidirectional recurrent neural networks. IEEE Trans. Signal Processing 45.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probseq.cells.base import Cell
from probseq.randomness import spawn


class Bidirectional(nn.Module):
    """A reader of whole sequences made of two cells, `Bidirectional(LSTM(32), LSTM(32))`."""

    def __init__(self, ahead: Cell, back: Cell) -> None:
        super().__init__()
        if not isinstance(ahead, Cell) or not isinstance(back, Cell):
            raise TypeError(f"ahead and back must be Cells such as probseq.cells.GRU(16), got {ahead!r} and {back!r}")
        if ahead.n_given or back.n_given:
            raise TypeError("ahead and back must not have given units: Clamped runs forwards")
        if ahead is back:
            raise ValueError("ahead and back must be different cells, got the same one twice")
        self.ahead, self.back = ahead, back
        self.output_size = ahead.output_size + back.output_size

    def sizes(self) -> dict[str, Any]:
        """The constructor's arguments that rebuild this reader up to its weights."""
        return {"ahead": self.ahead, "back": self.back}

    def bind(self, input_size: int, *, dtype: torch.dtype | None = None, generator_seed: int | None = None) -> None:
        """Create the parameters of both cells for inputs of this width."""
        for cell, seed in zip((self.ahead, self.back), spawn(generator_seed, 2), strict=True):
            cell.bind(input_size, dtype=dtype, generator_seed=seed)

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw new weights, a function of `seed` alone."""
        for cell, own in zip((self.ahead, self.back), spawn(seed, 2), strict=True):
            cell.reset_parameters(own)

    def read(
        self, inputs: Float[Tensor, "batch time input"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch time output"], Float[Tensor, "batch output"]]:
        """The outputs at every step, and those of each cell after the last step it reads (lengths at least 1)."""
        batch = (len(inputs),)
        turned = reverse(inputs, lengths)
        ahead = self.ahead.sequence(inputs, self.ahead.initial_state(batch))
        back = self.back.sequence(turned, self.back.initial_state(batch))
        return joined(ahead, back, lengths)

    def unrolled(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The states of both cells (B, T, .), each in the order in which it reads; see `Cell.unrolled`."""
        batch = (len(inputs),)
        ahead = self.ahead.unrolled(inputs, self.ahead.initial_state(batch))
        return ahead, self.back.unrolled(reverse(inputs, lengths), self.back.initial_state(batch))


def joined(ahead: Tensor, back: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of both cells, each in its own order: at every step, and after the last step that each reads."""
    return (
        torch.cat([ahead, reverse(back, lengths)], -1),
        torch.cat([last(ahead, lengths), last(back, lengths)], -1),
    )


def reverse(values: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence of (B, T, D) turned round within its own length; padding stays where it is."""
    steps = torch.arange(values.shape[1]).expand(values.shape[:2])
    index = torch.where(steps < lengths.unsqueeze(-1), lengths.unsqueeze(-1) - 1 - steps, steps)
    return values.gather(1, index.unsqueeze(-1).expand_as(values))


def last(values: Tensor, lengths: Tensor) -> Tensor:
    """The last step of each sequence of (B, T, D) within its length, (B, D)."""
    index = (lengths - 1).clamp(min=0).reshape(-1, 1, 1).expand(-1, 1, values.shape[-1])
    return values.gather(1, index).squeeze(1)
