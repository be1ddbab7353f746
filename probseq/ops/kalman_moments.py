"""Moments and paths of the states: the Kalman filter, its smoother and the simulation smoother; see `kalman.py`.

The adjoint recursion smooths from the step on where a diffuse start is over; before it, and on square roots throughout,
`kalman_given` does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probseq.ops import kalman_arrays as arrays
from probseq.ops import kalman_backward as adjoint
from probseq.ops import kalman_workspace as memory
from probseq.ops.kalman_given import Given
from probseq.ops.kalman_system import LinearGaussianSystem
from probseq.ops.modes import array_of
from probseq.ops.pool import lease


class FilteredMoments(NamedTuple):
    """p(z_t | y_<t) and p(z_t | y_<=t), and log p(y_t | y_<t), which is 0 beyond the end of a sequence."""

    predicted_mean: Tensor  # (B, T, n)
    predicted_cov: Tensor  # (B, T, n, n)
    updated_mean: Tensor  # (B, T, n)
    updated_cov: Tensor  # (B, T, n, n)
    log_prob: Tensor  # (B, T)
    predicted_diffuse: Tensor | None = None  # (B, T, n, n), where the start is diffuse
    updated_diffuse: Tensor | None = None  # (B, T, n, n)


class SmoothedMoments(NamedTuple):
    """p(z_t | y), and lag_one_cov[t] = Cov(z_{t+1}, z_t | y); covariances may be views shared by the batch."""

    mean: Tensor  # (B, T, n)
    cov: Tensor  # (B, T, n, n)
    lag_one_cov: Tensor  # (B, T - 1, n, n)
    log_prob: Tensor  # (B,)
    diffuse: Tensor | None = None  # (B, T, n, n), zero where y resolves the whole state


@torch.no_grad()
def filter(
    system: LinearGaussianSystem,
    y: Tensor,
    observed: Tensor | None,
    lengths: Tensor,
    diffuse: Tensor | None = None,
    numerics: str = "auto",
) -> FilteredMoments:
    """The predicted and updated moments of every step; errors as for `log_prob`."""
    given = Given.of(system, y, observed, lengths, diffuse, numerics, per_step=True)
    system, space = given.system, given.space
    slot, mean, weighted = torch.from_numpy(space.slot), torch.from_numpy(space.mean), torch.from_numpy(space.weighted)
    distinct = int(slot.max()) + 1 if slot.numel() else 0  # steps with a covariance of their own
    emission, noise = system.emission_matrix[:distinct], system.emission_cov[:distinct]
    cov, gain = torch.from_numpy(space.cov)[:, :distinct], torch.from_numpy(space.gain)[:, :distinct]
    rest = torch.eye(cov.shape[-1], dtype=cov.dtype) - gain.mT @ emission
    updated = rest @ cov @ rest.mT + gain.mT @ noise @ gain
    updated = 0.5 * (updated + updated.mT)
    by_step = _row_of_step(slot, lengths)
    cov, updated = by_step(cov), by_step(updated)
    if space.square_root:
        updated = torch.from_numpy(given.backward.updated)
    correction = cov @ (system.emission_matrix.mT @ weighted[..., None])
    batch = y.shape[0]
    improper = (None, None)
    if diffuse is not None:
        improper = tuple(_extend(part, lengths, diffuse @ diffuse.mT) for part in given.diffuse_covs())
        correction = torch.where(given.is_diffuse()[..., None, None], given.corrections()[..., None], correction)
    return FilteredMoments(
        _extend(mean, lengths, system.initial_mean),
        _extend(cov.expand(batch, -1, -1, -1), lengths, system.initial_cov),
        _extend(mean + correction[..., 0], lengths, system.initial_mean),
        _extend(updated.expand(batch, -1, -1, -1), lengths, system.initial_cov),
        torch.from_numpy(space.steps),
        *improper,
    )


@torch.no_grad()
def smooth(
    system: LinearGaussianSystem,
    y: Tensor,
    observed: Tensor | None,
    lengths: Tensor,
    diffuse: Tensor | None = None,
    numerics: str = "auto",
    *,
    lag_one: bool = True,
) -> SmoothedMoments:
    """The posterior moments of the states: mean = m + P r and cov = P - P N P with the r, N that are the gradient.

    Where y does not resolve a diffuse start, `diffuse` says in which directions; mean and cov hold in the others.
    Without `lag_one` there are no steps of the lag-one covariances, which take as long as all else.
    """
    given = Given.of(system, y, observed, lengths, diffuse, numerics, smoothing=True)
    (batch, steps, _), states = y.shape, system.initial_mean.shape[-1]
    space, system = given.space, given.system
    _, spans, _, group_of = adjoint.groups(given.lengths, space.slot.shape[0])
    cov = torch.from_numpy(lease(len(spans), steps, states, states))
    lagged = torch.from_numpy(lease(len(spans), max(steps - 1, 0) if lag_one else 0, states, states)).zero_()
    mean, lost = _adjoint_moments(given, observed, cov.numpy(), lagged.numpy())
    if lost and numerics == "auto":
        return smooth(system, y, observed, lengths, diffuse, "square_root", lag_one=lag_one)
    begun = bool(given.until.any())
    improper = y.new_zeros(len(spans), steps if diffuse is not None or begun else 0, states, states)
    if begun:
        given.smooth_start(cov.numpy(), improper.numpy(), lagged.numpy(), mean.numpy())
    if len(spans) == 1:
        cov, lagged, improper = (values.expand(batch, -1, -1, -1) for values in (cov, lagged, improper))
    elif space.slot.shape[0] == 1:  # otherwise each has its own, in order
        cov, lagged, improper = (values[group_of] for values in (cov, lagged, improper))
    return SmoothedMoments(
        _extend(mean, lengths, system.initial_mean),
        _extend(cov, lengths, system.initial_cov),
        lagged,
        torch.from_numpy(space.log_prob),
        None if diffuse is None else _extend(improper, lengths, diffuse @ diffuse.mT),
    )


def _adjoint_moments(given: Given, observed: Tensor | None, cov: Any, lagged: Any) -> tuple[Tensor, bool]:
    """The smoothed means (B, T, n), with cov and lagged written, from `until` on; and whether digits were lost."""
    system, space, until, ends = given.system, given.space, given.until, given.lengths
    batch, steps, states = len(ends), space.slot.shape[1], cov.shape[-1]
    packed, joint = space.series.shape[1] > 0, None
    mean = space.series if packed else space.mean  # a step is predicted before it is smoothed: both in one place
    if until.any():
        mean = lease(batch, steps, states)
    spaces, spans, group_spaces, _ = adjoint.groups(ends, space.slot.shape[0])
    none, unused = adjoint.no_gradients(), (np.empty((0, states, states)), np.empty((0, states)))
    a, c = array_of(system.transition_matrix), array_of(system.emission_matrix)
    rounding = adjoint.spent(system.emission_cov, states)
    kept = (space.cov, space.gain, space.whitener, space.slot, space.mean, space.weighted)
    if not packed:
        joint = adjoint.run_small_adjoint(
            a, c, kept, until, ends, np.ones(batch), none, (mean, cov, lagged), unused, rounding
        )
    if joint is not None:
        return torch.from_numpy(mean), joint
    lost = memory.kernels("kalman_adjoint").covariance_adjoint(
        a, c, *kept[:4], spans, group_spaces, until, np.ones(len(spans)), *none[1:4], *none[5:7], cov, lagged,
        unused[0], rounding, memory.blas(states),
    )  # fmt: skip
    if not packed:
        pattern = memory.pattern_of(observed, given.y.shape[-1])
        adjoint.run_mean_adjoint(
            a, c, kept, spaces, until, ends, given.y, pattern, np.ones(batch), none, mean, unused[1]
        )
    return torch.from_numpy(mean), lost


@torch.no_grad()
def sample_paths(
    system: LinearGaussianSystem,
    y: Tensor,
    observed: Tensor | None,
    lengths: Tensor,
    normals: Tensor,
    diffuse: Tensor | None = None,
    numerics: str = "auto",
) -> Tensor:
    """Draws (N, B, T, n) from p(z | y), a linear function of the standard `normals` (N, B, T, n + m).

    Mean correction: draw (z*, y*) from the model without means; E[z | y - y*] + z* has the posterior law, whatever
    the ranks of the covariances.  A diffuse part of z*_0 does not matter and is 0; ImproperBelief where y leaves some
    of it unresolved.
    """
    simulation = memory.kernels("kalman_simulation")
    given = Given.of(system, y, observed, lengths, diffuse, numerics)
    system, space = given.system, given.space
    (batch, steps, coordinates), states = y.shape, system.initial_mean.shape[-1]
    draws = normals.shape[0]
    if normals.shape != (draws, batch, steps, states + coordinates):
        raise ValueError(f"normals must be (N, {batch}, {steps}, {states + coordinates}), not {tuple(normals.shape)}")
    given.refuse_unresolved()
    ends, pattern = array_of(lengths), memory.pattern_of(observed, coordinates)
    spaces, *_ = adjoint.groups(ends, space.slot.shape[0])
    a, c = array_of(system.transition_matrix), array_of(system.emission_matrix)
    covariances = (system.initial_cov, system.transition_cov, system.emission_cov)
    roots = [array_of(semidefinite_root(cov)) for cov in covariances]
    paths = draws * batch
    z, emitted = y.new_zeros(paths, steps, states), y.new_zeros(paths, steps, coordinates)
    flat = normals.contiguous().reshape(paths, steps, states + coordinates).numpy()
    simulation.simulate(a, c, *roots, flat, ends, z.numpy(), emitted.numpy())
    remaining = (y - emitted.view(draws, *y.shape)).view(emitted.shape)
    mean, weighted, status = torch.empty_like(z), torch.empty_like(emitted), np.zeros(3, dtype=np.int64)
    simulation.path_means(
        a, array_of(system.transition_offset), c, remaining.numpy(), pattern, ends, spaces, space.gain, space.whitener,
        space.log_norm, space.slot, array_of(system.initial_mean.repeat(draws, 1)), mean.numpy(), weighted.numpy(),
        status, memory.blas(states),
    )  # fmt: skip
    arrays.raise_condition(status)
    posterior = torch.zeros_like(z)
    kept = (space.cov, space.gain, space.whitener, space.slot, mean.numpy(), weighted.numpy())
    adjoint.run_mean_adjoint(
        a, c, kept, np.tile(spaces, draws), given.until, np.tile(ends, draws), remaining.numpy(), pattern,
        np.ones(paths), adjoint.no_gradients(), posterior.numpy(), np.empty((0, states)),
    )  # fmt: skip
    if given.until.any():
        given.smooth_means(remaining.numpy(), spaces, mean.numpy(), posterior.numpy())
    result = _extend(posterior + z, lengths.repeat(draws), system.initial_mean.repeat(draws, 1))
    return result.view(draws, batch, steps, states)


def semidefinite_root(cov: Tensor) -> Tensor:
    """Lower-triangular F with F F' = cov (R, k, k) for positive semidefinite matrices of any rank."""
    factors = torch.empty_like(cov, memory_format=torch.contiguous_format)
    memory.kernels("linalg").semidefinite_factor(array_of(cov), factors.numpy())
    return factors


def _row_of_step(slot: Tensor, lengths: Tensor) -> Any:
    """A function from a workspace by slot (G, rows, ...) to one by step (G, T, ...)."""
    groups, steps = slot.shape
    ends = lengths if groups == lengths.shape[0] else lengths.max()[None]
    time = torch.minimum(torch.arange(steps), (ends[:, None] - 1).clamp(min=0))
    rows = slot.gather(1, time)
    return lambda values: values[torch.arange(groups)[:, None], rows]


def _extend(values: Tensor, lengths: Tensor, initial: Tensor) -> Tensor:
    """Repeat the last step of each sequence (B, T, ...) to the end, and `initial` (1 or B, ...) where there is none."""
    batch, steps = values.shape[:2]
    if steps == 0 or bool((lengths == steps).all()):
        return values
    time = torch.minimum(torch.arange(steps), (lengths[:, None] - 1).clamp(min=0))
    extended = values[torch.arange(batch)[:, None], time]
    empty = lengths == 0
    if bool(empty.any()):
        extended[empty] = initial.expand(batch, *initial.shape[1:])[empty][:, None]
    return extended
