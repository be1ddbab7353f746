"""The compiled Kalman recursions, called as the operators call them, against the textbook in numpy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from probseq.kernels import kalman, kalman_adjoint, kalman_conditions, kalman_lanes


class Problem(NamedTuple):
    """Arguments of `filter_forward` up to y, in its order."""

    m0: np.ndarray
    P0: np.ndarray
    A: np.ndarray
    Q: np.ndarray
    d: np.ndarray
    C: np.ndarray
    R: np.ndarray
    y: np.ndarray


class Space(NamedTuple):
    cov: np.ndarray
    gain: np.ndarray
    whitener: np.ndarray
    log_norm: np.ndarray
    slot: np.ndarray
    mean: np.ndarray
    weighted: np.ndarray
    steps: np.ndarray
    log_prob: np.ndarray
    status: np.ndarray


def random_problem(n: int = 3, m: int = 2, batch: int = 2, steps: int = 600, *, fixed: bool = True) -> Problem:
    rng = np.random.default_rng(n + 10 * m)

    def covariances(count: int, size: int) -> np.ndarray:
        root = rng.standard_normal((count, size, size))
        return root @ root.transpose(0, 2, 1) + 0.1 * np.eye(size)

    axis = 1 if fixed else steps
    matrix = rng.standard_normal((axis, n, n))
    return Problem(
        m0=rng.standard_normal((batch, n)),
        P0=covariances(1, n),
        A=0.9 * matrix / np.linalg.norm(matrix, 2, (1, 2), keepdims=True),
        Q=covariances(axis, n),
        d=rng.standard_normal((1, axis, n)),
        C=rng.standard_normal((axis, m, n)),
        R=covariances(axis, m),
        y=rng.standard_normal((batch, steps, m)),
    )


def run(
    problem: Problem, observed: np.ndarray | None = None, *, shared: int = 0, keep: bool = True, per_step: bool = False,
    blas: bool | None = None, lanes: bool = False, lengths: np.ndarray | None = None,
) -> Space:  # fmt: skip
    """Allocate the workspaces filled with NaN, so that an entry that is read but never written shows."""
    (batch, steps, m), n = problem.y.shape, problem.m0.shape[1]
    groups, rows = (batch if keep and shared < 0 else 1), (steps if keep or lanes else min(kalman.CHUNK, steps))
    kept, owners = (steps, batch) if keep else (0, 1)
    space = Space(
        np.full((groups, kept, n, n), np.nan), np.full((groups, rows, m, n), np.nan),
        np.full((groups, rows, m, m), np.nan), np.full((groups, rows), np.nan), np.zeros((groups, rows), np.int64),
        np.full((owners, kept, n), np.nan), np.full((owners, kept, m), np.nan),
        np.zeros((batch, steps) if per_step else (1, 0)), np.full(batch, np.nan), np.zeros(3, np.int64),
    )  # fmt: skip
    pattern = np.empty((1, 0, m), np.bool_) if observed is None else observed
    ends = np.full(batch, steps) if lengths is None else lengths
    square = (problem.P0, problem.Q, problem.R, np.zeros((1, n, 0)), np.empty((groups, 0, n, n)))
    none = (False, None, *square, np.empty((groups, 0, 2, n, 0)), np.zeros(groups, np.int64))
    kalman.filter_forward(*problem, pattern, ends, shared, *space, lanes, blas, *none)
    if lanes:
        kalman_lanes.mean_lanes(
            problem.m0, problem.A, problem.d, problem.C, problem.y, pattern[0], ends, space.gain[0], space.whitener[0],
            space.log_norm[0], space.slot[0], space.mean, space.log_prob,
        )  # fmt: skip
    return space


def textbook(problem: Problem, observed: np.ndarray | None, b: int) -> dict[str, np.ndarray]:
    """The filter by row deletion and P - K S K', then the Rauch-Tung-Striebel smoother."""
    steps = problem.y.shape[1]

    def at(values: np.ndarray, t: int) -> np.ndarray:
        return values[t if values.shape[0] > 1 else 0]

    mean, cov = problem.m0[b], problem.P0[0]
    stored: dict[str, list[Any]] = {"mean": [], "cov": [], "updated": [], "updated_cov": [], "steps": []}
    for t in range(steps):
        if t > 0:
            mean = at(problem.A, t) @ mean + at(problem.d[0], t)
            cov = at(problem.A, t) @ cov @ at(problem.A, t).T + at(problem.Q, t)
        stored["mean"].append(mean)
        stored["cov"].append(cov)
        rows = np.arange(problem.y.shape[2]) if observed is None else np.flatnonzero(observed[b, t])
        emission, value = at(problem.C, t)[rows], 0.0
        if len(rows):
            variance = emission @ cov @ emission.T + at(problem.R, t)[np.ix_(rows, rows)]
            residual = problem.y[b, t, rows] - emission @ mean
            value = -0.5 * (np.linalg.slogdet(2 * np.pi * variance)[1] + residual @ np.linalg.solve(variance, residual))
            gain = np.linalg.solve(variance, emission @ cov).T
            mean, cov = mean + gain @ residual, cov - gain @ variance @ gain.T
        stored["updated"].append(mean)
        stored["updated_cov"].append(cov)
        stored["steps"].append(value)
    smoothed, smoothed_cov, lagged = [mean], [cov], []
    for t in range(steps - 2, -1, -1):
        back = np.linalg.solve(stored["cov"][t + 1], at(problem.A, t + 1) @ stored["updated_cov"][t]).T
        lagged.append(smoothed_cov[-1] @ back.T)
        smoothed.append(stored["updated"][t] + back @ (smoothed[-1] - stored["mean"][t + 1]))
        smoothed_cov.append(
            stored["updated_cov"][t] + back @ (smoothed_cov[-1] - stored["cov"][t + 1]) @ back.T
        )  # fmt: skip
    stored["smoothed"], stored["smoothed_cov"], stored["lagged"] = smoothed[::-1], smoothed_cov[::-1], lagged[::-1]
    return {name: np.array(values) for name, values in stored.items()}


