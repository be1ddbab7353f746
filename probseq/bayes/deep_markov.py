"""The deep Markov model: a hidden Markov chain of real vectors whose transition and emission are networks.

    z_0 ~ N(m_0, diag s_0^2)
    for t in range(T):
        y_t ~ head(layers(z_t, u_t))
        z_{t+1} ~ N(mean(z_t, u_{t+1}), diag scale(z_t, u_{t+1})^2)         # GatedTransition

With one linear regime and constant noise it is a linear dynamical system, with the Gaussian head its Kalman filter is
exact. In general neither filter nor smoother has a closed form: a guide (`probseq.bayes.guides`) is learned beside the
model by climbing the ELBO, whose KL terms are between Gaussians.

| symbol        | shape  | meaning                                                     |
|---------------|--------|-------------------------------------------------------------|
| z_t           | (n,)   | `state_dim`, the state                                      |
| m_0, s_0      | (n,)   | `initial_mean`, and the exponential of `initial_log_scale`  |
| y_t           | (D,)   | the observation, read by the guide as `head.encode` says    |
| m_t (belief)  |        | memory of a particle: mean and scale of z_t, z_{t-1}, what the guide carries |

The memory reads no observation, so that a gap is integrated out exactly, as far as particles can. `smooth`, `decode`
and `sample_states` weigh `n_particles` paths from the guide by p(z, y) / q(z | y): exact where the guide is the
posterior, and in the limit of many paths.

Krishnan, R., Shalit, U. & Sontag, D. (2017). Structured inference networks for nonlinear state space models. AAAI,
arXiv:1609.09869, equations 2 to 7. There the transition acts before the first observation; here z_0 has its own law.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from probseq.base import LatentStateModel
from probseq.bayes.bounds import Pass, log_density, log_ratio
from probseq.bayes.guides import Combiner, Guide, GuideName
from probseq.bayes.networks import GatedTransition, Law, Layers, joined
from probseq.bayes.stochastic import ROWS, StochasticRecurrent
from probseq.beliefs import Particles
from probseq.checks import whole_number
from probseq.emissions.head import Head
from probseq.randomness import seeded
from probseq.sequences import Sequences


class DeepMarkov(StochasticRecurrent, LatentStateModel[Particles]):
    """A deep Markov model, `DeepMarkov(16, 88, head=heads.Bernoulli())`.

    `transition_size` is the width of the transition's hidden layers, `emission_layers` the sizes of those between state
    and head (none: the head reads the state), `guide_size` that of the guide's GRU, `n_flows` the number of its flows.
    The weight of KL climbs from 0 to 1 over the first `kl_warmup` updates of a fit.
    """

    marginalises = True

    def __init__(
        self,
        state_dim: int,
        obs_dim: int = 1,
        *,
        head: Head,
        transition_size: int = 64,
        emission_layers: Sequence[int] = (64,),
        guide: GuideName = "structured",
        guide_size: int = 64,
        n_flows: int = 0,
        input_dim: int = 0,
        kl_warmup: int = 500,
        n_particles: int = 100,
        proposal: Literal["guide", "transition"] = "guide",
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            state_dim,
            obs_dim,
            head=head,
            input_dim=input_dim,
            kl_warmup=kl_warmup,
            n_particles=n_particles,
            proposal=proposal,
            dtype=dtype,
            seed=seed,
        )
        self.transition_size = whole_number("transition_size", transition_size)
        self.emission_layers = [whole_number("emission_layers", size) for size in emission_layers]
        self.transition = GatedTransition(self.state_dim, self.input_dim, self.transition_size, dtype)
        self.layers = Layers(self.state_dim + self.input_dim, self.emission_layers, dtype)
        head.bind(self.layers.n_outputs, self.event_shape[0], dtype=dtype, generator_seed=0)
        width = head.input_width + self.input_dim
        self.guide_name, self.guide_size, self.n_flows = guide, guide_size, n_flows
        self.guide: Guide = Combiner(guide, self.state_dim, width, guide_size, n_flows, dtype)
        self.initial_mean = nn.Parameter(torch.zeros(self.state_dim, dtype=dtype))
        self.initial_log_scale = nn.Parameter(torch.zeros(self.state_dim, dtype=dtype))
        self._draw(self.seed)
        self.eval()

    def sizes(self) -> dict[str, Any]:
        names = ("transition_size", "emission_layers", "guide_size", "n_flows")
        return self._common_sizes() | {name: getattr(self, name) for name in names} | {"guide": self.guide_name}

    def _draw(self, seed: int) -> None:
        super()._draw(seed)
        with torch.no_grad():
            for start in (self.initial_mean, self.initial_log_scale, self.guide.start):
                start.zero_()

    # ---- steps of a particle: m = (mean, scale, z_{t-1}, carried)

    def _first_memory(self, batch_shape: tuple[int, ...], u: Tensor | None) -> Tensor:
        fields = (self.initial_mean, self.initial_log_scale.exp(), self.guide.start)
        spread = [field.expand(*batch_shape, -1) for field in fields]
        return torch.cat([*spread, self.guide.begin(batch_shape)], -1)

    def _prior(self, memory: Tensor, u: Tensor | None) -> Law:
        n = self.state_dim
        return Law(memory[..., :n], memory[..., n : 2 * n])

    def _propose(self, memory: Tensor, x: Tensor, u: Tensor | None) -> tuple[Law, Tensor]:
        n, read = self.state_dim, joined(x, u)
        before, carried = memory[..., 2 * n : 3 * n], self.guide.carry(memory[..., 3 * n :], read)
        law = self.guide.law(self.guide.glimpse(carried, read), before)
        return law, torch.cat([memory[..., : 3 * n], carried], -1)

    def _features(self, z: Tensor, memory: Tensor, u: Tensor | None) -> Tensor:
        return self.layers(joined(z, u))

    def _settle(self, memory: Tensor, fed_back: Tensor) -> Tensor:
        return memory

    def _onward(self, z: Tensor, memory: Tensor, u: Tensor | None) -> Tensor:
        return torch.cat([*self.transition(z, u), z, memory[..., 3 * self.state_dim :]], -1)

    def _bend(self, drawn: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.guide.bend(drawn)

    # ---- whole sequences

    def _unrolled(self, sequences: Sequences, noise: Tensor) -> Pass:
        observed = None if sequences.complete and sequences.rectangular else sequences.observed
        u = self._standard(sequences.inputs)
        x = joined(self._encoded(sequences.values, observed), u)
        path = self.guide.path(self.guide.read(x, sequences.lengths), noise)
        return Pass(path, self._chain(path.states, u), self._features(path.states, path.states, u))

    def _chain(self, z: Tensor, u: Tensor | None) -> Law:
        """p(z_t | z_{t-1}) at every step of paths (B, T, n)."""
        later = self.transition(z[:, :-1], None if u is None else u[:, 1:])
        first = (self.initial_mean, self.initial_log_scale.exp())
        return Law(*(torch.cat([a.expand(len(z), 1, -1), b], 1) for a, b in zip(first, later, strict=True)))

    # ---- the latent state: draws from the guide, weighed by p(z, y) / q(z | y)

    def _guided_paths(self, sequences: Sequences, groups: int, seed: int) -> tuple[Tensor, Tensor]:
        """`groups` clouds of whole paths for every sequence, (groups, N, B, T, n), and log weights (groups, N, B)."""
        size, n = len(sequences.lengths), self.n_particles
        each = max(1, ROWS // max(size * n, 1))
        found: list[tuple[Tensor, ...]] = []
        with seeded(seed):
            for begin in range(0, groups, each):
                shape = (min(each, groups - begin), n, size)
                rows = sequences.select(torch.arange(size).repeat(shape[0] * n))
                found.append(tuple(part.reshape(*shape, *part.shape[1:]) for part in self._weighed(rows)))
        states, log_weights = (torch.cat(parts) for parts in zip(*found, strict=True))
        return states, log_weights - log_weights.logsumexp(1, keepdim=True)

    def _weighed(self, rows: Sequences) -> tuple[Tensor, Tensor]:
        """A path from the guide for every row and its log p(z, y) - log q(z | y)."""
        noise = torch.randn(*rows.inside.shape, self.state_dim, dtype=self.dtype)
        if not rows.n_steps:
            return noise, torch.zeros(len(noise), dtype=torch.float64)
        drawn = self._unrolled(rows, noise)
        price = torch.where(rows.inside, log_ratio(drawn), 0.0).sum(-1)
        return drawn.path.states, self._said(drawn.features, rows) - price

    @torch.no_grad()
    def _smooth(self, sequences: Sequences) -> Particles:
        """`n_particles` weighed paths, read as a cloud at every step."""
        states, log_weights = (part[0] for part in self._guided_paths(sequences, 1, self.seed))
        weights = log_weights.mT.unsqueeze(1).expand(-1, sequences.n_steps, -1)
        return Particles(weights, states.movedim(0, 2))

    def _decode(self, sequences: Sequences) -> Tensor:
        return self._smooth(sequences).mean

    @torch.no_grad()
    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor:
        """One path out of `n_particles` for every draw, by their weights."""
        seeds = torch.randint(2**62, (2,), generator=randomness).tolist()
        states, log_weights = self._guided_paths(sequences, n_samples, seeds[0])
        with seeded(seeds[1]):
            chosen = Categorical(logits=log_weights.mT).sample()
        index = chosen[:, None, :, None, None].expand(-1, 1, -1, *states.shape[3:])
        return states.gather(1, index).squeeze(1)

    def _path_log_prob(self, states: Tensor, sequences: Sequences) -> Tensor:
        if not sequences.n_steps:
            return states.new_zeros(len(states), dtype=torch.float64)
        z, u = states.to(self.dtype), self._standard(sequences.inputs)
        steps = torch.where(sequences.inside, log_density(self._chain(z, u), z), 0.0).sum(-1)
        return steps + self._said(self._features(z, z, u), sequences)
