"""Symbols, binary vectors and counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from probseq.emissions import Bernoulli, Categorical, Poisson


def test_symbols():
    emission = Categorical(probs=[[0.2, 0.0, 0.8], [0.5, 0.25, 0.25]])
    table = emission.log_prob(torch.tensor([[0.0], [1.0], [2.0]]).double())
    expected = np.log(np.maximum(emission.probs.detach().numpy().T, 1e-320))
    assert table[1, 0].item() == -np.inf
    np.testing.assert_allclose(table.detach().numpy()[[0, 2]], expected[[0, 2]], rtol=1e-12)
    hidden = emission.log_prob(torch.zeros(2, 1).double(), torch.tensor([[True], [False]]))
    assert torch.equal(hidden[1], torch.zeros(2).double())


def test_binary_vectors_with_gaps_and_certainties():
    probs = np.array([[0.3, 1.0, 0.5], [0.0, 0.2, 0.9]])
    emission = Bernoulli(probs=probs)
    rows = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1]]).double()
    seen = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]]).bool()
    with np.errstate(divide="ignore"):
        terms = stats.bernoulli(probs).logpmf(rows.numpy()[:, None].astype(int))
    expected = np.where(seen.numpy()[:, None], terms, 0).sum(-1)
    np.testing.assert_allclose(emission.log_prob(rows, seen).detach().numpy(), expected, rtol=1e-12)


def test_counts_with_gaps_and_a_zero_rate():
    rates = np.array([[0.0, 3.5], [2.0, 1e-9]])
    rows = torch.tensor([[0, 4], [1, 0], [7, 2]]).double()
    seen = torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()
    expected = np.where(seen.numpy()[:, None], stats.poisson(rates).logpmf(rows.numpy()[:, None]), 0).sum(-1)
    emission = Poisson(rates=rates)
    np.testing.assert_allclose(emission.log_prob(rows, seen).detach().numpy(), expected, rtol=1e-12)
    table = emission.log_prob(rows, seen)
    table[torch.isfinite(table)].sum().backward()
    assert torch.isfinite(emission.raw_rates.grad).all()


@pytest.mark.parametrize("kind", ["categorical", "bernoulli", "poisson"])
def test_m_step_is_the_weighted_frequency(kind):
    draws = torch.Generator().manual_seed(0)
    weights = torch.rand(200, 2, generator=draws, dtype=torch.float64)
    if kind == "categorical":
        emission = Categorical(probs=np.full((2, 4), 0.25))
        rows = torch.randint(0, 4, (200, 1), generator=draws).double()
        emission.maximise(rows, torch.ones(200, 1).bool(), weights)
        expected = torch.stack([(weights * (rows == m)).sum(0) for m in range(4)], -1) / weights.sum(0)[:, None]
        torch.testing.assert_close(emission.probs, expected)
        return
    seen = torch.rand(200, 3, generator=draws) < 0.7
    rows = torch.randint(0, 2, (200, 3), generator=draws).double() * seen
    expected = (weights.mT @ rows) / (weights.mT @ seen.double())
    emission = Bernoulli(probs=np.full((2, 3), 0.5)) if kind == "bernoulli" else Poisson(rates=np.ones((2, 3)))
    emission.maximise(rows, seen, weights)
    torch.testing.assert_close(emission.probs if kind == "bernoulli" else emission.rates, expected)


def test_only_zeros_leave_a_small_positive_rate():
    emission = Poisson(rates=[[1.0], [2.0]])
    emission.maximise(torch.zeros(50, 1).double(), torch.ones(50, 1).bool(), torch.full((50, 2), 0.5).double())
    assert (emission.rates > 0).all()
    assert (emission.rates < 0.01).all()


@pytest.mark.parametrize(
    ("emission", "bad", "words"),
    [
        (Categorical(3), -1.0, "symbols 0 .. 2"),
        (Categorical(3), 3.0, "symbols 0 .. 2"),
        (Categorical(3), 1.5, "symbols 0 .. 2"),
        (Bernoulli(1), 0.5, "zeros and ones"),
        (Poisson(1), -1.0, "counts"),
        (Poisson(1), 0.5, "counts"),
    ],
)
def test_what_is_outside_the_support(emission, bad, words):
    marked, support = emission.invalid(torch.tensor([[0.0], [bad], [1.0]]).double())
    assert marked.flatten().tolist() == [False, True, False]
    assert words in support
