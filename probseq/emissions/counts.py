"""Counts with independent coordinates: y_t[d] | z_t = k ~ Poisson(rates[k, d]).

The M-step is a weighted mean. A state that has seen only zeros keeps a small positive rate (a tenth of a count
over all the data), so that a later count is unlikely and not impossible. Counts that spread more than a Poisson
law allows are in `probseq.emissions.dispersed`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from probseq import parameters as P
from probseq.emissions.base import Emission, cluster, leading_size, positive, rows_of
from probseq.parameters import Param
from probseq.priors import Gamma, Prior, accept

#: counts credited to a state that saw none, over all the data
LEAST_COUNT = 0.1


class Poisson(Emission):
    """Poisson counts, from sizes `Poisson(dim)` or from `rates` (K, D) per step; `prior` a Gamma."""

    rates = Param(P.nonnegative, "n_states", "dim")

    def __init__(self, dim: int | None = None, *, rates: Any = None, prior: Prior | None = None) -> None:
        accept(prior, Gamma, "Poisson")
        self.prior = prior
        n_states = None
        if rates is not None:
            n_states, width = leading_size("rates", rates, "(n_states, dim)")
            dim = width if dim is None else dim
        super().__init__(positive("dim", dim), n_states, {"rates": rates})

    def sizes(self) -> dict[str, Any]:
        return {"dim": self.dim} if self.prior is None else {"dim": self.dim, "prior": self.prior}

    def log_prior(self) -> Tensor:
        return self.prior.log_density(self.rates) if isinstance(self.prior, Gamma) else super().log_prior()

    def invalid(self, values: Tensor) -> tuple[Tensor, str]:
        return (values < 0) | (values != values.round()), "counts 0, 1, 2, ..."

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        rows, seen = rows_of(values, observed)
        rates = self.rates
        positive_rate = rates > 0
        log_rates = torch.where(positive_rate, rates, 1.0).log()
        log_rates = torch.where(positive_rate, log_rates, -torch.inf)
        counts = rows.unsqueeze(-2)
        terms = torch.where(counts > 0, counts * torch.where(counts > 0, log_rates, 0.0), 0.0)
        terms = terms - rates - torch.lgamma(counts + 1)
        table = (terms if seen is None else torch.where(seen.unsqueeze(-2), terms, 0.0)).sum(-1)
        return table.reshape(*values.shape[:-1], self.n_states)

    def distribution(self) -> D.Distribution:
        return D.Independent(D.Poisson(self.rates, validate_args=False), 1)

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        weights = cluster(values, observed, self.n_states, seed)
        seen = observed.to(values.dtype)
        overall = ((values * seen).sum(0) + LEAST_COUNT) / seen.sum(0).clamp(min=1)
        self.assign(rates=(weights.mT @ (values * seen) + overall) / (weights.mT @ seen + 1))

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        seen = observed.to(values.dtype)
        total, mass = weights.mT @ (values * seen), weights.mT @ seen
        if isinstance(self.prior, Gamma):
            counts, time = self.prior.counts(self.rates)
            total, mass = total + counts, mass + time
        rates = total / torch.where(mass > 0, mass, 1.0)
        rates = rates.clamp(min=LEAST_COUNT / max(len(values), 1))
        self.assign(rates=torch.where(mass > 0, rates, self.rates))
