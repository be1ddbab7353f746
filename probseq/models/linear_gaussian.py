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

References: Durbin and Koopman, Time Series Analysis by State Space Methods, 2nd ed. (2012), sec. 4.3 (filter),
4.4-4.5 (smoothing), 4.9 (simulation); Bucy and Joseph (1968) for the form of the covariance update.
"""

from __future__ import annotations

import abc
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from probseq.base import Filtered, LatentStateModel
from probseq.beliefs import Gaussian
from probseq.errors import ImproperBelief, SingularInnovation
from probseq.ops import kalman
from probseq.parameters import psd_factor
from probseq.sequences import Sequences

LOG_2PI = math.log(2 * math.pi)
#: an equilibrated innovation pivot below this is rounding error, not variance
SINGULAR = 1e-13


class System(NamedTuple):
    """The six matrices of a time-invariant linear Gaussian model."""

    initial_mean: Tensor
    initial_cov: Tensor
    transition_matrix: Tensor
    transition_cov: Tensor
    emission_matrix: Tensor
    emission_cov: Tensor


class LinearGaussianModel(LatentStateModel[Gaussian]):
    """A family says its matrices and offsets; filtering, smoothing and sampling are here, once."""

    marginalises: bool = True
    real_valued = True

    @abc.abstractmethod
    def system(self) -> System:
        """The matrices at the current parameters, differentiable."""

    @abc.abstractmethod
    def transition_offset_at(self, u: Tensor | None) -> Tensor | None:
        """What is added to A z when moving into a step with input u, (*batch, n), or None for nothing."""

    @abc.abstractmethod
    def emission_offset_at(self, u: Tensor | None) -> Tensor | None:
        """What is added to C z at a step with input u, (*batch, m), or None for nothing."""

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Gaussian:
        """N(initial_mean, initial_cov), the belief before y_0 is seen."""
        mean, cov = self.system()[:2]
        return Gaussian(mean.expand(*batch_shape, *mean.shape), cov.expand(*batch_shape, *cov.shape))

    def predict(self, belief: Gaussian, u: Tensor | None = None) -> Gaussian:
        """N(A m + offset, A P A' + Q)."""
        system = self.system()
        mean = (system.transition_matrix @ belief.mean.unsqueeze(-1)).squeeze(-1)
        offset = self.transition_offset_at(u)
        cov = symmetric(system.transition_matrix @ belief.cov @ system.transition_matrix.mT) + system.transition_cov
        return Gaussian(mean if offset is None else mean + offset, cov)

    def update(
        self, belief: Gaussian, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Gaussian, Tensor]:
        """Condition on the observed coordinates of y. Satisfies update(b, y)[1] == emit(b).log_prob(y)."""
        _refuse_diffuse(belief)
        system = self.system()
        seen = torch.ones_like(y) if observed is None else observed.to(y.dtype)
        emission = seen.unsqueeze(-1) * system.emission_matrix
        noise = seen.unsqueeze(-1) * system.emission_cov * seen.unsqueeze(-2)
        innovation = seen * (y - self._expected(belief, u))
        cross = belief.cov @ emission.mT
        factor, unit = _whitener(emission @ cross + noise, seen)
        white = torch.linalg.solve_triangular(factor, (innovation * unit).unsqueeze(-1), upper=False).squeeze(-1)
        gain = torch.cholesky_solve((cross * unit.unsqueeze(-2)).mT, factor).mT * unit.unsqueeze(-2)
        keep = torch.eye(belief.mean.shape[-1], dtype=y.dtype) - gain @ emission
        cov = symmetric(keep @ belief.cov @ keep.mT) + symmetric(gain @ noise @ gain.mT)
        mean = belief.mean + (gain @ innovation.unsqueeze(-1)).squeeze(-1)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - (seen * unit.log()).sum(-1)
        log_prob = -0.5 * (white.square().sum(-1) + seen.sum(-1) * LOG_2PI) - log_det
        return Gaussian(mean, cov), log_prob

    def emit(self, belief: Gaussian, u: Tensor | None = None) -> MultivariateNormal:
        """N(C m + offset, C P C' + R)."""
        _refuse_diffuse(belief)
        system = self.system()
        cov = system.emission_matrix @ belief.cov @ system.emission_matrix.mT + system.emission_cov
        return MultivariateNormal(self._expected(belief, u), scale_tril=psd_factor(symmetric(cov)), validate_args=False)

    def _expected(self, belief: Gaussian, u: Tensor | None) -> Tensor:
        mean = (self.system().emission_matrix @ belief.mean.unsqueeze(-1)).squeeze(-1)
        offset = self.emission_offset_at(u)
        return mean if offset is None else mean + offset

    # ---- the compiled path

    def _arguments(
        self, sequences: Sequences, initial: Gaussian | None = None
    ) -> tuple[kalman.LinearGaussianSystem, Tensor, Tensor | None, Tensor]:
        """What the compiled filter reads: the system, y less its offset, what is observed, lengths."""
        system, u = self.system(), sequences.inputs
        mean, cov = (system.initial_mean, system.initial_cov) if initial is None else (initial.mean, initial.cov)
        moved, offset = self.transition_offset_at(u), self.emission_offset_at(u)
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
        return arrays, y, None if sequences.complete else sequences.observed, sequences.lengths

    def _log_prob(self, sequences: Sequences) -> Tensor:
        return kalman.log_prob(*self._arguments(sequences))

    def _filter(self, sequences: Sequences, initial: Gaussian | None) -> Filtered[Gaussian]:
        if initial is not None:
            _refuse_diffuse(initial)
        moments = kalman.filter(*self._arguments(sequences, initial))
        predicted = Gaussian(moments.predicted_mean, moments.predicted_cov)
        return Filtered(predicted, Gaussian(moments.updated_mean, moments.updated_cov), moments.log_prob)

    def _smooth(self, sequences: Sequences) -> Gaussian:
        smoothed = kalman.smooth(*self._arguments(sequences))
        return Gaussian(smoothed.mean, smoothed.cov)

    def _decode(self, sequences: Sequences) -> Tensor:
        return self._smooth(sequences).mean

    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor:
        arguments = self._arguments(sequences)
        n, m = arguments[0].initial_mean.shape[-1], sequences.values.shape[-1]
        shape = (n_samples, *sequences.values.shape[:2], n + m)
        normals = torch.randn(shape, dtype=torch.float64, generator=randomness)
        return kalman.sample_paths(*arguments, normals)

    def _path_log_prob(self, states: Tensor, sequences: Sequences) -> Tensor:
        """log p(z, y) where Q, P0 and R have full rank; unobserved coordinates of y are integrated out."""
        system, u = self.system(), sequences.inputs
        inside = sequences.inside
        own, got = tuple(system.initial_mean.shape), tuple(states.shape[2:])
        if got != own:
            raise ValueError(f"states must be vectors of shape {own} at every step, got shape {got}")
        if not bool(torch.isfinite(states[inside]).all()):
            raise ValueError("states must be finite")
        start = log_normal(states[:, 0] - system.initial_mean, system.initial_cov, "initial_cov")
        moved = states[:, :-1] @ system.transition_matrix.mT
        offset = self.transition_offset_at(None if u is None else u[:, 1:])
        steps = log_normal(
            states[:, 1:] - (moved if offset is None else moved + offset), system.transition_cov, "transition_cov"
        )
        expected = states @ system.emission_matrix.mT
        offset = self.emission_offset_at(u)
        residual = sequences.values - (expected if offset is None else expected + offset)
        emitted = log_normal(residual, system.emission_cov, "emission_cov", sequences.observed)
        return start + torch.where(inside[:, 1:], steps, 0.0).sum(-1) + torch.where(inside, emitted, 0.0).sum(-1)


def symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2


def log_normal(residual: Tensor, cov: Tensor, name: str, observed: Tensor | None = None) -> Tensor:
    """log N(residual; 0, cov) over the observed coordinates; ValueError where no density exists."""
    seen = torch.ones_like(residual) if observed is None else observed.to(residual.dtype)
    masked = seen.unsqueeze(-1) * cov * seen.unsqueeze(-2)
    try:
        factor, unit = _whitener(masked, seen)
    except SingularInnovation as error:
        raise ValueError(f"{name} is singular, so state paths have no density under this model") from error
    white = torch.linalg.solve_triangular(factor, (seen * residual * unit).unsqueeze(-1), upper=False).squeeze(-1)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - (seen * unit.log()).sum(-1)
    return -0.5 * (white.square().sum(-1) + seen.sum(-1) * LOG_2PI) - log_det


def _whitener(cov: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor of the covariance in units where its observed diagonal is 1 and, unobserved, the identity."""
    variance = cov.diagonal(dim1=-2, dim2=-1)
    if bool(((variance <= 0) & (seen > 0)).any()):
        raise SingularInnovation(_singular("a predicted variance is zero"))
    unit = torch.where(seen > 0, torch.where(seen > 0, variance, 1.0).rsqrt(), 1.0)
    scaled = unit.unsqueeze(-1) * cov * unit.unsqueeze(-2) + torch.diag_embed(1 - seen)
    factor, info = torch.linalg.cholesky_ex(scaled)
    if bool((info != 0).any()) or bool((factor.diagonal(dim1=-2, dim2=-1).square() < SINGULAR).any()):
        raise SingularInnovation(_singular("observed coordinates determine each other exactly"))
    return factor, unit


def _singular(why: str) -> str:
    return f"the predicted covariance of the observation is singular ({why}); add emission noise or drop a coordinate"


def _refuse_diffuse(belief: Gaussian) -> None:
    if belief.diffuse_cov is not None and bool((belief.diffuse_cov != 0).any()):
        raise ImproperBelief("the belief is still diffuse, so the next observation has no proper density yet")
