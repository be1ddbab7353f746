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

import copy
import time
import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.checks import share
from probseq.errors import ProbseqWarning
from probseq.evaluation.comparison import Comparison
from probseq.evaluation.kinds import kinds_of, measure_of
from probseq.evaluation.naive import naive_models, refuse_constant
from probseq.evaluation.rolling import Rolling, RollingScores, rolling_scores
from probseq.evaluation.scores import default_bandwidth, hac_standard_error, mean_score
from probseq.evaluation.summary import likelihood_kind
from probseq.sequences import Sequences

KINDS = ("exact", "approximate", "bound", "estimate")
RESERVED = ("random walk", "Markov", "iid", "Markov (discrete)", "iid (discrete)")

Array = np.ndarray[Any, Any]


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
    data, n_held_out = (Sequences.of(y, u), 0) if test is None else _with_held_out(y, u, test, test_u)
    horizons = _check_horizons(horizons)
    share("level", level)
    if n_samples < 2:
        raise ValueError(f"n_samples must be at least 2, got {n_samples!r}")
    _check_models(models, data, fit_options or {})
    first = _held_out_first(data, n_held_out) if n_held_out else _train_lengths(data, train)
    training = _head(data, first)
    _check_parts(models, data, training, first)
    rows = [
        _fitted(name, model, training, {"seed": seed, **(fit_options or {}).get(name, {})})
        for name, model in models.items()
    ]
    rows += _baselines(training, [row.model for row in rows])
    task = Rolling(horizons, first, level, n_samples, seed)
    with torch.no_grad():
        scored = [_scored(row, data, task) for row in rows]
    return _report(scored, data, task)


