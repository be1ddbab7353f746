"""Calibration: whether what was said to happen in one case of ten happens in one case of ten.

    continuous    v_t = P(Y_t <= y_t | y_<t)
    discrete      v_t = P(Y_t < y_t | y_<t) + r_t P(Y_t = y_t | y_<t),    r_t uniform on [0, 1)

Under the true model these probability integral transforms (PIT) are independent and uniform on [0, 1], whatever the
family; symbols count in the order of their numbers. A U-shaped histogram means intervals that are too narrow, a hump
too wide, a slope a bias.

| test           | of                                                              | null distribution          |
|----------------|-----------------------------------------------------------------|----------------------------|
| uniform        | largest distance of the distribution function from the diagonal | Kolmogorov and Smirnov's   |
| Berkowitz      | Phi^-1(v_t) against an AR(1) with any mean and variance         | likelihood ratio, chi2(3)  |
| coverage       | share inside a central interval against its level               | likelihood ratio, chi2(1)  |
| independence   | hits after hits against hits after misses                       | likelihood ratio, chi2(1)  |

The coordinates of one step are tested apart: given the past they are uniform each, but not independent.

References: Rosenblatt (1952), Annals of Mathematical Statistics 23; Dawid (1984); Brockwell (2007), Statistics and
Probability Letters 77 (randomised PIT); Gneiting, Balabdaoui and Raftery (2007), JRSS B 69; Berkowitz (2001), JBES 19,
eq. 9; Christoffersen (1998), International Economic Review 39, eqs. 5-9.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch import distributions as D

from probseq.base import StateSpaceModel
from probseq.checks import share
from probseq.evaluation.diagnostics import Outcome
from probseq.evaluation.kinds import column_kinds, marginal_parts
from probseq.evaluation.tails import log_tails
from probseq.layout import Paths, leave
from probseq.randomness import generator, spawn

Values = NDArray[np.float64]


@torch.no_grad()
def pit(distribution: D.Distribution, y: Tensor, *, seed: int | None = 0) -> Tensor:
    """The transform of every coordinate of rows y (*batch, D), in [0, 1], randomised where the data are discrete.

    Raises ValueError for a law without a distribution function.
    """
    parts = marginal_parts(distribution)
    widths = [part.event_shape[0] for part in parts]
    found = [_pit_of_part(part, x) for part, x in zip(parts, y.split(widths, -1), strict=True)]
    below, mass = (torch.cat([pair[i] for pair in found], -1) for i in (0, 1))
    own = spawn(seed, 1)[0]  # data may have been drawn with the very same seed
    share = torch.rand(y.shape, generator=generator(own), dtype=torch.float64)
    return (below + share * mass).clamp(0, 1)


def _pit_of_part(distribution: D.Distribution, y: Tensor) -> tuple[Tensor, Tensor]:
    """P(Y < y) and P(Y = y) per coordinate."""
    if column_kinds(distribution)[0] == "symbol":
        return _pit_of_symbols(distribution, y)
    lower, upper = log_tails(distribution, y)
    below = lower[0].to(torch.float64).exp()
    return below, upper[0].to(torch.float64).exp() - below if upper is not lower else torch.zeros_like(below)


def _pit_of_symbols(distribution: D.Distribution, y: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(distribution, D.MixtureSameFamily):
        base: Any = distribution.component_distribution
        probs = (distribution.mixture_distribution.probs[..., None, None] * base.base_dist.probs).sum(-3)
    else:
        probs = distribution.base_dist.probs  # type: ignore[attr-defined]
    below = torch.cat([torch.zeros_like(probs[..., :1]), probs.cumsum(-1)], -1).to(torch.float64)
    place = y.long().unsqueeze(-1)
    below = below.expand(*y.shape, below.shape[-1])
    first, last = below.gather(-1, place).squeeze(-1), below.gather(-1, place + 1).squeeze(-1)
    return first, last - first


@torch.no_grad()
def pit_values(model: StateSpaceModel[Any], y: Any, u: Any = None, *, lengths: Any = None, seed: int | None = 0) -> Any:
    """The transforms of all one-step predictions, in the layout of the data, NaN where nothing was observed."""
    data = model._door(y, u, lengths)
    flat = data.flat()
    emitted = model.emit(model._filter(flat, None).predicted, flat.inputs)
    values = torch.where(flat.observed, pit(emitted, flat.values, seed=seed), torch.nan)
    return leave(Paths(values), data, unwrap=True)


# ---------------------------------------------------------------------------------------------------- tests


class Calibration(NamedTuple):
    """The tests of one column of PIT values, and how often 50 % and 90 % intervals held their target."""

    n: int
    uniform: Outcome
    berkowitz: Outcome
    inside_50: float
    inside_90: float
    coverage_90: Outcome
    independence_90: Outcome


def calibration(values: ArrayLike) -> Calibration:
    """Test PIT values of one column, (T,) or (B, T) of independent sequences, NaN where there is none."""
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    held = _inside(rows, 0.9)
    return Calibration(
        n=int((~np.isnan(rows)).sum()),
        uniform=uniform_test(rows),
        berkowitz=berkowitz_test(rows),
        inside_50=float(np.nanmean(_inside(rows, 0.5))),
        inside_90=float(np.nanmean(held)),
        coverage_90=coverage_test(held, 0.9),
        independence_90=independence_test(held),
    )


def uniform_test(values: ArrayLike) -> Outcome:
    """Kolmogorov and Smirnov's test that the values come from the uniform law."""
    from scipy.stats import kstest

    there = _present(values)
    found: Any = kstest(there, "uniform")
    return Outcome(float(found.statistic), float(found.pvalue))


