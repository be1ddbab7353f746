"""Hard inputs get the right answer, or an error that names the argument; never a raw message of a lower library.

The cases are the ones on which established packages are silently wrong: missing and infinite values, units, offsets,
singular covariances, impossible data, improper parameters.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import probseq as ps
from probseq.errors import (
    ConvergenceWarning,
    DegenerateWarning,
    ImpossibleSequence,
    NotFitted,
    ProbseqWarning,
    SingularInnovation,
    StateOverflow,
)
from tests import reference, zoo
from tests.laws import near, near_log

FAMILIES: dict[str, Callable[[], Any]] = {
    "hmm": lambda: zoo.hmm(1, zoo.gaussian_emission(2)),
    "hmm-diag": lambda: zoo.hmm(1, zoo.gaussian_emission(2, "diag")),
    "lds": lambda: ps.LDS(**zoo.lds_parts(1, 2, 2)),
    "ar": lambda: zoo.ar(1, 2, 2),
    "rnn": lambda: zoo.rnn(1, "gru", ps.heads.Gaussian(), 2),
}
SIZES: dict[str, Callable[[], Any]] = {
    "hmm": lambda: ps.HMM(2, emission=ps.emissions.Gaussian(2)),
    "lds": lambda: ps.LDS(2, 2),
    "ar": lambda: ps.AR(2, 2),
}
family = pytest.mark.parametrize("name", FAMILIES)


def normal(steps: int = 6, dim: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, dim))


def refused(call: Callable[[], Any], *words: str) -> str:
    """`call` raises a ValueError of our own whose message holds all the words."""
    with pytest.raises(ValueError) as caught:
        call()
    error = caught.value
    assert type(error) is ValueError or type(error).__module__ == "probseq.errors", type(error)
    for word in words:
        assert word in str(error), f"{word!r} is not in {error}"
    return str(error)


def patient(model: Any, y: Any, **options: Any) -> Any:
    """A short fit, its warnings aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProbseqWarning)
        return model.fit(y, seed=0, **{"max_iterations": 5, **options})


# ------------------------------------------------------------------------ 1 - 7: missing, infinite, empty, short


@family
def test_01_nan_is_missing(name: str) -> None:
    model, y = FAMILIES[name](), normal()
    y[2, 1] = np.nan
    assert math.isfinite(model.log_prob(y).item())
    assert bool(torch.isfinite(model.filter(y).updated[0]).all())
    assert math.isfinite(patient(model, y).log_prob(y).item())


@family
@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("method", ["log_prob", "filter", "score", "fit", "forecast"])
def test_02_infinite_values_are_refused(name: str, value: float, method: str) -> None:
    y = normal()
    y[3, 1] = value
    model = FAMILIES[name]()
    arguments = (2,) if method == "forecast" else ()
    refused(lambda: getattr(model, method)(y, *arguments), "y ", "finite", "step 3, column 1")
    refused(lambda: getattr(model, method)([normal(), y], *arguments), "y[1]", "step 3, column 1")


@pytest.mark.parametrize("name", ["lds", "ar", "hmm"])
def test_03_one_entry_of_a_row_missing(name: str) -> None:
    model, y = FAMILIES[name](), normal(5)
    y[1, 0] = y[3, 1] = np.nan
    row = zoo.Row("", FAMILIES[name], "real", 2, oracle="enumeration" if name == "hmm" else "dense")  # type: ignore[arg-type]
    near_log(model.log_prob(y), row.exact(model, torch.as_tensor(y), None).log_prob, "log_prob")


@family
def test_04_rows_missing(name: str) -> None:
    model, nothing = FAMILIES[name](), np.full((4, 2), np.nan)
    near_log(model.log_prob(nothing), 0.0, "log_prob of nothing", 1e-14)
    refused(lambda: model.score(nothing), "y must have at least one observed")
    refused(lambda: model.fit(nothing), "y must have at least one observed")


@family
def test_05_masked_arrays(name: str) -> None:
    model, y = FAMILIES[name](), normal()
    hidden = y.copy()
    hidden[2] = np.nan
    mask = np.isnan(hidden)
    assert model.log_prob(np.ma.array(y, mask=mask)).item() == model.log_prob(hidden).item()
    assert model.log_prob(np.ma.array(y, mask=mask)).item() != model.log_prob(y).item()


@family
def test_06_empty_sequences(name: str) -> None:
    model, empty = FAMILIES[name](), np.zeros((0, 2))
    assert model.log_prob(empty).item() == 0
    assert model.filter(empty).log_prob.shape == (0,)
    refused(lambda: model.fit(empty), "y must have at least one step")
    assert model.log_prob([normal(), empty])[1].item() == 0


@pytest.mark.parametrize("name", ["hmm", "lds"])
def test_07_one_step(name: str) -> None:
    model = SIZES[name]()
    patient(model, normal(1))
    assert math.isfinite(model.log_prob(normal(1)).item())
    if name == "hmm":
        near(model.transition_matrix.sum(-1), torch.ones(2).double(), "rows")


def test_07_one_step_is_too_short_for_an_autoregression() -> None:
    refused(lambda: patient(SIZES["ar"](), normal(1)), "y must", "order")


# -------------------------------------------------------------------------------------- 8 - 14: sizes and shapes


