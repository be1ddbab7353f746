"""What a prior and a change of variables add to the log-density, and their slope, on arrays: no tape.

    term(theta) -> log prior(x(theta)) + log |dx / d theta|, its gradient, the stored numbers at theta
    term.pull(slope of the likelihood in what is stored) -> in theta

The same numbers as those of `coordinates` and torch's distributions, which serve whatever is not in this table: for a
short series they take longer than its filter. With f the log prior and x as in the table,

| kind    | x                 | slope in theta                                                        |
|---------|-------------------|-----------------------------------------------------------------------|
| real    | theta             | f'(x)                                                                 |
| log     | exp theta         | f'(x) x + 1                                                           |
| share   | sigmoid theta     | f'(x) x (1 - x) + 1 - 2 x                                             |
| factor  | S = L L'          | tril(2 F L), F = df / dS, times L_ii on the diagonal, plus n - i + 2  |
| simplex | softmax(theta V)  | (a - sum(a) x) V', a the concentrations                               |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import distributions as D

from probseq.bayes.coordinates import Block
from probseq.bayes.priors import HalfNormalRoot, InverseWishart

Array = np.ndarray[Any, Any]
#: x -> (log density summed, its slope in x)
Density = Callable[[Array], tuple[float, Array]]


def density_of(prior: Any) -> Density | None:
    """A prior over single entries or matrices on arrays, None for one that is not written here."""
    if prior is None:
        return lambda x: (0.0, np.zeros_like(x))
    maker = DENSITIES.get(type(prior))
    return None if maker is None else maker(prior)


def _numbers(*values: Any) -> list[Array]:
    return [np.asarray(value.detach(), dtype=np.float64) for value in values]


def _normal(prior: D.Normal) -> Density:
    mean, deviation = _numbers(prior.loc, prior.scale)
    precision, constant = 1 / deviation**2, -float((np.log(deviation) + 0.5 * math.log(2 * math.pi)).sum())

    def density(x: Array) -> tuple[float, Array]:
        away = (x - mean) * precision
        return constant - 0.5 * float((away * (x - mean)).sum()), -away

    return density


def _inverse_gamma(prior: Any) -> Density:
    a, b = _numbers(prior.concentration, prior.rate)
    constant = float((a * np.log(b)).sum()) - float(torch.lgamma(prior.concentration).sum())

    def density(x: Array) -> tuple[float, Array]:
        share = b / x
        return constant - float(((a + 1) * np.log(x) + share).sum()), (share - a - 1) / x

    return density


def _gamma(prior: D.Gamma) -> Density:
    a, rate = _numbers(prior.concentration, prior.rate)
    constant = float((a * np.log(rate)).sum()) - float(torch.lgamma(prior.concentration).sum())

    def density(x: Array) -> tuple[float, Array]:
        return constant + float(((a - 1) * np.log(x) - rate * x).sum()), (a - 1) / x - rate

    return density


def _half_normal_root(prior: HalfNormalRoot) -> Density:
    (scale,) = _numbers(prior.scale)
    half, constant = 0.5 / scale**2, -float((np.log(scale) + 0.5 * math.log(2 * math.pi)).sum())

    def density(x: Array) -> tuple[float, Array]:
        return constant - float((half * x + 0.5 * np.log(x)).sum()), -half - 0.5 / x

    return density


def _log_normal(prior: D.LogNormal) -> Density:
    base: Any = prior.base_dist
    mean, deviation = _numbers(base.loc, base.scale)
    constant = -float((np.log(deviation) + 0.5 * math.log(2 * math.pi)).sum())

    def density(x: Array) -> tuple[float, Array]:
        logs = np.log(x)
        away = (logs - mean) / deviation
        return constant - float((0.5 * away**2 + logs).sum()), -(away / deviation + 1) / x

    return density


def _beta(prior: D.Beta) -> Density:
    a, b = _numbers(prior.concentration1, prior.concentration0)
    whole = prior.concentration1 + prior.concentration0
    parts = torch.lgamma(whole) - torch.lgamma(prior.concentration1) - torch.lgamma(prior.concentration0)
    constant = float(parts.sum())

    def density(x: Array) -> tuple[float, Array]:
        terms = (a - 1) * np.log(x) + (b - 1) * np.log1p(-x)
        return constant + float(terms.sum()), (a - 1) / x - (b - 1) / (1 - x)

    return density


def _inverse_wishart(prior: InverseWishart) -> Density:
    (scale,) = _numbers(prior.scale)
    d, v = scale.shape[-1], float(prior.degrees_of_freedom)
    log_norm = 0.5 * v * (np.linalg.slogdet(scale)[1] - d * math.log(2))
    constant = float(np.sum(log_norm - float(torch.special.multigammaln(torch.tensor(0.5 * v).double(), d))))

    def density(x: Array) -> tuple[float, Array]:
        inverse = np.linalg.inv(x)
        bent = inverse @ scale
        logs = np.linalg.slogdet(x)[1]
        value = -0.5 * (v + d + 1) * logs - 0.5 * bent.trace(axis1=-2, axis2=-1)
        return constant + float(np.sum(value)), 0.5 * (bent @ inverse - (v + d + 1) * inverse)

    return density


DENSITIES: dict[type, Callable[[Any], Density]] = {
    D.Normal: _normal,
    D.InverseGamma: _inverse_gamma,
    D.Gamma: _gamma,
    HalfNormalRoot: _half_normal_root,
    D.LogNormal: _log_normal,
    D.Beta: _beta,
    InverseWishart: _inverse_wishart,
}


class Elementwise:
    """A block whose stored numbers are theta itself: real, log or share."""

    def __init__(self, block: Block, density: Density) -> None:
        self.shape, self.kind, self.density = block.template.shape, block.kind, density

    def __call__(self, theta: Array) -> tuple[float, Array, Array]:
        raw = theta.reshape(self.shape)
        if self.kind == "real":
            value, slope = self.density(raw)
            return value, slope.ravel(), raw
        if self.kind == "log":
            x = np.exp(raw)
            value, slope = self.density(x)
            return value + float(theta.sum()), (slope * x + 1).ravel(), raw
        x = 1 / (1 + np.exp(-raw))
        value, slope = self.density(x)
        volume = x * (1 - x)
        return value + float(np.log(volume).sum()), (slope * volume + 1 - 2 * x).ravel(), raw

    def pull(self, slope: Array) -> Array:
        return slope.ravel()


class Factor:
    """A block that stores the triangle of matrices; a prior over entries serves 1 x 1."""

    def __init__(self, block: Block, density: Density) -> None:
        self.density, self.definite, self.shape = density, block.definite, block.template.shape
        self.free, n = block.free.numpy(), self.shape[-1]
        self.diagonal = np.broadcast_to(np.eye(n, dtype=bool), self.shape)[self.free]
        powers = np.broadcast_to(np.diag(np.arange(n + 1.0, 1.0, -1.0)), self.shape)
        self.powers, self.constant = powers[self.free], math.prod(self.shape[:-2]) * n * math.log(2)
        self.unit = np.ones(len(self.diagonal))

    def __call__(self, theta: Array) -> tuple[float, Array, Array]:
        entries = np.where(self.diagonal, np.exp(theta), theta)
        lower = np.zeros(self.shape)
        lower[self.free] = entries
        value, slope = self.density(lower @ lower.swapaxes(-1, -2))
        scale = np.where(self.diagonal, entries, 1.0)
        gradient = ((slope + slope.swapaxes(-1, -2)) @ lower)[self.free] * scale + self.powers
        self.unit = self.unit if self.definite else scale
        raw = lower
        if self.definite:
            raw = np.zeros(self.shape)
            raw[self.free] = theta
        return value + float(self.powers @ theta) + self.constant, gradient, raw

    def pull(self, slope: Array) -> Array:
        return slope[self.free] * self.unit


class Rows:
    """A block of rows of probabilities, all outcomes possible, under a Dirichlet."""

    def __init__(self, block: Block, prior: D.Dirichlet) -> None:
        self.shape, self.basis = block.template.shape, block.centred.numpy()
        concentration = prior.concentration
        self.alpha = np.asarray(concentration.expand(self.shape), dtype=np.float64)
        self.total = self.alpha.sum(-1, keepdims=True)
        norm = torch.lgamma(concentration.sum(-1)) - torch.lgamma(concentration).sum(-1)
        rows = math.prod(self.shape[:-1])
        self.constant = float(norm.expand(self.shape[:-1]).sum()) + 0.5 * rows * math.log(self.shape[-1])

    def __call__(self, theta: Array) -> tuple[float, Array, Array]:
        raw = (theta.reshape(-1, len(self.basis)) @ self.basis).reshape(self.shape)
        largest = raw.max(-1, keepdims=True)
        powers = np.exp(raw - largest)
        sums = powers.sum(-1, keepdims=True)
        value = float((self.alpha * (raw - largest - np.log(sums))).sum())
        return value + self.constant, self.pull(self.alpha - self.total * (powers / sums)), raw

    def pull(self, slope: Array) -> Array:
        return (slope.reshape(-1, self.basis.shape[1]) @ self.basis.T).ravel()


def term_of(block: Block, prior: Any) -> Elementwise | Factor | Rows | None:
    """The term of a block on arrays, None where torch must do it."""
    if block.kind == "simplex":
        return Rows(block, prior) if block.whole and type(prior) is D.Dirichlet else None
    whole = block.whole or block.kind == "factor"
    density = density_of(prior) if whole else None
    if density is None or (block.kind == "real" and block.name.endswith("transition_matrix")):
        return None  # a matrix that is kept stable has an edge
    if block.kind == "factor":
        return Factor(block, density)
    return Elementwise(block, density) if block.kind in ("real", "log", "share") else None
