"""VRNN and SRNN: without states they are recurrent networks, without feedback linear systems; bounds against grids."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import probseq as ps
from probseq.cells import GRU, Elman


def data(dim: int = 2, steps: int = 7, inputs: int = 0) -> tuple[Tensor, Tensor | None]:
    rng = np.random.default_rng(3)
    u = torch.as_tensor(rng.normal(size=(3, steps, inputs))) if inputs else None
    return torch.as_tensor(rng.normal(size=(3, steps, dim))), u


def make(family: str, **options: Any) -> Any:
    own = {"cell": GRU(4), "head": ps.heads.Gaussian(), "layers": (5,), "dtype": torch.float64, "seed": 1}
    return getattr(ps, family)(2, 2, **(own | ({"guide_size": 4} if family == "SRNN" else {}) | options))


@pytest.mark.parametrize(
    "head", [ps.heads.Gaussian, lambda: ps.heads.MixtureDensity(2), lambda: ps.heads.Gaussian("full")]
)
def test_a_vrnn_without_a_state_is_the_network(head: Callable[[], Any]):
    network = ps.RNN(2, cell=GRU(4), head=head(), input_dim=1, dtype=torch.float64, seed=1)
    model = ps.VRNN(0, 2, cell=GRU(4), head=head(), layers=(), input_dim=1, dtype=torch.float64, seed=2)
    model.cell.load_state_dict(network.cell.state_dict())
    model.head.load_state_dict(network.head.state_dict())
    y, u = data(inputs=1)
    y[0, 2, 1], y[1, 4] = torch.nan, torch.nan
    truth = network.log_prob(y, u).detach()
    torch.testing.assert_close(model.log_prob(y, u), truth, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.filter(y, u).log_prob, network.filter(y, u).log_prob, rtol=1e-12, atol=1e-12)
    for kind in ("bound", "importance", "particle"):
        found = model.estimate_log_prob(y, u, kind=kind, n_samples=2, seed=0)
        torch.testing.assert_close(found.value, truth, rtol=1e-12, atol=1e-12)
        assert float(found.standard_error.max()) < 1e-12
    model.train()
    torch.testing.assert_close(model._objective(model._door(y, u).flat()).detach(), truth, rtol=1e-12, atol=1e-12)


def test_an_srnn_whose_states_are_not_read_is_the_network():
    """A head and a guide that ignore the states: the bound has no gap, and it is the network's log-likelihood."""
    model = make("SRNN", layers=())
    network = ps.RNN(2, cell=GRU(4), head=ps.heads.Gaussian(), dtype=torch.float64, seed=1)
    network.cell.load_state_dict(model.cell.state_dict())
    with torch.no_grad():
        model.head.weights[:, :2] = 0.0
        network.head.weights.copy_(model.head.weights[:, 2:])
        network.head.bias.copy_(model.head.bias)
        model.prior.out.weights[2:], model.guide.out.weights[:] = 0.0, 0.0
        model.guide.out.bias.copy_(torch.cat([torch.zeros(2), model.prior.out.bias[2:]]))
    y, _ = data()
    truth = network.log_prob(y).detach()
    for kind in ("bound", "importance", "particle"):
        found = model.estimate_log_prob(y, kind=kind, n_samples=3, seed=0).value
        torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", ["VRNN", "SRNN"])
def test_a_network_that_keeps_nothing_mixes_over_one_state_a_step(family: str):
    """Cell weights of zero and one state coordinate: p(y_t) is an integral over a line, for every t the same."""
    options = {"cell": Elman(2), "layers": ()} | ({"guide_size": 2} if family == "SRNN" else {})
    model = getattr(ps, family)(1, 1, head=ps.heads.Gaussian(), dtype=torch.float64, seed=3, **options)
    with torch.no_grad():
        for parameter in model.cell.parameters():
            parameter.zero_()
        model.head.weights[0, 0], model.head.weights[1, 0] = 1.3, 0.2  # of z, on mean and scale
        model.prior.out.weights.zero_()
        model.prior.out.bias.copy_(torch.tensor([0.4, 0.3]))
        model.guide.out.bias[1] = 1.5  # wide
    y = torch.tensor([[0.3], [-1.0], [2.0]], dtype=torch.float64)
    law = model._prior(model._first_memory((), None), None)
    points = torch.linspace(-8, 8, 4001, dtype=torch.float64).unsqueeze(-1) * law.scale + law.mean
    features = torch.cat([points, torch.zeros(4001, 2, dtype=torch.float64)], -1)
    density = model.head.log_prob(features.unsqueeze(1), y) + torch.distributions.Normal(*law).log_prob(points)
    truth = torch.trapezoid(density.exp(), points.squeeze(-1), dim=0).log().sum().detach()
    for kind, n in (("importance", 20_000), ("particle", 400)):
        found = model.estimate_log_prob(y, kind=kind, n_samples=n, seed=1)
        assert abs(float(found.value - truth)) < 4 * float(found.standard_error) < 0.2
    bound = model.estimate_log_prob(y, kind="bound", n_samples=1000, seed=1)
    assert float(bound.value) < float(truth) - 4 * float(bound.standard_error)


