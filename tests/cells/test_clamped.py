"""Given units: the ways of giving a network its input that are not input weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.cells import Bidirectional, Clamped, Elman, Stack

U = np.random.default_rng(0).normal(size=(2, 5, 4))


def network(cell: ps.cells.Cell, **keywords) -> ps.RNN:
    model = ps.RNN(
        cell=cell, head=ps.heads.Gaussian(), input_dim=4, feedback=False, dtype=torch.float64, seed=0, **keywords
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.linspace(-0.4, 0.4, parameter.numel(), dtype=torch.float64).view_as(parameter))
    return model


@pytest.mark.parametrize("at", ["every step", "start"])
def test_given_units_have_the_given_activities_and_the_others_read_them(at):
    """Elman's equation by hand, with the units overwritten."""
    model = network(Clamped(Elman(3), [2, 0], at))
    cell = model.cell.cell
    states = model.filter(np.zeros((2, 5))[..., None], U).updated.state
    h, values = cell.initial_activity.detach().expand(2, 3).clone(), torch.as_tensor(U[..., 2:])
    if at == "start":
        h[:, [2, 0]] = values[:, 0]
    for t in range(5):
        x = torch.as_tensor(U[:, t, :2])
        h = torch.tanh(x @ cell.input_weights.T + h @ cell.recurrent_weights.T + cell.bias).detach()
        if at == "every step":
            h[:, [2, 0]] = values[:, t]
        torch.testing.assert_close(states[:, t], h, rtol=1e-12, atol=1e-12)


def test_all_units_given_at_the_start_leave_nothing_to_learn_there():
    model = network(Clamped(Elman(2), [0, 1], "start"))
    model.log_prob(np.ones((2, 5))[..., None], U).sum().backward()
    assert not model.cell.cell.initial_activity.grad.any()
    assert model.cell.cell.recurrent_weights.grad.abs().min() > 0


def test_a_fit_leaves_given_activities_as_they_are():
    """The target is the given activity of a unit: the network need only show it, in the units in which it came."""
    u = np.random.default_rng(1).normal(size=(60, 6, 2)) + 0.5
    y = 2.0 * u[..., 1:] - 5.0
    model = ps.RNN(cell=Clamped(Elman(2), [1]), head=ps.heads.Gaussian(), input_dim=2, feedback=False)
    model.fit(y, u, seed=0, max_iterations=60, learning_rate=0.05, batch_size=8)
    assert model.input_shift[1] == 0
    assert model.input_scale[1] == 1
    assert model.score(y, u) > -0.5 * np.log(2 * np.pi * y.var()) - 0.5 + 1.0


def test_clamped_networks_are_saved_and_trained_in_windows(tmp_path):
    y = np.zeros((2, 5, 1))
    for at in ("every step", "start"):
        model = network(Clamped(ps.cells.LSTM(2), [0, 3], at))
        model.save(tmp_path / at)
        assert torch.equal(ps.load(tmp_path / at).log_prob(y, U), model.log_prob(y, U))
        data = model._door(y, U)
        first, before = model._log_prob_onward(data.steps(0, 2), model._before(data))
        second, _ = model._log_prob_onward(data.steps(2, 5), before)
        torch.testing.assert_close(first + second, model.log_prob(y, U), rtol=1e-10, atol=0)


def test_labellers_take_given_starts_too():
    reader = Clamped(ps.cells.GRU(3), [0, 1], "start")
    model = ps.Labeller(2, input_dim=4, reader=reader, per="sequence", dtype=torch.float64, seed=0)
    with torch.no_grad():
        model.head.weights.normal_(generator=torch.Generator().manual_seed(0))
    other = U.copy()
    other[:, 0, 2:] += 1.0
    labels = np.array([0, 1])
    assert (model.log_prob(labels, U) != model.log_prob(labels, other)).all()
    other[:, 0], other[:, 1:, 2:] = U[:, 0], 7.0  # later values are not looked at
    assert torch.equal(model.log_prob(labels, U), model.log_prob(labels, other))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Clamped(Elman(2), []), ValueError, "units must be different entries"),
        (lambda: Clamped(Elman(2), [0, 0]), ValueError, "units must be different entries"),
        (lambda: Clamped(Elman(2), [2]), ValueError, "entries of a state of 2"),
        (lambda: Clamped(Elman(2), [0], "end"), Exception, "at"),
        (lambda: Clamped(Clamped(Elman(2), [0]), [1]), TypeError, "without given units"),
        (lambda: Stack([Clamped(Elman(2), [0])]), TypeError, "layers must not have given units"),
        (lambda: Bidirectional(Elman(2), Clamped(Elman(2), [0])), TypeError, "must not have given units"),
        (lambda: network(Clamped(Elman(5), [0, 1, 2, 3])), ValueError, "4 more for its given units, got 4"),
    ],
)
def test_bad_clamps_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
