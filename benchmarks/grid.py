"""The frame of a benchmark program: a table of problems by operations against every rival, threads, first calls.

A `Frame` says what is compared. Every call is checked against ours before it is timed; then all libraries take turns,
and a cell of the table is the median, with the quartiles of ours. What is left out is named below the table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.timing import COLUMNS, compared, geometric_means, turns

CORES = sorted(os.sched_getaffinity(0))
Calls = dict[str, Callable[[], Any]]
Row = tuple[str, Any]  # the first columns of a line of the table, and the arguments of `problem_of`


@dataclass(frozen=True)
class Frame:
    """`ours` and `rivals` make tables of calls, by operation, from a problem; `agree` fails unless results do."""

    columns: str
    operations: Sequence[str]
    problem_of: Callable[..., Any]
    ours: Callable[[Any], Calls]
    rivals: Mapping[str, Callable[[Any], Calls]]
    agree: Callable[[str, Any, Any, str], None]


def bench(frame: Frame, row: Row, seconds: float, left_out: dict[str, str], clock: str) -> Iterable[tuple[str, Any]]:
    """Pairs (operation, {library: milliseconds}) of one problem."""
    words, arguments = row
    problem = frame.problem_of(*arguments)
    libraries = {"probseq": frame.ours(problem)}
    for name, make in frame.rivals.items():
        try:
            libraries[name] = make(problem)
        except Exception as error:
            left_out[f"{name}, {words}"] = said(error)
    for operation in frame.operations:
        calls = {name: table[operation] for name, table in libraries.items() if operation in table}
        expected = calls["probseq"]()
        for name in [name for name in calls if name != "probseq"]:
            try:
                frame.agree(operation, expected, calls[name](), name)
            except Exception as error:
                left_out[f"{name}, {operation}, {words}"] = said(error)
                del calls[name]
        yield operation, turns(calls, seconds, clock)


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def grid(
    frame: Frame, rows: Iterable[Row], seconds: float, clock: str = "wall", *, together: Mapping[str, Sequence[str]]
) -> None:
    """The table, and its geometric means: of every operation, and of those that `together` names as one."""
    ratios: dict[str, list[float]] = {operation: [] for operation in frame.operations}
    left_out: dict[str, str] = {}
    print(f"| {frame.columns} | operation | {COLUMNS}\n{'|---' * (frame.columns.count('|') + 8)}|")
    for row in rows:
        for operation, times in bench(frame, row, seconds, left_out, clock):
            if len(times) > 1:
                text, ratio = compared(times)
                ratios[operation].append(ratio)
                print(f"| {row[0]} | {operation} | {text}", flush=True)
    several = {words: [ratio for name in names for ratio in ratios[name]] for words, names in together.items()}
    print("\n" + geometric_means({**ratios, **several}))
    print("\nLeft out:" + "".join(f"\n- {name}: {why}" for name, why in left_out.items()) if left_out else "")


def two_threads(frame: Frame, rows: Iterable[Row], seconds: float, clock: str = "wall") -> None:
    """Ours with one and two threads, on many sequences.

    Blocks of calls, not turns: an operating system takes its time to give a second thread a core of its own.
    """
    os.sched_setaffinity(0, CORES)
    print(f"\n| {frame.columns} | operation | one thread, ms | two, ms | times faster |")
    print(f"{'|---' * (frame.columns.count('|') + 5)}|")
    for words, arguments in rows:
        calls = frame.ours(frame.problem_of(*arguments))
        for operation in frame.operations:
            times: dict[int, list[np.ndarray]] = {1: [], 2: []}
            for n in (1, 2) * 3:
                torch.set_num_threads(n)
                times[n].append(turns({"ours": calls[operation]}, seconds / 3, clock)["ours"])
            one, two = (float(np.median(np.concatenate(kept))) for kept in times.values())
            print(f"| {words} | {operation} | {one:.3g} | {two:.3g} | {one / two:.2f} |", flush=True)
    one_core()


def one_core() -> None:
    """Bind the process to one core, whatever pools a library has."""
    os.sched_setaffinity(0, CORES[-1:])
    torch.set_num_threads(1)


def first_calls(script: str, rivals: Iterable[str]) -> None:
    """The first log-likelihood of a process, and its peak memory: what `script`, with {name} filled in, prints."""
    print("\n| library | first call, s | peak memory, MB |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for label in ("probseq, nothing compiled yet", "probseq, later processes", *rivals):
            name = label.partition(",")[0] if label.startswith("probseq") else label
            found = subprocess.run(
                [sys.executable, "-c", script.format(name=name)],
                env={**os.environ, "NUMBA_CACHE_DIR": cache}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            seconds, memory = map(float, found.stdout.split() or ["nan", "nan"])
            print(f"| {label} | {seconds:.2f} | {memory:.0f} |", flush=True)


def run_parts(
    description: str | None,
    cells: list[tuple[int, int, int, int]],
    parts: Mapping[str, Callable[[list[tuple[int, int, int, int]], float, str], None]],
    seconds: tuple[float, float],
) -> None:
    """Read the command line, and run the parts it asks for with (cells, seconds, clock) on one core."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=f"{seconds[0]} s per call instead of {seconds[1]}")
    parser.add_argument("--cells", nargs="*", help="cells such as 8x4x10000x1; all without")
    parser.add_argument("--only", choices=list(parts), help="one part alone")
    parser.add_argument("--processor-time", action="store_true", help="for a machine that does other work meanwhile")
    options = parser.parse_args()
    clock = "processor" if options.processor_time else "wall"
    chosen: Any = [tuple(map(int, cell.split("x"))) for cell in options.cells] if options.cells else cells
    one_core()
    for name, part in parts.items():
        if options.only in (None, name):
            part(chosen, seconds[0 if options.quick else 1], clock)
