"""Symbols and binary vectors.

    Categorical:  y_t | z_t = k ~ Categorical(probs[k]),           event shape (1,), symbols 0 .. M-1
    Bernoulli:    y_t[d] | z_t = k ~ Bernoulli(probs[k, d]),       independent coordinates

Both M-steps are weighted relative frequencies; a structural zero stays zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D
from torch.nn.functional import logsigmoid

from probseq import parameters as P
from probseq.emissions.base import Emission, cluster, leading_size, positive, rows_of
from probseq.kernels import symbols as kernel
from probseq.kernels.simplex import maximise_rows, pull_rows
from probseq.ops import symbols
from probseq.ops.modes import array_of, eager, untracked
from probseq.parameters import Param
from probseq.priors import Beta, Dirichlet, Prior, accept

_EVERY = np.empty(0, dtype=np.bool_)


class Categorical(Emission):
    """One symbol per step, from sizes `Categorical(n_symbols)` or from `probs` (K, M); `prior` a Dirichlet."""

    probs = Param(P.simplex, "n_states", "n_symbols")

    def __init__(self, n_symbols: int | None = None, *, probs: Any = None, prior: Prior | None = None) -> None:
        accept(prior, Dirichlet, "Categorical")
        self.prior = prior
        n_states = None
        if probs is not None:
            n_states, width = leading_size("probs", probs, "(n_states, n_symbols)")
            n_symbols = width if n_symbols is None else n_symbols
        self.n_symbols = positive("n_symbols", n_symbols)
        super().__init__(1, n_states, {"probs": probs})

    def sizes(self) -> dict[str, Any]:
        return (
            {"n_symbols": self.n_symbols} if self.prior is None else {"n_symbols": self.n_symbols, "prior": self.prior}
        )

    def log_prior(self) -> Tensor:
        if isinstance(self.prior, Dirichlet):
            return self.prior.log_density(type(self).probs.log(self))
        return super().log_prior()

    def invalid(self, values: Tensor) -> tuple[Tensor, str] | None:
        if untracked(values) and kernel.are_symbols(array_of(values).reshape(-1), self.n_symbols):
            return None
        bad = (values < 0) | (values >= self.n_symbols) | (values != values.round())
        return bad, f"symbols 0 .. {self.n_symbols - 1}"

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        log_probs = type(self).probs.log(self)
        flat = (values if observed is None else torch.where(observed, values, 0.0)).detach().reshape(-1)
        if eager(flat, log_probs) and kernel.are_symbols(array_of(flat), self.n_symbols):
            shown = torch.from_numpy(_EVERY) if observed is None else observed.reshape(-1)
            return symbols.log_prob(log_probs, flat, shown).reshape(*values.shape[:-1], self.n_states)
        chosen = log_probs.mT[values.squeeze(-1).detach().long()]
        return chosen if observed is None else torch.where(observed, chosen, 0.0)

    def compact(self, watched: bool = False) -> tuple[Any, ...] | None:
        stored = self.stored("probs", watched=watched)
        return None if stored is None else tuple(stored)

    def pull_sums(self, sums: Any) -> tuple[Any, ...]:
        rows = array_of(self._parameters["raw_probs"])  # type: ignore[arg-type]
        pulled = np.empty(rows.shape)
        pull_rows(_counts_of(sums, rows), rows, pulled)
        return (pulled,)

    def distribution(self) -> D.Distribution:
        return D.Independent(D.Categorical(probs=self.probs.unsqueeze(-2), validate_args=False), 1)

    def mixture(self, log_probs: Tensor) -> D.Distribution:
        """A mixture of categoricals is one categorical."""
        return D.Independent(D.Categorical(probs=(log_probs.exp() @ self.probs).unsqueeze(-2), validate_args=False), 1)

    def _frequencies(self, values: Tensor, observed: Tensor, weights: Tensor) -> Tensor:
        counts = np.zeros((weights.shape[1], self.n_symbols))
        kernel.count(array_of(values).reshape(-1), array_of(observed).reshape(-1), array_of(weights), counts)
        return torch.from_numpy(counts)

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        marginal = self._frequencies(values, observed, values.new_ones(len(values), 1)) + 0.5
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            noise = torch.distributions.Gamma(2.0 * torch.ones(self.n_states, self.n_symbols).double(), 1.0).sample()
        probs = marginal * noise
        self.assign(probs=probs / probs.sum(-1, keepdim=True))

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        counts = self._frequencies(values, observed, weights)
        if isinstance(self.prior, Dirichlet):
            counts = counts + self.prior.counts(self.probs)
        self.store_rows("probs", counts)

    def maximise_compact(self, values: Any, weights: Any) -> bool:
        stored = self.stored("probs") if self.prior is None else None
        if stored is None:
            return False
        counts = np.zeros(stored[0].shape)
        kernel.count(values.reshape(-1), _EVERY, weights, counts)
        return self._adopt(stored[0], counts)

    def maximise_sums(self, sums: Any) -> bool:
        stored = self.stored("probs") if self.prior is None else None
        return stored is not None and self._adopt(stored[0], _counts_of(sums, stored[0]))

    def _adopt(self, old: Any, counts: Any) -> bool:
        rows = old.copy()
        maximise_rows(counts, 0.0, rows)
        self.store(probs=rows)
        return True


def _counts_of(sums: Any, like: Any) -> Any:
    """Counts (K, M) from what kernels collected, (stretches, groups of states, M, L)."""
    return np.ascontiguousarray(sums.sum(0).swapaxes(1, 2).reshape(-1, sums.shape[2])[: len(like)])


class Bernoulli(Emission):
    """A binary vector per step, from sizes `Bernoulli(dim)` or from `probs` (K, D); `prior` a Beta."""

    probs = Param(P.probability, "n_states", "dim")

    def __init__(self, dim: int | None = None, *, probs: Any = None, prior: Prior | None = None) -> None:
        accept(prior, Beta, "Bernoulli")
        self.prior = prior
        n_states = None
        if probs is not None:
            n_states, width = leading_size("probs", probs, "(n_states, dim)")
            dim = width if dim is None else dim
        super().__init__(positive("dim", dim), n_states, {"probs": probs})

    def sizes(self) -> dict[str, Any]:
        return {"dim": self.dim} if self.prior is None else {"dim": self.dim, "prior": self.prior}

    def log_prior(self) -> Tensor:
        return self.prior.log_density(self.probs) if isinstance(self.prior, Beta) else super().log_prior()

    def invalid(self, values: Tensor) -> tuple[Tensor, str]:
        return (values != 0) & (values != 1), "zeros and ones"

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        """Two matrix products: log p where y is 1, log(1 - p) where it is 0; -inf where a coordinate is impossible."""
        rows, seen = rows_of(values, observed)
        one = rows if seen is None else rows * seen
        zero = 1 - rows if seen is None else (1 - rows) * seen
        log_odds = self._log_odds()
        table = _times(one, logsigmoid(log_odds).mT) + _times(zero, logsigmoid(-log_odds).mT)
        return table.reshape(*values.shape[:-1], self.n_states)

    def _log_odds(self) -> Tensor:
        if "probs" in self.overrides:
            return torch.logit(self.overrides["probs"])
        return type(self).probs.raw(self)

    def distribution(self) -> D.Distribution:
        return D.Independent(D.Bernoulli(probs=self.probs, validate_args=False), 1)

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        weights = cluster(values, observed, self.n_states, seed)
        seen = observed.to(values.dtype)
        marginal = ((values * seen).sum(0) + 0.5) / (seen.sum(0) + 1)
        probs = (weights.mT @ (values * seen) + marginal) / (weights.mT @ seen + 1)
        self.assign(probs=0.5 * probs + 0.5 * marginal)

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        seen = observed.to(values.dtype)
        mass = weights.mT @ seen
        ones = weights.mT @ (values * seen)
        if isinstance(self.prior, Beta):
            more = self.prior.counts(self.probs)
            ones, mass = ones + more[0], mass + more[0] + more[1]
        probs = ones / torch.where(mass > 0, mass, 1.0)
        self.assign(probs=torch.where(mass > 0, probs.clamp(0, 1), self.probs))


def _times(indicator: Tensor, log_probs: Tensor) -> Tensor:
    """indicator @ log_probs where 0 times -inf is 0."""
    infinite = torch.isinf(log_probs)
    if not bool(infinite.any()):
        return indicator @ log_probs
    finite = indicator @ torch.where(infinite, 0.0, log_probs)
    return torch.where(indicator @ infinite.to(indicator.dtype) > 0, -torch.inf, finite)
