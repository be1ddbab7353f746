"""What every algorithm for a switching linear system is made of: branch, collapse, move, condition.

    branch     N(m_i, P_i), w_i  ->  w_ij = w_i p(j given i), and the moments of z given i and j
    collapse   many weighted Gaussians -> one with their weight, mean and covariance
    move       N(m, P) -> N(F m + b, F P F' + Q), with the matrices of the regime moved into
    condition  on the observed coordinates of y, with the emission of the regime

| symbol  | shape     |                                     |   | symbol  | shape     |                            |
|---------|-----------|-------------------------------------|---|---------|-----------|----------------------------|
| F, b, Q | (K, n, n) | z_t ~ N(F z_{t-1} + b, Q) in regime |   | C, d, R | (K, m, n) | y_t ~ N(C z_t + d, R)      |

Without recurrent weights branching leaves every Gaussian as it is. With them p(j given i, z) is a softmax of z, and
w_ij and the moments of z given (i, j) are sums over a Gauss-Hermite grid (a cubature rule where a grid is too large).

References: Bar-Shalom, Li and Kirubarajan, Estimation with Applications to Tracking and Navigation (2001), sec. 11.6;
Linderman et al. (2017), Bayesian learning and inference in recurrent switching linear dynamical systems, AISTATS.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from probseq.beliefs import Gaussian, Mixture
from probseq.models.normal import LOG_2PI, symmetric, whitener
from probseq.models.switching_counts import condition_on_counts
from probseq.ops import semidefinite
from probseq.ops.log_space import safe_logsumexp
from probseq.transitions import driven

#: most points of a Gauss-Hermite grid, and its largest order
GRID, ORDER = 250, 9


class Regimes(NamedTuple):
    """The parameters at their current values, the regimes in front."""

    log_initial: Tensor  # (K,)
    log_moves: Tensor  # (K, K)
    recurrent: Tensor | None  # (K, K, n), the effect of z_t on the log-odds of s_{t+1}
    initial_mean: Tensor  # (n,)
    initial_cov: Tensor  # (n, n)
    transition_matrix: Tensor  # (K, n, n)
    transition_offset: Tensor  # (K, n)
    transition_cov: Tensor  # (K, n, n)
    emission_matrix: Tensor  # (K, m, n)
    emission_offset: Tensor  # (K, m)
    emission_cov: Tensor  # (K, m, m), (K, 0, 0) of counts
    #: y_t ~ Poisson(exp(C z_t + d)) (`probseq.models.switching_counts`)
    counts: bool = False

    @property
    def n_regimes(self) -> int:
        return self.log_moves.shape[0]

    def rows_at(self, regimes: Tensor, states: Tensor) -> Tensor:
        """log p(s_{t+1} = j given s_t, z_t) for regimes (*batch,) and states (*batch, n), (*batch, K)."""
        if self.recurrent is None:
            return self.log_moves[regimes]
        rows = driven(self.log_moves, self.recurrent, states)
        return rows.gather(-2, regimes[..., None, None].expand(*regimes.shape, 1, self.n_regimes)).squeeze(-2)


def branch(parts: Regimes, belief: Mixture) -> Mixture:
    """The pairs (i, j) of K components by regime: weights (*batch, K, K), components with batch (*batch, K, K)."""
    mean, cov = belief.components.mean, belief.components.cov
    n = mean.shape[-1]
    if parts.recurrent is None:
        weights = belief.log_weights.unsqueeze(-1) + parts.log_moves
        wide = (*weights.shape, n)
        return Mixture(weights, Gaussian(mean.unsqueeze(-2).expand(wide), cov.unsqueeze(-3).expand(*wide, n)))
    nodes, log_shares = grid(n)
    points = mean.unsqueeze(-2) + nodes @ semidefinite.cholesky(cov).mT  # (*batch, K, point, n)
    moves = driven(parts.log_moves, parts.recurrent, points)  # (*batch, K, point, K, K)
    own = moves.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)  # (*batch, K, point, K), from the regime of the point
    shares = (own + log_shares.unsqueeze(-1)).mT  # (*batch, K, K, point)
    log_totals = safe_logsumexp(shares, -1)
    shares = (shares - torch.where(torch.isfinite(log_totals), log_totals, 0.0).unsqueeze(-1)).exp()
    shares = torch.where(torch.isfinite(log_totals).unsqueeze(-1), shares, 1 / len(nodes))
    means = shares @ points
    away = points.unsqueeze(-3) - means.unsqueeze(-2)
    covs = (shares.unsqueeze(-1) * away).mT @ away
    weights = belief.log_weights.unsqueeze(-1) + log_totals
    return Mixture(weights, Gaussian(means.expand(*weights.shape, n), symmetric(covs)))


@functools.cache
def grid(n: int) -> tuple[Tensor, Tensor]:
    """Nodes (Q, n) and log-weights (Q,) of a rule for N(0, I) with positive weights."""
    order = next((order for order in range(ORDER, 2, -2) if order**n <= GRID), 0)
    if not order:  # cubature: +- sqrt(n) along every axis
        nodes = math.sqrt(n) * torch.cat([torch.eye(n, dtype=torch.float64), -torch.eye(n, dtype=torch.float64)])
        return nodes, torch.full((2 * n,), -math.log(2 * n), dtype=torch.float64)
    line, weights = np.polynomial.hermite_e.hermegauss(order)
    nodes = torch.tensor(list(itertools.product(line, repeat=n)), dtype=torch.float64)
    shares = torch.tensor(list(itertools.product(np.log(weights / weights.sum()), repeat=n)), dtype=torch.float64)
    return nodes, shares.sum(-1)


def collapse(belief: Mixture, dim: int = -1) -> Mixture:
    """One Gaussian for all components along the batch axis `dim` of the weights, with their weight and moments.

    Where all weights are zero the components count alike.
    """
    weights, mean, cov = belief.log_weights, belief.components.mean, belief.components.cov
    dim = dim % weights.ndim
    total = safe_logsumexp(weights, dim)
    possible = torch.isfinite(total).unsqueeze(dim)
    shares = (weights - torch.where(possible, total.unsqueeze(dim), 0.0)).exp()
    shares = torch.where(possible, shares, 1 / weights.shape[dim])
    centre = (shares.unsqueeze(-1) * mean).sum(dim)
    away = mean - centre.unsqueeze(dim)
    spread = cov + away.unsqueeze(-1) * away.unsqueeze(-2)
    return Mixture(total, Gaussian(centre, (shares[..., None, None] * spread).sum(dim)))


def move(parts: Regimes, components: Gaussian, regimes: Tensor) -> Gaussian:
    """Every component (*batch, M) into its regime, an integer tensor that broadcasts to (*batch, M)."""
    matrix = parts.transition_matrix[regimes]
    mean = (matrix @ components.mean.unsqueeze(-1)).squeeze(-1) + parts.transition_offset[regimes]
    return Gaussian(mean, symmetric(matrix @ components.cov @ matrix.mT) + parts.transition_cov[regimes])


def condition(
    parts: Regimes, components: Gaussian, regimes: Tensor, y: Tensor, observed: Tensor | None
) -> tuple[Gaussian, Tensor]:
    """Condition every component on y (*batch, m), and log p(y given it), (*batch, M): Kalman's step (Joseph's form).

    Of counts by Laplace's method.
    """
    if parts.counts:
        return condition_on_counts(parts, components, regimes, y, observed)
    seen = torch.ones_like(y) if observed is None else observed.to(y.dtype)
    seen, y = seen.unsqueeze(-2), torch.where(seen > 0, y, 0.0).unsqueeze(-2)
    emission = seen.unsqueeze(-1) * parts.emission_matrix[regimes]
    noise = seen.unsqueeze(-1) * parts.emission_cov[regimes] * seen.unsqueeze(-2)
    expected = (emission @ components.mean.unsqueeze(-1)).squeeze(-1)
    innovation = seen * (y - expected - parts.emission_offset[regimes])
    cross = components.cov @ emission.mT
    factor, unit = whitener(emission @ cross + noise, seen.expand_as(innovation))
    white = torch.linalg.solve_triangular(factor, (innovation * unit).unsqueeze(-1), upper=False).squeeze(-1)
    gain = torch.cholesky_solve((cross * unit.unsqueeze(-2)).mT, factor).mT * unit.unsqueeze(-2)
    keep = torch.eye(components.mean.shape[-1], dtype=y.dtype) - gain @ emission
    cov = symmetric(keep @ components.cov @ keep.mT) + symmetric(gain @ noise @ gain.mT)
    mean = components.mean + (gain @ innovation.unsqueeze(-1)).squeeze(-1)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - (seen * unit.log()).sum(-1)
    return Gaussian(mean, cov), -0.5 * (white.square().sum(-1) + seen.sum(-1) * LOG_2PI) - log_det
