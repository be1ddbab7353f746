"""Guides: learned posteriors q(z_{0:T} | y) of stochastic recurrent models.

    q(z | y) = prod_t N(z_t; mean(h_t), scale(h_t)^2),    h_t = average of what the guide looks at

| name             | looks at                                                | of Krishnan et al.  |
|------------------|---------------------------------------------------------|---------------------|
| "structured"     | tanh(W z_{t-1} + b) and k_t, a GRU over y_{T-1} .. y_t   | DKS, the posterior's own factors |
| "left_to_right"  | tanh(W z_{t-1} + b) and l_t, a GRU over y_0 .. y_t       | ST-L, a filter      |
| "both"           | all three                                               | ST-LR               |
| "mean_field"     | l_t and k_t: states are independent given the data      | MF-LR               |

The true posterior factors as prod_t p(z_t | z_{t-1}, y_{t:T}): z_{t-1} says all of the past, so "structured" has what
it needs and no more. With flows every draw is passed through inverse autoregressive flows (Kingma et al. 2016), shared
by all steps: z_t = f(e_t), log q(z_t) = log N(e_t) - log |det f'(e_t)|. Flows are Pyro's.

| symbol   | shape        | meaning                                              |
|----------|--------------|------------------------------------------------------|
| x        | (B, T, width)| observations as the network reads them, and inputs   |
| k_t, l_t | (B, T, G)    | activities of the GRUs                               |
| z        | (B, T, n)    | states                                               |

As a proposal of a particle filter a guide knows nothing that comes later: k_t is then read from y_t alone.

Krishnan, R., Shalit, U. & Sontag, D. (2017). Structured inference networks for nonlinear state space models. AAAI,
arXiv:1609.09869, section 4 and table 1. Kingma, D. et al. (2016). Improved variational inference with inverse
autoregressive flow. NIPS, arXiv:1606.04934.
"""

from __future__ import annotations

import abc
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from probseq.bayes.networks import Dense, Law, Spread
from probseq.cells import GRU
from probseq.cells.bidirectional import reverse
from probseq.checks import whole_number

GuideName = Literal["structured", "left_to_right", "both", "mean_field"]
GUIDES: tuple[str, ...] = get_args(GuideName)


class Path(NamedTuple):
    """A draw of states (B, T, n): what was drawn from `law` before the flows, and their log |det|, (B, T) or None."""

    states: Tensor
    law: Law
    drawn: Tensor
    stretch: Tensor | None


class Guide(nn.Module, abc.ABC):
    """To write: read, law, begin, carry, glimpse.  You get: path."""

    #: z before the first state, as far as the guide is concerned
    start: Tensor
    #: whether q(z_t | ...) looks at z_{t-1}
    looks_back: bool = True

    @abc.abstractmethod
    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        """What is known about every z_t from the data alone, (B, T, context), of x (B, T, width)."""

    @abc.abstractmethod
    def law(self, context: Tensor, before: Tensor) -> Law:
        """q(z_t | z_{t-1} = before, what is known), before the flows."""

    @abc.abstractmethod
    def begin(self, batch_shape: tuple[int, ...]) -> Tensor:
        """What a filter carries before the first observation, (*batch, carried)."""

    @abc.abstractmethod
    def carry(self, carried: Tensor, x: Tensor) -> Tensor:
        """What it carries after x (*batch, width)."""

    @abc.abstractmethod
    def glimpse(self, carried: Tensor, x: Tensor) -> Tensor:
        """What is known about z_t when x is the last observation; `carried` is after it."""

    def bend(self, drawn: Tensor) -> tuple[Tensor, Tensor | None]:
        """z from what was drawn, and log |dz / d drawn|; None without flows."""
        return drawn, None

    def path(self, context: Tensor, noise: Tensor) -> Path:
        """Draw z_t ~ q(z_t | z_{t-1}, context) by the noise (B, T, n): the only loop over steps."""
        if not self.looks_back:
            law = self.law(context, noise)
            drawn = law.mean + law.scale * noise
            states, stretch = self.bend(drawn)
            return Path(states, law, drawn, stretch)
        before = self.start.expand(len(context), -1)
        steps: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]] = []
        for known, e in zip(context.unbind(1), noise.unbind(1), strict=True):
            mean, scale = self.law(known, before)
            drawn = torch.addcmul(mean, scale, e)
            before, stretch = self.bend(drawn)
            steps.append((before, mean, scale, drawn, stretch))
        states, means, scales, draws, stretches = zip(*steps, strict=True)
        total = None if stretches[0] is None else torch.stack([s for s in stretches if s is not None], 1)
        law = Law(torch.stack(means, 1), torch.stack(scales, 1))
        return Path(torch.stack(states, 1), law, torch.stack(draws, 1), total)


