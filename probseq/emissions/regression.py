"""Linear regression on x_t, with coefficients for every state: the states differ in how y depends on x.

    y_t | z_t = k ~ N(B_k x_t + c_k, S_k)

| symbol | shape   |                                                                            |
|--------|---------|----------------------------------------------------------------------------|
| x_t    | (q,)    | inputs (`LinearRegression`, q = P) or rows before (`Autoregressive`)       |
| B_k    | (D, q)  | slopes                                                                     |
| c_k    | (D,)    | intercepts                                                                 |
| S_k    | (D, D)  | covs, of the types of `Gaussian`: full, tied, diag or spherical            |

M-step, with responsibilities w: weighted least squares around the weighted means,

    B_k = (sum w (y - m_y)(x - m_x)') (sum w (x - m_x)(x - m_x)')^+,   c_k = m_y - B_k m_x,   S_k = sum w r r' / sum w

where r are the residuals. Unobserved coordinates of y are integrated out of the likelihood; in the M-step r is
completed by its regression on the observed residuals and the covariance that is left is added (Little and Rubin 2002,
sec. 11.2), but for diagonal covariances, where every coordinate has the least squares of its own observed rows.

The start is the best of a few mixtures of regressions (`probseq.emissions.regression_start`).

References: Hamilton (1990), J. Econometrics 45; Fridman (1994), Hidden Markov model regression, IMA preprint 1195.
"""

from __future__ import annotations

import abc
from typing import Any, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from probseq import parameters as P
from probseq.emissions.base import positive, rows_of
from probseq.emissions.conditional import Conditional
from probseq.emissions.floor import Floor, lift, lift_matrix
from probseq.emissions.gaussian import Covariance, Covariances, factor_of, log_normal
from probseq.emissions.least_squares import least_squares
from probseq.emissions.regression_start import start_mixture
from probseq.parameters import Param

#: the smallest variance an M-step may leave, relative to that of the column: regressions explain more than means do
RESIDUAL_FLOOR = 1e-8


