"""Where the weights of a simple recurrent network start, if not at a rotation.

| start                                      | U, recurrent (H, H)                          | W, inputs (H, D)       |
|--------------------------------------------|----------------------------------------------|------------------------|
| `EchoStateInit(1.1, fan_in, input_scale)`  | `fan_in` normal entries in each row, scaled  | N(0, `input_scale`^2)  |
|                                            | to the spectral radius                       |                        |
| `NormalInit(scale)`                        | N(0, `scale`^2)                              | N(0, `scale`^2)        |
| `RotationInit(scale)`                      | `scale` times a random rotation              | uniform, up to         |
|                                            |                                              | `scale` / sqrt(H)      |

At a spectral radius a little above one, signals neither fade nor swamp each other for many steps, so that a gradient
finds what lies far back; the scale of the inputs decides how much room they take, and wants trying (0.001 for sums of
two numbers, 0.1 for recalling a word). Inputs and targets should be centred, which a fit of an `RNN` sees to: inputs
are brought to mean 0 and spread 1, and the head starts at the marginal of the targets.

Units that are to store a bit for ever must saturate: a logistic unit with weight w to itself has two stable states only
for w > 4, a tanh unit for w > 1. A few units find such a memory, the state of an automaton, sooner from a rotation of
about that size (`RotationInit(3.0)` for the parity of bits) than from one that a default of size 1 has to grow.

Sutskever, I., Martens, J., Dahl, G. & Hinton, G. (2013). On the importance of initialization and momentum in deep
learning. ICML, section 4.1 and table 4.
Jaeger, H. & Haas, H. (2004). Harnessing nonlinearity. Science 304, 78-80.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probseq.checks import whole_number


class Initialization(abc.ABC):
    """To write: `recurrent`, `inputs`, `sizes`. All draws are float64."""

    @abc.abstractmethod
    def sizes(self) -> dict[str, Any]:
        """The constructor's arguments."""

    @abc.abstractmethod
    def recurrent(self, hidden_size: int, draws: torch.Generator) -> Tensor:
        """U, (hidden_size, hidden_size)."""

    @abc.abstractmethod
    def inputs(self, shape: Sequence[int], draws: torch.Generator) -> Tensor:
        """W, (hidden_size, input_size)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.sizes().items())})"


class EchoStateInit(Initialization):
    """Sparse recurrent weights of a wanted spectral radius; see the module's table."""

    def __init__(self, spectral_radius: float = 1.1, fan_in: int = 15, input_scale: float = 1.0) -> None:
        self.spectral_radius = _size("spectral_radius", spectral_radius)
        self.fan_in, self.input_scale = whole_number("fan_in", fan_in), _size("input_scale", input_scale)

    def sizes(self) -> dict[str, Any]:
        return {"spectral_radius": self.spectral_radius, "fan_in": self.fan_in, "input_scale": self.input_scale}

    def recurrent(self, hidden_size: int, draws: torch.Generator) -> Tensor:
        """Rows of min(fan_in, hidden_size) entries; ValueError where they close no loop, so that no scale helps."""
        shape = (hidden_size, hidden_size)
        weights = torch.randn(shape, generator=draws, dtype=torch.float64)
        rank = torch.rand(shape, generator=draws, dtype=torch.float64).argsort(-1).argsort(-1)
        weights *= rank < self.fan_in
        radius = float(torch.linalg.eigvals(weights).abs().max())
        if not radius > 1e-8 * float(weights.norm()):
            raise ValueError(f"fan_in {self.fan_in} leaves {hidden_size} units without a loop: raise it")
        return weights * (self.spectral_radius / radius)

    def inputs(self, shape: Sequence[int], draws: torch.Generator) -> Tensor:
        return self.input_scale * torch.randn(*shape, generator=draws, dtype=torch.float64)


class NormalInit(Initialization):
    """Independent normal weights, the start that long dependencies defeat."""

    def __init__(self, scale: float = 0.01) -> None:
        self.scale = _size("scale", scale)

    def sizes(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def recurrent(self, hidden_size: int, draws: torch.Generator) -> Tensor:
        return self.inputs((hidden_size, hidden_size), draws)

    def inputs(self, shape: Sequence[int], draws: torch.Generator) -> Tensor:
        return self.scale * torch.randn(*shape, generator=draws, dtype=torch.float64)


class RotationInit(Initialization):
    """A rotation or reflection, `scale` times as long, drawn uniformly (Haar)."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = _size("scale", scale)

    def sizes(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def recurrent(self, hidden_size: int, draws: torch.Generator) -> Tensor:
        normal = torch.randn(hidden_size, hidden_size, generator=draws, dtype=torch.float64)
        rotation, triangle = torch.linalg.qr(normal)
        return self.scale * rotation * torch.where(triangle.diagonal() < 0, -1.0, 1.0)

    def inputs(self, shape: Sequence[int], draws: torch.Generator) -> Tensor:
        return (2 * torch.rand(*shape, generator=draws, dtype=torch.float64) - 1) * self.scale / math.sqrt(shape[0])


def _size(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)
