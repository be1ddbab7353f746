"""Binary vectors whose coordinates hang together: a mixture of independent Bernoullis.

    p(y_t | h_t) = sum_k w_k prod_d sigma(a_kd)^y_td (1 - sigma(a_kd))^(1 - y_td),   w = softmax of the first K outputs

After the first K outputs come the logits a_kd, K rows of D. Independent Bernoullis can say how probable every key of a
piano is, but not which keys sound together; every component says a chord. Missing coordinates are integrated out of
every component, so that the keys that were seen tell about the others.

Reference: McLachlan and Peel (2000), Finite Mixture Models, sec. 5.4 (latent classes).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from probseq.checks import whole_number
from probseq.emissions.head import Head, Units, argument_checks
from probseq.emissions.heads.discrete import log_bernoulli
from probseq.emissions.heads.marginal import N_STEPS, thinned
from probseq.randomness import generator


class MixtureOfBernoullis(Head):
    """`n_components` vectors of independent Bernoullis, with weights."""

    def __init__(self, n_components: int) -> None:
        super().__init__()
        self.n_components = whole_number("n_components", n_components)

    def sizes(self) -> dict[str, Any]:
        return {"n_components": self.n_components}

    @property
    def support(self) -> str:
        return "0 or 1"

    def invalid(self, values: Tensor) -> Tensor:
        return ~((values == 0) | (values == 1))

    def _expect(self, raw: Tensor, dim: int) -> Tensor:
        weights, logits = self._parts(raw, dim)
        return (weights.softmax(-1).unsqueeze(-1) * torch.sigmoid(logits)).sum(-2)

    def _parts(self, raw: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Logits of the weights (*, K) and of the coordinates (*, K, D)."""
        weights, logits = raw.split((self.n_components, self.n_components * dim), dim=-1)
        return weights, logits.unflatten(-1, (self.n_components, dim))

    def _say(self, raw: Tensor, units: Units) -> D.Distribution:
        weights, logits = self._parts(raw, len(units.shift))
        checks = argument_checks(raw)
        components = D.Independent(D.Bernoulli(logits=logits, validate_args=checks), 1, validate_args=checks)
        choice = D.Categorical(logits=weights, validate_args=checks)
        return D.MixtureSameFamily(choice, components, validate_args=checks)

    def _log_density(self, raw: Tensor, y: Tensor, observed: Tensor | None, units: Units) -> Tensor:
        weights, logits = self._parts(raw, len(units.shift))
        seen = None if observed is None else observed.unsqueeze(-2)
        density = log_bernoulli(logits, y.unsqueeze(-2), seen)
        if seen is not None:
            density = torch.where(seen, density, 0.0)
        total = (torch.log_softmax(weights, -1) + density.sum(-1)).logsumexp(-1)
        return total if observed is None else torch.where(observed.any(-1), total, 0.0)

    def _n_outputs(self, dim: int) -> int:
        return self.n_components * (1 + dim)

    def _neutral_bias(self, dim: int) -> Tensor:
        return torch.zeros(self._n_outputs(dim), dtype=torch.float64)

    def _marginal_bias(self, values: Tensor, seen: Tensor, units: Units, seed: int) -> Tensor:
        """Where a few steps of EM arrive from rows drawn at random, half way to the mean."""
        values, seen = thinned(values, seen)
        k, shown = self.n_components, seen.to(torch.float64)
        mean = (values.sum(0) + 0.5) / (shown.sum(0) + 1.0)
        rows = torch.randint(len(values), (k,), generator=generator(seed))
        probs = 0.5 * torch.where(seen[rows], values[rows], mean) + 0.5 * mean
        weights = torch.full((k,), 1.0 / k, dtype=torch.float64)
        for _ in range(N_STEPS):
            table = values @ probs.log().mT + (shown - values) @ torch.log1p(-probs).mT + weights.log()
            shares = table.softmax(-1)
            # a row's worth of the mean in every component: no coordinate is impossible, and no component dies
            probs = (shares.mT @ values + mean) / (shares.mT @ shown + 1.0)
            weights = (shares.sum(0) + 1.0) / (len(values) + k)
        return torch.cat([weights.log(), (probs.log() - torch.log1p(-probs)).flatten()])
