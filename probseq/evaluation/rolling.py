"""Forecasts from rolling origins, all origins at once.

At every origin t the updated belief p(z_t | y_<=t) is already there, from the one filter of the whole series. The
origins become one batch:

    belief = updated at all origins
    for h in 1 .. H:
        belief = model.predict(belief, u at origin + h)
        p(y_{t+h} | y_<=t) = model.emit(belief, u at origin + h)        # exact where the family marginalises

Elsewhere this holds for h = 1 only, and beyond it `n_samples` paths are drawn from every origin. Scores stand at
the step of their target, so that means and standard errors run over target steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent

from probseq import beliefs as B
from probseq.base import StateSpaceModel
from probseq.evaluation.scores import covered, crps, crps_of_draws
from probseq.forecasting import _coordinates, _is_symbolic, quantile
from probseq.randomness import seeded
from probseq.sequences import Sequences

#: origins in one batch, and numbers of paths times steps in one simulation: bounds on memory
MOST_ORIGINS = 4096
MOST_PATH_STEPS = 2_000_000


@dataclass(frozen=True)
class Rolling:
    """What is asked: which horizons, from which first target step of every sequence on, at which interval level."""

    horizons: tuple[int, ...]
    first: Tensor
    level: float
    n_samples: int
    seed: int


#: per horizon, CRPS and coverage at the target steps, (B, T) each, NaN where there is no score
RollingScores = dict[int, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def rolling_scores(model: StateSpaceModel[Any], data: Sequences, updated: Any, task: Rolling) -> RollingScores:
    """CRPS and coverage of forecasts of every observed target step from `first` on, made h steps before it.

    `data` is a flat batch and `updated` its filtered beliefs; origins before step `first` - 1 are not used.
    """
    time = torch.arange(data.n_steps)
    origins = (time >= task.first.unsqueeze(-1) - 1) & (time + min(task.horizons) < data.lengths.unsqueeze(-1))
    rows, steps = origins.nonzero(as_tuple=True)
    shape = data.values.shape[:2]
    found = {h: (np.full(shape, np.nan), np.full(shape, np.nan)) for h in task.horizons}
    size = MOST_ORIGINS
    if not model.marginalises:
        size = max(MOST_PATH_STEPS // (task.n_samples * max(task.horizons)), 1)
    for part, (row, step) in enumerate(zip(rows.split(size), steps.split(size), strict=True)):
        belief = B.map_tensors(lambda field, _, at=(row, step): field[at], updated)
        room = data.lengths[row] - 1 - step
        for h, predictive in _predictives(model, belief, _future(data, row, step, task), room, task, task.seed + part):
            here = (row[room >= h], step[room >= h] + h)
            scores = _judge(predictive, data.values[here], data.observed[here], task)
            for table, score in zip(found[h], scores, strict=True):
                table[here[0].numpy(), here[1].numpy()] = score.numpy()
    return found


def _future(data: Sequences, rows: Tensor, steps: Tensor, task: Rolling) -> Tensor | None:
    """The inputs of the steps after every origin, (N, H, P); beyond the end the last one again, never scored."""
    if data.inputs is None:
        return None
    ahead = steps.unsqueeze(-1) + torch.arange(1, max(task.horizons) + 1)
    return data.inputs[rows.unsqueeze(-1), ahead.clamp(max=data.n_steps - 1)]


def _predictives(
    model: StateSpaceModel[Any], belief: Any, u: Tensor | None, room: Tensor, task: Rolling, seed: int
) -> Iterator[tuple[int, Distribution | Tensor]]:
    """Per horizon p(y_{t+h} | y_<=t) where `room` >= h: the distribution, or draws (N, D, n) of it."""
    exact = [h for h in task.horizons if model.marginalises or h == 1]
    later = [h for h in task.horizons if h not in exact and bool((room >= h).any())]
    after = belief
    for h in range(1, max(exact, default=0) + 1):
        inputs = None if u is None else u[:, h - 1]
        after = model.predict(after, inputs)
        keep = room >= h
        if h in exact and bool(keep.any()):
            yield h, model.emit(_select(after, keep), None if inputs is None else inputs[keep])
    if later:
        first = model.predict(belief, None if u is None else u[:, 0])
        emitted = model.emit(first, None if u is None else u[:, 0])
        inputs = None if u is None else u.unsqueeze(1).expand(-1, task.n_samples, -1, -1)
        with seeded(seed):
            draws = model._simulate(B.repeat(first, task.n_samples), max(later), inputs)[0].movedim(1, -1)
        for h in later:
            yield h, _dressed(draws[room >= h, h - 1], emitted)


def _select(belief: Any, keep: Tensor) -> Any:
    return B.map_tensors(lambda field, _: field[keep], belief)


def _dressed(draws: Tensor, like: Distribution) -> Distribution | Tensor:
    """Draws of discrete data as relative frequencies, in the form of the distribution they came from."""
    if _is_symbolic(like):
        return like
    if isinstance(_coordinates(like)[1], Bernoulli):
        return Independent(Bernoulli(probs=draws.mean(-1)), 1)
    return draws


def _judge(predictive: Distribution | Tensor, y: Tensor, observed: Tensor, task: Rolling) -> tuple[Tensor, Tensor]:
    """CRPS and coverage of rows y (N, D), means over observed coordinates (N,); NaN where they mean nothing."""
    score = inside = torch.full(y.shape, torch.nan, dtype=torch.float64)
    tail = (1 - task.level) / 2
    if isinstance(predictive, Tensor):
        score = crps_of_draws(predictive, y)
        ends = np.quantile(predictive.numpy(), [tail, 1 - tail], axis=-1)
        inside = covered(torch.as_tensor(ends[0]), torch.as_tensor(ends[1]), y)
    elif not _is_symbolic(predictive):
        score = crps(predictive, y, seed=task.seed)
        if not isinstance(_coordinates(predictive)[1], Bernoulli):
            inside = covered(quantile(predictive, tail), quantile(predictive, 1 - tail), y)
    return _mean_over(score, observed), _mean_over(inside, observed)


def _mean_over(values: Tensor, observed: Tensor) -> Tensor:
    """Mean over the observed coordinates, (N,)."""
    return torch.where(observed, values, 0.0).sum(-1) / torch.where(observed.any(-1), observed.sum(-1), torch.nan)
