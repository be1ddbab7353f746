"""Student's t: y_t | z_t = k ~ t(means[k], scales[k], dofs[k]), a Gaussian whose outliers cost little.

    y = mean + e / sqrt(g),   e ~ N(0, S),   g ~ Gamma(v/2, v/2)
    log p(y) = log Gamma((v + D)/2) - log Gamma(v/2) - D/2 log(v pi) - log|S|/2 - (v + D)/2 log(1 + q/v)      (1)
    q = (y - mean)' S^-1 (y - mean);   the covariance is S v / (v - 2) where v > 2

Marginals are t with the same v (Kotz and Nadarajah 2004, sec. 1.10), so that missing coordinates are integrated
out: (1) over the observed ones. With "diag" S is diagonal; the coordinates share g and are not independent.

The M-step is ECME (Liu and Rubin 1995, Statistica Sinica 5): with weights g = (v + D_obs) / (v + q_obs), one
Gaussian-like update of mean and scale, missing coordinates completed by regression on the observed ones; then v
maximises (1) itself, by bisection in log v. Both raise the expected log-density or leave it.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import constraints

from probseq import parameters as P
from probseq.emissions.base import Emission, leading_size, positive, rows_of
from probseq.emissions.floor import Floor, lift_matrix
from probseq.emissions.gaussian import Covariances, Gaussian
from probseq.emissions.special import climb, log_rising, slope_of
from probseq.parameters import Param

#: degrees of freedom before the data have spoken, and the range an M-step chooses from: beyond it, a Gaussian
START_DOFS, LEAST_DOFS, MOST_DOFS = 10.0, 0.1, 1e5


class StudentT(Emission):
    """Heavy-tailed rows, from sizes `StudentT(dim)` or from `means` (K, D), `scales` (K, D, D) and `dofs` (K,)."""

    real_valued = True
    means = Param(P.real, "n_states", "dim")
    scales = Covariances()
    dofs = Param(P.nonnegative, "n_states")

    def __init__(
        self,
        dim: int | None = None,
        *,
        means: Any = None,
        scales: Any = None,
        dofs: Any = None,
        covariance: Literal["full", "diag"] = "full",
    ) -> None:
        if covariance not in ("full", "diag"):
            raise ValueError(f"covariance must be one of ('full', 'diag'), got {covariance!r}")
        n_states = None
        if means is not None:
            n_states, width = leading_size("means", means, "(n_states, dim)")
            dim = width if dim is None else dim
        if dofs is not None and bool((P.as_parameter("dofs", dofs) <= 0).any()):
            raise ValueError(f"dofs must be positive, got {dofs!r}")
        self.covariance: Literal["full", "diag"] = covariance
        super().__init__(positive("dim", dim), n_states, {"means": means, "scales": scales, "dofs": dofs})

    def sizes(self) -> dict[str, Any]:
        return {"dim": self.dim, "covariance": self.covariance}

    def degrees_of_freedom(self) -> int:
        k, d = self.n_states, self.dim
        counts = {"means": k * d, "scales": k * d * (d + 1) // 2 if self.covariance == "full" else k * d, "dofs": k}
        return sum(count for name, count in counts.items() if not self.is_frozen(name))

    def factor(self) -> Tensor:
        """Lower triangular L with L L' == scales, (K, D, D)."""
        if "scales" in self.overrides:
            return torch.linalg.cholesky(self.overrides["scales"])
        raw = type(self).scales.raw(self)
        if self.covariance == "diag":
            return torch.diag_embed((0.5 * raw).exp())
        return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        rows, seen = rows_of(values, observed)
        distance, log_scale, width = self._distances(rows, seen)
        return log_density(distance, log_scale, width, self.dofs).reshape(*values.shape[:-1], self.n_states)

    def _distances(self, rows: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """q and log|S|/2 over the observed coordinates, both (N, K), and their number (N, 1)."""
        means, factor = self.means, self.factor()
        if seen is None or bool(seen.all()):
            width = rows.new_full((len(rows), 1), float(self.dim))
            distance, log_scale = distance_to(rows, means, factor)
            return distance, log_scale.expand_as(distance), width
        distance, log_scale = rows.new_zeros(len(rows), self.n_states), rows.new_zeros(len(rows), self.n_states)
        for pattern in torch.unique(seen, dim=0):
            if not pattern.any():
                continue
            index = ((seen == pattern).all(-1).nonzero().squeeze(-1),)
            shown = factor[:, pattern]
            part = torch.linalg.cholesky(shown @ shown.mT)
            q, log_s = distance_to(rows[index][:, pattern], means[:, pattern], part)
            distance, log_scale = distance.index_put(index, q), log_scale.index_put(index, log_s.expand_as(q))
        return distance, log_scale, seen.sum(-1, keepdim=True).to(rows.dtype)

    def distribution(self) -> D.Distribution:
        return MultivariateStudentT(self.means, self.factor(), self.dofs)

    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        if "means" not in self.unset:
            self.means = scale * self.means + shift
        if "scales" not in self.unset:
            self.scales = scale.unsqueeze(-1) * self.scales * scale

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        """Where a Gaussian starts, with moderately heavy tails."""
        gaussian = Gaussian(self.dim, covariance=self.covariance)
        gaussian.bind(self.n_states)
        gaussian.start(values, observed, seed)
        self.assign(
            means=gaussian.means, scales=gaussian.covs, dofs=torch.full((self.n_states,), START_DOFS).to(values.dtype)
        )

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        shown = observed.any(-1)  # a row without any observation says nothing
        values, observed, weights = values[shown], observed[shown], weights[shown]
        distance, _, width = self._distances(values, observed)
        self._update_location(values, observed, weights, (self.dofs + width) / (self.dofs + distance))
        if self.is_frozen("dofs"):
            return
        distance, log_scale, width = self._distances(values, observed)

        def value(dofs: Tensor) -> Tensor:
            return (weights * log_density(distance, log_scale, width, dofs)).sum(0)

        old = self.dofs
        ends = [torch.full_like(old, bound).log() for bound in (LEAST_DOFS, MOST_DOFS)]
        best = climb(slope_of(lambda log_dofs: value(log_dofs.exp())), old.log(), ends[0], ends[1]).exp()
        self.assign(dofs=torch.where(value(best) > value(old), best, old))

    def _update_location(self, values: Tensor, observed: Tensor, weights: Tensor, precision: Tensor) -> None:
        """Means and scales with every row weighted by its expected precision, (N, K)."""
        mass = weights.sum(0)
        some = torch.where(mass > 0, mass, 1.0)
        filled, left = complete(values, observed, weights, self.means, self.scales)
        heavy = weights * precision
        total = heavy.sum(0)
        means = torch.einsum("nk,nkd->kd", heavy, filled) / torch.where(total > 0, total, 1.0).unsqueeze(-1)
        self.assign(means=torch.where(total.unsqueeze(-1) > 0, means, self.means))
        if self.is_frozen("scales"):
            return
        away = filled - self.means
        scatter = torch.einsum("nk,nkd,nke->kde", heavy, away, away) + left
        scales = torch.where(mass[:, None, None] > 0, scatter / some[:, None, None], self.scales)
        if self.covariance == "diag":
            scales = torch.diag_embed(scales.diagonal(dim1=-2, dim2=-1))
        self.assign(scales=lift_matrix((scales + scales.mT) / 2, Floor(values, observed)))


def complete(values: Tensor, observed: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """E[y_n | observed, k] (N, K, D) and the weighted sum of the conditional scales of what is missing, (K, D, D)."""
    filled = values.unsqueeze(1).expand(-1, len(means), -1)
    left = torch.zeros_like(scales)
    if bool(observed.all()):
        return filled, left
    filled = filled.clone()
    for pattern in torch.unique(observed, dim=0):
        o, h = pattern.nonzero().squeeze(-1), (~pattern).nonzero().squeeze(-1)
        if not len(h):
            continue
        rows = (observed == pattern).all(-1).nonzero().squeeze(-1)
        slope = torch.linalg.solve(scales[:, o][:, :, o], scales[:, o][:, :, h]).mT
        away = values[rows][:, None, o] - means[:, o]
        filled[rows[:, None], :, h] = (means[:, h] + torch.einsum("kho,nko->nkh", slope, away)).permute(0, 2, 1)
        rest = scales[:, h][:, :, h] - slope @ scales[:, o][:, :, h]
        left[:, h.unsqueeze(-1), h] += weights[rows].sum(0)[:, None, None] * rest
    return filled, left


def distance_to(rows: Tensor, means: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """q (N, K) and log|S|/2 (K,) for S = factor factor'."""
    away = (rows.unsqueeze(-2) - means).movedim(-2, 0).mT  # (K, D, N)
    score = torch.linalg.solve_triangular(factor, away, upper=False)
    return score.square().sum(-2).mT, factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def log_density(distance: Tensor, log_scale: Tensor, width: Tensor, dofs: Tensor) -> Tensor:
    """Equation (1) from q, log|S|/2 and the number of coordinates, broadcast; 0 for none."""
    constant = log_rising(dofs / 2, width / 2) - width / 2 * (dofs.log() + math.log(math.pi))
    return constant - log_scale - (dofs + width) / 2 * torch.log1p(distance / dofs)


class MultivariateStudentT(D.Distribution):
    """t(mean, factor factor', dofs) with batch shape that of `dofs` and event shape (D,)."""

    arg_constraints: Any = {}  # type: ignore[assignment]  # noqa: RUF012
    support: Any = constraints.real_vector
    has_rsample = True

    def __init__(self, means: Tensor, factor: Tensor, dofs: Tensor) -> None:
        self.means, self.factor, self.dofs = means, factor, dofs
        super().__init__(dofs.shape, means.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MultivariateStudentT:
        shape, (dim,) = torch.Size(batch_shape), self.event_shape
        return MultivariateStudentT(
            self.means.expand(*shape, dim), self.factor.expand(*shape, dim, dim), self.dofs.expand(shape)
        )

    @property
    def mean(self) -> Tensor:
        """The centre where dofs > 1, NaN elsewhere."""
        return torch.where(self.dofs.unsqueeze(-1) > 1, self.means, torch.nan)

    @property
    def variance(self) -> Tensor:
        """Per coordinate: infinite where dofs <= 2, NaN where there is no mean."""
        v = self.dofs.unsqueeze(-1)
        finite = self.factor.square().sum(-1) * v / torch.where(v > 2, v - 2, 1.0)
        return torch.where(v > 2, finite, torch.where(v > 1, torch.inf, torch.nan))

    def log_prob(self, value: Tensor) -> Tensor:
        away = (value - self.means).unsqueeze(-1)
        factor = self.factor.expand(*away.shape[:-2], *self.factor.shape[-2:])
        distance = torch.linalg.solve_triangular(factor, away, upper=False).square().sum((-2, -1))
        log_scale = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        width = torch.tensor(float(self.event_shape[0]), dtype=distance.dtype)
        return log_density(distance, log_scale, width, self.dofs)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.means.dtype)
        half = self.dofs / 2
        precision = D.Gamma(half, half, validate_args=False).rsample(sample_shape)
        return self.means + (self.factor @ noise.unsqueeze(-1)).squeeze(-1) / precision.sqrt().unsqueeze(-1)
