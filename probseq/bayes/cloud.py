"""Stochastic recurrent models as belief-state updaters: a cloud of particles, moved by the model or by its guide.

    for t in range(T):
        z_t ~ p(z_t | m_t)                         # m_t: memory, a function of z_<t, y_<t and u
        y_t ~ head(features(z_t, m_t, u_t))

The belief is `Particles`: the values of a particle are z_t and then m_t. `update` draws z_t anew from the guide, which
sees y_t but nothing later (`proposal="guide"`), and weighs it by p(y_t | z_t) p(z_t) / q(z_t); or it weighs the draws
from p(z_t | m_t) as they are (`proposal="transition"`), and then update(b, y)[1] == emit(b).log_prob(y). Particles are
resampled where their effective number falls below half. Random numbers are a function of the seed and the number of the
draw, as in `ParticleFilter`.

Missing data. Coordinates that are missing are integrated out by the head, given the states. The guide reads zeros in
their place (a guide may read anything: a bound stays one). Where nothing of a step was seen the state is drawn from
p(z_t | m_t). Models whose memory reads y are fed the head's expectation given z_t: then a gap is approximated.
"""

from __future__ import annotations

import abc
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from probseq.base import StateSpaceModel
from probseq.bayes import bounds
from probseq.bayes.networks import Law, draw_weights
from probseq.beliefs import Particles
from probseq.checks import whole_number
from probseq.emissions.head import Head
from probseq.errors import ImpossibleSequence
from probseq.models.particle_draws import GUIDE, MOVE, equal_weights, numbers, resampled
from probseq.randomness import fresh_seed, spawn
from probseq.sequences import step_input

#: particles are resampled where their effective number falls below this share
ESS_THRESHOLD = 0.5


