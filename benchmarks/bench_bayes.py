"""Bayesian sampling against Pyro's own: `python -m benchmarks.bench_bayes [--draws 300] [--warmup 200]`.

Both sides run Pyro's no-U-turn sampler with the same priors, warm-up and tree depth. Ours adapts a diagonal mass matrix
in coordinates that are correlated as Laplace's approximation says; Pyro's runs twice, with a diagonal matrix and with a
full one (`full_mass`), and the better one counts. What else differs is what a step asks: Pyro's model with
`GaussianHMM` or `DiscreteHMM` (parallel-in-time scans, autograd), or ours with the compiled adjoint. The log joint
densities are asserted equal first. The figure is the smallest bulk effective sample size over all parameters, per
second of warm-up and sampling together; ours includes finding the mode and Laplace's approximation.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

import probseq as ps
from probseq.bayes.arviz_bridge import arviz, quietly
from probseq.bayes.posterior import place_values
from probseq.bayes.potential import prepare
from probseq.errors import ConvergenceWarning

K = 4
Draws = dict[str, np.ndarray]


def double(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


# ---- a local linear trend: three variances


PRIOR = dist.InverseGamma(double(2.0), double(0.1))
LEVEL = [[1.0, 1.0], [0.0, 1.0]]
START = 10.0


def trend(variances: tuple[float, float, float] = (0.3, 0.02, 1.0)) -> ps.LDS:
    return ps.LDS(
        transition_matrix=LEVEL, transition_cov=np.diag(variances[:2]), emission_matrix=[[1.0, 0.0]],
        emission_cov=[[variances[2]]], initial_mean=[0.0, 0.0], initial_cov=np.eye(2) * START,
        transition_covariance="diag", emission_covariance="diag",
    )  # fmt: skip


TREND_FIXED = ("transition_matrix", "emission_matrix", "initial_mean", "initial_cov")


def trend_program(y: Tensor) -> None:
    state = pyro.sample("transition_var", PRIOR.expand([2]).to_event(1))
    seen = pyro.sample("emission_var", PRIOR)
    # Pyro has a transition before its first observation: y_0 is scored by hand, the rest starts from p(z_0 | y_0)
    prior, noise = START * torch.eye(2, dtype=torch.float64), torch.diag(torch.cat([state, seen.reshape(1)]))
    gain = prior[:, :1] / (START + seen)
    pyro.factor("first", dist.Normal(0.0, (START + seen).sqrt()).log_prob(y[0, 0]))
    none = torch.zeros(2, dtype=torch.float64)
    series = dist.GaussianHMM(
        dist.MultivariateNormal(gain[:, 0] * y[0], prior - gain @ prior[:1]), double(LEVEL).mT,
        dist.MultivariateNormal(none, noise[:2, :2]), double([[1.0], [0.0]]),
        dist.Normal(none[:1], seen.sqrt().reshape(1)).to_event(1), duration=len(y) - 1,
    )  # fmt: skip
    pyro.sample("y", series, obs=y[1:])


def trend_values(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "transition_cov": torch.diag_embed(drawn["transition_var"]),
        "emission_cov": drawn["emission_var"].reshape(*drawn["emission_var"].shape, 1, 1),
    }


# ---- a chain of four states with Gaussian outputs


MEANS = double([-3.0, -1.0, 1.0, 3.0])
ROWS = dist.Dirichlet(torch.full((K, K), 1.0, dtype=torch.float64) + 4.0 * torch.eye(K, dtype=torch.float64))
CENTRES = dist.Normal(MEANS, 1.0)
SPREADS = dist.InverseGamma(double(3.0), double(1.0))


def chain() -> ps.HMM:
    matrix = 0.88 * np.eye(K) + 0.03
    emission = ps.emissions.Gaussian(means=MEANS[:, None], covs=np.full((K, 1, 1), 0.6))
    return ps.HMM(initial_probs=[1 / K] * K, transition_matrix=matrix, emission=emission)


def chain_program(y: Tensor) -> None:
    rows = pyro.sample("rows", ROWS.to_event(1))
    means = pyro.sample("means", CENTRES.to_event(1))
    variances = pyro.sample("variances", SPREADS.expand([K]).to_event(1))
    first = dist.Normal(means, variances.sqrt()).log_prob(y[0]) - np.log(K)
    total = first.logsumexp(-1)
    pyro.factor("first", total)
    series = dist.DiscreteHMM(first - total, rows.log(), dist.Normal(means, variances.sqrt()), duration=len(y) - 1)
    pyro.sample("y", series, obs=y[1:, 0])


def chain_values(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "transition_matrix": drawn["rows"],
        "emission.means": drawn["means"].unsqueeze(-1),
        "emission.covs": drawn["variances"].reshape(*drawn["variances"].shape, 1, 1),
    }


class Case:
    """One model on both sides."""

    def __init__(self, name: str, length: int) -> None:
        self.name, self.length = name, length
        is_trend = name == "local linear trend"
        self.model: Any = trend() if is_trend else chain()
        self.y = self.model.sample(length, seed=1)
        self.program, self.values = (trend_program, trend_values) if is_trend else (chain_program, chain_values)
        self.fixed = TREND_FIXED if is_trend else ("initial_probs",)
        ours = {"transition_cov": PRIOR, "emission_cov": PRIOR}
        chains = {
            "transition_matrix": ROWS,
            "emission.means": dist.Normal(MEANS[:, None], 1.0),
            "emission.covs": SPREADS,
        }
        self.priors: Any = ours if is_trend else chains
        point = {"transition_var": double([0.3, 0.02]), "emission_var": double(1.0)}
        rows = {"rows": double(0.88 * np.eye(K) + 0.03), "means": MEANS, "variances": double([0.6] * K)}
        self.point = point if is_trend else rows

    def joint_of_pyro(self, point: dict[str, Tensor]) -> float:
        trace: Any = pyro.poutine.trace(pyro.poutine.condition(self.program, point)).get_trace(self.y)
        return float(trace.log_prob_sum())

    def joint_of_ours(self, point: dict[str, Tensor]) -> float:
        """log p(y) + log prior, without the volume of the coordinates."""
        potential = prepare(self.model, self.model._door(self.y).flat(), self.priors, self.fixed, 0)
        place_values(potential.model, self.values(point))
        theta = torch.from_numpy(potential.theta())
        volumes = [block.log_volume(theta[block.place], block.raw(theta[block.place])) for block in potential.blocks]
        return potential(theta.numpy())[0] - float(sum(volumes))

    def agree(self) -> None:
        """Fail unless both have one joint density, here and nearby."""
        moved = {name: value * 1.1 for name, value in self.point.items() if name != "rows"}
        if "rows" in self.point:
            tilted = self.point["rows"] * torch.linspace(1.0, 1.3, K, dtype=torch.float64)
            moved["rows"] = tilted / tilted.sum(-1, keepdim=True)
        for point in (self.point, moved):
            np.testing.assert_allclose(self.joint_of_ours(point), self.joint_of_pyro(point), rtol=1e-7)  # its scan

    def run_ours(self, n_samples: int, n_warmup: int, seed: int) -> tuple[Draws, float]:
        start = time.perf_counter()
        posterior = ps.bayes.nuts(
            self.model, self.y, priors=self.priors, fixed=self.fixed, n_samples=n_samples, n_warmup=n_warmup,
            n_chains=1, seed=seed, n_jobs=1, relabel=False,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        return {n: v[0].numpy() for n, v in posterior.draws.items()}, seconds

    def run_pyro(self, n_samples: int, n_warmup: int, seed: int, full: bool) -> tuple[Draws, float]:
        pyro.set_rng_seed(seed)
        start = pyro.infer.autoguide.init_to_value(values=self.point)
        sampler: Any = MCMC(
            NUTS(self.program, init_strategy=start, full_mass=full), n_samples, n_warmup, disable_progbar=True
        )
        begin = time.perf_counter()
        sampler.run(self.y)
        seconds = time.perf_counter() - begin
        drawn = self.values(sampler.get_samples())
        return {name: value.numpy() for name, value in drawn.items()}, seconds


def slowest(draws: Draws) -> float:
    """The smallest bulk effective sample size of all entries that vary."""
    with quietly():
        found = arviz().ess(arviz().from_dict({name: values[None] for name, values in draws.items()}), method="bulk")
    return min(float(np.nanmin(np.where(values > 0, values, np.nan))) for values in _varying(found, draws))


def _varying(found: Any, draws: Draws) -> list[np.ndarray]:
    return [np.where(values.std(0) > 0, np.asarray(found[name]), np.nan) for name, values in draws.items()]


def row(name: str, length: int, n_samples: int, n_warmup: int) -> str:
    case = Case(name, length)
    case.agree()
    case.run_ours(10, 10, 0)  # kernels compile
    figures: dict[str, tuple[float, float]] = {}
    runs = {
        "own": case.run_ours,
        "diagonal": partial(case.run_pyro, full=False),
        "full": partial(case.run_pyro, full=True),
    }
    for kind, run in runs.items():
        draws, seconds = run(n_samples, n_warmup, 0)
        figures[kind] = slowest(draws), seconds
    ours, own = figures.pop("own")
    rates = {kind: effective / seconds for kind, (effective, seconds) in figures.items()}
    best = max(rates, key=lambda kind: rates[kind])
    others = ", ".join(f"{kind} {n:.0f} in {t:.1f} s" for kind, (n, t) in figures.items())
    own_columns = f"{ours / own:.3g} | {ours:.0f} in {own:.1f} s"
    ratio = ours / own / rates[best]
    return f"| {name} | {length:,} | {own_columns} | {rates[best]:.3g} ({best}) | {others} | {ratio:.1f} |"


def everything(lengths: list[int], n_samples: int, n_warmup: int) -> None:
    print("| model | T | probseq, effective draws a second | | Pyro | | times faster |\n|---|---|---|---|---|---|---|")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for length in lengths:
            for name in ("local linear trend", f"hidden Markov model, {K} states"):
                print(row(name, length, n_samples, n_warmup), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--rows", default="200,2000", help="lengths")
    options = parser.parse_args()
    torch.set_num_threads(1)
    everything([int(length) for length in options.rows.split(",")], options.draws, options.warmup)
