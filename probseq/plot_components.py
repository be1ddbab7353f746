"""The picture of a structural time series: its parts below each other, with bands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probseq import plot_style as style
from probseq.models.structural import Structural
from probseq.models.structural_components import Component, Components
from probseq.plot_style import INK
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def components(
    model_or_components: Structural | Components, y: Any, axes: Any = None, *, u: Any = None, level: float = 0.9
) -> Any:
    """A panel for every additive part of one sequence, with its central interval of probability `level`.

    The data lie as dots behind the level, or behind the signal where there is no level. `axes` holds as many Axes as
    there are parts; returned is their array. The time axis is shared.
    """
    sequences = Sequences.of(y)
    if sequences.batch_shape:
        raise ValueError(
            f"a plot shows one sequence; y has batch shape {sequences.batch_shape}: pick one, such as y[0]"
        )
    if isinstance(model_or_components, Structural):
        model_or_components = model_or_components.components(y, u)
    if not isinstance(model_or_components, Components):
        raise TypeError(
            f"components needs a Structural model or its components, got {type(model_or_components).__name__}"
        )
    parts = model_or_components
    first = "level" if "level" in parts else "signal"
    names = [first, *(name for name in parts.additive if name != first)]
    panels = _panels(axes, len(names))
    seen = torch.where(sequences.observed, sequences.values.detach(), torch.nan)[:, 0].numpy()
    for panel, name, color in zip(panels, names, style.colors(len(names)), strict=True):
        times = style.time_axis(panel, sequences.index, len(seen))
        if name == first:
            panel.plot(times, seen, ".", color=INK, markersize=3.5, zorder=3)
        else:
            panel.axhline(0.0, color=INK, linewidth=0.6, alpha=0.5, zorder=0)
        _band(panel, times, parts[name], level, color)
        panel.set_title(name, loc="left", fontsize="medium", color=color)
    for panel in panels[:-1]:
        panel.set_xlabel("")
        panel.tick_params(labelbottom=False)
    return panels


def _panels(axes: Any, count: int) -> Any:
    if axes is not None:
        given = np.asarray(axes, dtype=object).ravel()
        if given.size != count:
            raise ValueError(f"axes must hold {count} Axes, one for each part, got {given.size}")
        return np.array([style.axes_or_new(one) for one in given], dtype=object)
    lone = style.axes_or_new(None)
    figure: Any = lone.figure
    lone.remove()
    figure.set_size_inches(6.4, 0.8 + 1.7 * count)
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for one in panels:
        style.axes_or_new(one)
    return panels


def _band(axes: Axes, times: Any, part: Component, level: float, color: Any) -> None:
    """Mean and interval, left out where they are unknown."""
    lower, upper = (edge.numpy() for edge in part.interval(level))
    known = np.isfinite(part.std.numpy())
    axes.fill_between(times, lower, upper, where=known.tolist(), color=color, alpha=0.25, linewidth=0, zorder=1)
    axes.plot(times, part.mean.numpy(), color=color, linewidth=1.4, zorder=2, label=part.name)
