"""Linear dynamical systems against every rival: `python -m benchmarks.bench_lds [--quick] [--cells 4x2x10000x1 ...]`.

Every call is checked against ours before it is timed. Then all libraries take turns; a cell of the table is the median,
with the quartiles of ours. One thread is one core: the process is bound to it, whatever pools a library has.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks import lds_rivals as R  # noqa: E402
from benchmarks.timing import COLUMNS, compared, geometric_means, turns  # noqa: E402

Cell = tuple[int, int, int, int]
CELLS: list[Cell] = [(2, 1, 1_000, 1), (4, 2, 10_000, 1), (10, 5, 2_000, 1), (50, 20, 500, 1), (2, 1, 200, 1_000)]
MISSING = (0.0, 0.2)
CORES = sorted(os.sched_getaffinity(0))
HEADER = f"| n, m, T, sequences | missing | operation | {COLUMNS}\n|---|---|---|---|---|---|---|---|---|"


def agree(operation: str, ours: Any, theirs: Any) -> None:
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


def bench(
    cell: Cell, missing: float, seconds: float, left_out: dict[str, str], clock: str
) -> Iterable[tuple[str, Any]]:
    """Pairs (operation, {library: milliseconds}) of one cell."""
    problem = R.problem_of(*cell, missing)
    libraries = {"probseq": R.ours(problem)}
    for name, make in R.RIVALS.items():
        try:
            libraries[name] = make(problem)
        except Exception as error:
            left_out[f"{name}, {cell}, {missing:.0%} missing"] = said(error)
    for operation in R.OPERATIONS:
        calls = {name: table[operation] for name, table in libraries.items() if operation in table}
        expected = calls["probseq"]()
        for name in [name for name in calls if name != "probseq"]:
            try:
                agree(operation, expected, calls[name]())
            except Exception as error:
                left_out[f"{name}, {operation}, {cell}, {missing:.0%} missing"] = said(error)
                del calls[name]
        yield operation, turns(calls, seconds, clock)


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def grid(cells: list[Cell], seconds: float, clock: str = "wall") -> None:
    ratios: dict[str, list[float]] = {operation: [] for operation in R.OPERATIONS}
    left_out: dict[str, str] = {}
    print(HEADER)
    for cell in cells:
        for missing in MISSING:
            for operation, times in bench(cell, missing, seconds, left_out, clock):
                if len(times) > 1:
                    text, ratio = compared(times)
                    ratios[operation].append(ratio)
                    sizes = ", ".join(f"{size:,}" for size in cell)
                    print(f"| {sizes} | {missing:.0%} | {operation} | {text}", flush=True)
    ratios["log-likelihood and smoother"] = ratios["log-likelihood"] + ratios["smoother"]
    print("\n" + geometric_means(ratios))
    print("\nLeft out:" + "".join(f"\n- {name}: {why}" for name, why in left_out.items()) if left_out else "")


def trend(seconds: float, clock: str = "wall") -> None:
    """A local linear trend on 1,000 points from a diffuse start: value with gradient, and the complete fit."""
    y = R.trend_data()
    fits, gradients = R.trend_fits(y), R.trend_gradients(y)
    expected = np.asarray(fits["probseq"]())
    for name in [name for name in fits if name != "probseq"]:
        np.testing.assert_allclose(np.asarray(fits[name]()), expected, rtol=0.05, err_msg=name)
    own, other = (gradients[name]() for name in ("probseq", "statsmodels exact diffuse"))
    np.testing.assert_allclose(own[0], other[0], rtol=1e-8)
    np.testing.assert_allclose(own[1], other[1], rtol=1e-5)
    print(f"\n| local linear trend, 1,000 points | {COLUMNS}\n|---|---|---|---|---|---|---|")
    for operation, calls in [("value with gradient", gradients), ("complete fit", fits)]:
        print(f"| {operation} | {compared(turns(calls, seconds, clock))[0]}", flush=True)


def two_threads(seconds: float, clock: str = "wall") -> None:
    """Ours with one and two threads, on many sequences."""
    os.sched_setaffinity(0, CORES)
    print("\n| 1,000 sequences: n, m, T | missing | operation | one thread, ms | two, ms | times faster |")
    print("|---|---|---|---|---|---|")
    for cell in [(2, 1, 200, 1_000), (4, 2, 1_000, 1_000)]:
        for missing in MISSING:
            calls = R.ours(R.problem_of(*cell, missing))
            for operation in R.OPERATIONS:

                def threads(n: int, call: Callable[[], Any] = calls[operation]) -> Callable[[], Any]:
                    def run() -> Any:
                        torch.set_num_threads(n)
                        return call()

                    return run

                times = turns({"one": threads(1), "two": threads(2)}, seconds, clock)
                one, two = (float(np.median(times[name])) for name in ("one", "two"))
                sizes = ", ".join(f"{size:,}" for size in cell[:3])
                row = f"| {sizes} | {missing:.0%} | {operation} | {one:.3g} | {two:.3g} | {one / two:.2f} |"
                print(row, flush=True)
    torch.set_num_threads(1)


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


def first_calls() -> None:
    """The first log-likelihood of a process, and its peak memory; n = 4, m = 2, T = 10,000."""
    print("\n| library | first call, s | peak memory, MB |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for label in ("probseq, nothing compiled yet", "probseq, later processes", *R.RIVALS):
            name = label.partition(",")[0] if label.startswith("probseq") else label
            found = subprocess.run(
                [sys.executable, "-c", FIRST.format(name=name)],
                env={**os.environ, "NUMBA_CACHE_DIR": cache}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            seconds, memory = map(float, found.stdout.split() or ["nan", "nan"])
            print(f"| {label} | {seconds:.2f} | {memory:.0f} |", flush=True)


def everything(seconds: float) -> None:
    """All tables."""
    os.sched_setaffinity(0, CORES[-1:])
    torch.set_num_threads(1)
    grid(CELLS, seconds)
    trend(seconds)
    two_threads(seconds)
    first_calls()


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of a second per call instead of half of one")
    parser.add_argument("--cells", nargs="*", help="cells such as 4x2x10000x1; all five without")
    parser.add_argument("--only", choices=["grid", "trend", "threads", "first"], help="one part alone")
    parser.add_argument("--processor-time", action="store_true", help="for a machine that does other work meanwhile")
    options = parser.parse_args()
    clock = "processor" if options.processor_time else "wall"
    cells: Any = [tuple(map(int, cell.split("x"))) for cell in options.cells] if options.cells else CELLS
    seconds = 0.1 if options.quick else 0.5
    os.sched_setaffinity(0, CORES[-1:])
    torch.set_num_threads(1)
    if options.only in (None, "grid"):
        grid(cells, seconds, clock)
    if options.only in (None, "trend"):
        trend(seconds, clock)
    if options.only in (None, "threads"):
        two_threads(seconds, clock)
    if options.only in (None, "first"):
        first_calls()


if __name__ == "__main__":
    main()
