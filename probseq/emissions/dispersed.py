"""Overdispersed counts: y_t[d] | z_t = k ~ NegativeBinomial(means[k, d], dispersions[k, d]), independent coordinates.

    log p(y) = log Gamma(y + 1/a) - log Gamma(1/a) - log y! + y log(a m) - (y + 1/a) log(1 + a m)
    mean m,    variance m + a m^2                                                             (NB2; Hilbe 2011, ch. 8)

The size of other libraries is 1/a, their success probability 1 / (1 + a m). A dispersion of 0 is the Poisson law,
exactly. For any a the likelihood equation for m is solved by the weighted mean; the profile in a has one maximum,
at 0 if the weighted variance does not exceed the mean (Levin and Reeds 1977), else where its derivative vanishes,
which bisection in log a finds. A step that would lower the expected log-density is not taken.

With a Gamma(s, r) prior on m the equation for m, with Y the weighted counts and N their weight, is quadratic,

    -r a m^2 + ((s - 1) a - N - r) m + Y + s - 1 = 0

and the M-step solves it at the old a, then climbs in a: a conditional maximisation, which never falls (Meng and Rubin
1993, Biometrika 80).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import constraints

from probseq import parameters as P
from probseq.emissions.base import Emission, cluster, leading_size, positive, rows_of
from probseq.emissions.counts import LEAST_COUNT
from probseq.emissions.special import climb, log_rising, slope_of
from probseq.parameters import Param
from probseq.priors import Gamma, Prior, accept

#: log a is searched this far on both sides of the estimate from mean and variance
REACH = 30.0
#: below, the Poisson law: 1 / a^2 must not overflow
NEARLY_POISSON = torch.finfo(torch.float64).tiny ** 0.5


class NegativeBinomial(Emission):
    """Overdispersed counts, from sizes `NegativeBinomial(dim)` or from `means` and `dispersions`, both (K, D).

    `prior` is a Gamma on the means.
    """

    means = Param(P.nonnegative, "n_states", "dim")
    dispersions = Param(P.nonnegative, "n_states", "dim")

    def __init__(
        self, dim: int | None = None, *, means: Any = None, dispersions: Any = None, prior: Prior | None = None
    ) -> None:
        accept(prior, Gamma, "NegativeBinomial")
        self.prior = prior
        n_states = None
        for name, value in (("means", means), ("dispersions", dispersions)):
            if value is not None and n_states is None:
                n_states, width = leading_size(name, value, "(n_states, dim)")
                dim = width if dim is None else dim
        super().__init__(positive("dim", dim), n_states, {"means": means, "dispersions": dispersions})

    def sizes(self) -> dict[str, Any]:
        return {"dim": self.dim} if self.prior is None else {"dim": self.dim, "prior": self.prior}

    def log_prior(self) -> Tensor:
        return self.prior.log_density(self.means) if isinstance(self.prior, Gamma) else super().log_prior()

    def invalid(self, values: Tensor) -> tuple[Tensor, str]:
        return (values < 0) | (values != values.round()), "counts 0, 1, 2, ..."

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        rows, seen = rows_of(values, observed)
        terms = log_mass(rows.unsqueeze(-2), self.means, self.dispersions)
        table = (terms if seen is None else torch.where(seen.unsqueeze(-2), terms, 0.0)).sum(-1)
        return table.reshape(*values.shape[:-1], self.n_states)

    def distribution(self) -> D.Distribution:
        return D.Independent(DispersedPoisson(self.means, self.dispersions), 1)

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        """Means of clusters, each shrunk by one row towards the whole; the dispersion within them, by moments."""
        weights = cluster(values, observed, self.n_states, seed)
        seen = observed.to(values.dtype)
        overall = ((values * seen).sum(0) + LEAST_COUNT) / seen.sum(0).clamp(min=1)
        mass = weights.mT @ seen + 1
        means = (weights.mT @ (values * seen) + overall) / mass
        self.assign(means=means)
        squares = (values.unsqueeze(1) - means).square() * seen.unsqueeze(1)
        excess = torch.einsum("nk,nkd->kd", weights, squares) / mass - means
        self.assign(dispersions=torch.maximum(excess, 0.1 * means) / means.square())

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        seen = observed.to(values.dtype)
        total, mass = weights.mT @ (values * seen), weights.mT @ seen
        means = total / torch.where(mass > 0, mass, 1.0)
        if isinstance(self.prior, Gamma):
            counts, time = self.prior.counts(self.means)
            means = _mode(total, mass, counts, time, self.dispersions)
            mass = mass + time
        means = means.clamp(min=LEAST_COUNT / max(len(values), 1))
        self.assign(means=torch.where(mass > 0, means, self.means))
        if self.is_frozen("dispersions"):
            return
        means, old = self.means, self.dispersions
        columns = [
            _best_dispersion(values[observed[:, d], d], weights[observed[:, d]], means[:, d], old[:, d])
            for d in range(self.dim)
        ]
        self.assign(dispersions=torch.stack(columns, -1))


def _mode(total: Tensor, mass: Tensor, counts: Tensor, time: Tensor, dispersions: Tensor) -> Tensor:
    """The positive root m of time a m^2 + (mass + time - counts a) m = total + counts, without cancellation."""
    a, b, c = time * dispersions, mass + time - counts * dispersions, total + counts
    root = (b.square() + 4 * a * c).sqrt()
    small = torch.where(b > 0, 2 * c / torch.where(b > 0, b + root, 1.0), 0.0)
    return torch.where(b > 0, small, (root - b) / torch.where(a > 0, 2 * a, 1.0))


def _best_dispersion(counts: Tensor, weights: Tensor, means: Tensor, old: Tensor) -> Tensor:
    """argmax_a sum_n weights[n, k] log p(counts[n] | means[k], a) for every state, never worse than `old`."""
    levels, place = torch.unique(counts, return_inverse=True)
    shares = weights.new_zeros(len(levels), weights.shape[1]).index_add(0, place, weights)
    levels = levels.unsqueeze(-1)

    def value(dispersions: Tensor) -> Tensor:
        return (shares * log_mass(levels, means, dispersions)).sum(0)

    excess = (shares * ((levels - means).square() - levels)).sum(0)  # twice the derivative at a = 0
    moment = excess / torch.where(excess > 0, (shares * means.square()).sum(0), 1.0)
    centre = torch.where(excess > 0, moment, 1.0).log()
    best = climb(slope_of(lambda log_a: value(log_a.exp())), centre, centre - REACH, centre + REACH).exp()
    best = torch.where(excess > 0, best, 0.0)
    return torch.where(value(best) > value(old), best, old)


def log_mass(counts: Tensor, means: Tensor, dispersions: Tensor) -> Tensor:
    """log p(y; m, a), broadcast: exact at m = 0 and a = 0, and without cancellation near a = 0."""
    spread = dispersions > NEARLY_POISSON
    a = torch.where(spread, dispersions, 1.0)
    rate = torch.where(means > 0, means, 1.0)
    poisson = counts * rate.log() - rate
    # y log(a m) - (y + 1/a) log(1 + a m) and the rising factorial, whose y log(1/a) cancels with y log a
    mixed = log_rising(1 / a, counts) + counts * (a * rate).log() - (counts + 1 / a) * torch.log1p(a * rate)
    some = torch.where(spread, mixed, poisson) - torch.lgamma(counts + 1)
    return torch.where(means > 0, some, torch.where(counts > 0, -torch.inf, 0.0))


class DispersedPoisson(D.Distribution):
    """A Poisson law whose rate is gamma-distributed around `mean` with variance dispersion * mean^2."""

    arg_constraints: Any = {}  # type: ignore[assignment]  # noqa: RUF012
    support: Any = constraints.nonnegative_integer

    def __init__(self, means: Tensor, dispersions: Tensor) -> None:
        self.means, self.dispersions = torch.broadcast_tensors(means, dispersions)
        super().__init__(self.means.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DispersedPoisson:
        return DispersedPoisson(self.means.expand(batch_shape), self.dispersions.expand(batch_shape))

    @property
    def mean(self) -> Tensor:
        return self.means

    @property
    def variance(self) -> Tensor:
        return self.means + self.dispersions * self.means.square()

    def log_prob(self, value: Tensor) -> Tensor:
        return log_mass(value, self.means, self.dispersions)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            spread = self.dispersions > NEARLY_POISSON
            shape = 1 / torch.where(spread, self.dispersions, 1.0)
            factor = D.Gamma(shape, shape, validate_args=False).sample(sample_shape)
            return torch.poisson(torch.where(spread, factor, 1.0) * self.means)