def gappy(problem: Problem) -> np.ndarray:
    """Long complete stretches, so that covariances settle, between single missing entries, rows and a long gap."""
    observed = np.ones(problem.y.shape, np.bool_)
    observed[:, [0, 250, 251], 0] = False
    observed[:, 255:258] = False
    observed[:, 400:450] = False
    return observed


@pytest.mark.parametrize("blas", [None, True])
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("missing", [True, False])
def test_forward(blas: bool | None, fixed: bool, missing: bool) -> None:
    """Every way to run: shared or not, with and without workspaces (chunks), by sequence and by lanes."""
    problem = random_problem(fixed=fixed)
    observed = gappy(problem) if missing else None
    expected = [textbook(problem, observed, b) for b in range(2)]
    total = [values["steps"].sum() for values in expected]
    for shared in (0, -1):
        kept = run(problem, observed, shared=shared, per_step=True, blas=blas)
        assert kept.status[0] == 0
        for b in range(2):
            g = b if shared < 0 else 0
            np.testing.assert_allclose(kept.mean[b], expected[b]["mean"], rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(kept.steps[b], expected[b]["steps"], rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(kept.cov[g][kept.slot[g]], expected[b]["cov"], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(kept.log_prob, total, rtol=1e-12)
        assert (kept.slot[0].max() < 599) == fixed
        np.testing.assert_allclose(
            run(problem, observed, shared=shared, keep=False, blas=blas).log_prob, total, rtol=1e-12
        )
    lanes = run(problem, observed, blas=blas, lanes=True)
    np.testing.assert_allclose(lanes.log_prob, total, rtol=1e-12)
    np.testing.assert_allclose(lanes.mean, kept.mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run(problem, observed, keep=False, blas=blas, lanes=True).log_prob, total, rtol=1e-12)


@pytest.mark.parametrize("batch", [1, kalman_lanes.LANES - 1, kalman_lanes.LANES + 1])
def test_lanes_of_unequal_length(batch: int) -> None:
    problem = random_problem(2, 1, batch, 20)
    lengths = 20 - np.arange(batch) % 21
    for b in range(batch):
        problem.y[b, lengths[b] :] = np.nan
    by_sequence = run(problem, lengths=lengths, keep=False)
    by_lanes = run(problem, lengths=lengths, keep=False, lanes=True)
    np.testing.assert_allclose(by_lanes.log_prob, by_sequence.log_prob, rtol=1e-12)
    assert by_lanes.status[0] == by_sequence.status[0] == 0


@pytest.mark.parametrize("blas", [None, True])
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("missing", [True, False])
def test_adjoint_is_the_smoother(blas: bool | None, fixed: bool, missing: bool) -> None:
    problem = random_problem(fixed=fixed)
    observed = gappy(problem) if missing else None
    space = run(problem, observed, blas=blas)
    n, m, steps = 3, 2, 600
    cov, lagged, mean = (
        np.full((1, steps, n, n), np.nan),
        np.full((1, steps - 1, n, n), np.nan),
        np.zeros((2, steps, n)),
    )
    nothing, none, zero = np.empty((0, n, n)), np.empty((0, m, n)), np.zeros(1, np.int64)
    no_edge = np.empty((0, n))
    kalman_adjoint.covariance_adjoint(
        problem.A, problem.C, space.cov, space.gain, space.whitener, space.slot, np.array([steps]), zero, zero,
        np.ones(1), nothing, nothing, nothing, none, np.empty((0, m, m)), cov, lagged, nothing, 0.0, blas,
    )  # fmt: skip
    kalman_adjoint.mean_adjoint(
        problem.A, problem.C, space.cov, space.gain, space.slot, np.zeros(2, np.int64), zero, np.full(2, steps),
        space.mean, space.weighted, np.ones(2), np.empty((0, n)), nothing, nothing, nothing, np.empty((0, 1, n)), none,
        np.empty((0, m, m)), np.empty((0, 0, m)), mean, no_edge, blas,
    )  # fmt: skip
    for b in range(2):
        expected = textbook(problem, observed, b)
        np.testing.assert_allclose(mean[b], expected["smoothed"], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(cov[0], expected["smoothed_cov"], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(lagged[0], expected["lagged"], rtol=1e-9, atol=1e-11)


def test_slow_convergence_is_not_cut_short() -> None:
    """A change of 1e-14 a step is no convergence where the decay takes thousands of steps."""
    problem = random_problem(1, 1, 1, 40000)
    problem.A[:], problem.C[:], problem.Q[:], problem.R[:] = 1.0, 1.0, 1e-6, 1.0  # decay like (1 - 1e-3)^2t
    space = run(problem)
    assert space.slot[0, -1] > 16000
    steady = 0.5 * (1e-6 + np.sqrt(1e-12 + 4e-6))
    np.testing.assert_allclose(space.cov[0, space.slot[0, -1], 0, 0], steady, rtol=1e-12)


def test_conditions_name_sequence_and_step() -> None:
    problem = random_problem(2, 1, 12, 300)
    problem.y[7, 270] = np.inf
    np.testing.assert_array_equal(run(problem, keep=False).status, [kalman_conditions.OVERFLOW, 7, 270])
    np.testing.assert_array_equal(np.isfinite(run(problem, keep=False, lanes=True).log_prob), np.arange(12) != 7)
    problem = random_problem(2, 2, 1, 10)
    problem.C[0, 1], problem.R[:] = problem.C[0, 0], 0.0
    np.testing.assert_array_equal(run(problem).status, [kalman_conditions.SINGULAR, 0, 0])
