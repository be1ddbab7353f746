"""Conjugate priors on what the states say: a fit then maximises log_prob + log_prior, a MAP estimate.

    ps.HMM(3, emission=ps.emissions.Gaussian(2, prior=ps.priors.NormalInverseWishart(scale=0.1, dofs=4)))

| prior                | parameters it is for                    | density, but for a constant                    |
|----------------------|-----------------------------------------|------------------------------------------------|
| Dirichlet            | rows p of Categorical, Multinomial      | prod_m p_m^(concentration_m - 1)               |
| Beta                 | p of Bernoulli                          | p^(ones - 1) (1 - p)^(zeros - 1)               |
| Gamma                | rates r of Poisson, means of            | r^(shape - 1) exp(-rate r)                     |
|                      | NegativeBinomial                        |                                                |
| NormalInverseWishart | Gaussian, "full" and "tied": means m,   | |S|^-(dofs + D + 1)/2 exp(-tr(scale S^-1) / 2) |
|                      | covariance S                            | prod |S|^-1/2 exp(-k (m - m0)' S^-1 (m - m0)/2)|
| NormalInverseGamma   | Gaussian, "diag" and "spherical": means | v^-(shape + 1) exp(-scale / v)                 |
|                      | m, variances v                          | prod v^-1/2 exp(-k (m - m0)^2 / (2 v))         |

(`Normal` and `InverseWishart`, for the matrices and covariances of an LDS, stand in `matrix_priors`.)

k is `mean_precision`, the observations that the guess m0 = `mean` is worth; with k = 0 there is no factor for the
mean. `log_density` is normalised where the factor is proper, and leaves the constant out where it is not: only the
mode has to exist, so that `dofs` and `shape` may be negative. Priors keep the unit of the data: `rescale` moves them
along. In the M-step they are extra observations (Gauvain and Lee 1994, IEEE Trans. Speech and Audio Processing 2,
eqs. 24-28; Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), secs. 2.6, 3.3, 3.6).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from probseq import dirichlet
from probseq.constraints import semidefinite
from probseq.matrix_priors import InverseWishart, Normal
from probseq.parameters import as_parameter


class Prior:
    """A declared density over the parameters of an emission, in the units of the data."""

    #: the constructor's arguments, and how many axes they have where every state has its own
    names: ClassVar[dict[str, int]] = {}

    def sizes(self) -> dict[str, Any]:
        """The constructor's arguments as plain numbers and lists."""
        return {name: getattr(self, name).tolist() for name in self.names}

    def rescale(self, scale: Tensor, shift: Tensor) -> Prior:
        """The same prior for the emission of scale * y + shift."""
        return self

    def permute(self, order: Tensor) -> Self:
        """The same prior with state j called what order[j] was."""
        values = {name: getattr(self, name) for name in self.names}
        own = {name: value.ndim == self.names[name] and len(value) > 1 for name, value in values.items()}
        return type(self)(**{name: value[order] if own[name] else value for name, value in values.items()})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self.sizes().items())})"


def accept(prior: Any, kind: type[Prior], owner: str) -> None:
    """TypeError unless `prior` is None or of the kind that is conjugate here."""
    if prior is not None and not isinstance(prior, kind):
        raise TypeError(f"prior of {owner} must be a probseq.priors.{kind.__name__}, got {prior!r}")


