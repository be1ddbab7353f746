"""Conjugate gradients against a direct solution; what is kept; when it stops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from probseq.learning.conjugate_gradient import conjugate_gradient


def problem(n=12, spread=3.0):
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(n, n)))[0]
    matrix = torch.as_tensor(rotation @ np.diag(np.logspace(0, spread, n)) @ rotation.T)
    return 0.5 * (matrix + matrix.T), torch.as_tensor(rng.normal(size=n)), torch.as_tensor(rng.normal(size=n))


def value(matrix, gradient, x):
    return float(gradient @ x + 0.5 * x @ matrix @ x)


@pytest.mark.parametrize("scaled", [False, True])
def test_it_reaches_the_minimum_and_never_rises(scaled):
    matrix, gradient, start = problem()
    weights = matrix.diagonal() if scaled else torch.ones_like(gradient)
    path = conjugate_gradient(lambda v: matrix @ v, gradient, start, weights, max_iterations=40, precision=0.0)
    best = -torch.linalg.solve(matrix, gradient)
    torch.testing.assert_close(path[-1].point, best, rtol=1e-8, atol=1e-9)
    values = [value(matrix, gradient, start), *(p.value for p in path)]
    assert all(b <= a + 1e-12 * abs(a) for a, b in itertools.pairwise(values))
    for kept in path:
        assert kept.value == pytest.approx(value(matrix, gradient, kept.point), rel=1e-9)


def test_the_exact_preconditioner_needs_one_step():
    diagonal = torch.logspace(-3, 3, 9, dtype=torch.float64)
    gradient = torch.linspace(-1, 1, 9, dtype=torch.float64)
    path = conjugate_gradient(lambda v: diagonal * v, gradient, torch.zeros_like(gradient), diagonal, max_iterations=9)
    assert path[0].step == 1
    torch.testing.assert_close(path[0].point, -gradient / diagonal, rtol=1e-12, atol=0)


def test_steps_are_those_of_the_subspace():
    """After k steps from 0, the minimiser over span(g, A g, .., A^(k-1) g)."""
    matrix, gradient, _ = problem(spread=1.0)
    zero, one = torch.zeros_like(gradient), torch.ones_like(gradient)
    for k in (1, 2, 4):
        path = conjugate_gradient(lambda v: matrix @ v, gradient, zero, one, max_iterations=k, precision=0.0)
        powers = [gradient]
        for _ in range(k - 1):
            powers.append(matrix @ powers[-1])
        basis = torch.linalg.qr(torch.stack(powers, -1)).Q
        expected = -basis @ torch.linalg.solve(basis.mT @ matrix @ basis, basis.mT @ gradient)
        torch.testing.assert_close(path[-1].point, expected, rtol=1e-9, atol=1e-12)
        assert path[-1].step == k


def test_it_stops_when_progress_is_small_and_keeps_few_points():
    matrix, gradient, start = problem(n=200, spread=6.0)
    one = torch.ones_like(gradient)
    path = conjugate_gradient(lambda v: matrix @ v, gradient, start, one, max_iterations=1000)
    steps = [p.step for p in path]
    assert steps == sorted(set(steps))
    assert len(steps) < 30
    last = path[-1].step
    before = conjugate_gradient(
        lambda v: matrix @ v, gradient, start, one, max_iterations=last - max(10, last // 10), precision=0.0
    )
    gained = before[-1].value - path[-1].value
    assert last < 1000
    assert gained < max(10, last // 10) * 5e-4 * abs(path[-1].value)


def test_no_gradient_is_no_path():
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert conjugate_gradient(lambda v: v, zero, zero, one, max_iterations=5) == []
