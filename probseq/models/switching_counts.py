"""Counts from a switching linear system: y_i ~ Poisson(exp(C z + d)_i), every Gaussian updated by Laplace's method.

    z = m + L x,  L L' = P,  x ~ N(0, I);    l(x) = -x'x / 2 + sum_i [y_i e_i - exp(e_i) - log y_i!],   e = C z + d
    x* = argmax l (damped Newton),  H = I + L' C' diag(exp(e*)) C L
    N(m, P)  ->  N(m + L x*, L H^-1 L'),      log p(y) ~ l(x*) - log det(H) / 2

| symbol | shape  |                    |   | symbol | shape  |                            |
|--------|--------|--------------------|---|--------|--------|----------------------------|
| m, P   | (n, n) | the Gaussian of z  |   | x*, H  | (n, n) | mode and negative Hessian  |
| C, d   | (m, n) | emission of regime |   | e      | (m,)   | log-rates                  |

P may be singular. l is strictly concave, so that the mode is unique. The evidence is approximate: as a law of y,
`CountMixture.log_prob` (the same number as that of `update`) need not sum to one; its draws and moments are exact.

Reference: Tierney and Kadane (1986), JASA 81; Rue, Martino and Chopin (2009), JRSS B 71, sec. 2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

from probseq import beliefs as B
from probseq.beliefs import Gaussian, Mixture
from probseq.models.normal import symmetric
from probseq.ops import semidefinite
from probseq.ops.log_space import safe_logsumexp

if TYPE_CHECKING:
    from probseq.models.switching_steps import Regimes

#: most Newton steps, and halvings of one; a step below TOLERANCE ends them
STEPS, HALVINGS, TOLERANCE = 100, 30, 1e-12
#: log-rates above this count as this
LARGEST = 300.0
#: the share of particles that are drawn from the prediction, which bounds their weights
DEFENSIVE = 0.1


def log_poisson(y: Tensor, log_rate: Tensor, seen: Tensor) -> Tensor:
    """log p(y given log-rates), summed over the coordinates that are seen (1 or 0)."""
    return (seen * (y * log_rate - log_rate.clamp(max=LARGEST).exp() - torch.lgamma(y + 1))).sum(-1)


class Laplace:
    """The expansion of log p(y, x) at its mode, of every component: x* (*batch, M, n) and Cholesky factor of H."""

    def __init__(
        self, parts: Regimes, components: Gaussian, regimes: Tensor, y: Tensor, observed: Tensor | None
    ) -> None:
        seen = torch.ones_like(y) if observed is None else observed.to(y.dtype)
        self.seen, self.y = seen.unsqueeze(-2), torch.where(seen > 0, y, 0.0).unsqueeze(-2)
        matrix, self.mean = parts.emission_matrix[regimes], components.mean
        self.root = semidefinite.cholesky(components.cov)
        self.base = (matrix @ self.mean.unsqueeze(-1)).squeeze(-1) + parts.emission_offset[regimes]
        self.slope = matrix @ self.root
        with torch.no_grad():
            x = self._climbed()
        step, self.factor = self._newton(x)
        self.mode = x + step  # at the mode: only its derivative is not zero
        self.factor = self._newton(self.mode)[1]

    def log_rate(self, x: Tensor) -> Tensor:
        return self.base + (self.slope @ x.unsqueeze(-1)).squeeze(-1)

    def objective(self, x: Tensor) -> Tensor:
        return log_poisson(self.y, self.log_rate(x), self.seen) - 0.5 * x.square().sum(-1)

    def _newton(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Newton's step at x, and the Cholesky factor of H there."""
        rate = self.seen * self.log_rate(x).clamp(max=LARGEST).exp()
        slope = (self.slope.mT @ (self.seen * self.y - rate).unsqueeze(-1)).squeeze(-1) - x
        eye = torch.eye(x.shape[-1], dtype=x.dtype)
        factor = torch.linalg.cholesky(eye + symmetric(self.slope.mT @ (rate.unsqueeze(-1) * self.slope)))
        return torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1), factor

    def _climbed(self) -> Tensor:
        """The mode, from x = 0; every component takes its own steps, whatever its neighbours do."""
        wide = torch.broadcast_shapes(self.mean.shape[:-1], (*self.y.shape[:-2], self.mean.shape[-2]))
        x = self.mean.new_zeros(*wide, self.mean.shape[-1])
        value = self.objective(x)
        for _ in range(STEPS):
            step, _ = self._newton(x)
            moving = step.abs().amax(-1) > TOLERANCE * (1 + x.abs().amax(-1))
            if not bool(moving.any()):
                break
            share, least = moving.to(x.dtype), value - TOLERANCE * (1 + value.abs())
            for _ in range(HALVINGS):
                low = ~(self.objective(x + share.unsqueeze(-1) * step) >= least)
                if not bool(low.any()):
                    break
                share = torch.where(low, share / 2, share)
            x = x + share.unsqueeze(-1) * step
            value = self.objective(x)
        return x

    def posterior(self) -> Gaussian:
        mean = self.mean + (self.root @ self.mode.unsqueeze(-1)).squeeze(-1)
        half = torch.linalg.solve_triangular(self.factor, self.root.mT.expand_as(self.factor), upper=False)
        return Gaussian(mean, symmetric(half.mT @ half))

    def log_evidence(self) -> Tensor:
        return self.objective(self.mode) - self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def draw(self, randomness: torch.Generator) -> tuple[Tensor, Tensor]:
        """One z per component, and log p(y, z) / q(z) of it, whose exponential has the mean p(y).

        q is a mixture of the Laplace posterior and, for `DEFENSIVE` of the draws, the prediction.
        """
        noise = torch.randn(self.mode.shape, dtype=torch.float64, generator=randomness)
        plain = torch.rand(self.mode.shape[:-1], dtype=torch.float64, generator=randomness) < DEFENSIVE
        own = torch.linalg.solve_triangular(self.factor.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
        x = torch.where(plain.unsqueeze(-1), noise, self.mode + own)
        white = (self.factor.mT @ (x - self.mode).unsqueeze(-1)).squeeze(-1)
        log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        near = math.log(1 - DEFENSIVE) - 0.5 * white.square().sum(-1) + log_det
        wide = math.log(DEFENSIVE) - 0.5 * x.square().sum(-1)
        state = self.mean + (self.root @ x.unsqueeze(-1)).squeeze(-1)
        return state, self.objective(x) - torch.logaddexp(near, wide)


def condition_on_counts(
    parts: Regimes, components: Gaussian, regimes: Tensor, y: Tensor, observed: Tensor | None
) -> tuple[Gaussian, Tensor]:
    """Condition every component on counts y (*batch, m), and the Laplace evidence of each, (*batch, M)."""
    found = Laplace(parts, components, regimes, y, observed)
    return found.posterior(), found.log_evidence()


def joint_of_counts(parts: Regimes, regimes: Tensor, z: Tensor, y: Tensor, observed: Tensor) -> Tensor:
    """log p(y given s, z), (*batch,)."""
    log_rate = (parts.emission_matrix[regimes] @ z.unsqueeze(-1)).squeeze(-1) + parts.emission_offset[regimes]
    return log_poisson(torch.where(observed, y, 0.0), log_rate, observed.to(y.dtype))


def expected_rates(parts: Regimes, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """C m + d and E exp(C z + d) in every regime, for Gaussians (T, n), each (T, K, m)."""
    matrix = parts.emission_matrix
    level = (matrix @ mean[:, None, :, None]).squeeze(-1) + parts.emission_offset
    spread = ((matrix @ cov.unsqueeze(1)) * matrix).sum(-1)
    return level, (level + spread / 2).clamp(max=LARGEST).exp()


def expected_log_poisson(parts: Regimes, mean: Tensor, cov: Tensor, y: Tensor, seen: Tensor | None) -> Tensor:
    """E log p(y_t given s_t = k, z_t), (T, K)."""
    level, rates = expected_rates(parts, mean, cov)
    terms = y.unsqueeze(-2) * level - rates - torch.lgamma(y + 1).unsqueeze(-2)
    return (terms if seen is None else torch.where(seen.unsqueeze(-2), terms, 0.0)).sum(-1)


class CountMixture(Distribution):
    """The law of counts under a mixture of Gaussians of the state, batch (*batch,), event (m,).

    `log_prob` is the Laplace evidence, as in `update`; draws and moments are those of the model.
    """

    arg_constraints: Any = {}  # type: ignore[assignment]  # noqa: RUF012
    support: Any = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, parts: Regimes, belief: Mixture, regimes: Tensor) -> None:
        self.parts, self.belief, self.regimes = parts, belief, regimes
        matrix = parts.emission_matrix
        super().__init__(belief.log_weights.shape[:-1], matrix.shape[-2:-1], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CountMixture:
        weights, (mean, cov) = self.belief.log_weights, (self.belief.components.mean, self.belief.components.cov)
        shape = (*batch_shape, weights.shape[-1])
        wide = Gaussian(mean.expand(*shape, -1), cov.expand(*shape, -1, -1))
        return CountMixture(self.parts, Mixture(weights.expand(shape), wide), self.regimes)

    def log_prob(self, value: Tensor) -> Tensor:
        _, scores = condition_on_counts(self.parts, self.belief.components, self.regimes, value, None)
        return safe_logsumexp(self.belief.log_weights + scores, -1)

    def _rates(self) -> tuple[Tensor, Tensor]:
        """E rate and E rate^2 of every component, (*batch, M, m)."""
        matrix, own = self.parts.emission_matrix[self.regimes], self.belief.components
        level = (matrix @ own.mean.unsqueeze(-1)).squeeze(-1) + self.parts.emission_offset[self.regimes]
        spread = ((matrix @ own.cov) * matrix).sum(-1)
        return (level + spread / 2).exp(), (2 * level + 2 * spread).exp()

    @property
    def mean(self) -> Tensor:
        return (self.belief.log_weights.exp().unsqueeze(-1) * self._rates()[0]).sum(-2)

    @property
    def variance(self) -> Tensor:
        square = (self.belief.log_weights.exp().unsqueeze(-1) * self._rates()[1]).sum(-2)
        return self.mean + square - self.mean.square()

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        wide = self.expand((*sample_shape, *self.batch_shape))
        chosen = Categorical(logits=wide.belief.log_weights, validate_args=False).sample()
        own = B.at(wide.belief.components, chosen)
        noise = torch.randn_like(own.mean).unsqueeze(-1)
        z = own.mean + (semidefinite.cholesky(own.cov) @ noise).squeeze(-1)
        return draw_counts(self.parts, self.regimes[chosen], z)


def draw_counts(parts: Regimes, regimes: Tensor, z: Tensor) -> Tensor:
    """y given regimes (*batch,) and states (*batch, n), by torch's global generator."""
    log_rate = (parts.emission_matrix[regimes] @ z.unsqueeze(-1)).squeeze(-1) + parts.emission_offset[regimes]
    return torch.poisson(log_rate.exp())
