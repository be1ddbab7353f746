"""EM never lowers log p(y) + log p(parameters): a thousand random problems, none of them alike.

States, coordinates, emissions, covariance types, priors, gaps, uneven lengths, units, tied rows, structural zeros,
stationary starts, transitions driven by inputs, and durations are drawn at random; so is whether the fit starts from
given values or from the data.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.errors import ConvergenceWarning, DegenerateWarning

E, Q = ps.emissions, ps.priors
COVARIANCES = ["full", "diag", "tied", "spherical"]
EMISSIONS = [
    "gaussian", "gaussian", "gaussian", "mixture", "student", "categorical", "bernoulli", "multinomial", "poisson",
    "negative", "angles", "product",
]  # fmt: skip


def one_of(rng: np.random.Generator, values: list[Any]) -> Any:
    return values[rng.integers(len(values))]


def gaussian_prior(rng: np.random.Generator, dim: int, covariance: str) -> Any:
    held = float(rng.choice([0.0, 0.5, 3.0]))
    mean = rng.normal(size=dim)
    if covariance in ("full", "tied"):
        root = rng.normal(size=(dim, rng.integers(1, dim + 2)))  # of any rank
        matrix = 0.1 * root @ root.T
        return Q.NormalInverseWishart(
            scale=(matrix + matrix.T) / 2, dofs=rng.uniform(-dim - 1, 5), mean=mean, mean_precision=held
        )
    scale, shape = rng.uniform(0, 0.3), rng.uniform(-1, 3)
    return Q.NormalInverseGamma(shape=shape, scale=scale, mean=mean, mean_precision=held)


def emission_and_data(rng: np.random.Generator, rows: int) -> tuple[Any, np.ndarray]:
    """An emission from sizes, with a prior or without, and data (rows, dim) that none of its laws has made."""
    kind, dim, some = one_of(rng, EMISSIONS), int(rng.integers(1, 5)), rng.random() < 0.5
    levels = (np.arange(rows) // int(rng.integers(1, 12))) % int(rng.integers(1, 5))
    real = rng.normal(size=(rows, dim)) * rng.uniform(0.3, 2) + 2 * rng.normal(size=(6, dim))[levels]
    if kind in ("gaussian", "mixture"):
        covariance = one_of(rng, COVARIANCES)
        prior = gaussian_prior(rng, dim, covariance) if some else None
        if kind == "gaussian":
            return E.Gaussian(dim, covariance=covariance, prior=prior), real
        weights = Q.Dirichlet(rng.uniform(1, 3)) if some else None
        return E.GaussianMixture(dim, 2, covariance=covariance, prior=prior, weights_prior=weights), real
    if kind == "student":
        return E.StudentT(dim, covariance=one_of(rng, ["full", "diag"])), real * rng.standard_t(3, size=(rows, 1))
    if kind == "angles":
        return E.VonMises(dim), (real + np.pi) % (2 * np.pi) - np.pi
    if kind == "product":
        parts = E.Gaussian(1), E.Categorical(3, prior=Q.Dirichlet(1.5) if some else None)
        return E.Product(*parts), np.stack([real[:, 0], rng.integers(0, 3, size=rows)], -1)
    if kind == "categorical":
        return E.Categorical(4, prior=Q.Dirichlet(rng.uniform(1, 3)) if some else None), (
            levels[:, None] + (rng.random((rows, 1)) < 0.3)
        ) % 4
    if kind == "bernoulli":
        prior = Q.Beta(*rng.uniform(1, 3, size=2)) if some else None
        return E.Bernoulli(dim, prior=prior), (real > 0).astype(float)
    if kind == "multinomial":
        shares = rng.dirichlet(np.ones(3), size=6)[levels]
        return E.Multinomial(3, prior=Q.Dirichlet(rng.uniform(1, 3)) if some else None), rng.multinomial(7, shares)
    prior = Q.Gamma(rng.uniform(1, 4), rng.uniform(0, 2)) if some else None
    counts = rng.poisson(np.exp(np.clip(real / 2, -3, 4)))
    return (E.Poisson if kind == "poisson" else E.NegativeBinomial)(dim, prior=prior), counts


def zeros_in(rng: np.random.Generator, k: int) -> np.ndarray:
    """A transition matrix some of whose entries are impossible, never the diagonal or the next state."""
    keep = (rng.random((k, k)) > 0.4) | np.eye(k, dtype=bool) | np.roll(np.eye(k, dtype=bool), 1, 1)
    matrix = rng.dirichlet(np.ones(k), size=k) * keep
    return matrix / matrix.sum(-1, keepdims=True)


def model_for(rng: np.random.Generator, emission: Any) -> Any:
    k = int(rng.integers(1, 6))
    if rng.random() < 0.2:
        makers = [ps.durations.Table, ps.durations.Poisson, ps.durations.NegativeBinomial]
        return ps.HSMM(k, emission=emission, duration=one_of(rng, makers)(int(rng.integers(2, 12))))
    options: dict[str, Any] = {}
    tied = rng.random() < 0.2
    if tied:
        options["tied_rows"] = rng.integers(0, 2, size=k).tolist()
    if rng.random() < 0.3:
        options["transition_prior"] = float(rng.uniform(1, 3))
    if rng.random() < 0.3 and not tied:
        options["transition_matrix"] = zeros_in(rng, k)
    extra = rng.random()
    if extra < 0.2:
        options["initial"] = "stationary"
    elif extra < 0.35:
        options["input_dim"] = int(rng.integers(1, 3))
    elif extra < 0.5:
        options["initial_prior"] = float(rng.uniform(1, 3))
    return ps.HMM(k, emission=emission, **options)


def problem(seed: int) -> tuple[Any, list[np.ndarray], list[np.ndarray] | None]:
    """A model and its data: one to four sequences of 1 to 60 steps, gaps, and a unit from 1e-6 to 1e6."""
    rng = np.random.default_rng([seed, 77])
    lengths = [int(n) for n in rng.integers(1, 61, size=rng.integers(1, 5))]
    lengths[0] = max(lengths[0], 12)
    emission, data = emission_and_data(rng, sum(lengths))
    model = model_for(rng, emission)
    y = data.astype(float)
    if model.real_valued:
        scale, shift = 10.0 ** rng.uniform(-6, 6), float(rng.choice([0.0, 1.0, -1e3]))
        model = model.rescale(scale, scale * shift)  # and its prior with it
        y = scale * (y + shift)
    missing = rng.choice([0.0, 0.1, 0.4])
    y[rng.random(y.shape) < missing] = np.nan
    u = rng.normal(size=(len(y), model.input_dim)) if model.input_dim else None
    cuts = np.cumsum(lengths)[:-1]
    if rng.random() < 0.5:  # give it values: those of a start from other rows
        rough = copy.deepcopy(model)
        some = np.where(np.isnan(y), np.nan, y[rng.permutation(len(y))])
        quietly(rough, np.split(some, cuts), None if u is None else np.split(u, cuts), seed=seed, max_iterations=0)
        model = rough
    return model, np.split(y, cuts), None if u is None else np.split(u, cuts)


def quietly(model: Any, y: Any, u: Any, **options: Any) -> list[str]:
    """Fit, and what it said of convergence."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(y, u, **options)
    assert {warning.category for warning in said} <= {ConvergenceWarning, DegenerateWarning}
    return [str(warning.message) for warning in said]


