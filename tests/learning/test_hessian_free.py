"""Hessian-free fits: convex optima, monotone traces, damping, batches, repeatability, options."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.errors import ConvergenceWarning
from probseq.learning import hessian_free
from probseq.learning.curvature import FreeVector, GaussNewton


def echoes(n=40, length=8, seed=0):
    """Bits, and the bit of three steps before, known from step 3 on."""
    u = np.random.default_rng(seed).integers(0, 2, size=(n, length, 1)).astype(float)
    y = np.full_like(u, np.nan)
    y[:, 3:] = u[:, :-3]
    return u, y


def transducer(cell=None, **keywords):
    cell = cell or ps.cells.Elman(8)
    return ps.RNN(cell=cell, head=ps.heads.Bernoulli(), input_dim=1, feedback=False, seed=0, **keywords)


def quiet_fit(model, *args, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*args, method="hessian_free", **keywords)


def test_it_finds_the_optimum_of_a_convex_problem():
    """A reservoir is not learned: what is left is a logistic regression, whose optimum scikit-learn knows."""
    from sklearn.linear_model import LogisticRegression

    u, y = echoes(60, 6)
    y[:, 3:] = np.where(np.random.default_rng(1).random(y[:, 3:].shape) < 0.2, 1 - y[:, 3:], y[:, 3:])
    model = transducer(ps.cells.Reservoir(5), dtype=torch.float64)
    model.fit(y, u, method="hessian_free", seed=0, validation=False, tolerance=1e-12, weight_decay=1e-3)
    data = model._door(y, u)
    states = model.filter(y, u).predicted.state[:, 3:].reshape(-1, 5).numpy()
    seen = y[:, 3:].reshape(-1)
    # the penalty is on all parameters: the bias is the weight of a column of ones
    design = np.concatenate([states, np.ones((len(states), 1))], 1)
    rival = LogisticRegression(C=1 / (1e-3 * len(seen)), fit_intercept=False, tol=1e-12, max_iter=10000)
    rival.fit(design, seen)
    found = np.concatenate([model.head.weights[0].detach().numpy(), model.head.bias.detach().numpy()])
    np.testing.assert_allclose(found, rival.coef_[0], rtol=1e-5, atol=1e-6)
    assert model.history.converged
    assert int(data.seen.sum()) == len(seen)


def test_a_recurrent_network_learns_and_never_falls():
    u, y = echoes()
    model = quiet_fit(transducer(), y, u, structural_damping=0.03, max_iterations=20, seed=0, validation=False)
    assert np.diff(model.history.objective).min() >= 0
    assert model.score(y, u) > -0.05  # chance: -0.69
    assert model.history.method == "hessian_free"
    assert not model.training


@pytest.mark.parametrize("cell", ["gru", "lstm-peepholes", "stack"])
def test_every_kind_of_network_climbs(cell):
    cells = {
        "gru": lambda: ps.cells.GRU(4),
        "lstm-peepholes": lambda: ps.cells.LSTM(3, peepholes=True),
        "stack": lambda: ps.cells.Stack([ps.cells.Elman(3), ps.cells.MinGRU(3)], skip=True),
    }
    series = np.sin(0.7 * np.arange(40)) + 0.1 * np.random.default_rng(0).normal(size=40)
    model = ps.RNN(cell=cells[cell](), head=ps.heads.MixtureDensity(2), seed=0)
    quiet_fit(model, series, max_iterations=4, seed=0, structural_damping=0.1, max_products=20)
    trace = model.history.objective
    assert np.diff(trace).min() >= 0
    assert trace[-1] > trace[0] + 15


def test_batches_of_gradient_and_curvature():
    u, y = echoes()
    model = transducer()
    quiet_fit(model, y, u, max_iterations=10, seed=0, max_products=60, gradient_batch_size=20, curvature_batch_size=10)
    assert max(model.history.objective) > model.history.objective[0] + 10
    assert model.history.restarts[0] == pytest.approx(max(model.history.validation))


def test_one_seed_repeats():
    u, y = echoes(20)
    options = {"max_iterations": 3, "curvature_batch_size": 8}
    traces = [quiet_fit(transducer(), y, u, seed=seed, **options).history.objective for seed in (0, 0, 1)]
    assert traces[0] == traces[1] != traces[2]


def test_structural_damping_holds_the_hidden_states():
    """One step at the same lambda: the more a change of states costs, the smaller it is."""
    u, y = echoes()
    moved = []
    for mu in (0.0, 1.0, 100.0):
        model = transducer()
        model._start(model._door(y, u), 0)
        model.started = True
        before = model.filter(y, u).predicted.state
        options = {"structural_damping": mu, "damping": 1e-2, "max_iterations": 1, "max_products": 60}
        quiet_fit(model, y, u, seed=0, **options)
        moved.append(float((model.filter(y, u).predicted.state - before).square().sum()))
    assert moved[2] < 0.2 * moved[1] < 0.2 * moved[0]


def test_damping_follows_the_ratio():
    """A nearly quadratic problem is trusted, so that the damping falls by a third every time."""
    series = np.random.default_rng(0).normal(size=200)
    model = ps.RNN(cell=ps.cells.Reservoir(3), head=ps.heads.Bernoulli(), seed=0)
    bits = (series > 0).astype(float)
    data = model._door(bits).flat()
    problem = ps.learning.problem.split(model, data, None)
    search = hessian_free._Search(model, problem, hessian_free.Settings(damping=1.0), 0)
    for k in range(1, 4):
        search.step()
        assert search.damping == pytest.approx((2 / 3) ** k)


def test_the_first_damping_is_the_mean_eigenvalue():
    u, y = echoes(10)
    model = transducer(ps.cells.Elman(3), dtype=torch.float64)
    data, free = model._door(y, u).flat(), FreeVector(model)
    curvature = GaussNewton(model, data, free)
    dense = torch.stack([curvature.product(row) for row in torch.eye(free.size, dtype=torch.float64)])
    problem = ps.learning.problem.split(model, data, None)
    search = hessian_free._Search(model, problem, hessian_free.Settings(), 0)
    draws = torch.tensor([search._first_damping(curvature) for _ in range(400)])
    assert draws.mean().item() == pytest.approx(dense.trace().item() / free.size, rel=0.1)


def test_held_parameters_stay():
    u, y = echoes(20)
    model = transducer()
    model._start(model._door(y, u), 3)
    model.started = True
    before = model.cell.recurrent_weights.detach().clone()
    quiet_fit(model, y, u, fixed={"cell.recurrent_weights"}, max_iterations=3, seed=0)
    assert torch.equal(model.cell.recurrent_weights, before)
    assert model.history.objective[-1] > model.history.objective[0]


def test_a_labeller_learns():
    u = np.random.default_rng(0).normal(size=(60, 5, 1))
    labels = (u.sum((1, 2)) > 0).astype(int)
    reader = ps.cells.Bidirectional(ps.cells.Elman(3), ps.cells.Elman(3))
    model = ps.Labeller(2, input_dim=1, reader=reader, per="sequence", seed=0)
    quiet_fit(model, labels, u, max_iterations=8, seed=0, max_products=40)
    assert (model.decode(u).numpy() == labels).mean() > 0.9


def test_a_fit_that_did_not_settle_says_so():
    u, y = echoes(20)
    with pytest.warns(ConvergenceWarning, match="stopped before it settled"):
        transducer().fit(y, u, method="hessian_free", max_iterations=1, seed=0)


def test_interruption_keeps_the_best(monkeypatch):
    u, y = echoes(20)
    steps = []

    def interrupted(self):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return once(self)

    once = hessian_free._Search.step
    monkeypatch.setattr(hessian_free._Search, "step", interrupted)
    model = transducer()
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        model.fit(y, u, method="hessian_free", seed=0, validation=False, max_products=10)
    assert len(model.history.objective) == 3
    assert model.history.reason == "interrupted"


def test_a_gradient_that_is_not_finite_ends_the_fit_and_says_so(monkeypatch):
    u, y = echoes(10)
    whole = hessian_free._Search._slope

    def broken(self, data):
        slope = whole(self, data)
        return slope._replace(gradient=slope.gradient * float("nan"))

    monkeypatch.setattr(hessian_free._Search, "_slope", broken)
    with pytest.warns(ConvergenceWarning, match="non-finite gradients"):
        transducer().fit(y, u, method="hessian_free", seed=0)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"structural_damping": -1.0}, ValueError, "structural_damping must be finite and not negative, got -1"),
        ({"damping": 0}, ValueError, "damping must be positive"),
        ({"curvature_batch_size": 0}, ValueError, "curvature_batch_size must be"),
        ({"dampning": 0.1}, ValueError, "unknown option 'dampning'.*structural_damping"),
        ({"optimizer": "adam"}, ValueError, "optimizer is for method"),
    ],
)
def test_bad_options_are_named(options, error, words):
    u, y = echoes(10)
    with pytest.raises(error, match=words):
        transducer().fit(y, u, method="hessian_free", **options)


def test_options_of_this_method_are_not_for_others():
    u, y = echoes(10)
    with pytest.raises(ValueError, match=r"unknown option 'damping' of fit.*max_iterations.*clip_norm"):
        transducer().fit(y, u, damping=0.1)


def test_models_without_a_head_have_no_such_method():
    with pytest.raises(ValueError, match=r"method must be one of .* for LDS, got 'hessian_free'"):
        ps.LDS(state_dim=1, obs_dim=1).fit([0.0, 1.0, 2.0], method="hessian_free")
