"""Hidden semi-Markov models: the expanded chain, one EM iteration by enumeration, recovery, named conditions."""

from __future__ import annotations

import copy
import itertools
import warnings

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.errors import ImpossibleSequence, ProbseqWarning
from probseq.models.hsmm import impute
from tests import reference, zoo

START = [0.5, 0.3, 0.2]
JUMPS = [[0, 0.5, 0.5], [0.9, 0, 0.1], [0.2, 0.8, 0]]
MEANS = [[-1.5], [0.0], [1.5]]


def model(duration: ps.durations.Duration | None = None) -> ps.HSMM:
    duration = duration or ps.durations.NegativeBinomial(25, means=[4.0, 8.0, 12.0], shapes=[9.0, 5.0, 30.0])
    emission = ps.emissions.Gaussian(means=MEANS, covs=np.full((3, 1, 1), 0.5))
    return ps.HSMM(initial_probs=START, transition_matrix=JUMPS, emission=emission, duration=duration)


def expanded(segments: ps.HSMM) -> ps.HMM:
    """The hidden Markov model over (state, elapsed), elapsed innermost."""
    durations = reference.duration_table(segments.duration)
    k, d = durations.shape
    tail = durations[:, ::-1].cumsum(-1)[:, ::-1]
    matrix = np.zeros((k, d, k, d))
    for state, elapsed in itertools.product(range(k), range(d)):
        ends = durations[state, elapsed] / tail[state, elapsed]
        matrix[state, elapsed, :, 0] = ends * reference.array(segments.transition_matrix)[state]
        if elapsed + 1 < d:
            matrix[state, elapsed, state, elapsed + 1] = tail[state, elapsed + 1] / tail[state, elapsed]
    start = np.zeros((k, d))
    start[:, 0] = reference.array(segments.initial_probs)
    emission = segments.emission
    means, covs = (np.repeat(reference.array(x), d, 0) for x in (emission.means, emission.covs))
    return ps.HMM(
        initial_probs=start.ravel(),
        transition_matrix=matrix.reshape(k * d, k * d),
        emission=ps.emissions.Gaussian(means=means, covs=covs),
    )


