"""Rao-Blackwellised particles for a switching linear system: draws of regimes, a Kalman filter along each.

    s^i ~ p(s_0 given y_0)
    for t = 1 .. T - 1:
        if 1 / sum_i (W^i)^2 < N / 2:  resample, W^i = 1 / N
        w^i = sum_j p(j given s^i) p(y_t given j, s^i_{0:t-1}, y_{0:t-1})        every regime is tried
        log p(y_t given y_<t) is estimated by log sum_i W^i w^i;   W^i <- W^i w^i / sum
        s^i <- j in proportion to its term;   the Gaussian of i moves by j and is conditioned on y_t

The states are integrated out, so that only regimes are drawn, from their optimal proposal. The product of the sums has
the mean p(y) for every N (Del Moral 2004, sec. 7.4). Where regimes depend on the state (recurrent weights) the state is
drawn too, from its Gaussian after y_t, which becomes a point; the estimate stays unbiased. So it is of counts, where
that Gaussian is Laplace's and the ratio of the joint density to it corrects the weights.

References: Doucet, Godsill and Andrieu (2000), Statistics and Computing 10, sec. IV; Doucet, Gordon and Krishnamurthy
(2001), Particle filters for state estimation of jump Markov linear systems, IEEE Trans. Signal Processing 49.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from probseq.beliefs import Gaussian, Particles
from probseq.models.switching_counts import Laplace
from probseq.models.switching_steps import Regimes, condition, move
from probseq.ops import semidefinite
from probseq.ops.log_space import safe_logsumexp
from probseq.ops.resampling import ancestors
from probseq.sequences import Sequences

#: resampled where the effective share of the particles is below this
THRESHOLD = 0.5
#: most particles that are followed at once, over repetitions and sequences
AT_ONCE = 20_000


class Cloud(NamedTuple):
    """Regimes (B, N), log-weights (B, N) and Gaussians (B, N, n) of the particles."""

    regimes: Tensor
    log_weights: Tensor
    components: Gaussian


@torch.no_grad()
def clouds(
    parts: Regimes, sequences: Sequences, n_particles: int, randomness: torch.Generator, keep: bool = True
) -> tuple[list[Cloud], Tensor]:
    """The clouds after every step (the last one alone without `keep`), and the estimate of log p(y), (B,)."""
    y, seen, n = sequences.values, sequences.observed, len(parts.initial_mean)
    total, found = torch.zeros(len(y), dtype=torch.float64), list[Cloud]()
    cloud: Cloud | None = None
    for t in range(sequences.n_steps):
        k = parts.n_regimes
        if cloud is None:
            log_moves = parts.log_initial.expand(len(y), 1, k)
            ahead = Gaussian(parts.initial_mean.expand(len(y), 1, k, n), parts.initial_cov.expand(len(y), 1, k, n, n))
            weights = torch.zeros(len(y), 1, dtype=torch.float64)
        else:
            cloud = resample(cloud, randomness)
            weights, mean, cov = cloud.log_weights, cloud.components.mean, cloud.components.cov
            log_moves = parts.rows_at(cloud.regimes, mean)
            ahead = move(parts, Gaussian(mean.unsqueeze(-2), cov.unsqueeze(-3)), torch.arange(k))
        after, densities = condition(parts, ahead, torch.arange(k), y[:, t].unsqueeze(-2), seen[:, t].unsqueeze(-2))
        terms = log_moves + densities
        own = safe_logsumexp(terms, -1)
        joint = weights + own
        step = safe_logsumexp(joint, -1)
        total = total + torch.where(sequences.inside[:, t], step, 0.0)
        first = n_particles if cloud is None else 1
        cloud = _choose(parts, joint - step.unsqueeze(-1), terms, after, first, randomness)
        if parts.counts:
            cloud, step = _corrected(parts, cloud, densities, ahead, y[:, t], seen[:, t], randomness)
            total = total + torch.where(sequences.inside[:, t], step, 0.0)
        found = [*found, cloud] if keep else [cloud]
    return found, total


def _choose(
    parts: Regimes, log_weights: Tensor, terms: Tensor, after: Gaussian, copies: int, randomness: torch.Generator
) -> Cloud:
    """Draw the regime of every particle in proportion to exp(terms) (B, N, K); of one parent `copies` particles."""
    if copies > 1:
        terms = terms.expand(-1, copies, -1)
        log_weights = log_weights.expand(-1, copies) - math.log(copies)
    uniforms = torch.rand(terms.shape[:2], dtype=torch.float64, generator=randomness)
    shares = (terms - terms.amax(-1, keepdim=True)).exp().cumsum(-1)
    regimes = (shares < uniforms.unsqueeze(-1) * shares[..., -1:]).sum(-1).clamp(max=terms.shape[-1] - 1)
    mean, cov = _of(after, regimes)
    if parts.recurrent is not None and not parts.counts:
        noise = torch.randn(mean.shape, dtype=torch.float64, generator=randomness)
        mean = mean + (semidefinite.cholesky(cov) @ noise.unsqueeze(-1)).squeeze(-1)
        cov = torch.zeros_like(cov)
    return Cloud(regimes, log_weights, Gaussian(mean, cov))


def _of(components: Gaussian, regimes: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of the component (B, N or 1, K) of each particle's regime (B, N)."""
    mean, cov = (x.expand(-1, regimes.shape[1], *x.shape[2:]) for x in (components.mean, components.cov))
    n = mean.shape[-1]
    mean = mean.gather(2, regimes[..., None, None].expand(*regimes.shape, 1, n)).squeeze(2)
    return mean, cov.gather(2, regimes[..., None, None, None].expand(*regimes.shape, 1, n, n)).squeeze(2)


