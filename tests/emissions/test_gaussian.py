"""Gaussian emissions: missing coordinates, covariance types and the M-step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from probseq.emissions import Gaussian
from probseq.errors import DegenerateWarning

TYPES = ("full", "tied", "diag", "spherical")
FREE = {"full": 2 * 6, "tied": 6, "diag": 6, "spherical": 2}


def random_emission(covariance: str, k: int = 2, d: int = 3, seed: int = 0) -> Gaussian:
    draws = np.random.default_rng(seed)
    half = draws.normal(size=(k, d, d))
    covs = half @ half.transpose(0, 2, 1) + np.eye(d)
    if covariance == "tied":
        covs[:] = covs[0]
    if covariance == "diag":
        covs = covs * np.eye(d)
    if covariance == "spherical":
        covs = covs[:, :1, :1] * np.eye(d)
    return Gaussian(means=draws.normal(size=(k, d)), covs=covs, covariance=covariance)


def random_rows(n: int, d: int = 3, missing: float = 0.0, seed: int = 1):
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, dtype=torch.float64, generator=draws)
    seen = torch.rand(n, d, generator=draws) >= missing
    return torch.where(seen, rows, 0.0), seen


@pytest.mark.parametrize("covariance", TYPES)
def test_missing_coordinates_are_integrated_out(covariance):
    emission = random_emission(covariance)
    rows, seen = random_rows(40, missing=0.4)
    table = emission.log_prob(rows, seen).detach()
    means, covs = emission.means.detach().numpy(), emission.covs.detach().numpy()
    for n in range(40):
        o = seen[n].numpy()
        for k in range(2):
            expected = multivariate_normal(means[k][o], covs[k][np.ix_(o, o)]).logpdf(rows[n][o]) if o.any() else 0.0
            assert table[n, k].item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("covariance", TYPES)
def test_table_agrees_with_the_distribution(covariance):
    emission = random_emission(covariance)
    rows, _ = random_rows(10)
    expected = emission.distribution().log_prob(rows.unsqueeze(-2))
    torch.testing.assert_close(emission.log_prob(rows), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(emission.distribution().mean, emission.means)


@pytest.mark.parametrize("covariance", TYPES)
def test_covariances_read_back_and_are_counted(covariance):
    emission = random_emission(covariance)
    again = Gaussian(means=emission.means, covs=emission.covs, covariance=covariance)
    torch.testing.assert_close(again.covs, emission.covs, rtol=1e-13, atol=1e-13)
    assert emission.degrees_of_freedom() == 6 + FREE[covariance]


@pytest.mark.parametrize("covariance", TYPES[1:])
def test_covariances_of_another_type_are_refused(covariance):
    full = random_emission("full")
    with pytest.raises(ValueError, match=f'covs must be of the type covariance="{covariance}"'):
        Gaussian(means=full.means, covs=full.covs, covariance=covariance)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("covariance", TYPES)
def test_m_step_is_a_maximum_or_raises_the_likelihood(covariance, missing):
    """Complete rows: the gradient of the expected log-density vanishes. With gaps: the observed one never falls."""
    emission = random_emission(covariance)
    rows, seen = random_rows(60, missing=missing)
    prior = torch.tensor([0.4, 0.6]).double().log()
    for _ in range(3 if missing else 1):
        joint = emission.log_prob(rows, seen).detach() + prior
        before = joint.logsumexp(-1).sum()
        weights = (joint - joint.logsumexp(-1, keepdim=True)).exp()
        emission.maximise(rows, seen, weights)
        after = (emission.log_prob(rows, seen) + prior).logsumexp(-1).sum()
        assert after >= before - 1e-9
    if not missing:
        (weights * emission.log_prob(rows)).sum().backward()
        for name in ("raw_means", "raw_covs"):
            assert getattr(emission, name).grad.abs().max() < 1e-9


def test_a_collapsing_state_is_held_and_said():
    rows = torch.cat([torch.zeros(5, 1), torch.randn(50, 1)]).double()
    emission = Gaussian(means=[[0.0], [1.0]], covs=[[[1.0]], [[1.0]]])
    weights = torch.zeros(55, 2).double()
    weights[:5, 0] = weights[5:, 1] = 1
    with pytest.warns(DegenerateWarning, match="collapsed"):
        emission.maximise(rows, torch.ones_like(rows).bool(), weights)
    assert 0 < emission.covs[0].item() <= 2e-6 * rows.var().item()


def test_an_empty_state_keeps_its_parameters():
    emission = random_emission("full")
    means, covs = emission.means.detach().clone(), emission.covs.detach().clone()
    rows, seen = random_rows(30)
    emission.maximise(rows, seen, torch.tensor([[1.0, 0.0]]).double().expand(30, 2))
    torch.testing.assert_close(emission.means[1], means[1])
    torch.testing.assert_close(emission.covs[1], covs[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance", TYPES)
def test_the_table_without_gradients_is_the_same(covariance):
    emission = random_emission(covariance)
    rows, _ = random_rows(150)
    with torch.no_grad():
        plain = emission.log_prob(rows.reshape(3, 50, 3))
    torch.testing.assert_close(plain.flatten(0, 1), emission.log_prob(rows).detach(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("away", [0.0, 1e6])
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_the_m_step_in_kernels_is_the_general_one(covariance, empty, away, monkeypatch):
    """Also where the means move so far that moments about the old ones have lost their digits."""
    rows, seen = random_rows(300)
    rows = rows + away
    weights = torch.rand(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights[:, 0] *= 0.0 if empty else 1.0
    weights = weights / weights.sum(-1, keepdim=True)
    quick, general = random_emission(covariance), random_emission(covariance)
    with torch.no_grad():
        assert quick.maximise_compact(rows.numpy(), weights.numpy())
        monkeypatch.setattr(Gaussian, "maximise_compact", lambda *_: False)
        general.maximise(rows, seen, weights)
        torch.testing.assert_close(quick.means, general.means, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(quick.covs, general.covs, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_m_step_in_kernels_leaves_collapse_and_holding_to_the_general_one():
    rows, seen = random_rows(300)
    weights = torch.zeros(300, 2, dtype=torch.float64)
    weights[:, 1] = 1.0
    weights[:2] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    emission = random_emission("full")
    assert not emission.maximise_compact(rows.numpy(), weights.numpy())  # two rows span no space
    weights[:150] = weights[0]
    assert emission.maximise_compact(rows.numpy(), weights.numpy())
    assert not emission.maximise_compact(np.ones_like(rows), weights.numpy())
    before = emission.covs.clone()
    emission.raw_covs.requires_grad_(False)
    emission.maximise(2 * rows, seen, weights)
    torch.testing.assert_close(emission.covs, before, rtol=0, atol=0)
    torch.testing.assert_close(emission.means[0], 2 * rows[:150].mean(0), rtol=1e-12, atol=1e-12)
    emission.raw_means.requires_grad_(False)
    assert not emission.maximise_compact(rows.numpy(), weights.numpy())
