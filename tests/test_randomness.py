"""Seeds decide, and the global generators are left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.randomness import fresh_seed, generator, spawn


def model() -> ps.HMM:
    emission = ps.emissions.Gaussian(means=[[0.0], [3.0]], covs=[[[1.0]], [[1.0]]])
    return ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.2, 0.8]], emission=emission)


def driven() -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[0.5]], transition_cov=[[1.0]], emission_matrix=[[1.0]], emission_cov=[[1.0]],
        initial_mean=[0.0], initial_cov=[[1.0]], transition_input_matrix=[[2.0]],
    )  # fmt: skip


def test_global_random_state_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    y = model().sample(20, seed=0)
    model().forecast(y, 3, seed=1).samples.mean()
    model().sample_states(y, 2, seed=1)
    ps.RNN(cell=ps.cells.LSTM(3), head=ps.heads.Gaussian(), seed=0).forecast(y, 3, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_are_checked_and_spawned_reproducibly():
    assert fresh_seed(7) == 7
    assert fresh_seed(np.int64(7)) == 7
    assert fresh_seed(None) != fresh_seed(None)
    assert spawn(3, 4) == spawn(3, 4)
    assert len(set(spawn(3, 4))) == 4
    assert torch.equal(torch.rand(3, generator=generator(1)), torch.rand(3, generator=generator(1)))
    for bad in (-1, 1.5, True, "0"):
        with pytest.raises(ValueError, match="seed must be"):
            fresh_seed(bad)
