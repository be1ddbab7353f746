"""Any torch distribution as an emission: densities, supports, learning, files, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from torch import distributions as D

import probseq as ps
from probseq.emissions import FromDistribution
from probseq.errors import FileRefused, NotFitted
from probseq.io import build
from tests import reference


def fitted(emission: FromDistribution, y: np.ndarray, k: int = 1) -> ps.HMM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ps.HMM(k, emission=emission).fit(y, seed=0, tolerance=1e-10)


# ---- one state: maximum likelihood


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_gamma_reaches_scipys_maximum(scale):
    y = scale * np.random.default_rng(0).gamma(3.0, size=200)
    model = fitted(FromDistribution(D.Gamma, 1), y)
    shape, _, width = scipy.stats.gamma.fit(y, floc=0)
    assert model.emission.concentration.item() == pytest.approx(shape, rel=1e-4)
    assert model.emission.rate.item() == pytest.approx(1 / width, rel=1e-4)
    best = scipy.stats.gamma.logpdf(y, shape, scale=width).sum()
    assert model.log_prob(y).item() >= best - 1e-7 * abs(best)


@pytest.mark.parametrize(
    ("kind", "draw", "theirs"),
    [
        (D.Laplace, lambda rng: rng.laplace(3, 2, 150), scipy.stats.laplace),
        (D.Gumbel, lambda rng: rng.gumbel(-1, 0.5, 150), scipy.stats.gumbel_r),
        (D.Normal, lambda rng: rng.normal(2, 3, 150), scipy.stats.norm),
    ],
)
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_location_scale_laws_have_units(kind, draw, theirs, scale):
    y = scale * draw(np.random.default_rng(1))
    model = fitted(FromDistribution(kind, 1), y)
    assert model.real_valued
    best = theirs.logpdf(y, *theirs.fit(y)).sum()
    assert model.log_prob(y).item() >= best - 1e-5 * abs(best)


def test_multivariate_normal_is_the_gaussian_emission():
    rng = np.random.default_rng(2)
    y = rng.normal(size=(80, 2)) @ rng.normal(size=(2, 2)) + [1.0, -2.0]
    adapted, own = fitted(FromDistribution(D.MultivariateNormal, 2), y), ps.HMM(1, emission=ps.emissions.Gaussian(2))
    own.fit(y, seed=0)
    assert set(adapted.emission.params()) == {"loc", "scale_tril"}
    assert adapted.n_parameters == own.n_parameters == 5
    assert adapted.log_prob(y).item() == pytest.approx(own.log_prob(y).item(), rel=1e-6)


def test_states_of_a_gamma_mixture_are_found():
    rng = np.random.default_rng(3)
    states = np.arange(300) // 50 % 2
    y = rng.gamma(np.where(states, 9.0, 2.0), np.where(states, 1.0, 0.3))
    model = fitted(FromDistribution(D.Gamma, 1), y, 2)
    path = model.decode(y).numpy()
    assert max((path == states).mean(), (path != states).mean()) > 0.97
    trace = np.array(model.history.objective)
    assert (np.diff(trace) >= -1e-9 * np.abs(trace).max()).all()


# ---- densities and gaps


def test_coordinates_of_univariate_laws_go_missing_one_by_one():
    emission = FromDistribution(D.Gamma, concentration=[[2.0, 3.0], [0.5, 1.0]], rate=[[1.0, 2.0], [3.0, 1.0]])
    y = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
    seen = torch.tensor([[True, False], [False, False], [True, True]])
    table = emission.log_prob(y, seen)
    expected = reference.observation_table(emission, np.where(seen, y, np.nan))
    np.testing.assert_allclose(table.detach(), expected, rtol=1e-12)
    table.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in emission.parameters())


def test_rows_of_multivariate_laws_go_missing_as_a_whole():
    emission = FromDistribution(D.Dirichlet, concentration=[[2.0, 3.0, 1.5]])
    y = torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.0]], dtype=torch.float64)
    seen = torch.tensor([[True, True, True], [True, True, False]])
    table = emission.log_prob(y, seen).detach()
    assert table[0].item() == pytest.approx(scipy.stats.dirichlet.logpdf([0.2, 0.3, 0.5], [2.0, 3.0, 1.5]))
    assert table[1].item() == 0


def test_constants_are_never_learned():
    y = np.random.default_rng(4).binomial(10, 0.3, size=60).astype(float)
    model = fitted(FromDistribution(D.Binomial, 1, constants={"total_count": 10}), y)
    assert set(model.emission.params()) == {"logits"}
    assert model.emission.logits.sigmoid().item() == pytest.approx(y.mean() / 10, rel=1e-5)
    assert model.n_parameters == 1


def test_gradients():
    emission = FromDistribution(D.Gamma, concentration=[[2.0], [0.7]], rate=[[1.0], [3.0]])
    y = torch.tensor([[0.4], [2.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *_: emission.log_prob(y), list(emission.parameters()))


def test_forecast_and_residuals():
    emission = FromDistribution(D.Gamma, concentration=[[2.0], [9.0]], rate=[[1.0], [1.0]])
    model = ps.HMM(emission=emission, initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.2, 0.8]])
    y = model.sample(200, seed=0)
    says = model.forecast(y, 2)
    lower, upper = says.interval(0.9)
    assert bool((lower > 0).all() & (lower < says.mean).all() & (says.mean < upper).all())
    scores = ps.evaluation.pseudo_residuals(model, y).middle.numpy().ravel()
    assert scipy.stats.kstest(scores, "norm").pvalue > 0.01


def test_standard_errors():
    y = np.random.default_rng(5).exponential(2.0, size=400)
    model = fitted(FromDistribution(D.Exponential, 1), y)
    table = model.standard_errors(y)
    assert table.loc["emission.rate[0, 0]", "standard_error"] == pytest.approx(1 / y.mean() / 20, rel=1e-4)


# ---- files


def test_files_name_the_distribution(tmp_path):
    model = ps.HMM(
        emission=FromDistribution(D.Binomial, probs=[[0.2], [0.7]], constants={"total_count": 5}),
        initial_probs=[0.5, 0.5],
        transition_matrix=[[0.9, 0.1], [0.2, 0.8]],
    )
    y = model.sample(20, seed=0)
    model.save(tmp_path / "m.safetensors")
    loaded = ps.load(tmp_path / "m.safetensors")
    assert loaded.emission.kind is D.Binomial
    assert loaded.emission.constants == {"total_count": 5}
    assert torch.equal(loaded.log_prob(y), model.log_prob(y))


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "nowhere.Gamma", "torch.distributions.transforms.ExpTransform"]
)
def test_files_name_nothing_else(name):
    sizes = {"distribution": name, "dim": 1, "constants": [], "arguments": [["rate", [1]]]}
    with pytest.raises(FileRefused, match="is not known here"):
        build({"class": "probseq.emissions.adapter.FromDistribution", "sizes": sizes})


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FromDistribution(D.Gamma, shape=[[1.0]]), "has no arguments"),
        (lambda: FromDistribution(D.Gamma, rate=[[1.0]]), "also needs concentration"),
        (lambda: FromDistribution(D.MixtureSameFamily), "does not say its support"),
        (lambda: FromDistribution(D.Gamma), "dim"),
        (lambda: FromDistribution(D.Categorical, 1), "does not follow from dim"),
        (lambda: FromDistribution(D.Binomial, 1), "pass constants="),
        (lambda: FromDistribution(D.Gamma, concentration=[[-1.0]], rate=[[1.0]]), "concentration must be"),
        (lambda: FromDistribution(D.Gamma, concentration=[[0.0]], rate=[[1.0]]), "concentration must be"),
        (lambda: FromDistribution(D.Gamma, concentration=[1.0], rate=[1.0]), "must have shape"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("emission", "y", "message"),
    [
        (FromDistribution(D.Gamma, 1), [1.0, -2.0], r"numbers of 0 or more, not 0 itself, got -2 at step 1, column 0"),
        (FromDistribution(D.Gamma, 1), [1.0, 0.0], "not 0 itself, got 0 at step 1"),
        (FromDistribution(D.Geometric, 1), [1.0, 0.5], "counts 0, 1, 2, ..., got 0.5"),
        (FromDistribution(D.Dirichlet, 2), [[0.5, 0.5], [0.5, 0.6]], "sum to 1"),
    ],
)
def test_the_support_is_checked_at_the_door(emission, y, message):
    with pytest.raises(ValueError, match=message):
        ps.HMM(2, emission=emission).fit(np.array(y))


def test_parameters_without_values_say_so():
    model = ps.HMM(2, emission=FromDistribution(D.Gamma, 1))
    with pytest.raises(NotFitted, match="concentration has no value yet"):
        model.emission.log_prob(torch.ones(2, 1, dtype=torch.float64))
