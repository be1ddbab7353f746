"""Rates and momenta that change during training: functions of (updates done, updates planned).

    rate_t = learning_rate * schedule(t, n)

| schedule        | factor                                                                                     |
|-----------------|--------------------------------------------------------------------------------------------|
| None            | 1                                                                                          |
| "linear"        | 1 - t / n                                                                                  |
| your function   | whatever it returns, `lambda t, n: 0.999**t`                                               |

`SutskeverMomentum` is the momentum schedule of Sutskever, Martens, Dahl & Hinton (2013), On the importance of
initialization and momentum in deep learning, ICML, equation (5) and section 3.1:

    mu_t = min(1 - 2^(-1 - log2(floor(t / 250) + 1)), largest),   and `at_end` for the last updates

so it grows like that which is best for convex functions, 1/2, 3/4, 5/6, ..., up to its bound; the lower momentum at
the end lets parameters come to rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Schedule = Callable[[int, int], float]


def linear(done: int, planned: int) -> float:
    """1 - t / n."""
    return 1.0 - done / planned


def constant(value: float) -> Schedule:
    """The same number always."""
    return lambda done, planned: value


@dataclass(frozen=True)
class SutskeverMomentum:
    """mu_t of the module's equation; the last `n_last` updates have `at_end`."""

    largest: float = 0.99
    at_end: float = 0.9
    n_last: int = 1000

    def __post_init__(self) -> None:
        for name, value in (("largest", self.largest), ("at_end", self.at_end)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value!r}")

    def __call__(self, done: int, planned: int) -> float:
        if planned - done <= self.n_last:
            return min(self.at_end, self.largest)
        return min(1.0 - 2.0 ** (-1.0 - math.log2(done // 250 + 1)), self.largest)


def rate_schedule(given: Schedule | Literal["linear"] | None) -> Schedule:
    """The factor of the learning rate."""
    if given is None:
        return constant(1.0)
    if given == "linear":
        return linear
    if not callable(given):
        raise ValueError(f'schedule must be "linear" or a function of (updates done, updates planned), got {given!r}')
    return given


def momentum_schedule(given: Schedule | float) -> Schedule:
    """The momentum, a number in [0, 1) or a function."""
    if callable(given):
        return given
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < 1:
        raise ValueError(f"momentum must be in [0, 1) or a function of (updates done, planned), got {given!r}")
    return constant(float(given))
