"""Stochastic gradients: optimisers and schedules against torch's, windows against whole sequences, early stopping."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.errors import ConvergenceWarning
from probseq.learning.batches import Windows, cut
from probseq.learning.optimizers import clip
from probseq.learning.problem import Problem
from probseq.learning.schedules import SutskeverMomentum
from probseq.learning.settings import training
from probseq.learning.stochastic import Trainer
from probseq.sequences import Sequences

Y = np.random.default_rng(0).normal(size=(4, 12, 1)).cumsum(1)
U = np.random.default_rng(1).normal(size=(4, 12, 2))
CELLS = {
    "elman": lambda: ps.cells.Elman(5),
    "logistic": lambda: ps.cells.Elman(5, "logistic"),
    "gru": lambda: ps.cells.GRU(5),
    "lstm": lambda: ps.cells.LSTM(5),
    "peepholes": lambda: ps.cells.LSTM(5, peepholes=True, projection_size=3),
    "layer norm": lambda: ps.cells.LSTM(5, layer_norm=True),
    "mingru": lambda: ps.cells.MinGRU(5),
    "lru": lambda: ps.cells.LRU(5),
    "reservoir": lambda: ps.cells.Reservoir(5),
    "stack": lambda: ps.cells.Stack([ps.cells.LSTM(4), ps.cells.GRU(3)], skip=True),
}


def network(cell: str = "gru", **keywords: Any) -> ps.RNN:
    made = ps.RNN(cell=CELLS[cell](), **{"head": ps.heads.Gaussian(), "dtype": torch.float64, "seed": 0, **keywords})
    if not made.cell.frozen:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.linspace(-0.3, 0.3, parameter.numel(), dtype=torch.float64).view_as(parameter))
    return made


def vector(model: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def trainer(model: Any, data: Sequences, n_passes: int = 1, **options: Any) -> Trainer:
    settings = training(options.pop("optimizer", "adam"), options)
    return Trainer(model, Problem(model, data.flat(), None, False), n_passes, settings)


def trained(n_passes: int, y: Any = Y, u: Any = None, *, cell: str = "gru", **options: Any) -> torch.Tensor:
    """All weights after some passes over everything, in one vector."""
    model = network(cell, input_dim=0 if u is None else 2)
    found = trainer(model, Sequences.of(y, u), n_passes, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(n_passes):
            found.a_pass()
    return vector(model)


# ---------------------------------------------------------------- optimisers


@pytest.mark.parametrize(
    ("given", "made", "options"),
    [
        ("RMSprop", torch.optim.RMSprop, {"alpha": 0.9, "centered": True}),
        (torch.optim.SGD, torch.optim.SGD, {"momentum": 0.5, "nesterov": True}),
        ("adamw", torch.optim.AdamW, {"weight_decay": 0.1}),
        ("adam", torch.optim.Adam, {}),
        ("adam", torch.optim.Adam, {"betas": (0.5, 0.9)}),
        ("momentum", torch.optim.SGD, {}),
    ],
)
def test_updates_are_those_of_a_plain_torch_loop(given, made, options):
    model = network()
    optimiser = made(model.parameters(), lr=1.0, **options, **({"momentum": 0.9} if given == "momentum" else {}))
    for step in range(6):
        optimiser.param_groups[0]["lr"] = 0.01 if given == "momentum" else 0.01 * (1 - step / 6)
        optimiser.zero_grad()
        (-model.log_prob(Y).sum() / 48).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimiser.step()
    schedule = None if given == "momentum" else "linear"
    got = trained(6, optimizer=given, optimizer_options=options, schedule=schedule, clip_norm=0.5)
    torch.testing.assert_close(got, vector(model), rtol=1e-5, atol=1e-7)  # torch's clipping adds 1e-6 to the norm


def test_nesterov_takes_the_gradient_where_the_velocity_leads():
    """Equations (3) and (4) of Sutskever et al. (2013), with a momentum that changes."""
    x = {name: p.detach().clone() for name, p in network().named_parameters()}
    v = {name: torch.zeros_like(p) for name, p in x.items()}
    for step in range(5):
        mu = 0.5 + 0.1 * step
        point = network()
        point.load_state_dict({name: x[name] + mu * v[name] for name in x}, strict=False)
        (-point.log_prob(Y).sum() / 48).backward()
        v = {name: mu * v[name] - 0.02 * p.grad for name, p in point.named_parameters()}
        x = {name: x[name] + v[name] for name in x}
    got = trained(
        5, optimizer="nesterov", learning_rate=0.02, momentum=lambda done, planned: 0.5 + 0.1 * done, clip_norm=None
    )
    torch.testing.assert_close(got, torch.cat([p.flatten() for p in x.values()]), rtol=1e-10, atol=1e-12)


def test_the_momentum_schedule_is_the_published_one():
    schedule = SutskeverMomentum(largest=0.99)
    assert [schedule(t, 10**6) for t in (0, 249, 250, 500, 750)] == pytest.approx([1 / 2, 1 / 2, 3 / 4, 5 / 6, 7 / 8])
    assert schedule(10**5, 10**6) == 0.99
    assert schedule(10**6 - 1000, 10**6) == 0.9
    assert schedule(10**6 - 1001, 10**6) == 0.99


def test_clipping_by_value_comes_before_clipping_by_norm():
    gradients = [torch.tensor([30.0]), torch.tensor([0.0, 4.0])]
    clipped, norm = clip(gradients, 2.0, 3.0)
    assert norm == pytest.approx(916**0.5)
    torch.testing.assert_close(torch.cat(clipped), torch.tensor([1.0, 0.0, 1.0]) * 2**0.5)
    assert clip([torch.tensor([torch.inf])], 1.0, 1.0)[1] == torch.inf


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("u", [None, U], ids=["alone", "driven"])
def test_windows_add_up_to_the_whole_and_a_window_as_long_is_the_whole(cell, u):
    model = network(cell, input_dim=0 if u is None else 2)
    whole = Sequences.of([Y[0], Y[1, :7], Y[2, :11], Y[3]], None if u is None else [U[0], U[1, :7], U[2, :11], U[3]])
    with torch.no_grad():
        expected = model._log_prob(whole)
        total, before = torch.zeros(4, dtype=torch.float64), model._before(whole)
        for start in (0, 5, 10):
            log_prob, before = model._log_prob_onward(whole.steps(start, min(start + 5, 12)), before)
            total += log_prob
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=0)
    assert torch.equal(trained(3, u=u, cell=cell, truncate=12), trained(3, u=u, cell=cell))


def test_a_gap_is_filled_across_a_window_too():
    model, y = network(), Y.copy()
    y[0, 4:7], y[2, 9:] = np.nan, np.nan
    whole = Sequences.of(y)
    with torch.no_grad():
        total, before = torch.zeros(4, dtype=torch.float64), model._before(whole)
        for start in (0, 5, 10):
            log_prob, before = model._log_prob_onward(whole.steps(start, min(start + 5, 12)), before)
            total += log_prob
    torch.testing.assert_close(total, model._log_prob(whole).detach(), rtol=1e-10, atol=0)


def test_the_gradient_stops_at_the_window():
    """The second window's gradient is that of its own steps from a given state."""
    model, data = network("lstm"), Sequences.of(Y[:1])
    _, before = model._log_prob_onward(data.steps(0, 6), model._before(data))
    assert not any(field.requires_grad for field in before if field is not None)
    log_prob, _ = model._log_prob_onward(data.steps(6, 12), before)
    got = torch.autograd.grad(log_prob.sum(), list(model.parameters()), allow_unused=True)
    assert got[[name for name, _ in model.named_parameters()].index("cell.initial_activity")] is None
    inputs = model._inputs(data.steps(6, 12), before.previous)
    outputs = model.cell.sequence(inputs, before.state.clone())
    by_hand = model.head.log_prob(outputs, data.values[:, 6:]).sum()
    expected = torch.autograd.grad(by_hand, list(model.parameters()), allow_unused=True)
    for a, b in zip(got, expected, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-10, atol=0)


