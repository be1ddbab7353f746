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
        (lambda m: m.forecast(np.ones(5), steps=0), "steps must be a positive integer, got 0"),
        (lambda m: m.forecast(np.ones(5), steps=2, n_samples=-1), "n_samples must be a positive integer"),
        (lambda m: m.forecast(np.ones(5), steps=2, future_u=np.ones(2)), "takes no inputs"),
        (lambda m: m.sample(-1), "length must be a non-negative integer, got -1"),
        (lambda m: m.sample_states(np.ones(5), 0), "n_samples must be a positive integer"),
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


def test_a_diffuse_belief_has_no_density_until_data_resolve_it():
    lds = driven()
    belief = ps.beliefs.Gaussian(torch.zeros(1).double(), torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    with pytest.raises(ImproperBelief, match="still diffuse"):
        lds.emit(belief, torch.zeros(1).double())
    resolved, _ = lds.update(belief, torch.zeros(1).double(), None, torch.zeros(1).double())
    lds.emit(resolved, torch.zeros(1).double())
