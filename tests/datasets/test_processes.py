"""Processes against what is published about them: forbidden words, entropy rates, the matrices of Mess3."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from probseq import datasets


def block_entropy(model, length: int) -> float:
    """H(y_0 .. y_{length-1}) in nats, by the probability of every word."""
    n_symbols = model.emission.n_symbols
    words = torch.tensor(list(itertools.product(range(n_symbols), repeat=length)), dtype=torch.float64)
    log_prob = model.log_prob(words[..., None]).detach()
    possible = log_prob > -torch.inf
    assert float(log_prob.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    return -float((log_prob[possible].exp() * log_prob[possible]).sum())


@pytest.mark.parametrize(
    ("model", "rate", "length"),
    [
        (datasets.golden_mean(), 2 / 3, 8),
        (datasets.even(), 2 / 3, 12),
        (datasets.zero_one_random(), 1 / 3, 12),
        (datasets.random_random_xor(), 2 / 3, 13),
    ],
    ids=["golden mean", "even", "z1r", "rrxor"],
)
def test_entropy_rates(model, rate, length):
    """The next symbol's entropy falls towards the rate; the golden mean is there after one step, a Markov chain."""
    found = [block_entropy(model, n) for n in (length - 2, length - 1, length)]
    conditional = [later - sooner for sooner, later in itertools.pairwise(found)]
    assert conditional[0] >= conditional[1] - 1e-12
    bound = 1e-12 if length == 8 else 0.06
    assert -1e-12 <= conditional[1] - rate * math.log(2) <= bound


@pytest.mark.parametrize(
    ("model", "legal", "forbidden"),
    [
        (datasets.even(), "0110", "010"),
        (datasets.even(), "011110", "01110"),
        (datasets.golden_mean(), "0110", "1001"),
        (datasets.zero_one_random(), "011010", "000"),
        (datasets.random_random_xor(), "000011", "0" * 6 + "1" * 6),
    ],
)
def test_words_that_cannot_be(model, legal, forbidden):
    words = [torch.tensor([float(letter) for letter in word])[:, None] for word in (legal, forbidden)]
    possible, impossible = (float(model.log_prob(word).detach()) for word in words)
    assert possible > -math.inf
    assert impossible == -math.inf


def test_mess3_has_its_published_matrices():
    """T^A of Marzen and Crutchfield: a y, b x, b x; a x, b y, b x; a x, b x, b y, with b = (1 - a) / 2, y = 1 - 2 x."""
    a, x = 0.6, 0.15
    b, y = (1 - a) / 2, 1 - 2 * x
    model = datasets.mess3(stay=y, fond=a)
    moves, says = model.transition_matrix.detach().numpy(), model.emission.probs.detach().numpy()
    expected = [[a * y, b * x, b * x], [a * x, b * y, b * x], [a * x, b * x, b * y]]
    np.testing.assert_allclose(moves * says[:, 0], expected, rtol=1e-12)


def test_the_third_bit_is_wrong_as_often_as_asked():
    """Once the phase is known: after enough bits every third one is predicted with the noise's probability."""
    model = datasets.random_random_xor(noise=0.1)
    y = model.sample(3000, seed=1)
    sure = model.emit(model.filter(y).predicted).base_dist.probs.detach().squeeze(-2).amax(-1)[1000:]
    phases = sure[:1998].reshape(-1, 3).mean(0).sort().values
    np.testing.assert_allclose(phases, [0.5, 0.5, 0.9], atol=0.01)


@pytest.mark.parametrize("model", [datasets.oscillator(), datasets.local_level(decay=0.9)], ids=["turns", "level"])
def test_linear_processes_are_stationary(model):
    system = model.system()
    moved = system.transition_matrix @ system.initial_cov @ system.transition_matrix.mT + system.transition_cov
    torch.testing.assert_close(moved, system.initial_cov, rtol=1e-12, atol=1e-12)


def test_arguments_are_checked():
    for call, words in (
        (lambda: datasets.mess3(stay=1.2), "stay must be a probability"),
        (lambda: datasets.random_random_xor(-0.1), "noise must be a probability"),
        (lambda: datasets.oscillator(damping=1.0), "damping in"),
        (lambda: datasets.local_level(drift=0.0), "drift and noise"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
