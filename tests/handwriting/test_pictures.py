"""Pictures and pages of handwriting."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.handwriting import Strokes, plot_alignment, plot_density, plot_strokes, prediction_network
from probseq.handwriting.page import read_drawn, replay_page
from probseq.handwriting.pictures import _heat

plt = pytest.importorskip("matplotlib.pyplot")


def line() -> Strokes:
    """Two strokes and a dot."""
    rows = [[0, 0, 0], [3, 1, 0], [2, -2, 1], [2, 0, 0], [0, 4, 1], [3, -4, 1]]
    return Strokes.from_array(rows, "if")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_strokes_are_drawn_one_by_one_with_their_lifts():
    axes = plt.figure().subplots()
    assert plot_strokes(line(), axes) is axes
    drawn = [item.get_xydata() for item in axes.lines]
    assert len(drawn) == 3
    for found, trace in zip(drawn, line().traces, strict=True):
        np.testing.assert_allclose(found, trace)
    assert axes.yaxis_inverted()
    with_lifts = plot_strokes(line(), lifts=True)
    np.testing.assert_allclose(with_lifts.lines[-1].get_xydata(), line().points[line().lifts])
    np.testing.assert_allclose(with_lifts.lines[3].get_xydata(), line().points[[2, 3]])


def test_the_heat_adds_up_to_one_for_each_point():
    """The integral of the picture is the number of points but the first, where the grid is wide enough."""
    model = prediction_network([5], 3, dtype=torch.float64, seed=0)
    model.head.scale.copy_(torch.tensor([0.02, 0.03, 1.0]))
    x, y, heat = _heat(model, line(), None, 400)
    total = heat.sum() * (x[1] - x[0]) * (y[1] - y[0])
    assert total == pytest.approx(len(line()) - 1, rel=1e-3)


def test_the_heat_is_where_the_network_expects_the_pen():
    """One component of the Gaussian that the head says, after each point."""
    model = prediction_network([5], 1, dtype=torch.float64, seed=0)
    model.head.scale.copy_(torch.tensor([0.1, 0.1, 1.0]))
    with torch.no_grad():
        model.head.bias[1:3] = torch.tensor([20.0, 10.0])
    one = Strokes.from_array([[0, 0, 0], [5, 3, 1]])
    x, y, heat = _heat(model, one, None, 300)
    belief = model.initial_belief()
    belief = model.predict(model.update(belief, torch.zeros(3, dtype=torch.float64))[0])
    mean = model.emit(belief).mean.detach()
    density = heat / heat.sum()
    found = [float((density.sum(0) * x).sum()), float((density.sum(1) * y).sum())]
    np.testing.assert_allclose(found, mean[:2], atol=1e-2)
    assert mean[0] > 1.9
    axes = plt.figure().subplots()
    assert plot_density(model, one, axes) is axes
    assert len(axes.images) == 1


def test_a_density_needs_mixtures():
    with pytest.raises(TypeError, match="mixtures of offsets"):
        plot_density(ps.RNN(3, cell=ps.cells.GRU(3), head=ps.heads.Gaussian(), seed=0), line())


def test_an_alignment_shows_each_character_and_the_end():
    looks = np.array([[0.2, 0.1, 0.0], [0.1, 0.4, 0.0], [0.0, 0.0, 0.1], [0.0, 0.0, 0.0]])
    axes = plt.figure().subplots()
    assert plot_alignment(looks, "a ", axes, characters=[0, 1, 1, 1]) is axes
    image = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(image.max(0), [1, 1, 1, 0])
    np.testing.assert_allclose(image[:, 0], [1, 0.5, 0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "_", "end"]
    with pytest.raises(ValueError, match=r"\(n_points, 4\)"):
        plot_alignment(looks, "abc")


def test_the_page_holds_the_strokes_and_nothing_from_elsewhere():
    page = replay_page(line(), "<i> & co")
    assert "http" not in page
    assert "<title>&lt;i&gt; &amp; co</title>" in page
    start = page.index("const strokes = ") + len("const strokes = ")
    assert json.loads(page[start : page.index(";", start)]) == line().to_array().tolist()
    with pytest.raises(ValueError, match="at least one point"):
        replay_page(Strokes.from_array(np.zeros((0, 3))))


def test_what_is_drawn_on_the_page_comes_back(tmp_path):
    file = tmp_path / "strokes.json"
    file.write_text(json.dumps({"text": "if", "strokes": line().to_array().tolist()}))
    read = read_drawn(file)
    np.testing.assert_array_equal(read.to_array(), line().to_array())
    assert read.text == "if"
    file.write_text('{"strokes": [[0, 0]]}')
    with pytest.raises(ValueError, match=r"strokes\.json must be JSON"):
        read_drawn(file)
    file.write_text("no")
    with pytest.raises(ValueError, match="must be JSON"):
        read_drawn(file)
