"""One series of few states with independent sensors: its likelihood and its gradient in one call of a kernel.

For a short series what `kalman_arrays` and `kalman_gradient` decide, and the workspaces of forms that do not come up
here, take longer than the recursions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from probseq.ops.kalman_arrays import HEAD, KNOWN_STATES
from probseq.ops.kalman_workspace import Inputs, kernels


def value_and_gradient(inputs: Inputs) -> tuple[Any, Any] | None:
    """log p(y) (1,), and its gradient in the parameters and y, one after another (see `part`).

    None where it does not serve: a proper start, for which the kernels are called one by one (this one takes long to
    compile, and saves less there), more states or sensors, correlated ones, parameters that vary in time, a diffuse
    start that is not over soon, or an update that may lose digits.
    """
    parameters, (y, pattern, lengths) = inputs.parameters, inputs.data
    n, m = parameters[2].shape[-1], y.shape[-1]
    _, _, a, q, d, c, r = parameters
    if inputs.diffuse is None or max(n, m) > KNOWN_STATES or {len(a), len(q), d.shape[1], len(c), len(r)} != {1}:
        return None
    begin = HEAD if pattern.shape[1] else min(HEAD, n + 1)  # complete readings resolve n elements in n steps
    if lengths[0] <= begin + 1:
        return None
    log_prob, gradient = np.zeros(1), np.zeros(n * (2 + 3 * n + m) + m * (m + y.shape[1]))
    served = kernels("kalman_single").value_and_gradient(
        (0,) * n, (0,) * m, begin, *parameters, y, pattern, lengths, inputs.diffuse, log_prob, gradient
    )
    return (log_prob, gradient) if served else None


def part(gradient: Any, place: int, n: int, m: int) -> Any:
    """Of the gradient that in the parameter at a place, in the order of `LinearGaussianSystem`, or in y."""
    sizes = n, n * n, n * n, n * n, n, m * n, m * m
    begin = sum(sizes[:place])
    return gradient[begin : begin + sizes[place]] if place < 7 else gradient[begin:]
