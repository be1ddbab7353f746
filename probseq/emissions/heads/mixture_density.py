"""Mixture density networks (Bishop 1994): several Gaussians whose weights, places and scales all depend on the past.

    p(y_t | h_t) = sum_k w_k N(y_t; shift + scale m_k, scale L_k L_k' scale),   w = softmax of the first K outputs

| output              | entries     | meaning                                            |
|---------------------|-------------|----------------------------------------------------|
| first               | K           | logits of the weights                              |
| then, per component | D           | m_k, standardised                                  |
|                     | D           | diagonal of L_k: scale_floor + softplus(.)         |
|                     | D (D - 1)/2 | L_k below the diagonal, row by row (with "full")   |

A Gaussian head must put its mean between two places where y may go; a mixture says "here or there". Missing
coordinates are integrated out of every component, so that what is seen of a row still weighs them.

Bishop, C. (1994). Mixture density networks. Aston University, NCRG/94/004.
Graves, A. (2013). Generating sequences with recurrent neural networks. arXiv:1308.0850, sec. 4.1 (handwriting).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from probseq.checks import whole_number
from probseq.emissions.head import Head, Units, argument_checks
from probseq.emissions.heads.gaussian import normal_log_density, standard
from probseq.emissions.heads.marginal import settled
from probseq.emissions.heads.scales import (
    Covariance,
    checked_covariance,
    checked_floor,
    factor_outputs,
    lower_factor,
    n_below,
    softplus,
    whiten,
)
from probseq.emissions.mixture import GaussianMixture


class MixtureDensity(Head):
    """`n_components` Gaussians, of independent coordinates (`"diag"`) or each with a Cholesky factor (`"full"`)."""

    real_valued = True

    def __init__(self, n_components: int, covariance: Covariance = "diag", *, scale_floor: float = 1e-4) -> None:
        super().__init__()
        self.n_components = whole_number("n_components", n_components)
        self.covariance: Covariance = checked_covariance(covariance)
        self.scale_floor = checked_floor(scale_floor)

    def sizes(self) -> dict[str, Any]:
        return {
            "n_components": self.n_components,
            "covariance": self.covariance,
            "scale_floor": self.scale_floor,
        }

    @property
    def support(self) -> str:
        return "finite real numbers"

    def invalid(self, values: Tensor) -> Tensor:
        return ~values.isfinite()

    def _expect(self, raw: Tensor, dim: int) -> Tensor:
        logits, means, _, _ = self._parts(raw, dim)
        return (logits.softmax(-1).unsqueeze(-1) * means).sum(-2)

    def _parts(self, raw: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (*, K), and per component means, standard deviations, both (*, K, D), and what stands below."""
        logits, parts = raw[..., : self.n_components], raw[..., self.n_components :]
        sizes = (dim, dim, n_below(self.covariance, dim))
        mean, spread, below = parts.unflatten(-1, (self.n_components, sum(sizes))).split(sizes, dim=-1)
        return logits, mean, self.scale_floor + softplus(spread), below

    def _say(self, raw: Tensor, units: Units) -> D.Distribution:
        logits, mean, deviation, below = self._parts(raw, len(units.shift))
        location, checks = units.shift + units.scale * mean, argument_checks(raw)
        if self.covariance == "diag":
            normal = D.Normal(location, units.scale * deviation, validate_args=checks)
            components: D.Distribution = D.Independent(normal, 1, validate_args=checks)
        else:
            factor = units.scale.unsqueeze(-1) * lower_factor(deviation, below)
            components = D.MultivariateNormal(location, scale_tril=factor, validate_args=checks)
        return D.MixtureSameFamily(D.Categorical(logits=logits, validate_args=checks), components, validate_args=checks)

    def _log_density(self, raw: Tensor, y: Tensor, observed: Tensor | None, units: Units) -> Tensor:
        logits, mean, deviation, below = self._parts(raw, len(units.shift))
        residual = standard(y, observed, units).unsqueeze(-2) - mean
        seen = None if observed is None else observed.unsqueeze(-2)
        if self.covariance == "diag":
            score, log_scale = residual / deviation, deviation.log()
        else:
            score, log_scale = whiten(lower_factor(deviation, below), residual, seen)
        density = normal_log_density(score, log_scale) - units.scale.log()
        if seen is not None:
            density = torch.where(seen, density, 0.0)
        total = (torch.log_softmax(logits, -1) + density.sum(-1)).logsumexp(-1)
        return total if observed is None else torch.where(observed.any(-1), total, 0.0)

    def _n_outputs(self, dim: int) -> int:
        return self.n_components * (1 + 2 * dim + n_below(self.covariance, dim))

    def _neutral_bias(self, dim: int) -> Tensor:
        """Equal weights, all components N(0, 1)."""
        k = self.n_components
        one = torch.eye(dim, dtype=torch.float64).expand(k, dim, dim)
        return self._bias(torch.zeros(k, dtype=torch.float64), torch.zeros(k, dim, dtype=torch.float64), one)

    def _marginal_bias(self, values: Tensor, seen: Tensor, units: Units, seed: int) -> Tensor:
        """Where a few steps of EM arrive from clusters of the rows."""
        rows = torch.where(seen, (values - units.shift) / units.scale, 0.0)
        made = GaussianMixture(rows.shape[-1], self.n_components, covariance=self.covariance)
        fitted = settled(made, rows, seen, seed)
        smallest = 1.0 / (len(rows) + self.n_components)  # a component that died can come back
        return self._bias(fitted.weights[0].clamp(min=smallest).log(), fitted.means[0], fitted.components.factor())

    def _bias(self, logits: Tensor, means: Tensor, factors: Tensor) -> Tensor:
        scales = factor_outputs(factors, self.covariance, self.scale_floor)
        return torch.cat([logits, torch.cat([means, scales], -1).flatten()])
