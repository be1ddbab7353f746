"""The compiled recursions of hidden semi-Markov models, piece by piece, each against numpy."""

from __future__ import annotations

import os

import numpy as np
import pytest

from probseq.kernels import hsmm as kernels

INF = np.inf


def chain(seed: int = 0, n: int = 3, longest: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log jumps (K, K) with zero diagonal, log ends and lasts (K, D)."""
    rng = np.random.default_rng(seed)
    jumps = rng.uniform(0.1, 1.0, size=(n, n)) * (1 - np.eye(n))
    ends = rng.uniform(0.1, 0.9, size=(n, longest))
    ends[:, -1] = 1.0
    with np.errstate(divide="ignore"):
        return np.log(jumps / jumps.sum(-1, keepdims=True)), np.log(ends), np.log1p(-ends)


def belief(seed: int = 0, n: int = 3, longest: int = 4) -> np.ndarray:
    weights = np.random.default_rng([seed, 1]).uniform(0.1, 1.0, size=(n, longest))
    return np.log(weights / weights.sum())


def test_log_sum():
    rng = np.random.default_rng(0)
    for shift in (-1e6, 0.0, 1e6):
        row = rng.normal(size=9) * 30 + shift
        assert kernels.log_sum(row) == pytest.approx(np.logaddexp.reduce(row), rel=1e-14)
    assert kernels.log_sum(np.array([-INF, 2.0, -INF])) == 2.0
    assert kernels.log_sum(np.array([-INF, -INF])) == -INF


def test_condition_is_bayes():
    prior, emitted, out = belief(), np.array([-1.0, 2.0, -700.0]), np.empty((3, 4))
    score = kernels.condition(prior, emitted, np.empty(3), out)
    joint = prior + emitted[:, None]
    assert score == pytest.approx(np.logaddexp.reduce(joint.ravel()), rel=1e-14)
    np.testing.assert_allclose(out, joint - score, rtol=1e-13)
    assert kernels.condition(prior, np.full(3, -INF), np.empty(3), out) == -INF
    np.testing.assert_array_equal(out, prior)


def test_advance_moves_all_of_the_mass():
    jumps, ends, lasts = chain()
    out, work = np.empty((3, 4)), np.empty(3)
    now = belief()
    kernels.advance(now, jumps, ends, lasts, np.empty(4), work, np.empty(3), out)
    ended = np.exp(now + ends).sum(-1)
    np.testing.assert_allclose(np.exp(work), ended, rtol=1e-13)
    np.testing.assert_allclose(np.exp(out[:, 0]), ended @ np.exp(jumps), rtol=1e-13)
    np.testing.assert_allclose(np.exp(out[:, 1:]), np.exp(now + lasts)[:, :-1], rtol=1e-13)
    assert np.exp(out).sum() == pytest.approx(1.0, rel=1e-13)


def test_draw_inverts_the_distribution_function():
    weights = np.log(np.array([0.1, 0.0001, 0.5, 0.3999])) + 900.0
    weights = np.concatenate([[-INF], weights, [-INF]])
    edges = np.array([0.1, 0.1001, 0.6001, 1.0])
    for uniform in (0.0, 0.05, 0.10001, 0.3, 0.7, np.nextafter(1.0, 0.0)):
        assert kernels.draw(weights, uniform) == 1 + int((edges <= uniform).sum())


def run(lengths: list[int], steps: int = 6) -> tuple[np.ndarray, ...]:
    jumps, ends, lasts = chain()
    b = len(lengths)
    start = np.full((b, 3, 4), -INF)
    start[..., 0] = np.log([0.2, 0.3, 0.5])
    table = np.random.default_rng(2).normal(size=(b, steps, 3))
    sizes = np.array(lengths)
    predicted, updated, scores = np.empty((b, steps, 3, 4)), np.empty((b, steps, 3, 4)), np.empty((b, steps))
    kernels.forward(start, jumps, ends, lasts, table, sizes, predicted, updated, scores)
    return start, jumps, ends, lasts, table, sizes, predicted, updated, scores


def test_forward_keeps_what_is_asked_for():
    start, jumps, ends, lasts, table, sizes, predicted, updated, scores = run([6, 3, 0])
    alone, nothing = np.empty_like(scores), np.empty((3, 0, 3, 4))
    kernels.forward(start, jumps, ends, lasts, table, sizes, nothing, nothing, alone)
    np.testing.assert_array_equal(alone, scores)
    np.testing.assert_allclose(np.exp(updated).sum((-1, -2)), 1, rtol=1e-13)
    np.testing.assert_allclose(np.exp(predicted).sum((-1, -2)), 1, rtol=1e-13)
    assert (scores[1, 3:] == 0).all()
    np.testing.assert_array_equal(predicted[1, 3:], np.broadcast_to(updated[1, 2], (3, 3, 4)))
    np.testing.assert_array_equal(updated[2], np.broadcast_to(start[2], (6, 3, 4)))


def test_backward_counts_balance():
    """Every step but the last either lasts on or ends, and every end is a jump; a weight of 0 skips a sequence."""
    _, jumps, ends, lasts, table, sizes, _, updated, scores = run([6, 4, 5])
    gamma = np.full(updated.shape, -INF)
    pairs, ended, lasted = np.zeros((3, 3)), np.zeros((3, 4)), np.zeros((3, 4))
    weights = np.array([1.0, 0.5, 0.0])
    kernels.backward(jumps, ends, lasts, table, sizes, updated, scores, weights, gamma, pairs, ended, lasted)
    np.testing.assert_allclose(ended.sum(-1), pairs.sum(-1), rtol=1e-12)
    steps = np.exp(gamma[0, :5]).sum(0) + 0.5 * np.exp(gamma[1, :3]).sum(0)
    np.testing.assert_allclose(ended + lasted, steps, rtol=1e-12)
    np.testing.assert_allclose(np.exp(gamma[0]).sum((-1, -2)), 1, rtol=1e-12)
    assert (np.diag(pairs) == 0).all()
    assert (gamma[2] == -INF).all()
    assert (gamma[1, 4:] == -INF).all()


@pytest.mark.skipif(os.environ.get("NUMBA_BOUNDSCHECK") != "1", reason="bounds are checked on request alone")
def test_an_out_of_bounds_read_raises():
    jumps, ends, lasts = chain()
    with pytest.raises(IndexError):
        kernels.advance(belief(), jumps, ends, lasts, np.empty(2), np.empty(3), np.empty(3), np.empty((3, 4)))
