"""The picture at the head of the README: three beliefs about the Nile, what they predict, what they score.

    python docs/make_figure.py [--output docs/belief.png]

The three models learn from 1871-1940. Beliefs are those before each year is seen, forecasts are made in 1940, and
scores are means of log p(y_t | y_<t) over 1941-1970. The network is the one from seed 0, whatever it scores.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

import probseq as ps
from probseq import plot
from probseq.evaluation.naive import iid, random_walk

N_TRAIN = 70
FLOW = "flow ($10^8$ m³)"
#: read at about 830 pixels
STYLE: dict[str, Any] = {"font.size": 8.5, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6}


def local_level(y: Any) -> ps.LDS:
    """A random walk seen through noise; its two variances are learned."""
    mean, variance = float(y.mean()), float(y.var())
    model = ps.LDS(
        transition_matrix=[[1.0]],
        transition_cov=[[variance / 4]],
        emission_matrix=[[1.0]],
        emission_cov=[[variance / 2]],
        initial_mean=[mean],
        initial_cov=[[variance]],
    )
    held = {"transition_matrix", "emission_matrix", "initial_mean", "initial_cov"}
    return model.fit(y, method="gradient", fixed=held, seed=0)


def beliefs(models: dict[str, Any], y: Any, panels: dict[str, Axes]) -> None:
    level, markov, network = models.values()
    plot.belief_band(level, y, panels["local level"], kind="predicted", label="")
    means = markov.emission.means[:, 0]
    names = ["high" if mean == means.max() else "low" for mean in means]
    plot.posterior_heatmap(markov, y, panels["hidden Markov"], kind="predicted", labels=names, colorbar=False)
    plot.activity_heatmap(network, y, panels["GRU network"], colorbar=False)
    panels["GRU network"].set_yticks([0, 7], ["unit 0", "unit 7"])
    panels["GRU network"].set(ylabel="")
    panels["local level"].set(ylabel=FLOW)
    titles = {
        "local level": "a Gaussian",
        "hidden Markov": "a table of probabilities",
        "GRU network": "a vector of activities",
    }
    for name, axes in panels.items():
        axes.set_title(f"$\\bf{{{name.replace(' ', '~')}}}$\nbelieves {titles[name]}", loc="left", fontsize=9)
        axes.set_xticks([1880, 1910, 1940, 1970])
        axes.set_xlabel("")


def forecasts(models: dict[str, Any], y: Any, panels: dict[str, Axes]) -> None:
    for i, (name, axes) in enumerate(panels.items()):
        forecast = models[name].forecast(y.iloc[:N_TRAIN], 10, seed=0)
        plot.forecast_fan(y.iloc[: N_TRAIN + 10], forecast, axes, n_history=20)
        axes.set_ylim(450, 1250)
        axes.set_xticks([1920, 1930, 1940, 1950])
        axes.set(xlabel="", ylabel=FLOW if i == 0 else "")
        axes.set_title("predicts 1941\N{EN DASH}1950", loc="left", fontsize=9)
        if i > 0:
            axes.set_yticklabels([])
            for text in list(axes.texts):
                text.remove()


def scores(models: dict[str, Any], y: Any, axes: Axes) -> None:
    past = ps.Sequences.of(y.iloc[:N_TRAIN])
    baselines = {"random walk": random_walk(past), "iid normal": iid(past, ps.emissions.Gaussian(1))}
    rows = {name: float(model.filter(y).log_prob[N_TRAIN:].mean()) for name, model in (baselines | models).items()}
    left = min(rows.values()) - 0.08
    for height, (name, score) in enumerate(rows.items()):
        color = "#888888" if name in baselines else plot.PALETTE[0]
        axes.plot([left, score], [height, height], color=color, linewidth=1, alpha=0.5)
        axes.plot(score, height, "o", color=color, markersize=6)
        axes.annotate(name, (left, height), (0, 8), textcoords="offset points", color=color)
        number = f"{score:.2f}".replace("-", "\N{MINUS SIGN}")
        axes.annotate(number, (score, height), (6, 0), textcoords="offset points", va="center", color=color)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_yticks([])
    axes.set_ylim(-0.5, len(rows) - 0.2)
    axes.set_xlim(left, max(rows.values()) + 0.12)
    axes.set_xlabel("nats per year, 1941\N{EN DASH}1970")
    axes.set_title("$\\bf{one~score}$\nmean $\\log\\,p(y_t\\,|\\,y_{<t})$", loc="left", fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("belief.png"))
    output = parser.parse_args().output
    y = ps.datasets.nile()
    past = y.iloc[:N_TRAIN]
    models = {
        "local level": local_level(past),
        "hidden Markov": ps.HMM(2, emission=ps.emissions.Gaussian(1)).fit(past, seed=0),
        "GRU network": ps.RNN(1, cell=ps.cells.GRU(8), head=ps.heads.Gaussian()).fit(past, seed=0),
    }
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(10, 4), layout="constrained")
        layout = [["b0", "b1", "b2", "score"], ["f0", "f1", "f2", "score"]]
        panels = figure.subplot_mosaic(layout, width_ratios=(3, 3, 3, 2.3))
        beliefs(models, y, {name: panels[f"b{i}"] for i, name in enumerate(models)})
        forecasts(models, y, {name: panels[f"f{i}"] for i, name in enumerate(models)})
        scores(models, y, panels["score"])
        for axes in panels.values():
            for line in axes.lines:
                line.set_markersize(min(line.get_markersize(), 5) if axes is panels["score"] else 3)
        picture = BytesIO()
        figure.savefig(picture, dpi=180)
    Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(output, optimize=True)


if __name__ == "__main__":
    main()
