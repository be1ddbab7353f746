"""Outliers and breaks: the disturbances that the data ask for, against what the model expects of them.

    v_t = y_t - C z_t - offset        E[v_t | y] far from 0 for its size: y_t is an outlier
    w_t = z_t - A z_{t-1} - offset    E[w_t | y] far from 0 for its size: a component breaks at t

The auxiliary residuals are E[v_t | y] and E[w_t | y], each coordinate divided by its standard deviation over data from
the model: Var(E[v | y]) = R - Var(v | y), and Q - Var(w | y) for w. They are correlated over time even under the true
model, so that the largest ones matter, not runs.

References: Durbin and Koopman, Time Series Analysis by State Space Methods, 2nd ed. (2012), sec. 2.12.2, 4.5, 7.5;
Harvey and Koopman (1992), J. Business and Economic Statistics 10; de Jong and Penzer (1998), JASA 93.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from probseq.layout import leave
from probseq.models.linear_gaussian import LinearGaussianModel
from probseq.ops import kalman


class Disturbances(NamedTuple):
    """Means and variances given y, per coordinate; NaN at unobserved entries, and in the transition at step 0."""

    emission_mean: Tensor  # E[v_t | y], (*batch, time, m)
    emission_var: Tensor  # Var(v_t | y)
    transition_mean: Tensor  # E[w_t | y], (*batch, time, n), of the step into t
    transition_var: Tensor  # Var(w_t | y)

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (1, 1, 1, 1)


class AuxiliaryResiduals(NamedTuple):
    """Standardised disturbances: those of y_t (*batch, time, m) and those of the step into t (*batch, time, n)."""

    emission: Tensor
    transition: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (1, 1)


def smoothed_disturbances(model: LinearGaussianModel, y: Any, u: Any = None, *, lengths: Any = None) -> Any:
    """What the noises were, given all of y: a `Disturbances` in the layout of the data."""
    data = model._door(y, u, lengths)
    return leave(_disturbances(model, data.flat())[0], data)


def auxiliary_residuals(model: LinearGaussianModel, y: Any, u: Any = None, *, lengths: Any = None) -> Any:
    """E[v_t | y] and E[w_t | y] over their standard deviations; NaN where a noise has no variance to speak of."""
    data = model._door(y, u, lengths)
    smoothed, emission_cov, transition_cov = _disturbances(model, data.flat())
    emission = _standardised(smoothed.emission_mean, smoothed.emission_var, emission_cov)
    transition = _standardised(smoothed.transition_mean, smoothed.transition_var, transition_cov)
    return leave(AuxiliaryResiduals(emission, transition), data)


@torch.no_grad()
def _disturbances(model: LinearGaussianModel, flat: Any) -> tuple[Disturbances, Tensor, Tensor]:
    """Of a flat batch, and the diagonals of R and Q that go with it."""
    arguments = model._arguments(flat)
    system, y = arguments[:2]
    smoothed = kalman.smooth(*arguments)
    mean, cov, lag_one = smoothed.mean, smoothed.cov, smoothed.lag_one_cov
    full = system.full(len(y))
    emission, motion = full.emission_matrix, full.transition_matrix
    v = y - (emission @ mean.unsqueeze(-1)).squeeze(-1)
    v_var = (emission @ cov * emission).sum(-1)
    moving = motion if len(motion) == 1 else motion[1:]
    offset = full.transition_offset if full.transition_offset.shape[1] == 1 else full.transition_offset[:, 1:]
    w = mean[:, 1:] - (moving @ mean[:, :-1].unsqueeze(-1)).squeeze(-1) - offset
    w_var = (cov[:, 1:].diagonal(dim1=-2, dim2=-1) + (moving @ cov[:, :-1] * moving).sum(-1)) - 2 * (
        moving * lag_one
    ).sum(-1)
    inside = flat.inside[:, 1:].unsqueeze(-1)
    none = mean.new_full((len(mean), min(1, mean.shape[1]), mean.shape[2]), torch.nan)
    found = Disturbances(
        torch.where(flat.observed, v, torch.nan),
        torch.where(flat.observed, v_var, torch.nan),
        torch.cat([none, torch.where(inside, w, torch.nan)], 1),
        torch.cat([none, torch.where(inside, w_var, torch.nan)], 1),
    )
    return found, full.emission_cov.diagonal(dim1=-2, dim2=-1), full.transition_cov.diagonal(dim1=-2, dim2=-1)


def _standardised(mean: Tensor, left: Tensor, noise: Tensor) -> Tensor:
    """mean / sqrt(noise - left); a difference that is rounding error has no root."""
    known = noise - left
    proper = known > 1e-12 * noise
    return torch.where(proper, mean / torch.where(proper, known, 1.0).sqrt(), torch.nan)
