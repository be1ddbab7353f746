"""Declared parameters: round trips, refusals, holding and overriding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from probseq import parameters as P
from probseq.errors import NotFitted


class Toy(P.Parametric):
    matrix = P.Param(P.real, "n", "n")
    rates = P.Param(P.nonnegative, "n")
    odds = P.Param(P.probability, "n")
    rows = P.Param(P.simplex, "n", "n")
    noise = P.Param(P.semidefinite, "n", "n")
    spread = P.Param(P.definite, "n", "n")

    def __init__(self, n: int = 2, **values) -> None:
        super().__init__()
        self.n = n
        self.declare(**values)


VALUES = {
    "matrix": [[1.0, -2.0], [3.0, 4.0]],
    "rates": [0.0, 2.5],
    "odds": [0.0, 0.3],
    "rows": [[1.0, 0.0], [0.3, 0.7]],
    "noise": [[4.0, 2.0], [2.0, 1.0]],
    "spread": [[2.0, 0.5], [0.5, 1.0]],
}


@pytest.mark.parametrize("name", list(VALUES))
def test_assigning_and_reading_round_trips(name):
    toy = Toy(**{name: VALUES[name]})
    assert torch.allclose(getattr(toy, name), torch.tensor(VALUES[name], dtype=torch.float64), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-16, 1e-8, 1.0, 1e8, 1e16])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_semidefinite_factor_of_any_rank_and_size(scale, rank):
    half = torch.randn(3, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))
    cov = scale * half @ half.T
    factor = P.psd_factor(cov)
    assert torch.equal(factor, factor.tril())
    assert (factor @ factor.T - cov).abs().max() <= 1e-13 * max(cov.abs().max().item(), 1e-300)


def test_structural_zeros_keep_finite_gradients():
    toy = Toy(rows=VALUES["rows"], rates=VALUES["rates"], odds=VALUES["odds"])
    total = toy.rows.square().sum() + type(toy).rows.log(toy)[1].sum() + toy.rates.sum() + toy.odds.sum()
    total.backward()
    for gradient in (toy.raw_rows.grad, toy.raw_rates.grad, toy.raw_odds.grad):
        assert torch.isfinite(gradient).all()
    assert toy.raw_rows.grad[0, 1] == 0
    assert toy.raw_rates.grad[0] == 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("matrix", [1.0, 2.0], "matrix must have shape (2, 2), got (2,)"),
        ("matrix", [[np.nan, 1], [1, 1]], "matrix must be finite"),
        ("matrix", "no", "matrix must be an array of numbers"),
        ("rates", [-1.0, 1.0], "rates must be non-negative numbers; smallest entry -1"),
        ("odds", [0.5, 1.5], "odds must be probabilities in [0, 1]; found 1.5"),
        ("rows", [[0.5, 0.4], [0.5, 0.5]], "a row sums to 0.9"),
        ("rows", [[1.5, -0.5], [0.5, 0.5]], "smallest entry -0.5"),
        ("noise", [[1.0, 2.0], [2.0, 1.0]], "positive semidefinite; smallest eigenvalue -1"),
        ("noise", [[1.0, 0.5], [0.4, 1.0]], "not symmetric"),
        ("spread", [[1.0, 1.0], [1.0, 1.0]], "positive definite; smallest eigenvalue"),
    ],
)
def test_illegal_values_are_named(name, value, words):
    with pytest.raises(ValueError, match="must") as error:
        Toy(**{name: value})
    assert words in str(error.value)


def test_reading_before_there_is_a_value():
    toy = Toy()
    with pytest.raises(NotFitted, match=r"Toy.rows has no value yet"):
        _ = toy.rows
    toy.load_state_dict(Toy(**VALUES).state_dict())
    assert toy.unset == set()


def test_freeze_holds_and_releases():
    toy = Toy(**VALUES)
    with P.freeze(toy, {"matrix"}):
        toy.assign(matrix=torch.zeros(2, 2), rates=torch.ones(2))
        assert toy.is_frozen("matrix")
    assert torch.equal(toy.matrix, torch.tensor(VALUES["matrix"]).double())
    assert torch.allclose(toy.rates, torch.ones(2).double())
    assert not toy.is_frozen("matrix")
    with pytest.raises(ValueError, match=r"unknown parameter 'matrx'; this Toy has matrix"), P.freeze(toy, {"matrx"}):
        pass


def test_overriding_is_differentiable_and_temporary():
    toy = Toy(**VALUES)
    value = torch.tensor([[0.5, 0.5], [0.2, 0.8]]).double().requires_grad_()
    with P.overriding(toy, {"rows": value}):
        type(toy).rows.log(toy).sum().backward()
        assert toy.rows is value
    assert torch.allclose(value.grad, 1 / value.detach())
    assert torch.allclose(toy.rows, torch.tensor(VALUES["rows"]).double())


def test_counts_of_free_parameters():
    toy = Toy(**VALUES)
    # matrix 4, rates 2, odds 2, rows 3 non-zero entries - 2 rows, two symmetric matrices 3 each
    assert P.count_free(toy) == 4 + 2 + 2 + 1 + 3 + 3
    with P.freeze(toy, {"matrix", "noise"}):
        assert P.count_free(toy) == 2 + 2 + 1 + 3


def test_copies_are_independent():
    toy = Toy(**VALUES)
    other = copy.deepcopy(toy)
    other.matrix = torch.zeros(2, 2)
    assert torch.equal(toy.matrix, torch.tensor(VALUES["matrix"]).double())


def test_stored_numbers_are_arrays_only_where_nothing_watches():
    toy = Toy(**VALUES)
    assert toy.stored("matrix") is None
    with torch.no_grad():
        stored = toy.stored("matrix", "rows")
        assert stored is not None
        np.testing.assert_array_equal(stored[0], VALUES["matrix"])
        with P.overriding(toy, {"matrix": torch.zeros(2, 2)}):
            assert toy.stored("matrix") is None
        assert Toy().stored("matrix") is None


def test_rows_from_counts():
    toy = Toy(**VALUES)
    kept = toy.rows[1].detach().clone()
    toy.store_rows("rows", torch.tensor([[3.0, 1.0], [0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(toy.rows[0].detach(), torch.tensor([0.75, 0.25], dtype=torch.float64))
    torch.testing.assert_close(toy.rows[1].detach(), kept)
    toy.store_rows("rows", torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64))
    assert toy.raw_rows[0, 1] == -torch.inf
    toy.held_entries["rows"] = torch.tensor([[True, True], [False, False]])
    toy.store_rows("rows", torch.tensor([[1.0, 1.0], [1.0, 3.0]], dtype=torch.float64))
    expected = torch.tensor([[1.0, 0.0], [0.25, 0.75]], dtype=torch.float64)
    torch.testing.assert_close(toy.rows.detach(), expected)
    with P.freeze(toy, ["rows"]):
        toy.store_rows("rows", torch.ones(2, 2, dtype=torch.float64))
    torch.testing.assert_close(toy.rows.detach(), expected)
