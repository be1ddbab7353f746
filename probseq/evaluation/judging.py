"""All scores of a batch of forecasts, from distributions or from draws.

| score            | of rows y (N, D), mean over observed coordinates unless said otherwise                   |
|------------------|------------------------------------------------------------------------------------------|
| `log_score`      | log p of the observed coordinates together, nats                                         |
| `crps`           | continuous ranked probability score                                                      |
| `energy`         | energy score of the whole row, of complete rows of several columns only                  |
| `interval_score` | of the central interval of probability `level`                                           |
| `inside`         | whether that interval held the target                                                    |
| `error`          | y - mean, of one column only                                                             |
| `pit`            | probability integral transform, of one column only, randomised where data are discrete   |

NaN stands where a score means nothing (symbols have neither means nor intervals).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from probseq.evaluation.calibration import pit
from probseq.evaluation.kinds import column_kinds, marginal_parts
from probseq.evaluation.point_scores import interval_score
from probseq.evaluation.scores import covered, crps, crps_of_draws, energy_of_draws, energy_score
from probseq.marginals import coordinates_of, quantile
from probseq.randomness import generator, spawn

SCORES = ("log_score", "crps", "energy", "interval_score", "inside", "error", "pit")
#: draws for the energy score of a distribution
ENERGY_DRAWS = 200


class Task(Protocol):
    """What the scores need to know."""

    @property
    def level(self) -> float: ...
    @property
    def seed(self) -> int: ...


def judge(predictive: Distribution | Tensor, y: Tensor, observed: Tensor, task: Task) -> dict[str, Tensor]:
    """Every score but the log score, (N,) each; draws are (N, D, n)."""
    found = dict.fromkeys(SCORES[1:], torch.full(y.shape[:1], torch.nan, dtype=torch.float64))
    tables = _of_draws(predictive, y, task) if isinstance(predictive, Tensor) else _of_law(predictive, y, task)
    whole = tables.pop("energy", None)
    if whole is not None and y.shape[-1] > 1:
        found["energy"] = torch.where(observed.all(-1), whole, torch.nan)
    single = {name: tables.pop(name) for name in ("error", "pit") if name in tables}
    found |= {name: mean_over(table, observed) for name, table in tables.items()}
    if y.shape[-1] == 1:
        found |= {name: torch.where(observed, table, torch.nan)[:, 0] for name, table in single.items()}
    return found


def mean_over(values: Tensor, observed: Tensor) -> Tensor:
    """Mean over the observed coordinates that have a value, (N,)."""
    there = observed & ~torch.isnan(values)
    return torch.where(there, values, 0.0).sum(-1) / torch.where(there.any(-1), there.sum(-1), torch.nan)


def _of_draws(draws: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
    tail = (1 - task.level) / 2
    ends = np.quantile(draws.numpy(), [tail, 1 - tail], axis=-1)
    lower, upper = torch.as_tensor(ends[0]), torch.as_tensor(ends[1])
    at = y.unsqueeze(-1)
    less, equal = (draws < at).to(torch.float64).mean(-1), (draws == at).to(torch.float64).mean(-1)
    share = torch.rand(y.shape, generator=generator(spawn(task.seed, 1)[0]), dtype=torch.float64)
    return {
        "crps": crps_of_draws(draws, y),
        "energy": energy_of_draws(draws, y),
        "interval_score": interval_score(lower, upper, y, task.level),
        "inside": covered(lower, upper, y),
        "error": y - draws.mean(-1),
        "pit": less + share * equal,
    }


def _of_law(law: Distribution, y: Tensor, task: Task) -> dict[str, Tensor]:
    found = {"crps": crps(law, y, seed=task.seed), **_of_intervals(law, y, task)}
    if y.shape[-1] > 1:
        found["energy"] = energy_score(law, y, n_samples=ENERGY_DRAWS, seed=task.seed)
    elif column_kinds(law)[0] not in ("symbol", "angle"):
        found["error"] = y - law.mean.to(torch.float64)
    if y.shape[-1] == 1:
        with suppress(ValueError):  # a law without a distribution function
            found["pit"] = pit(law, y, seed=task.seed)
    return found


def _of_intervals(law: Distribution, y: Tensor, task: Task) -> dict[str, Tensor]:
    """Interval score and coverage, part by part; NaN for binary columns, symbols and angles."""
    tail = (1 - task.level) / 2
    score, inside = [], []
    parts = marginal_parts(law)
    for part, x in zip(parts, y.split([part.event_shape[0] for part in parts], -1), strict=True):
        if column_kinds(part)[0] in ("symbol", "angle") or isinstance(coordinates_of(part)[1], Bernoulli):
            score.append(torch.full(x.shape, torch.nan, dtype=torch.float64))
            inside.append(score[-1])
            continue
        ends: list[Any] = [quantile(part, q).to(torch.float64) for q in (tail, 1 - tail)]
        score.append(interval_score(ends[0], ends[1], x, task.level))
        inside.append(covered(ends[0], ends[1], x))
    return {"interval_score": torch.cat(score, -1), "inside": torch.cat(inside, -1)}