class Regression(Conditional):
    """What both regressions share. To write: `slopes`, `slope_name` and its assignment."""

    real_valued = True
    intercepts = Param(P.real, "n_states", "dim")
    covs = Covariances()
    #: the parameter that holds the slopes
    slope_name: str

    def __init__(self, dim: int, n_states: int | None, covariance: Covariance, values: dict[str, Any]) -> None:
        if covariance not in get_args(Covariance):
            raise ValueError(f"covariance must be one of {get_args(Covariance)}, got {covariance!r}")
        self.covariance: Covariance = covariance
        self.common_scale = covariance == "spherical"
        super().__init__(dim, n_states, values)

    @abc.abstractmethod
    def slopes(self) -> Tensor:
        """B, (K, D, q)."""

    @abc.abstractmethod
    def assign_slopes(self, slopes: Tensor) -> None:
        """Assign B, (K, D, q), unless it is held."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """The length q of x."""

    @property
    def is_diagonal(self) -> bool:
        return self.covariance in ("diag", "spherical")

    def degrees_of_freedom(self) -> int:
        k, d = self.n_states, self.dim
        covs = {"full": k * d * (d + 1) // 2, "tied": d * (d + 1) // 2, "diag": k * d, "spherical": k}
        counts = {self.slope_name: k * d * self.width, "intercepts": k * d, "covs": covs[self.covariance]}
        return sum(count for name, count in counts.items() if not self.is_frozen(name))

    def means(self, x: Tensor) -> Tensor:
        """E[y | z = k, x], (*batch, K, D)."""
        return torch.einsum("kdq,...q->...kd", self.slopes(), x) + self.intercepts

    def log_prob(self, values: Tensor, observed: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        rows, seen = rows_of(values, observed)
        inputs = self._need(x).reshape(len(rows), self.width)
        factor, slopes, intercepts = factor_of(self), self.slopes(), self.intercepts
        if seen is None or bool(seen.all()):
            table = self._table(rows, inputs, slopes, intercepts, factor)
            return table.reshape(*values.shape[:-1], self.n_states)
        table = rows.new_zeros(len(rows), self.n_states)
        for pattern in torch.unique(seen, dim=0):
            if not pattern.any():
                continue
            index = (seen == pattern).all(-1).nonzero().squeeze(-1)
            shown = factor[:, pattern]
            part = shown[:, :, pattern] if self.is_diagonal else torch.linalg.cholesky(shown @ shown.mT)
            own = self._table(rows[index][:, pattern], inputs[index], slopes[:, pattern], intercepts[:, pattern], part)
            table = table.index_put((index,), own)
        return table.reshape(*values.shape[:-1], self.n_states)

    def _table(self, rows: Tensor, x: Tensor, slopes: Tensor, intercepts: Tensor, factor: Tensor) -> Tensor:
        """log N(y_n; B_k x_n + c_k, L_k L_k'), (N, K): for every state the density of y - B_k x."""
        columns = [
            log_normal(rows - x @ slopes[k].mT, intercepts[k : k + 1], factor[k : k + 1], self.is_diagonal)
            for k in range(self.n_states)
        ]
        return torch.cat(columns, -1)

    def _need(self, x: Tensor | None) -> Tensor:
        if x is None:
            raise ValueError(f"{type(self).__name__} emissions depend on more than the state: ask given(u, window)")
        if x.shape[-1] != self.width:
            raise ValueError(f"inputs of {type(self).__name__} must have {self.width} columns, got {x.shape[-1]}")
        return x

    def distribution(self, x: Tensor | None = None) -> Distribution:
        means = self.means(self._need(x))
        if self.is_diagonal:
            scale = self.covs.diagonal(dim1=-2, dim2=-1).sqrt()
            return Independent(Normal(means, scale.expand_as(means), validate_args=False), 1)
        return MultivariateNormal(means, scale_tril=factor_of(self), validate_args=False)

    # ---- what is hidden, given what is shown

    def complete(self, residuals: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E[r | observed r] for residuals (N, K, D) of which `seen` (N, D) count; differentiable.

        Also the covariance that is left for every pattern of observation, (U, K, D, D), and each row's pattern (N,).
        """
        covs, lefts = self.covs, []
        patterns, which = torch.unique(seen, dim=0, return_inverse=True)
        filled = torch.where(seen.unsqueeze(-2), residuals, 0.0)
        for number, pattern in enumerate(patterns):
            gain = self._gain(covs, pattern)
            rest = covs - gain @ covs[:, pattern]
            lefts.append(torch.where((~pattern).unsqueeze(-1) & ~pattern, (rest + rest.mT) / 2, 0.0))
            if pattern.all() or not pattern.any():
                continue
            index = (which == number).nonzero().squeeze(-1)
            own = torch.einsum("kdo,nko->nkd", gain, filled[index][..., pattern])
            filled = filled.index_put((index,), torch.where(pattern, filled[index], own))
        return filled, torch.stack(lefts), which

    def _gain(self, covs: Tensor, pattern: Tensor) -> Tensor:
        """S[:, o] S[o, o]^-1, (K, D, O)."""
        shown = covs[:, pattern][:, :, pattern]
        if not pattern.any():
            return covs[:, :, pattern]
        return torch.linalg.solve(shown, covs[:, pattern]).mT

    # ---- learning

    @torch.no_grad()
    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor, x: Tensor | None = None) -> None:
        inputs = self._need(x)
        floor = Floor(values, observed, self.covariance == "spherical", RESIDUAL_FLOOR)
        if self.is_diagonal:
            self._maximise_diagonal(values, observed, weights, inputs, floor)
        else:
            self._maximise_full(values, observed, weights, inputs, floor)

    def _maximise_diagonal(self, values: Tensor, seen: Tensor, weights: Tensor, x: Tensor, floor: Floor) -> None:
        """Every coordinate by its own observed rows."""
        if bool(seen.all()):
            self._locate([(values, weights[:, k]) for k in range(self.n_states)], x)
        else:
            self._locate_by_coordinate(values, seen, weights, x)
        if self.is_frozen("covs"):
            return
        mass = weights.mT @ seen.to(values.dtype)
        squares = [
            ((values - x @ b.mT - c) * seen).square() for b, c in zip(self.slopes(), self.intercepts, strict=True)
        ]
        total = torch.stack([weights[:, k] @ square for k, square in enumerate(squares)])
        if self.covariance == "spherical":
            total, mass = total.sum(-1, keepdim=True), mass.sum(-1, keepdim=True)
        old = self.covs.diagonal(dim1=-2, dim2=-1)[:, : total.shape[1]]
        variances = torch.where(mass > 0, total / torch.where(mass > 0, mass, 1.0), old)
        variances = lift(variances, floor).expand(self.n_states, self.dim)
        self.assign(covs=torch.diag_embed(variances))

    def _maximise_full(self, values: Tensor, seen: Tensor, weights: Tensor, x: Tensor, floor: Floor) -> None:
        """Least squares on completed rows, and the scatter of their residuals with the covariance left."""
        targets, left = [values] * self.n_states, torch.zeros_like(self.covs)
        if not bool(seen.all()):
            means = self.means(x)
            filled, lefts, which = self.complete(values.unsqueeze(-2) - means, seen)
            shares = torch.nn.functional.one_hot(which, len(lefts)).to(weights.dtype).mT @ weights
            left = torch.einsum("uk,ukde->kde", shares, lefts)
            targets = [torch.where(seen, values, means[:, k] + filled[:, k]) for k in range(self.n_states)]
        self._locate([(targets[k], weights[:, k]) for k in range(self.n_states)], x)
        if self.is_frozen("covs"):
            return
        mass = weights.sum(0)
        away = [y - x @ b.mT - c for y, b, c in zip(targets, self.slopes(), self.intercepts, strict=True)]
        scatter = left + torch.stack([(r * weights[:, k : k + 1]).mT @ r for k, r in enumerate(away)])
        if self.covariance == "tied":
            covs = (scatter.sum(0) / mass.sum()).expand_as(scatter)
        else:
            there = mass[:, None, None] > 0
            covs = torch.where(there, scatter / torch.where(there, mass[:, None, None], 1.0), self.covs)
        self.assign(covs=lift_matrix((covs + covs.mT) / 2, floor))

    def _locate(self, problems: list[tuple[Tensor, Tensor]], x: Tensor) -> None:
        """Slopes and intercepts of every state from its rows and their weights."""
        held = (self.is_frozen(self.slope_name), self.is_frozen("intercepts"))
        old = zip(problems, self.slopes(), self.intercepts, strict=True)
        found = [least_squares(x, y, w, b, c, held) for (y, w), b, c in old]
        self.assign_slopes(torch.stack([b for b, _ in found]))
        self.assign(intercepts=torch.stack([c for _, c in found]))

    def _locate_by_coordinate(self, values: Tensor, seen: Tensor, weights: Tensor, x: Tensor) -> None:
        held = (self.is_frozen(self.slope_name), self.is_frozen("intercepts"))
        slopes, intercepts = self.slopes().clone(), self.intercepts.clone()
        for k in range(self.n_states):
            for d in range(self.dim):
                rows, one = seen[:, d], slice(d, d + 1)
                part = (x[rows], values[rows, one], weights[rows, k], slopes[k, one], intercepts[k, one])
                slopes[k, one], intercepts[k, one] = least_squares(*part, held)
        self.assign_slopes(slopes)
        self.assign(intercepts=intercepts)

    @torch.no_grad()
    def start(self, values: Tensor, observed: Tensor, seed: int, x: Tensor | None = None) -> None:
        """The best of a few mixtures of regressions."""
        start_mixture(self, values, observed, self._need(x), seed)

    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        if self.covariance == "spherical" and not bool((scale == scale[0]).all()):
            raise ValueError("spherical covariances can only be rescaled by one common factor")
        self._rescale_location(scale, shift)
        if "covs" not in self.unset:
            self.covs = scale.unsqueeze(-1) * self.covs * scale

    @abc.abstractmethod
    def _rescale_location(self, scale: Tensor, shift: Tensor) -> None: ...


class LinearRegression(Regression):
    """Rows driven by inputs, from sizes `LinearRegression(dim, input_dim)` or from parameters.

    `weights` (K, dim, input_dim), `intercepts` (K, dim) and `covs` (K, dim, dim), always full matrices.
    """

    slope_name = "weights"
    weights = Param(P.real, "n_states", "dim", "input_dim")

    def __init__(
        self,
        dim: int | None = None,
        input_dim: int | None = None,
        *,
        weights: Any = None,
        intercepts: Any = None,
        covs: Any = None,
        covariance: Covariance = "full",
    ) -> None:
        n_states = None
        if weights is not None:
            shape = tuple(P.as_parameter("weights", weights).shape)
            if len(shape) != 3:
                raise ValueError(f"weights must have shape (n_states, dim, input_dim), got {shape}")
            n_states, dim = shape[0], shape[1] if dim is None else dim
            input_dim = shape[2] if input_dim is None else input_dim
        self.input_dim = positive("input_dim", input_dim)
        values = {"weights": weights, "intercepts": intercepts, "covs": covs}
        super().__init__(positive("dim", dim), n_states, covariance, values)

    def sizes(self) -> dict[str, Any]:
        return {"dim": self.dim, "input_dim": self.input_dim, "covariance": self.covariance}

    @property
    def width(self) -> int:
        return self.input_dim

    def slopes(self) -> Tensor:
        return self.weights

    def assign_slopes(self, slopes: Tensor) -> None:
        self.assign(weights=slopes)

    def _rescale_location(self, scale: Tensor, shift: Tensor) -> None:
        if "weights" not in self.unset:
            self.weights = scale.unsqueeze(-1) * self.weights
        if "intercepts" not in self.unset:
            self.intercepts = scale * self.intercepts + shift