def test_08_one_state_is_independent_draws() -> None:
    y = normal(40)
    model = patient(ps.HMM(1, emission=ps.emissions.Gaussian(2)), y)
    near(model.emission.means[0], torch.as_tensor(y.mean(0)), "mean")
    near(model.emission.covs[0], torch.as_tensor(np.cov(y.T, bias=True)), "cov")


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_09_impossible_sizes(size: Any) -> None:
    refused(lambda: ps.HMM(size, emission=ps.emissions.Gaussian(1)), "n_states must be a positive integer")
    refused(lambda: ps.LDS(size, 1), "state_dim must be a positive integer")
    refused(lambda: ps.LDS(1, size), "obs_dim must be a positive integer")
    refused(lambda: ps.AR(size), "order must be a positive integer")
    refused(lambda: ps.RNN(size, cell=ps.cells.GRU(2), head=ps.heads.Gaussian()), "obs_dim must be")
    if isinstance(size, float):
        return  # of the parts, runtime checks of types say it first in the tests
    refused(lambda: ps.emissions.Gaussian(size), "dim must be a positive integer")
    refused(lambda: ps.emissions.Categorical(size), "n_symbols must be a positive integer")
    refused(lambda: ps.cells.GRU(size), "hidden_size must be")


def test_10_more_states_than_rows() -> None:
    y = normal(5)
    model = patient(ps.HMM(10, emission=ps.emissions.Gaussian(2)), y)
    assert math.isfinite(model.log_prob(y).item())


@family
def test_11_lengths_that_do_not_add_up(name: str) -> None:
    model = FAMILIES[name]()
    for lengths in ([3, 2], [3, 4]):
        message = refused(lambda n=lengths: model.log_prob(normal(6), lengths=n), "lengths", "y")
        assert str(sum(lengths)) in message
        assert "6" in message


@family
def test_12_lengths_of_the_wrong_kind(name: str) -> None:
    model, y = FAMILIES[name](), normal(6)
    refused(lambda: model.log_prob(y, lengths=[7, -1]), "lengths must not be negative")
    refused(lambda: model.log_prob(y, lengths=[3.0, 3.0]), "lengths must be integers")
    scores = model.log_prob(y, lengths=[6, 0])
    assert scores.shape == (2,)
    assert scores[1].item() == 0


@family
def test_13_wrong_number_of_columns(name: str) -> None:
    model = FAMILIES[name]()
    for method in ("log_prob", "filter", "score", "fit"):
        refused(lambda m=method: getattr(model, m)(normal(6, 3)), "y must have shape", "(6, 3)")
    refused(lambda: model.log_prob(np.zeros(6)), "y must have shape")


def test_13_a_matrix_for_a_univariate_model_suggests_the_remedy() -> None:
    refused(lambda: ps.AR(1).fit(normal(6, 3)), "y[..., None]")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("emission_matrix", (2, 3)),
        ("transition_cov", (3, 3)),
        ("emission_cov", (3, 3)),
        ("initial_mean", (3,)),
        ("initial_cov", (1, 1)),
        ("transition_matrix", (2, 3)),
    ],
)
def test_14_wrong_shapes_of_lds_parameters(name: str, shape: tuple[int, ...]) -> None:
    parts = {**zoo.lds_parts(1, 2, 2), name: np.ones(shape)}
    refused(lambda: ps.LDS(2, 2, **parts), name, "shape")


def test_14_wrong_shapes_of_other_parameters() -> None:
    gaussian = ps.emissions.Gaussian
    refused(
        lambda: ps.HMM(2, emission=gaussian(2), transition_matrix=np.ones((2, 3)) / 3), "transition_matrix", "shape"
    )
    refused(lambda: ps.HMM(2, emission=gaussian(2), initial_probs=np.ones(3) / 3), "initial_probs")
    refused(lambda: gaussian(means=np.zeros((2, 3)), covs=np.ones((2, 3))), "covs", "shape")
    refused(lambda: gaussian(means=np.zeros(3)), "means", "shape")
    refused(lambda: ps.AR(transition_matrices=np.zeros((2, 2))), "transition_matrices", "shape")


# -------------------------------------------------------------------------------- 16 - 23: types, order of calls


@family
def test_16_every_container_and_precision(name: str) -> None:
    model, y = FAMILIES[name](), normal().astype(np.float16).astype(float)
    frozen = y.copy()
    frozen.flags.writeable = False
    expected = model.log_prob(y).item()
    forms = {
        "longdouble": y.astype(np.longdouble),
        "float16": y.astype(np.float16),
        "float32": torch.as_tensor(y, dtype=torch.float32),
        "big-endian": y.astype(">f8"),
        "read-only": frozen,
        "strided": np.repeat(y, 2, axis=0)[::2],
        "transposed": np.asfortranarray(y),
        "frame": pd.DataFrame(y),
    }
    for form, data in forms.items():
        assert model.log_prob(data).item() == expected, form
    assert (frozen == y).all()
    kept = torch.as_tensor(y.copy())
    kept[1, 0] = torch.nan
    before = kept.clone()
    model.filter(kept)
    patient(model, kept)
    assert torch.equal(kept.nan_to_num(7.0), before.nan_to_num(7.0)), "the data were changed"


def test_16_lists_and_booleans() -> None:
    emission = ps.emissions.Bernoulli(probs=[[0.2], [0.7]])
    model = ps.HMM(emission=emission, initial_probs=[0.5, 0.5], transition_matrix=np.eye(2))
    expected = model.log_prob(np.array([1.0, 0.0, 1.0])).item()
    assert model.log_prob([1, 0, 1]).item() == expected
    assert model.log_prob(np.array([True, False, True])).item() == expected
    assert model.log_prob(pd.Series([1, 0, 1])).item() == expected


