"""Priors: densities against scipy, draws against moments, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as D

import probseq as ps
from probseq.bayes.coordinates import blocks_of
from probseq.bayes.priors import HalfNormalRoot, InverseWishart, priors_of

SCALE = np.array([[2.0, 0.4, 0.1], [0.4, 1.0, -0.2], [0.1, -0.2, 0.7]])


def test_inverse_wishart_is_scipys():
    own, other = InverseWishart(SCALE, 6.5), stats.invwishart(df=6.5, scale=SCALE)
    for seed in range(5):
        value = stats.wishart(df=5, scale=np.eye(3)).rvs(random_state=seed)
        assert float(own.log_prob(torch.as_tensor(value))) == pytest.approx(other.logpdf(value), rel=1e-11)
    assert float(own.log_prob(torch.zeros(3, 3, dtype=torch.float64))) == -np.inf


def test_inverse_wishart_draws_have_its_mean():
    torch.manual_seed(0)
    draws = InverseWishart(SCALE, 12.0).sample((40_000,))
    spread = draws.std(0).numpy() / 200
    assert (np.abs(draws.mean(0).numpy() - SCALE / (12 - 3 - 1)) < 4 * spread).all()
    off = stats.invwishart(df=12.0, scale=SCALE).rvs(40_000, random_state=0)[:, 0, 1]
    assert stats.ks_2samp(draws[:, 0, 1].numpy(), off).pvalue > 1e-3


def test_half_normal_root_is_the_change_of_variables():
    own = HalfNormalRoot(1.3)
    v = np.array([0.01, 0.5, 4.0])
    wanted = stats.halfnorm(scale=1.3).logpdf(np.sqrt(v)) - np.log(2 * np.sqrt(v))
    np.testing.assert_allclose(own.log_prob(torch.from_numpy(v)).numpy(), wanted, rtol=1e-12)
    torch.manual_seed(0)
    assert stats.kstest(own.sample((2000,)).sqrt().numpy(), stats.halfnorm(scale=1.3).cdf).pvalue > 1e-3


def nile_level(**options):
    model = ps.LDS(
        transition_matrix=[[1.0]], transition_cov=[[1469.1]], emission_matrix=[[1.0]], emission_cov=[[15099.0]],
        initial="diffuse", **options,
    )  # fmt: skip
    for raw in (model.raw_transition_matrix, model.raw_emission_matrix):
        raw.requires_grad_(False)
    return model


def chosen(model, given=None, y=None):
    data = model._door(ps.datasets.nile() if y is None else y).flat()
    return priors_of(model, data, blocks_of(model), given)


def test_defaults_have_the_unit_of_the_data():
    y = ps.datasets.nile()
    small, large = (chosen(nile_level(), y=scale * y) for scale in (1e-6, 1e6))
    for name in ("transition_cov", "emission_cov"):
        torch.testing.assert_close(small[name].scale * 1e12, large[name].scale)


def test_priors_that_a_model_carries_count():
    model = nile_level(priors={"transition_cov": ps.priors.InverseWishart(3.0, 5.0)})
    found = chosen(model)["transition_cov"]
    assert isinstance(found, InverseWishart)
    assert float(found.scale) == 3.0
    given = D.InverseGamma(torch.tensor(2.0).double(), torch.tensor(1.0).double())
    assert isinstance(chosen(model, {"transition_cov": given})["transition_cov"], D.InverseGamma)
    joint = ps.priors.NormalInverseWishart(scale=0.1, dofs=4)
    hmm = ps.HMM(2, emission=ps.emissions.Gaussian(1, prior=joint)).fit(ps.datasets.nile(), seed=0)
    with pytest.raises(ValueError, match="joint prior of means and covariances"):
        chosen(hmm)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise": D.Normal(0.0, 1.0)}, "must name parameters that are free"),
        ({"transition_cov": 3.0}, "must be a distribution"),
        ({"transition_cov": D.Normal(torch.zeros(3), 1.0)}, r"must fit its shape \(1, 1\)"),
        ({"transition_cov": D.Dirichlet(torch.ones(2))}, "must have an event shape that ends"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        chosen(nile_level(), given)


def test_matrices_and_rows_want_priors_of_their_own():
    model = ps.HMM(2, emission=ps.emissions.Gaussian(2)).fit(np.random.default_rng(0).normal(size=(40, 2)), seed=0)
    y = np.zeros((3, 2))
    with pytest.raises(ValueError, match="one over whole matrices"):
        chosen(model, {"emission.covs": D.Gamma(1.0, 1.0)}, y)
    with pytest.raises(ValueError, match="one over rows of probabilities"):
        chosen(model, {"transition_matrix": D.Beta(1.0, 1.0)}, y)
