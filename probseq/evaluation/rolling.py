"""Forecasts from rolling origins, all origins at once.

At every origin t the updated belief p(z_t | y_<=t) is already there, from the one filter of the whole series. The
origins become one batch:

    belief = updated at all origins
    for h in 1 .. H:
        belief = model.predict(belief, u at origin + h)
        p(y_{t+h} | y_<=t) = model.emit(belief, u at origin + h)        # exact where the family marginalises

Elsewhere this holds for h = 1 only, and beyond it `n_samples` paths are drawn from every origin; the log score is then
that of the mixture of `emit` over paths, an estimate. Scores stand at the step of their target, so that means and
standard errors run over target steps. What is scored is in `probseq.evaluation.judging`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent

from probseq import beliefs as B
from probseq.base import StateSpaceModel
from probseq.evaluation.judging import SCORES, judge
from probseq.marginals import coordinates_of, is_symbolic
from probseq.randomness import seeded
from probseq.sequences import Sequences

#: origins in one batch, and numbers of paths times steps in one simulation: bounds on memory
MOST_ORIGINS = 4096
MOST_PATH_STEPS = 2_000_000


@dataclass(frozen=True)
class Rolling:
    """What is asked: which horizons, from which first target step of every sequence on, at which interval level.

    `origins` (B, T) restricts the last steps that forecasts know of.
    """

    horizons: tuple[int, ...]
    first: Tensor
    level: float
    n_samples: int
    seed: int
    origins: Tensor | None = None


#: per horizon every score at the target steps, (B, T) each, NaN where there is none
RollingScores = dict[int, dict[str, np.ndarray[Any, Any]]]


def check_horizons(horizons: Iterable[int]) -> tuple[int, ...]:
    """Horizons in order, each once. ValueError where one is no positive integer."""
    found = tuple(horizons)
    good = all(isinstance(h, (int, np.integer)) and not isinstance(h, bool) and h >= 1 for h in found)
    if not found or not good:
        raise ValueError(f"horizons must be positive integers, got {found!r}")
    return tuple(sorted({int(h) for h in found}))


@torch.no_grad()
def rolling_scores(model: StateSpaceModel[Any], data: Sequences, updated: Any, task: Rolling) -> RollingScores:
    """All scores of forecasts of every observed target step from `first` on, made h steps before it.

    `data` is a flat batch and `updated` its filtered beliefs; origins before step `first` - 1 are not used.
    """
    time = torch.arange(data.n_steps)
    origins = (time >= task.first.unsqueeze(-1) - 1) & (time + min(task.horizons) < data.lengths.unsqueeze(-1))
    if task.origins is not None:
        origins = origins & task.origins
    rows, steps = origins.nonzero(as_tuple=True)
    shape = data.values.shape[:2]
    found = {h: {name: np.full(shape, np.nan) for name in SCORES} for h in task.horizons}
    size = MOST_ORIGINS
    if not model.marginalises:
        size = max(MOST_PATH_STEPS // (task.n_samples * max(task.horizons)), 1)
    for part, (row, step) in enumerate(zip(rows.split(size), steps.split(size), strict=True)):
        belief = B.map_tensors(lambda field, _, at=(row, step): field[at], updated)
        room = data.lengths[row] - 1 - step
        for h, said in _predictives(model, belief, _future(data, row, step, task), room, task, task.seed + part):
            here = (row[room >= h], step[room >= h] + h)
            y, seen = data.values[here], data.observed[here]
            scores = {"log_score": _log_score(model, said, y, seen), **judge(said.predictive, y, seen, task)}
            for name, score in scores.items():
                found[h][name][here[0].numpy(), here[1].numpy()] = score.numpy()
    return found


class _Said(NamedTuple):
    """A forecast of one horizon: its law or draws (N, D, n), and the beliefs, of every path if `sampled`."""

    predictive: Distribution | Tensor
    belief: Any
    inputs: Tensor | None
    sampled: bool


def _log_score(model: StateSpaceModel[Any], said: _Said, y: Tensor, observed: Tensor) -> Tensor:
    """log p of what was observed, (N,); the mean over paths of their densities if they were drawn."""
    if said.sampled:
        n = len(B.to_numpy(said.belief)[0][0])
        y, each = y.unsqueeze(1).expand(-1, n, -1), observed.unsqueeze(1).expand(-1, n, -1)
        scores = model.update(said.belief, y, None if bool(observed.all()) else each, said.inputs)[1]
        score = torch.logsumexp(scores.to(torch.float64), -1) - math.log(n)
    else:
        score = model.update(said.belief, y, None if bool(observed.all()) else observed, said.inputs)[1]
    return torch.where(observed.any(-1), score.to(torch.float64), torch.nan)


def _future(data: Sequences, rows: Tensor, steps: Tensor, task: Rolling) -> Tensor | None:
    """The inputs of the steps after every origin, (N, H, P); beyond the end the last one again, never scored."""
    if data.inputs is None:
        return None
    ahead = steps.unsqueeze(-1) + torch.arange(1, max(task.horizons) + 1)
    return data.inputs[rows.unsqueeze(-1), ahead.clamp(max=data.n_steps - 1)]


def _predictives(
    model: StateSpaceModel[Any], belief: Any, u: Tensor | None, room: Tensor, task: Rolling, seed: int
) -> Iterator[tuple[int, _Said]]:
    """Per horizon p(y_{t+h} | y_<=t) where `room` >= h."""
    exact = [h for h in task.horizons if model.marginalises or h == 1]
    later = [h for h in task.horizons if h not in exact and bool((room >= h).any())]
    after = belief
    for h in range(1, max(exact, default=0) + 1):
        inputs = None if u is None else u[:, h - 1]
        after = model.predict(after, inputs)
        keep = room >= h
        if h in exact and bool(keep.any()):
            own, u_own = _select(after, keep), None if inputs is None else inputs[keep]
            yield h, _Said(model.emit(own, u_own), own, u_own, sampled=False)
    if later:
        first = model.predict(belief, None if u is None else u[:, 0])
        emitted = model.emit(first, None if u is None else u[:, 0])
        inputs = None if u is None else u.unsqueeze(1).expand(-1, task.n_samples, -1, -1)
        with seeded(seed):
            values, paths = model._simulate(B.repeat(first, task.n_samples), max(later), inputs)
        draws = values.movedim(1, -1)
        for h in later:
            keep = room >= h
            own = _select(B.map_tensors(lambda field, dim, h=h: field.select(2, h - 1), paths), keep)
            u_own = None if inputs is None else inputs[keep, :, h - 1]
            yield h, _Said(_dressed(draws[keep, h - 1], emitted), own, u_own, sampled=True)


def _select(belief: Any, keep: Tensor) -> Any:
    return B.map_tensors(lambda field, _: field[keep], belief)


def _dressed(draws: Tensor, like: Distribution) -> Distribution | Tensor:
    """Draws of discrete data as relative frequencies, in the form of the distribution they came from."""
    if is_symbolic(like):
        shares = torch.nn.functional.one_hot(draws.long(), coordinates_of(like)[1].probs.shape[-1]).to(torch.float64)
        return Independent(Categorical(probs=shares.mean(-2), validate_args=False), 1, validate_args=False)
    if isinstance(coordinates_of(like)[1], Bernoulli):
        return Independent(Bernoulli(probs=draws.mean(-1)), 1)
    return draws
