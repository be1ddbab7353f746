"""Functions that keep their digits where the textbook formula cancels, and a root by bisection.

    log_rising(x, a)   log Gamma(x + a) - log Gamma(x), Stirling's series (Abramowitz and Stegun 6.1.40) for large x
    climb(...)         the zero of a decreasing derivative, bracketed first

A lgamma difference loses log10(x) digits: with x = 1e10, as in a nearly Poisson negative binomial, all that matter.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Bernoulli numbers over 2 n (2 n - 1): the coefficients of x^-1, x^-3, ... in Stirling's series
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
#: from here on the series is exact to double precision
LARGE = 16.0


def log_rising(x: Tensor, a: Tensor) -> Tensor:
    """log Gamma(x + a) - log Gamma(x) for x > 0 and a >= 0, broadcast."""
    x, a = torch.broadcast_tensors(x, a)
    large = x >= LARGE
    some = torch.where(large, x, LARGE)
    series = a * some.log() + (some + a - 0.5) * torch.log1p(a / some) - a + _stirling(some + a) - _stirling(some)
    few = torch.where(large, 1.0, x)
    return torch.where(large, series, torch.lgamma(few + a) - torch.lgamma(few))


def _stirling(x: Tensor) -> Tensor:
    """log Gamma(x) - ((x - 1/2) log x - x + log(2 pi) / 2)."""
    inverse, total = 1 / x, torch.zeros_like(x)
    for coefficient in reversed(STIRLING):
        total = total * inverse.square() + coefficient
    return total * inverse


def climb(
    slope: Callable[[Tensor], Tensor], start: Tensor, lowest: Tensor, highest: Tensor, n_halvings: int = 52
) -> Tensor:
    """x in [lowest, highest], elementwise, where `slope` changes from positive to negative; an end if it never does.

    The bracket widens from `start` by doubling steps.
    """
    inner = torch.maximum(torch.minimum(start, highest), lowest)
    rising = slope(inner) > 0
    step = torch.where(rising, 1.0, -1.0).to(start.dtype)
    while True:
        outer = torch.maximum(torch.minimum(inner + step, highest), lowest)
        further = ((slope(outer) > 0) == rising) & (outer > lowest) & (outer < highest)
        if not bool(further.any()):
            break
        inner, step = torch.where(further, outer, inner), torch.where(further, 2 * step, step)
    low, high = torch.minimum(inner, outer), torch.maximum(inner, outer)
    for _ in range(n_halvings):
        middle = (low + high) / 2
        below = slope(middle) > 0
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def slope_of(value: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The derivative of a function that acts elementwise on its argument."""

    def slope(x: Tensor) -> Tensor:
        with torch.enable_grad():
            tracked = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(value(tracked).sum(), tracked)
        return gradient

    return slope
