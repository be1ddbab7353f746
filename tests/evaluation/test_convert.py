"""A filter written as a network is the same model: likelihood, gradients, beliefs; and a network learns a filter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.evaluation import distill, steady_gain


def linear_system(*, inputs: bool = True, **changes: Any) -> ps.LDS:
    values: dict[str, Any] = {
        "transition_matrix": [[0.9, 0.3], [-0.2, 0.7]],
        "transition_cov": [[0.3, 0.1], [0.1, 0.2]],
        "emission_matrix": [[1.0, 0.5], [0.2, -1.0], [0.3, 0.1]],
        "emission_cov": [[0.5, 0.1, 0.0], [0.1, 0.2, 0.0], [0.0, 0.0, 0.4]],
        "initial_mean": [1.0, 2.0],
        "initial_cov": [[2.0, 0.1], [0.1, 1.0]],
        "transition_offset": [0.1, 0.2],
        "emission_offset": [1.0, 2.0, 3.0],
    }
    if inputs:
        values |= {"transition_input_matrix": [[0.5], [1.0]], "emission_input_matrix": [[0.3], [0.0], [1.0]]}
    return ps.LDS(**(values | changes))


def series(model: Any, n: int = 3, length: int = 15) -> tuple[torch.Tensor, torch.Tensor | None]:
    u = torch.randn(n, length, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    if not model.input_dim:
        return model.sample(length, (n,), seed=0), None
    return torch.stack([model.sample(length, u=u[i], seed=i) for i in range(n)]), u


def same(first: Any, second: Any, bound: float = 1e-10) -> None:
    first, second = first.detach(), second.detach()
    size = float(second.abs().max())
    assert float((first - second).abs().max()) <= bound * max(size, 1.0)


def test_the_kalman_network_has_the_likelihood_the_beliefs_and_the_gradients():
    lds = linear_system()
    network = ps.RNN.from_lds(lds)
    y, u = series(lds)
    assert u is not None
    mine, theirs = (y.clone().requires_grad_() for _ in range(2))
    value, wanted = network.log_prob(mine, u), lds.log_prob(theirs, u)
    same(value, wanted)
    cell: Any = network.cell
    pairs = {
        "transition_matrix": "raw_transition_matrix",
        "raw_transition_cov": "raw_transition_cov",
        "emission_matrix": "raw_emission_matrix",
        "raw_emission_cov": "raw_emission_cov",
        "initial_mean": "raw_initial_mean",
        "raw_initial_cov": "raw_initial_cov",
        "transition_input_matrix": "raw_transition_input_matrix",
        "emission_input_matrix": "raw_emission_input_matrix",
        "transition_offset": "raw_transition_offset",
        "emission_offset": "raw_emission_offset",
    }
    own = torch.autograd.grad(value.sum(), [mine, *(getattr(cell, name) for name in pairs)])
    exact = torch.autograd.grad(wanted.sum(), [theirs, *(getattr(lds, name) for name in pairs.values())])
    for name, got, want in zip(("y", *pairs), own, exact, strict=True):
        assert float(want.abs().max()) > 0, name
        same(got.tril() if "cov" in name else got, want.tril() if "cov" in name else want)
    predicted, exact_belief = network.filter(y, u).predicted, lds.filter(y, u).predicted
    mean, cov, _, _ = cell.split(predicted.state)
    same(mean, exact_belief.mean)
    same(cov, exact_belief.cov)


@pytest.mark.parametrize("inputs", [True, False])
def test_the_steady_network_is_a_plain_linear_one(inputs):
    lds = linear_system(inputs=inputs)
    lds.initial_cov = steady_gain(lds)[1]
    network = ps.RNN.from_lds(lds, steady_state=True)
    assert isinstance(network.cell, ps.cells.Elman)
    assert network.cell.activation == "linear"
    y, u = series(lds)
    mine, theirs = (y.clone().requires_grad_() for _ in range(2))
    value, wanted = network.log_prob(mine, u), lds.log_prob(theirs, u)
    same(value, wanted)
    same(*(torch.autograd.grad(v.sum(), w)[0] for v, w in ((value, mine), (wanted, theirs))))


def test_the_steady_network_of_any_start_becomes_exact():
    lds = linear_system(inputs=False)
    y, _ = series(lds, 2, 80)
    network = ps.RNN.from_lds(lds, steady_state=True)
    away = (network.filter(y).log_prob - lds.filter(y).log_prob).abs()
    assert float(away[:, 0].min()) > 1e-3
    same(away[:, -20:], torch.zeros(2, 20))


def test_the_gain_of_a_local_level_is_the_known_one():
    """P = q (1 + sqrt(1 + 4 r / q)) / 2 for a random walk with noise r, and K = P / (P + r)."""
    level = scalar_system(transition_cov=[[0.3]], emission_cov=[[2.0]], initial_mean=[0.0], initial_cov=[[1.0]])
    gain, cov = steady_gain(level)
    expected = 0.15 * (1 + np.sqrt(1 + 8 / 0.3))
    assert float(cov) == pytest.approx(expected, rel=1e-12)
    assert float(gain) == pytest.approx(expected / (expected + 2.0), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_do_not_matter(scale):
    lds = linear_system(inputs=False).rescale(scale, 3 * scale)
    y, _ = series(lds)
    same(ps.RNN.from_lds(lds).log_prob(y), lds.log_prob(y))
    network = ps.RNN.from_lds(linear_system(inputs=False)).rescale(scale, 3 * scale)
    same(network.log_prob(y), lds.log_prob(y), 1e-8)  # the shift, three times the spread, costs digits


def test_an_autoregression_is_a_linear_system_too():
    ar = ps.AR(2).fit(np.sin(np.arange(60.0)) + np.random.default_rng(0).normal(size=60))
    y = ar.sample(20, (2,), seed=0)
    same(ps.RNN.from_lds(ar).log_prob(y), ar.log_prob(y), 1e-8)


def scalar_system(**changes: Any) -> ps.LDS:
    values = {name: [[1.0]] for name in ("transition_matrix", "transition_cov", "emission_matrix", "emission_cov")}
    return ps.LDS(**(values | changes))


def test_what_a_network_cannot_be():
    start = {"initial_mean": [0.0], "initial_cov": [[1.0]]}
    for model, words in (
        (scalar_system(initial="diffuse"), "proper start"),
        (scalar_system(emission_matrix=[[[1.0]], [[2.0]]], **start), "same at every step"),
    ):
        with pytest.raises(ValueError, match=words):
            ps.RNN.from_lds(model)
    with pytest.raises(TypeError, match="HMM"):
        ps.RNN.from_hmm(scalar_system(**start))


def test_no_steady_state_is_said():
    growing = scalar_system(transition_matrix=[[1.2]], emission_matrix=[[0.0]], initial_mean=[0.0], initial_cov=[[1.0]])
    with pytest.raises(ValueError, match="Riccati"):
        steady_gain(growing)


@pytest.mark.slow
def test_a_linear_network_learns_the_gain():
    """One linear unit, 300,000 observations of a local level; the standard error of such a gain is about 0.4 %."""
    level = ps.datasets.local_level(0.5, 1.0)
    gain, level.initial_cov = steady_gain(level)
    y = level.sample(200, (1500,), seed=0)
    unit = ps.cells.Elman(1, "linear", recurrent_start="identity")
    learner = ps.RNN(1, cell=unit, head=ps.heads.Gaussian(), dtype=torch.float64, seed=3)
    learner.fit(y, seed=3, max_iterations=30, patience=30, batch_size=50, learning_rate=2e-2, schedule="linear")
    learned = float((learner.head.weights[0, 0] * unit.input_weights[0, 0]).detach())
    print(f"\ngain {learned:.5f}, Riccati {float(gain):.5f}, {learned / float(gain) - 1:.2%} apart")
    assert learned == pytest.approx(float(gain), rel=0.01)


# ---- hidden Markov models

MOVES = [[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.3, 0.0, 0.7]]
EMISSIONS: dict[str, Any] = {
    "gaussian": lambda: ps.emissions.Gaussian(means=[[0.0], [2.0], [5.0]], covs=[[[1.0]], [[0.5]], [[2.0]]]),
    "categorical": lambda: ps.emissions.Categorical(probs=[[0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]]),
    "bernoulli": lambda: ps.emissions.Bernoulli(probs=[[0.1, 0.9], [0.5, 0.2], [0.7, 0.7]]),
    "poisson": lambda: ps.emissions.Poisson(rates=[[1.0], [4.0], [20.0]]),
}


def chain(name: str, **options: Any) -> ps.HMM:
    start = {"initial_probs": [1.0, 0.0, 0.0], "transition_matrix": MOVES}
    return ps.HMM(emission=EMISSIONS[name](), **(start | options))


@pytest.mark.parametrize("name", EMISSIONS)
def test_the_multiplicative_network_has_the_likelihood_the_beliefs_and_the_gradients(name):
    hmm = chain(name)
    network = ps.RNN.from_hmm(hmm)
    y = hmm.sample(25, (4,), seed=0)
    value, wanted = network.log_prob(y), hmm.log_prob(y)
    same(value, wanted)
    cell, head = network.cell, network.head
    own = [cell.raw_transition_matrix, cell.raw_initial_probs, *head.emission.parameters()]
    exact = [hmm.raw_transition_matrix, hmm.raw_initial_probs, *hmm.emission.parameters()]
    for got, want in zip(torch.autograd.grad(value.sum(), own), torch.autograd.grad(wanted.sum(), exact), strict=True):
        same(got, want)
    beliefs = network.filter(y).predicted.state[..., :3].exp()
    same(beliefs, hmm.filter(y).predicted.probs)
    same(network.emit(ps.at(network.filter(y).predicted, 3)).log_prob(y[:, 3]), network.filter(y).log_prob[:, 3])


def test_inputs_that_drive_the_chain_drive_the_network():
    weights = torch.randn(3, 3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    hmm = chain("gaussian", transition_weights=weights)
    y, u = series(hmm)
    same(ps.RNN.from_hmm(hmm).log_prob(y, u), hmm.log_prob(y, u))


def test_rows_that_are_missing_are_integrated_out():
    hmm = chain("gaussian")
    y = hmm.sample(20, (2,), seed=0)
    y[0, 4:7] = torch.nan
    y[1, 0] = torch.nan
    same(ps.RNN.from_hmm(hmm).log_prob(y), hmm.log_prob(y))


def test_units_move_the_emission_along():
    hmm = chain("gaussian")
    network = ps.RNN.from_hmm(hmm)
    y = hmm.sample(20, (2,), seed=0)
    before = network.log_prob(y)
    same(network.rescale(4.0, 1.0).log_prob(4 * y + 1), before - 20 * np.log(4.0))


def test_emissions_that_read_more_than_the_state_are_refused():
    emission = ps.emissions.LinearRegression(1, 1)
    with pytest.raises(ValueError, match="nothing but the state"):
        ps.heads.StateMixture(emission, 2)
    with pytest.raises(ValueError, match="n_states must be given"):
        ps.heads.StateMixture(ps.emissions.Gaussian(1))
    with pytest.raises(TypeError, match="head such as"):
        ps.heads.Product([ps.heads.StateMixture(EMISSIONS["poisson"]())], [1])
    with pytest.raises(ValueError, match="one activity for each"):
        ps.RNN(1, cell=ps.cells.GRU(4), head=ps.heads.StateMixture(EMISSIONS["poisson"](), direct=True))


@pytest.mark.parametrize("model", [linear_system(inputs=False), chain("gaussian")], ids=["lds", "hmm"])
def test_a_converted_network_is_trained_like_any_other(model, tmp_path):
    """From a start beside the truth it climbs, by the gradient of any network."""
    data = model.sample(30, (20,), seed=0)
    network = ps.RNN.from_lds(model) if isinstance(model, ps.LDS) else ps.RNN.from_hmm(model)
    with torch.no_grad():
        for part in network.cell.parameters():
            part.add_(
                (0.1 if isinstance(model, ps.LDS) else 0.6)
                * torch.sin(torch.arange(part.numel(), dtype=part.dtype)).reshape(part.shape)
            )
    before = network.score(data)
    network.fit(data, validation=False, max_iterations=6, seed=0)
    assert before + 0.01 < network.score(data)
    network.save(tmp_path / "network")
    assert torch.equal(ps.load(tmp_path / "network").log_prob(data), network.log_prob(data))


def test_a_mixture_of_states_serves_any_network():
    """A GRU that weighs states whose emissions are learned with it, better than a mixture that does not move."""
    hmm = chain("gaussian")
    y = hmm.sample(40, (30,), seed=0)
    head = ps.heads.StateMixture(ps.emissions.Gaussian(1), 3)
    network = ps.RNN(1, cell=ps.cells.GRU(6), head=head, seed=0).fit(y, seed=0, max_iterations=12, learning_rate=2e-2)
    still = ps.HMM(3, emission=ps.emissions.Gaussian(1), initial_probs=[1 / 3] * 3, transition_matrix=[[1 / 3] * 3] * 3)
    still.fit(y, fixed=("initial_probs", "transition_matrix"), seed=0)
    new = hmm.sample(40, (30,), seed=1)
    assert network.score(new) > still.score(new) + 0.1
    assert hmm.score(new) > network.score(new)


# ---- distillation


def test_distillation_learns_what_the_teacher_knows():
    teacher = chain("categorical", initial_probs=[0.6, 0.1, 0.3])
    student = distill(teacher, ps.cells.GRU(8), n_sequences=60, length=30, seed=0, max_iterations=15)
    y = teacher.sample(30, (60,), seed=9)
    shares = np.bincount(y.flatten().long(), minlength=3) / y.numel()
    entropy = -float((shares * np.log(shares)).sum())
    assert -entropy + 0.03 < student.score(y) < teacher.score(y)


def test_distillation_wants_a_teacher_without_inputs():
    with pytest.raises(ValueError, match="no inputs"):
        distill(linear_system(), ps.cells.GRU(3))
