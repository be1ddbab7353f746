"""Online filtering: gaps, batches, inputs, resuming."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps


def model() -> ps.HMM:
    emission = ps.emissions.Gaussian(means=[[0.0], [3.0]], covs=[[[1.0]], [[1.0]]])
    return ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.2, 0.8]], emission=emission)


def driven() -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[0.5]], transition_cov=[[1.0]], emission_matrix=[[1.0]], emission_cov=[[1.0]],
        initial_mean=[0.0], initial_cov=[[1.0]], transition_input_matrix=[[2.0]],
    )  # fmt: skip


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


def test_a_step_without_numbers_is_refused_and_changes_nothing():
    stream = driven().stream()
    for y, u, words in (
        ("a", 0.0, "y_t must be numbers"),
        (None, 0.0, "y_t must be numbers"),
        (1.0, "a", "u_t must be"),
    ):
        with pytest.raises(ValueError, match=words):
            stream.update(y, u)
    with pytest.raises(ValueError, match=r"y_t must have shape \(1,\), got \(2,\)"):
        stream.update([1.0, 2.0], 0.0)
    assert stream.belief is None
