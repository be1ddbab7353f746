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
@pytest.mark.parametrize("n", [0, 1, 64, 70])
def test_the_pull_on_the_rows(n, diagonal):
    rows, means, whitener = random_problem(n, 2, 3)
    weight, pull = np.random.default_rng(1).normal(size=(n, 2)), np.zeros((n, 3))
    gaussian.pull_rows(rows, means, whitener, diagonal, weight, pull)
    kept = whitener * np.eye(3) if diagonal else whitener
    expected = -np.einsum("nk,kij,kil,nkl->nj", weight, kept, kept, rows[:, None] - means)
    np.testing.assert_allclose(pull, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("n", [0, 1, 64, 70, 200])
def test_moments_equal_the_sums(n, partial, diagonal):
    rows, means, _ = random_problem(n, 4, 5)
    draws = np.random.default_rng(2)
    weights, seen = draws.uniform(size=(n, 4)), (draws.uniform(size=(n, 5)) < 0.7).astype(float)
    mass, away_sum, total = np.zeros(4), np.zeros((4, 5)), np.zeros((4, 5, 5))
    gaussian.scatter(rows, seen if partial else np.zeros((0, 0)), means, weights, diagonal, mass, away_sum, total)
    away = (rows[:, None] - means) * (seen[:, None] if partial and n else 1.0)
    expected = np.einsum("nk,nki,nkj->kij", weights, away, away)
    expected = expected * np.eye(5) if diagonal else np.tril(expected)
    np.testing.assert_allclose(mass, weights.sum(0), rtol=1e-12)
    np.testing.assert_allclose(away_sum, np.einsum("nk,nki->ki", weights, away), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(total, expected, rtol=1e-12, atol=1e-12)
