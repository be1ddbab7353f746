# %% [markdown]
# # Where will the pen go next?
#
# A pen is recorded as offsets (dx, dy) and, at each point, whether it is lifted there. A network that has seen the
# strokes so far must say where the next point will be. "To the right" will not do: at the end of an arc the pen may go
# on, turn, or be lifted to start anywhere. So it says a *mixture density* (Bishop 1994): twenty Gaussians in the plane,
# with weights, places, widths and correlations that all come out of the hidden units, and a probability of a lift,
#
#     p(dx, dy, lift | past) = sum_k w_k N(dx, dy; m_k, S_k)  x  Bernoulli(lift; e)
#
# This is the prediction network of Graves (2013), section 4. It is an `RNN` with another head, so everything that the
# library does with a model it does with this one: score, sample, follow a pen point by point.

# %%
import argparse
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import probseq as ps
from probseq import handwriting as hand

parser = argparse.ArgumentParser(description="Mixture densities over a pen's next move.")
parser.add_argument("--output", default="predict_strokes.png", help="where the figure goes")
parser.add_argument("--model", help="read the fitted network from this file, or write it there")
parser.add_argument("--smoke", action="store_true", help="a small network on few drawings, to see that it runs")
options, _ = parser.parse_known_args()

# %% [markdown]
# ## Drawings, and a trap
#
# Omniglot (Lake and others 2015) has characters of fifty alphabets, drawn by twenty people; `omniglot_strokes.npz` in
# the folder that `PROBSEQ_DATA` names. Without it, scribbles: damped turns that no one will mistake for writing.
#
# The trap is the grid. Offsets were recorded as whole numbers, and these mostly as multiples of six. A density may put
# ever narrower peaks on the points of a grid and grow without bound, which says nothing about handwriting. So each
# point is moved to a place in its cell, drawn uniformly (`dequantise`); what is left is a bound on the probability of
# the whole numbers themselves.


# %%
def scribbles(n_lines: int, seed: int) -> list[hand.Strokes]:
    """Pens that turn at a steady rate and slow down."""
    draws = np.random.default_rng(seed)
    lines = []
    for _ in range(n_lines):
        size, rate, angle = int(draws.integers(12, 30)), draws.normal(0, 0.4), draws.uniform(0, 6.3)
        angles = angle + rate * np.arange(size) + 0.1 * draws.normal(size=size)
        speed = 40 * np.exp(-np.arange(size) / 20) * np.exp(0.1 * draws.normal(size=size))
        offsets = np.round(np.column_stack([speed * np.cos(angles), speed * np.sin(angles)]))
        lines.append(hand.Strokes(offsets, np.arange(size) % 11 == 10))
    return lines


def drawings(part: str, n_lines: int) -> list[hand.Strokes]:
    path = Path(os.environ.get("PROBSEQ_DATA", ".")) / "omniglot_strokes.npz"
    if not path.exists() or options.smoke:
        made = scribbles(n_lines, seed=0 if part == "train" else 1)
        return [line.dequantise(seed=k) for k, line in enumerate(made)]
    lines = hand.read_sketches(path, part)[:n_lines]
    return [line.dequantise(seed=k, width=6.0) for k, line in enumerate(lines, 0 if part == "train" else 10**6)]


train = drawings("train", 30 if options.smoke else 12_000)
test = drawings("test", 6 if options.smoke else 1_000)
units = hand.Units.of(train)
print(
    f"{len(train)} drawings of {np.mean([len(line) for line in train]):.0f} points to learn from, {len(test)} to test"
)

# %% [markdown]
# ## The network
#
# One layer of 128 LSTM cells with peepholes, five passes over the drawings, 1,500 updates. The paper's own are one
# layer of 900 cells, or three of 400, on the 700 points of a line of IAM-OnDB (`python -m benchmarks.bench_handwriting`
# says what an update of that costs; thirty passes are most of a day on one core), trained by its own RMSprop with
# `fit(y, **hand.PAPER)` and, for its best result, `weight_noise=ps.learning.AdaptiveNoise()`.

# %%
if options.model and Path(options.model).exists():
    model = ps.load(options.model)
