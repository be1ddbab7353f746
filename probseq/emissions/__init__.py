"""What a hidden state says: the emission distributions of hidden Markov models.

Output heads of recurrent networks are in `probseq.emissions.heads`.
"""

from probseq.emissions.base import Emission
from probseq.emissions.categorical import Bernoulli, Categorical
from probseq.emissions.counts import Poisson
from probseq.emissions.gaussian import Gaussian

__all__ = ["Bernoulli", "Categorical", "Emission", "Gaussian", "Poisson"]
