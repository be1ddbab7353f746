"""The gated recurrent unit of Cho et al. (2014): each unit decides how much of itself to keep.

    r_t = sigma(W_r x_t + U_r h_{t-1} + b_r)                    # how much of the past the candidate sees
    z_t = sigma(W_z x_t + U_z h_{t-1} + b_z)                    # how much of the past is kept
    n_t = tanh(W_n x_t + b_n + r_t * (U_n h_{t-1} + c_n))       # the candidate
    h_t = (1 - z_t) * n_t + z_t * h_{t-1}

| symbol               | shape            | meaning                                             |
|----------------------|------------------|-----------------------------------------------------|
| x_t                  | (*batch, input)  | the input                                           |
| h_t                  | (*batch, H)      | activities, the whole state                         |
| r_t, z_t, n_t        | (*batch, H)      | reset gate, update gate, candidate                  |
| W, U                 | (3 H, .)         | blocks in the order r, z, n                         |
| b_r, b_z, b_n, c_n   | (H,) each        | `bias`, (4 H,), in this order                       |

With `memory_span=n` the update gates start so that units keep what they know for 2 to n steps; two steps without it
(`probseq.cells.gated`).

The reset gate acts after the product with U_n, as in cuDNN and torch.nn.GRU, whose weights can be copied in
(add torch's two biases of r and of z). Cho et al. apply it before the product; the two learn alike.

Cho, K. et al. (2014). Learning phrase representations using RNN encoder-decoder. EMNLP, equations (5)-(8).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from probseq.cells.gated import GatedCell, checked_span, keeping_biases
from probseq.checks import whole_number


class GRU(GatedCell):
    """The gated recurrent unit; see the module's equations."""

    def __init__(
        self,
        hidden_size: int,
        *,
        memory_span: int | None = None,
        layer_norm: bool = False,
        input_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        hidden_size = whole_number("hidden_size", hidden_size)
        self.memory_span = checked_span(memory_span)
        super().__init__(
            hidden_size,
            gates=3,
            bias_start=(0.0,) * 4,
            state_size=hidden_size,
            layer_norm=layer_norm,
            input_size=input_size,
            dtype=dtype,
            seed=seed,
        )

    def sizes(self) -> dict[str, Any]:
        return {**super().sizes(), "memory_span": self.memory_span}

    def _draw(self, draws: torch.Generator) -> None:
        super()._draw(draws)
        if self.memory_span is not None:
            hidden = self.hidden_size
            self.bias[hidden : 2 * hidden] = keeping_biases(self.memory_span, hidden)

    def _advance(self, projected: Tensor, state: Tensor) -> Tensor:
        size = self.hidden_size
        recurrent = self._recurrent(state)
        gates = torch.sigmoid(projected[..., : 2 * size] + recurrent[..., : 2 * size])
        reset, keep = gates.chunk(2, dim=-1)
        past = recurrent[..., 2 * size :] + self.bias[3 * size :]
        proposed = torch.tanh(projected[..., 2 * size :] + reset * past)
        return proposed + keep * (state - proposed)

    def _compiled(self, inputs: Tensor, state: Tensor) -> Tensor:
        size = self.hidden_size
        into, recurrent, bias, _ = self._torch_weights()
        second_bias = torch.cat([self.bias.new_zeros(2 * size), self.bias[3 * size :]])
        weights = [into, recurrent, bias, second_bias]
        start = state.unsqueeze(0).contiguous()
        return torch.gru(inputs, start, weights, True, 1, 0.0, self.training, False, True)[0]
