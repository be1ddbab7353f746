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

so one backward pass gives the smoother, the statistics of EM and the gradient. The passes are in `hmm_arrays`, over
the kernels `probseq.kernels.hmm` and `hmm_adjoint` (scaled recursions, which hand over what they cannot represent),
`hmm_log` (careful ones) and `viterbi`. Second derivatives and forward mode raise (`modes`).

Reference: Rabiner (1989), Proc. IEEE 77, equations 19-37; Cappe, Moulines & Ryden (2005), chapters 3 and 10.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probseq.kernels import hmm as scaled
from probseq.kernels import hmm_log as careful
from probseq.kernels import viterbi as paths
from probseq.kernels.rows import width_of
from probseq.ops import hmm_arrays as arrays
from probseq.ops.hmm_arrays import Forward, Problem
from probseq.ops.modes import OnceDifferentiable, array_of, operator, refuse_forward_mode, untracked
from probseq.ops.threads import over_blocks


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


class Expectations(NamedTuple):
    """log_prob (B,), gamma (B, T, K), xi_sum (1, 1, K, K) or (B, T, K, K), impossible_at (B,); 0 in padding."""

    log_prob: Tensor
    gamma: Tensor
    xi_sum: Tensor
    impossible_at: Tensor


class Path(NamedTuple):
    """States (B, T), -1 in padding, and log p(states, y), (B,)."""

    states: Tensor
    score: Tensor


# ---------------------------------------------------------------------------------------------- log_prob


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
    if untracked(*inputs):
        return _total(arrays.run_forward(_problem(*inputs, lengths), keep=False))
    return _differentiable(*inputs, lengths)[0]


def _problem(*inputs: Tensor) -> Problem:
    return arrays.problem_of(*map(array_of, inputs))


def _total(forward: Forward) -> Tensor:
    """log p(y) per sequence: numpy's pairwise sum over the steps."""
    return torch.from_numpy(forward.log_steps.sum(-1))


_INPUTS = "Tensor log_initial, Tensor log_transition, Tensor log_observation, Tensor lengths"


def _shapes_of_value(
    log_initial: Tensor, log_transition: Tensor, log_observation: Tensor, lengths: Tensor
) -> tuple[Tensor, ...]:
    b, t, k = log_observation.shape
    kept = (b, t, width_of(k)) if _saves(log_observation) else (b, 0, 0)
    made = (log_observation.new_empty(shape) for shape in ((b,), kept, kept, (b, t)))
    return (*made, torch.empty_like(lengths))


def _saves(log_observation: Tensor) -> bool:
    """Whether the value leaves its work for the adjoint; else that filters again."""
    b, t, k = log_observation.shape
    return arrays.keeps(b, t, k, 1)


