"""States renamed by a known permutation are found again; two fits from different starts agree after alignment."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.evaluation import align, permute_states
from tests import zoo


def can_be_renamed(row: Any) -> bool:
    """Without inputs (they need data of their own) and with parameters that belong to one state each."""
    model = row.make(0) if row.relabel is not None else None
    if not isinstance(model, (ps.HMM, ps.HSMM)) or model.input_dim or row.kind == "shares":
        return False
    return isinstance(model, ps.HSMM) or model.tied_rows is None


ROWS = [row for row in zoo.ROWS if can_be_renamed(row)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_renamed_model_has_the_same_law_and_is_found_again(row: Any) -> None:
    model = row.make(0)
    y = model.sample(30, (3,), seed=0)
    for order in itertools.permutations(range(model.n_states)):
        renamed = permute_states(model, order)
        assert torch.allclose(renamed.log_prob(y), model.log_prob(y), rtol=1e-12)
        assert torch.equal(renamed.smooth(y).probs, model.smooth(y).probs[..., list(order)]) or torch.allclose(
            renamed.smooth(y).probs, model.smooth(y).probs[..., list(order)], rtol=1e-9
        )
        matrix = model.transition_matrix.detach().numpy()[np.ix_(order, order)]
        np.testing.assert_allclose(renamed.transition_matrix.detach().numpy(), matrix, rtol=1e-14)
        assert align(model, renamed, y) == list(order)
        assert align(renamed, model, y) == np.argsort(order).tolist()


def test_two_fits_agree_after_alignment() -> None:
    emission = ps.emissions.Gaussian(means=[[-4.0], [0.0], [5.0]], covs=[[[1.0]], [[0.5]], [[1.5]]])
    matrix = [[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.05, 0.25, 0.7]]
    y = ps.HMM(initial_probs=[0.3, 0.3, 0.4], transition_matrix=matrix, emission=emission).sample(400, seed=1)
    starts = ([[-3.0], [1.0], [4.0]], [[4.0], [-3.0], [1.0]])
    one = [[[1.0]]] * 3
    even = {"initial_probs": [1 / 3] * 3, "transition_matrix": [[1 / 3] * 3] * 3}
    first, second = (
        ps.HMM(**even, emission=ps.emissions.Gaussian(means=means, covs=one)).fit(y, tolerance=1e-10)
        for means in starts
    )
    assert not torch.allclose(first.emission.means, second.emission.means, rtol=0.1)
    order = align(second, first, y)
    assert order == [1, 2, 0]
    aligned = permute_states(second, order)
    assert torch.allclose(aligned.emission.means, first.emission.means, rtol=1e-3)
    assert torch.allclose(aligned.transition_matrix, first.transition_matrix, atol=1e-3)


class Pairs(ps.emissions.Gaussian):
    """Each state an even mixture of two Gaussians, whose parameters a part with twice the states holds."""

    def bind(self, n_states: int) -> None:
        super().bind(n_states)
        rows = torch.arange(2.0 * n_states).reshape(-1, 1)
        self.parts = ps.emissions.Gaussian(means=rows.square(), covs=(rows + 1).unsqueeze(-1))

    def log_prob(self, values: torch.Tensor, observed: torch.Tensor | None = None) -> torch.Tensor:
        return self.parts.log_prob(values, observed).unflatten(-1, (self.n_states, 2)).logsumexp(-1) - np.log(2)


def test_parts_with_several_entries_per_state_move_in_blocks() -> None:
    emission = Pairs(means=[[0.0]] * 3, covs=[[[1.0]]] * 3)
    matrix = zoo.simplex(np.random.default_rng(0), 3, 3)
    model = ps.HMM(initial_probs=[0.2, 0.3, 0.5], transition_matrix=matrix, emission=emission)
    y = np.array([0.3, 1.2, 8.0, 14.0, 24.0, 3.0])
    renamed = permute_states(model, [2, 0, 1])
    assert renamed.emission.parts.means.flatten().tolist() == [16.0, 25.0, 0.0, 1.0, 4.0, 9.0]
    assert torch.allclose(renamed.log_prob(y), model.log_prob(y), rtol=1e-12)
    assert not torch.allclose(
        renamed.emission.log_prob(torch.tensor([[0.3]])), emission.log_prob(torch.tensor([[0.3]]))
    )


def test_bad_arguments_are_named() -> None:
    model, other = zoo.hmm(0, zoo.poisson_emission), zoo.hmm(0, zoo.poisson_emission, 2)
    y = model.sample(10, seed=0)
    with pytest.raises(ValueError, match=r"permutation of 0 \.\. 2"):
        permute_states(model, [0, 1, 1])
    with pytest.raises(ValueError, match=r"same number of states, got \(3, 2\)"):
        align(model, other, y)
    with pytest.raises(TypeError, match="model must have discrete hidden states, got LDS"):
        permute_states(ps.LDS(1, 1), [0])
