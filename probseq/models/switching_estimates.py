"""The likelihood of a switching linear system without collapsing: exact for short sequences, unbiased for long ones."""

from __future__ import annotations

import math

import torch

from probseq.checks import whole_number
from probseq.models.particle_filter import Estimate
from probseq.models.switching_exact import enumerated_log_prob
from probseq.models.switching_particles import repeated_log_prob
from probseq.models.switching_steps import Regimes
from probseq.randomness import generator
from probseq.sequences import Sequences


def estimated(
    parts: Regimes, flat: Sequences, kind: str, n_samples: int, n_particles: int, seed: int | None
) -> Estimate:
    """log p(y) of a flat batch by Rao-Blackwellised particles or by enumeration of regime paths."""
    if kind == "enumeration":
        value = enumerated_log_prob(parts, flat)
        return Estimate(value, kind, torch.zeros_like(value))
    if kind != "particle":
        raise ValueError(f'kind must be "particle" or "enumeration", got {kind!r}')
    n_samples, n_particles = whole_number("n_samples", n_samples), whole_number("n_particles", n_particles)
    runs = repeated_log_prob(parts, flat, n_particles, n_samples, generator(seed))
    value = torch.logsumexp(runs, 0) - math.log(n_samples)
    spread = (runs - value).exp().std(0) if n_samples > 1 else torch.full_like(value, torch.nan)
    return Estimate(value, kind, spread / math.sqrt(n_samples))
