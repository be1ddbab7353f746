"""Negative binomial emissions against scipy, and their M-step against a search that knows nothing of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from probseq.emissions import NegativeBinomial, Poisson


def random_rows(n: int, seed: int = 0, missing: float = 0.0):
    draws = np.random.default_rng(seed)
    rows = torch.as_tensor(draws.negative_binomial(2, 0.3, size=(n, 2)).astype(float))
    seen = torch.as_tensor(draws.random((n, 2)) >= missing)
    return torch.where(seen, rows, 0.0), seen, torch.as_tensor(draws.random((n, 2)))


def test_table_with_gaps():
    means, dispersions = np.array([[0.5, 300.0], [4.0, 1e-3]]), np.array([[1e-4, 0.2], [3.0, 50.0]])
    rows = torch.tensor([[0, 4], [1, 0], [40, 1000]]).double()
    seen = torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()
    sizes = 1 / dispersions
    terms = stats.nbinom(sizes, sizes / (sizes + means)).logpmf(rows.numpy()[:, None])
    emission = NegativeBinomial(means=means, dispersions=dispersions)
    expected = np.where(seen.numpy()[:, None], terms, 0).sum(-1)
    np.testing.assert_allclose(emission.log_prob(rows, seen).detach(), expected, rtol=1e-10)
    np.testing.assert_allclose(emission.distribution().log_prob(rows[:, None])[0].detach(), expected[0], rtol=1e-10)


@pytest.mark.parametrize("dispersion", [0.0, 1e-300, 1e-16, 1e-13])
def test_small_dispersions_are_poisson(dispersion):
    rows = torch.tensor([[0.0], [3.0], [500.0]]).double()
    emission = NegativeBinomial(means=[[2.5], [0.0]], dispersions=[[dispersion]] * 2)
    table = emission.log_prob(rows)
    torch.testing.assert_close(table, Poisson(rates=[[2.5], [0.0]]).log_prob(rows), rtol=1e-10, atol=1e-10)
    table[torch.isfinite(table)].sum().backward()
    for parameter in emission.parameters():
        assert torch.isfinite(parameter.grad).all()


def test_draws_have_the_moments_that_the_distribution_states():
    emission = NegativeBinomial(means=[[3.0, 1.0], [0.5, 40.0]], dispersions=[[0.5, 0.0], [2.0, 0.1]])
    law = emission.distribution()
    torch.manual_seed(0)
    drawn = law.sample((200_000,))
    torch.testing.assert_close(drawn.mean(0), law.mean.detach(), rtol=0.02, atol=0)
    torch.testing.assert_close(drawn.var(0), law.variance.detach(), rtol=0.05, atol=0)
    means, a = emission.means.detach().numpy(), emission.dispersions.detach().numpy()
    sizes = 1 / a[0, 0]
    np.testing.assert_allclose(law.variance.detach()[0, 0], stats.nbinom(sizes, sizes / (sizes + means[0, 0])).var())


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_m_step_is_the_maximum(missing):
    rows, seen, weights = random_rows(300, missing=missing)
    emission = NegativeBinomial(means=np.ones((2, 2)), dispersions=np.ones((2, 2)))
    emission.maximise(rows, seen, weights)
    for k in range(2):
        for d in range(2):
            counts, w = rows[seen[:, d], d].numpy(), weights[seen[:, d], k].numpy()

            def loss(p, counts=counts, w=w):
                size, mean = np.exp(-p[1]), np.exp(p[0])
                return -(w * stats.nbinom(size, size / (size + mean)).logpmf(counts)).sum()

            best = optimize.minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
            np.testing.assert_allclose(emission.means[k, d].item(), np.exp(best.x[0]), rtol=1e-6)
            np.testing.assert_allclose(emission.dispersions[k, d].item(), np.exp(best.x[1]), rtol=1e-6)
    (weights * emission.log_prob(rows * seen, seen)).sum().backward()
    for parameter in emission.parameters():
        assert parameter.grad.abs().max() < 1e-8


def test_counts_that_spread_too_little_become_poisson():
    rows = torch.tensor([[2.0], [3.0], [2.0], [3.0]]).double()
    emission = NegativeBinomial(means=[[1.0]], dispersions=[[1.0]])
    emission.maximise(rows, torch.ones(4, 1).bool(), torch.ones(4, 1).double())
    assert emission.means.item() == pytest.approx(2.5, rel=1e-14)
    assert emission.dispersions.item() == 0
    emission.maximise(rows.square(), torch.ones(4, 1).bool(), torch.ones(4, 1).double())
    spread = torch.tensor([[0.0], [30.0], [0.0], [1.0]]).double()
    emission.maximise(spread, torch.ones(4, 1).bool(), torch.ones(4, 1).double())
    assert emission.dispersions.item() > 0


def test_states_without_data_and_columns_of_zeros():
    emission = NegativeBinomial(means=[[1.0], [2.0]], dispersions=[[0.5], [0.7]])
    emission.maximise(torch.zeros(9, 1).double(), torch.ones(9, 1).bool(), torch.tensor([[1.0, 0.0]] * 9).double())
    assert 0 < emission.means[0].item() < 0.1
    assert emission.means[1].item() == pytest.approx(2.0)
    assert emission.dispersions[1].item() == pytest.approx(0.7)


def test_free_parameters_support_and_shapes():
    emission = NegativeBinomial(means=np.ones((3, 2)), dispersions=np.ones((3, 2)))
    assert emission.degrees_of_freedom() == 12
    marked, words = emission.invalid(torch.tensor([[0.0], [-1.0], [0.5]]).double())
    assert marked.flatten().tolist() == [False, True, True]
    assert "counts" in words
    with pytest.raises(ValueError, match=r"dispersions must have shape \(3, 2\), got \(3, 1\)"):
        NegativeBinomial(means=np.ones((3, 2)), dispersions=np.ones((3, 1)))
    with pytest.raises(ValueError, match="dispersions must be non-negative numbers; smallest entry -1"):
        NegativeBinomial(means=[[1.0]], dispersions=[[-1.0]])
