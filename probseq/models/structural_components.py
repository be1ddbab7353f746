"""The smoothed parts of a structural time series, with names, bands and the index of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probseq.beliefs import Gaussian
from probseq.checks import share
from probseq.models.structural_layout import Layout

#: a diffuse variance below this, relative to that of the state, is rounding error
RESOLVED = 1e-10


class Parts(NamedTuple):
    """Means and standard deviations of all parts given y, (*batch, time, parts)."""

    mean: Tensor
    std: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (1, 1)


class Component:
    """One part given all of y: a normal distribution for every step, `mean` and `std` (*batch, time).

    Where y does not determine it, `mean` is NaN and `std` infinite.
    """

    def __init__(self, name: str, mean: Tensor, std: Tensor, index: Any = None) -> None:
        self.name, self.mean, self.std, self.index = name, mean, std, index

    def __repr__(self) -> str:
        return f"Component({self.name!r}, shape={tuple(self.mean.shape)})"

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """The central interval of probability `level` at every step, (*batch, time) each."""
        share("level", level)
        reach = torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=self.mean.dtype)) * self.std
        return self.mean - reach, self.mean + reach

    def to_frame(self, level: float = 0.9) -> Any:
        """A pandas table of one sequence on the index of the data: mean and interval."""
        import pandas as pd

        if self.mean.ndim != 1:
            raise ValueError(f"a table shows one sequence; the component has batch shape {tuple(self.mean.shape[:-1])}")
        percent = f"{100 * level:g}"
        columns = dict(
            zip(("mean", f"lower_{percent}", f"upper_{percent}"), (self.mean, *self.interval(level)), strict=True)
        )
        return pd.DataFrame({name: values.numpy() for name, values in columns.items()}, index=self.index)


class Components(Mapping[str, Component]):
    """The parts of a series by name, as attributes too: `components.level.mean`, `components["level"].interval(0.9)`.

    The additive parts, `additive`, sum to `signal`, the observation without its noise. Where there is a trend, the
    slope of the level per step, it is not among them: the level contains it.
    """

    def __init__(self, names: list[str], parts: Parts, index: Any = None) -> None:
        columns = zip(names, parts.mean.unbind(-1), parts.std.unbind(-1), strict=True)
        self._parts = {name: Component(name, mean, std, index) for name, mean, std in columns}
        self.index = index

    @property
    def additive(self) -> list[str]:
        """Names of the parts that sum to the signal."""
        return [name for name in self._parts if name not in ("signal", "trend")]

    def __getitem__(self, name: str) -> Component:
        if name not in self._parts:
            raise KeyError(f"no part {name!r}; there are {', '.join(self._parts)}")
        return self._parts[name]

    def __getattr__(self, name: str) -> Component:
        if name.startswith("_") or name not in self._parts:
            raise AttributeError(f"no part {name!r}; there are {', '.join(self.__dict__.get('_parts', {}))}")
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"Components({', '.join(self._parts)})"

    def to_frame(self) -> Any:
        """A pandas table of one sequence: the means of all parts, a column each."""
        import pandas as pd

        return pd.DataFrame({name: part.to_frame()["mean"] for name, part in self.items()}, index=self.index)


def smoothed_parts(
    layout: Layout, belief: Gaussian, u: Tensor | None, unit: Tensor, origin: Tensor
) -> tuple[list[str], Parts]:
    """Names and moments of the additive parts, of their sum, and of the trend if there is one; flat batch (B, T).

    `unit` is that of the state and `origin` its zero, both in the data's unit.
    """
    rows = layout.rows.expand(*belief.mean.shape[:2], -1, -1)
    if u is not None:
        rows = rows.clone()
        rows[:, :, -1, layout.spans["regression"]] = u
    names = [*layout.additive, "signal"]
    shown = [rows, rows.sum(-2, keepdim=True)]
    if "trend" in layout.spans:
        names.append("trend")
        slope = torch.eye(layout.state_dim, dtype=rows.dtype)[layout.spans["trend"]]
        shown.append(slope.expand(*rows.shape[:2], -1, -1))
    rows = unit * torch.cat(shown, -2)
    mean = (rows @ belief.mean.unsqueeze(-1)).squeeze(-1)
    std = ((rows @ belief.cov) * rows).sum(-1).clamp(min=0).sqrt()
    if belief.diffuse_cov is not None:
        left = ((rows @ belief.diffuse_cov) * rows).sum(-1)
        most = belief.diffuse_cov.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) * rows.square().sum(-1)
        unknown = left > RESOLVED * most
        mean, std = torch.where(unknown, torch.nan, mean), torch.where(unknown, torch.inf, std)
    for name in {"level", "signal"} & set(names):
        mean[..., names.index(name)] += origin
    return names, Parts(mean, std)
