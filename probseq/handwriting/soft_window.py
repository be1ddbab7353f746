"""The cell of the synthesis network: layers of LSTMs that write while they read a text through a soft window.

    h^1_t = LSTM(x_t, w_{t-1}, h^1_{t-1})                          # peepholes
    alpha, beta, step = exp(P h^1_t + q);    kappa_t = kappa_{t-1} + step
    phi_t(u) = sum_k alpha_k exp(-beta_k (kappa_tk - u)^2)         # how much character u = 1 .. U is looked at
    w_t = sum_u phi_t(u) one_hot(character u)
    h^n_t = LSTM(x_t, w_t, h^{n-1}_t, h^n_{t-1})                   # n = 2 .. N

| symbol    | shape              | meaning                                                                     |
|-----------|--------------------|-----------------------------------------------------------------------------|
| x         | (*batch, 3)        | dx, dy, lift of the point before                                            |
| text      | (*batch, M)        | the text as inputs beside x: characters 1 .. A, 0 beyond its end            |
| P, q      | (3 K, H), (3 K,)   | `window_weights`, `window_bias`                                             |
| state     |                    | those of all layers side by side, then w (A,), then kappa (K,)              |
| output    |                    | h of all layers side by side                                                |

kappa never goes back, so the window moves along the text; it need not add up to one. Before the first point w and
kappa are zero. The text is given anew at every step, like any other input: a network with this cell is a model under
the contract. Where it is the same at all steps (or ends, as padding does) whole sequences run by one compiled function
and its adjoint (`probseq.ops.soft_window`), else by the loop.

Graves, A. (2013). Generating sequences with recurrent neural networks. arXiv:1308.0850, section 5.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from probseq.cells import LSTM, Cell
from probseq.cells.base import uniform
from probseq.checks import whole_number
from probseq.ops.modes import untracked
from probseq.ops.soft_window import soft_window, soft_window_states

#: the numbers of a pen: dx, dy, lift
PEN = 3


class WindowedStack(Cell):
    """Peephole LSTMs over a soft window of K bells, `WindowedStack("abc ", [400, 400, 400], 10, most_characters=60)`.

    `characters` are the alphabet. `pace` is where training starts: characters that the window moves on at a point.
    """

    def __init__(
        self,
        characters: str,
        hidden_sizes: Sequence[int] = (400, 400, 400),
        n_bells: int = 10,
        *,
        most_characters: int = 60,
        pace: float = 0.05,
    ) -> None:
        if not characters or len(set(characters)) < len(characters):
            raise ValueError(f"characters must be different ones, at least one, got {characters!r}")
        if not hidden_sizes:
            raise ValueError("hidden_sizes must have at least one layer, got none")
        if not 0 < pace < math.inf:
            raise ValueError(f"pace must be a positive number, got {pace!r}")
        layers = [LSTM(whole_number("hidden_sizes", size), peepholes=True) for size in hidden_sizes]
        self.n_bells, self.n_given = whole_number("n_bells", n_bells), whole_number("most_characters", most_characters)
        shown = sum(layer.output_size for layer in layers)
        size = sum(layer.state_size for layer in layers) + len(characters) + self.n_bells
        super().__init__(shown, state_size=size, output_size=shown)
        self.characters, self.pace = characters, float(pace)
        self.layers = nn.ModuleList(layers)
        self._room("window_weights", "window_bias")

    def sizes(self) -> dict[str, Any]:
        return {
            "characters": self.characters,
            "hidden_sizes": [layer.hidden_size for layer in self._cells],
            "n_bells": self.n_bells,
            "most_characters": self.n_given,
            "pace": self.pace,
        }

    @property
    def _cells(self) -> list[LSTM]:
        return [layer for layer in self.layers if isinstance(layer, LSTM)]

    # ---------------------------------------------------------------- texts

    def encode(self, text: str) -> Int[Tensor, " place"]:
        """Its characters as 1 .. A. ValueError for one that is not in the alphabet, or an empty text."""
        missing = sorted(set(text) - set(self.characters))
        if missing or not text:
            known = f"characters of {self.characters!r}"
            raise ValueError(f"text must have {known}, {f'got {missing}' if missing else 'there are none'}")
        return torch.tensor([self.characters.index(character) + 1 for character in text])

    def inputs_for(self, text: str, n_steps: int) -> Float[Tensor, "time place"]:
        """The text as the inputs u of `n_steps` steps, (n_steps, most_characters). ValueError where it is too long."""
        codes = self.encode(text)
        if len(codes) > self.n_given:
            raise ValueError(f"text must have at most {self.n_given} characters (most_characters), got {len(codes)}")
        return F.pad(codes, (0, self.n_given - len(codes))).to(torch.float64).expand(n_steps, -1)

    def _codes(self, inputs: Tensor) -> Tensor:
        """The text among the inputs, checked: kernels index with it."""
        codes = inputs[..., PEN:].round().long()
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) <= len(self.characters):
            raise ValueError(f"a text as inputs must hold whole numbers 0 .. {len(self.characters)}, see inputs_for")
        return codes

    # ---------------------------------------------------------------- parameters

    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        if input_size != PEN + self.n_given:
            raise ValueError(f"inputs must be dx, dy, lift and {self.n_given} characters, got width {input_size}")
        below = 0
        for layer in self._cells:
            layer.bind(PEN + len(self.characters) + below, dtype=dtype, generator_seed=0)
            below = layer.output_size
        self.window_weights = self._zeros(3 * self.n_bells, self._cells[0].output_size, dtype=dtype)
        self.window_bias = self._zeros(3 * self.n_bells, dtype=dtype)

    def _draw(self, draws: torch.Generator) -> None:
        for layer in self._cells:
            layer.reset_parameters(int(torch.randint(2**62, (), generator=draws)))
        size = self.window_weights.shape
        self.window_weights.copy_(uniform(size, 0.1 / math.sqrt(size[1]), draws))
        start = [-math.log(self.n_bells), 0.0, math.log(self.pace)]  # bells that add up to about one, a character wide
        self.window_bias.copy_(torch.tensor(start, dtype=torch.float64).repeat_interleave(self.n_bells))
        self.window_bias.add_(uniform(self.window_bias.shape, 0.1, draws))

    @torch.no_grad()
    def scale_inputs(self, gains: Float[Tensor, " input"]) -> None:
        """Multiply the weights on dx, dy and lift, in every layer."""
        for layer in self._cells:
            rest = gains.new_ones(layer._require_bound() - PEN)
            layer.scale_inputs(torch.cat([gains[:PEN], rest]))

    def initial_state(self, batch_shape: Sequence[int] = ()) -> Float[Tensor, "*batch state"]:
        """The learned starts of all layers, w = 0, kappa = 0."""
        self._require_bound()
        starts = [layer.initial_state(batch_shape) for layer in self._cells]
        return torch.cat([*starts, starts[0].new_zeros(*batch_shape, len(self.characters) + self.n_bells)], -1)

    # ---------------------------------------------------------------- running

    def _parts(self, state: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """The states of the layers, w and kappa."""
        sizes = [layer.state_size for layer in self._cells]
        *states, window, kappa = state.split([*sizes, len(self.characters), self.n_bells], -1)
        return states, window, kappa

    def output(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch output"]:
        """What all layers show, side by side."""
        shown = zip(self._cells, self._parts(state)[0], strict=True)
        return torch.cat([layer.output(part) for layer, part in shown], -1)

    def phi(
        self, state: Float[Tensor, "*batch state"], places: Float[Tensor, "*batch place"]
    ) -> Float[Tensor, "*batch place"]:
        """How much is looked at each place of the text, after the step that gave this state."""
        states, _, kappa = self._parts(state)
        alpha, beta, _ = self._shape(self._cells[0].output(states[0]))
        away = kappa.unsqueeze(-1) - places.unsqueeze(-2)
        return (alpha.unsqueeze(-1) * (-beta.unsqueeze(-1) * away.square()).exp()).sum(-2)

    def _shape(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """alpha, beta, step (*, K) each."""
        return F.linear(hidden, self.window_weights, self.window_bias).exp().chunk(3, -1)

    def step(
        self, inputs: Float[Tensor, "*batch input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """The state after one more point, (*batch, state_size)."""
        self._require_bound()
        pen, codes = inputs[..., :PEN], self._codes(inputs)
        states, window, kappa = self._parts(state)
        after = [self._cells[0].step(torch.cat([pen, window], -1), states[0])]
        below = self._cells[0].output(after[0])
        kappa = kappa + self._shape(below)[2]
        places = torch.arange(1, codes.shape[-1] + 1, dtype=pen.dtype)
        looks = self.phi(torch.cat([after[0], *states[1:], window, kappa], -1), places)
        read = (codes > 0).cumprod(-1)  # a text ends where it first has no character
        window = (looks * read).unsqueeze(-2) @ F.one_hot(codes, len(self.characters) + 1)[..., 1:].to(looks)
        window = window.squeeze(-2)
        for layer, part in zip(self._cells[1:], states[1:], strict=True):
            after.append(layer.step(torch.cat([pen, window, below], -1), part))
            below = layer.output(after[-1])
        return torch.cat([*after, window, kappa], -1)

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        text = self._one_text(inputs)
        if text is None:
            return self.output(self._unroll(inputs, state))
        pen, (states, window, kappa) = inputs[..., :PEN], self._parts(state)
        first = soft_window(pen, *self._weights(), torch.cat([states[0], window, kappa], -1), *text)
        below, window = first.split([self._cells[0].output_size, len(self.characters)], -1)
        shown = [below]
        for layer, part in zip(self._cells[1:], states[1:], strict=True):
            shown.append(layer.sequence(torch.cat([pen, window, shown[-1]], -1), part))
        return torch.cat(shown, -1)

    def _whole(self, inputs: Tensor, state: Tensor) -> Tensor:
        text = self._one_text(inputs)
        if text is None or not untracked(inputs, state, *self.parameters()):
            return self._unroll(inputs, state)
        pen, (starts, window, kappa) = inputs[..., :PEN], self._parts(state)
        first = soft_window_states(pen, *self._weights(), torch.cat([starts[0], window, kappa], -1), *text)
        part, window, kappa = first.split([starts[0].shape[-1], len(self.characters), self.n_bells], -1)
        states = [part]
        for layer, start in zip(self._cells[1:], starts[1:], strict=True):
            below = self._cells[len(states) - 1].output(states[-1])
            states.append(layer.states(torch.cat([pen, window, below], -1), start))
        return torch.cat([*states, window, kappa], -1)

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As `soft_window` wants them."""
        first = self._cells[0]
        into, reading = first.input_weights.split([PEN, len(self.characters)], -1)
        peepholes = first.peephole_weights
        assert peepholes is not None
        looking = (self.window_weights, self.window_bias)
        return into, first.recurrent_weights, first.bias, peepholes, reading, *looking

    def _one_text(self, inputs: Tensor) -> tuple[Tensor, Tensor] | None:
        """The one text of every sequence (B, M) and how many steps have it; None if they have several."""
        codes = self._codes(inputs)
        same = (codes == codes[:, :1]).all(-1)
        n_read = same.cumprod(1).sum(1)
        ended = (codes == 0).all(-1) | (torch.arange(codes.shape[1]) < n_read.unsqueeze(-1))
        return (codes[:, 0].contiguous(), n_read) if bool(ended.all()) else None
