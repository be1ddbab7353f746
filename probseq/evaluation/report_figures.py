"""The pictures of a report, one small figure per question and model, each with its text for those who cannot see it.

Figures are about 5 inches wide, so that their letters can still be read on a phone. A figure is a PNG in the page
itself. matplotlib is imported when drawing only.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probseq import plot
from probseq import plot_style as style
from probseq.base import StateSpaceModel
from probseq.beliefs import map_tensors
from probseq.evaluation.calibration import pit_values, uniform_test
from probseq.evaluation.comparison_plot import draw_differences, styles_of
from probseq.evaluation.kinds import kinds_of
from probseq.models.echo_state import EchoState
from probseq.models.hmm import HMM
from probseq.models.hsmm import HSMM
from probseq.models.linear_gaussian import LinearGaussianModel
from probseq.models.rnn import RNN
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from probseq.evaluation.comparison import Comparison

#: steps shown of a belief, ahead in a forecast and before it; bars of a histogram; rows of an image with names
LONGEST_BELIEF, LONGEST_FORECAST, HISTORY, BINS, MOST_ROWS = 200, 40, 60, 10, 12


@dataclass(frozen=True)
class Picture:
    """A figure as base64 PNG, with a title, what it shows in words, and its size in pixels."""

    title: str
    alt: str
    data: str
    width: int
    height: int


def picture(title: str, alt: str, draw: Callable[[Any], None], *, wide: bool = False) -> Picture:
    """Draw into Axes of a new figure and keep it as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.3) if wide else (5.0, 2.9), layout="constrained", dpi=180)
    axes = figure.subplots()
    axes.tick_params(labelsize=9)
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    width, height = (round(side * 180) for side in figure.get_size_inches())
    return Picture(title, alt, base64.b64encode(buffer.getvalue()).decode("ascii"), width, height)


@dataclass(frozen=True)
class _Shown:
    """The sequence that the pictures show, and the step that forecasts start from."""

    y: torch.Tensor
    u: torch.Tensor | None
    index: Any
    name: str
    origin: int

    @staticmethod
    def of(comparison: Comparison) -> _Shown:
        data = comparison.data
        flat = data.flat()
        length = int(flat.lengths[0])
        y = torch.where(flat.observed, flat.values, torch.nan)[0, :length]
        u = None if flat.inputs is None else flat.inputs[0, :length]
        name = data.names[0] if data.names else "y"
        return _Shown(y, u, data.index, name, comparison.shown_origin)

    def frame(self, start: int, stop: int) -> Any:
        """Steps start .. stop - 1 with their index, for pictures with a time axis."""
        import pandas as pd

        values = self.y[start:stop].numpy()
        index = pd.RangeIndex(start, start + len(values), name="step") if self.index is None else self.index[start:stop]
        columns = [self.name] if values.shape[1] == 1 else [f"{self.name}[{i}]" for i in range(values.shape[1])]
        return pd.DataFrame(values, index=index, columns=columns)

    def inputs(self, model: StateSpaceModel[Any], start: int, stop: int) -> torch.Tensor | None:
        return None if self.u is None or not model.input_dim else self.u[start:stop]


# ------------------------------------------------------------------------------------------------- forecasts


def forecasts(comparison: Comparison) -> list[Picture]:
    """What every model said of the first sequence at the end of its training part (or half way, if it has none)."""
    shown = _Shown.of(comparison)
    steps = min(len(shown.y) - shown.origin, LONGEST_FORECAST)
    found: list[Picture] = []
    for name, model in comparison.ranked():
        u, future = shown.inputs(model, 0, shown.origin), shown.inputs(model, shown.origin, shown.origin + steps)
        known = shown.frame(0, shown.origin)
        forecast = model.forecast(known, steps, u, future_u=future, seed=comparison.seed)
        kinds = kinds_of(model, comparison.data)
        if kinds[0] in ("symbol", "binary"):
            alt = f"{name}: probabilities of the next {steps} steps as shades, and what came as dots."

            def draw(axes: Any, forecast: Any = forecast) -> None:
                _draw_probabilities(axes, forecast.probs, shown.y[shown.origin : shown.origin + steps])
        else:
            lower, upper = (float(end[-1, 0]) for end in forecast.interval(comparison.level))
            alt = (
                f"{name}: {steps} steps ahead, 50 % and 90 % intervals around the median, over the data. At the last "
                f"step the {comparison.level:.0%} interval runs from {lower:.4g} to {upper:.4g}."
            )

            def draw(axes: Any, forecast: Any = forecast) -> None:
                _draw_fan(axes, shown, forecast, steps)

        found.append(picture(name, alt, draw))
    return found


