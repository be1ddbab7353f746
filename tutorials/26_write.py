# %% [markdown]
# # From a text to a hand
#
# A network that predicts a pen writes scribble: nobody told it what to say. Graves (2013, section 5) tells it. The text
# lies beside the network as one column per character, and the network looks at it through a *soft window*,
#
#     phi_t(u) = sum_k alpha_k exp(-beta_k (kappa_k - u)^2),      w_t = sum_u phi_t(u) one_hot(character u)
#
# whose place kappa moves on, by as much as the network decides, and never back. Nobody says which point belongs to
# which letter; that the window should move when a letter is done is found by gradient, because it makes the next point
# likelier.

# %%
import argparse
import os
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import probseq as ps
from probseq import handwriting as hand
from probseq.handwriting import train as training

parser = argparse.ArgumentParser(description="Handwriting synthesis: a soft window, bias, priming.")
parser.add_argument("--output", default="write.png", help="where the figure goes")
parser.add_argument("--model", help="read the fitted network from this file, or write it there")
parser.add_argument("--smoke", action="store_true", help="the network that comes with the library, and few lines")
options, _ = parser.parse_known_args()

# %% [markdown]
# ## Lines to learn from
#
# IAM-OnDB must be asked for (`hand.read_iam` reads your copy). Here three made-up writers write random words without
# end in fonts of single strokes (Hershey 1967), each with a size and slant of its own, and no two letters the same; the
# fonts are `hersheytext.json` in the folder that `PROBSEQ_DATA` names. They know what the network must find out: which
# character each point belongs to.
#
# Two layers of 96 cells, 1,000 updates, some minutes. Without the fonts (and with `--smoke`) this page goes on with the
# network that comes with the library, made by `python -m probseq.handwriting.train` (two layers of 144 cells, 2,457
# updates). The paper's size is three layers of 400 cells on real lines of 700 points, 5.8 seconds for an
# update on one core and 18 hours for thirty passes (`python -m benchmarks.bench_handwriting`).

# %%
fonts = Path(os.environ.get("PROBSEQ_DATA", ".")) / "hersheytext.json"
model = hand.load_writer()
if options.model and Path(options.model).exists():
    model = hand.load_writer(options.model)
elif fonts.exists() and not options.smoke:
    data = training.lines(1_500, seed=7, path=fonts)
    model = training.train(data, [96, 96], updates=1_000, seed=0, n_bells=8, n_components=10, most_characters=32)
    print(f"trained in {model.history.seconds:.0f} seconds")
    if options.model:
        model.save(options.model)

# %% [markdown]
# ## Does it read where it writes?
#
# On lines that it has not seen: how often the character looked at most is the true one. The trivial reader moves on at
# an even pace (on lines so short it is seldom more than one off; being right is harder).


# %%
def right(places: np.ndarray, line: hand.Strokes, off: int = 0) -> float:
    """Share of the points at which a character is at most so many off."""
    return float((np.abs(places - line.characters) <= off).mean())


def even_pace(line: hand.Strokes) -> np.ndarray:
    return np.arange(len(line)) * len(line.text) // len(line)


def read(line: hand.Strokes) -> np.ndarray:
    return hand.alignment(model, line)[:, :-1].argmax(1)


if fonts.exists():
    held_out = training.lines(4 if options.smoke else 60, seed=2026, path=fonts)
else:  # the network's own lines: the truth is then what it looked at while it wrote
    held_out = [hand.write(model, "no fonts here", bias=1.0, seed=k).strokes for k in range(3)]
for off in (0, 1):
    found, even = (np.mean([right(reader(line), line, off) for line in held_out]) for reader in (read, even_pace))
    print(f"at most {off} off at {found:.1%} of the points; at an even pace {even:.1%}")
found, even = (np.mean([right(reader(line), line) for line in held_out]) for reader in (read, even_pace))

# %% [markdown]
# ## Writing
#
# The pen starts, a point is drawn from the mixture, the network reads it, the window moves. The line ends with the
# stroke in which the window looks beyond the last character more than at any other. With a *bias* b the deviations
# shrink by exp(-b) and weights are raised to the power 1 + b: what is likely is drawn more often, a copybook hand. At
# b = 0 the network writes as carelessly as its teachers, and slips where they do not.

# %%
text = "the quick brown fox"
biases = (0.0, 0.15, 1.0)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a careless line may lose its way and be cut off
    written = [hand.write(model, text, bias=bias, seed=seed) for bias in biases for seed in (1, 2)]

# %% [markdown]
# ## In somebody's hand
#
# A network that has read a line goes on in its manner. Let it read a line of each writer, with its text, and then give
# it a text of its own (*priming*).

# %%
hands = []
for line in held_out[:3]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hands.append((line, hand.write(model, "goes on", bias=1.0, style=line, seed=0)))

# %%
figure = plt.figure(figsize=(11, 9), layout="constrained")
grid = figure.add_gridspec(6, 2, height_ratios=(1, 1, 1, 1, 1, 1))
for place, one in enumerate(written):
    panel = figure.add_subplot(grid[place // 2, place % 2])
    hand.plot_strokes(one.strokes, panel)
    panel.set_title(f"bias {biases[place // 2]:g}", loc="left", fontsize="small")
for place, (line, one) in enumerate(hands):
    panel = figure.add_subplot(grid[3 + place, 0])
    last = line.points[-1]
    hand.plot_strokes(line, panel, color=ps.plot.PALETTE[5])
    moved = [trace + last for trace in one.strokes.traces]
    panel.set_title("a writer's line (light), and what the network adds", loc="left", fontsize="small")
    for trace in moved:
        panel.plot(*trace.T, color=ps.plot.PALETTE[1], linewidth=1.4)
panel = figure.add_subplot(grid[3:, 1])
hand.plot_alignment(hand.alignment(model, held_out[0]), held_out[0].text, panel, characters=held_out[0].characters)
panel.set_title("the window on a held-out line; dots: the truth", loc="left", fontsize="small")
figure.savefig(options.output, dpi=50 if options.smoke else 150)

# %% [markdown]
# `python -m probseq write "some text" --out text.svg` does this from the command line, and `--out text.html` makes a
# page on which the pen moves, with a pad to draw on.

# %%
print(
    f"result: {found:.3f} of held-out points at which the window looks at the very character "
    f"(trivial baseline: {even:.3f}, a window that moves on at an even pace)"
)
