"""One update per parameter: (paths, rng) -> the parameter drawn given the paths and all others, put into the model.

Paths are those of a flat batch: states (B, T) of an HMM, (B, T, n) of a linear Gaussian model; steps beyond the end of
a sequence and rows of y that are missing do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import distributions as D

from probseq.bayes import conjugate
from probseq.bayes.coordinates import Block
from probseq.bayes.potential import Array, Potential
from probseq.bayes.priors import InverseWishart
from probseq.models.hmm import HMM
from probseq.models.lds import LDS

Update = Callable[[Array, np.random.Generator], None]


def updates_of(potential: Potential) -> list[Update]:
    """The updates of all free parameters. ValueError for one that has none."""
    model: Any = potential.model
    kind = _HMM if isinstance(model, HMM) else _LDS if isinstance(model, LDS) else _Structural
    family = kind(potential)
    return [family.update(block) for block in potential.blocks]


def _refuse(block: Block, prior: Any, wanted: str = "") -> ValueError:
    if wanted:
        return ValueError(
            f"the prior on {block.name} must be {wanted} for gibbs, got {type(prior).__name__}; or use nuts"
        )
    return ValueError(f"gibbs has no closed conditional for {block.name}: hold it with fixed=, or use nuts")


class _Family:
    """What all share: the data without what is missing, and how values go into the model."""

    def __init__(self, potential: Potential) -> None:
        self.model: Any = potential.model
        self.priors = potential.priors
        self.data = data = potential.data
        self.y = data.values.detach().numpy()
        self.inside = data.inside.numpy()
        observed = data.observed.numpy()
        self.seen = observed.all(-1) & self.inside
        if (observed.any(-1) & self.inside & ~self.seen).any():
            raise ValueError("gibbs needs rows of y that are observed whole or not at all; use nuts")
        if data.inputs is not None:
            raise ValueError("gibbs is for models without inputs; use nuts")

    def update(self, block: Block) -> Update:
        if not block.whole and block.kind not in ("factor", "simplex"):
            raise _refuse(block, None)
        return self.of(block, self.priors[block.name])

    def of(self, block: Block, prior: Any) -> Update:
        raise NotImplementedError

    def value(self, name: str) -> Array:
        return getattr(self.model, name).detach().numpy()


def put(block: Block, value: Array) -> None:
    """Store a public value; the draw is legal by construction."""
    block.place_raw(block.param.inverse(block.owner, torch.tensor(value, dtype=torch.float64)))


def _numbers(*values: Any) -> list[Array]:
    return [np.asarray(value, dtype=np.float64) for value in values]


def normal_of(block: Block, prior: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    if type(prior) is not D.Normal:
        raise _refuse(block, prior, "Normal")
    mean, deviation = _numbers(prior.loc, prior.scale)
    return np.broadcast_to(mean, shape), np.broadcast_to(deviation, shape)


def covariances_of(block: Block, prior: Any, n: int, d: int) -> Callable[[Any, list[Array]], Array]:
    """Residuals (N_k, D) of n groups -> covariances (n, D, D) of the type that the block stores.

    Stored numbers of one group serve all (tied), one per group serves all coordinates (spherical).
    """
    shape = block.template.shape
    if block.kind == "factor" and isinstance(prior, InverseWishart):
        scale, dofs = prior.scale.numpy().reshape(-1, d, d), float(prior.degrees_of_freedom)
        tied = len(scale) < n

        def matrices(rng: Any, residuals: list[Array]) -> Array:
            groups = [np.concatenate(residuals)] if tied else residuals
            drawn = [conjugate.covariance(rng, e.T @ e, len(e), s, dofs) for e, s in zip(groups, scale, strict=True)]
            return np.stack(drawn * n if tied else drawn)

        return matrices
    if not isinstance(prior, D.InverseGamma) or (block.kind == "factor" and d > 1):
        raise _refuse(block, prior, "InverseWishart" if block.kind == "factor" and d > 1 else "InverseGamma")
    a, b = (part.reshape(-1, shape[-1]) for part in _numbers(prior.concentration, prior.rate))
    tied, spherical = len(a) < n, a.shape[-1] < d

    def single(rng: Any, residuals: list[Array]) -> Array:
        groups = [np.concatenate(residuals)] if tied else residuals
        squares, counts = np.stack([(e**2).sum(0) for e in groups]), np.array([[len(e)] * d for e in groups])
        if spherical:
            squares, counts = squares.sum(-1, keepdims=True), counts.sum(-1, keepdims=True)
        drawn = np.broadcast_to(conjugate.variances(rng, squares, counts, a, b), (len(groups), d))
        return np.stack([np.diag(row) for row in (np.repeat(drawn, n, 0) if tied else drawn)])

    return single


# ------------------------------------------------------------------------------------------ hidden Markov models


class _HMM(_Family):
    def __init__(self, potential: Potential) -> None:
        super().__init__(potential)
        if self.model._remembers or self.model.initial != "free" or self.model.tied_rows is not None:
            raise ValueError("gibbs is for an HMM with a free start, rows of its own and no memory; use nuts")
        self.k = self.model.n_states
        self.emission = self.model.emission
        self.moves = self.inside[:, 1:]

    def of(self, block: Block, prior: Any) -> Update:
        name = block.name
        if block.kind == "simplex":
            return self.of_rows(block, prior)
        if name in ("emission.means", "emission.covs") and type(self.emission).__name__ == "Gaussian":
            return self.of_means(block, prior) if name == "emission.means" else self.of_covs(block, prior)
        if name == "emission.rates" and type(self.emission).__name__ == "Poisson":
            return self.of_rates(block, prior)
        if name == "emission.probs" and block.kind == "share":
            return self.of_bits(block, prior)
        raise _refuse(block, prior)

    def of_rows(self, block: Block, prior: Any) -> Update:
        if type(prior) is not D.Dirichlet:
            raise _refuse(block, prior, "Dirichlet")
        count = {
            "initial_probs": self.first_states,
            "transition_matrix": self.transitions,
            "emission.probs": self.symbols,
        }.get(block.name)
        if count is None or (block.name == "emission.probs" and type(self.emission).__name__ != "Categorical"):
            raise _refuse(block, prior)
        alpha = np.where(block.free.numpy(), np.asarray(prior.concentration.expand(block.template.shape)), 0.0)

        def update(states: Array, rng: np.random.Generator) -> None:
            put(block, conjugate.rows(rng, alpha + count(states)))

        return update

    def first_states(self, states: Array) -> Array:
        return np.bincount(states[self.inside[:, 0], 0], minlength=self.k)

    def transitions(self, states: Array) -> Array:
        pairs = states[:, :-1][self.moves] * self.k + states[:, 1:][self.moves]
        return np.bincount(pairs, minlength=self.k**2).reshape(self.k, self.k)

    def symbols(self, states: Array) -> Array:
        m = self.emission.n_symbols
        pairs = states[self.seen] * m + self.y[self.seen][:, 0].astype(np.int64)
        return np.bincount(pairs, minlength=self.k * m).reshape(self.k, m)

    def groups(self, states: Array) -> list[Array]:
        """The rows of y by state."""
        rows, own = self.y[self.seen], states[self.seen]
        return [rows[own == j] for j in range(self.k)]

    def of_means(self, block: Block, prior: Any) -> Update:
        d = self.y.shape[-1]
        mean, deviation = normal_of(block, prior, (self.k, d))

        def update(states: Array, rng: np.random.Generator) -> None:
            covs = self.emission.covs.numpy()
            drawn = [
                conjugate.regression(
                    rng, rows, np.ones((len(rows), 1)), covs[j], mean[j][:, None], deviation[j][:, None]
                )
                for j, rows in enumerate(self.groups(states))
            ]
            put(block, np.stack(drawn)[..., 0])

        return update

    def of_covs(self, block: Block, prior: Any) -> Update:
        draw = covariances_of(block, prior, self.k, self.y.shape[-1])

        def update(states: Array, rng: np.random.Generator) -> None:
            means = self.emission.means.numpy()
            put(block, draw(rng, [rows - means[j] for j, rows in enumerate(self.groups(states))]))

        return update

    def of_rates(self, block: Block, prior: Any) -> Update:
        if type(prior) is not D.Gamma:
            raise _refuse(block, prior, "Gamma")
        a, rate = _numbers(prior.concentration, prior.rate)

        def update(states: Array, rng: np.random.Generator) -> None:
            groups = self.groups(states)
            sums, counts = np.stack([rows.sum(0) for rows in groups]), np.array([[len(rows)] for rows in groups])
            put(block, rng.standard_gamma(a + sums) / (rate + counts))

        return update

    def of_bits(self, block: Block, prior: Any) -> Update:
        if type(prior) is not D.Beta:
            raise _refuse(block, prior, "Beta")
        a, b = _numbers(prior.concentration1, prior.concentration0)

        def update(states: Array, rng: np.random.Generator) -> None:
            groups = self.groups(states)
            ones, counts = np.stack([rows.sum(0) for rows in groups]), np.array([[len(rows)] for rows in groups])
            put(block, rng.beta(a + ones, b + counts - ones))

        return update


# ------------------------------------------------------------------------------------- linear Gaussian models


class _LDS(_Family):
    def __init__(self, potential: Potential) -> None:
        super().__init__(potential)
        if self.model.varying or self.model.stable:
            raise ValueError("gibbs is for an LDS whose matrices neither vary in time nor are kept stable; use nuts")
        if self.model.initial == "stationary":
            raise ValueError("gibbs has no closed conditionals under a stationary start; use nuts")
        self.moves = self.inside[:, 1:]

    def of(self, block: Block, prior: Any) -> Update:
        n, m = self.model.state_dim, self.model.obs_dim
        makers: dict[str, Any] = {
            "transition_matrix": lambda: self.of_matrix(block, prior, "transition", (n, n)),
            "emission_matrix": lambda: self.of_matrix(block, prior, "emission", (m, n)),
            "transition_offset": lambda: self.of_offset(block, prior, "transition", n),
            "emission_offset": lambda: self.of_offset(block, prior, "emission", m),
            "transition_cov": lambda: self.of_cov(block, prior, "transition", n),
            "emission_cov": lambda: self.of_cov(block, prior, "emission", m),
            "initial_mean": lambda: self.of_offset(block, prior, "initial", n),
            "initial_cov": lambda: self.of_cov(block, prior, "initial", n),
        }
        if block.name not in makers:
            raise _refuse(block, prior)
        return makers[block.name]()

    def pairs(self, stem: str, states: Array) -> tuple[Array, Array]:
        """What is explained (N, m), and by what (N, n)."""
        if stem == "transition":
            return states[:, 1:][self.moves], states[:, :-1][self.moves]
        if stem == "emission":
            return self.y[self.seen], states[self.seen]
        first = states[self.inside[:, 0], 0]
        return first, np.zeros((len(first), 0))

    def explained(self, stem: str, x: Array, offset: bool = True) -> Array:
        if stem == "initial":
            return self.value("initial_mean") if offset else np.zeros(self.model.state_dim)
        mean = x @ self.value(f"{stem}_matrix").T
        return mean + self.value(f"{stem}_offset") if offset else mean

    def of_matrix(self, block: Block, prior: Any, stem: str, shape: tuple[int, int]) -> Update:
        mean, deviation = normal_of(block, prior, shape)

        def update(states: Array, rng: np.random.Generator) -> None:
            y, x = self.pairs(stem, states)
            left = y - self.value(f"{stem}_offset")
            put(block, conjugate.regression(rng, left, x, self.value(f"{stem}_cov"), mean, deviation))

        return update

    def of_offset(self, block: Block, prior: Any, stem: str, size: int) -> Update:
        mean, deviation = (part[:, None] for part in normal_of(block, prior, (size,)))

        def update(states: Array, rng: np.random.Generator) -> None:
            y, x = self.pairs(stem, states)
            left = y - self.explained(stem, x, offset=False)
            ones, cov = np.ones((len(y), 1)), self.value(f"{stem}_cov")
            put(block, conjugate.regression(rng, left, ones, cov, mean, deviation)[:, 0])

        return update

    def of_cov(self, block: Block, prior: Any, stem: str, size: int) -> Update:
        draw = covariances_of(block, prior, 1, size)

        def update(states: Array, rng: np.random.Generator) -> None:
            y, x = self.pairs(stem, states)
            put(block, draw(rng, [y - self.explained(stem, x)])[0])

        return update


class _Structural(_Family):
    """Every variance by the sum of squares of its own disturbances."""

    def of(self, block: Block, prior: Any) -> Update:
        if block.name not in ("emission_var", "level_var", "trend_var", "seasonal_var", "fourier_var"):
            raise _refuse(block, prior)
        if not isinstance(prior, D.InverseGamma):
            raise _refuse(block, prior, "InverseGamma")
        a, b = _numbers(prior.concentration, prior.rate)
        residuals = self.of_y if block.name == "emission_var" else self.of_states(block.name)

        def update(states: Array, rng: np.random.Generator) -> None:
            found = residuals(states)
            squares, counts = (np.array([f(e) for e in found]).reshape(a.shape) for f in (_squares, np.size))
            put(block, conjugate.variances(rng, squares, counts, a, b))

        return update

    def of_y(self, states: Array) -> list[Array]:
        system = self.model.system()
        offset = self.model.emission_offset_at(None)
        signal = states @ system.emission_matrix.numpy()[0] + (0.0 if offset is None else float(offset))
        return [(self.y[..., 0] - signal)[self.seen]]

    def of_states(self, name: str) -> Callable[[Array], list[Array]]:
        spans, widths = self.model.layout.spans, self.model.layout.widths
        if name == "fourier_var":
            ends = np.cumsum([spans["fourier"].start, *widths])
            parts = [slice(i, j) for i, j in pairwise(ends)]
        else:
            first = {"level_var": 0, "trend_var": 1}.get(name)
            first = spans["seasonal"].start if first is None else first
            parts = [slice(first, first + 1)]

        def residuals(states: Array) -> list[Array]:
            matrix, unit = self.model.system().transition_matrix.numpy(), float(self.model.unit)
            moved = (states[:, 1:] - states[:, :-1] @ matrix.T)[self.inside[:, 1:]] * unit
            return [moved[:, part] for part in parts]

        return residuals


def _squares(values: Array) -> float:
    return float((values**2).sum())
