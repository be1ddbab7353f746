"""Pseudo-residuals against scipy, and uniform where the model is the one that drew the data."""

from __future__ import annotations

import math
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

import probseq as ps
from probseq.evaluation import PseudoResiduals, plot_residuals, pseudo_residuals
from tests import zoo

ROWS = {row.name: row for row in zoo.ROWS}
CONTINUOUS = [
    "hmm-gaussian-full", "hmm-gaussian-diag", "hmm-student-full", "hmm-student-diag", "hmm-von-mises",
    "hmm-product-real", "hmm-gaussian-mixture-full", "hmm-gaussian-mixture-diag", "hsmm-gaussian-table",
    "lds-plain", "lds-offsets", "ar-2", "rnn-gru-gaussian-full",
]  # fmt: skip
DISCRETE = [
    "hmm-poisson", "hmm-bernoulli", "hmm-negative-binomial", "hmm-multinomial", "rnn-gru-bernoulli", "poisson-gamma",
]  # fmt: skip


def flat(scores: torch.Tensor) -> np.ndarray:
    return stats.norm.cdf(scores.numpy().reshape(-1, scores.shape[-1]))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_scores_are_standard_normal_under_the_true_model(name: str) -> None:
    model = ROWS[name].make(0)
    y = model.sample(40, (50,), seed=1)
    scores = pseudo_residuals(model, y)
    assert torch.equal(scores.lower, scores.upper)
    assert torch.equal(scores.lower, scores.middle)
    for column in flat(scores.middle).T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    successive = np.corrcoef(scores.middle[:, :-1, 0].flatten(), scores.middle[:, 1:, 0].flatten())[0, 1]
    assert abs(successive) < 4 / math.sqrt(50 * 39)


def test_scores_show_a_wrong_model() -> None:
    model = ROWS["hmm-gaussian-diag"].make(0)
    y = model.sample(40, (50,), seed=1)
    model.emission.means = model.emission.means + 0.5
    for column in flat(pseudo_residuals(model, y).middle).T:
        assert stats.kstest(column, "uniform").pvalue < 1e-6


@pytest.mark.parametrize("name", DISCRETE)
def test_a_point_drawn_in_every_segment_is_uniform_under_the_true_model(name: str) -> None:
    """Dunn and Smyth (1996): u ~ U(P(Y < y), P(Y <= y)) is uniform."""
    model = ROWS[name].make(0)
    y = model.sample(40, (50,), seed=1)
    scores = pseudo_residuals(model, y)
    low, high = flat(scores.lower), flat(scores.upper)
    assert (low < high).all()
    np.testing.assert_allclose(flat(scores.middle), (low + high) / 2, rtol=1e-9)
    drawn = low + (high - low) * np.random.default_rng(0).uniform(size=low.shape)
    for column in drawn.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    for column in low.T:
        assert stats.kstest(column, "uniform").pvalue < 1e-6