def test_inference_equals_the_expanded_chain():
    mine = model()
    other = expanded(mine)
    y = mine.sample(120, (2,), seed=0)
    y[0, 30:40] = torch.nan
    np.testing.assert_allclose(mine.log_prob(y).detach(), other.log_prob(y).detach(), rtol=1e-11)
    filtered, truth = mine.filter(y), other.filter(y)
    np.testing.assert_allclose(filtered.updated.log_probs.exp().flatten(-2), truth.updated.probs, atol=1e-12)
    np.testing.assert_allclose(mine.smooth(y).log_probs.exp().flatten(-2), other.smooth(y).probs, atol=1e-12)
    assert torch.equal(mine.decode(y), other.decode(y) // 25)
    ahead, theirs = mine.forecast(y, 40), other.forecast(y, 40)
    np.testing.assert_allclose(ahead.mean, theirs.mean, atol=1e-11)
    path = mine.decode(y)
    score = other.path_log_prob(other.decode(y), y)
    np.testing.assert_allclose(mine.path_log_prob(path, y).detach(), score.detach(), rtol=1e-12)


def test_a_state_never_outlasts_its_longest_duration():
    short = model(ps.durations.Table(probs=[[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]))
    y = short.sample(400, seed=0)
    for path in (short.decode(y), *short.sample_states(y, 3, seed=0)):
        runs = [(int(state), len(list(run))) for state, run in itertools.groupby(path.tolist())]
        assert max(length for _, length in runs) <= 2
        assert all(length == {0: 2, 2: 1}.get(state, length) for state, length in runs[:-1])
    assert short.path_log_prob([1, 1, 1], y[:3]).item() == -np.inf
    assert short.path_log_prob([0, 1, 1], y[:3]).item() == -np.inf  # state 0 lasts two steps


def test_one_em_iteration_equals_enumerated_segmentations():
    """Expected starts, jumps and durations counted over every path and every end of its last segment."""
    mine = model(ps.durations.Table(probs=zoo.simplex(np.random.default_rng(0), 3, 4)))
    y = mine.sample(7, seed=3)
    truth = reference.hsmm_oracle(mine, y.numpy())
    table = reference.duration_table(mine.duration)
    first, jumps, durations = np.zeros(3), np.zeros((3, 3)), np.zeros((3, 4))
    for path, score in zip(truth.paths, truth.path_log_probs, strict=True):
        weight = np.exp(score - truth.log_prob)
        runs = [(int(state), len(list(run))) for state, run in itertools.groupby(path)]
        if weight == 0:
            continue
        first[runs[0][0]] += weight
        for (state, length), (following, _) in itertools.pairwise(runs):
            jumps[state, following] += weight
            durations[state, length - 1] += weight
        state, length = runs[-1]
        durations[state, length - 1 :] += weight * table[state, length - 1 :] / table[state, length - 1 :].sum()
    before = mine.log_prob(y).item()
    objective = mine._em_step(mine._door(y).flat())
    assert objective.item() == pytest.approx(before, rel=1e-12)
    np.testing.assert_allclose(mine.initial_probs.detach(), first, atol=1e-12)
    np.testing.assert_allclose(mine.transition_matrix.detach(), jumps / jumps.sum(-1, keepdims=True), atol=1e-12)
    expected = durations / durations.sum(-1, keepdims=True)
    np.testing.assert_allclose(mine.duration.probs.detach(), expected, atol=1e-12)
    means = (truth.smoothed * y.numpy()).sum(0) / truth.smoothed.sum(0)
    np.testing.assert_allclose(mine.emission.means[:, 0].detach(), means, atol=1e-12)


def test_impute_keeps_the_mass():
    cut = torch.tensor([[0.0, 0.3, 0.0, 0.7]], dtype=torch.float64)
    probs = torch.tensor([[0.4, 0.0, 0.5, 0.1]], dtype=torch.float64)
    np.testing.assert_allclose(impute(cut, probs.log()), [[0.0, 0.0, 0.3 * 5 / 6, 0.3 / 6 + 0.7]], rtol=1e-14)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["table", "poisson", "negative"])
def test_em_is_monotone(kind, seed):
    fresh = zoo.hsmm(seed, zoo.gaussian_emission(1), kind)
    y = zoo.hsmm(seed + 50, zoo.gaussian_emission(1), kind).sample(40, (3,), seed=seed)
    y[0, 5:9] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProbseqWarning)
        fresh.fit(y, lengths=[40, 17, 1], max_iterations=15, tolerance=1e-13)
    trace = np.array(fresh.history.objective)
    assert (np.diff(trace) >= -1e-9 * (1 + abs(trace).max())).all()
    assert trace[-1] > trace[0]


@pytest.mark.parametrize("method", ["em", "gradient"])
def test_durations_are_recovered(method):
    truth = model()
    y = list(truth.sample(600, (4,), seed=1))
    duration = ps.durations.NegativeBinomial(max_duration=25)
    fresh = ps.HSMM(3, emission=ps.emissions.Gaussian(1), duration=duration).fit(y, seed=0, method=method)
    assert fresh.log_prob(y).sum() >= truth.log_prob(y).sum()
    order = fresh.emission.means[:, 0].argsort()
    d = torch.arange(1, 26, dtype=torch.float64)
    found = (fresh.duration.log_probs().exp() @ d)[order].detach()
    np.testing.assert_allclose(found, (truth.duration.log_probs().exp() @ d).detach(), rtol=0.12)
    np.testing.assert_allclose(fresh.transition_matrix[order][:, order].detach(), JUMPS, atol=0.2)
    assert (fresh.transition_matrix.diagonal() == 0).all()


