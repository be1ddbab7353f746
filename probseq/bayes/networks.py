"""Small networks that stochastic recurrent models are made of: linear maps, layers, the gated transition.

    Dense:             W x + b
    Layers:            relu(W_k ... relu(W_1 x + b_1) ... + b_k), nothing at all for no sizes
    Spread:            the mean and the standard deviation of a diagonal Gaussian, floor + softplus(.)
    GatedTransition:   g = sigma(G_2 relu(G_1 x));  m = H_2 relu(H_1 x);  x = (z_{t-1}, u_t)
                       mean = (1 - g) (A z_{t-1} + a) + g m;  scale = floor + softplus(S relu(m) + s)

The gate lets a coordinate move linearly where that is enough: A starts at the identity. With g = 0 and S = 0 the
transition is linear with constant noise (Krishnan, Shalit and Sontag 2017, arXiv:1609.09869, section 5).

All weights are drawn in float64 from a seed alone, uniform on (-1, 1) / sqrt(inputs); biases start at zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probseq.cells import Cell
from probseq.parameters import allow
from probseq.randomness import generator, seeded, spawn

#: the least standard deviation of a state: its unit is free, so that this is relative to a spread of about 1
FLOOR = 1e-4


class Law(NamedTuple):
    """A Gaussian with independent coordinates, both fields (*batch, n)."""

    mean: Tensor
    scale: Tensor


class Dense(nn.Module):
    """W x + b with W (n_outputs, n_inputs)."""

    def __init__(self, n_inputs: int, n_outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(allow(n_outputs, n_inputs), dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(n_outputs, dtype=dtype))

    @torch.no_grad()
    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw the weights, a function of `seed` alone."""
        drawn = torch.rand(self.weights.shape, generator=generator(seed), dtype=torch.float64)
        self.weights.copy_((2.0 * drawn - 1.0) / math.sqrt(max(self.weights.shape[1], 1)))
        self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weights, self.bias)


class Layers(nn.Module):
    """Rectified layers of the given sizes; `n_outputs` is the last of them, or `n_inputs` for none."""

    def __init__(self, n_inputs: int, sizes: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        widths = [n_inputs, *sizes]
        self.n_outputs = widths[-1]
        self.parts = nn.ModuleList(Dense(a, b, dtype) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = torch.relu(part(x))
        return x


class Spread(nn.Module):
    """A Gaussian `Law` from what is known; its standard deviations start about `start`."""

    def __init__(self, n_inputs: int, state_dim: int, dtype: torch.dtype, start: float = 1.0) -> None:
        super().__init__()
        self.state_dim, self.start = state_dim, start
        self.out = Dense(n_inputs, 2 * state_dim, dtype)

    @torch.no_grad()
    def settle(self) -> None:
        """After a draw of the weights: the bias says `start`."""
        self.out.bias[self.state_dim :] = math.log(math.expm1(self.start))

    def forward(self, x: Tensor) -> Law:
        both = self.out(x)
        return Law(both[..., : self.state_dim], FLOOR + F.softplus(both[..., self.state_dim :]))


class GatedTransition(nn.Module):
    """p(z_t | z_{t-1}, u_t); see the module's equations."""

    def __init__(self, state_dim: int, input_dim: int, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.state_dim = state_dim
        self.first = Dense(state_dim + input_dim, 2 * size, dtype)  # of the gate, then of the proposed mean
        self.gate, self.proposed = Dense(size, state_dim, dtype), Dense(size, state_dim, dtype)
        self.linear, self.spread = Dense(state_dim, state_dim, dtype), Dense(state_dim, state_dim, dtype)

    @torch.no_grad()
    def settle(self) -> None:
        """After a draw of the weights: the linear part starts at the identity."""
        self.linear.weights.copy_(torch.eye(self.state_dim))

    def forward(self, z: Tensor, u: Tensor | None) -> Law:
        hidden = torch.relu(self.first(z if u is None else torch.cat([z, u], -1)))
        for_gate, for_mean = hidden.chunk(2, -1)
        gate, proposed = torch.sigmoid(self.gate(for_gate)), self.proposed(for_mean)
        linear = self.linear(z)
        scale = FLOOR + F.softplus(self.spread(torch.relu(proposed)))
        return Law(linear + gate * (proposed - linear), scale)


def draw_weights(module: nn.Module, seed: int | None) -> None:
    """Draw anew every cell and linear map inside, in their order, then let the networks settle their starts."""
    parts = [part for part in module.modules() if isinstance(part, (Dense, Cell, nn.Linear))]
    for part, own in zip(parts, spawn(seed, len(parts)), strict=True):
        if isinstance(part, nn.Linear):  # of Pyro's flows
            with seeded(own):
                part.reset_parameters()
        else:
            part.reset_parameters(own)
    for part in module.modules():
        if isinstance(part, (Spread, GatedTransition)):
            part.settle()


def joined(x: Tensor, u: Tensor | None) -> Tensor:
    """x and the inputs, if there are any, side by side."""
    return x if u is None else torch.cat([x, u], -1)
