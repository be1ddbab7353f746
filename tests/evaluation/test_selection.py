"""The number of states that drew the data is found; scores are recomputed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.evaluation import choose_n_states
from probseq.randomness import spawn


def three_states() -> ps.HMM:
    emission = ps.emissions.Gaussian(means=[[-4.0], [0.0], [5.0]], covs=[[[1.0]], [[0.5]], [[1.5]]])
    matrix = [[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.05, 0.25, 0.7]]
    return ps.HMM(initial_probs=[0.3, 0.3, 0.4], transition_matrix=matrix, emission=emission)


def make(k: int) -> ps.HMM:
    return ps.HMM(k, emission=ps.emissions.Gaussian(1))


def test_three_states_are_found_from_many_sequences() -> None:
    y = list(three_states().sample(40, (15,), seed=0).numpy())
    choice = choose_n_states(make, y, [1, 2, 3, 4], n_folds=3, seed=0)
    assert choice.best == 3
    assert list(choice.table.index) == [1, 2, 3, 4]
    assert choice.table.loc[3, "difference"] == 0
    assert choice.table.loc[1, "difference"] < -5 * choice.table.loc[1, "difference_se"] < 0
    assert choice.table["parameters"].to_list() == [2, 7, 14, 23]
    assert "3 states predict best" in repr(choice)


def test_three_states_are_found_from_one_series() -> None:
    y = three_states().sample(400, seed=1)
    choice = choose_n_states(make, y, [2, 3, 4], n_folds=2, seed=0)
    assert choice.best == 3


def test_scores_of_sequences_are_those_of_fits_without_them() -> None:
    """Independent rows, one state: the fit is the mean and variance of the other sequences."""
    rng = np.random.default_rng(0)
    y = [rng.normal(size=n) for n in (5, 9, 7, 12)]
    choice = choose_n_states(make, y, [1], n_folds=4, seed=3)
    expected, steps = {}, {}
    for i in range(4):
        rest = np.concatenate([y[j] for j in range(4) if j != i])
        terms = -0.5 * ((y[i] - rest.mean()) ** 2 / rest.var() + np.log(2 * np.pi * rest.var()))
        expected[i], steps[i] = terms.mean(), len(y[i])
    np.testing.assert_allclose(sorted(choice.folds[1]), sorted(expected.values()), rtol=1e-8)
    mean = sum(expected[i] * steps[i] for i in range(4)) / sum(steps.values())
    assert choice.table.loc[1, "score"] == pytest.approx(mean, rel=1e-8)


def test_one_series_is_scored_forwards() -> None:
    y = np.random.default_rng(0).normal(size=40)
    y[22] = np.nan
    choice = choose_n_states(make, y, [1], n_folds=3, seed=3)
    for i, (a, b) in enumerate([(10, 20), (20, 30), (30, 40)]):
        seen, rest = y[:a][~np.isnan(y[:a])], y[a:b][~np.isnan(y[a:b])]
        terms = -0.5 * ((rest - seen.mean()) ** 2 / seen.var() + np.log(2 * np.pi * seen.var()))
        assert choice.folds.loc[i, 1] == pytest.approx(terms.mean(), rel=1e-6)  # EM iterates where a row is missing


def test_a_block_is_scored_given_all_before_it() -> None:
    y = three_states().sample(90, seed=1)
    choice = choose_n_states(make, y, [2], n_folds=2, seed=5)
    for i, seed in enumerate(spawn(5, 2)):
        model = make(2).fit(y[: 30 * (i + 1)], seed=seed)
        expected = model.filter(y[: 30 * (i + 2)]).log_prob[30 * (i + 1) :].mean()
        assert choice.folds.loc[i, 2] == pytest.approx(expected.item(), rel=1e-9)


def test_parallel_equals_serial_and_the_seed_decides() -> None:
    y = list(three_states().sample(20, (6,), seed=0).numpy())
    serial = choose_n_states(make, y, [1, 2], n_folds=2, seed=1)
    parallel = choose_n_states(make, y, [1, 2], n_folds=2, seed=1, n_jobs=2)
    np.testing.assert_array_equal(serial.folds.to_numpy(), parallel.folds.to_numpy())


def test_bad_arguments_are_named() -> None:
    y = torch.zeros(4, 10, 1)
    with pytest.raises(ValueError, match="candidates must name at least one"):
        choose_n_states(make, y, [])
    with pytest.raises(ValueError, match="at least n_folds = 5 sequences, got 4"):
        choose_n_states(make, y, [1])
    with pytest.raises(ValueError, match="n_folds must be an integer of at least 2"):
        choose_n_states(make, y, [1], n_folds=1)
    with pytest.raises(ValueError, match="fold 0 has no observed step"):
        choose_n_states(make, [0.3, 0.2, 0.5], [1], n_folds=5)