@family
def test_17_not_numbers(name: str) -> None:
    model = FAMILIES[name]()
    refused(lambda: model.log_prob(normal() + 1j), "y ", "real")
    refused(lambda: model.log_prob(torch.as_tensor(normal() + 1j)), "y ", "real")
    refused(lambda: model.log_prob(np.array([["a", "b"], ["c", "d"]])), "y ")
    refused(lambda: model.log_prob(np.array([[1.0, {}], [2.0, 3.0]], dtype=object)), "y ")
    refused(lambda: model.log_prob(3.0), "y ", "time axis")
    near_log(model.log_prob(normal().astype(object)), model.log_prob(normal()).detach(), "numbers as objects")


@family
def test_18_lengths_beyond_the_data(name: str) -> None:
    model = FAMILIES[name]()
    refused(lambda: model.log_prob(np.zeros((2, 3, 2)), lengths=[3, 9]), "lengths must not exceed", "3", "9")
    refused(lambda: model.log_prob(np.zeros((2, 3, 2)), lengths=[3]), "lengths must have shape")


@pytest.mark.parametrize("name", SIZES)
def test_20_before_a_fit(name: str) -> None:
    model = SIZES[name]()
    y, arguments = normal(), {"sample": (3,), "forecast": (normal(), 2)}
    for method in ("score", "filter", "log_prob", "sample", "forecast"):
        with pytest.raises(NotFitted, match="has no value yet: pass it to the constructor or call fit"):
            getattr(model, method)(*arguments.get(method, (y,)))


@family
def test_21_samples_of_no_length(name: str) -> None:
    assert FAMILIES[name]().sample(0).shape == (0, 2)
    assert FAMILIES[name]().sample(0, (3,)).shape == (3, 0, 2)
    refused(lambda: FAMILIES[name]().sample(-1), "length")
    refused(lambda: FAMILIES[name]().sample(2, 3), "sample_shape must be a tuple, such as (3,), got 3")


def symbols(probs: Any = ((0.5, 0.5, 0.0), (0.1, 0.4, 0.5))) -> ps.HMM:
    emission = ps.emissions.Categorical(probs=probs)
    return ps.HMM(emission=emission, initial_probs=[1.0, 0.0], transition_matrix=[[1.0, 0.0], [0.5, 0.5]])


@pytest.mark.parametrize("symbol", [-1, 3, 0.5, 1e7, 1e300])
def test_22_symbols_outside_the_alphabet(symbol: float) -> None:
    for model in (symbols(), zoo.rnn(1, "gru", ps.heads.Categorical(3), 1)):
        for method in ("log_prob", "filter", "fit", "score"):
            refused(lambda m=model, n=method: getattr(m, n)(np.array([0.0, symbol])), "y must hold", "step 1, column 0")
        stream = model.stream()
        refused(lambda s=stream: s.update(symbol), "y must hold")


def test_22_a_symbol_that_never_occurred() -> None:
    model = patient(ps.HMM(2, emission=ps.emissions.Categorical(3)), np.array([0.0, 1.0, 1.0, 0.0, 1.0]))
    assert model.log_prob(np.array([0.0, 2.0])).item() == -np.inf


# --------------------------------------------------------------------------------- 26 - 29: discrete data, zeros


def test_26_counts() -> None:
    model = patient(ps.HMM(2, emission=ps.emissions.Poisson(1)), np.zeros(20))
    assert math.isfinite(model.log_prob(np.array([0.0, 3.0])).item()), "a later count must be unlikely, not impossible"
    assert bool((model.emission.rates > 0).all())
    for value in (-1.0, 0.5):
        refused(lambda v=value: model.log_prob(np.array([1.0, v])), "y must hold counts", "step 1")
        refused(lambda v=value: model.fit(np.array([1.0, v])), "y must hold counts", "step 1")


def test_27_impossible_sequences() -> None:
    model, y = symbols(), np.array([0.0, 1.0, 2.0, 0.0])
    assert model.log_prob(y).item() == -np.inf
    assert model.filter(y).log_prob[2].item() == -np.inf
    assert not bool(torch.isnan(model.filter(y).updated.log_probs).any())
    for method in ("smooth", "decode", "sample_states"):
        with pytest.raises(ImpossibleSequence, match="step 2"):
            getattr(model, method)(y)
        with pytest.raises(ImpossibleSequence, match="sequence 1, step 2"):
            getattr(model, method)([y[:2], y])
    with pytest.raises(ImpossibleSequence, match="step 2"):
        model.fit(y, method="em")


def test_28_gradient_at_forbidden_transitions() -> None:
    model = zoo.left_right(1)
    model.log_prob(normal(6, 1)).backward()
    raw = model.raw_transition_matrix
    assert bool(torch.isfinite(raw.grad).all())
    assert bool((raw.grad[raw == -torch.inf] == 0).all())
    assert bool((raw.grad[:2] != 0).any())


def log_space(model: Any, table: np.ndarray) -> np.ndarray:
    """Smoothed probabilities by the textbook recursions on logarithms, normalised at every step."""
    log_matrix = np.log(reference.array(model.transition_matrix))
    forward, backward = np.zeros_like(table), np.zeros_like(table)
    forward[0] = np.log(reference.array(model.initial_probs)) + table[0]
    for t in range(1, len(table)):
        forward[t] = np.logaddexp.reduce(forward[t - 1][:, None] + log_matrix, axis=0) + table[t]
        forward[t] -= np.logaddexp.reduce(forward[t])
    for t in range(len(table) - 2, -1, -1):
        backward[t] = np.logaddexp.reduce(log_matrix + table[t + 1] + backward[t + 1], axis=1)
        backward[t] -= np.logaddexp.reduce(backward[t])
    joint = forward + backward
    return np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))


