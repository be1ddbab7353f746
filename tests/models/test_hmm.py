"""Hidden Markov models: against hmmlearn, construction, named conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hmmlearn import hmm as rival

import probseq as ps
from probseq.errors import DegenerateWarning, ImpossibleSequence
from probseq.ops import hmm_stored as few
from probseq.ops import threads
from tests import zoo
from tests.test_golden import from_statsmodels, golden

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


# ----------------------------------------------------------------------------------------- a stationary start


@pytest.mark.parametrize("method", ["em", "gradient"])
def test_earthquakes_with_a_stationary_start(method):
    case = golden("earthquakes")
    found = ps.HMM(2, emission=ps.emissions.Poisson(1), initial="stationary")
    found.fit(np.array(case["y"], dtype=float), method=method, seed=0, tolerance=1e-9)
    assert -found.log_prob(np.array(case["y"])).item() == pytest.approx(case["minus_log_prob"]["2"], abs=5e-5)
    np.testing.assert_allclose(found.emission.rates.detach().flatten().sort().values, case["rates"], atol=1e-3)
    assert found.n_parameters == 4


def test_federal_funds_with_a_stationary_start():
    case = golden("fed_funds")
    y = from_statsmodels("regime_switching.tests.test_markov_regression", "fedfunds")
    emission = ps.emissions.Gaussian(
        means=np.reshape(case["means"], (2, 1)), covs=np.full((2, 1, 1), case["std"] ** 2), covariance="tied"
    )
    matrix = [[case["stay_0"], 1 - case["stay_0"]], [case["leave_1"], 1 - case["leave_1"]]]
    known = ps.HMM(emission=emission, initial="stationary", transition_matrix=matrix)
    assert known.log_prob(y).item() == pytest.approx(case["log_prob"], abs=1e-5)
    assert known.fit(y, seed=0, tolerance=1e-9).log_prob(y).item() == pytest.approx(case["log_prob"], abs=1e-4)


def test_both_methods_find_the_same_start():
    """Many short sequences, where the start matters; the free model does not keep pi A = pi."""
    y = list(model().sample(6, (60,), seed=3).numpy())
    fits: dict[str, Any] = {}
    for method in ("em", "gradient"):
        other = model()
        fits[method] = ps.HMM(initial="stationary", transition_matrix=MATRIX, emission=other.emission)
        fits[method].fit(y, method=method, tolerance=1e-10, max_iterations=4000)
    em, gradient = fits["em"], fits["gradient"]
    assert em.log_prob(y).sum().item() == pytest.approx(gradient.log_prob(y).sum().item(), rel=1e-8)
    np.testing.assert_allclose(em.transition_matrix.detach(), gradient.transition_matrix.detach(), atol=1e-3)
    np.testing.assert_allclose(
        (em.initial_probs @ em.transition_matrix).detach(), em.initial_probs.detach(), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"initial": "random"}, 'initial must be "free" or "stationary", got \'random\''),
        ({"initial": "stationary", "initial_probs": START}, "initial_probs must be left out"),
        ({"initial": "stationary", "initial_prior": 2.0}, "initial_prior must be left out"),
        ({"initial": "stationary", "transition_matrix": np.eye(3)}, "must have one closed class of states"),
        ({"tied_rows": [0, 1]}, "tied_rows must be 3 integers"),
        ({"tied_rows": [0, 1, 0], "transition_matrix": MATRIX}, "transition_matrix must have equal rows"),
        ({"transition_prior": 0.5}, "transition_prior must be at least 1"),
    ],
)
def test_bad_chains_are_named(keywords, words):
    with pytest.raises(ValueError, match=words):
        ps.HMM(3, emission=ps.emissions.Gaussian(1), **keywords)


def test_a_stationary_start_cannot_be_set():
    stationary = ps.HMM(initial="stationary", transition_matrix=MATRIX, emission=model().emission)
    with pytest.raises(ValueError, match="initial_probs follows from transition_matrix"):
        stationary.initial_probs = START


# ------------------------------------------------------------------------------------ posterior of the whole path

CHAINS = [row for row in zoo.HMM_ROWS if row.make(0).n_states > 1]


@pytest.mark.parametrize("row", CHAINS, ids=lambda row: row.name)
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_expected_transitions_and_entropy_equal_enumeration(row, missing):
    example = row.make(1)
    y, u = row.data(2, 5, (3,))
    holes = torch.as_tensor(np.random.default_rng(0).random(y.shape) < missing)
    y[holes[..., :1].expand_as(y) if row.whole_rows else holes] = torch.nan
    lengths = [5, 1, 4]
    counts, entropy = (ask(y, u, lengths=lengths) for ask in (example.expected_transitions, example.path_entropy))
    assert counts.shape == (3, example.n_states, example.n_states)
    for b, length in enumerate(lengths):
        truth = row.exact(example, y[b, :length], None if u is None else u[b, :length])
        weights = np.exp(truth.path_log_probs - truth.log_prob)
        expected = np.zeros((example.n_states, example.n_states))
        for path, weight in zip(truth.paths, weights, strict=True):
            np.add.at(expected, (path[:-1], path[1:]), weight)
        np.testing.assert_allclose(counts[b], expected, atol=1e-11)
        surprise = np.where(weights > 0, truth.log_prob - truth.path_log_probs, 0.0)
        assert entropy[b].item() == pytest.approx((weights * surprise).sum(), rel=1e-10, abs=1e-13)


def test_posterior_quantities_keep_the_layout():
    y = model().sample(7, seed=0)
    assert model().path_entropy(y).shape == ()
    assert model().expected_transitions(y).shape == (3, 3)
    assert model().path_entropy([y, y[:2]]).shape == (2,)
    assert model().expected_transitions(y.expand(2, 4, 7, 2)).shape == (2, 4, 3, 3)
    assert model().path_entropy(y[:0]).item() == 0
    assert model().expected_transitions(y[:0]).abs().sum() == 0


def test_the_path_of_independent_states_has_the_sum_of_their_entropies():
    y = torch.full((50, 2), torch.nan)
    rows = ps.HMM(initial_probs=START, transition_matrix=np.stack([START] * 3), emission=model().emission)
    assert rows.path_entropy(y).item() == pytest.approx(-50 * (START * np.log(START)).sum(), rel=1e-12)


# ----------------------------------------------------------------------------------------------- priors, ties


@pytest.mark.parametrize("initial", ["free", "stationary"])
def test_em_and_gradient_climb_the_same_penalised_objective(initial):
    y = model().sample(40, (3,), seed=5)
    found = []
    for method in ("em", "gradient"):
        chain = ps.HMM(3, emission=model().emission, initial=initial, transition_prior=4.0)
        chain.transition_matrix = MATRIX
        chain.fit(y, method=method, tolerance=1e-10, max_iterations=4000, seed=0)
        objective = (chain.log_prob(y).sum() + chain.log_prior()).item()
        assert max(chain.history.objective) == pytest.approx(objective, rel=1e-10)
        assert chain.log_prior().item() != 0
        found.append(objective)
    assert found[0] == pytest.approx(found[1], rel=1e-7)


def test_a_map_step_is_the_textbook_one():
    y = model().sample(50, (2,), seed=6)
    alpha = 1 + np.arange(9.0).reshape(3, 3)
    chain = ps.HMM(
        initial_probs=START,
        transition_matrix=MATRIX,
        emission=model().emission,
        initial_prior=[2.0, 1.0, 4.0],
        transition_prior=alpha,
    )
    counts, first = chain.expected_transitions(y).sum(0).numpy(), chain.smooth(y).probs[:, 0].sum(0).numpy()
    chain._em_step(chain._door(y).flat())
    expected = counts + alpha - 1
    np.testing.assert_allclose(chain.transition_matrix.detach(), expected / expected.sum(-1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(
        chain.initial_probs.detach(), (first + np.array([1, 0, 3])) / (first.sum() + 4), rtol=1e-12
    )


def test_a_flat_prior_adds_a_constant():
    y = model().sample(50, seed=6)
    plain, flat = model(), ps.HMM(emission=model().emission, initial_prior=1, transition_prior=1, n_states=3)
    flat.initial_probs, flat.transition_matrix = START, MATRIX
    for each in (plain, flat):
        each.fit(y, max_iterations=300)
    np.testing.assert_allclose(flat.transition_matrix.detach(), plain.transition_matrix.detach(), rtol=1e-9)
    assert flat.log_prior().item() == pytest.approx(4 * np.log(2))  # Dirichlet(1, 1, 1) has density 2


def test_validation_scores_the_data_alone():
    """A prior shapes the fit, not the score of what was held back."""
    y = model().sample(60, seed=7)
    chain = ps.HMM(initial_probs=START, transition_matrix=MATRIX, emission=model().emission, transition_prior=3.0)
    first = (chain.log_prob(y) - chain.log_prob(y[:48])).item()
    chain.fit(y, validation=0.2, max_iterations=500)
    assert chain.history.validation[0] == pytest.approx(first, rel=1e-9)


def test_tied_rows_share_their_counts():
    y = model().sample(50, (2,), seed=8)
    rows = MATRIX[[0, 1, 0]]
    chain = ps.HMM(initial_probs=START, transition_matrix=rows, emission=model().emission, tied_rows=[5, 2, 5])
    counts = chain.expected_transitions(y).sum(0).numpy()
    chain._em_step(chain._door(y).flat())
    pooled = counts[0] + counts[2]
    found = chain.transition_matrix.detach()
    np.testing.assert_allclose(found[0], pooled / pooled.sum(), rtol=1e-12)
    assert torch.equal(found[0], found[2])
    assert chain.n_parameters == model().n_parameters - 2
    fresh = ps.HMM(3, emission=ps.emissions.Gaussian(2), tied_rows=[0, 1, 0]).fit(y, seed=0, tolerance=1e-4)
    assert torch.equal(fresh.transition_matrix[0], fresh.transition_matrix[2])


# --------------------------------------------------------------------------------------- inputs drive the moves


def visible_chain(steps: int) -> tuple[np.ndarray, np.ndarray, ps.HMM]:
    """A chain of three states that are seen as they are, and two inputs."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=(steps, 2))
    seen = ps.emissions.Categorical(probs=np.eye(3))
    known = ps.HMM(
        initial_probs=START, transition_matrix=MATRIX, transition_weights=rng.normal(size=(3, 3, 2)), emission=seen
    )
    return known.sample(steps, u=u, seed=1).numpy(), u, known


