"""Fixed points, cycles and exponents of maps whose own are known, run as cells."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import probseq as ps
from probseq.cells import Cell
from probseq.evaluation import (
    attractor_boundary,
    fixed_points,
    limit_cycle,
    lyapunov_exponents,
    mixing_time,
    sensitivity,
    time_scales,
)


class MapCell(Cell):
    """A cell whose next state is a given function of its state, whatever it reads."""

    def __init__(self, size: int, function: Callable[[Tensor], Tensor], start: list[float]) -> None:
        super().__init__(size, state_size=size)
        self.function, self.start = function, start

    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        super()._build(input_size, dtype)

    def _draw(self, draws: torch.Generator) -> None:
        self.initial_activity.copy_(torch.tensor(self.start))

    def step(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self.function(state)

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self._whole(inputs, state)


def system(size: int, function: Callable[[Tensor], Tensor], start: list[float]) -> ps.RNN:
    cell = MapCell(size, function, start)
    return ps.RNN(1, cell=cell, head=ps.heads.Gaussian(), input_dim=1, feedback=False, dtype=torch.float64, seed=0)


def one_unit(weight: float) -> ps.RNN:
    """h -> tanh(weight * h)"""
    return system(1, lambda h: torch.tanh(weight * h), [0.5])


def henon(h: Tensor) -> Tensor:
    x, y = h.unbind(-1)
    return torch.stack([1 - 1.4 * x.square() + y, 0.3 * x], -1)


def lorenz_step(h: Tensor, size: float = 0.01) -> Tensor:
    """One step of the classical Runge-Kutta method."""

    def flow(s: Tensor) -> Tensor:
        x, y, z = s.unbind(-1)
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)

    a = flow(h)
    b = flow(h + size / 2 * a)
    c = flow(h + size / 2 * b)
    return h + size / 6 * (a + 2 * b + 2 * c + flow(h + size * c))


ROOT = 0.9575040240772687  # of h = tanh(2 h)


# ----------------------------------------------------------------------------------------------------- exponents


def test_a_linear_system_has_the_logarithms_of_its_eigenvalues():
    rng = np.random.default_rng(0)
    matrix = torch.as_tensor(rng.normal(size=(4, 4)) / 2)
    expected = torch.linalg.eigvals(matrix).abs().log().sort(descending=True).values
    model = system(4, lambda h: h @ matrix.mT, [1.0, 0.0, 0.0, 0.0])
    closed = lyapunov_exponents(model, steps=4000)
    driven = lyapunov_exponents(model, torch.zeros(3000, 1), torch.zeros(3000, 1))
    assert abs(closed.sum() - torch.linalg.slogdet(matrix).logabsdet) < 1e-9
    torch.testing.assert_close(closed, expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(driven, expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(lyapunov_exponents(model, steps=500, n_exponents=2), expected[:2], rtol=0, atol=2e-2)


def test_henon_and_the_logistic_map():
    """Published: 0.4192 and -1.6230 (Sprott 2003), whose sum is log 0.3; log 2 for the logistic map."""
    found = lyapunov_exponents(system(2, henon, [0.1, 0.1]), steps=6000)
    assert float(found[0]) == pytest.approx(0.4192, abs=0.01)
    assert float(found.sum()) == pytest.approx(math.log(0.3), rel=1e-10)
    logistic = lyapunov_exponents(system(1, lambda h: 4 * h * (1 - h), [0.3]), steps=6000)
    assert float(logistic) == pytest.approx(math.log(2), abs=5e-3)


def test_lorenz():
    """Published: 0.906, 0, -14.572 per unit of time (Sprott 2003); their sum is -(10 + 1 + 8/3) exactly."""
    found = lyapunov_exponents(system(3, lorenz_step, [1.0, 1.0, 20.0]), steps=8000) / 0.01
    assert float(found[0]) == pytest.approx(0.906, abs=0.08)
    assert float(found[1]) == pytest.approx(0, abs=0.03)
    assert float(found.sum()) == pytest.approx(-(11 + 8 / 3), rel=1e-4)


def test_exponents_along_data_come_in_pieces_of_any_size(monkeypatch):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(2, 40, 1))
    model = ps.RNN(1, cell=ps.cells.LSTM(3), head=ps.heads.Gaussian(), seed=0)
    whole = lyapunov_exponents(model, y)
    monkeypatch.setattr("probseq.evaluation.dynamics.exponents.CHUNK", 7 * 2 * 36)
    torch.testing.assert_close(lyapunov_exponents(model, y), whole, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(lyapunov_exponents(model, y[1]), whole[1], rtol=1e-9, atol=1e-12)
    assert whole.shape == (2, 6)
    assert bool((whole[:, 0] < 0).all())


def test_an_echo_state_network_forgets_below_the_edge():
    y = ps.datasets.mackey_glass(400, seed=0)
    for radius, sign in ((0.6, -1), (3.0, 1)):
        model = ps.EchoState(40, spectral_radius=radius, input_scaling=0.05, washout=50, seed=0).fit(y, seed=0)
        first = float(lyapunov_exponents(model, y, n_exponents=1))
        assert first * sign > 0


# --------------------------------------------------------------------------------------- fixed points and cycles


def test_fixed_points_of_one_unit():
    points = fixed_points(one_unit(2.0), seed=0)
    assert points.stable.tolist() == [True, True, False]
    np.testing.assert_allclose(sorted(points.states[:, 0].tolist()), [-ROOT, 0, ROOT], atol=1e-9)
    np.testing.assert_allclose(points.eigenvalues[:, 0].real, [2 * (1 - ROOT**2)] * 2 + [2.0], rtol=1e-8)
    assert bool((points.residuals < 1e-9).all())
    single = fixed_points(one_unit(0.5), seed=0)
    assert single.states.abs().max() < 1e-9
    assert single.stable.tolist() == [True]


def test_fixed_points_of_henon_both_unstable():
    points = fixed_points(system(2, henon, [0.1, 0.1]), seed=0)
    expected = [(-0.7 + s * math.sqrt(0.49 + 4 * 1.4)) / 2.8 for s in (-1, 1)]
    np.testing.assert_allclose(sorted(points.states[:, 0].tolist()), expected, rtol=1e-8)
    assert not bool(points.stable.any())
    np.testing.assert_allclose(points.eigenvalues.prod(-1).real, [-0.3, -0.3], rtol=1e-9)


def test_no_fixed_point_is_an_empty_answer():
    points = fixed_points(system(1, lambda h: h + 1.0, [0.0]), seed=0)
    assert points.states.shape == (0, 1)
    assert points.eigenvalues.shape == (0, 1)


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_a_network_rests_at_its_fixed_points(cell):
    """Closed over its own mean: streaming from a fixed point stays there."""
    made = {"elman": ps.cells.Elman, "lstm": ps.cells.LSTM, "gru": ps.cells.GRU}[cell](3)
    model = ps.RNN(1, cell=made, head=ps.heads.Gaussian(), dtype=torch.float64, seed=2)
    points = fixed_points(model, n_starts=32, seed=0)
    assert len(points.states)
    for state in points.states:
        belief = ps.beliefs.Point(state, torch.zeros(1).double())
        with torch.no_grad():
            belief, _ = model.update(belief, model.emit(belief).mean)
            torch.testing.assert_close(model.predict(belief).state, state, rtol=1e-7, atol=1e-8)


def test_cycles():
    two = limit_cycle(one_unit(-2.0))
    assert two is not None
    assert two.period == 2
    np.testing.assert_allclose(sorted(two.states[:, 0].tolist()), [-ROOT, ROOT], atol=1e-9)
    np.testing.assert_allclose(two.multipliers.real, [(2 * (1 - ROOT**2)) ** 2], rtol=1e-7)
    assert two.stable
    three = limit_cycle(system(1, lambda h: 3.83 * h * (1 - h), [0.5]))
    assert three is not None
    assert three.period == 3
    slopes = 3.83 * (1 - 2 * three.states[:, 0])
    np.testing.assert_allclose(three.multipliers[0].real, slopes.prod(), rtol=1e-9)
    assert limit_cycle(one_unit(2.0)).period == 1  # type: ignore[union-attr]
    assert limit_cycle(system(2, henon, [0.1, 0.1])) is None
    turn = torch.tensor([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]], dtype=torch.float64)
    assert limit_cycle(system(2, lambda h: h @ turn, [1.0, 0.0])) is None


def test_the_boundary_between_two_attractors():
    model = one_unit(2.0)
    middle = attractor_boundary(model, [-0.7], [0.4])
    assert abs(float(middle)) < 1e-15
    found = sensitivity(model, [[0.0], [0.5], [1e-3]], steps=60)
    assert float(found.log_growth[0]) == pytest.approx(60 * math.log(2), rel=1e-12)
    assert float(found.log_growth[1]) < -60
    np.testing.assert_allclose(found.ends[1:, 0], [ROOT, ROOT], rtol=1e-9)
    path, slope = 0.5, 0.0
    for _ in range(60):
        slope, path = slope + math.log(2 * (1 - math.tanh(2 * path) ** 2)), math.tanh(2 * path)
    assert float(found.log_growth[1]) == pytest.approx(slope, rel=1e-9)
    with pytest.raises(ValueError, match="different attractors"):
        attractor_boundary(model, [0.2], [0.4])
    with pytest.raises(ValueError, match="1 entries"):
        sensitivity(model, [[0.0, 1.0]], 3)


# ----------------------------------------------------------------------------------------------- exact families


def test_a_linear_dynamical_system():
    matrix, offset = np.array([[0.8, -0.5], [0.5, 0.8]]), np.array([1.0, 0.0])
    model = ps.LDS(
        transition_matrix=matrix, transition_offset=offset, transition_cov=np.eye(2), emission_matrix=np.eye(1, 2),
        emission_cov=np.eye(1), initial_mean=np.zeros(2), initial_cov=np.eye(2),
    )  # fmt: skip
    modulus = math.hypot(0.8, 0.5)
    np.testing.assert_allclose(lyapunov_exponents(model), [math.log(modulus)] * 2, rtol=1e-12)
    point = fixed_points(model)
    np.testing.assert_allclose(point.states[0], np.linalg.solve(np.eye(2) - matrix, offset), rtol=1e-12)
    assert point.stable.tolist() == [True]
    scales = time_scales(model)
    np.testing.assert_allclose(scales.decay, [-1 / math.log(modulus)] * 2, rtol=1e-12)
    np.testing.assert_allclose(scales.period, [2 * math.pi / math.atan2(0.5, 0.8)] * 2, rtol=1e-12)
    walk = ps.LDS(
        transition_matrix=np.eye(1), transition_cov=np.eye(1), emission_matrix=np.eye(1), emission_cov=np.eye(1),
        initial_mean=np.zeros(1), initial_cov=np.eye(1),
    )  # fmt: skip
    with pytest.raises(ValueError, match="no isolated fixed point"):
        fixed_points(walk)
    assert math.isinf(float(time_scales(walk).decay[0]))


def test_a_hidden_markov_model():
    a, b = 0.1, 0.3
    model = ps.HMM(
        emission=ps.emissions.Categorical(probs=np.eye(2)), initial_probs=[0.5, 0.5],
        transition_matrix=[[1 - a, a], [b, 1 - b]],
    )  # fmt: skip
    np.testing.assert_allclose(lyapunov_exponents(model), [math.log(1 - a - b)], rtol=1e-10)
    np.testing.assert_allclose(fixed_points(model).states[0], [b / (a + b), a / (a + b)], rtol=1e-12)
    np.testing.assert_allclose(time_scales(model).decay, [-1 / math.log(1 - a - b)], rtol=1e-10)
    # the distance from a state is 0.6^t times what the law gives the other: a / (a + b), or b / (a + b), which counts
    for threshold in (0.25, 0.01):
        expected = math.ceil(math.log(threshold / (b / (a + b))) / math.log(1 - a - b))
        assert mixing_time(model, threshold=threshold) == expected
    flip = ps.HMM(
        emission=ps.emissions.Categorical(probs=np.eye(2)), initial_probs=[0.5, 0.5], transition_matrix=[[0, 1], [1, 0]]
    )
    assert mixing_time(flip) == math.inf
    assert fixed_points(flip).stable.tolist() == [False]


def test_the_mixing_time_is_the_first_step_that_is_near():
    rng = np.random.default_rng(3)
    matrix = rng.dirichlet(np.full(5, 0.3), size=5) * 0.1 + 0.9 * np.eye(5)
    model = ps.HMM(
        emission=ps.emissions.Categorical(probs=np.eye(5)), initial_probs=np.full(5, 0.2), transition_matrix=matrix
    )
    values, vectors = np.linalg.eig(matrix.T)
    law = vectors[:, values.real.argmax()].real
    law /= law.sum()
    power, steps = np.eye(5), 0
    while 0.5 * np.abs(power - law).sum(1).max() > 0.05:
        power, steps = power @ matrix, steps + 1
    assert mixing_time(model, threshold=0.05) == steps
    second = np.sort(np.abs(values))[-2]
    assert float(lyapunov_exponents(model)[0]) == pytest.approx(math.log(second), rel=1e-9)


# --------------------------------------------------------------------------------------------------- complaints


def test_time_scales_of_networks():
    points = time_scales(one_unit(0.5))
    assert float(points.decay[0]) == pytest.approx(-1 / math.log(0.5), rel=1e-9)
    y = np.random.default_rng(0).normal(size=60)
    model = ps.RNN(1, cell=ps.cells.GRU(4), head=ps.heads.Gaussian(), seed=0)
    np.testing.assert_allclose(time_scales(model, y).decay, -1 / lyapunov_exponents(model, y), rtol=1e-9)


def test_wrong_models_and_arguments():
    with pytest.raises(TypeError, match="recurrent networks"):
        fixed_points(ps.HSMM(2, emission=ps.emissions.Gaussian(1), duration=ps.durations.Table(5)))
    with pytest.raises(TypeError, match="for an HMM"):
        mixing_time(one_unit(1.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="u must have 1 entries"):
        fixed_points(one_unit(2.0), u=[1.0, 2.0])
    with pytest.raises(ValueError, match="washout must leave"):
        lyapunov_exponents(one_unit(2.0), steps=10, washout=10)
    with pytest.raises(ValueError, match="at least two steps"):
        lyapunov_exponents(one_unit(2.0), np.ones((1, 1)), np.ones((1, 1)))
