"""The picture of standardised residuals: over time, as a histogram, against normal quantiles, and their correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probseq import plot_style as style
from probseq.base import StateSpaceModel
from probseq.evaluation.diagnostics import autocorrelations, standardized_residuals
from probseq.plot_style import INK, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: what 95 % of standard normal values do not exceed
LIMIT = 1.959963984540054


def plot_diagnostics(
    model: StateSpaceModel[Any],
    y: Any,
    axes: Any = None,
    *,
    u: Any = None,
    coordinate: int = 0,
    lags: int = 10,
    color: str = PALETTE[0],
) -> Any:
    """Four panels about the standardised residuals of one coordinate of one sequence; returns their Axes, (2, 2).

    `axes` holds four Axes in any shape. Lines mark 0 and what 95 % respect under the true model.
    """
    data = model._door(y, u)
    if data.batch_shape:
        raise ValueError(f"one sequence can be drawn, y has batch shape {data.batch_shape}: pick one, such as y[0]")
    if not 0 <= coordinate < data.event_shape[0]:
        raise ValueError(f"coordinate must lie in 0 .. {data.event_shape[0] - 1}, got {coordinate}")
    panels = _panels(axes)
    over_time, histogram, quantiles, correlogram = panels.ravel()
    residuals = standardized_residuals(model, data)[:, coordinate].numpy()
    values = residuals[np.isfinite(residuals)]
    lags = min(lags, len(values) - 1)
    _over_time(over_time, style.time_axis(over_time, data.index, data.n_steps), residuals, color)
    _histogram(histogram, values, color)
    _quantiles(quantiles, values, color)
    _correlogram(correlogram, autocorrelations(residuals, lags), len(values), color)
    return panels


def _panels(axes: Any) -> Any:
    if axes is not None:
        given = np.asarray(axes, dtype=object)
        if given.size != 4:
            raise ValueError(f"axes must hold 4 Axes, got {given.size}")
        return np.array([style.axes_or_new(one) for one in given.ravel()], dtype=object).reshape(given.shape)
    first = style.axes_or_new(None)
    figure = first.figure
    first.remove()
    figure.set_size_inches(8.0, 5.0)  # type: ignore[union-attr]
    panels = figure.subplots(2, 2)
    for one in panels.ravel():
        style.axes_or_new(one)
    return panels


def _over_time(axes: Axes, times: Any, residuals: Any, color: str) -> None:
    axes.vlines(times, 0, residuals, color=color, linewidth=0.8, alpha=0.6)
    axes.plot(times, residuals, ".", color=color, markersize=4)
    for height in (-LIMIT, 0.0, LIMIT):
        axes.axhline(height, color=INK, linewidth=0.6, alpha=0.5, zorder=0)
    axes.set_ylabel("standardised residual")


def _histogram(axes: Axes, values: Any, color: str) -> None:
    from scipy.stats import gaussian_kde, norm

    edge = max(4.0, 1.05 * float(np.abs(values).max()))
    grid = np.linspace(-edge, edge, 200)
    axes.hist(values, bins="auto", density=True, color=color, alpha=0.3)
    axes.plot(grid, norm.pdf(grid), color=INK, linewidth=1.2)
    ends = [style.End(grid[130], float(norm.pdf(grid[130])), "N(0, 1)", INK)]
    if np.ptp(values) > 0:
        smooth = gaussian_kde(values)(grid)
        axes.plot(grid, smooth, color=color, linewidth=1.4)
        ends.append(style.End(grid[130], float(smooth[130]), "residuals", color))
    style.say_at_ends(axes, ends)
    axes.set_xlabel("standardised residual")
    axes.set_ylabel("density")


def _quantiles(axes: Axes, values: Any, color: str) -> None:
    from scipy.special import ndtri

    expected = ndtri((np.arange(len(values)) + 0.5) / len(values))
    span = [float(min(expected[0], values.min())), float(max(expected[-1], values.max()))]
    axes.plot(span, span, color=INK, linewidth=0.8)
    axes.plot(expected, np.sort(values), ".", color=color, markersize=4)
    axes.set_xlabel("normal quantile")
    axes.set_ylabel("quantile of the residuals")


def _correlogram(axes: Axes, correlations: Any, n: int, color: str) -> None:
    lags = np.arange(1, len(correlations))
    axes.vlines(lags, 0, correlations[1:], color=color, linewidth=2)
    axes.plot(lags, correlations[1:], "o", color=color, markersize=4)
    limit = LIMIT / n**0.5
    for height in (-limit, 0.0, limit):
        axes.axhline(height, color=INK, linewidth=0.6, alpha=0.5, zorder=0)
    reach = 1.3 * max(limit, float(np.abs(correlations[1:]).max()))
    axes.set_ylim(-reach, reach)
    style.whole_numbers(axes.xaxis)
    axes.set_xlabel("lag")
    axes.set_ylabel("autocorrelation")
