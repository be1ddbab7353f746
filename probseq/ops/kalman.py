"""The Kalman filter and smoother as torch functions.

    z_0 ~ N(initial_mean, initial_cov)                                       before y_0 is seen; z_0 emits y_0
    for t = 0 .. length - 1:
        y_t = emission_matrix[t] z_t + v_t,                                  v_t ~ N(0, emission_cov[t])
        z_{t+1} = transition_matrix[t+1] z_t + transition_offset[t+1] + w_{t+1},   w_{t+1} ~ N(0, transition_cov[t+1])

    quantity                                    function        gradient
    log p(y_0, ..., y_{length-1})               log_prob        exact, by the smoothing recursion; first order only
    the same and its gradient, without torch    value_and_gradient
    p(z_t | y_<t), p(z_t | y_<=t)               filter          none
    p(z_t | y), Cov(z_{t+1}, z_t | y)           smooth          none
    draws from p(z_0, ..., z_{length-1} | y)    sample_paths    none

    data        shape        meaning
    y           (B, T, m)    an entry that is not observed, or at t >= length, may hold anything, NaN too
    observed    (B, T, m)    boolean, or None where every entry below `lengths` is observed
    lengths     (B,)         int64, 0 <= length <= T; a length of 0 has log-probability 0

An exact diffuse start is z_0 = N(initial_mean, initial_cov) + diffuse delta, `diffuse` (1 or B, n, d), with a delta of
infinite variance: log_prob is the limit of log p(y) + 1/2 (diffuse elements that y resolves) log variance.  The moments
then have a diffuse part, its covariance over that of delta, which becomes exactly zero when y has resolved it.
`numerics` is "joseph"; "square_root", which keeps roots of covariances, for ill-conditioned problems; or "auto", which
goes over to the second when a step of the first loses half its digits (`ill_conditioned` in the kernel).

Missing entries are left out exactly: they add 0 to the log-density, and a step without any only predicts.  Singular
initial, transition and emission covariances are legal as long as the *innovation* covariance of every observed row is
not singular; `SingularInnovation` tells where it is.  Beyond the end of a sequence `filter`, `smooth` and
`sample_paths` repeat the last step (the initial belief for an empty one), lag-one covariances are 0 there.

The compiled recursions stand in `kernels/kalman*.py`, with their references; the simulation smoother is Durbin and
Koopman's mean correction (Biometrika 89 (2002) 603-615). `kalman_system` checks the parameters, `kalman_arrays` calls
the kernels, `kalman_given` smooths on square roots, and `kalman_operators` joins value and gradient to torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.ops import kalman_arrays as arrays
from probseq.ops import kalman_packs as packs
from probseq.ops import kalman_workspace as memory
from probseq.ops.kalman_gradient import Pull, value_and_pull
from probseq.ops.kalman_moments import (
    FilteredMoments,
    SmoothedMoments,
    filter,
    sample_paths,
    semidefinite_root,
    smooth,
)
from probseq.ops.kalman_operators import differentiable
from probseq.ops.kalman_system import LinearGaussianSystem, check, lead_of_pattern, shared_lead
from probseq.ops.modes import array_of, derivatives_wanted, untracked

__all__ = [
    "FilteredMoments",
    "LinearGaussianSystem",
    "SmoothedMoments",
    "filter",
    "inputs_of_arrays",
    "log_prob",
    "log_prob_of_arrays",
    "sample_paths",
    "semidefinite_root",
    "smooth",
    "value_and_gradient",
    "value_and_pull_of_arrays",
]


def log_prob(
    system: LinearGaussianSystem,
    y: Tensor,
    observed: Tensor | None,
    lengths: Tensor,
    diffuse: Tensor | None = None,
    numerics: str = "auto",
) -> Tensor:
    """log p(y) of every sequence, (B,); equals filter(...).log_prob.sum(-1).  Differentiable once, in the system and y.

    Raises SingularInnovation or StateOverflow with the sequence and step; forward-mode differentiation raises.
    """
    check(system, y, observed, lengths, diffuse)
    lead = shared_lead(system, observed, lengths, diffuse)
    if untracked(*system, y):
        inputs = memory.Inputs.of(system, y, observed, lengths, diffuse)
        packed = "value" if packs.applicable(inputs, lead) else None
        return torch.from_numpy(arrays.run_forward(inputs, lead, numerics, keep=False, packed=packed).log_prob)
    packed = _packed(system, y, observed, lengths, diffuse, lead, derivatives_wanted(*system, y))
    return differentiable(*system, y, observed, lengths, lead, diffuse, numerics, packed)[0]


def inputs_of_arrays(
    parameters: list[Any], y: Any, observed: Tensor | None, lengths: Tensor, diffuse: Any
) -> memory.Inputs:
    """A problem whose parameters are arrays already, of the shapes of `LinearGaussianSystem`, and shared by all."""
    full = memory.with_every_axis(parameters)
    if len(full[0]) != len(y):
        full[0] = np.repeat(full[0], len(y), 0)
    return memory.Inputs(full, y, memory.pattern_of(observed, y.shape[2]), array_of(lengths), diffuse)


def _lead_of(inputs: memory.Inputs) -> int:
    if len(inputs.y) == 1:
        return 0
    pattern = inputs.pattern
    return lead_of_pattern(torch.from_numpy(inputs.lengths), torch.from_numpy(pattern) if pattern.shape[1] else None)


def log_prob_of_arrays(inputs: memory.Inputs, numerics: str) -> Tensor:
    """`log_prob` of such a problem, outside autograd."""
    lead = _lead_of(inputs)
    packed = "value" if packs.applicable(inputs, lead) else None
    return torch.from_numpy(arrays.run_forward(inputs, lead, numerics, keep=False, packed=packed).log_prob)


def value_and_pull_of_arrays(inputs: memory.Inputs, numerics: str, in_data: bool) -> tuple[Tensor, Pull]:
    """log p(y) (B,) of such a problem, and what makes of weights (B,) the gradient of sum(weights log p).

    In parameters without leading axes, and in y if `in_data`.
    """
    lead = _lead_of(inputs)
    answer = "gradient in y" if in_data else "gradient"
    shapes = [one.shape[1:] for one in inputs.parameters]
    shapes[4] = shapes[4][1:]
    packed = answer if packs.applicable(inputs, lead) else None
    value, pull = value_and_pull(inputs, lead, numerics, packed, shapes)
    return torch.from_numpy(value), pull


def _packed(
    system: LinearGaussianSystem, y: Tensor, observed: Tensor | None, lengths: Tensor, diffuse: Tensor | None,
    lead: int, plain: bool,
) -> str:  # fmt: skip
    """What packs shall answer, "" where they do not serve; with the gradient in y unless it certainly is not needed."""
    if y.shape[0] < packs.MANY_SEQUENCES or not packs.applicable(
        memory.Inputs.of(system, y, observed, lengths, diffuse), lead
    ):
        return ""
    return "gradient" if plain and not y.requires_grad else "gradient in y"


@torch.no_grad()
def value_and_gradient(
    system: LinearGaussianSystem,
    y: Tensor,
    observed: Tensor | None,
    lengths: Tensor,
    diffuse: Tensor | None = None,
    numerics: str = "auto",
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """log p(y) (B,), and the gradient of its sum in the parts of the system, and in y if that requires gradients.

    Equals those of `log_prob`; that of a y that requires none may have no entries.
    """
    check(system, y, observed, lengths, diffuse)
    lead = shared_lead(system, observed, lengths, diffuse)
    packed = _packed(system, y, observed, lengths, diffuse, lead, True)
    return differentiable.value_and_gradient(*system, y, observed, lengths, lead, diffuse, numerics, packed)
