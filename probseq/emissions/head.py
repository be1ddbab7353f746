"""What every output head is: a linear layer on the activities, in the units of the data.

    a_t = V h_t + c;    y_t ~ distribution(h_t);    what the network reads next is encode(y_t)

A head is made without sizes, bound to those of a network (`bind`), told the units of the data (`standardise`) and
started at their marginal distribution (`start_from`). Symbols and shapes are those of `probseq.emissions.heads`.

What the outputs a_t mean is said by functions of a_t and the units alone (`_say`, `_log_density`, ...), without any
parameter, so that heads can stand side by side on one linear layer (`heads.Product`).
"""

from __future__ import annotations

import abc
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution

from probseq.parameters import allow
from probseq.randomness import generator


class Activities(NamedTuple):
    """What a network does with a flat batch, by torch's own operations: twice differentiable.

    The head reads `outputs` (*, H), to say `values` (*, D) where `observed`; the hidden units are `states`
    (B, T, S), and the square of a small change of one counts `metric`, 0 outside sequences.
    """

    outputs: Tensor
    values: Tensor
    observed: Tensor
    states: Tensor
    metric: Tensor


class Head(nn.Module, abc.ABC):
    """To write: the abstract methods below.  You get: bind, starts, units, fill, distribution, log_prob."""

    real_valued: bool = False
    weights: nn.Parameter
    bias: nn.Parameter
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size: int | None = None
        self.obs_dim: int | None = None
        self.register_parameter("weights", None)
        self.register_parameter("bias", None)

    @abc.abstractmethod
    def sizes(self) -> dict[str, Any]:
        """The constructor's arguments that rebuild this head up to its weights."""

    def extra_repr(self) -> str:
        return f"hidden_size={self.hidden_size}, obs_dim={self.obs_dim}"

    def bind(
        self,
        hidden_size: int,
        obs_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        generator_seed: int | None = None,
    ) -> None:
        """Create the linear layer for these sizes; a second call with the same sizes changes nothing.

        Raises ValueError when bound to other sizes or precision, or when the family cannot have `obs_dim`.
        """
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")
        if self.obs_dim is not None:
            if (self.hidden_size, self.obs_dim, self.weights.dtype) != (hidden_size, obs_dim, dtype):
                bound = f"hidden_size {self.hidden_size}, obs_dim {self.obs_dim}, {self.weights.dtype}"
                raise ValueError(f"head is bound to {bound}; asked for {hidden_size}, {obs_dim}, {dtype}")
            return
        if hidden_size < 1 or obs_dim < 1:
            raise ValueError(f"hidden_size and obs_dim must be at least 1, got {hidden_size} and {obs_dim}")
        n_outputs = self._n_outputs(obs_dim)
        self.hidden_size, self.obs_dim = int(hidden_size), int(obs_dim)
        self.weights = nn.Parameter(torch.zeros(allow(n_outputs, hidden_size), dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(n_outputs, dtype=dtype))
        self.register_buffer("shift", torch.zeros(obs_dim, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(obs_dim, dtype=torch.float64))
        self.reset_parameters(generator_seed)

    @torch.no_grad()
    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw small weights, a function of `seed` alone; the bias says N(0, 1) standardised, or equal odds.

        Activities in (-1, 1) then move an output by about a tenth at most: training starts at the marginal.
        """
        uniform = torch.rand(self.weights.shape, generator=generator(seed), dtype=torch.float64)
        self.weights.copy_(0.1 * (2.0 * uniform - 1.0) / math.sqrt(self.weights.shape[1]))
        self.bias.copy_(self._neutral_bias(len(self.shift)))

    @torch.no_grad()
    def standardise(self, shift: Float[Tensor, " coord"], scale: Float[Tensor, " coord"]) -> None:
        """Set the units of the data: y = shift + scale * standardised y. Raises on scale <= 0 and on discrete heads."""
        if not self.real_valued:
            raise TypeError(f"{type(self).__name__} observations have no units to standardise")
        for name, value in (("shift", shift), ("scale", scale)):
            if value.shape != self.shift.shape or not bool(value.isfinite().all()):
                raise ValueError(f"{name} must be finite, {tuple(self.shift.shape)}; got {value.tolist()}")
        if not bool((scale > 0).all()):
            raise ValueError(f"scale must be positive, got {scale.tolist()}")
        self.shift.copy_(shift)
        self.scale.copy_(scale)

    @torch.no_grad()
    def start_from(self, values: Tensor, observed: Tensor | None = None, seed: int = 0) -> None:
        """Set the bias so that the head says the marginal of `values` (*batch, D) when its weights are zero.

        A head that is not `real_valued` but has units (counts, mixed columns) takes them from the values too. Mixtures
        start from clusters that depend on `seed`.
        """
        values = values.to(torch.float64).reshape(-1, values.shape[-1])
        seen = ~values.isnan() if observed is None else observed.reshape(values.shape)
        if not bool(seen.any()):
            return
        values = torch.where(seen, values, 0.0)
        if not self.real_valued:
            shift, scale = self._own_units(values, seen)
            self.shift.copy_(shift)
            self.scale.copy_(scale)
        self.bias.copy_(self._marginal_bias(values, seen, self.units, seed))

    def fill(self, output: Tensor, encoded: Tensor, observed: Tensor | None = None) -> Tensor:
        """The next input: `encoded` y (*batch, width) where observed (*batch, D), `expected_input` elsewhere."""
        if observed is None or bool(observed.all()):
            return encoded
        return torch.where(self._read(observed), encoded, self.expected_input(output))

    # ---- the head as a function of activities

    @property
    def units(self) -> Units:
        """y = shift + scale * standardised y, (D,) each."""
        return Units(self.shift, self.scale)

    @property
    def input_width(self) -> int:
        """The number of inputs that one encoded observation takes."""
        return self._input_width(self.shift.shape[0])

    def encode(self, y: Float[Tensor, "*batch coord"]) -> Float[Tensor, "*batch width"]:
        """What the network reads for an observation, in its precision; NaN stays NaN or becomes zeros."""
        return self._encode(y, self.units).to(self.weights.dtype)

    def expected_input(self, output: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch width"]:
        """The expectation of `encode(y)` under `distribution(output)`."""
        return self._expect(self._outputs(output), len(self.shift))

    def distribution(self, output: Float[Tensor, "*batch hidden"]) -> Distribution:
        """p(y_t | h_t) in the units of the data, float64; batch shape (*batch,), event shape (D,)."""
        return self._say(self._outputs(output).to(torch.float64), self.units)

    def log_prob(self, output: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log-density of the observed coordinates of y (*batch, D), float64; `output` is (*batch, H).

        Satisfies, all observed, log_prob(h, y) == distribution(h).log_prob(y). Batch shapes broadcast.
        """
        return self._log_density(self._outputs(output).to(torch.float64), y, observed, self.units)

    def _outputs(self, hidden: Tensor) -> Tensor:
        """V h + c, (*batch, n_outputs), in the network's precision."""
        if self.obs_dim is None:
            raise RuntimeError(f"this {type(self).__name__} head is not bound: call bind(hidden_size, obs_dim)")
        return F.linear(hidden, self.weights, self.bias)

    # ---- what a family of heads says

    @property
    @abc.abstractmethod
    def support(self) -> str:
        """What an observation may be, in words."""

    @abc.abstractmethod
    def invalid(self, values: Tensor) -> Bool[Tensor, "*batch coord"]:
        """Entries outside the support; NaN is outside, so mask with `observed`."""

    @abc.abstractmethod
    def _n_outputs(self, dim: int) -> int:
        """The number of outputs for D coordinates. Raises ValueError where the family cannot have so many."""

    @abc.abstractmethod
    def _say(self, raw: Tensor, units: Units) -> Distribution:
        """The distribution of outputs (*batch, n_outputs)."""

    @abc.abstractmethod
    def _log_density(self, raw: Tensor, y: Tensor, observed: Tensor | None, units: Units) -> Tensor:
        """The log-density of the observed coordinates, (*batch,)."""

    @abc.abstractmethod
    def _expect(self, raw: Tensor, dim: int) -> Tensor:
        """The expectation of an encoded observation, (*batch, width)."""

    @abc.abstractmethod
    def _neutral_bias(self, dim: int) -> Tensor:
        """Outputs that say the neutral thing, (n_outputs,) float64."""

    @abc.abstractmethod
    def _marginal_bias(self, values: Tensor, seen: Tensor, units: Units, seed: int) -> Tensor:
        """Outputs that say the marginal of rows (N, D), zero where unseen; (n_outputs,) float64."""

    def _encode(self, y: Tensor, units: Units) -> Tensor:
        """What is read for an observation: standardised, which is y itself where there are no units."""
        return (y - units.shift) / units.scale

    def _input_width(self, dim: int) -> int:
        return dim

    def input_gains(self) -> Tensor:
        """1 / the root mean square of every encoded column, (width,): what weights that read it should start with.

        Standardised numbers have 1; of M symbols, about equally often, only one column is 1 at a time.
        """
        return self._input_gains(len(self.shift))

    def _input_gains(self, dim: int) -> Tensor:
        return torch.ones(self._input_width(dim), dtype=torch.float64)

    def _read(self, observed: Tensor) -> Tensor:
        """Which entries of an encoded observation are known; broadcasts against (*batch, width)."""
        return observed

    def _own_units(self, values: Tensor, seen: Tensor) -> Units:
        """The units that a head without `standardise` takes from its data."""
        return Units(torch.zeros_like(values[0]), torch.ones_like(values[0]))


class Units(NamedTuple):
    """y = shift + scale * standardised y, (D,) each, float64."""

    shift: Tensor
    scale: Tensor


def argument_checks(parameters: Tensor) -> bool | None:
    """torch's default (None), but False for an empty batch, which its checks of parameters and values refuse."""
    return None if parameters.numel() else False


def seen_sum(log_density: Tensor, observed: Tensor | None) -> Tensor:
    """The sum over the observed coordinates; the others add exactly 0 and get exactly 0 gradient."""
    if observed is not None:
        log_density = torch.where(observed, log_density, 0.0)
    return log_density.sum(-1)
