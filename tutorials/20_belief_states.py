# %% [markdown]
# # What a network believes
#
# A hidden Markov model does not know its state; it carries a *belief*, a table of probabilities that every observation
# moves. A recurrent network that predicts the same data carries activities. If the network predicts as well as is
# possible, its activities must contain whatever the belief says about the future. Do they contain the belief itself?
#
# Mess3 is made for the question: three states, each fond of one of three symbols. Its beliefs are points of a triangle,
# and those that can occur form a fractal. We train a GRU on nothing but symbols and look for the fractal in its state.

# %%
import argparse

import matplotlib.pyplot as plt

import probseq as ps

parser = argparse.ArgumentParser(description="The simplex of beliefs inside a recurrent network, with controls.")
parser.add_argument("--output", default="belief_states.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="little data and training, to see that it runs")
options, _ = parser.parse_known_args()

n_train, n_passes, n_units, n_test = (60, 2, 8, 40) if options.smoke else (12000, 8, 64, 400)

# %% [markdown]
# ## A teacher whose filter is exact
#
# `datasets.mess3` is the model itself. It can be sampled, and its forward algorithm gives p(z_t | y_<t) without error,
# so the best score that any predictor can have on a sample is known.

# %%
teacher = ps.datasets.mess3()
train, test = teacher.sample(64, (n_test,), seed=1), teacher.sample(64, (n_test,), seed=2)
print("a sample:", "".join("ABC"[int(symbol)] for symbol in test[0, :, 0]))

# %% [markdown]
# ## A student
#
# `distill` draws sequences from the teacher and fits a network to them by maximum likelihood. It sees symbols only.

# %%
student = ps.evaluation.distill(
    teacher,
    ps.cells.GRU(n_units),
    n_sequences=n_train,
    length=64,
    max_iterations=n_passes,
    learning_rate=5e-3,
    schedule="linear",
    seed=0,
)
print(f"exact filter {teacher.score(test):.4f}, network {student.score(test):.4f} nats per symbol, on the same sample")

# %% [markdown]
# ## The probe and its controls
#
# A probe is a map, learned from the network's state to the exact belief, and judged on sequences that it has not seen.
# A good map alone proves little: here a network with *random* weights already lets a linear map explain most of the
# belief, since any fading memory of the last symbols does. So every probe comes with controls: the same network
# untrained, the last eight symbols themselves, and a map learned from the beliefs of other moments.
#
# - `r2`: the share of the belief's variance that the map explains;
# - `kl`: how far the mapped belief is from the exact one, in nats;
# - `excess`: how much a symbol costs more when predicted with the mapped belief.

# %%
probe = ps.evaluation.belief_probe(student, teacher, train, test, max_rows=2000 if options.smoke else 20_000)
print(probe)

# %% [markdown]
# ## The picture
#
# Left the beliefs of the exact filter, each in the colour that its three probabilities mix as red, green and blue.
# Right what a *linear* map makes of the network's activities, in the colours of the exact ones: the same fractal, the
# same colours. Below, the same map from the untrained network: the rough shape is there, the fine structure is blurred.

# %%
figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 7.4), layout="constrained")
probe.plot(top)
probe.plot(bottom, source="untrained")
figure.savefig(options.output, dpi=50 if options.smoke else 150)

rows = probe.table.xs("ridge", level="map")
print(
    f"result: {rows.loc['student', 'r2']:.4f} of the belief's variance in the network's state, by a linear map "
    f"(trivial baseline: {rows.loc['untrained', 'r2']:.4f}, the same network untrained)"
)

# %% [markdown]
# ## Reading it
#
# The network was never told that there are states, let alone three. It found the simplex because the simplex is what
# prediction needs: the posterior is a deterministic function of the data, and the network has learned that function.
# Compare `kl` and `excess` rather than `r2`, and the linear maps rather than the others: 0.975 and 0.999 look alike,
# but in nats there is a factor of thirty. A small network reads most of the belief out of the untrained state as well,
# and out of the last eight symbols: all that the past says is there. Training has laid it out linearly.
