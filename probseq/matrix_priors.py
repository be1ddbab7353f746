"""Priors on the matrices and covariances of linear Gaussian models, for MAP fits.

    value ~ Normal(mean, standard_deviation)               every entry on its own: a ridge around `mean`
    cov   ~ InverseWishart(scale, degrees_of_freedom)      density |cov|^-((v + d + 1)/2) exp(-tr(scale cov^-1) / 2)

The mode of an inverse Wishart is scale / (v + d + 1); after N residuals with scatter S that of the posterior is
(scale + S) / (v + d + 1 + N) (Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), sec. 3.6). On a diagonal or
spherical covariance the same function of cov stands for the density, normalised over full matrices.

A fit works in units of its own. A prior moves there and back with its model, and `log_unit` collects the logarithm of
the change of volume, so that `log_density` is the same number in every unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from probseq.parameters import as_parameter


@dataclass(frozen=True, eq=False)
class Normal:
    """Independent normal densities around `mean`; both are numbers, or arrays like the parameter."""

    mean: Any = 0.0
    standard_deviation: Any = 1.0
    log_unit: float = 0.0

    def shaped(self, name: str, shape: tuple[int, ...]) -> Normal:
        """The same with tensors of the parameter's shape, checked."""
        mean, deviation = (
            _expanded(f"the {words} of the prior on {name}", value, shape)
            for words, value in (("mean", self.mean), ("standard deviation", self.standard_deviation))
        )
        if bool((deviation <= 0).any()):
            raise ValueError(f"the standard deviation of the prior on {name} must be positive, got {deviation.min():g}")
        return replace(self, mean=mean, standard_deviation=deviation)

    def log_density(self, value: Tensor) -> Tensor:
        """The sum over entries of log N(value; mean, standard_deviation^2)."""
        away = (value - self.mean) / self.standard_deviation
        norm = self.standard_deviation.log().sum() + 0.5 * math.log(2 * math.pi) * value.numel()
        return -0.5 * away.square().sum() - norm + self.log_unit

    def rescaled(self, factor: Tensor, shift: Tensor) -> Normal:
        """The prior of factor * value + shift."""
        factor = factor.expand(self.mean.shape)
        return Normal(
            factor * self.mean + shift,
            factor * self.standard_deviation,
            self.log_unit + float(factor.log().sum()),
        )

    def numbers(self) -> list[Any]:
        """JSON numbers from which `Normal(*numbers)` is an equal prior."""
        return [self.mean.tolist(), self.standard_deviation.tolist(), self.log_unit]


@dataclass(frozen=True, eq=False)
class InverseWishart:
    """A prior on a covariance (d, d): `scale` positive definite, a number for a multiple of the identity."""

    scale: Any
    degrees_of_freedom: float
    log_unit: float = 0.0

    def shaped(self, name: str, shape: tuple[int, ...]) -> InverseWishart:
        """The same with a matrix of the covariance's shape, checked."""
        d = shape[-1]
        scale = as_parameter(f"the scale of the prior on {name}", self.scale)
        scale = scale * torch.eye(d, dtype=torch.float64) if scale.ndim == 0 else scale
        if tuple(scale.shape) != shape:
            raise ValueError(f"the scale of the prior on {name} must have shape {shape}, got {tuple(scale.shape)}")
        if not torch.equal(scale, scale.mT) or bool(torch.linalg.cholesky_ex(scale)[1]):
            raise ValueError(f"the scale of the prior on {name} must be symmetric and positive definite")
        if not (math.isfinite(self.degrees_of_freedom) and self.degrees_of_freedom > d - 1):
            raise ValueError(
                f"the degrees of freedom of the prior on {name} must exceed {d - 1}, got {self.degrees_of_freedom!r}"
            )
        return replace(self, scale=scale, degrees_of_freedom=float(self.degrees_of_freedom))

    def extra_counts(self) -> float:
        """v + d + 1, what the prior adds to the number of residuals in an M-step."""
        return self.degrees_of_freedom + self.scale.shape[-1] + 1

    def log_density(self, value: Tensor) -> Tensor:
        """log InverseWishart(value); minus infinity for a singular covariance."""
        d, v = value.shape[-1], self.degrees_of_freedom
        factor, info = torch.linalg.cholesky_ex(value)
        if bool(info):
            return value.new_tensor(-torch.inf)
        white = torch.linalg.solve_triangular(factor, torch.linalg.cholesky(self.scale), upper=False)
        norm = 0.5 * v * torch.linalg.slogdet(self.scale)[1] - 0.5 * v * d * math.log(2)
        norm = norm - torch.special.multigammaln(torch.tensor(0.5 * v, dtype=torch.float64), d)
        return norm - (v + d + 1) * factor.diagonal().log().sum() - 0.5 * white.square().sum() + self.log_unit

    def rescaled(self, factor: Tensor, shift: Tensor) -> InverseWishart:
        """The prior of diag(factor) cov diag(factor)."""
        d = self.scale.shape[-1]
        factor = factor.expand(d)
        moved = self.log_unit + (d + 1) * float(factor.log().sum())
        return InverseWishart(factor.unsqueeze(-1) * self.scale * factor, self.degrees_of_freedom, moved)

    def numbers(self) -> list[Any]:
        """JSON numbers from which `InverseWishart(*numbers)` is an equal prior."""
        return [self.scale.tolist(), self.degrees_of_freedom, self.log_unit]


Prior = Normal | InverseWishart


def priors_of(given: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Prior]:
    """Priors by parameter name, checked: an inverse Wishart for a name that ends in _cov, else a normal."""
    found: dict[str, Prior] = {}
    for name, prior in dict(given or {}).items():
        if name not in shapes:
            raise ValueError(f"priors must name parameters among {sorted(shapes)}, got {name!r}")
        kind = InverseWishart if name.endswith("_cov") else Normal
        prior = kind(*prior) if isinstance(prior, list) else prior
        if not isinstance(prior, kind):
            raise TypeError(f"the prior on {name} must be a {kind.__name__}, got {type(prior).__name__}")
        found[name] = prior.shaped(name, shapes[name])
    return found


def _expanded(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    given = as_parameter(name, value)
    if tuple(given.shape) not in ((), shape):
        raise ValueError(f"{name} must be a number or have shape {shape}, got {tuple(given.shape)}")
    return given.expand(shape).clone()
