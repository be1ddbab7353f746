"""What follows from the four steps, beyond the laws: errors of the public methods, layouts, streams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.errors import ImproperBelief


def model() -> ps.HMM:
    emission = ps.emissions.Gaussian(means=[[0.0], [3.0]], covs=[[[1.0]], [[1.0]]])
    return ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.2, 0.8]], emission=emission)


def driven() -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[0.5]], transition_cov=[[1.0]], emission_matrix=[[1.0]], emission_cov=[[1.0]],
        initial_mean=[0.0], initial_cov=[[1.0]], transition_input_matrix=[[2.0]],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.log_prob(np.ones((5, 100))), r"pass y\[..., None\]"),
        (lambda m: m.log_prob(np.ones(5), np.ones(5)), "takes no inputs"),
        (lambda m: m.forecast(np.ones(5), steps=0), "steps must be an integer of at least 1, got 0"),
        (lambda m: m.forecast(np.ones(5), steps=2, n_samples=-1), "n_samples must be an integer"),
        (lambda m: m.forecast(np.ones(5), steps=2, future_u=np.ones(2)), "takes no inputs"),
        (lambda m: m.sample(-1), "length must be an integer of at least 0, got -1"),
        (lambda m: m.sample_states(np.ones(5), 0), "n_samples must be an integer"),
        (lambda m: m.score(np.array([np.nan])), "at least one observed step"),
        (lambda m: m.score([]), "at least one step"),
        (lambda m: m.decode(np.empty(0)), "at least one step"),
        (lambda m: m.fit(np.empty(0)), "at least one step"),
        (lambda m: m.path_log_prob([0, 1], np.ones(3)), "states must begin with shape"),
        (lambda m: m.rescale(-1.0), "scale must be positive"),
        (lambda m: m.stream().update([1.0, 2.0]), r"y_t must have shape \(1,\), got \(2,\)"),
        (lambda m: m.stream().update(np.inf), "must be finite"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(model())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.log_prob(np.ones(5)), "u must be given"),
        (lambda m: m.log_prob(np.ones(5), np.ones((5, 2))), "u must have 1 columns"),
        (lambda m: m.forecast(np.ones(5), 2, np.ones(5)), "future_u must be given"),
        (lambda m: m.forecast(np.ones(5), 2, np.ones(5), future_u=np.ones(3)), "future_u must give 2 steps, got 3"),
        (lambda m: m.sample(3), "u must be given"),
        (lambda m: m.stream().emit(), "u_t must be given"),
        (lambda m: m.stream().emit(np.nan), "u_t must be finite"),
    ],
)
def test_missing_or_wrong_inputs_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(driven())


def test_results_have_the_layout_of_the_data():
    y = model().sample(7, (2, 3), seed=0)
    assert model().log_prob(y).shape == (2, 3)
    assert model().filter(y).log_prob.shape == (2, 3, 7)
    assert model().smooth(y).log_probs.shape == (2, 3, 7, 2)
    assert model().sample_states(y, 4, seed=0).shape == (4, 2, 3, 7)
    assert model().forecast(y, 5).mean.shape == (2, 3, 5, 1)
    ragged = [y[0, 0, :4], y[0, 1], y[0, 2, :0]]
    assert [f.log_prob.shape[0] for f in model().filter(ragged)] == [4, 7, 0]
    assert [s.shape for s in model().sample_states(ragged, 2)] == [(2, 4), (2, 7), (2, 0)]
    assert [len(path) for path in model().decode(ragged)] == [4, 7, 0]
    assert model().forecast(ragged, 5).mean.shape == (3, 5, 1)


def test_ragged_forecasts_start_at_their_own_ends():
    y = model().sample(9, (2,), seed=0)
    together = model().forecast([y[0, :4], y[1]], 3)
    for i, part in enumerate([y[0, :4], y[1]]):
        torch.testing.assert_close(together.mean[i], model().forecast(part, 3).mean)
    from_nothing = model().forecast([y[0, :0], y[1]], 1).mean[0]
    torch.testing.assert_close(from_nothing, model().emit(model().initial_belief()).mean.unsqueeze(0))


def test_results_can_be_read_by_numpy_and_only_log_prob_has_a_gradient():
    y = np.arange(5.0)
    assert model().log_prob(y).requires_grad
    for result in (model().filter(y).log_prob, model().smooth(y).log_probs, model().forecast(y, 2).mean):
        assert not result.requires_grad
        np.asarray(result)


def test_a_stream_takes_gaps_batches_and_inputs():
    y = model().sample(6, (3,), seed=1)
    y[1, 2] = torch.nan
    stream = model().stream(batch_shape=(3,))
    assert stream.belief is None
    scores = torch.stack([stream.update(y[:, t]) for t in range(6)], -1)
    torch.testing.assert_close(scores, model().filter(y).log_prob)
    u = np.arange(4.0)
    z = driven().sample(4, u=u, seed=0)
    stream = driven().stream()
    scores = [(stream.emit(u[t]), stream.update(z[t], u[t]))[1] for t in range(4)]
    torch.testing.assert_close(torch.stack(scores), driven().filter(z, u).log_prob)


def test_a_stream_resumes_from_a_predicted_belief():
    y = model().sample(8, seed=2)
    filtered = model().filter(y)
    with torch.no_grad():
        predicted = model().predict(ps.at(filtered.updated, 4))
    stream = model().stream(initial=predicted)
    scores = torch.stack([stream.update(value) for value in y[5:]])
    torch.testing.assert_close(scores, filtered.log_prob[5:])


def test_a_diffuse_belief_has_no_density():
    lds = driven()
    belief = ps.beliefs.Gaussian(torch.zeros(1).double(), torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    with pytest.raises(ImproperBelief, match="still diffuse"):
        lds.emit(belief, torch.zeros(1).double())
    with pytest.raises(ImproperBelief):
        lds.update(belief, torch.zeros(1).double(), None, torch.zeros(1).double())


def test_labellers_have_no_filter():
    class Labeller(ps.SequenceLabeller):
        def log_prob(self, labels, u, *, lengths=None):
            return torch.zeros(())

        def decode(self, u, *, lengths=None):
            return []

        def fit(self, labels, u, *, lengths=None, seed=None, **options):
            return self

    with pytest.raises(TypeError, match="has no filter"):
        Labeller().filter(np.ones(3))
    with pytest.raises(TypeError):
        ps.SequenceLabeller()


def test_global_random_state_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    y = model().sample(20, seed=0)
    model().forecast(y, 3, seed=1).samples.mean()
    model().sample_states(y, 2, seed=1)
    ps.RNN(cell=ps.cells.LSTM(3), head=ps.heads.Gaussian(), seed=0).forecast(y, 3, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_built_in_data():
    nile, sunspots = ps.datasets.nile(), ps.datasets.sunspots()
    assert (len(nile), nile.index[0], nile.index[-1], nile.iloc[0]) == (100, 1871, 1970, 1120.0)
    assert (len(sunspots), sunspots.index[0], sunspots.index[-1]) == (309, 1700, 2008)
    with pytest.raises(ValueError, match="unknown data set"):
        ps.datasets.load("moon")
