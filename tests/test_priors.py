"""Conjugate priors: densities against scipy, M-steps against the maximum, MAP fits by EM and by gradient, units."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import probseq as ps
from probseq.errors import ConvergenceWarning
from tests import zoo

MATRIX = np.array([[0.9, 0.1], [0.2, 0.8]])
TWO = ps.priors.NormalInverseWishart(
    scale=[[[0.5, 0.1], [0.1, 0.3]], [[0.4, 0.0], [0.0, 0.2]]],
    dofs=[4.0, 3.0],
    mean=[[0.2, -0.1], [1.0, 0.0]],
    mean_precision=[0.5, 2.0],
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def bound(emission: Any) -> Any:
    return emission(rng(), 2)


def test_normal_inverse_wishart_density() -> None:
    emission = bound(zoo.with_prior(zoo.gaussian_emission(2), lambda: TWO))
    means, covs = emission.means.detach().numpy(), emission.covs.detach().numpy()
    expected = 0.0
    for k in range(2):
        expected += stats.invwishart(TWO.dofs[k].item(), TWO.scale[k].numpy()).logpdf(covs[k])
        spread = covs[k] / TWO.mean_precision[k].item()
        expected += stats.multivariate_normal(TWO.mean[k].numpy(), spread).logpdf(means[k])
    assert emission.log_prior().item() == pytest.approx(expected, rel=1e-12)


def test_tied_covariances_have_one_wishart_factor() -> None:
    emission = bound(zoo.with_prior(zoo.gaussian_emission(2, "tied"), zoo.wishart))
    means, cov = emission.means.detach().numpy(), emission.covs[0].detach().numpy()
    expected = stats.invwishart(4, [[0.5, 0.1], [0.1, 0.3]]).logpdf(cov)
    expected += sum(stats.multivariate_normal([0.2, -0.1], cov / 0.5).logpdf(mean) for mean in means)
    assert emission.log_prior().item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("covariance", ["diag", "spherical"])
def test_normal_inverse_gamma_density(covariance: str) -> None:
    emission = bound(zoo.with_prior(zoo.gaussian_emission(2, covariance), zoo.inverse_gamma))
    means, variances = emission.means.detach().numpy(), emission.variances().detach().numpy()
    own = variances if covariance == "diag" else variances[:, :1]
    expected = stats.invgamma(2.0, scale=0.4).logpdf(own).sum()
    expected += stats.norm(0.2, np.sqrt(variances / 0.5)).logpdf(means).sum()
    assert emission.log_prior().item() == pytest.approx(expected, rel=1e-12)


def test_densities_of_probabilities_and_rates() -> None:
    symbols = bound(zoo.with_prior(zoo.categorical_emission, lambda: ps.priors.Dirichlet([1.5, 2.0, 1.0, 3.0])))
    probs = symbols.probs.detach().numpy()
    expected = sum(stats.dirichlet([1.5, 2.0, 1.0, 3.0]).logpdf(row / row.sum()) for row in probs)
    assert symbols.log_prior().item() == pytest.approx(expected, rel=1e-12)
    coins = bound(zoo.with_prior(zoo.bernoulli_emission, zoo.beta))
    assert coins.log_prior().item() == pytest.approx(stats.beta(2.0, 1.5).logpdf(coins.probs.detach()).sum(), rel=1e-12)
    for counts, name in ((zoo.poisson_emission, "rates"), (zoo.negative_binomial_emission, "means")):
        emission = bound(zoo.with_prior(counts, zoo.gamma))
        values = getattr(emission, name).detach().numpy()
        assert emission.log_prior().item() == pytest.approx(
            stats.gamma(2.0, scale=1 / 0.7).logpdf(values).sum(), rel=1e-12
        )


def test_improper_priors_leave_their_constant_out() -> None:
    prior = ps.priors.NormalInverseWishart(scale=np.full((2, 2), 0.1), dofs=-3)
    emission = bound(zoo.with_prior(zoo.gaussian_emission(2), lambda: prior))
    inverse = np.linalg.inv(emission.covs.detach().numpy())
    assert emission.log_prior().item() == pytest.approx(-0.05 * inverse.sum(), rel=1e-12)
    flat = ps.priors.NormalInverseGamma(shape=-1, scale=0.1)
    emission = bound(zoo.with_prior(zoo.gaussian_emission(2, "diag"), lambda: flat))
    assert emission.log_prior().item() == pytest.approx(-0.1 / emission.variances().detach().numpy() @ [1, 1] @ [1, 1])


MAPS = [row for row in zoo.HMM_ROWS if row.name.startswith("hmm-map")]
by_row = pytest.mark.parametrize("row", MAPS, ids=[row.name for row in MAPS])


@by_row
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_m_step_raises_its_objective_to_a_stationary_point(row: zoo.Row, missing: float) -> None:
    """With complete rows the gradient of sum w log p(y) + log_prior vanishes after one step; with gaps the step of EM
    within the M-step is repeated until it does. The negative binomial alternates between its two parameters.
    """
    emission = row.make(0).emission
    y = row.data(0, 40)[0]
    observed = torch.as_tensor(rng().random(y.shape) > missing)
    weights = torch.as_tensor(rng().dirichlet([1.0, 1.0], size=40))

    def objective() -> torch.Tensor:
        return (weights * emission.log_prob(y, observed)).sum() + emission.log_prior()

    before = objective().item()
    repeats = 30 if "negative" in row.name else 1 if not missing else 150
    with torch.no_grad():
        for _ in range(repeats):
            emission.maximise(y, observed, weights)
            after = objective().item()
            assert after >= before - 1e-11 * abs(before)
            before = after
    gradients = torch.autograd.grad(objective(), list(emission.parameters()))
    for name, gradient in zip(emission.params(), gradients, strict=True):
        if row.name == "hmm-map-categorical":
            gradient = gradient - emission.probs.detach() * gradient.sum(-1, keepdim=True)
        free = gradient.tril() if gradient.ndim == 3 else gradient
        assert float(free.abs().max()) < 1e-5 * 40, name


@by_row
def test_em_and_gradient_find_the_same_mode(row: zoo.Row) -> None:
    """Where EM ends, the gradient has nowhere to go; and `history` holds the penalised objective in both."""
    y, model, fits = row.data(3, 60)[0], row.make(3), []
    for method in ("em", "gradient"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(y, method=method, tolerance=1e-9, max_iterations=600)
        fits.append((model.log_prob(y) + model.log_prior()).item())
        assert fits[-1] == pytest.approx(max(model.history.objective), rel=1e-9)
    assert fits[0] == pytest.approx(fits[1], abs=1e-3)
    assert len(model.history.objective) > 1


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_a_prior_has_the_unit_of_the_data(covariance: Any) -> None:
    """log_prior moves by the same constant at every parameter: log |d parameters / d parameters|."""
    prior = zoo.wishart if covariance in ("full", "tied") else zoo.inverse_gamma
    gaps = []
    for seed in range(3):
        model = zoo.hmm(seed, zoo.with_prior(zoo.gaussian_emission(2, covariance), prior), 2)
        other = copy.deepcopy(model).rescale(1e-6, 3e-6)
        gaps.append((other.log_prior() - model.log_prior()).item())
    n_covs = {"full": 2 * 3, "tied": 3, "diag": 2 * 2, "spherical": 2}[covariance]
    assert gaps == pytest.approx([-(4 + 2 * n_covs) * math.log(1e-6)] * 3, rel=1e-9)


def test_a_fit_leaves_its_prior_as_it_was(tmp_path: Any) -> None:
    y = 1e-5 * (rng().normal(size=(50, 2)) + 3)
    scale = 0.1e-10
    model = ps.HMM(2, emission=ps.emissions.Gaussian(2, prior=ps.priors.NormalInverseWishart(scale=scale, dofs=5)))
    model.fit(y, seed=0)
    assert model.emission.prior.sizes() == {"scale": scale, "dofs": 5.0, "mean": 0.0, "mean_precision": 0.0}
    model.save(tmp_path / "model")
    again = ps.load(tmp_path / "model")
    assert again.log_prior().item() == model.log_prior().item()
    assert again.emission.prior.sizes() == model.emission.prior.sizes()


def test_priors_per_state_travel_with_their_states() -> None:
    from probseq.evaluation import permute_states

    model = zoo.hmm(0, zoo.with_prior(zoo.gaussian_emission(2), lambda: TWO), 2)
    other = permute_states(model, [1, 0])
    assert other.log_prior().item() == pytest.approx(model.log_prior().item(), rel=1e-12)
    assert other.emission.prior.dofs.tolist() == [3.0, 4.0]


def test_mixtures_products_and_segments_count_the_priors_of_their_parts() -> None:
    y = rng().normal(size=(60, 2))
    mixture = ps.emissions.GaussianMixture(
        2,
        2,
        prior=ps.priors.NormalInverseWishart(scale=0.2, dofs=4),
        weights_prior=ps.priors.Dirichlet(2.0),
    )
    product = ps.emissions.Product(
        ps.emissions.Gaussian(1, prior=ps.priors.NormalInverseWishart(scale=0.2, dofs=4)),
        ps.emissions.Gaussian(1, covariance="diag", prior=zoo.inverse_gamma()),
    )
    gaussian = ps.emissions.Gaussian(2, prior=zoo.wishart())
    for model in (
        ps.HMM(2, emission=mixture),
        ps.HMM(2, emission=product),
        ps.HSMM(2, emission=gaussian, duration=ps.durations.Poisson(9)),
    ):
        model.fit(y, seed=0, max_iterations=400)
        trace = np.array(model.history.objective)
        assert model.log_prior().item() != 0.0
        assert np.diff(trace).min() >= -1e-9 * abs(trace).max()
        assert (model.log_prob(y) + model.log_prior()).item() == pytest.approx(trace.max(), rel=1e-9)


def test_what_is_no_prior_here_is_refused() -> None:
    wishart, priors = zoo.wishart(), ps.priors
    for call, words in (
        (lambda: ps.emissions.Gaussian(2, covariance="diag", prior=wishart), "NormalInverseGamma"),
        (lambda: ps.emissions.Gaussian(2, prior=zoo.beta()), "NormalInverseWishart"),
        (lambda: ps.emissions.Categorical(3, prior=priors.Beta(1, 1)), "Dirichlet"),
        (lambda: ps.emissions.Bernoulli(3, prior=zoo.gamma()), "Beta"),
        (lambda: ps.emissions.Poisson(3, prior=priors.Dirichlet(2.0)), "Gamma"),
    ):
        with pytest.raises(TypeError, match=f"prior of .* must be a probseq.priors.{words}"):
            call()
    for call, words in (
        (lambda: priors.Dirichlet(0.5), "concentration of the prior must be at least 1"),
        (lambda: priors.Gamma(2.0, -1.0), "rate of the prior must be at least 0"),
        (lambda: priors.Beta(math.nan, 1.0), "ones must be finite"),
        (lambda: zoo.hmm(0, zoo.with_prior(zoo.gaussian_emission(3), zoo.wishart)), "of the prior must fit the shape"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    for scale, dofs, words in (
        ([[1.0, 0.5], [0.0, 1.0]], 4, "symmetric"),
        ([[1.0, 2.0], [2.0, 1.0]], 4, "semidefinite"),
        (1.0, -4, "dofs of the prior must be at least -3"),
    ):
        prior = priors.NormalInverseWishart(scale=scale, dofs=dofs)
        with pytest.raises(ValueError, match=words):
            ps.HMM(2, emission=ps.emissions.Gaussian(2, prior=prior))
    with pytest.raises(ValueError, match="shape of the prior must be at least -1"):
        ps.HMM(
            2,
            emission=ps.emissions.Gaussian(2, covariance="diag", prior=priors.NormalInverseGamma(shape=-2, scale=1.0)),
        )
