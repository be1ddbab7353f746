"""Emissions side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.emissions import Categorical, Gaussian, Poisson, Product, StudentT


def mixed() -> Product:
    place = Gaussian(means=[[0.0, 1.0], [2.0, -1.0]], covs=[[[1.0, 0.3], [0.3, 2.0]]] * 2)
    return Product(place=place, kind=Categorical(probs=[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))


def model(emission: Product) -> ps.HMM:
    return ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.2, 0.8]], emission=emission)


def test_tables_add_and_gaps_are_each_parts_own():
    emission = mixed()
    rows = torch.tensor([[0.3, 1.0, 2.0], [0.0, 4.0, 0.0], [1.0, 0.0, 0.0]]).double()
    seen = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0]]).bool()
    place, kind = emission.parts
    expected = place.log_prob(rows[:, :2], seen[:, :2]) + kind.log_prob(rows[:, 2:], seen[:, 2:])
    assert torch.equal(emission.log_prob(rows, seen), expected)
    said = emission.distribution().log_prob(rows[:, None])
    torch.testing.assert_close(said, emission.log_prob(rows), rtol=1e-12, atol=1e-12)
    assert emission.degrees_of_freedom() == 0
    assert model(emission).n_parameters == 1 + 2 + (4 + 6) + 4


def test_the_m_step_is_that_of_the_parts():
    emission, other = mixed(), mixed()
    y = model(mixed()).sample(60, seed=0)
    seen, weights = torch.ones_like(y).bool(), torch.rand(60, 2, dtype=torch.float64)
    emission.maximise(y, seen, weights)
    for part, columns in zip(other.parts, ([0, 1], [2]), strict=True):
        part.maximise(y[:, columns], seen[:, columns], weights)
    for mine, theirs in zip(emission.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_draws_and_forecasts():
    truth = model(mixed())
    y = truth.sample(20_000, seed=0)
    assert set(y[:, 2].unique().tolist()) == {0.0, 1.0, 2.0}
    share = np.array([2, 1]) / 3  # the stationary law
    np.testing.assert_allclose(y[:, :2].mean(0), share @ truth.emission.place.means.detach().numpy(), atol=0.1)
    shares = torch.bincount(y[:, 2].long()) / len(y)
    np.testing.assert_allclose(shares, share @ truth.emission.kind.probs.detach().numpy(), atol=0.03)
    says = truth.forecast(y[:50], 3, n_samples=10, seed=0)
    assert says.samples.shape == (10, 3, 3)
    assert torch.isfinite(says.mean[:, :2]).all()
    assert says.mean[:, 2].isnan().all()


@pytest.mark.filterwarnings("ignore::probseq.errors.ConvergenceWarning")
def test_states_are_found_from_sizes_and_names_hold_parts(tmp_path):
    truth = model(mixed())
    y = truth.sample(1500, seed=1)
    found = ps.HMM(2, emission=Product(place=Gaussian(2), kind=Categorical(3))).fit(y, seed=0)
    assert found.log_prob(y) > truth.log_prob(y)
    found.save(tmp_path / "model")
    assert ps.load(tmp_path / "model").log_prob(y) == found.log_prob(y)
    held = model(mixed()).fit(y, fixed={"emission.place.means"}, max_iterations=3)
    assert torch.equal(held.emission.place.means, truth.emission.place.means)
    assert not torch.equal(held.emission.kind.probs, truth.emission.kind.probs)


def test_units_exist_where_all_parts_have_one():
    real = Product(StudentT(1), Gaussian(1))
    assert real.real_valued
    assert Product(Gaussian(2, covariance="spherical"), Gaussian(1)).common_scale
    assert not mixed().real_valued
    with pytest.raises(ValueError, match="no unit to rescale"):
        model(mixed()).rescale(2.0)


def test_errors():
    with pytest.raises(ValueError, match="at least one emission"):
        Product()
    with pytest.raises(ValueError, match="must be the same in all parts"):
        Product(Poisson(rates=[[1.0], [2.0]]), Poisson(rates=[[1.0]]))
    with pytest.raises(ValueError, match="got one twice"):
        Product(*[Poisson(1)] * 2)
    with pytest.raises(ValueError, match="'event_shape' cannot be the name"):
        Product(event_shape=Poisson(1))
    with pytest.raises(ValueError, match="need names of their own"):
        Product(Poisson(1), part_0=Poisson(1))
    with pytest.raises(ValueError, match=r"symbols 0 \.\. 2 in column 2, got 3 at step 0, column 2"):
        model(mixed()).log_prob(np.array([[0.0, 0.0, 3.0]]))
    with pytest.raises(ValueError, match="must be the same everywhere"):
        ps.HMM(3, emission=mixed(), transition_matrix=np.eye(3))
