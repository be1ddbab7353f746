"""The front door of learning: starts, restarts, held parameters, validation, interruption, units."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.errors import ConvergenceWarning, DegenerateWarning

MATRIX = np.array([[0.9, 0.1], [0.2, 0.8]])


def hmm() -> ps.HMM:
    emission = ps.emissions.Gaussian(means=[[-1.0], [2.0]], covs=[[[1.0]], [[0.5]]])
    return ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=MATRIX, emission=emission)


def lds() -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[0.9, 0.2], [-0.1, 0.8]],
        transition_cov=0.1 * np.eye(2),
        emission_matrix=[[1.0, 0.5]],
        emission_cov=[[0.3]],
        initial_mean=[0.0, 0.0],
        initial_cov=np.eye(2),
    )


def series(n: int = 120, seed: int = 0) -> np.ndarray:
    return hmm().sample(n, seed=seed).numpy()


def quiet_fit(model, *args, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", DegenerateWarning)
        return model.fit(*args, **keywords)


def test_given_values_are_the_start():
    model = hmm()
    start = model.log_prob(series()).item()
    quiet_fit(model, series(), max_iterations=1)
    assert model.history.objective[0] == pytest.approx(start, rel=1e-12)


def test_no_iterations_leave_given_values_and_give_sizes_a_start():
    model = quiet_fit(hmm(), series(), max_iterations=0)
    torch.testing.assert_close(model.transition_matrix, torch.as_tensor(MATRIX), rtol=1e-12, atol=0)
    fresh = quiet_fit(ps.HMM(2, emission=ps.emissions.Gaussian(1)), series(), max_iterations=0, seed=0)
    assert torch.isfinite(fresh.log_prob(series()))


def test_partly_given_values_are_kept_by_the_start():
    model = ps.HMM(2, transition_matrix=MATRIX, emission=ps.emissions.Gaussian(1))
    quiet_fit(model, series(), max_iterations=0, seed=0)
    torch.testing.assert_close(model.transition_matrix, torch.as_tensor(MATRIX), rtol=1e-12, atol=0)


def test_the_best_restart_is_kept_and_all_are_reported():
    model = quiet_fit(ps.HMM(3, emission=ps.emissions.Gaussian(1)), series(), n_restarts=4, seed=1)
    scores = model.history.restarts
    assert len(scores) == 4
    assert model.log_prob(series()).item() == pytest.approx(max(scores), rel=1e-9)


@pytest.mark.parametrize("method", ["em", "gradient"])
def test_a_seed_makes_a_fit_reproducible_and_leaves_global_state(method):
    torch.manual_seed(3)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (
        quiet_fit(ps.HMM(2, emission=ps.emissions.Gaussian(1)), series(), method=method, seed=5, max_iterations=5)
        for _ in range(2)
    )
    assert first.log_prob(series()).item() == second.log_prob(series()).item()
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("method", ["em", "gradient"])
@pytest.mark.parametrize("name", ["transition_matrix", "emission.means", "emission.covs", "initial_probs"])
def test_fixed_parameters_stay(method, name):
    model = hmm()
    owner, leaf = (model.emission, name.split(".")[1]) if "." in name else (model, name)
    before = getattr(owner, leaf).detach().clone()
    quiet_fit(model, series(), method=method, fixed={name}, max_iterations=5)
    torch.testing.assert_close(getattr(owner, leaf), before, rtol=1e-12, atol=1e-12)
    assert model.history.objective[-1] > model.history.objective[0]
    assert not owner.is_frozen(leaf)


@pytest.mark.parametrize("name", ["transition_matrix", "transition_cov", "emission_matrix", "emission_cov"])
@pytest.mark.parametrize("method", ["em", "gradient"])
def test_fixed_matrices_of_an_lds_stay_and_em_still_climbs(method, name):
    model, y = lds(), lds().sample(150, seed=0).numpy()
    before = getattr(model, name).detach().clone()
    quiet_fit(model, y, method=method, fixed={name}, max_iterations=8)
    torch.testing.assert_close(getattr(model, name), before, rtol=1e-12, atol=1e-12)
    steps = np.diff(model.history.objective)
    assert model.history.objective[-1] > model.history.objective[0]
    if method == "em":
        assert steps.min() > -1e-8


def test_em_and_gradient_find_the_same_maximum():
    y = series(300)
    by_em = hmm().fit(y, tolerance=1e-10, max_iterations=2000)
    by_gradient = quiet_fit(hmm(), y, method="gradient", tolerance=1e-10)
    assert by_em.log_prob(y).item() == pytest.approx(by_gradient.log_prob(y).item(), abs=1e-4)
    torch.testing.assert_close(by_em.emission.means, by_gradient.emission.means, rtol=1e-3, atol=1e-3)


def test_structural_zeros_survive_every_fit():
    for method in ("em", "gradient"):
        model = hmm()
        model.transition_matrix = [[0.5, 0.5], [0.0, 1.0]]
        quiet_fit(model, series(), method=method, max_iterations=10)
        assert model.transition_matrix[1, 0].item() == 0.0


@pytest.mark.parametrize("scale", [2.0**-26, 2.0**26])
@pytest.mark.parametrize("make", [hmm, lds])
def test_units_do_not_change_a_fit(make, scale):
    y = series(80)
    plain = quiet_fit(make(), y, max_iterations=10)
    scaled = quiet_fit(make().rescale(scale), scale * y, max_iterations=10)
    expected = plain.log_prob(y).item() - 80 * np.log(scale)
    assert scaled.log_prob(scale * y).item() == pytest.approx(expected, rel=1e-9)


def test_a_large_offset_does_not_change_a_fit():
    y = series(200)
    plain = quiet_fit(ps.HMM(2, emission=ps.emissions.Gaussian(1)), y, seed=0)
    moved = quiet_fit(ps.HMM(2, emission=ps.emissions.Gaussian(1)), y + 1e8, seed=0)
    assert moved.log_prob(y + 1e8).item() == pytest.approx(plain.log_prob(y).item(), rel=1e-5)


def test_validation_share_and_sequences():
    y = [series(40, seed) for seed in range(12)]
    model = quiet_fit(ps.HMM(4, emission=ps.emissions.Gaussian(1)), y, validation=0.25, seed=0)
    held = model.log_prob(y[9:]).sum().item()
    assert held == pytest.approx(max(model.history.validation), rel=1e-8)
    model = quiet_fit(ps.HMM(4, emission=ps.emissions.Gaussian(1)), y[:9], validation=y[9:], seed=0)
    assert model.log_prob(y[9:]).sum().item() == pytest.approx(max(model.history.validation), rel=1e-8)


def test_few_sequences_hold_back_their_ends():
    y = series(100)
    model = quiet_fit(hmm(), y, validation=0.2)
    tail = model.filter(y).log_prob[80:].sum().item()
    assert tail == pytest.approx(max(model.history.validation), rel=1e-8)


def test_interruption_keeps_the_best_so_far(monkeypatch):
    model, calls = hmm(), []
    step = type(model)._em_step

    def interrupted(self, sequences):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, sequences)

    monkeypatch.setattr(type(model), "_em_step", interrupted)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        model.fit(series(), tolerance=0.0)
    assert model.history.reason == "interrupted"
    assert model.log_prob(series()).item() == pytest.approx(max(model.history.objective), rel=1e-10)


def test_a_failure_leaves_the_model_as_it_was(monkeypatch):
    model = quiet_fit(hmm(), series(), max_iterations=3)
    before, history = model.log_prob(series()).item(), model.history

    def broken(self, sequences):
        self.emission.means = torch.zeros(2, 1)
        raise RuntimeError("broken")

    monkeypatch.setattr(type(model), "_em_step", broken)
    with pytest.raises(RuntimeError, match="broken"):
        model.fit(series())
    assert model.log_prob(series()).item() == before
    assert model.history is history


def test_not_settling_is_said():
    with pytest.warns(ConvergenceWarning, match="max_iterations after"):
        hmm().fit(series(), max_iterations=2, tolerance=0.0)


def test_constant_data_are_said_and_survived():
    for model in (ps.HMM(2, emission=ps.emissions.Gaussian(1)), ps.LDS(1, 1), ps.AR(1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(np.full(30, 5.0), seed=0, max_iterations=5)
        assert any(issubclass(w.category, DegenerateWarning) for w in caught)
        assert np.isfinite(model.log_prob(np.full(30, 5.0)).item())


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"method": "magic"}, "method must be one of"),
        ({"n_restarts": 0}, "n_restarts must be a positive integer"),
        ({"max_iterations": -1}, "max_iterations must be a non-negative integer"),
        ({"fixed": {"transitions"}}, "unknown parameter 'transitions'"),
        ({"validation": 1.5}, "validation must be a share"),
        ({"seed": -1}, "seed must be a non-negative integer"),
        ({"optimizer": "descent"}, "optimizer must be"),
    ],
)
def test_bad_options_are_named(keywords, words):
    with pytest.raises(ValueError, match=r"must|unknown") as error:
        hmm().fit(series(), **keywords)
    assert words in str(error.value)


def test_data_without_an_observation_are_refused():
    with pytest.raises(ValueError, match="at least one observed value"):
        hmm().fit(np.full(5, np.nan))
    with pytest.raises(ValueError, match="at least one step"):
        hmm().fit(np.empty(0))


def test_networks_are_drawn_from_the_fit_seed_and_continue_when_fitted():
    def network() -> ps.RNN:
        return ps.RNN(cell=ps.cells.GRU(4), head=ps.heads.Gaussian())

    y = series(60)
    first, second = (network().fit(y, seed=2, max_iterations=3) for _ in range(2))
    assert first.log_prob(y).item() == second.log_prob(y).item()
    again = copy.deepcopy(first).fit(y, seed=9, max_iterations=0)
    assert again.log_prob(y).item() == pytest.approx(first.log_prob(y).item(), rel=1e-5)


def test_em_stops_early_when_validation_stops_rising():
    """Five states for what two have made: the training score goes on rising, the held-back one does not."""
    train, held = [series(40, seed) for seed in range(2)], [series(200, seed) for seed in (7, 8)]
    model = quiet_fit(
        ps.HMM(5, emission=ps.emissions.Gaussian(1)), train, validation=held, seed=0, tolerance=0.0, max_iterations=500
    )
    history = model.history
    assert history.converged
    assert history.reason == "validation score stopped rising"
    best = int(np.argmax(history.validation))
    assert len(history.validation) - 1 - best == 10
    assert history.objective[-1] > history.objective[best]
    assert model.log_prob(held).sum().item() == pytest.approx(history.validation[best], rel=1e-9)


def test_restarts_are_ranked_by_validation_where_there_is_some():
    train, held = [series(40, seed) for seed in range(2)], [series(200, seed) for seed in (7, 8)]
    model = quiet_fit(
        ps.HMM(4, emission=ps.emissions.Gaussian(1)), train, validation=held, seed=0, n_restarts=3, max_iterations=30
    )
    assert len(model.history.restarts) == 3
    assert model.log_prob(held).sum().item() == pytest.approx(max(model.history.restarts), rel=1e-9)


@pytest.mark.parametrize("n_restarts", [1, 3])
def test_a_state_without_data_is_said_once_and_keeps_its_parameters(n_restarts):
    """State 2 lies where no data are: its emission and its row stay, and one warning says so."""
    emission = ps.emissions.Gaussian(means=[[-1.0], [2.0], [900.0]], covs=[[[1.0]], [[0.5]], [[0.7]]])
    matrix = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]]
    model = ps.HMM(initial_probs=[0.4, 0.4, 0.2], transition_matrix=matrix, emission=emission)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(series(), seed=0, tolerance=1e-7, n_restarts=n_restarts, max_iterations=400)
    messages = [str(warning.message) for warning in said if warning.category is DegenerateWarning]
    assert sum("explains no data" in message for message in messages) == 1
    assert len(messages) == len(set(messages))
    if n_restarts == 1:
        assert model.emission.means[2].item() == pytest.approx(900.0, rel=1e-9)
        assert model.emission.covs[2].item() == pytest.approx(0.7, rel=1e-9)
        torch.testing.assert_close(
            model.transition_matrix[2], torch.tensor(matrix[2], dtype=torch.float64), rtol=1e-9, atol=0
        )
        assert model.transition_matrix[:2, 2].max() < 1e-100
