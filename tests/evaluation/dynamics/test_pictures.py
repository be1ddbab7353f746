"""Pictures of dynamics show the numbers they are given."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import probseq as ps
from probseq.evaluation import fixed_points, gradient_flow, plot_eigenvalues, plot_gradients, plot_phase_portrait


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def two_units(gain: float = 1.4) -> ps.RNN:
    cell = ps.cells.Elman(2)
    model = ps.RNN(1, cell=cell, head=ps.heads.Gaussian(), input_dim=1, feedback=False, seed=0)
    with torch.no_grad():
        cell.recurrent_weights.copy_(gain * torch.eye(2))
    return model


def test_phase_portrait():
    model = two_units()
    points = fixed_points(model, seed=0)
    axes = plot_phase_portrait(model, starts=[[0.1, 0.2], [-0.3, 0.1]], steps=60, points=points)
    paths = [line for line in axes.lines if line.get_linestyle() == "-"]
    np.testing.assert_allclose(paths[0].get_xydata()[[0, -1]], [[0.1, 0.2], [0.81453, 0.81453]], atol=1e-4)
    markers = [line for line in axes.lines if line.get_marker() == "o"]
    assert len(markers) == len(points.states) == 9
    assert sum(line.get_markerfacecolor() == "white" for line in markers) == 5
    assert len(axes.collections) == 1  # the flow
    wide = ps.RNN(1, cell=ps.cells.GRU(5), head=ps.heads.Gaussian(), seed=0)
    assert plot_phase_portrait(wide, units=(3, 1)).get_xlabel() == "unit 3"


def test_gradients():
    y = np.sin(0.3 * np.arange(12))[:, None]
    flow = gradient_flow(ps.RNN(1, cell=ps.cells.GRU(4), head=ps.heads.Gaussian(), seed=0), y)
    axes = plot_gradients(flow)
    shown = axes.collections[0].get_array()
    below = np.tri(12) > 0
    expected = np.log10(flow.by_step.numpy()[below] / flow.by_step.max().item())
    np.testing.assert_allclose(shown[below], expected, rtol=1e-12)
    assert bool(np.ma.getmaskarray(shown)[~below].all())
    with pytest.raises(ValueError, match="one sequence"):
        plot_gradients(flow._replace(by_step=flow.by_step.expand(2, 12, 12)))
    with pytest.raises(ValueError, match="not zero"):
        plot_gradients(flow._replace(by_step=0 * flow.by_step))


def test_eigenvalues():
    axes = plot_eigenvalues(torch.tensor([0.5 + 0.5j, 0.5 - 0.5j]))
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0.5, 0.5], [0.5, -0.5]])
    points = fixed_points(two_units(0.5), seed=0)
    assert plot_eigenvalues(points, plt.figure().subplots()).get_aspect() == 1.0
