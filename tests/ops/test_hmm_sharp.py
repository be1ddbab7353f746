"""Sharp data against forty digits: states that differ by 30 to 300 nats at every step, and evidence that turns late.

Where the transitions hold zeros, a path that looks lost for a thousand steps can be the only one left in the end, so
its weight, exp(-300 000) of the others', must be carried all the way without an error that grows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from probseq.ops import hmm

INF = math.inf


class Problem(NamedTuple):
    log_initial: Tensor  # (1, K)
    log_transition: Tensor  # (1, 1, K, K)
    log_observation: Tensor  # (1, T, K)
    lengths: Tensor


class Exact(NamedTuple):
    log_prob: float
    predicted: np.ndarray  # (T, K)
    updated: np.ndarray
    smoothed: np.ndarray
    counts: np.ndarray  # (K, K) expected transitions


def forty_digits(problem: Problem) -> Exact:
    """Forward-backward as in Rabiner (1989), eqs. 19-25, without any scaling: exponents are unbounded here."""
    with mpmath.workdps(40):
        exp = lambda rows: [[mpmath.exp(mpmath.mpf(x)) for x in row] for row in rows.tolist()]  # noqa: E731
        start, matrix, emission = exp(problem[0])[0], exp(problem[1][0, 0]), exp(problem[2][0])
        states = range(len(start))
        moves = [[(i, matrix[i][j]) for i in states if matrix[i][j]] for j in states]
        before, after, ahead = [start], [], [[mpmath.mpf(1)] * len(start)]
        for e in emission:
            after.append([a * b for a, b in zip(before[-1], e, strict=True)])
            before.append([sum((after[-1][i] * p for i, p in moves[j]), mpmath.mpf(0)) for j in states])
        for e in reversed(emission[1:]):
            weight = [a * b for a, b in zip(e, ahead[-1], strict=True)]
            ahead.append([sum((matrix[i][j] * weight[j] for j in states), mpmath.mpf(0)) for i in states])
        ahead.reverse()
        total = sum(after[-1])
        counts = np.zeros((len(start), len(start)))
        for t in range(1, len(emission)):
            for i in states:
                for j in states:
                    counts[i, j] += float(after[t - 1][i] * matrix[i][j] * emission[t][j] * ahead[t][j] / total)
        normal = lambda rows: np.array([[float(x / sum(row)) for x in row] for row in rows])  # noqa: E731
        joint = [[a * b for a, b in zip(*rows, strict=True)] for rows in zip(after, ahead, strict=True)]
        return Exact(float(mpmath.log(total)), normal(before[:-1]), normal(after), normal(joint), counts)


def logs(rows: np.ndarray) -> Tensor:
    with np.errstate(divide="ignore"):
        return torch.as_tensor(np.log(rows))


def problem_of(start: np.ndarray, matrix: np.ndarray, observation: np.ndarray) -> Problem:
    return Problem(
        logs(start)[None],
        logs(matrix)[None, None],
        torch.as_tensor(observation)[None],
        torch.tensor([len(observation)]),
    )


def favour(states: np.ndarray, k: int, gap: float, rng: np.random.Generator) -> np.ndarray:
    """Log-densities (T, K) that prefer the given states to the others by about `gap` nats."""
    table = -gap * rng.uniform(0.8, 1.2, size=(len(states), k))
    table[np.arange(len(states)), states] = 0.0
    return table - 3 * rng.random((len(states), 1))


def sticky(rng: np.random.Generator, k: int) -> np.ndarray:
    matrix = 1e-6 * rng.random((k, k)) + np.eye(k)
    return matrix / matrix.sum(-1, keepdims=True)


def reversal(steps: int, gap: float, k: int, kind: str) -> Problem:
    """For the first half the data are those of state 0, later of state 1, and the transitions have an opinion."""
    rng = np.random.default_rng([steps, int(gap), k])
    states = np.where(np.arange(steps) < steps // 2, 0, 1)
    start = np.full(k, 1 / k)
    if kind == "sticky":  # a change of state costs 14 nats
        matrix = sticky(rng, k)
    elif kind == "sealed":  # nobody ever changes state: the sums of all evidence decide, and they nearly agree
        matrix = np.eye(k)
    elif kind == "one-way":  # 0 cannot be left: to be in state 1 now is to have been there from the start
        matrix = sticky(rng, k)
        matrix[0] = np.eye(k)[0]
    else:  # "left-right", from the last state down to the first, against the order of the evidence
        matrix = 0.5 * np.eye(k) + 0.5 * np.eye(k, k=-1)
        matrix[0] = np.eye(k)[0]
        start = np.eye(k)[-1]
    table = favour(states, k, gap, rng)
    if kind in ("sealed", "one-way"):  # the end decides by a few nats only
        table[-1, :2] = np.array([0.0, table[:-1, 0].sum() - table[:-1, 1].sum()]) + rng.normal(size=2)
    return problem_of(start, matrix, table)


def flicker(steps: int, gap: float, k: int) -> Problem:
    """The preferred state changes at random at every step; a third of the moves are impossible."""
    rng = np.random.default_rng([steps, int(gap), k, 1])
    matrix = rng.random((k, k)) * (rng.random((k, k)) > 1 / 3) + 0.1 * np.eye(k) + 0.1 * np.roll(np.eye(k), 1, 1)
    return problem_of(
        rng.dirichlet(np.ones(k)),
        matrix / matrix.sum(-1, keepdims=True),
        favour(rng.integers(0, k, size=steps), k, gap, rng),
    )


def compare(problem: Problem) -> float:
    """The largest error of any probability; log p(y) to 1e-13 relative."""
    exact = forty_digits(problem)
    filtered, posterior = hmm.filter(*problem), hmm.posterior(*problem)
    for log_prob in (hmm.log_prob(*problem)[0], filtered.log_prob.sum(), posterior.log_prob[0]):
        np.testing.assert_allclose(log_prob, exact.log_prob, rtol=1e-13)
    pairs = (
        (filtered.log_predicted[0].exp(), exact.predicted),
        (filtered.log_updated[0].exp(), exact.updated),
        (posterior.log_gamma[0].exp(), exact.smoothed),
        (posterior.xi_sum[0, 0] / len(exact.updated), exact.counts / len(exact.updated)),
    )
    return max(float(np.abs(ours.numpy() - theirs).max()) for ours, theirs in pairs)


KINDS = ["sticky", "sealed", "one-way", "left-right", "flicker"]


def make(kind: str, steps: int, gap: float, k: int) -> Problem:
    return flicker(steps, gap, k) if kind == "flicker" else reversal(steps, gap, k, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [30.0, 100.0, 300.0])
def test_two_thousand_sharp_steps(gap: float, kind: str) -> None:
    assert compare(make(kind, 2000, gap, 3)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [30.0, 50.0, 100.0, 200.0, 300.0])
@pytest.mark.parametrize("k", [2, 4, 6])
def test_two_thousand_sharp_steps_of_other_sizes(k: int, gap: float, kind: str) -> None:
    assert compare(make(kind, 2000, gap, k)) < 1e-12


def test_the_decision_is_taken_late() -> None:
    """What the test data are for: half the way in, the state that wins has a weight of exp(-300 000)."""
    problem = make("sealed", 2000, 300.0, 2)
    middle = hmm.filter(*problem).log_updated[0, 999]
    smoothed = hmm.posterior(*problem).log_gamma[0].exp()
    assert float(middle.min()) < -200_000
    assert 0.01 < float(smoothed[0, 0]) < 0.99
