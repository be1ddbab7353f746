"""Pyro: any model as a distribution inside a larger program; networks with states that only a guide can guess.

The only package that imports Pyro; `import probseq` does not import this one, `ps.bayes` does.
"""

from probseq.bayes.deep_markov import DeepMarkov
from probseq.bayes.distribution import SeriesDistribution, as_distribution
from probseq.bayes.srnn import SRNN
from probseq.bayes.vrnn import VRNN

__all__ = ["SRNN", "VRNN", "DeepMarkov", "SeriesDistribution", "as_distribution"]