else:
    model = hand.prediction_network([16] if options.smoke else [128], 5 if options.smoke else 20, seed=0)
    training = {"learning_rate": 5e-3, "schedule": "linear", "batch_size": 40, "validation": False}
    model.fit([line.to_array() for line in train], max_iterations=2 if options.smoke else 5, seed=0, **training)
    print(f"trained in {model.history.seconds:.0f} seconds")
    if options.model:
        model.save(options.model)

# %% [markdown]
# ## Scores have units
#
# A density of centimetres is a hundred times that of metres. In the unit of the recording or in standard deviations,
# per point or per drawing, one network has four log-losses; `evaluate` keeps them apart and converts exactly. The
# baseline is linear: the next offset from the last two, a Gaussian around it, and the share of lifts.

# %%
scores = hand.evaluate(model, test)
normal = scores.within(units)
print(f"in the recording's unit    {scores}")
print(f"in standard deviations     {normal}   (one is {units.scale[0]:.1f}, {units.scale[1]:.1f})")


def linear(lines: list[hand.Strokes]) -> tuple[np.ndarray, np.ndarray]:
    """What a VAR(2) reads, and what it says something about."""
    before, now = [], []
    for line in lines:
        offsets = np.concatenate([np.zeros((2, 2)), line.normalise(units).offsets])
        before.append(np.column_stack([offsets[1:-1], offsets[:-2], np.ones(len(line))]))
        now.append(offsets[2:])
    return np.concatenate(before), np.concatenate(now)


(x, y), (x_test, y_test) = linear(train), linear(test)
weights = np.linalg.lstsq(x, y, rcond=None)[0]
cov, away = np.cov((y - x @ weights).T, bias=True), y_test - x_test @ weights
gaussian = 0.5 * np.einsum("ti,ij,tj->t", away, np.linalg.inv(cov), away).mean()
gaussian += 0.5 * np.log(np.linalg.det(2 * np.pi * cov))
share, lifts = (np.concatenate([line.lifts for line in lines]).mean() for lines in (train, test))
baseline = gaussian - lifts * np.log(share) - (1 - lifts) * np.log(1 - share)
print(f"VAR(2) and share of lifts  {baseline:.3f} nats per point, in standard deviations")

# %% [markdown]
# ## Looking at the densities
#
# The heat is what the network expected of each point before it was drawn, added up along the drawing. Along a stroke it
# is a string of small spots: the pen goes where it was going. At the end of a stroke it spreads. Below, four moments of
# one drawing, and draws of the next point: a mixture is not a cloud, it knows several ways.

# %%
figure, axes = plt.subplots(2, 4, figsize=(12, 6.4), layout="constrained")
long = [line for line in test if 24 <= len(line) <= 45] or test
for place, panel in enumerate(axes[0]):
    line = long[(7 * place) % len(long)]
    hand.plot_density(model, line, panel, n_pixels=40 if options.smoke else 260)
axes[0, 0].set_title("where each point was expected", loc="left", fontsize="medium")
line = max(long, key=lambda line: (line.lifts[:-1].sum() == 2, len(line)))  # of three strokes
ends = np.flatnonzero(line.lifts[:-1])[:2].tolist()
moments = sorted({*ends, len(line) // 4, len(line) // 2, 3 * len(line) // 4})[:4]
for panel, moment in zip(axes[1], moments, strict=False):
    seen = line.to_array()[: moment + 1]
    hand.plot_strokes(hand.Strokes.from_array(seen), panel)
    drawn = model.forecast(seen, 1, n_samples=1, seed=0).distribution
    ahead = drawn.sample((60 if options.smoke else 600,)).reshape(-1, 3).numpy()[:, :2]
    panel.plot(*(line.points[moment] + ahead).T, ".", markersize=1.5, color=ps.plot.PALETTE[1], zorder=0)
    panel.set_title(f"after point {moment + 1}{', lifted' if line.lifts[moment] else ''}", loc="left", fontsize="small")
for panel in axes[1][len(moments) :]:
    panel.set_axis_off()
figure.savefig(options.output, dpi=50 if options.smoke else 150)

print(
    f"result: {normal.per_point:.3f} nats per held-out point in standard deviations "
    f"(trivial baseline: {baseline:.3f}, a linear VAR(2) and the share of lifts)"
)
