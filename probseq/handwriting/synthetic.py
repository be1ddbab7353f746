"""Handwriting without end whose text and alignment are known: a writer draws the letters of a stroke font.

    for character in text:
        vertices of its glyph, moved a little      # no two letters of a writer are the same
        through the writer's affine map            # size, width, slant; the baseline drifts and turns
        for each stroke, between the corners at which the pen stops:
            a smooth curve through the vertices, travelled with least jerk

A hand moves from rest to rest along s(tau) = 10 tau^3 - 15 tau^4 + 6 tau^5 of its way, slowly at both ends (Flash &
Hogan 1985, J. Neuroscience 5), and takes longer over long ways, but less than in proportion (isochrony: duration as a
power of the length; Viviani & Schneider 1991). The recording has a point at every tick.

Fonts are A. V. Hershey's of 1967, public domain, as JSON (techninja/hersheytextjs): `{"name": {"chars": [{"d": SVG path
of M and L, "o": half the advance width}, ...]}}` in the order of ASCII from "!".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from probseq.handwriting.strokes import Strokes

Array = NDArray[np.float64]

#: of the fonts that are one line thick and Latin
LATIN = ("futural", "scripts", "cursive")
#: the pen stops where a stroke turns by more than this
CORNER = np.pi / 3
#: the line that letters stand on, and the space's advance, in the fonts' unit
BASELINE, SPACE = 22.0, 14.0


class Glyph(NamedTuple):
    """The strokes of a character, each (n, 2), y downwards; how far the next one begins."""

    traces: tuple[Array, ...]
    advance: float


@dataclass(frozen=True)
class Font:
    """A stroke font."""

    name: str
    glyphs: Mapping[str, Glyph]

    @classmethod
    def load(cls, name: str = "futural", path: str | Path | None = None) -> Font:
        """From `path`, or from hersheytext.json in the folder PROBSEQ_DATA. ValueError for a name that is not there."""
        if path is None:
            if "PROBSEQ_DATA" not in os.environ:
                raise FileNotFoundError(
                    "path must name hersheytext.json (techninja/hersheytextjs), or PROBSEQ_DATA its folder"
                )
            path = Path(os.environ["PROBSEQ_DATA"]) / "hersheytext.json"
        fonts = json.loads(Path(path).read_text(encoding="utf-8"))
        if name not in fonts:
            raise ValueError(f"name must be one of {', '.join(fonts)}, got {name!r}")
        glyphs = {
            chr(33 + place): Glyph(_traces(entry["d"]), 2.0 * float(entry["o"]))
            for place, entry in enumerate(fonts[name]["chars"])
        }
        return cls(name, {" ": Glyph((), SPACE), **glyphs})

    def check(self, text: str) -> None:
        """ValueError for an empty text or a character that the font does not have."""
        missing = sorted(set(text) - set(self.glyphs))
        if missing or not text.strip():
            raise ValueError(f"text must have characters of the font {self.name!r}; {missing or 'there are none'}")


def _traces(path: str) -> tuple[Array, ...]:
    parts = [np.array(re.findall(r"-?\d+(?:\.\d+)?", part), float).reshape(-1, 2) for part in path.split("M")[1:]]
    return tuple(part for part in parts if len(part))


@dataclass(frozen=True)
class Writer:
    """How somebody writes; lengths in units of the font, whose capitals are 21 high.

    `wobble` moves the vertices of every letter, `drift` its place; `tremor` is noise on every recorded point. `pace` is
    the ticks that a way of one unit takes, `isochrony` the power of the length.
    """

    size: float = 1.0
    width: float = 1.0
    slant: float = 0.0
    turn: float = 0.0
    spacing: float = 0.0
    wobble: float = 0.35
    drift: float = 0.25
    tremor: float = 0.02
    pace: float = 2.2
    isochrony: float = 0.6

    @classmethod
    def draw(cls, seed: int | None = None) -> Writer:
        """Somebody."""
        draws = np.random.default_rng(seed)
        return cls(
            size=float(np.exp(0.15 * draws.normal())),
            width=float(np.exp(0.12 * draws.normal())),
            slant=float(0.15 + 0.15 * draws.normal()),
            turn=float(0.02 * draws.normal()),
            spacing=float(1.0 * draws.normal()),
            wobble=float(draws.uniform(0.2, 0.5)),
            drift=float(draws.uniform(0.1, 0.4)),
            tremor=float(draws.uniform(0.01, 0.03)),
            pace=float(np.exp(np.log(2.2) + 0.15 * draws.normal())),
        )

    def write(self, text: str, font: Font, seed: int | None = None) -> Strokes:
        """The line, with `characters`: which character every point belongs to."""
        font.check(text)
        draws = np.random.default_rng(seed)
        traces: list[Array] = []
        owners: list[int] = []
        x = 0.0
        for place, character in enumerate(text):
            glyph = font.glyphs[character]
            shift = np.array([x, 0.0]) + self.drift * draws.normal(size=2)
            for trace in glyph.traces:
                moved = trace + self.wobble * draws.normal(size=trace.shape) + shift
                recorded = self._affine(np.concatenate(list(self._travel(moved))))
                traces.append(recorded + self.tremor * draws.normal(size=recorded.shape))
                owners.append(place)
            x += glyph.advance + self.spacing * (0.3 if character == " " else 1.0) + self.drift * draws.normal()
        return Strokes.from_traces(traces, text, owners)

    def _affine(self, points: Array) -> Array:
        x, y = points[:, 0], points[:, 1] - BASELINE
        x = self.width * (x - self.slant * y)
        cosine, sine = np.cos(self.turn), np.sin(self.turn)
        return self.size * np.column_stack([cosine * x - sine * y, sine * x + cosine * y + BASELINE])

    def _travel(self, trace: Array) -> Iterator[Array]:
        """The points at every tick, from stop to stop; a dot is one point."""
        trace = trace[np.r_[True, np.hypot(*np.diff(trace, axis=0).T) > 0]]
        if len(trace) == 1:
            yield trace
            return
        stops = [0, *_corners(trace), len(trace) - 1]
        for first, (begin, end) in enumerate(pairwise(stops)):
            curve = _smooth(trace[begin : end + 1])
            along = np.hypot(*np.diff(curve, axis=0, prepend=curve[:1]).T).cumsum()
            n_ticks = max(2, round(self.pace * along[-1] ** self.isochrony))
            tau = np.linspace(0, 1, n_ticks + 1)[0 if first == 0 else 1 :]
            way = along[-1] * tau**3 * (10 - 15 * tau + 6 * tau**2)
            yield np.column_stack([np.interp(way, along, column) for column in curve.T])


def _corners(trace: Array) -> list[int]:
    steps = np.diff(trace, axis=0)
    angles = np.arctan2(steps[:, 1], steps[:, 0])
    turns = np.abs((np.diff(angles) + np.pi) % (2 * np.pi) - np.pi)
    return [int(k) + 1 for k in np.flatnonzero(turns > CORNER)]


def _smooth(vertices: Array, n_between: int = 8) -> Array:
    """A cubic through the vertices, its parameter the square root of the chords (centripetal Catmull-Rom)."""
    if len(vertices) < 3:
        return np.linspace(vertices[0], vertices[-1], 2 * n_between + 1)
    from scipy.interpolate import CubicHermiteSpline

    knots = np.sqrt(np.hypot(*np.diff(vertices, axis=0, prepend=vertices[:1]).T)).cumsum()
    slopes = np.gradient(vertices, knots, axis=0)
    parameters = np.concatenate(
        [np.linspace(a, b, n_between, endpoint=False) for a, b in pairwise(knots)] + [knots[-1:]]
    )
    return CubicHermiteSpline(knots, vertices, slopes)(parameters)