def test_streams_are_the_consecutive_parts_and_go_on_where_the_part_before_ended():
    data = Sequences.of([Y[0], Y[1, :7], Y[2, :1]])
    parts, continues = cut(data, 3)
    assert parts.lengths.tolist() == [4, 4, 4, 3, 3, 1, 1]
    assert continues.tolist() == [False, True, True, False, True, True, False]
    assert torch.equal(parts.values[parts.observed], data.values[data.observed])
    model = network("lstm")
    windows = Windows(model, data, 5, 2, 3)
    with torch.no_grad():
        first = sum(float(piece.log_prob().sum()) for piece in windows.a_pass())
        apart = float(model._log_prob(parts).sum())
        second = sum(float(piece.log_prob().sum()) for piece in windows.a_pass())
        third = sum(float(piece.log_prob().sum()) for piece in windows.a_pass())
        together = float(model._log_prob(data).sum())
    assert first == pytest.approx(apart, rel=1e-12)
    assert third == pytest.approx(together, rel=1e-10)  # fixed weights: two passes carry the state through three parts
    assert len({first, second, third}) == 3


def test_a_long_series_is_learned_in_streams():
    y = np.sin(0.5 * np.arange(600)) + 0.1 * np.random.default_rng(0).normal(size=600)
    model = ps.RNN(cell=ps.cells.LSTM(8), head=ps.heads.Gaussian())
    model.fit(y, seed=0, max_iterations=25, truncate=20, streams=8, learning_rate=2e-2, schedule="linear")
    held = model.filter(y).log_prob[480:].sum().item()
    assert held == pytest.approx(max(model.history.validation), rel=1e-5)
    assert held / 120 > -0.5 * np.log(2 * np.pi * y.var()) - 0.5 + 0.8


