"""The compiled sweep against numpy's inversion of the cumulative weights."""

from __future__ import annotations

import numpy as np

from probseq.kernels import resampling as kernel


def test_sweep_inverts_the_cumulative_weights():
    rng = np.random.default_rng(0)
    weights, points = rng.random((50, 9)), np.sort(rng.random((50, 9)))
    chosen = np.empty((50, 9), dtype=np.int64)
    kernel.invert(weights, points, chosen)
    for row, at, mine in zip(weights, points, chosen, strict=True):
        np.testing.assert_array_equal(mine, np.searchsorted(np.cumsum(row), at * row.sum(), side="right"))


def test_residual_begins_with_the_whole_copies():
    weights = np.array([[0.5, 0.3, 0.2, 0.0]])
    chosen = np.empty((1, 4), dtype=np.int64)
    kernel.residual(weights, np.array([[0.9, 0.9, 0.9, 0.1]]), chosen)
    assert chosen.tolist() == [[0, 0, 1, 1]]  # 2 and 1 copies, the fourth from shares 0, 0.2, 0.8, 0 of the rest at 0.1
