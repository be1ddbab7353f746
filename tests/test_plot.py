"""Pictures show what the models say: the numbers are read back from the artists."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.dates import date2num
from scipy.stats import norm

import probseq as ps
from probseq import plot
from probseq.learning.history import History


@pytest.fixture(autouse=True)
def _no_figures_left() -> Iterator[None]:
    yield
    plt.close("all")


def local_level() -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[1.0]],
        transition_cov=[[0.5]],
        emission_matrix=[[2.0]],
        emission_cov=[[1.0]],
        initial_mean=[0.0],
        initial_cov=[[4.0]],
        emission_offset=[3.0],
    )


def hmm(n_states: int = 2) -> ps.HMM:
    k = n_states
    emission = ps.emissions.Gaussian(means=4.0 * torch.arange(k).reshape(k, 1), covs=torch.ones(k, 1, 1))
    matrix = torch.full((k, k), 0.1 / (k - 1)) + (0.9 - 0.1 / (k - 1)) * torch.eye(k)
    return ps.HMM(emission=emission, initial_probs=torch.full((k,), 1 / k), transition_matrix=matrix)


def network(cell: Any = None) -> ps.RNN:
    return ps.RNN(1, cell=cell or ps.cells.GRU(5), head=ps.heads.Gaussian(), seed=0)


def data(length: int = 12) -> pd.Series:
    values = np.random.default_rng(0).normal(2.0, 2.0, length)
    return pd.Series(values, index=pd.Index(1900 + np.arange(length), name="year"), name="flow")


def fills(axes: Any) -> list[np.ndarray]:
    """The x, lower and upper edges of each filled band, in order of drawing."""
    found = []
    for part in axes.collections:
        if isinstance(part, PolyCollection) and len(part.get_paths()) == 1:
            corners = part.get_paths()[0].vertices
            times = np.unique(corners[:, 0])
            edges = [corners[corners[:, 0] == x, 1] for x in times]
            found.append(np.array([times, [e.min() for e in edges], [e.max() for e in edges]]))
    return found


def mesh(axes: Any) -> QuadMesh:
    return next(part for part in axes.collections if isinstance(part, QuadMesh))


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def draw_all(y: Any, axes: Any = None) -> list[Any]:
    """Every picture of one sequence."""
    model, states, net = local_level(), hmm(), network()
    return [
        plot.series(y, axes),
        plot.belief_band(model, y, axes),
        plot.posterior_heatmap(states, y, axes),
        plot.viterbi_ribbon(states, y, axes),
        plot.activity_heatmap(net, y, axes),
        plot.forecast_fan(y, model.forecast(y, 3), axes),
    ]


# ---- Axes


def test_given_axes_come_back_and_new_ones_are_made() -> None:
    _, mine = plt.subplots()
    for axes in draw_all(data(), mine):
        assert axes is mine
    made = draw_all(data())
    assert len({id(axes.figure) for axes in made}) == len(made)
    for axes in made:
        assert not axes.spines["top"].get_visible()
        assert not axes.spines["right"].get_visible()
        axes.figure.canvas.draw()


@pytest.mark.parametrize(
    ("index", "expected", "label"),
    [
        (None, np.arange(12.0), "step"),
        (pd.RangeIndex(5, 17, name="k"), np.arange(5.0, 17.0), "k"),
        (pd.Index(list("abcdefghijkl"), name="row"), np.arange(12.0), "row"),
        (
            pd.period_range("1990", periods=12, freq="Y", name="year"),
            date2num(np.arange("1990", "2002", dtype="datetime64[Y]")),
            "year",
        ),
        (
            pd.date_range("2020-01-31", periods=12, freq="D", tz="UTC"),
            date2num(np.arange("2020-01-31", "2020-02-12", dtype="datetime64[D]")),
            "",
        ),
    ],
)
def test_the_index_is_the_time_axis(index: Any, expected: np.ndarray, label: str) -> None:
    y = data().to_numpy() if index is None else data().set_axis(index)
    axes = plot.belief_band(local_level(), y)
    np.testing.assert_allclose(fills(axes)[0][0], expected, rtol=1e-14)
    dots = axes.lines[0]
    np.testing.assert_allclose(axes.convert_xunits(dots.get_xdata()), expected, rtol=1e-14)
    assert axes.get_xlabel() == label
    assert axes.get_ylabel() == ("y" if index is None else "flow")
    axes.figure.canvas.draw()


@pytest.mark.parametrize(
    ("index", "first"),
    [
        (pd.period_range("1990", periods=12, freq="Q"), "1993-01-01"),
        (pd.date_range("2020", periods=12, freq="MS"), "2021-01-01"),
        (pd.RangeIndex(0, 24, 2), 24),
        (None, 12),
    ],
)
def test_the_fan_goes_on_where_the_data_end(index: Any, first: Any) -> None:
    y = data().tolist() if index is None else data().set_axis(index)
    axes = plot.forecast_fan(y, local_level().forecast(y, 4))
    times = fills(axes)[0][0]
    assert times[0] == (date2num(np.datetime64(first)) if isinstance(first, str) else first)
    assert len(times) == 4
    axes.figure.canvas.draw()


# ---- content


@pytest.mark.parametrize("kind", ["smoothed", "filtered", "predicted"])
def test_belief_band_is_the_belief_about_the_signal(kind: Any) -> None:
    y, model = data(), local_level()
    y.iloc[4] = np.nan
    belief = model.smooth(y) if kind == "smoothed" else model.filter(y)[{"filtered": 1, "predicted": 0}[kind]]
    mean, std = 2 * belief.mean[:, 0].numpy() + 3, 2 * belief.std[:, 0].numpy()
    axes = plot.belief_band(model, y, kind=kind, level=0.8)
    _, lower, upper = fills(axes)[0]
    np.testing.assert_allclose(lower, mean + norm.ppf(0.1) * std, rtol=1e-12)
    np.testing.assert_allclose(upper, mean + norm.ppf(0.9) * std, rtol=1e-12)
    dots, line = axes.lines
    np.testing.assert_array_equal(dots.get_ydata(), y.to_numpy())
    np.testing.assert_allclose(line.get_ydata(), mean, rtol=1e-12)
    assert texts(axes) == [f"{kind}, 80 %"]


def test_belief_band_of_a_belief_is_the_state() -> None:
    y = data()
    belief = local_level().smooth(y)
    for given in (belief, ps.beliefs.GaussianFactor(belief.mean, torch.linalg.cholesky(belief.cov))):
        axes = plot.belief_band(given, y)
        np.testing.assert_allclose(axes.lines[1].get_ydata(), belief.mean[:, 0], rtol=1e-12)
        expected = 2 * norm.ppf(0.95) * belief.std[:, 0].numpy()
        np.testing.assert_allclose(fills(axes)[0][2] - fills(axes)[0][1], expected, rtol=1e-10)


def test_belief_band_leaves_out_diffuse_steps() -> None:
    belief = local_level().smooth(data())
    diffuse = torch.zeros_like(belief.cov)
    diffuse[0] = 1.0
    axes = plot.belief_band(belief._replace(diffuse_cov=diffuse), data())
    assert np.isnan(axes.lines[1].get_ydata()[0])
    assert len(fills(axes)[0][0]) == 11


def test_belief_band_takes_inputs() -> None:
    u = torch.linspace(0, 1, 12, dtype=torch.float64).unsqueeze(-1)
    fixed = {name: getattr(local_level(), name).detach() for name in local_level().params() if "input" not in name}
    model = ps.LDS(**fixed, transition_input_matrix=[[0.0]], emission_input_matrix=[[10.0]])
    axes = plot.belief_band(model, data(), u=u)
    mean = 2 * model.smooth(data(), u).mean + 3 + 10 * u
    np.testing.assert_allclose(axes.lines[1].get_ydata(), mean[:, 0], rtol=1e-12)


def test_belief_band_picks_the_coordinate() -> None:
    model = ps.LDS(
        transition_matrix=0.9 * np.eye(2),
        transition_cov=np.eye(2),
        emission_matrix=[[1.0, 0.0], [1.0, 1.0]],
        emission_cov=np.eye(2),
        initial_mean=np.zeros(2),
        initial_cov=np.eye(2),
    )
    y = pd.DataFrame(np.random.default_rng(1).normal(size=(9, 2)), columns=["east", "north"])
    axes = plot.belief_band(model, y, coordinate=1)
    assert axes.get_ylabel() == "north"
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), y["north"])
    np.testing.assert_allclose(axes.lines[1].get_ydata(), model.smooth(y).mean.sum(-1), rtol=1e-12)
    with pytest.raises(ValueError, match=r"coordinate must lie in 0 \.\. 1, got 2"):
        plot.belief_band(model, y, coordinate=2)


@pytest.mark.parametrize("kind", ["smoothed", "filtered", "predicted"])
def test_posterior_heatmap_is_the_posterior(kind: Any) -> None:
    y, model = data(), hmm(3)
    belief = model.smooth(y) if kind == "smoothed" else model.filter(y)[{"filtered": 1, "predicted": 0}[kind]]
    axes = plot.posterior_heatmap(model, y, kind=kind, labels=["low", "middle", "high"])
    cells = mesh(axes)
    np.testing.assert_array_equal(cells.get_array(), belief.probs.numpy().T)
    assert cells.get_clim() == (0.0, 1.0)
    corners = cells.get_coordinates()
    np.testing.assert_array_equal(corners[0, :, 0], 1899.5 + np.arange(13))
    np.testing.assert_array_equal(corners[:, 0, 1], [-0.5, 0.5, 1.5, 2.5])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["low", "middle", "high"]


def test_states_of_a_semi_markov_model_are_drawn_like_those_of_a_markov_model() -> None:
    y = 2 * data(40)
    model = ps.HSMM(
        initial_probs=[0.5, 0.5], transition_matrix=[[0, 1], [1, 0]],
        emission=ps.emissions.Gaussian(means=[[-2.0], [2.0]], covs=[[[1.0]], [[1.0]]]),
        duration=ps.durations.Poisson(6, rates=[2.0, 3.0]),
    )  # fmt: skip
    for kind, belief in (("smoothed", model.smooth(y)), ("filtered", model.filter(y).updated)):
        expected = belief.log_probs.exp().sum(-1).numpy().T
        axes = plot.posterior_heatmap(model, y, kind=kind)  # type: ignore[arg-type]
        np.testing.assert_allclose(mesh(axes).get_array(), expected, rtol=1e-14)
        assert [label.get_text() for label in axes.get_yticklabels()] == ["state 0", "state 1"]
        np.testing.assert_allclose(mesh(plot.posterior_heatmap(belief)).get_array(), expected, rtol=1e-14)
    path = model.decode(y)
    drawn, given = plot.viterbi_ribbon(model, y), plot.viterbi_ribbon(path, y)
    assert len(path.unique()) == 2
    for one, other in zip(drawn.collections, given.collections, strict=True):
        for bar, twin in zip(one.get_paths(), other.get_paths(), strict=True):
            np.testing.assert_array_equal(bar.vertices, twin.vertices)


def test_heatmaps_of_beliefs_need_no_data() -> None:
    belief = hmm().smooth(data())
    np.testing.assert_array_equal(mesh(plot.posterior_heatmap(belief)).get_array(), belief.probs.numpy().T)
    point = network().filter(data()).predicted
    axes = plot.activity_heatmap(point, colorbar=False)
    np.testing.assert_array_equal(mesh(axes).get_array(), point.state.numpy().T)
    assert axes.child_axes == []


def test_activities_of_a_reservoir() -> None:
    y = data()
    model = ps.EchoState(6, washout=2).fit(y, seed=0)
    shown = mesh(plot.activity_heatmap(model, y)).get_array()
    np.testing.assert_array_equal(shown, model.filter(y).predicted.state.numpy().T)


@pytest.mark.parametrize("cell", [ps.cells.GRU, ps.cells.LSTM, ps.cells.Elman])
def test_activity_heatmap_is_what_the_head_reads(cell: Any) -> None:
    y, model = data(), network(cell(5))
    cells = mesh(plot.activity_heatmap(model, y))
    shown = torch.as_tensor(np.asarray(cells.get_array())).T
    assert tuple(shown.shape) == (12, 5)
    scores = model.head.log_prob(shown, torch.tensor(y.tolist(), dtype=torch.float64).unsqueeze(-1), None)
    torch.testing.assert_close(scores.detach(), model.filter(y).log_prob)
    low, high = cells.get_clim()
    assert low == -high
    assert high == pytest.approx(float(shown.abs().max()))


def test_viterbi_ribbon_is_the_decoded_path() -> None:
    y, model = 2 * data(40), hmm(3)
    axes = plot.viterbi_ribbon(model, y)
    path = model.decode(y).numpy()
    assert len(np.unique(path)) == 3
    shown = np.full(40, -1)
    for state, bars in enumerate(axes.collections):
        np.testing.assert_allclose(bars.get_facecolor(), [matplotlib.colors.to_rgba(plot.PALETTE[state])])
        for bar in bars.get_paths():
            left, right = bar.vertices[:, 0].min(), bar.vertices[:, 0].max()
            shown[int(left + 0.5 - 1900) : int(right + 0.5 - 1900)] = state
    np.testing.assert_array_equal(shown, path)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), y)
    assert texts(axes) == ["state 0", "state 1", "state 2"]
    axes.figure.canvas.draw()


def test_viterbi_ribbon_under_other_axes() -> None:
    y, path = data(), [0] * 5 + [9] * 7
    axes = plot.viterbi_ribbon(path, y, plot.series(y), span=(0.0, 0.1))
    assert len(axes.lines) == 1
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.0, 0.1)
    assert len({tuple(bars.get_facecolor()[0]) for bars in axes.collections if len(bars.get_paths())}) == 2


@pytest.mark.parametrize("model", [local_level(), hmm(), network()], ids=["lds", "hmm", "rnn"])
def test_forecast_fan_is_the_forecast(model: Any) -> None:
    y = data()
    forecast = model.forecast(y, 5, n_samples=50, seed=0)
    axes = plot.forecast_fan(y, forecast, levels=(0.5, 0.9))
    wide, narrow = fills(axes)
    for shown, level in ((wide, 0.9), (narrow, 0.5)):
        lower, upper = forecast.interval(level)
        np.testing.assert_array_equal(shown[0], np.arange(1912, 1917))
        np.testing.assert_allclose(shown[1], lower[:, 0], rtol=1e-12)
        np.testing.assert_allclose(shown[2], upper[:, 0], rtol=1e-12)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), forecast.quantile(0.5)[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), y)
    assert sorted(texts(axes)) == ["50 %", "90 %", "median"]


def test_forecast_fan_compares_forecasts() -> None:
    y = data(20)
    past = y.iloc[:15]
    forecasts = {"level": local_level().forecast(past, 5), "regimes": hmm().forecast(past, 5)}
    axes = plot.forecast_fan(y, forecasts, levels=(0.9,), n_history=4)
    named = {line.get_label(): line for line in axes.lines}
    for name, forecast in forecasts.items():
        np.testing.assert_allclose(named[name].get_ydata(), forecast.quantile(0.5)[:, 0], rtol=1e-12)
        np.testing.assert_array_equal(named[name].get_xdata(), np.arange(1915, 1920))
    assert named["level"].get_color() != named["regimes"].get_color()
    assert sorted(texts(axes)) == ["level", "regimes"]
    dots = axes.lines[-1]
    np.testing.assert_array_equal(dots.get_xdata(), np.arange(1911, 1920))
    np.testing.assert_array_equal(dots.get_ydata(), y.iloc[11:])


def test_names_at_the_ends_do_not_overlap() -> None:
    y, model = data(), local_level()
    forecast = model.forecast(y, 3)
    axes = plot.forecast_fan(y, dict.fromkeys("abcd", forecast))
    axes.figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(boxes))


def test_one_step_is_drawn_as_bars() -> None:
    y = data()
    forecast = local_level().forecast(y, 1)
    axes = plot.forecast_fan(y, forecast, levels=(0.9,))
    (bar,) = axes.collections
    np.testing.assert_allclose(bar.get_segments()[0][:, 1], torch.stack(forecast.interval(0.9)).flatten(), rtol=1e-12)


def test_forecast_fan_of_counts() -> None:
    emission = ps.emissions.Poisson(rates=[[1.0], [9.0]])
    model = ps.HMM(emission=emission, initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.1, 0.9]])
    y = np.random.default_rng(3).poisson(4, 30)
    forecast = model.forecast(y, 4)
    (band,) = fills(plot.forecast_fan(y, forecast, levels=(0.8,)))
    np.testing.assert_array_equal(band[1:], torch.stack(forecast.interval(0.8)).squeeze(-1))


def test_fit_history_counts_from_its_start() -> None:
    history = History("gradient", objective=[-90.0, -70.0, -60.0], validation=[-30.0, -20.0, -25.0])
    axes = plot.fit_history(history)
    training, validation, best = axes.lines
    np.testing.assert_array_equal(training.get_ydata(), [0.0, 20.0, 30.0])
    np.testing.assert_array_equal(validation.get_ydata(), [0.0, 10.0, 5.0])
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (1, 10.0)
    assert sorted(texts(axes)) == [
        "kept: \N{MINUS SIGN}20.0 nats",
        "training\n\N{MINUS SIGN}60.0 nats",
        "validation\n\N{MINUS SIGN}25.0 nats",
    ]
    assert "nats" in axes.get_ylabel()


def test_fit_history_of_a_fitted_model() -> None:
    model = ps.HMM(2, emission=ps.emissions.Gaussian(1)).fit(ps.datasets.nile(), seed=0)
    axes = plot.fit_history(model)
    objective = np.asarray(model.history.objective)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), objective - objective[0])
    assert len(axes.lines) == 1


# ---- errors


def test_batches_are_refused() -> None:
    y = torch.zeros(2, 5, 1)
    for draw, model in (
        (plot.belief_band, local_level()),
        (plot.posterior_heatmap, hmm()),
        (plot.viterbi_ribbon, hmm()),
        (plot.activity_heatmap, network()),
    ):
        with pytest.raises(ValueError, match=r"one sequence; y has batch shape \(2,\)"):
            draw(model, y)
        with pytest.raises(ValueError, match=r"one sequence; y has batch shape \(2,\)"):
            draw(model, [data(3), data(4)])
    with pytest.raises(ValueError, match=r"the belief has batch shape \(2,\)"):
        plot.posterior_heatmap(hmm().smooth(y))
    with pytest.raises(ValueError, match=r"the belief has batch shape \(2,\)"):
        plot.belief_band(local_level().smooth(y), y[0])
    with pytest.raises(ValueError, match=r"the forecast has batch shape \(2,\)"):
        plot.forecast_fan(y[0], local_level().forecast(y, 3))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("draw", [plot.belief_band, plot.posterior_heatmap, plot.viterbi_ribbon, plot.activity_heatmap])
def test_the_wrong_family_is_named(draw: Any) -> None:
    wrong = local_level() if draw is not plot.belief_band else hmm()
    with pytest.raises(TypeError, match=rf"{draw.__name__} needs .*, got {type(wrong).__name__}"):
        draw(wrong, data())


def test_other_mistakes() -> None:
    y = data()
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1, got 1"):
        plot.belief_band(local_level(), y, level=1)
    with pytest.raises(ValueError, match="levels must lie strictly between 0 and 1, got 90"):
        plot.forecast_fan(y, local_level().forecast(y, 2), levels=(90,))
    with pytest.raises(ValueError, match="kind must be"):
        plot.belief_band(local_level(), y, kind="decoded")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the belief has 12 steps but y has 11"):
        plot.belief_band(local_level().smooth(y), y.iloc[1:])
    with pytest.raises(ValueError, match="labels must name all 2 states, got 1"):
        plot.viterbi_ribbon(hmm(), y, labels=["low"])
    with pytest.raises(ValueError, match="no history yet"):
        plot.fit_history(hmm())
    with pytest.raises(ValueError, match="at least one step"):
        plot.series([])
    assert plt.get_fignums() == []


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "probseq\[plot\]"'):
        plot.series(data())


def test_importing_plot_does_not_import_matplotlib() -> None:
    code = "import sys, probseq.plot; raise SystemExit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
