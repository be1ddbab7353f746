"""How a speed is measured: values asserted equal first, then many alternating repeats, medians and their ratio."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Result:
    """One comparison: medians in milliseconds and how many times faster ours is."""

    case: str
    operation: str
    ours: float
    rival: str
    theirs: float
    alone: float | None = None

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours

    def row(self) -> str:
        alone = "" if self.alone is None else f"{self.alone:.3g}"
        return (
            f"| {self.case} | {self.operation} | {self.ours:.3g} | {alone} | {self.rival} | {self.theirs:.3g} "
            f"| {self.ratio:.1f} |"
        )


HEADER = (
    "| case | operation | probseq, ms | op alone, ms | rival | rival, ms | times faster |\n"
    "|---|---|---|---|---|---|---|"
)


def agree(ours: object, theirs: object, tolerance: float = 1e-9) -> None:
    """Fail unless both computed the same thing."""
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=tolerance, atol=tolerance)


def medians(*calls: Callable[[], object], seconds: float = 3.0) -> list[float]:
    """Median milliseconds of each call, taken in turn for about `seconds` seconds in all (at least 7 rounds)."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 7:
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            kept.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(kept)) for kept in times]
