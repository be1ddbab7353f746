"""How many states: the number that predicts best what was not used for the fit.

    many sequences: n_folds groups of them; each is scored by a model fitted to the others
    one series:     n_folds + 1 blocks in time; block i is scored, given all before it, by a model fitted to those

The score is log p(held out | seen), summed over the folds and divided by the observed steps held out.

References: Celeux and Durand (2008), Computational Statistics 23 (cross-validated likelihood of hidden Markov models);
Smyth (2000), Statistics and Computing 10; Bergmeir, Hyndman and Koo (2018), CSDA 120 (one series).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from probseq.base import StateSpaceModel
from probseq.learning.problem import one_thread
from probseq.randomness import spawn
from probseq.sequences import Sequences


@dataclass(frozen=True, repr=False)
class StateChoice:
    """What `choose_n_states` found: `best`, and a pandas `table` by candidate.

    `table` has the mean held-out `score` in nats per observed step, its standard error over folds `score_se`, the
    `difference` to the best with its paired standard error `difference_se`, and `parameters`. `folds` has the score
    of every fold (rows) and candidate (columns).
    """

    best: int
    table: Any
    folds: Any

    def __repr__(self) -> str:
        text = self.table.to_string(float_format=lambda value: f"{value:.4f}")
        return f"{self.best} states predict best (nats per held-out step, {len(self.folds)} folds)\n\n{text}"


def choose_n_states(
    make: Callable[[int], StateSpaceModel[Any]],
    y: Any,
    candidates: Iterable[int],
    u: Any = None,
    *,
    lengths: Any = None,
    n_folds: int = 5,
    n_jobs: int = 1,
    seed: int = 0,
    **fit_options: Any,
) -> StateChoice:
    """Score `make(k)` for every candidate k on data it was not fitted to; `fit_options` go to every `fit`.

    Folds are drawn once by `seed`, so that candidates are paired; each fit has a seed of its own. With `n_jobs` other
    than 1 they run in parallel processes, and `make` must be a function that can be pickled.
    """
    from joblib import Parallel, delayed

    sizes = list(dict.fromkeys(int(k) for k in candidates))
    if not sizes:
        raise ValueError("candidates must name at least one number of states, got none")
    data = make(sizes[0])._door(y, u, lengths, least=2).flat()
    folds = _folds(data, n_folds, seed)
    seeds = spawn(seed, len(sizes) * len(folds))
    tasks = [(k, fold) for k in sizes for fold in folds]
    outcomes: Any = Parallel(n_jobs=n_jobs)(
        delayed(_score)(make, k, fold, s, fit_options) for (k, fold), s in zip(tasks, seeds, strict=True)
    )
    scores = np.array([score for score, _ in outcomes]).reshape(len(sizes), len(folds))
    parameters = [count for _, count in outcomes][:: len(folds)]
    return _choice(sizes, scores, np.array([fold.n_steps for fold in folds], dtype=float), parameters)


class Fold(NamedTuple):
    """What a fit sees, and what is scored: separate sequences, or the same ones with a block more (`continued`)."""

    train: Sequences
    test: Sequences
    continued: bool

    @property
    def n_steps(self) -> int:
        """Observed steps that are scored."""
        return int(self.test.seen.sum()) - (int(self.train.seen.sum()) if self.continued else 0)


def _folds(data: Sequences, n_folds: int, seed: int) -> list[Fold]:
    if isinstance(n_folds, bool) or int(n_folds) != n_folds or n_folds < (1 if len(data.lengths) == 1 else 2):
        raise ValueError(f"n_folds must be an integer of at least 2 (1 for one series), got {n_folds!r}")
    n = len(data.lengths)
    if n == 1:
        ends = np.linspace(0, data.n_steps, n_folds + 2).round().astype(int)[1:].tolist()
        folds = [Fold(data.steps(0, a), data.steps(0, b), True) for a, b in pairwise(ends)]
    elif n < n_folds:
        raise ValueError(f"y must have at least n_folds = {n_folds} sequences, got {n}")
    else:
        parts = np.array_split(np.random.default_rng(seed).permutation(n), n_folds)
        rest = [np.setdiff1d(np.arange(n), part) for part in parts]
        folds = [Fold(data.select(a), data.select(np.sort(b)), False) for a, b in zip(rest, parts, strict=True)]
    for i, fold in enumerate(folds):
        if fold.n_steps == 0 or not bool(fold.train.observed.any()):
            raise ValueError(f"fold {i} has no observed step to fit or to score; use fewer folds than {n_folds}")
    return folds


def _score(
    make: Callable[[int], StateSpaceModel[Any]], k: int, fold: Fold, seed: int, options: dict[str, Any]
) -> tuple[float, int]:
    """log p(held out | seen) per held-out step, and the number of free parameters."""
    model = make(k).fit(fold.train, seed=seed, **options)
    with torch.no_grad(), one_thread():
        total = float(model.log_prob(fold.test).sum())
        before = float(model.log_prob(fold.train).sum()) if fold.continued else 0.0
    return (total - before) / fold.n_steps, model.n_parameters


def _choice(sizes: list[int], scores: np.ndarray[Any, Any], steps: Any, parameters: list[int]) -> StateChoice:
    import pandas as pd

    weights = steps / steps.sum()
    mean = scores @ weights
    best = int(mean.argmax())
    difference = scores - scores[best]
    table = pd.DataFrame(
        {
            "score": mean,
            "score_se": _fold_error(scores, weights),
            "difference": mean - mean[best],
            "difference_se": _fold_error(difference, weights),
            "parameters": parameters,
        },
        index=pd.Index(sizes, name="n_states"),
    )
    folds = pd.DataFrame(scores.T, columns=pd.Index(sizes, name="n_states"))
    return StateChoice(sizes[best], table, folds)


def _fold_error(scores: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The standard error of a weighted mean over folds, NaN for one fold."""
    n = scores.shape[1]
    if n == 1:
        return np.full(len(scores), np.nan)
    away = scores - (scores @ weights)[:, None]
    return np.sqrt(n / (n - 1) * (away**2 @ weights**2))
