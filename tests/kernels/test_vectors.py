"""Vectors in registers against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from probseq.kernels import vectors as V


@njit
def everything(size, x, y, matrix, out, counts, flat, n):
    a, b = V.load(size, x, 0), V.load(size, y, 0)
    V.store(out, 0, V.add(a, b))
    V.store(out, 1, V.subtract(a, 2.0))
    V.store(out, 2, V.multiply(a, b))
    V.store(out, 3, V.smaller(a, b))
    V.store(out, 4, V.times(a, matrix, 1))
    V.store(out, 5, V.plus(a, matrix, 1))
    V.store(out, 6, V.exponential(V.multiply(V.multiply(a, a), -300.0)))
    V.store(out, 7, V.logarithm(V.multiply(a, a)))
    V.add_outer(counts, a, b)
    for i in range(2):
        V.store_part(flat, i * n, n, V.load(size, out, i))
    return V.total(a), V.largest(a), V.first_place(a, V.largest(a))


@pytest.mark.parametrize("width", [4, 8])
def test_every_operation_is_that_of_numpy(width):
    draws = np.random.default_rng(width)
    x, y, matrix = draws.normal(size=(1, width)), draws.normal(size=(1, width)), draws.normal(size=(2, width, width))
    out, counts, flat = np.empty((8, width)), np.ones((width, width)), np.zeros(2 * (width - 1))
    total, largest, place = everything((0,) * width, x, y, matrix, out, counts, flat, width - 1)
    a, b = x[0], y[0]
    plus = (a[:, None] + matrix[1]).max(0)
    expected = [a + b, a - 2, a * b, np.minimum(a, b), a @ matrix[1], plus, np.exp(-300 * a**2), np.log(a**2)]
    np.testing.assert_allclose(out, expected, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(counts, 1 + np.outer(a, b), rtol=1e-14)
    np.testing.assert_array_equal(flat, out[:2, :-1].ravel())
    assert abs(total - a.sum()) < 1e-14
    assert (largest, place) == (a.max(), a.argmax())


def test_numbers_at_the_ends_of_the_range():
    x, out = np.array([[0.0, -1e-300, -2000.0, -707.0]]), np.empty((8, 4))
    everything((0,) * 4, np.sqrt(-x / 300), x, np.zeros((2, 4, 4)), out, np.zeros((4, 4)), np.zeros(6), 3)
    np.testing.assert_allclose(out[6], np.where(x[0] < -708, 0, np.exp(x[0])), rtol=1e-12)
    assert out[7, 0] == -np.inf