@pytest.mark.parametrize("family", ["VRNN", "SRNN", "DeepMarkov"])
def test_importance_and_particles_agree(family: str):
    """Three ways to one integral, with inputs and ragged gaps of observations that no memory reads."""
    options = {"emission_layers": (4,), "transition_size": 4, "guide_size": 4, "head": ps.heads.Gaussian()}
    options |= {"dtype": torch.float64, "seed": 2, "input_dim": 1}
    model = ps.DeepMarkov(2, 2, **options) if family == "DeepMarkov" else make(family, input_dim=1)
    y, u = data(steps=3, inputs=1)
    y[:, -1, 1] = torch.nan
    with torch.no_grad():
        spread = model.guide.out if family == "DeepMarkov" else model.guide
        spread.out.bias[2:] = 1.5
    found = [
        model.estimate_log_prob(y, u, lengths=[3, 2, 1], kind=kind, n_samples=n, seed=4)
        for kind, n in (("importance", 8000), ("particle", 200))
    ]
    model.proposal = "transition"
    found.append(model.estimate_log_prob(y, u, lengths=[3, 2, 1], kind="particle", n_samples=200, seed=5))
    for other in found[1:]:
        error = (found[0].standard_error.square() + other.standard_error.square()).sqrt()
        assert bool(((found[0].value - other.value).abs() < 4 * error).all())
        assert float(error.max()) < 0.1


@pytest.mark.parametrize("family", ["VRNN", "SRNN"])
@pytest.mark.parametrize("proposal", ["guide", "transition"])
def test_filter_stream_and_log_prob_are_one(family: str, proposal: str):
    model, (y, u) = make(family, input_dim=1, proposal=proposal, n_particles=6), data(inputs=1)
    y[0, 2, 1], y[1, 3] = torch.nan, torch.nan
    assert u is not None
    filtered = model.filter(y, u, lengths=[7, 4, 2])
    torch.testing.assert_close(
        model.log_prob(y, u, lengths=[7, 4, 2]), filtered.log_prob.sum(-1), rtol=1e-12, atol=1e-12
    )
    stream = model.stream()
    steps = [stream.update(row, inputs) for row, inputs in zip(y[0], u[0], strict=True)]
    torch.testing.assert_close(torch.stack(steps), filtered.log_prob[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["VRNN", "SRNN"])
def test_a_fit_learns_and_files_keep_it(family: str, tmp_path):
    """Two modes at every step, chosen by a hidden coin that sticks: a Gaussian head alone cannot say that."""
    rng = np.random.default_rng(0)
    coins = (rng.random((80, 12)) < 0.15).cumsum(1) % 2
    y = torch.as_tensor((4 * coins + 0.3 * rng.normal(size=coins.shape))[..., None])
    options = {"layers": (8,), "kl_warmup": 20, "seed": 0} | ({"guide_size": 8} if family == "SRNN" else {})
    model = getattr(ps, family)(1, 1, cell=GRU(8), head=ps.heads.Gaussian(), **options)
    fit = {"max_iterations": 25, "learning_rate": 3e-2, "batch_size": 20, "seed": 0}
    model.fit(y[:60], validation=y[60:70], **fit)
    assert math.isfinite(model.history.validation[-1])
    bound = float(model.estimate_log_prob(y[70:], kind="bound", n_samples=20, seed=0).value.mean()) / 12
    assert bound > float(torch.distributions.Normal(y.mean(), y.std()).log_prob(y[70:]).mean()) + 0.3
    model.save(tmp_path / "file")
    assert torch.equal(ps.load(tmp_path / "file").log_prob(y), model.log_prob(y))
    assert model.forecast(y[70], 3, n_samples=8, seed=0).mean.shape == (3, 1)


def test_errors_name_the_argument():
    for family in ("VRNN", "SRNN"):
        with pytest.raises(TypeError, match="cell must be a Cell"):
            make(family, cell="gru")
    with pytest.raises(ValueError, match="state_dim"):
        ps.SRNN(0, 1, cell=GRU(2), head=ps.heads.Gaussian())
