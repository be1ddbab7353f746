"""Cells of rounded data against scipy's distribution functions, and the bound by dequantisation against quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as D

import probseq as ps
from probseq.evaluation.rounded import cell_log_prob, dequantised


def double(values: object) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def test_cells_of_a_normal_are_differences_of_its_distribution_function() -> None:
    normal = D.Independent(D.Normal(double([[1.0]]), double([[2.0]])), 1)
    for y in (-3.0, 0.5, 9.0):
        expected = stats.norm.cdf(y + 0.25, 1, 2) - stats.norm.cdf(y - 0.25, 1, 2)
        assert float(cell_log_prob(normal, double([[y]]), 0.5)) == pytest.approx(np.log(expected), rel=1e-10)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_cells_far_out_keep_their_digits(sign: float) -> None:
    """log of the integral of exp(-x^2 / 2) over 39.5 .. 40.5, by the tail's own asymptotic series in scipy."""
    normal = D.Independent(D.Normal(double([[0.0]]), double([[1.0]])), 1)
    near, far = stats.norm.logsf(39.5), stats.norm.logsf(40.5)
    expected = near + np.log1p(-np.exp(far - near))
    assert float(cell_log_prob(normal, double([[sign * 40.0]]), 1.0)) == pytest.approx(expected, rel=1e-12)


def test_the_cells_of_a_grid_sum_to_one() -> None:
    mixture = D.MixtureSameFamily(
        D.Categorical(double([0.3, 0.7])), D.Independent(D.Normal(double([[-1.0], [2.0]]), double([[0.5], [1.0]])), 1)
    )
    grid = torch.arange(-60, 60, dtype=torch.float64).unsqueeze(-1) * 0.3
    assert float(cell_log_prob(mixture, grid, 0.3).exp().sum()) == pytest.approx(1.0, rel=1e-12)


def test_dequantised_data_stay_in_their_cells_and_give_a_bound() -> None:
    model = ps.AR(transition_matrices=[[[0.5]]], transition_cov=[[1.0]], initial="stationary")
    y = np.array([0.0, 2.0, np.nan, 1.0])
    noisy = dequantised(y, 2.0, seed=0)
    away = (noisy.values[:, 0] - double(np.nan_to_num(y))).abs()
    assert float(away.max()) <= 1.0
    assert away[2] == 0
    one = y[:1]
    truth = np.log(stats.norm.cdf(1, 0, np.sqrt(4 / 3)) - stats.norm.cdf(-1, 0, np.sqrt(4 / 3)))
    with torch.no_grad():
        draws = [float(model.log_prob(dequantised(one, 2.0, seed=seed))) + np.log(2.0) for seed in range(60)]
    variance = 4 / 3
    mean_bound = -0.5 * np.log(2 * np.pi * variance) - (1 / 3) / (2 * variance) + np.log(2.0)  # E v^2 = 1 / 3
    assert mean_bound < truth
    assert np.mean(draws) == pytest.approx(mean_bound, abs=4 * np.std(draws) / np.sqrt(60))


def test_a_resolution_must_be_positive() -> None:
    with pytest.raises(ValueError, match="resolution must be positive"):
        dequantised([1.0], 0.0)
