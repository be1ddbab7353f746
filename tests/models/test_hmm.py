"""Hidden Markov models: against hmmlearn, construction, named conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hmmlearn import hmm as rival

import probseq as ps
from probseq.errors import DegenerateWarning, ImpossibleSequence

START = np.array([0.6, 0.3, 0.1])
MATRIX = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.25, 0.25, 0.5]])
MEANS = np.array([[-2.0, 0.0], [0.0, 1.0], [3.0, -1.0]])
COVS = np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.4, 0.0], [0.0, 0.4]], [[2.0, -0.5], [-0.5, 1.0]]])


def model() -> ps.HMM:
    emission = ps.emissions.Gaussian(means=MEANS, covs=COVS)
    return ps.HMM(initial_probs=START, transition_matrix=MATRIX, emission=emission)


def hmmlearn_model() -> rival.GaussianHMM:
    other = rival.GaussianHMM(3, "full", init_params="", params="stmc", n_iter=1, covars_prior=0.0, covars_weight=0.0)
    other.startprob_, other.transmat_, other.means_, other.covars_ = START, MATRIX, MEANS, COVS
    return other


def test_inference_equals_hmmlearn():
    y = model().sample(300, seed=0).numpy()
    other = hmmlearn_model()
    assert model().log_prob(y).item() == pytest.approx(other.score(y), rel=1e-11)
    np.testing.assert_allclose(model().smooth(y).probs, other.predict_proba(y), atol=1e-11)
    score, path = other.decode(y)
    np.testing.assert_array_equal(model().decode(y), path)
    assert model().path_log_prob(path, y).item() == pytest.approx(score, rel=1e-11)


def test_one_em_iteration_equals_the_textbook():
    """Baum-Welch by hand from enumerated posteriors of hmmlearn; its own M-step carries a covariance prior."""
    y = model().sample(200, seed=1).numpy()
    other, ours = hmmlearn_model(), model()
    gamma = other.predict_proba(y)
    ours._em_step(ours._door(y).flat())
    np.testing.assert_allclose(ours.initial_probs.detach(), gamma[0], atol=1e-10)
    means = gamma.T @ y / gamma.sum(0)[:, None]
    np.testing.assert_allclose(ours.emission.means.detach(), means, atol=1e-10)
    for k in range(3):
        away = y - means[k]
        np.testing.assert_allclose(
            ours.emission.covs[k].detach(), (gamma[:, k, None] * away).T @ away / gamma[:, k].sum(), atol=1e-10
        )


@pytest.mark.parametrize("kind", ["categorical", "poisson", "bernoulli"])
def test_discrete_emissions_are_recovered(kind):
    if kind == "categorical":
        truth = ps.emissions.Categorical(probs=[[0.8, 0.1, 0.1], [0.1, 0.2, 0.7]])
        fresh = ps.emissions.Categorical(3)
    elif kind == "poisson":
        truth, fresh = ps.emissions.Poisson(rates=[[2.0], [9.0]]), ps.emissions.Poisson(1)
    else:
        truth = ps.emissions.Bernoulli(probs=[[0.9, 0.1, 0.8, 0.2], [0.2, 0.7, 0.3, 0.9]])
        fresh = ps.emissions.Bernoulli(4)
    known = ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=[[0.95, 0.05], [0.1, 0.9]], emission=truth)
    y = list(known.sample(200, (10,), seed=0))
    found = ps.HMM(2, emission=fresh).fit(y, n_restarts=4, seed=0, tolerance=1e-5, max_iterations=500)
    assert found.log_prob(y).sum() >= known.log_prob(y).sum() - 0.5
    diagonal = np.sort(np.diagonal(found.transition_matrix.detach().numpy()))
    np.testing.assert_allclose(diagonal, [0.9, 0.95], atol=0.04)


def test_a_single_state_is_an_independent_sample():
    y = model().sample(100, seed=0).numpy()
    single = ps.HMM(1, emission=ps.emissions.Gaussian(2)).fit(y, seed=0)
    np.testing.assert_allclose(single.emission.means[0].detach(), y.mean(0), rtol=1e-9)
    np.testing.assert_allclose(single.emission.covs[0].detach(), np.cov(y.T, bias=True), rtol=1e-9)


def test_impossible_data():
    chain = ps.HMM(
        initial_probs=[1.0, 0.0],
        transition_matrix=[[1.0, 0.0], [0.0, 1.0]],
        emission=ps.emissions.Categorical(probs=[[1.0, 0.0], [0.0, 1.0]]),
    )
    y = [0, 0, 1, 0]
    value = chain.log_prob(y)
    assert value.item() == -np.inf
    value.backward()
    assert all(torch.isfinite(p.grad).all() for p in chain.parameters() if p.grad is not None)
    assert chain.filter(y).log_prob.tolist() == [0.0, 0.0, -np.inf, 0.0]
    for ask in (chain.smooth, chain.decode, chain.sample_states, chain.fit):
        with pytest.raises(ImpossibleSequence, match="probability zero under this model from step 2 on"):
            ask(y)


def test_more_states_than_rows_are_survived_and_said():
    with pytest.warns(DegenerateWarning):
        found = ps.HMM(6, emission=ps.emissions.Gaussian(1)).fit([1.0, 2.0, 4.0], seed=0, tolerance=1e-3)
    assert np.isfinite(found.log_prob([1.0, 2.0, 4.0]).item())


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"n_states": 0}, "n_states must be a positive integer, got 0"),
        ({"n_states": -1}, "n_states must be a positive integer, got -1"),
        ({"n_states": 2.5}, "n_states must be a positive integer"),
        ({}, "n_states must be given"),
        ({"n_states": 2, "initial_probs": [0.2, 0.3, 0.5]}, "number of states must be the same everywhere"),
        (
            {"transition_matrix": [[0.9, 0.2], [0.5, 0.5]]},
            r"transition_matrix must be probabilities .* a row sums to 1.1",
        ),
        ({"initial_probs": [1.5, -0.5]}, "initial_probs must be probabilities .* smallest entry -0.5"),
        ({"n_states": 2, "transition_matrix": [[1.0], [1.0]]}, r"transition_matrix must have shape \(2, 2\)"),
    ],
)
def test_bad_arguments_are_named(keywords, words):
    with pytest.raises(ValueError, match=words):
        ps.HMM(emission=ps.emissions.Gaussian(1), **keywords)


def test_an_emission_of_another_size_or_kind_is_refused():
    with pytest.raises(ValueError, match="same everywhere"):
        ps.HMM(2, emission=ps.emissions.Poisson(rates=[[1.0], [2.0], [3.0]]))
    with pytest.raises(TypeError, match="emission must be an Emission"):
        ps.HMM(2, emission="gaussian")
    with pytest.raises(ValueError, match=r"states must lie in 0 .. 2"):
        model().path_log_prob([0, 3], np.zeros((2, 2)))
