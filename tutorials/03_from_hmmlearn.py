# %% [markdown]
# # From hmmlearn
#
# hmmlearn is where many people met hidden Markov models in Python. This page is for them: the same model in both
# libraries with the same numbers, what the names are here, what can be asked here that could not be asked there, and
# how long each takes.

# %%
import argparse
import logging
import time
import warnings
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import torch
from hmmlearn.hmm import GaussianHMM
from scipy.stats import norm

import probseq as ps
from probseq import plot

parser = argparse.ArgumentParser(description="The same hidden Markov model in hmmlearn and here.")
parser.add_argument("--output", default="from_hmmlearn.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="short series and few repeats, to see that it runs")
options, _ = parser.parse_known_args()
logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # it speaks up when rounding makes EM fall by 1e-13

nile = ps.datasets.nile()
X = nile.to_numpy()[:, None]  # hmmlearn wants (n_samples, n_features)

# %% [markdown]
# ## The same model, the same numbers
#
# A model fitted over there comes here as it is, and goes back.

# %%
theirs = GaussianHMM(2, covariance_type="diag", n_iter=100, random_state=0).fit(X)
ours = ps.HMM.from_hmmlearn(theirs)

with torch.no_grad():
    log_prob = float(ours.log_prob(nile))
np.testing.assert_allclose(log_prob, theirs.score(X), rtol=1e-12)
np.testing.assert_allclose(ours.smooth(nile).probs, theirs.predict_proba(X), atol=1e-10)
np.testing.assert_array_equal(ours.decode(nile), theirs.predict(X))
np.testing.assert_allclose([ours.aic(nile), ours.bic(nile)], [theirs.aic(X), theirs.bic(X)], rtol=1e-12)
np.testing.assert_allclose(ours.to_hmmlearn().score(X), theirs.score(X), rtol=1e-12)
print(f"log p(y): {theirs.score(X):.8f} there, {log_prob:.8f} here")

# %% [markdown]
# | hmmlearn | here |
# |---|---|
# | `GaussianHMM(3, covariance_type="diag")` | `ps.HMM(3, emission=ps.emissions.Gaussian(1, covariance="diag"))` |
# | `CategoricalHMM(3)`, `PoissonHMM(3)` | `emission=ps.emissions.Categorical(n_symbols)`, `Poisson(dim)` |
# | `GMMHMM(3, n_mix=2)` | `emission=ps.emissions.GaussianMixture(dim, 2)` |
# | `startprob_`, `transmat_` | `initial_probs`, `transition_matrix` |
# | `means_`, `covars_` | `emission.means`, `emission.covs` |
# | `score(X)`, the log-likelihood | `log_prob(y)`; `score(y)` is the mean per step, which compares across lengths |
# | `predict(X)`, `decode(X)` | `decode(y)`, and `path_log_prob(path, y)` for its score |
# | `predict_proba(X)` | `smooth(y).probs`; `filter(y).updated.probs` with the past alone |
# | `fit(X, lengths)` | `fit(y, lengths=...)`, or a list of arrays |
# | `n_iter=100, tol=0.01`, total nats | `max_iterations=100, tolerance=1e-5`, nats per step |
# | `params="st"`, what to learn | `fixed={"emission.means", "emission.covs"}`, what to hold |
# | `startprob_prior`, `transmat_prior` | `initial_prior`, `transition_prior` |
#
# Learning takes the same path, too. From the same start, and without the small prior that hmmlearn puts on variances
# by default, the log-likelihood of every iteration agrees. Values that are given to a model here are the start of
# its fit, so there is no `init_params`.

# %%
start = {"startprob_": [0.5, 0.5], "transmat_": [[0.9, 0.1], [0.1, 0.9]], "means_": [[1000.0], [800.0]]}
n_iterations = 12
rival = GaussianHMM(2, covariance_type="diag", init_params="", n_iter=n_iterations, tol=0.0, covars_prior=0.0)
for name, value in start.items():
    setattr(rival, name, np.array(value))
rival.covars_ = np.array([[3e4], [3e4]])
twin = ps.HMM.from_hmmlearn(rival)
rival.fit(X)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ps.errors.ConvergenceWarning)  # twelve iterations, as over there
    twin.fit(nile, max_iterations=n_iterations, tolerance=1e-12)
here, there = np.array(twin.history.objective[:n_iterations]), np.array(rival.monitor_.history)
np.testing.assert_allclose(here, there, rtol=1e-10)

