# %% [markdown]
# # Following a falling body
#
# A probe is let go from a balloon and falls, pushed about by gusts, while a radar measures its height once a second.
# Now and then the radar sees nothing, for seconds on end. Halfway down the probe fires a small rocket against its
# fall. Where is it now, and how fast is it? Nobody measures the speed.
#
# This is the problem the Kalman filter was made for. The state z_t = (height, velocity) moves by Newton's law, over a
# time step dt,
#
#     height_{t+1}   = height_t + dt velocity_t + dt^2/2 (thrust - gravity) + gust
#     velocity_{t+1} = velocity_t + dt (thrust - gravity) + gust
#     y_t            = height_t + radar noise
#
# The first two lines are z_{t+1} = A z_t + B u_{t+1} + w_{t+1} with the *driving inputs* u = (gravity, thrust), which
# are known, and gusts w ~ N(0, Q), which are not. The third is y_t = C z_t + v_t with C = (1, 0).

# %%
import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributions import Normal

import probseq as ps
from probseq.plot import INK, PALETTE

parser = argparse.ArgumentParser(description="A Kalman filter follows a falling probe through gaps of the radar.")
parser.add_argument("--output", default="kalman_filter.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="few falls, to see that it runs")
options, _ = parser.parse_known_args()

n_falls, n_steps, dt = (5 if options.smoke else 200), 60, 1.0  # steps of one second
gravity, thrust = 9.81, 25.0  # metres per second squared
gust, radar = 1.5, 60.0  # standard deviations: m/s over a second; metres

# %% [markdown]
# ## The model is its matrices
#
# A gust is an acceleration that is white over a step, so it reaches the velocity directly and the height through it:
# the covariance is the outer product of (dt^2/2, dt). It has rank one, which no formula below minds. At the start the
# balloon's altimeter knows the height up to 20 metres, and the velocity is zero, give or take one metre a second.

# %%
push = np.array([[dt**2 / 2], [dt]])
probe = ps.LDS(
    transition_matrix=[[1.0, dt], [0.0, 1.0]],
    transition_input_matrix=push * [[-1.0, 1.0]],
    transition_cov=gust**2 * push @ push.T,
    emission_matrix=[[1.0, 0.0]],
    emission_cov=[[radar**2]],
    initial_mean=[11000.0, 0.0],
    initial_cov=[[20.0**2, 0.0], [0.0, 1.0]],
)

time = dt * torch.arange(n_steps)
inputs = torch.zeros(n_steps, 2, dtype=torch.float64)
inputs[:, 0] = gravity
inputs[30:45, 1] = thrust  # u_t acts on the step into t
blind = torch.zeros(n_steps, dtype=torch.bool)
blind[12:22] = blind[34:46] = True


# %% [markdown]
# We play the world ourselves, with the model's own recursion and random numbers where it says noise, many times over.


# %%
def fall(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """True states (falls, steps, 2) and what the radar says, (falls, steps, 1), NaN where it is blind."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=random)

    states = [torch.tensor([11000.0, 0.0]) + normal(n_falls, 2) * torch.tensor([20.0, 1.0])]
    for u in inputs[1:]:
        pushed = u[1] - u[0] + gust * normal(n_falls, 1) / dt
        height, velocity = states[-1].split(1, -1)
        states.append(torch.cat([height + dt * velocity + dt**2 / 2 * pushed, velocity + dt * pushed], -1))
    truth = torch.stack(states, 1)
    y = truth[..., :1] + radar * normal(n_falls, n_steps, 1)
    return truth, torch.where(blind.unsqueeze(-1), torch.nan, y)


truth, y = fall(seed=7)

# %% [markdown]
# ## Predict, update
#
# The belief is a Gaussian N(m, P) over (height, velocity), and two steps alternate.
#
# *Predict*: where Newton says it goes, and less sure, m' = A m + B u and P' = A P A' + Q.
#
# *Update*: a measurement y would be around C m', with a variance S = C P' C' + R made of what we do not know and what
# the radar does not. The difference v = y - C m' is the news, and a share of it is believed, m = m' + K v with the gain
# K = P' C' / S; what is then known is known better, P = P' - K S K'. Since height and velocity are correlated in P',
# news about the height is news about the velocity.
#
# Here are the two steps for the first fall, by hand and from the library. They are the same numbers.

# %%
first = 22  # the radar's first reading after its first gap: we keep that update for the picture
with torch.no_grad():
    belief = probe.initial_belief()
    mean, cov = torch.tensor([[11000.0], [0.0]]), torch.diag(torch.tensor([400.0, 1.0]))
    mean, cov = mean.double(), cov.double()
    A, B = probe.transition_matrix, probe.transition_input_matrix
    C, Q, R = probe.emission_matrix, probe.transition_cov, probe.emission_cov
    for t in range(n_steps):
        if t:
            mean, cov = A @ mean + B @ inputs[t].unsqueeze(-1), A @ cov @ A.T + Q  # predict
            belief = probe.predict(belief, inputs[t])
        if t == first:
            before, measured = belief, y[0, t]
        if not blind[t]:
            S = C @ cov @ C.T + R
            K = cov @ C.T / S
            mean, cov = mean + K * (y[0, t] - C @ mean), cov - K @ S @ K.T  # update
            belief, _ = probe.update(belief, y[0, t], None, inputs[t])
        if t == first:
            after = belief
        torch.testing.assert_close(belief.mean, mean.squeeze(-1), rtol=1e-9, atol=1e-6)

# %% [markdown]
# ## All falls at once, and back again
#
# `filter` does this for the whole batch in compiled code; a missing measurement is NaN, and the filter just predicts
# on. `smooth` goes back over it: p(z_t | y_0 .. y_T), every step in the light of what came later. In a gap the filter
# can only let its band grow until the radar is back. The smoother knows both ends, and its band is widest in the
# middle.
#
# For comparison there is a filter that was not told about the rocket, and one that only has the last radar reading.

# %%
u = inputs.expand(n_falls, -1, -1)
filtered, smoothed = probe.filter(y, u), probe.smooth(y, u)
uninformed = inputs.clone()
uninformed[:, 1] = 0.0
surprised = probe.filter(y, uninformed.expand(n_falls, -1, -1))

last_reading = y.clone()
for t in range(1, n_steps):
    last_reading[:, t] = torch.where(y[:, t].isnan(), last_reading[:, t - 1], y[:, t])

heights = {
    "last radar reading": last_reading[..., 0],
    "filter without the rocket": surprised.updated.mean[..., 0],
    "filter": filtered.updated.mean[..., 0],
    "smoother": smoothed.mean[..., 0],
}


def error(guess: torch.Tensor, which: torch.Tensor, coordinate: int = 0) -> float:
    """Root mean square, over all falls and the steps that `which` marks."""
    return float((guess - truth[..., coordinate])[:, which].square().mean().sqrt())


everything = torch.ones(n_steps, dtype=torch.bool)
print(f"{'error of the height, m':28s}{'all steps':>10s}{'in sight':>10s}{'in gaps':>10s}")
for name, guess in heights.items():
    print(f"{name:28s}" + "".join(f"{error(guess, which):10.1f}" for which in (everything, ~blind, blind)))

differences = (last_reading[:, 1:, 0] - last_reading[:, :-1, 0]) / dt
slope = torch.cat([differences[:, :1], differences], 1)
velocities = {
    "difference of readings": slope,
    "filter": filtered.updated.mean[..., 1],
    "smoother": smoothed.mean[..., 1],
}
print(f"\n{'error of the velocity, m/s':28s}{'all steps':>10s}{'in sight':>10s}{'in gaps':>10s}")
for name, guess in velocities.items():
    print(f"{name:28s}" + "".join(f"{error(guess, which, 1):10.1f}" for which in (everything, ~blind, blind)))

inside = ((filtered.updated.mean - truth).abs() <= 1.6449 * filtered.updated.std).double().mean((0, 1))
print(f"\nshare of true heights and velocities inside the filter's 90 % band: {inside[0]:.3f}, {inside[1]:.3f}")

# %% [markdown]
# ## The picture
#
# At the top the height of one fall. On this scale all beliefs lie on one line, so below it is what they are off by:
# the belief minus the truth, with bands of 90 %. Grey are the seconds in which the radar is blind, orange those in
# which the rocket burns. At the lower right one update, the first reading after ten blind seconds.

# %%
figure = plt.figure(figsize=(11, 7.2), layout="constrained")
grid = figure.add_gridspec(3, 2, width_ratios=(1.9, 1), height_ratios=(1.1, 1.2, 1.2))
top, below, speed = (figure.add_subplot(grid[row, 0]) for row in range(3))
whole, one = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1:, 1])


def shade(axes: plt.Axes) -> None:
    none = torch.zeros(1, dtype=torch.int)
    for seconds, color in ((blind, "0.9"), (inputs[:, 1] > 0, "#FFE8C7")):
        edges = torch.diff(seconds.int(), prepend=none, append=none).nonzero().squeeze(-1)
        for begin, end in edges.reshape(-1, 2).tolist():
            low = 0.0 if color == "0.9" else 0.93
            axes.axvspan(begin - 0.5, end - 0.5, low, low + (0.93 if low == 0 else 0.07), color=color, lw=0, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, n_steps)


def band(axes: plt.Axes, belief: ps.beliefs.Gaussian, coordinate: int, color: str, name: str) -> None:
    off = belief.mean[0, :, coordinate] - truth[0, :, coordinate]
    reach = 1.6449 * belief.std[0, :, coordinate]
    axes.fill_between(time, off - reach, off + reach, color=color, alpha=0.2, lw=0)
    axes.plot(time, off, color=color, lw=1.5, label=name)


top.plot(time, truth[0, :, 0] / 1000, color=INK, lw=1.2, label="truth")
top.plot(time, y[0, :, 0] / 1000, ".", color=PALETTE[4], ms=5, label="radar")
top.plot(
    time, heights["filter without the rocket"][0] / 1000, color=PALETTE[3], lw=1.2, ls="--", label="without the rocket"
)
top.plot(time, heights["filter"][0] / 1000, color=PALETTE[0], lw=1.2, label="filter")
top.legend(fontsize="small", frameon=False, loc="lower left")
top.set_ylabel("height (km)")
for axes, coordinate, label in (
    (below, 0, "height: belief $-$ truth (m)"),
    (speed, 1, "velocity: belief $-$ truth (m/s)"),
):
    band(axes, filtered.updated, coordinate, PALETTE[0], "filter")
    band(axes, smoothed, coordinate, PALETTE[1], "smoother")
    axes.axhline(0, color=INK, lw=0.6)
    axes.set_ylabel(label)
below.plot(time, y[0, :, 0] - truth[0, :, 0], ".", color=PALETTE[4], ms=5)
below.legend(fontsize="small", frameon=False, loc="lower left", ncols=2)
speed.set_xlabel("seconds")
for axes in (top, below, speed):
    shade(axes)

for name, color in (("filter", PALETTE[0]), ("smoother", PALETTE[1])):
    whole.plot(time, (heights[name] - truth[..., 0]).square().mean(0).sqrt(), color=color, label=name)
whole.axhline(radar, color=PALETTE[4], lw=1, label="one reading")
whole.set_title(f"error of the height over {n_falls} falls (m)", loc="left", fontsize="medium")
whole.set_ylim(0, 115)
whole.legend(fontsize="small", frameon=False, loc=(0.0, 0.74), ncols=3, columnspacing=1.0, handlelength=1.2)
shade(whole)

line = torch.linspace(-250, 250, 400, dtype=torch.float64) + float(truth[0, first, 0])
for center, deviation, color, name in (
    (before.mean[0], before.cov[0, 0].sqrt(), PALETTE[2], "predicted"),
    (measured[0], torch.tensor(radar), PALETTE[4], "radar"),
    (after.mean[0], after.cov[0, 0].sqrt(), PALETTE[0], "updated"),
):
    density = Normal(center, deviation).log_prob(line).exp()
    one.fill_between(line, density, color=color, alpha=0.2, lw=0)
    one.plot(line, density, color=color, lw=1.5)
    peak = int(density.argmax())
    one.annotate(name, (line[peak], density[peak]), (0, 4), textcoords="offset points", color=color, ha="center")
one.axvline(truth[0, first, 0], color=INK, lw=1, ls=":")
one.set_title("one update: the first reading after a gap", loc="left", fontsize="medium")
one.set_xlabel("height (m); dotted: the truth")
one.set_yticks([])
one.set_ylim(0, None)
one.spines[["top", "right", "left"]].set_visible(False)
figure.savefig(options.output, dpi=50 if options.smoke else 150)

print(
    f"result: {error(heights['filter'], everything):.1f} m error of the filtered height over {n_falls} falls "
    f"(trivial baseline: {error(heights['last radar reading'], everything):.1f} m, the last radar reading)"
)
