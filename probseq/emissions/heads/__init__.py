"""Output heads: from the activities of a network to the distribution of the next observation.

    a_t = V h_t + c                                             # one linear layer, in the network's precision
    y_t ~ Gaussian:              N(shift + scale * m(a_t), scale * S(a_t) * scale)
          StudentT:              the same location and scale, tails of v(a_t) > 1 degrees of freedom
          MixtureDensity:        sum_k w_k(a_t) N(shift + scale * m_k(a_t), scale * S_k(a_t) * scale)
          Categorical:           softmax(a_t) over the symbols 0 .. M - 1
          Bernoulli:             each coordinate is 1 with probability sigma(a_t)
          MixtureOfBernoullis:   sum_k w_k(a_t) prod_d Bernoulli(y_td; sigma(a_tkd))
          Poisson:               counts of mean scale * softplus(a_t)
          StateMixture:          the states of an emission, weighted by softmax(a_t)
          Product:               several of them side by side, each for its own columns

| symbol         | shape                | meaning                                                               |
|----------------|----------------------|-----------------------------------------------------------------------|
| h_t            | (*batch, H)          | activities, the cell's output                                         |
| V, c           | (n_outputs, H), (.,) | `weights`, `bias`                                                     |
| y_t            | (*batch, D)          | the observation, in the units of the data, float64                    |
| shift, scale   | (D,)                 | the units: y = shift + scale * standardised y; float64 buffers        |
| encoded y_t    | (*batch, width)      | what the network reads: standardised, one-hot, or the 0 or 1 itself   |

The network lives in standardised units and in its own precision; densities are taken in float64 and hold in the
units of the data, so log p moves by -log(scale) per observed coordinate. A standard deviation is
`scale_floor + softplus(.)` in standardised units: the floor is relative to the data. It bounds the density of a
network that finds a point it can hit exactly (integer data, constant stretches).

Missing coordinates are marginalised within the step, and within every component of a mixture: they add exactly 0 and
their gradient is exactly 0, whatever `y` holds there (NaN included). Fed back, they are replaced by their expectation
given the past, `expected_input`.
"""

from probseq.emissions.head import Head, Units
from probseq.emissions.heads.discrete import Bernoulli, Categorical, Poisson
from probseq.emissions.heads.gaussian import Gaussian
from probseq.emissions.heads.mixture_density import MixtureDensity
from probseq.emissions.heads.mixture_of_bernoullis import MixtureOfBernoullis
from probseq.emissions.heads.product import Product
from probseq.emissions.heads.state_mixture import StateMixture
from probseq.emissions.heads.student import StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Head",
    "MixtureDensity",
    "MixtureOfBernoullis",
    "Poisson",
    "Product",
    "StateMixture",
    "StudentT",
    "Units",
]