def test_held_durations_stay():
    y = model().sample(100, seed=0)
    fresh = model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProbseqWarning)
        fresh.fit(y, fixed={"duration.means", "duration.shapes", "transition_matrix"}, max_iterations=3)
    assert torch.equal(fresh.duration.log_probs(), model().duration.log_probs())
    assert torch.equal(fresh.transition_matrix, model().transition_matrix)
    assert not torch.equal(fresh.emission.means, model().emission.means)


def test_a_single_state_is_an_independent_sample():
    y = model().sample(80, seed=0).numpy()
    single = ps.HSMM(1, emission=ps.emissions.Gaussian(1), duration=ps.durations.Poisson(6)).fit(y, seed=0)
    np.testing.assert_allclose(single.emission.means[0].detach(), y.mean(0), rtol=1e-9)
    assert single.transition_matrix.tolist() == [[1.0]]
    assert single.path_log_prob(np.zeros(80), y).item() == pytest.approx(single.log_prob(y).item(), rel=1e-12)


def test_the_number_of_parameters():
    assert model().n_parameters == 2 + 3 + 3 + 3 + 3 + 3  # start, jumps, means and shapes, means and variances
    assert model(ps.durations.Table(probs=[[0.5, 0.5]] * 3)).n_parameters == 2 + 3 + 3 + 6


def test_impossible_data():
    chain = ps.HSMM(
        initial_probs=[1.0, 0.0],
        transition_matrix=[[0.0, 1.0], [1.0, 0.0]],
        emission=ps.emissions.Categorical(probs=[[1.0, 0.0], [0.0, 1.0]]),
        duration=ps.durations.Table(probs=[[0.0, 1.0], [1.0, 0.0]]),
    )
    assert chain.log_prob([0, 0, 1, 0]).item() == 0
    y = [0, 0, 0, 1]
    value = chain.log_prob(y)
    assert value.item() == -np.inf
    value.backward()
    assert all(torch.isfinite(p.grad).all() for p in chain.parameters() if p.grad is not None)
    assert chain.filter(y).log_prob.tolist()[:3] == [0.0, 0.0, -np.inf]
    for ask in (chain.smooth, chain.decode, chain.sample_states, chain.fit):
        with pytest.raises(ImpossibleSequence, match="probability zero under this model from step 2 on"):
            ask(y)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"transition_matrix": [[0.5, 0.5], [1.0, 0.0]]}, r"transition_matrix must have a zero diagonal .* 0.5 there"),
        ({"transition_matrix": [[0.0, 0.9], [1.0, 0.0]]}, "a row sums to 0.9"),
        ({"n_states": 0}, "n_states must be a positive integer, got 0"),
        ({}, "n_states must be given"),
        ({"n_states": 2, "duration": ps.durations.Poisson(5, rates=[1.0, 2.0, 3.0])}, "the same everywhere"),
        ({"n_states": 2, "initial_probs": [1.5, -0.5]}, "initial_probs must be probabilities"),
    ],
)
def test_bad_arguments_are_named(keywords, words):
    keywords = {"duration": ps.durations.Poisson(5), **keywords}
    with pytest.raises(ValueError, match=words):
        ps.HSMM(emission=ps.emissions.Gaussian(1), **copy.deepcopy(keywords))


def test_parts_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="duration must be a Duration"):
        ps.HSMM(2, emission=ps.emissions.Gaussian(1), duration=10)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="emission must be an Emission"):
        ps.HSMM(2, emission="gaussian", duration=ps.durations.Poisson(5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"states must lie in 0 .. 2"):
        model().path_log_prob([0, 3], np.zeros((2, 1)))
    with pytest.raises(ValueError, match="states must be single numbers"):
        model().path_log_prob(np.zeros((2, 2)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"same everywhere, got .*'emission': 3"):
        ps.HSMM(2, emission=ps.emissions.Gaussian(means=MEANS, covs=np.ones((3, 1, 1))), duration=ps.durations.Table(3))
