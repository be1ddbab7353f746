"""Any model as a Pyro distribution over whole series, to be one factor of a larger program.

    series = as_distribution(model, length=100, parameters={"transition_cov": q, "emission.means": m})
    pyro.sample("y", series, obs=y)            # log p(y); NaN in y is missing, as everywhere

`parameters` are constrained tensors that take the place of the model's own, such as draws of other sites; leading axes
beyond a parameter's own shape are batch axes (each series of a panel has its own). Gradients in them come from the
compiled adjoints, once: second derivatives raise. Draws follow Pyro's seed; those of linear Gaussian models (`LDS`,
`AR`, `Structural`) are differentiable, y = f(parameters, noise).

The timing is this library's: the first state emits the first observation. Pyro's `GaussianHMM` and `DiscreteHMM` have a
transition before it, so theirs with start N(m, P) is ours with N(A m, A P A' + Q), and theirs with start pi is ours
with pi A. Their matrices act from the right.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.ops.integrator import register_exception_handler
from torch import Tensor
from torch.distributions import constraints

from probseq.base import StateSpaceModel
from probseq.checks import whole_number
from probseq.errors import SingularInnovation, StateOverflow
from probseq.models.linear_gaussian import LinearGaussianModel
from probseq.parameters import overriding, psd_factor
from probseq.sequences import future_inputs


def _without_density(error: Exception) -> bool:
    """Whether a sampler met parameters that admit no density; Pyro hands on such errors as the cause of its own."""
    kinds = (StateOverflow, SingularInnovation)
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds)


# a step of Pyro's samplers into such parameters is then a divergence, not the end
register_exception_handler("probseq", _without_density, warn_on_overwrite=False)


def as_distribution(
    model: StateSpaceModel[Any],
    length: int,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    u: Any = None,
    validate_args: bool | None = None,
) -> SeriesDistribution:
    """p(y_0, .., y_{length-1}) under `model`, event shape (length, *model.event_shape); u is (length, input_dim).

    Satisfies as_distribution(model, T).log_prob(y) == model.log_prob(y). Raises ValueError for a parameter that the
    model does not have, or one whose last axes are not the parameter's own, and for inputs that do not fit.
    """
    return SeriesDistribution(model, length, parameters=parameters, u=u, validate_args=validate_args)


class SeriesDistribution(TorchDistribution):
    """See `as_distribution`."""

    arg_constraints = MappingProxyType({})  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(
        self,
        model: StateSpaceModel[Any],
        length: int,
        *,
        parameters: Mapping[str, Tensor] | None = None,
        u: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(model, StateSpaceModel):
            raise TypeError(f"model must be a StateSpaceModel, got {type(model).__name__}")
        self.model, self.length = model, whole_number("length", length)
        self.parameters = dict(parameters or {})
        self.u = self._inputs(u)
        self.has_rsample = isinstance(model, LinearGaussianModel)
        shapes = [self._batch_axes(name, value) for name, value in self.parameters.items()]
        batch_shape = torch.broadcast_shapes(*shapes) if shapes else torch.Size()
        super().__init__(batch_shape, torch.Size([self.length, *model.event_shape]), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Any:
        return _SeriesOf(self.model)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(y), sample and batch axes kept; value (*sample, *batch, length, *event), NaN where missing."""
        if self._validate_args:
            self._validate_sample(value)
        leading = torch.broadcast_shapes(value.shape[: value.ndim - len(self.event_shape)], self.batch_shape)
        value = value.expand(*leading, *self.event_shape)
        if not self.batch_shape:
            with overriding(self.model, self.parameters):
                return self._scored(value)
        n_sample = len(leading) - len(self.batch_shape)
        flat = value.reshape(*leading[:n_sample], -1, *self.event_shape)
        scores: list[Tensor] = []
        for place, values in enumerate(self._members()):
            with overriding(self.model, values):
                scores.append(self._scored(flat.select(n_sample, place)))
        return torch.stack(scores, -1).reshape(leading)

    def _scored(self, value: Tensor) -> Tensor:
        u = None if self.u is None else self.u.expand(*value.shape[: value.ndim - len(self.event_shape)], *self.u.shape)
        return self.model.log_prob(value, u)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws (*sample_shape, *batch, length, *event), by the generator that `pyro.set_rng_seed` sets."""
        return self._drawn(
            tuple(sample_shape), lambda shape: self.model.sample(self.length, shape, u=self.u, seed=_seed())
        )

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws as functions of the parameters, for linear Gaussian models with a proper start."""
        if not isinstance(self.model, LinearGaussianModel):
            raise NotImplementedError(f"draws of a {type(self.model).__name__} are not differentiable; use sample")
        model = self.model
        if model.system().initial_diffuse is not None:
            raise ValueError("a diffuse start has no density to draw from; give initial_mean and initial_cov")
        return self._drawn(tuple(sample_shape), lambda shape: _linear_gaussian(model, self.length, shape, self.u))

    # ---- inside

    def _drawn(self, sample_shape: tuple[int, ...], draw: Any) -> Tensor:
        if not self.batch_shape:
            with overriding(self.model, self.parameters):
                return draw(sample_shape)
        members: list[Tensor] = []
        for values in self._members():
            with overriding(self.model, values):
                members.append(draw(sample_shape))
        stacked = torch.stack(members, len(sample_shape))
        return stacked.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def _members(self) -> Generator[dict[str, Tensor]]:
        """The parameters of every member of the batch, flat."""
        spread = {
            name: value.expand(*self.batch_shape, *self._own_shape(name)).reshape(-1, *self._own_shape(name))
            for name, value in self.parameters.items()
        }
        for place in range(math.prod(self.batch_shape)):
            yield {name: value[place] for name, value in spread.items()}

    def _own_shape(self, name: str) -> torch.Size:
        with torch.no_grad():
            return attrgetter(name)(self.model).shape

    def _batch_axes(self, name: str, value: Tensor) -> torch.Size:
        with overriding(self.model, {name: value}):  # raises for an unknown name
            pass
        own = self._own_shape(name)
        if value.shape[value.ndim - len(own) :] != own:
            raise ValueError(f"{name} must have shape (*batch, {', '.join(map(str, own))}), got {tuple(value.shape)}")
        return value.shape[: value.ndim - len(own)]

    def _inputs(self, u: Any) -> Tensor | None:
        if not self.model.input_dim and u is None:
            return None
        self.model._need_inputs(u, "u")
        inputs = future_inputs(u, (), self.length, "u")
        self.model._need_inputs(inputs, "u")
        return inputs