@pytest.mark.parametrize("nats", [3.0, 30.0, 300.0, 3000.0])
def test_29_sharp_emissions(nats: float) -> None:
    """States that differ by many nats at every step: flooring probabilities would make the posterior wrong by 1."""
    rng = np.random.default_rng(29)
    means = np.sqrt(2 * nats) * np.arange(3.0)[:, None]
    emission = ps.emissions.Gaussian(means=means, covs=np.ones((3, 1, 1)))
    sticky = np.full((3, 3), 1e-6) + (1 - 3e-6) * np.eye(3)
    model = ps.HMM(emission=emission, initial_probs=np.full(3, 1 / 3), transition_matrix=sticky)
    y = means[rng.integers(3, size=2000)] + np.sqrt(nats) * rng.normal(size=(2000, 1))
    expected = log_space(model, -0.5 * ((y - means.T) ** 2 + math.log(2 * math.pi)))
    near(model.smooth(y).probs, torch.as_tensor(expected), "smoothed", tolerance=1e-9, size=1.0)


# --------------------------------------------------------------------------------- 32 - 34, 39 - 42: degenerate fits

every_covariance = pytest.mark.parametrize("covariance", ["full", "diag", "tied", "spherical"])


def gaussian_hmm(covariance: Any, n_states: int = 2, **options: Any) -> ps.HMM:
    return ps.HMM(n_states, emission=ps.emissions.Gaussian(2, covariance=covariance, **options))


def said_by(model: Any, y: Any, **options: Any) -> list[str]:
    """What a fit warns of, with every warning shown as often as it is given."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(y, seed=0, **options)
    assert {warning.category for warning in said} <= {DegenerateWarning}
    return [str(warning.message) for warning in said]


def rises(model: Any) -> None:
    trace = np.array(model.history.objective)
    assert np.isfinite(trace).all()
    assert np.diff(trace).min() >= -1e-9 * abs(trace).max()


@every_covariance
@pytest.mark.parametrize("value", [5.0, -3e7, 2e-9, 0.0])
def test_32_constant_data(covariance: Any, value: float) -> None:
    """Without spread the size of the number is the unit (1 for zero), and the floor a millionth of its square."""
    model = gaussian_hmm(covariance)
    (message,) = said_by(model, np.full((40, 2), value), n_restarts=2)
    assert "y is constant" in message
    unit = abs(value) or 1.0
    np.testing.assert_allclose(model.emission.means.detach(), value, rtol=1e-9, atol=1e-9 * unit)
    ratio = (model.emission.variances().detach() / unit**2).numpy()
    assert ratio.min() > 4e-7
    assert ratio.max() < 2.5e-6
    rises(model)


@every_covariance
def test_33_two_distinct_points_and_their_duplicates(covariance: Any) -> None:
    """The states are the points, every variance is the floor, a millionth of the column's (of their mean if spherical),
    the transitions are the counts, and log p(y) is that of the closed form."""
    y = np.repeat([[0.0, 0.0], [1.0, 3.0]], [20, 20], 0)
    model = gaussian_hmm(covariance)
    (message,) = said_by(model, y)
    assert "variance collapsed" in message
    order = np.argsort(model.emission.means[:, 0].tolist())
    np.testing.assert_allclose(model.emission.means.detach()[order], [[0, 0], [1, 3]], atol=1e-9)
    floor = 1e-6 * (np.full(2, 1.25) if covariance == "spherical" else y.var(0))
    np.testing.assert_allclose(model.emission.variances().detach(), [floor, floor], rtol=1e-9)
    np.testing.assert_allclose(model.transition_matrix.detach()[order][:, order], [[0.95, 0.05], [0, 1]], atol=1e-9)
    expected = 19 * math.log(0.95) + math.log(0.05) - 0.5 * 40 * np.log(2 * np.pi * floor).sum()
    assert model.log_prob(y).item() == pytest.approx(expected, rel=1e-9)
    rises(model)


@every_covariance
def test_34_a_state_that_collapses_onto_one_point(covariance: Any) -> None:
    """By the floor the objective is bounded, and said; by a prior it is bounded without any need of the floor."""
    y = np.random.default_rng(34).normal(size=(60, 2))
    means, covs = np.array([[0.0, 0.0], y[30]]), np.array([np.eye(2), 1e-5 * np.eye(2)])
    covs = covs[[0, 0]] if covariance == "tied" else covs

    def start(prior: Any) -> ps.HMM:
        emission = ps.emissions.Gaussian(means=means, covs=covs, covariance=covariance, prior=prior)
        return ps.HMM(initial_probs=[0.9, 0.1], transition_matrix=[[0.95, 0.05], [0.9, 0.1]], emission=emission)

    model = start(None)
    messages = said_by(model, y)
    rises(model)
    if covariance == "tied":  # which cannot collapse
        assert not messages
    else:
        assert len(messages) == 1
        assert "variance collapsed" in messages[0]
        np.testing.assert_allclose(model.emission.means[1].detach(), y[30], atol=1e-6)
        quartiles = np.diff(np.quantile(y, [0.25, 0.75], 0), axis=0)[0] / 1.3489795003921634
        floor = 1e-6 * np.minimum(quartiles**2, y.var(0))
        if covariance == "spherical":
            floor = np.full(2, floor.mean())
        np.testing.assert_allclose(model.emission.variances()[1].detach(), floor, rtol=1e-6)
    full = covariance in ("full", "tied")
    wishart, gamma = ps.priors.NormalInverseWishart, ps.priors.NormalInverseGamma
    model = start(wishart(scale=0.1, dofs=4) if full else gamma(shape=1.5, scale=0.05))
    assert not said_by(model, y)
    rises(model)
    # the mode with one observation, or with all of them: never below the share of the prior in the whole
    assert float(model.emission.variances().min().detach()) > 0.1 / (60 + 7) / 2


@every_covariance
def test_39_one_outlier(covariance: Any) -> None:
    """It has a state of its own, and the other state the mean and the covariance of the rest."""
    y = np.random.default_rng(39).normal(size=(100, 2))
    y[50] = 1e6
    model = gaussian_hmm(covariance)
    said_by(model, y)
    rest = np.delete(y, 50, 0)
    bulk = int(model.emission.means[:, 0].argmin())
    np.testing.assert_allclose(model.emission.means[1 - bulk].detach(), [1e6, 1e6], rtol=1e-9)
    np.testing.assert_allclose(model.emission.means[bulk].detach(), rest.mean(0), rtol=1e-7)
    spread = np.cov(rest.T, bias=True)
    spread = {"full": spread, "diag": np.diag(np.diag(spread)), "spherical": np.trace(spread) / 2 * np.eye(2)}.get(
        covariance, 99 / 100 * spread
    )
    np.testing.assert_allclose(model.emission.covs[bulk].detach(), spread, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(model.transition_matrix[bulk, 1 - bulk].item(), 1 / 98, rtol=1e-6)
    rises(model)


@every_covariance
@pytest.mark.parametrize("prior", [None, 2.0])
def test_40_a_state_first_visited_at_the_last_step(covariance: Any, prior: float | None) -> None:
    """Nothing is known of where it leads: its row is the prior's mode, or stays as it was without one."""
    y = np.random.default_rng(40).normal(size=(51, 2))
    y[-1] = 30.0
    emission = ps.emissions.Gaussian(
        means=[[0.0, 0.0], [29.0, 29.0]], covs=np.array([np.eye(2)] * 2), covariance=covariance
    )
    matrix = [[0.5, 0.5], [0.3, 0.7]]
    model = ps.HMM(emission=emission, initial_probs=[0.5, 0.5], transition_matrix=matrix, transition_prior=prior)
    said_by(model, y)
    row = model.transition_matrix.detach()
    counts = np.array([49.0, 1.0]) + (0 if prior is None else prior - 1)
    np.testing.assert_allclose(row[0], counts / counts.sum(), rtol=1e-9)
    np.testing.assert_allclose(row[1], [0.3, 0.7] if prior is None else [0.5, 0.5], rtol=1e-9)
    assert np.isfinite(model.score(y))
    rises(model)


