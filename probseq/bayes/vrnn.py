"""The variational recurrent network: a network that draws a state at every step and reads it back.

    h_0 = cell(start, 0, 0, u_0)
    for t in range(T):
        z_t ~ N(prior(h_t))                                   # guide: N(guess(phi(y_t), h_t))
        y_t ~ head(layers(psi(z_t), h_t))
        h_{t+1} = cell(h_t, phi(y_t), psi(z_t), u_{t+1})

The state makes the coordinates of y_t hang together and carries what is drawn into the future. The guide knows y_t and,
through h_t, all before it, but nothing later: it is a filter, and the bound is that of a filter. Without a state
(`state_dim=0`) and without layers this is `RNN`.

| symbol       | shape          | meaning                                                          |
|--------------|----------------|------------------------------------------------------------------|
| z_t          | (n,)           | `state_dim`, the state                                           |
| h_t          | (state_size,)  | activities of the cell                                           |
| phi, psi     |                | rectified layers on the encoded observation and on the state     |
| m_t (belief) |                | memory of a particle: h_t, and the encoded y_t once it was seen  |

A gap in y is filled with what the head expects given z_t and h_t (the guide reads zeros there): an approximation.

Chung, J. et al. (2015). A recurrent latent variable model for sequential data. NIPS, arXiv:1506.02216, equations 5
to 11. There h_{t-1} stands for what is h_t here: a belief before y_t is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from probseq.bayes.bounds import Pass
from probseq.bayes.guides import Path
from probseq.bayes.networks import Law, Layers, Spread, joined
from probseq.bayes.stochastic import StochasticRecurrent
from probseq.cells import Cell
from probseq.checks import whole_number
from probseq.emissions.head import Head
from probseq.sequences import Sequences


class VRNN(StochasticRecurrent):
    """A variational recurrent network, `VRNN(16, 88, cell=GRU(46), head=heads.Bernoulli())`.

    `layers` are the sizes of the rectified layers of every network beside the cell: phi, psi, prior, guide, emission.
    """

    def __init__(
        self,
        state_dim: int,
        obs_dim: int = 1,
        *,
        cell: Cell,
        head: Head,
        layers: Sequence[int] = (64,),
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
            least_state=0,
        )
        if not isinstance(cell, Cell):
            raise TypeError(f"cell must be a Cell such as probseq.cells.GRU(16), got {cell!r}")
        self.cell, n, shown = cell, self.state_dim, cell.output_size
        self.layer_sizes = sizes = [whole_number("layers", size) for size in layers]
        self.width = head._input_width(self.event_shape[0])
        self.phi, self.psi = Layers(self.width, sizes, dtype), Layers(n, sizes if n else (), dtype)
        self.emission = Layers(self.psi.n_outputs + shown, sizes, dtype)
        self.before, self.guess = Layers(shown, sizes, dtype), Layers(self.phi.n_outputs + shown, sizes, dtype)
        self.prior = Spread(self.before.n_outputs, n, dtype)
        self.guide = Spread(self.guess.n_outputs, n, dtype, start=0.5)
        cell.bind(self.phi.n_outputs + self.psi.n_outputs + self.input_dim, dtype=dtype, generator_seed=0)
        head.bind(self.emission.n_outputs, self.event_shape[0], dtype=dtype, generator_seed=0)
        self._draw(self.seed)
        self.eval()

    def sizes(self) -> dict[str, Any]:
        return self._common_sizes() | {"cell": self.cell, "layers": self.layer_sizes}

    def _draw(self, seed: int) -> None:
        super()._draw(seed)
        if not self.layer_sizes:  # the cell reads the observation itself
            rest = torch.ones(self.psi.n_outputs + self.input_dim, dtype=torch.float64)
            self.cell.scale_inputs(torch.cat([self.head.input_gains(), rest]))

    # ---- steps of a particle: m = (h, encoded y)

    def _first_memory(self, batch_shape: tuple[int, ...], u: Tensor | None) -> Tensor:
        nothing = torch.zeros(*batch_shape, self.width, dtype=self.dtype)
        return torch.cat([self._first_activity(batch_shape, u), nothing], -1)

    def _first_activity(self, batch_shape: tuple[int, ...], u: Tensor | None) -> Tensor:
        nothing = torch.zeros(*batch_shape, self.phi.n_outputs + self.psi.n_outputs, dtype=self.dtype)
        return self.cell.step(joined(nothing, u), self.cell.begin(batch_shape, u))

    def _activity(self, memory: Tensor) -> Tensor:
        return self.cell.output(memory[..., : self.cell.state_size])

    def _prior(self, memory: Tensor, u: Tensor | None) -> Law:
        return self.prior(self.before(self._activity(memory)))

    def _propose(self, memory: Tensor, x: Tensor, u: Tensor | None) -> tuple[Law, Tensor]:
        return self._guessed(self.phi(x), self._activity(memory)), memory

    def _guessed(self, read: Tensor, shown: Tensor) -> Law:
        return self.guide(self.guess(torch.cat([read, shown], -1)))

    def _features(self, z: Tensor, memory: Tensor, u: Tensor | None) -> Tensor:
        return self.emission(torch.cat([self.psi(z), self._activity(memory)], -1))

    def _settle(self, memory: Tensor, fed_back: Tensor) -> Tensor:
        return torch.cat([memory[..., : self.cell.state_size], fed_back], -1)

    def _onward(self, z: Tensor, memory: Tensor, u: Tensor | None) -> Tensor:
        state, fed_back = memory.split((self.cell.state_size, self.width), -1)
        read = torch.cat([self.phi(fed_back), self.psi(z)], -1)
        return torch.cat([self.cell.step(joined(read, u), state), fed_back], -1)

    # ---- whole sequences

    def _unrolled(self, sequences: Sequences, noise: Tensor) -> Pass:
        observed = None if sequences.complete and sequences.rectangular else sequences.observed
        encoded = self._encoded(sequences.values, observed)
        read, u = self.phi(encoded), self._standard(sequences.inputs)
        state = self._first_activity((len(read),), None if u is None else u[:, 0])
        steps: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        for t, e in enumerate(noise.unbind(1)):
            shown = self.cell.output(state)
            mean, scale = self._guessed(read[:, t], shown)
            z = torch.addcmul(mean, scale, e)
            psi, fed_back = self.psi(z), read[:, t]
            steps.append((z, mean, scale, psi, shown))
            if not sequences.complete:
                features = self.emission(torch.cat([psi, shown], -1))
                fed_back = self.phi(self.head.fill(features, encoded[:, t], sequences.observed[:, t]))
            if t + 1 < noise.shape[1]:
                after = None if u is None else u[:, t + 1]
                state = self.cell.step(joined(torch.cat([fed_back, psi], -1), after), state)
        z, mean, scale, psi, shown = (torch.stack(field, 1) for field in zip(*steps, strict=True))
        features = self.emission(torch.cat([psi, shown], -1))
        return Pass(Path(z, Law(mean, scale), z, None), self.prior(self.before(shown)), features)
