"""The nonlinear dynamical system with additive Gaussian noise: two functions and two covariances.

    z_0 ~ N(m0, P0)
    for t in range(T):
        y_t = h(z_t, u_t) + v_t,              v_t ~ N(0, R)
        z_{t+1} = f(z_t, u_{t+1}) + w_t,      w_t ~ N(0, Q)

| symbol | name       | shape        |   | symbol | name                         | shape          |
|--------|------------|--------------|---|--------|------------------------------|----------------|
| f      | transition | (n,) -> (n,) |   | Q, R   | transition_cov, emission_cov | (n, n), (m, m) |
| h      | emission   | (n,) -> (m,) |   | m0, P0 | initial_mean, initial_cov    | (n,), (n, n)   |

The belief is a Gaussian, and that is the approximation: after each f and before each h the true law of the state is
replaced by the Gaussian that the rule `linearize` gives. With a linear f and h every rule is the Kalman filter. The
smoother runs backwards with the cross covariances of the same regressions (Rauch-Tung-Striebel form): with
f(z_t) ~ a + F e_t + rest, e_t the whitened z_t ~ N(m_t, L L'), and the predicted covariance P = F F' + rest + Q,

    G = L F' P^-1,   m_t + G (smoothed mean_{t+1} - predicted mean_{t+1}),
    L [(I - K F)(I - K F)' + K (rest + Q) K'] L' + G smoothed_cov_{t+1} G',   K = F' P^-1,

sums of squares throughout. `sample` and `path_log_prob` are exact: they simulate and score the model itself. How far
the Gaussian belief is from the truth is measured by `estimate_log_prob`, a particle filter.

Reference: Sarkka and Svensson, Bayesian Filtering and Smoothing, 2nd ed. (2023), ch. 7-9, 13, 14.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from probseq import beliefs as B
from probseq import parameters as P
from probseq.beliefs import Gaussian
from probseq.checks import whole_number
from probseq.errors import StateOverflow
from probseq.functions import checked_function
from probseq.models.additive_noise import (
    AdditiveNoise,
    AdditiveNoiseModel,
    condition,
    noisy,
    path_log_prob,
    remaining,
    simulate,
)
from probseq.models.normal import symmetric
from probseq.models.particle_filter import Estimate, ParticleFilter
from probseq.ops import semidefinite
from probseq.ops.linearise import (
    ExtendedKalman,
    Linearisation,
    PointFunction,
    Regression,
    UnscentedTransform,
    derivative,
)
from probseq.parameters import Param
from probseq.sequences import Sequences


class NonlinearGaussian(AdditiveNoiseModel):
    """A state space model from two functions, `NonlinearGaussian(transition=f, emission=h, transition_cov=Q, ...)`.

    `transition(z)` maps float64 states (*batch, n) to (*batch, n) and `emission(z)` to (*batch, m), row by row,
    differentiably; with `input_dim` p they are called as f(z, u), u (*batch, p). Parameters of functions that are
    `nn.Module`s are learned by `fit`; only a `probseq.StateFunction` can be saved to a file. Sizes follow from the
    covariances, or are given as `state_dim` and `obs_dim` for covariances that a fit is to find.
    """

    likelihood_kind = "approximate"
    marginalises = True
    real_valued = True

    transition_cov = Param(P.semidefinite, "state_dim", "state_dim")
    emission_cov = Param(P.semidefinite, "obs_dim", "obs_dim")
    initial_mean = Param(P.real, "state_dim")
    initial_cov = Param(P.semidefinite, "state_dim", "state_dim")

    emission_scale: Tensor
    emission_shift: Tensor

    def __init__(
        self,
        *,
        transition: Callable[..., Tensor],
        emission: Callable[..., Tensor],
        transition_cov: Any = None,
        emission_cov: Any = None,
        initial_mean: Any = None,
        initial_cov: Any = None,
        linearize: Linearisation | None = None,
        state_dim: int | None = None,
        obs_dim: int | None = None,
        input_dim: int = 0,
    ) -> None:
        super().__init__()
        given = {
            "transition_cov": transition_cov,
            "emission_cov": emission_cov,
            "initial_mean": initial_mean,
            "initial_cov": initial_cov,
        }
        values = {name: P.as_parameter(name, value) for name, value in given.items() if value is not None}
        self.state_dim = _size("state_dim", state_dim, values, ("transition_cov", "initial_mean", "initial_cov"))
        self.obs_dim = _size("obs_dim", obs_dim, values, ("emission_cov",))
        self.input_dim = whole_number("input_dim", input_dim, least=0)
        self.event_shape = torch.Size([self.obs_dim])
        self.linearize = UnscentedTransform() if linearize is None else linearize
        if not isinstance(self.linearize, Linearisation):
            raise TypeError(f"linearize must be a rule such as probseq.UnscentedTransform(), got {linearize!r}")
        self.linearize.check(self.state_dim)
        self.transition, self.emission = (
            checked_function("transition", transition),
            checked_function("emission", emission),
        )
        self.register_buffer("emission_scale", torch.ones(self.obs_dim, dtype=torch.float64))
        self.register_buffer("emission_shift", torch.zeros(self.obs_dim, dtype=torch.float64))
        self.declare(**values)

    def sizes(self) -> dict[str, Any]:
        return {
            "transition": self.transition,
            "emission": self.emission,
            "linearize": self.linearize,
            "state_dim": self.state_dim,
            "obs_dim": self.obs_dim,
            "input_dim": self.input_dim,
        }

    # ---- the functions, checked

    def move(self, z: Tensor, u: Tensor | None = None) -> Tensor:
        """f(z, u), (*batch, n). ValueError for a result of another shape, StateOverflow where it is not finite."""
        return self._call("transition", self.transition, z, u, self.state_dim)

    def observe(self, z: Tensor, u: Tensor | None = None) -> Tensor:
        """E[y | z, u], (*batch, m): h(z, u) in the unit of the data."""
        return self.emission_scale * self._call("emission", self.emission, z, u, self.obs_dim) + self.emission_shift

    def _call(self, name: str, function: Callable[..., Any], z: Tensor, u: Tensor | None, size: int) -> Tensor:
        if u is not None:
            u = u.expand(*z.shape[:-1], u.shape[-1])
        value = function(z) if u is None else function(z, u)
        if not isinstance(value, Tensor) or value.dtype != torch.float64:
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} must return a float64 tensor, got {got}")
        expected = (*z.shape[:-1], size)
        if tuple(value.shape) != expected:
            states = f"states of shape {tuple(z.shape)}"
            raise ValueError(f"{name} must return shape {expected} for {states}, got {tuple(value.shape)}")
        finite = torch.isfinite(value).all(-1)
        if not bool(finite.all()):
            at = z[~finite][0].tolist()
            raise StateOverflow(f"{name} must return finite values, got {value[~finite][0].tolist()} at state {at}")
        return value

    def additive_noise(self) -> AdditiveNoise:
        return AdditiveNoise(
            self.initial_mean,
            self.initial_cov,
            self.move,
            self.transition_cov,
            self.observe,
            self.emission_cov,
            self.linearize,
        )

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Gaussian:
        """N(initial_mean, initial_cov), the belief before y_0 is seen."""
        mean, cov = self.initial_mean, self.initial_cov
        return Gaussian(mean.expand(*batch_shape, *mean.shape), cov.expand(*batch_shape, *cov.shape))

    def predict(self, belief: Gaussian, u: Tensor | None = None) -> Gaussian:
        """The Gaussian with the moments that the rule gives f(z, u), and Q added."""
        said, _ = self._regress(self.move, belief, u)
        return Gaussian(said.mean, symmetric(said.cov) + self.transition_cov)

    def update(
        self, belief: Gaussian, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Gaussian, Tensor]:
        """Condition on the observed coordinates of y. Satisfies update(b, y)[1] == emit(b).log_prob(y)."""
        seen = torch.ones_like(y) if observed is None else observed.to(y.dtype)
        said, root = self._regress(self.observe, belief, u)
        known = condition(said, self.emission_cov, y - said.mean, seen)
        log_prob = known.log_prob
        for _ in range(self.linearize.iterations if isinstance(self.linearize, ExtendedKalman) else 0):
            at = belief.mean + (root @ known.mean.unsqueeze(-1)).squeeze(-1)
            value, jacobian = derivative(self._at_points(self.observe, u), at)
            said = Regression(
                value - (jacobian @ root @ known.mean.unsqueeze(-1)).squeeze(-1), jacobian @ root, said[2]
            )
            known = condition(said, self.emission_cov, y - said.mean, seen)
        mean = belief.mean + (root @ known.mean.unsqueeze(-1)).squeeze(-1)
        return Gaussian(mean, symmetric(root @ known.cov @ root.mT)), log_prob

    def emit(self, belief: Gaussian, u: Tensor | None = None) -> MultivariateNormal:
        """The Gaussian with the moments that the rule gives h(z, u), and R added."""
        said, _ = self._regress(self.observe, belief, u)
        factor = semidefinite.cholesky(symmetric(said.cov) + self.emission_cov)
        return MultivariateNormal(said.mean, scale_tril=factor, validate_args=False)

    def _regress(
        self, function: Callable[..., Tensor], belief: Gaussian, u: Tensor | None
    ) -> tuple[Regression, Tensor]:
        root = semidefinite.cholesky(belief.cov)
        return self.linearize(self._at_points(function, u), belief.mean, root), root

    def _at_points(self, function: Callable[..., Tensor], u: Tensor | None) -> PointFunction:
        return lambda points: function(points, None if u is None else u.unsqueeze(-2))

    # ---- the latent state

    def _backward(self, sequences: Sequences) -> tuple[Gaussian, Gaussian, Tensor, Tensor]:
        """Filtered and predicted beliefs, and for t < T - 1 the gain G_t and cov(z_t | z_{t+1}, y_{0:t})."""
        filtered, u = self._filter(sequences, None), sequences.inputs
        before, after = B.at(filtered.updated, slice(0, -1)), B.at(filtered.predicted, slice(1, None))
        said, root = self._regress(self.move, before, None if u is None else u[:, 1:])
        gain = semidefinite.solve(after.cov, said.slope).mT
        cov = root @ remaining(gain, said.slope, said.residual_cov + self.transition_cov) @ root.mT
        return filtered.updated, filtered.predicted, root @ gain, symmetric(cov)

    def _smooth(self, sequences: Sequences) -> Gaussian:
        updated, predicted, gain, kept = self._backward(sequences)
        if sequences.n_steps == 0:
            return updated
        smoothed = [B.at(updated, -1)]
        for t in reversed(range(sequences.n_steps - 1)):
            step, coming, ahead = gain[:, t], smoothed[-1], B.at(predicted, t + 1)
            mean = updated.mean[:, t] + (step @ (coming.mean - ahead.mean).unsqueeze(-1)).squeeze(-1)
            belief = Gaussian(mean, kept[:, t] + symmetric(step @ coming.cov @ step.mT))
            smoothed.append(B.where(sequences.inside[:, t + 1], belief, B.at(updated, t)))
        return B.stack(smoothed[::-1])

    def _decode(self, sequences: Sequences) -> Tensor:
        return self._smooth(sequences).mean

    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor:
        updated, predicted, gain, kept = self._backward(sequences)
        shape = (n_samples, *updated.mean.shape)
        normals = torch.randn(shape, dtype=torch.float64, generator=randomness).unsqueeze(-1)
        own, conditional = semidefinite.cholesky(updated.cov), semidefinite.cholesky(kept)
        last = updated.mean + (own @ normals).squeeze(-1)  # at every step, for sequences that end there
        paths = [last[:, :, -1]] if sequences.n_steps else []
        for t in reversed(range(sequences.n_steps - 1)):
            away = (paths[-1] - predicted.mean[:, t + 1]).unsqueeze(-1)
            drawn = updated.mean[:, t] + (gain[:, t] @ away + conditional[:, t] @ normals[:, :, t]).squeeze(-1)
            paths.append(torch.where(sequences.inside[:, t + 1].unsqueeze(-1), drawn, last[:, :, t]))
        return torch.stack(paths[::-1], 2) if paths else last

    def _path_log_prob(self, states: Tensor, sequences: Sequences) -> Tensor:
        return path_log_prob(self.additive_noise(), states, sequences)

    def _simulate(self, belief: Gaussian, steps: int, u: Tensor | None) -> tuple[Tensor, Gaussian]:
        """Draws of the model itself: the belief only says where z_0 is."""
        start = noisy(belief.mean, semidefinite.cholesky(belief.cov))
        states, values = simulate(self.additive_noise(), start, steps, u)
        return values, Gaussian(states, states.new_zeros(*states.shape, states.shape[-1]))

    def estimate_log_prob(
        self,
        y: Any,
        u: Any = None,
        *,
        lengths: Any = None,
        kind: str = "particle",
        n_samples: int = 10,
        n_particles: int = 1000,
        seed: int | None = None,
    ) -> Estimate:
        """log p(y) without the Gaussian approximation, by `n_samples` guided particle filters; see `ParticleFilter`."""
        judge = ParticleFilter(self, n_particles=n_particles, proposal="guided", seed=seed)
        return judge.estimate_log_prob(y, u, lengths=lengths, kind=kind, n_samples=n_samples, seed=seed)

    # ---- learning

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        """The functions stay as they are; their values are mapped."""
        moved = scale * self.emission_shift
        total = moved + shift
        rounding = 8 * torch.finfo(total.dtype).eps * (moved.abs() + shift.abs())
        self.emission_shift.copy_(torch.where(total.abs() <= rounding, 0.0, total))
        self.emission_scale.mul_(scale)
        if "emission_cov" not in self.unset:
            self.emission_cov = scale.unsqueeze(-1) * self.emission_cov * scale

    def _start(self, sequences: Sequences, seed: int) -> None:
        """States in the unit of the functions' own arguments: unit variance at first, a tenth of it per step.

        Half of the variance of the data is noise. The functions' parameters stay where they are.
        """
        seen = sequences.observed.to(torch.float64)
        count = seen.sum((0, 1)).clamp(min=1)
        mean = (sequences.values * seen).sum((0, 1)) / count
        variance = ((sequences.values - mean).square() * seen).sum((0, 1)) / count
        one = torch.eye(self.state_dim, dtype=torch.float64)
        start = {"transition_cov": 0.1 * one, "initial_cov": one, "initial_mean": torch.zeros(self.state_dim)}
        self.assign(**start, emission_cov=torch.diag(0.5 * torch.where(variance > 0, variance, 1.0)))

    def _unidentified(self, sequences: Sequences) -> set[str]:
        """One sequence shows one start: a belief that narrows around what y_0 needs has an unbounded likelihood."""
        few = int((sequences.lengths > 0).sum()) <= self.state_dim
        return {"initial_mean", "initial_cov"} if few else set()


def _size(name: str, size: int | None, values: dict[str, Tensor], sources: tuple[str, ...]) -> int:
    """A size as passed, or as read off a given array."""
    if size is not None:
        return whole_number(name, size)
    for source in sources:
        if source in values and values[source].ndim:
            return values[source].shape[0]
    raise ValueError(f"{name} must be given, or one of {', '.join(sources)} from which it follows")