def test_41_em_never_falls_in_the_penalised_objective() -> None:
    """hmmlearn's own measure, log p(y) alone, falls with these priors; what is maximised does not."""
    from hmmlearn import hmm as rival

    fell = 0
    for seed in range(12):
        rng = np.random.default_rng([41, seed])
        y = 0.05 * rng.normal(size=(60, 2)) + 0.1 * rng.integers(0, 2, size=(60, 1))
        other = rival.GaussianHMM(3, "diag", random_state=seed, n_iter=1, tol=-np.inf).fit(y)
        model = ps.HMM.from_hmmlearn(other)
        scores = [model.log_prob(y).item()]
        for _ in range(6):
            patient(model, y, max_iterations=5, tolerance=1e-12)
            rises(model)
            scores.append(model.log_prob(y).item())
        fell += min(np.diff(scores)) < -1e-9 * abs(scores[0])
    assert fell > 0  # so that the test is about something


def test_42_restarts_report_their_spread() -> None:
    """Twelve starts in noise end in different places: all scores are there, and the best is the model."""
    y = np.random.default_rng(42).normal(size=(150, 2))
    model = gaussian_hmm("diag", 4)
    patient(model, y, n_restarts=12)
    scores = np.array(model.history.restarts)
    assert len(scores) == 12
    assert np.ptp(scores) > 1.0
    assert model.log_prob(y).item() == pytest.approx(scores.max(), rel=1e-9)
    assert model.history.objective[-1] == pytest.approx(scores.max(), rel=1e-9)


# ------------------------------------------------------------------------ 35 - 46: units, offsets, probabilities


@pytest.mark.parametrize("covariance", ["full", "diag", "tied", "spherical"])
@pytest.mark.parametrize("unit", [2.0**-27, 2.0**27, 2.0**498])
def test_35_fits_in_other_units(covariance: Any, unit: float) -> None:
    """The likelihood moves by exactly the Jacobian, from a billionth to 1e150."""
    rng = np.random.default_rng(35)
    y = np.concatenate([rng.normal(size=(30, 2)), 4 + 0.5 * rng.normal(size=(30, 2))])
    scores = []
    for s in (1.0, unit):
        model = patient(ps.HMM(2, emission=ps.emissions.Gaussian(2, covariance=covariance)), s * y)
        scores.append(model.log_prob(s * y).item() + y.size * math.log(s))
    assert scores[1] == pytest.approx(scores[0], abs=1e-8)


@pytest.mark.parametrize("covariance", ["full", "diag", "tied", "spherical"])
def test_37_timestamps(covariance: Any) -> None:
    """An offset of 1e8 costs eight digits of the data and nothing else."""
    rng = np.random.default_rng(37)
    y = np.concatenate([rng.normal(size=(30, 2)), 4 + 0.5 * rng.normal(size=(30, 2))])
    y = (y + 1e8) - 1e8
    scores = []
    for offset in (0.0, 1e8):
        model = patient(ps.HMM(2, emission=ps.emissions.Gaussian(2, covariance=covariance)), y + offset)
        scores.append(model.log_prob(y + offset).item())
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)


