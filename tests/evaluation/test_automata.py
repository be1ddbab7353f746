"""Automata out of networks that were built or trained to be them, and a reason where there is none."""

from __future__ import annotations

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import probseq as ps
from probseq.errors import NotAnAutomaton
from probseq.evaluation import Automaton, automaton
from probseq.evaluation.automata import from_table
from probseq.evaluation.hopcroft import minimise

COLUMNS = [(0, 0), (0, 1), (1, 0), (1, 1)]
#: carry x last bit, in the order (0, 0), (0, 1), (1, 0), (1, 1): from carry c the column a + b leads to
ADDER = from_table(
    [[[0, 1, 2, 3][c + a + b] for a, b in COLUMNS] for c in (0, 0, 1, 1)], outputs=[0, 1, 0, 1], letters=COLUMNS
)
PARITY = from_table([[0, 1], [1, 0]], outputs=[0, 1], letters=[0, 1])


def all_words(n_letters: int, length: int) -> np.ndarray:
    """Every word of a length, (n_letters ** length, length)."""
    return np.array(list(product(range(n_letters), repeat=length)), dtype=np.int64).reshape(-1, length)


def thresholds(n_units: int, width: int, into: list[float], back: list[float], out: list[float]) -> ps.RNN:
    """Unit i is 1 where the sum of inputs and the fed back number is i + 1 or more; steep logistic units."""
    cell = ps.cells.Elman(n_units, "logistic")
    model = ps.RNN(input_dim=width, cell=cell, head=ps.heads.Bernoulli(), feedback=False, dtype=torch.float64, seed=0)
    steep = 30.0
    with torch.no_grad():
        cell.input_weights.copy_(steep * torch.tensor(into).expand(n_units, -1))
        cell.recurrent_weights.copy_(steep * torch.tensor(back).expand(n_units, -1))
        cell.bias.copy_(-steep * (torch.arange(n_units) + 0.5))
        cell.initial_activity.zero_()
        model.head.weights.copy_(steep * torch.tensor([out]))
        model.head.bias.fill_(-steep / 2)
    return model


def adder() -> ps.RNN:
    """s = a + b + carry; the units say s >= 1, 2, 3, the second is the carry and the bit is their alternating sum."""
    return thresholds(3, 2, [1.0, 1.0], [0.0, 1.0, 0.0], [1.0, -1.0, 1.0])


def parity() -> ps.RNN:
    """s = u + p; the units say s >= 1, 2 and p is their difference."""
    return thresholds(2, 1, [1.0], [1.0, -1.0], [1.0, -1.0])


def test_the_adder():
    found = automaton(adder(), COLUMNS)
    assert found.n_states == 4
    assert found.equals(ADDER)
    assert not found.equals(from_table([[0, 1, 1, 0], [0, 1, 1, 0]], outputs=[0, 1], letters=COLUMNS))
    assert found.verified == (4**8 + 1000, 200)
    u, y = ps.datasets.binary_addition(3, 20, seed=3)
    words = (2 * u[..., 0] + u[..., 1]).astype(int)
    np.testing.assert_array_equal(np.array(found.run(words)), y[..., 0])


def test_parity():
    found = automaton(parity(), [0, 1], verify_length=12)
    assert found.n_states == 2
    assert found.equals(PARITY)
    assert found.outputs[found.start] == 0


def test_a_next_step_network():
    """A one-hot memory of the last two symbols that says the one before the last: four states and a start."""
    cell = ps.cells.Elman(4, "linear")
    model = ps.RNN(cell=cell, head=ps.heads.Categorical(2), dtype=torch.float64, seed=0)
    with torch.no_grad():
        for part in model.parameters():
            part.zero_()
        cell.input_weights[:2] = torch.eye(2)
        cell.recurrent_weights[2:, :2] = torch.eye(2)
        model.head.weights[:, 2:] = torch.eye(2)
    found = automaton(model, [0, 1])
    words = all_words(2, 6)
    said = np.array(found.run(words))
    np.testing.assert_array_equal(said[:, 1:], words[:, :-1])
    assert found.n_states == 4  # the start says 0, like a 0 before the last


def test_a_counter_is_refused_with_the_reason():
    """h + 1 or h - 1, and whether that is positive: no finite automaton counts."""
    cell = ps.cells.Elman(1, "linear")
    model = ps.RNN(input_dim=1, cell=cell, head=ps.heads.Bernoulli(), feedback=False, dtype=torch.float64, seed=0)
    with torch.no_grad():
        for part in (cell.input_weights, cell.recurrent_weights, model.head.weights):
            part.fill_(1.0)
        for part in (cell.bias, cell.initial_activity, model.head.bias):
            part.zero_()
    with pytest.raises(NotAnAutomaton, match="words lead to new ones"):
        automaton(model, [-1, 1], precision=0.05, max_states=100)
    with pytest.raises(NotAnAutomaton, match="say something else than the network after"):
        automaton(model, [-1, 1], precision=0.5)
    with pytest.raises(NotAnAutomaton, match=r"0\.5 .*; .*0\.01"):
        automaton(model, [-1, 1], max_states=30)


