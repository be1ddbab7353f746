"""Rounded data: what a density says about numbers that were recorded to a resolution.

Readings in steps of `resolution` w have probabilities, and a density of them can be made as large as one likes by
narrow peaks on the grid. Two ways back, in which densities and count models meet on one scale:

    P(cell)       = F(y + w / 2) - F(y - w / 2)                       the probability itself, where F is at hand
    log P(cells)  = log E_v[ w^n p(y + v) ]  >=  E_v[ log p(y + v) ] + n log w,   v uniform on the cell   (a bound)

The second (dequantisation) needs densities only, and holds for a whole sequence. For smooth densities both come near
log p(y) + n log w.

References: Theis, van den Oord and Bethge (2016), A note on the evaluation of generative models, sec. 3.1; Heitjan
(1989), Statistical Science 4 (grouped continuous data).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from probseq.evaluation.tails import Tails, log_tails
from probseq.randomness import generator
from probseq.sequences import Sequences


def cell_log_prob(distribution: D.Distribution, y: Tensor, resolution: float | Tensor) -> Tensor:
    """log P(y - w / 2 < Y <= y + w / 2) per coordinate of rows y (*batch, D), far out in the tails too.

    Sums over the cells of a grid to 1. Raises ValueError for a law without a distribution function.
    """
    half = _positive(resolution) / 2
    lower, upper = log_tails(distribution, y - half)[0], log_tails(distribution, y + half)[0]
    return _between(lower, upper)


def dequantised(y: Any, resolution: float | Tensor, seed: int | None = None) -> Sequences:
    """The data with independent uniform noise of one cell around every observed number.

    Satisfies E[model.log_prob(dequantised(y, w))] + n log w <= log P(cells of y), n observed numbers.
    """
    data = Sequences.of(y)
    width = _positive(resolution)
    noise = torch.rand(data.values.shape, generator=generator(seed), dtype=torch.float64) - 0.5
    return data.with_values(torch.where(data.observed, data.values + width * noise, data.values))


def _positive(resolution: float | Tensor) -> Tensor:
    width = torch.as_tensor(resolution, dtype=torch.float64)
    if not bool((width > 0).all() and torch.isfinite(width).all()):
        raise ValueError(f"resolution must be positive and finite, got {resolution!r}")
    return width


def _between(lower: Tails, upper: Tails) -> Tensor:
    """log(F(b) - F(a)) from the smaller tail, where the difference does not cancel."""
    left, right = _log_difference(upper[0], lower[0]), _log_difference(lower[1], upper[1])
    return torch.where(lower[0] < upper[1], left, right)


def _log_difference(more: Tensor, less: Tensor) -> Tensor:
    gap = torch.where(more == -torch.inf, 0.0, less - more).clamp(max=0)
    return more + torch.log(-torch.expm1(gap))