def test_43_negative_probabilities() -> None:
    good: dict[str, Any] = {"initial_probs": [0.5, 0.5], "transition_matrix": [[0.5, 0.5], [0.5, 0.5]]}
    emission = ps.emissions.Poisson(rates=[[1.0], [2.0]])
    for name, bad in (("initial_probs", [-0.1, 1.1]), ("transition_matrix", [[1.1, -0.1], [0.5, 0.5]])):
        refused(lambda n=name, b=bad: ps.HMM(emission=emission, **{**good, n: b}), name, "-0.1")
    refused(lambda: ps.emissions.Categorical(probs=[[1.2, -0.2]]), "probs", "-0.2")
    refused(lambda: ps.emissions.Bernoulli(probs=[[1.2]]), "probs", "1.2")
    refused(lambda: ps.emissions.Poisson(rates=[[-1.0]]), "rates", "-1")


def test_44_rows_that_do_not_sum_to_one() -> None:
    emission = ps.emissions.Poisson(rates=[[1.0], [2.0]])
    matrix = [[0.5, 0.7], [0.5, 0.5]]
    message = refused(lambda: ps.HMM(emission=emission, initial_probs=[0.5, 0.5], transition_matrix=matrix), "1.2")
    assert "transition_matrix" in message
    refused(lambda: ps.emissions.Categorical(probs=[[0.5, 0.4]]), "probs", "0.9")
    refused(lambda: symbols(probs=[[np.nan, 0.5, 0.5], [0.1, 0.4, 0.5]]), "probs must be finite")


def test_45_emission_covariances_that_are_none() -> None:
    means = np.zeros((2, 2))
    good = np.stack([np.eye(2)] * 2)
    gaussian = ps.emissions.Gaussian
    bad_ones = {"-1": [[1.0, 2.0], [2.0, 1.0]], "symmetric": [[1.0, 0.5], [0.0, 1.0]], "0": np.zeros((2, 2))}
    for word, bad in bad_ones.items():
        covs = good.copy()
        covs[1] = bad
        refused(lambda c=covs: gaussian(means=means, covs=c), "covs must be positive definite", "state 1", word)
    unequal = good * np.arange(1, 3)[:, None, None]
    refused(lambda: gaussian(means=means, covs=unequal, covariance="tied"), "covs", "tied")


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_46_four_hundred_coordinates(covariance: Any) -> None:
    """Emission densities of exp(-600) and states that differ by hundreds of nats."""
    rng = np.random.default_rng(46)
    means, covs = rng.normal(size=(2, 400)), np.stack([np.eye(400)] * 2)
    emission = ps.emissions.Gaussian(means=means, covs=covs, covariance=covariance)
    model = ps.HMM(emission=emission, initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.2, 0.8]])
    y = means[[0, 0, 1, 1, 0]] + rng.normal(size=(5, 400))
    truth = reference.hmm_oracle(model, y)
    near_log(model.log_prob(y), truth.log_prob, "log_prob")
    near(model.smooth(y).probs, torch.as_tensor(truth.smoothed), "smoothed", size=1.0)


@pytest.mark.parametrize("steps", [200, 2000, pytest.param(20000, marks=pytest.mark.slow)])
def test_48_precision_does_not_fall_with_length(steps: int) -> None:
    """Posteriors and filter to 1e-13 of forty digits, the log-likelihood to 1e-14 relative."""
    from tests.ops import test_hmm_sharp as sharp

    rng = np.random.default_rng([48, steps])
    table = 2.0 * rng.normal(size=(steps, 3))
    problem = sharp.problem_of(rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), size=3), table)
    assert sharp.compare(problem) < 1e-13


# ---------------------------------------------------------------------- 49 - 54: singular, small and mixed units


def exact(model: Any, y: np.ndarray) -> reference.Conditioned:
    return reference.joint_of_lds(model, len(y)).condition(y)


def agrees(model: Any, y: np.ndarray, tolerance: float = 1e-10) -> None:
    """log p(y) and both smoothed moments against the dense joint."""
    truth, smoothed = exact(model, y), model.smooth(y)
    near_log(model.log_prob(y), truth.log_prob, "log_prob", tolerance)
    spread = float(model.filter(y).predicted.cov.abs().max())
    near(smoothed.mean, torch.as_tensor(truth.mean), "mean", tolerance, float(abs(truth.mean).max()) + spread**0.5)
    near(smoothed.cov, torch.as_tensor(truth.cov), "cov", tolerance, spread)
    assert float(torch.linalg.eigvalsh(smoothed.cov).min()) >= -1e-12 * spread


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_49_a_perfect_sensor(unit: float) -> None:
    model = ps.LDS(**{**zoo.lds_parts(49, 2, 1), "emission_cov": [[0.0]]}).rescale(unit)
    y = unit * normal(6, 1)
    agrees(model, y)
    seen = model.smooth(y).mean @ model.emission_matrix.mT
    near(seen, torch.as_tensor(y), "the seen part of the state", size=float(abs(y).max()))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_50_singular_transition_noise(rank: int, unit: float) -> None:
    root = np.random.default_rng(50).normal(size=(2, rank))
    model = ps.LDS(**{**zoo.lds_parts(50, 2, 1), "transition_cov": root @ root.T}).rescale(unit)
    agrees(model, unit * normal(6, 1))


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_51_the_same_sensor_twice_without_noise(unit: float) -> None:
    """There is no density: the error says so, whichever way the data are scored."""
    parts = zoo.lds_parts(51, 2, 1)
    parts.update(emission_matrix=np.repeat(parts["emission_matrix"], 2, axis=0), emission_cov=np.zeros((2, 2)))
    model, y = ps.LDS(**parts).rescale(unit), unit * np.repeat(normal(6, 1), 2, axis=1)
    for method in ("log_prob", "filter", "smooth", "score", "decode"):
        with pytest.raises(SingularInnovation, match="singular"):
            getattr(model, method)(y)
    stream = model.stream()
    with pytest.raises(SingularInnovation, match="singular"):
        stream.update(y[0])
    y[:, 1] = np.nan
    agrees(model, y)