@operator("hmm_log_prob", f"({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _shapes_of_value)
def _value(log_initial: Tensor, log_transition: Tensor, log_observation: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    """log p(y) (B,), and for the adjoint: predicted, emission (B, T, W), shift (B, T) and status (B,)."""
    problem = _problem(log_initial, log_transition, log_observation, lengths)
    forward = arrays.run_forward(problem, _saves(log_observation))
    workspaces = (forward.predicted, forward.emission, forward.shift, forward.status)
    return (_total(forward), *map(torch.from_numpy, workspaces))


def _shapes_of_adjoint(gradient: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    return tuple(argument.new_empty(argument.shape) for argument in arguments[:3])


@operator(
    "hmm_log_prob_backward",
    f"(Tensor gradient, {_INPUTS}, Tensor predicted, Tensor emission, Tensor shift, Tensor status) -> "
    "(Tensor, Tensor, Tensor)",
    _shapes_of_adjoint,
)
def _adjoint(gradient: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    """Gradients of sum(gradient * log_prob): gamma_0, xi and gamma, weighted by the incoming gradient."""
    problem = _problem(*arguments[:4])
    b, t, _ = problem.log_observation.shape
    predicted, emission, shift, status = map(array_of, arguments[4:])
    forward = Forward(predicted, emission, shift, shift, status, status, shift)  # what a backward pass reads of it
    if not emission.size:
        forward = _forward_to_return(problem)
    shared = problem.transition.shape[0] != b
    backward = arrays.run_backward(problem, forward, array_of(gradient), places=None if shared else np.arange(b))
    xi = backward.xi.sum(0, keepdims=True) if shared else backward.xi
    first = backward.gamma[:, 0].copy() if t > 0 else np.zeros_like(problem.log_initial)
    return torch.from_numpy(first), torch.from_numpy(xi), torch.from_numpy(backward.gamma)


_differentiable = OnceDifferentiable("HMM log-likelihood", _value, _adjoint, n_inputs=3, kept=(0, 1, 2, 3))

# ---------------------------------------------------------------------------------------------- the rest


def _undifferentiated(*inputs: Tensor) -> Problem:
    refuse_forward_mode("posterior of an HMM", *inputs)
    return _problem(*inputs)


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
    problem = _undifferentiated(log_initial, log_transition, log_observation, lengths)
    forward = arrays.run_forward(problem, keep=True)
    log_predicted = arrays.log_predicted(problem, forward)
    log_updated = np.empty_like(log_predicted)
    scaled.finish_filter(
        problem.log_initial, problem.log_observation, forward.shift, forward.log_normaliser,
        problem.lengths, log_predicted, log_updated,
    )  # fmt: skip
    return Filtered(*(torch.from_numpy(array) for array in (log_predicted, log_updated, forward.log_steps)))


def posterior(
    log_initial: Float[Tensor, "batch state"],
    log_transition: Float[Tensor, "sets times state state"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
) -> Posterior:
    """log p(z_t | y) and the expected transitions sum_t p(z_{t-1}, z_t | y), t >= 1 (each step's own where R = T).

    The derivatives of log_prob, from the same kernels: gamma in log_observation, xi_sum in log_transition.
    """
    problem = _undifferentiated(log_initial, log_transition, log_observation, lengths)
    forward, backward = _both(problem, logarithms=True, places=np.arange(len(problem.lengths)))
    made = (backward.gamma, backward.xi, forward.impossible_at)
    return Posterior(_total(forward), *map(torch.from_numpy, made))


def expectations(
    log_initial: Float[Tensor, "batch state"],
    log_transition: Float[Tensor, "sets times state state"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
) -> Expectations:
    """What EM needs: p(z_t | y) and the expected transitions of all sequences together.

    Satisfies gamma == posterior(...).log_gamma.exp() and xi_sum == posterior(...).xi_sum.sum(0), except that the moves
    of every step are kept per sequence where R = T.
    """
    problem = _undifferentiated(log_initial, log_transition, log_observation, lengths)
    per_step = problem.transition.shape[1] > 1
    forward, backward = _both(problem, logarithms=False, places=np.arange(len(problem.lengths)) if per_step else None)
    xi = backward.xi if per_step else backward.xi.sum(0, keepdims=True)
    made = (backward.gamma, xi, forward.impossible_at)
    return Expectations(_total(forward), *map(torch.from_numpy, made))


def _forward_to_return(problem: Problem) -> Forward:
    """A forward pass that a backward pass follows."""
    b, t, k = problem.log_observation.shape
    return arrays.run_forward(problem, arrays.keeps(b, t, k, problem.transition.shape[1]))


def _both(problem: Problem, *, logarithms: bool, places: Any) -> tuple[Forward, arrays.Backward]:
    """Forwards and back, every sequence with weight 1."""
    forward = _forward_to_return(problem)
    ones = np.ones(len(problem.lengths))
    return forward, arrays.run_backward(problem, forward, ones, logarithms=logarithms, places=places)


def viterbi(
    log_initial: Float[Tensor, "batch state"],
    log_transition: Float[Tensor, "sets times state state"],
    log_observation: Float[Tensor, "batch time state"],
    lengths: Int[Tensor, " batch"],
) -> Path:
    """argmax_z log p(z, y), ties to the lowest index, and its value; an impossible sequence has score -inf, states -1.

    No sampled path scores higher.
    """
    refuse_forward_mode("most probable path of an HMM", log_initial, log_transition, log_observation)
    inputs = [array_of(tensor) for tensor in (log_initial, log_transition, log_observation, lengths)]
    arrays.check(*inputs)
    b, t, k = inputs[2].shape
    states, score = np.empty((b, t), dtype=np.int64), np.empty(b)

    def run(rows: slice) -> None:
        initial, moves, table, ends = inputs
        moves = moves[rows] if moves.shape[0] > 1 else moves
        arguments = (initial[rows], moves, table[rows], ends[rows], np.empty((1, t, k)), states[rows], score[rows])
        paths.decode(*arguments)

    over_blocks(run, b, b * t * k * k)
    return Path(torch.from_numpy(states), torch.from_numpy(score))


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
    problem = _undifferentiated(log_initial, log_transition, log_observation, lengths)
    draws = uniforms.detach().contiguous().numpy()
    if draws.dtype != np.float64 or draws.ndim != 3 or draws.shape[1:] != problem.log_observation.shape[:2]:
        raise ValueError(f"uniforms must be float64 (draws, batch, time), not {draws.dtype} {draws.shape}")
    forward = arrays.run_forward(problem, keep=True)
    states = np.full(draws.shape, -1, dtype=np.int64)
    transposed = problem.transposed()
    paths.sample(transposed, forward.emission, forward.predicted, problem.lengths, forward.status, draws, states)
    for b in arrays.which(forward.status == scaled.CAREFUL):
        mine = np.full((draws.shape[0], draws.shape[2]), -1, dtype=np.int64)
        careful.sample(
            problem.of(b)[1], problem.log_observation[b], forward.shift[b], forward.predicted[b],
            int(problem.lengths[b]), np.ascontiguousarray(draws[:, b]), mine,
        )  # fmt: skip
        states[:, b] = mine
    return torch.from_numpy(states)
