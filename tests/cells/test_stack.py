"""Stacks against layers wired by hand, dropout, and reservoirs' promises."""

from __future__ import annotations

import pytest
import torch

import probseq as ps
from probseq.cells import GRU, LSTM, Elman, Reservoir, Stack


def random_stack(skip: bool, dropout: float = 0.0) -> Stack:
    stack = Stack([GRU(3), LSTM(4, peepholes=True, projection_size=2), Elman(2)], skip=skip, dropout=dropout)
    stack.bind(2, dtype=torch.float64, generator_seed=0)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=draws, dtype=torch.float64))
    return stack


@pytest.mark.parametrize("skip", [False, True])
def test_a_stack_is_its_layers_wired_by_hand(skip):
    stack = random_stack(skip)
    inputs = torch.randn(5, 7, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shown, below = [], None
    for layer in stack.layers:
        into = inputs if below is None else torch.cat([inputs, below], -1) if skip else below
        assert layer.input_size == into.shape[-1]
        below = layer.sequence(into, layer.initial_state((5,)))
        shown.append(below)
    expected = torch.cat(shown, -1) if skip else below
    start = stack.initial_state((5,))
    torch.testing.assert_close(stack.sequence(inputs, start), expected, rtol=1e-12, atol=0)
    assert stack.output_size == expected.shape[-1]
    state, steps = start, []
    for x in inputs.unbind(1):
        state = stack.step(x, state)
        steps.append(state)
    states = torch.stack(steps, 1)
    torch.testing.assert_close(stack.states(inputs, start), states, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(stack.output(states), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("skip", [False, True])
def test_gradients_reach_every_parameter(skip):
    stack = random_stack(skip)
    inputs = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    stack.sequence(inputs, stack.initial_state((2,))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stack.parameters())


def test_dropout_acts_between_layers_in_training_alone():
    stack = random_stack(False, dropout=0.5)
    inputs = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start = stack.initial_state((4,))
    stack.train()
    noisy = [stack.sequence(inputs, start) for _ in range(2)]
    assert not torch.equal(*noisy)
    stack.eval()
    assert torch.equal(stack.sequence(inputs, start), stack.sequence(inputs, start))
    alone = Stack([GRU(3)], dropout=0.5)
    alone.bind(2, dtype=torch.float64, generator_seed=0)
    alone.train()
    assert torch.equal(*(alone.sequence(inputs, alone.initial_state((4,))) for _ in range(2)))


def test_dropout_keeps_the_expectation():
    stack = Stack([Elman(40), Elman(3, "relu")], dropout=0.3)
    stack.bind(1, dtype=torch.float64, generator_seed=0)
    into = torch.ones(20000, 40, dtype=torch.float64)
    dropped = stack.train()._into(into, into)
    kept = dropped != 0
    # 800,000 draws: five standard errors
    assert abs(kept.double().mean().item() - 0.7) < 5 * (0.21 / 8e5) ** 0.5
    assert torch.equal(dropped[kept], torch.full_like(dropped[kept], 1 / 0.7))


def test_a_fit_with_dropout_ends_in_eval_mode_and_repeats():
    y = torch.sin(torch.arange(60.0)) + 0.1 * torch.randn(60, generator=torch.Generator().manual_seed(0))
    models = [
        ps.RNN(cell=Stack([GRU(4), GRU(4)], dropout=0.4), head=ps.heads.Gaussian()).fit(y, seed=3, max_iterations=5)
        for _ in range(2)
    ]
    assert models[0].log_prob(y).item() == models[1].log_prob(y).item()
    assert not any(module.training for module in models[0].modules())


def test_files_keep_stacks(tmp_path):
    y = torch.randn(9, generator=torch.Generator().manual_seed(0))
    cell = Stack([LSTM(3, peepholes=True, coupled=True), Stack([GRU(2), Reservoir(4, sparsity=0.2)], skip=True)])
    model = ps.RNN(cell=cell, head=ps.heads.Gaussian(), dtype=torch.float64, seed=0)
    model.save(tmp_path / "stack")
    again = ps.load(tmp_path / "stack")
    assert again.log_prob(y).item() == model.log_prob(y).item()
    assert again.cell.layers[1].skip


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Stack([]), TypeError, "one or more Cells"),
        (lambda: Stack([torch.nn.Linear(2, 2)]), Exception, "layers"),
        (lambda: Stack([GRU(2)] * 2), ValueError, "same one twice"),
        (lambda: Stack([GRU(2)], dropout=1.0), ValueError, r"dropout must be a share in \[0, 1\)"),
        (lambda: Reservoir(3, leak=0.0), ValueError, "leak must be in"),
        (lambda: Reservoir(3, sparsity=1.0), ValueError, "sparsity must be in"),
        (lambda: Reservoir(3, spectral_radius=-1.0), ValueError, "spectral_radius must be finite"),
        (lambda: Reservoir(2, sparsity=0.99, input_size=1, seed=0), ValueError, "without a loop"),
        (lambda: ps.cells.LRU(2, greatest_modulus=1.0), ValueError, "least_modulus and greatest_modulus"),
        (lambda: LSTM(2, coupled=True, forget_gate=False), ValueError, "coupled=True"),
        (lambda: LSTM(2, peepholes=True, input_gate=False, forget_gate=False, output_gate=False), ValueError, "none"),
        (lambda: Elman(2, recurrent_start="zero"), Exception, "recurrent_start"),
    ],
)
def test_bad_arguments_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_reservoir_has_its_spectral_radius_and_learns_nothing():
    cell = Reservoir(
        60, spectral_radius=0.8, sparsity=0.9, input_scaling=0.3, input_size=2, dtype=torch.float64, seed=0
    )
    assert torch.linalg.eigvals(cell.recurrent_weights).abs().max().item() == pytest.approx(0.8, rel=1e-10)
    assert abs((cell.recurrent_weights == 0).double().mean().item() - 0.9) < 5 * (0.09 / 3600) ** 0.5
    assert cell.input_weights.abs().max() <= 0.3
    assert not list(cell.parameters())
    y = torch.sin(0.3 * torch.arange(80.0))
    model = ps.RNN(cell=Reservoir(20), head=ps.heads.Gaussian(), seed=0)
    weights = model.fit(y, seed=0, max_iterations=30).cell.recurrent_weights.clone()
    assert model.n_parameters == 2 * 20 + 2
    assert torch.equal(model.fit(y, seed=1, max_iterations=3).cell.recurrent_weights, weights)
    assert model.history.objective[-1] > model.history.objective[0]


