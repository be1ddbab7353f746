"""The chain of a hidden Markov model: its stationary law, tied rows, priors and M-steps, against first principles."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from mpmath import mp, mpf

from probseq import transitions as T
from tests import reference, zoo


def matrix_of(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 20])
def test_stationary_law_is_the_left_eigenvector(k: int) -> None:
    matrix = zoo.simplex(np.random.default_rng(k), k, k)
    values, vectors = np.linalg.eig(matrix.T)
    law = vectors[:, np.argmax(values.real)].real
    np.testing.assert_allclose(T.stationary_law(torch.tensor(matrix)), law / law.sum(), rtol=1e-12)


@pytest.mark.parametrize("rare", [1e-6, 1e-14, 1e-150])
def test_stationary_law_of_a_chain_that_hardly_moves(rare: float) -> None:
    """pi is proportional to the rate of arrival; 1 - A loses it."""
    law = T.stationary_law(matrix_of([1 - rare, rare], [3 * rare, 1 - 3 * rare]))
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
    np.testing.assert_allclose(T.stationary_law(torch.tensor(matrix)), expected, rtol=1e-14)


def test_states_that_are_left_for_good_have_probability_zero() -> None:
    matrix = matrix_of([0.2, 0.3, 0.0, 0.5], [0.0, 0.6, 0.0, 0.4], [0.5, 0.0, 0.5, 0.0], [0.0, 0.1, 0.0, 0.9])
    assert T.closed_classes(matrix) == [[1, 3]]
    np.testing.assert_allclose(T.stationary_law(matrix), [0, 0.2, 0, 0.8], rtol=1e-14)
    assert T.stationary_law(matrix)[0] == 0


def test_a_periodic_chain_has_a_stationary_law() -> None:
    np.testing.assert_allclose(T.stationary_law(matrix_of([0, 1, 0], [0, 0, 1], [1, 0, 0])), [1 / 3] * 3, rtol=1e-14)


def test_several_closed_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have one closed class of states.*got 2: \[0\], \[1, 2\]"):
        T.stationary_law(matrix_of([1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]))


def test_gradient_of_the_stationary_law() -> None:
    raw = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    raw[0, 1] = raw[2, 0] = -torch.inf
    holes = torch.isfinite(raw)

    def law(values: torch.Tensor) -> torch.Tensor:
        return T.stationary_law(torch.full((4, 4), -torch.inf).double().masked_scatter(holes, values).softmax(-1))

    assert torch.autograd.gradcheck(law, raw[holes].requires_grad_(True))


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


def test_dirichlet_density_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    rows, alpha = zoo.simplex(rng, 3, 4), 1 + rng.gamma(2.0, size=(3, 4))
    expected = sum(scipy.stats.dirichlet.logpdf(row, a) for row, a in zip(rows, alpha, strict=True))
    actual = T.dirichlet_log_density(torch.tensor(alpha), torch.tensor(rows).log())
    assert actual.item() == pytest.approx(expected, rel=1e-12)
    rows[0] = [0.5, 0.0, 0.5, 0.0]  # structural zeros: a Dirichlet over the rest
    expected += scipy.stats.dirichlet.logpdf([0.5, 0.5], alpha[0, [0, 2]])
    expected -= scipy.stats.dirichlet.logpdf(zoo.simplex(np.random.default_rng(0), 3, 4)[0], alpha[0])
    actual = T.dirichlet_log_density(torch.tensor(alpha), T.log_or_minus_infinity(torch.tensor(rows)))
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_concentrations() -> None:
    assert T.concentration("prior", None, (2,)) is None
    np.testing.assert_array_equal(T.concentration("prior", 2, (2, 3)), np.full((2, 3), 2.0))
    for value, words in (
        ([1.0, 2.0], r"prior must be a number or have shape \(3,\), got \(2,\)"),
        ([1.0, 0.5, 2.0], "prior must be at least 1, where the density has a mode, got 0.5"),
        ("x", "prior must be an array of numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            T.concentration("prior", value, (3,))
    with pytest.raises(ValueError, match="equal rows where tied_rows says so"):
        T.concentration("prior", np.eye(3) + 1, (3, 3), [0, 0, 1])


def enumerated(seed: int, steps: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return zoo.simplex(rng, 3), zoo.simplex(rng, 3, 3), rng.normal(size=(steps, 3)) * 2


def test_path_entropy_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few steps are held at once."""
    from probseq.ops import hmm

    start, matrix, table = enumerated(1, 6)
    truth = reference.enumerate_paths(start, matrix, table)
    weights = truth.path_log_probs - truth.log_prob
    arguments = torch.tensor(start).log()[None], torch.tensor(matrix).log()[None, None], torch.tensor(table)[None]
    lengths = torch.tensor([6])
    updated, gamma = hmm.filter(*arguments, lengths).log_updated, hmm.posterior(*arguments, lengths).log_gamma.exp()
    for chunk in (1, 20, 2**20):
        monkeypatch.setattr(T, "CHUNK", chunk)
        entropy = T.path_entropy(updated, gamma, arguments[1], lengths)
        assert entropy.item() == pytest.approx(-(np.exp(weights) * weights).sum(), rel=1e-12)
