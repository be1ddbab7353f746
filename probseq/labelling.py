"""Models that read a whole sequence and label it: they are no filters and do not pretend to be.

A bidirectional network sees y_{t+1} before it says anything about step t, so it has no p(y_t | y_<t). Such
models share log_prob, decode and fit with the other families and nothing else.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor

from probseq.parameters import Parametric
from probseq.sequences import Sequences


class SequenceLabeller(Parametric, abc.ABC):
    """p(labels | u) for whole sequences u. To write: log_prob, decode, fit."""

    #: the trace of the last fit
    history: Any = None

    @abc.abstractmethod
    def log_prob(self, labels: Any, u: Any, *, lengths: Any = None) -> Tensor:
        """log p(labels | u), (*batch,), differentiable."""

    @abc.abstractmethod
    def decode(self, u: Any, *, lengths: Any = None) -> Any:
        """The labels found for u."""

    @abc.abstractmethod
    def fit(self, labels: Any, u: Any, *, lengths: Any = None, seed: int | None = None, **options: Any) -> Self:
        """Learn in place and return self."""

    def filter(self, *_: Any, **__: Any) -> Any:
        """There is none: raises TypeError."""
        raise TypeError(
            f"{type(self).__name__} reads the whole sequence before it answers, so it has no filter; "
            "use a StateSpaceModel for p(y_t | y_<t)"
        )

    def save(self, path: str | Path) -> None:
        """Write parameters (safetensors) and a JSON header; `probseq.load` reads them back."""
        from probseq.io import save

        save(self, path)

    # ---- what a fit asks, but for `_log_prob` and `_start`

    @property
    def is_started(self) -> bool:
        """Whether the parameters have values to start from."""
        return self.started

    def log_prior(self) -> Tensor:
        """None: 0."""
        return torch.zeros((), dtype=torch.float64)

    def _unidentified(self, sequences: Sequences) -> set[str]:
        return set()

    def _balance(self) -> Callable[[], None]:
        return lambda: None

    def _objective(self, sequences: Sequences) -> Tensor:
        """What a fit climbs and scores, (B,): `_log_prob` of the labels."""
        own: Any = self
        return own._log_prob(sequences)

    def _fit(self, sequences: Sequences, *, seed: int | None, **options: Any) -> Self:
        """`probseq.learning.fit.fit` on labels as observations, for labellers that have its hooks."""
        from probseq.learning.fit import fit

        fit(cast(Any, self), sequences, seed=seed, **options)
        return self
