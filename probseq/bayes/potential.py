"""The log-density of a posterior over unconstrained coordinates, its gradient, its mode and its unit.

    log p(theta, y) = log p(y | theta) + log prior(public(theta)) + log |d public / d theta|

The likelihood and its gradient are the model's compiled ones; torch only goes from coordinates to stored numbers. A
point that admits no density (an overflow, a singular covariance) has log-density -inf and no slope.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.bayes.coordinates import Block, blocks_of
from probseq.bayes.priors import Priors, priors_of, without_priors
from probseq.bayes.terms import term_of
from probseq.errors import ConvergenceWarning, DegenerateWarning, SingularInnovation, StateOverflow
from probseq.parameters import find_parameter, parametric_modules
from probseq.sequences import Sequences

Array = np.ndarray[Any, Any]
#: most coordinates whose curvature at the mode is taken by differences
MOST_CURVED = 200


class Potential:
    """log p(theta, y) of one model and its data."""

    def __init__(self, model: StateSpaceModel[Any], data: Sequences, priors: Priors) -> None:
        self.model, self.data, self.priors = model, data, priors
        self.blocks: list[Block] = blocks_of(model)
        self.parameters: list[Any] = [block.stored for block in self.blocks]
        self.size = self.blocks[-1].place.stop
        self.terms = [term_of(block, priors[block.name]) for block in self.blocks]
        self.n_calls = 0

    def __reduce__(self) -> Any:  # in another process the blocks are made again
        return Potential, (self.model, self.data, self.priors)

    def theta(self) -> Array:
        """The coordinates of the model as it is, (size,)."""
        parts = [block.theta(block.stored) for block in self.blocks]
        return torch.cat(parts).numpy().copy()

    def place(self, theta: Array) -> None:
        """Make the model the one at theta."""
        flat = torch.as_tensor(theta)
        for block in self.blocks:
            block.place_raw(block.raw(flat[block.place]))

    def values(self) -> dict[str, Tensor]:
        """The public values of the model as it is, by name."""
        return {block.name: block.value() for block in self.blocks}

    def log_prior(self, theta: Array) -> float:
        """log prior + log volume at theta, by torch's distributions."""
        flat = torch.as_tensor(theta)
        return float(sum(self._part(block, flat[block.place])[0] for block in self.blocks))

    def _part(self, block: Block, theta: Tensor) -> tuple[Tensor, Tensor]:
        """log prior + log volume of a block, and its stored numbers, differentiable."""
        raw, prior = block.raw(theta), self.priors[block.name]
        total = block.log_volume(theta, raw)
        return (total if prior is None else total + _density(block, prior, raw)), raw

    def __call__(self, theta: Array) -> tuple[float, Array]:
        """log p(theta, y) and its gradient (size,)."""
        self.n_calls += 1
        try:
            value, gradient = self._value(theta)
        except (SingularInnovation, StateOverflow, torch.linalg.LinAlgError):
            return -math.inf, np.zeros(self.size)
        if not (math.isfinite(value) and np.isfinite(gradient).all()):
            return -math.inf, np.zeros(self.size)
        return value, gradient

    def _value(self, theta: Array) -> tuple[float, Array]:
        total, slope = 0.0, np.empty(self.size)
        taped: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for block, term in zip(self.blocks, self.terms, strict=True):
            if term is None:
                value, raw = self._taped(block, theta, taped)
            else:
                value, slope[block.place], raw = term(theta[block.place])
            total += value
            if not math.isfinite(total):
                return -math.inf, slope
            block.place_raw(torch.from_numpy(raw))
        value, found = self.model._value_and_gradient(self.data, self.parameters)
        for block, term, gradient in zip(self.blocks, self.terms, found, strict=True):
            if term is None:
                slope[block.place] = _pulled(*taped[block.name], gradient)
            elif gradient is not None:
                slope[block.place] += term.pull(gradient.detach().numpy())
        return float(value) + total, slope

    def _taped(
        self, block: Block, theta: Array, taped: dict[str, tuple[Tensor, Tensor, Tensor]]
    ) -> tuple[float, Array]:
        """The value and the stored numbers of a block by torch, whose tape is kept."""
        with torch.enable_grad():
            part = torch.tensor(theta[block.place], dtype=torch.float64, requires_grad=True)
            value, raw = self._part(block, part)
        taped[block.name] = part, value, raw
        return float(value.detach()), raw.detach().numpy()

    # ---- where it is, and how wide

    def mode(self, start: Array, max_iterations: int = 200) -> Array:
        """The theta of largest density from `start` on, by L-BFGS."""
        from scipy.optimize import minimize

        first = self(start)[0]
        if not math.isfinite(first):
            raise ValueError("the posterior has no density where the chains would start; give the model other values")
        worst = abs(first) * 1e3 + 1e6

        def loss(theta: Array) -> tuple[float, Array]:
            value, gradient = self(theta)
            return (-value, -gradient) if math.isfinite(value) else (worst, np.zeros_like(theta))

        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": max_iterations})
        return found.x if self(found.x)[0] >= first else start

    def spread(self, theta: Array) -> Array:
        """A root of Laplace's covariance around a mode, (size, size); of large problems a tenth of the identity.

        Where the density does not curve as at a mode, curvatures count by their size.
        """
        if self.size > MOST_CURVED:
            return 0.1 * np.eye(self.size)
        columns: list[Array] = []
        for i in range(self.size):
            step = np.zeros(self.size)
            step[i] = 1e-4 * max(1.0, abs(theta[i]))
            columns.append((self(theta - step)[1] - self(theta + step)[1]) / (2 * step[i]))
        information = np.array(columns)
        values, vectors = np.linalg.eigh((information + information.T) / 2)
        least = 1e-6 * max(float(np.abs(values).max()), 1e-300)
        return vectors / np.sqrt(np.maximum(np.abs(values), least)) @ vectors.T


