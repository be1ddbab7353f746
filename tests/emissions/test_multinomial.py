"""Multinomial emissions: counts given the sum of their row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import probseq as ps
from probseq.emissions import Multinomial

PROBS = np.array([[0.5, 0.3, 0.2], [0.1, 0.9, 0.0]])


def model(**options) -> ps.HMM:
    shared = {"initial_probs": [0.5, 0.5], "transition_matrix": [[0.9, 0.1], [0.2, 0.8]]}
    return ps.HMM(emission=Multinomial(probs=PROBS, **options), **shared)


def test_table_rows_missing_as_a_whole_and_impossible_symbols():
    rows = torch.tensor([[3, 1, 2], [0, 5, 0], [0, 0, 0], [1, 2, 0]]).double()
    seen = torch.ones(4, 3).bool()
    seen[3, 2] = False
    emission = Multinomial(probs=PROBS)
    table = emission.log_prob(rows, seen).detach().numpy()
    expected = np.array([[stats.multinomial.logpmf(y, y.sum(), p) for p in PROBS] for y in rows.numpy()])
    expected[3] = 0
    assert table[0, 1] == -np.inf
    np.testing.assert_allclose(table, expected, rtol=1e-12, atol=1e-14)
    said = emission.distribution().log_prob(rows[:3, None]).detach().numpy()
    np.testing.assert_allclose(said, expected[:3], rtol=1e-12, atol=1e-14)


def test_m_step_is_the_weighted_share():
    rows = torch.tensor([[3, 1, 2], [0, 5, 0], [9, 9, 9]]).double()
    seen = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 1]]).bool()
    weights = torch.tensor([[0.2, 0.0], [0.7, 0.0], [1.0, 1.0]]).double()
    emission = Multinomial(probs=PROBS)
    emission.maximise(rows, seen, weights)
    counts = 0.2 * np.array([3, 1, 2]) + 0.7 * np.array([0, 5, 0])
    np.testing.assert_allclose(emission.probs.detach(), [counts / counts.sum(), PROBS[1]], rtol=1e-6)
    assert emission.degrees_of_freedom() == 3


def test_draws_and_moments():
    y = model(trials=4).sample(4000, seed=0)
    assert (y.sum(-1) == 4).all()
    share = np.array([2, 1]) / 3  # the stationary law
    np.testing.assert_allclose(y.mean(0) / 4, share @ PROBS, atol=0.03)
    law = Multinomial(probs=PROBS, trials=4).distribution()
    np.testing.assert_allclose(law.variance.detach()[0], np.diag(stats.multinomial(4, PROBS[0]).cov()), rtol=1e-12)
    found = ps.HMM(2, emission=Multinomial(3)).fit(y, seed=0, max_iterations=200, tolerance=1e-4)
    assert found.log_prob(y) > model().log_prob(y) - 2


def test_errors():
    with pytest.raises(ValueError, match="trials must be given to the Multinomial emission"):
        model().sample(3)
    with pytest.raises(ValueError, match="missing as a whole, with sum 4, got 1 at step 1, column 0"):
        model(trials=4).log_prob(np.array([[4.0, 0, 0], [1, 1, 1]]))
    with pytest.raises(ValueError, match="missing as a whole, with sum 4, got 1 at step 0, column 0"):
        model(trials=4).log_prob(np.array([[1.0, 1, np.nan]]))
    with pytest.raises(ValueError, match="counts 0, 1, 2"):
        model().log_prob(np.array([[0.5, 0, 0]]))
