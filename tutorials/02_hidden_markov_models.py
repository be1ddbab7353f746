# %% [markdown]
# # Hidden Markov models
#
# A hundred and seven counts: how many earthquakes of magnitude 7 and more the world had in each year from 1900 to
# 2006. If they came independently, at a constant rate, the counts would be Poisson, with a variance equal to their
# mean. The mean is 19, the variance is 52, and busy years stand next to busy years. Something lasts.
#
# A hidden Markov model says that what lasts is a *state*, one of K, that nobody sees:
#
#     z_0 ~ stationary law of the chain                          the state of 1900
#     for every year t:
#         y_t     ~ Poisson(rates[z_t])                          the count, which is seen
#         z_{t+1} ~ Categorical(transition_matrix[z_t])          the state moves, or stays
#
# Given the state, the past is irrelevant for the future. All that the model knows about its past is therefore a table
# of K probabilities, its belief. This page follows that table: how it is computed, how many states it should have, how
# far its numbers can be trusted, and how much it can remember.
#
# The model and the first fits are those of Zucchini and MacDonald, *Hidden Markov Models for Time Series* (2009).

# %%
import argparse
import math

import matplotlib.pyplot as plt
import torch
from scipy.stats import probplot

import probseq as ps
from probseq import plot
from probseq.evaluation import choose_n_states, permute_states, pseudo_residuals

