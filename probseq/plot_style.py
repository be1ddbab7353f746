"""How the pictures of `probseq.plot` look: colours, the time axis, and the shapes that several of them share.

Everything is drawn into matplotlib Axes that are given; nothing here knows a model. What a curve or a state means is
written where it ends, in its colour, so that no picture needs a legend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

    from probseq.forecasting import Forecast

Array = NDArray[np.float64]

#: blue, vermilion, green, purple, orange, sky, yellow
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
INK = "#333333"
#: probabilities run from white to dark, activities from purple through white to orange
PROBABILITY_MAP, ACTIVITY_MAP = "Blues", "PuOr_r"
SMALL: dict[str, Any] = {"fontsize": "small", "annotation_clip": False}
#: of small print, in points
LINE_HEIGHT = 10.5


class End(NamedTuple):
    """What to write at the last point of a curve."""

    x: float
    y: float
    text: str
    color: Any


def axes_or_new(axes: Axes | None) -> Axes:
    """The Axes given or new ones, without the spines that carry no scale."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('plots need matplotlib; install it with: pip install "probseq[plot]"') from error
    if axes is None:
        _, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def time_axis(axes: Axes, index: Any, length: int) -> Array:
    """Positions on the time axis: dates, numbers or, without an index of either, the number of the step."""
    import pandas as pd

    positions: Any = np.arange(length)
    if isinstance(index, pd.PeriodIndex):
        positions = index.to_timestamp().to_numpy()
    elif isinstance(index, pd.DatetimeIndex):
        positions = index.tz_localize(None).to_numpy()
    elif index is not None and pd.api.types.is_numeric_dtype(index):
        positions = index.to_numpy()
    name = getattr(index, "name", None)
    if name is not None or not axes.get_xlabel():
        axes.set_xlabel("step" if name is None and positions.dtype.kind != "M" else str(name or ""))
    axes.xaxis.update_units(positions)
    return np.asarray(axes.convert_xunits(positions), dtype=np.float64)


def edges(times: Array) -> Array:
    """Cell borders, half way between the steps."""
    if len(times) == 1:
        return np.array([times[0] - 0.5, times[0] + 0.5])
    middles = (times[1:] + times[:-1]) / 2
    return np.concatenate([[2 * times[0] - middles[0]], middles, [2 * times[-1] - middles[-1]]])


def whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True))


def colorbar(axes: Axes, image: QuadMesh, label: str) -> None:
    """A scale beside the Axes that takes no width from them, so that panels with one time axis stay aligned."""
    place = axes.inset_axes((1.02, 0.0, 0.02, 1.0))
    bar = axes.figure.colorbar(image, cax=place, label=label)
    bar.outline.set_visible(False)


def fan(
    axes: Axes, times: Array, forecast: Forecast, levels: Sequence[float], coordinate: int, color: Any, name: str
) -> list[End]:
    """The median and its intervals, the widest first, and what to say of them; one step alone makes bars.

    Forecasts with a name share the Axes, so they are outlined and filled faintly.
    """
    median = forecast.quantile(0.5)[:, coordinate].numpy()
    axes.plot(times, median, color=color, linewidth=1.6, marker="." if len(times) == 1 else "", label=name or "median")
    ends = [End(times[-1], median[-1], name or "median", color)]
    for i, level in enumerate(levels):
        lower, upper = (edge[:, coordinate].numpy() for edge in forecast.interval(level))
        said = f"{100 * level:g} %"
        if len(times) == 1:
            axes.vlines(times, lower, upper, color=color, alpha=0.4, linewidth=3.0 * (i + 1), label=said)
            continue
        fill = axes.fill_between(times, lower, upper, facecolor=color, alpha=0.25, linewidth=0, zorder=1, label=said)
        if name:
            fill.set_alpha(0.06)
            axes.plot(times, np.stack([lower, upper], -1), color=color, linewidth=0.8, linestyle=(0, (3, 1.5)))
        else:
            ends.append(End(times[-1], upper[-1], said, color))
    return ends


def ribbon(
    axes: Axes, left: Array, width: Array, state: NDArray[Any], span: tuple[float, float], names: Sequence[str]
) -> None:
    """Bars per state, and the names in a row above them, each placed after the one before."""
    from matplotlib.transforms import Bbox, TransformedBbox

    bottom, top = span
    anchor: Any = axes.transAxes
    for k, (name, color) in enumerate(zip(names, colors(len(names)), strict=True)):
        own = list(zip(left[state == k].tolist(), width[state == k].tolist(), strict=True))
        bars = axes.broken_barh(own, (bottom, top - bottom), transform=axes.get_xaxis_transform(), label=name)
        bars.set(color=color, linewidth=0)
        bars.set_clip_box(TransformedBbox(Bbox([[0, min(bottom, 0)], [1, max(top, 1)]]), axes.transAxes))
        place = {"xy": (0, top), "xytext": (0, 2)} if k == 0 else {"xy": (1, 0), "xytext": (8, 0)}
        anchor = axes.annotate(
            name, **place, xycoords=anchor, textcoords="offset points", color=color, va="bottom",
            **SMALL,
        )  # fmt: skip


def colors(n: int) -> list[Any]:
    """The palette, or more colours than it has from a map whose lightness differs too."""
    if n <= len(PALETTE):
        return list(PALETTE[:n])
    import matplotlib

    return [matplotlib.colormaps["viridis"](k / (n - 1)) for k in range(n)]


def number(value: float) -> str:
    """One decimal and a proper minus sign."""
    return f"{value:.1f}".replace("-", "\N{MINUS SIGN}")


def say_at_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Names to the right of the curves' last points, moved apart where they would overlap."""
    axes.autoscale_view()
    known = sorted((end for end in ends if np.isfinite(end.y)), key=lambda end: end.y)
    if not known:
        return
    points = 72 / axes.figure.dpi
    own = np.array([axes.transData.transform((end.x, end.y))[1] * points for end in known])
    placed = own.copy()
    for i in range(1, len(known)):
        lines = (known[i].text + known[i - 1].text).count("\n") / 2 + 1
        placed[i] = max(placed[i], placed[i - 1] + LINE_HEIGHT * lines)
    for end, moved in zip(known, placed - own - (placed - own).mean(), strict=True):
        axes.annotate(
            end.text, (end.x, end.y), (5, moved), textcoords="offset points", color=end.color, va="center", **SMALL
        )