class Combiner(Guide):
    """The guides of the module's table, `Combiner("structured", state_dim=16, width=88, size=64)`."""

    def __init__(
        self,
        name: GuideName,
        state_dim: int,
        width: int,
        size: int,
        n_flows: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if name not in GUIDES:
            raise ValueError(f"guide must be one of {GUIDES}, got {name!r}")
        size, self.n_flows = whole_number("guide_size", size), whole_number("n_flows", n_flows, least=0)
        self.looks_back = name != "mean_field"
        self.ahead = GRU(size, dtype=dtype) if name != "structured" else None
        self.back = GRU(size, dtype=dtype) if name != "left_to_right" else None
        self.previous = Dense(state_dim, size, dtype) if self.looks_back else None
        looks = (self.ahead, self.back, self.previous)
        self.n_looks = sum(look is not None for look in looks)
        for cell in looks[:2]:
            if cell is not None:
                cell.bind(width, dtype=dtype, generator_seed=0)
        self.out = Spread(size, state_dim, dtype, start=0.5)
        self.start = nn.Parameter(torch.zeros(state_dim, dtype=dtype))
        self.flows = nn.ModuleList(flows(state_dim, self.n_flows, dtype))

    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        batch, total = (len(x),), x.new_zeros(())
        if self.ahead is not None:
            total = total + self.ahead.sequence(x, self.ahead.initial_state(batch))
        if self.back is not None:
            turned = self.back.sequence(reverse(x, lengths), self.back.initial_state(batch))
            total = total + reverse(turned, lengths)
        return total / self.n_looks

    def law(self, context: Tensor, before: Tensor) -> Law:
        if self.previous is not None:
            context = torch.add(context, torch.tanh(self.previous(before)), alpha=1 / self.n_looks)
        return self.out(context)

    def begin(self, batch_shape: tuple[int, ...]) -> Tensor:
        if self.ahead is None:
            return self.start.new_zeros(*batch_shape, 0)
        return self.ahead.initial_state(batch_shape)

    def carry(self, carried: Tensor, x: Tensor) -> Tensor:
        return carried if self.ahead is None else self.ahead.step(x, carried)

    def glimpse(self, carried: Tensor, x: Tensor) -> Tensor:
        total = x.new_zeros(()) if self.ahead is None else carried
        if self.back is not None:
            total = total + self.back.step(x, self.back.initial_state(x.shape[:-1]))
        return total / self.n_looks

    def bend(self, drawn: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.n_flows:
            return drawn, None
        stretch = drawn.new_zeros(drawn.shape[:-1])
        for flow in self.flows:
            transform: Any = flow
            bent = transform(drawn)
            stretch = stretch + transform.log_abs_det_jacobian(drawn, bent)
            drawn = bent
        return drawn, stretch


def flows(state_dim: int, n_flows: int, dtype: torch.dtype) -> list[Any]:
    """Pyro's inverse autoregressive flows, each after a reversal of the order of the coordinates."""
    if not n_flows:
        return []
    if state_dim < 2:
        raise ValueError(f"flows mix the coordinates of a state: n_flows needs state_dim 2 or more, got {state_dim}")
    from pyro.distributions.transforms import AffineAutoregressive
    from pyro.nn import AutoRegressiveNN

    made: list[Any] = []
    for place in range(n_flows):
        order: Any = torch.arange(state_dim) if place % 2 else torch.arange(state_dim).flip(0)
        with torch.random.fork_rng(devices=[]):
            made.append(AffineAutoregressive(AutoRegressiveNN(state_dim, [2 * state_dim], permutation=order)).to(dtype))
    return made
