"""Approximations of a network: exact where a network is a hidden Markov model, and as bad as is said where not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.evaluation import approximate, divergence_rate
from probseq.evaluation.approximations import WordTables, emission_for, spectral, word_tables


def word_probability(model: ps.HMM, word: tuple[int, ...]) -> float:
    return float(model.log_prob(torch.tensor(word, dtype=torch.float64)[:, None]).detach().exp())


def exact_tables(model: ps.HMM, n_symbols: int, length: int) -> WordTables:
    words = list(itertools.product(range(n_symbols), repeat=length))
    return WordTables(
        joint=np.array([[word_probability(model, a + b) for b in words] for a in words]),
        between=np.array(
            [[[word_probability(model, (*a, x, *b)) for b in words] for a in words] for x in range(n_symbols)]
        ),
        alone=np.array([word_probability(model, a) for a in words]),
    )


@pytest.mark.parametrize(
    ("model", "rank", "length"),
    [(ps.datasets.mess3(), 3, 1), (ps.datasets.golden_mean(), 2, 1), (ps.datasets.even(), 2, 2)],
    ids=["mess3", "golden mean", "even"],
)
def test_exact_tables_give_the_process_back(model, rank, length):
    n_symbols = model.emission.n_symbols
    operators = spectral(exact_tables(model, n_symbols, length), rank)
    for word in itertools.product(range(n_symbols), repeat=5):
        assert operators.word_probability(word) == pytest.approx(word_probability(model, word), abs=1e-12)
    y = model.sample(40, (5,), seed=0)
    scores, repaired = operators.log_prob(y.squeeze(-1).numpy())
    if rank == 3:  # no word is impossible, so rounding makes no zero negative
        assert not repaired.any()
        np.testing.assert_allclose(scores.sum(1), model.log_prob(y).detach(), rtol=1e-8)


def test_tables_count_words():
    tables = word_tables(np.array([[0, 1, 1, 0, 1]]), 2, 1)
    np.testing.assert_allclose(tables["alone"], [0.4, 0.6])
    np.testing.assert_allclose(tables["joint"], [[0.0, 0.5], [0.25, 0.25]])
    np.testing.assert_allclose(tables["between"][0], [[0.0, 0.0], [0.0, 1 / 3]])  # 1 0 1
    np.testing.assert_allclose(tables["between"][1], [[0.0, 1 / 3], [1 / 3, 0.0]])  # 0 1 1 and 1 1 0


def test_a_network_that_is_a_chain_loses_nothing():
    """Both methods on the forward algorithm of Mess3; a model of one state loses what the past tells."""
    chain = ps.datasets.mess3()
    network = ps.RNN.from_hmm(chain)
    alone = approximate(network, 1, n_sequences=150, length=60, seed=0)
    full = approximate(network, 3, n_sequences=150, length=60, seed=0, n_restarts=2)
    assert alone.divergence > 0.1
    assert abs(full.divergence) < 0.01 + 3 * full.standard_error
    y = chain.sample(60, (300,), seed=5)
    coin = ps.emissions.Categorical(probs=[[1 / 3] * 3])
    single = ps.HMM(emission=coin, transition_matrix=[[1.0]], initial_probs=[1.0])
    rate, error = divergence_rate(chain, single, y)
    assert rate == pytest.approx(chain.score(y) + np.log(3))
    assert alone.divergence == pytest.approx(rate, abs=4 * error + 0.01)


def test_the_spectral_method_on_samples_of_a_network():
    head = ps.heads.Categorical(3)
    network = ps.evaluation.distill(
        ps.datasets.mess3(), ps.cells.GRU(8), head, n_sequences=150, length=30, seed=0, max_iterations=12
    )
    found = approximate(network, 3, "spectral", n_sequences=400, length=60, word_length=2, seed=0)
    rough = approximate(network, 1, "spectral", n_sequences=400, length=60, word_length=2, seed=0)
    assert 0 <= found.repaired < 0.05
    assert -3 * found.standard_error < found.divergence < 0.5 * rough.divergence
    assert "3 states" in str(found)


def test_arguments_are_checked():
    network = ps.RNN(cell=ps.cells.GRU(3), head=ps.heads.Gaussian(), seed=0)
    assert isinstance(emission_for(network), ps.emissions.Gaussian)
    with pytest.raises(ValueError, match="for symbols"):
        approximate(network, 2, "spectral", n_sequences=3, length=5)
    with pytest.raises(ValueError, match='"baum_welch" or "spectral"'):
        approximate(network, 2, "other", n_sequences=3, length=5)
    with pytest.raises(TypeError, match="without inputs"):
        approximate(ps.datasets.mess3(), 2)
    with pytest.raises(ValueError, match="at least 5"):
        word_tables(np.zeros((2, 4), dtype=np.int64), 2, 2)
    with pytest.raises(ValueError, match="word_length must be smaller"):
        word_tables(np.zeros((2, 40), dtype=np.int64), 2, 11)
    with pytest.raises(ValueError, match="at most the rank of the table of words, 1"):
        spectral(word_tables(np.zeros((1, 9), dtype=np.int64), 2, 1), 2)
