"""Checks of single arguments, with one wording for all."""

from __future__ import annotations

import numbers
from typing import Any


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int of at least `least`. Raises ValueError naming the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        words = {0: "a non-negative integer", 1: "a positive integer"}.get(least, f"an integer of at least {least}")
        raise ValueError(f"{name} must be {words}, got {value!r}")
    return int(value)


def share(name: str, value: Any) -> float:
    """`value` as a float between 0 and 1, both left out. Raises ValueError naming the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value!r}")
    return float(value)
