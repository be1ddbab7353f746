"""Back-tests: what each model would have said, refitted as time goes on.

    for every origin o = first, first + step, ...:                      # of every series, each counted from its start
        if it is time for a refit: fit a copy to y[max(0, o - gap - window) : o - gap]
        for h in horizons: score p(y[o + h - 1] | y[... : o - gap])

| option        | means                                                                               |
|---------------|-------------------------------------------------------------------------------------|
| `window`      | None: all of the past (expanding); a number: that many steps (rolling)              |
| `gap`         | steps before each origin that neither the fit nor the forecast sees                 |
| `refit_every` | origins per fit; between fits the model reads the new data and keeps its parameters |
| `panel`       | "pooled": one model for all series; "each": a model of its own for every series     |

Every fit starts from the model as given, so that no result depends on the order or the number of jobs. With step 1 and
no gap the scores at h = 1 of one long block are those of `compare`.

References: Tashman (2000), International Journal of Forecasting 16; Dawid (1984), the prequential approach.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.checks import share, whole_number
from probseq.evaluation.backtest_result import Backtest
from probseq.evaluation.fitting import FittedModel, check_models, data_for, fit_copy, kept_warnings
from probseq.evaluation.naive import naive_models
from probseq.evaluation.parallel import run_tasks
from probseq.evaluation.rolling import Rolling, check_horizons, rolling_scores
from probseq.evaluation.splitting import span, train_lengths
from probseq.evaluation.summary import likelihood_kind
from probseq.sequences import Sequences


def backtest(
    models: Mapping[str, StateSpaceModel[Any]],
    y: Any,
    u: Any = None,
    *,
    first: float | int = 0.5,
    step: int = 1,
    window: int | None = None,
    gap: int = 0,
    horizons: Iterable[int] = (1,),
    refit_every: int = 1,
    panel: Literal["pooled", "each"] = "pooled",
    baselines: bool = True,
    level: float = 0.9,
    n_samples: int = 500,
    seed: int = 0,
    fit_options: Mapping[str, Mapping[str, Any]] | None = None,
    n_jobs: int | None = None,
    time_budget: float | None = None,
    progress: bool = True,
) -> Backtest:
    """Fit copies of the models at moving origins and score their forecasts of the steps that follow.

    `first` is the share or number of steps before the first origin. `n_jobs` goes to joblib (None: the backend and
    number of `joblib.parallel_config`, or one); after `time_budget` seconds no new fit starts, and Ctrl-C keeps what is
    done: `result.stopped` says so. A fit that fails is reported in `result.fits` and leaves its scores out.
    """
    data = Sequences.of(y, u)
    check_models(models, data, fit_options or {})
    plan = _Plan(
        data=replace(data.flat(), layout="batch"),
        first=train_lengths(data, first),
        step=whole_number("step", step),
        window=None if window is None else whole_number("window", window, least=2),
        gap=whole_number("gap", gap, least=0),
        horizons=check_horizons(horizons),
        refit_every=whole_number("refit_every", refit_every),
        baselines=baselines,
        level=level,
        n_samples=whole_number("n_samples", n_samples, least=2),
        seed=seed,
        mixed=len({model.real_valued for model in models.values()}) > 1,
    )
    share("level", level)
    if int(plan.first.min()) - plan.gap < 1:
        raise ValueError(f"gap must leave a step to fit before the first origin, got {gap} of {int(plan.first.min())}")
    if panel not in ("pooled", "each"):
        raise ValueError(f'panel must be "pooled" or "each", got {panel!r}')
    tasks = _tasks(models, plan, panel, fit_options or {})
    done, stopped = run_tasks(
        _work, tasks, n_jobs=n_jobs, time_budget=time_budget, progress=progress, description="back-test"
    )
    return Backtest.of([done[i] for i in sorted(done)], len(tasks), stopped, data, plan)


@dataclass(frozen=True)
class _Plan:
    """What is asked, the same for every task."""

    data: Sequences
    first: Tensor
    step: int
    window: int | None
    gap: int
    horizons: tuple[int, ...]
    refit_every: int
    baselines: bool
    level: float
    n_samples: int
    seed: int
    mixed: bool

    def n_rounds(self, rows: list[int]) -> int:
        """Origins that have a target, of the series with the most of them."""
        room = self.data.lengths[rows] - self.first[rows] - min(self.horizons) + 1
        return max(int(room.max()) + self.step - 1, 0) // self.step


@dataclass(frozen=True)
class _Task:
    """One fit and the origins that are forecast with it."""

    plan: _Plan
    name: str
    model: StateSpaceModel[Any]
    rows: list[int]
    rounds: range
    options: Mapping[str, Any]
    with_baselines: bool


@dataclass
class Done:
    """What came of a task: one row per model fitted, and tables of scores by model."""

    rows: list[int]
    rounds: range
    fits: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    scores: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def _tasks(
    models: Mapping[str, StateSpaceModel[Any]], plan: _Plan, panel: str, options: Mapping[str, Mapping[str, Any]]
) -> list[_Task]:
    """Early origins first, so that an interrupted run has all models up to some time."""
    everyone = list(range(len(plan.first)))
    groups = [everyone] if panel == "pooled" else [[row] for row in everyone]
    lead = {model.real_valued: name for name, model in reversed(list(models.items()))}
    found: list[_Task] = []
    for rows in groups:
        n_rounds = plan.n_rounds(rows)
        for begin in range(0, n_rounds, plan.refit_every):
            rounds = range(begin, min(begin + plan.refit_every, n_rounds))
            for name, model in models.items():
                given = {"seed": plan.seed, **options.get(name, {})}
                naive = plan.baselines and lead[model.real_valued] == name
                found.append(_Task(plan, name, model, rows, rounds, given, naive))
    return sorted(found, key=lambda task: task.rounds.start)


def _work(task: _Task) -> Done:
    """Fit, then score all origins of the block from one filter."""
    plan, done = task.plan, Done(task.rows, task.rounds)
    data = plan.data.select(task.rows)
    origins = plan.first[task.rows] + task.rounds.start * plan.step
    ends = origins - plan.gap
    starts = torch.zeros_like(ends) if plan.window is None else (ends - plan.window).clamp(min=0)
    training = span(data, starts, torch.minimum(ends, data.lengths))
    start = time.perf_counter()
    try:
        rows = [fit_copy(task.name, task.model, training, dict(task.options))]
        if task.with_baselines:
            rows += _naive(training, rows[0].model, plan.mixed)
    except Exception as error:
        done.fits.append(
            _fit_row(task, ends - starts, time.perf_counter() - start, [], f"{type(error).__name__}: {error}")
        )
        return done
    for row in rows:
        done.fits.append(_fit_row(task, ends - starts, row.seconds, row.warnings, "", row.name))
        done.scores += _scored(row, task, data, starts)
    return done


def _naive(training: Sequences, model: StateSpaceModel[Any], mixed: bool) -> list[FittedModel]:
    """The baselines for what this model describes; discrete ones are named so beside those of densities."""
    with kept_warnings() as messages:
        start = time.perf_counter()
        found = naive_models(training, [model])
        seconds = (time.perf_counter() - start) / len(found)
    suffix = " (discrete)" if mixed and not model.real_valued else ""
    return [FittedModel(name + suffix, baseline, seconds, messages) for name, baseline in found.items()]


def _fit_row(
    task: _Task, lengths: Tensor, seconds: float, messages: list[str], error: str, name: str | None = None
) -> dict[str, Any]:
    return {
        "model": name or task.name,
        "round": task.rounds.start,
        "sequence": task.rows[0] if len(task.rows) == 1 else -1,
        "n_train": int(lengths.clamp(min=0).sum()),
        "seconds": seconds,
        "warnings": "; ".join(messages),
        "error": error,
    }


def _scored(row: FittedModel, task: _Task, data: Sequences, starts: Tensor) -> list[dict[str, Any]]:
    """One record per model and horizon: where the targets are, and every score there."""
    plan = task.plan
    own = data_for(row.model, span(data, starts, data.lengths))
    first = plan.first[task.rows]
    time_ = torch.arange(own.n_steps)
    last_known = torch.zeros(len(task.rows), own.n_steps, dtype=torch.bool)
    for r in task.rounds:
        place = first + r * plan.step - plan.gap - 1 - starts
        last_known |= time_ == place.unsqueeze(-1)
    leads = tuple(h + plan.gap for h in plan.horizons)
    ask = Rolling(leads, torch.ones_like(first), plan.level, plan.n_samples, plan.seed, last_known)
    with torch.no_grad():
        filtered = row.model._filter(own, None)
        tables = rolling_scores(row.model, own, filtered.updated, ask)
    found: list[dict[str, Any]] = []
    for h, lead in zip(plan.horizons, leads, strict=True):
        at = np.nonzero(~np.isnan(tables[lead]["log_score"]))
        target = at[1] + starts.numpy()[at[0]]
        kind = likelihood_kind(row.model, own)
        if not row.model.marginalises and lead > 1:
            kind = "estimate"
        place = {"sequence": np.asarray(task.rows)[at[0]], "origin": target - h + 1, "target": target, "horizon": h}
        scores = {name: table[at] for name, table in tables[lead].items()}
        found.append({"model": row.name, **place, **scores, "likelihood": kind})
    return found