@pytest.mark.parametrize("method", ["em", "gradient"])
def test_visible_states_are_a_multinomial_regression(method):
    """From each state a regression of its own, which statsmodels fits by Newton's method."""
    from statsmodels.api import MNLogit, add_constant

    y, u, known = visible_chain(500)
    states = y[:, 0].astype(int)
    expected = 0.0
    for i in range(3):
        rows = np.flatnonzero(states[:-1] == i) + 1
        expected += MNLogit(states[rows], add_constant(u[rows])).fit(disp=0, tol=1e-12).llf
    fresh = ps.HMM(3, emission=ps.emissions.Categorical(probs=np.eye(3)), input_dim=2)
    fresh.initial_probs = np.eye(3)[states[0]]
    held = {"emission.probs", "initial_probs"}
    fresh.fit(y, u, method=method, fixed=held, tolerance=1e-9, seed=0)
    assert fresh.log_prob(y, u).item() == pytest.approx(expected, rel=1e-8)
    assert fresh.n_parameters == 3 * 2 * (1 + 2)
    assert known.n_parameters == 2 + fresh.n_parameters


def test_em_and_gradient_agree_with_inputs():
    y = list(model().sample(40, (4,), seed=9))
    u = [torch.as_tensor(np.random.default_rng(i).normal(size=(40, 1))) for i in range(4)]
    values = []
    for method in ("em", "gradient"):
        chain = ps.HMM(
            initial_probs=START,
            transition_matrix=MATRIX,
            transition_weights=np.zeros((3, 3, 1)),
            emission=model().emission,
            transition_prior=2.0,
        )
        chain.fit(y, u, method=method, tolerance=1e-10, max_iterations=3000)
        values.append((chain.log_prob(y, u).sum() + chain.log_prior()).item())
    assert values[0] == pytest.approx(values[1], rel=1e-7)


