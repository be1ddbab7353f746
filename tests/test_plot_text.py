"""Text on coloured cells: every character at its place."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from probseq import plot


def test_lines_break_as_in_the_text_and_are_folded():
    text = "ab\ncdefg\n"
    axes = plot.text_activity(text, np.linspace(-1, 1, len(text)), width=3)
    places = {t.get_text(): t.get_position() for t in axes.texts}
    assert places == {
        "a": (0, 0), "b": (1, 0), "c": (0, 1), "d": (1, 1), "e": (2, 1), "f": (0, 2), "g": (1, 2), "\u21b5": (2, 2),
    }  # fmt: skip
    cells = axes.collections[0].get_array()
    assert cells.shape == (3, 4)
    assert cells.count() == len(text)
    assert axes.collections[0].get_clim() == (-1, 1)


def test_every_character_needs_a_value():
    with pytest.raises(ValueError, match=r"one number for each of 3 characters, got shape \(2,\)"):
        plot.text_activity("abc", [0.0, 1.0])
