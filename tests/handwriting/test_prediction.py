"""The prediction network: its density, its scores and their units, the paper's optimiser, and what it reaches."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributions as D

import probseq as ps
from probseq.handwriting import PAPER, GravesRMSprop, Strokes, Units, evaluate, prediction_network, read_sketches
from probseq.handwriting.prediction import pen_head


def lines(n_lines: int, seed: int = 0, scale: float = 1.0) -> list[Strokes]:
    """Scribbles of uneven length."""
    draws = np.random.default_rng(seed)
    sizes = draws.integers(3, 30, n_lines)
    return [Strokes(scale * (draws.normal(size=(n, 2)).cumsum(0) + 0.2), draws.random(n) < 0.2) for n in sizes]


def head_and_oracle(n: int, seed: int = 0) -> tuple[ps.heads.Product, Tensor, D.MixtureSameFamily, Tensor]:
    """A head, activities, the same mixture made by torch from the paper's parameters, and the lift's logits.

    The oracle gets covariances from deviations and correlations, not from the factor that the head says.
    """
    head = pen_head(20, scale_floor=1e-3)
    head.bind(5, 3, dtype=torch.float64, generator_seed=seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in (head.weights, head.bias):
            weights.add_(
                0.5 * torch.randn(weights.shape, generator=draws, dtype=torch.float64)
            )  # cov is not near singular
        head.shift.copy_(torch.tensor([1.0, -2.0, 0.0]))
        head.scale.copy_(torch.tensor([3.0, 0.5, 1.0]))
    hidden = torch.randn(n, 5, generator=draws, dtype=torch.float64)
    raw = (hidden @ head.weights.T + head.bias).detach()
    mean, spread, below = raw[:, 20:120].unflatten(-1, (20, 5)).split((2, 2, 1), -1)
    first, second = (1e-3 + torch.log1p(spread.exp())).unbind(-1)
    below = below.squeeze(-1)
    deviations = torch.stack([first, (second.square() + below.square()).sqrt()], -1) * head.scale[:2]
    correlation = below / (second.square() + below.square()).sqrt()
    cov = torch.diag_embed(deviations.square())
    cov[..., 0, 1] = cov[..., 1, 0] = correlation * deviations.prod(-1)
    components = D.MultivariateNormal(head.shift[:2] + head.scale[:2] * mean, cov)
    return head, hidden, D.MixtureSameFamily(D.Categorical(logits=raw[:, :20]), components), raw[:, 120]


def test_density_is_that_of_torch(capsys):
    head, hidden, oracle, lift = head_and_oracle(200)
    y = torch.cat([oracle.sample(), torch.randint(0, 2, (200, 1)).double()], -1)
    expected = oracle.log_prob(y[:, :2]) + D.Bernoulli(logits=lift).log_prob(y[:, 2])
    found = head.log_prob(hidden, y)
    worst = float(((found - expected).abs() / (1 + expected.abs())).max().detach())
    with capsys.disabled():
        print(f"\nmixture density beside MixtureSameFamily(MultivariateNormal): {worst:.1e} relative")
    assert worst < 1e-10


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6], ids=["zero", "1e6", "-1e6"])
def test_gradients_are_finite_at_the_extremes(offset):
    """Duplicated points, zero offsets, offsets a million away."""
    model = prediction_network([8], seed=0)
    y = torch.zeros(2, 20, 3, dtype=torch.float64)
    y[:, 10:, :2] = offset
    value = model.log_prob(y).sum()
    value.backward()
    assert bool(torch.isfinite(value.detach()))
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all()), name


@pytest.mark.slow
def test_gradients_stay_finite_where_points_repeat(capsys):
    """5,000 updates on lines that repeat themselves exactly: the floor of the deviations bounds the density."""
    rows = np.tile([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 3.0, 1.0]], (8, 1))
    y = [rows] * 8
    model = prediction_network([16], 5, seed=0)
    model.fit(y, max_iterations=5000, learning_rate=3e-3, validation=False, seed=0)
    model.log_prob(y).sum().backward()
    finite = all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    least = math.log(2 * math.pi * 1e-6 * float(model.head.scale[:2].prod()))
    with capsys.disabled():
        print(
            f"\nafter 5,000 updates: {-model.score(y):.3f} nats per point (bound {least:.3f}), "
            f"gradients finite: {finite}"
        )
    assert finite
    assert len(model.history.objective) > 5000
    assert -model.score(y) > least


def test_scores_are_those_of_the_contract_and_convert_exactly(capsys):
    data = lines(70, scale=40.0)
    units = Units.of(data)
    model = prediction_network([6, 5], 3, dtype=torch.float64, seed=0)
    model.head.start_from(torch.as_tensor(np.concatenate([line.to_array() for line in data])))
    scores = evaluate(model, data)
    np.testing.assert_allclose(scores.nats, -model.log_prob([line.to_array() for line in data]).detach(), rtol=1e-12)
    same = prediction_network([6, 5], 3, dtype=torch.float64, seed=0)
    same.load_state_dict(model.state_dict())
    shift, scale = (torch.tensor(x, dtype=torch.float64) for x in ([*units.shift, 0.0], [*units.scale, 1.0]))
    same.head.shift.copy_((model.head.shift - shift) / scale)
    same.head.scale.copy_(model.head.scale / scale)
    there = evaluate(same, [line.normalise(units) for line in data])
    back = there.outside(units)
    worst = float(np.abs(scores.nats - back.nats).max() / np.abs(scores.nats).max())
    with capsys.disabled():
        print(f"\nper-sequence nats through {units}: {worst:.1e} relative")
    np.testing.assert_allclose(scores.within(units).nats, there.nats, rtol=1e-11)
    np.testing.assert_allclose(scores.squared_error, back.squared_error, rtol=1e-11)
    np.testing.assert_allclose(
        scores.nats, [-units.log_density(-n, t) for n, t in zip(there.nats, there.n_points, strict=True)]
    )
    assert worst < 1e-12
    assert scores.per_line == pytest.approx(scores.nats.mean())
    assert "per line" in str(scores)


def test_squared_error_is_about_the_mean_of_the_mixture():
    (line,) = lines(1)
    model = prediction_network([4], 3, dtype=torch.float64, seed=1)
    belief, total = model.initial_belief(), np.zeros(2)
    for row in torch.as_tensor(line.to_array()):
        total += (model.emit(belief).mean.detach().numpy()[:2] - row.numpy()[:2]) ** 2
        belief = model.predict(model.update(belief, row)[0])
    np.testing.assert_allclose(evaluate(model, [line]).squared_error[0], total, rtol=1e-12)


def test_the_networks_of_the_paper():
    one, three = prediction_network([900]), prediction_network([400, 400, 400])
    assert one.head.weights.shape == (*three.head.weights.shape[:1], 900) == (121, 900)
    weights = [sum(p.numel() for n, p in model.named_parameters() if "initial" not in n) for model in (one, three)]
    assert [round(n / 1e6, 1) for n in weights] == [3.4, 3.4]  # "approximately 3.4M weights"


def test_one_update_of_the_papers_rmsprop():
    """Equations (38)-(41), by numpy."""
    x = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    optimiser = GravesRMSprop([x], lr=0.01)
    expected, n, m, v = x.detach().numpy().copy(), np.zeros(2), np.zeros(2), np.zeros(2)
    for step in range(5):
        g = np.array([0.3 * step - 0.2, 1e-3])
        n, m = 0.95 * n + 0.05 * g**2, 0.95 * m + 0.05 * g
        v = 0.9 * v - 0.01 * g / np.sqrt(n - m**2 + 1e-4)
        expected += v
        x.grad = torch.as_tensor(g)
        optimiser.step()
    np.testing.assert_allclose(x.detach(), expected, rtol=1e-14)


@pytest.mark.parametrize("change", [{"decay": 1.0}, {"momentum": -0.1}, {"constant": 0.0}])
def test_settings_of_the_optimiser_are_checked(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        GravesRMSprop([torch.zeros(1, requires_grad=True)], **change)


def test_the_papers_training_lowers_the_loss():
    data = [line.to_array() for line in lines(20)]
    model = prediction_network([16], 4, seed=0)
    model.fit(data, max_iterations=40, validation=False, seed=0, **{**PAPER, "learning_rate": 1e-3})
    assert model.history.objective[-1] > model.history.objective[0] + 10
    noisy = prediction_network([16], 4, seed=0)
    noise = ps.learning.AdaptiveNoise(0.01)
    noisy.fit(data, max_iterations=5, validation=False, seed=0, weight_noise=noise, **PAPER)
    assert np.isfinite(noisy.history.objective).all()


def var2(train: list[Strokes], test: list[Strokes], units: Units) -> float:
    """Nats per point of a linear VAR(2) with a Gaussian, and of lifts at their share."""

    def table(data: list[Strokes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        before, now = [], []
        for line in data:
            offsets = np.concatenate([np.zeros((2, 2)), line.normalise(units).offsets])
            before.append(np.column_stack([offsets[1:-1], offsets[:-2], np.ones(len(line))]))
            now.append(offsets[2:])
        return np.concatenate(before), np.concatenate(now), np.concatenate([line.lifts for line in data])

    x, y, lifts = table(train)
    weights, share = np.linalg.lstsq(x, y, rcond=None)[0], lifts.mean()
    cov = np.cov((y - x @ weights).T, bias=True)
    x, y, lifts = table(test)
    said = D.MultivariateNormal(torch.as_tensor(x @ weights), torch.as_tensor(cov)).log_prob(torch.as_tensor(y))
    pen = lifts.mean() * math.log(share) + (1 - lifts.mean()) * math.log(1 - share)
    return -float(said.mean()) - pen


@pytest.mark.slow
@pytest.mark.skipif("PROBSEQ_DATA" not in os.environ, reason="needs omniglot_strokes.npz")
def test_omniglot(capsys):
    """Drawings are mostly on a grid of 6: each point is spread over its cell of that width, so this is a density."""
    path = Path(os.environ["PROBSEQ_DATA"]) / "omniglot_strokes.npz"
    train = [line.dequantise(k, width=6.0) for k, line in enumerate(read_sketches(path)[:12_000])]
    test = [line.dequantise(-k % 2**32, width=6.0) for k, line in enumerate(read_sketches(path, "test"), 1)]
    units = Units.of(train)
    baseline = var2(train, test, units)
    model = prediction_network([128], seed=0)
    model.fit(
        [line.to_array() for line in train], learning_rate=5e-3, schedule="linear", batch_size=40, max_iterations=5,
        validation=False, seed=0,
    )  # fmt: skip
    scores = evaluate(model, test)
    normal = scores.within(units)
    with capsys.disabled():
        print(
            f"\nOmniglot, 1,500 updates: {normal} (scale {units.scale}); in the recording's unit {scores}; "
            f"VAR(2) and pen {baseline:.3f} per point: {baseline - normal.per_point:.3f} below"
        )
    assert baseline - normal.per_point > 2.5
