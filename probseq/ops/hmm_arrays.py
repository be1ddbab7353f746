"""The passes over a hidden Markov model on numpy arrays: which kernel runs, and what is done where it gives up.

    problem_of(...)  exponentials, offsets       run_forward(problem)                u_t, log p(y_t | y_<t)
                                                 run_backward(problem, u, e, ...)    h_t, the adjoint

The scaled recursions (`probseq.kernels.hmm`, `hmm_adjoint`) run first, over blocks of steps that stay in the cache.
A sequence in which they could lose a state that matters comes back with status CAREFUL and is done again with
logarithms (`hmm_log`), alone; one without any path that explains it gets status IMPOSSIBLE. Symbols and shapes are
those of the kernels and of `probseq.ops.hmm`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probseq.kernels import hmm as scaled
from probseq.kernels import hmm_adjoint as adjoint
from probseq.kernels import hmm_log as careful

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

BLOCK = 1 << 15  # emission entries handled together: the block and its filtered weights stay in the cache


def which(mask: NDArray[np.bool_]) -> list[int]:
    """The sequences for which `mask` (B,) holds."""
    return np.flatnonzero(mask).tolist()


class Problem(NamedTuple):
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


class Forward(NamedTuple):
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


def problem_of(log_initial: Any, log_transition: Any, log_observation: Any, lengths: Any) -> Problem:
    """Check the four inputs and take the exponentials that every pass needs."""
    check(log_initial, log_transition, log_observation, lengths)
    belief, exponential = np.empty_like(log_initial), np.empty_like(log_transition)
    initial_offset = np.empty(log_initial.shape[0])
    transition_offset = np.empty(log_transition.shape[:2])
    status = np.zeros(log_initial.shape[0], dtype=np.int64)
    any_offset = scaled.shift_parameters(
        log_initial, log_transition, belief, exponential, initial_offset, transition_offset, status
    )
    with np.errstate(all="ignore"):
        np.exp(belief, out=belief)
        np.exp(exponential, out=exponential)
    return Problem(
        log_initial, log_transition, log_observation, lengths, exponential, belief, initial_offset,
        transition_offset, bool(any_offset), status,
    )  # fmt: skip


def check(log_initial: Any, log_transition: Any, log_observation: Any, lengths: Any) -> None:
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


def run_forward(problem: Problem, keep: bool) -> Forward:
    """Filter every sequence: scaled first, then with logarithms where scaling would lose a state."""
    b, t, k = problem.log_observation.shape
    normaliser, shift = np.ones((b, t)), np.zeros((b, t))
    kept = (b, t, k) if keep else (0, 0, 0)
    predicted, emission = np.empty(kept), np.empty(kept)
    with np.errstate(all="ignore"):
        _scaled_blocks(problem, predicted, emission, normaliser, shift, keep)
        log_normaliser = np.log(normaliser, out=normaliser)
    impossible_at = np.full(b, -1, dtype=np.int64)
    for sequence in which(problem.status != scaled.SCALED):
        _careful_forward(problem, sequence, predicted, log_normaliser, shift, impossible_at, keep)
    log_steps = log_normaliser + shift
    if problem.any_offset:
        _add_offsets(problem, log_steps)
    return Forward(predicted, emission, log_normaliser, shift, problem.status, impossible_at, log_steps)


def _scaled_blocks(
    problem: Problem, predicted: Array, emission: Array, normaliser: Array, shift: Array, keep: bool
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
    problem: Problem,
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
            shift[b], problem.lengths[b], row, np.empty_like(row), log_normaliser[b],
        )  # fmt: skip
    if impossible_at[b] >= 0:
        problem.status[b] = scaled.IMPOSSIBLE


def _add_offsets(problem: Problem, log_steps: Array) -> None:
    """Give back what was subtracted from parameters that are potentials rather than probabilities."""
    inside = np.arange(log_steps.shape[1]) < problem.lengths[:, None]
    log_steps += np.where(inside, problem.transition_offset, 0.0)
    log_steps[:, :1] += np.where(inside[:, :1], problem.initial_offset[:, None] - problem.transition_offset[:, :1], 0.0)


def take_logarithms(values: Array, status: IntArray) -> Array:
    """log(values), in place, where the sequence was scaled; the others hold logarithms already."""
    with np.errstate(all="ignore"):
        if not status.any():
            return np.log(values, out=values)
        for b in which(status == scaled.SCALED):
            np.log(values[b], out=values[b])
    return values


def fill_padding(problem: Problem, table: Array, value: float) -> None:
    """Overwrite the padded steps of a table (B, T, K)."""
    steps = table.shape[1]
    if problem.lengths.size and problem.lengths.min() < steps:
        table[np.arange(steps) >= problem.lengths[:, None]] = value


class Backward(NamedTuple):
    """What a backward pass leaves: beta and evidence of the scaled sequences, (B, T, K) and (B, T)."""

    beta: Array
    evidence: Array
    status: IntArray


def run_backward(problem: Problem, predicted: Array, emission: Array, status: IntArray) -> Backward:
    """The scaled adjoint recursion; sequences it cannot represent come back with status CAREFUL."""
    backward = Backward(np.empty_like(predicted), np.empty(predicted.shape[:2]), status.copy())
    adjoint.backward(
        problem.transposed(), problem.log_transition, problem.log_observation, emission, predicted,
        problem.lengths, backward.status, backward.beta, backward.evidence,
    )  # fmt: skip
    return backward


def careful_expectations(
    problem: Problem, b: int, predicted: Array, was_scaled: bool, weight: float, log_gamma: Array, xi: Array
) -> None:
    """Backward pass and expectations of one sequence with logarithms; `xi` (R, K, K) is added to."""
    n = int(problem.lengths[b])
    log_observation = problem.log_observation[b]
    transition, log_transition, offset = problem.of(b)
    shift = np.zeros(log_observation.shape[0])
    if n > 0:
        largest = log_observation[:n].max(-1)
        shift[:n] = np.where(largest > -np.inf, largest, 0.0)
        log_predicted, low_predicted = _careful_predicted(problem, b, predicted[b] if was_scaled else None, shift)
        log_beta, low_beta = np.empty_like(log_observation), np.empty_like(log_observation)
        transposed = np.ascontiguousarray(transition.swapaxes(-1, -2))
        careful.backward(transposed, log_transition, offset, log_observation, shift, n, log_beta, low_beta)
        careful.expectations(
            transition, log_transition, offset, log_observation, shift, log_predicted, low_predicted, log_beta,
            low_beta, n, weight, log_gamma, xi,
        )  # fmt: skip


def _careful_predicted(problem: Problem, b: int, scaled_weights: Array | None, shift: Array) -> tuple[Array, Array]:
    """log u_t of one sequence in two parts, (T, K): from scaled weights if there are some, else filtered once more."""
    low = np.zeros_like(problem.log_observation[b])
    if scaled_weights is not None:
        with np.errstate(all="ignore"):
            return np.log(scaled_weights), low
    high = np.empty_like(low)
    careful.forward(
        problem.log_initial[b], problem.initial_offset[b], *problem.of(b), problem.log_observation[b], shift,
        problem.lengths[b], high, low, np.empty(len(shift)),
    )  # fmt: skip
    return high, low


def log_smoothed(problem: Problem, forward: Forward, backward: Backward, gamma: Array) -> Array:
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
