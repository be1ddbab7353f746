"""Noise on the weights: what is learned must survive a blur of its own parameters.

    w_i = mu_i + sigma_i e_i,   e_i ~ N(0, 1)        # drawn once for an update, and held over all its steps
    g   = gradient of the loss at w                  # a step on mu; and on sigma where it is learned

| kind                | sigma_i                      | what is minimised                                               |
|---------------------|------------------------------|-----------------------------------------------------------------|
| a number            | the same for all, held       | E[-log p(y | w)]                                                |
| `AdaptiveNoise(s)`  | one for each, s at first     | E[-log p(y | w)] + KL(posterior || prior), a description length |

The second is the variational posterior Q = N(mu, diag sigma^2) of Graves (2011) under a prior P = N(m, s^2) that all W
weights share and that is set to its own best value,

    m = mean of mu_i,   s^2 = mean of (sigma_i^2 + (mu_i - m)^2)
    KL(Q || P) = sum_i log(s / sigma_i) + ((mu_i - m)^2 + sigma_i^2 - s^2) / (2 s^2) = sum_i log(s / sigma_i)
    dKL/dmu_i = (mu_i - m) / s^2,   dKL/dlog sigma_i = sigma_i^2 / s^2 - 1

in nats: what it takes to send the weights at that precision, on top of the data given them. (The prior's own
parameters are at their optimum, so they add nothing to the derivatives.) Gradients of the expected error are those at
the drawn weights, g and g e_i sigma_i for log sigma_i; Graves takes g^2 / 2 for sigma^2 in place of the second. What
is scored and kept in the end is the network at mu.

Jim, K., Giles, C. L. & Horne, B. (1996). An analysis of noise in recurrent neural networks: convergence and
generalization. IEEE Transactions on Neural Networks 7, 1424-1438. (Noise per sequence, not per step.)
Graves, A. (2011). Practical variational inference for neural networks. NIPS 24, section 4, diagonal posterior.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdaptiveNoise:
    """Ask for the noise of each weight to be learned, from `start` for all of them: `fit(weight_noise=...)`."""

    start: float = 0.075

    def __post_init__(self) -> None:
        if not 0 < self.start < math.inf:
            raise ValueError(f"start must be a positive number, got {self.start!r}")


class WeightNoise:
    """The noise of one fit. `variables` are log sigma, learned along with the weights, or nothing."""

    def __init__(self, parameters: Sequence[Tensor], given: float | AdaptiveNoise) -> None:
        self.parameters = list(parameters)
        self.adaptive = isinstance(given, AdaptiveNoise)
        start = given.start if isinstance(given, AdaptiveNoise) else given
        self.log_sd = [torch.full_like(p, math.log(start), requires_grad=False) for p in self.parameters]
        self.variables = self.log_sd if self.adaptive else []
        self.blur: list[Tensor] = []

    @contextmanager
    def drawn(self) -> Generator[None]:
        """Inside, the weights are a draw; afterwards the very numbers they were."""
        kept = [p.detach().clone() for p in self.parameters]
        self.blur = [torch.randn_like(p) * s.exp() for p, s in zip(self.parameters, self.log_sd, strict=True)]
        with torch.no_grad():
            for p, blur in zip(self.parameters, self.blur, strict=True):
                p.add_(blur)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self.parameters, kept, strict=True):
                    p.copy_(value)

    @torch.no_grad()
    def gradients(self, found: Sequence[Tensor], weight: float) -> list[Tensor]:
        """Of the loss plus `weight` times `cost`, by weights and variables, from those by the drawn weights."""
        if not self.adaptive:
            return list(found)
        mean, square = self.prior()
        by_mean = [g + weight * (p - mean) / square for g, p in zip(found, self.parameters, strict=True)]
        by_log_sd = [
            g * blur + weight * ((2 * s).exp() / square - 1)
            for g, blur, s in zip(found, self.blur, self.log_sd, strict=True)
        ]
        return by_mean + by_log_sd

    @torch.no_grad()
    def prior(self) -> tuple[float, float]:
        """The best mean m and variance s^2 of the prior."""
        mu, log_sd = (torch.cat([t.flatten().double() for t in part]) for part in (self.parameters, self.log_sd))
        mean = mu.mean()
        return float(mean), float(((2 * log_sd).exp() + (mu - mean).square()).mean())

    @torch.no_grad()
    def cost(self) -> float:
        """KL(posterior || prior) in nats, 0 where the noise is held."""
        if not self.adaptive:
            return 0.0
        _, square = self.prior()
        log_sd = torch.cat([s.flatten().double() for s in self.log_sd])
        return float((0.5 * math.log(square) - log_sd).sum())
