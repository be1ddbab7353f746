# %% [markdown]
# # Straight on, to port, to starboard
#
# A ship sails straight, turns to port, turns to starboard, and never says which. What it does at any moment is
# linear: its velocity keeps its direction, or is rotated by a few degrees per step. But no single linear system does
# all three. A *switching* linear dynamical system has a Markov chain of regimes on top, which chooses the system:
#
#     regime_t   ~ transition matrix[regime_{t-1}]
#     velocity_t ~ F[regime_t] velocity_{t-1} + noise
#     sensors_t  ~ C velocity_t + noise
#
# A hidden Markov model would give every regime a fixed output, a linear dynamical system would give it one dynamics.
# This is the child of both, and it has inherited a problem from neither: after t steps there are K^t possible pasts,
# each with a Gaussian of its own, so the exact belief outgrows every computer.

# %%
import argparse
import itertools
import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch

import probseq as ps

parser = argparse.ArgumentParser(description="Regimes of a turning ship, filtered, smoothed and learned.")
parser.add_argument("--output", default="switching_dynamics.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="a short voyage and a few iterations, to see that it runs")
options, _ = parser.parse_known_args()

n_steps, n_iterations, n_samples = (40, 1, 2) if options.smoke else (1500, 200, 20)
names = ["straight", "port", "starboard"]


def turn(degrees: float, keep: float = 0.98) -> np.ndarray:
    """A rotation of the velocity, slowed down a little by the water."""
    a = math.radians(degrees)
    return keep * np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])


# %% [markdown]
# ## The world
#
# Six sensors of unknown make show mixtures of the two components of velocity. Regimes last thirty steps on average,
# and the ship goes straight as often as it turns.

# %%
truth = ps.SwitchingLDS(
    initial_probs=[1 / 3, 1 / 3, 1 / 3],
    regime_transition_matrix=np.full((3, 3), 1 / 60) + np.eye(3) * (29 / 30 - 1 / 60),
    transition_matrices=[turn(0.0), turn(12.0), turn(-12.0)],
    transition_covs=np.stack([0.01 * np.eye(2)] * 3),
    emission_matrices=np.random.default_rng(3).normal(size=(6, 2)),
    emission_covs=0.1 * np.eye(6),
    initial_mean=[1.0, 0.0],
    initial_cov=0.1 * np.eye(2),
)
voyage = truth.sample_paths(2 * n_steps, seed=4)
y, later = voyage.values[:n_steps], voyage.values[n_steps:]
regimes = voyage.regimes[:n_steps]

# %% [markdown]
# ## Filters that forget in time
#
# The way out is to forget: after every step collapse the many Gaussians to a few, keeping weight, mean and
# covariance. *Interacting multiple models* (IMM) keeps one per regime and collapses before the step; *GPB2* moves
# every pair of regimes and collapses after the observation. For six steps we can still follow all 3^6 pasts and see
# what the forgetting costs, and for any length Rao-Blackwellised particles, which draw regimes and integrate the
# velocity out, estimate p(y) without bias.

# %%
short = y[:6]
exact = truth.estimate_log_prob(short, kind="enumeration").value
with torch.no_grad():
    parameters = {name: getattr(truth, name) for name in truth.params() if name != "recurrent_weights"}
    pair = ps.SwitchingLDS(**parameters, filtering="gpb2")
    print("six steps:  exact", f"{exact:.5f}", end="")
    print(f"   IMM {truth.log_prob(short):.5f}   GPB2 {pair.log_prob(short):.5f}")
    judge = truth.estimate_log_prob(y, n_samples=n_samples, n_particles=100, seed=0)
    print(f"all steps:  particles {judge.value:.3f} +- {judge.standard_error:.3f}", end="")
    print(f"   IMM {truth.log_prob(y):.3f}   GPB2 {pair.log_prob(y):.3f}")

# %% [markdown]
# ## Learning it
#
# Now we forget the truth and learn a model from the six signals alone, from nothing but its sizes. `fit` starts from
# a linear dynamical system and an autoregressive hidden Markov model of its smoothed states, and goes on by
# structured variational EM: q(regimes) q(velocities), where each half is exact given the other. The regimes are
# found by the HMM's forward-backward algorithm, the velocities by a Kalman smoother whose matrices are averages over
# the regimes. Each step raises a lower bound of log p(y).

# %%
learned = ps.SwitchingLDS(n_regimes=3, state_dim=2, obs_dim=6)
single = ps.LDS(state_dim=2, obs_dim=6)
if options.smoke:
    warnings.simplefilter("ignore", ps.errors.ConvergenceWarning)
learned.fit(y, seed=0, max_iterations=n_iterations)
single.fit(y, seed=0)
print(learned.history)


def matched(path: torch.Tensor, target: torch.Tensor) -> tuple[float, tuple[int, ...]]:
    """The share of right regimes under the best names, and these names: regime k is called order[k]."""
    orders = itertools.permutations(range(3))
    return max((float((torch.tensor(order)[path] == target).double().mean()), order) for order in orders)


path = learned.decode(y)
share, order = matched(path, regimes)
trivial = float(torch.bincount(regimes).max() / n_steps)
print(f"regimes recovered: {share:.3f}; with the true parameters {matched(truth.decode(y), regimes)[0]:.3f}")

# %% [markdown]
# Rotations are told by their eigenvalues, which do not depend on the coordinates in which a model keeps its state.

# %%
with torch.no_grad():
    for k in np.argsort(order):
        angles = torch.linalg.eigvals(learned.transition_matrices[int(k)]).angle().abs().max()
        print(f"{names[order[int(k)]]:>10}: turns by {math.degrees(angles):.1f} degrees a step")
    print(f"held out, nats per step: switching {learned.score(later):.3f}, one linear system {single.score(later):.3f}")

# %% [markdown]
# ## The voyage
#
# Left: the track, the sum of the velocities, in the colours of the regimes that were found. Right: their smoothed
# probabilities at each step, above the truth.

# %%
colours = ["#666666", "#c0392b", "#1e8449"]
shown = min(n_steps, 400)
track = voyage.states[:shown].cumsum(0)
probs = learned.smooth(y).probs[:shown]
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), gridspec_kw={"width_ratios": [1, 1.6]})
for k in range(3):
    here = torch.tensor(order)[path[:shown]] == k
    left.scatter(track[here, 0], track[here, 1], s=6, color=colours[k], label=names[k])
left.set(title="track, coloured by the decoded regime", xlabel="east", ylabel="north")
left.set_aspect("equal", adjustable="datalim")
left.legend(frameon=False, markerscale=2)
time = np.arange(shown)
for k in range(3):
    mine = order.index(k)
    right.plot(time, probs[:, mine], color=colours[k], linewidth=1)
    right.fill_between(time, -0.14, -0.04, where=(regimes[:shown] == k).numpy(), color=colours[k], step="mid", lw=0)
right.set(title="smoothed probabilities of the learned regimes; below, the truth", xlabel="step", ylim=(-0.16, 1.03))
right.spines[["top", "right"]].set_visible(False)
left.spines[["top", "right"]].set_visible(False)
figure.tight_layout()
figure.savefig(options.output, dpi=130)

# %%
print(f"result: {share:.3f} of the regimes found without a label (trivial baseline: {trivial:.3f}, always the same)")
