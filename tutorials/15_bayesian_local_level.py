# %% [markdown]
# # A level that may drift, and what we do not know about it
#
# The flow of the Nile at Aswan, a number a year. The local level model says
#
#     level_{t+1} ~ N(level_t, transition_cov),      y_t ~ N(level_t, emission_cov)
#
# Two variances. Maximum likelihood gives one pair of them, and a forecast made with that pair acts as if it were known.
# With few years it is not: here we take thirty, and ask for the *posterior* of the pair.
#
#     p(variances | y)  is proportional to  p(y | variances) p(variances)
#
# The first factor is the Kalman filter's. Its gradient is compiled, and that is what the no-U-turn sampler needs.

# %%
import argparse
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import distributions as D

import probseq as ps
from probseq.errors import ConvergenceWarning

parser = argparse.ArgumentParser(description="The Nile's two variances: posterior, forecasts, ArviZ.")
parser.add_argument("--output", default="bayesian_local_level.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="few draws, to see that it runs")
options, _ = parser.parse_known_args()
if options.smoke:
    warnings.simplefilter("ignore", ConvergenceWarning)  # so few draws cannot have converged

nile = ps.datasets.nile()
known, later = nile.iloc[:30], nile.iloc[30:50]

# %% [markdown]
# ## Priors on what one can imagine
#
# A prior is a density of the *public* parameter, the variance itself, in squared units of the data. Nobody has to think
# about logarithms: the sampler moves through unconstrained numbers and adds the volume of the map on its own. We say
# that the standard deviations are of the order of the data's, half-normal, which allows a level that does not move.

# %%
model = ps.LDS(
    transition_matrix=[[1.0]], transition_cov=[[2000.0]], emission_matrix=[[1.0]], emission_cov=[[15000.0]],
    initial="diffuse",
)  # fmt: skip
held = {"transition_matrix", "emission_matrix"}
scale = float(known.std())
priors = {"transition_cov": ps.bayes.HalfNormalRoot(scale / 2), "emission_cov": ps.bayes.HalfNormalRoot(scale)}
sizes = {"n_samples": 12, "n_warmup": 12} if options.smoke else {"n_samples": 2000, "n_warmup": 1000}
posterior = ps.bayes.nuts(model, known, priors=priors, fixed=held, seed=0, n_jobs=1, target_accept=0.95, **sizes)
print(posterior)
print(posterior.summary().round(3).to_string())

# %% [markdown]
# R-hat near 1 says that two chains, started apart, tell the same; the effective sample size what the draws are worth.
# All of ArviZ is one call away: `arviz.plot_trace(posterior.to_arviz())` and the rest.
#
# ## Forecasts
#
# `posterior.predict` averages the forecasts of the draws. The fitted model's own forecast has one pair of variances.
# Just after these thirty years the level fell by a quarter. The posterior holds it possible that the level stays
# where it is, and pays for that here; the fit, sure of a moving level, was lucky. A normal without a level pays most.

# %%
fitted = ps.LDS(
    transition_matrix=[[1.0]], transition_cov=[[2000.0]], emission_matrix=[[1.0]], emission_cov=[[15000.0]],
    initial="diffuse",
).fit(known, method="gradient", fixed=held)  # fmt: skip
steps = len(later)
bayes = posterior.predict(steps, n_draws=20 if options.smoke else 400, seed=0)
plug_in = fitted.forecast(known, steps)
truth = torch.tensor(later.to_numpy())[:, None]
scores = {name: float(f.distribution.log_prob(truth).mean()) for name, f in (("posterior", bayes), ("fit", plug_in))}
still = D.Normal(float(known.mean()), float(known.std(ddof=0)))
scores["normal"] = float(still.log_prob(truth).mean())
for name, score in scores.items():
    print(f"{name:10s} {score:.3f} nats a year over the twenty years that came")
level_var, noise_var = float(fitted.transition_cov.detach()), float(fitted.emission_cov.detach())
print(f"fitted variances: level {level_var:.0f}, noise {noise_var:.0f}")

# %% [markdown]
# ## The same by Gibbs sampling
#
# With inverse gamma priors the variances have closed conditionals given the levels, and the levels given the variances
# are one call of the compiled simulation smoother. That is Gibbs sampling, and an independent check of the other.

# %%
inverse_gamma = D.InverseGamma(torch.tensor(2.0).double(), torch.tensor(scale**2 / 5).double())
same = {"transition_cov": inverse_gamma, "emission_cov": inverse_gamma}
by_gibbs = ps.bayes.gibbs(
    model, known, priors=same, fixed=held, seed=0, n_jobs=1, n_samples=sizes["n_samples"],
    thin=1 if options.smoke else 5,
)  # fmt: skip
by_nuts = ps.bayes.nuts(model, known, priors=same, fixed=held, seed=1, n_jobs=1, target_accept=0.95, **sizes)
for name in priors:
    print(f"{name:15s} mean {float(by_gibbs.mean(name)):7.0f} by Gibbs, {float(by_nuts.mean(name)):7.0f} by NUTS")

# %%
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained", width_ratios=[1, 1, 1.5])
roots = {name: values.flatten().sqrt() for name, values in posterior.draws.items()}
left.plot(roots["transition_cov"], roots["emission_cov"], ".", ms=3, alpha=0.4, color="tab:blue")
left.plot(level_var**0.5, noise_var**0.5, "x", ms=10, mew=3, color="tab:red")
left.set(xlabel="sd of the level's step", ylabel="sd of the noise", title="Posterior draws, and the fit (cross)")
grid = np.linspace(0.0, 2 * scale, 200)[1:]
prior_density = 2 * np.exp(-0.5 * (grid / (scale / 2)) ** 2) / (scale / 2 * np.sqrt(2 * np.pi))
middle.hist(roots["transition_cov"].numpy(), bins=30, density=True, color="tab:blue", alpha=0.5, label="posterior")
middle.plot(grid, prior_density, color="black", lw=1, label="prior")
middle.set(xlabel="sd of the level's step", yticks=[], xlim=(0, 2 * scale), title="What thirty years say")
middle.legend(frameon=False)
years = later.index
for forecast, color, label in ((bayes, "tab:blue", "posterior"), (plug_in, "tab:red", "fit")):
    lower, upper = forecast.interval(0.9)
    right.fill_between(years, lower[:, 0], upper[:, 0], color=color, alpha=0.2, label=f"90 % by the {label}")
right.plot(nile.index[:50], nile.iloc[:50], color="black", lw=1)
states = posterior.states(20 if options.smoke else 200)
right.plot(known.index, states.mean[:, 0], color="tab:blue", lw=2, label="level")
right.set(title="Twenty years ahead", xlabel="year")
right.legend(frameon=False, loc="lower left")
fig.savefig(options.output, dpi=110)

# %%
print(
    f"result: {scores['posterior']:.3f} nats a year for forecasts that know what they do not know "
    f"(trivial baseline: {scores['normal']:.3f}, a normal with the mean and variance of thirty years)"
)