def berkowitz_test(values: ArrayLike) -> Outcome:
    """Likelihood ratio of independent standard normal scores against a Gaussian AR(1), given each first value."""
    from scipy.stats import chi2, norm

    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    scores = norm.ppf(np.clip(rows, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg))
    before, after = scores[:, :-1].ravel(), scores[:, 1:].ravel()
    both = ~np.isnan(before) & ~np.isnan(after)
    before, after = before[both], after[both]
    if len(after) < 4:
        raise ValueError(f"values must hold 4 neighbouring pairs or more, got {len(after)}")
    design = np.stack([np.ones_like(before), before], 1)
    left = after - design @ np.linalg.lstsq(design, after, rcond=None)[0]
    statistic = float(after @ after - len(after) * (1 + np.log(left @ left / len(after))))
    return Outcome(statistic, float(chi2.sf(statistic, 3)))


def coverage_test(inside: ArrayLike, level: float) -> Outcome:
    """Likelihood ratio of the share of hits against `level`, given 1 for a hit, 0 for a miss, NaN for nothing."""
    from scipy.stats import chi2

    share("level", level)
    there = _present(inside)
    hits, n = float(there.sum()), len(there)
    statistic = 2 * (_log_binomial(hits, n, hits / n) - _log_binomial(hits, n, level))
    return Outcome(statistic, float(chi2.sf(statistic, 1)))


def independence_test(inside: ArrayLike) -> Outcome:
    """Likelihood ratio of one hit rate against a rate after hits and another after misses.

    p-value 1 where all are hits or all are misses: nothing speaks against independence then.
    """
    from scipy.stats import chi2

    rows = np.atleast_2d(np.asarray(inside, dtype=np.float64))
    before, after = rows[:, :-1].ravel(), rows[:, 1:].ravel()
    both = ~np.isnan(before) & ~np.isnan(after)
    before, after = before[both], after[both]
    if not len(after):
        raise ValueError("inside must hold two neighbouring steps or more, got none")
    apart = sum(_log_binomial(part.sum(), len(part), part.mean()) for part in _split(before, after) if len(part))
    statistic = max(2 * (apart - _log_binomial(after.sum(), len(after), after.mean())), 0.0)
    return Outcome(statistic, float(chi2.sf(statistic, 1)))


def _split(before: Values, after: Values) -> tuple[Values, Values]:
    return after[before == 1], after[before == 0]


def _log_binomial(hits: float, n: int, rate: float) -> float:
    from scipy.special import xlogy

    return float(xlogy(hits, rate) + xlogy(n - hits, 1 - rate))


def _inside(values: Values, level: float) -> Values:
    return np.where(np.isnan(values), np.nan, np.abs(values - 0.5) <= level / 2)


def _present(values: ArrayLike) -> Values:
    array = np.asarray(values, dtype=np.float64).ravel()
    array = array[~np.isnan(array)]
    if not len(array):
        raise ValueError("values must hold one number or more, got none")
    return array
