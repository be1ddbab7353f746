"""Pictures of beliefs, forecasts and fits: Axes in, the same Axes out; `axes=None` makes new ones.

| function           | shows                                                              | of             |
|--------------------|--------------------------------------------------------------------|----------------|
| `belief_band`      | E[C z_t given y] with a central interval, the data as dots         | LDS, AR        |
| `posterior_heatmap`| p(z_t = k given y), states upwards, time to the right              | HMM, HSMM      |
| `viterbi_ribbon`   | the most probable path as a coloured ribbon                        | HMM, HSMM      |
| `activity_heatmap` | the hidden activities h_t, units upwards, time to the right        | RNN, EchoState |
| `forecast_fan`     | the end of the data and central intervals of p(y_{T+h} given y)    | every family   |
| `components`       | the additive parts with central intervals, a panel each            | Structural     |
| `fit_history`      | log p(y) gained per iteration, training and validation, in nats    | every family   |
| `text_activity`    | a text, its characters on colours that a unit takes while reading  | RNN            |
| `series`           | the data as dots                                                   |                |

Each shows one sequence and one coordinate; a batch is a ValueError. A pandas index becomes the time axis. Colours
are those of Okabe and Ito (2008), told apart by all common forms of colour vision; states, forecasts and curves
are labelled where they are drawn, so that no legend is needed. matplotlib is imported on the first call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probseq import plot_style as style
from probseq.base import LatentStateModel
from probseq.beliefs import Categorical, Gaussian, GaussianFactor, Point
from probseq.checks import share
from probseq.forecasting import Forecast
from probseq.learning.history import History
from probseq.models.echo_state import EchoState
from probseq.models.hmm import HMM
from probseq.models.hsmm import HSMM, Elapsed
from probseq.models.linear_gaussian import LinearGaussianModel
from probseq.models.rnn import RNN
from probseq.plot_components import components as components
from probseq.plot_style import ACTIVITY_MAP, INK, PALETTE, PROBABILITY_MAP, SMALL, End
from probseq.plot_text import text_activity as text_activity
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

Array = NDArray[np.float64]
Kind = Literal["smoothed", "filtered", "predicted"]


def series(y: Any, axes: Axes | None = None, *, coordinate: int = 0, color: str = INK) -> Axes:
    """One coordinate of the data as dots, gaps where it is missing."""
    sequences = _one_sequence(y)
    axes = style.axes_or_new(axes)
    values = _values(sequences, coordinate)
    axes.plot(style.time_axis(axes, sequences.index, len(values)), values, ".", color=color, markersize=4, zorder=3)
    axes.set_ylabel(_name(sequences, coordinate))
    return axes


def belief_band(
    model_or_belief: LinearGaussianModel | Gaussian | GaussianFactor,
    y: Any,
    axes: Axes | None = None,
    *,
    coordinate: int = 0,
    level: float = 0.9,
    kind: Kind = "smoothed",
    u: Any = None,
    color: str = PALETTE[0],
    label: str | None = None,
) -> Axes:
    """Belief about the state with its central interval of probability `level`, over the data as dots.

    Given a model, `coordinate` is one of y and the band is that of C z_t + offset, the observation without its
    noise, in the units of the data. Given a belief, it is one of z_t, and of y too where y has as many
    coordinates. Steps whose variance is still infinite (a diffuse start) are left out.
    """
    share("level", level)
    sequences = _one_sequence(y)
    if isinstance(model_or_belief, LinearGaussianModel):
        mean, cov = _signal(model_or_belief, y, u, kind)
    elif isinstance(model_or_belief, (Gaussian, GaussianFactor)):
        mean, cov = _moments(model_or_belief)
    else:
        kind_given = _kind_of(model_or_belief)
        raise TypeError(f"belief_band needs an LDS, an AR or a Gaussian belief (model.smooth(y)), got {kind_given}")
    _match(mean, sequences, 2)
    _coordinate(coordinate, mean.shape[-1])
    center = mean[:, coordinate].numpy()
    spread = cov[:, coordinate, coordinate].clamp(min=0).sqrt().numpy()
    reach = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64))) * spread
    axes = style.axes_or_new(axes)
    if coordinate < sequences.event_shape[0]:
        series(y, axes, coordinate=coordinate)
    times = style.time_axis(axes, sequences.index, len(center))
    prefix = f"{kind}, " if isinstance(model_or_belief, LinearGaussianModel) else ""
    said = f"{prefix}{100 * level:g} %" if label is None else label
    axes.fill_between(times, center - reach, center + reach, color=color, alpha=0.25, linewidth=0, zorder=1)
    axes.plot(times, center, color=color, linewidth=1.6, label=said, zorder=2)
    style.say_at_ends(axes, [End(times[-1], center[-1], said, color)])
    return axes


def posterior_heatmap(
    model_or_belief: HMM | HSMM | Categorical | Elapsed,
    y: Any = None,
    axes: Axes | None = None,
    *,
    kind: Kind = "smoothed",
    u: Any = None,
    labels: Sequence[str] | None = None,
    colorbar: bool = True,
) -> Axes:
    """p(z_t = k given y) as an image with a row per state; `y` may be left out when a belief is given.

    Of an HSMM the probabilities of the states, whatever has elapsed.
    """
    given_model = isinstance(model_or_belief, (HMM, HSMM))
    belief = _belief(model_or_belief, y, u, kind) if given_model else model_or_belief
    if not isinstance(belief, (Categorical, Elapsed)):
        raise TypeError(
            "posterior_heatmap needs an HMM, an HSMM or a belief of theirs over states, "
            f"got {_kind_of(model_or_belief)}"
        )
    names = _state_names(labels, belief.probs.shape[-1])
    axes, image = _image(belief.probs, y, axes, cmap=PROBABILITY_MAP, limits=(0.0, 1.0))
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    if colorbar:
        given = {"smoothed": " | all y", "filtered": " | y up to t", "predicted": " | y before t"}
        style.colorbar(axes, image, f"p(state{given[kind] if given_model else ''})")
    return axes


def activity_heatmap(
    model_or_belief: RNN | EchoState | Point,
    y: Any = None,
    axes: Axes | None = None,
    *,
    u: Any = None,
    colorbar: bool = True,
) -> Axes:
    """The activities from which a network predicts y_t, a row per hidden unit, on a scale symmetric about zero."""
    if isinstance(model_or_belief, (RNN, EchoState)):
        _one_sequence(y)
        with torch.no_grad():
            activities = model_or_belief.cell.output(model_or_belief.filter(y, u).predicted.state)
    elif isinstance(model_or_belief, Point):
        activities = model_or_belief.state
    else:
        raise TypeError(
            f"activity_heatmap needs an RNN, an EchoState or a Point belief, got {_kind_of(model_or_belief)}"
        )
    largest = float(activities.abs().max()) or 1.0
    axes, image = _image(activities, y, axes, cmap=ACTIVITY_MAP, limits=(-largest, largest))
    axes.set_ylabel("hidden unit")
    style.whole_numbers(axes.yaxis)
    if colorbar:
        style.colorbar(axes, image, "activity")
    return axes


def viterbi_ribbon(
    model_or_path: HMM | HSMM | Any,
    y: Any,
    axes: Axes | None = None,
    *,
    u: Any = None,
    labels: Sequence[str] | None = None,
    span: tuple[float, float] = (1.02, 1.08),
) -> Axes:
    """The decoded path, one colour per state, as a ribbon between two heights in fractions of the Axes.

    The default lies on top of the Axes, where it hides no data; (0.0, 0.05) is at its foot. New Axes show the data
    too, given ones get the ribbon alone. The states' names stand above it in their colours. A path (time,) of
    state numbers may stand for the model.
    """
    sequences = _one_sequence(y)
    given_model = isinstance(model_or_path, (HMM, HSMM))
    decoded = model_or_path.decode(y, u) if given_model else model_or_path
    path = np.asarray(decoded)
    if path.dtype.kind not in "iu":
        raise TypeError(
            f"viterbi_ribbon needs an HMM, an HSMM or a path of state numbers, got {_kind_of(model_or_path)}"
        )
    _match(path, sequences, 1)
    n_states = model_or_path.n_states if given_model else int(path.max()) + 1
    names = _state_names(labels, n_states)
    axes = series(y) if axes is None else style.axes_or_new(axes)
    edges = style.edges(style.time_axis(axes, sequences.index, len(path)))
    starts = np.flatnonzero(np.diff(path, prepend=path[0] - 1))
    ends = np.append(starts[1:], len(path))
    style.ribbon(axes, edges[starts], edges[ends] - edges[starts], path[starts], span, names)
    return axes


def forecast_fan(
    y: Any,
    forecast: Forecast | Mapping[str, Forecast],
    axes: Axes | None = None,
    *,
    levels: Sequence[float] = (0.5, 0.9),
    coordinate: int = 0,
    n_history: int | None = None,
) -> Axes:
    """The data and after them the forecast: its median in a fan of central intervals, one for each of `levels`.

    Several forecasts, `{"local level": ..., "GRU": ...}`, get a colour and their name each. y may go on where the
    forecast begins, so that it shows what came. `n_history` keeps only that many steps before the first forecast.
    """
    for level in levels:
        share("levels", level)
    sequences = _one_sequence(y)
    forecasts = forecast if isinstance(forecast, Mapping) else {"": forecast}
    for one in forecasts.values():
        if len(one.distribution.batch_shape) != 1:
            raise ValueError(f"{_ONE_ONLY}; the forecast has batch shape {tuple(one.distribution.batch_shape[:-1])}")
    axes = style.axes_or_new(axes)
    times = style.time_axis(axes, sequences.index, sequences.n_steps)
    ends: list[End] = []
    starts: list[float] = []
    for (name, one), color in zip(forecasts.items(), style.colors(len(forecasts)), strict=True):
        coming = style.time_axis(axes, one.to_frame().index, one.steps)
        ends += style.fan(axes, coming, one, sorted(levels, reverse=True), coordinate, color, name)
        starts.append(float(coming[0]))
    if n_history is not None:
        first = max(int((times < min(starts)).sum()) - n_history, 0)
        sequences, times = sequences.steps(first, sequences.n_steps), times[first:]
    axes.plot(times, _values(sequences, coordinate), color=INK, linewidth=0.7, alpha=0.5, zorder=2)
    series(sequences, axes, coordinate=coordinate)
    style.say_at_ends(axes, ends)
    return axes


def fit_history(model_or_history: Any, axes: Axes | None = None) -> Axes:
    """What a fit gained per iteration in log p(y), in nats; the labels say where training and validation ended.

    Training and held-out data differ in length, so both curves count from their own start. A dot marks the
    iteration with the best validation score, whose parameters were kept.
    """
    history = model_or_history if isinstance(model_or_history, History) else model_or_history.history
    if not isinstance(history, History) or not history.objective:
        raise ValueError(f"{_kind_of(model_or_history)} has no history yet; fit it first")
    axes = style.axes_or_new(axes)
    ends: list[End] = []
    curves = {"training": history.objective, "validation": history.validation}
    for (name, curve), color in zip(curves.items(), PALETTE, strict=False):
        if not curve:
            continue
        gained = np.asarray(curve) - curve[0]
        axes.plot(np.arange(len(curve)), gained, color=color, linewidth=1.6, label=name)
        ends.append(End(len(curve) - 1, gained[-1], f"{name}\n{style.number(curve[-1])} nats", color))
        if name == "validation":
            best = int(np.argmax(curve))
            axes.plot(best, gained[best], "o", color=color, markersize=5)
            kept = f"kept: {style.number(curve[best])} nats"
            axes.annotate(kept, (best, gained[best]), (0, 6), textcoords="offset points", color=color, **SMALL)
    style.say_at_ends(axes, ends)
    axes.set_xlabel("iteration")
    axes.set_ylabel("log p(y) gained (nats)")
    style.whole_numbers(axes.xaxis)
    return axes


# ---- what is to be drawn

_ONE_ONLY = "a plot shows one sequence"


def _kind_of(value: Any) -> str:
    return type(value).__name__


def _one_sequence(y: Any) -> Sequences:
    sequences = Sequences.of(y)
    if sequences.batch_shape:
        raise ValueError(f"{_ONE_ONLY}; y has batch shape {sequences.batch_shape}: pick one, such as y[0]")
    if not sequences.n_steps:
        raise ValueError("y must have at least one step to be drawn, got none")
    return sequences


def _match(values: Any, sequences: Sequences, ndim: int) -> None:
    if values.ndim != ndim:
        raise ValueError(f"{_ONE_ONLY}; the belief has batch shape {tuple(values.shape[: values.ndim - ndim])}")
    if len(values) != sequences.n_steps:
        raise ValueError(f"the belief has {len(values)} steps but y has {sequences.n_steps}")


def _coordinate(coordinate: int, width: int) -> None:
    if not 0 <= coordinate < width:
        raise ValueError(f"coordinate must lie in 0 .. {width - 1}, got {coordinate}")


def _state_names(labels: Sequence[str] | None, n_states: int) -> Sequence[str]:
    if labels is not None and len(labels) < n_states:
        raise ValueError(f"labels must name all {n_states} states, got {len(labels)}")
    return [f"state {k}" for k in range(n_states)] if labels is None else labels[:n_states]


def _values(sequences: Sequences, coordinate: int) -> Array:
    _coordinate(coordinate, sequences.event_shape[0])
    seen = sequences.observed[:, coordinate]
    return torch.where(seen, sequences.values[:, coordinate].detach(), torch.nan).numpy()


def _name(sequences: Sequences, coordinate: int) -> str:
    if sequences.names is not None:
        return sequences.names[coordinate]
    return "y" if sequences.event_shape[0] == 1 else f"y[{coordinate}]"


def _belief(model: LatentStateModel[Any], y: Any, u: Any, kind: Kind) -> Any:
    _one_sequence(y)
    if kind == "smoothed":
        return model.smooth(y, u)
    if kind not in ("filtered", "predicted"):
        raise ValueError(f'kind must be "smoothed", "filtered" or "predicted", got {kind!r}')
    filtered = model.filter(y, u)
    return filtered.updated if kind == "filtered" else filtered.predicted


def _moments(belief: Gaussian | GaussianFactor) -> tuple[Tensor, Tensor]:
    """Mean and covariance, NaN where the variance is infinite."""
    mean, cov = belief.mean.detach(), belief.cov.detach()
    diffuse = None if isinstance(belief, GaussianFactor) else belief.diffuse_cov
    if diffuse is not None:
        proper = torch.diagonal(diffuse, dim1=-2, dim2=-1) == 0
        mean = torch.where(proper, mean, torch.nan)
    return mean, cov


@torch.no_grad()
def _signal(model: LinearGaussianModel, y: Any, u: Any, kind: Kind) -> tuple[Tensor, Tensor]:
    """Mean (T, m) and covariance (T, m, m) of C z_t + offset."""
    belief = _belief(model, y, u, kind)
    inputs = Sequences.of(y, u).inputs
    matrix = model.system_at(belief.step, inputs).emission_matrix
    offset = model.emission_offset_at(inputs, belief.step)
    mean = (matrix @ belief.mean.unsqueeze(-1)).squeeze(-1)
    cov = matrix @ belief.cov @ matrix.mT
    diffuse = None if belief.diffuse_cov is None else matrix @ belief.diffuse_cov @ matrix.mT
    return _moments(Gaussian(mean if offset is None else mean + offset, cov, diffuse))


def _image(
    values: Tensor, y: Any, axes: Axes | None, *, cmap: str, limits: tuple[float, float]
) -> tuple[Axes, QuadMesh]:
    """(time, row) values as cells, time to the right."""
    sequences = None if y is None else _one_sequence(y)
    table = values.detach().numpy()
    if sequences is not None:
        _match(table, sequences, 2)
    elif table.ndim != 2:
        raise ValueError(f"{_ONE_ONLY}; the belief has batch shape {tuple(table.shape[:-2])}")
    axes = style.axes_or_new(axes)
    edges = style.edges(style.time_axis(axes, None if sequences is None else sequences.index, len(table)))
    rows = np.arange(table.shape[1] + 1) - 0.5
    low, high = limits
    return axes, axes.pcolormesh(edges, rows, table.T, cmap=cmap, vmin=low, vmax=high, rasterized=True)
