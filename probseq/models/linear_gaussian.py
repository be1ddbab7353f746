"""Everything with linear dynamics and Gaussian noise: one filter for all of them.

    z_0 ~ N(m0, P0)
    for t in range(T):
        y_t ~ N(C z_t + emission_offset(u_t), R)
        z_{t+1} ~ N(A z_t + transition_offset(u_{t+1}), Q)

| symbol | name                | shape  |   | symbol | name              | shape  |
|--------|---------------------|--------|---|--------|-------------------|--------|
| m0     | initial_mean        | (n,)   |   | Q      | transition_cov    | (n, n) |
| P0     | initial_cov         | (n, n) |   | C      | emission_matrix   | (m, n) |
| A      | transition_matrix   | (n, n) |   | R      | emission_cov      | (m, m) |

With the predicted belief N(m, P), v = y - C m - offset and S = C P C' + R over the observed coordinates,
K = P C' S^-1, the updated belief is N(m + K v, (I - K C) P (I - K C)' + K R K') and
log p(y_t | y_<t) = -(v' S^-1 v + log det 2 pi S) / 2. Q, P0 and R may be singular, S may not.

A, Q, C, R and the offsets may each vary in time, by a leading time axis of its own; entry t of a transition parameter
is the step into t. The belief then carries its `step`. Entries beyond the data serve forecasts.

A start may be diffuse: z_0 ~ N(m0, P0 + kappa B B'), kappa to infinity, with the (n, d) `initial_diffuse` B. Then the
belief carries `diffuse_cov`, the part of its covariance that grows with kappa over kappa, until the data have resolved
it, and log p(y) is the limit of log p(y) + r/2 log kappa with r resolved elements (Durbin and Koopman's convention:
-1/2 log 2 pi is counted for every observation). An improper belief has no predictive density: `emit` raises.

References: Durbin and Koopman, Time Series Analysis by State Space Methods, 2nd ed. (2012), sec. 4.3 (filter),
4.4-4.5 (smoothing), 4.9 (simulation), 5 (diffuse start); Bucy and Joseph (1968) for the form of the covariance update.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from probseq.base import Filtered, LatentStateModel
from probseq.beliefs import Gaussian
from probseq.errors import ImproperBelief
from probseq.models.normal import LOG_2PI, log_normal, symmetric, whitener
from probseq.ops import diffuse, kalman
from probseq.parameters import psd_factor
from probseq.sequences import Sequences


class System(NamedTuple):
    """The six matrices of a linear Gaussian model; those of transition and emission may have a leading time axis."""

    initial_mean: Tensor
    initial_cov: Tensor
    transition_matrix: Tensor
    transition_cov: Tensor
    emission_matrix: Tensor
    emission_cov: Tensor
    #: (n, d), or None where the start is proper
    initial_diffuse: Tensor | None = None


class LinearGaussianModel(LatentStateModel[Gaussian]):
    """A family says its matrices and offsets; filtering, smoothing and sampling are here, once."""

    marginalises: bool = True
    real_valued = True
    #: how the compiled filter keeps covariances: see `ops/kalman.py`
    numerics: Literal["auto", "joseph", "square_root"] = "auto"
    #: the parameters with a time axis, and its length
    varying: Mapping[str, int] = MappingProxyType({})

    @abc.abstractmethod
    def system(self) -> System:
        """The matrices at the current parameters, differentiable."""

    @abc.abstractmethod
    def transition_offset_at(self, u: Tensor | None, step: Tensor | None = None) -> Tensor | None:
        """What is added to A z when moving into `step` with input u, (*batch, n), or None for nothing."""

    @abc.abstractmethod
    def emission_offset_at(self, u: Tensor | None, step: Tensor | None = None) -> Tensor | None:
        """What is added to C z at `step` with input u, (*batch, m), or None for nothing."""

    def system_at(self, step: Tensor | None, u: Tensor | None = None) -> System:
        """The matrices at some steps (*batch,), with these axes in front of those that vary. ValueError beyond them.

        A family whose emission matrix depends on the inputs u (*batch, p) reads it off them.
        """
        system = self.system()
        if not self.varying or step is None:
            return system
        last = int(step.max()) if step.numel() else 0
        for name, steps in self.varying.items():
            if last >= steps:
                raise ValueError(
                    f"{name} is given for {steps} steps, 0 .. {steps - 1}, but step {last} is asked for: extend its "
                    "time axis (entries beyond the data are those of the future, which a forecast needs)"
                )
        own = {name: getattr(system, name)[step] for name in self.varying if name in System._fields}
        return system._replace(**own)

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Gaussian:
        """N(initial_mean, initial_cov), the belief before y_0 is seen, and its diffuse part."""
        system = self.system()
        mean, cov, improper = system.initial_mean, system.initial_cov, system.initial_diffuse
        if improper is not None:
            improper = (improper @ improper.mT).expand(*batch_shape, *cov.shape)
        step = torch.zeros(batch_shape, dtype=torch.int64) if self.varying else None
        return Gaussian(mean.expand(*batch_shape, *mean.shape), cov.expand(*batch_shape, *cov.shape), improper, step)

    def predict(self, belief: Gaussian, u: Tensor | None = None) -> Gaussian:
        """N(A m + offset, A P A' + Q)."""
        step = None if belief.step is None else belief.step + 1
        system, offset = self.system_at(step), self.transition_offset_at(u, step)
        mean = (system.transition_matrix @ belief.mean.unsqueeze(-1)).squeeze(-1)
        cov = symmetric(system.transition_matrix @ belief.cov @ system.transition_matrix.mT) + system.transition_cov
        improper = belief.diffuse_cov
        if improper is not None:
            improper = symmetric(system.transition_matrix @ improper @ system.transition_matrix.mT)
        return Gaussian(mean if offset is None else mean + offset, cov, improper, step)

    def update(
        self, belief: Gaussian, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Gaussian, Tensor]:
        """Condition on the observed coordinates of y. Satisfies update(b, y)[1] == emit(b).log_prob(y)."""
        if is_diffuse(belief):
            return self._update_diffuse(belief, y, observed, u)
        system = self.system_at(belief.step, u)
        seen = torch.ones_like(y) if observed is None else observed.to(y.dtype)
        emission = seen.unsqueeze(-1) * system.emission_matrix
        noise = seen.unsqueeze(-1) * system.emission_cov * seen.unsqueeze(-2)
        innovation = seen * (y - self._expected(belief, u))
        cross = belief.cov @ emission.mT
        factor, unit = whitener(emission @ cross + noise, seen)
        white = torch.linalg.solve_triangular(factor, (innovation * unit).unsqueeze(-1), upper=False).squeeze(-1)
        gain = torch.cholesky_solve((cross * unit.unsqueeze(-2)).mT, factor).mT * unit.unsqueeze(-2)
        keep = torch.eye(belief.mean.shape[-1], dtype=y.dtype) - gain @ emission
        cov = symmetric(keep @ belief.cov @ keep.mT) + symmetric(gain @ noise @ gain.mT)
        mean = belief.mean + (gain @ innovation.unsqueeze(-1)).squeeze(-1)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - (seen * unit.log()).sum(-1)
        log_prob = -0.5 * (white.square().sum(-1) + seen.sum(-1) * LOG_2PI) - log_det
        return Gaussian(mean, cov, belief.diffuse_cov, belief.step), log_prob

    def _update_diffuse(
        self, belief: Gaussian, y: Tensor, observed: Tensor | None, u: Tensor | None
    ) -> tuple[Gaussian, Tensor]:
        """`update` while a member of the batch is diffuse: one by one."""
        system, offset, batch = self.system_at(belief.step, u), self.emission_offset_at(u, belief.step), y.shape[:-1]
        assert belief.diffuse_cov is not None
        values = [
            (belief.mean, 1),
            (belief.cov, 2),
            (belief.diffuse_cov, 2),
            (y if offset is None else y - offset, 1),
            (torch.ones_like(y, dtype=torch.bool) if observed is None else observed, 1),
            (system.emission_matrix, 2),
            (system.emission_cov, 2),
        ]
        rows: list[Tensor] = []
        for value, n_axes in values:
            event = value.shape[value.ndim - n_axes :]
            rows.append(value.expand(*batch, *event).reshape(-1, *event))
        updated = [diffuse.update(*members) for members in zip(*rows, strict=True)]
        mean, cov, improper, log_prob = (
            torch.stack(part).reshape((*batch, *part[0].shape)) for part in zip(*updated, strict=True)
        )
        return Gaussian(mean, cov, improper, belief.step), log_prob

    def emit(self, belief: Gaussian, u: Tensor | None = None) -> MultivariateNormal:
        """N(C m + offset, C P C' + R). Raises ImproperBelief while the belief is diffuse."""
        if is_diffuse(belief):
            raise ImproperBelief(
                "the belief is still diffuse, so the next observation has no density yet: observe more steps (every "
                "diffuse element of the state needs one), or give the model a proper start"
            )
        system = self.system_at(belief.step, u)
        cov = system.emission_matrix @ belief.cov @ system.emission_matrix.mT + system.emission_cov
        return MultivariateNormal(self._expected(belief, u), scale_tril=psd_factor(symmetric(cov)), validate_args=False)

    def _expected(self, belief: Gaussian, u: Tensor | None) -> Tensor:
        mean = (self.system_at(belief.step, u).emission_matrix @ belief.mean.unsqueeze(-1)).squeeze(-1)
        offset = self.emission_offset_at(u, belief.step)
        return mean if offset is None else mean + offset

    # ---- the compiled path

    def _arguments(
        self, sequences: Sequences, initial: Gaussian | None = None
    ) -> tuple[kalman.LinearGaussianSystem, Tensor, Tensor | None, Tensor, Tensor | None, str]:
        """What the compiled filter reads: system, y less its offset, observed, lengths, diffuse part, numerics."""
        u, step = sequences.inputs, self._steps(sequences, initial)
        system, moved, offset = (
            self.system_at(step, u),
            self.transition_offset_at(u, step),
            self.emission_offset_at(u, step),
        )
        mean, cov, improper = system.initial_mean, system.initial_cov, system.initial_diffuse
        improper = None if improper is None else improper.unsqueeze(0)
        if initial is not None:
            mean, cov, improper = initial.mean, initial.cov, None
            if initial.diffuse_cov is not None:
                improper = diffuse.factors_of(initial.diffuse_cov)
        arrays = kalman.LinearGaussianSystem(
            initial_mean=mean,
            initial_cov=cov,
            transition_matrix=system.transition_matrix,
            transition_cov=system.transition_cov,
            transition_offset=mean.new_zeros(mean.shape[-1]) if moved is None else moved,
            emission_matrix=system.emission_matrix,
            emission_cov=system.emission_cov,
        )
        y = sequences.values if offset is None else sequences.values - offset
        return arrays, y, None if sequences.complete else sequences.observed, sequences.lengths, improper, self.numerics

    def _steps(self, sequences: Sequences, initial: Gaussian | None) -> Tensor | None:
        """The times of the data (T,), from that of `initial` on; None where nothing varies."""
        if not self.varying:
            return None
        first = 0
        if initial is not None and initial.step is not None and initial.step.numel():
            first = int(initial.step.flatten()[0])
            if bool((initial.step != first).any()):
                raise ValueError("initial must be at the same step in every sequence where matrices vary in time")
        return torch.arange(first, first + sequences.n_steps)

    def _log_prob(self, sequences: Sequences) -> Tensor:
        return kalman.log_prob(*self._arguments(sequences))

    def _value_and_gradient(
        self, sequences: Sequences, parameters: list[nn.Parameter]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """The gradient in the system by its kernels at once; only what makes the system is left to torch."""
        with torch.enable_grad():
            arguments, prior = self._arguments(sequences), self.log_prior()
        value, gradients = kalman.value_and_gradient(*arguments)
        outputs, inner = (*arguments[0], arguments[1], prior), (*gradients, torch.ones_like(prior))
        watched = [i for i, one in enumerate(outputs) if one.requires_grad]
        found: tuple[Tensor | None, ...] = (None,) * len(parameters)
        if watched:
            own, weights = [outputs[i] for i in watched], [inner[i] for i in watched]
            found = torch.autograd.grad(own, parameters, weights, allow_unused=True)
        return value.sum() + prior.detach(), found

    def _filter(self, sequences: Sequences, initial: Gaussian | None) -> Filtered[Gaussian]:
        moments = kalman.filter(*self._arguments(sequences, initial))
        step = self._steps(sequences, initial)
        step = None if step is None else step.expand(sequences.values.shape[0], -1)
        predicted = Gaussian(moments.predicted_mean, moments.predicted_cov, moments.predicted_diffuse, step)
        updated = Gaussian(moments.updated_mean, moments.updated_cov, moments.updated_diffuse, step)
        return Filtered(predicted, updated, moments.log_prob)

    def _smooth(self, sequences: Sequences) -> Gaussian:
        smoothed = kalman.smooth(*self._arguments(sequences), lag_one=False)
        step = self._steps(sequences, None)
        step = None if step is None else step.expand(sequences.values.shape[0], -1)
        return Gaussian(smoothed.mean, smoothed.cov, smoothed.diffuse, step)

    def _decode(self, sequences: Sequences) -> Tensor:
        return self._smooth(sequences).mean

    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor:
        system, y, observed, lengths, improper, numerics = self._arguments(sequences)
        n, m = system.initial_mean.shape[-1], y.shape[-1]
        shape = (n_samples, *sequences.values.shape[:2], n + m)
        normals = torch.randn(shape, dtype=torch.float64, generator=randomness)
        return kalman.sample_paths(system, y, observed, lengths, normals, improper, numerics)

    def _path_log_prob(self, states: Tensor, sequences: Sequences) -> Tensor:
        """log p(z, y) where Q, P0 and R have full rank; unobserved coordinates of y are integrated out."""
        u, step, inside = sequences.inputs, self._steps(sequences, None), sequences.inside
        system, into = self.system_at(step, u), self.system_at(None if step is None else step[1:])
        own, got = tuple(system.initial_mean.shape), tuple(states.shape[2:])
        if got != own:
            raise ValueError(f"states must be vectors of shape {own} at every step, got shape {got}")
        if not bool(torch.isfinite(states[inside]).all()):
            raise ValueError("states must be finite")
        start = self._start_log_prob(states[:, 0], system)
        moved = (into.transition_matrix @ states[:, :-1].unsqueeze(-1)).squeeze(-1)
        offset = self.transition_offset_at(None if u is None else u[:, 1:], None if step is None else step[1:])
        steps = log_normal(
            states[:, 1:] - (moved if offset is None else moved + offset), into.transition_cov, "transition_cov"
        )
        expected = (system.emission_matrix @ states.unsqueeze(-1)).squeeze(-1)
        offset = self.emission_offset_at(u, step)
        residual = sequences.values - (expected if offset is None else expected + offset)
        emitted = log_normal(residual, system.emission_cov, "emission_cov", sequences.observed)
        return start + torch.where(inside[:, 1:], steps, 0.0).sum(-1) + torch.where(inside, emitted, 0.0).sum(-1)

    def _start_log_prob(self, states: Tensor, system: System) -> Tensor:
        """log p(z_0) of (B, n); in the diffuse directions its limit with 1/2 log kappa added for each."""
        residual, cov, improper = states - system.initial_mean, system.initial_cov, system.initial_diffuse
        if improper is None:
            return log_normal(residual, cov, "initial_cov")
        basis, sizes, _ = torch.linalg.svd(improper)  # the elements orthogonal to the diffuse directions are proper
        proper = basis[:, len(sizes) :]
        constant = -0.5 * LOG_2PI * len(sizes) - sizes.log().sum()
        return log_normal(residual @ proper, proper.mT @ cov @ proper, "initial_cov") + constant


def is_diffuse(belief: Gaussian) -> bool:
    """Whether any member of the batch is still diffuse."""
    return belief.diffuse_cov is not None and bool((belief.diffuse_cov != 0).any())
