"""Hidden Markov models of few states, from parameters as they are stored: each question in one compiled call.

The functions answer as those of `probseq.ops.hmm` do, but take stored parameters and data instead of tables, and say
None where the recursions of `probseq.kernels.hmm_few` would not do: a transition probability of zero, a step that only
logarithms represent, an impossible sequence. The caller then asks `probseq.ops.hmm`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probseq.kernels import hmm_few as kernel
from probseq.kernels import simplex
from probseq.kernels.few_emissions import WIDTH, ZEROS, kind_of
from probseq.kernels.rows import width_of
from probseq.ops.hmm import Filtered, Path
from probseq.ops.modes import array_of, run_adjoint
from probseq.ops.threads import groups_of, n_groups, over_blocks

Array = NDArray[np.float64]
Pull = Callable[[Array], tuple[Array, ...]]

#: states that are few
MOST_STATES = WIDTH
#: numbers of scratch that a thread keeps for its next call (64 MB); a posterior that needs more is not for here
KEPT = 1 << 23
_EMPTY = np.empty((0, 0, 0))


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
        width = width_of(len(self.log_initial))
        return (ZEROS[:width], kind_of(self.emission), self.log_initial, self.log_transition, self.emission)

    @property
    def width(self) -> int:
        return width_of(len(self.log_initial))

    def over_blocks(self, run: Any) -> bool:
        """Whether run(rows) was right for every block of sequences."""
        b, t, _ = self.values.shape
        return b == 0 or all(over_blocks(run, b, b * t * len(self.log_initial) ** 2))


class _Rooms(threading.local):
    """Memory that a thread uses again, only ever inside one call of a kernel."""

    room: Array = np.empty(0)


_rooms = _Rooms()


def _room(*shape: int) -> Array:
    size = math.prod(shape)
    if size > KEPT:
        return np.empty(shape)
    if size > _rooms.room.size:
        _rooms.room = np.empty(size)
    return _rooms.room[:size].reshape(shape)


def log_prob(stored: Stored) -> Tensor | None:
    """log p(y), (B,)."""
    leading, values, lengths = stored.leading, stored.values, stored.lengths
    out = np.empty(len(lengths))
    if stored.over_blocks(lambda rows: kernel.log_prob(*leading, values[rows], lengths[rows], out[rows])):
        return torch.from_numpy(out)
    return None


def filter(stored: Stored) -> Filtered | None:
    """Beliefs before and after every observation, and log p(y_t | y_<t)."""
    (b, t, _), k = stored.values.shape, len(stored.log_initial)
    leading, values, lengths = stored.leading, stored.values, stored.lengths
    made = np.empty((b, t, k)), np.empty((b, t, k)), np.empty((b, t))

    def run(rows: slice) -> bool:
        return kernel.filter(*leading, values[rows], lengths[rows], *(array[rows] for array in made))

    return Filtered(*map(torch.from_numpy, made)) if stored.over_blocks(run) else None


def _posterior(stored: Stored, logarithms: bool, weights: Array, places: Any, xi: Array) -> tuple[Array, Array] | None:
    """log p(y) and weighted gamma, or its logarithm; xi (G, K, K) gets its share of every sequence."""
    (b, t, _), k = stored.values.shape, len(stored.log_initial)
    shape = (4, t, stored.width)
    if math.prod(shape) > KEPT:
        return None
    leading, values, lengths = stored.leading, stored.values, stored.lengths
    log_probs, gamma = np.empty(b), np.empty((b, t, k))

    def run(rows: slice) -> bool:
        return kernel.posterior(
            *leading, values[rows], lengths[rows], weights[rows], logarithms, places[rows], _room(*shape),
            log_probs[rows], gamma[rows], xi,
        )  # fmt: skip

    return (log_probs, gamma) if stored.over_blocks(run) else None


def log_gamma(stored: Stored) -> Tensor | None:
    """log p(z_t | y), (B, T, K); -inf in padding."""
    b = len(stored.lengths)
    found = _posterior(stored, True, np.ones(b), np.zeros(b, dtype=np.int64), _EMPTY)
    return None if found is None else torch.from_numpy(found[1])


def expectations(stored: Stored, weights: Array | None = None) -> tuple[Array, Array, Array] | None:
    """What EM needs: log p(y) (B,), gamma (B, T, K), 0 in padding, and parts of sum_t xi (G, K, K), times `weights`."""
    b, k = len(stored.lengths), len(stored.log_initial)
    xi, ones = np.zeros((n_groups(b), k, k)), np.ones(b) if weights is None else weights
    found = _posterior(stored, False, ones, groups_of(b), xi)
    return None if found is None else (*found, xi)


def viterbi(stored: Stored) -> Path | None:
    """argmax_z log p(z, y) and its value, ties to the lowest index."""
    (b, t, _), leading, values, lengths = stored.values.shape, stored.leading, stored.values, stored.lengths
    states, score = np.empty((b, t), dtype=np.int64), np.empty(b)

    def run(rows: slice) -> bool:
        room = _room(t, stored.width)
        return kernel.decode(*leading, values[rows], lengths[rows], room, states[rows], score[rows])

    return Path(torch.from_numpy(states), torch.from_numpy(score)) if stored.over_blocks(run) else None


# ---------------------------------------------------------------------------------------------- gradient

WORDS = "HMM log-likelihood"


def differentiable(stored: Stored, leaves: list[Tensor], pull: Pull, otherwise: Callable[[], Tensor]) -> Any:
    """log p(y) (B,), once differentiable in `leaves`: start, transitions, and the emission's stored tensors or table.

    pull(gamma (B, T, K)) returns the derivatives of sum(gamma * table) in the emission's. `otherwise` computes log p(y)
    by other means, for a gradient that would not do here. None where the value would not.
    """
    value = log_prob(stored)
    return None if value is None else _LogProb.apply(_Question(stored, pull, otherwise), value, *leaves)


class _Question(NamedTuple):
    stored: Stored
    pull: Pull
    otherwise: Callable[[], Tensor]

    def gradients(self, gradient: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Of sum(gradient * log p(y)) in the leaves."""
        found = expectations(self.stored, array_of(gradient))
        if found is None:
            with torch.enable_grad():
                wanted = [leaf for leaf in leaves if leaf.requires_grad]
                made = iter(torch.autograd.grad(self.otherwise(), wanted, gradient))
            return tuple(next(made) if leaf.requires_grad else torch.zeros_like(leaf) for leaf in leaves)
        _, gamma, xi = found
        pulled = np.empty_like(self.stored.log_initial), np.empty_like(self.stored.log_transition)
        simplex.pull_chain(gamma, xi, self.stored.log_initial, self.stored.log_transition, *pulled)
        return tuple(map(torch.from_numpy, (*pulled, *self.pull(gamma))))


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
