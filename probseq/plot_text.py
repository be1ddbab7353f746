"""A text whose characters are coloured by numbers: what a unit of a network does while it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probseq import plot_style as style
from probseq.plot_style import ACTIVITY_MAP, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def text_activity(
    text: str, values: Any, axes: Axes | None = None, *, width: int = 64, fontsize: float = 7.0, colorbar: bool = True
) -> Axes:
    """The characters of a text on cells coloured by `values` (T,), symmetric about zero; lines break as in the text.

    Lines longer than `width` are folded. A line break is drawn as a cell of its own. Raises ValueError where there is
    not one value for each character.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (len(text),) or not text:
        raise ValueError(f"values must have one number for each of {len(text)} characters, got shape {numbers.shape}")
    places = _places(text, width)
    n_lines = max(row for row, _ in places) + 1
    table = np.full((n_lines, width + 1), np.nan)
    for (row, column), value in zip(places, numbers, strict=True):
        table[row, column] = value
    axes = style.axes_or_new(axes)
    largest = float(np.abs(numbers).max()) or 1.0
    image = axes.pcolormesh(
        np.arange(width + 2) - 0.5,
        np.arange(n_lines + 1) - 0.5,
        np.ma.masked_invalid(table),
        cmap=ACTIVITY_MAP,
        vmin=-largest,
        vmax=largest,
        rasterized=True,
    )
    for (row, column), character in zip(places, text, strict=True):
        shown = "\u21b5" if character == "\n" else character
        if not shown.isspace():
            dark = abs(table[row, column]) > 0.55 * largest
            color = "white" if dark else INK
            axes.text(column, row, shown, family="monospace", fontsize=fontsize, color=color, ha="center", va="center")
    axes.set(xlim=(-0.5, width + 0.5), ylim=(n_lines - 0.5, -0.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if colorbar:
        style.colorbar(axes, image, "activity")
    return axes


def _places(text: str, width: int) -> list[tuple[int, int]]:
    """Row and column of every character."""
    row, column = 0, 0
    places: list[tuple[int, int]] = []
    for character in text:
        if column == width and character != "\n":
            row, column = row + 1, 0
        places.append((row, column))
        row, column = (row + 1, 0) if character == "\n" else (row, column + 1)
    return places
