"""Models, priors and samplers whose calibration is simulated: short series, proper priors, states ordered by mean."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D

import probseq as ps
from probseq.bayes.calibration import simulated_ranks
from probseq.errors import ConvergenceWarning

N_RANKS = 31
#: draws between those whose rank is taken, so that these are as good as independent
THIN = {("level", "nuts"): 3, ("states", "nuts"): 2, ("level", "gibbs"): 15, ("states", "gibbs"): 8}


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).squeeze()


def local_level() -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[1.0]], transition_cov=[[0.5]], emission_matrix=[[1.0]], emission_cov=[[0.5]],
        initial_mean=[0.0], initial_cov=[[4.0]],
    )  # fmt: skip


def two_states() -> ps.HMM:
    return ps.HMM(
        initial_probs=[0.5, 0.5], transition_matrix=[[0.8, 0.2], [0.2, 0.8]],
        emission=ps.emissions.Gaussian(means=[[-1.0], [1.0]], covs=[[[1.0]], [[1.0]]]),
    )  # fmt: skip


LEVEL_PRIORS = {
    "transition_cov": D.InverseGamma(number(3.0), number(1.0)),
    "emission_cov": D.InverseGamma(number(3.0), number(2.0)),
}
STATE_PRIORS = {
    "transition_matrix": D.Dirichlet(torch.tensor([[6.0, 2.0], [2.0, 6.0]], dtype=torch.float64)),
    "emission.means": D.Normal(number(0.0), number(3.0)),
    "emission.covs": D.InverseGamma(number(5.0), number(4.0)),
}
LENGTHS = {"level": 40, "states": 50}
FIXED = {"level": {"transition_matrix", "emission_matrix", "initial_mean", "initial_cov"}, "states": {"initial_probs"}}


def draw_level(_: int) -> dict[str, Tensor]:
    return {name: prior.sample().reshape(1, 1) for name, prior in LEVEL_PRIORS.items()}


def draw_states(_: int) -> dict[str, Tensor]:
    """The prior with the states named by the order of their means."""
    rows, means, covs = (
        STATE_PRIORS["transition_matrix"].sample(),
        STATE_PRIORS["emission.means"].sample((2, 1)),
        STATE_PRIORS["emission.covs"].sample((2, 1, 1)),
    )
    order = means[:, 0].argsort()
    return {"transition_matrix": rows[order][:, order], "emission.means": means[order], "emission.covs": covs[order]}


CASES: dict[str, tuple[Any, Any, Any]] = {
    "level": (local_level, draw_level, LEVEL_PRIORS),
    "states": (two_states, draw_states, STATE_PRIORS),
}


def infer(
    case: str, sampler: str, thin: int | None = None, n_ranks: int = N_RANKS
) -> Callable[..., ps.bayes.Posterior]:
    """The sampler on a model that starts at values which do not know the truth."""
    make, _, priors = CASES[case]
    thin = THIN[case, sampler] if thin is None else thin

    def run(_: Any, y: Tensor, seed: int) -> ps.bayes.Posterior:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            common = {
                "priors": priors,
                "fixed": FIXED[case],
                "n_chains": 1,
                "seed": seed,
                "n_jobs": 1,
                "relabel": False,
            }
            if sampler == "nuts":
                posterior = ps.bayes.nuts(make(), y, n_samples=n_ranks * thin, n_warmup=100, **common)
            else:
                posterior = ps.bayes.gibbs(make(), y, n_samples=n_ranks, n_warmup=100, thin=thin, **common)
        return ps.bayes.ordered(posterior, "emission.means") if case == "states" else posterior

    return run


def ranks(
    case: str,
    sampler: str,
    n_data: int,
    seed: int = 0,
    progress: Any = lambda _: None,
    thin: int | None = None,
    n_ranks: int = N_RANKS,
) -> dict[str, np.ndarray]:
    make, draw, _ = CASES[case]
    sampler_of = infer(case, sampler, thin, n_ranks)
    sizes = {"length": LENGTHS[case], "n_data": n_data, "n_ranks": n_ranks}
    return simulated_ranks(make(), draw, sampler_of, seed=seed, progress=progress, **sizes)
