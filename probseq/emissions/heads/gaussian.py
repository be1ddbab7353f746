"""One Gaussian: a location, a standard deviation for every coordinate, and with "full" a Cholesky factor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from probseq.emissions.head import Head, Units, argument_checks, seen_sum
from probseq.emissions.heads.scales import (
    Covariance,
    checked_covariance,
    checked_floor,
    factor_outputs,
    inverse_softplus,
    lower_factor,
    n_below,
    softplus,
    whiten,
)

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class Gaussian(Head):
    """Independent coordinates (`"diag"`), or a Cholesky factor that the network writes row by row (`"full"`)."""

    real_valued = True

    def __init__(self, covariance: Covariance = "diag", *, scale_floor: float = 1e-4) -> None:
        super().__init__()
        self.covariance: Covariance = checked_covariance(covariance)
        self.scale_floor = checked_floor(scale_floor)

    def sizes(self) -> dict[str, Any]:
        return {"covariance": self.covariance, "scale_floor": self.scale_floor}

    @property
    def support(self) -> str:
        return "finite real numbers"

    def invalid(self, values: Tensor) -> Tensor:
        return ~values.isfinite()

    def _expect(self, raw: Tensor, dim: int) -> Tensor:
        return raw[..., :dim]

    def _parts(self, raw: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (*, D), standard deviations (*, D) and what stands below the diagonal, standardised."""
        mean, spread, below = raw.split((dim, dim, n_below(self.covariance, dim)), dim=-1)
        return mean, self.scale_floor + softplus(spread), below

    def _say(self, raw: Tensor, units: Units) -> Distribution:
        mean, deviation, below = self._parts(raw, len(units.shift))
        location, checks = units.shift + units.scale * mean, argument_checks(mean)
        if self.covariance == "diag":
            return Independent(Normal(location, units.scale * deviation, validate_args=checks), 1, validate_args=checks)
        factor = units.scale.unsqueeze(-1) * lower_factor(deviation, below)
        return MultivariateNormal(location, scale_tril=factor, validate_args=checks)

    def _log_density(self, raw: Tensor, y: Tensor, observed: Tensor | None, units: Units) -> Tensor:
        mean, deviation, below = self._parts(raw, len(units.shift))
        residual = standard(y, observed, units) - mean
        if self.covariance == "diag":
            score, log_scale = residual / deviation, deviation.log()
        else:
            score, log_scale = whiten(lower_factor(deviation, below), residual, observed)
        return seen_sum(normal_log_density(score, log_scale) - units.scale.log(), observed)

    def _n_outputs(self, dim: int) -> int:
        return 2 * dim + n_below(self.covariance, dim)

    def _neutral_bias(self, dim: int) -> Tensor:
        bias = torch.zeros(self._n_outputs(dim), dtype=torch.float64)
        bias[dim : 2 * dim] = inverse_softplus(torch.tensor(1.0 - self.scale_floor, dtype=torch.float64))
        return bias

    def _marginal_bias(self, values: Tensor, seen: Tensor, units: Units, seed: int) -> Tensor:
        rows = torch.where(seen, (values - units.shift) / units.scale, 0.0)
        count = seen.sum(0).clamp(min=1)
        mean = rows.sum(0) / count
        centred = torch.where(seen, rows - mean, 0.0)
        factor = torch.diag((centred.square().sum(0) / count).sqrt())
        if self.covariance == "full":
            complete = centred[seen.all(-1)]
            cov = complete.mT @ complete / max(len(complete), 1)
            cholesky, failed = torch.linalg.cholesky_ex(cov)
            factor = factor if int(failed) else cholesky
        return torch.cat([mean, factor_outputs(factor, self.covariance, self.scale_floor)])


def standard(y: Tensor, observed: Tensor | None, units: Units) -> Tensor:
    """Standardised y, 0 where it is missing: before any arithmetic, since 0 * NaN is NaN in a gradient."""
    if observed is not None:
        y = torch.where(observed, y, units.shift)
    return (y - units.shift) / units.scale


def normal_log_density(score: Tensor, log_scale: Tensor) -> Tensor:
    """log N of every coordinate from its score and the logarithm of its standard deviation."""
    return -0.5 * score.square() - log_scale - HALF_LOG_TWO_PI
