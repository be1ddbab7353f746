"""The Gaussian table kernel and its adjoint on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from probseq.kernels import gaussian


def random_problem(n: int, k: int, d: int, seed: int = 0):
    draws = np.random.default_rng(seed)
    whitener = np.tril(draws.normal(size=(k, d, d)))
    whitener[:, np.arange(d), np.arange(d)] = draws.uniform(0.5, 2, size=(k, d))
    return draws.normal(size=(n, d)), draws.normal(size=(k, d)), whitener


def direct(rows, means, whitener, diagonal):
    kept = whitener * np.eye(rows.shape[1]) if diagonal else whitener
    white = np.einsum("kij,nkj->nki", kept, rows[:, None] - means)
    log_det = np.log(np.diagonal(whitener, axis1=1, axis2=2)).sum(-1)
    return log_det - 0.5 * (rows.shape[1] * np.log(2 * np.pi) + (white**2).sum(-1))


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("d", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 200])
def test_table_equals_the_formula(n, d, diagonal):
    rows, means, whitener = random_problem(n, 3, d)
    table = np.full((n, 3), np.nan)
    gaussian.forward(rows, means, whitener, diagonal, table)
    np.testing.assert_allclose(table, direct(rows, means, whitener, diagonal), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("diagonal", [False, True])
def test_adjoint_equals_differences(diagonal):
    rows, means, whitener = random_problem(70, 2, 3)
    weight = np.random.default_rng(1).normal(size=(70, 2))
    inputs = [rows, means, whitener]
    gradients = [np.zeros_like(x) for x in inputs]
    gaussian.backward(*inputs, diagonal, weight, *gradients)
    for which, place in [(0, (68, 1)), (0, (3, 2)), (1, (1, 0)), (2, (0, 2, 2)), (2, (1, 2, 0))]:
        step = 1e-5

        def value(sign, which=which, place=place, step=step):
            moved = [x.copy() for x in inputs]
            moved[which][place] += sign * step
            return (weight * direct(*moved, diagonal)).sum()

        expected = (value(1) - value(-1)) / (2 * step)
        assert gradients[which][place] == pytest.approx(expected, rel=1e-6, abs=1e-6)
