"""Gaussian mixtures as emissions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture as Oracle

import probseq as ps
from probseq.emissions import Gaussian, GaussianMixture

KINDS = ("full", "diag", "tied", "spherical")
FREE = {"full": 6 * 3, "diag": 6 * 2, "tied": 3, "spherical": 6}


def random_emission(covariance: str, seed: int = 0) -> GaussianMixture:
    draws = np.random.default_rng(seed)
    half = draws.normal(size=(2, 3, 2, 2))
    covs = half @ half.swapaxes(-1, -2) + np.eye(2)
    if covariance == "tied":
        covs[:] = covs[0, 0]
    if covariance == "diag":
        covs = covs * np.eye(2)
    if covariance == "spherical":
        covs = covs[..., :1, :1] * np.eye(2)
    weights = draws.dirichlet([2, 2, 2], size=2)
    return GaussianMixture(weights=weights, means=draws.normal(size=(2, 3, 2)), covs=covs, covariance=covariance)


def random_rows(n: int, missing: float = 0.0, seed: int = 1):
    draws = np.random.default_rng(seed)
    seen = draws.random((n, 2)) >= missing
    return torch.as_tensor(np.where(seen, 2 * draws.normal(size=(n, 2)), 0.0)), torch.as_tensor(seen)


@pytest.mark.parametrize("covariance", KINDS)
def test_table_with_gaps(covariance):
    emission = random_emission(covariance)
    rows, seen = random_rows(30, missing=0.4)
    table = emission.log_prob(rows, seen).detach()
    weights, means, covs = (getattr(emission, x).detach().numpy() for x in ("weights", "means", "covs"))
    for n, o in enumerate(seen.numpy()):
        for k in range(2):
            parts = [
                multivariate_normal(means[k, m][o], covs[k, m][np.ix_(o, o)]) if o.any() else None for m in range(3)
            ]
            density = sum(w * (1 if p is None else p.pdf(rows[n][o])) for w, p in zip(weights[k], parts, strict=True))
            assert table[n, k].item() == pytest.approx(np.log(density), rel=1e-10, abs=1e-12)
    says = emission.distribution().log_prob(rows[:, None])
    torch.testing.assert_close(says, emission.log_prob(rows), rtol=1e-11, atol=1e-11)
    belief = torch.tensor([[0.3, 0.7]]).double().log()
    expected = (emission.log_prob(rows[:1]) + belief).logsumexp(-1)
    torch.testing.assert_close(emission.mixture(belief).log_prob(rows[:1]), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("covariance", KINDS)
def test_m_steps_never_lower_the_expected_log_density(covariance, missing):
    emission = random_emission(covariance)
    rows, seen = random_rows(150, missing)
    weights = torch.rand(150, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    value = (weights * emission.log_prob(rows, seen)).sum().item()
    for _ in range(150):
        emission.maximise(rows, seen, weights)
        after = (weights * emission.log_prob(rows, seen)).sum().item()
        assert after >= value - 1e-10 * abs(value)
        value = after


def test_one_state_is_the_mixture_that_scikit_learn_fits():
    rows = np.concatenate(
        [np.random.default_rng(0).normal(size=(80, 2)), np.random.default_rng(1).normal(4, 2, (60, 2))]
    )
    start = {"weights": [0.5, 0.5], "means": [[0.0, 0.0], [4.0, 4.0]], "covs": np.stack([np.eye(2)] * 2)}
    oracle = Oracle(2, weights_init=start["weights"], means_init=start["means"], precisions_init=start["covs"],
                    max_iter=500, tol=1e-13, reg_covar=0.0).fit(rows)  # fmt: skip
    emission = GaussianMixture(**{name: [value] for name, value in start.items()})
    y = torch.as_tensor(rows)
    for _ in range(500):
        emission.maximise(y, torch.ones_like(y).bool(), torch.ones(140, 1).double())
    assert emission.log_prob(y).mean().item() == pytest.approx(oracle.score(rows), rel=1e-9)
    np.testing.assert_allclose(emission.means.detach()[0], oracle.means_, rtol=1e-5)


@pytest.mark.parametrize("covariance", KINDS)
def test_free_parameters(covariance):
    emission = random_emission(covariance)
    total = emission.degrees_of_freedom() + emission.components.degrees_of_freedom()
    assert total == 2 * 2 + 2 * 3 * 2 + FREE[covariance]


def test_one_component_is_a_gaussian():
    draws = np.random.default_rng(0)
    means, y = draws.normal(size=(2, 2)), draws.normal(size=(20, 2))
    shared = {"initial_probs": [0.5, 0.5], "transition_matrix": [[0.9, 0.1], [0.2, 0.8]]}
    plain = ps.HMM(emission=Gaussian(means=means, covs=[np.eye(2)] * 2), **shared)
    mixed = GaussianMixture(weights=[[1.0], [1.0]], means=means[:, None], covs=np.stack([[np.eye(2)]] * 2))
    assert ps.HMM(emission=mixed, **shared).log_prob(y).item() == pytest.approx(plain.log_prob(y).item(), rel=1e-12)


@pytest.mark.filterwarnings("ignore::probseq.errors.ProbseqWarning")
def test_a_fit_from_sizes_beats_one_component():
    truth = ps.HMM(emission=random_emission("full"), initial_probs=[0.5, 0.5], transition_matrix=[[0.95, 0.05]] * 2)
    y = truth.sample(600, seed=0)
    found = ps.HMM(2, emission=GaussianMixture(2, 3)).fit(y, seed=0, max_iterations=100)
    assert found.log_prob(y) > ps.HMM(2, emission=Gaussian(2)).fit(y, seed=0, max_iterations=100).log_prob(y)


def test_errors():
    with pytest.raises(ValueError, match=r"means must have shape \(K, M, D\), got \(1, 2\)"):
        GaussianMixture(means=[[0.0, 1.0]])
    with pytest.raises(ValueError, match="must agree in states and components"):
        GaussianMixture(weights=[[0.5, 0.5]], means=[[[0.0]]])
    with pytest.raises(ValueError, match="n_components is 3, but the parameters have 2"):
        GaussianMixture(1, 3, weights=[[0.5, 0.5]])
    with pytest.raises(ValueError, match="n_components must be a positive integer"):
        GaussianMixture(2)
