"""Two functions and two covariances: what linear and nonlinear models with additive Gaussian noise share.

    z_0 ~ N(m0, P0)
    for t in range(T):
        y_t = h(z_t, u_t) + v_t,              v_t ~ N(0, R)
        z_{t+1} = f(z_t, u_{t+1}) + w_t,      w_t ~ N(0, Q)

Here is what needs no approximation: simulating the model, the density of a state path, and conditioning a Gaussian
on a linear observation. In whitened coordinates, z = m + L e with e ~ N(0, I), and with an observation that is
mean + slope e + noise of covariance N (see `probseq.ops.linearise`), S = slope slope' + N, K = slope' S^-1 and

    e | y ~ N(K v, (I - K slope) (I - K slope)' + K N K'),    v = y - mean,

a sum of squares (Joseph's form) for singular P and N too, as long as S is not singular.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from probseq.base import LatentStateModel
from probseq.beliefs import Gaussian
from probseq.models.linear_gaussian import LinearGaussianModel
from probseq.models.normal import LOG_2PI, log_normal, symmetric, whitener
from probseq.ops import semidefinite
from probseq.ops.linearise import ExtendedKalman, Linearisation, Regression
from probseq.sequences import Sequences, step_input

#: maps states (*batch, n) and inputs (*batch, p) or None to (*batch, n or m)
Step = Callable[[Tensor, Tensor | None], Tensor]


class AdditiveNoise(NamedTuple):
    """The parts of a model at its current parameters."""

    initial_mean: Tensor
    initial_cov: Tensor
    transition: Step
    transition_cov: Tensor
    emission: Step
    emission_cov: Tensor
    linearize: Linearisation


class AdditiveNoiseModel(LatentStateModel[Gaussian]):
    """A model that can say its two functions and its covariances."""

    @abc.abstractmethod
    def additive_noise(self) -> AdditiveNoise:
        """The parts at the current parameters."""


def of_linear(model: LinearGaussianModel) -> AdditiveNoise:
    """A linear Gaussian model as two (affine) functions and its covariances. ValueError where it has no such form."""
    system = model.system()
    if model.varying or system.initial_diffuse is not None:
        raise ValueError("model must have a proper start and matrices that do not vary in time, for particles")

    def affine(matrix: Tensor, offset: Callable[[Tensor | None], Tensor | None]) -> Step:
        def step(z: Tensor, u: Tensor | None) -> Tensor:
            drive = offset(u)
            return z @ matrix.mT if drive is None else z @ matrix.mT + drive

        return step

    return AdditiveNoise(
        system.initial_mean,
        system.initial_cov,
        affine(system.transition_matrix, model.transition_offset_at),
        system.transition_cov,
        affine(system.emission_matrix, model.emission_offset_at),
        system.emission_cov,
        ExtendedKalman(),
    )


def simulate(parts: AdditiveNoise, state: Tensor, steps: int, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """States (*batch, steps, n) and observations (*batch, steps, m) drawn on from z_0 = `state` (*batch, n)."""
    process, sensor = semidefinite.cholesky(parts.transition_cov), semidefinite.cholesky(parts.emission_cov)
    axis = state.ndim - 1
    states, values = [state], []
    for t in range(steps):
        values.append(noisy(parts.emission(states[-1], step_input(u, t, axis)), sensor))
        if t + 1 < steps:
            states.append(noisy(parts.transition(states[-1], step_input(u, t + 1, axis)), process))
    return torch.stack(states, -2), torch.stack(values, -2)


def noisy(mean: Tensor, root: Tensor) -> Tensor:
    """A draw from N(mean, root root')."""
    return mean + (root @ torch.randn_like(mean).unsqueeze(-1)).squeeze(-1)


def path_log_prob(parts: AdditiveNoise, states: Tensor, sequences: Sequences) -> Tensor:
    """log p(z, y), (B,), exactly; unobserved coordinates of y are integrated out. ValueError for singular Q, P0, R."""
    u, inside = sequences.inputs, sequences.inside
    own, got = tuple(parts.initial_mean.shape), tuple(states.shape[2:])
    if got != own:
        raise ValueError(f"states must be vectors of shape {own} at every step, got shape {got}")
    if not bool(torch.isfinite(states[inside]).all()):
        raise ValueError("states must be finite")
    if sequences.n_steps == 0:
        return states.new_zeros(len(states))
    states = torch.where(inside.unsqueeze(-1), states, parts.initial_mean)
    start = log_normal(states[:, 0] - parts.initial_mean, parts.initial_cov, "initial_cov")
    moved = parts.transition(states[:, :-1], None if u is None else u[:, 1:])
    steps = log_normal(states[:, 1:] - moved, parts.transition_cov, "transition_cov")
    residual = sequences.values - parts.emission(states, u)
    emitted = log_normal(residual, parts.emission_cov, "emission_cov", sequences.observed)
    start = torch.where(inside[:, 0], start, 0.0)
    return start + torch.where(inside[:, 1:], steps, 0.0).sum(-1) + torch.where(inside, emitted, 0.0).sum(-1)


class Conditioned(NamedTuple):
    """The whitened state given an observation, and the log-density of the observation."""

    mean: Tensor
    cov: Tensor
    log_prob: Tensor


def condition(said: Regression, noise: Tensor, innovation: Tensor, seen: Tensor) -> Conditioned:
    """e ~ N(0, I) given v = innovation (*batch, m), where `seen` (*batch, m) is 1 at what was observed."""
    slope = seen.unsqueeze(-1) * said.slope
    rest = seen.unsqueeze(-1) * (said.residual_cov + noise) * seen.unsqueeze(-2)
    innovation = seen * innovation
    factor, unit = whitener(slope @ slope.mT + rest, seen)
    white = torch.linalg.solve_triangular(factor, (innovation * unit).unsqueeze(-1), upper=False).squeeze(-1)
    gain = torch.cholesky_solve(unit.unsqueeze(-1) * slope, factor).mT * unit.unsqueeze(-2)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - (seen * unit.log()).sum(-1)
    log_prob = -0.5 * (white.square().sum(-1) + seen.sum(-1) * LOG_2PI) - log_det
    return Conditioned((gain @ innovation.unsqueeze(-1)).squeeze(-1), remaining(gain, slope, rest), log_prob)


def remaining(gain: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
    """The covariance of e after regression on slope e + noise with this gain, as a sum of squares."""
    keep = torch.eye(slope.shape[-1], dtype=slope.dtype) - gain @ slope
    return symmetric(keep @ keep.mT + gain @ noise @ gain.mT)
