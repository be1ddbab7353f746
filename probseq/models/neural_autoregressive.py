"""Neural autoregression: a feed-forward network on delay taps, made a belief-state updater by its window.

    for t in range(T):
        x_t = (C y_{t-1}, ..., C y_{t-p}, u_t)                  # C: a shared embedding, or nothing
        h_t = f(W_L ... f(W_1 x_t + b_1) ... + b_L)
        y_t ~ head(h_t),   or head(h_t, x_t) with direct=True

| symbol    | shape                 | meaning                                                                       |
|-----------|-----------------------|-------------------------------------------------------------------------------|
| y_{t-j}   | (*batch, width)       | an earlier observation as the head encodes it: standardised, one-hot, 0 or 1  |
| C         | (width, E)            | `embedding`: for symbols a table of word vectors, shared by all lags          |
| W_l, b_l  | (H_l, .), (H_l,)      | `layer_weights`, `layer_biases`; no layers: the head reads x_t                |
| f         |                       | tanh, max(0, .) ("relu") or 1 / (1 + exp(-.))                                 |

Without layers a Gaussian head makes it a linear autoregression, and a categorical one of order 1 the table of an
n-gram (a bigram): what the layers add is that similar pasts share what they teach. With symbols, an embedding and one
hidden layer it is Bengio's neural language model; `direct` are the dotted connections of his figure 1.

The belief is the window of the last p encoded observations, zeros before the first one: the mean of numbers, and of
symbols none of them. Every step is scored. A window needs numbers, so where a coordinate of y_t is missing its
expectation under the head goes into the window, and what is said of later steps is an approximation (`AR` integrates
gaps exactly). Missing coordinates within a step, and steps after the last observed one, are exact.

Bengio, Y., Ducharme, R., Vincent, P. & Jauvin, C. (2003). A neural probabilistic language model. JMLR 3, 1137-1155.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from probseq.base import Filtered, StateSpaceModel
from probseq.beliefs import Window
from probseq.cells.base import floating_dtype, uniform
from probseq.cells.elman import FUNCTIONS, Activation, inverse_slopes
from probseq.checks import whole_number
from probseq.emissions.head import Activities
from probseq.emissions.heads import Categorical, Gaussian, Head
from probseq.models.padding import hold, seen_first
from probseq.parameters import allow
from probseq.randomness import generator, spawn
from probseq.sequences import Sequences


class NeuralAR(StateSpaceModel[Window]):
    """A network on the last `order` observations, `NeuralAR(3, hidden=[32])`; the head is Gaussian unless given.

    `obs_dim` is the width of y (1 for symbols), `input_dim` that of u. Computes in `dtype`; log-probabilities are
    float64. The weights are drawn from `seed`, and drawn anew by a fit unless they were fitted or loaded.
    """

    fit_methods: ClassVar[tuple[str, ...]] = ("gradient", "hessian_free")
    optimizer: ClassVar[Literal["lbfgs", "adam"]] = "adam"
    validation_share: ClassVar[float | None] = 0.2

    embedding: nn.Parameter | None
    input_shift: Tensor
    input_scale: Tensor

    def __init__(
        self,
        order: int,
        obs_dim: int = 1,
        *,
        hidden: Sequence[int] = (),
        head: Head | None = None,
        input_dim: int = 0,
        embedding_dim: int | None = None,
        activation: Activation = "tanh",
        direct: bool = False,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        head = Gaussian() if head is None else head
        if not isinstance(head, Head):
            raise TypeError(f"head must be a Head such as probseq.heads.Gaussian(), got {head!r}")
        if activation not in FUNCTIONS:
            raise ValueError(f"activation must be one of {', '.join(FUNCTIONS)}, got {activation!r}")
        self.order, obs_dim = whole_number("order", order), whole_number("obs_dim", obs_dim)
        self.input_dim = whole_number("input_dim", input_dim, least=0)
        if isinstance(hidden, str) or not isinstance(hidden, Sequence):
            raise ValueError(f"hidden must be a list of sizes, such as [32], got {hidden!r}")
        self.hidden = [whole_number(f"hidden[{place}]", size) for place, size in enumerate(hidden)]
        self.embedding_dim = None if embedding_dim is None else whole_number("embedding_dim", embedding_dim)
        self.activation: Activation = activation
        self.direct, self.dtype = direct, floating_dtype(dtype)
        self.event_shape, self.real_valued = torch.Size([obs_dim]), head.real_valued
        taps = self.order * (self.embedding_dim or head._input_width(obs_dim)) + self.input_dim
        widths = [taps, *self.hidden]
        self.head = head
        layer_seed, head_seed = spawn(seed, 2)
        read = widths[-1] + (taps if direct and self.hidden else 0)
        head.bind(read, obs_dim, dtype=dtype, generator_seed=head_seed)
        shapes = list(zip(self.hidden, widths, strict=False))
        self.layer_weights = nn.ParameterList([torch.zeros(allow(*shape), dtype=dtype) for shape in shapes])
        self.layer_biases = nn.ParameterList([torch.zeros(size, dtype=dtype) for size in self.hidden])
        table = None if self.embedding_dim is None else torch.zeros(allow(head.input_width, self.embedding_dim))
        self.register_parameter("embedding", None if table is None else nn.Parameter(table.to(dtype)))
        self.register_buffer("input_shift", torch.zeros(self.input_dim, dtype=torch.float64))
        self.register_buffer("input_scale", torch.ones(self.input_dim, dtype=torch.float64))
        self._draw_weights(layer_seed)
        self.eval()

    def sizes(self) -> dict[str, Any]:
        names = ("order", "hidden", "head", "input_dim", "embedding_dim", "activation", "direct", "dtype")
        return {"obs_dim": self.event_shape[0], **{name: getattr(self, name) for name in names}}

    @torch.no_grad()
    def _draw_weights(self, seed: int) -> None:
        """Weights of such a size that an input of unit spread leaves every sum with unit spread; biases zero."""
        draws = generator(seed)
        if self.embedding is not None:
            self.embedding.copy_(uniform(self.embedding.shape, math.sqrt(3.0), draws))
        for place, (weights, bias) in enumerate(zip(self.layer_weights, self.layer_biases, strict=True)):
            n_on = weights.shape[1]
            if place == 0 and self.embedding is None and isinstance(self.head, Categorical):
                n_on = self.order + self.input_dim  # one-hot: one input of each lag is on
            weights.copy_(uniform(weights.shape, math.sqrt(3.0 / n_on), draws))
            bias.zero_()

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Window:
        """Nothing was seen: zeros."""
        return Window(torch.zeros(*batch_shape, self.order, self.head.input_width, dtype=self.dtype))

    def predict(self, belief: Window, u: Tensor | None = None) -> Window:
        """The window is what is known of the past already."""
        return belief

    def update(
        self, belief: Window, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Window, Tensor]:
        """Push y into the window, its expectation where missing. Satisfies update(b, y)[1] == emit(b).log_prob(y)."""
        read = self._read(belief.values, u)
        newest = self.head.fill(read, self.head.encode(y), observed)
        values = torch.cat([newest.unsqueeze(-2), belief.values[..., :-1, :]], -2)
        return Window(values), self.head.log_prob(read, y, observed)

    def emit(self, belief: Window, u: Tensor | None = None) -> Distribution:
        """The head's density at the network's output."""
        return self.head.distribution(self._read(belief.values, u))

    # ---- the network

    def _read(self, window: Tensor, u: Tensor | None) -> Tensor:
        """What the head reads, from windows (*batch, order, width) and inputs."""
        return self._network(self._embed(window).flatten(-2), u)

    def _embed(self, encoded: Tensor) -> Tensor:
        """C y, (*batch, E), or the encoded observations themselves."""
        return encoded if self.embedding is None else encoded @ self.embedding

    def _network(self, taps: Tensor, u: Tensor | None) -> Tensor:
        return self._shown(self._layers(taps, u))

    def _layers(self, taps: Tensor, u: Tensor | None) -> list[Tensor]:
        """The taps and inputs, and what every layer makes of them."""
        if u is not None:
            taps = torch.cat([taps, ((u - self.input_shift) / self.input_scale).to(self.dtype)], -1)
        layers = [taps]
        for weights, bias in zip(self.layer_weights, self.layer_biases, strict=True):
            layers.append(FUNCTIONS[self.activation](F.linear(layers[-1], weights, bias)))
        return layers

    def _shown(self, layers: list[Tensor]) -> Tensor:
        """What the head reads of all that."""
        return torch.cat([layers[-1], layers[0]], -1) if self.direct and self.hidden else layers[-1]

    # ---- whole sequences

    def _windows(self, rows: Tensor, first: Tensor) -> Tensor:
        """The windows before every row of (B, T, width) and after the last, newest first, (B, T + 1, order, width)."""
        joined = torch.cat([first.flip(-2), rows], -2)
        return joined.unfold(1, self.order, 1).flip(-1).mT

    def _taps(self, sequences: Sequences) -> Tensor:
        """What the first layer reads of the past of sequences without gaps, (B, T, .); every row is embedded once."""
        rows = self._embed(self.head.encode(sequences.values))
        windows = self._windows(rows, rows.new_zeros(len(rows), self.order, rows.shape[-1]))
        return windows[:, :-1].flatten(-2)

    def _unrolled(self, sequences: Sequences) -> Activities:
        """What the network does with a flat batch, twice differentiable, for curvature; its layers are the states."""
        if seen_first(sequences):
            taps = self._taps(sequences)
        else:
            taps = self._embed(super()._filter(sequences, None).predicted.values).flatten(-2)
        layers = self._layers(taps, sequences.inputs)
        states = torch.cat([*layers[1:], taps.new_zeros(*taps.shape[:-1], 0)], -1)
        metric = torch.where(sequences.inside.unsqueeze(-1), inverse_slopes(self.activation, states.detach()), 0.0)
        return Activities(self._shown(layers), sequences.values, sequences.observed, states, metric)

    def _log_prob(self, sequences: Sequences) -> Tensor:
        if not seen_first(sequences) or not sequences.n_steps:
            return super()._log_prob(sequences)
        observed = None if sequences.complete and sequences.rectangular else sequences.observed
        return self.head.log_prob(
            self._network(self._taps(sequences), sequences.inputs), sequences.values, observed
        ).sum(-1)

    def _filter(self, sequences: Sequences, initial: Window | None) -> Filtered[Window]:
        if not sequences.complete or not sequences.n_steps:
            return super()._filter(sequences, initial)
        values = sequences.values
        first = self.initial_belief((len(values),)) if initial is None else initial
        windows = self._windows(self.head.encode(values), first.values)
        before, after = hold(windows[:, :-1], sequences), hold(windows[:, 1:], sequences)
        if not sequences.rectangular:  # beyond its end a sequence's prediction is its last belief
            beyond = ~sequences.inside & (sequences.lengths > 0).unsqueeze(-1)
            before = torch.where(beyond[..., None, None], after, before)
        observed = None if sequences.rectangular else sequences.observed
        score = self.head.log_prob(self._read(windows[:, :-1], sequences.inputs), values, observed)
        return Filtered(Window(before), Window(after), score)

    # ---- data and units

    def _outside(self, values: Tensor) -> tuple[Tensor, str] | None:
        return None if self.real_valued else (self.head.invalid(values), self.head.support)

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        self.head.standardise(scale * self.head.shift + shift, scale * self.head.scale)

    def _start(self, sequences: Sequences, seed: int) -> None:
        """Draw the weights; the head starts at the marginal of the data, inputs are standardised."""
        layer_seed, head_seed = spawn(seed, 2)
        self._draw_weights(layer_seed)
        self.head.reset_parameters(head_seed)
        if self.real_valued:
            self.head.standardise(torch.zeros_like(self.head.shift), torch.ones_like(self.head.scale))
        self.head.start_from(sequences.values, sequences.observed, head_seed)
        if sequences.inputs is not None:
            shift, scale = sequences.input_units()
            self.input_shift.copy_(shift)
            self.input_scale.copy_(scale)
