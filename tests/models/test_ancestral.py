"""Draws that take the path of states first have the law of the draws step by step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import probseq as ps

SYMBOLS = [[0.1, 0.6, 0.3], [0.7, 0.2, 0.1]]


def chain() -> ps.HMM:
    return ps.HMM(
        initial_probs=[0.9, 0.1],
        transition_matrix=[[0.8, 0.2], [0.4, 0.6]],
        emission=ps.emissions.Categorical(probs=SYMBOLS),
    )


def lasting() -> ps.HSMM:
    return ps.HSMM(
        initial_probs=[0.9, 0.1],
        transition_matrix=[[0.0, 1.0], [1.0, 0.0]],
        emission=ps.emissions.Categorical(probs=SYMBOLS),
        duration=ps.durations.Table(probs=[[0.2, 0.5, 0.3], [0.6, 0.4, 0.0]]),
    )


@pytest.mark.parametrize("model", [chain(), lasting()], ids=["HMM", "HSMM"])
def test_words_come_as_often_as_their_likelihood_says(model):
    n = 40_000
    y = model.sample(3, (200, 200), seed=0).reshape(n, 3)
    words = list(itertools.product(range(3), repeat=3))
    probs = model.log_prob(torch.tensor(words, dtype=torch.float64).unsqueeze(-1)).detach().exp().numpy()
    assert probs.sum() == pytest.approx(1.0, abs=1e-12)
    counts = np.bincount((y @ torch.tensor([9.0, 3.0, 1.0]).double()).long().numpy(), minlength=27)
    chi_square = ((counts - n * probs) ** 2 / (n * probs)).sum()
    assert chi_square < 54.1  # the 0.1 % point with 26 degrees of freedom


def test_inputs_drive_the_path_of_every_draw():
    model = ps.HMM(
        initial_probs=[0.5, 0.5],
        transition_matrix=[[0.5, 0.5], [0.5, 0.5]],
        transition_weights=[[[0.0], [1.0]], [[0.0], [1.0]]],
        emission=ps.emissions.Categorical(probs=[[1.0, 0.0], [0.0, 1.0]]),
    )
    u = torch.tensor([0.0, 80.0, -80.0, 80.0]).double().reshape(4, 1)
    y = model.sample(4, (50,), u=u, seed=0)
    assert y.shape == (50, 4, 1)
    assert y[:, 0].unique().tolist() == [0.0, 1.0]
    assert (y[:, 1:, 0] == torch.tensor([1.0, 0.0, 1.0]).double()).all()
    assert torch.equal(model.sample(4, u=u, seed=3), model.sample(4, u=u, seed=3))
    assert model.sample(4, (0,), u=u).shape == (0, 4, 1)
