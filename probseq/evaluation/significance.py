"""Whether one forecaster is better than another, or chance.

With d_t the difference of two scores at the same step, m its mean over n steps and s its standard error,

    z = m / s                                                    Diebold and Mariano's statistic

| errors      | s                                                            | z is compared with              |
|-------------|--------------------------------------------------------------|---------------------------------|
| "cosine"    | from the first k = 0.4 n^(2/3) cosine transforms of d_t      | Student t, k degrees of freedom |
| "hac"       | Bartlett sums, at least 6 (h - 1) lags L                     | Student t, 3n / 2(L + 1)        |
| "bootstrap" | that of means of resampled series                            | the resampled means             |

All three allow for correlated and heteroskedastic differences. The degrees of freedom say how much s itself varies:
without them the test rejects too often. So it does where lags are few, since Bartlett's weights fall at once, or where
s misses what the mean took: for "hac" L is at least 6 (h - 1), s^2 is divided by 1 - b + b^2 / 3, b = (L + 1) / n, its
relative mean under white noise, and the degrees of freedom are those of a Bartlett window at frequency zero. At h = 4
its size is still 6 to 7 % for a nominal 5 %, that of "cosine" 5 to 6 %. The stationary bootstrap is in
`probseq.evaluation.bootstrap`.

References: Diebold and Mariano (1995), JBES 13; Lazarus, Lewis, Stock and Watson (2018), JBES 36, eqs. 7-10; Kiefer and
Vogelsang (2005), Econometric Theory 21 (b); Priestley (1981), Spectral Analysis and Time Series, table 6.2.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probseq.evaluation.bootstrap import automatic_block_length, resampled_means
from probseq.evaluation.scores import default_bandwidth, hac_standard_error

Errors = Literal["cosine", "hac", "bootstrap"]
Rows = NDArray[np.float64]


class DieboldMariano(NamedTuple):
    """The mean difference (positive: the first has higher scores), its error, the statistic and two-sided p-value."""

    difference: float
    standard_error: float
    statistic: float
    p_value: float
    n: int


def diebold_mariano(
    first: ArrayLike,
    second: ArrayLike,
    *,
    horizon: int = 1,
    errors: Errors = "cosine",
    bandwidth: int | None = None,
    n_bootstrap: int = 1000,
    block_length: float | None = None,
    seed: int | None = 0,
) -> DieboldMariano:
    """Test equal means of two arrays of scores, (T,) or (B, T) of independent sequences, NaN where there is none.

    `horizon` is how many steps ahead the forecasts were. ValueError for scores of different shapes, or infinite ones.
    """
    rows = _differences(first, second)
    n = int((~np.isnan(rows)).sum())
    mean = float(np.nanmean(rows))
    if n < 2 or np.nanmax(np.abs(rows)) == 0:
        return DieboldMariano(mean, 0.0 if n > 1 else float("nan"), float("nan"), float("nan"), n)
    if errors == "bootstrap":
        return _by_bootstrap(rows, mean, n, horizon, n_bootstrap, block_length, seed)
    if errors == "hac":
        lags = max(default_bandwidth(n), 6 * (horizon - 1)) if bandwidth is None else bandwidth
        b = min((lags + 1) / n, 1.0)
        error, freedom = hac_standard_error(rows, lags) / np.sqrt(1 - b + b**2 / 3), max(3 / (2 * b), 1.0)
    elif errors == "cosine":
        error, freedom = cosine_standard_error(rows, horizon)
    else:
        raise ValueError(f'errors must be "cosine", "hac" or "bootstrap", got {errors!r}')
    from scipy.stats import t as student

    statistic = mean / error
    return DieboldMariano(mean, float(error), float(statistic), float(2 * student.sf(abs(statistic), freedom)), n)


def cosine_standard_error(scores: ArrayLike, horizon: int = 1) -> tuple[float, float]:
    """Standard error of the mean from k cosine transforms of every sequence, and its degrees of freedom.

    Missing steps count as their mean, so that distances in time are kept; k = 0.4 n^(2/3) of the longest sequence,
    less where forecasts overlap.
    """
    rows = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    seen = ~np.isnan(rows)
    n = int(seen.sum())
    away = np.where(seen, rows - rows[seen].mean(), 0.0)
    total, freedom = 0.0, 0
    for row, there in zip(away, seen, strict=True):
        place = np.flatnonzero(there)
        if len(place) < 2:
            total, freedom = total + float(np.square(row).sum()), freedom + len(place)
            continue
        part = row[place[0] : place[-1] + 1]
        k = int(np.clip(0.4 * len(part) ** (2 / 3), 1, max(len(part) // (2 * horizon), 1)))
        angles = np.pi * np.outer(np.arange(1, k + 1), np.arange(len(part)) + 0.5) / len(part)
        total += 2 * float(np.square(np.cos(angles) @ part).mean())
        freedom += k
    return float(np.sqrt(total) / n), float(max(freedom, 1))


def _differences(first: ArrayLike, second: ArrayLike) -> Rows:
    one, other = (np.atleast_2d(np.asarray(scores, dtype=np.float64)) for scores in (first, second))
    if one.shape != other.shape:
        raise ValueError(f"scores must be of the same steps, got shapes {one.shape} and {other.shape}")
    with np.errstate(invalid="ignore"):
        rows = one - other
    if np.isinf(rows).any() or bool((np.isnan(rows) & ~np.isnan(one) & ~np.isnan(other)).any()):
        raise ValueError("scores must be finite: an outcome that a forecaster called impossible settles the matter")
    if np.isnan(rows).all():
        raise ValueError("scores must have a step in common, got none")
    return rows


def _by_bootstrap(
    rows: Rows, mean: float, n: int, horizon: int, n_bootstrap: int, block_length: float | None, seed: int | None
) -> DieboldMariano:
    length = max(automatic_block_length(rows), horizon) if block_length is None else block_length
    means = resampled_means(rows[..., None] - mean, length, n_bootstrap, seed)[:, 0]
    error = float(means.std())
    extreme = int((np.abs(means) >= abs(mean)).sum())
    return DieboldMariano(mean, error, mean / error, (1 + extreme) / (1 + n_bootstrap), n)


# ------------------------------------------------------------------------------------- many models at once


class ConfidenceSet(NamedTuple):
    """The models that cannot be told from the best at `level`, and every model's p-value, the best last."""

    members: tuple[str, ...]
    p_values: dict[str, float]
    level: float