def test_a_labeller_is_trained_in_windows_and_says_when_it_cannot():
    labels = (U[..., 0].cumsum(1) > 0).astype(float)[..., None]
    model = ps.Labeller(2, input_dim=2, reader=ps.cells.LSTM(5), dtype=torch.float64, seed=0)
    data = model._door(labels, U)
    before = model._before(data)
    first, before = model._log_prob_onward(data.steps(0, 7), before)
    second, _ = model._log_prob_onward(data.steps(7, 12), before)
    torch.testing.assert_close(first + second, model.log_prob(labels, U), rtol=1e-10, atol=0)
    model.fit(labels, U, seed=0, max_iterations=2, truncate=6)
    both = ps.Labeller(2, input_dim=2, reader=ps.cells.Bidirectional(ps.cells.GRU(3), ps.cells.GRU(3)))
    with pytest.raises(ValueError, match="truncate needs a reader that runs forwards"):
        both.fit(labels, U, truncate=6)
    with pytest.raises(ValueError, match="truncate is for recurrent networks"):
        ps.AR(1).fit(Y, method="gradient", optimizer="adam", truncate=6)


# ---------------------------------------------------------------- the front door


def test_validation_stops_early_and_the_best_is_kept():
    train, held = Y[:3], [np.random.default_rng(5).normal(size=30)]
    model = network().fit(train, validation=held, seed=0, learning_rate=0.1, patience=4, max_iterations=300)
    validation = model.history.validation
    assert model.history.reason == "validation score stopped rising"
    assert len(validation) - 1 - int(np.argmax(validation)) == 4
    assert model.log_prob(held).sum().item() == pytest.approx(max(validation), rel=1e-10)


def test_nothing_is_held_back_where_validation_is_false():
    model = network().fit(Y, validation=False, seed=0, max_iterations=8, batch_size=2)
    assert not model.history.validation
    assert model.log_prob(Y).sum().item() == pytest.approx(model.history.restarts[0], rel=1e-10)


def test_an_interruption_ends_all_restarts_and_keeps_the_best(monkeypatch):
    passes, a_pass = [], Trainer.a_pass

    def interrupted(self: Trainer) -> float:
        passes.append(1)
        if len(passes) == 5:
            with torch.no_grad():
                next(self.model.parameters()).add_(1.0)
            raise KeyboardInterrupt
        return a_pass(self)

    monkeypatch.setattr(Trainer, "a_pass", interrupted)
    model = network()
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        model.fit(Y, validation=0.25, seed=0, n_restarts=3)
    assert len(passes) == 5
    assert len(model.history.restarts) == 1
    assert not model.training
    assert model.filter(Y).log_prob[:, 9:].sum().item() == pytest.approx(max(model.history.validation), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": torch.optim.LBFGS}, "optimizer must be"),
        ({"optimizer": "optimizer"}, "optimizer must be"),
        ({"learning_rte": 0.1}, "unknown option 'learning_rte'"),
        ({"learning_rate": 0}, "learning_rate must be a positive number"),
        ({"schedule": "cosine"}, "schedule must be"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"truncate": 0}, "truncate must be"),
        ({"streams": 3}, "streams cuts sequences for truncate"),
        ({"clip_norm": -1}, "clip_norm must be"),
        ({"clip_value": "1"}, "clip_value must be"),
        ({"optimizer": "nesterov", "optimizer_options": {"betas": 1}}, "optimizer_options are for torch.optim"),
    ],
)
def test_bad_options_are_named(options, words):
    model = network()
    before = vector(model)
    with pytest.raises(ValueError, match=words):
        model.fit(Y, **options)
    assert torch.equal(vector(model), before)


def test_options_of_small_steps_are_refused_elsewhere():
    with pytest.raises(ValueError, match="truncate are for stochastic gradients; method is 'em'"):
        ps.HMM(2, emission=ps.emissions.Gaussian(1)).fit(Y, truncate=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = ps.LDS(1, 1).fit(Y, method="gradient", optimizer="rmsprop", max_iterations=3, batch_size=2, seed=0)
    assert np.isfinite(model.score(Y))
