# %% [markdown]
# # How many regimes, and how sure are we?
#
# Major earthquakes of the world, a count a year (1900 to 2006). Counts of one rate would be Poisson; these vary too
# much and come in spells. A hidden Markov model says: the rate is one of K, and the state that chooses it is sticky.
#
#     z_{t+1} ~ transition_matrix[z_t],      y_t ~ Poisson(rates[z_t])
#
# A fit gives two rates and a path. A posterior says how far either can be trusted.

# %%
import argparse
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import distributions as D

import probseq as ps
from probseq.errors import ConvergenceWarning

parser = argparse.ArgumentParser(description="Earthquakes: the posterior of a hidden Markov model.")
parser.add_argument("--output", default="bayesian_hmm.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="few draws, to see that it runs")
options, _ = parser.parse_known_args()
if options.smoke:
    warnings.simplefilter("ignore", ConvergenceWarning)  # so few draws cannot have converged

quakes = np.array([
    13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24, 22, 23, 22, 18, 25, 21, 21, 14, 8, 11, 14, 23, 18, 17, 19,
    20, 22, 19, 13, 26, 13, 14, 22, 24, 21, 22, 26, 21, 23, 24, 27, 41, 31, 27, 35, 26, 28, 36, 39, 21, 17, 22,
    17, 19, 15, 34, 10, 15, 22, 18, 15, 20, 15, 22, 19, 16, 30, 27, 29, 23, 20, 16, 21, 21, 25, 16, 18, 15, 18,
    14, 10, 15, 8, 15, 6, 11, 8, 7, 18, 16, 13, 12, 13, 20, 15, 16, 12, 18, 15, 16, 13, 15, 16, 11, 11,
], dtype=float)  # fmt: skip
years = np.arange(1900, 2007)

# %% [markdown]
# ## Draws by conjugacy
#
# Given the path of states, counts of moves and sums of quakes per state are all that matters: rows of the transition
# matrix are Dirichlet, rates gamma. Given these, the whole path is one draw by the compiled forward-backward sampler.
# `ps.bayes.gibbs` alternates.


# %%
def regimes(k: int) -> ps.HMM:
    return ps.HMM(k, emission=ps.emissions.Poisson(1))


def sticky(k: int) -> D.Dirichlet:
    """A year stays in its regime with probability 0.8 or so, whichever regime it is."""
    return D.Dirichlet(torch.ones(k, k, dtype=torch.float64) + 3 * torch.eye(k, dtype=torch.float64))


rate = D.Gamma(torch.tensor(2.0).double(), torch.tensor(0.1).double())
n = 20 if options.smoke else 600


def posterior_of(k: int, y: np.ndarray) -> ps.bayes.Posterior:
    priors = {"transition_matrix": sticky(k), "emission.rates": rate}
    return ps.bayes.gibbs(
        regimes(k), y, priors=priors, n_samples=n, n_warmup=n, thin=1 if options.smoke else 8, seed=0, n_jobs=1
    )


posterior = posterior_of(2, quakes)
print(posterior)
print(posterior.summary(["emission.rates", "transition_matrix"]).round(3).to_string())

# %% [markdown]
# ## States have no names
#
# The prior does not say which state is the quiet one, so the posterior has two equal parts and chains may swap them.
# An average over both is meaningless: every rate would be 20. The library renames the states of every draw into one
# order, by what the states are (Stephens' algorithm), and says how many draws it renamed. Here we show what happens to
# draws whose names were shuffled on purpose.

# %%
flips = np.random.default_rng(0).integers(0, 2, posterior.n_draws)
shuffled = ps.bayes.relabelling.renamed(posterior, np.where(flips[:, None] == 0, [[0, 1]], [[1, 0]]))
print("rates, names shuffled:", [f"{float(value):.1f}" for value in shuffled.mean("emission.rates")[:, 0]])
mended = ps.bayes.ordered(shuffled, "emission.rates")
print("rates, by size       :", [f"{float(value):.1f}" for value in mended.mean("emission.rates")[:, 0]])

# %% [markdown]
# ## How many?
#
# A fit always prefers more states. What would each model have said of the next year, with all its uncertainty, from
# 1980 on? Leave-future-out answers from few posteriors: draws given all years are reweighted towards those given the
# years before t, and redrawn when the weights get uneven. One rate is far behind two; a third gains an eighth of a nat
# a year more, with a quiet state for the years since 1980.

# %%
first = 80 if not options.smoke else 105
scores: dict[int, float] = {}
for k in (1, 2) if options.smoke else (1, 2, 3):
    found = (posterior if k == 2 else posterior_of(k, quakes)).leave_future_out(first)
    scores[k] = found.elpd / (len(quakes) - first)
    print(f"{k} states: {scores[k]:.3f} nats a year, {found.n_refits} posteriors drawn anew")

# %% [markdown]
# ## The picture
#
# Left: the rates' posterior. Right: the probability of the busy state, with the parameters' uncertainty averaged in.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.2), layout="constrained", width_ratios=[1, 2])
busy = int(posterior.mean("emission.rates")[:, 0].argmax())
for state, color in ((1 - busy, "tab:blue"), (busy, "tab:red")):
    draws = posterior.draws["emission.rates"][..., state, 0].flatten().numpy()
    left.hist(draws, bins=40, density=True, color=color, alpha=0.6)
left.set(xlabel="earthquakes a year", yticks=[], title="Posterior of the two rates")
probability = posterior.states(20 if options.smoke else 300).probs[:, busy]
right.bar(years, quakes, color="0.75", width=1.0)
right.set(ylabel="earthquakes", xlabel="year", title="Probability of the busy state (red)")
twin = right.twinx()
twin.plot(years, probability, color="tab:red", lw=2)
twin.set_ylim(0, 1.05)
figure.savefig(options.output, dpi=50 if options.smoke else 110)

# %%
print(
    f"result: {scores[2]:.3f} nats a year for two regimes, the future left out "
    f"(trivial baseline: {scores[1]:.3f}, one rate)"
)
