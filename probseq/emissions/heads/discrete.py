"""Symbols, binary vectors and counts; coordinates are independent given the activities."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution, Independent
from torch.distributions import Poisson as TorchPoisson

from probseq.emissions.head import Head, Units, argument_checks, seen_sum
from probseq.emissions.heads.scales import inverse_softplus, log_softplus, softplus


class Categorical(Head):
    """One symbol out of `n_symbols` per step, 0 .. n_symbols - 1, event shape (1,)."""

    def __init__(self, n_symbols: int) -> None:
        super().__init__()
        if n_symbols < 1:
            raise ValueError(f"n_symbols must be at least 1, got {n_symbols!r}")
        self.n_symbols = int(n_symbols)

    def sizes(self) -> dict[str, Any]:
        return {"n_symbols": self.n_symbols}

    @property
    def support(self) -> str:
        return f"integers 0..{self.n_symbols - 1}"

    def invalid(self, values: Tensor) -> Tensor:
        return ~((values >= 0) & (values < self.n_symbols) & (values == values.floor()))

    def _input_width(self, dim: int) -> int:
        return self.n_symbols

    def _input_gains(self, dim: int) -> Tensor:
        return torch.full((self.n_symbols,), math.sqrt(self.n_symbols), dtype=torch.float64)

    def _read(self, observed: Tensor) -> Tensor:
        return observed.expand(*observed.shape[:-1], self.n_symbols)

    def _encode(self, y: Tensor, units: Units) -> Tensor:
        return (y == torch.arange(self.n_symbols, device=y.device)).to(torch.float64)

    def _expect(self, raw: Tensor, dim: int) -> Tensor:
        return torch.softmax(raw, dim=-1)

    def _say(self, raw: Tensor, units: Units) -> Distribution:
        checks = argument_checks(raw)
        return Independent(TorchCategorical(logits=raw.unsqueeze(-2), validate_args=checks), 1, validate_args=checks)

    def _log_density(self, raw: Tensor, y: Tensor, observed: Tensor | None, units: Units) -> Tensor:
        log_probs = torch.log_softmax(raw, dim=-1)
        symbols = (y if observed is None else torch.where(observed, y, 0)).long()
        batch_shape = torch.broadcast_shapes(log_probs.shape[:-1], symbols.shape[:-1])
        table = log_probs.expand(*batch_shape, self.n_symbols)
        return seen_sum(table.gather(-1, symbols.expand(*batch_shape, 1)), observed)

    def _n_outputs(self, dim: int) -> int:
        if dim != 1:
            raise ValueError(f"a Categorical head says one symbol per step: obs_dim must be 1, got {dim}")
        return self.n_symbols

    def _neutral_bias(self, dim: int) -> Tensor:
        return torch.zeros(self.n_symbols, dtype=torch.float64)

    def _marginal_bias(self, values: Tensor, seen: Tensor, units: Units, seed: int) -> Tensor:
        counts = torch.bincount(values[seen].long(), minlength=self.n_symbols).to(torch.float64)
        return ((counts + 0.5) / (counts.sum() + 0.5 * self.n_symbols)).log()  # half a count: no symbol is impossible


class Bernoulli(Head):
    """Each coordinate is 0 or 1, independently given the activities."""

    def sizes(self) -> dict[str, Any]:
        return {}

    @property
    def support(self) -> str:
        return "0 or 1"

    def invalid(self, values: Tensor) -> Tensor:
        return ~((values == 0) | (values == 1))

    def _expect(self, raw: Tensor, dim: int) -> Tensor:
        return torch.sigmoid(raw)

    def _say(self, raw: Tensor, units: Units) -> Distribution:
        checks = argument_checks(raw)
        return Independent(TorchBernoulli(logits=raw, validate_args=checks), 1, validate_args=checks)

    def _log_density(self, raw: Tensor, y: Tensor, observed: Tensor | None, units: Units) -> Tensor:
        return seen_sum(log_bernoulli(raw, y, observed), observed)

    def _n_outputs(self, dim: int) -> int:
        return dim

    def _neutral_bias(self, dim: int) -> Tensor:
        return torch.zeros(dim, dtype=torch.float64)

    def _marginal_bias(self, values: Tensor, seen: Tensor, units: Units, seed: int) -> Tensor:
        ones = values.sum(0)
        return ((ones + 0.5) / (seen.sum(0) - ones + 0.5)).log()  # half a count each way: finite odds


class Poisson(Head):
    """Counts with rates scale * softplus(a), independently given the activities.

    `scale` is the mean count of every column in the data that it started from: what the network reads, y / scale, has
    the size of 1 whether the counts are births or bacteria. With softplus, not exp, no rate runs away.
    """

    def sizes(self) -> dict[str, Any]:
        return {}

    @property
    def support(self) -> str:
        return "counts 0, 1, 2, ..."

    def invalid(self, values: Tensor) -> Tensor:
        return ~((values >= 0) & (values == values.floor()) & values.isfinite())

    def _expect(self, raw: Tensor, dim: int) -> Tensor:
        return softplus(raw)

    def _say(self, raw: Tensor, units: Units) -> Distribution:
        checks = argument_checks(raw)
        return Independent(TorchPoisson(units.scale * softplus(raw), validate_args=checks), 1, validate_args=checks)

    def _log_density(self, raw: Tensor, y: Tensor, observed: Tensor | None, units: Units) -> Tensor:
        if observed is not None:
            y = torch.where(observed, y, 0.0)
        log_rate = log_softplus(raw) + units.scale.log()
        return seen_sum(y * log_rate - units.scale * softplus(raw) - torch.lgamma(y + 1), observed)

    def _n_outputs(self, dim: int) -> int:
        return dim

    def _neutral_bias(self, dim: int) -> Tensor:
        return inverse_softplus(torch.ones(dim, dtype=torch.float64))

    def _marginal_bias(self, values: Tensor, seen: Tensor, units: Units, seed: int) -> Tensor:
        total = values.sum(0)
        total = torch.where(total > 0, total, 0.5)  # half a count: not seen yet is not never
        return inverse_softplus(total / seen.sum(0).clamp(min=1) / units.scale)

    def _own_units(self, values: Tensor, seen: Tensor) -> Units:
        mean = values.sum(0) / seen.sum(0).clamp(min=1)
        return Units(torch.zeros_like(mean), torch.where(mean > 0, mean, 1.0))


def log_bernoulli(logits: Tensor, y: Tensor, observed: Tensor | None) -> Tensor:
    """y log sigma(a) + (1 - y) log sigma(-a), of which only one term is ever non-zero; of anything where unobserved."""
    if observed is not None:
        y = torch.where(observed, y, 0)
    return F.logsigmoid((2 * y.to(torch.float64) - 1) * logits)
