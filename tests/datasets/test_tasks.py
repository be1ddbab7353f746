"""Tasks that are drawn: each has the property that defines it."""

from __future__ import annotations

import re

import numpy as np
import pytest

import probseq as ps
from probseq.sequences import Sequences

T = 24
LENGTH_TASKS = ["binary_addition", "parity", "two_streams", "adding", "multiplication", "temporal_order", "xor"]
MEMORY_TASKS = ["five_bit_memory", "twenty_bit_memory"]


@pytest.mark.parametrize("name", LENGTH_TASKS + MEMORY_TASKS)
def test_tasks_come_in_pairs_and_are_a_function_of_the_seed(name):
    task = getattr(ps.datasets, name)
    u, y = task(5, T, seed=3)
    assert u.shape[:2] == y.shape[:2] == (5, T + {"five_bit_memory": 10, "twenty_bit_memory": 20}.get(name, 0))
    assert u.dtype == y.dtype == np.float64
    assert np.isfinite(u).all()
    again, other = task(5, T, seed=3), task(5, T, seed=4)
    np.testing.assert_array_equal(u, again[0])
    np.testing.assert_array_equal(y, again[1])
    assert not np.array_equal(u, other[0])
    assert Sequences.of(y, u).values.shape == y.shape
    with pytest.raises(ValueError, match="n_sequences must be"):
        task(0, T)
    with pytest.raises(ValueError, match=r"(length|delay) must be"):
        task(5, 0)


def test_sums_are_right():
    u, y = ps.datasets.binary_addition(300, 12, seed=0)
    powers = 2 ** np.arange(12)
    first, second, total = (np.tensordot(x, powers, (1, 0)) for x in (u[..., 0], u[..., 1], y[..., 0]))
    np.testing.assert_array_equal(total, (first + second) % 2**12)
    assert len(np.unique(first)) > 200


def test_parities_are_right():
    for task, width in ((ps.datasets.parity, 1), (ps.datasets.two_streams, 2)):
        u, y = task(20, T, seed=0)
        assert u.shape == y.shape == (20, T, width)
        for n, t, d in np.ndindex(y.shape):
            assert y[n, t, d] == int(u[n, : t + 1, d].sum()) % 2
    assert 0.3 < (u[..., 0] == u[..., 1]).mean() < 0.7


