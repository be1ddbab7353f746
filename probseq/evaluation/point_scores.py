"""Scores of quantiles, intervals and points.

| score          | of                               | value                                                     |
|----------------|----------------------------------|-----------------------------------------------------------|
| quantile score | the q-quantile x                 | (1{y <= x} - q) (x - y)                                   |
| interval score | a central interval [l, u] of     | (u - l) + 2 / a ((l - y)_+ + (y - u)_+),  a = 1 - level   |
|                | probability `level`              |                                                           |
| RMSE           | the mean                         | square root of the mean of (y - x)^2                      |
| MASE           | the median                       | mean |y - x| / mean |y_t - y_{t-m}| of the training part  |

Lower is better for all, and no forecaster gains by stating another quantile or interval than the believed one. The
interval score is 2 / a times the sum of the quantile scores of both ends, and CRPS twice the integral of the quantile
score over q. RMSE has the unit of y; MASE has none: 1 is the error of repeating the last value (m = 1) or season.

References: Gneiting and Raftery (2007), JASA 102, eqs. 40 and 43; Hyndman and Koehler (2006), International Journal of
Forecasting 22, sec. 4 (MASE).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from probseq.checks import share
from probseq.sequences import Sequences


def quantile_score(predicted: Tensor, y: Tensor, q: float | Tensor) -> Tensor:
    """The pinball loss of the q-quantile, elementwise. Its mean is least at the q-quantile of y."""
    return ((y <= predicted).to(y.dtype) - q) * (predicted - y)


def interval_score(lower: Tensor, upper: Tensor, y: Tensor, level: float) -> Tensor:
    """Width plus a fine for what lies outside, elementwise.

    Satisfies interval_score == 2 / (1 - level) (quantile_score(lower, y, (1 - level) / 2) + that of upper).
    """
    share("level", level)
    outside = (lower - y).clamp(min=0) + (y - upper).clamp(min=0)
    return (upper - lower) + 2 / (1 - level) * outside


def rmse(errors: ArrayLike) -> float:
    """The root of the mean square over the errors that are there (not NaN); NaN if none is."""
    there = _present(errors)
    return float(np.sqrt(np.mean(there**2))) if len(there) else float("nan")


def mae(errors: ArrayLike) -> float:
    """The mean absolute error over the errors that are there (not NaN); NaN if none is."""
    there = _present(errors)
    return float(np.abs(there).mean()) if len(there) else float("nan")


def naive_scale(train: Any, season: int = 1) -> Tensor:
    """mean |y_t - y_{t-season}| per column over the training part, what MASE divides by, (D,).

    Pairs within a sequence only; NaN for a column without such a pair, or where none of them moves.
    """
    if season < 1:
        raise ValueError(f"season must be a positive number of steps, got {season!r}")
    data = Sequences.of(train).flat()
    moves = (data.values[:, season:] - data.values[:, :-season]).abs()
    both = data.observed[:, season:] & data.observed[:, :-season]
    total = torch.where(both, moves, 0.0).sum((0, 1))
    return torch.where(total > 0, total / both.sum((0, 1)), torch.nan)


def mase(errors: ArrayLike, train: Any, season: int = 1) -> float:
    """Mean |error| of one column in units of the naive error on its training part (see `naive_scale`)."""
    scale = naive_scale(train, season)
    if scale.numel() != 1:
        raise ValueError(f"train must have one column to go with the errors, got {scale.numel()}")
    return mae(errors) / float(scale)


def _present(values: ArrayLike) -> np.ndarray[Any, Any]:
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[~np.isnan(array)]
