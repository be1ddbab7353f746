"""Made-up handwriting: the text and its alignment are known, and the pen moves as a hand does."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from probseq.handwriting import LATIN, Font, Writer

STILL = Writer(wobble=0, drift=0, tremor=0)


def small_font(tmp_path) -> Font:
    """Three characters from "!": a bar of 20 with a dot, a bar, a corner."""
    chars = [{"d": "M0,0 L0,20 M0,25", "o": 5}, {"d": "M2,0 L2,20", "o": 4}, {"d": "M0,0 L10,0 L10,10", "o": 6}]
    path = tmp_path / "fonts.json"
    path.write_text(json.dumps({"tiny": {"name": "Tiny", "chars": chars}}))
    return Font.load("tiny", path)


def test_a_line_is_its_glyphs_side_by_side(tmp_path):
    written = STILL.write('! "', small_font(tmp_path), seed=0)
    assert written.text == '! "'
    bar, dot, second = written.traces
    np.testing.assert_allclose(bar[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(bar[[0, -1], 1] - bar[0, 1], [0, 20])
    np.testing.assert_allclose(dot - bar[0], [[0, 25]])
    np.testing.assert_allclose(second[:, 0], 10 + 14 + 2)  # two advances and the glyph's own place
    assert written.characters.tolist() == [0] * (len(bar) + 1) + [2] * len(second)


def test_the_pen_rests_at_stops_and_is_fastest_between(tmp_path):
    corner = STILL.write("#", small_font(tmp_path)).traces[0]
    speed = np.hypot(*np.diff(corner, axis=0).T)
    turn = int(np.flatnonzero((corner == corner[0] + (10, 0)).all(1))[0])
    for part in (speed[:turn], speed[turn:]):
        assert part[0] < 0.2 * part.max()
        assert part[-1] < 0.2 * part.max()
        assert abs(int(part.argmax()) - (len(part) - 1) / 2) <= 1
        np.testing.assert_allclose(part.sum(), 10)


def test_longer_ways_take_longer_but_not_in_proportion(tmp_path):
    font = small_font(tmp_path)
    n_long, n_short = len(STILL.write('"', font)), len(STILL.write("#", font).traces[0]) / 2
    assert 1.2 < n_long / n_short < 1.8  # of a way of 20 and of one of 10: 2^0.6 = 1.5


def test_writers_slant_and_scale(tmp_path):
    font = small_font(tmp_path)
    bar = Writer(size=2, slant=0.5, wobble=0, drift=0, tremor=0).write('"', font).traces[0]
    np.testing.assert_allclose(bar[-1] - bar[0], [-20, 40])


def test_a_seed_is_a_hand_and_another_is_not(tmp_path):
    font = small_font(tmp_path)
    first, same, other = (Writer.draw(seed).write('!"#', font, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.offsets, same.offsets)
    assert len(first) != len(other) or not np.allclose(first.offsets, other.offsets)


def test_unknown_characters_and_fonts_are_refused(tmp_path, monkeypatch):
    font = small_font(tmp_path)
    with pytest.raises(ValueError, match=r"characters of the font 'tiny'; \['a'\]"):
        STILL.write("a!", font)
    with pytest.raises(ValueError, match="there are none"):
        STILL.write(" ", font)
    with pytest.raises(ValueError, match="name must be one of tiny, got 'gothic'"):
        Font.load("gothic", tmp_path / "fonts.json")
    monkeypatch.delenv("PROBSEQ_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="hersheytext"):
        Font.load()


@pytest.mark.skipif("PROBSEQ_DATA" not in os.environ, reason="needs hersheytext.json in PROBSEQ_DATA")
@pytest.mark.parametrize("name", LATIN)
def test_the_fonts_of_hershey_write_all_of_ascii(name):
    font, text = Font.load(name), "".join(chr(k) for k in range(32, 127))
    written = Writer.draw(0).write(text, font, seed=0)
    assert set(written.characters.tolist()) == set(range(1, 95))
    assert (np.diff(written.characters) >= 0).all()
    assert 15 < len(written) / len(text) < 55
