# %% [markdown]
# # Three neurons that add
#
# Two binary numbers are added as at school: from the right, column by column, with a carry. A feed-forward network
# can learn that only for numbers of a fixed length, and what it learns about one column is of no use to it in
# the next. A recurrent network sees one column after the other and has nothing to learn but the rule:
#
#     h_t = sigma(W u_t + U h_{t-1} + b)        # u_t: the two bits of column t
#     p(y_t = 1) = sigma(V h_t + c)             # y_t: the bit of the sum
#
# How many hidden units does it take? The answer's bit depends on the two bits and the carry by an exclusive or, so it
# cannot be read off linearly, and the carry has to be kept. Three units are enough. Here we train ten such networks,
# keep the best, and let it add numbers far longer than any that it has seen.

# %%
import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch

import probseq as ps

parser = argparse.ArgumentParser(description="A recurrent network with three hidden units learns to add.")
parser.add_argument("--output", default="binary_addition.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="few sums and passes, to see that it runs")
options, _ = parser.parse_known_args()

n_sums, n_passes, n_restarts = (60, 3, 2) if options.smoke else (2000, 200, 10)

# %% [markdown]
# ## What is given and what is wanted
#
# `datasets.binary_addition` draws pairs of numbers, the units first. `u` are the columns, `y` the bits of the sum. The
# network is a *transducer*: with `feedback=False` it reads its inputs and never its own answers. There is a
# target at every step here; a NaN in `y` would take one away.

# %%
u, y = ps.datasets.binary_addition(n_sequences=n_sums, length=12, seed=0)
print("first number ", "".join(f"{int(bit)}" for bit in u[0, ::-1, 0]))
print("second number", "".join(f"{int(bit)}" for bit in u[0, ::-1, 1]))
print("their sum    ", "".join(f"{int(bit)}" for bit in y[0, ::-1, 0]), "(the last carry is dropped)")

# %% [markdown]
# ## Ten starts
#
# Gradients through time find this rule from some starts and not from others, which get caught where the network has
# learned the exclusive or of the two bits but only part of the carry. So we start ten times. The best is kept by its
# score on other sums, and `history.restarts` tells what became of each. Those sums are longer than the ones to learn
# from, on purpose: among networks that all add twelve bits without a fault it is the longer ones that tell who has the
# rule, and whose activities drift away when a carry goes through many columns. A network with the rule is sure of every
# bit: its score is all but zero, where guessing costs log 2 = 0.693 nats a bit.

# %%
adder = ps.RNN(
    input_dim=2,
    cell=ps.cells.Elman(hidden_size=3, activation="logistic"),
    head=ps.heads.Bernoulli(),
    feedback=False,
)
u_long, y_long = ps.datasets.binary_addition(n_sequences=100, length=100, seed=5)
training = {"batch_size": 128, "learning_rate": 2e-2, "max_iterations": n_passes, "patience": n_passes}
adder.fit(y, u, validation=(y_long, u_long), n_restarts=n_restarts, seed=0, **training)
scores = np.array(adder.history.restarts) / y_long.size
print("held-back score of each start, nats per bit:", " ".join(f"{score:.3f}" for score in sorted(scores)[::-1]))
print(f"{(scores > -0.01).sum()} of {n_restarts} starts have solved it, in {adder.history.seconds:.0f} s")


# %% [markdown]
# ## Longer sums
#
# All it has seen are numbers of twelve bits. If what it has learned is the rule, length does not matter.


# %%
def exact(length: int, n: int = 200) -> float:
    """The share of sums of this length of which every bit is right."""
    bits, sums = ps.datasets.binary_addition(n, length, seed=1)
    said = adder.emit(adder.filter(sums, bits).predicted).mean > 0.5
    return float((said.numpy() == (sums == 1)).all((1, 2)).mean())


lengths = (12, 50, 500)
shares = {length: exact(length) for length in lengths}
for length, share in shares.items():
    print(f"{length:4d} bits: {share:6.1%} of 200 sums exact")

# %% [markdown]
# ## What the units do
#
# The left picture is one sum, column by column: the bits, the carry that the network cannot see, and the activities of
# its three units. The right one has the hidden states of many columns as points of the cube, coloured by what an adder
# should know after a column: the carry to take along, and the bit to write.

# %%
bits, sums = ps.datasets.binary_addition(1 if options.smoke else 40, 24, seed=2)
states = adder.filter(sums, bits).predicted.state
carry, column = np.zeros(len(bits)), []
for t in range(bits.shape[1]):
    carry = (bits[:, t].sum(-1) + carry) // 2
    column.append(carry)
carried = np.stack(column, 1)

figure = plt.figure(figsize=(10, 4.2), layout="constrained")
grid = figure.add_gridspec(1, 2, width_ratios=(1.5, 1))
left = figure.add_subplot(grid[0])
rows = np.concatenate([bits[0].T, sums[0].T, carried[:1], states[0].numpy().T])
left.imshow(rows, cmap="Greys", vmin=0, vmax=1, aspect="auto")
left.set_yticks(range(7), ["first bit", "second bit", "bit of the sum", "carry", "unit 1", "unit 2", "unit 3"])
left.axhline(3.5, color="tab:red", lw=1.5)
left.set_xlabel("column, the units first")
left.set_title("one sum", loc="left", fontsize="medium")
right = figure.add_subplot(grid[1], projection="3d")
for kept in (0, 1):
    for written in (0, 1):
        chosen = torch.as_tensor((carried == kept) & (sums[..., 0] == written))
        points = states[chosen].numpy().T
        right.scatter(*points, s=12, label=f"carry {kept}, write {written}", color=f"C{2 * kept + written}")
right.set(xlim=(0, 1), ylim=(0, 1), zlim=(0, 1), xlabel="unit 1", ylabel="unit 2", zlabel="unit 3")
right.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)
right.set_box_aspect(None, zoom=0.82)
figure.savefig(options.output, dpi=50 if options.smoke else 150)

print(f"result: {shares[500]:.3f} of sums of 500 bits exact (trivial baseline: {0.5**500:.0e}, guessing)")

# %% [markdown]
# ## Reading it
#
# Trained on twelve bits, right on five hundred: a network that had learned the sums by heart could not do that. Most
# activities are close to 0 or 1, where a logistic unit is flat, so that small errors die out from column to column and
# do not add up. One unit also says things in between, while a carry is handed through columns of a single one; there
# the state creeps, and there the networks fail that add twelve bits and not a hundred: chosen by sums of twelve bits
# alone, the best of ten starts got one sum in two hundred wrong.
#
# The points of one colour need not lie in one place. The network is free to keep apart what an adder may forget, say
# how the carry came about, and uses more places than the four that are necessary.
