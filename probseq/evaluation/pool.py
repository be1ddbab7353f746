"""The linear pool: a weighted mixture of predictive distributions, whatever families they come from.

Distributions of one family, or finite mixtures of it, join into one mixture with more components, so that means,
quantiles, CRPS and transforms stay exact. What cannot be joined becomes a `Pool`, which can be scored and drawn from.

    sum_k w_k sum_m v_km p(. | theta_km) = sum_(k, m) w_k v_km p(. | theta_km)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

#: families that join, by the names of their parameters
JOINED: dict[type[D.Distribution], str] = {D.Normal: "loc scale", D.Poisson: "rate", D.Bernoulli: "probs"}

Component = tuple[Tensor, Any]


def linear_pool(weights: Tensor, parts: list[D.Distribution]) -> D.Distribution:
    """sum_k w_k p_k of K distributions with the same event and batch shape, as one mixture where that exists."""
    components = [_components(part) for part in parts]
    if all(isinstance(base, D.Categorical) for _, base in components):
        probs: Any = sum(w * (v[..., None, None] * base.probs).sum(-3) for w, (v, base) in zip(weights, components))  # noqa: B905
        return D.Independent(D.Categorical(probs=probs, validate_args=False), 1, validate_args=False)
    kinds = {type(base) for _, base in components}
    if len(kinds) != 1 or kinds - {*JOINED, D.MultivariateNormal}:
        return Pool(weights, parts)
    mix = torch.cat([w * v for w, (v, _) in zip(weights, components, strict=True)], -1)
    joined = _join([base for _, base in components], kinds.pop())
    return D.MixtureSameFamily(D.Categorical(probs=mix, validate_args=False), joined, validate_args=False)


def _join(bases: list[Any], kind: type[D.Distribution]) -> D.Distribution:
    if kind is D.MultivariateNormal:
        mean, factor = (torch.cat([getattr(b, n).to(torch.float64) for b in bases], a) for n, a in MULTIVARIATE)
        return D.MultivariateNormal(mean, scale_tril=factor, validate_args=False)
    names = JOINED[kind].split()
    values = {name: torch.cat([getattr(base, name).to(torch.float64) for base in bases], -2) for name in names}
    family: Any = kind
    return D.Independent(family(**values, validate_args=False), 1, validate_args=False)


#: parameters of a multivariate normal, and where their component axis is
MULTIVARIATE = (("loc", -2), ("scale_tril", -3))


def _components(part: D.Distribution) -> Component:
    """Weights (*batch, M) and the family of M components, univariate per coordinate where they factor."""
    if isinstance(part, D.MixtureSameFamily):
        return part.mixture_distribution.probs.to(torch.float64), _base(part.component_distribution)
    ones = torch.ones(*part.batch_shape, 1, dtype=torch.float64)
    base = _base(part)
    if isinstance(base, D.MultivariateNormal):
        mean, factor = base.loc.unsqueeze(-2), base.scale_tril.unsqueeze(-3)
        return ones, D.MultivariateNormal(mean, scale_tril=factor, validate_args=False)
    if isinstance(base, (D.Categorical, *JOINED)):
        names = ["probs"] if isinstance(base, D.Categorical) else JOINED[type(base)].split()
        depth = -3 if isinstance(base, D.Categorical) else -2
        values = {name: getattr(base, name).unsqueeze(depth) for name in names}
        return ones, type(base)(**values, validate_args=False)
    return ones, base


def _base(part: D.Distribution) -> Any:
    if isinstance(part, D.MultivariateNormal) and part.event_shape == (1,):
        return D.Normal(part.loc, part.scale_tril[..., 0], validate_args=False)
    return part.base_dist if isinstance(part, D.Independent) else part


class Pool(D.Distribution):
    """sum_k w_k p_k: `weights` (K,), and K distributions of the same event and batch shape."""

    arg_constraints: Any = {}  # type: ignore[assignment]  # noqa: RUF012

    def __init__(self, weights: Tensor, parts: list[D.Distribution]) -> None:
        self.weights = weights
        self.parts = parts
        batch = torch.broadcast_shapes(*(part.batch_shape for part in parts))
        super().__init__(batch, parts[0].event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.parts[0].support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Pool:
        return Pool(self.weights, [part.expand(batch_shape) for part in self.parts])

    @property
    def mean(self) -> Tensor:
        total: Any = sum(w * part.mean for w, part in zip(self.weights, self.parts, strict=True))
        return total

    @property
    def variance(self) -> Tensor:
        """E Var + Var E, per coordinate."""
        pairs = list(zip(self.weights, self.parts, strict=True))
        second: Any = sum(w * (part.variance + part.mean.square()) for w, part in pairs)
        return second - self.mean.square()

    def log_prob(self, value: Tensor) -> Tensor:
        table = torch.stack([part.log_prob(value).to(torch.float64) for part in self.parts], -1)
        return torch.logsumexp(table + self.weights.log(), -1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Each draw from one part, chosen by its weight."""
        shape = torch.Size([*sample_shape, *self.batch_shape])
        parts = [part.expand(self.batch_shape) for part in self.parts]
        draws = torch.stack([part.sample(sample_shape).to(torch.float64) for part in parts])
        chosen = torch.multinomial(self.weights.detach(), max(shape.numel(), 1), replacement=True)[: shape.numel()]
        index = chosen.reshape(1, *shape, *(1,) * len(self.event_shape)).expand(1, *draws.shape[1:])
        return draws.gather(0, index).squeeze(0)
