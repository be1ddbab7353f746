"""Student's t: a Gaussian's location and scale with tails that cost outliers little.

    y = shift + scale (m + L e / sqrt(g)),   e ~ N(0, 1),   g ~ Gamma(v / 2, v / 2),   v = 1 + softplus(a) > 1

One v for all coordinates of a step, which share g, as in `emissions.StudentT`; marginals are t with the same v, so that
missing coordinates are integrated out (Kotz and Nadarajah 2004, sec. 1.10). v > 1: there is always a mean to predict;
where v <= 2 the variance is infinite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from probseq.emissions.head import Head, Units
from probseq.emissions.heads.gaussian import standard
from probseq.emissions.heads.marginal import settled
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
from probseq.emissions.student import START_DOFS, MultivariateStudentT, log_density
from probseq.emissions.student import StudentT as StudentTEmission

#: the range of degrees of freedom that a start chooses from
LEAST_START, MOST_START = 1.1, 100.0


class StudentT(Head):
    """A multivariate t, its scale matrix diagonal (`"diag"`) or given by a Cholesky factor (`"full"`)."""

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

    def _parts(self, raw: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Location (*, D), scales (*, D), what stands below the diagonal, and degrees of freedom (*,)."""
        mean, spread, below, tail = raw.split((dim, dim, n_below(self.covariance, dim), 1), dim=-1)
        return mean, self.scale_floor + softplus(spread), below, 1.0 + softplus(tail.squeeze(-1))

    def _say(self, raw: Tensor, units: Units) -> Distribution:
        mean, spread, below, dofs = self._parts(raw, len(units.shift))
        factor = torch.diag_embed(spread) if self.covariance == "diag" else lower_factor(spread, below)
        return MultivariateStudentT(units.shift + units.scale * mean, units.scale.unsqueeze(-1) * factor, dofs)

    def _log_density(self, raw: Tensor, y: Tensor, observed: Tensor | None, units: Units) -> Tensor:
        mean, spread, below, dofs = self._parts(raw, len(units.shift))
        residual = standard(y, observed, units) - mean
        if self.covariance == "diag":
            score, log_scale = residual / spread, spread.log()
        else:
            score, log_scale = whiten(lower_factor(spread, below), residual, observed)
        log_scale = log_scale + units.scale.log()
        width = torch.tensor(float(len(units.shift)), dtype=torch.float64)
        if observed is not None:
            score, log_scale = torch.where(observed, score, 0.0), torch.where(observed, log_scale, 0.0)
            width = observed.sum(-1).to(torch.float64)
        density = log_density(score.square().sum(-1), log_scale.sum(-1), width, dofs)
        return density if observed is None else torch.where(observed.any(-1), density, 0.0)

    def _n_outputs(self, dim: int) -> int:
        return 2 * dim + n_below(self.covariance, dim) + 1

    def _neutral_bias(self, dim: int) -> Tensor:
        """Unit variance at ten degrees of freedom."""
        dofs = torch.tensor(START_DOFS, dtype=torch.float64)
        spread = ((dofs - 2) / dofs).sqrt().expand(dim)
        return self._bias(torch.zeros(dim, dtype=torch.float64), torch.diag_embed(spread), dofs)

    def _marginal_bias(self, values: Tensor, seen: Tensor, units: Units, seed: int) -> Tensor:
        """Where a few steps of ECME from the data's moments arrive."""
        rows = torch.where(seen, (values - units.shift) / units.scale, 0.0)
        fitted = settled(StudentTEmission(rows.shape[-1], covariance=self.covariance), rows, seen, seed)
        dofs = fitted.dofs[0].clamp(LEAST_START, MOST_START)
        return self._bias(fitted.means[0], fitted.factor()[0], dofs)

    def _bias(self, mean: Tensor, factor: Tensor, dofs: Tensor) -> Tensor:
        scales = factor_outputs(factor, self.covariance, self.scale_floor)
        return torch.cat([mean, scales, inverse_softplus(dofs - 1.0).reshape(1)])
