"""Priors on public parameters: distributions of torch or Pyro, those of `probseq.priors`, and what stands in for none.

    priors = {"level_var": D.InverseGamma(2.0, 500.0), "transition_matrix": D.Dirichlet(torch.ones(2))}

A prior is a density of the numbers that are free in the public value: of every entry, every row of probabilities
(Dirichlet), every matrix (`InverseWishart`, `D.Wishart`), every variance of a covariance that is "diag" or "spherical"
or 1 x 1. It is spread over what it does not name: one InverseGamma serves all variances.

Where none is given, and s and c are the standard deviation and the mean of the data (per coordinate):

| parameter                                   | prior                                                             |
|---------------------------------------------|-------------------------------------------------------------------|
| rows of probabilities; shares; intervals    | Dirichlet(1); Beta(1, 1); uniform                                 |
| stationary coefficients                     | uniform over the stationary ones                                  |
| variances of y, of a state                  | the root is HalfNormal(s): `HalfNormalRoot`; for `gibbs`          |
|                                             | InverseGamma(1, s^2 / 100)                                        |
| covariances (n, n) of y, of a state         | InverseWishart(s^2 I / 100, n + 2)                                |
| emission.means, offsets                     | Normal(c, 2 s)                                                    |
| transition matrices; emission matrices      | Normal(0, 1); Normal(0, s)                                        |
| initial_mean                                | Normal(0, 10 (|c| + s))                                           |
| rates of counts                             | Gamma(1, 1 / c)                                                   |
| other positive numbers                      | LogNormal(log of the value at the start, 2)                       |
| weights of networks, anything else          | Normal(0, 1)                                                      |

where s of a state is that of y over the size of `emission_matrix` if that is held, else 1: its unit is free.

References: Gelman (2006), Bayesian Analysis 1 (half-normal and half-t priors on standard deviations).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import constraints

from probseq import matrix_priors
from probseq import priors as conjugate
from probseq.base import StateSpaceModel
from probseq.bayes.coordinates import Block
from probseq.sequences import Sequences
from probseq.transitions import mean_of_groups

Priors = dict[str, D.Distribution | None]


class InverseWishart(D.Distribution):
    """On covariances (d, d): |S|^-((v + d + 1) / 2) exp(-tr(scale S^-1) / 2), normalised; scale (*batch, d, d)."""

    arg_constraints = MappingProxyType(  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
        {"scale": constraints.positive_definite, "degrees_of_freedom": constraints.real}
    )
    support = constraints.positive_definite  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(self, scale: Any, degrees_of_freedom: float, validate_args: bool | None = None) -> None:
        self.scale = torch.as_tensor(scale, dtype=torch.float64)
        self.degrees_of_freedom = torch.as_tensor(float(degrees_of_freedom), dtype=torch.float64)
        d = self.scale.shape[-1]
        if not float(degrees_of_freedom) > d - 1:
            raise ValueError(f"degrees_of_freedom must exceed {d - 1}, got {degrees_of_freedom!r}")
        super().__init__(self.scale.shape[:-2], self.scale.shape[-2:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> InverseWishart:
        wide = self.scale.expand(*batch_shape, *self.event_shape)
        return InverseWishart(wide, float(self.degrees_of_freedom), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        d, v = value.shape[-1], self.degrees_of_freedom
        factor, info = torch.linalg.cholesky_ex(value)
        own = torch.linalg.cholesky(self.scale)
        white = torch.linalg.solve_triangular(factor, own.expand_as(factor), upper=False)
        norm = v * own.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * v * d * math.log(2)
        norm = norm - torch.special.multigammaln(0.5 * v, d)
        log_root = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        density = norm - (v + d + 1) * log_root - 0.5 * white.square().sum((-2, -1))
        return torch.where(info == 0, density, -torch.inf)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """By Bartlett's decomposition of the Wishart matrix S^-1 (Anderson 2003, thm 7.2.1)."""
        d = self.event_shape[-1]
        shape = (*sample_shape, *self.batch_shape)
        lower = torch.randn(*shape, d, d, dtype=torch.float64).tril(-1)
        chi = D.Chi2(self.degrees_of_freedom - torch.arange(d, dtype=torch.float64)).sample(shape)
        lower = lower + torch.diag_embed(chi.sqrt())
        own = torch.linalg.cholesky(self.scale)
        root = torch.linalg.solve_triangular(lower, own.mT.expand(*shape, d, d), upper=False).mT
        return root @ root.mT


