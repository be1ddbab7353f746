"""Linear dynamical systems against statsmodels' Kalman filter, conventional and univariate, its tricks left on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

import probseq as ps
from benchmarks.timing import Result, agree, medians
from probseq.ops import kalman


def problem(n: int, m: int, t: int, missing: float) -> tuple[ps.LDS, KalmanSmoother, np.ndarray]:
    draws = np.random.default_rng(n)
    matrix = draws.normal(size=(n, n))
    matrix *= 0.95 / np.abs(np.linalg.eigvals(matrix)).max()
    matrices = {
        "transition_matrix": matrix,
        "transition_cov": 0.1 * np.eye(n) + 0.02,
        "emission_matrix": draws.normal(size=(m, n)),
        "emission_cov": 0.5 * np.eye(m),
        "initial_mean": np.zeros(n),
        "initial_cov": np.eye(n),
    }
    ours = ps.LDS(**matrices)
    y = ours.sample(t, seed=0).numpy()
    y[draws.random(y.shape) < missing] = np.nan
    other = KalmanSmoother(m, n)
    other.bind(y.copy())
    other["transition"], other["state_cov"] = matrices["transition_matrix"], matrices["transition_cov"]
    other["design"], other["obs_cov"] = matrices["emission_matrix"], matrices["emission_cov"]
    other["selection"] = np.eye(n)
    other.initialize_known(matrices["initial_mean"], matrices["initial_cov"])
    return ours, other, y


def univariate(other: KalmanSmoother, call: Callable[[], object]) -> Callable[[], object]:
    """The same call with observations taken one by one."""

    def run() -> object:
        other.filter_univariate = True
        result = call()
        other.filter_univariate = False
        return result

    return run


def results() -> list[Result]:
    rows: list[Result] = []
    for n, m, t, missing in [
        (2, 1, 1_000, 0.0),
        (2, 1, 1_000, 0.2),
        (4, 2, 10_000, 0.0),
        (4, 2, 10_000, 0.2),
        (10, 5, 2_000, 0.0),
        (50, 20, 500, 0.0),
    ]:
        ours, other, y = problem(n, m, t, missing)
        sequences = ps.Sequences.of(y)
        case = f"LDS, {n} states, {m} columns, {t:,} steps" + (f", {missing:.0%} missing" if missing else "")
        with torch.no_grad():
            arguments = ours._arguments(sequences.flat())
            agree(ours.log_prob(sequences), other.loglike(), 1e-7)
            agree(ours.smooth(sequences).mean, other.smooth().smoothed_state.T, 1e-6)
            by_one = univariate(other, other.loglike)
            calls = (lambda: ours.log_prob(sequences), other.loglike, by_one, lambda: kalman.log_prob(*arguments))
            mine, theirs, one, alone = medians(*calls)
            rows.append(Result(case, "log-likelihood", mine, "statsmodels default", theirs, alone))
            rows.append(Result(case, "log-likelihood", mine, "statsmodels univariate", one, alone))
            mine, theirs, alone = medians(
                lambda: ours.smooth(sequences), other.smooth, lambda: kalman.smooth(*arguments)
            )
            rows.append(Result(case, "smoother", mine, "statsmodels default", theirs, alone))
    return rows


def gradients() -> list[tuple[str, float, float]]:
    """Milliseconds of a value, and of a value with its gradient in all parameters."""
    found: list[tuple[str, float, float]] = []
    for n, m, t in [(2, 1, 1_000), (4, 2, 10_000)]:
        ours, _, y = problem(n, m, t, 0.0)
        sequences = ps.Sequences.of(y)
        parameters = [p for p in ours.parameters() if p.requires_grad and p.numel()]

        def value(ours: ps.LDS = ours, sequences: ps.Sequences = sequences) -> object:
            with torch.no_grad():
                return ours.log_prob(sequences)

        def both(ours: ps.LDS = ours, sequences: ps.Sequences = sequences, parameters: list = parameters) -> object:
            return torch.autograd.grad(ours.log_prob(sequences), parameters)

        plain, with_gradient = medians(value, both)
        found.append((f"LDS, {n} states, {m} columns, {t:,} steps", plain, with_gradient))
    return found
