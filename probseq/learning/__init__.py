"""Learning: `fit` is the front door, EM and gradient climb behind it."""

from probseq.learning.history import History

__all__ = ["History"]
