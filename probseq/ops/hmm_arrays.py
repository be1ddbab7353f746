"""The passes over a hidden Markov model on numpy arrays: which kernel runs, and what is done where it gives up.

    problem_of(...)  exponentials, offsets       run_forward(problem)                u_t, log p(y_t | y_<t)
                                                 run_backward(problem, forward)      gamma_t and the sum of xi_t

The scaled recursions (`probseq.kernels.hmm`, `hmm_adjoint`; `hmm_wide` backwards with many states) run first, in
threads over the sequences. A sequence in which they could lose a state that matters comes back with status CAREFUL and
is done again with logarithms (`hmm_log`), alone; one without any path that explains it gets status IMPOSSIBLE. Symbols
and shapes are those of the kernels and of `probseq.ops.hmm`.

A forward pass keeps e_t and u_t for the backward pass, unless these are more than `KEPT` numbers each. Else only u at
every sqrt(T)-th step is kept, or rarer where segments would have fewer than `SEGMENT` entries, and the segments between
are filtered again, last to first, while the backward pass goes through them (checkpointing, O(sqrt(T) W) memory beside
the table and its result).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probseq.kernels import hmm as scaled
from probseq.kernels import hmm_adjoint as adjoint
from probseq.kernels import hmm_log as careful
from probseq.kernels import hmm_wide as wide
from probseq.kernels.rows import are_between, width_of
from probseq.ops.memory import KEPT, aligned, empty
from probseq.ops.threads import groups_of, n_groups, over_blocks

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: entries of the emission table that a segment between checkpoints has at least
SEGMENT = 1 << 16


def which(mask: NDArray[np.bool_]) -> list[int]:
    """The sequences for which `mask` (B,) holds."""
    return np.flatnonzero(mask).tolist() if np.count_nonzero(mask) else []


class Problem(NamedTuple):
    """The inputs as arrays, with the exponentials that every pass needs."""

    log_initial: Array
    log_transition: Array
    log_observation: Array
    lengths: IntArray
    transition: Array  # exp(log_transition - transition_offset), (S, R, W, W)
    belief: Array  # exp(log_initial - initial_offset), (B, W)
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
        turned = aligned(self.transition.shape)
        turned[...] = self.transition.swapaxes(-1, -2)
        return turned

    @property
    def backward(self) -> Any:
        """The kernel of a backward pass: for many states that of whole registers."""
        is_wide = self.transition.shape[-1] > 8 and self.transition.shape[1] == 1
        return wide.backward if is_wide else adjoint.backward

    @property
    def n_operations(self) -> int:
        """Of a pass, roughly."""
        b, t, _ = self.log_observation.shape
        return b * t * self.transition.shape[-1] ** 2


class Forward(NamedTuple):
    """What a forward pass leaves; `predicted` and `emission` have no entries unless they were kept.

    predicted (B, T, W) holds weights, but their logarithms where status is not SCALED.
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
    width = width_of(log_initial.shape[1])
    belief = np.empty((log_initial.shape[0], width))
    exponential = aligned((*log_transition.shape[:2], width, width))
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
    if not are_between(lengths, 0, t):
        raise ValueError(f"lengths must be between 0 and {t}, not {lengths.min()} .. {lengths.max()}")


def keeps(b: Any, t: Any, k: Any, n_times: Any) -> bool:
    """Whether a forward pass should keep its work: it is small, or no larger than the transitions of every step."""
    return bool(n_times > 1 or b * t * width_of(k) <= KEPT)


def run_forward(problem: Problem, keep: bool) -> Forward:
    """Filter every sequence: scaled first, then with logarithms where scaling would lose a state."""
    b, t, _ = problem.log_observation.shape
    normaliser, shift = np.ones((b, t)), np.zeros((b, t))
    shape = (b, t, problem.belief.shape[1]) if keep else (b, 0, 0)
    predicted, emission = empty("predicted", shape), empty("emission", shape)
    status, belief = problem.status.copy(), problem.belief.copy()

    def run(rows: slice) -> None:
        sets = rows if problem.transition.shape[0] > 1 else slice(None)
        scaled.forward(
            belief[rows], problem.transition[sets], problem.log_transition[sets], problem.log_observation[rows],
            problem.lengths[rows], False, emission[rows], predicted[rows], shift[rows], normaliser[rows], status[rows],
        )  # fmt: skip

    over_blocks(run, b, problem.n_operations)
    impossible_at = np.full(b, -1, dtype=np.int64)
    with np.errstate(all="ignore"):
        log_normaliser = np.log(normaliser, out=normaliser)
    for sequence in which(status != scaled.SCALED):
        _careful_forward(problem, sequence, predicted, log_normaliser, shift, impossible_at, status)
    log_steps = log_normaliser + shift
    if problem.any_offset:
        _add_offsets(problem, log_steps)
    return Forward(predicted, emission, log_normaliser, shift, status, impossible_at, log_steps)


