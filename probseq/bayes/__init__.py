"""Bayesian inference on any model, any model inside a Pyro program, and networks whose states only a guide can guess.

    posterior = ps.bayes.nuts(model, y, priors={"level_var": D.InverseGamma(2.0, 500.0)})
    posterior.summary(), posterior.predict(10).interval(0.9), posterior.states()

The only package that imports Pyro; `import probseq` does not import this one, `ps.bayes` does.
"""

from probseq.bayes.deep_markov import DeepMarkov
from probseq.bayes.distribution import SeriesDistribution, as_distribution
from probseq.bayes.gibbs import gibbs
from probseq.bayes.nuts import nuts
from probseq.bayes.posterior import Posterior
from probseq.bayes.priors import HalfNormalRoot, InverseWishart
from probseq.bayes.relabelling import ordered
from probseq.bayes.srnn import SRNN
from probseq.bayes.svi import svi
from probseq.bayes.vrnn import VRNN

__all__ = [
    "SRNN",
    "VRNN",
    "DeepMarkov",
    "HalfNormalRoot",
    "InverseWishart",
    "Posterior",
    "SeriesDistribution",
    "as_distribution",
    "gibbs",
    "nuts",
    "ordered",
    "svi",
]
