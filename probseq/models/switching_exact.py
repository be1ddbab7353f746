"""The exact likelihood of a short sequence: all regime paths, a Kalman filter along each, nothing collapsed.

log p(y) = log sum_{s_0 .. s_{T-1}} p(s) N(y given s),      K^T terms
"""

from __future__ import annotations

import torch
from torch import Tensor

from probseq.beliefs import Gaussian
from probseq.models.switching_steps import Regimes, condition, move
from probseq.ops.log_space import safe_logsumexp
from probseq.sequences import Sequences

#: most regime paths that are followed
MOST_PATHS = 2**20


def enumerated_log_prob(parts: Regimes, sequences: Sequences) -> Tensor:
    """log p(y) of a flat batch, (B,), exactly. ValueError for too many paths, recurrent weights, counts."""
    k, steps = parts.n_regimes, int(sequences.lengths.max()) if len(sequences.lengths) else 0
    if parts.recurrent is not None:
        raise ValueError('kind="enumeration" is for regimes that do not depend on the state; use kind="particle"')
    if parts.counts:
        raise ValueError('kind="enumeration" is for emission="gaussian"; use kind="particle"')
    if k**steps > MOST_PATHS:
        raise ValueError(f"y must have at most {MOST_PATHS} regime paths to enumerate, got {k} ** {steps}")
    totals = [_one(parts, sequences, b) for b in range(len(sequences.lengths))]
    return torch.stack(totals) if totals else torch.zeros(0, dtype=torch.float64)


def _one(parts: Regimes, sequences: Sequences, b: int) -> Tensor:
    k, n, length = parts.n_regimes, len(parts.initial_mean), int(sequences.lengths[b])
    weights, regimes = parts.log_initial, torch.arange(k)
    belief = Gaussian(parts.initial_mean.expand(k, n), parts.initial_cov.expand(k, n, n))
    for t in range(length):
        if t:
            weights = (weights.unsqueeze(-1) + parts.log_moves[regimes]).flatten()
            mean, cov = belief.mean.repeat_interleave(k, 0), belief.cov.repeat_interleave(k, 0)
            regimes = torch.arange(k).repeat(len(regimes))
            belief = move(parts, Gaussian(mean, cov), regimes)
        belief, scores = condition(parts, belief, regimes, sequences.values[b, t], sequences.observed[b, t])
        weights = weights + scores
    return safe_logsumexp(weights, -1)