@pytest.mark.parametrize("length", [4, 5, T, 100])
def test_marked_values_give_the_answer(length):
    operations = {"adding": sum, "multiplication": np.prod, "xor": lambda pair: float(pair[0] != pair[1])}
    places = []
    for name, operation in operations.items():
        u, y = getattr(ps.datasets, name)(200, length, seed=1)
        assert np.isnan(y[:, :-1]).all()
        for inputs, target in zip(u, y[:, -1, 0], strict=True):
            marked = np.flatnonzero(inputs[:, 1])
            assert len(marked) == 2
            assert set(inputs[:, 1]) <= {0.0, 1.0}
            assert marked[1] < length // 2
            assert marked[0] < 10
            assert target == pytest.approx(operation(inputs[marked, 0]), abs=1e-15)
            places.append(tuple(marked))
        assert ((u[..., 0] >= 0) & (u[..., 0] <= 1)).all()
    assert {place for pair in places for place in pair} == set(range(length // 2))


def test_guessing_costs_what_the_pages_say():
    for name, cost in (("adding", 1 / 6), ("multiplication", 7 / 144)):
        y = getattr(ps.datasets, name)(40_000, 20, seed=0)[1][:, -1, 0]
        assert y.var() == pytest.approx(cost, rel=0.02)


def test_temporal_order_is_in_the_last_target():
    u, y = ps.datasets.temporal_order(400, 50, seed=0)
    assert (u.sum(-1) == 1).all()
    letters = np.array(list("EBabcdXY"))[u.argmax(-1)]
    assert (letters[:, 0] == "E").all()
    assert (letters[:, -1] == "B").all()
    assert np.isnan(y[:, :-1]).all()
    for row, answer in zip(letters, y[:, -1, 0], strict=True):
        places = np.flatnonzero((row == "X") | (row == "Y"))
        assert ["XX", "XY", "YX", "YY"][int(answer)] == "".join(row[places])
        assert 5 <= places[0] <= 10
        assert 25 <= places[1] <= 30
        assert not set(row[1:-1]) & {"E", "B"}
    assert set(y[:, -1, 0]) == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize(("name", "size", "values"), [("five_bit_memory", 5, 2), ("twenty_bit_memory", 10, 5)])
def test_memory_words_return_after_the_delay(name, size, values):
    for delay in (1, 30):
        u, y = getattr(ps.datasets, name)(40, delay, seed=0)
        assert u.shape == (40, delay + 2 * size, values + 2)
        assert (u.sum(-1) == 1).all()
        shown = u.argmax(-1)
        np.testing.assert_array_equal(y[:, size + delay :, 0], shown[:, :size])
        assert (y[:, : size + delay] == values).all()
        cue = shown == values + 1
        assert (cue.sum(1) == 1).all()
        assert cue[:, size + delay - 1].all()
        assert (shown[:, :size] < values).all()
    words = {tuple(word) for word in shown[:, :size]}
    assert len(words) == (32 if values == 2 else 40)


REBER = r"BT S* X (?:X N|S) E|BP N E".replace("N", r"(?:T* V P X)* T* V (?:P S|V)").replace(" ", "")


def test_reber_strings_are_in_the_language():
    """A regular expression, found from the diagram by eliminating its nodes, is the judge."""
    strings = ["".join(ps.datasets.REBER_SYMBOLS[s] for s in x) for x in ps.datasets.reber_grammar(500, seed=0)]
    assert all(re.fullmatch(REBER, string) for string in strings)
    assert len(set(strings)) > 80
    assert {string[:2] for string in strings} == {"BT", "BP"}
    for legal in ("BTSSXXTVVE", "BPVPXVPXVPXVVE", "BTXSE", "BPTVPSE"):
        assert re.fullmatch(REBER, legal)
    assert not re.fullmatch(REBER, "BTSSPXSE")
    embedded = ps.datasets.reber_grammar(300, embedded=True, seed=1)
    for symbols in embedded:
        string = "".join(ps.datasets.REBER_SYMBOLS[s] for s in symbols)
        assert (string[0], string[-1]) == ("B", "E")
        assert string[1] == string[-2]
        assert string[1] in "TP"
        assert re.fullmatch(REBER, string[2:-2])
    assert 0.4 < np.mean([symbols[1] == 1 for symbols in embedded]) < 0.6
    np.testing.assert_array_equal(ps.datasets.reber_grammar(3, seed=5)[2], ps.datasets.reber_grammar(3, seed=5)[2])


def test_reber_probabilities_are_one_half():
    """The mean length of a string solves the equations of the diagram: 8."""
    lengths = [len(string) for string in ps.datasets.reber_grammar(20_000, seed=2)]
    steps = np.zeros((8, 8))
    for state, arcs in enumerate(([1], [2, 3], [2, 4], [3, 5], [3, 6], [4, 6], [7])):
        steps[state, arcs] = 1 / len(arcs)
    expected = np.linalg.solve(np.eye(7) - steps[:7, :7], np.ones(7))[0]
    assert np.mean(lengths) == pytest.approx(expected, abs=4 * np.std(lengths) / np.sqrt(20_000))


def test_characters_of_a_file(tmp_path):
    text = "Speak, speak.\nÄh: 'No'\n"
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    read = ps.datasets.characters(path)
    assert read.vocabulary == tuple(sorted(set(text)))
    assert len(read) == len(read.symbols) == len(text)
    assert read.decode(read.symbols) == text
    assert read.decode(read.symbols[:, None].astype(float)) == text
    np.testing.assert_array_equal(read.encode(text), read.symbols)
    with pytest.raises(ValueError, match="character 1 is 'x'"):
        read.encode("Sx")
    with pytest.raises(ValueError, match=r"integers 0\.\."):
        read.decode([0, 99])
    path.write_text("")
    with pytest.raises(ValueError, match="at least one character"):
        ps.datasets.characters(path)