def _draw_fan(axes: Any, shown: _Shown, forecast: Any, steps: int) -> None:
    first = max(shown.origin - HISTORY, 0)
    plot.forecast_fan(shown.frame(first, shown.origin + steps), forecast, axes)
    there = shown.y[first : shown.origin + steps, 0]
    there = there[~torch.isnan(there)]
    low, high = float(there.min()), float(there.max())
    room = 0.4 * (high - low) if high > low else 1.0
    axes.set_ylim(low - room, high + room)
    for said in axes.texts:  # a label beyond the range would push everything else aside
        if not low - room < said.xy[1] < high + room:
            said.set_visible(False)


def _draw_probabilities(axes: Any, probs: torch.Tensor, came: torch.Tensor) -> None:
    """Probabilities (steps, rows) as an image; symbols and ones that came as dots."""
    image = axes.pcolormesh(
        np.arange(len(probs) + 1) + 0.5,
        np.arange(probs.shape[1] + 1) - 0.5,
        probs.mT.numpy(),
        cmap="Blues",
        vmin=0,
        vmax=1,
    )
    style.colorbar(axes, image, "probability")
    symbols = came.shape[1] == 1 and probs.shape[1] > 1
    steps, rows = (np.arange(len(came)), came[:, 0].numpy()) if symbols else (came == 1).nonzero(as_tuple=True)
    axes.plot(np.asarray(steps) + 1, np.asarray(rows), "o", color="#D55E00", markersize=3.5)
    axes.set_xlabel("steps ahead")
    axes.set_ylabel("symbol" if symbols else "column")
    style.whole_numbers(axes.yaxis)


# ------------------------------------------------------------------------------------------------- PIT


def pit_histograms(comparison: Comparison) -> list[Picture]:
    """Probability integral transforms of one-step predictions in the test part, against the uniform law."""
    found: list[Picture] = []
    for name, values in comparison.pit_values().items():
        there = values[~np.isnan(values)]
        if not len(there):
            continue
        p_value = uniform_test(there).p_value
        n_bins = BINS if len(there) >= 100 else BINS // 2
        counts = np.histogram(there, n_bins, (0, 1))[0]
        alt = (
            f"{name}: histogram of {len(there)} transforms in {n_bins} bins, shares "
            f"{', '.join(f'{share:.0%}' for share in counts / len(there))}; uniform would be {1 / n_bins:.0%} each. "
            f"Kolmogorov-Smirnov p = {p_value:.2g}."
        )

        def draw(axes: Any, there: Any = there, n_bins: int = n_bins, p_value: float = p_value) -> None:
            _draw_histogram(axes, there, n_bins, p_value)

        found.append(picture(name, alt, draw))
    return found


def _draw_histogram(axes: Any, values: Any, n_bins: int, p_value: float) -> None:
    from scipy.stats import binom

    n = len(values)
    axes.hist(
        values, n_bins, range=(0, 1), weights=np.full(n, 1 / n), color=style.PALETTE[0], alpha=0.75, edgecolor="white"
    )
    low, high = binom.ppf([0.05, 0.95], n, 1 / n_bins) / n
    axes.axhspan(low, high, color="#999999", alpha=0.25, linewidth=0, zorder=0)
    axes.axhline(1 / n_bins, color=style.INK, linewidth=0.8)
    axes.set(xlim=(0, 1), xlabel="P(Y ≤ y | past)", ylabel="share")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"KS p = {p_value:.2g}", loc="right", fontsize=9, color=style.INK)


