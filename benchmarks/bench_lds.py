"""Linear dynamical systems against every rival: `python -m benchmarks.bench_lds [--quick] [--cells 4x2x10000x1]`."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import grid
from benchmarks import lds_rivals as R
from benchmarks.timing import COLUMNS, compared, turns

Cell = tuple[int, int, int, int]
CELLS: list[Cell] = [(2, 1, 1_000, 1), (4, 2, 10_000, 1), (10, 5, 2_000, 1), (50, 20, 500, 1), (2, 1, 200, 1_000)]
MANY: list[Cell] = [(2, 1, 200, 1_000), (4, 2, 1_000, 1_000)]
MISSING = (0.0, 0.2)


def agree(operation: str, ours: Any, theirs: Any, name: str) -> None:
    """Fail unless both computed the same thing."""
    if operation == "log-likelihood":
        np.testing.assert_allclose(np.sum(np.asarray(theirs)), np.sum(np.asarray(ours)), rtol=1e-8)
    elif operation == "smoother":
        np.testing.assert_allclose(
            np.asarray(theirs).ravel(), np.asarray(ours).ravel(), rtol=0, atol=1e-6 * np.abs(np.asarray(ours)).max()
        )
    elif operation == "gradient":
        np.testing.assert_allclose(np.sum(np.asarray(theirs[0])), np.sum(np.asarray(ours[0])), rtol=1e-8)
        if theirs[1] is not None:
            parts = (ours[1], theirs[1])
            own, other = (part if isinstance(part, np.ndarray) else R.flat_gradient(part) for part in parts)
            np.testing.assert_allclose(other, own, rtol=0, atol=1e-5 * np.abs(own).max())
    else:
        for a, b in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-7)


FRAME = grid.Frame("n, m, T, sequences | missing", R.OPERATIONS, R.problem_of, R.ours, R.RIVALS, agree)


def rows(cells: list[Cell]) -> list[grid.Row]:
    return [
        (f"{', '.join(f'{size:,}' for size in cell)} | {missing:.0%}", (*cell, missing))
        for cell in cells
        for missing in MISSING
    ]


def table(cells: list[Cell], seconds: float, clock: str = "wall") -> None:
    together = {"log-likelihood and smoother": ("log-likelihood", "smoother")}
    grid.grid(FRAME, rows(cells), seconds, clock, together=together)


def trend(_: Any, seconds: float, clock: str = "wall") -> None:
    """A local linear trend on 1,000 points from a diffuse start: value with gradient, and the complete fit."""
    y = R.trend_data()
    fits, gradients = R.trend_fits(y), R.trend_gradients(y)
    expected = np.asarray(fits["probseq"]())
    for name in [name for name in fits if name != "probseq"]:
        np.testing.assert_allclose(np.asarray(fits[name]()), expected, rtol=0.05, err_msg=name)
    own, other = (gradients[name]() for name in ("probseq", "statsmodels exact diffuse"))
    np.testing.assert_allclose(own[0], other[0], rtol=1e-8)
    np.testing.assert_allclose(np.concatenate(own[1]), other[1], rtol=1e-5)
    print(f"\n| local linear trend, 1,000 points | {COLUMNS}\n|---|---|---|---|---|---|---|")
    for operation, calls in [("value with gradient", gradients), ("complete fit", fits)]:
        print(f"| {operation} | {compared(turns(calls, seconds, clock))[0]}", flush=True)


def threads(_: Any, seconds: float, clock: str = "wall") -> None:
    grid.two_threads(FRAME, rows(MANY), seconds, clock)


FIRST = """
import time, resource
from benchmarks import lds_rivals as R
problem = R.problem_of(4, 2, 10_000, 1, 0.0)
make = R.ours if {name!r} == "probseq" else R.RIVALS[{name!r}]
calls = make(problem)
start = time.perf_counter()
calls["log-likelihood"]()
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def first(*_: Any) -> None:
    """First calls with n = 4, m = 2, T = 10,000."""
    grid.first_calls(FIRST, R.RIVALS)


PARTS = {"grid": table, "trend": trend, "threads": threads, "first": first}


def everything(seconds: float) -> None:
    """All tables."""
    grid.one_core()
    for part in PARTS.values():
        part(CELLS, seconds)


if __name__ == "__main__":
    grid.run_parts(__doc__, CELLS, PARTS, (0.1, 0.5))
