"""Connectionist temporal classification: the probability of a labelling, whatever its timing, and the best of them.

    a path says a label or nothing ("blank", label 0) at each step:    p(path) = prod_t p_t(path_t)
    its labelling: repeated labels merged, then blanks dropped:        A A - A B B  ->  A A B
    p(labelling) = sum over its paths

| symbol      | shape   | meaning                                                                             |
|-------------|---------|-------------------------------------------------------------------------------------|
| log_probs   | (T, K)  | log p_t(k), rows that sum to 1; k = 0 is the blank                                  |
| labels      | (U,)    | 1 .. K - 1                                                                          |
| l'          | (2U+1,) | the labels with blanks before, between and behind them                              |
| alpha, beta | (T, S)  | log-probability of the path's parts up to t, and after t, with l'_s at t            |

Graves, A., Fernandez, S., Gomez, F. & Schmidhuber, J. (2006), Connectionist temporal classification, ICML: equations
(6)-(8) and (10)-(11), (14)-(15). Prefix search with a beam and a language model: Hannun, A. et al. (2014),
arXiv:1408.2873, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BLANK = 0


class Alignment(NamedTuple):
    """log p(labels); the probability that the path says l'_s at t, (T, 2U + 1); and that it says label k, (T, K)."""

    log_prob: float
    places: Array
    labels: Array


def align(log_probs: Any, labels: Sequence[int]) -> Alignment:
    """The forward-backward algorithm. Satisfies d log_prob / d log_probs == labels.

    ValueError for labels out of range. -inf and zeros where the steps are too few for the labels.
    """
    table, spread = np.asarray(log_probs, np.float64), _spread(labels, np.shape(log_probs))
    emitted = table[:, spread]
    forward = _forward(emitted, spread)
    backward = _forward(emitted[::-1, ::-1], spread[::-1])[::-1, ::-1] - emitted
    total = float(np.logaddexp.reduce(forward[-1, -2:])) if len(table) else (0.0 if not len(labels) else -np.inf)
    if not np.isfinite(total):
        return Alignment(total, np.zeros_like(emitted), np.zeros_like(table))
    places = np.exp(forward + backward - total)
    by_label = np.zeros_like(table)
    np.add.at(by_label.T, spread, places.T)
    return Alignment(total, places, by_label)


