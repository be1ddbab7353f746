"""How a speed is measured: values asserted equal first, then calls in turn, medians and their ratio."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

Call = Callable[[], object]
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
"""The second is for a machine that does other work meanwhile."""

COLUMNS = "probseq, ms | quartiles | best rival | its ms | times faster | others, ms |"

SLOW = 2.0
"""Seconds from which a call is timed once."""

BRIEF = 0.2
"""Seconds up to which a turn begins with a call that is not timed."""


def turns(calls: dict[str, Call], seconds: float, clock: str = "wall") -> dict[str, np.ndarray]:
    """Milliseconds of each call, taken in turn for about `seconds` each; one that takes long is repeated less.

    One that takes longer than SLOW is timed once.
    A turn lasts 5 ms or one call, after one that is not timed if calls take less than BRIEF: they run warm, as they
    would in a loop, and do not pay for the caches that rivals leave, nor for giving back the memory these dropped.
    """
    now = CLOCKS[clock]
    limits: dict[str, float] = {}
    lengths: dict[str, int] = {}
    brief: dict[str, bool] = {}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        if took <= SLOW:  # again, warm
            start = time.perf_counter()
            call()
            took = time.perf_counter() - start
        else:
            times[name].append(1e3 * took)
        brief[name] = took < BRIEF
        limits[name], lengths[name] = 1 if took > SLOW else max(3.0, seconds / took), max(1, int(5e-3 / took))
    end = time.perf_counter() + 2 * seconds * len(calls)
    while time.perf_counter() < end or min(len(kept) - min(limits[name], 3) for name, kept in times.items()) < 0:
        waiting = [name for name in calls if len(times[name]) < limits[name]]
        for name in waiting:
            if brief[name]:
                calls[name]()
            for _ in range(lengths[name]):
                start = now()
                calls[name]()
                times[name].append(1e3 * (now() - start))
        if not waiting:
            break
    return {name: np.array(kept) for name, kept in times.items()}


def compared(times: dict[str, np.ndarray], digits: int = 3) -> tuple[str, float]:
    """The columns ours, quartiles, best rival, its time, ratio, others; and how many times faster ours is."""
    medians = {name: float(np.median(kept)) for name, kept in times.items() if name != "probseq"}
    low, middle, high = np.percentile(times["probseq"], [25, 50, 75])
    best = min(medians, key=lambda name: medians[name])
    ratio = medians[best] / float(middle)
    others = ", ".join(f"{name} {value:.{digits}g}" for name, value in medians.items() if name != best)
    text = f"{middle:.3g} | {low:.3g}-{high:.3g} | {best} | {medians[best]:.3g} | {ratio:.2f} | {others} |"
    return text, ratio


def geometric_means(ratios: dict[str, list[float]]) -> str:
    """A table of geometric means and smallest ratios."""
    lines = ["| over | geometric mean | smallest |", "|---|---|---|"]
    for name, kept in ratios.items():
        if kept:
            lines.append(f"| {name} | {float(np.exp(np.mean(np.log(kept)))):.2f} | {min(kept):.2f} |")
    return "\n".join(lines)