def fitted_copies(
    models: Mapping[str, StateSpaceModel[Any]],
    y: Any,
    u: Any = None,
    *,
    train: float | int = 0.7,
    seed: int = 0,
    fit_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[list[StateSpaceModel[Any]], list[Array], Sequences]:
    """Copies fitted on the first part, their log scores (B, T) on the rest (NaN elsewhere), and the data."""
    data = Sequences.of(y, u)
    _check_models(models, data, fit_options or {})
    first = _train_lengths(data, train)
    training = _head(data, first)
    _check_parts(models, data, training, first)
    rows = [_fitted(n, m, training, {"seed": seed, **(fit_options or {}).get(n, {})}) for n, m in models.items()]
    for row in rows:
        for message in row.warnings:
            warnings.warn(f"{row.name}: {message}", ProbseqWarning, stacklevel=3)
    return [row.model for row in rows], [_log_scores(row.model, data, first)[0] for row in rows], data


@dataclass(frozen=True)
class _Row:
    """A fitted model."""

    name: str
    model: StateSpaceModel[Any]
    seconds: float
    warnings: list[str]


@dataclass(frozen=True)
class _Scored:
    """A fitted model with its scores (B, T) at the test steps, NaN where there is none."""

    row: _Row
    kind: str
    measure: str
    log_scores: Array
    forecasts: RollingScores


# ---- before


def _check_horizons(horizons: Iterable[int]) -> tuple[int, ...]:
    found = tuple(horizons)
    good = all(isinstance(h, (int, np.integer)) and not isinstance(h, bool) and h >= 1 for h in found)
    if not found or not good:
        raise ValueError(f"horizons must be positive integers, got {found!r}")
    return tuple(sorted({int(h) for h in found}))


def _check_models(
    models: Mapping[str, StateSpaceModel[Any]], data: Sequences, options: Mapping[str, Mapping[str, Any]]
) -> None:
    """Everything that can be refused before the first fit."""
    if not isinstance(models, Mapping):
        raise TypeError(f'models must be a mapping such as {{"LDS": LDS(2, 1)}}, got {type(models).__name__}')
    if not models:
        raise ValueError("models must hold at least one model, got none")
    for name, model in models.items():
        if not isinstance(model, StateSpaceModel):
            raise TypeError(f"models[{name!r}] must be a model with the four steps, got {type(model).__name__}")
        if name in RESERVED:
            raise ValueError(f"models must not use the name {name!r}, which is that of a baseline")
        try:
            model._door(_for(model, data))
        except ValueError as error:
            raise ValueError(f"models[{name!r}]: {error}") from error
    if data.inputs is not None and not any(model.input_dim for model in models.values()):
        raise ValueError("u was given, but none of the models takes inputs (input_dim is 0)")
    unknown = set(options) - set(models)
    if unknown:
        raise ValueError(f"fit_options has names that are no models: {sorted(unknown)}")


def train_length(length: int, train: float | int, name: str = "y") -> int:
    """A share or number of steps as a number, with at least one step on both sides."""
    whole = isinstance(train, (int, np.integer)) and not isinstance(train, bool)
    if not whole and not (isinstance(train, float) and 0 < train < 1):
        raise ValueError(f"train must be a share strictly between 0 and 1 or a number of steps, got {train!r}")
    n_train = int(train) if whole else round(length * train)
    if not 1 <= n_train < length:
        raise ValueError(
            f"train must leave at least one step on both sides, got {n_train} of the {length} steps of {name}"
        )
    return n_train


def _train_lengths(data: Sequences, train: float | int) -> Tensor:
    """The number of training steps of every sequence."""
    lengths = data.lengths.reshape(-1).tolist()
    names = ["y"] if len(lengths) == 1 else [f"sequence {i} of y" for i in range(len(lengths))]
    return torch.tensor([train_length(length, train, name) for length, name in zip(lengths, names, strict=True)])


def _with_held_out(y: Any, u: Any, test: Any, test_u: Any) -> tuple[Sequences, int]:
    """The held-out sequences and after them those of training, as one list, and how many come first."""
    held, rest = Sequences.of(test, test_u), Sequences.of(y, u)
    if held.event_shape != rest.event_shape:
        raise ValueError(f"test must have {rest.event_shape[0]} columns like y, got {held.event_shape[0]}")
    if (held.inputs is None) != (rest.inputs is None):
        raise ValueError("u and test_u must be given both or neither")
    parts = [(part, i) for part in (held.flat(), rest.flat()) for i in range(len(part.lengths))]
    values = [torch.where(part.observed[i], part.values[i], torch.nan)[: int(part.lengths[i])] for part, i in parts]
    inputs = [part.inputs[i, : int(part.lengths[i])] for part, i in parts if part.inputs is not None]
    joined = Sequences.of(values, inputs or None)
    indexes = (*(held.indexes or (None,) * held.lengths.numel()), *(rest.indexes or (None,) * rest.lengths.numel()))
    complete = len(indexes) == len(parts)
    return replace(joined, names=rest.names, indexes=indexes if complete else joined.indexes), held.lengths.numel()


def _held_out_first(data: Sequences, n_held_out: int) -> Tensor:
    """Held-out sequences are tested from their first step on, the others not at all."""
    place = torch.arange(data.lengths.numel())
    return torch.where(place < n_held_out, 0, data.lengths.reshape(-1))


def _for(model: StateSpaceModel[Any], data: Sequences) -> Sequences:
    """The data as a flat batch, with inputs only for a model that takes them."""
    flat = replace(data.flat(), layout="batch")
    return flat if model.input_dim else replace(flat, inputs=None)


def _head(data: Sequences, first: Tensor) -> Sequences:
    """The first steps of every sequence that has any, as a list of sequences."""
    flat = data.flat()
    y = torch.where(flat.observed, flat.values, torch.nan)
    ends = [(i, end) for i, end in enumerate(first.tolist()) if end]
    u = None if flat.inputs is None else [flat.inputs[i, :end] for i, end in ends]
    return Sequences.of([y[i, :end] for i, end in ends], u)


def _check_parts(
    models: Mapping[str, StateSpaceModel[Any]], data: Sequences, training: Sequences, first: Tensor
) -> None:
    """Both parts say something: the training part varies, the test part has observed steps."""
    if any(model.real_valued for model in models.values()):
        refuse_constant(training)
    flat = data.flat()
    if not bool((flat.seen & (torch.arange(flat.n_steps) >= first.unsqueeze(-1))).any()):
        raise ValueError("y must have at least one observed step in the test part, got none")


# ---- fit and score


def _fitted(name: str, model: StateSpaceModel[Any], training: Sequences, options: dict[str, Any]) -> _Row:
    """A fitted deep copy, with the time it took and what it warned of."""
    own = copy.deepcopy(model)
    start = time.perf_counter()
    with _kept_warnings() as messages:
        try:
            own.fit(_for(own, training), **options)
        except Exception as error:
            error.add_note(f"while fitting models[{name!r}]")
            raise
    return _Row(name, own, time.perf_counter() - start, messages)


def _baselines(training: Sequences, models: list[StateSpaceModel[Any]]) -> list[_Row]:
    """The naive rows, a fit of their own each."""
    with _kept_warnings() as messages:
        start = time.perf_counter()
        found = naive_models(training, models)
        seconds = (time.perf_counter() - start) / len(found)
    return [_Row(name, model, seconds, messages if name.startswith("iid") else []) for name, model in found.items()]


@contextmanager
def _kept_warnings() -> Generator[list[str]]:
    """Inside, warnings are not issued; afterwards the list holds their texts, each once and on one line."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught)


def _scored(row: _Row, data: Sequences, task: Rolling) -> _Scored:
    """One filter of everything gives all scores: log p(y_t | y_<t), and the beliefs that forecasts start from."""
    log_scores, own, filtered = _log_scores(row.model, data, task.first)
    forecasts = rolling_scores(row.model, own, filtered.updated, task)
    measure = measure_of(kinds_of(row.model, own))
    return _Scored(row, likelihood_kind(row.model, own), measure, log_scores, forecasts)


def _log_scores(model: StateSpaceModel[Any], data: Sequences, first: Tensor) -> tuple[Array, Sequences, Any]:
    """log p(y_t | y_<t) at the test steps (B, T), with the data as the model takes them, and its filter."""
    own = _for(model, data)
    filtered = model.filter(own)
    tested = own.seen & (torch.arange(own.n_steps) >= first.unsqueeze(-1))
    return torch.where(tested, filtered.log_prob, torch.nan).numpy(), own, filtered


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