def test_a_poisson_mixture_is_that_of_scipy() -> None:
    model = ROWS["hmm-poisson"].make(0)
    y = model.sample(25, seed=2)
    weights = model.filter(y).predicted.probs.numpy()
    rates = model.emission.rates.detach().numpy()
    cdf = np.einsum("tk,tkd->td", weights, stats.poisson.cdf(y.numpy()[:, None], rates))
    below = np.einsum("tk,tkd->td", weights, stats.poisson.cdf(y.numpy()[:, None] - 1, rates))
    scores = pseudo_residuals(model, y)
    np.testing.assert_allclose(scores.upper.numpy(), stats.norm.ppf(cdf), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(scores.lower.numpy(), stats.norm.ppf(below), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(scores.middle.numpy(), stats.norm.ppf((below + cdf) / 2), rtol=1e-8, atol=1e-12)


def test_a_gaussian_mixture_is_that_of_scipy_and_holds_far_out() -> None:
    emission = ps.emissions.Gaussian(means=[[0.0], [3.0]], covs=[[[1.0]], [[4.0]]])
    model = ps.HMM(initial_probs=[0.25, 0.75], transition_matrix=[[0.5, 0.5], [0.5, 0.5]], emission=emission)
    for y in (-30.0, 1.2, 90.0):
        with mpmath.workdps(800):
            side = 1 if y < 2 else -1
            tail = mpmath.mpf(1) / 4 * mpmath.ncdf(side * y) + mpmath.mpf(3) / 4 * mpmath.ncdf(side * (y - 3.0) / 2)
            guess = stats.norm.ppf(float(tail)) if tail > 1e-300 else -math.sqrt(-2 * float(mpmath.log(tail)))
            expected = side * float(mpmath.findroot(lambda z: mpmath.log(mpmath.ncdf(z) / tail), guess))  # noqa: B023
        assert pseudo_residuals(model, [y]).middle.item() == pytest.approx(expected, rel=1e-10)


def test_a_large_count_keeps_its_upper_tail() -> None:
    """P(Y > 60) for a rate of 2 is far below rounding of P(Y <= 60) = 1."""
    model = ps.HMM(initial_probs=[1.0], transition_matrix=[[1.0]], emission=ps.emissions.Poisson(rates=[[2.0]]))
    assert pseudo_residuals(model, [60.0]).upper.item() == pytest.approx(-stats.norm.ppf(stats.poisson.sf(60, 2.0)))
    silent = ps.HMM(initial_probs=[1.0], transition_matrix=[[1.0]], emission=ps.emissions.Poisson(rates=[[0.0]]))
    assert pseudo_residuals(silent, [0.0]).lower.item() == -math.inf
    assert pseudo_residuals(silent, [0.0]).upper.item() == math.inf


def test_gaps_are_nan_and_the_layout_is_that_of_the_data() -> None:
    model = ROWS["lds-offsets"].make(0)
    y = model.sample(8, (2,), seed=0).numpy()
    y[0, 3, 1] = np.nan
    scores = pseudo_residuals(model, [y[0], y[1, :5]])
    assert [part.middle.shape for part in scores] == [(8, 3), (5, 3)]
    assert isinstance(scores[0], PseudoResiduals)
    assert torch.isnan(scores[0].middle).nonzero().tolist() == [[3, 1]]
    assert pseudo_residuals(model, y).middle.shape == (2, 8, 3)
    assert pseudo_residuals(model, y[1]).middle.shape == (8, 3)


def test_inputs_reach_the_prediction() -> None:
    row = ROWS["lds-inputs"]
    model: Any = row.make(0)
    u = np.random.default_rng(0).normal(size=(30, 1))
    y = model.sample(30, u=u, seed=0)
    filtered = model.filter(y, u)
    variance = (model.emission_matrix @ filtered.predicted.cov @ model.emission_matrix.mT + model.emission_cov).detach()
    gap = torch.sqrt(-2 * filtered.log_prob - torch.log(2 * math.pi * variance.squeeze(-1).squeeze(-1)))
    np.testing.assert_allclose(pseudo_residuals(model, y, u).middle.abs().squeeze(-1), gap, rtol=1e-7, atol=1e-7)


def test_symbols_have_none() -> None:
    model = ROWS["hmm-categorical"].make(0)
    with pytest.raises(ValueError, match="symbols have no order"):
        pseudo_residuals(model, model.sample(5, seed=0))


def test_mixed_columns_have_residuals_where_there_is_an_order() -> None:
    model = ROWS["hmm-product-mixed"].make(0)
    y = model.sample(40, (50,), seed=1)
    scores = pseudo_residuals(model, y)
    assert torch.isnan(scores.middle).all((0, 1)).tolist() == [False, True]
    assert torch.equal(scores.lower[..., 0], scores.upper[..., 0])
    assert stats.kstest(flat(scores.middle)[:, 0], "uniform").pvalue > 1e-3


def test_the_picture_shows_the_scores() -> None:
    y = ps.datasets.nile()
    model = ps.HMM(2, emission=ps.emissions.Gaussian(1)).fit(y, seed=0)
    axes = plot_residuals(model, y)
    dots = axes.get_lines()[0]
    np.testing.assert_array_equal(dots.get_ydata(), pseudo_residuals(model, y).middle[:, 0])
    np.testing.assert_array_equal(dots.get_xdata(), y.index)
    limits = [line.get_ydata()[0] for line in axes.get_lines()[1:]]
    assert limits == pytest.approx([-1.959964, 0.0, 1.959964], rel=1e-6)
    assert not axes.collections
    counts = ROWS["hmm-poisson"].make(0)
    drawn = counts.sample(20, seed=0)
    _, given = plt.subplots()
    assert plot_residuals(counts, drawn, given, coordinate=1) is given
    (segments,) = given.collections
    scores = pseudo_residuals(counts, drawn)
    ends = np.array([path.vertices[:, 1] for path in segments.get_paths()])  # type: ignore[attr-defined]
    finite = np.isfinite(scores.lower[:, 1].numpy())
    np.testing.assert_allclose(ends[finite, 0], scores.lower[finite, 1])
    assert np.isfinite(ends).all()
    with pytest.raises(ValueError, match=r"batch shape \(2,\)"):
        plot_residuals(counts, [drawn, drawn])
    with pytest.raises(ValueError, match="coordinate must lie in"):
        plot_residuals(counts, drawn, coordinate=2)
    plt.close("all")
