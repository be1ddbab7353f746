"""Models that read a whole sequence and label it: they are no filters and do not pretend to be.

A bidirectional network sees y_{t+1} before it says anything about step t, so it has no p(y_t | y_<t). Such
models share log_prob, decode and fit with the other families and nothing else.
"""

from __future__ import annotations

import abc
from typing import Any, Self

from torch import Tensor

from probseq.parameters import Parametric


class SequenceLabeller(Parametric, abc.ABC):
    """p(labels | u) for whole sequences u. To write: log_prob, decode, fit."""

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
