"""Smoothing and decoding of a switching linear system, backwards through the filter's mixtures.

With the pairs (i, j) of the filtered mixture at t, their predicted moments at t + 1 and the smoothed mixture there,

    p(s_t = i, s_{t+1} = j given y) = p(s_{t+1} = j given y) p(s_t = i given s_{t+1} = j, y)
    G = P_ij F_j' P^-1,   m_ij + G (coming m_ij - predicted m_ij),
    (I - G F_j) P_ij (I - G F_j)' + G (Q_j + coming P_ij) G'

and the pairs that begin in i are collapsed. The rules differ in the last factor of the first line and in what comes:

| smoothing                | p(s_t = i given s_{t+1} = j, y)                       | coming                    |
|--------------------------|-------------------------------------------------------|---------------------------|
| "kim"                    | that given y_{0:t}                                    | the smoothed moments of j |
| "expectation_correction" | that given z_{t+1}, y_{0:t}, on average over z_{t+1}  | their moments given i too |

The second (Barber 2006) takes the mean over a grid of points. With one regime both are Rauch, Tung and Striebel's.

Decoding keeps for every regime j the best predecessor and its Gaussian, a Viterbi recursion whose scores forget the
Gaussians of the paths that were dropped (Pavlovic, Rehg and MacCormick 2000).

References: Kim (1994), Dynamic linear models with Markov-switching, J. Econometrics 60, eq. 2.20' - 2.25; Barber
(2006), Expectation correction for smoothed inference in switching linear dynamical systems, JMLR 7, sec. 3.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from probseq import beliefs as B
from probseq.beliefs import Gaussian, Mixture
from probseq.errors import SingularInnovation
from probseq.models.normal import symmetric, whitener
from probseq.models.switching_steps import Regimes, branch, collapse, condition, grid, move
from probseq.ops import semidefinite
from probseq.sequences import Sequences

Smoothing = Literal["expectation_correction", "kim"]


def smooth(parts: Regimes, updated: Mixture, sequences: Sequences, smoothing: Smoothing) -> Mixture:
    """p(s_t, z_t given y) for a flat batch, one component per regime."""
    if sequences.n_steps == 0:
        return updated
    smoothed = [B.at(updated, -1)]
    for t in reversed(range(sequences.n_steps - 1)):
        own = B.at(updated, t)
        smoothed.append(B.where(sequences.inside[:, t + 1], back(parts, own, smoothed[-1], smoothing), own))
    return B.stack(smoothed[::-1])


def back(parts: Regimes, own: Mixture, coming: Mixture, smoothing: Smoothing) -> Mixture:
    """The smoothed mixture at t from the filtered one there and the smoothed one at t + 1."""
    pairs, regimes = branch(parts, own), torch.arange(parts.n_regimes)
    ahead = move(parts, pairs.components, regimes)
    from_where = pairs.log_weights.log_softmax(-2)  # p(s_t = i given s_{t+1} = j, y_{0:t})
    possible = torch.isfinite(from_where).any(-2, keepdim=True)
    from_where = torch.where(possible, from_where, -torch.inf)
    goal = Gaussian(coming.components.mean.unsqueeze(-3), coming.components.cov.unsqueeze(-4))
    if smoothing == "expectation_correction":
        from_where, goal = _corrected(from_where, ahead, coming.components)
    weights = coming.log_weights.unsqueeze(-2) + from_where
    moved = regress(parts, pairs.components, ahead, goal, regimes)
    result = collapse(Mixture(weights, moved), -1)
    return Mixture(result.log_weights.log_softmax(-1), result.components)


def _corrected(log_shares: Tensor, ahead: Gaussian, coming: Gaussian) -> tuple[Tensor, Gaussian]:
    """log p(i given j, y) (*batch, K, K) and the moments of z_{t+1} given i, j and y.

    The shares as they are where the predicted covariances are singular, so that z_{t+1} has no density.
    """
    nodes, log_mass = grid(coming.mean.shape[-1])
    points = coming.mean.unsqueeze(-2) + nodes @ semidefinite.cholesky(coming.cov).mT  # (*batch, j, point, n)
    away = points.unsqueeze(-4) - ahead.mean.unsqueeze(-2)  # (*batch, i, j, point, n)
    try:
        factor, unit = whitener(ahead.cov, torch.ones_like(ahead.mean))
    except SingularInnovation:
        return log_shares, Gaussian(coming.mean.unsqueeze(-3), coming.cov.unsqueeze(-4))
    white = torch.linalg.solve_triangular(factor, (away * unit.unsqueeze(-2)).mT, upper=False)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - unit.log().sum(-1)
    table = log_shares.unsqueeze(-1) - 0.5 * white.square().sum(-2) - log_det.unsqueeze(-1)
    top = table.amax(-3, keepdim=True)
    possible = torch.isfinite(top)
    given = torch.where(possible, table - torch.where(possible, top, 0.0), -torch.inf).log_softmax(-3)
    joint = torch.where(possible, given, -torch.inf) + log_mass
    total = torch.logsumexp(joint, -1)
    seen = torch.isfinite(total).unsqueeze(-1)
    shares = torch.where(seen, (joint - torch.where(seen, total.unsqueeze(-1), 0.0)).exp(), log_mass.exp())
    mean = (shares.unsqueeze(-2) @ points.unsqueeze(-4)).squeeze(-2)
    spread = points.unsqueeze(-4) - mean.unsqueeze(-2)
    return total, Gaussian(mean, symmetric((shares.unsqueeze(-1) * spread).mT @ spread))


def regress(parts: Regimes, before: Gaussian, ahead: Gaussian, goal: Gaussian, regimes: Tensor) -> Gaussian:
    """N(m, P) at t given that the state at t + 1, predicted as `ahead`, is distributed as `goal`."""
    matrix = parts.transition_matrix[regimes]
    gain = semidefinite.solve(ahead.cov, matrix @ before.cov).mT
    mean = before.mean + (gain @ (goal.mean - ahead.mean).unsqueeze(-1)).squeeze(-1)
    keep = torch.eye(matrix.shape[-1], dtype=matrix.dtype) - gain @ matrix
    noise = parts.transition_cov[regimes] + goal.cov
    return Gaussian(mean, symmetric(keep @ before.cov @ keep.mT) + symmetric(gain @ noise @ gain.mT))


def viterbi(parts: Regimes, sequences: Sequences) -> Tensor:
    """The regimes of a path that is the most probable as far as every regime keeps one Gaussian, (B, T)."""
    y, seen, size, k = sequences.values, sequences.observed, len(sequences.lengths), parts.n_regimes
    n, regimes = len(parts.initial_mean), torch.arange(k)
    scores, origins, tables = parts.log_initial.expand(size, k), [], []
    start = Gaussian(parts.initial_mean.expand(size, k, n), parts.initial_cov.expand(size, k, n, n))
    belief, densities = condition(parts, start, regimes, y[:, 0], seen[:, 0])
    scores = scores + densities
    tables.append(scores)
    for t in range(1, sequences.n_steps):
        pairs = branch(parts, Mixture(scores, belief))
        ahead, densities = condition(
            parts, _rows(move(parts, pairs.components, regimes)), regimes.repeat(k), y[:, t], seen[:, t]
        )
        best, origin = (pairs.log_weights + densities.unflatten(-1, (k, k))).max(-2)
        where = origin * k + regimes
        belief = Gaussian(
            ahead.mean.gather(1, where.unsqueeze(-1).expand(-1, -1, n)),
            ahead.cov.gather(1, where[..., None, None].expand(-1, -1, n, n)),
        )
        scores = torch.where(sequences.inside[:, t].unsqueeze(-1), best, scores)
        origins.append(origin)
        tables.append(scores)
    path = [scores.argmax(-1)]
    for t in reversed(range(1, sequences.n_steps)):
        earlier = origins[t - 1].gather(-1, path[-1].unsqueeze(-1)).squeeze(-1)
        path.append(torch.where(sequences.inside[:, t], earlier, path[-1]))
    return torch.stack(path[::-1], -1)


def _rows(pairs: Gaussian) -> Gaussian:
    return Gaussian(pairs.mean.flatten(-3, -2), pairs.cov.flatten(-4, -3))