def in_units(parts: dict[str, Any], unit: float) -> dict[str, Any]:
    """The whole model in another unit, states too."""
    squared = {name: unit**2 * parts[name] for name in ("transition_cov", "emission_cov", "initial_cov")}
    return {**parts, **squared, "initial_mean": unit * parts["initial_mean"]}


@pytest.mark.parametrize("unit", [1e-8, 1e-5, 1e-3, 1e5, 1e8])
def test_53_the_whole_model_in_other_units(unit: float) -> None:
    parts, y = zoo.lds_parts(53, 3, 2), normal(60)
    plain, scaled = ps.LDS(**parts), ps.LDS(**in_units(parts, unit))
    moved = scaled.log_prob(unit * y).item() + y.size * math.log(unit)
    assert moved == pytest.approx(plain.log_prob(y).item(), rel=1e-10)
    near(scaled.smooth(unit * y).mean / unit, plain.smooth(y).mean, "mean")
    near(scaled.smooth(unit * y).cov / unit**2, plain.smooth(y).cov, "cov")
    near(scaled.filter(unit * y).updated.mean / unit, plain.filter(y).updated.mean, "filtered mean")


def test_54_sensors_in_different_units() -> None:
    parts, y = zoo.lds_parts(54, 2, 2), normal(60)
    units = np.array([1e8, 1e-8])
    plain, mixed = ps.LDS(**parts), ps.LDS(**parts).rescale(units)
    jacobian = len(y) * np.log(units).sum()
    assert mixed.log_prob(units * y).item() + jacobian == pytest.approx(plain.log_prob(y).item(), rel=1e-10)
    near(mixed.smooth(units * y).mean, plain.smooth(y).mean, "mean")
    near(mixed.smooth(units * y).cov, plain.smooth(y).cov, "cov")


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_56_a_very_wide_start_in_any_unit(unit: float) -> None:
    """The limit of wide starts is the diffuse one, and no covariance loses its sign on the way (see ops)."""
    parts = {"transition_matrix": [[1.0, 1.0], [0.0, 1.0]], "transition_cov": np.diag([0.5, 0.1]) * unit**2}
    parts |= {"emission_matrix": [[1.0, 0.0]], "emission_cov": [[unit**2]]}
    y, kappa = unit * normal(30, 1), 1e16 * unit**2
    wide = ps.LDS(**parts, initial_mean=np.zeros(2), initial_cov=kappa * np.eye(2))
    diffuse = ps.LDS(**parts, initial="diffuse")
    moved = wide.log_prob(y).item() + math.log(kappa)
    assert moved == pytest.approx(diffuse.log_prob(y).item(), rel=1e-10, abs=1e-9)
    near(wide.smooth(y).cov, diffuse.smooth(y).cov, "cov", 1e-10)
    assert float(torch.linalg.eigvalsh(wide.smooth(y).cov).min()) > 0


def test_64_a_stationary_start_at_the_unit_root() -> None:
    for root in (1.0, 1.1):
        model = ps.LDS(
            transition_matrix=[[root]], transition_cov=[[1.0]], emission_matrix=[[1.0]], emission_cov=[[1.0]],
            initial="stationary",
        )  # fmt: skip
        refused(lambda m=model: m.log_prob(normal(6, 1)), "unit circle", "diffuse", "transition_matrix")


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", ["transition_cov", "emission_cov", "initial_cov"])
def test_66_covariances_that_are_none(name: str, size: float) -> None:
    parts = zoo.lds_parts(66, 2, 2)
    negative = size * np.diag([1.0, -0.5])
    refused(lambda: ps.LDS(**{**parts, name: negative}), name, "positive semidefinite", "smallest eigenvalue")
    refused(lambda: ps.LDS(**{**parts, name: -size * np.eye(2)}), name, "positive semidefinite", "smallest eigenvalue")
    crooked = size * np.array([[1.0, 0.4], [0.1, 1.0]])
    refused(lambda: ps.LDS(**{**parts, name: crooked}), name, "not symmetric")
    refused(lambda: ps.LDS(**{**parts, name: np.full((2, 2), np.nan)}), name, "finite")
    if name == "transition_cov":
        taps = np.zeros((1, 2, 2))
        refused(lambda: ps.AR(transition_matrices=taps, transition_cov=negative), name, "smallest eigenvalue")
    model = ps.LDS(**parts)
    refused(lambda: setattr(model, name, crooked), name, "not symmetric")


def local_level(unit: float) -> ps.LDS:
    one, vague = [[1.0]], [[100.0]]
    parts = {"transition_cov": one, "emission_cov": one, "initial_mean": [0.0], "initial_cov": vague}
    arrays = {name: np.array(value) for name, value in parts.items()}
    return ps.LDS(**in_units({**arrays, "transition_matrix": one, "emission_matrix": one}, unit))


