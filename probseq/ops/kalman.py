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
    y           (B, T, m)    an entry that is not observed, or at t >= length, may hold anything, NaN too
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

import functools
import importlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from probseq.errors import SingularInnovation, StateOverflow

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


_NAMES = LinearGaussianSystem._fields


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
    """What the forward recursion leaves for the backward one, as arrays; shapes in kernels/kalman.py."""

    log_prob: Any
    mean: Any
    weighted: Any
    cov: Any
    gain: Any
    whitener: Any
    log_norm: Any
    slot: Any
    steps: Any


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
    space = _forward_workspace(system, y, observed, lengths, per_step=True)
    slot, mean, weighted = torch.from_numpy(space.slot), torch.from_numpy(space.mean), torch.from_numpy(space.weighted)
    distinct = int(slot.max()) + 1 if slot.numel() else 0  # steps with a covariance of their own
    emission, noise = system.emission_matrix[:distinct], system.emission_cov[:distinct]
    cov, gain = torch.from_numpy(space.cov)[:, :distinct], torch.from_numpy(space.gain)[:, :distinct]
    rest = torch.eye(cov.shape[-1], dtype=cov.dtype) - gain.mT @ emission
    updated = rest @ cov @ rest.mT + gain.mT @ noise @ gain
    updated = 0.5 * (updated + updated.mT)
    by_step = _row_of_step(slot, lengths)
    cov, updated = by_step(cov), by_step(updated)
    correction = cov @ (system.emission_matrix.mT @ weighted[..., None])
    batch = y.shape[0]
    return FilteredMoments(
        _extend(mean, lengths, system.initial_mean),
        _extend(cov.expand(batch, -1, -1, -1), lengths, system.initial_cov),
        _extend(mean + correction[..., 0], lengths, system.initial_mean),
        _extend(updated.expand(batch, -1, -1, -1), lengths, system.initial_cov),
        torch.from_numpy(space.steps),
    )


@torch.no_grad()
def smooth(system: LinearGaussianSystem, y: Tensor, observed: Tensor | None, lengths: Tensor) -> SmoothedMoments:
    """The posterior moments of the states: mean = m + P r and cov = P - P N P with the r, N that are the gradient."""
    adjoint = _kernels("kalman_adjoint")
    space = _forward_workspace(system, y, observed, lengths, per_step=False)
    (batch, steps, _), states = y.shape, system.initial_mean.shape[-1]
    spaces, spans, group_spaces, group_of = _groups(lengths, space.slot.shape[0])
    mean = y.new_zeros(batch, steps, states)
    cov = y.new_zeros(len(spans), steps, states, states)
    lagged = y.new_zeros(len(spans), max(steps - 1, 0), states, states)
    none = _no_gradients(system)
    a, c = _array(system.transition_matrix), _array(system.emission_matrix)
    adjoint.covariance_adjoint(
        a, c, space.cov, space.gain, space.whitener, space.slot, spans, group_spaces,
        np.ones(len(spans)), *none[1:4], *none[5:7], cov.numpy(), lagged.numpy(), _blas(states),
    )  # fmt: skip
    _mean_adjoint(
        a, c, space.cov, space.gain, space.slot, spaces, _array(lengths), space.mean, space.weighted, np.ones(batch),
        none, mean.numpy(),
    )  # fmt: skip
    if len(spans) == 1:
        cov, lagged = cov.expand(batch, -1, -1, -1), lagged.expand(batch, -1, -1, -1)
    else:
        cov, lagged = cov[group_of], lagged[group_of]
    return SmoothedMoments(
        _extend(mean, lengths, system.initial_mean),
        _extend(cov, lengths, system.initial_cov),
        lagged,
        torch.from_numpy(space.log_prob),
    )


