# %% [markdown]
# # Reading what a pen wrote
#
# A line of handwriting is a few hundred movements of a pen; what it says is a dozen characters. Nobody says where one
# ends and the next begins, and in cursive writing nobody could. A network that reads must therefore learn *when* to
# speak as well as what to say.
#
# *Connectionist temporal classification* (Graves, Fernandez, Gomez & Schmidhuber 2006) lets it say a character, or
# nothing, at each point. What counts is what remains when repeats are merged and silences dropped,
#
#     A A - A B B   ->   A A B,
#
# and the probability of a text is the sum over all ways of saying it, which the forward algorithm of hidden Markov
# models adds up in one sweep. Since the whole line lies there before it is read, two LSTMs may read it from both ends.
# That makes it no filter: it has no p(y_t | y_<t), and the library refuses to pretend.

# %%
import argparse
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from probseq.cells import LSTM, Bidirectional
from probseq.handwriting import NGram, Reader, Strokes, error_rates, plot_reading
from probseq.handwriting.train_reader import SEEN, UNSEEN, lines
from probseq.io import load

parser = argparse.ArgumentParser(description="A network that reads handwriting.")
parser.add_argument("--output", default="read.png", help="where the figure goes")
parser.add_argument("--model", help="read the fitted network from this file, or write it there")
parser.add_argument("--smoke", action="store_true", help="a small network on two letters, to see that it runs")
options, _ = parser.parse_known_args()

# %% [markdown]
# ## Lines without end
#
# Hershey's stroke fonts (hersheytext.json, in the folder that `PROBSEQ_DATA` names) in the hands of people made up:
# each has a size, a slant and a tremor of his own and moves from rest to rest with least jerk. Which character each
# point belongs to is known, which no recording can tell; the network is not told. Where the fonts are missing, two
# letters are made up on the spot.


# %%
def zigzags(n_lines: int, seed: int) -> list[Strokes]:
    """Words of two letters: an "a" goes up and down, a "b" around a square."""
    draws = np.random.default_rng(seed)
    shapes = {"a": [(1.0, -3.0), (1.0, 3.0)], "b": [(0.0, -2.0), (2.0, 0.0), (0.0, 2.0)], " ": [(3.0, 0.0)]}
    made: list[Strokes] = []
    for _ in range(n_lines):
        text = "".join(draws.choice(list("ab"), size=draws.integers(2, 5))) + " ab"
        steps = np.array([step for character in text for step in shapes[character] for _ in range(2)])
        owners = [k for k, character in enumerate(text) for _ in range(2 * len(shapes[character]))]
        offsets = steps + 0.2 * draws.normal(size=steps.shape)
        made.append(Strokes(offsets, np.arange(len(steps)) == len(steps) - 1, text, np.array(owners)))
    return made


synthetic = Path(os.environ.get("PROBSEQ_DATA", ".")) / "hersheytext.json"
small = options.smoke or not synthetic.exists()
if small:
    alphabet, train, held, new = "ab ", zigzags(60, 0), zigzags(20, 1), zigzags(20, 2)
else:
    alphabet = " abcdefghijklmnopqrstuvwxyz.,"
    train, held, new = lines(2000, SEEN, 0), lines(150, SEEN, 1), lines(150, UNSEEN, 1)
texts = [line.text or "" for line in held]
points = sum(map(len, train)) / sum(len(line.text or "") for line in train)
print(f"{len(train)} lines, {points:.1f} points to a character")

# %% [markdown]
# ## Learning to speak at the right time
#
# At first the cheapest thing to say is nothing, everywhere. Then, rather suddenly, single characters appear as spikes.
# A network with a thousand lines for each writer of a real collection (IAM-OnDB: 221 writers, 12,000 lines; Graves et
# al. 2009 read 79.7 % of its words, a hidden Markov model 65.0 %) takes days; this one ten minutes.

# %%
start = time.perf_counter()
size = 8 if small else 72
if options.model and Path(options.model).exists():
    reader = load(options.model)
else:
    reader = Reader(alphabet, reader=Bidirectional(LSTM(size), LSTM(size)), seed=0)
    training = {"batch_size": 20 if small else 32, "learning_rate": 2e-2 if small else 5e-3}
    said = [line.text or "" for line in train]
    passes = 40 if small else 25
    reader.fit(
        said, train, schedule="linear", clip_norm=1.0, max_iterations=passes, patience=passes, seed=0, **training
    )
    if options.model:
        reader.save(options.model)
print(f"{time.perf_counter() - start:.0f} s")

# %% [markdown]
# ## What was read
#
# The character error rate counts insertions, deletions and substitutions for each character written. Its trivial
# baseline is to read nothing at all, or always the commonest character: nearly one error a character. Words that the
# network never saw are harder, since it has come to expect words; a search over many readings at once, with counts of
# the characters that follow each other in the language, can win some of it back.

# %%
read = reader.decode(held)
rates = error_rates(texts, read)
unseen = error_rates([line.text or "" for line in new], reader.decode(new))
few = 10 if small else 40
language = NGram(alphabet, 4).fit(texts if small else [" ".join(SEEN + UNSEEN)])
searched = error_rates(texts[:few], reader.decode(held[:few], beam=10, language=language, weight=0.5, bonus=0.5))
print(f"words seen: {rates.characters:.1%} of characters wrong, {rates.words:.1%} of words")
print(f"words not seen: {unseen.characters:.1%} of characters")
alone = error_rates(texts[:few], read[:few])
print(f"the first {few} lines: {alone.characters:.1%}, with a model of the language {searched.characters:.1%}")
for text, found in list(zip(texts, read, strict=True))[:3]:
    print(f"   {text!r} read as {found!r}")
commonest = max(alphabet, key="".join(texts).count)
baseline = error_rates(texts, [commonest] * len(texts)).characters

# %% [markdown]
# ## Four rows
#
# Hinton's lecture shows, while a line is read, the characters as they are recognised, the states of the memory cells,
# the pen, and how much the strongest character at one point depends on every coordinate of the pen. The last row is the
# most telling: backpropagation down to the input shows *where the network looked*. It finds the letter's own strokes,
# and often a part of its neighbours.

# %%
line = min(held, key=lambda one: abs(len(one) - np.median([len(other) for other in held])))
rows = plot_reading(reader, line)
rows[0].set_title(f"{line.text!r} read as {reader.decode(line)!r}", loc="left", fontsize="medium")
plt.savefig(options.output, dpi=150)

inside = total = 0
for one in held:
    best = reader.log_probs(one).argmax(1)
    begins = np.flatnonzero((best > 0) & (best != np.r_[0, best[:-1]]))
    if reader.decode(one) != one.text or one.characters is None:
        continue
    for place, step in enumerate(begins):
        if one.text[place] != " ":
            where = int(np.hypot(*reader.sensitivity(one, int(step)).T).argmax())
            inside, total = inside + int(one.characters[where] == place), total + 1
if total:
    print(f"the largest gradient lies on the character itself for {inside / total:.0%} of {total} characters")

# %%
print(
    f"result: {100 * rates.characters:.2f} percent of the characters read wrongly "
    f"(trivial baseline: {100 * baseline:.2f}, always {commonest!r})"
)
