"""The stationary bootstrap of Politis and Romano, and how long its blocks should be.

    start anywhere;  then at each step, with probability 1 / b, start anywhere again, else go on by one (and wrap)

b is the mean block length. With R(k) the autocovariances of n values, w the flat-top window (1 up to 1/2, falling to
0 at 1) and M twice the lag after which the correlations are negligible,

    b = (2 G^2 / D)^(1/3) n^(1/3),   G = sum_k w(k / M) |k| R(k),   D = 2 (sum_k w(k / M) R(k))^2

References: Politis and Romano (1994), JASA 89; Politis and White (2004), Econometric Reviews 23, sec. 3; Patton,
Politis and White (2009), the same journal 28 (the corrected D).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = NDArray[np.float64]


def stationary_indices(n: int, block_length: float, n_bootstrap: int, seed: int | None) -> NDArray[np.int64]:
    """Positions 0 .. n - 1 of every resampled series, (n_bootstrap, n)."""
    if not block_length >= 1:
        raise ValueError(f"block_length must be at least 1, got {block_length!r}")
    randomness = np.random.default_rng(seed)
    fresh = randomness.random((n_bootstrap, n)) < 1 / block_length
    fresh[:, 0] = True
    starts = randomness.integers(0, n, (n_bootstrap, n))
    steps = np.arange(n)
    begun = np.maximum.accumulate(np.where(fresh, steps, 0), axis=1)
    return (np.take_along_axis(starts, begun, 1) + steps - begun) % n


def resampled_means(values: Rows, block_length: float, n_bootstrap: int, seed: int | None) -> Rows:
    """Means over all steps and sequences of (B, T, M) values, resampled within every sequence, (n_bootstrap, M).

    Steps with NaN are left out first; columns are resampled together, so that pairs stay pairs.
    """
    seeds = np.random.SeedSequence(seed).spawn(len(values))
    total, n = np.zeros((n_bootstrap, values.shape[-1])), 0
    for row, child in zip(values, seeds, strict=True):
        own = row[~np.isnan(row).any(-1)]
        if not len(own):
            continue
        n += len(own)
        at_once = max(2_000_000 // own.size, 1)
        index = stationary_indices(len(own), min(block_length, len(own)), n_bootstrap, int(child.generate_state(1)[0]))
        for first in range(0, n_bootstrap, at_once):
            total[first : first + at_once] += own[index[first : first + at_once]].sum(1)
    return total / n


def automatic_block_length(values: ArrayLike) -> float:
    """The mean block length for a series (T,), or the largest over (B, T) of them; at least 1."""
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    found = [_own_length(row[~np.isnan(row)]) for row in rows]
    return max(found, default=1.0)


def _own_length(values: Rows) -> float:
    n = len(values)
    away = values - values.mean() if n else values
    if n < 4 or not np.any(away):
        return 1.0
    lags = min(int(np.ceil(np.sqrt(n))) + _patience(n), n - 1)
    covariances = np.array([away[: n - k] @ away[k:] for k in range(lags + 1)]) / n
    window = min(2 * _last_lag(covariances / covariances[0], n), lags)
    k = np.arange(1, window + 1)
    flat_top = np.clip(2 * (1 - k / max(window, 1)), 0, 1)
    g = 2 * float((flat_top * k * covariances[1 : window + 1]).sum())
    spectrum = covariances[0] + 2 * float((flat_top * covariances[1 : window + 1]).sum())
    length = (g**2 / spectrum**2) ** (1 / 3) * n ** (1 / 3) if spectrum else 1.0
    return float(np.clip(length, 1.0, np.ceil(min(3 * np.sqrt(n), n / 3))))


def _patience(n: int) -> int:
    return max(5, int(np.ceil(np.log10(n))))


def _last_lag(correlations: Rows, n: int) -> int:
    """The last lag before so many in a row are negligible; where none are, the last one that is not."""
    small: Any = np.abs(correlations[1:]) < 2 * np.sqrt(np.log10(n) / n)
    run = _patience(n)
    for m in range(len(small) - run + 1):
        if small[m : m + run].all():
            return max(m, 1)
    large = np.flatnonzero(~small)
    return int(large[-1]) + 1 if len(large) else 1
