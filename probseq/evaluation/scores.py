"""Scores of probabilistic predictions, and how certain a mean of scores is.

| score     | of p for the observation y                       | better | unit            |
|-----------|--------------------------------------------------|--------|-----------------|
| log score | log p(y)                                         | higher | nats            |
| CRPS      | integral over x of (F(x) - 1{y <= x})^2          | lower  | that of y       |
| energy    | E||X - y|| - E||X - X'|| / 2, X, X' ~ p          | lower  | that of y       |
| coverage  | 1 where y lies inside the central interval       | = level| share           |

The first three are proper: nobody gains by saying other than what is believed. CRPS equals
E|X - y| - E|X - X'| / 2 for independent X, X' ~ F, so for a point forecast it is the absolute error, and the energy
score is the same for whole rows, with Euclidean lengths. Scores of quantiles, intervals and points are in
`probseq.evaluation.point_scores`, log scores with their kinds in `probseq.evaluation.log_scores`.

Scores of successive steps are correlated. With e_t = s_t - mean(s), the variance of a mean of n scores is

    n^-2 ( sum_t e_t^2 + 2 sum_{l=1}^{L} (1 - l / (L + 1)) sum_t e_t e_{t-l} ),   L = floor(4 (n / 100)^(2/9)),

the Bartlett-kernel estimator of Newey and West (1987), with the lag rule of Newey and West (1994). Steps without a
score have e_t = 0, which keeps distances in time and the estimate non-negative (Datta and Du 2012); several
sequences are independent, so their sums add.

References: Gneiting and Raftery (2007), JASA 102, eqs. 20-22 (CRPS, energy); Grimit et al. (2006), eq. 5 (mixtures);
Newey and West (1987), Econometrica 55, eq. 5; Diebold and Mariano (1995) for paired differences of scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch import distributions as D

from probseq.evaluation.kinds import column_kinds, marginal_parts
from probseq.marginals import coordinates_of
from probseq.randomness import seeded

#: beyond this many components or counts the exact sums give way to draws
MOST_COMPONENTS = 64
MOST_COUNTS = 5000


def log_score(distribution: D.Distribution, y: Tensor) -> Tensor:
    """log p(y) in nats, (*batch,): a density for real data, a probability for discrete data."""
    return distribution.log_prob(y)


def crps(distribution: D.Distribution, y: Tensor, *, n_samples: int = 1000, seed: int | None = 0) -> Tensor:
    """The continuous ranked probability score per coordinate, (*batch, D), from rows y (*batch, D).

    Exact for normal marginals and their mixtures, counts and binary data (there it is the Brier score); otherwise
    estimated without bias from `n_samples` draws. Symbols have no order and give NaN, as do angles.
    """
    parts = marginal_parts(distribution)
    if len(parts) > 1:
        columns = y.split([part.event_shape[0] for part in parts], -1)
        found = [crps(part, x, n_samples=n_samples, seed=seed) for part, x in zip(parts, columns, strict=True)]
        return torch.cat(found, -1)
    if column_kinds(distribution)[0] in ("symbol", "angle"):
        return torch.full(y.shape, torch.nan, dtype=torch.float64)
    weights, base = coordinates_of(distribution)
    if isinstance(base, D.Bernoulli):
        probs = base.probs if weights is None else (weights.unsqueeze(-1) * base.probs).sum(-2)
        return (probs - y).square()
    few = weights is None or weights.shape[-1] <= MOST_COMPONENTS
    if isinstance(base, D.Normal) and few:
        return _crps_normal(weights, base, y)
    if getattr(base.support, "is_discrete", False) and few and _largest_count(base, y) <= MOST_COUNTS:
        return _crps_counts(weights, base, y)
    with seeded(seed):
        return crps_of_draws(distribution.sample(torch.Size([n_samples])).movedim(0, -1), y)


def crps_of_draws(draws: Tensor, y: Tensor) -> Tensor:
    """E|X - y| - E|X - X'| / 2 estimated without bias from draws (*batch, D, n), (*batch, D)."""
    import scoringrules

    of_ensemble: Any = scoringrules.crps_ensemble
    return _tensor(of_ensemble(_array(y), _array(draws), estimator="pwm"))


