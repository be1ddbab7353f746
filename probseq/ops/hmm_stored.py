"""Hidden Markov models from parameters as they are stored: each question in one compiled call.

The functions answer as those of `probseq.ops.hmm` do, but take stored parameters and data instead of tables, and say
None where the recursions of `probseq.kernels.hmm_few` (up to `FEW` states) and `hmm_many` would not do: a transition
probability of zero, a step that only logarithms represent, an impossible sequence, more scratch than `KEPT`. The caller
then asks `probseq.ops.hmm`. Filtered beliefs, log posteriors and paths are answered for few states only.

Expectations of Gaussian states or symbols are not kept for every step but collected on the way: what the derivatives
and the M-step need of them, `Expectations.sums`, fits into the fastest cache.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probseq.kernels import hmm_few, hmm_few_path, hmm_few_posterior, hmm_many, simplex
from probseq.kernels.rows import width_of
from probseq.kernels.state_densities import WIDTH, ZEROS, kind_of, n_sums
from probseq.ops import memory
from probseq.ops.hmm import Filtered, Path
from probseq.ops.modes import array_of, run_adjoint
from probseq.ops.threads import groups_of, n_groups, over_blocks

Array = NDArray[np.float64]

few, few_path, few_posterior, many = (
    cast(Any, module) for module in (hmm_few, hmm_few_path, hmm_few_posterior, hmm_many)
)
#: states that are few, and those up to which there are compiled calls
FEW, MOST_STATES = WIDTH, 4096
#: numbers of scratch that a thread keeps for its next call (64 MB); a posterior that needs more is not for here
KEPT = 1 << 23


class Stored(NamedTuple):
    """A chain and its data; see `probseq.kernels.hmm_few`."""

    log_initial: Array  # (K,), up to a constant
    log_transition: Array  # (K, K), up to a constant per row
    emission: tuple[Array, ...]  # of the kernel's three kinds
    values: Array  # (B, T, D), or the table (B, T, K)
    lengths: NDArray[np.int64]  # (B,)

    @property
    def leading(self) -> tuple[Any, Any, Array, Array, tuple[Array, ...]]:
        """What every kernel takes first."""
        return (self.plan.size, kind_of(self.emission), self.log_initial, self.log_transition, self.emission)

    @property
    def plan(self) -> _Plan:
        return _plan(len(self.log_initial))

    def over_blocks(self, run: Any) -> bool:
        """Whether run(rows) was right for every block of sequences."""
        b, t, _ = self.values.shape
        return b == 0 or all(over_blocks(run, b, b * t * len(self.log_initial) ** 2))


class _Plan(NamedTuple):
    """The kernels for so many states, and the memory that they work in."""

    read: Any
    log_prob: Any
    expectations: Any
    begin: Any
    finish: Any
    size: tuple[int, ...]  # as long as a vector of states in registers
    width: int
    matrices: tuple[int, ...]
    n_kept: int  # rows per step that a posterior keeps
    n_scales: int  # numbers per step
    scratch: tuple[tuple[int, ...], ...]


@functools.cache
def _plan(n_states: int) -> _Plan:
    w = width_of(n_states)
    if n_states <= FEW:
        posterior = few_posterior
        calls = few.read_probabilities, few.log_prob, posterior.expectations, posterior.begin, posterior.finish
        return _Plan(*calls, ZEROS[:w], w, (2, w, w), 4, 1, ())
    calls = many.read, many.log_prob, many.expectations, many.begin, many.finish
    return _Plan(*calls, many.LANES, w, (w, w), 2, 3, ((5, many.STEPS + 1, w),))


class Expectations(NamedTuple):
    """What EM and gradients need, every sequence times its weight; sums over sequences in G parts."""

    log_probs: Array  # (B,), without weights
    gamma: Array  # (B, T, K), 0 in padding; without entries where the emission's sums are collected instead
    first: Array  # (G, K): gamma of the first steps
    xi: Array  # (G, K, K): moves
    sums: Array  # (G, groups of states, sums, L); see `probseq.kernels.state_densities`

    def into(self, rows: slice) -> tuple[Array, Array, Array, Array]:
        """What kernels write of some sequences."""
        return self.gamma[rows], self.xi, self.first, self.sums


class _Rooms(threading.local):
    """Memory that a thread uses again, only ever inside one call of a kernel."""

    room: Array = np.empty(0)


_rooms = _Rooms()


def _room(*shapes: tuple[int, ...]) -> list[Array]:
    """Scratch of these shapes, of a thread's own, for one call of a kernel; each begins with a cache line."""
    if not shapes:
        return []
    sizes = [-(-math.prod(shape) // 8) * 8 for shape in shapes]
    room = _rooms.room
    if sum(sizes) > room.size:
        room = memory.aligned((sum(sizes),))
        if room.size <= KEPT:
            _rooms.room = room
    ends = itertools.accumulate(sizes)
    return [
        room[end - size :][: math.prod(shape)].reshape(shape)
        for size, end, shape in zip(sizes, ends, shapes, strict=True)
    ]


def log_prob(stored: Stored) -> Tensor | None:
    """log p(y), (B,)."""
    values, lengths, out = stored.values, stored.lengths, np.empty(len(stored.lengths))
    plan, leading = stored.plan, stored.leading

    def run(rows: slice) -> bool:
        room = _room(plan.matrices, *plan.scratch) if plan.scratch else ()
        return plan.log_prob(*leading, values[rows], lengths[rows], *room, out[rows])

    return torch.from_numpy(out) if stored.over_blocks(run) else None


def filter(stored: Stored) -> Filtered | None:
    """Beliefs before and after every observation, and log p(y_t | y_<t)."""
    (b, t, _), k = stored.values.shape, len(stored.log_initial)
    leading, values, lengths = stored.leading, stored.values, stored.lengths
    made = np.empty((b, t, k)), np.empty((b, t, k)), np.empty((b, t))

    def run(rows: slice) -> bool:
        return few.filter(*leading, values[rows], lengths[rows], *(array[rows] for array in made))

    return Filtered(*map(torch.from_numpy, made)) if stored.over_blocks(run) else None


def log_gamma(stored: Stored) -> Tensor | None:
    """log p(z_t | y), (B, T, K); -inf in padding."""
    (b, t, _), leading, shape = stored.values.shape, stored.leading, (4, stored.values.shape[1], stored.plan.width)
    if math.prod(shape) > KEPT:
        return None
    out = np.empty((b, t, len(stored.log_initial)))

    def run(rows: slice) -> bool:
        own = stored.values[rows], stored.lengths[rows]
        return few_posterior.log_posterior(*leading, *own, *_room(shape), out[rows])

    return torch.from_numpy(out) if stored.over_blocks(run) else None


def expectations(stored: Stored, weights: Array | None = None, steps: bool | None = None) -> Expectations | None:
    """What EM needs, times `weights` (B,).

    gamma is written where nothing is collected instead, or as `steps` says.
    """
    (b, t, _), plan, leading = stored.values.shape, stored.plan, stored.leading
    shapes = ((plan.n_kept, t, plan.width), *plan.scratch)
    if sum(map(math.prod, shapes)) > KEPT:
        return None
    if plan.scratch:
        shapes = (plan.matrices, *shapes)
    scale, places, made = np.ones(b) if weights is None else weights, groups_of(b), _new(stored, steps)

    def run(rows: slice) -> bool:
        own = stored.values[rows], stored.lengths[rows], scale[rows], places[rows]
        return plan.expectations(*leading, *own, *_room(*shapes), made.log_probs[rows], *made.into(rows))

    return made if stored.over_blocks(run) else None


def _new(stored: Stored, steps: bool | None = None) -> Expectations:
    """Room for the answer, sums 0."""
    (b, t, _), k, plan, groups = (
        stored.values.shape,
        len(stored.log_initial),
        stored.plan,
        n_groups(len(stored.lengths)),
    )
    n = n_sums(kind_of(stored.emission), stored.emission[0].shape[-1]) if stored.emission else 0
    gamma = np.empty((b, t, k) if (n == 0 if steps is None else steps) else (b, 0, k))
    first, xi = np.zeros((groups, k)), np.zeros((groups, k, k))
    return Expectations(
        np.empty(b), gamma, first, xi, np.zeros((groups, plan.width // len(plan.size), n, len(plan.size)))
    )


def viterbi(stored: Stored) -> Path | None:
    """argmax_z log p(z, y) and its value, ties to the lowest index."""
    (b, t, _), leading, values, lengths = stored.values.shape, stored.leading, stored.values, stored.lengths
    states, score = np.empty((b, t), dtype=np.int64), np.empty(b)

    def run(rows: slice) -> bool:
        (room,) = _room((t, stored.plan.width))
        return few_path.decode(*leading, values[rows], lengths[rows], room, states[rows], score[rows])

    return Path(torch.from_numpy(states), torch.from_numpy(score)) if stored.over_blocks(run) else None


# ---------------------------------------------------------------------------------------------- gradient

WORDS = "HMM log-likelihood"


class _Begun(NamedTuple):
    """Half of the work of a posterior, which is all of a likelihood's."""

    value: Tensor
    loan: memory.Loan  # A; of every sequence what was kept, the weights where the halves met, normalisers

    def expectations(self, stored: Stored, weights: Array) -> Expectations | None:
        """`expectations`; once, since the work is used up."""
        made, places, plan = _new(stored), groups_of(len(stored.lengths)), stored.plan
        (size, kind, initial, _, emission), (matrices, *works) = stored.leading, self.loan.arrays

        def run(rows: slice) -> bool:
            own = stored.values[rows], stored.lengths[rows], weights[rows], places[rows]
            kept = (work[rows] for work in works)
            return plan.finish(
                size, kind, len(initial), emission, *own, matrices, *_room(*plan.scratch), *kept, *made.into(rows)
            )

        fine = stored.over_blocks(run)
        self.loan.give_back()
        return made if fine else None


def _begin(stored: Stored) -> _Begun | None:
    """None where it would not do, or would leave too much behind."""
    (b, t, _), plan = stored.values.shape, stored.plan
    w, (size, kind, initial, transition, emission) = plan.width, stored.leading
    if b * t * (plan.n_kept * w + plan.n_scales) > KEPT:
        return None
    loan = memory.Loan(plan.matrices, (b, plan.n_kept, t, w), (b, 2, w), (b, plan.n_scales, t))
    out, start, (matrices, *works) = np.empty(b), np.empty((2, w)), loan.arrays

    def run(rows: slice) -> bool:
        own, kept = (stored.values[rows], stored.lengths[rows]), (work[rows] for work in works)
        return plan.begin(
            size, kind, len(initial), emission, *own, start, matrices, *_room(*plan.scratch), *kept, out[rows]
        )

    if plan.read(initial, transition, start, matrices) and stored.over_blocks(run):
        return _Begun(torch.from_numpy(out), loan)
    loan.give_back()
    return None


def differentiable(stored: Stored, leaves: list[Tensor], pull: Pull, otherwise: Callable[[], Tensor]) -> Any:
    """log p(y) (B,), once differentiable in `leaves`: start, transitions, and the emission's stored tensors or table.

    `pull` makes the derivatives of sum(gamma * table) in the emission's. `otherwise` computes log p(y) by other means,
    for a gradient that would not do here. None where the value would not.
    """
    begun = _begin(stored)
    value = log_prob(stored) if begun is None else begun.value
    return None if value is None else _LogProb.apply(_Question(stored, begun, pull, otherwise), value, *leaves)


def pull_chain(stored: Stored, found: Expectations) -> tuple[Array, Array]:
    """The gradient in the stored logits of start (K,) and transitions (K, K)."""
    pulled = np.empty_like(stored.log_initial), np.empty_like(stored.log_transition)
    simplex.pull_chain(found.first, found.xi, stored.log_initial, stored.log_transition, *pulled)
    return pulled


Pull = Callable[[Expectations], tuple[Array, ...]]


@dataclass
class _Question:
    stored: Stored
    begun: _Begun | None  # until a first gradient has used it up
    pull: Pull
    otherwise: Callable[[], Tensor]

    def gradients(self, gradient: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Of sum(gradient * log p(y)) in the leaves."""
        begun, self.begun, weights = self.begun, None, array_of(gradient)
        found = expectations(self.stored, weights) if begun is None else begun.expectations(self.stored, weights)
        if found is None:
            with torch.enable_grad():
                wanted = [leaf for leaf in leaves if leaf.requires_grad]
                made = iter(torch.autograd.grad(self.otherwise(), wanted, gradient))
            return tuple(next(made) if leaf.requires_grad else torch.zeros_like(leaf) for leaf in leaves)
        return tuple(map(torch.from_numpy, (*pull_chain(self.stored, found), *self.pull(found))))


class _LogProb(torch.autograd.Function):
    """The value is known already; this ties it to its gradient."""

    @staticmethod
    def forward(ctx: Any, question: _Question, value: Tensor, *leaves: Tensor) -> Tensor:
        ctx.question = question
        ctx.save_for_backward(*leaves)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (None, None, *run_adjoint(WORDS, ctx.question.gradients, gradients[0], *ctx.saved_tensors))
