"""Gaussian emissions: y_t | z_t = k ~ N(means[k], covs[k]).

| covariance  | stored                      | shared over states | shared over coordinates |
|-------------|-----------------------------|--------------------|-------------------------|
| "full"      | Cholesky factor, log diagonal (K, D, D) | no     | no                      |
| "tied"      | Cholesky factor, log diagonal (1, D, D) | yes    | no                      |
| "diag"      | log variances (K, D)        | no                 | no                      |
| "spherical" | log variance (K, 1)         | no                 | yes                     |

The M-step with unobserved coordinates uses E[y | observed, k] and the conditional covariance that is left
(Little and Rubin, Statistical Analysis with Missing Data, 2nd ed. (2002), sec. 11.2). A conjugate `prior` adds
observations to those of a state (`probseq.priors`). With or without one, no variance falls below `VARIANCE_FLOOR`
times that of the data: the likelihood of a state that shrinks onto one point has no bound.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from probseq import parameters as P
from probseq.emissions.base import Emission, cluster, leading_size, positive, rows_of
from probseq.emissions.floor import VARIANCE_FLOOR, Floor, lift, lift_matrix
from probseq.kernels.state_densities import WIDEST
from probseq.ops import gaussian
from probseq.ops.modes import array_of, untracked
from probseq.parameters import Param, Parametric
from probseq.priors import NormalInverseGamma, NormalInverseWishart, Prior, accept

Covariance = Literal["full", "diag", "tied", "spherical"]


class Covariances(Param):
    """Always read and given as full matrices (K, D, D); stored as the covariance type needs."""

    def __init__(self) -> None:
        super().__init__(P.definite, "n_states", "dim")

    def raw_shape(self, instance: Parametric) -> tuple[int, ...]:
        k, d = super().raw_shape(instance)
        return {"full": (k, d, d), "tied": (1, d, d), "diag": (k, d), "spherical": (k, 1)}[str(instance.covariance)]

    def value_shape(self, instance: Parametric) -> tuple[int, ...]:
        k, d = super().raw_shape(instance)
        return k, d, d

    def forward(self, instance: Parametric, raw: Tensor) -> Tensor:
        if instance.covariance in ("full", "tied"):
            return P.definite.forward(raw).expand(self.value_shape(instance))
        return torch.diag_embed(raw.exp().expand(self.value_shape(instance)[:-1]))

    def inverse(self, instance: Parametric, value: Tensor) -> Tensor:
        if instance.covariance in ("full", "tied"):
            return P.definite.inverse(value[: 1 if instance.covariance == "tied" else None])
        variance = value.diagonal(dim1=-2, dim2=-1)
        return variance.log() if instance.covariance == "diag" else variance[:, :1].log()

    def complaint(self, instance: Parametric, value: Tensor) -> str | None:
        size = value.abs().amax()
        uneven = (value - value.mT).abs().amax((-2, -1)) > 1e-8 * value.abs().amax((-2, -1))
        if bool((uneven | (torch.linalg.cholesky_ex(value).info != 0)).any()):
            for k, one in enumerate(value):
                wrong = P.definite.complaint(one)
                if wrong is not None:
                    return f"must be {P.definite.words}; state {k}: {wrong}"
        if instance.covariance == "full":
            return None
        off = value - torch.diag_embed(value.diagonal(dim1=-2, dim2=-1))
        unequal = {
            "tied": (value - value[:1]).abs(),
            "diag": off.abs(),
            "spherical": (value - value[:, :1, :1] * torch.eye(value.shape[-1])).abs(),
        }[str(instance.covariance)]
        if unequal.numel() and unequal.max() > 1e-8 * size:
            return f'must be of the type covariance="{instance.covariance}"; an entry is off by {unequal.max():.3g}'
        return None


class Gaussian(Emission):
    """Gaussian rows, from sizes `Gaussian(dim)` or from `means` (K, D) and `covs` (K, D, D), always full matrices.

    `prior` is a NormalInverseWishart for "full" and "tied", a NormalInverseGamma for "diag" and "spherical".
    """

    real_valued = True
    means = Param(P.real, "n_states", "dim")
    covs = Covariances()

    def __init__(
        self,
        dim: int | None = None,
        *,
        means: Any = None,
        covs: Any = None,
        covariance: Covariance = "full",
        prior: Prior | None = None,
    ) -> None:
        if covariance not in get_args(Covariance):
            raise ValueError(f"covariance must be one of {get_args(Covariance)}, got {covariance!r}")
        conjugate = NormalInverseWishart if covariance in ("full", "tied") else NormalInverseGamma
        accept(prior, conjugate, f'Gaussian(covariance="{covariance}")')
        self.prior = prior
        n_states = None
        if means is not None:
            n_states, width = leading_size("means", means, "(n_states, dim)")
            dim = width if dim is None else dim
        self.covariance: Covariance = covariance
        self.common_scale = covariance == "spherical"
        super().__init__(positive("dim", dim), n_states, {"means": means, "covs": covs})

    def bind(self, n_states: int) -> None:
        if isinstance(self.prior, NormalInverseWishart):
            self.prior.check(n_states, self.dim, self.covariance == "tied")
        if isinstance(self.prior, NormalInverseGamma):
            self.prior.check(n_states, self.dim, self.covariance == "spherical")
        super().bind(n_states)

    def sizes(self) -> dict[str, Any]:
        sizes = {"dim": self.dim, "covariance": self.covariance}
        return sizes if self.prior is None else {**sizes, "prior": self.prior}

    def log_prior(self) -> Tensor:
        if isinstance(self.prior, NormalInverseWishart):
            return self.prior.log_density(self.means, self.factor(), self.covariance == "tied")
        if isinstance(self.prior, NormalInverseGamma):
            return self.prior.log_density(self.means, self.variances(), self.covariance == "spherical")
        return super().log_prior()

    def degrees_of_freedom(self) -> int:
        k, d = self.n_states, self.dim
        covs = {"full": k * d * (d + 1) // 2, "tied": d * (d + 1) // 2, "diag": k * d, "spherical": k}
        counts = {"means": k * d, "covs": covs[self.covariance]}
        return sum(count for name, count in counts.items() if not self.is_frozen(name))

    @property
    def is_diagonal(self) -> bool:
        return self.covariance in ("diag", "spherical")

    def variances(self) -> Tensor:
        """The diagonals of covs, (K, D)."""
        return self.covs.diagonal(dim1=-2, dim2=-1)

    def factor(self) -> Tensor:
        """Lower triangular L with L L' == covs, (K, D, D)."""
        return factor_of(self)

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        complete = observed is None or bool(observed.all())
        stored = self.stored("means", "covs") if complete and untracked(values) else None
        if stored is not None:
            return gaussian.table_of(values, stored[0], stored[1], self.is_diagonal)
        rows, seen = rows_of(values, observed)
        if complete or seen is None:
            table = log_normal(rows, self.means, self.factor(), self.is_diagonal)
        else:
            table = self._marginal_log_prob(rows, seen, self.factor())
        return table.reshape(*values.shape[:-1], self.n_states)

    def compact(self, watched: bool = False) -> tuple[Any, ...] | None:
        narrow = self.dim <= WIDEST and not (watched and self.is_diagonal)
        stored = self.stored("means", "covs", watched=watched) if narrow else None
        return None if stored is None else tuple(stored)

    def pull_sums(self, sums: Any) -> tuple[Any, ...]:
        means, covs = (array_of(self._parameters[name]) for name in ("raw_means", "raw_covs"))  # type: ignore[arg-type]
        return gaussian.pull_stored(gaussian.unpacked(sums, means), means, covs)

    def _marginal_log_prob(self, rows: Tensor, seen: Tensor, factor: Tensor) -> Tensor:
        """Rows grouped by what they show; each group has its own marginal covariance."""
        table = rows.new_zeros(len(rows), self.n_states)
        means = self.means
        for pattern in torch.unique(seen, dim=0):
            if not pattern.any():
                continue
            index = (seen == pattern).all(-1).nonzero().squeeze(-1)
            shown = factor[:, pattern]
            if self.is_diagonal:
                part = shown[:, :, pattern]
            else:
                part = torch.linalg.cholesky(shown @ shown.mT)
            density = log_normal(rows[index][:, pattern], means[:, pattern], part, self.is_diagonal)
            table = table.index_put((index,), density)
        return table

    def distribution(self) -> Distribution:
        if self.is_diagonal:
            return Independent(Normal(self.means, self.variances().sqrt(), validate_args=False), 1)
        return MultivariateNormal(self.means, scale_tril=self.factor(), validate_args=False)

    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        if self.covariance == "spherical" and not bool((scale == scale[0]).all()):
            raise ValueError("spherical covariances can only be rescaled by one common factor")
        if "means" not in self.unset:
            self.means = scale * self.means + shift
        if "covs" not in self.unset:
            self.covs = scale.unsqueeze(-1) * self.covs * scale
        self.prior = None if self.prior is None else self.prior.rescale(scale, shift)

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        weights = cluster(values, observed, self.n_states, seed)
        count = observed.sum(0).clamp(min=1)
        mean = (values * observed).sum(0) / count
        spread = ((values - mean).square() * observed).sum(0) / count
        spread = torch.where(spread > 0, spread, 1.0)
        filled = torch.where(observed, values, mean)
        mass = weights.sum(0).clamp(min=1)
        means = weights.mT @ filled / mass.unsqueeze(-1)
        means = torch.where(weights.sum(0).unsqueeze(-1) > 0, means, mean)
        if self.is_frozen("covs"):
            self.assign(means=means)
            return
        within = (weights @ means - filled).square()
        variances = weights.mT @ within / mass.unsqueeze(-1) + 0.05 * spread
        if self.covariance == "tied":
            variances = (within.mean(0) + 0.05 * spread).expand_as(variances)
        if self.covariance == "spherical":
            variances = variances.mean(-1, keepdim=True).expand_as(variances)
        self.assign(means=means, covs=torch.diag_embed(variances))

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        if bool(observed.all()) and self.maximise_compact(array_of(values), array_of(weights)):
            return
        floor = Floor(values, observed, self.covariance == "spherical")
        if self.is_diagonal:
            self._maximise_diagonal(values, observed, weights, floor)
        else:
            self._maximise_full(values, observed, weights, floor)

    def maximise_compact(self, values: Any, weights: Any) -> bool:
        stored = self._plain_parameters()
        if stored is None:
            return False
        means, covs = stored
        return self._adopt(
            gaussian.maximise(
                gaussian.moments(values, weights, means), means, covs, VARIANCE_FLOOR, values, weights
            )
        )  # fmt: skip

    def maximise_sums(self, sums: Any) -> bool:
        stored = self._plain_parameters()
        if stored is None:
            return False
        means, covs = stored
        return self._adopt(gaussian.maximise(gaussian.unpacked(sums, means), means, covs, VARIANCE_FLOOR))

    def _plain_parameters(self) -> Any:
        """Means and covariances as stored, where the M-step is that of free parameters without a prior."""
        plain = self.prior is None and not (self.is_diagonal or self.held_entries or self.is_frozen("means"))
        return self.stored("means", "covs") if plain else None

    def _adopt(self, new: Any) -> bool:
        if new is not None:
            self.store(means=new[0], covs=new[1])
        return new is not None

    def _maximise_diagonal(self, values: Tensor, observed: Tensor, weights: Tensor, floor: Floor) -> None:
        seen = observed.to(values.dtype)
        mass = weights.mT @ seen
        self._assign_means(weights.mT @ (values * seen), mass)
        every = None if bool(observed.all()) else observed
        total = gaussian.scatter(values, every, self.means, weights, True).diagonal(dim1=-2, dim2=-1)
        if self.covariance == "spherical":
            total, mass = total.sum(-1, keepdim=True), mass.sum(-1, keepdim=True)
        if isinstance(self.prior, NormalInverseGamma):
            more, count = self.prior.extra(self.means, self.covariance == "spherical")
            total, mass = total + more, mass + count
        old = self.variances()[:, : total.shape[1]]
        variances = torch.where(mass > 0, total / torch.where(mass > 0, mass, 1.0), old)
        variances = lift(variances, floor).expand(self.n_states, self.dim)
        self.assign(covs=torch.diag_embed(variances))

    def _maximise_full(self, values: Tensor, observed: Tensor, weights: Tensor, floor: Floor) -> None:
        mass, tied = weights.sum(0), self.covariance == "tied"
        scatter = self._scatter(values, observed, weights, mass)
        scatter, mass = (scatter.sum(0), mass.sum()) if tied else (scatter, mass)
        if isinstance(self.prior, NormalInverseWishart):
            more, count = self.prior.extra(self.means, tied)
            scatter, mass = scatter + more, mass + count
        mass = mass[..., None, None]
        covs = torch.where(mass > 0, scatter / torch.where(mass > 0, mass, 1.0), self.covs)
        self.assign(covs=lift_matrix((covs + covs.mT) / 2, floor))

    def _scatter(self, values: Tensor, observed: Tensor, weights: Tensor, mass: Tensor) -> Tensor:
        """Maximise the means and return the weighted scatter around them, (K, D, D), what is hidden integrated out."""
        if bool(observed.all()):
            self._assign_means(weights.mT @ values, mass.unsqueeze(-1))
            return gaussian.scatter(values, None, self.means, weights)
        filled, left = self._complete(values, observed, weights)
        self._assign_means(torch.einsum("nk,nkd->kd", weights, filled), mass.unsqueeze(-1))
        centred = filled - self.means
        return torch.einsum("nk,nkd,nke->kde", weights, centred, centred) + left

    def _assign_means(self, total: Tensor, mass: Tensor) -> None:
        """The weighted means from sums (K, D) and weights (K, D) or (K, 1), the prior's observations added."""
        if isinstance(self.prior, (NormalInverseWishart, NormalInverseGamma)):
            total, mass = self.prior.means(total, mass)
        self.assign(means=torch.where(mass > 0, total / torch.where(mass > 0, mass, 1.0), self.means))

    def _complete(self, values: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """E[y_n | observed, k] (N, K, D) and the weighted sum of the covariances left, (K, D, D)."""
        filled = values.unsqueeze(1).repeat(1, self.n_states, 1)
        left = values.new_zeros(self.n_states, self.dim, self.dim)
        means, covs = self.means, self.covs
        for pattern in torch.unique(observed, dim=0):
            o, h = pattern.nonzero().squeeze(-1), (~pattern).nonzero().squeeze(-1)
            if not len(h):
                continue
            rows = (observed == pattern).all(-1).nonzero().squeeze(-1)
            slope = torch.linalg.solve(covs[:, o][:, :, o], covs[:, o][:, :, h]).mT
            away = values[rows][:, None, o] - means[:, o]
            filled[rows[:, None], :, h] = (means[:, h] + torch.einsum("kho,nko->nkh", slope, away)).permute(0, 2, 1)
            rest = covs[:, h][:, :, h] - slope @ covs[:, o][:, :, h]
            left[:, h.unsqueeze(-1), h] += weights[rows].sum(0)[:, None, None] * rest
        return filled, left


def factor_of(emission: Any) -> Tensor:
    """Lower triangular L with L L' == covs, (K, D, D), of an emission with a `covariance` type."""
    if "covs" in emission.overrides:
        return torch.linalg.cholesky(emission.overrides["covs"])
    raw = type(emission).covs.raw(emission)
    if emission.is_diagonal:
        return torch.diag_embed((0.5 * raw).exp().expand(emission.n_states, emission.dim))
    lower = raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())
    return lower.expand(emission.n_states, emission.dim, emission.dim)


def log_normal(rows: Tensor, means: Tensor, factor: Tensor, diagonal: bool) -> Tensor:
    """log N(row_n; means_k, factor_k factor_k'), (N, K)."""
    if diagonal:
        whitener = torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).reciprocal())
    else:
        whitener = torch.linalg.solve_triangular(factor, torch.eye(factor.shape[-1], dtype=factor.dtype), upper=False)
    return gaussian.log_prob(rows, means, whitener, diagonal)
