"""Log scores that say what they are, and refuse to be mixed.

A log score log p(y_t | y_<t) carries three labels.

| label     | is                                                                                                    |
|-----------|-------------------------------------------------------------------------------------------------------|
| `kind`    | exact, approximate, bound (not more than the truth) or estimate (with Monte Carlo error)              |
| `measure` | of densities, in nats per `unit`; of probabilities; or mixed columns of both                          |
| `unit`    | what one unit of every column of y is; a density in other units differs by log of the ratio per entry |

    log p(y / s) = log p(y) + log s        per observed real coordinate

Differences are taken between equal labels only; everything else raises ValueError and says which label differs.
An estimate of log p(y) from an unbiased one of p(y) is too low on average, by Jensen's inequality.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probseq.base import LikelihoodKind, StateSpaceModel
from probseq.evaluation.kinds import kinds_of, marked, measure_of
from probseq.evaluation.rounded import cell_log_prob, dequantised
from probseq.evaluation.scores import hac_standard_error, mean_score
from probseq.evaluation.summary import likelihood_kind
from probseq.models.particle_filter import ParticleFilter
from probseq.randomness import spawn
from probseq.sequences import Sequences

Measure = Literal["density", "probability", "mixed"]
Table = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LogScores:
    """log p(y_t | y_<t) per step, `values` (B, T) in nats with NaN where nothing was observed.

    `real` (B, T, D) marks the observed entries that `unit` (D,) concerns; `standard_error` is the Monte Carlo error of
    the total, 0 where there is none.
    """

    values: Table
    kind: LikelihoodKind
    measure: Measure
    unit: Table
    real: NDArray[np.bool_]
    standard_error: float = 0.0

    @property
    def mean(self) -> float:
        """Nats per observed step."""
        return mean_score(self.values)

    @property
    def mean_standard_error(self) -> float:
        """Newey-West standard error of the mean over steps."""
        return hac_standard_error(self.values)

    @property
    def total(self) -> float:
        return float(np.nansum(self.values))

    @property
    def per_sequence(self) -> Table:
        """The mean of every sequence, (B,); NaN for one without an observed step."""
        return np.array([mean_score(row) for row in self.values])

    @property
    def per_step(self) -> Table:
        """The mean over sequences of every step, (T,)."""
        return np.array([mean_score(column) for column in self.values.T])

    def in_units(self, unit: Any) -> LogScores:
        """The same scores for data counted in other units: log p moves by log(unit / own unit) per real entry."""
        new = np.broadcast_to(np.asarray(unit, dtype=np.float64), self.unit.shape)
        if not (np.isfinite(new).all() and (new > 0).all()):
            raise ValueError(f"unit must be positive and finite, got {unit!r}")
        moved = self.values + (self.real * np.log(new / self.unit)).sum(-1)
        return replace(self, values=moved, unit=new.copy())

    def as_probability(self, resolution: Any) -> LogScores:
        """Densities times the width of a cell, log p + n log w: the probability of rounded data, approximately."""
        if self.measure != "density":
            raise ValueError(f"only densities become probabilities of cells, these are of measure {self.measure!r}")
        scaled = self.in_units(resolution)
        kind: LikelihoodKind = "approximate" if self.kind == "exact" else self.kind
        return replace(scaled, kind=kind, measure="probability", real=np.zeros_like(self.real))

    def __sub__(self, other: LogScores) -> Table:
        """Paired differences per step. ValueError unless kind, measure and unit are the same."""
        self.check_like(other)
        with np.errstate(invalid="ignore"):
            return self.values - other.values

    def check_like(self, other: LogScores) -> None:
        """ValueError, naming the label, where the two are not on one scale."""
        if self.values.shape != other.values.shape:
            raise ValueError(f"scores must be of the same steps, got {self.values.shape} and {other.values.shape}")
        for label in ("kind", "measure"):
            mine, theirs = getattr(self, label), getattr(other, label)
            if mine != theirs:
                raise ValueError(f"log scores of {label} {mine!r} and {theirs!r} are not on one scale")
        if self.measure != "probability" and not np.array_equal(self.unit, other.unit):
            raise ValueError(f"log scores in units {self.unit} and {other.unit}: use in_units on one of them")


@torch.no_grad()
def log_scores(
    model: StateSpaceModel[Any],
    y: Any,
    u: Any = None,
    *,
    lengths: Any = None,
    unit: Any = 1.0,
    resolution: Any = None,
    bound: bool = False,
    n_samples: int = 10,
    seed: int | None = 0,
) -> LogScores:
    """Score every observed step given all before, with its labels.

    `unit` says in what y is counted (for `in_units`). `resolution` makes y rounded data: probabilities of cells take
    the place of densities; with `bound` by dequantisation over `n_samples` noises, which asks for no distribution
    function. A particle filter's estimate gets its standard error from `n_samples` runs.
    """
    data = model._door(y, u, lengths)
    flat = data.flat()
    kinds = kinds_of(model, flat)
    real = (flat.observed & marked(kinds, "real")).numpy()
    likelihood: Any = likelihood_kind(model, flat)
    own = LogScores(np.zeros(0), likelihood, measure_of(kinds), _columns(unit, flat, "unit"), real)
    if resolution is not None:
        if own.measure != "density":
            raise ValueError(f"resolution is for real numbers, the scores here are of measure {own.measure!r}")
        return _of_cells(model, flat, own, _columns(resolution, flat, "resolution"), bound, n_samples, seed)
    values = _where_seen(model._filter(flat, None).log_prob, flat)
    return replace(own, values=values, standard_error=_monte_carlo_error(model, flat, n_samples, seed))


def _of_cells(
    model: StateSpaceModel[Any], flat: Sequences, own: LogScores, width: Table, bound: bool, n: int, seed: int | None
) -> LogScores:
    """Probabilities of cells given the recorded past, or their bound given the noisy one."""
    own = replace(own, measure="probability", real=np.zeros_like(own.real))
    steps = torch.as_tensor(width)
    if bound:
        runs = [model._filter(dequantised(flat, steps, child), None).log_prob for child in spawn(seed, n)]
        volume = torch.where(flat.observed, steps.log(), 0.0).sum(-1)
        return replace(own, values=_where_seen(torch.stack(runs).mean(0) + volume, flat), kind="bound")
    emitted = model.emit(model._filter(flat, None).predicted, flat.inputs)
    if flat.event_shape[0] > 1 and not _separable(emitted):
        raise ValueError("columns that hang together have no cell probabilities in closed form; use bound=True")
    cells = cell_log_prob(emitted, flat.values, steps)
    return replace(own, values=_where_seen(torch.where(flat.observed, cells, 0.0).sum(-1), flat))


def _separable(emitted: Any) -> bool:
    return isinstance(emitted, torch.distributions.Independent)


def _where_seen(scores: Tensor, flat: Sequences) -> Table:
    return torch.where(flat.seen, scores.to(torch.float64), torch.nan).numpy()


def _columns(value: Any, flat: Sequences, name: str) -> Table:
    array = np.asarray(value, dtype=np.float64)
    if array.shape not in ((), flat.event_shape) or not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"{name} must be positive, a number or one per column {flat.event_shape}, got {value!r}")
    return np.broadcast_to(array, flat.event_shape).copy()


def _monte_carlo_error(model: StateSpaceModel[Any], flat: Sequences, n_samples: int, seed: int | None) -> float:
    if not isinstance(model, ParticleFilter):
        return 0.0
    runs = model.repeated_log_prob(flat, n_samples, seed).sum(-1)
    return float(runs.std())
