# %% [markdown]
# # A panel of series: our model as one factor of a larger one
#
# Eight short series, each a level with noise. Alone, none of them says much about its variances. Together they do, if
# they are alike but not the same:
#
#     common ~ N(0, 2),   spread ~ HalfNormal(1)
#     for every series i:
#         log_var_i ~ N(common, spread)             # the variance of the level's step
#         y_i ~ LDS(transition_cov = exp(log_var_i), emission_cov = noise)
#
# The last line is a linear dynamical system, whose states nobody wants to sample. `as_distribution` makes it a Pyro
# distribution over whole series: the states are integrated out by the compiled Kalman filter, gradients come from its
# adjoint, and all of Pyro stands around it.

# %%
import argparse
import warnings

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS

import probseq as ps

parser = argparse.ArgumentParser(description="A hierarchical panel in Pyro with an LDS inside.")
parser.add_argument("--output", default="pyro_inside.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="few draws, to see that it runs")
options, _ = parser.parse_known_args()

# %% [markdown]
# ## Series that are alike
#
# The truth, which the program does not see: steps with standard deviations around 0.6, noise of 1, and 40 steps each.

# %%
n_series, length = (3, 15) if options.smoke else (8, 40)
pyro.set_rng_seed(1)
truth = torch.exp(-1.0 + 0.5 * torch.randn(n_series, dtype=torch.float64))
model = ps.LDS(
    transition_matrix=[[1.0]], transition_cov=[[0.4]], emission_matrix=[[1.0]], emission_cov=[[1.0]],
    initial_mean=[0.0], initial_cov=[[4.0]],
)  # fmt: skip


def panel(variances: torch.Tensor, noise: torch.Tensor) -> ps.bayes.SeriesDistribution:
    """One distribution with a batch of series: leading axes of a parameter are batch axes."""
    covs = {"transition_cov": variances[:, None, None], "emission_cov": noise.reshape(1, 1)}
    return ps.bayes.as_distribution(model, length, parameters=covs)


y = panel(truth, torch.ones((), dtype=torch.float64)).sample()


# %% [markdown]
# ## The program
#
# Plates, masks and missing values (NaN) work as anywhere in Pyro.


# %%
def program(data: torch.Tensor) -> None:
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    common = pyro.sample("common", dist.Normal(zero, 2 * one))
    spread = pyro.sample("spread", dist.HalfNormal(one))
    noise = pyro.sample("noise", dist.InverseGamma(2 * one, one))
    with pyro.plate("series", n_series):
        own = pyro.sample("own", dist.Normal(zero, one))
        variances = pyro.deterministic("variances", (common + spread * own).exp())
        pyro.sample("y", panel(variances, noise), obs=data)


n_draws = 5 if options.smoke else 300
sampler = MCMC(
    NUTS(program, max_tree_depth=3 if options.smoke else 8), n_draws, warmup_steps=n_draws, disable_progbar=True
)
sampler.run(y)
with torch.no_grad():
    drawn = sampler.get_samples()
    variances = (drawn["common"][:, None] + drawn["spread"][:, None] * drawn["own"]).exp()

# %% [markdown]
# ## Alone
#
# The trivial alternative fits every series on its own. Forty steps are few: some fits find far too little drift,
# others too much.

# %%
held = {"transition_matrix", "emission_matrix", "initial_mean", "initial_cov"}
alone: list[float] = []
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ps.errors.ProbseqWarning)
    for series in y:
        fit = ps.LDS(
            transition_matrix=[[1.0]], transition_cov=[[0.4]], emission_matrix=[[1.0]], emission_cov=[[1.0]],
            initial_mean=[0.0], initial_cov=[[4.0]],
        )  # fmt: skip
        fit.fit(series, method="gradient", fixed=held)
        alone.append(float(fit.transition_cov.detach()))
roots = {"together": variances.sqrt().mean(0), "alone": torch.tensor(alone, dtype=torch.float64).sqrt()}
errors = {name: float((value - truth.sqrt()).square().mean().sqrt()) for name, value in roots.items()}
for name, error in errors.items():
    print(f"{name:9s} root mean squared error of the steps' standard deviations: {error:.3f}")

# %%
figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
order = truth.argsort()
places = torch.arange(n_series)
low, high = (variances.sqrt().quantile(q, 0)[order] for q in (0.05, 0.95))
axes.vlines(places, low, high, color="tab:blue", lw=6, alpha=0.3, label="together: 90 % of the posterior")
axes.plot(places, roots["together"][order], "o", color="tab:blue", label="together: mean")
axes.plot(places, roots["alone"][order], "x", color="tab:red", ms=9, mew=2, label="alone: fit")
axes.plot(places, truth.sqrt()[order], "_", color="black", ms=22, mew=2, label="truth")
axes.set(xlabel="series, by true size", ylabel="sd of the level's step", title="What neighbours are worth")
axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4)
figure.savefig(options.output, dpi=50 if options.smoke else 110)

# %%
print(
    f"result: {errors['together']:.3f} error of the standard deviations for the panel "
    f"(trivial baseline: {errors['alone']:.3f}, every series alone)"
)
