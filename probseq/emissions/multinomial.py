"""Rows of counts: y_t | z_t = k, n_t ~ Multinomial(n_t, probs[k]), with n_t the sum of the row.

    log p(y | k, n) = log n! - sum_m log y_m! + sum_m y_m log probs[k, m]

The number of trials is not explained: without `trials` it is read off each row, as a given; with it every row
must add up to it. A forecast or a draw needs `trials`. A row is observed or missing as a whole: where some of its
entries are missing its total is unknown, and without `trials` it counts as missing, with them it is refused.
The M-step is the weighted share of every symbol; a structural zero stays zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import constraints

from probseq import parameters as P
from probseq.emissions.base import Emission, cluster, leading_size, positive, rows_of
from probseq.parameters import Param
from probseq.priors import Dirichlet, Prior, accept


class Multinomial(Emission):
    """Counts of M symbols per step, from sizes `Multinomial(n_symbols)` or from `probs` (K, M); `prior` a Dirichlet."""

    probs = Param(P.simplex, "n_states", "n_symbols")

    def __init__(
        self,
        n_symbols: int | None = None,
        *,
        trials: int | None = None,
        probs: Any = None,
        prior: Prior | None = None,
    ) -> None:
        accept(prior, Dirichlet, "Multinomial")
        self.prior = prior
        n_states = None
        if probs is not None:
            n_states, width = leading_size("probs", probs, "(n_states, n_symbols)")
            n_symbols = width if n_symbols is None else n_symbols
        self.n_symbols = positive("n_symbols", n_symbols)
        self.trials = None if trials is None else positive("trials", trials)
        super().__init__(self.n_symbols, n_states, {"probs": probs})

    def sizes(self) -> dict[str, Any]:
        sizes = {"n_symbols": self.n_symbols, "trials": self.trials}
        return sizes if self.prior is None else {**sizes, "prior": self.prior}

    def log_prior(self) -> Tensor:
        if isinstance(self.prior, Dirichlet):
            return self.prior.log_density(type(self).probs.log(self))
        return super().log_prior()

    def invalid(self, values: Tensor) -> tuple[Tensor, str]:
        bad = (values < 0) | (values != values.round())
        if self.trials is None:
            return bad, "counts 0, 1, 2, ..."
        other = values.sum(-1, keepdim=True) != self.trials
        return bad | other, f"counts 0, 1, 2, ... in rows, observed or missing as a whole, with sum {self.trials}"

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        rows, seen = rows_of(values, observed)
        whole = None if seen is None else seen.all(-1)
        table = log_mass(rows.unsqueeze(-2), type(self).probs.log(self))
        table = table if whole is None else torch.where(whole.unsqueeze(-1), table, 0.0)
        return table.reshape(*values.shape[:-1], self.n_states)

    def distribution(self) -> D.Distribution:
        return Counts(type(self).probs.log(self), self.trials)

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        """Clusters of the rows' shares, each shrunk by one row towards the shares of the whole."""
        whole = observed.all(-1)
        rows = values[whole]
        total = rows.sum(-1, keepdim=True)
        shares = torch.where(total > 0, rows / total.clamp(min=1), 1 / self.n_symbols)
        if not len(rows):
            shares = values.new_full((1, self.n_symbols), 1 / self.n_symbols)
        weights = cluster(shares, torch.ones_like(shares, dtype=torch.bool), self.n_states, seed)
        overall = (shares.sum(0) + 0.5) / (len(shares) + 0.5 * self.n_symbols)
        probs = (weights.mT @ shares + overall) / (weights.sum(0).unsqueeze(-1) + 1)
        self.assign(probs=probs / probs.sum(-1, keepdim=True))

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        whole = observed.all(-1)
        counts = weights[whole].mT @ values[whole]
        if isinstance(self.prior, Dirichlet):
            counts = counts + self.prior.counts(self.probs)
        mass = counts.sum(-1, keepdim=True)
        self.assign(probs=torch.where(mass > 0, counts / torch.where(mass > 0, mass, 1.0), self.probs))


def log_mass(counts: Tensor, log_probs: Tensor) -> Tensor:
    """log p(y; sum of y, probs) over the last axis, broadcast; -inf for a count of an impossible symbol."""
    terms = torch.where(counts > 0, counts * torch.where(counts > 0, log_probs, 0.0), 0.0)
    return torch.lgamma(counts.sum(-1) + 1) + (terms - torch.lgamma(counts + 1)).sum(-1)


class Counts(D.Distribution):
    """The multinomial law of rows given their totals; draws and moments need `trials`."""

    arg_constraints: Any = {}  # type: ignore[assignment]  # noqa: RUF012
    support: Any = constraints.real_vector  # coordinates depend on each other: quantiles are those of draws

    def __init__(self, log_probs: Tensor, trials: int | None) -> None:
        self.log_probs, self.trials = log_probs, trials
        super().__init__(log_probs.shape[:-1], log_probs.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Counts:
        return Counts(self.log_probs.expand(*batch_shape, -1), self.trials)

    def _known(self) -> int:
        if self.trials is None:
            raise ValueError("trials must be given to the Multinomial emission for draws and moments, got None")
        return self.trials

    @property
    def mean(self) -> Tensor:
        return self._known() * self.log_probs.exp()

    @property
    def variance(self) -> Tensor:
        probs = self.log_probs.exp()
        return self._known() * probs * (1 - probs)

    def log_prob(self, value: Tensor) -> Tensor:
        return log_mass(value, self.log_probs)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return D.Multinomial(self._known(), logits=self.log_probs, validate_args=False).sample(sample_shape)
