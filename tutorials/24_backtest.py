# %% [markdown]
# # Back-tests
#
# A forecast is worth what it would have been worth: made with the data of its day, by a model fitted to the data of
# its day. A back-test goes through the past and does that again and again. At every *origin* the models are fitted
# to what was known (all of it, or a window), they say what comes next, and what came scores them.
#
#     for every origin o:
#         fit to y[:o]
#         score p(y[o + h - 1] | y[:o])       for h = 1 .. H
#
# Scores of one day are mostly luck. What remains over many days can be tested, and forecasters that are good at
# different times can be mixed. The yearly numbers of sunspots are the oldest example: Yule fitted the first
# autoregression to them in 1927.

# %%
import argparse

import matplotlib.pyplot as plt
import numpy as np

import probseq as ps
from probseq.evaluation import backtest

parser = argparse.ArgumentParser(description="A back-test on sunspots: refits, tests, calibration, stacking.")
parser.add_argument("--output", default="backtest.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="few origins, to see that it runs")
options, _ = parser.parse_known_args()

sunspots = ps.datasets.sunspots()
if options.smoke:
    sunspots = sunspots.iloc[-140:]

# %% [markdown]
# ## Through the years
#
# The count varies more when it is large, so a Gaussian with one variance is wrong on the raw scale. We take square
# roots, and remember it: a density of sqrt(y) is not one of y. Both models below are scored on the same scale.
#
# An autoregression of order two (Yule's) and one of order nine are fitted from scratch every ten years (`refit_every`),
# read every year in between, and forecast one and five years ahead. `random walk` and `iid` come along unasked.

# %%
y = np.sqrt(sunspots)
models = {"AR(2)": ps.AR(2)} if options.smoke else {"AR(2)": ps.AR(2), "AR(9)": ps.AR(9)}
result = backtest(models, y, first=0.5, horizons=(1, 5), refit_every=60 if options.smoke else 10, progress=False)
print(result)

# %% [markdown]
# ## Can it be chance?
#
# The difference of two scores has a mean and a standard error, but years are not independent. Diebold and Mariano's
# test allows for that. The model confidence set asks the same of all models at once: which of them cannot be told
# from the best?

# %%
best = result.models[0]
for other in result.models[1:]:
    test = result.diebold_mariano(best, other)
    gain = f"{test.difference:+.3f} ± {test.standard_error:.3f} nats a year"
    print(f"{best} over {other:12s} {gain}, p = {test.p_value:.2g}")
print("the 90 % confidence set:", ", ".join(result.confidence_set().members))

# %% [markdown]
# ## Are the probabilities right?
#
# P(Y <= y) of what came must be uniform if the model is true. Tests of that say whether the spread is right, which
# scores alone do not.

# %%
for name in result.models:
    found = result.calibration(name)
    print(
        f"{name:12s} {found.inside_90:.0%} inside the 90 % interval, uniform p = {found.uniform.p_value:.2g}, "
        f"independent and normal p = {found.berkowitz.p_value:.2g}"
    )

# %% [markdown]
# ## Mix them
#
# Stacking finds the weights with which the mixture of all forecasters would have scored best. They are learned on
# the first half of the tested years and judged on the second. A weight of zero says that a model adds nothing to the
# others, however well it scores alone. Nothing promises that the mixture wins: here the share of AR(2), which paid in
# the first half, costs a little in the second, where AR(9) alone is best.

# %%
table = result.table_of("log_score", 1)
half = len(table) // 2
weights = ps.evaluation.stacking_weights(table.iloc[:half])
mixture = np.log(sum(weight * np.exp(table[name].iloc[half:]) for name, weight in weights.items()))
for name, weight in weights.items():
    print(f"{name:12s} weight {weight:.2f}, alone {table[name].iloc[half:].mean():.3f} nats a year in the second half")

# %% [markdown]
# ## The picture
#
# Above: the forecasts of five years ahead as they were made, and what came. Below: when the best model won its
# points. The steps are single years; a model with fixed spread pays at the maxima of the cycle.

# %%
figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 6), layout="constrained", sharex=True)
ahead = result.scores[(result.scores["model"] == best) & (result.scores["horizon"] == 5)]
years = np.asarray(sunspots.index)[ahead["target"]]
upper.plot(np.asarray(sunspots.index), y, ".-", color="#333333", lw=0.6, ms=3, label="what came")
upper.plot(
    years, np.asarray(y)[ahead["target"]] - ahead["error"], color="#0072B2", label=f"{best}, said five years before"
)
upper.set_xlim(np.asarray(sunspots.index)[int(result.first[0]) - 10], years[-1])
upper.set_ylabel("square root of sunspots")
upper.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
for name, color in zip(result.models[1:], ("#D55E00", "#009E73", "#CC79A7"), strict=False):
    gained = (table[best] - table[name]).cumsum()
    targets = table.index.get_level_values("target")
    lower.plot(np.asarray(sunspots.index)[targets], gained, color=color, label=f"over {name}")
lower.axhline(0, color="#333333", lw=0.6)
lower.set_ylabel(f"nats gained by {best}")
lower.set_xlabel("year")
lower.legend(frameon=False, loc="upper left")
for axes in (upper, lower):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(options.output, dpi=50 if options.smoke else 150)

baseline = table["random walk"].iloc[half:].mean()
print(
    f"result: {mixture.mean():.3f} nats per year for the stacked mixture in the second half "
    f"(trivial baseline: {baseline:.3f}, the random walk)"
)

# %% [markdown]
# `ps.evaluation.stack(models, y)` makes the mixture itself a model: it has the four steps, so it filters, forecasts
# and is scored like every other. For many series pass a list; for many cores `n_jobs=-1`; for a deadline
# `time_budget=600`. Ctrl-C keeps what is done.
