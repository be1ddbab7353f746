"""A family in one file: counts with a slowly changing rate, the discounted Poisson-gamma model.

    rate_0 ~ Gamma(shape, rate)                                    # the belief: two numbers per coordinate
    for t in range(T):
        y_t ~ Poisson(rate_t)                                      # so p(y_t | y_<t) is negative binomial
        belief = Gamma(shape + y_t, rate + 1)                      # update
        belief = Gamma(discount * shape, discount * rate)          # predict: same mean, less certain

| symbol   | name            | shape    |                                                   |
|----------|-----------------|----------|---------------------------------------------------|
| a_0, b_0 | initial_shape, initial_rate | (dim,) | Gamma prior of the rate before y_0 is seen |
| delta    | discount        | (dim,)   | share of the information that survives one step   |

An unobserved count leaves the belief as it was. Reference: West and Harrison, Bayesian Forecasting and Dynamic
Models, 2nd ed. (1997), sec. 14.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, NegativeBinomial

from probseq import Sequences, StateSpaceModel
from probseq.parameters import Param, nonnegative, probability


class GammaRate(NamedTuple):
    """rate_t ~ Gamma(shape, rate), per coordinate."""

    shape: Tensor
    rate: Tensor


class PoissonGamma(StateSpaceModel[GammaRate]):
    """Counts (T, dim) whose rate drifts; a discount of 1 is a constant rate."""

    initial_shape = Param(nonnegative, "dim")
    initial_rate = Param(nonnegative, "dim")
    discount = Param(probability, "dim")

    def __init__(self, dim: int = 1, **values: Any) -> None:
        super().__init__()
        self.dim = dim
        self.event_shape = torch.Size([dim])
        self.declare(**values)

    def sizes(self) -> dict[str, Any]:
        return {"dim": self.dim}

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> GammaRate:
        shape = (*batch_shape, self.dim)
        return GammaRate(self.initial_shape.expand(shape), self.initial_rate.expand(shape))

    def predict(self, belief: GammaRate, u: Tensor | None = None) -> GammaRate:
        return GammaRate(self.discount * belief.shape, self.discount * belief.rate)

    def update(
        self, belief: GammaRate, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[GammaRate, Tensor]:
        seen = torch.ones_like(y, dtype=torch.bool) if observed is None else observed
        log_probs = self._counts(belief).log_prob(torch.where(seen, y, 0.0))
        updated = GammaRate(belief.shape + torch.where(seen, y, 0.0), belief.rate + seen.to(y.dtype))
        return updated, torch.where(seen, log_probs, 0.0).sum(-1)

    def emit(self, belief: GammaRate, u: Tensor | None = None) -> Distribution:
        return Independent(self._counts(belief), 1)

    def _counts(self, belief: GammaRate) -> NegativeBinomial:
        return NegativeBinomial(belief.shape, probs=1 / (1 + belief.rate), validate_args=False)

    def _outside(self, values: Tensor) -> tuple[Tensor, str]:
        return (values < 0) | (values != values.round()), "counts 0, 1, 2, ..."

    def _start(self, sequences: Sequences, seed: int) -> None:
        """A vague rate near the mean count; a memory of about ten steps."""
        seen = sequences.observed.to(torch.float64)
        mean = ((sequences.values * seen).sum((0, 1)) + 0.5) / (seen.sum((0, 1)) + 0.5)
        self.assign(initial_shape=mean, initial_rate=torch.ones(self.dim), discount=torch.full((self.dim,), 0.9))
