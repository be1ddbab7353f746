"""Sums of probabilities that are kept as logarithms, impossible ones too."""

from __future__ import annotations

import torch
from torch import Tensor


def safe_logsumexp(x: Tensor, dim: int) -> Tensor:
    """log sum exp with -inf for an empty sum and zero, never NaN, gradients at terms of -inf."""
    top = x.detach().amax(dim, keepdim=True)
    top = torch.where(torch.isfinite(top), top, 0.0)
    total = (x - top).exp().sum(dim)
    some = total > 0
    return torch.where(some, torch.where(some, total, 1.0).log() + top.squeeze(dim), -torch.inf)
