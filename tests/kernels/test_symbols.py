"""Tables and counts of symbols."""

from __future__ import annotations

import numpy as np
import pytest

from probseq.kernels import symbols as kernel


@pytest.mark.parametrize("bad", [-1.0, 4.0, 0.5, np.nan, np.inf])
def test_what_is_no_symbol(bad):
    assert kernel.are_symbols(np.array([0.0, 3.0]), 4)
    assert not kernel.are_symbols(np.array([0.0, bad, 3.0]), 4)


@pytest.mark.parametrize("partial", [False, True])
def test_tables_and_counts_are_those_of_one_hot_rows(partial):
    draws = np.random.default_rng(0)
    symbols, log_probs, weights = draws.integers(0, 4, 30), draws.normal(size=(3, 4)), draws.random((30, 3))
    observed = draws.random(30) < 0.5 if partial else np.empty(0, dtype=np.bool_)
    hot = np.eye(4)[symbols] * (observed[:, None] if partial else 1.0)
    table, counts = np.full((30, 3), np.nan), np.zeros((3, 4))
    assert kernel.look_up(symbols.astype(float), observed, log_probs, table)
    np.testing.assert_array_equal(table, hot @ log_probs.T)
    kernel.count(symbols.astype(float), observed, weights, counts)
    np.testing.assert_allclose(counts, weights.T @ hot, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("bad", [-1.0, 4.0, np.nan])
def test_a_table_is_not_read_past_its_end(bad):
    everything = np.empty(0, dtype=np.bool_)
    assert not kernel.look_up(np.array([0.0, bad]), everything, np.zeros((3, 4)), np.empty((2, 3)))