@torch.no_grad()
def sample_paths(
    system: LinearGaussianSystem, y: Tensor, observed: Tensor | None, lengths: Tensor, normals: Tensor
) -> Tensor:
    """Draws (N, B, T, n) from p(z | y), a linear function of the standard `normals` (N, B, T, n + m).

    Mean correction: draw (z*, y*) from the model without means; E[z | y - y*] + z* has the posterior law, whatever
    the ranks of the covariances.
    """
    adjoint = _kernels("kalman_adjoint")
    space = _forward_workspace(system, y, observed, lengths, per_step=False)
    (batch, steps, coordinates), states = y.shape, system.initial_mean.shape[-1]
    draws = normals.shape[0]
    if normals.shape != (draws, batch, steps, states + coordinates):
        raise ValueError(f"normals must be (N, {batch}, {steps}, {states + coordinates}), not {tuple(normals.shape)}")
    spaces, *_ = _groups(lengths, space.slot.shape[0])
    a, c = _array(system.transition_matrix), _array(system.emission_matrix)
    roots = [_array(semidefinite_root(cov)) for cov in (system.initial_cov, system.transition_cov, system.emission_cov)]
    paths = draws * batch
    z, emitted = y.new_zeros(paths, steps, states), y.new_zeros(paths, steps, coordinates)
    flat = normals.contiguous().reshape(paths, steps, states + coordinates).numpy()
    adjoint.simulate(a, c, *roots, flat, lengths.numpy(), z.numpy(), emitted.numpy())
    remaining = (y - emitted.view(draws, *y.shape)).view(emitted.shape)
    mean, weighted, status = torch.empty_like(z), torch.empty_like(emitted), np.zeros(3, dtype=np.int64)
    adjoint.path_means(
        a, _array(system.transition_offset), c, remaining.numpy(), _pattern(observed, y), lengths.numpy(), spaces,
        space.gain, space.whitener, space.log_norm, space.slot,
        _array(system.initial_mean.repeat(draws, 1)), mean.numpy(), weighted.numpy(), status, _blas(states),
    )  # fmt: skip
    _raise_condition(status)
    posterior = torch.zeros_like(z)
    _mean_adjoint(
        a, c, space.cov, space.gain, space.slot, np.tile(spaces, draws), np.tile(_array(lengths), draws), mean.numpy(),
        weighted.numpy(), np.ones(paths), _no_gradients(system), posterior.numpy(),
    )  # fmt: skip
    result = _extend(posterior + z, lengths.repeat(draws), system.initial_mean.repeat(draws, 1))
    return result.view(draws, batch, steps, states)


def semidefinite_root(cov: Tensor) -> Tensor:
    """Lower-triangular F with F F' = cov (R, k, k) for positive semidefinite matrices of any rank."""
    factors = torch.empty_like(cov, memory_format=torch.contiguous_format)
    _kernels("linalg").semidefinite_factor(_array(cov), factors.numpy())
    return factors


# ---------------------------------------------------------------------- dispatched operators

_PARAMETERS = (
    "Tensor initial_mean, Tensor initial_cov, Tensor transition_matrix, Tensor transition_cov, "
    "Tensor transition_offset, Tensor emission_matrix, Tensor emission_cov, Tensor y"
)


@torch.library.custom_op(
    "probseq::kalman_log_prob",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_PARAMETERS}, Tensor? observed, Tensor lengths, int lead) -> Tensor",
)
def _log_prob_op(*arguments: Any) -> Tensor:
    space = _run_forward(LinearGaussianSystem(*arguments[:7]), *arguments[7:], keep=False, per_step=False)
    return torch.from_numpy(space.log_prob)


@_log_prob_op.register_fake
def _(*arguments: Any) -> Tensor:
    y = arguments[7]
    return y.new_empty(y.shape[0])


@torch.library.custom_op(
    "probseq::kalman_forward",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_PARAMETERS}, Tensor? observed, Tensor lengths, int lead) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _forward_op(*arguments: Any) -> tuple[Tensor, ...]:
    space = _run_forward(LinearGaussianSystem(*arguments[:7]), *arguments[7:], keep=True, per_step=False)
    outputs = (space.log_prob, space.mean, space.weighted, space.cov, space.gain, space.whitener, space.slot)
    return tuple(torch.from_numpy(output) for output in outputs)


@_forward_op.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    y, (_, m, n) = arguments[7], arguments[5].shape
    batch, steps = y.shape[0], y.shape[1]
    groups = batch if arguments[10] < 0 else 1
    return (
        y.new_empty(batch),
        y.new_empty(batch, steps, n),
        y.new_empty(batch, steps, m),
        y.new_empty(groups, steps, n, n),
        y.new_empty(groups, steps, m, n),
        y.new_empty(groups, steps, m, m),
        y.new_empty(groups, steps, dtype=torch.int64),
    )


@torch.library.custom_op(
    "probseq::kalman_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor weights, {_PARAMETERS}, Tensor lengths, Tensor mean, Tensor weighted, Tensor cov, Tensor gain, "
    "Tensor whitener, Tensor slot) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward_op(weights: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    adjoint = _kernels("kalman_adjoint")
    gradients = tuple(torch.zeros_like(parameter, memory_format=torch.contiguous_format) for parameter in arguments[:8])
    lengths, mean, weighted, cov, gain, whitener, slot = (_array(tensor) for tensor in arguments[8:])
    a, c, load = _array(arguments[2]), _array(arguments[5]), _array(weights)
    into = [gradient.numpy() for gradient in gradients]
    spaces, spans, group_spaces, group_of = _groups(arguments[8], slot.shape[0])
    nothing = np.empty((1, 0, a.shape[-1], a.shape[-1]))
    adjoint.covariance_adjoint(
        a, c, cov, gain, whitener, slot, spans, group_spaces, np.bincount(group_of, load, len(spans)),
        *into[1:4], *into[5:7], nothing, nothing, _blas(a.shape[-1]),
    )  # fmt: skip
    _mean_adjoint(a, c, cov, gain, slot, spaces, lengths, mean, weighted, load, into, np.empty((1, 0, a.shape[-1])))
    return gradients


@_backward_op.register_fake
def _(weights: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(parameter, memory_format=torch.contiguous_format) for parameter in arguments[:8])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:8], inputs[9], *output[1:])