def test_the_echo_of_a_start_fades():
    cell = Reservoir(30, spectral_radius=0.5, input_size=1, dtype=torch.float64, seed=0)
    inputs = torch.randn(2, 60, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[:1].expand(
        2, -1, -1
    )
    starts = torch.stack([torch.zeros(30), torch.ones(30)]).double()
    away = (cell.states(inputs, starts)[0] - cell.states(inputs, starts)[1]).norm(dim=-1)
    assert away[-1] < 1e-9 * away[0]


def test_linear_modes_stay_inside_the_disc_and_keep_their_size():
    cell = ps.cells.LRU(
        8, n_modes=200, least_modulus=0.5, greatest_modulus=0.95, input_size=1, dtype=torch.float64, seed=0
    )
    modulus = cell.factors.abs()
    assert modulus.min() >= 0.5
    assert modulus.max() <= 0.95
    torch.testing.assert_close(cell.log_gain.exp(), (1 - modulus.square()).sqrt())


def test_the_graves_cell_of_the_readme_runs():
    model = ps.RNN(
        obs_dim=3, cell=LSTM(64, peepholes=True, coupled=False, projection_size=None), head=ps.heads.Bernoulli()
    )
    y = torch.randint(2, (4, 10, 3), generator=torch.Generator().manual_seed(0)).double()
    assert model.log_prob(y).shape == (4,)
    assert not model.cell.is_plain
