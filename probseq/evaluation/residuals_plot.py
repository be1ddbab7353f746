"""The picture of pseudo-residuals: normal scores over time between the limits that 95 % of them respect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probseq import plot_style as style
from probseq.base import StateSpaceModel
from probseq.checks import share
from probseq.evaluation.residuals import PseudoResiduals, pseudo_residuals
from probseq.plot_style import INK, PALETTE
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_residuals(
    model: StateSpaceModel[Any],
    y: Any,
    axes: Axes | None = None,
    *,
    u: Any = None,
    coordinate: int = 0,
    level: float = 0.95,
    color: str = PALETTE[0],
) -> Axes:
    """Forecast pseudo-residuals of one coordinate of one sequence over time; returns the Axes.

    Discrete observations are segments with their middle. Grey lines hold a share `level` under the true model.
    """
    from scipy.special import ndtri

    data = Sequences.of(y, u)
    if data.batch_shape:
        raise ValueError(f"one sequence can be drawn, y has batch shape {data.batch_shape}: pick one, such as y[0]")
    if not 0 <= coordinate < data.event_shape[0]:
        raise ValueError(f"coordinate must lie in 0 .. {data.event_shape[0] - 1}, got {coordinate}")
    share("level", level)
    scores: PseudoResiduals = pseudo_residuals(model, data)
    axes = style.axes_or_new(axes)
    times = style.time_axis(axes, data.index, data.n_steps)
    low, middle, high = (part[:, coordinate].numpy() for part in scores)
    if not torch.equal(scores.lower.nan_to_num(), scores.upper.nan_to_num()):
        ends = [np.nan_to_num(end, nan=np.nan, posinf=_edge(middle), neginf=-_edge(middle)) for end in (low, high)]
        axes.vlines(times, ends[0], ends[1], color=color, linewidth=1, alpha=0.5)
    axes.plot(times, middle, ".", color=color, markersize=4)
    limit = float(ndtri(0.5 + level / 2))
    for height in (-limit, 0.0, limit):
        axes.axhline(height, color=INK, linewidth=0.6, alpha=0.5, zorder=0)
    axes.set_ylabel("normal score")
    return axes


def _edge(middle: np.ndarray[Any, Any]) -> float:
    """Where a segment without end is cut: a quarter beyond the largest score."""
    finite = np.abs(middle[np.isfinite(middle)])
    return 1.25 * max(float(finite.max(initial=0.0)), 2.0)
