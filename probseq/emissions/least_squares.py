"""Weighted least squares with an intercept, either of which may be held."""

from __future__ import annotations

import torch
from torch import Tensor


def least_squares(
    x: Tensor, y: Tensor, w: Tensor, slopes: Tensor | None, intercept: Tensor | None, held: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """B (D, q) and c (D,) that minimise sum_n w_n |y_n - B x_n - c|^2; of the two those `held` stay.

    The shortest solution in units of each column of x where it is not unique; the old ones where all weights are 0.
    """
    mass = w.sum()
    if not bool(mass > 0) and slopes is not None and intercept is not None:
        return slopes, intercept
    share = w / mass
    if held[0] and slopes is not None and intercept is not None:
        return slopes, intercept if held[1] else share @ (y - x @ slopes.mT)
    if held[1] and intercept is not None:
        return _solve(x, y - intercept, share), intercept
    middle, level = share @ x, share @ y
    found = _solve(x - middle, y - level, share)
    return found, level - found @ middle


def _solve(x: Tensor, y: Tensor, share: Tensor) -> Tensor:
    """argmin_B sum_n share_n |y_n - B x_n|^2, (D, q), by the normal equations with a diagonal of ones."""
    heavy = x * share.unsqueeze(-1)
    gram, cross = heavy.mT @ x, heavy.mT @ y
    unit = gram.diagonal().sqrt()
    unit = torch.where(unit > 0, unit, 1.0)
    rank = 10 * len(unit) * torch.finfo(x.dtype).eps
    inverse = torch.linalg.pinv(gram / unit / unit.unsqueeze(-1), rtol=rank, hermitian=True)
    return (inverse @ (cross / unit.unsqueeze(-1)) / unit.unsqueeze(-1)).mT
