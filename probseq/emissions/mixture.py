"""Gaussian mixtures: p(y_t | z_t = k) = sum_m weights[k, m] N(y_t; means[k, m], covs[k, m]).

The K M components are one `Gaussian` of K M states, `emission.components`, component m of state k at place
k M + m; "tied" ties all of them. An HMM with mixtures is an HMM on pairs (k, m) whose transitions look at k
alone, so that the exact M-step splits the weight of every row among its state's components by

    r_nkm = w_nk weights[k, m] N(y_n; k, m) / p(y_n | k)                              (Rabiner 1989, eqs. 52-54)

and fits components and weights to r. Coordinates that are missing are integrated out of each component.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from probseq import parameters as P
from probseq.emissions.base import Emission, cluster, positive
from probseq.emissions.gaussian import Covariance, Gaussian
from probseq.parameters import Param
from probseq.priors import Dirichlet, Prior, accept


class GaussianMixture(Emission):
    """From sizes `GaussianMixture(dim, n_components)`, or `weights` (K, M), `means` (K, M, D), `covs` (K, M, D, D).

    `prior` is one of the K M components, a state each, as for `Gaussian`; `weights_prior` a Dirichlet on the weights.
    """

    real_valued = True
    weights = Param(P.simplex, "n_states", "n_components")

    def __init__(
        self,
        dim: int | None = None,
        n_components: int | None = None,
        *,
        weights: Any = None,
        means: Any = None,
        covs: Any = None,
        covariance: Covariance = "full",
        prior: Prior | None = None,
        weights_prior: Dirichlet | None = None,
    ) -> None:
        accept(weights_prior, Dirichlet, "the weights")
        self.prior = weights_prior  # of what is declared here; the components have theirs
        shapes = {
            name: tuple(P.as_parameter(name, value).shape)
            for name, value in (("weights", weights), ("means", means), ("covs", covs))
            if value is not None
        }
        for name, shape in shapes.items():
            letters = {"weights": "(K, M)", "means": "(K, M, D)", "covs": "(K, M, D, D)"}[name]
            if len(shape) != letters.count(",") + 1:
                raise ValueError(f"{name} must have shape {letters}, got {shape}")
        if len({shape[:2] for shape in shapes.values()}) > 1:
            raise ValueError(f"weights, means and covs must agree in states and components, got {shapes}")
        n_states, found = next((shape[:2] for shape in shapes.values()), (None, n_components))
        widths = [shape[2] for shape in shapes.values() if len(shape) > 2]
        dim = widths[0] if dim is None and widths else dim
        self.n_components = positive("n_components", n_components if n_components is not None else found)
        if found != self.n_components:
            raise ValueError(f"n_components is {self.n_components}, but the parameters have {found}")
        super().__init__(positive("dim", dim), None, {"weights": weights})
        self.components = Gaussian(
            self.dim,
            means=None if means is None else P.as_parameter("means", means).flatten(0, 1),
            covs=None if covs is None else P.as_parameter("covs", covs).flatten(0, 1),
            covariance=covariance,
            prior=prior,
        )
        self.common_scale = self.components.common_scale
        if n_states is not None:
            self.bind(n_states)

    def bind(self, n_states: int) -> None:
        super().bind(n_states)
        self.components.bind(n_states * self.n_components)

    def sizes(self) -> dict[str, Any]:
        sizes = {**self.components.sizes(), "n_components": self.n_components}
        return sizes if self.prior is None else {**sizes, "weights_prior": self.prior}

    def log_prior(self) -> Tensor:
        total = self.components.log_prior()
        if isinstance(self.prior, Dirichlet):
            total = total + self.prior.log_density(type(self).weights.log(self))
        return total

    @property
    def means(self) -> Tensor:
        """(K, M, D)."""
        return self.components.means.unflatten(0, (self.n_states, self.n_components))

    @property
    def covs(self) -> Tensor:
        """(K, M, D, D)."""
        return self.components.covs.unflatten(0, (self.n_states, self.n_components))

    def _joint(self, values: Tensor, observed: Tensor | None) -> Tensor:
        """log weights[k, m] N(y; k, m), (*batch, K, M)."""
        table = self.components.log_prob(values, observed).unflatten(-1, (self.n_states, self.n_components))
        return table + type(self).weights.log(self)

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        table = self._joint(values, observed).logsumexp(-1)
        return table if observed is None else torch.where(observed.any(-1, keepdim=True), table, 0.0)

    def distribution(self) -> D.Distribution:
        shape = (self.n_states, self.n_components)
        inside = self.components
        if inside.is_diagonal:
            spread = inside.variances().sqrt().unflatten(0, shape)
            parts: D.Distribution = D.Independent(D.Normal(self.means, spread, validate_args=False), 1)
        else:
            parts = D.MultivariateNormal(
                self.means, scale_tril=inside.factor().unflatten(0, shape), validate_args=False
            )
        return D.MixtureSameFamily(D.Categorical(probs=self.weights, validate_args=False), parts, validate_args=False)

    def mixture(self, log_probs: Tensor) -> D.Distribution:
        """A mixture of mixtures is one mixture."""
        return self.components.mixture((log_probs.unsqueeze(-1) + type(self).weights.log(self)).flatten(-2))

    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        self.components.rescale(scale, shift)

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        """Clusters of the rows for the states, and clusters of each state's rows for its components."""
        k, m = self.n_states, self.n_components
        states = cluster(values, observed, k, seed)
        split = values.new_zeros(len(values), k, m)
        for state in range(k):
            rows = states[:, state].nonzero().squeeze(-1)
            if len(rows):
                split[rows, state] = cluster(values[rows], observed[rows], m, seed + state)
        self.components.start(values, observed, seed)
        mass = split.sum(0)
        self.assign(weights=(mass + 1) / (mass + 1).sum(-1, keepdim=True))
        share = 0.9 * split.flatten(1) + 0.1 / (k * m)  # no component starts from a handful of rows alone
        self.components.maximise(values, observed, share)

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        split = self._joint(values, observed).softmax(-1) * weights.unsqueeze(-1)
        shown = observed.any(-1)  # a row without any observation says nothing
        mass = split[shown].sum(0)
        if isinstance(self.prior, Dirichlet):
            mass = mass + self.prior.counts(self.weights)
        total = mass.sum(-1, keepdim=True)
        new = torch.where(total > 0, mass / torch.where(total > 0, total, 1.0), self.weights)
        self.assign(weights=new)
        self.components.maximise(values[shown], observed[shown], split[shown].flatten(1))
