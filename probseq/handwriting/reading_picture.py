"""Four rows that show how a network reads a line (Graves & Schmidhuber's demonstration, in Hinton's lecture 7e).

| row | shows                                                                                                       |
|-----|-------------------------------------------------------------------------------------------------------------|
| 1   | the characters as they are recognised: p_t of each, named where it leads                                    |
| 2   | the memory cells after every point                                                                          |
| 3   | the way of the pen; the point in question as a dot, shaded by how much the answer there depends on each      |
| 4   | d log p(the strongest character at that point) / d (x, y) of every point                                    |
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from probseq.handwriting.pictures import upside_down
from probseq.handwriting.reader import Reader
from probseq.handwriting.strokes import Strokes
from probseq.plot_style import INK, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: the share of p_t from which a character is named
NAMED = 0.3


def plot_reading(
    reader: Reader, line: Strokes, step: int | None = None, axes: Any = None, *, character: str | None = None
) -> list[Axes]:
    """Draw the four rows on four Axes, or on new ones, and return them.

    `step` is the point whose answer is traced back; unless given, where the letter in the middle of the text that is
    read stands. ValueError for a step that is not on the line, or other than four Axes.
    """
    table = np.exp(reader.log_probs(line))
    if step is None:
        step = _middle(table, reader.alphabet)
    if not 0 <= step < len(line):
        raise ValueError(f"step must be a point 0 .. {len(line) - 1} of the line, got {step}")
    rows = _four(axes)
    _recognised(rows[0], table, reader.alphabet, step)
    _memory(rows[1], reader.memory(line))
    found = reader.sensitivity(line, step, character)
    _trace(rows[2], line, np.hypot(*found.T), step)
    for values, name, color in zip(found.T, "xy", PALETTE, strict=False):
        rows[3].plot(values, color=color, linewidth=1.0, label=f"in {name}")
    rows[3].axvline(step, color=INK, linewidth=0.6, linestyle=":")
    said = character or reader.alphabet[int(table[step, 1:].argmax())]
    rows[3].set(xlabel="point", ylabel=f'gradient of "{said}"')
    rows[3].legend(frameon=False, fontsize="small")
    for row in (rows[0], rows[1], rows[3]):
        row.set_xlim(-0.5, len(line) - 0.5)
    return rows


def _four(axes: Any) -> list[Axes]:
    if axes is None:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(4, 1, figsize=(9, 8), layout="constrained")
    rows = list(np.ravel(axes))
    if len(rows) != 4:
        raise ValueError(f"axes must be four, got {len(rows)}")
    return rows


def _middle(table: np.ndarray, alphabet: str) -> int:
    """The surest point of the letter in the middle of the best path; of the line where nothing is read."""
    best = table.argmax(1)
    letters = (best > 0) & (best != 1 + alphabet.find(" "))
    begins = np.flatnonzero(letters & (best != np.r_[0, best[:-1]]))
    if not len(begins):
        return len(table) // 2
    begin = begins[len(begins) // 2]
    length = next((k for k, label in enumerate(best[begin:]) if label != best[begin]), len(best) - begin)
    return int(begin + table[begin : begin + length, best[begin]].argmax())


def _recognised(axes: Axes, table: np.ndarray, alphabet: str, step: int) -> None:
    axes.plot(table[:, 0], color="0.75", linewidth=0.8, linestyle="--")
    leads = table[:, 1:].argmax(1)
    for k in np.unique(leads[table[:, 1:].max(1) > NAMED]):
        axes.plot(table[:, 1 + k], color=PALETTE[int(k) % len(PALETTE)], linewidth=1.0)
    best = table.argmax(1)
    ends = np.r_[np.flatnonzero(np.diff(best)) + 1, len(best)]
    for begin, end in pairwise(np.r_[0, ends]):
        if best[begin] > 0:
            peak = begin + int(table[begin:end, best[begin]].argmax())
            shown = alphabet[best[begin] - 1].replace(" ", "\u2423")
            axes.annotate(shown, (peak, table[peak, best[begin]]), ha="center", va="bottom", fontsize="small")
    axes.axvline(step, color=INK, linewidth=0.6, linestyle=":")
    axes.set(ylim=(0, 1.25), ylabel="p(character)")


def _memory(axes: Axes, states: np.ndarray) -> None:
    largest = np.abs(states).max(0, keepdims=True)
    scaled = np.divide(states, largest, out=np.zeros_like(states), where=largest > 0)
    axes.imshow(scaled.T, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.set(ylabel="cells", yticks=[])


def _trace(axes: Axes, line: Strokes, weight: np.ndarray, step: int) -> None:
    for trace in line.traces:
        axes.plot(*trace.T, color="0.7", linewidth=1.0)
    share = weight / weight.max() if weight.max() > 0 else weight
    axes.scatter(*line.points.T, c=share, cmap="Reds", s=4 + 30 * share, vmin=0, vmax=1, zorder=2)
    axes.plot(*line.points[step], "o", color=PALETTE[0], markersize=6, markerfacecolor="none", zorder=3)
    upside_down(axes)
