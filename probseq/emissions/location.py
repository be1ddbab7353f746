"""First guesses for the arguments of a distribution, by what arguments of these names usually are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from probseq.parameters import Param

#: distributions of the line with x = loc + scale * e, so that a change of unit is one of loc and scale
LOCATION_SCALE = (D.Normal, D.Laplace, D.Cauchy, D.StudentT, D.Gumbel)


def guesses(
    params: Mapping[str, Param], n_states: int, values: Tensor, observed: Tensor, weights: Tensor
) -> list[dict[str, Tensor]]:
    """Unconstrained numbers to climb from: all zeros, and values by name from weighted moments of every column."""
    zero: dict[str, Tensor] = {
        name: torch.zeros(n_states, *(int(size) for size in param.shape[1:]), dtype=torch.float64)
        for name, param in params.items()
    }
    moments = _moments(values, observed, weights)
    return [zero, {name: _guess(name, param, zero[name], moments) for name, param in params.items()}]


def _moments(values: Tensor, observed: Tensor, weights: Tensor) -> dict[str, Tensor]:
    seen = observed.to(values.dtype)
    mass = weights.mT @ seen
    some = torch.where(mass > 0, mass, 1.0)
    mean = weights.mT @ (values * seen) / some
    square = (values.unsqueeze(1) - mean).square() * seen.unsqueeze(1)
    spread = (torch.einsum("nk,nkd->kd", weights, square) / some).sqrt()
    spread = torch.where(spread > 0, spread, 1.0)
    typical = torch.where(mean.abs() > 0, mean.abs(), spread)
    shape = (typical / spread).square()
    return {"loc": mean, "scale": spread, "rate": shape / typical, "concentration": shape}


def _guess(name: str, param: Param, zero: Tensor, moments: Mapping[str, Any]) -> Tensor:
    """The moment estimate of a Gamma, or of a location-scale law, where the shape and the set allow it."""
    value = moments.get(name)
    if value is None or value.shape != zero.shape or param.constraint.complaint(value) is not None:
        return zero
    raw = param.constraint.inverse(value)
    return raw if bool(torch.isfinite(raw).all()) else zero
