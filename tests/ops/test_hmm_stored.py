"""Compiled calls from stored parameters against the recursions that look at every step (`probseq.ops.hmm`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.ops import gaussian, hmm, threads
from probseq.ops import hmm_stored as compiled


def chain(n_states: int, lengths: list[int], spread: float = 1.0, kind: str = "table") -> compiled.Stored:
    draws = np.random.default_rng(0)
    table = spread * draws.normal(size=(len(lengths), max(lengths), n_states))
    start, moves = draws.dirichlet(np.ones(n_states)), draws.dirichlet(np.ones(n_states), size=n_states)
    emission, values = (), table
    if kind == "symbols":
        emission = (np.log(draws.dirichlet(np.ones(5), size=n_states)) + 1.0,)
        values = draws.integers(0, 5, (*table.shape[:2], 1)).astype(float)
    elif kind != "table":
        factors = 0.3 * draws.normal(size=(n_states, 3, 3) if kind == "full" else (n_states, 3))
        emission = (draws.normal(size=(n_states, 3)), np.tril(factors) if kind == "full" else factors)
        values = draws.normal(size=(*table.shape[:2], 3))
    return compiled.Stored(np.log(start) + 3.0, np.log(moves) - 2.0, emission, values, np.array(lengths))


def table_of(stored: compiled.Stored) -> torch.Tensor:
    """log p(y_t given z_t), (B, T, K)."""
    if not stored.emission:
        return torch.from_numpy(stored.values)
    if len(stored.emission) == 1:
        log_probs = torch.from_numpy(stored.emission[0]).log_softmax(-1)
        return log_probs.mT[torch.from_numpy(stored.values[..., 0]).long()].contiguous()
    rows = torch.from_numpy(stored.values)
    return gaussian.table_of(rows, *stored.emission, stored.emission[1].ndim == 2)


def general(stored: compiled.Stored) -> list[torch.Tensor]:
    """The same as the four tensors of `probseq.ops.hmm`."""
    log_initial, log_transition = map(torch.from_numpy, stored[:2])
    first = log_initial.log_softmax(-1).expand(len(stored.lengths), -1)
    return [first, log_transition.log_softmax(-1)[None, None], table_of(stored), torch.from_numpy(stored.lengths)]


@pytest.mark.parametrize("n_states", [1, 3, 4, 7, 8, 16])
@pytest.mark.parametrize("spread", [1.0, 200.0])
def test_every_answer_is_that_of_the_general_kernels(n_states, spread):
    stored = chain(n_states, [0, 1, 2, 3, 64, 129, 300], spread)
    arguments = general(stored)
    expected, path = hmm.posterior(*arguments), hmm.viterbi(*arguments)
    np.testing.assert_allclose(compiled.log_prob(stored), expected.log_prob, rtol=1e-13, atol=1e-12)
    log_gamma = compiled.log_gamma(stored)
    assert log_gamma is not None
    np.testing.assert_allclose(log_gamma, expected.log_gamma, rtol=1e-11, atol=1e-11)
    found = compiled.expectations(stored)
    assert found is not None
    gamma = expected.log_gamma.exp()
    np.testing.assert_allclose(found.log_probs, expected.log_prob, rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(found.gamma, gamma, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found.first.sum(0), gamma[:, 0].sum(0), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found.xi.sum(0), expected.xi_sum.sum((0, 1)), rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(compiled.filter(stored) or (), hmm.filter(*arguments), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)
    best = compiled.viterbi(stored)
    assert best is not None
    np.testing.assert_array_equal(best.states, path.states)
    np.testing.assert_allclose(best.score, path.score, rtol=1e-13, atol=1e-12)


LENGTHS = [0, 1, 2, 3, 64, 127, 128, 129, 130, 300]


@pytest.mark.parametrize("n_states", [17, 24, 40])
@pytest.mark.parametrize("kind", ["table", "symbols", "full", "diagonal"])
def test_many_states_are_those_of_the_general_kernels(n_states, kind):
    stored = chain(n_states, LENGTHS, kind=kind)
    expected = hmm.posterior(*general(stored))
    weights = np.random.default_rng(1).normal(size=len(LENGTHS))
    gamma = expected.log_gamma.exp().numpy() * weights[:, None, None]
    moves = (expected.xi_sum.sum(1).numpy() * weights[:, None, None]).sum(0)
    np.testing.assert_allclose(compiled.log_prob(stored), expected.log_prob, rtol=1e-13, atol=1e-12)
    begun = compiled._begin(stored)
    assert begun is not None
    np.testing.assert_allclose(begun.value, expected.log_prob, rtol=1e-13, atol=1e-12)
    at_once, later = compiled.expectations(stored, weights, steps=True), begun.expectations(stored, weights)
    assert at_once is not None
    assert later is not None
    np.testing.assert_allclose(at_once.log_probs, expected.log_prob, rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(at_once.gamma, gamma, rtol=1e-10, atol=1e-13)
    for found in (at_once, later):
        np.testing.assert_allclose(found.first.sum(0), gamma[:, 0].sum(0), rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(found.xi.sum(0), moves, rtol=1e-10, atol=1e-12)
        check_sums(stored, found.sums, gamma)


@pytest.mark.parametrize("n_states", [3, 8])
@pytest.mark.parametrize("kind", ["symbols", "full", "diagonal"])
def test_few_states_collect_what_the_emission_needs(n_states, kind):
    stored = chain(n_states, [1, 2, 64, 129], kind=kind)
    found, steps = compiled.expectations(stored), compiled.expectations(stored, steps=True)
    assert found is not None
    assert steps is not None
    assert found.gamma.size == 0
    check_sums(stored, found.sums, steps.gamma)


def check_sums(stored: compiled.Stored, sums: np.ndarray, gamma: np.ndarray) -> None:
    """Against sums over the weights of every step."""
    n = len(stored.log_initial)
    if len(stored.emission) == 1:
        counts = [(gamma * (stored.values == m)).sum((0, 1)) for m in range(5)]
        found = sums.sum(0).swapaxes(1, 2).reshape(-1, 5)[:n]
        np.testing.assert_allclose(found, np.stack(counts, -1), rtol=1e-10, atol=1e-12)
    elif stored.emission:
        mass, first, second = gaussian.unpacked(sums, stored.emission[0])
        away = stored.values[:, :, None] - stored.emission[0]
        square = np.tril(np.einsum("btk,btkd,btke->kde", gamma, away, away))
        square *= np.eye(3) if stored.emission[1].ndim == 2 else 1.0
        np.testing.assert_allclose(mass[0], gamma.sum((0, 1)), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(first[0], np.einsum("btk,btkd->kd", gamma, away), rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(second[0], square, rtol=1e-10, atol=1e-11)
    else:
        assert sums.size == 0


def test_work_that_a_likelihood_left_is_used_once():
    """The second gradient of one value does it again."""
    model = ps.HMM(
        initial_probs=np.full(20, 0.05), transition_matrix=np.full((20, 20), 0.05),
        emission=ps.emissions.Categorical(probs=np.random.default_rng(0).dirichlet(np.ones(4), size=20)),
    )  # fmt: skip
    value = model.log_prob(np.array([0.0, 1.0, 3.0, 2.0]))
    leaves = [model.raw_transition_matrix, model.emission.raw_probs]
    one, again = (torch.autograd.grad(value, leaves, retain_graph=True) for _ in range(2))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n_states", [4, 20])
@pytest.mark.parametrize("kind", ["table", "symbols", "full"])
def test_threads_give_the_same_digits(n_states, kind, monkeypatch):
    stored = chain(n_states, [5, 40, 1, 0, 33, 40, 12, 40, 7, 21, 40], kind=kind)
    monkeypatch.setattr(threads, "WORTHWHILE", 0)
    before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            answers = (*every_answer(stored), compiled.log_gamma(stored) if n_states == 4 else torch.zeros(1))
            value, at_once, begun, gamma = answers
            found.append([value, begun.value, gamma, *at_once, *begun.expectations(stored, np.ones(11))[2:]])
    finally:
        torch.set_num_threads(before)
    for several in found[1:]:
        for ours, one in zip(several, found[0], strict=True):
            np.testing.assert_array_equal(ours, one)


def test_weights_multiply_what_a_sequence_adds():
    stored = chain(3, [20, 30])
    one, more = compiled.expectations(stored), compiled.expectations(stored, np.array([1.0, -2.0]))
    assert one is not None
    assert more is not None
    np.testing.assert_allclose(more.gamma[1], -2 * one.gamma[1], rtol=1e-14)
    np.testing.assert_allclose(more.xi[1], -2 * one.xi[1], rtol=1e-14)


def refused(stored: compiled.Stored) -> list[bool]:
    """Which of likelihood, posterior and path are left to the general kernels."""
    return [
        answer is None for answer in (compiled.log_prob(stored), compiled.log_gamma(stored), compiled.viterbi(stored))
    ]


def test_a_structural_zero_is_left_to_the_kernels_that_look_at_every_step():
    stored = chain(3, [10])
    stored.log_transition[0, 2] = -np.inf
    assert refused(stored) == [True, True, False]
    np.testing.assert_array_equal(compiled.viterbi(stored)[0], hmm.viterbi(*general(stored)).states)  # type: ignore[index]


@pytest.mark.parametrize("step", [0, 4, 5, 9])
def test_an_impossible_step_is_left_to_them_too(step):
    stored = chain(3, [10, 10])
    stored.values[1, step] = -np.inf
    assert refused(stored) == [True, True, True]
    assert compiled.filter(stored) is None


@pytest.mark.parametrize("n_steps", [1, 2, 9, 10])
def test_many_states_leave_to_them_what_they_would_lose(n_steps):
    for step in range(n_steps):
        stored = chain(20, [10, n_steps])
        stored.values[1, step] = -np.inf
        assert all(answer is None for answer in every_answer(stored))
    stored = chain(20, [n_steps])
    stored.log_transition[3, 4] = -np.inf
    assert all(answer is None for answer in every_answer(stored))
    stored = chain(20, [n_steps])
    stored.log_initial[4] = -np.inf
    assert all(answer is not None for answer in every_answer(stored))


def every_answer(stored):
    return compiled.log_prob(stored), compiled.expectations(stored), compiled._begin(stored)


@pytest.mark.parametrize("step", [1, 5, 18])
def test_a_surprise_beyond_the_range_of_numbers_is_left_to_them(step):
    """The states that the data know of and the only one that can be are 300 nats apart."""
    draws = np.random.default_rng(0)
    table = draws.normal(size=(1, 20, 2))
    table[0, :step, 1] -= 300.0
    table[0, step:, 0] -= 300.0
    moves = np.array([[0.0, -229.0], [-229.0, 0.0]])
    stored = compiled.Stored(np.zeros(2), moves, (), table, np.array([20]))
    assert refused(stored)[:2] == [False, False]
    found, expected = compiled.log_gamma(stored), hmm.posterior(*general(stored))
    np.testing.assert_allclose(found, expected.log_gamma, rtol=1e-12, atol=1e-12)
    assert refused(stored._replace(log_transition=moves * 1.01))[:2] == [True, True]
