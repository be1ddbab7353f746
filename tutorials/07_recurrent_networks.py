# %% [markdown]
# # Settle, oscillate, or never repeat
#
# A recurrent network is a dynamical system. Take its inputs away and it still moves, because every unit reads what all
# units did one step before:
#
#     h_{t+1} = tanh(U h_t)
#
# That is the whole equation of this tutorial. What comes of it depends on U alone, and there are three kinds of
# behaviour, all of them useful and one of them a warning:
#
# - it **settles**: whatever the start, the activities come to rest in one of a few states. Such a state is a memory.
# - it **oscillates**: the activities go round for ever. Such a network is a clock, or it drives a leg.
# - it is **chaotic**: it never repeats itself, and two starts that nobody could tell apart soon go different ways.
#
# One number tells the three apart, the largest Lyapunov exponent: the mean rate at which a small difference between
# two states grows, in nats per step. It is negative, zero, or positive.

# %%
import argparse
import math

import matplotlib.pyplot as plt
import torch

import probseq as ps
from probseq import evaluation

parser = argparse.ArgumentParser(description="Three small recurrent networks and their Lyapunov exponents.")
parser.add_argument("--output", default="recurrent_networks.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="few steps, to see that it runs")
options, _ = parser.parse_known_args()

n_units, n_steps, n_pairs = (20, 200, 2) if options.smoke else (60, 3000, 20)

# %% [markdown]
# ## Three weight matrices
#
# The first is symmetric, with positive weights from each unit to itself: there is an energy that only falls (Hopfield
# 1982), so the state must come to rest. The second turns the plane by half a radian and stretches it a little; tanh
# stops the growth, the turning stays. In the third every weight is a random number, large enough that the spectral
# radius is almost three (Sompolinsky, Crisanti and Sommers 1988).
#
# An `RNN` has an output and may read inputs. Ours reads one input with weights zero and feeds nothing back, so that
# what is left is the equation above.


# %%
def network(weights: torch.Tensor) -> ps.RNN:
    cell = ps.cells.Elman(len(weights))
    model = ps.RNN(1, cell=cell, head=ps.heads.Gaussian(), input_dim=1, feedback=False, dtype=torch.float64, seed=0)
    with torch.no_grad():
        cell.recurrent_weights.copy_(weights)
        cell.input_weights.zero_()
        cell.initial_activity.copy_(0.1 * torch.cos(torch.arange(len(weights))))
    return model


randomness = torch.Generator().manual_seed(3)
turn, growth, gain = 0.5, 1.1, 2.5
symmetric = torch.tensor([[1.4, 0.2], [0.2, 1.4]])
rotation = growth * torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
random = gain * torch.randn(n_units, n_units, generator=randomness) / math.sqrt(n_units)
networks = {"settles": network(symmetric), "oscillates": network(rotation), "chaotic": network(random)}

# %% [markdown]
# ## Where do they come to rest?
#
# `fixed_points` looks for states with h = tanh(U h), stable or not, and linearises the network around each. All three
# have one at zero, and it is stable in none of them: the largest eigenvalue there is that of U. What matters is what
# else there is. The first network has four stable points, two opposite pairs, with hollow ones on the borders of their
# basins. The other two have no stable point at all, so they must go on.

# %%
for name, model in networks.items():
    points = evaluation.fixed_points(model, seed=0)
    largest = points.eigenvalues.abs().amax(-1)
    said = f"{int(points.stable.sum())} stable of {len(points.states)} fixed points"
    print(f"{name:12s}{said:36s}largest eigenvalue at each: {', '.join(f'{x:.2f}' for x in largest.tolist()[:9])}")

# %% [markdown]
# ## How fast do neighbours part?
#
# We can measure that directly. Start a network somewhere on its attractor, start it again a hundred-millionth beside
# that, and watch the distance, from many places. In the first network it shrinks to nothing, in the second it stays
# what it is, in the third it grows, until it is as large as the attractor and cannot grow any further.
#
# `lyapunov_exponents` finds the same rate without starting anything twice: it multiplies the Jacobians along one path,
# d h_{t+1} / d h_t, and keeps the product from degenerating by a QR decomposition in every step. It gives a rate for
# each direction, the largest first.
#
# A tempting shortcut is the spectral radius of U: "weights beyond one explode, below one they die". The logarithm of
# the radius is the growth rate at zero, and nowhere else; that is our baseline.


# %%
@torch.no_grad()
def path(model: ps.RNN, start: torch.Tensor, steps: int) -> torch.Tensor:
    """The states from `start` (pairs, units), (pairs, steps, units)."""
    belief, nothing = ps.beliefs.Point(start, start[:, :0]), torch.zeros(len(start), 1, dtype=torch.float64)
    states = []
    for _ in range(steps):
        states.append(belief.state)
        belief = model.predict(belief, nothing)
    return torch.stack(states, 1)


window = 60 if options.smoke else 180
distances, exponents, measured, naive = {}, {}, {}, {}
print(f"\n{'':12s}{'exponents (nats per step)':36s}{'measured':>10s}{'log radius':>12s}")
for name, model in networks.items():
    on_it = path(model, model.cell.initial_state((1,)), 500 + 20 * n_pairs)[0, 500::20]
    aside = torch.randn(on_it.shape, generator=randomness, dtype=torch.float64)
    aside = path(model, on_it + 1e-8 * aside / aside.norm(dim=-1, keepdim=True), window) - path(model, on_it, window)
    distances[name] = aside.norm(dim=-1).clamp(min=1e-300)
    exponents[name] = evaluation.lyapunov_exponents(model, steps=n_steps)
    logs = distances[name].log().mean(0)
    begin, end = (2, 10) if name == "settles" else (10, 50)  # later, rounding or the size of the attractor is all
    measured[name] = float(logs[end] - logs[begin]) / (end - begin)
    naive[name] = math.log(float(torch.linalg.eigvals(model.cell.recurrent_weights.detach()).abs().max()))
    some = ", ".join(f"{x:+.3f}" for x in exponents[name].tolist()[:3])
    print(f"{name:12s}{some:36s}{measured[name]:+10.3f}{naive[name]:+12.3f}")

# %% [markdown]
# ## The picture
#
# Above, each network in the plane of two of its units (for the third two of many): paths from some starts, arrows for
# the step from each place, stable points filled and the others hollow. In the middle the activity of some units. Below
# the distance of two neighbours, with the line that the exponent predicts.

# %%
figure, panels = plt.subplots(3, 3, figsize=(10, 8.5), layout="constrained")
for column, (name, model) in zip(panels.T, networks.items(), strict=True):
    portrait, activity, parting = column
    size = model.cell.hidden_size
    corners = 1.1 * torch.tensor([[0.2, 1.0], [1.0, 0.1], [-0.3, -1.0], [-1.0, -0.2]])
    few = corners if size == 2 else path(model, 0.5 * torch.ones(1, size, dtype=torch.float64), 300)[:, -1]
    rest = evaluation.fixed_points(model, seed=0) if size == 2 else None
    evaluation.plot_phase_portrait(model, portrait, starts=few, steps=60 if size == 2 else 120, points=rest)
    portrait.set_title(name, loc="left")
    shown = path(model, few[:1].double(), 60)[0, :, :2]
    activity.plot(shown, lw=1)
    activity.set(xlabel="step", ylim=(-1.15, 1.15))
    apart = torch.where(distances[name] > 1e-15, distances[name], math.nan)  # below that there is only rounding
    parting.semilogy(apart.T, color="lightgrey", lw=0.8)
    parting.semilogy(apart.log().mean(0).exp(), color="black", lw=1.5)
    line = distances[name][:, 0].log().mean() + exponents[name][0] * torch.arange(window)
    parting.semilogy(line.exp(), color="tab:red", ls="--", lw=1.2)
    parting.set(xlabel="step", ylim=(1e-17, 1e2), title=f"exponent {float(exponents[name][0]):+.3f}")
panels[1, 0].set_ylabel("activity")
panels[2, 0].set_ylabel("distance of neighbours")
figure.savefig(options.output, dpi=50 if options.smoke else 150)

error = max(abs(float(exponents[name][0]) - measured[name]) for name in networks)
naive_error = max(abs(naive[name] - measured[name]) for name in networks)
print(
    f"\nresult: {error:.3f} nats per step is the largest error of the exponents about how neighbours part "
    f"(trivial baseline: {naive_error:.3f}, the logarithm of the spectral radius)"
)

# %% [markdown]
# ## Reading the numbers
#
# The exponents say -1.1, 0 and about +0.14 nats per step, and that is how the neighbours part: after each step a third
# of the distance is left, all of it, and 15 % more. (In the first network the directions shrink at two rates, -1.1 and
# -1.4, and early on both are seen.) The logarithm of the spectral radius is positive in all three. At
# zero all three networks do explode; but none of them stays at zero, and where they go their units are partly
# saturated, 1 - h^2 is less than one, and the network is tamer than its weights.
#
# Two lessons for what follows. First, a chaotic network cannot be predicted for long, not even by itself: with an
# exponent of 0.14, an error in the eighth digit is everything after some 130 steps. Second, the same product of
# Jacobians carries errors *back* through time when a network learns. Where neighbours part, gradients explode; where
# they come together, gradients vanish. Most of what makes recurrent networks hard to train is in this picture, and
# `evaluation.gradient_flow` draws it for a network and its data.
#
# With data or inputs the exponents are those of the driven network, `lyapunov_exponents(model, y)`: negative ones mean
# that it forgets how it was started, which is what makes a reservoir useful (`EchoState`).