def spread(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`value` for every entry of `shape`, or a ValueError that names it."""
    try:
        return value.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} of the prior must fit the shape {shape}, got {tuple(value.shape)}") from None


def _at_least(name: str, value: Any, least: float) -> Tensor:
    given = as_parameter(name, value)
    if bool((given < least).any()):
        raise ValueError(f"{name} of the prior must be at least {least:g}, got {float(given.min()):.4g}")
    return given


def _proper(terms: Tensor, normaliser: Tensor, proper: Tensor) -> Tensor:
    """terms + normaliser where the factor integrates to one."""
    return terms + torch.where(proper, normaliser, 0.0)


class Dirichlet(Prior):
    """On rows of probabilities (K, M): `concentration` 1 (flat) or more, a number, (M,) or (K, M)."""

    names: ClassVar[dict[str, int]] = {"concentration": 2}

    def __init__(self, concentration: Any) -> None:
        self.concentration = _at_least("concentration", concentration, 1.0)

    def counts(self, probs: Tensor) -> Tensor:
        """What the prior adds to expected counts, shape of `probs`; nothing at structural zeros."""
        return dirichlet.extra_counts(spread("concentration", self.concentration, tuple(probs.shape)), probs)

    def log_density(self, log_probs: Tensor) -> Tensor:
        return dirichlet.log_density(spread("concentration", self.concentration, tuple(log_probs.shape)), log_probs)


class Beta(Prior):
    """On probabilities (K, D): `ones` and `zeros`, 1 (flat) or more, numbers, (D,) or (K, D)."""

    names: ClassVar[dict[str, int]] = {"ones": 2, "zeros": 2}

    def __init__(self, ones: Any, zeros: Any) -> None:
        self.ones, self.zeros = _at_least("ones", ones, 1.0), _at_least("zeros", zeros, 1.0)

    def counts(self, probs: Tensor) -> tuple[Tensor, Tensor]:
        """What the prior adds to the expected ones and zeros; nothing where `probs` is 0 or 1, structurally."""
        free = (probs > 0) & (probs < 1)
        ones, zeros = (spread("ones and zeros", part, tuple(probs.shape)) for part in (self.ones, self.zeros))
        return torch.where(free, ones - 1, 0.0), torch.where(free, zeros - 1, 0.0)

    def log_density(self, probs: Tensor) -> Tensor:
        free = (probs > 0) & (probs < 1)
        p = torch.where(free, probs, 0.5)
        constant = torch.lgamma(self.ones + self.zeros) - torch.lgamma(self.ones) - torch.lgamma(self.zeros)
        terms = (self.ones - 1) * p.log() + (self.zeros - 1) * torch.log1p(-p) + constant
        return torch.where(free, terms, 0.0).sum()


class Gamma(Prior):
    """On rates (K, D): `shape` 1 or more and `rate` 0 or more, numbers, (D,) or (K, D); flat for 1 and 0."""

    names: ClassVar[dict[str, int]] = {"shape": 2, "rate": 2}

    def __init__(self, shape: Any, rate: Any) -> None:
        self.shape, self.rate = _at_least("shape", shape, 1.0), _at_least("rate", rate, 0.0)

    def counts(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """What the prior adds to the expected counts and to the time they were counted over."""
        size = tuple(rates.shape)
        return spread("shape", self.shape, size) - 1, spread("rate", self.rate, size)

    def log_density(self, rates: Tensor) -> Tensor:
        free = rates > 0
        r = torch.where(free, rates, 1.0)
        proper = self.rate > 0
        rate = torch.where(proper, self.rate, 1.0)
        terms = torch.where(free, (self.shape - 1) * r.log(), torch.where(self.shape > 1, -torch.inf, 0.0))
        return _proper(terms - self.rate * rates, self.shape * rate.log() - torch.lgamma(self.shape), proper).sum()


class NormalInverseWishart(Prior):
    """On means and full covariances.

    `scale` is (D, D), (K, D, D) or a number (that multiple of the identity), semidefinite, in squared units of the
    data; `dofs` a number or (K,); `mean` a number, (D,) or (K, D); `mean_precision` a number or (K,). With "tied",
    scale and dofs are common. Without data the mode of S is scale / (dofs + D + 1), plus 1 below with k > 0.
    """

    names: ClassVar[dict[str, int]] = {"scale": 3, "dofs": 1, "mean": 2, "mean_precision": 1}

    def __init__(self, *, scale: Any, dofs: Any, mean: Any = 0.0, mean_precision: Any = 0.0) -> None:
        self.scale, self.dofs, self.mean = (
            as_parameter(name, value) for name, value in (("scale", scale), ("dofs", dofs), ("mean", mean))
        )
        self.mean_precision = _at_least("mean_precision", mean_precision, 0.0)

    def rescale(self, scale: Tensor, shift: Tensor) -> NormalInverseWishart:
        matrix = self._matrix(len(scale))
        return NormalInverseWishart(
            scale=scale.unsqueeze(-1) * matrix * scale,
            dofs=self.dofs,
            mean=scale * self.mean + shift,
            mean_precision=self.mean_precision,
        )

    def _matrix(self, dim: int) -> Tensor:
        return self.scale if self.scale.ndim else self.scale * torch.eye(dim, dtype=torch.float64)

    def check(self, n_states: int, dim: int, tied: bool) -> None:
        """ValueError where the prior does not fit K states of D coordinates, or has no mode."""
        count = self.extra(torch.zeros(n_states, dim, dtype=torch.float64), tied)[1]
        wrong = semidefinite.complaint(self._matrix(dim))
        if wrong is not None:
            raise ValueError(f"scale of the prior must be symmetric and {semidefinite.words}; {wrong}")
        if bool((count < 0).any()):
            least = float((self.dofs - count).max())
            raise ValueError(f"dofs of the prior must be at least {least:g}, where the density has a mode")

    def means(self, total: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of observations (K, D) and their weights (K, 1) with those of the prior added."""
        k = spread("mean_precision", self.mean_precision, (len(total),)).unsqueeze(-1)
        return total + k * spread("mean", self.mean, tuple(total.shape)), mass + k

    def extra(self, means: Tensor, tied: bool) -> tuple[Tensor, Tensor]:
        """What the prior adds to the scatter, (K, D, D), and to the weight, (K,); (D, D) and a number where tied."""
        n_states, dim = means.shape
        k = spread("mean_precision", self.mean_precision, (n_states,))
        away = means - spread("mean", self.mean, (n_states, dim))
        scatter = k[:, None, None] * away.unsqueeze(-1) * away.unsqueeze(-2)
        held = (k > 0).to(means.dtype)
        shape = () if tied else (n_states,)
        matrix = spread("scale", self._matrix(dim), (*shape, dim, dim))
        dofs = spread("dofs", self.dofs, shape) + dim + 1
        return (matrix + scatter.sum(0), dofs + held.sum()) if tied else (matrix + scatter, dofs + held)

    def log_density(self, means: Tensor, factor: Tensor, tied: bool) -> Tensor:
        """At means (K, D) and covariances factor factor' (K, D, D)."""
        n_states, dim = means.shape
        k = spread("mean_precision", self.mean_precision, (n_states,))
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        away = (means - self.mean).unsqueeze(-1)
        distance = torch.linalg.solve_triangular(factor, away, upper=False).square().sum((-2, -1))
        constant = dim / 2 * torch.where(k > 0, k / (2 * math.pi), 1.0).log()
        of_means = torch.where(k > 0, constant - log_det / 2 - k / 2 * distance, 0.0).sum()
        if tied:
            factor, log_det = factor[0], log_det[0]
        matrix = self._matrix(dim).expand(factor.shape)
        trace = torch.cholesky_solve(matrix, factor).diagonal(dim1=-2, dim2=-1).sum(-1)
        terms = -(self.dofs + dim + 1) / 2 * log_det - trace / 2
        return of_means + (terms + self._normaliser(matrix, dim)).sum()

    def _normaliser(self, matrix: Tensor, dim: int) -> Tensor:
        """-log of the integral of the inverse Wishart factor, 0 where that is infinite."""
        values = torch.linalg.eigvalsh(matrix)
        proper = (self.dofs > dim - 1) & (values[..., 0] > 1e-12 * values[..., -1])
        log_det = torch.where(proper.unsqueeze(-1), values, 1.0).log().sum(-1)
        dofs = torch.where(proper, self.dofs, dim)
        constant = dofs / 2 * (log_det - dim * math.log(2)) - torch.special.multigammaln(dofs / 2, dim)
        return torch.where(proper, constant, 0.0)


class NormalInverseGamma(Prior):
    """On means and variances, `shape` and `scale` those of the inverse gamma factor.

    All are numbers, (D,) or (K, D); with "spherical" shape and scale are numbers or (K, 1), one per variance. `scale`
    is in squared units of the data. Without data the mode of v is scale / (shape + 1), plus 1/2 below with k > 0.
    """

    names: ClassVar[dict[str, int]] = {"shape": 2, "scale": 2, "mean": 2, "mean_precision": 2}

    def __init__(self, *, shape: Any, scale: Any, mean: Any = 0.0, mean_precision: Any = 0.0) -> None:
        self.shape, self.mean = as_parameter("shape", shape), as_parameter("mean", mean)
        self.scale = _at_least("scale", scale, 0.0)
        self.mean_precision = _at_least("mean_precision", mean_precision, 0.0)

    def rescale(self, scale: Tensor, shift: Tensor) -> NormalInverseGamma:
        factor = scale[0] if bool((scale == scale[0]).all()) else scale
        return NormalInverseGamma(
            shape=self.shape,
            scale=factor.square() * self.scale,
            mean=scale * self.mean + shift,
            mean_precision=self.mean_precision,
        )

    def check(self, n_states: int, dim: int, spherical: bool) -> None:
        """ValueError where the prior does not fit K states of D coordinates, or has no mode."""
        count = self.extra(torch.zeros(n_states, dim, dtype=torch.float64), spherical)[1]
        if bool((count < 0).any()):
            least = float((self.shape - count / 2).max())
            raise ValueError(f"shape of the prior must be at least {least:g}, where the density has a mode")

    def means(self, total: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of observations and their weights, both (K, D), with those of the prior added."""
        k = spread("mean_precision", self.mean_precision, tuple(total.shape))
        return total + k * spread("mean", self.mean, tuple(total.shape)), mass + k

    def extra(self, means: Tensor, spherical: bool) -> tuple[Tensor, Tensor]:
        """What the prior adds to sums of squares and to their weights, both (K, D), or (K, 1) if spherical."""
        size = tuple(means.shape)
        own = (size[0], 1) if spherical else size
        k = spread("mean_precision", self.mean_precision, size)
        squares = k * (means - spread("mean", self.mean, size)).square()
        held = (k > 0).to(means.dtype)
        if spherical:
            squares, held = squares.sum(-1, keepdim=True), held.sum(-1, keepdim=True)
        return 2 * spread("scale", self.scale, own) + squares, 2 * (spread("shape", self.shape, own) + 1) + held

    def log_density(self, means: Tensor, variances: Tensor, spherical: bool) -> Tensor:
        """At means and variances, both (K, D)."""
        k = self.mean_precision.expand(means.shape)
        constant = 0.5 * torch.where(k > 0, k / (2 * math.pi), 1.0).log()
        of_means = constant - 0.5 * variances.log() - k / 2 * (means - self.mean).square() / variances
        v = variances[:, :1] if spherical else variances
        proper = ((self.shape > 0) & (self.scale > 0)).expand(v.shape)
        shape, scale = (torch.where(proper, part, 1.0) for part in (self.shape, self.scale))
        terms = _proper(-(self.shape + 1) * v.log() - self.scale / v, shape * scale.log() - torch.lgamma(shape), proper)
        return torch.where(k > 0, of_means, 0.0).sum() + terms.sum()


__all__ = [
    "Beta",
    "Dirichlet",
    "Gamma",
    "InverseWishart",
    "Normal",
    "NormalInverseGamma",
    "NormalInverseWishart",
    "Prior",
]
