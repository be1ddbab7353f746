"""Mixed columns: heads side by side, independent given the activities.

    a_t = V h_t + c,  split among the parts;    log p(y_t | h_t) = sum_i log p_i(columns of part i | its share of a_t)

`Product([MixtureDensity(20, "full"), Bernoulli()], widths=[2, 1])` is the head of the handwriting networks: where the
pen moves next, and whether it is lifted (Graves 2013, arXiv:1308.0850, eqs. 23-25). The parts are descriptions of what
outputs mean; weights and units belong to the product.

Where all parts are real-valued, `fit` standardises the data as for any of them. Otherwise the units of real parts are
set from the data at the start: mean and spread of every column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from probseq.checks import whole_number
from probseq.emissions.head import Head, Units
from probseq.emissions.heads.state_mixture import StateMixture
from probseq.emissions.product import Columns


class Product(Head):
    """`heads` side by side; head i says `widths[i]` columns of the observation, in order."""

    def __init__(self, heads: Sequence[Any], widths: Sequence[int]) -> None:
        # heads are `Any` so that what is none is named here, and not by whoever checks types at run time
        super().__init__()
        for place, head in enumerate(heads):
            if not isinstance(head, Head) or isinstance(head, (Product, StateMixture)):
                raise TypeError(f"heads[{place}] must be a head such as probseq.heads.Bernoulli(), got {head!r}")
            if head.obs_dim is not None:
                raise ValueError(f"heads[{place}] is bound to a network of its own; give a new one")
        if not heads or len(heads) != len(widths):
            raise ValueError(f"widths must have one entry for each head, got {len(widths)} for {len(heads)} heads")
        self.heads = nn.ModuleList(heads)
        self.widths = [whole_number(f"widths[{place}]", width) for place, width in enumerate(widths)]
        self.real_valued = all(head.real_valued for head in heads)

    def sizes(self) -> dict[str, Any]:
        return {"heads": self._heads, "widths": self.widths}

    @property
    def _heads(self) -> list[Head]:
        return list(self.heads)  # type: ignore[arg-type]

    @property
    def support(self) -> str:
        return " and ".join(
            f"{head.support} in column{f's {first} .. {last}' if last > first else f' {first}'}"
            for head, first, last in self._columns()
        )

    def _columns(self) -> list[tuple[Head, int, int]]:
        """Every head with its first and last column."""
        ends = torch.tensor(self.widths).cumsum(0).tolist()
        return [(h, end - width, end - 1) for h, end, width in zip(self._heads, ends, self.widths, strict=True)]

    def _join(self, part: Callable[[Head, Tensor], Tensor], columns: Tensor) -> Tensor:
        """Answers of the parts about their columns, side by side."""
        pieces = columns.split(self.widths, -1)
        return torch.cat([part(head, piece) for head, piece in zip(self._heads, pieces, strict=True)], -1)

    def _outputs_of(self, raw: Tensor) -> tuple[Tensor, ...]:
        """Every head's share of the outputs."""
        return raw.split([h._n_outputs(width) for h, width in zip(self._heads, self.widths, strict=True)], -1)

    def _units_of(self, units: Units) -> list[Units]:
        shifts, scales = (part.split(self.widths, -1) for part in units)
        return [Units(shift, scale) for shift, scale in zip(shifts, scales, strict=True)]

    def invalid(self, values: Tensor) -> Tensor:
        return self._join(lambda head, columns: head.invalid(columns), values)

    def _n_outputs(self, dim: int) -> int:
        if dim != sum(self.widths):
            raise ValueError(f"the widths of the parts are {self.widths}, {sum(self.widths)} in all: got obs_dim {dim}")
        return sum(head._n_outputs(width) for head, width in zip(self._heads, self.widths, strict=True))

    def _input_width(self, dim: int) -> int:
        return sum(head._input_width(width) for head, width in zip(self._heads, self.widths, strict=True))

    def _input_gains(self, dim: int) -> Tensor:
        return torch.cat([head._input_gains(width) for head, width in zip(self._heads, self.widths, strict=True)])

    def _encode(self, y: Tensor, units: Units) -> Tensor:
        parts = zip(self._heads, y.split(self.widths, -1), self._units_of(units), strict=True)
        return torch.cat([head._encode(columns, unit) for head, columns, unit in parts], -1)

    def _read(self, observed: Tensor) -> Tensor:
        return self._join(lambda head, columns: head._read(columns), observed)

    def _expect(self, raw: Tensor, dim: int) -> Tensor:
        parts = zip(self._heads, self._outputs_of(raw), self.widths, strict=True)
        return torch.cat([head._expect(outputs, width) for head, outputs, width in parts], -1)

    def _say(self, raw: Tensor, units: Units) -> Distribution:
        parts = zip(self._heads, self._outputs_of(raw), self._units_of(units), strict=True)
        return Columns([head._say(outputs, unit) for head, outputs, unit in parts])

    def _log_density(self, raw: Tensor, y: Tensor, observed: Tensor | None, units: Units) -> Tensor:
        values = y.split(self.widths, -1)
        seen = [None] * len(values) if observed is None else observed.split(self.widths, -1)
        parts = zip(self._heads, self._outputs_of(raw), values, seen, self._units_of(units), strict=True)
        scores = [head._log_density(outputs, columns, mask, unit) for head, outputs, columns, mask, unit in parts]
        return torch.stack(torch.broadcast_tensors(*scores)).sum(0)

    def _neutral_bias(self, dim: int) -> Tensor:
        return torch.cat([head._neutral_bias(width) for head, width in zip(self._heads, self.widths, strict=True)])

    def _marginal_bias(self, values: Tensor, seen: Tensor, units: Units, seed: int) -> Tensor:
        columns = zip(values.split(self.widths, -1), seen.split(self.widths, -1), strict=True)
        parts = zip(self._heads, columns, self.widths, self._units_of(units), strict=True)
        return torch.cat(
            [
                head._marginal_bias(rows, mask, unit, seed) if bool(mask.any()) else head._neutral_bias(width)
                for head, (rows, mask), width, unit in parts
            ]
        )

    def _own_units(self, values: Tensor, seen: Tensor) -> Units:
        columns = zip(values.split(self.widths, -1), seen.split(self.widths, -1), strict=True)
        found = [
            moments(rows, mask) if head.real_valued else head._own_units(rows, mask)
            for head, (rows, mask) in zip(self._heads, columns, strict=True)
        ]
        return Units(torch.cat([unit.shift for unit in found]), torch.cat([unit.scale for unit in found]))


def moments(values: Tensor, seen: Tensor) -> Units:
    """Mean and spread of every column of rows (N, D), zero where unseen; a constant column has its own size."""
    count = seen.sum(0).clamp(min=1)
    mean = values.sum(0) / count
    away = torch.where(seen, values - mean, 0.0)
    largest = away.abs().amax(0)
    flat = largest <= 1e-14 * mean.abs()
    unit = torch.where(flat, 1.0, largest)
    spread = unit * ((away / unit).square().sum(0) / count).sqrt()
    return Units(mean, torch.where(flat, torch.where(mean != 0, mean.abs(), 1.0), spread))
