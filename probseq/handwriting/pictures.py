"""Pictures of handwriting: Axes in, the same Axes out; `axes=None` makes new ones.

| function         | shows                                                                                 |
|------------------|---------------------------------------------------------------------------------------|
| `plot_strokes`   | a line as a pen leaves it; where it was lifted, and its way through the air, if wanted |
| `plot_density`   | where a network expected each point, before it was drawn: densities added up          |
| `plot_alignment` | phi: the characters of a text, upwards, that are looked at at each point              |

y grows downwards, as the pen's does.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import MixtureSameFamily

from probseq.base import StateSpaceModel
from probseq.emissions.product import Columns
from probseq.handwriting.strokes import Strokes
from probseq.plot_style import INK, PALETTE, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Gaussians are drawn so many standard deviations far
REACH = 6.0
#: nats below the peak at which a picture is white
SHOWN = 6.0


def plot_strokes(
    line: Strokes, axes: Axes | None = None, *, color: str = INK, width: float = 1.4, lifts: bool = False
) -> Axes:
    """The strokes of a line; with `lifts` dots where the pen left the paper and dashes where it went from there."""
    axes = axes_or_new(axes)
    traces = line.traces
    for trace in traces:
        if len(trace) == 1:
            axes.plot(*trace.T, ".", color=color, markersize=2 * width)
        else:
            axes.plot(*trace.T, "-", color=color, linewidth=width, solid_capstyle="round", solid_joinstyle="round")
    if lifts:
        for one, other in pairwise(traces):
            axes.plot(*np.stack([one[-1], other[0]]).T, ":", color=PALETTE[1], linewidth=0.7 * width)
        ends = line.points[line.lifts]
        axes.plot(*ends.T, "o", color=PALETTE[1], markersize=2.5 * width)
    return upside_down(axes)


def plot_density(
    model: StateSpaceModel[Any],
    line: Strokes,
    axes: Axes | None = None,
    *,
    inputs: Any = None,
    n_pixels: int = 300,
    strokes: bool = True,
) -> Axes:
    """log of the sum over t of p(place of point t | points before), on a grid of `n_pixels` across the line.

    The first point is left out: before it there is no place. `inputs` are the network's, such as a text. Raises
    TypeError for a model that does not say mixtures of offsets.
    """
    axes = axes_or_new(axes)
    x, y, heat = _heat(model, line.restore(), inputs, n_pixels)
    floor = np.log(heat.max()) - SHOWN
    image = np.log(np.maximum(heat, np.exp(floor)))
    axes.imshow(
        image, extent=(x[0], x[-1], y[-1], y[0]), cmap="magma_r", aspect="equal", interpolation="bilinear", zorder=0
    )
    if strokes:
        plot_strokes(line.restore(), axes, color=PALETTE[0], width=0.8)
    return upside_down(axes)


def _heat(
    model: StateSpaceModel[Any], line: Strokes, inputs: Any, n_pixels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A grid around the line, and the densities of all points added up on it, (rows, columns)."""
    filtered = model.filter(line.to_array(), inputs)
    u = None if inputs is None else torch.as_tensor(inputs)
    with torch.no_grad():
        says: Any = model.emit(filtered.predicted, u)
    mixture = says.parts[0] if isinstance(says, Columns) else says
    if not isinstance(mixture, MixtureSameFamily) or mixture.event_shape[0] < 2:
        raise TypeError(f"model must say mixtures of offsets, as pen heads do; it says {type(mixture).__name__}")
    components: Any = mixture.component_distribution
    weights = mixture.mixture_distribution.probs.numpy()[1:]
    means = components.mean.numpy()[1:, :, :2] + line.points[:-1, None]
    covs = components.covariance_matrix.numpy()[1:, :, :2, :2]
    low, high = line.points.min(0), line.points.max(0)
    margin = 0.06 * float((high - low).max()) + 1e-12
    pixel = float((high - low).max() + 2 * margin) / n_pixels
    x = np.arange(low[0] - margin, high[0] + margin + pixel, pixel)
    y = np.arange(low[1] - margin, high[1] + margin + pixel, pixel)
    heat = np.zeros((len(y), len(x)))
    for weight, mean, cov in zip(weights.ravel(), means.reshape(-1, 2), covs.reshape(-1, 2, 2), strict=True):
        if weight > 1e-4:
            _add(heat, x, y, weight, mean, cov + np.eye(2) * (0.5 * pixel) ** 2)  # narrower ones fall between pixels
    return x, y, heat


def _add(heat: Any, x: Any, y: Any, weight: float, mean: Any, cov: Any) -> None:
    """Add a Gaussian where it is not negligible."""
    reach = REACH * np.sqrt(np.diag(cov))
    left, right = np.searchsorted(x, (mean[0] - reach[0], mean[0] + reach[0]))
    top, bottom = np.searchsorted(y, (mean[1] - reach[1], mean[1] + reach[1]))
    if left == right or top == bottom:
        return
    inverse, root = np.linalg.inv(cov), np.sqrt(np.linalg.det(cov))
    dx, dy = x[left:right] - mean[0], (y[top:bottom] - mean[1])[:, None]
    distance = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
    heat[top:bottom, left:right] += weight / (2 * np.pi * root) * np.exp(-distance / 2)


def plot_alignment(looks: NDArray[np.float64], text: str, axes: Axes | None = None, *, characters: Any = None) -> Axes:
    """phi (T, U + 1) as an image, a row for each character; `characters` (T,), where known, as a line over it.

    Every point's weights are shown in proportion to their largest. ValueError where `looks` does not fit the text.
    """
    if looks.ndim != 2 or looks.shape[1] != len(text) + 1:
        raise ValueError(f"looks must be (n_points, {len(text) + 1}) for this text, got shape {looks.shape}")
    axes = axes_or_new(axes)
    largest = looks.max(1, keepdims=True)
    image = np.divide(looks, largest, out=np.zeros_like(looks), where=largest > 0)
    axes.imshow(image.T, origin="lower", aspect="auto", cmap="Blues", interpolation="nearest", vmin=0, vmax=1)
    if characters is not None:
        axes.plot(np.asarray(characters), ".", color=PALETTE[1], markersize=2)
    axes.set_yticks(range(len(text) + 1), [*(c if c != " " else "_" for c in text), "end"], fontsize="small")
    axes.set_xlabel("point")
    return axes


def upside_down(axes: Axes) -> Axes:
    axes.set_aspect("equal")
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.set_axis_off()
    return axes
