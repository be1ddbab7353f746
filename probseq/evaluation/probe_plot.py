"""The geometry of beliefs: where the exact ones lie, and where a map from the network's state puts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probseq import plot_style as style
from probseq.plot_style import INK, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from probseq.evaluation.probes import BeliefProbe

#: the corners of the triangle that stands for the simplex of three states
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
#: beyond it points hide each other
MOST_POINTS = 8000


def plot_geometry(
    probe: BeliefProbe, axes: Axes | None = None, *, source: str = "student", map_name: str = "ridge"
) -> Axes:
    """For three probabilities two simplices, the exact beliefs left and the mapped ones right, each in its own colour.

    In every other case the mapped coordinates against the exact ones. Returns the Axes.
    """
    if (source, map_name) not in probe.mapped:
        raise ValueError(f"source and map must be among {sorted(probe.mapped)}, got {(source, map_name)}")
    exact, mapped = probe.exact[:MOST_POINTS], probe.mapped[source, map_name][:MOST_POINTS]
    axes = style.axes_or_new(axes)
    if exact.shape[1] == 3 and bool(np.allclose(exact.sum(1), 1.0)):
        _simplices(axes, exact, mapped, source)
    else:
        _scatter(axes, exact, mapped, source)
    return axes


def _simplices(axes: Axes, exact: NDArray[Any], mapped: NDArray[Any], source: str) -> None:
    colours = np.clip(exact, 0.0, 1.0)
    for shift, points, title in ((0.0, exact, "exact filter"), (1.25, mapped, f"map from: {source}")):
        corners = CORNERS + np.array([shift, 0.0])
        axes.plot(*corners[[0, 1, 2, 0]].T, color=INK, linewidth=0.8)
        axes.scatter(*(points @ corners).T, c=colours, s=1.5, linewidths=0, rasterized=True)
        axes.text(shift + 0.5, -0.08, title, ha="center", va="top", color=INK)
    axes.set_aspect("equal")
    axes.axis("off")


def _scatter(axes: Axes, exact: NDArray[Any], mapped: NDArray[Any], source: str) -> None:
    for column in range(exact.shape[1]):
        colour = PALETTE[column % len(PALETTE)]
        axes.plot(exact[:, column], mapped[:, column], ".", color=colour, markersize=2, alpha=0.5, rasterized=True)
    low, high = float(exact.min()), float(exact.max())
    axes.plot([low, high], [low, high], color=INK, linewidth=0.8)
    axes.set_xlabel("exact belief")
    axes.set_ylabel(f"map from: {source}")
