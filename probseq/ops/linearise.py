"""The best linear description of a function under a Gaussian: what every nonlinear Kalman filter is made of.

    z = m + L e,  e ~ N(0, I),  L L' = P
    g(z) ~ mean + slope e + rest,   cov(rest) = residual_cov,  rest uncorrelated with e

| rule                 | mean, slope, residual_cov                                  | evaluations   | exact for degree |
|----------------------|------------------------------------------------------------|---------------|------------------|
| `ExtendedKalman`     | g(m), (dg/dz at m) L, 0                                    | 1, m adjoints | 1                |
| `Cubature`           | moments under the 2 n points m +- sqrt(n) L_j              | 2 n           | 3                |
| `UnscentedTransform` | moments under m itself and m +- sqrt(n + lambda) L_j       | 2 n + 1       | 3                |
| `GaussHermite`       | moments under a grid of points                             | order^n       | 2 order - 1      |

Degrees are those of polynomials whose mean is exact. Because the slope belongs to the whitened e, the joint
covariance of (z, g) is [L; slope] [L; slope]' + [0; 1] residual_cov [0; 1]', positive semidefinite whenever
residual_cov is: nothing is ever subtracted, P may be singular, and no weight has to be positive for it (see
`UnscentedTransform`).

References: Sarkka and Svensson, Bayesian Filtering and Smoothing, 2nd ed. (2023), ch. 7-9; Julier and Uhlmann (2004),
Unscented filtering and nonlinear estimation, Proc. IEEE 92; Arasaratnam and Haykin (2009), Cubature Kalman filters,
IEEE Trans. Automat. Contr. 54; Garcia-Fernandez et al. (2015) for the view as statistical linear regression.
"""

from __future__ import annotations

import abc
import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probseq.checks import whole_number
from probseq.errors import IllConditionedWarning

#: maps points (*batch, point, n) to values (*batch, point, m)
PointFunction = Callable[[Tensor], Tensor]


class Regression(NamedTuple):
    """g(m + L e) as mean (*batch, m) + slope (*batch, m, n) e + a rest of covariance residual_cov (*batch, m, m)."""

    mean: Tensor
    slope: Tensor
    residual_cov: Tensor

    @property
    def cov(self) -> Tensor:
        """The covariance of g(z), (*batch, m, m)."""
        return self.slope @ self.slope.mT + self.residual_cov


class Linearisation(abc.ABC):
    """A rule that replaces a function of a Gaussian by a linear one plus uncorrelated noise."""

    @abc.abstractmethod
    def __call__(
        self,
        function: PointFunction,
        mean: Float[Tensor, "*batch state"],
        root: Float[Tensor, "*batch state state"],
    ) -> Regression:
        """Describe function(z), z ~ N(mean, root root'). Exact, with no residual, where the function is affine."""

    def check(self, state_dim: int) -> None:
        """ValueError or a warning where the rule does not suit a state of this size."""
        return

    def sizes(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True)
class ExtendedKalman(Linearisation):
    """First-order Taylor expansion at the mean, with exact derivatives.

    With `iterations` > 0 every update moves the point of expansion to the posterior mean that many times, which is
    Gauss-Newton on log p(z, y_t) (Bell and Cathey 1993). The log-probability stays that of the first expansion: a
    forecast cannot depend on what it forecasts.
    """

    iterations: int = 0

    def __post_init__(self) -> None:
        whole_number("iterations", self.iterations, least=0)

    def __call__(
        self,
        function: PointFunction,
        mean: Float[Tensor, "*batch state"],
        root: Float[Tensor, "*batch state state"],
    ) -> Regression:
        value, jacobian = derivative(function, mean)
        return Regression(value, jacobian @ root, value.new_zeros(*value.shape, value.shape[-1]))


