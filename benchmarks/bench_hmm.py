"""Hidden Markov models against every rival: `python -m benchmarks.bench_hmm [--quick] [--cells 8x4x10000x1 ...]`."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks import grid
from benchmarks import hmm_rivals as R

Cell = tuple[int, int, int, int]
CELLS: list[Cell] = [(3, 2, 1_000, 1), (8, 4, 10_000, 1), (32, 8, 10_000, 1), (128, 8, 2_000, 1), (4, 2, 100, 1_000)]
MANY: list[Cell] = [(4, 2, 100, 1_000), (8, 4, 1_000, 1_000)]
KINDS = ("Gaussian", "categorical")


def agree(operation: str, ours: Any, theirs: Any, name: str) -> None:
    """Fail unless both computed the same thing."""
    if operation in ("log-likelihood", "gradient"):
        np.testing.assert_allclose(np.sum(np.asarray(theirs)), np.sum(np.asarray(ours)), rtol=1e-9)
    elif operation == "posterior":
        np.testing.assert_allclose(np.asarray(theirs), np.asarray(ours), rtol=0, atol=1e-7)
    elif operation == "Viterbi":  # a tie may go either way
        assert np.mean(np.asarray(theirs) == np.asarray(ours)) > 0.999, name
    else:
        for a, b in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-6, atol=1e-8)


FRAME = grid.Frame("emission | K, D, T, sequences", R.OPERATIONS, R.problem_of, R.ours, R.RIVALS, agree)

FIRST = """
import time, resource
from benchmarks import hmm_rivals as R
problem = R.problem_of("Gaussian", 8, 4, 10_000, 1)
make = R.ours if {name!r} == "probseq" else R.RIVALS[{name!r}]
calls = make(problem)
start = time.perf_counter()
calls["log-likelihood"]()
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
LONG = """
import resource, numpy as np, torch
import probseq as ps
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
from benchmarks import hmm_rivals as R
small = R.problem_of("categorical", 8, 1, 1_000, 1)
model = R.our_model(small)
model.smooth(small.y[0]); before = peak()
y = np.random.default_rng(0).integers(0, R.N_SYMBOLS, (1_000_000, 1)).astype(float)
probs = model.smooth(y).probs
print(before, peak())
"""


def rows(kinds: tuple[str, ...], cells: list[Cell]) -> list[grid.Row]:
    return [(f"{kind} | {', '.join(f'{size:,}' for size in cell)}", (kind, *cell)) for kind in kinds for cell in cells]


def table(cells: list[Cell], seconds: float, clock: str = "wall") -> None:
    grid.grid(FRAME, rows(KINDS, cells), seconds, clock, together={"all but the gradient": R.OPERATIONS[:-1]})


def threads(_: list[Cell], seconds: float, clock: str = "wall") -> None:
    grid.two_threads(FRAME, rows(KINDS[:1], MANY), seconds, clock)


def first(*_: Any) -> None:
    """First calls with K = 8, T = 10,000, and the memory of a long sequence."""
    grid.first_calls(FIRST, R.RIVALS)
    found = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    before, after = map(float, found.stdout.split())
    print(f"\nOne million steps with 8 states, smoothed: {after:.0f} MB at the peak, {before:.0f} before it.")


PARTS = {"grid": table, "threads": threads, "first": first}


def everything(seconds: float) -> None:
    """All tables."""
    grid.one_core()
    for part in PARTS.values():
        part(CELLS, seconds)


if __name__ == "__main__":
    grid.run_parts(__doc__, CELLS, PARTS, (0.25, 1.0))
