"""The kernels for few states against the recursions that look at every step (`probseq.ops.hmm`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probseq.ops import hmm
from probseq.ops import hmm_few as few


def chain(n_states: int, lengths: list[int], spread: float = 1.0, seed: int = 0) -> few.Stored:
    draws = np.random.default_rng(seed)
    table = spread * draws.normal(size=(len(lengths), max(lengths), n_states))
    start, moves = draws.dirichlet(np.ones(n_states)), draws.dirichlet(np.ones(n_states), size=n_states)
    return few.Stored(np.log(start) + 3.0, np.log(moves) - 2.0, (), table, np.array(lengths))


def general(stored: few.Stored) -> list[torch.Tensor]:
    """The same as the four tensors of `probseq.ops.hmm`."""
    log_initial, log_transition, table = map(torch.from_numpy, (*stored[:2], stored.values))
    first = log_initial.log_softmax(-1).expand(len(stored.lengths), -1)
    return [first, log_transition.log_softmax(-1)[None, None], table, torch.from_numpy(stored.lengths)]


@pytest.mark.parametrize("n_states", [1, 3, 4, 7, 8, 16])
@pytest.mark.parametrize("spread", [1.0, 200.0])
def test_every_answer_is_that_of_the_general_kernels(n_states, spread):
    stored = chain(n_states, [0, 1, 2, 3, 64, 129, 300], spread)
    arguments = general(stored)
    expected, path = hmm.posterior(*arguments), hmm.viterbi(*arguments)
    np.testing.assert_allclose(few.log_prob(stored), expected.log_prob, rtol=1e-13, atol=1e-12)
    log_gamma = few.log_gamma(stored)
    assert log_gamma is not None
    np.testing.assert_allclose(log_gamma, expected.log_gamma, rtol=1e-11, atol=1e-11)
    found = few.expectations(stored)
    assert found is not None
    np.testing.assert_allclose(found[0], expected.log_prob, rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(found[1], expected.log_gamma.exp(), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found[2].sum(0), expected.xi_sum.sum((0, 1)), rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(few.filter(stored) or (), hmm.filter(*arguments), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)
    best = few.viterbi(stored)
    assert best is not None
    np.testing.assert_array_equal(best.states, path.states)
    np.testing.assert_allclose(best.score, path.score, rtol=1e-13, atol=1e-12)


def test_weights_multiply_what_a_sequence_adds():
    stored = chain(3, [20, 30])
    one, more = few.expectations(stored), few.expectations(stored, np.array([1.0, -2.0]))
    assert one is not None
    assert more is not None
    np.testing.assert_allclose(more[1][1], -2 * one[1][1], rtol=1e-14)
    np.testing.assert_allclose(more[2][1], -2 * one[2][1], rtol=1e-14)


def refused(stored: few.Stored) -> list[bool]:
    """Which of likelihood, posterior and path are left to the general kernels."""
    return [answer is None for answer in (few.log_prob(stored), few.log_gamma(stored), few.viterbi(stored))]


def test_a_structural_zero_is_left_to_the_kernels_that_look_at_every_step():
    stored = chain(3, [10])
    stored.log_transition[0, 2] = -np.inf
    assert refused(stored) == [True, True, False]
    np.testing.assert_array_equal(few.viterbi(stored)[0], hmm.viterbi(*general(stored)).states)  # type: ignore[index]


@pytest.mark.parametrize("step", [0, 4, 5, 9])
def test_an_impossible_step_is_left_to_them_too(step):
    stored = chain(3, [10, 10])
    stored.values[1, step] = -np.inf
    assert refused(stored) == [True, True, True]
    assert few.filter(stored) is None


@pytest.mark.parametrize("step", [1, 5, 18])
def test_a_surprise_beyond_the_range_of_numbers_is_left_to_them(step):
    """The states that the data know of and the only one that can be are 300 nats apart."""
    draws = np.random.default_rng(0)
    table = draws.normal(size=(1, 20, 2))
    table[0, :step, 1] -= 300.0
    table[0, step:, 0] -= 300.0
    moves = np.array([[0.0, -229.0], [-229.0, 0.0]])
    stored = few.Stored(np.zeros(2), moves, (), table, np.array([20]))
    assert refused(stored)[:2] == [False, False]
    found, expected = few.log_gamma(stored), hmm.posterior(*general(stored))
    np.testing.assert_allclose(found, expected.log_gamma, rtol=1e-12, atol=1e-12)
    assert refused(stored._replace(log_transition=moves * 1.01))[:2] == [True, True]
