"""Long short-term memory: a memory cell that is written, kept and read through gates.

    i_t, f_t, o_t = sigma(W_. x_t + U_. h_{t-1} + b_.)          # input, forget and output gate
    g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)                     # what may be written
    c_t = f_t * c_{t-1} + i_t * g_t                             # memory
    h_t = o_t * tanh(c_t)                                       # what the rest of the network sees

| symbol          | shape            | meaning                                                      |
|-----------------|------------------|--------------------------------------------------------------|
| x_t             | (*batch, input)  | the input                                                    |
| h_t, c_t        | (*batch, H)      | hidden activities, memory; the state is (h_t, c_t), (*, 2 H) |
| W, U, `bias`    | (4 H, .)         | blocks in the order i, f, g, o (torch's)                     |

The forget gate starts open (`forget_bias`, 1 by default), so that memory survives long enough at the start of
training for its use to be learned (Jozefowicz, Zaremba & Sutskever 2015).

`sequence` runs torch's compiled kernel, which returns h_t only; `states` needs every c_t and runs the loop.

Hochreiter, S. & Schmidhuber, J. (1997). Long short-term memory. Neural Computation 9, 1735-1780.
Gers, F., Schmidhuber, J. & Cummins, F. (2000). Learning to forget. Neural Computation 12, 2451-2471.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from probseq.cells.base import Cell


class LSTM(Cell):
    """Long short-term memory without peepholes; see the module's equations."""

    def __init__(
        self,
        hidden_size: int,
        *,
        forget_bias: float = 1.0,
        input_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        if not math.isfinite(forget_bias):
            raise ValueError(f"forget_bias must be finite, got {forget_bias!r}")
        start = (0.0, float(forget_bias), 0.0, 0.0)
        super().__init__(
            hidden_size, gates=4, bias_start=start, state_parts=2, input_size=input_size, dtype=dtype, seed=seed
        )
        self.forget_bias = float(forget_bias)

    def sizes(self) -> dict[str, Any]:
        return {**super().sizes(), "forget_bias": self.forget_bias}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, forget_bias={self.forget_bias:g}"

    def _advance(self, projected: Tensor, state: Tensor) -> Tensor:
        hidden, memory = state.chunk(2, dim=-1)
        write, forget, proposed, read = self._recur(projected, hidden).chunk(4, dim=-1)
        memory = torch.sigmoid(forget) * memory + torch.sigmoid(write) * torch.tanh(proposed)
        return torch.cat([torch.sigmoid(read) * torch.tanh(memory), memory], dim=-1)

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        hidden, memory = (part.contiguous() for part in state.unsqueeze(0).chunk(2, dim=-1))
        return torch.lstm(inputs, [hidden, memory], self._torch_weights(), True, 1, 0.0, self.training, False, True)[0]
