"""Student t emissions against scipy, gaps included, and an M-step that climbs to the maximum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from probseq.emissions import Gaussian, StudentT
from probseq.emissions.student import MOST_DOFS

KINDS = ("full", "diag")


def random_emission(covariance: str, seed: int = 0) -> StudentT:
    draws = np.random.default_rng(seed)
    half = draws.normal(size=(2, 3, 3))
    scales = (half @ half.transpose(0, 2, 1) + np.eye(3)) * (np.eye(3) if covariance == "diag" else 1)
    return StudentT(means=draws.normal(size=(2, 3)), scales=scales, dofs=[1.5, 7.0], covariance=covariance)


def random_rows(n: int, missing: float = 0.0, seed: int = 1):
    draws = np.random.default_rng(seed)
    rows, seen = draws.standard_t(3.0, size=(n, 3)), draws.random((n, 3)) >= missing
    return torch.as_tensor(np.where(seen, rows, 0.0)), torch.as_tensor(seen)


@pytest.mark.parametrize("covariance", KINDS)
def test_missing_coordinates_are_integrated_out(covariance):
    emission = random_emission(covariance)
    rows, seen = random_rows(40, missing=0.4)
    table = emission.log_prob(rows, seen).detach()
    means, scales = emission.means.detach().numpy(), emission.scales.detach().numpy()
    for n in range(40):
        o = seen[n].numpy()
        for k, v in enumerate([1.5, 7.0]):
            law = stats.multivariate_t(means[k][o], scales[k][np.ix_(o, o)], df=v) if o.any() else None
            expected = 0.0 if law is None else law.logpdf(rows[n][o])
            assert table[n, k].item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("covariance", KINDS)
def test_table_agrees_with_the_distribution(covariance):
    emission = random_emission(covariance)
    rows, _ = random_rows(10)
    law = emission.distribution()
    torch.testing.assert_close(emission.log_prob(rows), law.log_prob(rows.unsqueeze(-2)), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(law.mean, emission.means)
    torch.testing.assert_close(law.variance[1], emission.scales[1].diagonal() * 7 / 5)
    assert torch.isinf(law.variance[0]).all()
    assert StudentT(means=[[0.0]], scales=[[[1.0]]], dofs=[0.9]).distribution().mean.isnan().all()


def test_draws_are_t():
    emission = random_emission("full")
    torch.manual_seed(0)
    drawn = emission.distribution().sample((20_000,)).numpy()
    for k, v in enumerate([1.5, 7.0]):
        mean, scale = emission.means[k].detach().numpy(), emission.scales[k].detach().numpy()
        for d in range(3):
            assert stats.kstest(drawn[:, k, d], stats.t(v, mean[d], scale[d, d] ** 0.5).cdf).pvalue > 1e-3
        away = np.linalg.solve(np.linalg.cholesky(scale), (drawn[:, k] - mean).T)
        assert stats.kstest((away**2).sum(0) / 3, stats.f(3, v).cdf).pvalue > 1e-3


def test_many_degrees_of_freedom_are_gaussian():
    rows, seen = random_rows(20, missing=0.3)
    student = random_emission("full")
    student.dofs = [1e16, 1e15]
    gaussian = Gaussian(means=student.means, covs=student.scales)
    torch.testing.assert_close(student.log_prob(rows, seen), gaussian.log_prob(rows, seen), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("covariance", KINDS)
def test_m_steps_climb_to_a_stationary_point(covariance, missing):
    emission = random_emission(covariance)
    rows, seen = random_rows(120, missing=missing)
    weights = torch.rand(120, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    value = (weights * emission.log_prob(rows, seen)).sum().item()
    for _ in range(300):
        emission.maximise(rows, seen, weights)
        after = (weights * emission.log_prob(rows, seen)).sum().item()
        assert after >= value - 1e-10 * abs(value)
        settled, value = after - value < 1e-14 * abs(value), after
        if settled:
            break
    (weights * emission.log_prob(rows, seen)).sum().backward()
    for name in ("raw_means", "raw_scales", "raw_dofs"):
        assert getattr(emission, name).grad.abs().max() < 1e-4


def test_one_column_reaches_the_maximum_that_scipy_finds():
    rows = torch.as_tensor(np.random.default_rng(3).standard_t(2.5, size=(400, 1)) * 1.7 + 4)
    emission = StudentT(means=[[0.0]], scales=[[[1.0]]], dofs=[10.0])
    for _ in range(40):
        emission.maximise(rows, torch.ones_like(rows).bool(), torch.ones_like(rows))
    dof, mean, scale = stats.t.fit(rows.numpy())
    assert emission.dofs.item() == pytest.approx(dof, rel=1e-3)
    assert emission.means.item() == pytest.approx(mean, rel=1e-4)
    assert emission.scales.item() == pytest.approx(scale**2, rel=1e-3)


def test_light_tails_end_at_the_bound():
    rows = torch.as_tensor(np.random.default_rng(4).uniform(-1, 1, size=(200, 1)))
    emission = StudentT(means=[[0.0]], scales=[[[1.0]]], dofs=[10.0])
    for _ in range(5):
        emission.maximise(rows, torch.ones_like(rows).bool(), torch.ones_like(rows))
    assert emission.dofs.item() == pytest.approx(MOST_DOFS)


def test_an_empty_state_keeps_its_parameters_and_rows_of_nothing_say_nothing():
    emission, other = random_emission("full"), random_emission("full")
    rows, seen = random_rows(30)
    weights = torch.tensor([[1.0, 0.0]]).double().expand(30, 2)
    emission.maximise(rows, seen, weights)
    for name in ("means", "scales", "dofs"):
        torch.testing.assert_close(getattr(emission, name)[1], getattr(other, name)[1], rtol=1e-10, atol=1e-10)
    longer = [torch.cat([x, torch.zeros(7, 3, dtype=x.dtype)]) for x in (rows, seen)]
    other.maximise(longer[0], longer[1], torch.cat([weights, weights[:7]]))
    for name in ("means", "scales", "dofs"):
        assert torch.equal(getattr(emission, name), getattr(other, name))


def test_free_parameters_and_errors():
    assert random_emission("full").degrees_of_freedom() == 6 + 12 + 2
    assert random_emission("diag").degrees_of_freedom() == 6 + 6 + 2
    with pytest.raises(ValueError, match="dofs must be positive"):
        StudentT(means=[[0.0]], scales=[[[1.0]]], dofs=[0.0])
    with pytest.raises(ValueError, match='scales must be of the type covariance="diag"'):
        StudentT(means=np.zeros((1, 2)), scales=[[[1.0, 0.5], [0.5, 1.0]]], covariance="diag")
    with pytest.raises(ValueError, match="scales must be positive definite"):
        StudentT(means=np.zeros((1, 2)), scales=[[[1.0, 2.0], [2.0, 1.0]]])
