"""Where the fit of a structural time series starts: the best of many shares of the variance.

The likelihood is a smooth function of a few logarithms of variances, flat where one of them is much too small. So
the smallest of the variances of y, of its differences and of its seasonal differences sets the size; the parts get
shares of it drawn evenly on a logarithmic scale, cycles a period and a damping, autoregressions partial
autocorrelations; and the most likely draw is taken.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from probseq.errors import SingularInnovation, StateOverflow
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from probseq.models.structural import Structural

#: how many starts are compared
DRAWS = 48
#: least and largest share of every variance, as powers of ten
SHARES = {
    "emission_var": (-1.5, 0.0),
    "level_var": (-3.0, 0.0),
    "trend_var": (-5.0, -1.0),
    "seasonal_var": (-4.0, -0.5),
    "fourier_var": (-5.0, -1.0),
    "cycle_var": (-2.0, 0.0),
    "ar_var": (-1.5, 0.0),
}


def start(model: Structural, sequences: Sequences, seed: int) -> None:
    """Give every free parameter a value; a variance that was given as zero stays zero."""
    rng = np.random.default_rng([seed, 5])
    zeros = {name: model.get_parameter(f"raw_{name}").detach() == -torch.inf for name in SHARES}
    size = _size(model, sequences)
    best, found = -math.inf, None
    for draw in range(DRAWS):
        values = _draw(model, size, rng, draw == 0)
        values |= {name: torch.where(zeros[name], 0.0, values[name]) for name in set(values) & set(zeros)}
        model.assign(**values)
        score = _score(model, sequences)
        if score > best or found is None:
            best, found = score, values
    assert found is not None
    model.assign(**found)


def _score(model: Structural, sequences: Sequences) -> float:
    try:
        score = float(model._log_prob(sequences).sum())
    except (SingularInnovation, StateOverflow, torch.linalg.LinAlgError):
        return -math.inf
    return score if math.isfinite(score) else -math.inf


def _draw(model: Structural, size: float, rng: np.random.Generator, first: bool) -> dict[str, Any]:
    """Values of all parameters; the first draw has every share in the middle of its range."""

    def between(low: float, high: float) -> float:
        return (low + high) / 2 if first else float(rng.uniform(low, high))

    values: dict[str, Any] = {}
    for name, (low, high) in SHARES.items():
        shape = model.params()[name].raw_shape(model)
        if 0 not in shape:
            draws = [size * 10 ** between(low, high) for _ in range(math.prod(shape))]
            values[name] = torch.tensor(draws, dtype=torch.float64).reshape(shape)
    if model.damped:
        values["trend_damping"] = between(0.7, 0.99)
    if model.cycle:
        values["cycle_damping"] = between(0.7, 0.99)
        values["cycle_frequency"] = math.exp(between(math.log(0.1), math.log(2.5)))
    if model.ar:
        constraint = model.params()["ar_coefficients"].constraint
        partial = [between(-0.5, 0.9)] + [between(-0.7, 0.5) for _ in range(model.ar - 1)]
        values["ar_coefficients"] = constraint.forward(torch.tensor(partial, dtype=torch.float64).atanh())
    return values


def _size(model: Structural, sequences: Sequences) -> float:
    """The smallest of the mean squares of y - mean, y_t - y_{t-1} and y_t - y_{t-s}; 1 where nothing varies."""
    lags = {1, model.seasonal, *(round(period) for period, _ in model.fourier)} - {0}
    values, seen = sequences.values, sequences.observed & sequences.inside.unsqueeze(-1)
    sizes = [_mean_square(values - values[seen].mean(), seen)]
    for lag in lags:
        if lag < values.shape[1]:
            both = seen[:, lag:] & seen[:, :-lag]
            sizes.append(_mean_square(values[:, lag:] - values[:, :-lag], both) / 2)
    positive = [size for size in sizes if size > 0]
    return min(positive) if positive else 1.0


def _mean_square(values: Tensor, seen: Tensor) -> float:
    return float(values[seen].square().mean()) if bool(seen.any()) else 0.0
