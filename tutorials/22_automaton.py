# %% [markdown]
# # The automaton inside an adder
#
# Adding two binary numbers column by column takes a machine with a memory: the carry. With the bit that it writes, it
# has four states. A network with three logistic units that has learned to add has a cube full of states. If it has
# learned the *rule*, its states must fall into groups that behave alike, and there must be four of them.
#
# "Behave alike" can be made exact. Quantise the states that words reach, call two of them one when they answer alike
# after every further word (Hopcroft's algorithm finds the smallest such machine), and verify what is left against the
# network, on all short words and on many long ones.

# %%
import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Circle

import probseq as ps
from probseq.evaluation.automata import from_table

parser = argparse.ArgumentParser(description="The finite automaton inside a network that adds binary numbers.")
parser.add_argument("--output", default="automaton.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="weights by hand instead of training, to see that it runs")
options, _ = parser.parse_known_args()

# %% [markdown]
# ## A network that adds
#
# Ten starts, the best kept by its score on longer sums, as in the tutorial on binary addition. (With `--smoke` the
# weights are set by hand: unit i says whether the two bits and the carry sum to i or more.)

# %%
network = ps.RNN(input_dim=2, cell=ps.cells.Elman(3, "logistic"), head=ps.heads.Bernoulli(), feedback=False, seed=0)
if options.smoke:
    steep = 30.0
    with torch.no_grad():
        network.cell.input_weights.fill_(steep)
        network.cell.recurrent_weights.copy_(steep * torch.tensor([0.0, 1.0, 0.0]).expand(3, 3))
        network.cell.bias.copy_(-steep * torch.tensor([0.5, 1.5, 2.5]))
        network.head.weights.copy_(steep * torch.tensor([[1.0, -1.0, 1.0]]))
        network.head.bias.fill_(-steep / 2)
else:
    u, y = ps.datasets.binary_addition(n_sequences=2000, length=12, seed=0)
    u_long, y_long = ps.datasets.binary_addition(n_sequences=100, length=100, seed=5)
    training = {"batch_size": 128, "learning_rate": 2e-2, "max_iterations": 200, "patience": 200}
    network.fit(y, u, validation=(y_long, u_long), n_restarts=10, seed=0, **training)

# %% [markdown]
# ## Extraction
#
# The letters are the four columns. Every letter is tried from every state that is found; states nearer than `precision`
# times the spread of the activities, with the same answer, count as one. A `NotAnAutomaton` says why where that fails.

# %%
columns = [(0, 0), (0, 1), (1, 0), (1, 1)]
machine = ps.evaluation.automaton(network, columns, verify_length=4 if options.smoke else 8)
print(f"{machine.n_found} distinct states at precision {machine.precision}, {machine.n_states} after minimising")
print(f"agrees with the network on {machine.verified[0]:,} words of up to {machine.verified[1]} columns, at every step")

# %% [markdown]
# ## Is it the adder?
#
# The adder, by hand: its states are carry and last bit, and from carry c the column (a, b) leads to the sum a + b + c.
# Two machines are equal if no word tells them apart, which is a finite search.

# %%
moves = [[carry + a + b for a, b in columns] for carry in (0, 0, 1, 1)]
adder = from_table(moves, outputs=[0, 1, 0, 1], letters=columns)
print("the same machine as the adder:", machine.equals(adder))

# %% [markdown]
# ## Two pictures of one memory
#
# Left the states of the network after many columns, in the cube of its three units. Their colour is the state of the
# automaton that the columns so far lead to. Right the automaton in the same colours: in each circle the bit that is
# written.

# %%
bits, _ = ps.datasets.binary_addition(5 if options.smoke else 60, 24, seed=2)
words = (2 * bits[..., 0] + bits[..., 1]).astype(int)
reached = machine.states(words)
states = network.filter(np.zeros((*bits.shape[:2], 1)), bits).predicted.state
figure = plt.figure(figsize=(10, 4.4), layout="constrained")
grid = figure.add_gridspec(1, 2)
cube = figure.add_subplot(grid[0], projection="3d")
for state in range(machine.n_states):
    cube.scatter(*states[torch.as_tensor(reached == state)].numpy().T, s=10, color=f"C{state}", label=f"state {state}")
cube.set(xlim=(0, 1), ylim=(0, 1), zlim=(0, 1), xlabel="unit 1", ylabel="unit 2", zlabel="unit 3")
cube.legend(fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.1))
cube.set_box_aspect(None, zoom=0.82)
right = machine.plot(figure.add_subplot(grid[1]))
for state, circle in enumerate(patch for patch in right.patches if isinstance(patch, Circle)):
    circle.set_edgecolor(f"C{state}")
figure.savefig(options.output, dpi=50 if options.smoke else 150)

patterns = len({tuple(row) for row in (states.reshape(-1, 3) > 0.5).int().tolist()})
print(
    f"result: {machine.n_states} states, carry times last bit, in a network of three units "
    f"(trivial baseline: {patterns}, on-off patterns of its units)"
)

# %% [markdown]
# ## Reading it
#
# The network may keep apart what an adder may forget, say how a carry came about, and uses more places than four; none
# of that matters to any answer it will ever give. The verification is what makes this more than a picture: a network
# that has learned sums by heart, or whose activities creep from column to column, is refused, with the word on which
# the machine and the network part.
