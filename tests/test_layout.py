"""Results leave in the layout in which the data came."""

from __future__ import annotations

import probseq as ps


def model() -> ps.HMM:
    emission = ps.emissions.Gaussian(means=[[0.0], [3.0]], covs=[[[1.0]], [[1.0]]])
    return ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.2, 0.8]], emission=emission)


def driven() -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[0.5]], transition_cov=[[1.0]], emission_matrix=[[1.0]], emission_cov=[[1.0]],
        initial_mean=[0.0], initial_cov=[[1.0]], transition_input_matrix=[[2.0]],
    )  # fmt: skip


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