class HalfNormalRoot(D.TransformedDistribution):
    """On variances: the root, a standard deviation, is HalfNormal(scale)."""

    arg_constraints: Any = MappingProxyType({"scale": constraints.positive})  # pyright: ignore

    def __init__(self, scale: Any, validate_args: bool | None = None) -> None:
        self.scale = torch.as_tensor(scale, dtype=torch.float64)
        root = D.HalfNormal(self.scale, validate_args=False)
        square: Any = D.PowerTransform(torch.tensor(2.0, dtype=torch.float64))
        super().__init__(root, [square], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> HalfNormalRoot:
        return HalfNormalRoot(self.scale.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log N(root; 0, scale^2) + log 2 - log(2 root)."""
        return -0.5 * value / self.scale.square() - 0.5 * (2 * math.pi * value).log() - self.scale.log()


def priors_of(
    model: StateSpaceModel[Any],
    data: Sequences,
    blocks: list[Block],
    given: Mapping[str, Any] | None,
    conjugate: bool = False,
) -> Priors:
    """A distribution for every block, over exactly its public shape; None is uniform. Says by name what does not fit.

    With `conjugate` single variances have inverse gamma priors where none is given.
    """
    chosen = {**_attached(model), **dict(given or {})}
    _refuse_unknown(model, blocks, dict(given or {}))
    unit = Unit(model, data, conjugate)
    found: Priors = {}
    for block in blocks:
        prior = chosen[block.name] if block.name in chosen else default(block, unit)
        found[block.name] = _fitted(block, prior)
    return found


def _refuse_unknown(model: StateSpaceModel[Any], blocks: list[Block], given: dict[str, Any]) -> None:
    """ValueError for a name that is no parameter, or a held one; one without freedom (a row of one) needs no prior."""
    names = {block.name for block in blocks}
    learned = {name for name, raw in _stored(model).items() if raw.requires_grad}
    wrong = sorted(set(given) - names - learned)
    if wrong:
        raise ValueError(f"priors must name parameters that are free ({', '.join(sorted(names))}), got {wrong[0]!r}")


def _stored(model: StateSpaceModel[Any]) -> dict[str, Tensor]:
    return {name.replace("raw_", ""): raw for name, raw in model.named_parameters()}


def _attached(model: StateSpaceModel[Any]) -> dict[str, Any]:
    """The priors that a model carries for its MAP fits."""
    found: dict[str, Any] = dict(vars(model).get("priors") or {})
    for name, key in (("initial_prior", "initial_probs"), ("transition_prior", "transition_matrix")):
        concentration = vars(model).get(name)
        if concentration is not None:
            ties = None if key == "initial_probs" else vars(model)["tied_rows"]
            found[key] = D.Dirichlet(mean_of_groups(concentration, ties))
    emission = model._modules.get("emission")
    prior = None if emission is None else vars(emission).get("prior")
    if isinstance(prior, (conjugate.NormalInverseWishart, conjugate.NormalInverseGamma)):
        raise ValueError(
            "the emission has a joint prior of means and covariances; give priors by name instead: "
            'priors={"emission.means": Normal(...), "emission.covs": InverseWishart(...)} and no prior in the emission'
        )
    if isinstance(prior, (conjugate.Dirichlet, conjugate.Beta)):
        found["emission.probs"] = prior
    if isinstance(prior, conjugate.Gamma):
        found["emission.rates" if emission is not None and "rates" in emission.params() else "emission.means"] = prior  # type: ignore[operator]
    return found


def without_priors(model: StateSpaceModel[Any]) -> None:
    """Take off the priors a model carries, so that they are not counted twice."""
    for name in ("initial_prior", "transition_prior"):
        if vars(model).get(name) is not None:
            setattr(model, name, None)
    if vars(model).get("priors"):
        vars(model)["priors"] = {}
    for part in model.modules():
        if vars(part).get("prior") is not None:
            vars(part)["prior"] = None


def as_distribution_of_torch(prior: Any, shape: tuple[int, ...]) -> Any:
    """Priors of `probseq.priors` as distributions of torch; those as they are."""
    if isinstance(prior, matrix_priors.Normal):
        mean, deviation = (torch.as_tensor(x, dtype=torch.float64) for x in (prior.mean, prior.standard_deviation))
        return D.Normal(mean, deviation)
    if isinstance(prior, matrix_priors.InverseWishart):
        scale = torch.as_tensor(prior.scale, dtype=torch.float64)
        d = shape[-1] if shape else 1
        return InverseWishart(scale if scale.ndim else scale * torch.eye(d).to(scale), prior.degrees_of_freedom)
    if isinstance(prior, conjugate.Dirichlet):
        return D.Dirichlet(prior.concentration.expand(shape) if prior.concentration.ndim == 0 else prior.concentration)
    if isinstance(prior, conjugate.Beta):
        return D.Beta(prior.ones, prior.zeros)
    if isinstance(prior, conjugate.Gamma):
        return D.Gamma(prior.shape, rate=prior.rate)
    return prior


def _fitted(block: Block, prior: Any) -> D.Distribution | None:
    """The prior expanded to the public shape of a block, in float64."""
    shape = tuple(block.public(block.template).shape)
    prior = as_distribution_of_torch(prior, shape)
    if prior is None:
        return None
    if not isinstance(prior, D.Distribution):
        raise TypeError(
            f"the prior on {block.name} must be a distribution of torch, Pyro or probseq.priors, got {prior!r}"
        )
    event = tuple(prior.event_shape)
    complaint = _misfit(block, shape, event)
    if complaint:
        raise ValueError(f"the prior on {block.name} {complaint}, got {type(prior).__name__} with event shape {event}")
    try:
        prior = prior.expand(torch.Size(shape[: len(shape) - len(event)]))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the prior on {block.name} must fit its shape {shape}, got batch shape {tuple(prior.batch_shape)}"
        ) from error
    prior._validate_args = False
    return prior


def _misfit(block: Block, shape: tuple[int, ...], event: tuple[int, ...]) -> str:
    if event and shape[len(shape) - len(event) :] != event:
        return f"must have an event shape that ends {shape}"
    matrix = block.kind == "factor" and shape[-1] > 1
    if matrix and len(event) < 2:
        return "must be one over whole matrices, such as InverseWishart"
    if block.kind == "simplex" and not event:
        return "must be one over rows of probabilities, such as Dirichlet"
    return ""


class Unit:
    """The scale and place of the data, and of a model's states."""

    def __init__(self, model: StateSpaceModel[Any], data: Sequences, conjugate: bool = False) -> None:
        self.conjugate = conjugate
        values, seen = data.values.detach().to(torch.float64), data.observed.to(torch.float64)
        count = seen.sum((0, 1)).clamp(min=1)
        self.centre = (values * seen).sum((0, 1)) / count
        away = ((values - self.centre) * seen).square().sum((0, 1)) / count
        self.scale = torch.where(away > 0, away.sqrt(), self.centre.abs().clamp(min=1e-300))
        self.scale = torch.where(self.scale > 1e-200, self.scale, 1.0)
        self.size = float(self.scale.mean())
        self.level = float((self.centre.abs() + self.scale).mean())
        self.state = 1.0
        emission: Any = model._parameters.get("raw_emission_matrix")
        if emission is not None and not emission.requires_grad and bool(torch.isfinite(emission).all()):
            rms = float(emission.detach().square().sum(-1).mean().sqrt())
            self.state = 1 / rms if rms > 0 else 1.0
        else:
            self.state = 1 / self.size if emission is not None else 1.0

    @property
    def state_size(self) -> float:
        return self.size * self.state


def default(block: Block, unit: Unit) -> Any:
    """The weakly informative prior of the table above."""
    leaf, raw = block.name.rpartition(".")[2], block.template
    if block.kind == "simplex":
        return D.Dirichlet(torch.ones(raw.shape[-1], dtype=torch.float64))
    if block.kind == "share":
        return D.Beta(torch.ones((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    if block.kind in ("interval", "stationary", "other"):
        return None
    if block.kind == "factor" or leaf.endswith(("_var", "_cov", "covs")):
        return _of_covariance(block, leaf, unit)
    if block.kind == "log":
        return _of_positive(block, leaf, unit)
    return _of_real(block, leaf, unit)


def _of_covariance(block: Block, leaf: str, unit: Unit) -> D.Distribution:
    of_state = leaf in ("transition_cov", "initial_cov")
    scale = torch.full_like(unit.scale, unit.state_size) if of_state else unit.scale
    shape = block.template.shape
    n = shape[-1] if shape else 1
    scale = scale if len(scale) == n else scale.mean().expand(n)
    if block.kind == "factor" and n > 1:
        return InverseWishart(torch.diag(scale.square()) / 100, n + 2)
    scale = scale.squeeze(0) if not shape else scale
    return D.InverseGamma(torch.ones_like(scale), scale.square() / 100) if unit.conjugate else HalfNormalRoot(scale)


def _over_last(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Numbers by coordinate of the data where the last axis runs over these, else their mean."""
    return values if shape and shape[-1] == len(values) else values.mean()


def _of_positive(block: Block, leaf: str, unit: Unit) -> D.Distribution:
    if leaf == "rates" and block.name.startswith("emission"):
        rate = 1 / _over_last(unit.centre, block.template.shape).clamp(min=1e-6)
        return D.Gamma(torch.ones_like(rate), rate=rate)
    start = torch.where(torch.isfinite(block.template), block.template, 0.0)
    return D.LogNormal(start, torch.full_like(start, 2.0))


def _of_real(block: Block, leaf: str, unit: Unit) -> D.Distribution:
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    if leaf in ("means", "emission_offset", "locations"):
        centre, scale = (_over_last(part, block.template.shape) for part in (unit.centre, unit.scale))
        return D.Normal(centre, 2 * scale)
    if leaf == "initial_mean":
        return D.Normal(zero, 10 * unit.level * unit.state * one)
    if leaf == "transition_offset":
        return D.Normal(zero, 2 * unit.state_size * one)
    if leaf in ("emission_matrix", "emission_input_matrix"):
        return D.Normal(zero, _over_last(unit.scale, block.template.shape[:-1]).unsqueeze(-1))
    return D.Normal(zero, one)
