"""Where a regression in every state starts: the best of a few mixtures of regressions after some steps of EM.

They begin from clusters of (y, x), from clusters of the residuals of one regression for all, and from blocks in time
whose states are drawn (DeSarbo and Cron 1988, J. Classification 5, for mixtures of regressions).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from probseq.emissions.base import cluster
from probseq.emissions.least_squares import least_squares
from probseq.errors import DegenerateWarning, each_once
from probseq.randomness import generator

if TYPE_CHECKING:
    from probseq.emissions.regression import Regression

#: EM steps of a start, and how much of its partition is believed at first
STEPS, SHARPNESS = 5, 0.9
#: what is added to the covariance of one regression for all, relative to the data
FLOOR = 1e-8


def start_mixture(emission: Regression, values: Tensor, observed: Tensor, x: Tensor, seed: int) -> None:
    """Set slopes, intercepts and covariances from rows (N, D) and x (N, q)."""
    k = emission.n_states
    mean = (values * observed).sum(0) / observed.sum(0).clamp(min=1)
    filled = torch.where(observed, values, mean)
    slopes, intercepts = least_squares(x, filled, filled.new_ones(len(filled)), None, None, (False, False))
    residual = filled - x @ slopes.mT - intercepts
    spread = (filled - mean).square().mean(0)
    cov = residual.mT @ residual / len(filled) + FLOOR * torch.diag(torch.where(spread > 0, spread, 1.0))
    begun = (slopes.expand(k, -1, -1), intercepts.expand(k, -1), typed(emission, cov))
    everywhere = torch.ones_like(observed)
    partitions = [blocks(len(filled), k, seed)]
    if k > 1:
        both = torch.cat([filled, x], -1)
        partitions += [
            cluster(standard(both), torch.ones_like(both, dtype=torch.bool), k, seed),
            cluster(standard(residual), everywhere, k, seed),
        ]
    best, most = None, -torch.inf
    with each_once(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        for partition in partitions:
            weights = SHARPNESS * partition + (1 - SHARPNESS) / k
            score = mix(emission, values, observed, x, weights, begun)
            if best is None or score > most:
                best, most = emission.snapshot(), score
    assert best is not None
    emission.restore(best)


def mix(emission: Regression, values: Tensor, observed: Tensor, x: Tensor, weights: Tensor, begun: Any) -> float:
    """EM of a mixture of regressions from responsibilities (N, K); its log-likelihood."""
    emission.assign_slopes(begun[0])
    emission.assign(intercepts=begun[1], covs=begun[2])
    score = torch.tensor(-torch.inf)
    for _ in range(STEPS):
        emission.maximise(values, observed, weights, x)
        joint = emission.log_prob(values, observed, x) + weights.mean(0).log()
        score = joint.logsumexp(-1, keepdim=True)
        weights = (joint - score).exp()
    return float(score.sum())


def typed(emission: Regression, cov: Tensor) -> Tensor:
    """One covariance for all states, of the type wanted, (K, D, D)."""
    if emission.is_diagonal:
        variances = cov.diagonal()
        cov = torch.diag(variances.mean().expand_as(variances) if emission.covariance == "spherical" else variances)
    return cov.expand(emission.n_states, emission.dim, emission.dim)


def standard(columns: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1, constant ones 0."""
    away = columns - columns.mean(0)
    spread = away.square().mean(0).sqrt()
    return away / torch.where(spread > 0, spread, 1.0)


def blocks(n_rows: int, n_states: int, seed: int) -> Tensor:
    """Responsibilities (N, K) of rows in time order, cut into blocks whose states are drawn."""
    n_blocks = min(4 * n_states, max(n_rows, 1))
    drawn = torch.randperm(n_blocks, generator=generator(seed)) % n_states
    place = torch.arange(n_rows) * n_blocks // max(n_rows, 1)
    return torch.nn.functional.one_hot(drawn[place], n_states).to(torch.float64)
