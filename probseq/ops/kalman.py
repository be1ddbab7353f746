"""The Kalman filter and smoother as torch functions.

    z_0 ~ N(initial_mean, initial_cov)                                       before y_0 is seen; z_0 emits y_0
    for t = 0 .. length - 1:
        y_t = emission_matrix[t] z_t + v_t,                                  v_t ~ N(0, emission_cov[t])
        z_{t+1} = transition_matrix[t+1] z_t + transition_offset[t+1] + w_{t+1},   w_{t+1} ~ N(0, transition_cov[t+1])

    quantity                                    function        gradient
    log p(y_0, ..., y_{length-1})               log_prob        exact, by the smoothing recursion; first order only
    p(z_t | y_<t), p(z_t | y_<=t)               filter          none
    p(z_t | y), Cov(z_{t+1}, z_t | y)           smooth          none
    draws from p(z_0, ..., z_{length-1} | y)    sample_paths    none

    data        shape        meaning
    y           (B, T, m)    what stands in an entry that is not observed, or at t >= length, does not matter (NaN neither)
    observed    (B, T, m)    boolean, or None where every entry below `lengths` is observed
    lengths     (B,)         int64, 0 <= length <= T; a length of 0 has log-probability 0

Missing entries are left out exactly: they add 0 to the log-density, and a step without any only predicts.  Singular
initial, transition and emission covariances are legal as long as the *innovation* covariance of every observed row is
not singular; `SingularInnovation` tells where it is.  Beyond the end of a sequence `filter`, `smooth` and
`sample_paths` repeat the last step (the initial belief for an empty one), lag-one covariances are 0 there.

The compiled recursions stand in `kernels/kalman.py` and `kernels/kalman_adjoint.py`, with their references; the
simulation smoother is Durbin and Koopman's mean correction (Biometrika 89 (2002) 603-615).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLAS_STATES = 12
"""State dimension from which matrix products go to BLAS instead of written-out loops."""

MANY_SEQUENCES = 8
"""Batch size from which the innermost loop runs over the sequences that share their covariances."""

SINGULAR = 1  # the condition numbers of kernels/kalman.py, which is imported when first needed


class LinearGaussianSystem(NamedTuple):
    """The parameters, float64: n states, m observed coordinates; every R is 1, or T where the parameter varies.

    Entry t of a transition parameter is the step into t; entry 0 is unused when R = T.
    """

    initial_mean: Tensor  # (B, n)
    initial_cov: Tensor  # (1 or B, n, n)
    transition_matrix: Tensor  # (R, n, n)
    transition_cov: Tensor  # (R, n, n)
    transition_offset: Tensor  # (1 or B, R, n)
    emission_matrix: Tensor  # (R, m, n)
    emission_cov: Tensor  # (R, m, m)


class FilteredMoments(NamedTuple):
    """p(z_t | y_<t) and p(z_t | y_<=t), and log p(y_t | y_<t), which is 0 beyond the end of a sequence."""

    predicted_mean: Tensor  # (B, T, n)
    predicted_cov: Tensor  # (B, T, n, n)
    updated_mean: Tensor  # (B, T, n)
    updated_cov: Tensor  # (B, T, n, n)
    log_prob: Tensor  # (B, T)


class SmoothedMoments(NamedTuple):
    """p(z_t | y), and lag_one_cov[t] = Cov(z_{t+1}, z_t | y); covariances may be views shared by the batch."""

    mean: Tensor  # (B, T, n)
    cov: Tensor  # (B, T, n, n)
    lag_one_cov: Tensor  # (B, T - 1, n, n)
    log_prob: Tensor  # (B,)


class _Workspace(NamedTuple):
    """What the forward recursion leaves for the backward one; shapes in kernels/kalman.py."""

    log_prob: Tensor
    mean: Tensor
    weighted: Tensor
    cov: Tensor
    gain: Tensor
    whitener: Tensor
    log_norm: Tensor
    slot: Tensor
    steps: Tensor


def log_prob(system: LinearGaussianSystem, y: Tensor, observed: Tensor | None, lengths: Tensor) -> Tensor:
    """log p(y) of every sequence, (B,); equals filter(...).log_prob.sum(-1).  Differentiable once, in the system and y.

    Raises SingularInnovation or StateOverflow with the sequence and step; forward-mode differentiation raises.
    """
    _check(system, y, observed, lengths)
    differentiated = (*system, y)
    _refuse_forward_mode(differentiated)
    lead = _shared_lead(system, observed, lengths)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in differentiated):
        return torch.ops.probseq.kalman_forward(*differentiated, observed, lengths, lead)[0]
    return torch.ops.probseq.kalman_log_prob(*differentiated, observed, lengths, lead)


@torch.no_grad()
def filter(system: LinearGaussianSystem, y: Tensor, observed: Tensor | None, lengths: Tensor) -> FilteredMoments:
    """The predicted and updated moments of every step; errors as for `log_prob`."""
    space, last = _forward_workspace(system, y, observed, lengths, per_step=True)
    rows = _row_of_step(space, lengths)
    cov, gain = rows(space.cov), rows(space.gain)
    emission, noise = system.emission_matrix, system.emission_cov
    correction = torch.einsum("btij,btj->bti", cov, torch.einsum("tmi,btm->bti", emission, space.weighted))
    rest = torch.eye(cov.shape[-1], dtype=cov.dtype) - torch.einsum("btmi,tmj->btij", gain, emission)
    updated = rest @ cov @ rest.mT + gain.mT @ noise @ gain
    batch = y.shape[0]
    return FilteredMoments(
        _extend(space.mean, last, system.initial_mean),
        _extend(cov.expand(batch, -1, -1, -1), last, system.initial_cov),
        _extend(space.mean + correction, last, system.initial_mean),
        _extend((0.5 * (updated + updated.mT)).expand(batch, -1, -1, -1), last, system.initial_cov),
        space.steps,
    )
