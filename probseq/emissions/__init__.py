"""What a hidden state says: the emission distributions of hidden Markov models.

Output heads of recurrent networks are in `probseq.emissions.heads`.
"""

from probseq.emissions.adapter import FromDistribution
from probseq.emissions.autoregressive import Autoregressive
from probseq.emissions.base import Emission
from probseq.emissions.categorical import Bernoulli, Categorical
from probseq.emissions.circular import VonMises
from probseq.emissions.counts import Poisson
from probseq.emissions.dispersed import NegativeBinomial
from probseq.emissions.gaussian import Gaussian
from probseq.emissions.mixture import GaussianMixture
from probseq.emissions.multinomial import Multinomial
from probseq.emissions.product import Product
from probseq.emissions.regression import LinearRegression
from probseq.emissions.student import StudentT

__all__ = [
    "Autoregressive",
    "Bernoulli",
    "Categorical",
    "Emission",
    "FromDistribution",
    "Gaussian",
    "GaussianMixture",
    "LinearRegression",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "Product",
    "StudentT",
    "VonMises",
]
