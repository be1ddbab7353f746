"""What a pen does: a line of handwriting as offsets and lifts, and the units in which densities of it are stated.

    for t in range(T):
        p_t = p_{t-1} + offsets[t]              # p_{-1} is the origin; y grows downwards, as on a screen
        if lifts[t]: the pen leaves the paper   # the next offset is drawn by nothing

| field       | shape   | meaning                                                                                      |
|-------------|---------|----------------------------------------------------------------------------------------------|
| offsets     | (T, 2)  | (dx, dy)                                                                                     |
| lifts       | (T,)    | True at the last point of a stroke                                                           |
| text        |         | what is written, if known                                                                    |
| characters  | (T,)    | the place in `text` of the character that a point belongs to, if known                       |
| units       |         | `Units` in which the offsets are given, None for the recording's own                         |

A log-density depends on the unit: in `Units(shift, scale)` an offset is (offset - shift) / scale, and the log-density
of T points grows by T (log scale_x + log scale_y). Recordings on a grid of whole numbers have no density at all: a
model can put ever narrower peaks on the grid. `dequantise` spreads each over its cell, and then the mean log-density
is at most the log-probability of the whole numbers (Theis, van den Oord & Bethge 2016, ICLR, section 3.1).

Graves, A. (2013). Generating sequences with recurrent neural networks. arXiv:1308.0850, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Units(NamedTuple):
    """An offset in these units is (offset - shift) / scale."""

    shift: tuple[float, float]
    scale: tuple[float, float]

    @classmethod
    def of(cls, lines: Iterable[Strokes]) -> Units:
        """Mean and standard deviation of all offsets, Graves's normalisation. ValueError where a scale is zero."""
        offsets = np.concatenate([line.offsets for line in lines])
        shift, scale = offsets.mean(0), offsets.std(0)
        if not (scale > 0).all():
            raise ValueError(f"lines must have offsets that differ in both directions, standard deviations are {scale}")
        return cls((float(shift[0]), float(shift[1])), (float(scale[0]), float(scale[1])))

    def log_density(self, value: float, n_points: int = 1) -> float:
        """A log-density of `n_points` points in these units, in the recording's own unit."""
        return value - n_points * (math.log(self.scale[0]) + math.log(self.scale[1]))