class _SeriesOf(constraints.Constraint):
    """What the model can emit, or NaN."""

    def __init__(self, model: StateSpaceModel[Any]) -> None:
        self.model = model
        self.is_discrete = not model.real_valued
        self.event_dim = 1 + len(model.event_shape)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        missing = torch.isnan(value) if value.is_floating_point() else torch.zeros_like(value, dtype=torch.bool)
        outside = self.model._outside(torch.where(missing, torch.zeros_like(value), value).to(torch.float64))
        bad = torch.isinf(value) if outside is None else outside[0]
        return (missing | ~bad).flatten(-self.event_dim).all(-1)


def _seed() -> int:
    """A seed drawn from torch's global generator, which Pyro's seed sets."""
    return int(torch.randint(2**62, ()))


def _linear_gaussian(model: LinearGaussianModel, length: int, shape: tuple[int, ...], u: Tensor | None) -> Tensor:
    """z_0 = m0 + L0 e_0; y_t = C z_t + offset + L_R d_t; z_{t+1} = A z_t + offset + L_Q e_{t+1}."""
    system = model.system()
    n, m = system.initial_mean.shape[-1], system.emission_cov.shape[-1]
    noise = torch.randn(length, *shape, n + m, dtype=torch.float64)
    state = system.initial_mean + noise[0, ..., :n] @ psd_factor(system.initial_cov).mT
    seen: list[Tensor] = []
    for t in range(length):
        step = torch.tensor(t) if model.varying else None
        now = None if u is None else u[t]
        here = model.system_at(step, now)
        if t:
            state = _plus(state @ here.transition_matrix.mT, model.transition_offset_at(now, step))
            state = state + noise[t, ..., :n] @ psd_factor(here.transition_cov).mT
        mean = _plus(state @ here.emission_matrix.mT, model.emission_offset_at(now, step))
        seen.append(mean + noise[t, ..., n:] @ psd_factor(here.emission_cov).mT)
    return torch.stack(seen, -2)


def _plus(value: Tensor, offset: Tensor | None) -> Tensor:
    return value if offset is None else value + offset