def largest_fall(seed: int) -> float:
    """By how much EM lowered its objective in any of 15 steps, relative to it and to a nat per step."""
    model, y, u = problem(seed)
    said = quietly(model, y, u, seed=seed, max_iterations=15, tolerance=1e-13)
    trace = np.array(model.history.objective)
    assert np.isfinite(trace).all()
    steps = sum(map(len, y))
    found = float((trace[:-1] - trace[1:]).max()) / (abs(trace).max() + steps)
    assert (found > 1e-9) == any("lowered" in message for message in said)
    with torch.no_grad():
        last = float(sum(model.log_prob(y, u)) + model.log_prior())
    assert last == pytest.approx(trace.max(), rel=1e-8, abs=1e-8 * steps)
    return found


@pytest.mark.parametrize("seed", [*range(20), 233, 960])
def test_em_never_falls(seed: int) -> None:
    """Twenty, and two where inputs make a move likely that is impossible to the last digit at u = 0."""
    assert largest_fall(seed) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("first", range(20, 1000, 20))
def test_em_never_falls_on_a_thousand_problems(first: int) -> None:
    assert {seed: fall for seed in range(first, first + 20) if (fall := largest_fall(seed)) > 1e-9} == {}


if __name__ == "__main__":
    import sys
    import time
    import traceback

    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        begun = time.time()
        model, _, _ = problem(seed)
        label = f"{seed} {type(model).__name__}({model.n_states}, {type(model.emission).__name__})"
        try:
            fall = largest_fall(seed)
            print(label, f"{fall:.2g}", "FELL" if fall > 1e-9 else "", f"{time.time() - begun:.1f}s", flush=True)
        except Exception as error:
            print(label, "ERROR", type(error).__name__, str(error)[:200], flush=True)
            traceback.print_exc(limit=-3)