def _corrected(
    parts: Regimes,
    cloud: Cloud,
    evidence: Tensor,
    ahead: Gaussian,
    y: Tensor,
    seen: Tensor,
    randomness: torch.Generator,
) -> tuple[Cloud, Tensor]:
    """Particles of counts become points, with weights for their `evidence` (B, N or 1, K) not being exact."""
    regimes = cloud.regimes
    state, ratio = Laplace(parts, Gaussian(*_of(ahead, regimes)), regimes, y, seen).draw(randomness)
    claimed = evidence.expand(-1, regimes.shape[1], -1).gather(-1, regimes.unsqueeze(-1)).squeeze(-1)
    weights = cloud.log_weights + ratio - claimed
    step = safe_logsumexp(weights, -1)
    point = Gaussian(state, state.new_zeros(*state.shape, state.shape[-1]))
    return Cloud(regimes, weights - step.unsqueeze(-1), point), step


def resample(cloud: Cloud, randomness: torch.Generator) -> Cloud:
    """Equally weighted copies where few particles carry the weight."""
    size, n = cloud.regimes.shape[1], cloud.components.mean.shape[-1]
    uniforms = torch.rand(cloud.regimes.shape, dtype=torch.float64, generator=randomness)
    low = Particles(cloud.log_weights, cloud.components.mean).effective_size < THRESHOLD * size
    if not bool(low.any()):
        return cloud
    chosen = torch.where(low.unsqueeze(-1), ancestors(cloud.log_weights.exp(), uniforms), torch.arange(size))
    mean = cloud.components.mean.gather(1, chosen.unsqueeze(-1).expand(-1, -1, n))
    cov = cloud.components.cov.gather(1, chosen[..., None, None].expand(-1, -1, n, n))
    weights = torch.where(low.unsqueeze(-1), -math.log(size), cloud.log_weights)
    return Cloud(cloud.regimes.gather(1, chosen), weights, Gaussian(mean, cov))


def repeated_log_prob(
    parts: Regimes, sequences: Sequences, n_particles: int, n_samples: int, randomness: torch.Generator
) -> Tensor:
    """`n_samples` independent estimates of log p(y) for every sequence of a flat batch, (n_samples, B)."""
    size, runs = len(sequences.lengths), list[Tensor]()
    each = max(1, AT_ONCE // max(size * n_particles, 1))
    for begin in range(0, n_samples, each):
        count = min(each, n_samples - begin)
        rows = torch.arange(size).repeat(count)
        _, total = clouds(parts, sequences.select(rows), n_particles, randomness, keep=False)
        runs.append(total.reshape(count, size))
    return torch.cat(runs)
