"""Learning of linear dynamical systems: EM never falls, restrictions hold, and the M-step is a maximum."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.models.lds_parameters import spectral_radius
from probseq.priors import InverseWishart, Normal


def chance(rng: np.random.Generator, share: float = 0.5) -> bool:
    return bool(rng.random() < share)


def random_cov(rng: np.random.Generator, d: int, kind: str) -> np.ndarray:
    if kind == "spherical":
        return np.eye(d) * rng.uniform(0.2, 2)
    if kind == "diag":
        return np.diag(rng.uniform(0.2, 2, size=d))
    root = rng.normal(size=(d, d))
    return root @ root.T / d + 0.1 * np.eye(d)


def random_parts(rng: np.random.Generator, n: int, m: int, p: int, kinds: tuple[str, str]) -> dict[str, Any]:
    matrix = rng.normal(size=(n, n))
    parts = {
        "transition_matrix": 0.9 * matrix / np.abs(np.linalg.eigvals(matrix)).max(),
        "transition_cov": random_cov(rng, n, kinds[0]),
        "emission_matrix": rng.normal(size=(m, n)),
        "emission_cov": random_cov(rng, m, kinds[1]),
        "initial_mean": rng.normal(size=n),
        "initial_cov": random_cov(rng, n, "full"),
        "transition_offset": rng.normal(size=n),
        "emission_offset": rng.normal(size=m),
    }
    if p:
        parts |= {"transition_input_matrix": rng.normal(size=(n, p)), "emission_input_matrix": rng.normal(size=(m, p))}
    return parts


def random_priors(rng: np.random.Generator, parts: dict[str, Any]) -> dict[str, Any]:
    priors: dict[str, Any] = {}
    for name, value in parts.items():
        shape = np.shape(value)
        if not chance(rng):
            continue
        if name.endswith("_cov"):
            priors[name] = InverseWishart(random_cov(rng, shape[0], "full"), shape[0] + rng.uniform(0, 5))
        else:
            priors[name] = Normal(rng.normal(size=shape), rng.uniform(0.1, 2, size=shape))
    return priors


def random_problem(seed: int) -> tuple[ps.LDS, list[Any], list[Any] | None, set[str]]:
    """A model with random restrictions at a random start, and uneven sequences with gaps from another one."""
    rng = np.random.default_rng([seed, 11])
    n, m, p = int(rng.integers(1, 5)), int(rng.integers(1, 4)), int(rng.integers(0, 3))
    kinds = (str(rng.choice(["full", "diag", "spherical"])), str(rng.choice(["full", "diag", "spherical"])))
    parts, stable = random_parts(rng, n, m, p, kinds), chance(rng, 0.3)
    held: dict[str, Any] = {}
    for name, value in parts.items():
        covariance = name.endswith("_cov")
        if chance(rng, 0.3) and not (stable and name == "transition_matrix"):
            mask = rng.random(np.shape(value)) < 0.4
            if not covariance:
                held[name] = mask
            elif name != "initial_cov" and kinds[name == "emission_cov"] == "diag":
                held[name] = mask & np.eye(len(mask), dtype=bool)
    fixed = {name for name in parts if chance(rng, 0.15)}
    model = ps.LDS(
        **parts,
        transition_covariance=kinds[0],
        emission_covariance=kinds[1],
        stable=stable,
        fixed_entries=held,
        priors=random_priors(rng, parts) if chance(rng) else None,
    )
    lengths = rng.integers(1, 40, size=int(rng.integers(1, 8)))
    truth = ps.LDS(**random_parts(rng, n, m, p, ("full", "full")))
    u = [rng.normal(size=(t, p)) for t in lengths] if p else None
    y = [truth.sample(int(t), u=None if u is None else u[i], seed=seed + i).numpy() for i, t in enumerate(lengths)]
    gaps = rng.choice([0.0, 0.2, 0.6])
    y = [np.where(rng.random(one.shape) < gaps, np.nan, one) * 10.0 ** rng.integers(-3, 4) for one in y]
    if all(np.isnan(one).all() for one in y):
        y[0][0, 0] = 1.0
    return model, y, u, fixed


def check_em(seed: int) -> None:
    model, y, u, fixed = random_problem(seed)
    before = {name: getattr(model, name).clone() for name in model.params()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant data and an iteration limit are said aloud elsewhere
        model.fit(y, u, method="em", fixed=fixed, max_iterations=12, tolerance=1e-14)
    trace = np.array(model.history.objective)
    size = np.abs(trace).max() + sum(np.isfinite(one).sum() for one in y)
    assert (np.diff(trace) >= -1e-9 * size).all(), f"seed {seed}: EM fell by {-np.diff(trace).min():.3g} of {size:.3g}"
    with torch.no_grad():
        end = float(model.log_prob(y, u).sum() + model.log_prior())
        assert abs(end - trace.max()) <= 1e-8 * size, f"seed {seed}: {end} at the end, {trace.max()} recorded"
        for name in fixed:
            assert torch.equal(before[name], getattr(model, name)), f"seed {seed}: {name} moved"
        for name, mask in model.held_entries.items():
            held = torch.diag(mask) if name.endswith("_cov") else mask
            assert torch.equal(before[name][held], getattr(model, name)[held]), f"seed {seed}: {name} moved"
        if model.stable:
            assert float(spectral_radius(model.transition_matrix)) < 1


@pytest.mark.parametrize("seed", range(20))
def test_em_never_falls(seed):
    check_em(seed)


@pytest.mark.slow
def test_em_never_falls_on_1000_problems():
    for seed in range(1000):
        check_em(seed)
