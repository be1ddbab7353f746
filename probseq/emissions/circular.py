"""Angles in radians: y_t[d] | z_t = k ~ VonMises(means[k, d], concentrations[k, d]), independent coordinates.

    log p(y) = c cos(y - m) - log(2 pi I0(c))            (Mardia and Jupp 2000, sec. 3.5.4)

a density over one turn; y and y + 2 pi are the same angle. c = 0 is the uniform law, 1 / c for large c a variance.
M-step: m is the direction of the weighted resultant, and c solves I1(c) / I0(c) = its mean length R, by bisection
around R (2 - R^2) / (1 - R^2) (Banerjee et al. 2005, JMLR 6, eq. 4.4). Angles have no unit to rescale.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from probseq import parameters as P
from probseq.emissions.base import Emission, cluster, leading_size, positive, rows_of
from probseq.emissions.floor import VARIANCE_FLOOR
from probseq.emissions.special import climb
from probseq.errors import say
from probseq.parameters import Param


class VonMises(Emission):
    """Angles, from sizes `VonMises(dim)` or from `means` and `concentrations`, both (K, D)."""

    means = Param(P.real, "n_states", "dim")
    concentrations = Param(P.nonnegative, "n_states", "dim")

    def __init__(self, dim: int | None = None, *, means: Any = None, concentrations: Any = None) -> None:
        n_states = None
        for name, value in (("means", means), ("concentrations", concentrations)):
            if value is not None and n_states is None:
                n_states, width = leading_size(name, value, "(n_states, dim)")
                dim = width if dim is None else dim
        super().__init__(positive("dim", dim), n_states, {"means": means, "concentrations": concentrations})

    def sizes(self) -> dict[str, Any]:
        return {"dim": self.dim}

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        rows, seen = rows_of(values, observed)
        terms = log_density(rows.unsqueeze(-2), self.means, self.concentrations)
        table = (terms if seen is None else torch.where(seen.unsqueeze(-2), terms, 0.0)).sum(-1)
        return table.reshape(*values.shape[:-1], self.n_states)

    def distribution(self) -> D.Distribution:
        return D.Independent(Circular(self.means, self.concentrations), 1)

    def mixture(self, log_probs: Tensor) -> D.Distribution:
        components = self.distribution().expand(log_probs.shape)
        return CircularMixture(D.Categorical(logits=log_probs, validate_args=False), components, validate_args=False)

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        """Clusters of the points (cos y, sin y); a tenth of each state's weight is spread over all data."""
        points = torch.cat([values.cos(), values.sin()], -1)
        weights = cluster(points, observed.repeat(1, 2), self.n_states, seed)
        means, lengths = _resultant(values, observed, 0.9 * weights + 0.1 / self.n_states)
        self.assign(means=means)
        self.assign(concentrations=_approximate(lengths.clamp(0.1, 0.95)))

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        mass = weights.mT @ observed.to(values.dtype)
        means, _ = _resultant(values, observed, weights)
        self.assign(means=torch.where(mass > 0, means, self.means))
        away = _sine_squares(values, observed, weights, self.means) / torch.where(mass > 0, mass, 1.0)
        concentrations = concentration_for(torch.where(mass > 0, 1 - 2 * away, 0.0))
        self.assign(concentrations=torch.where(mass > 0, concentrations, self.concentrations))


def _resultant(values: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Direction and mean length of the weighted sum of unit vectors, (K, D) each."""
    seen = observed.to(values.dtype)
    mass = weights.mT @ seen
    sine, cosine = weights.mT @ (values.sin() * seen), weights.mT @ (values.cos() * seen)
    return torch.atan2(sine, cosine), torch.hypot(sine, cosine) / torch.where(mass > 0, mass, 1.0)


def _sine_squares(values: Tensor, observed: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    """sum_n w sin^2((y - m) / 2): half of 1 - cos, without its cancellation."""
    away = ((values.unsqueeze(-2) - means) / 2).sin().square()
    return torch.einsum("nk,nkd->kd", weights, away * observed.unsqueeze(-2))


def _approximate(length: Tensor) -> Tensor:
    return length * (2 - length.square()) / (1 - length.square())


def concentration_for(length: Tensor) -> Tensor:
    """c >= 0 with I1(c) / I0(c) == length, 0 for lengths up to 0; lengths near 1 are held off it, and said."""
    most = 1 - VARIANCE_FLOOR
    if bool((length > most).any()):
        say(
            "concentration",
            "a state's angles are all but equal; its concentration was held: fewer states may be needed",
        )
    some = torch.where(length > 0, length, 0.5).clamp(max=most)
    guess = _approximate(some).log()

    def slope(log_c: Tensor) -> Tensor:
        c = log_c.exp()
        return some - torch.special.i1e(c) / torch.special.i0e(c)

    return torch.where(length > 0, climb(slope, guess, guess - 2, guess + 2).exp(), 0.0)


def log_density(angles: Tensor, means: Tensor, concentrations: Tensor) -> Tensor:
    """log p(y; m, c), broadcast, with nothing that overflows or cancels for large c."""
    away = ((angles - means) / 2).sin().square()
    return -2 * concentrations * away - math.log(2 * math.pi) - torch.special.i0e(concentrations).log()


class Circular(D.VonMises):
    """torch's von Mises law with the exact log-density (torch has eight digits) and the uniform law at 0."""

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool | None = False) -> None:
        self.exact = torch.broadcast_tensors(loc, concentration)[1]
        least = torch.finfo(torch.float64).eps ** 0.5  # below, torch's sampler divides by zero
        super().__init__(loc, concentration.clamp(min=least), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Circular:
        return Circular(self.loc.expand(batch_shape), self.exact.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return log_density(value, self.loc, self.exact)


class CircularMixture(D.MixtureSameFamily):
    """A mixture whose mean is a direction; intervals of a forecast are quantiles of draws in [-pi, pi)."""

    @property
    def mean(self) -> Tensor:
        base: Circular = self.component_distribution.base_dist  # type: ignore[attr-defined]
        lengths = torch.special.i1e(base.exact) / torch.special.i0e(base.exact)
        weights = self.mixture_distribution.probs.unsqueeze(-1) * lengths  # type: ignore[attr-defined]
        return torch.atan2((weights * base.loc.sin()).sum(-2), (weights * base.loc.cos()).sum(-2))