def _pull_back(ctx: Any, weights: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if weights is None:
        return (None,) * 11
    return (*torch.ops.probseq.kalman_backward(weights, *ctx.saved_tensors), None, None, None)


def _refuse_second_order(ctx: Any, *_: Any) -> Any:
    raise NotImplementedError(
        "the Kalman log_prob has an exact first derivative only; take second derivatives as differences of the gradient"
    )


def _nothing_to_remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


_forward_op.register_autograd(_pull_back, setup_context=_remember)
_backward_op.register_autograd(_refuse_second_order, setup_context=_nothing_to_remember)


# ---------------------------------------------------------------------- calling the kernels


def _run_forward(
    system: LinearGaussianSystem,
    y: Tensor,
    observed: Tensor | None,
    lengths: Tensor,
    lead: int,
    *,
    keep: bool,
    per_step: bool,
) -> _Workspace:
    """Allocate what is asked for, run the compiled filter, raise its conditions."""
    kalman = _kernels("kalman")
    (batch, steps, m), n = y.shape, system.initial_mean.shape[1]
    groups = batch if keep and lead < 0 else 1
    many = lead >= 0 and batch >= MANY_SEQUENCES and not per_step
    kept, rows = (steps, steps) if keep else (0, steps if many else min(kalman.CHUNK, steps))
    owners = batch if keep else 1
    space = _Workspace(
        log_prob=np.empty(batch),
        mean=np.empty((owners, kept, n)),
        weighted=np.empty((owners, kept, m)),
        cov=np.empty((groups, kept, n, n)),
        gain=np.empty((groups, rows, m, n)),
        whitener=np.empty((groups, rows, m, m)),
        log_norm=np.empty((groups, rows)),
        slot=np.zeros((groups, rows), dtype=np.int64),
        steps=np.zeros((batch, steps) if per_step else (1, 0)),
    )
    if batch == 0:
        return space
    status = np.zeros(3, dtype=np.int64)
    parameters, values, pattern, ends = (
        [_array(parameter) for parameter in system],
        _array(y),
        _pattern(observed, y),
        _array(lengths),
    )
    arguments = (
        *parameters, values, pattern, ends, lead, space.cov, space.gain, space.whitener, space.log_norm, space.slot,
        space.mean, space.weighted, space.steps, space.log_prob, status,
    )  # fmt: skip
    kalman.filter_forward(*arguments, many, _blas(n))
    _raise_condition(status)
    if many:
        m0, _, a, _, d, c, _ = parameters
        kalman.mean_lanes(
            m0, a, d, c, values, pattern[lead if pattern.shape[1] else 0], ends, space.gain[0], space.whitener[0],
            space.log_norm[0], space.slot[0], space.mean, space.weighted, space.log_prob,
        )  # fmt: skip
        if not np.isfinite(space.log_prob).all():
            kalman.filter_forward(*arguments, False, _blas(n))  # by sequence, to find where
            _raise_condition(status)
    return space


def _mean_adjoint(
    a: Any, c: Any, cov: Any, gain: Any, slot: Any, spaces: Any, lengths: Any, mean: Any, weighted: Any, weights: Any,
    gradients: list[Any], smoothed: Any,
) -> None:  # fmt: skip
    """Run the vector half of the backward recursion, by lanes where many sequences share their covariances."""
    adjoint = _kernels("kalman_adjoint")
    if slot.shape[0] == 1 and len(lengths) >= MANY_SEQUENCES:
        adjoint.mean_adjoint_lanes(
            a, c, cov[0], gain[0], slot[0], lengths, mean, weighted, weights, *gradients, smoothed
        )
    else:
        adjoint.mean_adjoint(a, c, cov, gain, slot, spaces, lengths, mean, weighted, weights, *gradients, smoothed)


def _forward_workspace(
    system: LinearGaussianSystem, y: Tensor, observed: Tensor | None, lengths: Tensor, *, per_step: bool
) -> _Workspace:
    """The complete workspace, outside autograd."""
    _check(system, y, observed, lengths)
    _refuse_forward_mode((*system, y))
    lead = _shared_lead(system, observed, lengths)
    return _run_forward(system, y, observed, lengths, lead, keep=True, per_step=per_step)


def _kernels(module: str) -> Any:
    """A module of compiled recursions, imported when first needed: most of its import is loading numba."""
    return importlib.import_module(f"probseq.kernels.{module}")


def _array(tensor: Tensor) -> Any:
    if tensor.requires_grad:
        tensor = tensor.detach()
    return (tensor if tensor.is_contiguous() else tensor.contiguous()).numpy()


def _pattern(observed: Tensor | None, y: Tensor) -> Any:
    return np.empty((1, 0, y.shape[-1]), dtype=np.bool_) if observed is None else _array(observed)


def _blas(states: int) -> bool | None:
    return True if states >= BLAS_STATES else None


def _no_gradients(system: LinearGaussianSystem) -> list[Any]:
    """Empty gradient arrays for the adjoint kernels: the seven parameters and y."""
    return [np.empty((0, *tensor.shape[1:])) for tensor in system] + [np.empty((0, 0, 0))]


def _shared_lead(system: LinearGaussianSystem, observed: Tensor | None, lengths: Tensor) -> int:
    """The sequence (the longest) whose covariances hold for all, or -1: they depend on P_0 and the pattern only."""
    batch = lengths.shape[0]
    if batch == 1:
        return 0
    if batch == 0 or system.initial_cov.shape[0] > 1:
        return -1
    lead = int(lengths.argmax())
    if observed is None:
        return lead
    outside = torch.arange(observed.shape[1]) >= lengths[:, None]
    return lead if bool(((observed == observed[lead]) | outside[..., None]).all()) else -1


def _groups(lengths: Tensor, covariance_groups: int) -> tuple[Any, Any, Any, Any]:
    """Which sequences share the backward covariances, those of equal length and equal forward covariances.

    Returns the covariance row of each sequence, then length and covariance row of each group, and each one's group.
    """
    ends = lengths.numpy()
    if covariance_groups > 1 or len(ends) == 1:
        every = np.arange(len(ends))
        return every, ends, every, every
    spans, group_of = np.unique(ends, return_inverse=True)
    return np.zeros_like(ends), spans, np.zeros_like(spans), group_of


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


# ---------------------------------------------------------------------- refusals


def _raise_condition(status: Any) -> None:
    condition, sequence, step = (int(value) for value in status)
    if condition == 0:
        return
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


def _refuse_forward_mode(tensors: tuple[Tensor, ...]) -> None:
    """A compiled operator would silently return a zero tangent."""
    if getattr(forward_ad, "_current_level", 0) < 0:
        return  # outside every dual level, the usual case
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError("the Kalman functions have no forward-mode derivative; use reverse mode")


def _check(system: LinearGaussianSystem, y: Tensor, observed: Tensor | None, lengths: Tensor) -> None:
    """Compare every shape and type with the table above: a compiled kernel does not."""
    _check_shapes(
        tuple(value.shape for value in system), y.shape, None if observed is None else observed.shape, lengths.shape
    )
    for name, value in zip((*_NAMES, "y"), (*system, y), strict=True):
        if value.dtype != torch.float64:
            raise ValueError(f"{name} must be float64, not {value.dtype}")
    if lengths.dtype != torch.int64 or (observed is not None and observed.dtype != torch.bool):
        raise ValueError("lengths must be int64, and observed boolean")
    ends = lengths.tolist()
    if ends and not 0 <= min(ends) <= max(ends) <= y.shape[1]:
        raise ValueError(f"lengths must lie in 0 .. {y.shape[1]}, not {ends}")


@functools.lru_cache(maxsize=256)
def _check_shapes(
    system: tuple[torch.Size, ...], y: torch.Size, observed: torch.Size | None, lengths: torch.Size
) -> None:
    """Refuse shapes that do not fit together, naming the argument (remembered: it costs more than a filter)."""
    (batch, steps, m), n = y, system[2][-2]
    often, shared = {1, steps}, {1, batch}
    allowed = {
        "initial_mean": ({batch}, {n}),
        "initial_cov": (shared, {n}, {n}),
        "transition_matrix": (often, {n}, {n}),
        "transition_cov": (often, {n}, {n}),
        "transition_offset": (shared, often, {n}),
        "emission_matrix": (often, {m}, {n}),
        "emission_cov": (often, {m}, {m}),
        "observed": ({batch}, {steps}, {m}),
        "lengths": ({batch},),
    }
    for (name, sizes), shape in zip(allowed.items(), (*system, observed or y, lengths), strict=True):
        if len(shape) != len(sizes) or any(size not in choices for size, choices in zip(shape, sizes, strict=True)):
            wanted = ", ".join(" or ".join(str(size) for size in sorted(choices)) for choices in sizes)
            raise ValueError(f"{name} must have shape ({wanted}), not {tuple(shape)}")
