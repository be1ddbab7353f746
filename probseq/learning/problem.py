"""What every fitting method shares: the data of a fit, and the book-keeping of a run that can be interrupted."""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm.auto import tqdm

from probseq.base import StateSpaceModel
from probseq.ops.threads import keep_threads
from probseq.parameters import Snapshot
from probseq.sequences import Sequences


@dataclass
class Problem:
    """Training data, and what is held back: `whole` sequences of which `train` is the beginning, or separate ones."""

    model: StateSpaceModel[Any]
    train: Sequences
    held_back: Sequences | None
    given_train: bool

    @property
    def n_steps(self) -> int:
        """Observed training steps, at least 1."""
        return max(int(self.train.seen.sum()), 1)

    def train_score(self) -> float:
        """The objective at the current parameters: log p(train), and log prior where there is one."""
        with torch.no_grad():
            return float(self.model._objective(self.train).sum() + self.model.log_prior())

    def validation_score(self, at: Snapshot | None = None) -> float | None:
        """log p(held back | train), at a snapshot if one is given."""
        if self.held_back is None:
            return None
        now = self.model.snapshot()
        if at is not None:
            self.model.restore(at)
        with torch.no_grad():
            score = float(self.model._objective(self.held_back).sum())
            score -= float(self.model._objective(self.train).sum()) if self.given_train else 0.0
        self.model.restore(now)
        return score


def split(model: StateSpaceModel[Any], data: Sequences, validation: Any) -> Problem:
    """Hold back a share of the data, or use separate (converted) validation sequences.

    Of ten sequences or more the last ones are held back whole; of fewer, the last steps of each, scored given
    what comes before them.
    """
    if validation is None:
        return Problem(model, data, None, False)
    if not isinstance(validation, Sequences):
        if isinstance(validation, bool) or not 0 < validation < 1:
            raise ValueError(f"validation must be a share between 0 and 1 or sequences, got {validation!r}")
        n = len(data.lengths)
        if n >= 10:
            n_train = min(max(round(n * (1 - validation)), 1), n - 1)
            return Problem(model, data.select(range(n_train)), data.select(range(n_train, n)), False)
        lengths = (data.lengths * (1 - validation)).round().long()
        if int(lengths.max()) == 0 or bool((lengths == data.lengths).all()):
            return Problem(model, data, None, False)
        inside = torch.arange(data.n_steps) < lengths.unsqueeze(-1)
        observed = data.observed & inside.reshape(*inside.shape, *(1,) * len(data.event_shape))
        train = replace(data, observed=observed, lengths=lengths, rectangular=False).steps(0, int(lengths.max()))
        return Problem(model, train, data, True)
    return Problem(model, data, validation, False)


@functools.cache
def _thread_pools() -> Any:
    """The libraries with threads of their own that are loaded; looking for them takes longer than a short fit."""
    import scipy.linalg  # noqa: F401  # pyright: ignore[reportUnusedImport]  (it loads the last of them)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def one_thread() -> Generator[None]:
    """Inside, matrix libraries use one thread: the matrices of exact families are small, and threads only wait.

    Kernels over many sequences keep theirs.
    """
    threads = torch.get_num_threads()
    with keep_threads(), _thread_pools().limit(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


class Run:
    """One run from one start: its trace, its best parameters so far, and why it stopped."""

    def __init__(self, model: StateSpaceModel[Any]) -> None:
        self.model = model
        self.objective: list[float] = []
        self.validation: list[float] = []
        self.best: Snapshot = model.snapshot()
        self.best_score = -float("inf")
        self.best_at = 0
        self.converged = False
        self.reason = ""

    def record(self, objective: float, parameters: Snapshot, validation: float | None = None) -> None:
        """Note an iterate; the best one by validation score, else by objective, is kept."""
        self.objective.append(objective)
        if validation is not None:
            self.validation.append(validation)
        score = objective if validation is None else validation
        if score > self.best_score:
            self.best, self.best_score, self.best_at = parameters, score, len(self.objective) - 1

    def settled(self, condition: bool, reason: str) -> bool:
        if condition:
            self.converged, self.reason = True, reason
        return condition

    def is_overfitting(self, patience: int) -> bool:
        """True when the validation score has not risen for `patience` iterations."""
        late = bool(self.validation) and len(self.objective) - 1 - self.best_at >= patience
        return self.settled(late, "validation score stopped rising")

    def extend(self, other: Run) -> None:
        """Continue with a run that began where this one ended; it may have settled better, or else this one has."""
        self.objective += other.objective[1:]
        self.validation += other.validation[1:]
        if other.best_score > self.best_score:
            self.best, self.best_score = other.best, other.best_score
        self.reason = other.reason if other.converged or other.reason == "interrupted" else self.reason
        self.converged = (self.converged or other.converged) and other.reason != "interrupted"

    def close(self, problem: Problem) -> None:
        """Score the last iterate too, and leave the model at the best one."""
        if not self.validation and self.reason != "interrupted":
            last = self.model.snapshot()
            self.record(problem.train_score(), last)
        self.model.restore(self.best)

    @contextmanager
    def progress(self, total: int, label: str, done: int = 0) -> Generator[Any]:
        """A progress bar over iterations, silent when not at a terminal; Ctrl-C ends the loop and keeps the best."""
        bar = tqdm(range(done, total), desc=label, initial=done, total=total, disable=None, leave=False)
        try:
            yield bar
        except KeyboardInterrupt:
            self.converged, self.reason = False, "interrupted"
        finally:
            bar.close()
