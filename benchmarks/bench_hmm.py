"""Hidden Markov models against every rival: `python -m benchmarks.bench_hmm [--quick] [--cells 8x4x10000x1 ...]`.

Every call is checked against ours before it is timed. Then all libraries take turns; a cell of the table is the median,
with the quartiles of ours. One thread is one core: the process is bound to it, whatever pools a library has.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks import hmm_rivals as R  # noqa: E402

CELLS = [(3, 2, 1_000, 1), (8, 4, 10_000, 1), (32, 8, 10_000, 1), (128, 8, 2_000, 1), (4, 2, 100, 1_000)]
KINDS = ("Gaussian", "categorical")
CORES = sorted(os.sched_getaffinity(0))
HEADER = (
    "| emission | K, D, T, sequences | operation | probseq, ms | quartiles | best rival | its ms | times faster "
    "| others, ms |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


clock = time.perf_counter


def timings(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, np.ndarray]:
    """Milliseconds of each call, taken in turn; one that takes long is repeated less, at least three times.

    A turn lasts 5 ms or one call: short calls run warm, as they would in a loop, not on the caches the rivals leave.
    """
    limits: dict[str, float] = {}
    turns: dict[str, int] = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        limits[name], turns[name] = max(3.0, seconds / took), max(1, int(5e-3 / took))
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        waiting = [name for name in calls if len(times[name]) < limits[name]]
        for name in waiting:
            for _ in range(turns[name]):
                start = clock()
                calls[name]()
                times[name].append(1e3 * (clock() - start))
        if not waiting:
            break
    return {name: np.array(kept) for name, kept in times.items()}


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


def bench(
    kind: str, cell: tuple[int, int, int, int], seconds: float, left_out: dict[str, str]
) -> Iterable[tuple[Any, ...]]:
    """Rows (operation, {library: milliseconds}) of one cell."""
    problem = R.problem_of(kind, *cell)
    libraries = {"probseq": R.ours(problem)}
    for name, make in R.RIVALS.items():
        try:
            libraries[name] = make(problem)
        except Exception as error:
            left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
    for operation in R.OPERATIONS:
        calls = {name: table[operation] for name, table in libraries.items() if operation in table}
        expected = calls["probseq"]()
        for name in [name for name in calls if name != "probseq"]:
            try:
                agree(operation, expected, calls[name](), name)
            except Exception as error:
                said = " ".join(str(error).split())[:160]
                left_out[f"{name}, {operation}, {kind} {cell}"] = f"{type(error).__name__}: {said}"
                del calls[name]
        yield operation, timings(calls, seconds)


def row(kind: str, cell: tuple[int, ...], operation: str, times: dict[str, np.ndarray]) -> tuple[str, float]:
    """A line of the table and how many times faster ours is than the best rival."""
    own = times["probseq"]
    medians = {name: float(np.median(kept)) for name, kept in times.items() if name != "probseq"}
    low, middle, high = np.percentile(own, [25, 50, 75])
    best = min(medians, key=lambda name: medians[name])
    ratio = medians[best] / middle
    others = ", ".join(f"{name} {value:.3g}" for name, value in medians.items() if name != best)
    text = (
        f"| {kind} | {', '.join(f'{size:,}' for size in cell)} | {operation} | {middle:.3g} | {low:.3g}-{high:.3g} "
        f"| {best} | {medians[best]:.3g} | {ratio:.2f} | {others} |"
    )
    return text, ratio


def grid(cells: list[tuple[int, int, int, int]], seconds: float) -> None:
    os.sched_setaffinity(0, CORES[-1:])
    torch.set_num_threads(1)
    ratios: dict[str, list[float]] = {operation: [] for operation in R.OPERATIONS}
    left_out: dict[str, str] = {}
    print(HEADER)
    for kind in KINDS:
        for cell in cells:
            for operation, times in bench(kind, cell, seconds, left_out):
                if len(times) > 1:
                    text, ratio = row(kind, cell, operation, times)
                    ratios[operation].append(ratio)
                    print(text, flush=True)
    inference = [ratio for operation in R.OPERATIONS[:-1] for ratio in ratios[operation]]
    print("\n| over | geometric mean | smallest |\n|---|---|---|")
    for name, kept in [*ratios.items(), ("all but the gradient", inference)]:
        if kept:
            print(f"| {name} | {math.exp(np.mean(np.log(kept))):.2f} | {min(kept):.2f} |")
    print("\nLeft out:" + "".join(f"\n- {name}: {why}" for name, why in left_out.items()) if left_out else "")


def two_threads(seconds: float) -> None:
    """Ours with one and two threads, on many sequences."""
    os.sched_setaffinity(0, CORES)
    print("\n| 1,000 sequences: K, D, T | operation | one thread, ms | two, ms | times faster |\n|---|---|---|---|---|")
    for cell in [(4, 2, 100, 1_000), (8, 4, 1_000, 1_000)]:
        calls = R.ours(R.problem_of("Gaussian", *cell))
        for operation in R.OPERATIONS:

            def with_threads(n: int, operation: str = operation) -> Callable[[], Any]:
                def run() -> Any:
                    torch.set_num_threads(n)
                    return calls[operation]()

                return run

            times = timings({"one": with_threads(1), "two": with_threads(2)}, seconds)
            one, two = (float(np.median(times[name])) for name in ("one", "two"))
            sizes = ", ".join(f"{size:,}" for size in cell[:3])
            print(f"| {sizes} | {operation} | {one:.3g} | {two:.3g} | {one / two:.2f} |", flush=True)
    torch.set_num_threads(1)


FIRST = """
import time, resource
start = time.perf_counter()
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


def first_calls() -> None:
    """The first log-likelihood of a process, and its peak memory; K = 8, T = 10,000."""
    print("\n| library | first call, s | peak memory, MB |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for label in ("probseq, nothing compiled yet", "probseq, later processes", *R.RIVALS):
            found = subprocess.run(
                [sys.executable, "-c", FIRST.format(name=label.partition(",")[0])],
                env={**os.environ, "NUMBA_CACHE_DIR": cache}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            seconds, memory = map(float, found.stdout.split() or ["nan", "nan"])
            print(f"| {label} | {seconds:.2f} | {memory:.0f} |", flush=True)
    found = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    before, after = map(float, found.stdout.split())
    print(f"\nOne million steps with 8 states, smoothed: {after:.0f} MB at the peak, {before:.0f} before it.")


def everything(seconds: float) -> None:
    """All tables."""
    grid(CELLS, seconds)
    two_threads(seconds)
    first_calls()


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of a second per call instead of one")
    parser.add_argument("--cells", nargs="*", help="cells such as 8x4x10000x1; all five without")
    parser.add_argument("--only", choices=["grid", "threads", "first"], help="one part alone")
    parser.add_argument("--processor-time", action="store_true", help="for a machine that does other work meanwhile")
    options = parser.parse_args()
    if options.processor_time:
        global clock
        clock = time.process_time
    cells = [tuple(map(int, cell.split("x"))) for cell in options.cells] if options.cells else CELLS
    seconds = 0.25 if options.quick else 1.0
    if options.only in (None, "grid"):
        grid(cells, seconds)  # pyright: ignore[reportArgumentType]
    if options.only in (None, "threads"):
        two_threads(seconds)
    if options.only in (None, "first"):
        first_calls()


if __name__ == "__main__":
    main()