def energy_score(distribution: D.Distribution, y: Tensor, *, n_samples: int = 1000, seed: int | None = 0) -> Tensor:
    """The energy score of rows y (*batch, D), (*batch,), estimated without bias from `n_samples` draws.

    Columns in different units weigh by their numbers: bring them to one first. Satisfies crps for D = 1.
    """
    if any(kind in ("symbol", "angle") for kind in column_kinds(distribution)):
        return torch.full(y.shape[:-1], torch.nan, dtype=torch.float64)
    with seeded(seed):
        return energy_of_draws(distribution.sample(torch.Size([n_samples])).movedim(0, -1), y)


def energy_of_draws(draws: Tensor, y: Tensor) -> Tensor:
    """E||X - y|| - E||X - X'|| / 2 from draws (*batch, D, n), (*batch,); neighbouring draws stand for X, X'."""
    away = (draws - y.unsqueeze(-1)).square().sum(-2).sqrt().mean(-1)
    apart = (draws - draws.roll(1, -1)).square().sum(-2).sqrt().mean(-1)
    return away - apart / 2


def covered(lower: Tensor, upper: Tensor, y: Tensor) -> Tensor:
    """1 where lower <= y <= upper, else 0, per coordinate; its mean is the coverage of the interval."""
    return ((lower <= y) & (y <= upper)).to(torch.float64)


def hac_standard_error(scores: ArrayLike, bandwidth: int | None = None) -> float:
    """Standard error of the mean of autocorrelated scores (T,), or (B, T) of B independent sequences; NaN = no score.

    `bandwidth` is the number of lags, by default `default_bandwidth` of the longest sequence. NaN where there are
    fewer than two scores or one of them is infinite.
    """
    rows = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    seen = ~np.isnan(rows)
    n = int(seen.sum())
    if n < 2 or not np.isfinite(rows[seen]).all():
        return float("nan")
    lags = default_bandwidth(int(seen.sum(1).max())) if bandwidth is None else bandwidth
    away = np.where(seen, rows - rows[seen].mean(), 0.0)
    total = np.square(away).sum()
    for lag in range(1, min(lags, rows.shape[1] - 1) + 1):
        total += 2 * (1 - lag / (lags + 1)) * (away[:, lag:] * away[:, :-lag]).sum()
    return float(np.sqrt(max(total, 0.0)) / n)  # the sum is non-negative but for rounding


def default_bandwidth(n: int) -> int:
    """floor(4 (n / 100)^(2/9)) lags for n scores."""
    return int(4 * (n / 100) ** (2 / 9))


def mean_score(scores: ArrayLike) -> float:
    """The mean of the scores that are there (not NaN); NaN if none is."""
    values = np.asarray(scores, dtype=np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _crps_normal(weights: Tensor | None, base: D.Normal, y: Tensor) -> Tensor:
    import scoringrules

    if weights is None:
        return _tensor(scoringrules.crps_normal(_array(y), _array(base.loc), _array(base.scale)))
    mean, deviation = base.loc.movedim(-2, -1), base.scale.movedim(-2, -1)
    shares = weights.unsqueeze(-2).expand(mean.shape)
    return _tensor(scoringrules.crps_mixnorm(_array(y), _array(mean), _array(deviation), _array(shares)))


def _largest_count(base: Any, y: Tensor) -> int:
    """A count beyond which no distribution here has mass that shows, and no observation lies."""
    top = torch.maximum((base.mean + 12 * base.variance.sqrt() + 30).max(), y.max()) if y.numel() else torch.zeros(())
    return int(top)


def _crps_counts(weights: Tensor | None, base: Any, y: Tensor) -> Tensor:
    """The sum over k = 0, 1, ... of (F(k) - 1{y <= k})^2."""
    counts = torch.arange(_largest_count(base, y) + 1, dtype=torch.float64)
    grid = counts.reshape(-1, *(1,) * len(base.batch_shape))
    mass = base.log_prob(grid.expand(-1, *base.batch_shape)).exp()
    if weights is not None:
        mass = (weights.unsqueeze(-1) * mass).sum(-2)
    step = (y <= counts.reshape(-1, *(1,) * y.ndim)).to(torch.float64)
    return (mass.cumsum(0) - step).square().sum(0)


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().to(torch.float64).numpy()


def _tensor(array: Any) -> Tensor:
    return torch.as_tensor(np.asarray(array, dtype=np.float64))
