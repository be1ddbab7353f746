"""Tiled products and vectorised functions against numpy in higher precision."""

from __future__ import annotations

import numpy as np
import pytest

from probseq.kernels import activations, tiles

KINDS = [np.float32, np.float64]


def panels(matrix: np.ndarray, kind: type | None = None) -> np.ndarray:
    """(*, rows, columns) as (*, panels, rows, width), zeros beyond."""
    width = tiles.width_of(kind or matrix.dtype)
    n = -(-matrix.shape[-1] // width)
    wide = np.zeros((*matrix.shape[:-1], n * width), matrix.dtype)
    wide[..., : matrix.shape[-1]] = matrix
    return np.ascontiguousarray(np.moveaxis(wide.reshape(*matrix.shape[:-1], n, width), -2, -3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("in_panels", [False, True])
@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 1, 1), (7, 40, 33), (17, 600, 5), (32, 257, 70)])
def test_product(kind, keep, in_panels, rows, depth, columns):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(rows, depth)).astype(kind), rng.normal(size=(depth, columns)).astype(kind)
    right, width = panels(b), tiles.width_of(kind)
    out = panels(rng.normal(size=(rows, columns)).astype(kind))
    before = out.copy()
    left = panels(a) if in_panels else a
    a_row, a_panel = (width, rows * width) if in_panels else (depth, width)
    # the operand stands 3 places into its memory, the result one panel into its own
    memory, to = np.concatenate([np.full(3, np.nan, kind), left.ravel()]), np.empty(out.size + width * rows, kind)
    to[width * rows :] = out.ravel()
    to[: width * rows] = 7
    tiles.product(memory, 3, a_row, a_panel, right, 0, len(right), to, width * rows, rows, keep)
    expected = panels(a.astype(np.longdouble) @ b, kind).astype(np.float64) + keep * before
    found = to[width * rows :].reshape(out.shape)
    tolerance = 4 * np.finfo(kind).eps * depth**0.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(a).max() * np.abs(b).max() * 4)
    assert (to[: width * rows] == 7).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("steps", "rows", "left", "right"), [(1, 1, 1, 1), (5, 3, 20, 40), (9, 70, 33, 3), (2, 300, 8, 8)]
)
def test_outer(kind, steps, rows, left, right):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(steps, rows, left)).astype(kind), rng.normal(size=(steps, rows, right)).astype(kind)
    exact = np.einsum("tri,trj->ij", a.astype(np.float64), b.astype(np.float64))
    beyond = np.zeros((steps, rows, -left % tiles.ROWS), kind)
    for one, keep in ((panels(a), False), (np.concatenate([a, beyond], 2)[:, None], steps > 1)):
        lines = one.shape[1] * one.shape[3]
        two = panels(b)
        out = np.full((lines, two.shape[1] * two.shape[3]), np.nan, kind)
        if keep:
            out[:] = 0
            tiles.outer(one[:1], two[:1], two.shape[1], out, False)
            tiles.outer(one[1:], two[1:], two.shape[1], out, steps > 1)
        else:
            tiles.outer(one, two, two.shape[1], out, False)
        np.testing.assert_allclose(
            out[:left, :right], exact, rtol=0, atol=40 * np.finfo(kind).eps * (steps * rows) ** 0.5
        )
        assert not out[left:].any()
        assert not out[:, right:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_functions_are_right_to_the_last_digits(kind):
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=4000) * 5, [0.0], 10.0 ** np.arange(-30, 3), -(10.0 ** np.arange(-30, 3))])
    x = x.astype(kind)
    wide = x.astype(np.longdouble)
    found, units = np.empty_like(x), 3 * np.finfo(kind).eps
    activations.tanh_to(x, found)
    again = x.copy()
    activations.tanh_(again)
    np.testing.assert_allclose(found, np.tanh(wide).astype(np.float64), rtol=units, atol=0)
    np.testing.assert_array_equal(found, again)
    found = x.copy()
    activations.logistic_(found)
    np.testing.assert_allclose(found, (1 / (1 + np.exp(-wide))).astype(np.float64), rtol=units, atol=2 * np.exp(-80))
    weights, memory = rng.normal(size=(2, x.size)).astype(kind)
    found = x.copy()
    activations.peephole_logistic_(found, weights, memory)
    total = wide + weights.astype(np.longdouble) * memory
    keep = np.abs(total) < 20
    slope = 40 * np.finfo(kind).eps  # the rounding of an argument of up to 20, twice
    np.testing.assert_allclose(found[keep], (1 / (1 + np.exp(-total))).astype(np.float64)[keep], rtol=slope)


@pytest.mark.parametrize("kind", KINDS)
def test_functions_saturate_and_nan_stays(kind):
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0], kind)
    found = np.empty_like(x)
    activations.tanh_to(x, found)
    np.testing.assert_array_equal(found, [np.nan, 1, -1, 1, -1, 0])
    found = x.copy()
    activations.logistic_(found)
    assert np.isnan(found[0])
    np.testing.assert_array_equal(found[[1, 3, 5]], [1, 1, 0.5])
    assert (found[[2, 4]] < 1e-30).all()
