"""Pseudo-residuals: what every observation should look like if the model were true, on one scale for all families.

    u_t = P(Y_t <= y_t | y_<t),   z_t = Phi^-1(u_t)                 uniform and standard normal under the true model

A discrete observation gives a segment, [P(Y_t < y_t), P(Y_t <= y_t)], and its middle stands for it. Coordinates
are taken one by one, each given the past of all. Under the true model the z_t of continuous data are independent
over time, so that normal plots, their autocorrelation and runs show what the model misses. Far in a tail u_t
rounds to 0 or 1, and z_t is computed from log P without it.

References: Zucchini and MacDonald, Hidden Markov Models for Time Series (2009), sec. 6.2; Rosenblatt (1952), Annals
of Mathematical Statistics 23; Dunn and Smyth (1996), J. Comp. Graph. Stat. 5 (discrete data).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D

from probseq.base import StateSpaceModel
from probseq.forecasting import _coordinates, _is_symbolic
from probseq.layout import leave

#: the log of a share of a tail that is below rounding
NEGLIGIBLE = -40.0


class PseudoResiduals(NamedTuple):
    """Normal scores (*batch, time, dim), NaN where nothing was observed; all three are equal for continuous data."""

    lower: Tensor
    middle: Tensor
    upper: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (1, 1, 1)


@torch.no_grad()
def pseudo_residuals(model: StateSpaceModel[Any], y: Any, u: Any = None, *, lengths: Any = None) -> Any:
    """Forecast pseudo-residuals of every observed coordinate, in the layout of the data.

    Raises ValueError where observations have no order (symbols) or no distribution function in closed form.
    """
    data = model._door(y, u, lengths)
    flat = data.flat()
    predicted = model._filter(flat, None).predicted
    lower, upper = log_tails(model.emit(predicted, flat.inputs), flat.values)
    seen = flat.observed
    parts = (_score(*lower), _middle(lower, upper), _score(*upper)) if upper is not lower else (_score(*lower),) * 3
    return leave(PseudoResiduals(*(torch.where(seen, part, torch.nan) for part in parts)), data)


Tails = tuple[Tensor, Tensor]


def log_tails(distribution: D.Distribution, y: Tensor) -> tuple[Tails, Tails]:
    """(log P(Y < y), log P(Y >= y)) and (log P(Y <= y), log P(Y > y)) per coordinate of rows y (*batch, D).

    The two pairs are one and the same for continuous data.
    """
    if _is_symbolic(distribution):
        raise ValueError("symbols have no order, so they have no pseudo-residuals")
    weights, base = _coordinates(distribution)
    y = y if weights is None else y.unsqueeze(-2)
    if isinstance(base, D.Normal):
        from scipy.special import log_ndtr

        z = ((y - base.loc) / base.scale).numpy()
        both = _mixed(weights, torch.as_tensor(log_ndtr(z))), _mixed(weights, torch.as_tensor(log_ndtr(-z)))
        return both, both
    if getattr(base.support, "is_discrete", False):
        return _discrete_tails(weights, base, y)
    try:
        below = base.cdf(y)
    except NotImplementedError as error:
        name = type(base).__name__
        raise ValueError(f"{name} has no distribution function in closed form, so no pseudo-residuals") from error
    both = _mixed(weights, below.log()), _mixed(weights, (1 - below).log())
    return both, both


def _discrete_tails(weights: Tensor | None, base: Any, y: Tensor) -> tuple[Tails, Tails]:
    """Sums of probabilities over 0, 1, ..., y; the tail above continues until it adds nothing."""
    total = torch.full(torch.broadcast_shapes(y.shape, base.batch_shape), -torch.inf, dtype=torch.float64)
    below, above, at = total, total, total
    most = 1 if isinstance(base, D.Bernoulli) else getattr(base.support, "upper_bound", None)
    top = None if most is None else int(torch.as_tensor(most).max())
    count, last = 0, int(y.max()) if y.numel() else 0
    while top is None or count <= top:
        place = torch.full_like(total, count)
        inside = place <= (torch.inf if most is None else most)
        mass = torch.where(inside, base.log_prob(torch.where(inside, place, 0.0)), -torch.inf)
        below = torch.where(place < y, torch.logaddexp(below, mass), below)
        at = torch.where(place == y, mass, at)
        above = torch.where(place > y, torch.logaddexp(above, mass), above)
        past = count > last and bool((count > base.mean).all())
        if past and bool(((mass == -torch.inf) | (mass - above < NEGLIGIBLE)).all()):
            break
        count += 1
    lower = _mixed(weights, below), _mixed(weights, torch.logaddexp(at, above))
    return lower, (_mixed(weights, torch.logaddexp(below, at)), _mixed(weights, above))


def _mixed(weights: Tensor | None, log_probs: Tensor) -> Tensor:
    """log sum_m w_m p_m over the components, the axis before the last."""
    if weights is None:
        return log_probs
    return torch.logsumexp(weights.log().unsqueeze(-1) + log_probs, -2)


def _score(log_below: Tensor, log_above: Tensor) -> Tensor:
    """Phi^-1 from the smaller of the two tails."""
    from scipy.special import ndtri_exp

    below, above = log_below.clamp(max=0).numpy(), log_above.clamp(max=0).numpy()
    return torch.as_tensor(np.where(below < above, ndtri_exp(below), -ndtri_exp(above)))


def _middle(lower: Tails, upper: Tails) -> Tensor:
    """Phi^-1 of the mean of both ends of the segment."""
    half = float(np.log(0.5))
    return _score(torch.logaddexp(lower[0], upper[0]) + half, torch.logaddexp(lower[1], upper[1]) + half)
