"""Von Mises emissions against scipy and torch."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

import probseq as ps
from probseq.emissions import VonMises
from probseq.emissions.circular import concentration_for
from probseq.errors import DegenerateWarning

MEANS, CONCENTRATIONS = np.array([[0.3, -3.0], [2.0, 1.0]]), np.array([[0.0, 900.0], [1.5, 20.0]])


def random_rows(n: int, seed: int = 0):
    draws = np.random.default_rng(seed)
    rows, seen = draws.vonmises(1.0, 2.0, size=(n, 2)), draws.random((n, 2)) >= 0.3
    return torch.as_tensor(np.where(seen, rows, 0.0)), torch.as_tensor(seen), torch.as_tensor(draws.random((n, 2)))


def test_table_with_gaps():
    emission = VonMises(means=MEANS, concentrations=CONCENTRATIONS)
    rows, seen, _ = random_rows(20)
    terms = np.where(
        CONCENTRATIONS > 0,
        stats.vonmises(np.maximum(CONCENTRATIONS, 1e-9), loc=MEANS).logpdf(rows.numpy()[:, None]),
        -np.log(2 * np.pi),
    )
    expected = np.where(seen.numpy()[:, None], terms, 0).sum(-1)
    np.testing.assert_allclose(emission.log_prob(rows, seen).detach(), expected, rtol=1e-10)
    torch.testing.assert_close(emission.log_prob(rows + 2 * np.pi), emission.log_prob(rows), rtol=1e-10, atol=0)
    said = emission.distribution().log_prob(rows[:, None])
    torch.testing.assert_close(said, emission.log_prob(rows), rtol=1e-12, atol=0)


@pytest.mark.parametrize("concentration", [1e-6, 0.5, 30.0, 1e4, 1e8])
def test_density_to_forty_digits(concentration):
    with mpmath.workdps(40):
        c, angle = mpmath.mpf(concentration), mpmath.mpf(0.001)
        exact = c * (mpmath.cos(angle) - 1) - mpmath.log(2 * mpmath.pi * mpmath.besseli(0, c) * mpmath.exp(-c))
    found = VonMises(means=[[0.0]], concentrations=[[concentration]]).log_prob(
        torch.tensor([[0.001]], dtype=torch.float64)
    )
    assert found.item() == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize("concentration", [1e-5, 0.1, 1.0, 10.0, 1e3, 1e5])
def test_concentrations_invert_the_mean_length(concentration):
    with mpmath.workdps(40):
        length = float(mpmath.besseli(1, concentration) / mpmath.besseli(0, concentration))
    found = concentration_for(torch.tensor([length, 0.0, -0.2], dtype=torch.float64))
    assert found[0].item() == pytest.approx(concentration, rel=1e-10)
    assert found[1:].tolist() == [0, 0]


def test_m_step_is_the_maximum():
    rows, seen, weights = random_rows(300)
    emission = VonMises(means=MEANS, concentrations=np.ones((2, 2)))
    emission.maximise(rows, seen, weights)
    (weights * emission.log_prob(rows, seen)).sum().backward()
    for parameter in emission.parameters():
        assert parameter.grad.abs().max() < 1e-9
    complete = rows[seen[:, 0], :1]
    emission = VonMises(means=[[0.0]], concentrations=[[1.0]])
    emission.maximise(complete, torch.ones_like(complete).bool(), torch.ones_like(complete))
    concentration, mean, _ = stats.vonmises.fit(complete.numpy(), fscale=1)
    assert emission.concentrations.item() == pytest.approx(concentration, rel=1e-6)
    assert emission.means.item() == pytest.approx(mean, rel=1e-6)


def test_draws_are_von_mises_even_where_they_are_uniform():
    emission = VonMises(means=MEANS, concentrations=CONCENTRATIONS)
    torch.manual_seed(0)
    drawn = emission.distribution().sample((5000,)).numpy()
    assert stats.kstest(drawn[:, 0, 0], stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
    around = np.angle(np.exp(1j * (drawn[:, 1, 0] - 2.0)))
    assert stats.kstest(around, stats.vonmises(1.5).cdf).pvalue > 1e-3


def test_the_mean_of_a_mixture_is_a_direction():
    emission = VonMises(means=[[3.0], [-3.0]], concentrations=[[5.0], [5.0]])
    mean = emission.mixture(torch.tensor([0.5, 0.5]).double().log()).mean
    assert abs(mean.item()) == pytest.approx(np.pi)


def test_equal_angles_are_held_and_said_and_empty_states_stay():
    rows = torch.full((9, 1), 0.7).double()
    emission = VonMises(means=[[0.0], [1.0]], concentrations=[[1.0], [2.0]])
    with pytest.warns(DegenerateWarning, match="all but equal"):
        emission.maximise(rows, torch.ones(9, 1).bool(), torch.tensor([[1.0, 0.0]] * 9).double())
    assert np.isfinite(emission.concentrations[0].item())
    assert emission.concentrations[1].item() == pytest.approx(2.0)


def test_states_are_found_from_sizes():
    truth = ps.HMM(
        initial_probs=[0.5, 0.5],
        transition_matrix=[[0.95, 0.05], [0.1, 0.9]],
        emission=VonMises(means=[[3.1], [0.5]], concentrations=[[4.0], [8.0]]),
    )
    y = truth.sample(1500, seed=0)
    model = ps.HMM(2, emission=VonMises(1)).fit(y, seed=0)
    assert model.log_prob(y) > truth.log_prob(y)
    assert model.n_parameters == 1 + 2 + 4
    found = sorted(np.cos(model.emission.means.detach().numpy().ravel()))
    np.testing.assert_allclose(found, sorted(np.cos([3.1, 0.5])), atol=0.05)


def test_errors():
    with pytest.raises(ValueError, match="concentrations must be non-negative numbers"):
        VonMises(means=[[0.0]], concentrations=[[-1.0]])
    with pytest.raises(ValueError, match="emissions have no unit to rescale"):
        VonMises(means=[[0.0]], concentrations=[[1.0]]).rescale(torch.ones(1), torch.zeros(1))
