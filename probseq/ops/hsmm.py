"""Exact inference in a hidden semi-Markov model, as torch functions: likelihood, filter, posterior, Viterbi, sampling.

All functions take the same six tensors (float64, CPU; B sequences, T steps, K states, durations up to D)

    log_initial      (B, K, D)  log p(z_0 = k, elapsed e), may hold -inf; a fresh start has mass at e = 1 alone
    log_transition   (K, K)     log p(next state is j | state i has ended), may hold -inf
    log_ends         (K, D)     log p(state k ends | it has lasted e steps)
    log_lasts        (K, D)     log p(state k lasts on | it has lasted e steps), -inf at e = D
    log_observation  (B, T, K)  log p(y_t | z_t), may hold -inf; 0 for every state where y_t is unobserved
    lengths          (B,) int64 steps from lengths[b] on are padding, whose content (even NaN) does not matter

in time O(T K (K + D)), and satisfy

    log_prob == filter(...).log_prob.sum(-1)
    d log_prob / d log_initial = p(z_0 | y)            d log_prob / d log_observation_t = p(z_t = k | y)
    d log_prob / d log_transition = expected jumps     d log_prob / d log_ends, log_lasts = expected ends, lasting on

so one backward pass gives the smoother, the statistics of EM and the gradient. Kernels: `probseq.kernels.hsmm`.
Second derivatives and forward mode raise (`modes`). The gradient keeps a table (B, T, K, D).

Reference: Yu (2010), Artificial Intelligence 174; Guedon (2003), J. Comput. Graph. Stat. 12.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probseq.kernels import hsmm as kernels
from probseq.ops.modes import OnceDifferentiable, array_of, operator, refuse_forward_mode, untracked


class Filtered(NamedTuple):
    """Beliefs before and after each observation, (B, T, K, D), and log p(y_t | y_<t), (B, T)."""

    log_predicted: Tensor
    log_updated: Tensor
    log_prob: Tensor


class Posterior(NamedTuple):
    """Smoothed beliefs and expected counts over all sequences; `impossible_at` is the first impossible step, or -1.

    log_prob (B,), log_gamma (B, T, K, D), -inf in padding and for impossible sequences, jumps (K, K), ends (K, D),
    impossible_at (B,).
    """

    log_prob: Tensor
    log_gamma: Tensor
    jumps: Tensor
    ends: Tensor
    impossible_at: Tensor


class Path(NamedTuple):
    """States (B, T), -1 in padding and for impossible sequences, and log p(states and durations, y), (B,)."""

    states: Tensor
    score: Tensor


class _Forward(NamedTuple):
    predicted: Any
    updated: Any
    scores: Any


def log_prob(
    log_initial: Float[Tensor, "batch state elapsed"],
    log_transition: Float[Tensor, "state state"],
    log_ends: Float[Tensor, "state elapsed"],
    log_lasts: Float[Tensor, "state elapsed"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """log p(y), differentiable once in reverse mode. Satisfies log_prob == filter(...).log_prob.sum(-1).

    -inf for an impossible sequence, with zero gradients; 0 for one of length 0.
    """
    inputs = (log_initial, log_transition, log_ends, log_lasts, log_observation)
    if untracked(*inputs):
        return torch.from_numpy(_forward(*inputs, lengths, keep="nothing").scores.sum(-1))
    return _differentiable(*inputs, lengths)[0]


def _forward(*inputs: Tensor, keep: Literal["nothing", "updated", "both"] = "updated") -> _Forward:
    start, jumps, ends, lasts, table, lengths = map(array_of, inputs)
    b, t, k = table.shape
    d = ends.shape[1]
    predicted = np.empty((b, t if keep == "both" else 0, k, d))
    updated = np.empty((b, 0 if keep == "nothing" else t, k, d))
    scores = np.empty((b, t))
    kernels.forward(start, jumps, ends, lasts, table, lengths, predicted, updated, scores)
    return _Forward(predicted, updated, scores)


class _Backward(NamedTuple):
    gamma: Any  # (B, T, K, D) logarithms, -inf where there is nothing
    jumps: Any
    ends: Any
    lasts: Any


def _backward(updated: Any, scores: Any, weights: Any, *inputs: Tensor) -> _Backward:
    jumps, ends, lasts, table, lengths = map(array_of, inputs)
    made = _Backward(np.full(updated.shape, -np.inf), np.zeros_like(jumps), np.zeros_like(ends), np.zeros_like(lasts))
    possible = np.where(np.isfinite(scores).all(-1), weights, 0.0)
    kernels.backward(jumps, ends, lasts, table, lengths, updated, scores, possible, *made)
    return made


_INPUTS = (
    "Tensor log_initial, Tensor log_transition, Tensor log_ends, Tensor log_lasts, "
    "Tensor log_observation, Tensor lengths"
)


def _shapes_of_value(*arguments: Tensor) -> tuple[Tensor, ...]:
    ends, table = arguments[2], arguments[4]
    shapes = (table.shape[:1], (*table.shape, ends.shape[1]), table.shape[:2])
    return tuple(table.new_empty(shape) for shape in shapes)


@operator("hsmm_log_prob", f"({_INPUTS}) -> (Tensor, Tensor, Tensor)", _shapes_of_value)
def _value(*arguments: Tensor) -> tuple[Tensor, ...]:
    """log p(y) (B,), and for the adjoint: updated (B, T, K, D) and scores (B, T)."""
    forward = _forward(*arguments)
    return tuple(map(torch.from_numpy, (forward.scores.sum(-1), forward.updated, forward.scores)))


def _shapes_of_adjoint(gradient: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    return tuple(argument.new_empty(argument.shape) for argument in arguments[:5])


@operator(
    "hsmm_log_prob_backward",
    f"(Tensor gradient, {_INPUTS}, Tensor updated, Tensor scores) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _shapes_of_adjoint,
)
def _adjoint(gradient: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    """Gradients of sum(gradient * log_prob): expected counts, weighted by the incoming gradient."""
    weights, updated, scores = map(array_of, (gradient, *arguments[6:]))
    made = _backward(updated, scores, weights, *arguments[1:6])
    gamma = np.exp(made.gamma) * weights[:, None, None, None]
    first = gamma[:, 0].copy() if gamma.shape[1] else np.zeros(arguments[0].shape)
    return tuple(map(torch.from_numpy, (first, made.jumps, made.ends, made.lasts, gamma.sum(-1))))


_differentiable = OnceDifferentiable("HSMM log-likelihood", _value, _adjoint, n_inputs=5, kept=(0, 1, 2, 3, 4, 5))


@torch.no_grad()
def filter(
    log_initial: Float[Tensor, "batch state elapsed"],
    log_transition: Float[Tensor, "state state"],
    log_ends: Float[Tensor, "state elapsed"],
    log_lasts: Float[Tensor, "state elapsed"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
) -> Filtered:
    """log p(z_t | y_<t), log p(z_t | y_<=t) over (k, e) and log p(y_t | y_<t); in padding the last belief and 0.

    A step of probability zero has log_prob -inf, leaves the belief as it was predicted, and the filter goes on.
    """
    inputs = (log_initial, log_transition, log_ends, log_lasts, log_observation)
    refuse_forward_mode("filter of an HSMM", *inputs)
    return Filtered(*map(torch.from_numpy, _forward(*inputs, lengths, keep="both")))


@torch.no_grad()
def posterior(
    log_initial: Float[Tensor, "batch state elapsed"],
    log_transition: Float[Tensor, "state state"],
    log_ends: Float[Tensor, "state elapsed"],
    log_lasts: Float[Tensor, "state elapsed"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
) -> Posterior:
    """log p(z_t | y) over (k, e), expected jumps and expected ends: the derivatives of log_prob, by the same kernel."""
    inputs = (log_initial, log_transition, log_ends, log_lasts, log_observation)
    refuse_forward_mode("posterior of an HSMM", *inputs)
    forward = _forward(*inputs, lengths)
    made = _backward(forward.updated, forward.scores, np.ones(len(forward.scores)), *inputs[1:], lengths)
    impossible = forward.scores == -np.inf
    first = np.where(impossible.any(-1), impossible.argmax(-1), -1) if impossible.shape[1] else lengths.numpy() * 0 - 1
    return Posterior(*map(torch.from_numpy, (forward.scores.sum(-1), made.gamma, made.jumps, made.ends, first)))


@torch.no_grad()
def viterbi(
    log_initial: Float[Tensor, "batch state elapsed"],
    log_transition: Float[Tensor, "state state"],
    log_ends: Float[Tensor, "state elapsed"],
    log_lasts: Float[Tensor, "state elapsed"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
) -> Path:
    """The most probable states and segments, and their log p(., y). No sampled path scores higher."""
    inputs = (log_initial, log_transition, log_ends, log_lasts, log_observation)
    refuse_forward_mode("most probable path of an HSMM", *inputs)
    b, t, _ = log_observation.shape
    states, score = np.empty((b, t), dtype=np.int64), np.empty(b)
    kernels.decode(*map(array_of, (*inputs, lengths)), states, score)  # pyright: ignore[reportCallIssue]
    return Path(torch.from_numpy(states), torch.from_numpy(score))


@torch.no_grad()
def sample_paths(
    log_initial: Float[Tensor, "batch state elapsed"],
    log_transition: Float[Tensor, "state state"],
    log_ends: Float[Tensor, "state elapsed"],
    log_lasts: Float[Tensor, "state elapsed"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
    uniforms: Float[Tensor, "draw batch time"],
) -> Int[Tensor, "draw batch time"]:
    """Draws of states from p(z | y) by inversion of `uniforms` in [0, 1); -1 in padding and impossible sequences."""
    inputs = (log_initial, log_transition, log_ends, log_lasts, log_observation)
    refuse_forward_mode("paths of an HSMM", *inputs)
    forward = _forward(*inputs, lengths)
    possible = np.isfinite(forward.scores).all(-1)
    states = np.full(tuple(uniforms.shape), -1, dtype=np.int64)
    jumps, ends, sizes, draws = map(array_of, (log_transition, log_ends, lengths, uniforms))
    kernels.sample(jumps, ends, sizes, forward.updated, possible, draws, states)
    return torch.from_numpy(states)
