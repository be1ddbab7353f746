"""Every family on one scale: fit on the first part of the data, score the rest one step at a time.

    for name, model in models:
        copy = deepcopy(model).fit(y[:n])
        scores[name] = copy.filter(y).log_prob[n:]           # log p(y_t | y_<t), all earlier data, no refits

| reported          | over                                            | estimated by                            |
|-------------------|-------------------------------------------------|-----------------------------------------|
| log score         | observed test steps                             | mean, Newey-West standard error         |
| difference        | the same steps, paired with the best model's    | likewise                                |
| CRPS, coverage    | targets t + h from every origin t in the test   | mean; forecasts see y up to t           |

A difference is to the best of the same kind only: densities and probabilities are not on one scale, nor are exact
log-likelihoods and approximate ones (a network across gaps). Baselines that know nothing of time, or nothing but the
last value, are always among the rows.

References: Dawid (1984), Present position and potential developments: the prequential approach; Diebold and
Mariano (1995), Comparing predictive accuracy; Gneiting and Raftery (2007), Strictly proper scoring rules.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.checks import share
from probseq.evaluation.comparison import Comparison
from probseq.evaluation.fitting import Array, FittedModel, check_models, fit_copies, held_out_scores, kept_warnings
from probseq.evaluation.kinds import kinds_of, measure_of
from probseq.evaluation.naive import naive_models
from probseq.evaluation.rolling import Rolling, RollingScores, check_horizons, rolling_scores
from probseq.evaluation.scores import default_bandwidth, hac_standard_error, mean_score
from probseq.evaluation.splitting import check_parts, head, held_out_first, train_lengths, with_held_out
from probseq.evaluation.summary import likelihood_kind
from probseq.sequences import Sequences

KINDS = ("exact", "approximate", "bound", "estimate")


def compare(
    models: Mapping[str, StateSpaceModel[Any]],
    y: Any,
    u: Any = None,
    *,
    train: float | int = 0.7,
    test: Any = None,
    test_u: Any = None,
    horizons: Iterable[int] = (1, 5, 10),
    seed: int = 0,
    level: float = 0.9,
    n_samples: int = 1000,
    fit_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Comparison:
    """Fit copies of the models on the first part of y and score one-step log-probabilities and forecasts on the rest.

    `train` is a share or a number of steps, of each sequence if y is a list. With `test` (and `test_u`), other data,
    all of y is for training and these are scored from their first step on. `u` goes to the models that take inputs.
    `fit_options` holds further arguments of `fit` by model name; values that a model already has are the start of
    its fit, so give new models if those values come from the test part. `n_samples` paths per origin stand in for
    forecasts that are not exact. Warnings of the fits are kept in the result, not issued. Satisfies
    log_scores[name] == models[name].filter(y).log_prob at the test steps.
    """
    data, n_held_out = (Sequences.of(y, u), 0) if test is None else with_held_out(y, u, test, test_u)
    horizons = check_horizons(horizons)
    share("level", level)
    if n_samples < 2:
        raise ValueError(f"n_samples must be at least 2, got {n_samples!r}")
    check_models(models, data, fit_options or {})
    first = held_out_first(data, n_held_out) if n_held_out else train_lengths(data, train)
    training = head(data, first)
    check_parts(models, data, training, first)
    rows = fit_copies(models, training, seed, fit_options or {})
    rows += _baselines(training, [row.model for row in rows])
    task = Rolling(horizons, first, level, n_samples, seed)
    with torch.no_grad():
        scored = [_scored(row, data, task) for row in rows]
    return _report(scored, data, task)


@dataclass(frozen=True)
class _Scored:
    """A fitted model with its scores (B, T) at the test steps, NaN where there is none."""

    row: FittedModel
    kind: str
    measure: str
    log_scores: Array
    forecasts: RollingScores


# ---- fit and score


def _baselines(training: Sequences, models: list[StateSpaceModel[Any]]) -> list[FittedModel]:
    """The naive rows, a fit of their own each."""
    with kept_warnings() as messages:
        start = time.perf_counter()
        found = naive_models(training, models)
        seconds = (time.perf_counter() - start) / len(found)
    return [
        FittedModel(name, model, seconds, messages if name.startswith("iid") else []) for name, model in found.items()
    ]


def _scored(row: FittedModel, data: Sequences, task: Rolling) -> _Scored:
    """One filter of everything gives all scores: log p(y_t | y_<t), and the beliefs that forecasts start from."""
    log_scores, own, filtered = held_out_scores(row.model, data, task.first)
    forecasts = rolling_scores(row.model, own, filtered.updated, task)
    measure = measure_of(kinds_of(row.model, own))
    return _Scored(row, likelihood_kind(row.model, own), measure, log_scores, forecasts)


# ---- after


def _report(scored: list[_Scored], data: Sequences, task: Rolling) -> Comparison:
    import pandas as pd

    mixed = len({one.measure for one in scored}) > 1
    groups: dict[tuple[int, str], list[_Scored]] = {}
    for one in sorted(scored, key=lambda one: -mean_score(one.log_scores)):
        groups.setdefault((KINDS.index(one.kind), one.measure), []).append(one)
    ordered = [(group[0], one) for _, group in sorted(groups.items()) for one in group]
    table = pd.DataFrame([_table_row(one, best, task.horizons, mixed) for best, one in ordered])
    n_longest = max(int((~np.isnan(scored[0].log_scores)).sum(1).max()), 1)
    return Comparison(
        table=table.set_index(pd.Index([one.row.name for _, one in ordered], name="model")),
        log_scores=_per_step([one for _, one in ordered], data, task.first),
        forecast_scores=_per_horizon([one for _, one in ordered], task.horizons),
        models={one.row.name: one.row.model for _, one in ordered},
        warnings={one.row.name: one.row.warnings for _, one in ordered if one.row.warnings},
        data=data,
        train_lengths=task.first,
        horizons=task.horizons,
        level=task.level,
        bandwidth=default_bandwidth(n_longest),
        seed=task.seed,
    )


def _table_row(one: _Scored, best: _Scored, horizons: tuple[int, ...], mixed: bool) -> dict[str, Any]:
    with np.errstate(invalid="ignore"):
        difference = one.log_scores - best.log_scores
    measure = f" {one.measure}"
    return {
        "log_score": mean_score(one.log_scores),
        "log_score_se": hac_standard_error(one.log_scores),
        "difference": mean_score(difference),
        "difference_se": hac_standard_error(difference),
        **{f"crps_{h}": mean_score(one.forecasts[h]["crps"]) for h in horizons},
        **{f"coverage_{h}": mean_score(one.forecasts[h]["inside"]) for h in horizons},
        "parameters": one.row.model.n_parameters,
        "fit_seconds": one.row.seconds,
        "likelihood": one.kind + (measure if mixed else ""),
    }


def _per_step(scored: list[_Scored], data: Sequences, first: Tensor) -> Any:
    """Test steps x models with the index of the data; (sequence, step) for several sequences."""
    import pandas as pd

    frames: list[Any] = []
    for i, (start, length) in enumerate(zip(first.tolist(), data.lengths.reshape(-1).tolist(), strict=True)):
        if start >= length:
            continue  # a sequence of training only
        own = data.indexes[i] if i < len(data.indexes) else None
        index = pd.RangeIndex(start, length, name="step") if own is None else own[start:length]
        columns = {one.row.name: one.log_scores[i, start:length] for one in scored}
        frames.append(pd.DataFrame(columns, index=index))
    several = len(first) > 1
    return pd.concat(frames, keys=range(len(frames)), names=["sequence"]) if several else frames[0]


def _per_horizon(scored: list[_Scored], horizons: tuple[int, ...]) -> Any:
    """Mean CRPS, its standard error (at least h - 1 lags: forecasts overlap), coverage and number of targets."""
    import pandas as pd

    rows: dict[tuple[str, int], dict[str, float]] = {}
    for one in scored:
        for h in horizons:
            crps, inside = one.forecasts[h]["crps"], one.forecasts[h]["inside"]
            n = int((~np.isnan(crps)).sum())
            lags = max(default_bandwidth(max(n, 1)), h - 1)
            rows[one.row.name, h] = {
                "crps": mean_score(crps),
                "crps_se": hac_standard_error(crps, lags),
                "coverage": mean_score(inside),
                "n_targets": n,
            }
    frame = pd.DataFrame(rows).T
    return frame.rename_axis(index=["model", "horizon"]).astype({"n_targets": int})