MAKERS: dict[str, Callable[[float], tuple[Any, dict[str, Any]]]] = {
    "local-level": lambda s: (
        local_level(s),
        {"fixed": {"transition_matrix", "emission_matrix", "initial_mean", "initial_cov"}},
    ),
    "lds-1": lambda s: (ps.LDS(1, 1), {}),
    "ar-1": lambda s: (ps.AR(1), {}),
    "ar-2": lambda s: (ps.AR(2), {}),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_71_maximum_likelihood_in_other_units(name: str, unit: float) -> None:
    """Fitting does not depend on the unit: the same optimum, shifted by the Jacobian."""
    y = np.cumsum(np.random.default_rng(71).normal(size=60)) * 0.3 + np.random.default_rng(72).normal(size=60)
    scores = []
    for s in (1.0, unit):
        model, options = MAKERS[name](s)
        patient(model, s * y, method="gradient", max_iterations=200, **options)
        assert model.history.converged
        scores.append(model.log_prob(s * y).item() + y.size * math.log(s))
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)


# ------------------------------------------------------------------------------------ inputs, beliefs, paths, files


def test_inputs_that_do_not_fit() -> None:
    model = zoo.lds_inputs(1)
    y, u = normal(10, 1).reshape(2, 5, 1), normal(10, 1, seed=1).reshape(2, 5, 1)
    expected = model.log_prob(y, u)
    assert torch.equal(model.log_prob(y, [u[0], u[1]]), expected), "a list of inputs for a batch"
    assert torch.equal(model.log_prob([y[0], y[1]], u), expected), "a batch of inputs for a list"
    refused(lambda: model.log_prob(y), "u must be given", "input_dim 1")
    refused(lambda: model.log_prob(y, np.zeros((2, 5, 2))), "u must have 1 columns")
    refused(lambda: model.log_prob(y, u[:, :4]), "u has 4 steps but y has 5")
    refused(lambda: model.log_prob(y, [u[0]]), "u must be a list of 2 sequences")
    refused(lambda: model.log_prob(y[0], [u[0], u[1]]), "u must be an array")
    refused(lambda: model.log_prob([y[0], y[1, :3]], [u[0], u[1]]), "u[1] has 5 steps but y[1] has 3")
    refused(lambda: zoo.ar(1, 1, 1).log_prob(y, u), "u was given", "input_dim is 0")
    for value, word in ((np.nan, "known at every step"), (np.inf, "finite")):
        bad = u.copy()
        bad[1, 3] = value
        refused(lambda b=bad: model.log_prob(y, b), "u must be", word, "sequence 1, step 3")
        assert torch.equal(model.log_prob(y, bad, lengths=[5, 3]), model.log_prob(y, u, lengths=[5, 3]))
        refused(lambda v=value: model.stream().update(0.0, v), "u_t must be finite")
    refused(lambda: model.forecast(y, 2, u), "future_u must be given")
    refused(lambda: model.forecast(y, 2, u, future_u=u[0, :3]), "future_u must give 2 steps, got 3")


@family
def test_beliefs_of_another_model(name: str) -> None:
    model, y = FAMILIES[name](), normal()
    wrong = [ps.beliefs.Window(torch.zeros(2, 2)), zoo.rnn(1, "lstm", ps.heads.Bernoulli(), 3).initial_belief()]
    wrong.append(zoo.hmm(1, zoo.gaussian_emission(1), 5).initial_belief())
    for belief in wrong:
        refused(lambda b=belief: model.filter(y, initial=b), "initial must be a")
    refused(lambda: model.filter(y, initial=model.initial_belief((3,))), "initial must be a")


def test_paths_that_do_not_fit() -> None:
    y = normal()
    hmm, lds = FAMILIES["hmm"](), FAMILIES["lds"]()
    refused(lambda: hmm.path_log_prob([0, 1], y), "states must begin with shape")
    refused(lambda: hmm.path_log_prob(np.full(6, 7), y), "states must lie in 0 .. 2")
    refused(lambda: hmm.path_log_prob(np.zeros((6, 2)), y), "states must be single numbers")
    refused(lambda: lds.path_log_prob(np.zeros((6, 3)), y), "states must be vectors")
    refused(lambda: lds.path_log_prob(np.full((6, 2), np.nan), y), "states must be finite")


@pytest.mark.parametrize("scale", [-1.0, 0.0, np.nan, np.inf, [1.0, 2.0, 3.0]])
@family
def test_units_that_are_none(name: str, scale: Any) -> None:
    refused(lambda: FAMILIES[name]().rescale(scale), "scale must be")


def test_a_loaded_model_can_be_fitted_across_the_unit_root(tmp_path: Any) -> None:
    """A stable autoregression has no moments of its own start yet; the fit finds it unstable."""
    zoo.ar(1, 2, 1).save(tmp_path / "ar.safetensors")
    y = np.cumsum(normal(80, 1)) * np.linspace(1, 4, 80)
    loaded, fresh = (patient(m, y, max_iterations=100) for m in (ps.load(tmp_path / "ar.safetensors"), zoo.ar(1, 2, 1)))
    assert loaded.log_prob(y).item() == pytest.approx(fresh.log_prob(y).item(), abs=1e-6)


def test_an_unstable_and_unseen_state_overflows_with_its_step() -> None:
    parts = zoo.lds_parts(1, 2, 1)
    parts.update(transition_matrix=np.diag([1.1, 1.5]), emission_matrix=[[1.0, 0.0]])
    with pytest.raises(StateOverflow, match="step 8"):
        ps.LDS(**parts).log_prob(np.zeros(2000))


def test_constant_data_are_said_aloud() -> None:
    model = ps.HMM(1, emission=ps.emissions.Gaussian(1))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(np.full(20, 5.0), seed=0, max_iterations=3)
    assert {warning.category for warning in said} <= {DegenerateWarning, ConvergenceWarning}
    assert any("y is constant" in str(warning.message) for warning in said)
    assert model.emission.means.item() == pytest.approx(5.0, rel=1e-9)