# %% [markdown]
# ## What is new
#
# **Missing data.** Eleven years go missing, 1893 to 1903, in the middle of which the level of the river fell. Over
# there a NaN is an error, and leaving the years out would make 1904 the year after 1892. Here NaN means unknown, and is
# integrated out exactly: in learning, in the likelihood, in the posterior of the states, which becomes uncertain in
# the gap, and coordinate by coordinate if there are several.

# %%
gap = (nile.index >= 1893) & (nile.index <= 1903)
incomplete = nile.mask(gap)
try:
    theirs.score(incomplete.to_numpy()[:, None])
except ValueError as error:
    print("hmmlearn:", str(error).splitlines()[0])

model = ps.HMM(2, emission=ps.emissions.Gaussian(1)).fit(incomplete, n_restarts=5, seed=0)
print("restarts:", ", ".join(f"{score:.4f}" for score in sorted(model.history.restarts, reverse=True)))

# %% [markdown]
# How well does the model know what it has not seen? By the chain rule log p(hidden given the rest) is a difference of
# two likelihoods. The baseline takes the hidden years for independent draws from one normal distribution.

# %%
with torch.no_grad():
    hidden = float(model.log_prob(nile) - model.log_prob(incomplete)) / gap.sum()
baseline = norm(incomplete.mean(), incomplete.std(ddof=0)).logpdf(nile[gap]).mean()

# %% [markdown]
# **Restarts** are an argument; all their scores are kept. **Standard errors** come from the curvature of the
# likelihood, and what sits on the edge of its set is said to do so.

# %%
print(
    model.standard_errors(incomplete)[["estimate", "standard_error", "status"]].to_string(float_format="{:.4g}".format)
)

# %% [markdown]
# **Forecasts** are the exact mixtures of the states' distributions, with quantiles, samples and a pandas index that
# continues. **Streaming** takes one observation at a time, at a cost that does not grow. The stream below is a fresh
# one, for which 1966 is the first year: it believes in the high regime with which the data began, until it sees better.

# %%
forecast = model.forecast(incomplete, steps=10)
print(forecast.to_frame().iloc[[0, -1]].round(0))

stream = model.stream()
for flow in nile.iloc[-5:]:
    print(f"log p(y_t | y_<t) = {float(stream.update(flow)):.3f}, belief {np.round(stream.belief.probs.numpy(), 3)}")

# %% [markdown]
# **Many sequences** are a list of arrays of any lengths, and results come back as such a list. **Gradients** flow
# through `log_prob`, so that a model can be a part of a larger one in torch. Beyond that there are more emissions
# (Student-t, negative binomial, von Mises, products for mixed columns), zeros that stay zeros, a stationary start,
# transitions driven by inputs, and durations that are not geometric (`ps.HSMM`).

# %%
decades = [nile.iloc[:40], nile.iloc[40:70], nile.iloc[70:]]
print("decoded lengths:", [len(path) for path in model.decode(decades)])
model.log_prob(nile).backward()
print("d log p(y) / d means:", model.emission.raw_means.grad.flatten().tolist())

# %% [markdown]
# ## How long it takes
#
# One long series, four states, two coordinates, the same parameters on both sides and one thread. Each time is the
# best of several, taken in turns. The first call of a kind compiles its kernel, once per installation, and is not
# counted.

# %%
torch.set_num_threads(1)
n_steps, n_repeats = (300, 2) if options.smoke else (10_000, 15)
corners = [[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]]
fast = ps.HMM(
    initial_probs=[0.25] * 4,
    transition_matrix=0.9 * np.eye(4) + 0.025,
    emission=ps.emissions.Gaussian(means=corners, covs=[[[1.0, 0.3], [0.3, 1.0]]] * 4),
)
slow = fast.to_hmmlearn()
slow.set_params(n_iter=5, tol=-np.inf, init_params="")
y = fast.sample(n_steps, seed=0)
Y = y.numpy()
given = slow.__dict__.copy()


def learn_there() -> None:
    slow.__dict__.update(given)
    slow.fit(Y)


def learn_here() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.errors.ConvergenceWarning)
        ps.HMM.from_hmmlearn(before).fit(y, max_iterations=5, tolerance=1e-15)


def best_of(calls: list[Callable[[], object]]) -> list[float]:
    """The shortest time of each call in milliseconds, the calls taken in turns."""
    for call in calls:
        call()
    times = []
    for _ in range(n_repeats):
        for call in calls:
            begin = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - begin))
    return [min(times[i :: len(calls)]) for i in range(len(calls))]


@torch.no_grad()
def score_here() -> torch.Tensor:
    return fast.log_prob(y)


