"""Pseudo-residuals: what every observation should look like if the model were true, on one scale for all families.

    u_t = P(Y_t <= y_t | y_<t),   z_t = Phi^-1(u_t)                 uniform and standard normal under the true model

A discrete observation gives a segment, [P(Y_t < y_t), P(Y_t <= y_t)], and its middle stands for it. Coordinates
are taken one by one, each given the past of all. Under the true model the z_t of continuous data are independent
over time, so that normal plots, their autocorrelation and runs show what the model misses. Far in a tail u_t
rounds to 0 or 1, and z_t is computed from log P without it (`probseq.evaluation.tails`).

References: Zucchini and MacDonald, Hidden Markov Models for Time Series (2009), sec. 6.2; Rosenblatt (1952), Annals
of Mathematical Statistics 23; Dunn and Smyth (1996), J. Comp. Graph. Stat. 5 (discrete data).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.evaluation.tails import Tails, log_tails
from probseq.layout import leave


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

    NaN stands for columns of symbols among others. Raises ValueError where no observation has an order (symbols) or
    the law has no distribution function in closed form.
    """
    data = model._door(y, u, lengths)
    flat = data.flat()
    predicted = model._filter(flat, None).predicted
    lower, upper = log_tails(model.emit(predicted, flat.inputs), flat.values)
    seen = flat.observed
    parts = (_score(*lower), _middle(lower, upper), _score(*upper)) if upper is not lower else (_score(*lower),) * 3
    return leave(PseudoResiduals(*(torch.where(seen, part, torch.nan) for part in parts)), data)


def _score(log_below: Tensor, log_above: Tensor) -> Tensor:
    """Phi^-1 from the smaller of the two tails."""
    from scipy.special import ndtri_exp

    below, above = log_below.clamp(max=0).numpy(), log_above.clamp(max=0).numpy()
    return torch.as_tensor(np.where(below < above, ndtri_exp(below), -ndtri_exp(above)))


def _middle(lower: Tails, upper: Tails) -> Tensor:
    """Phi^-1 of the mean of both ends of the segment."""
    half = float(np.log(0.5))
    return _score(torch.logaddexp(lower[0], upper[0]) + half, torch.logaddexp(lower[1], upper[1]) + half)
