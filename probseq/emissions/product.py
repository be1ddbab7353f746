"""Mixed columns: emissions side by side, independent given the state.

    log p(y_t | z_t = k) = sum_i log p_i(columns of part i | z_t = k)

`Product(Gaussian(2), Categorical(3))` reads columns 0 and 1 as real numbers and column 2 as a symbol;
`Product(place=Gaussian(2), kind=Categorical(3))` also names the parts, as in `fixed={"emission.place.means"}`.
Every part marginalises and learns on its own, given the shared posterior over states: the M-step of the whole is
the M-steps of the parts. The data-driven start gives all parts the same clusters of the standardised columns. Parts
driven by inputs read the same ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import constraints

from probseq.emissions.base import Emission, Says, cluster, shared_inputs
from probseq.emissions.conditional import Conditional

#: how much of a start's clusters the parts are told; the rest is spread over all states
SHARPNESS = 0.9


class Product(Conditional):
    """Several emissions, each for its own columns, in order; positional parts are called part_0, part_1, ..."""

    def __init__(self, *emissions: Emission, **named: Emission) -> None:
        parts = {**{f"part_{i}": part for i, part in enumerate(emissions)}, **named}
        if len(parts) < len(emissions) + len(named):
            raise ValueError(f"the parts of a Product need names of their own, got {sorted(named)}")
        if not parts:
            raise ValueError("a Product needs at least one emission, got none")
        for name, part in parts.items():
            if not isinstance(part, Emission):
                raise ValueError(f"{name} must be an emission such as probseq.emissions.Gaussian(1), got {part!r}")
            if isinstance(part, Conditional) and part.order:
                raise ValueError(f"{name} reads the rows before, which a Product does not keep; use it alone")
        if len({id(part) for part in parts.values()}) < len(parts):
            raise ValueError("the parts of a Product must be different objects, got one twice")
        states = {name: part.n_states for name, part in parts.items() if part.n_states}
        if len(set(states.values())) > 1:
            raise ValueError(f"the number of states must be the same in all parts, got {states}")
        super().__init__(sum(part.event_shape[0] for part in parts.values()), None, {})
        for name, part in parts.items():
            if hasattr(self, name):
                raise ValueError(f"{name!r} cannot be the name of a part: a Product has an attribute of that name")
            self.add_module(name, part)
        self.names = tuple(parts)
        for part in parts.values():
            self.input_dim = shared_inputs(self.input_dim, part)
        self.real_valued = all(part.real_valued for part in parts.values())
        self.common_scale = any(part.common_scale for part in parts.values())
        if states:
            self.bind(next(iter(states.values())))

    def bind(self, n_states: int) -> None:
        super().bind(n_states)
        for part in self.parts:
            part.bind(n_states)

    def sizes(self) -> dict[str, Any]:
        return dict(zip(self.names, self.parts, strict=True))

    @property
    def parts(self) -> list[Emission]:
        return [self.get_submodule(name) for name in self.names]  # type: ignore[misc]

    def _given(self, x: Tensor | None) -> list[Says]:
        return [part.given(x) for part in self.parts]

    def _split(self, columns: Tensor) -> tuple[Tensor, ...]:
        return columns.split([part.event_shape[0] for part in self.parts], -1)

    def invalid(self, values: Tensor) -> tuple[Tensor, str] | None:
        found = [part.invalid(x) for part, x in zip(self.parts, self._split(values), strict=True)]
        marks, words, first = [], [], 0
        for one, x in zip(found, self._split(values), strict=True):
            marks.append(torch.zeros_like(x, dtype=torch.bool) if one is None else one[0])
            last = first + x.shape[-1] - 1
            if one is not None:
                words.append(f"{one[1]} in column{f's {first} .. {last}' if last > first else f' {first}'}")
            first = last + 1
        return (torch.cat(marks, -1), " and ".join(words)) if words else None

    def log_prob(self, values: Tensor, observed: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        seen = [None] * len(self.names) if observed is None else self._split(observed)
        tables = [part.log_prob(y, o) for part, y, o in zip(self._given(x), self._split(values), seen, strict=True)]
        return torch.stack(tables).sum(0)

    def log_prior(self) -> Tensor:
        return torch.stack([part.log_prior() for part in self.parts]).sum()

    def distribution(self, x: Tensor | None = None) -> D.Distribution:
        parts = [part.distribution() for part in self._given(x)]
        batch = torch.broadcast_shapes(*(part.batch_shape for part in parts))
        return Columns([part if part.batch_shape == batch else part.expand(batch) for part in parts])

    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        if not self.real_valued:
            super().rescale(scale, shift)
        for part, s, b in zip(self.parts, self._split(scale), self._split(shift), strict=True):
            part.rescale(s, b)

    def start(self, values: Tensor, observed: Tensor, seed: int, x: Tensor | None = None) -> None:
        count = observed.sum(0).clamp(min=1)
        mean = (values * observed).sum(0) / count
        spread = (((values - mean).square() * observed).sum(0) / count).sqrt()
        weights = cluster((values - mean) / torch.where(spread > 0, spread, 1.0), observed, self.n_states, seed)
        weights = SHARPNESS * weights + (1 - SHARPNESS) / self.n_states
        for part, y, o in zip(self._given(x), self._split(values), self._split(observed), strict=True):
            part.start(y, o, seed)
            part.maximise(y, o, weights)

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor, x: Tensor | None = None) -> None:
        for part, y, o in zip(self._given(x), self._split(values), self._split(observed), strict=True):
            part.maximise(y, o, weights)


class Columns(D.Distribution):
    """Independent distributions side by side: event shape the sum of theirs."""

    arg_constraints: Any = {}  # type: ignore[assignment]  # noqa: RUF012
    support: Any = constraints.real_vector

    def __init__(self, parts: list[D.Distribution]) -> None:
        self.parts = parts
        self.widths = [part.event_shape[0] for part in parts]
        super().__init__(parts[0].batch_shape, torch.Size([sum(self.widths)]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Columns:
        return Columns([part.expand(batch_shape) for part in self.parts])

    @property
    def mean(self) -> Tensor:
        """Side by side; NaN in a column of symbols, which have none."""
        return torch.cat([part.mean for part in self.parts], -1)

    @property
    def variance(self) -> Tensor:
        return torch.cat([part.variance for part in self.parts], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        columns = value.split(self.widths, -1)
        scores = [part.log_prob(x) for part, x in zip(self.parts, columns, strict=True)]
        return torch.stack(torch.broadcast_tensors(*scores)).sum(0)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return torch.cat([part.sample(sample_shape).to(torch.float64) for part in self.parts], -1)
