"""Noise on the weights: the description length against torch.distributions, gradients against finite averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import probseq as ps
from probseq.learning import AdaptiveNoise
from probseq.learning.problem import Problem
from probseq.learning.settings import training
from probseq.learning.stochastic import Trainer
from probseq.learning.weight_noise import WeightNoise
from probseq.sequences import Sequences


def random_weights() -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draws, dtype=torch.float64) for shape in [(3, 2), (4,)]]


def random_noise(weights: list[torch.Tensor]) -> WeightNoise:
    noise, draws = WeightNoise(weights, AdaptiveNoise(0.1)), torch.Generator().manual_seed(1)
    for log_sd in noise.log_sd:
        log_sd.add_(torch.randn(log_sd.shape, generator=draws, dtype=torch.float64))
    return noise


def divergence(mean: torch.Tensor, log_sd: torch.Tensor, prior: Normal) -> torch.Tensor:
    return kl_divergence(Normal(mean, log_sd.exp()), prior).sum()


def test_the_cost_is_the_divergence_from_the_best_prior():
    weights = random_weights()
    noise = random_noise(weights)
    mean, square = noise.prior()
    mu, log_sd = (torch.cat([t.flatten() for t in part]) for part in (weights, noise.log_sd))
    cost = divergence(mu, log_sd, Normal(mean, square**0.5))
    assert noise.cost() == pytest.approx(cost.item(), rel=1e-12)
    for other in (
        Normal(mean + 1e-3, square**0.5),
        Normal(mean, 1.001 * square**0.5),
        Normal(mean, 0.999 * square**0.5),
    ):
        assert divergence(mu, log_sd, other) > cost


def test_its_gradient_is_that_of_the_divergence():
    """The prior is at its optimum, so that it may be held: the derivative of a minimum."""
    weights = random_weights()
    noise = random_noise(weights)
    mu, log_sd = (torch.cat([t.flatten() for t in part]).requires_grad_(True) for part in (weights, noise.log_sd))
    best = (mu.mean(), ((2 * log_sd).exp() + (mu - mu.mean()).square()).mean().sqrt())
    expected = torch.autograd.grad(divergence(mu, log_sd, Normal(*best)), (mu, log_sd))
    with noise.drawn():
        pass
    got = noise.gradients([torch.zeros_like(w) for w in weights], 1.0)
    torch.testing.assert_close(torch.cat([g.flatten() for g in got[:2]]), expected[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.cat([g.flatten() for g in got[2:]]), expected[1], rtol=1e-10, atol=1e-12)


def test_gradients_average_to_those_of_the_expected_loss():
    """Of sum a w^2 / 2 + b w the mean is sum a (mu^2 + sigma^2) / 2 + b mu: by mu a mu + b, by log sigma a sigma^2."""
    weights = [torch.tensor([0.5, -1.0], dtype=torch.float64)]
    curvature, slope = torch.tensor([2.0, 0.3]).double(), torch.tensor([0.1, -0.7]).double()
    noise, n = WeightNoise(weights, AdaptiveNoise(0.4)), 2500
    by_mean, by_log_sd = torch.zeros(2, n).double(), torch.zeros(2, n).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for i in range(n):
            with noise.drawn():
                found = curvature * weights[0] + slope
            by_mean[:, i], by_log_sd[:, i] = noise.gradients([found], 0.0)
    for got, expected in ((by_mean, curvature * weights[0] + slope), (by_log_sd, curvature * 0.16)):
        error = got.std(-1) / n**0.5
        assert bool(((got.mean(-1) - expected).abs() < 4 * error).all())
        assert bool((error < 0.2 * expected.abs()).all())


def test_a_held_noise_blurs_and_leaves_no_trace():
    weights = [torch.zeros(20_000, dtype=torch.float32)]
    noise = WeightNoise(weights, 0.075)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with noise.drawn():
            first = weights[0].clone()
        with noise.drawn():
            second = weights[0].clone()
    assert not weights[0].any()
    assert not noise.variables
    assert noise.cost() == 0.0
    for blur in (first, second):
        assert abs(blur.std().item() - 0.075) < 5 * 0.075 / (2 * 20_000) ** 0.5
        assert abs(blur.mean().item()) < 5 * 0.075 / 20_000**0.5
    assert abs((first * second).mean().item()) < 5 * 0.075**2 / 20_000**0.5


def test_noise_is_drawn_once_for_an_update_and_the_score_is_that_of_the_means():
    y = np.sin(0.5 * np.arange(40)).reshape(2, 20, 1)
    model = ps.RNN(cell=ps.cells.GRU(4), head=ps.heads.Gaussian(), dtype=torch.float64, seed=0)
    data = Sequences.of(y)
    plain = model._log_prob(data).sum().item()
    for given in (0.1, AdaptiveNoise(0.1)):
        trainer = Trainer(model, Problem(model, data, None, False), 1, training("adam", {"weight_noise": given}))
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        (piece,) = trainer.batches.a_pass()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            value, _ = trainer._noisy(piece, trainer.noise)
            torch.manual_seed(0)
            with trainer.noise.drawn():
                expected = model._log_prob(data).sum().item()
        assert value == pytest.approx(expected - trainer.noise.cost(), rel=1e-12)
        assert expected != plain
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    fitted = model.fit(y, seed=0, validation=0.5, max_iterations=5, weight_noise=AdaptiveNoise())
    tail = fitted.filter(y).log_prob[:, 10:].sum().item()
    assert tail == pytest.approx(max(fitted.history.validation), rel=1e-9)


def test_noise_finds_flat_weights_and_prices_them():
    """A weight that nothing depends on goes to the prior and costs nothing; one that matters stays sharp."""
    weights = [torch.tensor([1.0, 0.2], dtype=torch.float64)]
    noise = WeightNoise(weights, AdaptiveNoise(0.1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(3000):
            with noise.drawn():
                found = torch.stack([1000.0 * (weights[0][0] - 1.0), torch.zeros(()).double()])
            by_mean, by_log_sd = noise.gradients([found], 1.0)
            weights[0].sub_(1e-4 * by_mean)
            noise.log_sd[0].sub_(1e-2 * by_log_sd)
    sharp, flat = noise.log_sd[0].exp().tolist()
    assert sharp == pytest.approx(1000**-0.5, rel=0.3)  # the posterior of a Gaussian likelihood, far below the prior
    assert flat == pytest.approx(noise.prior()[1] ** 0.5, rel=0.3)


def test_bad_noise_is_named():
    with pytest.raises(ValueError, match="start must be a positive number"):
        AdaptiveNoise(0.0)
    model = ps.RNN(cell=ps.cells.GRU(2), head=ps.heads.Gaussian())
    with pytest.raises(ValueError, match="weight_noise must be a positive number"):
        model.fit([0.0, 1.0, 2.0], weight_noise=-1)
    hmm = ps.HMM(2, transition_matrix=[[0.5, 0.5], [0.0, 1.0]], emission=ps.emissions.Gaussian(1))
    with pytest.raises(ValueError, match="weight_noise needs weights that are all free"):
        hmm.fit(np.arange(9.0), method="gradient", optimizer="adam", weight_noise=0.1, seed=0)