before = fast.to_hmmlearn()
tasks: dict[str, list[Callable[[], object]]] = {
    "log-likelihood": [lambda: slow.score(Y), score_here],
    "posterior": [lambda: slow.predict_proba(Y), lambda: fast.smooth(y)],
    "Viterbi": [lambda: slow.predict(Y), lambda: fast.decode(y)],
    "5 EM iterations": [learn_there, learn_here],
}
durations = {task: best_of(calls) for task, calls in tasks.items()}
for task, (there_ms, here_ms) in durations.items():
    print(f"{task:16s}{there_ms:9.2f} ms there{here_ms:9.2f} ms here{there_ms / here_ms:7.1f} times")

# %% [markdown]
# ## The figure

# %%
INK, BLUE, ORANGE = "#333333", "#0072B2", "#D55E00"
figure, panels = plt.subplot_mosaic(
    [["gap", "gap"], ["posterior", "posterior"], ["learning", "speed"]],
    figsize=(10, 9),
    layout="constrained",
    height_ratios=(1.5, 0.8, 1.2),
)
top, belief, learning, speed = panels.values()

span = (1892.5, 1903.5)
plot.forecast_fan(incomplete, forecast, top)
top.plot(nile.index[gap], nile[gap], "o", color=INK, markerfacecolor="white", markersize=4, zorder=3)
top.axvspan(*span, color=INK, alpha=0.07, linewidth=0)
top.text(np.mean(span), 460, "hidden", color=INK, ha="center")
top.set(ylabel="flow ($10^8$ m³)", xlabel="")
top.set_title("a gap in the data, and a forecast", loc="left", fontsize="medium")

high = int(model.emission.means[:, 0].argmax())
high_there, high_here = int(theirs.means_[:, 0].argmax()), int(ours.emission.means[:, 0].argmax())
belief.plot(nile.index, theirs.predict_proba(X)[:, high_there], "o", color=INK, markerfacecolor="white", markersize=4)
belief.plot(nile.index, ours.smooth(nile).probs[:, high_here], color=BLUE, linewidth=1.4)
belief.plot(nile.index, model.smooth(incomplete).probs[:, high], color=ORANGE, linewidth=1.4)
belief.axvspan(*span, color=INK, alpha=0.07, linewidth=0)
belief.set(xlim=top.get_xlim(), ylabel="p(high regime | y)", xlabel="year")
belief.text(1906, 0.72, "with the gap", color=ORANGE)
belief.text(1906, 0.5, "all years: hmmlearn (circles) and here (line)", color=BLUE)

steps = np.arange(1, n_iterations + 1)
learning.plot(steps, there, "o", color=INK, markerfacecolor="white", markersize=6)
learning.plot(steps, here, ".-", color=BLUE, markersize=4)
learning.set(xlabel="EM iteration", ylabel="log p(y) (nats)")
learning.set_title("the same path of learning: hmmlearn (circles) and here", loc="left", fontsize="medium")

places = np.arange(len(durations))
times = np.array(list(durations.values()))
speed.hlines(places, times.min(1), times.max(1), color=INK, linewidth=0.8, alpha=0.5)
for column, name, color, lift in ((0, "hmmlearn", INK, 10), (1, "probseq", BLUE, -10)):
    speed.plot(times[:, column], places, "o", color=color)
    for place, duration in zip(places, times[:, column], strict=True):
        text = f"{name} {duration:.2g} ms" if duration < 10 else f"{name} {duration:.0f} ms"
        speed.annotate(text, (duration, place), (0, lift), textcoords="offset points", color=color,
                       ha="center", va="center", fontsize="small")  # fmt: skip
speed.set_xscale("log")
speed.set(yticks=places, yticklabels=list(durations), ylim=(len(places) - 0.5, -0.5))
speed.set_xlim(times.min() / 4, times.max() * 4)
speed.set_xlabel(f"milliseconds for {n_steps:,} steps, 4 states")
speed.set_title("how long it takes", loc="left", fontsize="medium")
for axes in panels.values():
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(options.output, dpi=50 if options.smoke else 150)

print(
    f"result: {hidden:.3f} nats per hidden year, given the years around the gap "
    f"(trivial baseline: {baseline:.3f}, independent normal draws)"
)

# %% [markdown]
# ## When to stay
#
# hmmlearn is small, has no compiler to warm up and fits a model to a clean table in one line; `to_hmmlearn` takes a
# model back to code that expects it. scikit-learn's tools work on both: `probseq.estimators.HMMEstimator` is an
# estimator whose grids run over lists of whole sequences.