def test_lists_of_inputs_from_sizes():
    y = list(model().sample(30, (3,), seed=9).numpy())
    u = [np.random.default_rng(i).normal(size=(30, 1)) for i in range(3)]
    chain = ps.HMM(4, emission=ps.emissions.Gaussian(2), input_dim=1).fit(y, u=u, seed=0, tolerance=1e-3)
    assert np.diff(chain.history.objective).min() > -1e-8
    assert chain.decode(y, u)[0].shape == (30,)


def test_without_weights_inputs_say_nothing():
    y, u = model().sample(20, seed=9), np.random.default_rng(0).normal(size=(20, 2))
    idle = ps.HMM(
        initial_probs=START, transition_matrix=MATRIX, transition_weights=np.zeros((3, 3, 2)), emission=model().emission
    )
    assert idle.log_prob(y, u).item() == pytest.approx(model().log_prob(y).item(), rel=1e-12)
    assert idle.path_entropy(y, u).item() == pytest.approx(model().path_entropy(y).item(), rel=1e-10)
    np.testing.assert_allclose(idle.expected_transitions(y, u), model().expected_transitions(y), atol=1e-11)


def test_structural_zeros_stay_with_inputs():
    y, u, _ = visible_chain(60)
    matrix = [[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.1, 0.4, 0.5]]
    emission = ps.emissions.Categorical(probs=np.full((3, 3), 0.2) + 0.4 * np.eye(3))
    for method in ("em", "gradient"):
        chain = ps.HMM(initial_probs=START, transition_matrix=matrix, input_dim=2, emission=emission)
        chain.fit(y, u, method=method, seed=0, tolerance=1e-3)
        assert chain.transition_matrix[0, 2] == 0
        assert chain.expected_transitions(y, u)[0, 2] == 0
        assert chain.n_parameters == 2 + 5 + 5 * 2 + 6


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"input_dim": -1}, "input_dim must be a non-negative integer, got -1"),
        ({"input_dim": 1, "initial": "stationary"}, 'initial must be "free" where inputs drive the transitions'),
        (
            {"transition_weights": np.zeros((3, 3))},
            r"transition_weights must have shape \(n_states, n_states, input_dim\)",
        ),
        (
            {"transition_weights": np.zeros((3, 3, 2)), "input_dim": 1},
            r"must have shape \(n_states, n_states, 1\), got",
        ),
        (
            {"transition_weights": np.zeros((2, 3, 1))},
            r"transition_weights must have shape \(3, 3, 1\), got \(2, 3, 1\)",
        ),
    ],
)
def test_bad_inputs_are_named(keywords, words):
    with pytest.raises(ValueError, match=words):
        ps.HMM(3, emission=ps.emissions.Gaussian(1), **keywords)


