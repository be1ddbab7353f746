"""The particle filter: the belief is a cloud of weighted states, and its likelihood is unbiased.

    z^i ~ p(z_0),  W^i = 1 / N
    for t in range(T):
        w^i = p(y_t | z^i) p(z^i | origin^i) / q(z^i | origin^i, y_t)
        log p(y_t | y_<t) is estimated by log sum_i W^i w^i
        W^i <- W^i w^i / sum_j W^j w^j
        if 1 / sum_i (W^i)^2 < ess_threshold N:  resample
        origin^i = f(z^i),  z^i ~ N(origin^i, Q)

The product over t of sum_i W^i w^i has the mean p(y), for every number of particles (Del Moral 2004, sec. 7.4); its
logarithm lies below log p(y) on average. Proposals q:

- "bootstrap": the transition itself (Gordon, Salmond and Smith 1993); w = p(y_t | z);
- "guided": N(origin, Q) conditioned on y_t through the linearised emission. Where the emission is linear this is
  p(z | origin, y_t), the proposal of least variance (Doucet, Godsill and Andrieu 2000), and w = p(y_t | origin).

Smoothing draws whole paths backwards (FFBSi: Godsill, Doucet and West 2004): the last state from the filter, then
z_t among the filter's particles with probabilities in proportion to W_t^i p(z_{t+1} | z_t^i).

Randomness. Random numbers are a function of `seed` and of the number of the draw (`particle_draws`), so the filter is
a function of the data. Independent repetitions come from `estimate_log_prob`.

Reference: Chopin and Papaspiliopoulos, An Introduction to Sequential Monte Carlo (2020), ch. 10-12.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from probseq.base import LatentStateModel
from probseq.beliefs import Particles
from probseq.checks import whole_number
from probseq.errors import ImpossibleSequence
from probseq.models.additive_noise import (
    AdditiveNoise,
    AdditiveNoiseModel,
    condition,
    noisy,
    of_linear,
    path_log_prob,
    simulate,
)
from probseq.models.linear_gaussian import LinearGaussianModel
from probseq.models.normal import log_densities, symmetric
from probseq.models.particle_draws import FAR, GUIDE, MOVE, backward_generator, equal_weights, numbers, resampled
from probseq.models.particle_paths import paths
from probseq.ops import semidefinite
from probseq.ops.linearise import Regression
from probseq.ops.resampling import SCHEMES, Scheme
from probseq.randomness import fresh_seed
from probseq.sequences import Sequences, step_input


class Estimate(NamedTuple):
    """An estimate of log p(y), (*batch,), its kind and its Monte Carlo standard error (nan for a single run)."""

    value: Tensor
    kind: str
    standard_error: Tensor


class ParticleFilter(LatentStateModel[Particles]):
    """A `NonlinearGaussian` or linear Gaussian model read by particles, `ParticleFilter(model, n_particles=1000)`.

    `log_prob` is an estimate without a gradient, so there is nothing to fit: fit the model inside. The emission
    covariance must have full rank, for smoothing the transition covariance too.
    """

    likelihood_kind = "estimate"
    marginalises = True
    fit_methods: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        model: LatentStateModel[Any],
        n_particles: int = 1000,
        *,
        proposal: Literal["bootstrap", "guided"] = "bootstrap",
        resampling: Scheme = "systematic",
        ess_threshold: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, (AdditiveNoiseModel, LinearGaussianModel)):
            raise TypeError(f"model must have additive Gaussian noise (NonlinearGaussian, LDS), got {model!r}")
        if proposal not in ("bootstrap", "guided"):
            raise ValueError(f'proposal must be "bootstrap" or "guided", got {proposal!r}')
        if resampling not in SCHEMES:
            raise ValueError(f"resampling must be one of {SCHEMES}, got {resampling!r}")
        if not 0 <= ess_threshold <= 1:
            raise ValueError(f"ess_threshold must be a share of the particles in [0, 1], got {ess_threshold!r}")
        self.model = model
        self.n_particles = whole_number("n_particles", n_particles)
        self.proposal, self.resampling, self.ess_threshold = proposal, resampling, float(ess_threshold)
        self.seed = fresh_seed(seed)
        self.event_shape, self.input_dim = model.event_shape, model.input_dim
        self.real_valued = model.real_valued

    def sizes(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "n_particles": self.n_particles,
            "proposal": self.proposal,
            "resampling": self.resampling,
            "ess_threshold": self.ess_threshold,
            "seed": self.seed,
        }

    def parts(self) -> AdditiveNoise:
        """The functions and covariances of the model inside."""
        model = self.model
        return of_linear(model) if isinstance(model, LinearGaussianModel) else model.additive_noise()

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Particles:
        """Draws from p(z_0) with equal weights."""
        return self._begin(torch.zeros(batch_shape, dtype=torch.int64))

    def _begin(self, draw: Tensor) -> Particles:
        parts = self.parts()
        mean = parts.initial_mean.expand(*draw.shape, self.n_particles, -1)
        return self._move(equal_weights(*draw.shape, self.n_particles), mean, parts.initial_cov, draw)

    def predict(self, belief: Particles, u: Tensor | None = None) -> Particles:
        """Resample where the effective size is low, then draw from the transition."""
        parts, draw = self.parts(), cast(Tensor, belief.draw)
        weights, values = resampled(belief, self.ess_threshold, self.seed, cast(Scheme, self.resampling))
        moved = parts.transition(values, None if u is None else u.unsqueeze(-2))
        return self._move(weights, moved, parts.transition_cov, draw + 1)

    def update(
        self, belief: Particles, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Particles, Tensor]:
        """Weigh the particles by y; guided ones are first drawn anew around their origins, knowing y.

        Satisfies update(b, y)[1] == emit(b).log_prob(y) for the bootstrap, and for linear emissions guided.
        """
        parts = self.parts()
        values, correction = belief.values, torch.zeros_like(belief.log_weights)
        if self.proposal == "guided":
            values, correction = self._guide(parts, belief, y, observed, u)
        residual = y.unsqueeze(-2) - parts.emission(values, None if u is None else u.unsqueeze(-2))
        total = belief.log_weights + correction + log_densities(residual, parts.emission_cov, observed)
        log_prob = torch.logsumexp(total, -1)
        _refuse_degenerate(log_prob, belief)
        return Particles(total - log_prob.unsqueeze(-1), values, belief.draw), log_prob

    def emit(self, belief: Particles, u: Tensor | None = None) -> Distribution:
        """A mixture over the particles: N(h(z), R), guided N(E[y | origin], cov[y | origin]) as linearised."""
        parts = self.parts()
        if self.proposal == "guided" and belief.origins is not None:
            said, _ = self._expect(parts, belief, u)
            mean, cov = said.mean, symmetric(said.cov) + parts.emission_cov
        else:
            mean = parts.emission(belief.values, None if u is None else u.unsqueeze(-2))
            cov = parts.emission_cov.expand(*mean.shape, -1)
        components = MultivariateNormal(mean, scale_tril=semidefinite.cholesky(cov), validate_args=False)
        weights = Categorical(logits=belief.log_weights, validate_args=False)
        return MixtureSameFamily(weights, components, validate_args=False)

    # ---- their parts

    def _move(self, log_weights: Tensor, origins: Tensor, cov: Tensor, draw: Tensor) -> Particles:
        """Draws from N(origins, cov)."""
        noise = numbers(self.seed, draw, MOVE, (self.n_particles, origins.shape[-1]))
        values = origins + noise @ semidefinite.cholesky(cov).mT
        return Particles(log_weights, values, draw, origins if self.proposal == "guided" else None)

    def _expect(self, parts: AdditiveNoise, belief: Particles, u: Tensor | None) -> tuple[Regression, Tensor]:
        """The linearised emission around every origin, and the factor of the law that the values are drawn from."""
        draw, origins = cast(Tensor, belief.draw), cast(Tensor, belief.origins)
        first = (draw % FAR == 0)[..., None, None, None]
        roots = semidefinite.cholesky(torch.stack([parts.initial_cov, parts.transition_cov]))
        root = torch.where(first, roots[0], roots[1]).expand(*origins.shape, -1)
        inputs = None if u is None else u[..., None, None, :]
        return parts.linearize(lambda points: parts.emission(points, inputs), origins, root), root

    def _guide(
        self, parts: AdditiveNoise, belief: Particles, y: Tensor, observed: Tensor | None, u: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Values drawn around the origins given y, and log p(z | origin) - log q(z | origin, y)."""
        said, root = self._expect(parts, belief, u)
        innovation = y.unsqueeze(-2) - said.mean
        seen = (
            torch.ones_like(innovation) if observed is None else observed.unsqueeze(-2).expand_as(innovation).double()
        )
        known = condition(said, parts.emission_cov, torch.where(seen > 0, innovation, 0.0), seen)
        factor = semidefinite.cholesky(known.cov)
        shape = tuple(belief.values.shape[-2:])
        noise = numbers(self.seed, cast(Tensor, belief.draw), GUIDE, shape)
        white = known.mean + (factor @ noise.unsqueeze(-1)).squeeze(-1)
        correction = (noise.square() - white.square()).sum(-1) / 2
        correction = correction + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return cast(Tensor, belief.origins) + (root @ white.unsqueeze(-1)).squeeze(-1), correction

    # ---- whole sequences

    @torch.no_grad()
    def _log_prob(self, sequences: Sequences) -> Tensor:
        return self._evidence(sequences, torch.zeros(len(sequences.lengths), dtype=torch.int64))

    def _evidence(self, sequences: Sequences, draw: Tensor) -> Tensor:
        """The estimate of log p(y), (B,), with the random numbers that `draw` starts."""
        total, inside = torch.zeros(len(draw), dtype=torch.float64), sequences.inside
        belief = self._begin(draw) if sequences.n_steps else None
        for t in range(sequences.n_steps):
            u = step_input(sequences.inputs, t)
            belief = cast(Particles, belief) if t == 0 else self.predict(cast(Particles, belief), u)
            observed = None if sequences.complete and sequences.rectangular else sequences.observed[:, t]
            belief, log_prob = self.update(belief, sequences.values[:, t], observed, u)
            total = total + torch.where(inside[:, t], log_prob, 0.0)
        return total

    @torch.no_grad()
    def estimate_log_prob(
        self,
        y: Any,
        u: Any = None,
        *,
        lengths: Any = None,
        kind: str = "particle",
        n_samples: int = 10,
        seed: int | None = None,
    ) -> Estimate:
        """log of the mean of `n_samples` independent unbiased estimates of p(y), with its standard error.

        The standard error is that of the logarithm, to first order; `log_prob` is the case of one repetition.
        """
        if kind != "particle":
            raise ValueError(f'kind must be "particle", got {kind!r}')
        n_samples = whole_number("n_samples", n_samples)
        sequences = self._door(y, u, lengths)
        runs = self.repeated_log_prob(sequences.flat(), n_samples, seed)
        value = torch.logsumexp(runs, 0) - math.log(n_samples)
        spread = (runs - value).exp().std(0) if n_samples > 1 else torch.full_like(value, torch.nan)
        shape = sequences.batch_shape
        return Estimate(value.reshape(shape), kind, (spread / math.sqrt(n_samples)).reshape(shape))

    @torch.no_grad()
    def repeated_log_prob(self, y: Any, n_samples: int, seed: int | None = None) -> Tensor:
        """`n_samples` independent estimates of log p(y) for every sequence, (n_samples, B)."""
        flat = (y if isinstance(y, Sequences) else self._door(y)).flat()
        arguments: dict[str, Any] = {**self.sizes(), "seed": self.seed if seed is None else seed}
        twin = ParticleFilter(**arguments)
        size, runs = len(flat.lengths), []
        each = max(1, 200_000 // max(size * self.n_particles, 1))  # few enough to stay in the cache's reach
        for begin in range(0, n_samples, each):
            repeats = torch.arange(begin, min(begin + each, n_samples))
            rows = torch.arange(size).repeat(len(repeats))
            runs.append(twin._evidence(flat.select(rows), (repeats * FAR).repeat_interleave(size)).reshape(-1, size))
        return torch.cat(runs)

    # ---- the latent state

    def _smooth(self, sequences: Sequences) -> Particles:
        """`n_particles` equally weighted paths, read as a cloud at every step."""
        paths = self._paths(sequences, self.n_particles, backward_generator(self.seed))
        values = paths.movedim(0, 2)
        return Particles(equal_weights(*values.shape[:2], self.n_particles), values)

    def _decode(self, sequences: Sequences) -> Tensor:
        return self._smooth(sequences).mean

    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor:
        return self._paths(sequences, n_samples, randomness)

    def _paths(self, sequences: Sequences, n_paths: int, randomness: torch.Generator) -> Tensor:
        return paths(self.parts(), self._filter(sequences, None).updated, sequences, n_paths, randomness)

    def _path_log_prob(self, states: Tensor, sequences: Sequences) -> Tensor:
        return path_log_prob(self.parts(), states, sequences)

    def _simulate(self, belief: Particles, steps: int, u: Tensor | None) -> tuple[Tensor, Particles]:
        """Draws of the model itself, from one particle each; from p(z_0) anew where nothing was seen yet."""
        parts = self.parts()
        chosen = Categorical(logits=belief.log_weights).sample()[..., None, None]
        start = belief.values.gather(-2, chosen.expand(*chosen.shape[:-1], belief.values.shape[-1])).squeeze(-2)
        fresh = noisy(parts.initial_mean.expand_as(start), semidefinite.cholesky(parts.initial_cov))
        start = torch.where((cast(Tensor, belief.draw) % FAR == 0).unsqueeze(-1), fresh, start)
        states, values = simulate(parts, start, steps, u)
        return values, Particles(states.new_zeros(*states.shape[:-1], 1), states.unsqueeze(-2))

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        self.model._rescale(scale, shift)


def _refuse_degenerate(log_prob: Tensor, belief: Particles) -> None:
    """Say where no particle explains the observation."""
    bad = ~torch.isfinite(log_prob.detach())
    if bool(bad.any()):
        place = bad.nonzero()[0].tolist()
        step = int(cast(Tensor, belief.draw)[tuple(place)]) % FAR
        where = f"sequence {place[0]}, step {step}" if place else f"step {step}"
        raise ImpossibleSequence(f"every particle has zero weight at {where}: no particle explains the observation")
