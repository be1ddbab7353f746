"""Edit distances against a search over all edits, and the rates that they make."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from probseq.handwriting.error_rates import edit_distance, error_rates


@functools.cache
def by_recursion(one: str, other: str) -> int:
    if not one or not other:
        return len(one) + len(other)
    return min(
        by_recursion(one[1:], other) + 1,
        by_recursion(one, other[1:]) + 1,
        by_recursion(one[1:], other[1:]) + (one[0] != other[0]),
    )


def test_edit_distance() -> None:
    draws = np.random.default_rng(0)
    for _ in range(200):
        one, other = ("".join(draws.choice(list("abc"), size=draws.integers(0, 7))) for _ in range(2))
        assert edit_distance(one, other) == by_recursion(one, other)
    assert edit_distance("kitten", "sitting") == 3


def test_rates_are_over_everything_written() -> None:
    rates = error_rates(["ab cd", "x"], ["ab d", "x y"])
    assert rates.characters == pytest.approx(3 / 6)
    assert rates.words == pytest.approx(2 / 3)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="one text for each of 2 written, got 1"):
        error_rates(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="at least one word"):
        error_rates([" "], ["a"])