def test_inputs_are_asked_for():
    y, u, known = visible_chain(5)
    with pytest.raises(ValueError, match="u must be given: this HMM has input_dim 2"):
        known.path_entropy(y)
    with pytest.raises(ValueError, match="u must have 2 columns"):
        known.log_prob(y, u[:, :1])


@pytest.mark.parametrize(("k", "kept"), [(3, None), (3, 0), (19, None), (19, 0)])
@pytest.mark.parametrize("kind", ["full", "tied", "diag", "categorical", "poisson", "missing"])
def test_gradients_from_stored_parameters_are_those_through_tables(kind, k, kept, monkeypatch):
    """Uneven lengths, uneven weights, a frozen parameter; also where the adjoint has no room (`kept`)."""
    draws = np.random.default_rng(1)
    y = draws.normal(size=(3, 7, 2))
    if kind == "categorical":
        emission, y = ps.emissions.Categorical(probs=draws.dirichlet(np.ones(4), size=k)), y[..., :1] * 0 + 1
        y[:, ::2] = 3
    elif kind == "poisson":
        emission, y = ps.emissions.Poisson(rates=draws.uniform(1, 3, (k, 2))), np.floor(np.abs(y))
    else:
        covariance = "full" if kind == "missing" else kind
        covs = np.eye(2) * 2 if covariance == "diag" else np.array([[2.0, 0.5], [0.5, 1.0]])
        covs = np.stack([covs] * k)
        emission = ps.emissions.Gaussian(means=draws.normal(size=(k, 2)), covs=covs, covariance=covariance)
        y[0, 2, 0] = np.nan if kind == "missing" else 0.0
    model = ps.HMM(
        initial_probs=draws.dirichlet(np.ones(k)),
        transition_matrix=draws.dirichlet(np.ones(k), size=k),
        emission=emission,
    )
    model.raw_initial_probs.requires_grad_(kept is None)
    leaves = [p for p in model.parameters() if p.requires_grad and p.numel()]
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    if kept is not None:
        monkeypatch.setattr(few, "KEPT", kept)
    found = []
    for compiled in (True, False):
        monkeypatch.setattr(few, "MOST_STATES", 100 if compiled else 0)
        value = model.log_prob(y, lengths=[7, 3, 1])
        found.append((value.detach(), torch.autograd.grad((weights * value).sum(), leaves)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-13, atol=1e-13)
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_the_gradient_from_stored_parameters_is_once_differentiable():
    model = ps.HMM(
        initial_probs=[0.5, 0.5], transition_matrix=[[0.7, 0.3], [0.3, 0.7]],
        emission=ps.emissions.Categorical(probs=[[0.1, 0.9], [0.8, 0.2]]),
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(model.log_prob([0.0, 1.0, 1.0]), [model.raw_transition_matrix], create_graph=True)
    with pytest.raises(NotImplementedError, match="exact first derivative only"):
        gradient.square().sum().backward()


def test_a_fit_in_threads_gives_the_same_digits(monkeypatch):
    """A fit holds torch to one thread, and its own kernels keep theirs."""
    monkeypatch.setattr(threads, "WORTHWHILE", 0)
    y, used, before, means = np.random.default_rng(0).normal(size=(12, 9, 1)), [], torch.get_num_threads(), []
    pool = threads._pool
    monkeypatch.setattr(threads, "_pool", lambda n: used.append(n) or pool(n))
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            used.clear()
            model = ps.HMM(2, emission=ps.emissions.Gaussian(1)).fit(y, seed=0, tolerance=1e-3)
            assert set(used) == ({1} if n_threads == 2 else set())
            means.append(model.emission.means.detach())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*means)


@pytest.mark.parametrize("covariance", ["full", "tied", None])
def test_value_and_gradient_at_once_are_those_of_autograd(covariance):
    """Kernels alone, without a tape, for sequences that are seen whole."""
    if covariance is None:
        emission: Any = ps.emissions.Categorical(probs=[[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    else:
        covs = np.stack([[[2.0, 0.3], [0.3, 1.0]]] * 2)
        emission = ps.emissions.Gaussian(means=[[0.0, 1.0], [2.0, -1.0]], covs=covs, covariance=covariance)
    model = ps.HMM(initial_probs=[0.3, 0.7], transition_matrix=[[0.9, 0.1], [0.2, 0.8]], emission=emission)
    sequences = model._door(model.sample(25, (3,), seed=0)).flat()
    learned = [p for p in model.parameters() if p.numel()]
    value, gradients = model._value_and_gradient(sequences, learned)
    wanted = model._log_prob(sequences).sum()
    expected = torch.autograd.grad(wanted, learned)
    torch.testing.assert_close(value, wanted.detach(), rtol=1e-12, atol=0)
    for own, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)
