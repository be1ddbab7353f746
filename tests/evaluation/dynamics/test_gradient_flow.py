"""Gradients back through time, against autograd through the loop over the four steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import probseq as ps
from probseq.evaluation import gradient_flow

CELLS = {
    "elman": lambda: ps.cells.Elman(4),
    "logistic": lambda: ps.cells.Elman(4, "logistic"),
    "gru": lambda: ps.cells.GRU(3),
    "lstm": lambda: ps.cells.LSTM(3, peepholes=True),
    "stack": lambda: ps.cells.Stack([ps.cells.Elman(2), ps.cells.GRU(2)], skip=True),
}


def random_network(cell: str, *, feedback: bool, dtype: torch.dtype = torch.float64) -> ps.RNN:
    model = ps.RNN(2, cell=CELLS[cell](), head=ps.heads.Gaussian(), input_dim=1, feedback=feedback, dtype=dtype, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    model.started = True
    return model


def by_autograd(model: ps.RNN, y: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """|d L / d h_t| and |d L_s / d h_t| from the loop, each state a leaf of interest."""
    belief, states, losses = model.initial_belief((), u[0]), [], []
    for t in range(len(y)):
        belief.state.requires_grad_(True)
        states.append(belief.state)
        seen = ~y[t].isnan()
        belief, score = model.update(belief, torch.where(seen, y[t], 0.0), seen, u[t])
        losses.append(-score)
        if t + 1 < len(y):
            belief = model.predict(belief, u[t + 1])
    total = torch.stack(torch.autograd.grad(sum(losses), states, retain_graph=True))  # type: ignore[arg-type]
    by_step = torch.zeros(len(y), len(y), dtype=torch.float64)
    for s, loss in enumerate(losses):
        if loss.requires_grad:
            found = torch.autograd.grad(loss, states[: s + 1], retain_graph=True, materialize_grads=True)
            by_step[s, : s + 1] = torch.stack(found).norm(dim=-1)
    return total.norm(dim=-1).detach(), by_step


def data(steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return torch.as_tensor(rng.normal(size=(steps, 2))), torch.as_tensor(rng.normal(size=(steps, 1)))


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_norms_equal_autograd_through_the_loop(cell, feedback):
    model, (y, u) = random_network(cell, feedback=feedback), data(7)
    flow = gradient_flow(model, y, u)
    total, by_step = by_autograd(model, y, u)
    torch.testing.assert_close(flow.norms, total, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(flow.by_step, by_step, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(flow.last, by_step[-1], rtol=1e-10, atol=1e-14)
    assert bool((flow.last <= flow.bound * (1 + 1e-12)).all())
    assert flow.bound[-1] == pytest.approx(float(flow.last[-1]))


def test_gaps_and_targets_at_the_end():
    """What is fed back for a missing value depends on the state, and carries the gradient too."""
    model, (y, u) = random_network("gru", feedback=True), data(8)
    y[2, 0] = y[4] = torch.nan
    y[-2:] = torch.nan
    flow = gradient_flow(model, y, u)
    total, by_step = by_autograd(model, y, u)
    torch.testing.assert_close(flow.norms, total, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(flow.by_step, by_step, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(flow.last, by_step[-3], rtol=1e-10, atol=1e-14)
    assert bool(flow.log_singular_values[-2:].isnan().all())
    assert bool((flow.bound[-2:] == 0).all())


def test_singular_values_are_those_of_the_product():
    model, (y, u) = random_network("lstm", feedback=True), data(6)
    flow = gradient_flow(model, y, u)
    states = model.filter(y, u).predicted.state
    for t in range(6):

        def run(state: Tensor, t: int = t) -> Tensor:
            for k in range(t, 5):
                fed = model.head.encode(y[k])
                state = model.predict(ps.beliefs.Point(state, fed), u[k + 1]).state
            return state

        expected = torch.linalg.svdvals(torch.autograd.functional.jacobian(run, states[t]))
        torch.testing.assert_close(flow.log_singular_values[t].exp(), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize(("activation", "slope"), [("tanh", 1.0), ("logistic", 0.25)])
def test_weights_bound_the_flow(activation, slope):
    model, (y, u) = random_network("elman" if activation == "tanh" else activation, feedback=True), data(30)
    flow = gradient_flow(model, y, u)
    assert flow.weight_bound is not None
    gain = slope * float(torch.linalg.matrix_norm(model.cell.recurrent_weights.detach(), 2))
    np.testing.assert_allclose(flow.weight_bound / flow.last[-1], gain ** np.arange(29, -1, -1.0), rtol=1e-9)
    assert bool((flow.bound <= flow.weight_bound * (1 + 1e-9)).all())
    assert gradient_flow(random_network("gru", feedback=True), y, u).weight_bound is None


def test_a_rotation_neither_shrinks_nor_grows():
    """A rectified network started at the identity, with units that stay positive, adds: all Jacobians are I."""
    cell = ps.cells.Elman(3, "relu", recurrent_start="identity")
    model = ps.RNN(1, cell=cell, head=ps.heads.Gaussian(), input_dim=1, feedback=False, dtype=torch.float64, seed=0)
    with torch.no_grad():
        cell.input_weights.fill_(0.1)
        cell.bias.fill_(0.1)
    y = torch.full((400, 1), torch.nan, dtype=torch.float64)
    y[-1] = 1.0
    flow = gradient_flow(model, y, torch.ones(400, 1, dtype=torch.float64))
    torch.testing.assert_close(flow.norms, flow.norms[-1].expand(400), rtol=1e-12, atol=0)
    torch.testing.assert_close(flow.log_singular_values, torch.zeros(400, 3).double(), rtol=0, atol=1e-12)


def test_long_products_neither_overflow_nor_vanish():
    """2000 steps with every Jacobian near 3 I: the logarithm of the product is known where the product is not."""
    cell = ps.cells.Elman(2, "relu", recurrent_start="identity")
    model = ps.RNN(1, cell=cell, head=ps.heads.Gaussian(), input_dim=1, feedback=False, dtype=torch.float64, seed=0)
    with torch.no_grad():
        cell.recurrent_weights.mul_(1.5)
        cell.input_weights.fill_(1e-200)
        cell.bias.fill_(1e-300)
    flow = gradient_flow(model, torch.zeros(1000, 1), torch.ones(1000, 1))
    expected = np.log(1.5) * np.arange(999, -1, -1.0)
    np.testing.assert_allclose(flow.log_singular_values[:, 0], expected, rtol=1e-10)


def test_batches_precision_and_complaints():
    y, u = (torch.stack(pair) for pair in zip(data(5), data(5, 1), strict=True))
    single = random_network("gru", feedback=True, dtype=torch.float32)
    flow = gradient_flow(single, y, u)
    assert flow.norms.dtype == torch.float64
    assert flow.by_step.shape == (2, 5, 5)
    torch.testing.assert_close(flow.norms[1], gradient_flow(single, y[1], u[1]).norms)
    assert next(single.parameters()).dtype == torch.float32
    assert next(single.parameters()).requires_grad
    with pytest.raises(TypeError, match="recurrent networks"):
        gradient_flow(ps.LDS(1, 1), y)
    with pytest.raises(ValueError, match="one length"):
        gradient_flow(single, [y[0], y[1, :3]], [u[0], u[1, :3]])
    with pytest.raises(ValueError, match="an observed step"):
        gradient_flow(single, torch.full((4, 2), torch.nan), u[0, :4])
    echo = ps.EchoState(12, obs_dim=2, washout=2, seed=0).fit(np.random.default_rng(0).normal(size=(60, 2)), seed=0)
    assert bool((gradient_flow(echo, y).last <= gradient_flow(echo, y).bound * (1 + 1e-12)).all())
