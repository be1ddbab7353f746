# %% [markdown]
# # A network that becomes a Kalman filter
#
# A level wanders and is seen in noise. The best prediction of the next observation is the Kalman filter's, and once its
# gain has settled that is a recursion with constant weights,
#
#     m_{t+1} = m_t + K (y_t - m_t) = (1 - K) m_t + K y_t,
#
# which is a recurrent network with a single linear unit. In one direction that is algebra: `RNN.from_lds` writes the
# filter down as a network. In the other it is learning: does a linear network that knows nothing of state spaces,
# trained by gradient to predict, arrive at the gain that solves the Riccati equation?

# %%
import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch

import probseq as ps

parser = argparse.ArgumentParser(description="A linear recurrent network trained on a local level is a Kalman filter.")
parser.add_argument("--output", default="kalman_network.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="little data and training, to see that it runs")
options, _ = parser.parse_known_args()

n_series, length, n_passes = (20, 50, 3) if options.smoke else (1500, 200, 30)

# %% [markdown]
# ## The filter as a network
#
# With its covariance at the fixed point of the Riccati equation from the start the filter *is* a linear network. The
# gain is known in closed form: P = q (1 + sqrt(1 + 4 r / q)) / 2 and K = P / (P + r).

# %%
drift, noise = 0.5, 1.0
level = ps.datasets.local_level(drift, noise)
gain, settled = ps.evaluation.steady_gain(level)
ratio = noise**2 / drift**2
closed = drift**2 * (1 + np.sqrt(1 + 4 * ratio)) / 2
print(f"gain {float(gain):.6f}, in closed form {closed / (closed + noise**2):.6f}")

level.initial_cov = settled
network = ps.RNN.from_lds(level, steady_state=True)
y = level.sample(length, (n_series,), seed=0)
difference = (network.log_prob(y) - level.log_prob(y)).detach().abs().max()
print(f"log-likelihood of the network and of the filter differ by {float(difference):.1e} nats at most")
print(f"before it settles the gain changes: the full filter is a network too, {ps.RNN.from_lds(level).cell}")

# %% [markdown]
# ## The network that has to find it
#
# One linear unit that starts as a sum of its inputs, a Gaussian whose mean and spread are read off it. It is fitted
# like any network, by Adam, on the likelihood of the next observation. Its gain is what an observation adds to the next
# prediction: the unit's input weight times the weight of the mean on the unit (the units of the data cancel).

# %%
unit = ps.cells.Elman(1, "linear", recurrent_start="identity")
learner = ps.RNN(1, cell=unit, head=ps.heads.Gaussian(), dtype=torch.float64, seed=3)
learner.fit(y, seed=3, max_iterations=n_passes, patience=n_passes, batch_size=50, learning_rate=2e-2, schedule="linear")
cell, head = learner.cell, learner.head
learned = float((head.weights[0, 0] * cell.input_weights[0, 0]).detach())
kept = float(cell.recurrent_weights[0, 0].detach())
print(f"learned gain {learned:.4f}, Riccati {float(gain):.4f}: {abs(learned / float(gain) - 1):.2%} apart")
print(f"learned decay {kept:.4f}, 1 - gain {1 - float(gain):.4f}")
new = level.sample(length, (n_series,), seed=1)
print(f"new series: filter {level.score(new):.4f}, network {learner.score(new):.4f} nats per step")

# %% [markdown]
# ## The weight of the past
#
# What an observation h steps back adds to the next prediction is K (1 - K)^h for the filter, and the unit's input
# weight times its decay to the power h for the network. A moving average of the last five would weigh them alike.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", width_ratios=(1, 1.6))
back = np.arange(15)
left.plot(back, float(gain) * (1 - float(gain)) ** back, "o", color="C0", label="Kalman filter, settled")
left.plot(back, learned * kept**back, "-", color="C1", label="trained network")
left.plot(back, np.where(back < 5, 0.2, 0.0), ":", color="0.5", label="moving average of five")
left.set(xlabel="steps back", ylabel="weight in the next prediction")
left.legend(frameon=False, fontsize="small")
right.plot(new[0, :80, 0], ".", color="0.7", label="observed")
right.plot(
    level.emit(level.filter(new[0]).predicted).mean[:80, 0].detach(), color="C0", lw=3, alpha=0.4, label="filter"
)
said = learner.emit(learner.filter(new[0]).predicted).mean.detach()
right.plot(said[:80, 0], color="C1", lw=1, label="network")
right.set(xlabel="step", ylabel="prediction of the next observation")
right.legend(frameon=False, fontsize="small")
figure.savefig(options.output, dpi=50 if options.smoke else 150)

print(
    f"result: {learned:.4f} is the gain that the network has learned, {float(gain):.4f} the solution of the Riccati "
    f"equation (trivial baseline: {1 / 5:.4f}, the moving average of five)"
)

# %% [markdown]
# ## Reading it
#
# Nobody told the network of states, covariances or Riccati. Maximum likelihood of the next observation has only one
# best linear predictor, and this is it. What the Kalman filter adds is knowing the answer in advance, gaps and all;
# what the network adds is that nothing in its training needed the noise to be Gaussian or the unit to be linear.
