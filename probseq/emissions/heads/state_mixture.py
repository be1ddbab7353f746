"""A fixed set of states that each say something, weighted by the network: the emission of a hidden Markov model.

    p(y_t | h_t) = sum_k w_k b_k(y_t),   w = softmax(V h_t + c), or softmax(h_t) with `direct`
    encode(y) = log b_k(y), k = 1 .. K:  what the network reads is what every state says about the observation

The distributions b_k are an `Emission`, learned with the network, in the units of the data; the network decides only
how probable each is. With `cells.Multiplicative` and `direct=True` this is a hidden Markov model, and a missing row,
which says nothing about the states, is integrated out. A row with gaps is read as missing.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from probseq.checks import whole_number
from probseq.emissions.autoregressive import Autoregressive
from probseq.emissions.base import Emission
from probseq.emissions.head import Head, Units
from probseq.ops.log_space import safe_logsumexp


class StateMixture(Head):
    """A mixture of the states of an emission, which is copied: `StateMixture(emissions.Gaussian(1), n_states=3)`."""

    def __init__(self, emission: Emission, n_states: int | None = None, *, direct: bool = False) -> None:
        super().__init__()
        if emission.input_dim or isinstance(emission, Autoregressive):
            raise ValueError(f"emission must read nothing but the state, got {type(emission).__name__}")
        if n_states is None and not emission.n_states:
            raise ValueError("n_states must be given for an emission without parameters")
        self.emission = copy.deepcopy(emission)
        if n_states is not None:
            self.emission.bind(whole_number("n_states", n_states))
        self.direct = bool(direct)
        self.real_valued = emission.real_valued

    def sizes(self) -> dict[str, Any]:
        return {"emission": self.emission, "n_states": self.emission.n_states, "direct": self.direct}

    def bind(
        self, hidden_size: int, obs_dim: int, *, dtype: torch.dtype = torch.float32, generator_seed: int | None = None
    ) -> None:
        """As any head; with `direct` there is no linear layer, and hidden_size must be the number of states."""
        if self.direct and hidden_size != self.emission.n_states:
            raise ValueError(
                f"direct=True reads one activity for each of {self.emission.n_states} states, not {hidden_size}"
            )
        super().bind(hidden_size, obs_dim, dtype=dtype, generator_seed=generator_seed)
        if self.direct:
            self.weights.requires_grad_(False)
            self.bias.requires_grad_(False)

    @torch.no_grad()
    def standardise(self, shift: Tensor, scale: Tensor) -> None:
        """The emission speaks in the units of the data, so it moves along with them."""
        old = Units(self.shift.clone(), self.scale.clone())
        super().standardise(shift, scale)
        factor = self.scale / old.scale
        if not self.emission.unset:
            self.emission.rescale(factor, self.shift - factor * old.shift)

    @property
    def support(self) -> str:
        outside = self.emission.invalid(torch.zeros(1, self.emission.dim, dtype=torch.float64))
        return "finite real numbers" if outside is None else outside[1]

    def invalid(self, values: Tensor) -> Tensor:
        outside = self.emission.invalid(values)
        return ~values.isfinite() if outside is None else outside[0]

    def _outputs(self, hidden: Tensor) -> Tensor:
        return hidden if self.direct else super()._outputs(hidden)

    def _say(self, raw: Tensor, units: Units) -> Distribution:
        return self.emission.mixture(raw.log_softmax(-1))

    def _log_density(self, raw: Tensor, y: Tensor, observed: Tensor | None, units: Units) -> Tensor:
        table = self.emission.log_prob(y, observed)
        total = safe_logsumexp(raw.log_softmax(-1) + table, -1)
        return total if observed is None else torch.where(observed.any(-1), total, 0.0)

    def _encode(self, y: Tensor, units: Units) -> Tensor:
        """log b_k(y) of standardised y: the same numbers in all units of the data."""
        seen = ~y.isnan()
        table = self.emission.log_prob(torch.where(seen, y, 0.0), None if bool(seen.all()) else seen)
        return table + units.scale.log().sum()

    def _expect(self, raw: Tensor, dim: int) -> Tensor:
        """Zeros: a row that is not there speaks for no state."""
        return torch.zeros_like(raw)

    def _input_width(self, dim: int) -> int:
        return self.emission.n_states

    def _read(self, observed: Tensor) -> Tensor:
        return observed.all(-1, keepdim=True)

    def _n_outputs(self, dim: int) -> int:
        if dim != self.emission.dim:
            raise ValueError(f"emission says {self.emission.dim} coordinates, obs_dim is {dim}")
        return self.emission.n_states

    def _neutral_bias(self, dim: int) -> Tensor:
        return torch.zeros(self.emission.n_states, dtype=torch.float64)

    def _marginal_bias(self, values: Tensor, seen: Tensor, units: Units, seed: int) -> Tensor:
        """States at the clusters of the data, equally weighted."""
        self.emission.start(values, seen, seed)
        return self._neutral_bias(values.shape[-1])