def _careful_forward(
    problem: Problem,
    b: int,
    predicted: Array,
    log_normaliser: Array,
    shift: Array,
    impossible_at: IntArray,
    status: IntArray,
) -> None:
    """Redo one sequence with logarithms, and find out whether it is impossible."""
    row = predicted[b] if predicted.size else np.empty(problem.log_observation.shape[1:])
    log_normaliser[b] = 0.0
    row[problem.lengths[b] :] = 0.0
    if problem.lengths[b] > 0:
        scaled.shift_rows(problem.log_observation, b, problem.lengths[b], shift[b])
        impossible_at[b] = careful.forward(
            problem.log_initial[b], problem.initial_offset[b], *problem.of(b), problem.log_observation[b],
            shift[b], problem.lengths[b], row, np.empty_like(row), log_normaliser[b],
        )  # fmt: skip
    if impossible_at[b] >= 0:
        status[b] = scaled.IMPOSSIBLE


def _add_offsets(problem: Problem, log_steps: Array) -> None:
    """Give back what was subtracted from parameters that are potentials rather than probabilities."""
    inside = np.arange(log_steps.shape[1]) < problem.lengths[:, None]
    log_steps += np.where(inside, problem.transition_offset, 0.0)
    log_steps[:, :1] += np.where(inside[:, :1], problem.initial_offset[:, None] - problem.transition_offset[:, :1], 0.0)


def log_predicted(problem: Problem, forward: Forward) -> Array:
    """log u_t (B, T, K), from what a forward pass kept."""
    kept = forward.predicted[..., : problem.log_observation.shape[2]]
    with np.errstate(all="ignore"):
        values = np.log(kept)
    for b in which(forward.status != scaled.SCALED):
        values[b] = kept[b]
    return values


def fill_padding(problem: Problem, table: Array, value: float) -> None:
    """Overwrite the padded steps of a table (B, T, K)."""
    steps = table.shape[1]
    if problem.lengths.size and problem.lengths.min() < steps:
        table[np.arange(steps) >= problem.lengths[:, None]] = value


class Backward(NamedTuple):
    """Weighted posterior expectations: gamma (B, T, K), the sums of xi (G, R, K, K), and (B,) how they were found."""

    gamma: Array
    xi: Array
    status: IntArray


def run_backward(
    problem: Problem,
    forward: Forward,
    weights: Array,
    *,
    logarithms: bool = False,
    places: IntArray | None = None,
) -> Backward:
    """gamma and xi of every sequence times its weight (log gamma without, if asked for), 0 (-inf) where impossible.

    Sequence b adds to xi[places[b]]; without places to partial sums that `threads` fixes.
    """
    b, t, k = problem.log_observation.shape
    place = groups_of(b) if places is None else places
    n_places = n_groups(b) if places is None else b
    xi = np.zeros((n_places, problem.transition.shape[1], k, k))
    gamma = empty("gamma", (b, t, k))
    status, transposed = forward.status.copy(), problem.transposed()
    passes = _whole if forward.emission.size or t == 0 else _checkpointed

    def run(rows: slice) -> None:
        passes(problem, forward, transposed, rows, weights, logarithms, status, gamma, place, xi)

    over_blocks(run, b, 2 * problem.n_operations)
    for sequence in which(status == scaled.CAREFUL):
        weight = float(weights[sequence])
        _careful_expectations(problem, sequence, forward, weight, gamma[sequence], xi[place[sequence]])
        if not logarithms:
            inside = gamma[sequence, : problem.lengths[sequence]]
            np.multiply(np.exp(inside), weight, out=inside)
    zero = -np.inf if logarithms else 0.0
    gamma[status == scaled.IMPOSSIBLE] = zero
    fill_padding(problem, gamma, zero)
    return Backward(gamma, xi, status)


def _whole(
    problem: Problem, forward: Forward, transposed: Array, rows: slice, weights: Array, logarithms: bool,
    status: IntArray, gamma: Array, places: IntArray, xi: Array,
) -> None:  # fmt: skip
    """The backward pass of some sequences over what the forward pass kept."""
    sets = rows if transposed.shape[0] > 1 else slice(None)
    later = _last_step(problem, rows)
    problem.backward(
        problem.transition[sets], transposed[sets], problem.log_transition[sets], problem.log_observation[rows],
        forward.shift[rows], forward.emission[rows], forward.predicted[rows], problem.lengths[rows], later, False,
        weights[rows], logarithms, status[rows], gamma[rows], places[rows], xi,
    )  # fmt: skip