def best_alignment(log_probs: Any, labels: Sequence[int]) -> NDArray[np.int64]:
    """The most probable path with this labelling: at each step the place in `labels`, -1 for a blank, (T,).

    ValueError where the steps are too few.
    """
    table, spread = np.asarray(log_probs, np.float64), _spread(labels, np.shape(log_probs))
    if len(table) < steps_needed(labels):
        raise ValueError(f"log_probs must have {steps_needed(labels)} steps or more for these labels, got {len(table)}")
    jumps = _jumps(spread)
    score = np.where(np.arange(len(spread)) < 2, table[0, spread], -np.inf)
    came = np.zeros((len(table), len(spread)), np.int64)
    for t in range(1, len(table)):
        ways = np.stack([score, _moved(score, 1), np.where(jumps, _moved(score, 2), -np.inf)])
        came[t] = ways.argmax(0)
        score = ways.max(0) + table[t, spread]
    place = len(spread) - 1 if len(spread) == 1 or score[-1] >= score[-2] else len(spread) - 2
    path = np.empty(len(table), np.int64)
    for t in range(len(table) - 1, -1, -1):
        path[t] = place
        place -= came[t, place]
    return np.where(path % 2 == 1, path // 2, -1)


def best_path(log_probs: Any) -> list[int]:
    """The labelling of the most probable path, which need not be the most probable labelling."""
    return [int(k) for k, _ in groupby(np.asarray(log_probs).argmax(-1)) if k != BLANK]


class Reading(NamedTuple):
    """A labelling, and its score: log p(labels | steps), with what a language model adds."""

    labels: tuple[int, ...]
    score: float


def prefix_search(
    log_probs: Any,
    beam: int = 25,
    *,
    language: Callable[[tuple[int, ...]], Array] | None = None,
    weight: float = 1.0,
    bonus: float = 0.0,
    margin: float = 12.0,
) -> list[Reading]:
    """The best labellings found with `beam` prefixes kept at each step, best first.

    `language` gives log p(label | prefix), (K - 1,), of labels 1 .. K - 1. It enters with `weight`, and every label
    adds `bonus`, against the preference for short ones. Labels more than `margin` nats below the best of their step are
    not tried. With a beam and a margin beyond all prefixes the first labelling is the most probable one.
    """
    if beam < 1:
        raise ValueError(f"beam must be at least 1, got {beam}")
    # of a prefix: log-probability of its paths that end in a blank, and in its last label; what language added
    kept: dict[tuple[int, ...], tuple[float, float, float]] = {(): (0.0, -np.inf, 0.0)}
    table = np.asarray(log_probs, np.float64)
    for row in table:
        tried = [int(k) for k in np.flatnonzero(row > row.max() - margin) if k != BLANK]
        grown: dict[tuple[int, ...], list[float]] = {}
        for prefix, (blank, label, added) in kept.items():
            both = np.logaddexp(blank, label)
            _grow(grown, prefix, 0, both + row[BLANK], added)
            if prefix:
                _grow(grown, prefix, 1, label + row[prefix[-1]], added)
            more = language(prefix) if language is not None and tried else None
            for k in tried:
                before = blank if prefix and prefix[-1] == k else both
                extra = added + bonus + (0.0 if more is None else weight * more[k - 1])
                _grow(grown, (*prefix, k), 1, before + row[k], extra)
        best = sorted(grown, key=lambda p: np.logaddexp(grown[p][0], grown[p][1]) + grown[p][2], reverse=True)[:beam]
        kept = {prefix: (grown[prefix][0], grown[prefix][1], grown[prefix][2]) for prefix in best}
    return [
        Reading(prefix, float(np.logaddexp(blank, label) + added)) for prefix, (blank, label, added) in kept.items()
    ]


def _grow(
    grown: dict[tuple[int, ...], list[float]], prefix: tuple[int, ...], end: int, value: float, added: float
) -> None:
    entry = grown.setdefault(prefix, [-np.inf, -np.inf, added])
    entry[end] = float(np.logaddexp(entry[end], value))


def steps_needed(labels: Sequence[int]) -> int:
    """Steps of the shortest path: one for each label, and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))


def _spread(labels: Sequence[int], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """l', after a look at the arguments."""
    if len(shape) != 2:
        raise ValueError(f"log_probs must be (steps, labels), got shape {shape}")
    given = np.asarray(labels, np.int64)
    if given.ndim != 1 or not ((given > BLANK) & (given < shape[1])).all():
        raise ValueError(f"labels must be whole numbers 1 .. {shape[1] - 1}, got {list(labels)!r}")
    spread = np.full(2 * len(given) + 1, BLANK)
    spread[1::2] = given
    return spread


def _jumps(spread: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a path may come from two places before: over a blank between different labels."""
    jumps = np.zeros(len(spread), bool)
    jumps[2:] = (spread[2:] != BLANK) & (spread[2:] != spread[:-2])
    return jumps


def _moved(score: Array, n_places: int) -> Array:
    return np.concatenate([np.full(min(n_places, len(score)), -np.inf), score[:-n_places]])


def _forward(emitted: Array, spread: NDArray[np.int64]) -> Array:
    """alpha, (T, S)."""
    jumps, alpha = _jumps(spread), np.full(emitted.shape, -np.inf)
    for t, row in enumerate(emitted):
        if t == 0:
            alpha[0, :2] = row[:2]
            continue
        before = np.logaddexp(alpha[t - 1], _moved(alpha[t - 1], 1))
        alpha[t] = row + np.logaddexp(before, np.where(jumps, _moved(alpha[t - 1], 2), -np.inf))
    return alpha
