"""Lines of handwriting: ways in and out, units, and what resampling and dequantising keep."""

from __future__ import annotations

import numpy as np
import pytest

from probseq.handwriting import Strokes, Units


def line(seed: int = 0, n_points: int = 40, grid: bool = False) -> Strokes:
    draws = np.random.default_rng(seed)
    offsets = 3 * draws.normal(size=(n_points, 2)) + (1, 0)
    lifts = draws.random(n_points) < 0.2
    lifts[-1] = True
    return Strokes(offsets.round() if grid else offsets, lifts)


def test_traces_and_offsets_are_the_same_line():
    traces = [np.array([[5.0, 1.0], [6.0, 2.0], [6.0, 4.0]]), np.array([[9.0, 9.0]])]
    written = Strokes.from_traces(traces, "ab", characters=[0, 1])
    np.testing.assert_array_equal(written.offsets, [[0, 0], [1, 1], [0, 2], [3, 5]])
    np.testing.assert_array_equal(written.lifts, [False, False, True, True])
    np.testing.assert_array_equal(written.characters, [0, 0, 0, 1])
    for trace, back in zip(traces, written.traces, strict=True):
        np.testing.assert_allclose(back + traces[0][0], trace)
    again = Strokes.from_array(written.to_array())
    np.testing.assert_array_equal(again.offsets, written.offsets)
    np.testing.assert_array_equal(again.lifts, written.lifts)


def test_units_are_undone_and_convert_densities():
    lines = [line(seed) for seed in range(5)]
    units = Units.of(lines)
    scaled = [one.normalise(units) for one in lines]
    pooled = np.concatenate([one.offsets for one in scaled])
    np.testing.assert_allclose(pooled.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(pooled.std(0), 1, rtol=1e-12)
    np.testing.assert_allclose(scaled[0].restore().offsets, lines[0].offsets, rtol=1e-12)

    def log_normal(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> float:
        return float((-0.5 * ((values - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum())

    shift, scale = np.array(units.shift), np.array(units.scale)
    own = log_normal(lines[0].offsets, shift + 0.3 * scale, 2 * scale)
    standard = log_normal(scaled[0].offsets, np.full(2, 0.3), np.full(2, 2.0))
    assert units.log_density(standard, len(lines[0])) == pytest.approx(own, rel=1e-12)


def test_dequantised_offsets_stay_in_their_cells():
    whole = line(grid=True)
    spread = whole.dequantise(seed=1)
    np.testing.assert_array_equal(spread.offsets.round(), whole.offsets)
    assert (spread.offsets != whole.offsets).all()
    np.testing.assert_array_equal(spread.offsets, whole.dequantise(seed=1).offsets)
    assert np.abs(whole.dequantise(seed=1, width=0.1).offsets - whole.offsets).max() <= 0.05


def test_resampled_points_stand_at_equal_distances_on_the_same_line():
    square = [np.array([[0, 0], [10, 0], [10, 10]]), np.array([[20, 20]])]
    fine = Strokes.from_traces(square, "xy", characters=[0, 1]).resample(0.5)
    first, dot = fine.traces
    np.testing.assert_allclose(np.hypot(*np.diff(first, axis=0).T), 0.5)
    np.testing.assert_allclose(first[[0, 20, 40]], [[0, 0], [10, 0], [10, 10]])
    np.testing.assert_allclose(dot, [[20, 20]])
    np.testing.assert_array_equal(fine.characters, [0] * 41 + [1])


def test_the_picture_has_a_path_for_every_stroke():
    svg = line().to_svg()
    assert svg.startswith("<svg")
    assert svg.count("M") == len(line().traces)
    assert "viewBox" in Strokes(np.zeros((0, 2)), np.zeros(0)).to_svg()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((3, 3)), np.zeros(3)), r"offsets must be \(n_points, 2\), got shape \(3, 3\)"),
        (([[0, np.nan]], [1]), "offsets must be finite, point 0"),
        ((np.zeros((2, 2)), [0, 2]), "lifts must be 2 zeros and ones"),
        ((np.zeros((2, 2)), [0, 1], None, [0, 0]), "characters must be 2 places in text"),
        ((np.zeros((2, 2)), [0, 1], "a", [0, 1]), r"characters must be places 0 \.\. 0 in text"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Strokes(*arguments)


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="rows must be"):
        Strokes.from_array(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="at least one point"):
        Strokes.from_traces([])
    with pytest.raises(ValueError, match="spacing must be positive"):
        line().resample(0.0)
    with pytest.raises(ValueError, match="restore"):
        line().normalise(Units.of([line()])).normalise(Units((0, 0), (1, 1)))
    with pytest.raises(ValueError, match="differ in both directions"):
        Units.of([Strokes([[1, 0], [2, 0]], [0, 1])])