parser = argparse.ArgumentParser(description="Hidden Markov models: earthquakes, and what K states can remember.")
parser.add_argument("--output", default="hidden_markov_models.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="few states and little data, to see that it runs")
options, _ = parser.parse_known_args()

counts = ps.datasets.earthquakes()
print(f"mean {counts.mean():.1f}, variance {counts.var():.1f}")


def make(n_states: int) -> ps.HMM:
    return ps.HMM(n_states, emission=ps.emissions.Poisson(1), initial="stationary")


# %% [markdown]
# ## Learning
#
# `fit` climbs log p(y) by expectation-maximisation. Each iteration asks for the posterior of the states under the
# current parameters, and then for the parameters that would be best if the states were as that posterior says. It
# never goes down, and it stops at a hill that need not be the highest, hence restarts from several clusterings of the
# data.
#
# The book's values of -log p(y), to check against, are 391.9189 for one state and 342.3183 for two.

# %%
sizes = [1, 2, 3] if options.smoke else [1, 2, 3, 4]
n_restarts = 1 if options.smoke else 5
fits = {k: make(k).fit(counts, n_restarts=n_restarts, seed=0, tolerance=1e-7) for k in sizes}

print("states   -log p(y)       AIC       BIC")
for k, fit in fits.items():
    print(f"{k:6d}{-fit.log_prob(counts).item():12.4f}{fit.aic(counts):10.2f}{fit.bic(counts):10.2f}")

# %% [markdown]
# ## How many states
#
# More states always fit better, so -log p(y) cannot choose. The criteria of Akaike and Schwarz subtract a price per
# parameter, 1 and log(n) / 2 nats, which is right for long series of regular models, and this is neither quite.
# Cross-validation asks the question directly: cut the series into blocks, fit to all blocks before the held-out one,
# and score the block given its past. The score is in nats per year, the same currency in which any other model can
# answer.

# %%
choice = choose_n_states(
    make, counts, sizes, n_folds=2 if options.smoke else 5, n_restarts=1 if options.smoke else 3, seed=0
)
print(choice)

# %% [markdown]
# Cross-validation takes three states, and so do AIC and BIC: a fourth would explain no more than it costs. The
# states come out of a fit in no particular order; `permute_states` sorts them by their rate.

# %%
three = fits[3]
quiet_first = three.emission.rates[:, 0].argsort().tolist()
three = permute_states(three, quiet_first)
names = ["quiet", "normal", "busy"]

# %% [markdown]
# ## Three questions about the state
#
# - **Filtering**: what did one know in year t? p(z_t | y_0 .. y_t), by the forward recursion: move the table by the
#   transition matrix, multiply it by the probability of the count, normalise. The normaliser is p(y_t | y_<t).
# - **Smoothing**: what does one know about year t in hindsight? p(z_t | all y), by a second pass backwards. It is the
#   derivative of log p(y) with respect to the log-probability of each state in each year, which is why the library
#   has one backward recursion for smoothing, for learning and for gradients.
# - **Decoding**: which *sequence* of states is the most probable one? Viterbi's algorithm. That is another question
#   than which state is the most probable in each year: a path pays for its moves.
#
# The filter hesitates where the smoother knows. One year with 34 earthquakes, 1957, persuades it of a busy spell, and
# the calm years after it take that back. In 1942, with 27, it sees a normal year, and the 41 of the year after make it
# the first of a busy decade. The most probable path commits itself in all years at once, which is good for a picture
# and says little about certainty: there are very many paths, and even the best one is hardly probable.

# %%
filtered, smoothed, path = three.filter(counts), three.smooth(counts), three.decode(counts)
surprise = filtered.updated.probs.gather(-1, path.unsqueeze(-1)).squeeze(-1)
print(
    "years in which the filter gave the decoded state less than even odds:",
    counts.index[(surprise < 0.5).numpy()].tolist(),
)
with torch.no_grad():
    certainty = (three.path_log_prob(path, counts) - three.log_prob(counts)).exp()
print(f"the decoded path has probability {certainty:.4f}")

# %% [markdown]
# ## How sure the parameters are
#
# Where log p(y) is sharply curved, the data leave little choice. `standard_errors` inverts that curvature, the
# observed information, in coordinates without redundancy (two free probabilities per row of three), and carries it
# over to the probabilities themselves. An estimate on the edge of its set, such as a transition that never happened,
# has no curvature to invert, and the table says so.

# %%
print(three.summary(counts))

# %% [markdown]
# ## Is anything left over
#
# If the model were true, the number P(Y_t <= y_t | y_<t) would be uniform, and its normal score would be standard
# normal and independent over the years. A count gives a short interval, whose middle we take. With one state the
# scores have a spread of 1.6 and follow each other; with three there is little left to explain.

# %%
scores = {k: pseudo_residuals(fits[k], counts).middle[:, 0] for k in (1, 3)}
for k, z in scores.items():
    successive = torch.corrcoef(torch.stack([z[:-1], z[1:]]))[0, 1]
    print(f"{k} states: standard deviation {z.std():.2f}, correlation of successive years {successive:.2f}")

# %% [markdown]
# ## What K states can remember
#
# Whatever the past tells the future, it tells through the state of the present. A choice among K is worth at most
# log2 K bits, so no more than log2 K bits about the past can reach the future. Geoffrey Hinton's lectures put it as
# an objection: what the first half of a sentence says about the second half (its syntax, its topic, the voice and
# accent of the speaker) may be a hundred bits, and a hidden Markov model would need two to the hundredth states for
# it, where a hundred binary units of a recurrent network might do. The limit can be measured. The mutual information
# between a stretch of N steps and the next N is the expectation of
#
#     log p(both) - log p(first) - log p(second),
#
# and each term is one call of `log_prob`, with a stationary start. Averaged over draws from the model itself, it is
# the information that the model really carries across the middle. The three lines below work for every family.


# %%
@torch.no_grad()
def memory(model: ps.StateSpaceModel, n_draws: int, steps: int = 100) -> tuple[float, float]:
    """Bits that `steps` steps tell about the next ones, and the standard error of that average."""
    y = model.sample(2 * steps, (n_draws,), seed=1)
    bits = (model.log_prob(y) - model.log_prob(y[:, :steps]) - model.log_prob(y[:, steps:])) / math.log(2)
    return float(bits.mean()), float(bits.std()) / math.sqrt(n_draws)


n_draws = 50 if options.smoke else 1000
quake_bits, quake_error = memory(three, n_draws)
print(f"the earthquake model carries {quake_bits:.2f} ± {quake_error:.2f} of its log2 3 = {math.log2(3):.2f} bits")

# %% [markdown]
# Some models use their states to the full. A clock that shows its hour and moves on by one each step is a hidden
# Markov model with K states; from its past one knows the hour exactly, and that is log2 K bits.


# %%
def clock(n_hours: int) -> ps.HMM:
    hours = torch.eye(n_hours, dtype=torch.float64)
    return ps.HMM(
        initial_probs=torch.full((n_hours,), 1 / n_hours),
        transition_matrix=hours.roll(1, 1),
        emission=ps.emissions.Categorical(probs=hours),
    )


many = [1, 2, 4] if options.smoke else [1, 2, 4, 8, 16, 32]
clocks = [memory(clock(k), 4)[0] for k in many]

# %% [markdown]
# Most of the world is no clock. Take a pendulum in a breeze: its position and velocity turn once in 25 steps, are
# pushed a little at every step, and are measured with a small error. That is a linear dynamical system with two real
# numbers of state. How much its past says about its future is limited by the noise alone.
#
# We let hidden Markov models of growing size learn the pendulum from a hundred recordings, and measure two things:
# the bits that each one carries, and what it scores on recordings that it has not seen, beside the pendulum's own
# score, which no model can beat on average.

# %%
turn, damping = torch.tensor(2 * math.pi / 25, dtype=torch.float64), 0.98
rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).reshape(2, 2)
both = torch.eye(2, dtype=torch.float64)
pendulum = ps.LDS(
    transition_matrix=damping * rotation,
    transition_cov=(1 - damping**2) * both,
    emission_matrix=both,
    emission_cov=0.01 * both,
    initial_mean=[0.0, 0.0],
    initial_cov=both,
)
n_recordings = 20 if options.smoke else 100
recordings, unseen = (pendulum.sample(200, (n_recordings,), seed=seed) for seed in (0, 1))
chains = [
    ps.HMM(k, emission=ps.emissions.Gaussian(2), initial="stationary").fit(recordings, seed=0, tolerance=1e-3)
    for k in many
]
carried = [memory(chain, n_draws) for chain in chains]
limit, _ = memory(pendulum, n_draws)

