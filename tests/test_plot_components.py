"""The panels of a structural time series show what `components` says."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection

import probseq as ps
from probseq import plot


@pytest.fixture(autouse=True)
def _no_figures_left() -> Iterator[None]:
    yield
    plt.close("all")


def model() -> ps.Structural:
    return ps.Structural(seasonal=4, level_var=0.5, seasonal_var=0.1, emission_var=1.0)


def data() -> pd.Series:
    values = np.random.default_rng(1).normal(size=24).cumsum()
    values[5] = np.nan
    return pd.Series(values, pd.Index(np.arange(2000, 2024), name="year"))


def test_panels_show_the_parts_with_their_intervals() -> None:
    y = data()
    parts = model().components(y)
    panels = plot.components(model(), y, level=0.8)
    assert [panel.get_title(loc="left") for panel in panels] == ["level", "seasonal"]
    assert panels[-1].get_xlabel() == "year"
    for panel, name in zip(panels, parts.additive, strict=True):
        (curve,) = [line for line in panel.lines if line.get_label() == name]
        np.testing.assert_allclose(curve.get_ydata(), parts[name].mean)
        np.testing.assert_allclose(curve.get_xdata(), y.index)
        (band,) = [shape for shape in panel.collections if isinstance(shape, PolyCollection)]
        lower, upper = parts[name].interval(0.8)
        corners = band.get_paths()[0].vertices
        assert corners[:, 1].min() == pytest.approx(float(lower.min()))
        assert corners[:, 1].max() == pytest.approx(float(upper.max()))
    dots = panels[0].lines[0].get_ydata()
    np.testing.assert_array_equal(np.isnan(dots), y.isna())


def test_given_axes_come_back() -> None:
    _, axes = plt.subplots(2)
    assert list(plot.components(model().components(data()), data(), axes)) == list(axes)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="axes must hold 2 Axes"):
        plot.components(model(), data(), plt.subplots(3)[1])
    with pytest.raises(ValueError, match="one sequence"):
        plot.components(model(), [data(), data()])
    with pytest.raises(TypeError, match="Structural"):
        plot.components(ps.AR(1), data())  # type: ignore[arg-type]