def _last_step(problem: Problem, rows: slice) -> Array:
    """h = 1 and no move behind the last step, (rows, 2, W)."""
    later = np.zeros((len(problem.lengths[rows]), 2, problem.belief.shape[1]))
    later[:, 0, : problem.log_observation.shape[2]] = 1.0
    return later


def _checkpointed(
    problem: Problem, forward: Forward, transposed: Array, rows: slice, weights: Array, logarithms: bool,
    status: IntArray, gamma: Array, places: IntArray, xi: Array,
) -> None:  # fmt: skip
    """The same without anything kept, one sequence at a time, in segments."""
    width = problem.belief.shape[1]
    for b in range(rows.start, rows.stop):
        one, length = slice(b, b + 1), int(problem.lengths[b])
        if status[b] != scaled.SCALED or length == 0:
            continue
        size = min(length, max(round(length**0.5), SEGMENT // width))
        parts = [slice(start, min(start + size, length)) for start in range(0, length, size)]
        sets = one if transposed.shape[0] > 1 else slice(None)
        move, log_move = problem.transition[sets], problem.log_transition[sets]
        none, work = np.empty((1, 0, 0)), aligned((2, 1, size, width))
        scratch = np.empty((2, 1, size))
        marks = np.empty((len(parts), 1, width))
        belief, state = problem.belief[one].copy(), status[one]

        def filter_part(part: slice, belief: Array, e: Array, u: Array, goes_on: bool) -> IntArray:
            n_steps = np.array([part.stop - part.start])
            scaled.forward(
                belief, move, log_move, problem.log_observation[one, part], n_steps, goes_on, e, u,  # noqa: B023
                scratch[0, :, : n_steps[0]], scratch[1, :, : n_steps[0]], state,  # noqa: B023
            )  # fmt: skip
            return n_steps

        for mark, part in zip(marks, parts, strict=True):
            mark[...] = belief
            if part.stop < length:
                filter_part(part, belief, none, none, True)
        later, counts, place = _last_step(problem, one), np.zeros((1, *xi.shape[1:])), np.zeros(1, dtype=np.int64)
        for mark, part in zip(marks[::-1], parts[::-1], strict=True):
            e, u = work[:, :, : part.stop - part.start]
            n_steps = filter_part(part, mark, e, u, False)
            problem.backward(
                move, transposed[sets], log_move, problem.log_observation[one, part], scratch[0, :, : n_steps[0]], e, u,
                n_steps, later, part.start > 0, weights[one], logarithms, state, gamma[one, part], place, counts,
            )  # fmt: skip
            if state[0] != scaled.SCALED:
                break
        else:
            xi[places[b]] += counts[0]


def _careful_expectations(
    problem: Problem, b: int, forward: Forward, weight: float, log_gamma: Array, xi: Array
) -> None:
    """Backward pass and expectations of one sequence with logarithms; `xi` (R, K, K) is added to."""
    n = int(problem.lengths[b])
    if n == 0:
        return
    log_observation = problem.log_observation[b]
    transition, log_transition, offset = problem.of(b)
    shift = np.zeros(log_observation.shape[0])
    scaled.shift_rows(problem.log_observation, b, n, shift)
    log_u, low_u = _careful_predicted(problem, b, forward, shift)
    log_beta, low_beta = np.empty_like(log_observation), np.empty_like(log_observation)
    transposed = np.ascontiguousarray(transition.swapaxes(-1, -2))
    careful.backward(transposed, log_transition, offset, log_observation, shift, n, log_beta, low_beta)
    careful.expectations(
        transition, log_transition, offset, log_observation, shift, log_u, low_u, log_beta, low_beta, n, weight,
        log_gamma, xi,
    )  # fmt: skip


def _careful_predicted(problem: Problem, b: int, forward: Forward, shift: Array) -> tuple[Array, Array]:
    """log u_t of one sequence in two parts, (T, K): from kept weights if there are some, else filtered once more."""
    low = np.zeros_like(problem.log_observation[b])
    if forward.predicted.size and forward.status[b] == scaled.SCALED:
        with np.errstate(all="ignore"):
            return np.log(forward.predicted[b, :, : low.shape[1]]), low
    high = np.empty_like(low)
    careful.forward(
        problem.log_initial[b], problem.initial_offset[b], *problem.of(b), problem.log_observation[b], shift,
        problem.lengths[b], high, low, np.empty(len(shift)),
    )  # fmt: skip
    return high, low