print("states   log2 K    bits carried   nats per step, unseen")
for k, chain, (bits, error) in zip(many, chains, carried, strict=True):
    print(f"{k:6d}{math.log2(k):9.2f}{bits:9.2f} ± {error:.2f}{chain.score(unseen):16.3f}")
print(f"the pendulum{limit:12.2f}{pendulum.score(unseen):23.3f}")

# %% [markdown]
# ## The figure

# %%
INK, BLUE, ORANGE, GREEN = "#333333", "#0072B2", "#D55E00", "#009E73"
figure = plt.figure(figsize=(10, 9.5), layout="constrained")
rows = figure.subfigures(2, 1, height_ratios=(5, 3.6))
top = rows[0].subplots(3, 1, sharex=True, height_ratios=(2.6, 1, 1))
left, middle, right = rows[1].subplots(1, 3, width_ratios=(1, 1, 1.35))

plot.series(counts, top[0])
top[0].plot(counts.index, three.emission.rates.detach()[path, 0], color=ORANGE, drawstyle="steps-mid", zorder=1)
plot.viterbi_ribbon(three, counts, top[0], labels=names)
top[0].set_ylabel("earthquakes a year")
for axes, kind in zip(top[1:], ("filtered", "smoothed"), strict=True):
    plot.posterior_heatmap(three, counts, axes, kind=kind, labels=names)
for axes in top[:-1]:
    axes.set_xlabel("")

held_out = choice.table["score"]
left.plot(held_out.index, held_out, "o-", color=BLUE)
left.set(xlabel="states", ylabel="nats a year", xticks=sizes)
left.set_title("score on held-out years", loc="left", fontsize="medium")

for k, color in ((1, INK), (3, BLUE)):
    (theory, ordered), _ = probplot(scores[k].numpy())
    middle.plot(theory, ordered, ".", color=color)
    name, offset = ("1 state", (-12, 0)) if k == 1 else (f"{k} states", (0, -48))
    middle.annotate(name, (theory[-1], ordered[-1]), offset, textcoords="offset points", color=color, ha="right")
middle.axline((0, 0), slope=1, color=INK, linewidth=0.7, alpha=0.5)
middle.set(xlabel="normal quantile", ylabel="residual, sorted")
middle.set_title("pseudo-residuals", loc="left", fontsize="medium")

x = [math.log2(k) for k in many]
right.plot(x, x, color=INK, linewidth=1)
right.fill_between(x, x, [max(x)] * len(x), color=INK, alpha=0.08, linewidth=0)
right.plot(x, clocks, "o", color=INK, markerfacecolor="white")
right.plot(x, [bits for bits, _ in carried], "o-", color=BLUE)
right.axhline(limit, color=ORANGE, linewidth=1.2)
right.plot(math.log2(3), quake_bits, "D", color=GREEN)
right.text(0.2, 0.55 * max(x), "beyond log$_2$ K", color=INK)
right.text(0.2, limit, "the pendulum itself", color=ORANGE, va="bottom")
right.annotate("clocks", (x[-2], clocks[-2]), (8, -14), textcoords="offset points", color=INK)
right.annotate("learned from\nthe pendulum", (x[-1], carried[-1][0]), (0, -44), textcoords="offset points",
               color=BLUE, ha="right", va="top")  # fmt: skip
right.annotate("earthquakes", (math.log2(3), quake_bits), (7, -4), textcoords="offset points", color=GREEN)
right.set(xlabel="states K", ylabel="bits from past to future", xticks=x, xticklabels=many)
right.set_title("memory", loc="left", fontsize="medium")
for axes in (left, middle, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(options.output, dpi=50 if options.smoke else 150)

print(
    f"result: {held_out.loc[3]:.3f} nats per held-out year with three states "
    f"(trivial baseline: {held_out.loc[1]:.3f}, independent Poisson counts)"
)

# %% [markdown]
# ## Reading the figure
#
# The seismic century had a normal rate of 20 large earthquakes a year, busy spells of 30 a year, and quiet ones of
# 13, the longest from the eighties on. Whether these are states of the Earth or a description of something that moves
# continuously, the model cannot say; the three levels predict held-out years better than one or two do.
#
# Below right, the grey region is forbidden: K states carry at most log2 K bits. Clocks sit on the edge. The chains that
# learned the pendulum stay below it, because they spend states on telling apart positions that overlap. Each doubling
# of K brings about six tenths of a bit and four tenths of a nat per step, and the last chain, with thirty-two states,
# is still more than a bit short of what two real numbers carry. That is the price of a memory that is a choice from
# a list: it grows with the logarithm of the list. A linear dynamical system and a recurrent network keep their memory
# in several numbers side by side, where another bit costs a part of one more number, and not twice the list.