def table_pit(model: StateSpaceModel[Any], data: Sequences, first: torch.Tensor, seed: int) -> Any:
    """PIT of the first column at the test steps, (B, T), NaN elsewhere and where the law has none."""
    flat = data.flat()
    own = (
        flat
        if model.input_dim
        else Sequences.of(torch.where(flat.observed, flat.values, torch.nan), lengths=flat.lengths)
    )
    try:
        values = pit_values(model, own, seed=seed)[..., 0].numpy()
    except ValueError:  # no distribution function
        return np.full(tuple(flat.values.shape[:2]), np.nan)
    tested = np.arange(flat.n_steps) >= first.numpy()[:, None]
    return np.where(tested, values, np.nan)


# ------------------------------------------------------------------------------------------------- differences, beliefs


def differences(comparison: Comparison) -> Picture:
    """Cumulative log score less that of the best of the same kind."""
    last = {}
    for name in comparison.table.index:
        row = comparison.table.loc[name]
        n = int(comparison.log_scores[name].notna().sum())
        last[name] = row["difference"] * n
    ends = ", ".join(f"{name} {total:+.1f}" for name, total in last.items() if np.isfinite(total))
    alt = f"Cumulative log score over the test part less that of the best model, in nats. At the end: {ends}."
    return picture("Score difference over time", alt, lambda axes: _differences(axes, comparison), wide=True)


def _differences(axes: Any, comparison: Comparison) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    draw_differences(axes, comparison, styles_of(comparison))
    axes.set_title("", loc="left")


def beliefs(comparison: Comparison) -> list[Picture]:
    """What every model knows before each of the last steps of the first sequence."""
    shown = _Shown.of(comparison)
    start = max(len(shown.y) - LONGEST_BELIEF, 0)
    found: list[Picture] = []
    for name, model in comparison.ranked():
        if isinstance(model, HMM) and model.n_states == 1:
            continue  # one state knows nothing
        words = _belief_in_words(model)
        alt = f"{name}: {words}, over the last {len(shown.y) - start} steps of the series."

        def draw(axes: Any, model: Any = model) -> None:
            _draw_belief(axes, model, shown, start)

        found.append(picture(f"{name}: {words}", alt, draw))
    return found


def _belief_in_words(model: StateSpaceModel[Any]) -> str:
    if isinstance(model, LinearGaussianModel):
        return "the observation without noise, 90 % band"
    if isinstance(model, (HMM, HSMM)):
        return "probability of each state"
    return "activity of each unit"


def _draw_belief(axes: Any, model: Any, shown: _Shown, start: int) -> None:
    """The whole series is read, its last steps are shown."""
    y, u = shown.frame(0, len(shown.y)), shown.inputs(model, 0, len(shown.y))
    if isinstance(model, LinearGaussianModel):
        plot.belief_band(model, y, axes, kind="predicted", u=u, label="")
    elif isinstance(model, (HMM, HSMM)):
        plot.posterior_heatmap(model, y, axes, kind="predicted", u=u)
        if model.n_states > MOST_ROWS:
            axes.set_yticks([])
    elif isinstance(model, (RNN, EchoState)):
        plot.activity_heatmap(model, y, axes, u=u)
    else:
        _draw_anything(axes, model.filter(y, u).predicted)
    if start:
        left, right = axes.get_xlim()
        share = start / len(shown.y)
        axes.set_xlim(left + share * (right - left), right)


def _draw_anything(axes: Any, belief: Any) -> None:
    """Every number of a belief as a row, each between its own extremes."""
    rows: list[torch.Tensor] = []

    def collect(part: torch.Tensor, dims: int) -> torch.Tensor:
        rows.extend(part.reshape(len(part), -1).mT.to(torch.float64))
        return part

    map_tensors(collect, belief)
    table = torch.stack(rows[: 4 * MOST_ROWS])
    low, high = table.amin(1, keepdim=True), table.amax(1, keepdim=True)
    axes.imshow(((table - low) / (high - low).clamp(min=1e-300)).numpy(), aspect="auto", cmap="viridis")
    axes.set(xlabel="step", ylabel="number of the belief")
