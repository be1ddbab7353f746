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


SLOW = 2.0
"""Seconds from which a call is timed once."""


def turns(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, np.ndarray]:
    """Milliseconds of each call, taken in turn for about `seconds` each; one that takes long is repeated less.

    A turn lasts 5 ms or one call: short calls run warm, as they would in a loop, not on the caches the rivals leave.
    """
    limits: dict[str, float] = {}
    lengths: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        if took > SLOW:
            times[name].append(1e3 * took)
        limits[name], lengths[name] = 1 if took > SLOW else max(3.0, seconds / took), max(1, int(5e-3 / took))
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or min(len(kept) - min(limits[name], 3) for name, kept in times.items()) < 0:
        waiting = [name for name in calls if len(times[name]) < limits[name]]
        for name in waiting:
            for _ in range(lengths[name]):
                start = time.perf_counter()
                calls[name]()
                times[name].append(1e3 * (time.perf_counter() - start))
        if not waiting:
            break
    return {name: np.array(kept) for name, kept in times.items()}


def compared(times: dict[str, np.ndarray], decimals: int = 3) -> tuple[str, float]:
    """The columns ours, quartiles, best rival, its time, ratio, others; and how many times faster ours is."""
    medians = {name: float(np.median(kept)) for name, kept in times.items() if name != "probseq"}
    low, middle, high = np.percentile(times["probseq"], [25, 50, 75])
    best = min(medians, key=lambda name: medians[name])
    ratio = medians[best] / float(middle)
    others = ", ".join(f"{name} {value:.{decimals}g}" for name, value in medians.items() if name != best)
    text = f"{middle:.3g} | {low:.3g}-{high:.3g} | {best} | {medians[best]:.3g} | {ratio:.2f} | {others} |"
    return text, ratio


def geometric_means(ratios: dict[str, list[float]]) -> str:
    """A table of geometric means and smallest ratios."""
    lines = ["| over | geometric mean | smallest |", "|---|---|---|"]
    for name, kept in ratios.items():
        if kept:
            lines.append(f"| {name} | {float(np.exp(np.mean(np.log(kept)))):.2f} | {min(kept):.2f} |")
    return "\n".join(lines)
