"""Exact inference in a hidden Markov model, as torch functions: likelihood, filter, posterior, Viterbi, sampling.

    z_0 ~ p(z_0);   z_t ~ p(z_t | z_{t-1});   y_t ~ p(y_t | z_t);     z_0 emits y_0

All functions take the same four tensors (float64, CPU; B sequences, T steps, K states)

    log_initial      (B, K)         log p(z_0), may hold -inf
    log_transition   (S, R, K, K)   [.., i, j] = log p(z_t = j | z_{t-1} = i), *into* step t; S in {1, B}, R in {1, T};
                                    step 0 is unused where R = T; may hold -inf (a structural zero)
    log_observation  (B, T, K)      log p(y_t | z_t), may hold -inf; 0 for every state where y_t is unobserved
    lengths          (B,) int64     steps from lengths[b] on are padding, whose content (even NaN) does not matter

and satisfy, with gamma_t[k] = p(z_t = k | y) and xi_t[i, j] = p(z_{t-1} = i, z_t = j | y),

    log_prob == filter(...).log_prob.sum(-1)
    d log_prob / d log_initial = gamma_0        d log_prob / d log_observation_t = gamma_t
    d log_prob / d log_transition = sum_t xi_t  (of each step, where R = T)

so one backward pass gives the smoother, the statistics of EM and the gradient. The kernels are in
`probseq.kernels.hmm` (scaled recursions, which hand over what they cannot represent), `hmm_log` (careful ones)
and `viterbi`. First derivatives are hand-written; second derivatives and forward mode raise.

Reference: Rabiner (1989), Proc. IEEE 77, equations 19-37; Cappe, Moulines & Ryden (2005), chapters 3 and 10.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad

from probseq.kernels import hmm as scaled
from probseq.kernels import hmm_log as careful
from probseq.kernels import viterbi as paths

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

BLOCK = 1 << 15  # emission entries handled together: the block and its filtered weights stay in the cache


class Filtered(NamedTuple):
    """Beliefs before and after each observation, (B, T, K), and log p(y_t | y_<t), (B, T)."""

    log_predicted: Tensor
    log_updated: Tensor
    log_prob: Tensor


class Posterior(NamedTuple):
    """Smoothed beliefs and expected transition counts; `impossible_at` is the first impossible step, or -1.

    log_prob (B,), log_gamma (B, T, K), xi_sum (B, R, K, K), impossible_at (B,). In padding log_gamma is -inf, and so
    it is throughout an impossible sequence, whose xi_sum is 0.
    """

    log_prob: Tensor
    log_gamma: Tensor
    xi_sum: Tensor
    impossible_at: Tensor


class Path(NamedTuple):
    """States (B, T), -1 in padding, and log p(states, y), (B,)."""

    states: Tensor
    score: Tensor


# ---------------------------------------------------------------------------------------------- arrays


def _which(mask: NDArray[np.bool_]) -> list[int]:
    """The sequences for which `mask` (B,) holds."""
    return np.flatnonzero(mask).tolist()


class _Problem(NamedTuple):
    """The inputs as arrays, with the exponentials that every pass needs."""

    log_initial: Array
    log_transition: Array
    log_observation: Array
    lengths: IntArray
    transition: Array  # exp(log_transition - transition_offset), (S, R, K, K)
    belief: Array  # exp(log_initial - initial_offset), (B, K); the forward pass writes into it
    initial_offset: Array  # (B,): 0, or the largest entry of a potential that is no probability
    transition_offset: Array  # (S, R)
    any_offset: bool
    status: IntArray  # (B,)

    def of(self, b: int) -> tuple[Array, Array, Array]:
        """Transition, log-transition and offset of one sequence, (1, R, K, K) and (1, R)."""
        mine = slice(b, b + 1) if self.transition.shape[0] > 1 else slice(0, 1)
        return self.transition[mine], self.log_transition[mine], self.transition_offset[mine]

    def transposed(self) -> Array:
        """The transition matrices with the target state first."""
        return np.ascontiguousarray(self.transition.swapaxes(-1, -2))


class _Forward(NamedTuple):
    """What a forward pass leaves; `predicted` and `emission` only on request.

    predicted (B, T, K) holds weights, but their logarithms where status is not SCALED.
    log p(y_t | y_<t) = log_normaliser + shift (+ offsets), (B, T).
    """

    predicted: Array
    emission: Array
    log_normaliser: Array
    shift: Array
    status: IntArray
    impossible_at: IntArray
    log_steps: Array


def _problem(log_initial: Tensor, log_transition: Tensor, log_observation: Tensor, lengths: Tensor) -> _Problem:
    arrays = [t.detach().contiguous().numpy() for t in (log_initial, log_transition, log_observation, lengths)]
    initial, transition, observation, length = arrays
    _check(initial, transition, observation, length)
    belief, exponential = np.empty_like(initial), np.empty_like(transition)
    initial_offset = np.empty(initial.shape[0])
    transition_offset = np.empty(transition.shape[:2])
    status = np.zeros(initial.shape[0], dtype=np.int64)
    any_offset = scaled.shift_parameters(
        initial, transition, belief, exponential, initial_offset, transition_offset, status
    )
    with np.errstate(all="ignore"):
        np.exp(belief, out=belief)
        np.exp(exponential, out=exponential)
    return _Problem(
        initial, transition, observation, length, exponential, belief, initial_offset, transition_offset,
        bool(any_offset), status,
    )  # fmt: skip


def _check(log_initial: Any, log_transition: Any, log_observation: Any, lengths: Any) -> None:
    """Raise on shapes and types that the kernels, which do not check, would read past."""
    for name, array in (("initial", log_initial), ("transition", log_transition), ("observation", log_observation)):
        if array.dtype != np.float64:
            raise TypeError(f"log_{name} must be float64, not {array.dtype}")
    if log_observation.ndim != 3 or log_transition.ndim != 4 or lengths.dtype != np.int64:
        raise ValueError("expected log_transition (S, R, K, K), log_observation (B, T, K) and integer lengths (B,)")
    b, t, k = log_observation.shape
    sets, times = log_transition.shape[:2]
    if log_initial.shape != (b, k) or log_transition.shape[2:] != (k, k) or lengths.shape != (b,) or k == 0:
        raise ValueError(
            f"shapes do not fit: log_initial {log_initial.shape}, log_transition {log_transition.shape}, "
            f"log_observation {log_observation.shape}, lengths {lengths.shape}"
        )
    if sets not in (1, b) or times not in (1, t):
        raise ValueError(f"log_transition must have shape (1 or {b}, 1 or {t}, {k}, {k}), not {log_transition.shape}")
    if b > 0 and not 0 <= lengths.min() <= lengths.max() <= t:
        raise ValueError(f"lengths must be between 0 and {t}, not {lengths.min()} .. {lengths.max()}")


def _run_forward(problem: _Problem, keep: bool) -> _Forward:
    """Filter every sequence: scaled first, then with logarithms where scaling would lose a state."""
    b, t, k = problem.log_observation.shape
    normaliser, shift = np.ones((b, t)), np.zeros((b, t))
    kept = (b, t, k) if keep else (0, 0, 0)
    predicted, emission = np.empty(kept), np.empty(kept)
    with np.errstate(all="ignore"):
        _scaled_blocks(problem, predicted, emission, normaliser, shift, keep)
        log_normaliser = np.log(normaliser, out=normaliser)
    impossible_at = np.full(b, -1, dtype=np.int64)
    for sequence in _which(problem.status != scaled.SCALED):
        _careful_forward(problem, sequence, predicted, log_normaliser, shift, impossible_at, keep)
    log_steps = log_normaliser + shift
    if problem.any_offset:
        _add_offsets(problem, log_steps)
    return _Forward(predicted, emission, log_normaliser, shift, problem.status, impossible_at, log_steps)


def _scaled_blocks(
    problem: _Problem, predicted: Array, emission: Array, normaliser: Array, shift: Array, keep: bool
) -> None:
    """Exponentiate and filter block by block, so that a block is filtered while it is in the cache."""
    b, t, k = problem.log_observation.shape
    steps = max(1, min(t, BLOCK // k))
    sequences = max(1, min(b, BLOCK // (k * max(t, 1))))
    scratch = np.empty((0 if keep else 2, sequences * steps * k))
    for first in range(0, b, sequences):
        for start in range(0, t, steps):
            shape = (min(sequences, b - first), min(steps, t - start), k)
            if keep:
                index = (slice(first, first + shape[0]), slice(start, start + shape[1]))
                e, u = emission[index], predicted[index]
            else:
                size = shape[0] * shape[1] * k
                e, u = scratch[0, :size].reshape(shape), scratch[1, :size].reshape(shape)
            scaled.shift_emissions(problem.log_observation, problem.lengths, first, start, e, shift)
            np.exp(e, out=e)
            scaled.forward(
                problem.belief, problem.transition, problem.log_transition, problem.log_observation, e,
                problem.lengths, first, start, u, normaliser, problem.status,
            )  # fmt: skip


def _careful_forward(
    problem: _Problem,
    b: int,
    predicted: Array,
    log_normaliser: Array,
    shift: Array,
    impossible_at: IntArray,
    keep: bool,
) -> None:
    """Redo one sequence with logarithms, and find out whether it is impossible."""
    row = predicted[b] if keep else np.empty(problem.log_observation.shape[1:])
    log_normaliser[b] = 0.0
    row[problem.lengths[b] :] = 0.0
    if problem.lengths[b] > 0:
        impossible_at[b] = careful.forward(
            problem.log_initial[b], problem.initial_offset[b], *problem.of(b), problem.log_observation[b],
            shift[b], problem.lengths[b], row, log_normaliser[b],
        )  # fmt: skip
    if impossible_at[b] >= 0:
        problem.status[b] = scaled.IMPOSSIBLE


def _add_offsets(problem: _Problem, log_steps: Array) -> None:
    """Give back what was subtracted from parameters that are potentials rather than probabilities."""
    inside = np.arange(log_steps.shape[1]) < problem.lengths[:, None]
    log_steps += np.where(inside, problem.transition_offset, 0.0)
    log_steps[:, :1] += np.where(inside[:, :1], problem.initial_offset[:, None] - problem.transition_offset[:, :1], 0.0)


def _take_logarithms(values: Array, status: IntArray) -> Array:
    """log(values), in place, where the sequence was scaled; the others hold logarithms already."""
    with np.errstate(all="ignore"):
        if not status.any():
            return np.log(values, out=values)
        for b in _which(status == scaled.SCALED):
            np.log(values[b], out=values[b])
    return values


def _fill_padding(problem: _Problem, table: Array, value: float) -> None:
    """Overwrite the padded steps of a table (B, T, K)."""
    steps = table.shape[1]
    if problem.lengths.size and problem.lengths.min() < steps:
        table[np.arange(steps) >= problem.lengths[:, None]] = value


class _Backward(NamedTuple):
    """What a backward pass leaves: beta and evidence of the scaled sequences, (B, T, K) and (B, T)."""

    beta: Array
    evidence: Array
    status: IntArray


def _run_backward(problem: _Problem, predicted: Array, emission: Array, status: IntArray) -> _Backward:
    """The scaled adjoint recursion; sequences it cannot represent come back with status CAREFUL."""
    backward = _Backward(np.empty_like(predicted), np.empty(predicted.shape[:2]), status.copy())
    scaled.backward(
        problem.transposed(), problem.log_transition, problem.log_observation, emission, predicted,
        problem.lengths, backward.status, backward.beta, backward.evidence,
    )  # fmt: skip
    return backward


def _careful_expectations(
    problem: _Problem, b: int, predicted: Array, was_scaled: bool, weight: float, log_gamma: Array, xi: Array
) -> None:
    """Backward pass and expectations of one sequence with logarithms; `xi` (R, K, K) is added to."""
    n = int(problem.lengths[b])
    with np.errstate(all="ignore"):
        log_predicted = np.log(predicted[b]) if was_scaled else predicted[b]
    log_observation = problem.log_observation[b]
    transition, log_transition, offset = problem.of(b)
    shift = np.zeros(log_observation.shape[0])
    if n > 0:
        largest = log_observation[:n].max(-1)
        shift[:n] = np.where(largest > -np.inf, largest, 0.0)
        log_beta = np.empty_like(log_observation)
        transposed = np.ascontiguousarray(transition.swapaxes(-1, -2))
        careful.backward(transposed, log_transition, offset, log_observation, shift, n, log_beta)
        careful.expectations(
            transition, log_transition, offset, log_observation, shift, log_predicted, log_beta, n, weight,
            log_gamma, xi,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------- log_prob


def _total(forward: _Forward) -> Tensor:
    """log p(y) per sequence: numpy's pairwise sum over the steps."""
    return torch.from_numpy(forward.log_steps.sum(-1))