class Cloud(StateSpaceModel[Particles]):
    """To write: the abstract methods.  You get: the four steps as a particle filter, and draws."""

    likelihood_kind = "bound"
    head: Head
    n_updates: Tensor
    input_shift: Tensor
    input_scale: Tensor

    def __init__(
        self,
        state_dim: int,
        obs_dim: int,
        *,
        head: Head,
        input_dim: int,
        kl_warmup: int,
        n_particles: int,
        proposal: Literal["guide", "transition"],
        dtype: torch.dtype,
        seed: int | None,
        least_state: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(head, Head):
            raise TypeError(f"head must be a Head such as probseq.heads.Gaussian(), got {head!r}")
        if proposal not in ("guide", "transition"):
            raise ValueError(f'proposal must be "guide" or "transition", got {proposal!r}')
        self.state_dim = whole_number("state_dim", state_dim, least=least_state)
        self.event_shape = torch.Size([whole_number("obs_dim", obs_dim)])
        self.input_dim = whole_number("input_dim", input_dim, least=0)
        self.kl_warmup = whole_number("kl_warmup", kl_warmup, least=0)
        self.n_particles = whole_number("n_particles", n_particles)
        self.proposal, self.dtype, self.seed = proposal, dtype, fresh_seed(seed)
        self.head, self.real_valued = head, head.real_valued
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.float64))
        self.register_buffer("input_shift", torch.zeros(self.input_dim, dtype=torch.float64))
        self.register_buffer("input_scale", torch.ones(self.input_dim, dtype=torch.float64))

    def _draw(self, seed: int) -> None:
        """Draw all weights; families call it at the end of their constructor."""
        weights_seed, head_seed = spawn(seed, 2)
        draw_weights(self, weights_seed)
        self.head.reset_parameters(head_seed)

    def _common_sizes(self) -> dict[str, Any]:
        names = ("state_dim", "head", "input_dim", "kl_warmup", "n_particles", "proposal", "dtype", "seed")
        return {"obs_dim": self.event_shape[0]} | {name: getattr(self, name) for name in names}

    # ---- what a family says; (*, .) are any leading axes, u is standardised and has the same ones

    @abc.abstractmethod
    def _first_memory(self, batch_shape: tuple[int, ...], u: Tensor | None) -> Tensor:
        """m_0, (*batch, memory)."""

    @abc.abstractmethod
    def _prior(self, memory: Tensor, u: Tensor | None) -> Law:
        """p(z_t | m_t)."""

    @abc.abstractmethod
    def _propose(self, memory: Tensor, x: Tensor, u: Tensor | None) -> tuple[Law, Tensor]:
        """q(z_t | m_t, y_t) before flows, and m_t with what the guide carries after y_t; x encodes y_t."""

    @abc.abstractmethod
    def _features(self, z: Tensor, memory: Tensor, u: Tensor | None) -> Tensor:
        """What the head reads."""

    @abc.abstractmethod
    def _settle(self, memory: Tensor, fed_back: Tensor) -> Tensor:
        """m_t with y_t in it, where the next step reads that."""

    @abc.abstractmethod
    def _onward(self, z: Tensor, memory: Tensor, u: Tensor | None) -> Tensor:
        """m_{t+1} from z_t, m_t and the inputs of the step moved into."""

    def _bend(self, drawn: Tensor) -> tuple[Tensor, Tensor | None]:
        """The guide's flows: z of what was drawn, and log |dz / d drawn|; None without flows."""
        return drawn, None

    def _filled(self, features: Tensor, encoded: Tensor, observed: Tensor | None) -> Tensor:
        """What the next step reads of y: its encoding where it was seen, elsewhere an expectation."""
        return self.head.fill(features, encoded, observed)

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Particles:
        """Draws from p(z_0) with equal weights."""
        return self._begin(torch.zeros(batch_shape, dtype=torch.int64), u)

    def _begin(self, draw: Tensor, u: Tensor | None) -> Particles:
        shape = (*draw.shape, self.n_particles)
        inputs = self._spread_inputs(u)
        return self._move(equal_weights(*shape), self._first_memory(shape, inputs), inputs, draw)

    def predict(self, belief: Particles, u: Tensor | None = None) -> Particles:
        """Resample where the effective size is low, then draw from the transition."""
        draw, inputs = cast(Tensor, belief.draw), self._spread_inputs(u)
        weights, values = resampled(belief, ESS_THRESHOLD, self.seed)
        return self._move(weights, self._onward(*self._parts(values), inputs), inputs, draw + 1)

    def update(
        self, belief: Particles, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Particles, Tensor]:
        """Weigh the particles by y, those of a guide drawn anew before.

        Satisfies update(b, y)[1] == emit(b).log_prob(y) with `proposal="transition"`.
        """
        (z, memory), inputs = self._parts(belief.values), self._spread_inputs(u)
        encoded = self._encoded(y, observed)
        shown = encoded.unsqueeze(-2).expand(*memory.shape[:-1], -1)
        if self.proposal == "guide":
            z, memory, correction = self._guided(belief, z, memory, shown, observed, inputs)
        else:
            correction = torch.zeros_like(belief.log_weights)
        features = self._features(z, memory, inputs)
        seen = None if observed is None else observed.unsqueeze(-2)
        total = belief.log_weights + correction + self.head.log_prob(features, y.unsqueeze(-2), seen)
        log_prob = torch.logsumexp(total, -1)
        if not bool(torch.isfinite(log_prob.detach()).all()):
            raise ImpossibleSequence("every particle has zero weight at a step: none explains the observation")
        memory = self._settle(memory, self._filled(features, shown, seen))
        return Particles(total - log_prob.unsqueeze(-1), torch.cat([z, memory], -1), belief.draw), log_prob

    def emit(self, belief: Particles, u: Tensor | None = None) -> Distribution:
        """A mixture over the particles of what the head says of each."""
        z, memory = self._parts(belief.values)
        says = self.head.distribution(self._features(z, memory, self._spread_inputs(u)))
        return MixtureSameFamily(Categorical(logits=belief.log_weights, validate_args=False), says, validate_args=False)

    # ---- their parts

    def _guided(
        self, belief: Particles, z: Tensor, memory: Tensor, shown: Tensor, observed: Tensor | None, u: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z_t drawn anew from the guide, m_t, and log p(z_t | m_t) - log q(z_t | m_t, y_t)."""
        law, after = self._propose(memory, shown, u)
        drawn = law.mean + law.scale * self._noise(cast(Tensor, belief.draw), GUIDE, z)
        guided, stretch = self._bend(drawn)
        correction = bounds.log_density(self._prior(memory, u), guided) - bounds.log_density(law, drawn)
        if stretch is not None:
            correction = correction + stretch
        if observed is not None:  # nothing was seen: what was drawn from the prior stands
            any_seen = observed.any(-1).unsqueeze(-1)
            guided = torch.where(any_seen.unsqueeze(-1), guided, z)
            correction = torch.where(any_seen, correction, 0.0)
        return guided, after, correction

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values[..., : self.state_dim], values[..., self.state_dim :]

    def _move(self, log_weights: Tensor, memory: Tensor, u: Tensor | None, draw: Tensor) -> Particles:
        law = self._prior(memory, u)
        z = law.mean + law.scale * self._noise(draw, MOVE, law.mean)
        return Particles(log_weights, torch.cat([z, memory], -1), draw)

    def _noise(self, draw: Tensor, purpose: int, like: Tensor) -> Tensor:
        return numbers(self.seed, draw, purpose, (self.n_particles, self.state_dim)).to(like.dtype)

    def _encoded(self, y: Tensor, observed: Tensor | None) -> Tensor:
        """What is read for y, zeros where it is missing."""
        encoded = self.head.encode(y)
        return encoded if observed is None else torch.where(self.head._read(observed), encoded, 0.0)

    def _standard(self, u: Tensor | None) -> Tensor | None:
        return None if u is None else ((u - self.input_shift) / self.input_scale).to(self.dtype)

    def _spread_inputs(self, u: Tensor | None) -> Tensor | None:
        """Inputs of every particle."""
        standard = self._standard(u)
        return None if standard is None else standard.unsqueeze(-2).expand(*u.shape[:-1], self.n_particles, -1)  # type: ignore[union-attr]

    # ---- draws

    def _draw_series(self, sample_shape: tuple[int, ...], length: int, inputs: Tensor | None) -> Tensor:
        """Draws of the model itself, no two from the same states."""
        first = self._standard(step_input(inputs, 0, len(sample_shape)))
        return self._ancestral(self._first_memory(sample_shape, first), length, inputs)[0]

    def _simulate(self, belief: Particles, steps: int, u: Tensor | None) -> tuple[Tensor, Particles]:
        """Draws from one particle's memory each; where memory reads y, from the cloud, which learns what was drawn."""
        if not self.marginalises:
            return super()._simulate(belief, steps, u)
        chosen = Categorical(logits=belief.log_weights).sample()[..., None, None]
        _, memory = self._parts(belief.values)
        memory = memory.gather(-2, chosen.expand(*chosen.shape[:-1], memory.shape[-1])).squeeze(-2)
        values, states = self._ancestral(memory, steps, u)
        return values, Particles(states.new_zeros(*states.shape[:-1], 1).double(), states.unsqueeze(-2))

    def _ancestral(self, memory: Tensor, steps: int, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """y (*batch, steps, D) and particles (*batch, steps, n + memory), drawn from p(z_t | m_t) and the head."""
        axis = 0 if u is None else u.ndim - 2
        values: list[Tensor] = []
        path: list[Tensor] = []
        for t in range(steps):
            inputs = self._standard(step_input(u, t, axis))
            law = self._prior(memory, inputs)
            z = law.mean + law.scale * torch.randn_like(law.mean)
            path.append(torch.cat([z, memory], -1))
            y = self.head.distribution(self._features(z, memory, inputs)).sample().to(torch.float64)
            values.append(y)
            if t + 1 < steps:
                memory = self._settle(memory, self.head.encode(y))
                memory = self._onward(z, memory, self._standard(step_input(u, t + 1, axis)))
        return torch.stack(values, -2), torch.stack(path, -2)
