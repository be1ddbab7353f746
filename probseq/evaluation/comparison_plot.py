"""The picture of a comparison.

Above: the data, and what every model forecast at the end of the training part, mean and central interval. Below: the
sum over the test steps so far of log p(y_t | model) - log p(y_t | best model), one line per model, so that a line
that falls shows when a model lost. matplotlib is imported here and when drawing only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probseq.forecasting import continue_index
from probseq.marginals import is_symbolic
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from probseq.evaluation.comparison import Comparison

#: Okabe and Ito's colours, safe for colour-blind readers; baselines are grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREYS = ("#7f7f7f", "#a6a6a6")
BASELINES = ("random walk", "Markov", "iid", "Markov (discrete)", "iid (discrete)")
INK = "#222222"
#: the longest fan, in steps, and the most training steps shown, per test step
LONGEST_FAN = 40
PAST_PER_TEST_STEP = 0.7


def draw(comparison: Comparison, axes: Any, column: int) -> Any:
    """Draw into two axes, or into a new figure; returns the figure."""
    if not 0 <= column < comparison.data.event_shape[0]:
        raise ValueError(f"column must be 0 .. {comparison.data.event_shape[0] - 1}, got {column!r}")
    if axes is None:
        from matplotlib import pyplot

        _, axes = pyplot.subplots(
            2, 1, figsize=(9, 6.2), height_ratios=(3, 2), sharex=_shares_time(comparison), layout="constrained"
        )
    upper, lower = axes
    styles = styles_of(comparison)
    _draw_fans(upper, comparison, styles, column)
    draw_differences(lower, comparison, styles)
    for panel in (upper, lower):
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(colors=INK, labelsize=9)
    return upper.figure


def _shares_time(comparison: Comparison) -> bool:
    return comparison.train_lengths.numel() == 1


def styles_of(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Colour and line of every model, the best of the table first."""
    styles: dict[str, dict[str, Any]] = {}
    for name in comparison.table.index:
        naive = name in BASELINES
        place = sum((other in BASELINES) == naive for other in styles)
        palette = GREYS if naive else COLOURS
        styles[name] = {"color": palette[place % len(palette)], "ls": (0, (4, 2)) if naive else "-"}
    return styles


def _time(data: Sequences, start: int, stop: int) -> np.ndarray[Any, Any]:
    """Where steps start .. stop - 1 of the first sequence stand: dates or numbers of its index, else step numbers."""
    index = data.index
    if index is None or not len(index):
        return np.arange(start, stop)
    if type(index).__name__ == "PeriodIndex":
        index = index.to_timestamp()
    if index.dtype.kind not in "iufM" or not index.is_monotonic_increasing:
        return np.arange(start, stop)
    if stop > len(index):
        try:
            index = index.append(continue_index(index, stop - len(index), len(index)))
        except ValueError:
            return np.arange(start, stop)
    return np.asarray(index[start:stop])


def _draw_fans(panel: Any, comparison: Comparison, styles: dict[str, dict[str, Any]], column: int) -> None:
    """Data of the first sequence around the end of training, and every model's forecast from there."""
    data = comparison.data
    n_train, length = comparison.shown_origin, int(data.lengths.reshape(-1)[0])
    first = max(0, n_train - int(PAST_PER_TEST_STEP * (length - n_train)))
    values = torch.where(data.observed, data.values, torch.nan).reshape(-1, *data.values.shape[-2:])[0, :, column]
    time = _time(data, first, length)
    panel.plot(time, values[first:length], color=INK, lw=1.1, marker=".", ms=3.5, zorder=5, label="data")
    panel.axvline(time[n_train - 1 - first], color=INK, lw=0.8, ls=":", zorder=1)
    _limit(panel, values[first:length].numpy())
    steps = min(length - n_train, LONGEST_FAN)
    ahead = _time(data, n_train, n_train + steps)
    for place, (name, style) in enumerate(styles.items()):
        _draw_fan(panel, comparison, name, style, ahead, column, filled=place == 0)
    names = data.names
    panel.set_ylabel("y" if names is None else names[column], color=INK)
    where = "the end of the training part" if int(comparison.train_lengths[0]) else "half of the sequence"
    _title(panel, f"Forecasts made at {where}: mean and {comparison.level:.0%} interval")
    panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


