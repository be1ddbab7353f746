# %% [markdown]
# # Gradients that vanish
#
# A recurrent network is a deep one: to learn from an error at step s what it should have kept at step t, the error has
# to come back through s - t copies of the same layer. Each copy multiplies it by a Jacobian matrix,
#
#     d L_s / d h_t = J_t' J_{t+1}' ... J_{s-1}' d L_s / d h_s,      J_t = d h_{t+1} / d h_t = diag(f') U
#
# (for a network h_{t+1} = f(U h_t + W u_{t+1} + b)). A product of many matrices grows or shrinks like a power.
# Hochreiter saw in 1991 what follows: with g the largest slope of f and |U| the largest singular value of U,
#
#     |d L_s / d h_t|  <=  (g |U|)^(s - t)  |d L_s / d h_s|
#
# so that with g |U| < 1 no error reaches far back, whatever the data; and only with g |U| > 1 can it explode.
# Here we look at untrained networks, because it is there that learning has to begin.

# %%
import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch

import probseq as ps

parser = argparse.ArgumentParser(description="How gradients travel back through time in six networks.")
parser.add_argument("--output", default="vanishing_gradients.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="short sequences and few units, to see that it runs")
options, _ = parser.parse_known_args()

length, n_units, n_sequences = (10, 8, 2) if options.smoke else (50, 40, 20)

# %% [markdown]
# ## Six networks
#
# They read the same numbers and marks, and one target stands at the very end (the adding problem). Four of them have
# the same plain layer and differ in nothing but where their recurrent weights start:
#
# - *small*: normal weights of spectral radius 1/2, the start that seems natural;
# - *large*: the same, of spectral radius 3;
# - *a rotation*: orthogonal weights, all singular values 1;
# - *the identity*, with rectified units: the IRNN, which begins by adding up its inputs.
#
# The last two are LSTMs. Their memory is multiplied by a forget gate at every step, which keeps 0.73 of it with a bias
# of 1 and 0.993 with a bias of 5.

# %%
normal = 1 / np.sqrt(n_units)  # a square of such numbers has spectral radius 1
cells = {
    "tanh, small": ps.cells.Elman(n_units, initialization=ps.cells.NormalInit(0.5 * normal)),
    "tanh, large": ps.cells.Elman(n_units, initialization=ps.cells.NormalInit(3.0 * normal)),
    "tanh, a rotation": ps.cells.Elman(n_units),
    "rectified, the identity": ps.cells.Elman(n_units, "relu", recurrent_start="identity"),
    "LSTM, forget bias 1": ps.cells.LSTM(n_units),
    "LSTM, forget bias 5": ps.cells.LSTM(n_units, forget_bias=5.0),
}
u, y = ps.datasets.adding(n_sequences, length, seed=0)


def flow(cell: ps.cells.Cell) -> ps.evaluation.GradientFlow:
    """How the error of the last step travels back through a new network."""
    model = ps.RNN(input_dim=2, cell=cell, head=ps.heads.Gaussian(), feedback=False, dtype=torch.float64, seed=0)
    return ps.evaluation.gradient_flow(model, y, u)


flows = {name: flow(cell) for name, cell in cells.items()}

# %% [markdown]
# ## How much is left
#
# The gradient at the first step as a part of that at the last one, over all sequences, and the factor per step that
# this amounts to. Beside it g |U|, the base of Hochreiter's bound.

# %%
left: dict[str, float] = {}
print(f"{'':26s}{'left after ' + str(length - 1) + ' steps':>22s}{'factor per step':>18s}{'g |U|':>8s}")
for name, found in flows.items():
    shares = (found.last[:, 0] / found.last[:, -1]).numpy()
    left[name] = float(np.exp(np.log(shares).mean()))
    base = "" if found.weight_bound is None else f"{float(found.weight_bound[0, -2] / found.weight_bound[0, -1]):8.2f}"
    print(f"{name:26s}{left[name]:22.1e}{left[name] ** (1 / (length - 1)):18.3f}{base:>8s}")

# %% [markdown]
# ## The picture
#
# On the left, the gradient at every step back from the target: the middle of all sequences as a line, their range
# shaded. On the right, one of the networks beside its bounds: the product of the largest singular values of the
# Jacobians on the way, and (g |U|)^k, which holds for any input.

# %%
figure, (main, side) = plt.subplots(1, 2, figsize=(10.5, 4), width_ratios=(1.6, 1), layout="constrained")
back = np.arange(length)[::-1]
middles: dict[str, np.ndarray] = {}
for place, (name, found) in enumerate(flows.items()):
    sizes = (found.last / found.last[:, -1:]).numpy()
    middles[name] = np.median(sizes, 0)
    main.fill_between(back, sizes.min(0), sizes.max(0), color=f"C{place}", alpha=0.15, lw=0)
    main.plot(back, middles[name], color=f"C{place}", lw=1.6)
main.set(yscale="log", xlabel="steps back from the target", ylabel="gradient, beside that at the target")
main.set_title("how much of an error comes back", loc="left", fontsize="medium")
height = -np.inf
room = 0.05 * np.diff(np.log10(main.get_ylim()))[0]
for name in sorted(middles, key=lambda name: middles[name][0]):  # labels from below, none on another
    height = max(np.log10(middles[name][0]), height + room)
    main.text(1.02 * back[0], 10**height, name, color=f"C{list(flows).index(name)}", va="center", fontsize="small")
main.set_xlim(0, 1.35 * back[0])

shown = flows["tanh, large"]
assert shown.weight_bound is not None
for curve, color, text in (
    (shown.weight_bound[0], "0.7", "$(g\\,|U|)^k$"),
    (shown.bound[0], "0.4", "largest singular values"),
    (shown.last[0], "C1", "the gradient"),
):
    sizes = (curve / curve[-1]).numpy()
    side.plot(back, sizes, color=color, lw=1.6)
    side.text(1.02 * back[0], sizes[0], text, color=color, va="center", fontsize="small")
side.set(yscale="log", xlabel="steps back from the target", xlim=(0, 1.6 * back[0]))
side.set_title("tanh, large, and its bounds", loc="left", fontsize="medium")
for panel in (main, side):
    panel.spines[["top", "right"]].set_visible(False)
figure.savefig(options.output, dpi=50 if options.smoke else 150)

kept, lost = np.log10(left["LSTM, forget bias 5"]), np.log10(left["tanh, small"])
print(
    f"result: {kept:.1f} is log10 of what an LSTM's gradient keeps (trivial baseline: {lost:.1f}, small tanh weights)"
)

# %% [markdown]
# ## Reading it
#
# - *Small* weights lose a factor of about two at every step: after fifty, nothing is left that single precision would
#   notice beside the last few steps. No patience helps, since an update is a sum over all lags, and the near ones
#   drown the far ones.
# - *Large* weights do the opposite, and differently for every sequence: the network is chaotic, and so is its gradient.
#   Clipping its norm keeps such a step from doing harm; it does not make it useful.
# - A *rotation* loses a little, because tanh flattens: f' < 1 wherever a unit is active. The *identity* with rectified
#   units loses nothing where its units are on, and all where they are off.
# - An *LSTM* decides by its forget gate how fast the past fades. It can be told at the start not to.
#
# The bounds are far from the gradient. They have to hold for the one direction that every Jacobian stretches most, and
# an error seldom lies there for long. What they are good for is the other direction: g |U| < 1 is enough for gradients
# to vanish. Four ways to train a network in spite of all this are the subject of the next tutorial.
