# %% [markdown]
# # One character after another
#
# A text is the plainest sequence there is: one of some sixty symbols, then the next. How well a model knows English,
# or Shakespeare, or Python, is one number, the nats it needs per character,
#
#     -1/T sum_t log p(y_t | y_<t)
#
# and its exponential is the *perplexity*, the number of equally likely characters that would be as hard to guess. The
# model to beat is as old as Markov (1913) and Shannon (1948): count which characters follow each four. It knows nothing
# of words, and it is good.
#
# A recurrent network reads the text once, one character at a time, and keeps what it needs in its activities. This page
# trains an LSTM of 256 units, sets it beside the table of counts, lets it write, and looks at what single units do.

# %%
import argparse
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import probseq as ps
from probseq import plot

parser = argparse.ArgumentParser(description="Characters: an LSTM beside a 5-gram.")
parser.add_argument("--output", default="characters.png", help="where the figure goes")
parser.add_argument("--model", help="read the fitted network from this file, or write it there")
parser.add_argument("--smoke", action="store_true", help="a small network on little text, to see that it runs")
options, _ = parser.parse_known_args()

# %% [markdown]
# ## The text
#
# `tinyshakespeare.txt` (karpathy/char-rnn), a million characters of plays, in the folder that `PROBSEQ_DATA` names.
# Without it there is always a text at hand: the source of Python's own library. The last tenth is held out.


# %%
def text_file() -> Path:
    plays = Path(os.environ.get("PROBSEQ_DATA", ".")) / "tinyshakespeare.txt"
    if plays.exists() and not options.smoke:
        return plays
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False, encoding="utf-8") as file:
        library = Path(argparse.__file__).parent
        names = ["argparse.py"] if options.smoke else ["argparse.py", "ast.py", "inspect.py", "pydoc.py", "typing.py"]
        whole = "".join((library / name).read_text(encoding="utf-8") for name in names)
        file.write(whole.encode("ascii", "ignore").decode()[: 6_000 if options.smoke else None])
    return Path(file.name)


path = text_file()
text = ps.datasets.characters(path)
if "tinyshakespeare" not in path.name:
    path.unlink()
n_train = int(0.9 * len(text))
train, test = text.symbols[:n_train], text.symbols[n_train:]
n_symbols = len(text.vocabulary)
print(f"{len(text)} characters, {n_symbols} different ones; {len(test)} held out")

# %% [markdown]
# ## Counting
#
# The counts of n characters are thin for large n, so every level leans on the one below it, the more the fewer
# characters it has seen. Witten and Bell (1991) take as a measure of doubt the number of *different* characters D(h)
# that have followed a history h, out of N(h):
#
#     p(c | h) = (count(h c) + D(h) p(c | h without its first character)) / (N(h) + D(h))


# %%
def codes(symbols: np.ndarray, n: int) -> np.ndarray:
    """Every run of n symbols as one integer."""
    return sum(symbols[j : len(symbols) - n + 1 + j].astype(np.int64) * n_symbols ** (n - 1 - j) for j in range(n))


