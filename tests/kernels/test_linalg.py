"""The small compiled linear algebra against numpy, in any units."""

from __future__ import annotations

import os

import numpy as np
import pytest
from numba import njit

from probseq.kernels import linalg

SCALES = [1e-8, 1.0, 1e8]


def random_matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns))


def random_covariance(size: int, rank: int | None = None, seed: int = 0) -> np.ndarray:
    root = random_matrix(size, size if rank is None else rank, seed)
    return root @ root.T


@pytest.mark.parametrize("blas", [None, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4), (5, 1, 2), (20, 13, 17)])
def test_products(blas: bool | None, shape: tuple[int, int, int]) -> None:
    p, q, r = shape
    a, b, out = random_matrix(p, q), random_matrix(q, r, 1), np.empty((p, r))
    linalg.product(a, b, out, blas)
    np.testing.assert_allclose(out, a @ b, rtol=1e-12, atol=1e-13)
    out[:] = np.nan
    linalg.product_right_transposed(a, np.ascontiguousarray(b.T), out, blas)
    np.testing.assert_allclose(out, a @ b, rtol=1e-12, atol=1e-13)
    out[:] = np.nan
    linalg.product_left_transposed(np.ascontiguousarray(a.T), b, out, blas)
    np.testing.assert_allclose(out, a @ b, rtol=1e-12, atol=1e-13)


def test_symmetrise() -> None:
    matrix = random_matrix(4, 4)
    expected = 0.5 * (matrix + matrix.T)
    linalg.symmetrise(matrix)
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize("size", [1, 2, 5, 20])
@pytest.mark.parametrize("s", SCALES)
def test_whiten(size: int, s: float) -> None:
    """W S W' = I and log det S, with one variable in other units than the next."""
    units = s ** np.linspace(-1.0, 1.0, size)
    covariance = random_covariance(size) * units[:, None] * units
    whitener = np.full((size, size), np.nan)
    log_det = linalg.whiten(np.tril(covariance), whitener, np.empty(size))
    assert log_det == pytest.approx(np.linalg.slogdet(random_covariance(size))[1] + 2.0 * np.log(units).sum(), abs=1e-9)
    np.testing.assert_allclose(whitener @ covariance @ whitener.T, np.eye(size), atol=1e-9)
    np.testing.assert_array_equal(whitener, np.tril(whitener))


@pytest.mark.parametrize("s", [1e-150, 1e-8, 1.0, 1e8, 1e150])
@pytest.mark.parametrize("bad", ["rank", "zero", "negative", "nan", "inf"])
def test_whiten_refuses_singular_and_not_finite(s: float, bad: str) -> None:
    covariance = random_covariance(3, rank=2 if bad == "rank" else None)
    if bad != "rank":
        covariance[1, 1] = {"zero": 0.0, "negative": -1.0, "nan": np.nan, "inf": np.inf}[bad]
    assert np.isnan(linalg.whiten(s * covariance, np.empty((3, 3)), np.empty(3)))


@pytest.mark.parametrize("rank", [0, 1, 2, 4])
@pytest.mark.parametrize("s", SCALES)
def test_semidefinite_factor(rank: int, s: float) -> None:
    units = s ** np.array([1.0, -1.0, 0.5, 1.0])
    covariances = np.stack([random_covariance(4, rank, seed) * units[:, None] * units for seed in range(3)])
    covariances[2, :, 1] = covariances[2, 1] = 0.0
    factors = np.full_like(covariances, np.nan)
    linalg.semidefinite_factor(covariances, factors)
    scale = units[:, None] * units
    np.testing.assert_allclose(factors @ factors.transpose(0, 2, 1) / scale, covariances / scale, atol=1e-12)
    np.testing.assert_array_equal(factors, np.tril(factors))


@pytest.mark.parametrize("s", [1e-150, 1.0, 1e150])
def test_unchanged_has_no_units(s: float) -> None:
    units = s * np.array([1e-3, 1.0, 1e3])
    old = random_covariance(3) + np.eye(3)
    nudge = np.zeros((3, 3))
    nudge[1, 2] = nudge[2, 1] = 1.0
    scale = units[:, None] ** 0.5 * units**0.5
    for size, expected in [(0.0, True), (5e-15, True), (1e-12, False)]:
        assert linalg.unchanged((old + size * nudge) * scale, old * scale, 1e-14) is expected
    np.fill_diagonal(nudge, 1.0)
    assert not linalg.unchanged((old + 1e-12 * nudge) * scale, old * scale, 1e-14)
    assert linalg.unchanged(np.zeros((2, 2)), np.zeros((2, 2)), 1e-14)
    assert not linalg.unchanged(np.full((2, 2), np.nan), np.eye(2), 1e-14)


@pytest.mark.skipif(os.environ.get("NUMBA_BOUNDSCHECK") != "1", reason="meaningful under NUMBA_BOUNDSCHECK=1 only")
def test_bounds_are_checked() -> None:
    """In the bounds-checked run (fresh NUMBA_CACHE_DIR) a read past the end raises, so that run is not vacuous."""

    @njit(error_model="numpy")
    def read(values: np.ndarray, index: int) -> float:
        return values[index]

    with pytest.raises(IndexError):
        read(np.zeros(3), 3)
