"""The chain of a hidden Markov model: tied rows and M-steps, against first principles."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch

from probseq import transitions as T
from tests import reference, zoo


def matrix_of(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_groups() -> None:
    assert T.groups_of(None, 3) is None
    assert T.groups_of([7, 2, 7], 3) == [0, 1, 0]
    rows = torch.rand(2, 3, dtype=torch.float64)
    assert torch.equal(T.mean_of_groups(T.spread(rows, [0, 1, 0]), [0, 1, 0]), rows)
    np.testing.assert_array_equal(T.sum_of_groups(torch.eye(3), [0, 1, 0]), [[1, 0, 1], [0, 1, 0]])
    for wrong in ([0, 1], [0.5, 1.0, 2.0], "aab"):
        with pytest.raises(ValueError, match="tied_rows must be 3 integers, one per state"):
            T.groups_of(wrong, 3)


@pytest.mark.parametrize("tied", [None, [0, 1, 0]])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_m_step_with_a_stationary_start_finds_the_maximum(tied: list[int] | None, scale: float) -> None:
    """Against scipy's Nelder-Mead on the objective written down with an eigenvector."""
    rng = np.random.default_rng(3)
    size = 3 if tied is None else 2
    rows, counts = zoo.simplex(rng, size, 3), scale * rng.gamma(2.0, size=(size, 3))
    first = scale * rng.gamma(2.0, size=3)

    def objective(flat: np.ndarray) -> float:
        table = np.exp(flat.reshape(size, 3))
        table = table / table.sum(-1, keepdims=True)
        values, vectors = np.linalg.eig((table if tied is None else table[tied]).T)
        law = vectors[:, np.argmax(values.real)].real
        return -float((first * np.log(law / law.sum())).sum() + (counts * np.log(table)).sum()) / scale

    found = T.maximise_rows_and_start(*map(torch.tensor, (rows,)), tied, torch.tensor(counts), torch.tensor(first))
    options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 20_000, "maxfev": 20_000}
    best = scipy.optimize.minimize(objective, np.zeros(size * 3), method="Nelder-Mead", options=options)
    assert objective(found.log().numpy()) == pytest.approx(best.fun, rel=1e-8)


def test_m_step_keeps_zeros_and_rows_that_saw_nothing() -> None:
    rows = matrix_of([0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.0, 0.4, 0.6])
    counts = matrix_of([3.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 2.0, 2.0])
    np.testing.assert_array_equal(T.maximise_rows(rows, counts)[1], rows[1])
    moved = T.maximise_rows_and_start(rows, None, counts, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    assert moved[0, 2] == 0
    assert moved[2, 0] == 0
    np.testing.assert_allclose(moved.sum(-1), 1, rtol=1e-14)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_m_step_of_the_regression_satisfies_the_normal_equations(unit: float) -> None:
    """At the maximum observed and expected moves agree, in total and weighted with every input."""
    rng = np.random.default_rng(5)
    u, counts = unit * rng.normal(size=(200, 2)), rng.gamma(1.0, size=(200, 3, 3))
    rows, weights = torch.tensor(zoo.simplex(rng, 3, 3)), torch.zeros(3, 3, 2).double()
    nothing = torch.zeros(3, 3).double()
    arguments = torch.tensor(u), torch.tensor(counts), nothing, (False, False)
    found = T.maximise_regression(rows.log(), weights, *arguments)
    probs = reference.driven_matrices(found[0].exp().numpy(), found[1].numpy(), u)
    residual = counts - counts.sum(-1, keepdims=True) * probs
    assert np.abs(residual.sum(0)).max() < 1e-5 * counts.sum()
    assert np.abs(np.einsum("tij,tp->ijp", residual, u / unit)).max() < 1e-5 * counts.sum()


def test_m_step_of_the_regression_holds_what_is_held() -> None:
    rng = np.random.default_rng(6)
    u, counts = torch.tensor(rng.normal(size=(50, 1))), torch.tensor(rng.gamma(1.0, size=(50, 2, 2)))
    rows, weights = torch.tensor(zoo.simplex(rng, 2, 2)).log(), torch.tensor(rng.normal(size=(2, 2, 1)))
    for held in ((True, False), (False, True)):
        found = T.maximise_regression(rows, weights, u, counts, torch.zeros(2, 2).double(), held)
        kept = [torch.allclose(new, old, rtol=1e-14) for new, old in zip(found, (rows, weights), strict=True)]
        assert tuple(kept) == held


def test_rows_of_three_tied_states_are_equal_to_the_last_digit() -> None:
    """The mean of three equal numbers is not always that number."""
    value = 0.1 + 0.7 * np.random.default_rng(0).random((200, 1, 2)) * np.ones((1, 3, 1))
    assert any(not np.array_equal(row.sum(0) / 3, row[0]) for row in value)
    for rows in torch.as_tensor(value):
        assert T.equal_in_groups(rows, [0, 0, 0])
        assert not T.equal_in_groups(rows + torch.tensor([[0.0], [0.0], [1e-9]]), [0, 0, 0])
        T.refuse_untied("transition_prior", rows, [0, 0, 0])
