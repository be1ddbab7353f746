"""Rows in whole vector registers, for every number of registers and beside other numbers in memory."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from probseq.kernels import registers


@njit
def call(a, b, matrix, out, product, pairs, left, right, turn):
    width = out.shape[0]
    total = registers.weigh(a, 1, b, 2, product, 3, width)
    registers.move(a, 1, matrix, width * width, width, out, 0, turn)
    registers.add_pairs(left, right, width, left.shape[0], width, pairs)
    return total


@njit
def call_rescale(a, scale, smallest, n):
    return registers.rescale(a, 1, a.shape[0] - 2, scale, smallest, n)


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("width", [8, 16, 24, 32, 40, 56, 120, 128, 136, 264])
def test_products(width: int, turn: int) -> None:
    generator = np.random.default_rng(width)
    a, b, product = generator.random(width + 2), generator.random(width + 3), np.zeros(width + 4)
    matrix, out, pairs = generator.random((2, width, width)), np.empty(width), np.ones((width, width))
    left, right = generator.random((5, width)), generator.random((6, width))
    total = call(a, b, matrix, out, product, pairs, left, right, turn)
    row = a[1:-1]
    np.testing.assert_array_equal(product, [0, 0, 0, *(row * b[2:-1]), 0])
    np.testing.assert_allclose(total, row @ b[2:-1], rtol=1e-14)
    np.testing.assert_allclose(out, row @ matrix[1], rtol=1e-13)
    np.testing.assert_allclose(pairs, 1 + left.T @ right[1:], rtol=1e-13)


@pytest.mark.parametrize("width", [8, 16, 24])
def test_rescale_finds_what_is_small_among_the_first(width: int) -> None:
    for place in range(width):
        for n in range(width + 1):
            a = np.ones(width + 2)
            a[1 + place] = 0.5
            assert call_rescale(a, 2.0, 1.5, n) == (place < n)
            expected = np.full(width, 2.0)
            expected[place] = 1.0
            np.testing.assert_array_equal(a, [1.0, *expected, 1.0])
    assert not call_rescale(np.full(width + 2, np.nan), 2.0, 1.5, width)
