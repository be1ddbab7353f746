"""Published numbers, to the digits given; `golden/*.json` says where each comes from."""

from __future__ import annotations

import importlib
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import probseq as ps
from probseq.parameters import overriding

FOLDER = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def from_statsmodels(module: str, name: str) -> np.ndarray:
    """A series that statsmodels installs with its tests."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its test modules use marks that only its own pytest knows
            return np.asarray(getattr(importlib.import_module(f"statsmodels.tsa.{module}"), name), dtype=float)
    except (ImportError, AttributeError):
        pytest.skip(f"statsmodels is not installed with its tests ({module})")


# ---------------------------------------------------------------------------------------- linear Gaussian models


def local_level(case: dict[str, Any], mean: float, var: float) -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[1.0]],
        transition_cov=[[case["transition_var"]]],
        emission_matrix=[[1.0]],
        emission_cov=[[case["emission_var"]]],
        initial_mean=[mean],
        initial_cov=[[var]],
    )


@pytest.mark.parametrize("unit", [1e-8, 1e-3, 1.0, 1e8])
def test_nile_with_a_known_start(unit: float) -> None:
    case, y = golden("nile"), ps.datasets.nile()
    start = case["known_start"]
    model = local_level(case, start["initial_mean"], start["initial_var"]).rescale(unit)
    jacobian = len(y) * math.log(unit)
    assert model.log_prob(unit * y).item() + jacobian == pytest.approx(start["log_prob"], abs=1e-7)


def test_nile_started_by_the_first_observation() -> None:
    """N(y_1, emission_var + transition_var) is where an exact diffuse start is after y_1: the same from there on."""
    case, y = golden("nile"), ps.datasets.nile().to_numpy()
    model = local_level(case, 0.0, 1e7)
    var = case["emission_var"] + case["transition_var"]
    start = ps.beliefs.Gaussian(torch.tensor([y[0]]), torch.tensor([[var]], dtype=torch.float64))
    filtered = model.filter(y[1:], initial=start)
    assert float(filtered.log_prob.sum()) == pytest.approx(case["start_from_first"]["log_prob"], abs=1e-7)
    assert float(filtered.updated.cov[-1]) == pytest.approx(case["last_filtered"]["var"], abs=1e-5)
    assert float(filtered.updated.mean[-1]) == pytest.approx(case["last_filtered"]["mean"], abs=1e-5)
    started = local_level(case, float(y[0]), var)
    smoothed = started.smooth(y[1:]).mean[:, 0]
    for step, mean in case["smoothed_mean"].items():
        if step != "1":
            assert float(smoothed[int(step) - 2]) == pytest.approx(mean, abs=1e-5)


def test_wpi1_third_order_autoregression() -> None:
    case = golden("wpi1")
    y = np.diff(from_statsmodels("statespace.tests.results.results_sarimax", "wpi1_data"))
    taps = np.reshape(case["ar"], (3, 1, 1))
    model = ps.AR(transition_matrices=taps, transition_cov=[[case["var"]]])
    assert model.log_prob(y).item() == pytest.approx(case["log_prob"], abs=1e-5)


# ------------------------------------------------------------------------------------------ hidden Markov models


def discrete(case: dict[str, Any]) -> ps.HMM:
    return ps.HMM(
        emission=ps.emissions.Categorical(probs=case["emission_probs"]),
        initial_probs=case["initial_probs"],
        transition_matrix=case["transition_matrix"],
    )


def test_umbrella_world() -> None:
    case = golden("umbrella")
    model, y = discrete(case), np.array(case["y"])
    assert model.log_prob(y).item() == pytest.approx(case["log_prob"], abs=1e-10)
    assert model.decode(y).tolist() == case["path"]
    assert model.path_log_prob(model.decode(y), y).item() == pytest.approx(case["path_log_prob"], abs=5e-5)
    np.testing.assert_allclose(model.smooth(y).probs[:, 0], case["smoothed_first_state"], rtol=0, atol=5e-9)


def test_walk_shop_clean() -> None:
    case = golden("walk_shop_clean")
    model, y = discrete(case), np.array(case["y"])
    assert model.log_prob(y).item() == pytest.approx(case["log_prob"], abs=5e-8)
    assert model.decode(y).tolist() == case["path"]
    assert model.path_log_prob(model.decode(y), y).exp().item() == pytest.approx(case["path_prob"], rel=1e-12)
    np.testing.assert_allclose(model.smooth(y).probs[:, 0], case["smoothed_first_state"], rtol=0, atol=1e-7)


def test_weather_chain() -> None:
    """States that are seen: emissions that say their state make the HMM a Markov chain."""
    case = golden("weather_chain")
    chain = {**case, "emission_probs": np.eye(3), "initial_probs": [0.0, 0.0, 1.0]}
    assert discrete(chain).log_prob(np.array(case["y"])).exp().item() == pytest.approx(case["prob"], rel=1e-12)


def test_earthquakes_one_state() -> None:
    case = golden("earthquakes")
    y = np.array(case["y"], dtype=float)
    rates = ps.emissions.Poisson(rates=[[y.mean()]])
    model = ps.HMM(emission=rates, initial_probs=[1.0], transition_matrix=[[1.0]])
    assert -model.log_prob(y).item() == pytest.approx(case["minus_log_prob"]["1"], abs=5e-5)


def test_earthquakes_two_states_with_a_stationary_start() -> None:
    """Maximise over rates and transitions, the start held at the stationary law: the published optimum."""
    case = golden("earthquakes")
    y = ps.Sequences.of(np.array(case["y"], dtype=float))
    emission = ps.emissions.Poisson(rates=[[10.0], [30.0]])
    model = ps.HMM(emission=emission, initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.1, 0.9]])

    def minus(vector: np.ndarray) -> tuple[float, np.ndarray]:
        raw = torch.tensor(vector, requires_grad=True)
        leave = raw[:2].sigmoid()
        matrix = torch.stack([torch.stack([1 - leave[0], leave[0]]), torch.stack([leave[1], 1 - leave[1]])])
        stationary = torch.stack([leave[1], leave[0]]) / leave.sum()
        values = {
            "transition_matrix": matrix,
            "initial_probs": stationary,
            "emission.rates": raw[2:].exp().unsqueeze(-1),
        }
        with overriding(model, values):
            score = -model.log_prob(y)
        (gradient,) = torch.autograd.grad(score, raw)
        return float(score.detach()), gradient.numpy()

    best = minimize(minus, np.array([-2.0, -2.0, np.log(10.0), np.log(30.0)]), jac=True, method="BFGS")
    assert best.fun == pytest.approx(case["minus_log_prob"]["2"], abs=5e-5)
    np.testing.assert_allclose(np.exp(best.x[2:]), case["rates"], atol=1e-3)


def test_federal_funds_two_regimes() -> None:
    case = golden("fed_funds")
    y = from_statsmodels("regime_switching.tests.test_markov_regression", "fedfunds")
    matrix = np.array([[case["stay_0"], 1 - case["stay_0"]], [case["leave_1"], 1 - case["leave_1"]]])
    stationary = np.array([matrix[1, 0], matrix[0, 1]]) / (matrix[1, 0] + matrix[0, 1])
    for start, expected in ((stationary, case["log_prob"]), ([0.5, 0.5], case["log_prob_uniform_start"])):
        covs = np.full((2, 1, 1), case["std"] ** 2)
        emission = ps.emissions.Gaussian(means=np.reshape(case["means"], (2, 1)), covs=covs, covariance="tied")
        model = ps.HMM(emission=emission, initial_probs=start, transition_matrix=matrix)
        assert model.log_prob(y).item() == pytest.approx(expected, abs=1e-5)


def test_polyphonic_music_calibration() -> None:
    """A score that averages over padding, first frames or sequences would miss this number by nats."""
    folder = os.environ.get("PROBSEQ_DATA")
    if not folder:
        pytest.skip("PROBSEQ_DATA does not name a folder with JSB_Chorales.mat")
    from scipy.io import loadmat

    songs = loadmat(Path(folder) / "JSB_Chorales.mat")
    train, test = ([np.asarray(s, dtype=float) for s in songs[part][0]] for part in ("traindata", "testdata"))
    frames = np.concatenate(train)
    probs = (frames.sum(0, keepdims=True) + 0.5) / (len(frames) + 1)
    model = ps.HMM(emission=ps.emissions.Bernoulli(probs=probs), initial_probs=[1.0], transition_matrix=[[1.0]])
    assert -model.score(test) == pytest.approx(golden("jsb_chorales")["nats_per_frame"], abs=5e-3)
    assert -model.score(np.concatenate(test), lengths=[len(s) for s in test]) == pytest.approx(11.06, abs=5e-3)
