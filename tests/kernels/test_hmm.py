"""The compiled hidden-Markov kernels on plain arrays; run also with NUMBA_BOUNDSCHECK=1 and a fresh NUMBA_CACHE_DIR."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest
from numba import njit

from probseq.kernels import hmm, hmm_adjoint, hmm_log, hmm_wide, rows, viterbi

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31]


class Chain(NamedTuple):
    initial: np.ndarray  # (B, K)
    transition: np.ndarray  # (S, R, K, K)
    log_observation: np.ndarray  # (B, T, K)
    lengths: np.ndarray


def random_chain(batch: int, time: int, state: int, *, sets: int = 1, times: int = 1, seed: int = 0) -> Chain:
    generator = np.random.default_rng(seed)
    return Chain(
        generator.dirichlet(np.ones(state), batch),
        generator.dirichlet(np.ones(state), (sets, times, state)),
        generator.normal(size=(batch, time, state)),
        generator.integers(0, time + 1, batch),
    )


class Pass(NamedTuple):
    emission: np.ndarray
    shift: np.ndarray
    predicted: np.ndarray
    normaliser: np.ndarray
    status: np.ndarray


def padded(array: np.ndarray, n_axes: int = 1) -> np.ndarray:
    """Zeros behind the last state, on the last axes."""
    n = array.shape[-1]
    return np.pad(array, [(0, 0)] * (array.ndim - n_axes) + [(0, rows.width_of(n) - n)] * n_axes)


def run_forward(chain: Chain, block: int | None = None) -> Pass:
    """The scaled filter, over the whole or over one stretch of steps after the other (R = 1)."""
    batch, time, state = chain.log_observation.shape
    width = rows.width_of(state)
    result = Pass(
        np.full((batch, time, width), np.nan),
        np.zeros((batch, time)),
        np.full((batch, time, width), np.nan),
        np.ones((batch, time)),
        np.zeros(batch, dtype=np.int64),
    )
    with np.errstate(divide="ignore"):
        log_transition = np.log(chain.transition)
    belief, transition = padded(chain.initial), padded(chain.transition, 2)
    for b in range(batch):
        length, sets = chain.lengths[b], slice(b, b + 1) if len(transition) > 1 else slice(0, 1)
        size = block or time
        for t in range(0, time, size):
            part = (slice(b, b + 1), slice(t, t + size))
            inside = min(max(length - t, 0), size)
            hmm.forward(
                belief[part[0]], transition[sets], log_transition[sets], chain.log_observation[part],
                np.array([inside]), t + size < length, result.emission[part], result.predicted[part],
                result.shift[part], result.normaliser[part], result.status[part[0]],
            )  # fmt: skip
    return result


def plain_filter(chain: Chain, b: int) -> tuple[np.ndarray, np.ndarray]:
    """predicted (n, K) and p(y_t | y_<t) (n,) by four lines of numpy."""
    s = b if len(chain.transition) > 1 else 0
    belief, predicted, evidence = chain.initial[b], [], []
    for t in range(chain.lengths[b]):
        if t > 0:
            belief = belief @ chain.transition[s, t if chain.transition.shape[1] > 1 else 0]
        predicted.append(belief)
        joint = belief * np.exp(chain.log_observation[b, t])
        evidence.append(joint.sum())
        belief = joint / joint.sum()
    return np.array(predicted).reshape(-1, len(chain.initial[b])), np.array(evidence)


# -------------------------------------------------------------------------------- the pieces, for every size


@njit
def call_pieces(weight, matrix, out, table):
    rows.vector_matrix(weight, matrix, 1, weight.shape[0], out)
    return rows.total(weight, weight.shape[0]), rows.maximum(table, 1, 0)


@njit
def call_max_plus(weight, matrix, out):
    viterbi.max_plus(weight, matrix, 1, 1, out)


@pytest.mark.parametrize("state", SIZES)
def test_pieces(state: int) -> None:
    generator = np.random.default_rng(state)
    weight, matrix = generator.normal(size=state), generator.normal(size=(2, 2, state, state))
    table, out = generator.normal(size=(2, 1, state)), np.full(state, np.nan)
    total, maximum = call_pieces(weight, matrix[1], out, table)
    np.testing.assert_allclose(out, weight @ matrix[1, 1], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(total, weight.sum(), rtol=1e-12, atol=1e-14)
    assert maximum == table[1, 0].max()
    call_max_plus(weight, matrix, out)
    np.testing.assert_array_equal(out, (weight[:, None] + matrix[1, 1]).max(0))


def test_exponential() -> None:
    """Two units in the last place down to the smallest normal number, then 0; NaN, -inf and 0 are exact."""
    generator = np.random.default_rng(0)
    x = np.concatenate([-np.geomspace(1e-20, 708, 20_000), -708 * generator.random(20_000), -np.arange(0, 709.0)])
    ends = np.array([0.0, -np.inf, np.nan, -708.1, -745.0, -1e300])
    flat = np.concatenate([x, ends])
    rows.exponentiate(flat, np.empty(flat.size), np.empty(flat.size, dtype=np.int64))
    np.testing.assert_allclose(flat[: x.size], np.exp(x), rtol=4.5e-16, atol=0)
    np.testing.assert_array_equal(flat[x.size :], [1.0, 0.0, np.nan, 0.0, 0.0, 0.0])


def test_logarithm() -> None:
    """One unit in the last place of every positive number, also below the normal ones; 0, NaN, inf are exact."""
    generator = np.random.default_rng(0)
    near_one = 1.0 + np.concatenate([generator.uniform(-0.3, 0.45, 20_000), np.geomspace(1e-16, 1e-3, 1_000)])
    x = np.concatenate([near_one, np.geomspace(5e-324, 1.7e308, 50_001), 2.0 ** np.arange(-1074, 1024), [1.0]])
    exact = [math.log(value) for value in x]
    mpmath.mp.prec = 120
    sharp = np.array([float(mpmath.log(mpmath.mpf(float(value)))) for value in x[::97]])
    ends = np.array([0.0, np.nan, np.inf, -3.0, -np.inf])
    flat = np.concatenate([x, ends])
    rows.take_logarithms(flat)
    np.testing.assert_allclose(flat[: x.size], exact, rtol=3.4e-16, atol=0)
    np.testing.assert_array_max_ulp(flat[: x.size : 97], sharp, 1)
    np.testing.assert_array_equal(flat[x.size :], [-np.inf, np.nan, np.inf, -3.0, -np.inf])
    rows.take_logarithms(np.empty(0))


@pytest.mark.parametrize("n_rows", range(hmm_adjoint.RANK + 1))
def test_add_outer(n_rows: int) -> None:
    generator = np.random.default_rng(n_rows)
    rows, columns = generator.normal(size=(2, hmm_adjoint.RANK, 5))
    out = np.ones((5, 5))
    hmm_adjoint.add_outer(rows, columns, n_rows, out)
    np.testing.assert_allclose(out, 1.0 + rows[:n_rows].T @ columns[:n_rows], rtol=1e-13, atol=1e-14)


def test_inversion_never_chooses_weight_zero() -> None:
    weight = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    chosen = [hmm_log.invert(weight, uniform) for uniform in (0.0, 0.2499, 0.25, 0.5, 1.0 - 2.0**-53)]
    assert chosen == [1, 1, 3, 3, 3]


# -------------------------------------------------------------------------------- the recursions


@pytest.mark.parametrize(("sets", "varying"), [(1, False), (3, False), (1, True), (3, True)])
@pytest.mark.parametrize("block", [None, 1, 4, 100])
def test_forward_is_the_plain_filter(sets: int, varying: bool, block: int | None) -> None:
    if varying and block in (1, 4):
        pytest.skip("a pass goes on only where transitions do not vary")
    chain = random_chain(3, 9, 5, sets=sets, times=9 if varying else 1)._replace(lengths=np.array([9, 4, 0]))
    result = run_forward(chain, block)
    assert not result.status.any()
    for b in range(3):
        n = chain.lengths[b]
        predicted, evidence = plain_filter(chain, b)
        np.testing.assert_allclose(result.predicted[b, :n, :5], predicted, rtol=1e-13)
        np.testing.assert_allclose(result.normaliser[b, :n] * np.exp(result.shift[b, :n]), evidence, rtol=1e-13)
        assert (result.predicted[b, n:] == 1.0).all()
        assert (result.normaliser[b, n:] == 1.0).all()
        assert not result.emission[b, :, 5:].any()


def test_forward_over_more_steps_than_a_block() -> None:
    chain = random_chain(1, 1000, 3)._replace(lengths=np.array([1000]))
    whole, parts = run_forward(chain), run_forward(chain, 317)
    for ours, expected in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(ours, expected)


def run_backward(
    chain: Chain,
    result: Pass,
    weights: np.ndarray,
    gamma: np.ndarray,
    xi: np.ndarray,
    kernel: Any = hmm_adjoint.backward,
    logarithms: bool = False,
) -> None:
    """A backward pass; xi (S, R, K, K) is added to."""
    later = np.zeros((len(chain.lengths), 2, result.emission.shape[2]))
    later[:, 0] = 1.0
    transition = padded(chain.transition, 2)
    with np.errstate(divide="ignore"):
        log_transition = np.log(chain.transition)
    places = np.arange(len(chain.lengths)) if len(xi) > 1 else np.zeros(len(chain.lengths), dtype=np.int64)
    kernel(
        transition, np.ascontiguousarray(transition.swapaxes(-1, -2)), log_transition, chain.log_observation,
        result.shift, result.emission, result.predicted, chain.lengths, later, False, weights, logarithms,
        result.status, gamma, places, xi,
    )  # fmt: skip


def test_backward_without_steps_touches_nothing() -> None:
    """With T = 0 and transitions that vary in time the tables have no row at all: what lies behind them is not ours."""
    behind = np.full(18, 5.0)
    chain = random_chain(2, 0, 3, sets=2, times=1)._replace(transition=np.empty((2, 0, 3, 3)))
    result = Pass(*(np.empty((2, 0, 4)) if i in (0, 2) else np.empty((2, 0)) for i in range(4)), np.zeros(2, np.int64))
    run_backward(chain, result, np.ones(2), np.empty((2, 0, 3)), behind[:0].reshape(2, 0, 3, 3))
    assert (behind == 5.0).all()


@pytest.mark.parametrize(("sets", "varying"), [(1, False), (3, False), (1, True), (3, True)])
@pytest.mark.parametrize("state", [1, 3, 8])
def test_backward_reverses_the_forward_pass(sets: int, varying: bool, state: int) -> None:
    chain = random_chain(3, 19, state, sets=sets, times=19 if varying else 1)._replace(lengths=np.array([19, 6, 0]))
    result = run_forward(chain)
    xi, weights = np.zeros_like(chain.transition), np.array([1.0, -2.0, 3.0])
    gamma = np.zeros_like(chain.log_observation)
    run_backward(chain, result, weights, gamma, xi)
    assert not result.status.any()
    for b in range(3):
        n = chain.lengths[b]
        np.testing.assert_allclose(gamma[b, :n].sum(-1), weights[b], rtol=1e-13)
        assert not gamma[b, n:].any()
        if n > 0:  # at the last step nothing is left to look back from
            joint = (result.predicted[b, n - 1] * result.emission[b, n - 1])[:state]
            np.testing.assert_allclose(gamma[b, n - 1], weights[b] * joint / joint.sum(), rtol=1e-13)
    # every transition starts from some state at t - 1 and ends in some state at t
    moves = weights * np.maximum(chain.lengths - 1, 0)
    if sets == 3:
        np.testing.assert_allclose(xi.sum((1, 2, 3)), moves, rtol=1e-13)
    else:
        np.testing.assert_allclose(xi.sum(), moves.sum(), rtol=1e-12)
    if varying and sets == 3:
        for b in range(3):
            for t in range(1, chain.lengths[b]):
                np.testing.assert_allclose(xi[b, t].sum(1), gamma[b, t - 1], rtol=1e-12)
                np.testing.assert_allclose(xi[b, t].sum(0), gamma[b, t], rtol=1e-12)


@pytest.mark.parametrize("logarithms", [False, True])
@pytest.mark.parametrize("sharp", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("state", [9, 16, 33, 130])
def test_backward_in_blocks_is_the_one_step_by_step(state: int, sharp: float, logarithms: bool) -> None:
    """Over more and fewer steps than a block; some moves are impossible, and some weights have left their range."""
    chain = random_chain(4, 150, state, sets=4, seed=state)._replace(lengths=np.array([150, 64, 65, 0]))
    keep = np.random.default_rng(1).random(chain.transition.shape) < 0.6
    some = np.where(keep | np.eye(state, dtype=bool), chain.transition, 0.0) if sharp < 100 else chain.transition
    chain = chain._replace(
        transition=some / some.sum(-1, keepdims=True), log_observation=sharp * chain.log_observation
    )  # fmt: skip
    passed, found = run_forward(chain), []
    assert not passed.status.any()
    for kernel in (hmm_adjoint.backward, hmm_wide.backward):
        gamma, xi = np.zeros_like(chain.log_observation), np.zeros_like(chain.transition)
        weights = np.ones(4) if logarithms else np.array([1.0, -2.0, 3.0, 4.0])
        run_backward(chain, passed, weights, gamma, xi, kernel=kernel, logarithms=logarithms)
        found.append((gamma, xi))
    assert not passed.status.any()
    (expected, moves), (ours, own_moves) = found
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(own_moves, moves, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("state", [9, 40])
def test_backward_in_blocks_hands_over(state: int) -> None:
    """A state that only the data of later steps make likely, by a move below the smallest safe term."""
    transition = np.eye(state)
    transition[0, 0], transition[0, 1] = 0.9, 0.1
    log_observation = np.zeros((1, 100, state))
    log_observation[0, 97, 1] = -900.0  # seen from before, state 0 lost its way into state 1 and what follows it
    log_observation[0, 98, 0] = -1000.0
    start = np.full((1, state), 1 / state)
    chain = Chain(start, transition[None, None], log_observation, np.array([100]))
    for kernel in (hmm_adjoint.backward, hmm_wide.backward):
        passed = run_forward(chain)
        passed.status[:] = hmm.SCALED
        run_backward(
            chain, passed, np.ones(1), np.empty((1, 100, state)), np.zeros((1, 1, state, state)), kernel=kernel
        )
        assert passed.status.tolist() == [hmm.CAREFUL]


def test_careful_forward_is_the_scaled_one() -> None:
    chain = random_chain(1, 30, 6, times=30)._replace(lengths=np.array([27]))
    scaled = run_forward(chain)
    log_predicted, log_normaliser = np.empty((30, 6)), np.zeros(30)
    impossible = hmm_log.forward(
        np.log(chain.initial[0]), 0.0, chain.transition, np.log(chain.transition), np.zeros((1, 30)),
        chain.log_observation[0], scaled.shift[0], 27, log_predicted, np.empty((30, 6)), log_normaliser,
    )  # fmt: skip
    assert impossible == -1
    np.testing.assert_allclose(np.exp(log_predicted[:27]), scaled.predicted[0, :27, :6], rtol=1e-13)
    np.testing.assert_allclose(np.exp(log_normaliser), scaled.normaliser[0], rtol=1e-13)


def every_source(transition: np.ndarray, transposed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """`starts` and `sources` of the transition matrix of step 0."""
    state = transition.shape[-1]
    starts, sources = np.empty(state + 1, dtype=np.int64), np.empty(state**2, dtype=np.int64)
    with np.errstate(divide="ignore"):
        hmm_log.list_sources(np.log(transition), 0, transposed, starts, sources)
    return starts, sources


def test_sources_are_the_possible_predecessors() -> None:
    transition = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.3, 0.7]])[None, None]
    for transposed, expected in ((False, [[0], [0, 1, 2], [2]]), (True, [[0, 1], [1], [1, 2]])):
        starts, sources = every_source(transition, transposed)
        assert [sources[starts[j] : starts[j + 1]].tolist() for j in range(3)] == expected


def test_log_sum_term_by_term() -> None:
    chain = random_chain(1, 1, 5)
    log_weight = np.random.default_rng(1).normal(size=5) - 2000.0
    log_weight[2] = -np.inf
    low = np.zeros(5)
    offset = np.array([[3.0]])
    for transposed in (False, True):
        matrix = chain.transition[0, 0].T if transposed else chain.transition[0, 0]
        expected = np.log(np.exp(log_weight + 2000.0) @ matrix) - 2003.0
        sources = every_source(chain.transition, transposed)
        log_matrix = np.log(chain.transition)
        found = [
            sum(hmm_log.log_sum(log_weight, low, log_matrix, offset, 0, j, transposed, *sources)) for j in range(5)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-14)
    nothing = np.full(5, -np.inf)
    assert hmm_log.log_sum(nothing, low, log_matrix, offset, 0, 1, False, *sources) == (-np.inf, 0.0)
    poisoned = np.array([-np.inf, np.nan, -np.inf, -1.0, -np.inf])
    assert np.isnan(hmm_log.log_sum(poisoned, low, log_matrix, offset, 0, 1, False, *sources)[0])


# -------------------------------------------------------------------------------- the hand-over to logarithms


def two_chambers(*log_observation: tuple[float, float], leak: float = 0.0) -> Chain:
    """Two states that keep to themselves, but for a leak from the first to the second."""
    observation = np.array(log_observation, dtype=float)[None]
    transition = np.array([[1.0 - leak, leak], [0.0, 1.0]])
    return Chain(np.full((1, 2), 0.5), transition[None, None], observation, np.array([observation.shape[1]]))


@pytest.mark.parametrize(
    ("chain", "status"),
    [
        (two_chambers((0, 0), (0, -400), (0, 0), leak=0.1), hmm.SCALED),  # what was lost flows back from state 0
        (two_chambers((0, 0), (-400, 0), (0, 0), leak=0.1), hmm.SCALED),  # 1e-174 is still a safe sum
        (two_chambers((0, 0), (-470, 0), (0, 0), leak=0.1), hmm.CAREFUL),  # 1e-205 is not: only state 0 leads to 0
        (two_chambers((0, 0), (-900, 0), (0, 0), leak=0.1), hmm.CAREFUL),  # flushed to zero
        (two_chambers((0, 0), (-900, 0), leak=0.1), hmm.SCALED),  # flushed at the end, where it cannot matter
        (two_chambers((0, 0), (-np.inf, 0), (0, 0), leak=0.1), hmm.SCALED),  # truly impossible: an exact zero
        (two_chambers((0, -np.inf), (-250, 0), leak=0.0), hmm.CAREFUL),  # a normaliser of 1e-109
        (two_chambers((0, -np.inf), (-200, 0), leak=0.0), hmm.SCALED),  # a normaliser of 1e-87
        (two_chambers((0, -np.inf), (-np.inf, 0), leak=0.0), hmm.CAREFUL),  # impossible, which logarithms must say
    ],
)
def test_who_is_handed_over(chain: Chain, status: int) -> None:
    assert run_forward(chain).status.tolist() == [status]


def test_parameters_below_the_range_of_numbers_are_handed_over() -> None:
    initial = np.array([[0.0, -800.0], [0.0, -600.0], [0.0, -np.inf]])
    transition = np.zeros((1, 1, 2, 2))
    status = np.zeros(3, dtype=np.int64)
    out = np.empty_like(initial), np.empty_like(transition), np.empty(3), np.empty((1, 1))
    assert not hmm.shift_parameters(initial, transition, *out, status)
    assert status.tolist() == [hmm.CAREFUL, hmm.SCALED, hmm.SCALED]
    assert hmm.shift_parameters(initial + 5.0, transition + 7.0, *out, status)
    assert out[2].tolist() == [5.0] * 3
    assert out[3].tolist() == [[7.0]]


# -------------------------------------------------------------------------------- paths


def test_decode_scores() -> None:
    chain = random_chain(4, 12, 5, sets=4, times=12, seed=3)._replace(lengths=np.array([12, 1, 0, 7]))
    log_initial, log_transition = np.log(chain.initial), np.log(chain.transition)
    states, score = np.empty((4, 12), dtype=np.int64), np.empty(4)
    viterbi.decode(
        log_initial, log_transition, chain.log_observation, chain.lengths, np.empty((1, 12, 5)), states, score
    )
    for b in range(4):
        n, z = chain.lengths[b], states[b]
        assert (z[n:] == -1).all()
        expected = 0.0 if n == 0 else log_initial[b, z[0]] + chain.log_observation[b, np.arange(n), z[:n]].sum()
        expected += sum(log_transition[b, t, z[t - 1], z[t]] for t in range(1, n))
        np.testing.assert_allclose(score[b], expected, rtol=1e-13)


@pytest.mark.skipif(os.environ.get("NUMBA_BOUNDSCHECK") != "1", reason="needs NUMBA_BOUNDSCHECK=1 and a fresh cache")
def test_reading_out_of_bounds_raises() -> None:
    chain = random_chain(2, 5, 3)._replace(lengths=np.array([5, 6]))  # one more than there is
    states, score = np.empty((2, 5), dtype=np.int64), np.empty(2)
    arrays = (np.log(chain.initial), np.log(chain.transition), chain.log_observation, chain.lengths)
    with pytest.raises(IndexError):
        viterbi.decode(*arrays, np.empty((1, 5, 3)), states, score)
    with pytest.raises(IndexError):
        hmm_adjoint.add_outer(np.ones((3, 2)), np.ones((3, 2)), 4, np.ones((2, 2)))
