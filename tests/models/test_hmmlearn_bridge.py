"""Models travel to hmmlearn and back with the same likelihood."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hmmlearn import hmm as rival

import probseq as ps

DRAWS = np.random.default_rng(0)
MATRIX = np.array([[0.9, 0.1], [0.3, 0.7]])


def fitted(kind: str) -> tuple[rival.GaussianHMM, np.ndarray]:
    if kind == "categorical":
        y = DRAWS.integers(0, 4, size=(80, 1))
        return rival.CategoricalHMM(2, random_state=0, n_iter=3).fit(y), y
    if kind == "poisson":
        y = DRAWS.poisson([[3.0, 9.0]], size=(80, 2))
        return rival.PoissonHMM(2, random_state=0, n_iter=3).fit(y), y
    y = DRAWS.normal(size=(80, 2)) + 3 * DRAWS.integers(0, 2, size=(80, 1))
    return rival.GaussianHMM(2, kind, random_state=0, n_iter=3).fit(y), y


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical", "categorical", "poisson"])
def test_there_and_back(kind):
    other, y = fitted(kind)
    ours = ps.HMM.from_hmmlearn(other)
    assert ours.log_prob(y).item() == pytest.approx(other.score(y), rel=1e-9)
    again = ours.to_hmmlearn()
    assert again.score(y) == pytest.approx(other.score(y), rel=1e-9)
    best, path = other.decode(y)
    assert ours.path_log_prob(ours.decode(y), y).item() == pytest.approx(best, rel=1e-9)
    assert ours.path_log_prob(path, y).item() == pytest.approx(best, rel=1e-9)


def test_what_has_no_counterpart_is_refused():
    with pytest.raises(ValueError, match="must be fitted"):
        ps.HMM.from_hmmlearn(rival.GaussianHMM(2))
    other = rival.GMMHMM(2)
    other.transmat_ = other.startprob_ = MATRIX
    with pytest.raises(TypeError, match="of hmmlearn, got GMMHMM"):
        ps.HMM.from_hmmlearn(other)
    bernoulli = ps.emissions.Bernoulli(probs=[[0.5], [0.1]])
    with pytest.raises(TypeError, match="no counterpart of Bernoulli"):
        ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=MATRIX, emission=bernoulli).to_hmmlearn()


# ------------------------------------------------------------------------------------------------- EM, step by step

KINDS = ["full", "tied", "diag", "spherical"]
STEPS = 20


def overlapping(seed: int = 1) -> tuple[np.ndarray, list[int]]:
    """Two sequences whose states overlap, so that EM takes many different steps."""
    draws = np.random.default_rng(seed)
    states = (np.arange(150) // 10) % 3
    means = np.array([[0.0, 0.0], [1.5, 0.5], [0.0, 2.0]])
    return means[states] + draws.normal(size=(150, 2)) * np.array([1.0, 0.5]), [100, 50]


def start(kind: str, **options: Any) -> Any:
    """An hmmlearn model with given parameters, which `fit` improves in place."""
    draws = np.random.default_rng(2)
    make = {"categorical": rival.CategoricalHMM, "poisson": rival.PoissonHMM}.get(kind, rival.GaussianHMM)
    options |= {"covariance_type": kind} if make is rival.GaussianHMM else {}
    other = make(3, init_params="", tol=-np.inf, **options)
    other.startprob_ = draws.dirichlet([2.0] * 3)
    other.transmat_ = draws.dirichlet([2.0] * 3, size=3)
    if kind == "categorical":
        other.emissionprob_, other.n_features = draws.dirichlet([2.0] * 4, size=3), 4
    elif kind == "poisson":
        other.lambdas_ = draws.uniform(1, 6, size=(3, 2))
    else:
        other.means_ = draws.normal(size=(3, 2))
        shapes = {"full": [np.eye(2)] * 3, "tied": np.eye(2), "diag": np.ones((3, 2)), "spherical": np.ones(3)}
        other.covars_ = np.array(shapes[kind])
    return other


def data_for(kind: str) -> tuple[np.ndarray, list[int]]:
    y, lengths = overlapping()
    if kind == "categorical":
        return np.clip(np.round(y[:, :1] + 1), 0, 3).astype(int), lengths
    return (np.random.default_rng(3).poisson(np.exp(y / 2)), lengths) if kind == "poisson" else (y, lengths)


def same(ours: ps.HMM, other: Any, y: np.ndarray, lengths: list[int]) -> None:
    """Parameters and log-likelihood to 1e-8."""
    again = ps.HMM.from_hmmlearn(other)
    for (name, theirs), mine in zip(again.named_parameters(), ours.parameters(), strict=True):
        np.testing.assert_allclose(mine.detach().exp(), theirs.detach().exp(), rtol=1e-8, atol=1e-8, err_msg=name)
    assert ours.log_prob(y, lengths=lengths).sum().item() == pytest.approx(other.score(y, lengths), rel=1e-8)


def follow(kind: str, **options: Any) -> None:
    """EM from the same start visits the same parameters: one step at a time, and in one fit."""
    y, lengths = data_for(kind)
    other = start(kind, n_iter=1, **options)
    ours, whole = ps.HMM.from_hmmlearn(other), ps.HMM.from_hmmlearn(other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.errors.ConvergenceWarning)
        for _ in range(STEPS):
            other.fit(y, lengths)
            ours.fit(y, lengths=lengths, max_iterations=1, tolerance=0.0)
            same(ours, other, y, lengths)
        at_once = start(kind, n_iter=STEPS, **options).fit(y, lengths)
        whole.fit(y, lengths=lengths, max_iterations=STEPS, tolerance=0.0)
    same(whole, at_once, y, lengths)
    trace = np.array(whole.history.objective)
    assert np.diff(trace).min() > -1e-9 * abs(trace[0])
    if not whole.log_prior().item():
        np.testing.assert_allclose(trace[:-1], list(at_once.monitor_.history)[-STEPS:], rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_em_without_priors_is_hmmlearns(kind):
    follow(kind, covars_prior=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_em_with_hmmlearns_default_priors_is_hmmlearns(kind):
    follow(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_em_with_every_prior_is_hmmlearns(kind):
    """Weights above the dimension, a prior on the means, Dirichlet priors on the chain."""
    matrix = 0.3 * np.eye(2) + 0.1 if kind in ("full", "tied") else np.array([0.3, 0.5])
    options = {"covars_prior": matrix, "covars_weight": 5.0, "means_prior": np.array([0.5, -0.5]), "means_weight": 2.0}
    follow(kind, startprob_prior=1.5, transmat_prior=np.eye(3) + 1, **options)


def test_em_of_symbols_and_counts_is_hmmlearns():
    follow("categorical")
    follow("categorical", emissionprob_prior=1.7, transmat_prior=2.0)
    follow("poisson")


@pytest.mark.parametrize("kind", KINDS)
def test_priors_travel_there_and_back(kind):
    options = {"covars_prior": 0.2, "covars_weight": 4.0, "means_prior": 0.1, "means_weight": 2.0}
    for given in ({}, {"covars_prior": 0.0}, options, {**options, "transmat_prior": 3.0}):
        ours = ps.HMM.from_hmmlearn(start(kind, **given))
        again = ps.HMM.from_hmmlearn(ours.to_hmmlearn())
        assert again.log_prior().item() == pytest.approx(ours.log_prior().item(), rel=1e-12)
        assert (again.emission.prior is None) == (ours.emission.prior is None)
    assert ps.HMM.from_hmmlearn(start(kind), priors=False).log_prior().item() == 0.0


def test_what_hmmlearn_weighs_by_the_posterior_is_refused():
    """A PoissonHMM weighs its prior by N_k / n, so that no fixed prior has its M-step: measured on one step."""
    y, lengths = data_for("poisson")
    other = start("poisson", n_iter=1, lambdas_prior=4.0, lambdas_weight=2.0)
    with pytest.raises(ValueError, match=r"lambdas_prior or lambdas_weight .* priors=False"):
        ps.HMM.from_hmmlearn(other)
    ours = ps.HMM.from_hmmlearn(other, priors=False)
    weights = np.concatenate([one.probs.numpy() for one in ours.smooth(np.split(y.astype(float), lengths[:1]))])
    other.fit(y, lengths)
    mass, total = weights.sum(0)[:, None], weights.T @ y
    share = mass / mass.sum()
    np.testing.assert_allclose(other.lambdas_, (4 * share + total) / (2 * share + mass), rtol=1e-9)
    assert np.abs(other.lambdas_ / ((4 + total) / (2 + mass)) - 1).max() > 0.01  # not the conjugate step
    one = rival.PoissonHMM(1, lambdas_prior=4.0, lambdas_weight=2.0, n_iter=1, init_params="")
    one.startprob_, one.transmat_, one.lambdas_ = np.ones(1), np.ones((1, 1)), np.array([[1.0, 2.0]])
    ours = ps.HMM.from_hmmlearn(one)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.errors.ConvergenceWarning)
        ours.fit(y, lengths=lengths, max_iterations=1)
    np.testing.assert_allclose(ours.emission.rates.detach(), one.fit(y, lengths).lambdas_, rtol=1e-10)
    with pytest.raises(ValueError, match="below 1"):
        ps.HMM.from_hmmlearn(start("full", transmat_prior=0.5))