_INPUTS = "Tensor log_initial, Tensor log_transition, Tensor log_observation, Tensor lengths"


@torch.library.custom_op(
    "probseq::hmm_log_prob",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _log_prob_op(
    log_initial: Tensor, log_transition: Tensor, log_observation: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p(y) (B,), and for the adjoint: predicted, emission (B, T, K) and status (B,)."""
    forward = _run_forward(_problem(log_initial, log_transition, log_observation, lengths), keep=True)
    workspaces = (torch.from_numpy(array) for array in (forward.predicted, forward.emission, forward.status))
    return (_total(forward), *workspaces)  # type: ignore[return-value]


@torch.library.custom_op(
    "probseq::hmm_log_prob_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor gradient, {_INPUTS}, Tensor predicted, Tensor emission, Tensor status)"
    " -> (Tensor, Tensor, Tensor)",
)
def _log_prob_backward_op(
    gradient: Tensor,
    log_initial: Tensor,
    log_transition: Tensor,
    log_observation: Tensor,
    lengths: Tensor,
    predicted: Tensor,
    emission: Tensor,
    status: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of sum(gradient * log_prob): gamma_0, xi and gamma, weighted by the incoming gradient."""
    problem = _problem(log_initial, log_transition, log_observation, lengths)
    weights = gradient.detach().contiguous().numpy()
    u, e, before = predicted.detach().numpy(), emission.detach().numpy(), status.numpy()
    backward = _run_backward(problem, u, e, before)
    xi = np.zeros_like(problem.transition)
    gamma = backward.beta
    scaled.expectations(
        problem.transition, e, u, backward.beta, backward.evidence, problem.lengths, backward.status, weights, gamma, xi
    )
    for b in _which(backward.status == scaled.CAREFUL):
        target = xi[b] if xi.shape[0] > 1 else xi[0]
        _careful_expectations(problem, b, u, bool(before[b] == scaled.SCALED), float(weights[b]), gamma[b], target)
        inside = gamma[b, : problem.lengths[b]]
        np.multiply(np.exp(inside), weights[b], out=inside)
    gamma[backward.status == scaled.IMPOSSIBLE] = 0.0
    _fill_padding(problem, gamma, 0.0)
    first = gamma[:, 0].copy() if u.shape[1] > 0 else np.zeros_like(problem.log_initial)
    return torch.from_numpy(first), torch.from_numpy(xi), torch.from_numpy(gamma)


@_log_prob_op.register_fake
def _(log_initial: Tensor, log_transition: Tensor, log_observation: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    table = log_observation.shape
    return (
        log_observation.new_empty(table[:1]),
        log_observation.new_empty(table),
        log_observation.new_empty(table),
        torch.empty_like(lengths),
    )


@_log_prob_backward_op.register_fake
def _(
    gradient: Tensor, log_initial: Tensor, log_transition: Tensor, log_observation: Tensor, *rest: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (log_initial, log_transition, log_observation)
    return tuple(x.new_empty(x.shape) for x in inputs)  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    workspaces = output[1:]
    ctx.mark_non_differentiable(*workspaces)
    ctx.save_for_backward(*inputs, *workspaces)


def _adjoint(ctx: Any, gradient: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*_log_prob_backward_op(gradient, *ctx.saved_tensors), None)


_log_prob_op.register_autograd(_adjoint, setup_context=_save)


_FORWARD_MODE = "the HMM log-likelihood has no forward-mode derivative: use reverse mode"
_SECOND = "the HMM log-likelihood has no second derivatives: difference its gradient instead"


class _LogProb(torch.autograd.Function):
    """The same adjoint as the op's, for eager calls: it serves `torch.func.grad` too, and refuses forward mode.

    Alone, an op would return zero tangents in forward mode, silently.
    """

    @staticmethod
    def forward(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _log_prob_op(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        _save(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (*_Adjoint.apply(gradients[0], *ctx.saved_tensors), None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        raise NotImplementedError(_FORWARD_MODE)


class _Adjoint(torch.autograd.Function):
    """The gradient, which refuses to be differentiated again."""

    @staticmethod
    def forward(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _log_prob_backward_op(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError(_SECOND)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        raise NotImplementedError(_SECOND)


def log_prob(
    log_initial: Float[Tensor, "batch state"],
    log_transition: Float[Tensor, "sets times state state"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """log p(y), differentiable once in reverse mode. Satisfies log_prob == filter(...).log_prob.sum(-1).

    -inf for an impossible sequence, with zero gradients; 0 for one of length 0.
    """
    inputs = (log_initial, log_transition, log_observation)
    if torch.compiler.is_compiling() or type(log_observation.data) is not Tensor:
        return _log_prob_op(*inputs, lengths)[0]
    tracked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    if tracked or forward_ad._current_level >= 0:
        return _LogProb.apply(*inputs, lengths)[0]
    return _total(
        _run_forward(_problem(*inputs, lengths), keep=False)
    )  # dispatch would cost more than a short sequence


# ---------------------------------------------------------------------------------------------- the rest


@torch.no_grad()
def filter(
    log_initial: Float[Tensor, "batch state"],
    log_transition: Float[Tensor, "sets times state state"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
) -> Filtered:
    """log p(z_t | y_<t), log p(z_t | y_<=t) and log p(y_t | y_<t); in padding the last belief and 0.

    log_updated = log_predicted + log_observation - log_prob. A step of probability zero has log_prob -inf, leaves
    the belief as it was predicted, and the filter goes on.
    """
    problem = _problem(log_initial, log_transition, log_observation, lengths)
    forward = _run_forward(problem, keep=True)
    log_predicted = _take_logarithms(forward.predicted, forward.status)
    log_updated = forward.emission  # no longer needed
    scaled.finish_filter(
        problem.log_initial, problem.log_observation, forward.shift, forward.log_normaliser,
        problem.lengths, log_predicted, log_updated,
    )  # fmt: skip
    return Filtered(*(torch.from_numpy(array) for array in (log_predicted, log_updated, forward.log_steps)))


@torch.no_grad()
def posterior(
    log_initial: Float[Tensor, "batch state"],
    log_transition: Float[Tensor, "sets times state state"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
) -> Posterior:
    """log p(z_t | y) and the expected transitions sum_t p(z_{t-1}, z_t | y), t >= 1 (each step's own where R = T).

    The derivatives of log_prob, from the same kernels: gamma in log_observation, xi_sum in log_transition.
    """
    problem = _problem(log_initial, log_transition, log_observation, lengths)
    forward = _run_forward(problem, keep=True)
    backward = _run_backward(problem, forward.predicted, forward.emission, forward.status)
    b, _, k = problem.log_observation.shape
    xi = np.zeros((b, problem.transition.shape[1], k, k))
    gamma = forward.emission  # each row is read before it is overwritten
    scaled.expectations(
        problem.transition, forward.emission, forward.predicted, backward.beta, backward.evidence,
        problem.lengths, backward.status, np.ones(b), gamma, xi,
    )  # fmt: skip
    log_gamma = _log_smoothed(problem, forward, backward, gamma)
    for sequence in _which(backward.status == scaled.CAREFUL):
        was_scaled = bool(forward.status[sequence] == scaled.SCALED)
        _careful_expectations(problem, sequence, forward.predicted, bool(was_scaled), 1.0, log_gamma[sequence], xi[sequence])
    log_gamma[backward.status == scaled.IMPOSSIBLE] = -np.inf
    _fill_padding(problem, log_gamma, -np.inf)
    return Posterior(
        _total(forward), torch.from_numpy(log_gamma), torch.from_numpy(xi), torch.from_numpy(forward.impossible_at)
    )


def _log_smoothed(problem: _Problem, forward: _Forward, backward: _Backward, gamma: Array) -> Array:
    """log gamma, in place; where gamma left the range of numbers, from the logarithms of its factors."""
    tiny = np.nonzero(gamma < scaled.SMALLEST_EVIDENCE)
    step = tiny[:2]
    with np.errstate(all="ignore"):
        log_gamma = np.log(gamma, out=gamma)
        if step[0].size:
            log_gamma[tiny] = (
                np.log(forward.predicted[tiny])
                + np.log(backward.beta[tiny])
                + (problem.log_observation[tiny] - forward.shift[step])
                - np.log(backward.evidence[step])
            )
    return log_gamma


@torch.no_grad()
def viterbi(
    log_initial: Float[Tensor, "batch state"],
    log_transition: Float[Tensor, "sets times state state"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
) -> Path:
    """argmax_z log p(z, y), ties to the lowest index, and its value; an impossible sequence has score -inf, states -1.

    No sampled path scores higher.
    """
    arrays = [x.detach().contiguous().numpy() for x in (log_initial, log_transition, log_observation, lengths)]
    _check(*arrays)
    b, t, k = arrays[2].shape
    states, score = np.empty((b, t), dtype=np.int64), np.empty(b)
    paths.decode(*arrays, np.empty((1, t, k)), states, score)  # pyright: ignore[reportCallIssue]
    return Path(torch.from_numpy(states), torch.from_numpy(score))


@torch.no_grad()
def sample_paths(
    log_initial: Float[Tensor, "batch state"],
    log_transition: Float[Tensor, "sets times state state"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
    uniforms: Float[Tensor, "draw batch time"],
) -> Int[Tensor, "draw batch time"]:
    """Draws from p(z | y) by inversion of `uniforms` in [0, 1); -1 in padding and for impossible sequences.

    Each draw is a deterministic function of its uniforms, backwards in time: z_t ~ p(z_t | y_<=t) p(z_{t+1} | z_t).
    """
    problem = _problem(log_initial, log_transition, log_observation, lengths)
    draws = uniforms.detach().contiguous().numpy()
    if draws.dtype != np.float64 or draws.ndim != 3 or draws.shape[1:] != problem.log_observation.shape[:2]:
        raise ValueError(f"uniforms must be float64 (draws, batch, time), not {draws.dtype} {draws.shape}")
    forward = _run_forward(problem, keep=True)
    states = np.full(draws.shape, -1, dtype=np.int64)
    transposed = problem.transposed()
    paths.sample(transposed, forward.emission, forward.predicted, problem.lengths, forward.status, draws, states)
    for b in _which(forward.status == scaled.CAREFUL):
        mine = np.full((draws.shape[0], draws.shape[2]), -1, dtype=np.int64)
        careful.sample(
            problem.of(b)[1], problem.log_observation[b], forward.shift[b], forward.predicted[b],
            int(problem.lengths[b]), np.ascontiguousarray(draws[:, b]), mine,
        )  # fmt: skip
        states[:, b] = mine
    return torch.from_numpy(states)
