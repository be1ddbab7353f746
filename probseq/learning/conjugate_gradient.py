"""Conjugate gradients on a quadratic that is known by products alone, with the iterates kept for backtracking.

    phi(x) = g' x + x' A x / 2,   A positive definite, known as v -> A v;   minimised where A x = -g
    stop at step i when  phi(x_i) < 0  and  phi(x_i) - phi(x_{i-k}) > k epsilon phi(x_i),  k = max(10, i / 10)

The test is on relative progress of phi, not on the residual: a quadratic that is itself an approximation is not worth
solving, and long before its residual is small its minimiser points the right way (Martens 2010, section 4.4).
Iterates at geometrically spaced steps are kept, since an early one may do better on the function that phi stands for.

Martens, J. (2010). Deep learning via Hessian-free optimization. ICML, sections 4.4, 4.6 and 4.7.
Nocedal, J. & Wright, S. (2006). Numerical Optimization, algorithm 5.3 (preconditioned conjugate gradients).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

#: iterates are kept at the steps ceil(1.3^j)
SPACING = 1.3


class Iterate(NamedTuple):
    """A point of the path: after how many steps, where, and phi there."""

    step: int
    point: Tensor
    value: float


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    start: Tensor,
    preconditioner: Tensor,
    *,
    max_iterations: int,
    precision: float = 5e-4,
) -> list[Iterate]:
    """Kept iterates (the last one always among them) of minimising g' x + x' A x / 2 from `start`, (n,) all.

    `preconditioner` (n,) is the positive diagonal M that stands for A; `precision` is epsilon above. phi never rises
    along the path. An empty path means that no step could be taken (gradient zero).
    """
    x = start.clone()
    residual = product(x) + gradient
    values = [0.5 * float((residual + gradient) @ x)]
    kept: list[Iterate] = []
    z = residual / preconditioner
    direction, size = -z, float(residual @ z)
    next_kept = 1.0
    for step in range(1, max_iterations + 1):
        image = product(direction)
        curve = float(direction @ image)
        if not (size > 0 and curve > 0 and math.isfinite(curve)):  # solved, or nothing left but rounding
            break
        rate = size / curve
        x = x + rate * direction
        residual = residual + rate * image
        values.append(0.5 * float((residual + gradient) @ x))
        done = _settled(values, precision) or step == max_iterations
        if done or step >= math.ceil(next_kept):
            kept.append(Iterate(step, x, values[-1]))
            next_kept *= SPACING
        if done:
            break
        z = residual / preconditioner
        size, before = float(residual @ z), size
        direction = size / before * direction - z
    if len(values) > 1 and (not kept or kept[-1].step < len(values) - 1):
        kept.append(Iterate(len(values) - 1, x, values[-1]))
    return kept


def _settled(values: list[float], precision: float) -> bool:
    """Whether the last k steps together gained less than k epsilon of all that was gained."""
    step = len(values) - 1
    back = max(10, step // 10)
    return step > back and values[-1] < 0 and values[-1] - values[-1 - back] > back * precision * values[-1]
