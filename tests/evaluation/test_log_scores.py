"""Log scores: their values against the model, their labels against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import probseq as ps
from probseq.evaluation.kinds import column_kinds, kinds_of, marginal_parts, measure_of
from probseq.evaluation.log_scores import log_scores
from probseq.sequences import Sequences


def series(n: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n).cumsum()


def ar() -> ps.AR:
    return ps.AR(transition_matrices=[[[0.5]]], transition_cov=[[2.0]], initial="stationary")


def poisson() -> ps.HMM:
    return ps.HMM(
        initial_probs=[0.5, 0.5],
        transition_matrix=[[0.9, 0.1], [0.2, 0.8]],
        emission=ps.emissions.Poisson(rates=[[1.0], [5.0]]),
    )


def test_values_are_those_of_the_filter_per_step_and_sequence() -> None:
    y = [series(), np.r_[series(10, 1), np.nan]]
    found = log_scores(ar(), y)
    for i, one in enumerate(ar().filter(y)):
        expected = np.where(np.isnan(y[i]), np.nan, one.log_prob.numpy())
        np.testing.assert_array_equal(found.values[i, : len(y[i])], expected)
        assert found.per_sequence[i] == pytest.approx(np.nanmean(expected), rel=1e-12)
    assert np.isnan(found.values[1, 10:]).all()
    assert found.total == pytest.approx(float(ar().log_prob(y).detach().sum()), rel=1e-12)
    assert found.per_step[0] == pytest.approx(found.values[:, 0].mean(), rel=1e-12)
    assert (found.kind, found.measure, found.standard_error) == ("exact", "density", 0.0)


@pytest.mark.parametrize("scale", [1e-8, 1024.0])
def test_densities_convert_between_units(scale: float) -> None:
    """The score of y / s under the rescaled model is that of y, converted."""
    y = series()
    y[3] = np.nan
    mine = log_scores(ar(), y).in_units(scale)
    other = log_scores(ar().rescale(1 / scale), y / scale, unit=scale)
    np.testing.assert_allclose(mine - other, np.where(np.isnan(y), np.nan, 0.0)[None], atol=1e-9)
    with pytest.raises(ValueError, match="use in_units"):
        log_scores(ar(), y) - other


def test_cells_and_counts_meet_on_one_scale() -> None:
    y = np.round(series())
    cells = log_scores(ar(), y, resolution=1.0)
    mean = np.r_[0.0, 0.5 * y[:-1]]
    deviation = np.sqrt(np.r_[2 / 0.75, np.full(len(y) - 1, 2.0)])
    expected = np.log(stats.norm.cdf(y + 0.5, mean, deviation) - stats.norm.cdf(y - 0.5, mean, deviation))
    np.testing.assert_allclose(cells.values[0], expected, rtol=1e-9)
    assert (cells.kind, cells.measure) == ("exact", "probability")
    counts = np.abs(y)
    difference = log_scores(poisson(), counts) - log_scores(ar(), counts, resolution=1.0)
    assert np.isfinite(difference).all()
    nearly = log_scores(ar(), y).as_probability(1.0)
    assert (nearly.kind, nearly.measure) == ("approximate", "probability")
    np.testing.assert_allclose(nearly.values, cells.values, atol=0.1)


def test_the_bound_lies_below_and_says_so() -> None:
    y = 4 * np.round(series() / 4)
    exact, bound = log_scores(ar(), y, resolution=4.0), log_scores(ar(), y, resolution=4.0, bound=True, n_samples=200)
    assert bound.kind == "bound"
    assert bound.measure == "probability"
    assert bound.total < exact.total
    with pytest.raises(ValueError, match="kind 'exact' and 'bound' are not on one scale"):
        exact - bound


def test_densities_and_probabilities_do_not_mix() -> None:
    counts = np.abs(np.round(series()))
    with pytest.raises(ValueError, match="measure 'density' and 'probability'"):
        log_scores(ar(), counts) - log_scores(poisson(), counts)
    with pytest.raises(ValueError, match="same steps"):
        log_scores(ar(), counts) - log_scores(ar(), counts[:-1])
    with pytest.raises(ValueError, match="for real numbers"):
        log_scores(poisson(), counts, resolution=1.0)
    with pytest.raises(ValueError, match="only densities"):
        log_scores(poisson(), counts).as_probability(1.0)
    with pytest.raises(ValueError, match="unit must be positive"):
        log_scores(ar(), counts, unit=[1.0, 2.0])


def test_a_particle_filter_says_it_estimates_and_how_well() -> None:
    y = series(15)
    lds = ps.LDS(
        transition_matrix=[[0.5]],
        transition_cov=[[1.0]],
        emission_matrix=[[1.0]],
        emission_cov=[[1.0]],
        initial_mean=[0.0],
        initial_cov=[[1.0]],
    )
    found = log_scores(ps.ParticleFilter(lds, n_particles=200), y, n_samples=50)
    assert found.kind == "estimate"
    assert 0 < found.standard_error < 2
    assert found.total == pytest.approx(log_scores(lds, y).total, abs=6 * found.standard_error)
    with pytest.raises(ValueError, match="kind 'estimate' and 'exact'"):
        found - log_scores(lds, y)


def test_columns_that_hang_together_ask_for_the_bound() -> None:
    model = ps.AR(transition_matrices=[0.5 * np.eye(2)], transition_cov=[[1.0, 0.5], [0.5, 1.0]], initial="stationary")
    y = np.round(np.random.default_rng(0).normal(size=(10, 2)))
    with pytest.raises(ValueError, match="bound=True"):
        log_scores(model, y, resolution=1.0)
    assert log_scores(model, y, resolution=1.0, bound=True).kind == "bound"


def strokes() -> ps.HMM:
    emission = ps.emissions.Product(
        ps.emissions.Gaussian(means=[[0.0, 0.0], [1.0, 1.0]], covs=[np.eye(2), np.eye(2)]),
        ps.emissions.Bernoulli(probs=[[0.1], [0.9]]),
    )
    return ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.1, 0.9]], emission=emission)


def test_mixed_columns_are_told_apart() -> None:
    y = np.array([[0.1, -0.3, 0.0], [1.0, 0.5, 1.0]])
    model = strokes()
    assert kinds_of(model, Sequences.of(y)) == ("real", "real", "binary")
    found = log_scores(model, y)
    assert found.measure == "mixed"
    np.testing.assert_allclose(found.in_units(10.0).values - found.values, 2 * np.log(10.0), rtol=1e-12)
    emitted = model.emit(model.initial_belief())
    first, second = marginal_parts(emitted)
    assert (column_kinds(first), column_kinds(second)) == (("real", "real"), ("binary",))
    assert float(second.mean.detach()) == pytest.approx(0.5)
    assert measure_of(("symbol",)) == "probability"
    assert measure_of(("angle",)) == "density"
    assert torch.allclose(first.mean, torch.tensor([0.5, 0.5], dtype=torch.float64))
