"""Quantiles invert the marginal distribution function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as D

from probseq.forecasting import mixture_of_paths
from probseq.marginals import quantile


def test_normal_quantiles():
    base = D.Independent(D.Normal(torch.tensor([[0.0, 3.0]]).double(), torch.tensor([[1.0, 2.0]]).double()), 1)
    np.testing.assert_allclose(quantile(base, 0.9).numpy(), stats.norm([[0, 3]], [[1, 2]]).ppf(0.9), rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("q", [0.01, 0.4, 0.975])
def test_mixture_quantiles_invert_the_distribution_function(q, scale):
    means, deviations = (scale * torch.tensor(x, dtype=torch.float64) for x in ([-1.0, 0.0, 5.0], [0.1, 1.0, 2.0]))
    parts = D.Independent(D.Normal(means[None, :, None], deviations[None, :, None]), 1)
    mixture = D.MixtureSameFamily(D.Categorical(torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)), parts)
    x = quantile(mixture, q).item()
    assert np.dot([0.2, 0.5, 0.3], stats.norm(means, deviations).cdf(x)) == pytest.approx(q, rel=1e-9)


@pytest.mark.parametrize("q", [0.05, 0.5, 0.95, 0.999])
def test_count_quantiles(q):
    rates = np.array([[0.0, 0.4, 33.0]])
    counts = D.Independent(D.Poisson(torch.as_tensor(rates)), 1)
    np.testing.assert_array_equal(quantile(counts, q).numpy(), np.maximum(stats.poisson(rates).ppf(q), 0))
    mixture = mixture_of_paths(D.Independent(D.Poisson(torch.tensor([[[2.0], [40.0]]]).double()), 1))
    k = quantile(mixture, q).item()
    cdf = 0.5 * (stats.poisson(2).cdf([k - 1, k]) + stats.poisson(40).cdf([k - 1, k]))
    assert cdf[0] < q <= cdf[1]
