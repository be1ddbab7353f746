"""What a distribution of rows says of every coordinate alone: its marginals and their quantiles.

Quantiles are the generalised inverse of the marginal distribution function: exact for normal marginals, by bisection
for their mixtures and by summation for counts; of other marginals they are those of ten thousand draws.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

#: by what their parameters are called: components of mixtures that may stand in a mixture over paths again
FLATTENED: dict[type[D.Distribution], tuple[str, ...]] = {
    D.Normal: ("loc", "scale"),
    D.Bernoulli: ("logits",),
    D.Poisson: ("rate",),
}


def quantile(distribution: D.Distribution, q: float) -> Tensor:
    """The q-quantile of every coordinate of a distribution with event shape (D,)."""
    weights, base = coordinates_of(distribution)
    if weights is None and isinstance(base, D.Normal):
        return base.icdf(torch.tensor(q, dtype=base.mean.dtype))
    if isinstance(base, D.Normal):
        return _bisect(weights, base, q)
    if not base.event_shape and getattr(base.support, "is_discrete", False):
        return _sum_until(weights, base, q)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return distribution.sample(torch.Size([10_000])).quantile(q, 0)


def coordinates_of(distribution: D.Distribution) -> tuple[Tensor | None, Any]:
    """Mixture weights (*batch, M) or None, and the univariate marginals of every coordinate (*batch, [M,] D)."""
    if isinstance(distribution, D.MixtureSameFamily):
        inner, base = coordinates_of(distribution.component_distribution)
        outer = distribution.mixture_distribution.probs
        if inner is None:
            return outer, base
        if type(base) not in FLATTENED:
            raise ValueError(f"mixtures of mixtures of {type(base).__name__} have no closed marginals")
        parts = {name: getattr(base, name) for name in FLATTENED[type(base)]}
        flat = {name: x.expand(*inner.shape, x.shape[-1]).flatten(-3, -2) for name, x in parts.items()}
        return (outer.unsqueeze(-1) * inner).flatten(-2), type(base)(**flat, validate_args=False)
    if isinstance(distribution, D.MultivariateNormal):
        return None, D.Normal(distribution.mean, distribution.variance.sqrt(), validate_args=False)
    if isinstance(distribution, D.Independent):
        return None, distribution.base_dist
    return None, distribution


def is_symbolic(distribution: D.Distribution) -> bool:
    """Whether it draws symbols, which have neither mean nor order."""
    if isinstance(distribution, D.MixtureSameFamily):
        return is_symbolic(distribution.component_distribution)
    return isinstance(distribution, D.Independent) and isinstance(distribution.base_dist, D.Categorical)


def _bisect(weights: Tensor | None, base: D.Normal, q: float) -> Tensor:
    """Solve sum_m w_m F_m(x) = q between the extreme component quantiles."""
    assert weights is not None
    ends = base.icdf(torch.tensor(q, dtype=base.mean.dtype))
    low, high = ends.amin(-2), ends.amax(-2)
    for _ in range(100):
        middle = (low + high) / 2
        below = (weights.unsqueeze(-1) * base.cdf(middle.unsqueeze(-2))).sum(-2) < q
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        if bool((high - low <= 1e-14 * torch.maximum(low.abs(), high.abs())).all()):
            break
    return (low + high) / 2


def _sum_until(weights: Tensor | None, base: D.Distribution, q: float) -> Tensor:
    """The smallest count k with P(Y <= k) >= q."""
    limit = 1 if isinstance(base, D.Bernoulli) else getattr(base.support, "upper_bound", None)
    top = (
        int((base.mean + 12 * base.variance.sqrt() + 30).max()) if limit is None else int(torch.as_tensor(limit).max())
    )
    while True:
        counts = torch.arange(top + 1, dtype=torch.float64)
        grid = counts.reshape(-1, *(1,) * len(base.batch_shape)).expand(-1, *base.batch_shape)
        allowed = grid if limit is None else grid.clamp(max=float(torch.as_tensor(limit).max()))
        mass = torch.where(grid == allowed, base.log_prob(allowed).exp(), 0.0)
        if weights is not None:
            mass = (weights.unsqueeze(-1) * mass).sum(-2)
        cdf = mass.cumsum(0)
        if bool((cdf[-1] >= q).all()) or limit is not None:
            return (cdf < q).sum(0).clamp(max=top).to(torch.float64)
        top *= 2
