"""Which states the parts of a structural time series have, how they move and which of them are seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from probseq.checks import whole_number

Waves = list[tuple[float, int]]


class Layout:
    """The states of the parts one after another; `fourier` holds pairs of a period and its number of waves."""

    def __init__(
        self, level: bool, trend: bool, seasonal: int, fourier: Waves, cycle: bool, ar: int, regressors: int
    ) -> None:
        self.fourier = fourier
        self.widths = [n_states(period, harmonics) for period, harmonics in fourier]
        widths = {
            "level": int(level),
            "trend": int(trend),
            "seasonal": max(seasonal - 1, 0),
            "fourier": sum(self.widths),
            "cycle": 2 * cycle,
            "autoregression": ar,
            "regression": regressors,
        }
        #: where the states of every part stand
        self.spans: dict[str, slice] = {}
        begin = 0
        for name, width in widths.items():
            if width:
                self.spans[name] = slice(begin, begin := begin + width)
        self.state_dim = begin

    @property
    def additive(self) -> list[str]:
        """The parts that are seen: all but the trend, which the level contains."""
        return [name for name in self.spans if name != "trend"]

    @property
    def state_names(self) -> list[str]:
        names: list[str] = []
        for part, span in self.spans.items():
            lone = part in ("level", "trend")
            names += [part] if lone else [f"{part}[{i}]" for i in range(span.stop - span.start)]
        return names

    @cached_property
    def proper(self) -> Tensor:
        """Which states start in a stationary law, (n,); the others start diffuse."""
        marks = torch.zeros(self.state_dim, dtype=torch.bool)
        for name in {"cycle", "autoregression"} & set(self.spans):
            marks[self.spans[name]] = True
        return marks

    @cached_property
    def diffuse(self) -> Tensor | None:
        """Unit vectors of the diffuse states, (n, d), or None."""
        eye = torch.eye(self.state_dim, dtype=torch.float64)
        return None if bool(self.proper.all()) else eye[:, ~self.proper]

    @cached_property
    def matrix(self) -> Tensor:
        """The transition matrix, zero where it depends on parameters, (n, n)."""
        matrix = torch.zeros(self.state_dim, self.state_dim, dtype=torch.float64)
        spans = self.spans
        for name in {"level", "trend", "regression"} & set(spans):
            matrix[spans[name], spans[name]] = torch.eye(spans[name].stop - spans[name].start, dtype=matrix.dtype)
        if "trend" in spans:
            matrix[spans["level"], spans["trend"]] = 1.0
        if "seasonal" in spans:
            matrix[spans["seasonal"].start, spans["seasonal"]] = -1.0
        for name in {"seasonal", "autoregression"} & set(spans):
            first, last = spans[name].start, spans[name].stop
            matrix[first + 1 : last, first : last - 1] = torch.eye(last - first - 1, dtype=matrix.dtype)
        if "fourier" in spans:
            matrix[spans["fourier"], spans["fourier"]] = torch.block_diag(*_waves(self.fourier))
        return matrix

    @cached_property
    def rows(self) -> Tensor:
        """The states that every additive part shows, (parts, n); those of a regression are shown through u."""
        rows = torch.zeros(len(self.additive), self.state_dim, dtype=torch.float64)
        for row, name in zip(rows, self.additive, strict=True):
            if name == "fourier":
                begin = self.spans[name].start
                for width in self.widths:
                    row[begin : begin + width : 2] = 1.0
                    begin += width
            elif name != "regression":
                row[self.spans[name].start] = 1.0
        return rows


def waves_of(fourier: Any) -> Waves:
    """Pairs of a period and its number of waves, from all the ways to say so."""
    if fourier is None:
        return []
    pairs: Any = [(fourier, None)]
    if isinstance(fourier, Mapping):
        pairs = fourier.items()
    elif isinstance(fourier, Sequence):
        pairs = [(one, None) if isinstance(one, (int, float)) else one for one in fourier]
    found: Waves = []
    for period, harmonics in pairs:
        if not (math.isfinite(period) and period >= 2):
            raise ValueError(f"fourier must have periods of 2 steps or more, got {period!r}")
        most = math.floor(period / 2)
        count = most if harmonics is None else whole_number("fourier", harmonics)
        if count > most:
            raise ValueError(f"fourier can have at most {most} waves in a period of {period!r} steps, got {count}")
        found.append((period, count))
    return found


def n_states(period: float, harmonics: int) -> int:
    """Of the first waves of a period; the one that takes 2 steps needs no second state."""
    return 2 * harmonics - (2 * harmonics == period)


def turn(angle: Tensor) -> Tensor:
    """The rotation by an angle, (2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])


def _waves(fourier: Waves) -> list[Tensor]:
    """A rotation for every wave; that of two steps only changes its sign."""
    found: list[Tensor] = []
    for period, harmonics in fourier:
        for wave in range(1, harmonics + 1):
            angle = torch.tensor(2 * math.pi * wave / period, dtype=torch.float64)
            found.append(-torch.ones(1, 1, dtype=torch.float64) if 2 * wave == period else turn(angle))
    return found
