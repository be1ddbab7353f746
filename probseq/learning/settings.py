"""How a network is trained: the options of `fit` that are for stochastic gradients, checked.

| option          | meaning                                                                                            |
|-----------------|----------------------------------------------------------------------------------------------------|
| `optimizer`     | "adam", "momentum", "nesterov", any class of `torch.optim` or its name; `optimizer_options` for it |
| `learning_rate` | in the optimiser's own sense, times `schedule`: "linear" or a function of (updates done, planned)  |
| `momentum`      | of "momentum" and "nesterov": a number or a function, see `SutskeverMomentum`                      |
| `batch_size`    | sequences in an update; a pass over all of them is an iteration                                    |
| `truncate`      | truncated backpropagation: so many steps in an update, the state carried from window to window     |
| `streams`       | with `truncate`: each sequence is cut into so many, read side by side                              |
| `clip_norm`     | largest joint norm of the gradient of the loss in nats per observed step; None: no bound           |
| `clip_value`    | largest size of one entry, applied first                                                           |
| `weight_noise`  | standard deviation of noise on the weights, or `AdaptiveNoise()`, whose own is learned             |
| `patience`      | passes without a better validation score before training stops                                     |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from probseq.checks import whole_number
from probseq.learning.optimizers import find_optimizer
from probseq.learning.schedules import Schedule, momentum_schedule, rate_schedule
from probseq.learning.weight_noise import AdaptiveNoise


@dataclass(frozen=True)
class Training:
    """The options of the module's table. Raises ValueError naming the option."""

    optimizer: str | Callable[..., Any] = "adam"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    learning_rate: float = 1e-2
    schedule: Schedule | Literal["linear"] | None = None
    momentum: Schedule | float = 0.9
    batch_size: int = 64
    truncate: int | None = None
    streams: int = 1
    clip_norm: float | None = 1.0
    clip_value: float | None = None
    weight_noise: float | AdaptiveNoise | None = None
    patience: int = 50

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", find_optimizer(self.optimizer))
        rate_schedule(self.schedule)
        momentum_schedule(self.momentum)
        for name in ("batch_size", "streams", "patience"):
            whole_number(name, getattr(self, name))
        if self.truncate is not None:
            whole_number("truncate", self.truncate)
        elif self.streams > 1:
            raise ValueError(f"streams cuts sequences for truncate, which is not given; got streams={self.streams}")
        _positive("learning_rate", self.learning_rate)
        for name in ("clip_norm", "clip_value", "weight_noise"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), AdaptiveNoise):
                _positive(name, getattr(self, name))

    @property
    def label(self) -> str:
        """The optimiser's name, for people."""
        return self.optimizer.capitalize() if isinstance(self.optimizer, str) else str(self.optimizer.__name__)


def training(optimizer: Any, options: Mapping[str, Any]) -> Training:
    """The settings, or a ValueError that names an option there is not."""
    known = [entry.name for entry in fields(Training)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"unknown option {unknown[0]!r} of fit; for all families there are method, n_restarts, validation, seed, "
            f"max_iterations, tolerance, fixed, and for stochastic gradients {', '.join(known)}"
        )
    return Training(optimizer=optimizer, **options)


def _positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
