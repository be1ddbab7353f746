"""One pass over the data in pieces, each for one update: batches of whole sequences, or windows of them.

    for rows in shuffled batches:                       # whole sequences
        update on log p(y of these rows)

    for rows in shuffled batches:                       # truncated backpropagation through time, k steps
        belief = start of each row
        for w in range(0, T, k):
            update on log p(y_w .. y_{w+k-1} | belief)  # the gradient stops at `belief`
            belief = belief after these steps           # a number, no longer a function of the parameters

With a window as long as the sequences the second is the first. `streams` cuts every sequence into consecutive parts
that are read side by side, as one would read a book opened at many places; a part begins where the part before it
ended in the last pass, and in the first pass as a sequence does.

Williams, R. J. & Peng, J. (1990). An efficient gradient-based algorithm for on-line training of recurrent network
trajectories. Neural Computation 2, 490-501.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probseq import beliefs as B
from probseq.base import StateSpaceModel
from probseq.beliefs import Point
from probseq.sequences import Sequences


class Piece(NamedTuple):
    """What one update reads: its log-probability (B,), to be called once, and how many steps are scored."""

    log_prob: Callable[[], Tensor]
    n_seen: int


class Batches:
    """Shuffled batches of whole sequences."""

    def __init__(self, model: StateSpaceModel[Any], data: Sequences, batch_size: int) -> None:
        self.model, self.data, self.batch_size = model, data, batch_size
        self.n_seen = int(data.seen.sum())
        #: what the next pass needs of this one
        self.carried: Point | None = None

    @property
    def n_pieces(self) -> int:
        """Pieces in a pass."""
        return -(-len(self.data.lengths) // self.batch_size)

    def shuffled(self) -> Iterator[tuple[Tensor, Sequences]]:
        """Every sequence once, in an order drawn from torch's generator; all at once as they stand."""
        n = len(self.data.lengths)
        order = torch.randperm(n)
        if n <= self.batch_size:
            yield torch.arange(n), self.data
            return
        for rows in order.split(self.batch_size):
            batch = self.data.select(rows)
            yield rows, batch.steps(0, int(batch.lengths.max()))  # no further than the longest of these

    def a_pass(self) -> Iterator[Piece]:
        """Every piece once."""
        for _, batch in self.shuffled():
            n_seen = self.n_seen if batch is self.data else int(batch.seen.sum())
            yield Piece(partial(self.model._objective, batch), n_seen)


class Windows(Batches):
    """Windows of `truncate` steps over shuffled batches of sequences, or of parts of them."""

    def __init__(
        self, model: StateSpaceModel[Any], data: Sequences, batch_size: int, truncate: int, streams: int = 1
    ) -> None:
        parts, self.continues = cut(data, streams)
        super().__init__(model, parts, batch_size)
        self.truncate = truncate
        self.found: list[tuple[Tensor, Point]] = []
        self.before: Point | None = None

    @property
    def n_pieces(self) -> int:
        return super().n_pieces * -(-self.data.n_steps // self.truncate)

    def a_pass(self) -> Iterator[Piece]:
        self.found = []
        for rows, batch in self.shuffled():
            last = int(batch.lengths.max())
            self.before = None
            for start in range(0, last, self.truncate):
                window = batch.steps(start, min(start + self.truncate, last))
                window = replace(window, complete=batch.complete or bool(window.observed[window.inside].all()))
                yield Piece(partial(self._advance, window, rows), int(window.seen.sum()))
            if self.before is not None and bool(self.continues.any()):
                self.found.append((rows, self.before))
        self._settle()

    def _advance(self, window: Sequences, rows: Tensor) -> Tensor:
        before = self._start(window, rows) if self.before is None else self.before
        log_prob, self.before = self.model._log_prob_onward(window, before)
        return log_prob

    def _start(self, window: Sequences, rows: Tensor) -> Point:
        """The learned start, or where the part before this one ended in the last pass."""
        fresh = self.model._before(window)
        if self.carried is None:
            return fresh
        earlier = B.map_tensors(lambda field, _: field[(rows - 1).clamp(min=0)], self.carried)
        return B.where(self.continues[rows], earlier, fresh)

    def _settle(self) -> None:
        """Note where every part has ended, by row."""
        if self.found:
            order = torch.cat([rows for rows, _ in self.found]).argsort()
            ends = [end for _, end in self.found]
            self.carried = B.zip_tensors(lambda fields, _: torch.cat(fields)[order], ends)


def cut(data: Sequences, streams: int) -> tuple[Sequences, Tensor]:
    """Every sequence of a flat batch in `streams` consecutive parts of equal length, the last shorter; empty ones go.

    Also a mark on the parts that continue the row before them.
    """
    n = len(data.lengths)
    if streams == 1:
        return data, torch.zeros(n, dtype=torch.bool)
    size = -(-data.lengths // streams)
    sequence = torch.arange(n).repeat_interleave(streams)
    part = torch.arange(streams).repeat(n)
    start = part * size[sequence]
    lengths = torch.minimum(data.lengths[sequence] - start, size[sequence])
    keep = (lengths > 0) | (part == 0)
    sequence, part, start, lengths = sequence[keep], part[keep], start[keep], lengths[keep].clamp(min=0)
    steps = start.unsqueeze(-1) + torch.arange(int(lengths.max()))
    steps = steps.clamp(max=max(data.n_steps - 1, 0))
    rows = sequence.unsqueeze(-1)
    inside = torch.arange(steps.shape[1]) < lengths.unsqueeze(-1)
    observed = data.observed[rows, steps] & inside.reshape(*inside.shape, *(1,) * len(data.event_shape))
    parts = replace(
        data,
        values=data.values[rows, steps],
        observed=observed,
        lengths=lengths,
        inputs=None if data.inputs is None else data.inputs[rows, steps],
        indexes=(),
        layout="batch",
        rectangular=bool(inside.all()),
        one_batch_axis=None,
    )
    return parts, part > 0
