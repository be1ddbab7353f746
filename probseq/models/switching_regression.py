"""The M-step of a Poisson emission: a regression of counts on states that are known as Gaussians.

    maximise over c, d    sum_t w_t [y_t (c m_t + d) - exp(c m_t + d + c P_t c' / 2)]

for every coordinate on its own, w_t = q(s_t in the group of regimes that share c and d). It is concave, with

    gradient  sum_t w_t [y_t (m_t, 1) - r_t v_t],    v_t = (m_t + P_t c', 1),    r_t the exponential
    Hessian  -sum_t w_t r_t [v_t v_t' + diag(P_t, 0)]

so that Newton's steps, halved until the sum does not fall, find the maximum; no step lowers it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from probseq.models.states import NO_MASS
from probseq.models.switching_counts import LARGEST

if TYPE_CHECKING:
    from probseq.models.switching import SwitchingLDS

#: most Newton steps, halvings of one, and the gradient per unit of weight that ends them
STEPS, HALVINGS, TOLERANCE = 30, 30, 1e-10


def maximise_counts(model: SwitchingLDS, y: Tensor, seen: Tensor, means: Tensor, covs: Tensor, weights: Tensor) -> None:
    """Set emission_matrices and emission_offsets, what of them is free, from rows (N, m) and Gaussians (N, n)."""
    matrices, offsets = model.emission_matrices.clone(), model.emission_offsets.clone()
    free = torch.ones(model.state_dim + 1, dtype=torch.float64)
    free[:-1] = 0.0 if model.is_frozen("emission_matrices") else 1.0
    free[-1] = 0.0 if model.is_frozen("emission_offsets") else 1.0
    groups = [list(range(model.n_regimes))] if model.shared_emission else [[k] for k in range(model.n_regimes)]
    for group in groups:
        own = weights[:, group].sum(-1)
        for i in range(model.obs_dim):
            share = own * seen[:, i]
            if float(share.sum()) >= NO_MASS and bool(free.any()):
                start = torch.cat([matrices[group[0], i], offsets[group[0], i : i + 1]])
                best = regressed(start, y[:, i], means, covs, share, free)
                matrices[group, i], offsets[group, i] = best[:-1], best[-1]
    model.assign(emission_matrices=matrices, emission_offsets=offsets)


def regressed(start: Tensor, y: Tensor, means: Tensor, covs: Tensor, weights: Tensor, free: Tensor) -> Tensor:
    """(c, d) of one coordinate, from `start` (n + 1,); what is not `free` stays."""
    now, total = start, weights.sum()
    value = _value(now, y, means, covs, weights)
    for _ in range(STEPS):
        slope, curvature = _derivatives(now, y, means, covs, weights)
        slope = slope * free
        if float(slope.abs().max()) <= TOLERANCE * float(total):
            break
        curvature = free.unsqueeze(-1) * curvature * free + torch.diag(1 - free) * curvature.diagonal().max()
        ridge = 1e-12 * curvature.diagonal().max() * torch.eye(len(now), dtype=now.dtype)
        step = torch.linalg.solve(curvature + ridge, slope)
        for halving in range(HALVINGS):
            tried = now + 0.5**halving * step
            found = _value(tried, y, means, covs, weights)
            if bool(found > value):
                now, value = tried, found
                break
        else:
            break
    return now


def _log_rates(now: Tensor, means: Tensor, covs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c m + d, the logarithm of the expected rate, and P c'."""
    level, reach = means @ now[:-1] + now[-1], covs @ now[:-1]
    return level, (level + reach @ now[:-1] / 2).clamp(max=LARGEST), reach


def _value(now: Tensor, y: Tensor, means: Tensor, covs: Tensor, weights: Tensor) -> Tensor:
    level, log_rate, _ = _log_rates(now, means, covs)
    return (weights * (y * level - log_rate.exp())).sum()


def _derivatives(now: Tensor, y: Tensor, means: Tensor, covs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient (n + 1,), and minus the Hessian."""
    _, log_rate, reach = _log_rates(now, means, covs)
    one, rate = torch.ones(len(y), 1, dtype=y.dtype), weights * log_rate.exp()
    plain, moved = torch.cat([means, one], -1), torch.cat([means + reach, one], -1)
    spread = torch.nn.functional.pad(torch.einsum("t,tij->ij", rate, covs), (0, 1, 0, 1))
    return (weights * y) @ plain - rate @ moved, (rate.unsqueeze(-1) * moved).mT @ moved + spread