def look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of every wanted key, 0 where there is none."""
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def witten_bell(order: int) -> np.ndarray:
    """log p of every character of the test text, given the `order` - 1 before it."""
    probs = np.full(len(test), 1 / n_symbols)
    for n in range(1, order + 1):
        grams, counts = np.unique(codes(train, n), return_counts=True)
        histories, first, kinds = np.unique(grams // n_symbols, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        here = codes(np.concatenate([train[len(train) - n + 1 :], test]), n)
        count = look_up(grams, counts, here)
        doubt, total = (look_up(histories, x, here // n_symbols) for x in (kinds, totals))
        probs = np.where(total > 0, (count + doubt * probs) / np.maximum(total + doubt, 1), probs)
    return np.log(probs)


grams = {n: -witten_bell(n).mean() for n in (1, 2, 3, 4, 5)}
for n, nats in grams.items():
    print(f"{n}-gram        {nats:.3f} nats per character, perplexity {np.exp(nats):5.2f}")

# %% [markdown]
# ## Reading
#
# The network reads the text at 64 places at once, 64 characters per update, and carries its activities from one update
# to the next: *truncated* backpropagation through time. The gradient looks 64 characters back, the memory may reach
# further. Twelve passes are 2,952 updates.

# %%
n_streams, n_units, n_passes = (8, 12, 4) if options.smoke else (64, 256, 12)
size = len(train) // n_streams
streams = torch.as_tensor(train[: n_streams * size], dtype=torch.float64).reshape(n_streams, size, 1)
model = ps.RNN(cell=ps.cells.LSTM(n_units), head=ps.heads.Categorical(n_symbols), seed=0)
if options.model and Path(options.model).exists():
    model = ps.load(options.model)
else:
    training = {"learning_rate": 1e-2 if options.smoke else 3e-3, "schedule": "linear", "truncate": 64}
    model.fit(streams, optimizer="adam", max_iterations=n_passes, validation=False, seed=0, **training)
    print(f"{n_passes * -(-size // 64)} updates in {model.history.seconds:.0f} seconds")
    if options.model:
        model.save(options.model)

unread = torch.as_tensor(test, dtype=torch.float64).unsqueeze(-1)
nats = -model.score(unread)
print(f"LSTM-{n_units}      {nats:.3f} nats per character, perplexity {np.exp(nats):5.2f}")

# %% [markdown]
# How much of its past does it use? Start it anew at many places of the held-out text and let it read from there: the
# score falls with every character read, passes the 5-gram's, which never knows more than four, and goes on falling.

# %%
reach = 32 if options.smoke else 256
starts = unread[:, 0].unfold(0, reach, 64).unsqueeze(-1)
by_age = -model.filter(starts).log_prob.mean(0).numpy()
edges = np.unique(np.geomspace(1, reach, 24).astype(int)) - 1
ages = np.add.reduceat(np.arange(1, reach + 1), edges) / np.diff([*edges, reach])
by_age = np.add.reduceat(by_age, edges) / np.diff([*edges, reach])

# %% [markdown]
# ## Writing
#
# `forecast` draws what may come next, character by character.

# %%
prompt = "def parse(self" if "tinyshakespeare" not in path.name else "ROMEO:\n"
known = set(text.vocabulary)
seen = text.encode("".join(c for c in prompt if c in known)).astype(float)
written = model.forecast(seen, 20 if options.smoke else 500, n_samples=1, seed=1).samples[0]
print("\n" + prompt + text.decode(written) + "\n")

# %% [markdown]
# ## Looking inside
#
# No unit was told to do anything. Some can be read all the same. Among the 256 we look for the one that follows the
# place in the line most closely, for which it must count, and for the one that best tells the names of speakers (or,
# in source code, comments) from what is said.


# %%
def features(passage: str) -> dict[str, np.ndarray]:
    """Numbers that a reader could keep, one for each character."""
    lines = passage.split("\n")
    column = np.concatenate([np.arange(len(line) + 1) for line in lines])[: len(passage)]
    special = np.concatenate(
        [np.full(len(line) + 1, line.endswith(":") or line.lstrip().startswith("#")) for line in lines]
    )[: len(passage)]
    return {"the place in the line": column, "a speaker's name": special.astype(float)}


passage = text.decode(test[: 400 if options.smoke else 20_000])
activities = model.cell.output(model.filter(text.encode(passage).astype(float)).predicted.state)[1:].numpy()
wanted = {name: value[: len(activities)] for name, value in features(passage).items()}
centred = activities - activities.mean(0)
shown: dict[str, tuple[int, float]] = {}
for name, value in wanted.items():
    away = value - value.mean()
    norms = np.sqrt((centred**2).sum(0) * (away**2).sum())
    correlation = np.divide(away @ centred, norms, out=np.zeros(len(norms)), where=norms > 0)
    unit = int(np.abs(correlation).argmax())
    shown[name] = (unit, float(correlation[unit]))
    print(f"unit {unit:3d} follows {name}: correlation {correlation[unit]:+.2f}")

# %%
figure = plt.figure(figsize=(11, 8), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(1.9, 1))
length = min(700, len(activities))
for axes, (name, (unit, r)) in zip(left.subplots(2, 1), shown.items(), strict=True):
    plot.text_activity(passage[:length], activities[:length, unit], axes, width=62, fontsize=6)
    axes.set_title(f"unit {unit}: {name} (r = {r:+.2f})", loc="left", fontsize="medium")
upper, lower = right.subplots(2, 1)
names = [f"{n}-gram" for n in grams] + [f"LSTM-{n_units}"]
values = [*grams.values(), nats]
colors = [plot.PALETTE[5]] * len(grams) + [plot.PALETTE[1]]
upper.barh(names, values, color=colors)
for place, value in enumerate(values):
    upper.annotate(f"{value:.3f}", (value, place), (-4, 0), textcoords="offset points", ha="right", va="center")
upper.invert_yaxis()
upper.set_title("nats per held-out character", loc="left", fontsize="medium")
lower.semilogx(ages, by_age, color=plot.PALETTE[1])
lower.axhline(grams[5], color=plot.PALETTE[0], linewidth=1)
lower.annotate("5-gram", (1, grams[5]), (2, 4), textcoords="offset points", color=plot.PALETTE[0])
lower.annotate(f"LSTM-{n_units}", (2.2, float(by_age[1])), color=plot.PALETTE[1])
lower.set(xlabel="characters read", ylabel="nats per character")
lower.set_title("what reading on is worth", loc="left", fontsize="medium")
for axes in (upper, lower):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(options.output, dpi=50 if options.smoke else 150)

print(
    f"result: {nats:.3f} nats per held-out character for the LSTM "
    f"(trivial baseline: {grams[5]:.3f}, the 5-gram by Witten and Bell)"
)