def test_too_coarse_a_precision_is_refused():
    with pytest.raises(NotAnAutomaton, match="at precision 2"):
        automaton(adder(), COLUMNS, precision=2.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: from_table([[0, 1]], [0], [0, 1]), "must lead to states 0"),
        (lambda: from_table([[0]], [0], [0, 1]), "transitions must be"),
        (lambda: automaton(parity(), [[0, 1]]), "alphabet must be rows of 1"),
        (lambda: automaton(parity(), [0, 1], precision=-1.0), "precision must be positive"),
        (lambda: automaton(adder(), COLUMNS, verify_length=13), "verify_length must be smaller"),
        (lambda: automaton(ps.RNN(cell=ps.cells.GRU(2), head=ps.heads.Gaussian()), [0, 1]), "read must be given"),
    ],
)
def test_arguments_are_checked(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# ---- minimisation


def refined(transitions: np.ndarray, outputs: list[int]) -> np.ndarray:
    """Moore's way: split by the blocks of all successors until nothing changes."""
    block_of = np.unique(outputs, return_inverse=True)[1]
    while True:
        rows = np.column_stack([block_of, block_of[transitions]])
        after = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
        if after.max() == block_of.max():
            return after
        block_of = after


@pytest.mark.parametrize("seed", range(40))
def test_hopcroft_finds_the_blocks_of_plain_refinement(seed):
    random = np.random.default_rng(seed)
    n, k = int(random.integers(1, 40)), int(random.integers(1, 4))
    transitions = random.integers(0, max(1, n // (1 + seed % 3)), (n, k))
    outputs = random.integers(0, 2, n).tolist() if seed % 4 else [0] * n
    mine, theirs = minimise(transitions, outputs), refined(transitions, outputs)
    assert len(set(zip(mine.tolist(), theirs.tolist(), strict=True))) == mine.max() + 1 == theirs.max() + 1


def test_a_blown_up_automaton_shrinks_to_what_it_was():
    """Three copies of every state of the adder, entered at random."""
    random = np.random.default_rng(0)
    copies = 3 * ADDER.transitions[np.repeat(np.arange(4), 3)] + random.integers(0, 3, (12, 4))
    big = Automaton(copies, tuple(np.repeat(ADDER.outputs, 3).tolist()), ADDER.letters)
    small = big.minimal()
    assert small.n_states == 4
    assert small.equals(ADDER)
    assert small.equals(big)


# ---- pictures


def test_the_picture_has_every_state_and_arrow():
    axes = ADDER.plot()
    texts = [text.get_text() for text in axes.texts if text.get_text()]
    assert sorted(text for text in texts if text in "01") == ["0", "0", "1", "1"]
    assert sum("0 1, 1 0" in text for text in texts) == 4  # an arrow from every state
    plt.close("all")
    dot = ADDER.to_dot()
    assert dot.count("->") == 13
    assert "start -> 0" in dot


# ---- trained networks


@pytest.mark.slow
def test_a_trained_adder_is_the_adder():
    u, y = ps.datasets.binary_addition(n_sequences=2000, length=12, seed=0)
    u_long, y_long = ps.datasets.binary_addition(n_sequences=100, length=100, seed=5)
    network = ps.RNN(
        input_dim=2, cell=ps.cells.Elman(3, "logistic"), head=ps.heads.Bernoulli(), feedback=False
    )  # fmt: skip
    options = {"batch_size": 128, "learning_rate": 2e-2, "max_iterations": 200, "patience": 200}
    network.fit(y, u, validation=(y_long, u_long), n_restarts=10, seed=0, **options)
    found = automaton(network, COLUMNS)
    print(f"adder: {found.n_found} states at precision {found.precision}, {found.n_states} left; {found.verified}")
    assert found.n_states == 4
    assert found.equals(ADDER)


@pytest.mark.slow
def test_a_trained_parity_network_is_the_parity():
    """By a curriculum: all words of three bits first, then longer ones, half of them with hardly any ones."""
    network = ps.RNN(
        input_dim=1, cell=ps.cells.Elman(4, "tanh"), head=ps.heads.Bernoulli(), feedback=False, dtype=torch.float64
    )  # fmt: skip
    u = all_words(2, 3)[..., None].astype(float)
    network.fit(u.cumsum(1) % 2, u, n_restarts=8, seed=0, validation=False, max_iterations=400, learning_rate=0.05)
    for length in (6, 10, 20, 60):
        u, _ = ps.datasets.parity(400, length, seed=length)
        u[::2, 5:] *= np.random.default_rng(length).random((200, length - 5, 1)) < 0.1
        options = {"batch_size": 32, "learning_rate": 0.02, "max_iterations": 60, "schedule": "linear"}
        network.fit(u.cumsum(1) % 2, u, seed=0, validation=False, **options)
        print(f"length {length}: {network.score(u.cumsum(1) % 2, u):.5f} nats a bit")
    found = automaton(network, [0, 1], verify_length=12)
    print(f"parity: {found.n_found} states at precision {found.precision}, {found.n_states} left; {found.verified}")
    assert found.n_states == 2
    assert found.equals(PARITY)
