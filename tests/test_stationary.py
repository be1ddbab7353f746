"""The stationary law, against eigenvectors, detailed balance and forty digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mpmath import mp, mpf

from probseq.stationary import closed_classes, stationary_law
from tests import zoo


def matrix_of(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 20])
def test_stationary_law_is_the_left_eigenvector(k: int) -> None:
    matrix = zoo.simplex(np.random.default_rng(k), k, k)
    values, vectors = np.linalg.eig(matrix.T)
    law = vectors[:, np.argmax(values.real)].real
    np.testing.assert_allclose(stationary_law(torch.tensor(matrix)), law / law.sum(), rtol=1e-12)


@pytest.mark.parametrize("rare", [1e-6, 1e-14, 1e-150])
def test_stationary_law_of_a_chain_that_hardly_moves(rare: float) -> None:
    """pi is proportional to the rate of arrival; 1 - A loses it."""
    law = stationary_law(matrix_of([1 - rare, rare], [3 * rare, 1 - 3 * rare]))
    np.testing.assert_allclose(law, [0.75, 0.25], rtol=1e-14)


def test_stationary_law_of_a_birth_and_death_chain_in_forty_digits() -> None:
    up, down = [0.3, 1e-9, 0.2, 0.5], [1e-7, 0.4, 1e-3, 0.25]
    matrix = np.diag(up, 1) + np.diag(down, -1)
    matrix += np.diag(1 - matrix.sum(1))
    mp.dps = 40
    weights = [mpf(1)]
    for arrive, leave in zip(up, down, strict=True):
        weights.append(weights[-1] * mpf(arrive) / mpf(leave))  # detailed balance
    expected = [float(w / sum(weights)) for w in weights]
    np.testing.assert_allclose(stationary_law(torch.tensor(matrix)), expected, rtol=1e-14)


def test_states_that_are_left_for_good_have_probability_zero() -> None:
    matrix = matrix_of([0.2, 0.3, 0.0, 0.5], [0.0, 0.6, 0.0, 0.4], [0.5, 0.0, 0.5, 0.0], [0.0, 0.1, 0.0, 0.9])
    assert closed_classes(matrix) == [[1, 3]]
    np.testing.assert_allclose(stationary_law(matrix), [0, 0.2, 0, 0.8], rtol=1e-14)
    assert stationary_law(matrix)[0] == 0


def test_a_periodic_chain_has_a_stationary_law() -> None:
    np.testing.assert_allclose(stationary_law(matrix_of([0, 1, 0], [0, 0, 1], [1, 0, 0])), [1 / 3] * 3, rtol=1e-14)


def test_several_closed_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have one closed class of states.*got 2: \[0\], \[1, 2\]"):
        stationary_law(matrix_of([1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]))


def test_gradient_of_the_stationary_law() -> None:
    raw = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    raw[0, 1] = raw[2, 0] = -torch.inf
    holes = torch.isfinite(raw)

    def law(values: torch.Tensor) -> torch.Tensor:
        return stationary_law(torch.full((4, 4), -torch.inf).double().masked_scatter(holes, values).softmax(-1))

    assert torch.autograd.gradcheck(law, raw[holes].requires_grad_(True))