def _pulled(part: Tensor, value: Tensor, raw: Tensor, gradient: Tensor | None) -> Array:
    """The slope in theta from the tape of a block and the slope of the likelihood in what is stored."""
    weight = torch.zeros_like(raw) if gradient is None else gradient.to(torch.float64)
    outputs = [(raw, weight)] + ([(value, torch.ones_like(value))] if value.requires_grad else [])
    (slope,) = torch.autograd.grad([one for one, _ in outputs], part, [weight for _, weight in outputs])
    return slope.numpy()


def _density(block: Block, prior: Any, raw: Tensor) -> Tensor:
    """The log prior of a block; held entries and structural zeros do not count."""
    value = block.public(raw)
    if block.whole or block.kind == "factor":
        return prior.log_prob(value).sum()
    if block.kind == "simplex":  # of the possible outcomes only, row by row
        from torch.distributions import Dirichlet

        if not isinstance(prior, Dirichlet):
            raise ValueError(f"the prior on {block.name} must be a Dirichlet, since some outcomes are impossible")
        width = value.shape[-1]
        rows = zip(
            value.reshape(-1, width), prior.concentration.reshape(-1, width), block.free.reshape(-1, width), strict=True
        )
        terms = [
            Dirichlet(concentration[free], validate_args=False).log_prob(row[free])
            for row, concentration, free in rows
            if int(free.sum()) > 1
        ]
        return torch.stack(terms).sum()
    density = prior.log_prob(torch.where(block.free, value, 0.5))
    if density.shape != block.free.shape:
        raise ValueError(f"the prior on {block.name} must be one of single entries, since some are held")
    return torch.where(block.free, density, 0.0).sum()


def prepare(
    model: StateSpaceModel[Any],
    data: Sequences,
    priors: Mapping[str, Any] | None,
    fixed: Iterable[str],
    seed: int,
    conjugate: bool = False,
) -> Potential:
    """A copy of the model at its own values, or those of a fit where it has none, with its free blocks and priors."""
    if not isinstance(model, StateSpaceModel):
        raise TypeError(f"model must be a StateSpaceModel, got {type(model).__name__}")
    own = copy.deepcopy(model)
    fixed = {fixed} if isinstance(fixed, str) else set(fixed)
    named = set(priors or {})
    held = fixed | (own._unidentified(data) - named)
    for name in held:
        _hold(own, name)
    if not own.is_started or any(module.unset for _, module in parametric_modules(own)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", DegenerateWarning)
            own.fit(data, seed=seed, fixed=fixed)
    distributions = priors_of(own, data, blocks_of(own), priors, conjugate)
    without_priors(own)
    return Potential(own, data, distributions)


def _hold(model: StateSpaceModel[Any], name: str) -> None:
    owner, leaf, declared = find_parameter(model, name)
    parameter: Any = owner._parameters[f"raw_{leaf}" if declared else leaf]
    if parameter is not None:
        parameter.requires_grad_(False)
