"""The stochastic recurrent network: a chain of states on top of a deterministic network, guessed from both sides.

    for t in range(T):
        d_t = cell(d_{t-1}, y_{t-1}, u_t)                     # the deterministic layer: a function of the data
        z_t ~ N(prior(z_{t-1}, d_t))
        y_t ~ head(layers(z_t, d_t))
    guide:  a_t = GRU(a_{t+1}, (d_t, y_t));   z_t ~ N(prior mean + guess(z_{t-1}, a_t), scale(z_{t-1}, a_t)^2)

Given the data the states are a Markov chain, so that their posterior factors as prod_t p(z_t | z_{t-1}, y_{t:T}, d),
and the guide factors likewise: it smooths. Its mean starts at the prior's and learns the difference (section 3.2).

| symbol       | shape          | meaning                                                            |
|--------------|----------------|--------------------------------------------------------------------|
| z_t          | (n,)           | `state_dim`, the state                                             |
| d_t          | (state_size,)  | activities of the cell                                             |
| a_t          | (guide_size,)  | activities of the guide's GRU, which runs backwards                |
| m_t (belief) |                | memory of a particle: d_t, z_{t-1}, the encoded y_t once it was seen |

A gap in y is filled with what the head expects where its features are zero, its marginal: an approximation. As a
proposal of a particle filter the guide reads a_t from y_t and d_t alone.

Fraccaro, M., Sonderby, S. K., Paquet, U. & Winther, O. (2016). Sequential neural models with stochastic layers. NIPS,
arXiv:1605.07571, equations 1 to 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from probseq.bayes.bounds import Pass
from probseq.bayes.guides import Path
from probseq.bayes.networks import Law, Layers, Spread, joined
from probseq.bayes.stochastic import StochasticRecurrent
from probseq.cells import GRU, Cell
from probseq.cells.bidirectional import reverse
from probseq.checks import whole_number
from probseq.emissions.head import Head
from probseq.sequences import Sequences


class SRNN(StochasticRecurrent):
    """A stochastic recurrent network, `SRNN(16, 88, cell=GRU(46), head=heads.Bernoulli())`.

    `layers` are the sizes of the rectified layers of prior, guide and emission, `guide_size` that of the guide's GRU.
    """

    def __init__(
        self,
        state_dim: int,
        obs_dim: int = 1,
        *,
        cell: Cell,
        head: Head,
        layers: Sequence[int] = (64,),
        guide_size: int = 64,
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
        if not isinstance(cell, Cell):
            raise TypeError(f"cell must be a Cell such as probseq.cells.GRU(16), got {cell!r}")
        self.cell, n, shown = cell, self.state_dim, cell.output_size
        self.layer_sizes = sizes = [whole_number("layers", size) for size in layers]
        self.guide_size = whole_number("guide_size", guide_size)
        self.width = head._input_width(self.event_shape[0])
        self.emission, self.before = Layers(n + shown, sizes, dtype), Layers(n + shown, sizes, dtype)
        self.prior = Spread(self.before.n_outputs, n, dtype)
        self.back = GRU(self.guide_size, dtype=dtype)
        self.guess = Layers(n + self.guide_size, sizes, dtype)
        self.guide = Spread(self.guess.n_outputs, n, dtype, start=0.5)
        self.start = nn.Parameter(torch.zeros(n, dtype=dtype))
        cell.bind(self.width + self.input_dim, dtype=dtype, generator_seed=0)
        self.back.bind(shown + self.width, dtype=dtype, generator_seed=0)
        head.bind(self.emission.n_outputs, self.event_shape[0], dtype=dtype, generator_seed=0)
        self._draw(self.seed)
        self.eval()

    def sizes(self) -> dict[str, Any]:
        return self._common_sizes() | {"cell": self.cell, "layers": self.layer_sizes, "guide_size": self.guide_size}

    def _draw(self, seed: int) -> None:
        super()._draw(seed)
        rest = torch.ones(self.input_dim, dtype=torch.float64)
        self.cell.scale_inputs(torch.cat([self.head.input_gains(), rest]))
        with torch.no_grad():
            self.start.zero_()

    # ---- steps of a particle: m = (d, z_{t-1}, encoded y)

    def _first_memory(self, batch_shape: tuple[int, ...], u: Tensor | None) -> Tensor:
        nothing = torch.zeros(*batch_shape, self.width, dtype=self.dtype)
        state = self.cell.step(joined(nothing, u), self.cell.begin(batch_shape, u))
        return torch.cat([state, self.start.expand(*batch_shape, -1), nothing], -1)

    def _split(self, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """d, z_{t-1} and the encoded y."""
        state, before, fed_back = memory.split((self.cell.state_size, self.state_dim, self.width), -1)
        return state, before, fed_back

    def _prior(self, memory: Tensor, u: Tensor | None) -> Law:
        state, before, _ = self._split(memory)
        return self._expected(before, self.cell.output(state))

    def _expected(self, before: Tensor, shown: Tensor) -> Law:
        return self.prior(self.before(torch.cat([before, shown], -1)))

    def _propose(self, memory: Tensor, x: Tensor, u: Tensor | None) -> tuple[Law, Tensor]:
        state, before, _ = self._split(memory)
        shown = self.cell.output(state)
        known = self.back.step(torch.cat([shown, x], -1), self.back.initial_state(x.shape[:-1]))
        return self._guessed(self._expected(before, shown), before, known), memory

    def _guessed(self, prior: Law, before: Tensor, known: Tensor) -> Law:
        away, scale = self.guide(self.guess(torch.cat([before, known], -1)))
        return Law(prior.mean + away, scale)

    def _features(self, z: Tensor, memory: Tensor, u: Tensor | None) -> Tensor:
        return self.emission(torch.cat([z, self.cell.output(memory[..., : self.cell.state_size])], -1))

    def _filled(self, features: Tensor, encoded: Tensor, observed: Tensor | None) -> Tensor:
        return self.head.fill(torch.zeros_like(features), encoded, observed)

    def _settle(self, memory: Tensor, fed_back: Tensor) -> Tensor:
        return torch.cat([memory[..., : -self.width], fed_back], -1)

    def _onward(self, z: Tensor, memory: Tensor, u: Tensor | None) -> Tensor:
        state, _, fed_back = self._split(memory)
        return torch.cat([self.cell.step(joined(fed_back, u), state), z, fed_back], -1)

    # ---- whole sequences

    def _unrolled(self, sequences: Sequences, noise: Tensor) -> Pass:
        complete, u = sequences.complete, self._standard(sequences.inputs)
        x = self._encoded(sequences.values, None if complete and sequences.rectangular else sequences.observed)
        if not complete:
            nothing = x.new_zeros(*x.shape[:-1], self.emission.n_outputs)
            x = self.head.fill(nothing, x, sequences.observed)
        shifted = joined(nn.functional.pad(x[:, :-1], (0, 0, 1, 0)), u)
        first = self.cell.begin((len(x),), None if u is None else u[:, 0])
        shown = self.cell.sequence(shifted, first)
        turned = reverse(torch.cat([shown, x], -1), sequences.lengths)
        known = reverse(self.back.sequence(turned, self.back.initial_state((len(x),))), sequences.lengths)
        before, steps = self.start.expand(len(x), -1), list[tuple[Tensor, ...]]()
        for d, a, e in zip(shown.unbind(1), known.unbind(1), noise.unbind(1), strict=True):
            prior = self._expected(before, d)
            law = self._guessed(prior, before, a)
            before = torch.addcmul(law.mean, law.scale, e)
            steps.append((before, *law, *prior))
        z, *laws = (torch.stack(field, 1) for field in zip(*steps, strict=True))
        features = self.emission(torch.cat([z, shown], -1))
        return Pass(Path(z, Law(*laws[:2]), z, None), Law(*laws[2:]), features)