def _draw_fan(
    panel: Any, comparison: Comparison, name: str, style: dict[str, Any], ahead: Any, column: int, *, filled: bool
) -> None:
    """Mean and interval of one model's forecast; nothing where the data are symbols."""
    model, data = comparison.models[name], comparison.data
    n_train = comparison.shown_origin
    y, u = _first_sequence(data)
    inputs: dict[str, Any] = {}
    if model.input_dim and u is not None:
        inputs = {"u": u[:n_train], "future_u": u[n_train : n_train + len(ahead)]}
    forecast = model.forecast(y[:n_train], len(ahead), seed=comparison.seed, **inputs)
    if is_symbolic(forecast.distribution):
        return
    mean = forecast.mean[:, column]
    lower, upper = (end[:, column] for end in forecast.interval(comparison.level))
    panel.plot(ahead, mean, lw=1.8 if filled else 1.3, zorder=4, label=name, **style)
    if filled:
        panel.fill_between(ahead, lower, upper, color=style["color"], alpha=0.15, lw=0, zorder=2)
    if name not in BASELINES:
        for end in (lower, upper):
            panel.plot(ahead, end, lw=0.8, alpha=0.6, zorder=3, **style)


def _first_sequence(data: Sequences) -> tuple[torch.Tensor, torch.Tensor | None]:
    flat = data.flat()
    length = int(flat.lengths[0])
    y = torch.where(flat.observed, flat.values, torch.nan)[0, :length]
    return y, None if flat.inputs is None else flat.inputs[0, :length]


def _limit(panel: Any, values: np.ndarray[Any, Any]) -> None:
    """The range of the data with room around it: a fan that explodes must not flatten everything else."""
    finite = values[np.isfinite(values)]
    if len(finite):
        low, high = float(finite.min()), float(finite.max())
        room = 0.25 * (high - low) if high > low else 1.0
        panel.set_ylim(low - room, high + room)


def draw_differences(panel: Any, comparison: Comparison, styles: dict[str, dict[str, Any]]) -> None:
    """Cumulative log score less that of the best model of the same kind, from 0 at the end of training."""
    table, scores = comparison.table, comparison.log_scores
    time: Any = np.arange(-1, len(scores))
    if _shares_time(comparison):
        n_train = int(comparison.train_lengths[0])
        time = _time(comparison.data, n_train - 1, n_train + len(scores))
        panel.axvline(time[0], color=INK, lw=0.8, ls=":", zorder=1)
    best = {kind: rows.index[0] for kind, rows in table.groupby("likelihood", sort=False)}
    ends: list[tuple[float, str, str]] = []
    for place, (name, style) in enumerate(styles.items()):
        reference = best[table.loc[name, "likelihood"]]
        total = np.append(0.0, (scores[name] - scores[reference]).fillna(0.0).cumsum().to_numpy())
        panel.plot(time, total, lw=1.6, zorder=3 + len(styles) - place, **style)
        ends.append((float(total[-1]), name, style["color"]))
    to_best = f"the best, {next(iter(best.values()))}" if len(best) == 1 else "the best of its kind"
    _title(panel, f"Log score of one-step predictions: cumulative difference to {to_best}")
    panel.set_ylabel("nats", color=INK)
    panel.set_xlabel("test step" if not _shares_time(comparison) else comparison.log_scores.index.name or "step")
    _label_ends(panel, [end for end in ends if np.isfinite(end[0])])


def _title(panel: Any, text: str) -> None:
    panel.set_title(text, loc="left", fontsize=10, color=INK)


def _label_ends(panel: Any, ends: list[tuple[float, str, str]]) -> None:
    """Names right of the lines, moved apart where they would overlap."""
    low, high = panel.get_ylim()
    gap = 0.085 * (high - low)
    height = float("inf")
    for value, name, colour in sorted(ends, reverse=True):
        height = min(value, height - gap)
        panel.annotate(
            name,
            (1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
        )