@dataclass(frozen=True)
class Strokes:
    """A line of handwriting; see the module's table. Raises ValueError naming what does not fit."""

    offsets: Array
    lifts: NDArray[np.bool_]
    text: str | None = None
    characters: NDArray[np.int64] | None = None
    units: Units | None = None

    def __post_init__(self) -> None:
        offsets, lifts = np.asarray(self.offsets, np.float64), np.asarray(self.lifts)
        if offsets.ndim != 2 or offsets.shape[1] != 2:
            raise ValueError(f"offsets must be (n_points, 2), got shape {offsets.shape}")
        if not np.isfinite(offsets).all():
            bad = int(np.flatnonzero(~np.isfinite(offsets).all(1))[0])
            raise ValueError(f"offsets must be finite, point {bad} is {offsets[bad].tolist()}")
        if lifts.shape != (len(offsets),) or not np.isin(lifts, (0, 1)).all():
            raise ValueError(f"lifts must be {len(offsets)} zeros and ones, got shape {lifts.shape}")
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "lifts", lifts.astype(bool))
        if self.characters is not None:
            characters = np.asarray(self.characters)
            if self.text is None or characters.shape != lifts.shape:
                wanted = f"characters must be {len(offsets)} places in text"
                raise ValueError(f"{wanted}, got shape {characters.shape} and text {self.text!r}")
            if not np.isin(characters, range(len(self.text))).all():
                raise ValueError(f"characters must be places 0 .. {len(self.text) - 1} in text")
            object.__setattr__(self, "characters", characters.astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets)

    # ---- ways in and out

    @classmethod
    def from_traces(
        cls, traces: Sequence[Any], text: str | None = None, characters: Sequence[int] | None = None
    ) -> Self:
        """From the points (n, 2) of every stroke; the first point becomes the origin. `characters`: of each stroke."""
        arrays = [np.asarray(trace, np.float64).reshape(-1, 2) for trace in traces]
        used = [k for k, trace in enumerate(arrays) if len(trace)]
        if not used:
            raise ValueError("traces must have at least one point")
        points = np.concatenate([arrays[k] for k in used])
        lifts = np.concatenate([np.arange(1, len(arrays[k]) + 1) == len(arrays[k]) for k in used])
        places = None
        if characters is not None:
            if len(characters) != len(arrays):
                raise ValueError(f"characters must be one for each of {len(arrays)} traces, got {len(characters)}")
            places = np.concatenate([np.full(len(arrays[k]), characters[k]) for k in used])
        return cls(np.diff(points, axis=0, prepend=points[:1]), lifts, text, places)

    @classmethod
    def from_array(cls, rows: Any, text: str | None = None, units: Units | None = None) -> Self:
        """From rows (dx, dy, lifted), the form of sketch-rnn ("stroke-3") and of the networks here."""
        values = np.asarray(rows, np.float64)
        if values.ndim != 2 or values.shape[1] != 3:
            raise ValueError(f"rows must be (n_points, 3): dx, dy, lifted; got shape {values.shape}")
        return cls(values[:, :2], cast(Any, values[:, 2]), text, units=units)

    def to_array(self) -> Array:
        """Rows (dx, dy, lifted)."""
        return np.column_stack([self.offsets, self.lifts.astype(np.float64)])

    @property
    def points(self) -> Array:
        """Where the pen is after each offset, (T, 2)."""
        return self.offsets.cumsum(0)

    @property
    def traces(self) -> list[Array]:
        """The points of every stroke. Satisfies from_traces(line.traces) == line where the first offset is zero."""
        ends = np.flatnonzero(self.lifts) + 1
        return [part for part in np.split(self.points, ends) if len(part)]

    # ---- changes

    def dequantise(self, seed: int | None = None, width: float = 1.0) -> Self:
        """Offsets on a grid of this `width`, each moved to a place in its cell drawn uniformly."""
        draws = np.random.default_rng(seed)
        return replace(self, offsets=self.offsets + width * (draws.random(self.offsets.shape) - 0.5))

    def normalise(self, units: Units) -> Self:
        """The same line in `units`. ValueError where it has some already."""
        if self.units is not None:
            raise ValueError(f"the line is in {self.units} already: call `restore` first")
        return replace(self, offsets=(self.offsets - units.shift) / units.scale, units=units)

    def restore(self) -> Self:
        """The same line in the recording's own unit. Satisfies line.normalise(units).restore() == line."""
        if self.units is None:
            return self
        return replace(self, offsets=self.offsets * self.units.scale + self.units.shift, units=None)

    def resample(self, spacing: float) -> Self:
        """Points at equal distances along every stroke, its ends kept; what is known of characters comes along."""
        if not spacing > 0:
            raise ValueError(f"spacing must be positive, got {spacing!r}")
        traces, places = self.traces, None if self.characters is None else np.split(self.characters, self._ends)
        kept: list[Array] = []
        owners: list[NDArray[np.int64]] = []
        for k, trace in enumerate(traces):
            along = np.hypot(*np.diff(trace, axis=0, prepend=trace[:1]).T).cumsum()
            wanted = np.linspace(0, along[-1], max(2, math.ceil(along[-1] / spacing) + 1) if along[-1] > 0 else 1)
            kept.append(np.column_stack([np.interp(wanted, along, column) for column in trace.T]))
            if places is not None:
                owners.append(places[k][np.searchsorted(along, wanted).clip(max=len(trace) - 1)])
        points = np.concatenate(kept)
        lifts = np.concatenate([np.arange(1, len(trace) + 1) == len(trace) for trace in kept])
        if len(lifts) and not self.lifts[-1]:
            lifts[-1] = False
        offsets = np.diff(points, axis=0, prepend=np.zeros((1, 2)))
        return replace(self, offsets=offsets, lifts=lifts, characters=np.concatenate(owners) if owners else None)

    @property
    def _ends(self) -> NDArray[np.int64]:
        ends = np.flatnonzero(self.lifts) + 1
        return ends[ends < len(self)]

    # ---- pictures

    def to_svg(self, width: float = 2.0, margin: float = 10.0, color: str = "#1a1a2e") -> str:
        """A picture as SVG text, one path; the line's own unit is a pixel."""
        if not len(self):
            return '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'
        low, high = self.points.min(0) - margin, self.points.max(0) + margin
        dots = [np.repeat(trace, 2, 0) if len(trace) == 1 else trace for trace in self.traces]  # M alone draws nothing
        path = " ".join("M" + " L".join(f"{x:.2f},{y:.2f}" for x, y in trace) for trace in dots)
        box = f"{low[0]:.2f} {low[1]:.2f} {high[0] - low[0]:.2f} {high[1] - low[1]:.2f}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}"><path d="{path}" fill="none" stroke="{color}" '
            f'stroke-width="{width}" stroke-linecap="round" stroke-linejoin="round"/></svg>'
        )
