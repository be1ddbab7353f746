"""Emissions that depend on something beside the state: p(y_t | z_t = k, x_t).

| emission           | x_t                                                        |
|--------------------|------------------------------------------------------------|
| `LinearRegression` | the inputs u_t (P,)                                        |
| `Autoregressive`   | the rows before, y_{t-1}, ..., y_{t-order}, newest first   |
| `Product`          | the inputs that its parts read                             |

Every question takes x as its last argument, with the batch shape of the rows asked about. `given(u, window)` binds
it, so that a model asks every emission the same: `emission.given(u, window).log_prob(y, observed)`.
"""

from __future__ import annotations

import abc

from torch import Tensor
from torch.distributions import Distribution

from probseq.emissions.base import Emission, Says, mixture_of


class Conditional(Emission):
    """An emission whose rows depend on x (*batch, width)."""

    #: how many rows before are read
    order: int = 0

    def given(self, u: Tensor | None = None, window: Tensor | None = None) -> Says:
        if self.order:
            if window is None:
                raise ValueError(f"{type(self).__name__} emissions read a window of the {self.order} rows before")
            return Given(self, window.flatten(-2))
        if self.input_dim and u is None:
            raise ValueError(f"u must be given: the emission has input_dim {self.input_dim}")
        return Given(self, u) if u is not None and self.input_dim else self

    @abc.abstractmethod
    def log_prob(self, values: Tensor, observed: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """log p(y | z = k, x) of rows (*batch, dim) over their observed coordinates, (*batch, K)."""

    @abc.abstractmethod
    def distribution(self, x: Tensor | None = None) -> Distribution:
        """p(y | z = k, x): batch shape (*batch, K), event shape (dim,)."""

    @abc.abstractmethod
    def start(self, values: Tensor, observed: Tensor, seed: int, x: Tensor | None = None) -> None:
        """Set the free parameters from rows (N, dim) and x (N, width)."""

    @abc.abstractmethod
    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor, x: Tensor | None = None) -> None:
        """The M-step: maximise sum_nk weights[n, k] log p(y_n | k, x_n) over the free parameters."""


class Given:
    """A conditional emission at its x."""

    def __init__(self, emission: Conditional, x: Tensor) -> None:
        self.emission, self.x = emission, x

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.emission.log_prob(values, observed, self.x)

    def distribution(self) -> Distribution:
        return self.emission.distribution(self.x)

    def mixture(self, log_probs: Tensor) -> Distribution:
        return mixture_of(self.distribution(), log_probs)

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        self.emission.start(values, observed, seed, self.x)

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        self.emission.maximise(values, observed, weights, self.x)
