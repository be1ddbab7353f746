"""The Kalman filter on numpy arrays: `run_forward` allocates the workspaces and calls the kernels.

The covariances do not depend on the data: sequences with the same start and the same pattern of missing entries share
them (`lead` is the one whose covariances hold for all), and many such sequences run side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from probseq.errors import SingularInnovation, StateOverflow
from probseq.ops import kalman_packs
from probseq.ops.kalman_packs import MANY_SEQUENCES, Answer
from probseq.ops.kalman_workspace import (
    Inputs,
    Roots,
    Workspace,
    allocate,
    blas,
    kernels,
    roots_of,
    with_roots,
)
from probseq.ops.threads import over_blocks

KNOWN_STATES = 10
"""State dimension up to which the compiler knows it: observations one by one, and the adjoint of single sequences."""

HEAD = 16
"""Steps of a diffuse start that are left to square roots; a start that needs more is left to them whole."""

SHORT = 1 << 18
"""Numbers of covariances up to which it costs little to keep them, asked for or not."""

FEW_STATES = 4
"""State dimension up to which sequences with covariances of their own run side by side."""

SINGULAR, ILL_CONDITIONED = 1, 3  # as in kernels/kalman_conditions.py, which is imported when first needed


def run_forward(
    inputs: Inputs,
    lead: int,
    numerics: str,
    *,
    keep: bool,
    keep_roots: bool = False,
    per_step: bool = False,
    packed: Answer | None = None,
) -> Workspace:
    """Allocate what is asked for, run the compiled filter, raise its conditions.

    With numerics="auto" an ill-conditioned step starts it anew on square roots. Where packs of sequences are
    `applicable`, `packed` is what they shall answer; then no means are kept, except where only roots can smooth.
    """
    parameters, diffuse, data = inputs.parameters, inputs.diffuse, inputs.data
    y, n = inputs.y, parameters[2].shape[-1]
    batch, steps, _ = y.shape
    watch, root = numerics == "auto", numerics == "square_root"
    if watch and not per_step:
        space = _one_by_one(parameters, data, lead, diffuse, keep=keep, keep_roots=keep_roots)
        if space is not None:
            return space
    many = packed is not None or (side_by_side(lead, batch) and not per_step)
    rows = steps if keep or many else min(kernels("kalman").CHUNK, steps)
    groups = batch if keep and lead < 0 else 1
    while True:
        roots = roots_of(parameters, diffuse, root)
        packed = None if root and packed == "smoothed" else packed
        space = allocate(y.shape, n, groups, rows, keep=keep, per_step=per_step, weights=not many, means=packed is None)
        space = with_roots(space, roots, steps if keep else 0, keep_roots=keep_roots)
        if batch == 0:
            return space
        status = _filter(parameters, data, lead, space, roots, watch=watch, many=many)
        if not (watch and status[0] in (SINGULAR, ILL_CONDITIONED)):
            break
        watch, root = False, True
    raise_condition(status)
    if many:
        if packed is not None:
            space = kalman_packs.run(inputs, space, packed)
        else:
            _means(parameters, data, lead, space)
        if not np.isfinite(space.log_prob).all():  # by sequence, to find where
            space = space._replace(weighted=np.empty(y.shape), mean=np.empty((batch, steps if keep else 0, n)))
            raise_condition(_filter(parameters, data, lead, space, roots, watch=watch, many=False))
    return space


def _one_by_one(
    parameters: list[Any], data: tuple[Any, Any, Any], lead: int, diffuse: Any, *,
    keep: bool, keep_roots: bool,
) -> Workspace | None:  # fmt: skip
    """Take observations one by one where that is faster; None where it is not, or would lose digits."""
    y, pattern, ends = data
    (batch, steps, _), n = y.shape, parameters[2].shape[-1]
    alone = batch == 1 and (n <= KNOWN_STATES or pattern.shape[1] > 0)
    if not ((lead < 0 or alone) and independent(parameters)):
        return None
    if diffuse is None:
        space = allocate(y.shape, n, batch if keep else 1, steps if keep else 0, keep=keep, per_step=False)
        return space if run_sequential(parameters, y, pattern, ends, space) else None
    if batch == 1 and ends[0] > 2 * HEAD and (keep or steps * n * n < SHORT):
        return run_behind_head(parameters, y, pattern, ends, diffuse, keep_roots=keep_roots)
    return None


def _filter(
    parameters: list[Any], data: tuple[Any, Any, Any], lead: int, space: Workspace, roots: Roots, *,
    watch: bool, many: bool,
) -> Any:  # fmt: skip
    """Run the compiled filter into the workspaces, covariances alone for `many` sequences; returns its status."""
    status = np.zeros(3, dtype=np.int64)
    kernels("kalman").filter_forward(
        *parameters, *data, lead, space.cov, space.gain, space.whitener, space.log_norm, space.slot, space.mean,
        space.weighted, space.steps, space.log_prob, status, many, blas(parameters[2].shape[-1]),
        watch, *roots, space.roots, space.diffuses, space.until,
    )  # fmt: skip
    return status


def _means(parameters: list[Any], data: tuple[Any, Any, Any], lead: int, space: Workspace) -> None:
    """The means of many sequences whose covariances are known, side by side and on threads."""
    m0, _, a, _, d, c, _ = parameters
    y, pattern, ends = data
    batch, n = m0.shape

    def run(block: slice) -> None:
        kernels("kalman_lanes").mean_lanes(
            m0[block], a, own(d, block), c, y[block], pattern[lead if pattern.shape[1] else 0], ends[block],
            space.gain[0], space.whitener[0], space.log_norm[0], space.slot[0], own(space.mean, block),
            space.log_prob[block],
        )  # fmt: skip

    over_blocks(run, batch, batch * y.shape[1] * n * n)


def side_by_side(lead: int, batch: Any) -> bool:
    """Whether the means of sequences that share their covariances run in lanes; they leave no weighted innovations."""
    return bool(lead >= 0 and batch >= MANY_SEQUENCES)


def independent(parameters: list[Any]) -> bool:
    """Whether sensors are independent, and all but the offsets constant in time."""
    m0, _, a, q, _, c, r = parameters
    constant = max(map(len, (a, q, c, r))) == 1
    return bool(constant and len(m0) and np.count_nonzero(r[0]) == np.count_nonzero(r[0].diagonal()))


def run_behind_head(
    parameters: list[Any], y: Any, pattern: Any, ends: Any, diffuse: Any, *, keep_roots: bool
) -> Workspace | None:
    """The first steps, where the start of the one sequence is diffuse, on square roots; the others one by one."""
    (_, steps, _), n = y.shape, parameters[2].shape[-1]
    roots = roots_of(parameters, diffuse, False)
    space = allocate(y.shape, n, 1, steps, keep=True, per_step=True)
    space = with_roots(space, roots, steps, keep_roots=keep_roots)
    head = y, pattern, np.full_like(ends, HEAD + 1)
    status = _filter(parameters, head, 0, space, roots, watch=True, many=False)
    if status[0] or space.until[0] > HEAD:
        return None
    begun = [space.mean[:, HEAD].copy(), space.cov[:, space.slot[0, HEAD]].copy(), *parameters[2:]]
    if not run_sequential(begun, y, pattern, ends, space, HEAD):
        return None
    space.log_prob[0] += space.steps[0, :HEAD].sum()
    return space


def run_sequential(parameters: list[Any], y: Any, pattern: Any, ends: Any, space: Workspace, begin: int = 0) -> bool:
    """Take independent sensors one by one; False where an update may lose digits.

    m0 and P0 are those of step `begin`, where the densities that are added up begin.
    """
    m0, p0, a, q, d, c, r = parameters
    batch, n = m0.shape
    size = (0,) * n if n <= KNOWN_STATES else n
    in_lanes = n <= FEW_STATES and batch >= MANY_SEQUENCES and not space.cov.shape[1]
    noise = r[0].diagonal().copy()

    def run(block: slice) -> bool:
        of_members = m0[block], own(p0, block), a[0], q[0], own(d, block), c[0], noise
        arguments = *of_members, y[block], own(pattern, block), ends[block], space.log_prob[block]
        if in_lanes:
            return kernels("kalman_sequential_lanes").lanes_by_one(size, *arguments)
        kept = space.cov, space.gain, space.whitener, space.log_norm, space.slot, space.mean, space.weighted
        parts = (own(part, block) for part in kept)
        return kernels("kalman_sequential").one_by_one(size, begin, *arguments, *parts, blas(n))

    return all(over_blocks(run, batch, batch * y.shape[1] * n * n))


def own(values: Any, members: slice) -> Any:
    """The part of some members of a batch; all of what they share."""
    return values[members] if values.shape[0] > 1 else values


def raise_condition(status: Any) -> None:
    if not status[0]:
        return
    condition, sequence, step = status.tolist()
    if condition == SINGULAR:
        raise SingularInnovation(
            f"the predicted covariance of y is singular at sequence {sequence}, step {step}: some combination of the "
            "observed coordinates is known exactly before it is seen, so it has no density. Give emission_cov a "
            "positive variance there, or drop the redundant coordinates (mark them unobserved)"
        )
    raise StateOverflow(
        f"a predicted moment is not finite at sequence {sequence}, step {step}: y or a parameter is not finite, or "
        "the state grows without bound (see the eigenvalues of transition_matrix) and nothing observed holds it"
    )