@dataclass(frozen=True)
class UnscentedTransform(Linearisation):
    """Sigma points m and m +- sqrt(c) L_j with c = n + lambda = alpha^2 (n + kappa), weights of Julier and Uhlmann.

    `kappa=None` is max(3 - n, 0): fourth moments along every axis are met as long as no weight is negative for it.
    With the even parts s_j = (g(m + sqrt(c) L_j) + g(m - sqrt(c) L_j)) / 2 - g(m) and d = sum_j s_j / c,

        residual_cov = sum_j s_j s_j' / c + (beta - alpha^2) d d',

    which is positive semidefinite if and only if beta - alpha^2 >= -c / n, whatever the signs of the weights (so for
    all kappa >= 0). Parameters beyond that are used with -c / n instead, the nearest legal coefficient, and a warning.
    A small alpha costs digits: s_j is a second difference over a distance of order alpha.
    """

    alpha: float = 1.0
    beta: float = 0.0
    kappa: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta), ("kappa", self.kappa or 0.0)):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value!r}")
        if self.alpha <= 0:
            raise ValueError(f"alpha must be positive, got {self.alpha!r}")

    def check(self, state_dim: int) -> None:
        """ValueError where points would have an imaginary distance; a warning where beta has to be repaired."""
        spread = self._spread(state_dim)
        if spread <= 0:
            raise ValueError(f"kappa must be more than -{state_dim} for a state of {state_dim}, got {self.kappa!r}")
        if self.beta - self.alpha**2 < -spread / state_dim * (1 + 1e-12):
            raised = self.alpha**2 - spread / state_dim
            message = f"with beta {self.beta:g} and kappa {self.kappa} a covariance of {state_dim} states could become"
            warnings.warn(f"{message} indefinite; beta is taken as {raised:g}", IllConditionedWarning)

    def _spread(self, n: int) -> float:
        return self.alpha**2 * (n + (max(3 - n, 0) if self.kappa is None else self.kappa))

    def __call__(
        self,
        function: PointFunction,
        mean: Float[Tensor, "*batch state"],
        root: Float[Tensor, "*batch state state"],
    ) -> Regression:
        n, c = mean.shape[-1], self._spread(mean.shape[-1])
        arms = math.sqrt(c) * root.mT
        centre = mean.unsqueeze(-2)
        values = function(torch.cat([centre, centre + arms, centre - arms], -2))
        middle, plus, minus = values.split([1, n, n], -2)
        even, odd = (plus + minus) / 2 - middle, (plus - minus) / 2
        shift = even.sum(-2) / c
        coefficient = max(self.beta - self.alpha**2, -c / n)
        # a root of sum_j s_j s_j' / c + coefficient d d', real for every legal coefficient
        tilt = math.sqrt(max(1 + coefficient * n / c, 0.0)) - 1
        residual = (even + tilt * even.mean(-2, keepdim=True)) / math.sqrt(c)
        return Regression(middle.squeeze(-2) + shift, odd.mT / math.sqrt(c), residual.mT @ residual)


@dataclass(frozen=True)
class Cubature(Linearisation):
    """The spherical-radial rule of third degree: 2 n points of equal weight, no parameter.

    Satisfies Cubature() == UnscentedTransform(alpha=1, beta=0, kappa=0).
    """

    def __call__(
        self,
        function: PointFunction,
        mean: Float[Tensor, "*batch state"],
        root: Float[Tensor, "*batch state state"],
    ) -> Regression:
        n = mean.shape[-1]
        arms = math.sqrt(n) * torch.eye(n, dtype=mean.dtype)
        points = torch.cat([arms, -arms])
        return quadrature(function, mean, root, points, mean.new_full((2 * n,), 1 / (2 * n)))


@dataclass(frozen=True)
class GaussHermite(Linearisation):
    """The product rule with `order` points along every axis: order^n evaluations, for few states."""

    order: int = 3

    def __post_init__(self) -> None:
        whole_number("order", self.order, least=2)

    def check(self, state_dim: int) -> None:
        """ValueError where the grid has more than a million points."""
        if self.order**state_dim > 10**6:
            raise ValueError(f"order {self.order} needs {self.order}^{state_dim} points; use a cubature rule instead")

    def __call__(
        self,
        function: PointFunction,
        mean: Float[Tensor, "*batch state"],
        root: Float[Tensor, "*batch state state"],
    ) -> Regression:
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.order)
        n = mean.shape[-1]
        grid = torch.tensor(list(itertools.product(nodes, repeat=n)), dtype=mean.dtype)
        products = torch.tensor(list(itertools.product(weights / weights.sum(), repeat=n)), dtype=mean.dtype).prod(-1)
        return quadrature(function, mean, root, grid, products)


def quadrature(
    function: PointFunction,
    mean: Float[Tensor, "*batch state"],
    root: Float[Tensor, "*batch state state"],
    points: Float[Tensor, "point state"],
    weights: Float[Tensor, " point"],
) -> Regression:
    """Moments under positive weights of points e with mean 0 and covariance I; the residual is a sum of squares."""
    values = function(mean.unsqueeze(-2) + points @ root.mT)
    first = (weights.unsqueeze(-1) * values).sum(-2)
    away = values - first.unsqueeze(-2)
    slope = (weights.unsqueeze(-1) * away).mT @ points
    rest = weights.sqrt().unsqueeze(-1) * (away - points @ slope.mT)
    return Regression(first, slope, rest.mT @ rest)


def derivative(
    function: PointFunction, at: Float[Tensor, "*batch state"]
) -> tuple[Float[Tensor, "*batch value"], Float[Tensor, "*batch value state"]]:
    """g(at) and its Jacobian, by one pull-back per coordinate of g over the whole batch."""
    value, pull, *_ = torch.func.vjp(function, at.unsqueeze(-2))
    rows = [pull(row.expand_as(value))[0].squeeze(-2) for row in torch.eye(value.shape[-1], dtype=value.dtype)]
    return value.squeeze(-2), torch.stack(rows, -2)
