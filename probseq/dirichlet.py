"""Dirichlet priors on rows of probabilities.

    p(row) = Gamma(sum_j alpha_j) / prod_j Gamma(alpha_j) * prod_j row_j^(alpha_j - 1)

over the entries that are not structurally zero, alpha_j >= 1 (1 is flat). In a MAP M-step alpha_j - 1 is added to the
expected counts (Gauvain and Lee 1994, IEEE Trans. Speech and Audio Processing 2, eq. 35).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from probseq.parameters import as_parameter


def concentration(name: str, value: Any, shape: tuple[int, ...]) -> Tensor | None:
    """Concentrations of a Dirichlet prior on rows of this shape (a number stands for all), None for no prior."""
    if value is None:
        return None
    given = as_parameter(name, value)
    if tuple(given.shape) not in ((), shape):
        raise ValueError(f"{name} must be a number or have shape {shape}, got {tuple(given.shape)}")
    if bool((given < 1).any()):
        raise ValueError(f"{name} must be at least 1, where the density has a mode, got {given.min():.4g}")
    return given.expand(shape).clone()


def extra_counts(prior: Tensor | None, rows: Tensor) -> Tensor:
    """alpha - 1 at the entries that are not structurally zero: what a prior adds to expected counts."""
    return torch.zeros_like(rows) if prior is None else torch.where(rows > 0, prior - 1, 0.0)


def log_density(prior: Tensor | None, log_rows: Tensor) -> Tensor:
    """The sum over rows of log Dirichlet(row; alpha), each over its entries that are not structurally zero."""
    if prior is None:
        return log_rows.new_zeros(())
    free = log_rows > -torch.inf
    terms = (prior - 1) * torch.where(free, log_rows, 0.0) - torch.lgamma(prior)
    total = torch.where(free, prior, 0.0).sum(-1)
    return (torch.where(free, terms, 0.0).sum(-1) + torch.lgamma(total)).sum()
