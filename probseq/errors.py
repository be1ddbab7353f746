"""Every condition that probseq names: errors that stop, warnings that tell.

Each message says which argument, what was expected, what came and where (sequence, step).
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar


class NotFitted(ValueError):
    """A model made from sizes alone was used before it had parameter values."""


class ImproperBelief(ValueError):
    """A predictive density was asked for while part of the state is still diffuse."""


class ImpossibleSequence(ValueError):
    """The data have probability zero under the model, so there is no posterior to report."""


class SingularInnovation(ValueError):
    """The predicted covariance of the observed coordinates is singular: the density does not exist."""


class StateOverflow(ValueError):
    """A state moment left the range of floating-point numbers."""


class NotAnAutomaton(ValueError):
    """A network does not behave like a finite automaton at the precision that was asked for."""


class FileRefused(ValueError):
    """A file is not one that probseq wrote, or does not say what it must."""


class ProbseqWarning(UserWarning):
    """The root of all warnings of this library."""


class ConvergenceWarning(ProbseqWarning):
    """A fit stopped before its objective settled, or its objective fell."""


class DegenerateWarning(ProbseqWarning):
    """A fit met a state without data, a collapsed variance or constant data, and says what it did."""


class IllConditionedWarning(ProbseqWarning):
    """A covariance had to be repaired, or a result has lost digits."""


_said: ContextVar[set[str] | None] = ContextVar("said", default=None)


def say(topic: str, message: str, category: type[ProbseqWarning] = DegenerateWarning) -> None:
    """Warn, but inside `each_once` only the first time for a topic."""
    said = _said.get()
    if said is None or topic not in said:
        warnings.warn(message, category, stacklevel=3)
    if said is not None:
        said.add(topic)


@contextmanager
def each_once() -> Generator[None]:
    """Inside, `say` warns once per topic: what one fit has to say about a state it says once."""
    token = _said.set(set())
    try:
        yield
    finally:
        _said.reset(token)
