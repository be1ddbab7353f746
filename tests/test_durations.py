"""Durations against scipy: renormalised probabilities, survivors, hazards, and the M-step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

import probseq as ps
from probseq.parameters import freeze

D = 30
MEANS, SHAPES = np.array([0.5, 6.0, 40.0]), np.array([0.7, 3.0, 1e17])


def cases() -> dict[str, tuple[ps.durations.Duration, np.ndarray]]:
    """Each distribution with scipy's probabilities on {1 .. D}, not yet renormalised."""
    d = np.arange(D)
    table = np.random.default_rng(0).uniform(size=(3, D))
    table[1, 12:] = 0
    table[2, :4] = 0
    table /= table.sum(-1, keepdims=True)
    negative = scipy.stats.nbinom.logpmf(d, SHAPES[:, None], (SHAPES / (SHAPES + MEANS))[:, None])
    negative[2] = scipy.stats.poisson.logpmf(d, MEANS[2])  # the limit of a large shape
    return {
        "table": (ps.durations.Table(probs=table), table),
        "poisson": (ps.durations.Poisson(D, rates=MEANS), scipy.stats.poisson.pmf(d, MEANS[:, None])),
        "negative": (ps.durations.NegativeBinomial(D, means=MEANS, shapes=SHAPES), np.exp(negative)),
    }


@pytest.mark.parametrize("name", cases())
def test_probabilities_survivors_and_hazards(name):
    duration, truth = cases()[name]
    truth = truth / truth.sum(-1, keepdims=True)
    probs = duration.log_probs().exp().detach().numpy()
    np.testing.assert_allclose(probs, truth, rtol=1e-11)
    tail = probs[:, ::-1].cumsum(-1)[:, ::-1]
    np.testing.assert_allclose(duration.log_survivor().exp().detach(), tail, rtol=1e-11)
    ends, lasts = (x.exp().detach().numpy() for x in duration.log_hazards())
    np.testing.assert_allclose(ends + lasts, 1, rtol=1e-12)
    np.testing.assert_allclose(ends[tail > 0], (probs / np.where(tail > 0, tail, 1))[tail > 0], rtol=1e-11)
    assert (lasts[:, -1] == 0).all()


@pytest.mark.parametrize("name", cases())
def test_hazards_have_finite_and_right_gradients(name):
    duration, _ = cases()[name]
    parameters = list(duration.parameters())

    def finite(*_: torch.Tensor) -> torch.Tensor:
        ends, lasts = duration.log_hazards()
        return torch.cat([ends[ends > -math.inf], lasts[lasts > -math.inf]])

    assert torch.autograd.gradcheck(finite, parameters, check_batched_grad=False)


def test_a_rate_of_zero_is_one_step():
    duration = ps.durations.Poisson(4, rates=[0.0])
    assert duration.log_probs().exp().tolist() == [[1, 0, 0, 0]]
    duration.log_probs()[0, 0].backward()
    assert duration.raw_rates.grad.tolist() == [0.0]


def test_table_m_step_is_the_relative_frequency():
    counts = torch.as_tensor(np.random.default_rng(1).uniform(size=(3, 5)))
    counts[1] = 0  # a state that was never seen keeps its law
    duration = ps.durations.Table(5)
    duration.bind(3)
    duration.start(0)
    before = duration.probs[1].clone()
    duration.maximise(counts)
    np.testing.assert_allclose(duration.probs[0].detach(), counts[0] / counts[0].sum(), rtol=1e-12)
    np.testing.assert_allclose(duration.probs[1].detach(), before.detach(), rtol=1e-12)


def expected_log(duration: ps.durations.Duration, counts: torch.Tensor) -> torch.Tensor:
    return (counts * duration.log_probs()).sum(-1)


@pytest.mark.parametrize("seed", range(5))
def test_poisson_m_step_matches_the_mean_of_the_truncated_law(seed):
    rng = np.random.default_rng(seed)
    counts = torch.as_tensor(rng.uniform(size=(2, 12)) * rng.uniform(size=(2, 12)) ** 6)
    duration = ps.durations.Poisson(12, rates=[0.1, 60.0])
    duration.maximise(counts)
    d = torch.arange(12, dtype=torch.float64)
    fitted = (duration.log_probs().exp() * d).sum(-1).detach()
    np.testing.assert_allclose(fitted, (counts * d).sum(-1) / counts.sum(-1), rtol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_negative_binomial_m_step_is_the_maximum(seed):
    rng = np.random.default_rng(seed)
    counts = torch.as_tensor(rng.multinomial(500, scipy.stats.nbinom.pmf(np.arange(25), 2.0, 0.3) / 0.999)[None] * 1.0)
    duration = ps.durations.NegativeBinomial(25, means=[12.0], shapes=[0.2])
    before = expected_log(duration, counts)
    duration.maximise(counts)
    after = expected_log(duration, counts)

    def loss(logs: np.ndarray) -> float:
        mean, shape = np.exp(logs)
        log_probs = scipy.stats.nbinom.logpmf(np.arange(25), shape, shape / (shape + mean))
        return -float(counts[0].numpy() @ (log_probs - np.logaddexp.reduce(log_probs)))

    truth = scipy.optimize.minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-10})
    assert after.item() > before.item()
    assert after.item() == pytest.approx(-truth.fun, rel=1e-10)
    np.testing.assert_allclose(np.log([duration.means.item(), duration.shapes.item()]), truth.x, atol=1e-4)


@pytest.mark.parametrize("counts", [[1.0, 0, 0, 0], [0, 0, 0, 1.0], [1.0, 0, 0, 1.0], [0, 1.0, 0, 0]])
@pytest.mark.parametrize("make", [ps.durations.Poisson, ps.durations.NegativeBinomial])
def test_m_steps_at_the_edge_stay_finite_and_rise(make, counts):
    duration = make(4)
    duration.bind(1)
    duration.start(0)
    table = torch.tensor([counts], dtype=torch.float64)
    for _ in range(3):
        before = expected_log(duration, table)
        duration.maximise(table)
        assert expected_log(duration, table).item() >= before.item() - 1e-12
        assert all(torch.isfinite(p).all() for p in duration.parameters())


def test_a_frozen_parameter_stays():
    duration = ps.durations.NegativeBinomial(9, means=[2.0], shapes=[3.0])
    counts = torch.ones(1, 9, dtype=torch.float64)
    before = expected_log(duration, counts)
    with freeze(duration, ["shapes"]):
        duration.maximise(counts)
    assert duration.shapes.item() == pytest.approx(3.0, rel=1e-14)
    assert expected_log(duration, counts).item() > before.item()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ps.durations.Poisson(0), "max_duration must be a positive integer, got 0"),
        (lambda: ps.durations.Poisson(), "max_duration must be a positive integer, got None"),
        (lambda: ps.durations.Poisson(3, rates=2.0), r"rates must have shape \(n_states,\), got \(\)"),
        (lambda: ps.durations.Poisson(3, rates=[-1.0]), "rates must be non-negative numbers; smallest entry -1"),
        (lambda: ps.durations.NegativeBinomial(3, means=[1.0], shapes=[1.0, 2.0]), "one entry per state"),
        (lambda: ps.durations.Table(probs=[0.5, 0.5]), r"probs must have shape \(n_states, max_duration\)"),
        (lambda: ps.durations.Table(probs=[[0.5, 0.4]]), "a row sums to 0.9"),
        (lambda: ps.durations.Table(3, probs=[[0.5, 0.5]]), r"probs must have shape \(1, 3\)"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
