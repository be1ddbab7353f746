"""Learning: `fit` is the front door, EM and gradient climb behind it. Here is what its options are made of."""

from probseq.learning.history import History
from probseq.learning.schedules import SutskeverMomentum
from probseq.learning.weight_noise import AdaptiveNoise

__all__ = ["AdaptiveNoise", "History", "SutskeverMomentum"]
