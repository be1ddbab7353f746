"""Independent tasks side by side, within a time budget; what is done when it ends, or is interrupted, is kept.

    for index, result in joblib.Parallel(n_jobs)(task 0, task 1, ...):      # in whatever order they end
        results[index] = result

Any joblib backend will do: `with joblib.parallel_config(backend="threading", n_jobs=4): ...`. No task starts after the
budget is spent; those that run are waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, TypeVar

Stopped = Literal["complete", "time budget", "interrupted"]

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


def run_tasks(
    function: Callable[[TaskT], ResultT],
    tasks: Sequence[TaskT],
    *,
    n_jobs: int | None = None,
    time_budget: float | None = None,
    progress: bool = True,
    description: str = "",
) -> tuple[dict[int, ResultT], Stopped]:
    """Results by the place of their task, and why there are no more. Ctrl-C ends the run, not the program.

    The bar shows on a terminal only.
    """
    import joblib
    from tqdm import tqdm

    if time_budget is not None and not time_budget > 0:
        raise ValueError(f"time_budget must be a positive number of seconds, got {time_budget!r}")
    end = None if time_budget is None else time.monotonic() + time_budget
    started: list[int] = []

    def coming() -> Generator[Any]:
        for index, task in enumerate(tasks):
            if end is not None and started and time.monotonic() >= end:
                return
            started.append(index)
            yield joblib.delayed(_numbered)(function, index, task)

    results: dict[int, ResultT] = {}
    stopped: Stopped = "complete"
    one_by_one: dict[str, Any] = {"return_as": "generator_unordered", "batch_size": 1, "pre_dispatch": "n_jobs"}
    parallel: Any = joblib.Parallel(n_jobs=n_jobs, **one_by_one)
    try:
        with tqdm(total=len(tasks), desc=description, disable=None if progress else True, leave=False) as bar:
            for index, result in parallel(coming()):
                results[index] = result
                bar.update()
    except KeyboardInterrupt:
        stopped = "interrupted"
    if stopped == "complete" and len(results) < len(tasks):
        stopped = "time budget"
    return results, stopped


def _numbered(function: Callable[[Any], Any], index: int, task: Any) -> tuple[int, Any]:
    return index, function(task)
