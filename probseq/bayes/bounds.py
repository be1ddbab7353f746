"""Bounds on log p(y) by draws from a guide q(z | y).

    ELBO  = E_q [sum_t log p(y_t | z, y_<t)] - sum_t E_q KL(q(z_t | ...) || p(z_t | ...))     <= log p(y)
    log w = sum_t log p(y_t | z, y_<t) + log p(z_t | ...) - log q(z_t | ...),   z ~ q;        E[w] = p(y)
    log mean of K draws of w:   below log p(y) on average, and nearer for every K

A `Pass` is one draw of all states of a batch. KL is in closed form between Gaussians, by the draw itself with flows.
Where q is the posterior w does not vary: log w = log p(y) for every draw.

Burda, Y., Grosse, R. & Salakhutdinov, R. (2016). Importance weighted autoencoders. ICLR, arXiv:1509.00519, eq. 8 to 10.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from probseq.bayes.guides import Path
from probseq.bayes.networks import Law


class Pass(NamedTuple):
    """A draw from the guide, the prior law of every state given those before it, and what the head then reads."""

    path: Path
    prior: Law
    features: Tensor


def normal(law: Law) -> Normal:
    """The law as torch's distribution over single coordinates."""
    return Normal(law.mean, law.scale, validate_args=False)


def log_density(law: Law, z: Tensor) -> Tensor:
    """log N(z), (*batch,), float64."""
    return normal(law).log_prob(z).sum(-1).to(torch.float64)


def divergence(drawn: Pass) -> Tensor:
    """KL(q(z_t | ...) || p(z_t | ...)) of every step, (B, T); with flows an unbiased estimate of it."""
    if drawn.path.stretch is None:
        return kl_divergence(normal(drawn.path.law), normal(drawn.prior)).sum(-1).to(torch.float64)
    return log_ratio(drawn)


def log_ratio(drawn: Pass) -> Tensor:
    """log q(z_t | ...) - log p(z_t | ...) at the draw, (B, T)."""
    path = drawn.path
    ratio = log_density(path.law, path.drawn) - log_density(drawn.prior, path.states)
    return ratio if path.stretch is None else ratio - path.stretch


def log_mean(runs: Tensor) -> tuple[Tensor, Tensor]:
    """The log of the mean of exp(runs) over the first axis, and the standard error of that log to first order."""
    n = len(runs)
    value = torch.logsumexp(runs, 0) - math.log(n)
    spread = (runs - value).exp().std(0) if n > 1 else torch.full_like(value, torch.nan)
    return value, spread / math.sqrt(n)


def mean(runs: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of runs over the first axis, and its standard error."""
    spread = runs.std(0) if len(runs) > 1 else torch.full_like(runs[0], torch.nan)
    return runs.mean(0), spread / math.sqrt(len(runs))
