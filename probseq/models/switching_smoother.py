"""Smoothing and decoding of a switching linear system, backwards through the filter's mixtures.

Kim's smoother. With the pairs (i, j) of the filtered mixture at t, their predicted moments at t + 1 and the smoothed
mixture there,

    p(s_t = i, s_{t+1} = j given y) ~ p(s_{t+1} = j given y) p(s_t = i given s_{t+1} = j, y_{0:t})
    G = P_ij F_j' P_j^-1,   m_ij + G (smoothed m_j - predicted m_ij),
    (I - G F_j) P_ij (I - G F_j)' + G (Q_j + smoothed P_j) G'

and the pairs that begin in i are collapsed (Kim 1994, eq. 2.20' - 2.25; Murphy 1998, sec. 4.2). The approximation is in
the first line and in the collapses; with one regime it is the Rauch-Tung-Striebel smoother.

Decoding keeps for every regime j the best predecessor and its Gaussian, a Viterbi recursion whose scores forget the
Gaussians of the paths that were dropped (Pavlovic, Rehg and MacCormick 2000).
"""

from __future__ import annotations

import torch
from torch import Tensor

from probseq import beliefs as B
from probseq.beliefs import Gaussian, Mixture
from probseq.models.normal import symmetric
from probseq.models.switching_steps import Regimes, branch, collapse, condition, move
from probseq.ops import semidefinite
from probseq.sequences import Sequences


def smooth(parts: Regimes, updated: Mixture, sequences: Sequences) -> Mixture:
    """p(s_t, z_t given y) for a flat batch, one component per regime."""
    if sequences.n_steps == 0:
        return updated
    smoothed = [B.at(updated, -1)]
    for t in reversed(range(sequences.n_steps - 1)):
        own = B.at(updated, t)
        smoothed.append(B.where(sequences.inside[:, t + 1], back(parts, own, smoothed[-1]), own))
    return B.stack(smoothed[::-1])


def back(parts: Regimes, own: Mixture, coming: Mixture) -> Mixture:
    """The smoothed mixture at t from the filtered one there and the smoothed one at t + 1."""
    pairs, regimes = branch(parts, own), torch.arange(parts.count)
    ahead = move(parts, pairs.components, regimes)
    from_where = pairs.log_weights.log_softmax(-2)  # p(s_t = i given s_{t+1} = j, y_{0:t})
    possible = torch.isfinite(from_where).any(-2, keepdim=True)
    from_where = torch.where(possible, from_where, -torch.inf)
    weights = coming.log_weights.unsqueeze(-2) + from_where
    goal = Gaussian(coming.components.mean.unsqueeze(-3), coming.components.cov.unsqueeze(-4))
    moved = regress(parts, pairs.components, ahead, goal, regimes)
    result = collapse(Mixture(weights, moved), -1)
    return Mixture(result.log_weights.log_softmax(-1), result.components)


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
    y, seen, size, k = sequences.values, sequences.observed, len(sequences.lengths), parts.count
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