def model_confidence_set(
    scores: Any,
    *,
    level: float = 0.1,
    statistic: Literal["range", "max"] = "max",
    n_bootstrap: int = 1000,
    block_length: float | None = None,
    seed: int | None = 0,
) -> ConfidenceSet:
    """The set that holds the best model with probability 1 - level: drop the worst until equality is not rejected.

    `scores` maps a name to an array of scores (T,) or (B, T), higher is better; a DataFrame of them will do. Steps that
    one model has no score for are left out. A model's p-value is the largest of the tests up to its removal.

    References: Hansen, Lunde and Nason (2011), Econometrica 79, sec. 3 (T_R and T_max, bootstrap variances).
    """
    names, table = _score_table(scores)
    if statistic not in ("range", "max"):
        raise ValueError(f'statistic must be "range" or "max", got {statistic!r}')
    length = block_length
    if length is None:
        gaps = table - np.nanmean(table, -1, keepdims=True)
        length = max(automatic_block_length(gaps[..., i]) for i in range(len(names)))
    losses = -np.nanmean(table.reshape(-1, len(names)), 0)
    centred = -table - losses
    draws = resampled_means(centred, length, n_bootstrap, seed)
    alive, found, largest = list(range(len(names))), dict[str, float](), 0.0
    while len(alive) > 1:
        p_value, worst = _equal_ability(losses[alive], draws[:, alive], statistic)
        largest = max(largest, p_value)
        found[names[alive[worst]]] = largest
        alive.pop(worst)
    found[names[alive[0]]] = 1.0
    members = tuple(name for name in names if found[name] >= level)
    return ConfidenceSet(members, found, level)


def _equal_ability(losses: Rows, draws: Rows, statistic: str) -> tuple[float, int]:
    """p-value of equal mean losses, and the place of the worst. `draws` are centred resampled means (R, M)."""
    if statistic == "max":
        away, resampled = losses - losses.mean(), draws - draws.mean(1, keepdims=True)
        scale = np.sqrt(np.square(resampled).mean(0))
        t = _ratio(away, scale)
        return float((_ratio(resampled, scale).max(1) >= t.max()).mean()), int(t.argmax())
    away, resampled = losses[:, None] - losses, draws[:, :, None] - draws[:, None, :]
    scale = np.sqrt(np.square(resampled).mean(0))
    t = _ratio(away, scale)
    largest = np.abs(_ratio(resampled, scale)).max((1, 2))
    return float((largest >= np.abs(t).max()).mean()), int(t.max(1).argmax())


def _ratio(away: Rows, scale: Rows) -> Rows:
    """away / scale, 0 for models that never differ."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(away == 0, 0.0, away / scale)


def _score_table(scores: Any) -> tuple[list[str], Rows]:
    """Names and (B, T, M), NaN at every step that one of the models lacks."""
    names = [str(name) for name in scores]
    if not names:
        raise ValueError("scores must hold at least one model, got none")
    columns = [np.atleast_2d(np.asarray(scores[name], dtype=np.float64)) for name in scores]
    shapes = {column.shape for column in columns}
    if len(shapes) > 1:
        raise ValueError(f"scores must be of the same steps for all models, got shapes {sorted(shapes)}")
    table = np.stack(columns, -1)
    if np.isinf(table).any():
        raise ValueError("scores must be finite: drop a model that called an outcome impossible")
    table = np.where(np.isnan(table).any(-1, keepdims=True), np.nan, table)
    if np.isnan(table).all():
        raise ValueError("scores must have a step in common, got none")
    return names, table
