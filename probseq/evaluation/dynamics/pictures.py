"""Pictures of dynamics: Axes in, the same Axes out; `axes=None` makes new ones.

| function              | shows                                                                                       |
|-----------------------|---------------------------------------------------------------------------------------------|
| `plot_phase_portrait` | paths of the closed loop in two coordinates, its flow F(h) - h where h has two, fixed points|
| `plot_gradients`      | the norm of d L_s / d h_t, decades as colours: the state t to the right, the error s upwards|
| `plot_eigenvalues`    | eigenvalues in the complex plane with the unit circle                                       |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probseq import plot_style as style
from probseq.checks import whole_number
from probseq.evaluation.dynamics.fixed_points import FixedPoints
from probseq.evaluation.dynamics.gradient_flow import GradientFlow
from probseq.evaluation.dynamics.maps import closed_loop, network, run, start_states
from probseq.plot_style import INK, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: decades of gradients below the largest that the colours show
DECADES = 12


@torch.no_grad()
def plot_phase_portrait(
    model: Any,
    axes: Axes | None = None,
    *,
    starts: Any = None,
    steps: int = 100,
    u: Any = None,
    points: FixedPoints | None = None,
    units: tuple[int, int] = (0, 1),
    field: int = 18,
) -> Axes:
    """Paths of a network's closed loop from `starts` (N, S), in two of its units, and its fixed points.

    Stable points are filled, the others hollow. Where the state has two units, arrows on a grid of `field` columns
    show its step F(h) - h, all of one length.
    """
    axes = style.axes_or_new(axes)
    net = network(model, "plot_phase_portrait")
    step = closed_loop(net, u)
    begin = start_states(net, u) if starts is None else torch.as_tensor(starts, dtype=torch.float64)
    paths = run(step, begin, whole_number("steps", steps)).numpy()[..., list(units)]
    for k, path in enumerate(paths):
        color = PALETTE[k % len(PALETTE)]
        axes.plot(path[:, 0], path[:, 1], "-", color=color, linewidth=0.8, alpha=0.8, zorder=2)
        axes.plot(path[:, 0], path[:, 1], ".", color=color, markersize=2.5, zorder=2)
        axes.plot(path[0, 0], path[0, 1], "x", color=color, markersize=6, zorder=3)
    if points is not None:
        for place, stable in zip(points.states.numpy()[:, list(units)], points.stable.tolist(), strict=True):
            axes.plot(*place, "o", color=INK, markersize=7, markerfacecolor=INK if stable else "white", zorder=4)
    if begin.shape[1] == 2:
        _arrows(axes, step, field)
    axes.set_xlabel(f"unit {units[0]}")
    axes.set_ylabel(f"unit {units[1]}")
    return axes


def _arrows(axes: Axes, step: Any, field: int) -> None:
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    grid = np.stack(np.meshgrid(np.linspace(left, right, field), np.linspace(low, high, field)), -1).reshape(-1, 2)
    move = (step(torch.as_tensor(grid)) - torch.as_tensor(grid)).numpy()
    length = np.hypot(move[:, 0] / (right - left), move[:, 1] / (high - low))
    move = move / np.where(length > 0, length, 1.0)[:, None]
    axes.quiver(
        grid[:, 0], grid[:, 1], move[:, 0], move[:, 1], angles="xy", scale_units="xy", scale=1.4 * field,
        color="#BBBBBB", width=0.0025, zorder=1,
    )  # fmt: skip
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def plot_gradients(flow: GradientFlow, axes: Axes | None = None) -> Axes:
    """How much of the error of step s reaches the state at t, in decades below the largest; one sequence."""
    if flow.by_step.ndim != 2:
        raise ValueError(f"flow must be of one sequence, got a batch of shape {tuple(flow.by_step.shape[:-2])}")
    axes = style.axes_or_new(axes)
    norms = flow.by_step.numpy()
    largest = norms.max()
    if not largest > 0:
        raise ValueError("flow must have a gradient that is not zero")
    with np.errstate(divide="ignore"):
        decades = np.where(norms > 0, np.log10(norms / largest), np.nan)
    steps = style.edges(np.arange(len(norms), dtype=np.float64))
    image = axes.pcolormesh(steps, steps, decades, cmap="viridis", vmin=max(-DECADES, np.nanmin(decades)), vmax=0)
    image.set_rasterized(True)
    style.colorbar(axes, image, "log10 of the gradient, largest 0")
    axes.set_xlabel("state at step t")
    axes.set_ylabel("error of step s")
    for axis in (axes.xaxis, axes.yaxis):
        style.whole_numbers(axis)
    return axes


def plot_eigenvalues(eigenvalues: Any, axes: Axes | None = None, *, color: str = PALETTE[0]) -> Axes:
    """Eigenvalues (..., S), or those of `FixedPoints`, a colour for each point, in the complex plane."""
    axes = style.axes_or_new(axes)
    values = eigenvalues.eigenvalues if isinstance(eigenvalues, FixedPoints) else torch.as_tensor(eigenvalues)
    rows = values.reshape(-1, values.shape[-1]).to(torch.complex128).numpy()
    turn = np.linspace(0, 2 * np.pi, 361)
    axes.fill(np.cos(turn), np.sin(turn), facecolor="#F2F2F2", edgecolor=INK, linewidth=0.8, zorder=0)
    for k, row in enumerate(rows):
        own = color if len(rows) == 1 else PALETTE[k % len(PALETTE)]
        axes.plot(row.real, row.imag, "o", color=own, markersize=4, alpha=0.8, zorder=2)
    axes.axhline(0, color="#BBBBBB", linewidth=0.6, zorder=1)
    axes.axvline(0, color="#BBBBBB", linewidth=0.6, zorder=1)
    axes.set_aspect("equal")
    axes.set_xlabel("real part")
    axes.set_ylabel("imaginary part")
    return axes
