"""The no-U-turn sampler on any model whose log_prob has a gradient.

    theta = mode + root eta                       # Laplace's approximation: eta is nearly standard normal
    eta_1, eta_2, ... ~ NUTS(-log p(theta, y))    # Pyro's kernel on our potential: no trace, no tape of the likelihood

Parameters are drawn in the unconstrained coordinates of `probseq.bayes.coordinates`; priors are densities of the public
ones (`probseq.bayes.priors`). Chains start around the mode, run in processes of their own, and depend on `seed` alone.

References: Hoffman and Gelman (2014), JMLR 15; Betancourt (2017), arXiv:1701.02434 (multinomial sampling, warm-up).
"""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.bayes.posterior import Posterior
from probseq.bayes.potential import Array, Potential, prepare
from probseq.bayes.relabelling import relabelled
from probseq.checks import whole_number
from probseq.errors import ConvergenceWarning
from probseq.evaluation.parallel import run_tasks
from probseq.learning.problem import one_thread
from probseq.randomness import fresh_seed, seeded, spawn


class Chain(NamedTuple):
    """What one chain hands back: draws of theta (n, size), and what is known of each draw."""

    theta: Array
    log_density: Array
    n_steps: Array
    diverging: Array
    step_size: float
    seconds: tuple[float, float]


class Settings(NamedTuple):
    """How a chain runs."""

    n_samples: int
    n_warmup: int
    target_accept: float
    max_tree_depth: int
    dense: bool


class LogDensity(torch.autograd.Function):
    """-log p(theta, y) with the gradient that comes with it."""

    @staticmethod
    def forward(ctx: Any, eta: Tensor, target: Rescaled) -> Tensor:
        value, slope = target.energy(eta.detach().numpy().astype(np.float64, copy=False))
        ctx.slope = slope.to(eta.dtype)
        return eta.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.slope, None


class Rescaled:
    """The posterior in coordinates of its own, theta = centre + unit eta; eta (size,) or (draws, size)."""

    def __init__(self, potential: Potential, centre: Array, unit: Array) -> None:
        self.potential, self.centre, self.unit = potential, centre, unit

    def theta(self, eta: Array) -> Array:
        return self.centre + eta @ self.unit  # it is symmetric

    def energy(self, eta: Array) -> tuple[float, Tensor]:
        value, slope = self.potential(self.theta(eta))
        return -value, torch.from_numpy(self.unit @ -slope)


def run_chain(target: Rescaled, start: Array, settings: Settings, seed: int) -> Chain:
    """Warm-up and draws; Ctrl-C keeps the draws there are."""
    from pyro.infer import MCMC, NUTS

    kernel = NUTS(
        potential_fn=lambda at: LogDensity.apply(at["theta"], target),
        target_accept_prob=settings.target_accept,
        max_tree_depth=settings.max_tree_depth,
        full_mass=settings.dense,
    )
    kept: list[tuple[Array, float, int]] = []
    clock, calls = [time.perf_counter()], [0]

    def after(kernel: Any, params: Any, stage: str, i: int) -> None:
        if stage.lower().startswith("sample"):
            used = target.potential.n_calls - calls[-1]
            kept.append((params["theta"].numpy().copy(), -float(kernel._potential_energy_last), used))
        else:
            clock[1:] = [time.perf_counter()]
        calls.append(target.potential.n_calls)
        diverging.update(kernel._divergences)

    diverging: set[int] = set()
    with seeded(seed), one_thread():
        sampler: Any = MCMC(
            kernel, settings.n_samples, settings.n_warmup, initial_params={"theta": torch.from_numpy(start)},
            hook_fn=after, disable_progbar=True, disable_validation=True,
        )  # fmt: skip
        try:
            sampler.run()
        except KeyboardInterrupt:
            if len(kept) < 2:
                raise
    eta, values, steps = zip(*kept, strict=True)
    warm = clock[-1] if len(clock) > 1 else clock[0]
    return Chain(
        theta=target.theta(np.array(eta)),
        log_density=np.array(values),
        n_steps=np.array(steps),
        diverging=np.isin(np.arange(len(kept)), list(diverging)),
        step_size=float(kernel.step_size),
        seconds=(warm - clock[0], time.perf_counter() - warm),
    )


def _chain(task: tuple[Potential, Array, Array, Settings, int]) -> Chain:
    potential, centre, unit, settings, seed = task
    start = _start(potential, centre, unit, seed)
    return run_chain(Rescaled(potential, centre, unit), start, settings, seed)


def _start(potential: Potential, centre: Array, unit: Array, seed: int) -> Array:
    """Where a chain starts in eta: drawn from Laplace's approximation, nearer to the mode where that has no density."""
    draw = np.random.default_rng(seed).standard_normal(len(centre))
    for _ in range(20):
        if np.isfinite(potential(centre + unit @ draw)[0]):
            return draw
        draw = draw / 2
    return np.zeros_like(centre)


def nuts(
    model: StateSpaceModel[Any],
    y: Any,
    u: Any = None,
    *,
    lengths: Any = None,
    priors: Mapping[str, Any] | None = None,
    fixed: Iterable[str] = (),
    n_samples: int = 500,
    n_warmup: int = 500,
    n_chains: int = 2,
    seed: int | None = None,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    mass_matrix: Literal["diagonal", "dense"] = "diagonal",
    relabel: bool = True,
    n_jobs: int | None = None,
) -> Posterior:
    """Draws from p(parameters | y) as a `Posterior`; the model itself stays as it is.

    `priors` by public name ({"emission_cov": D.InverseGamma(2.0, 1.0)}), weakly informative where none is given;
    `fixed` names parameters held at their values. A model without values is fitted first. `n_jobs` processes, as many
    as chains and cores allow unless given; the draws do not depend on it. Warns of divergences and of an R-hat above
    1.01. The states of a hidden Markov model are relabelled where its prior does not tell them apart
    (`probseq.bayes.relabelling`), unless `relabel` is False. Raises ValueError for names and shapes that do not fit.
    """
    fixed = {fixed} if isinstance(fixed, str) else set(fixed)
    settings = Settings(
        whole_number("n_samples", n_samples, least=4), whole_number("n_warmup", n_warmup), float(target_accept),
        whole_number("max_tree_depth", max_tree_depth), _is_dense(mass_matrix),
    )  # fmt: skip
    if not 0 < target_accept < 1:
        raise ValueError(f"target_accept must lie between 0 and 1, got {target_accept!r}")
    n_chains = whole_number("n_chains", n_chains)
    sequences = model._door(y, u, lengths, least=1)
    seed = fresh_seed(seed)
    with one_thread():
        potential = prepare(model, sequences.flat(), priors, fixed, seed)
        centre = potential.mode(potential.theta())
        unit = potential.spread(centre)
    tasks = [(potential, centre, unit, settings, own) for own in spawn(seed, n_chains)]
    n_jobs = min(n_chains, os.cpu_count() or 1) if n_jobs is None else n_jobs
    found, _ = run_tasks(_chain, tasks, n_jobs=n_jobs, description="NUTS")
    if not found:
        raise KeyboardInterrupt
    posterior = _gathered(potential, sequences, [found[i] for i in sorted(found)])
    posterior.again = partial(
        _again, copy.deepcopy(model), priors=priors, fixed=fixed, n_samples=n_samples, n_warmup=n_warmup,
        n_chains=n_chains, seed=seed, target_accept=target_accept, max_tree_depth=max_tree_depth,
        mass_matrix=mass_matrix, relabel=relabel, n_jobs=n_jobs,
    )  # fmt: skip
    posterior = relabelled(posterior, potential) if relabel else posterior
    _complain(posterior)
    return posterior


def _again(model: StateSpaceModel[Any], data: Any, **options: Any) -> Posterior:
    return nuts(model, data, **options)


def _is_dense(mass_matrix: str) -> bool:
    if mass_matrix not in ("diagonal", "dense"):
        raise ValueError(f'mass_matrix must be "diagonal" or "dense", got {mass_matrix!r}')
    return mass_matrix == "dense"


def _gathered(potential: Potential, sequences: Any, chains: list[Chain]) -> Posterior:
    """The chains, cut to the shortest, as public values."""
    n = min(len(chain.theta) for chain in chains)
    theta = np.stack([chain.theta[:n] for chain in chains])
    stats = {
        "lp": np.stack([chain.log_density[:n] for chain in chains]),
        "n_steps": np.stack([chain.n_steps[:n] for chain in chains]),
        "diverging": np.stack([chain.diverging[:n] for chain in chains]),
        "step_size": np.stack([np.full(n, chain.step_size) for chain in chains]),
    }
    seconds = max(sum(chain.seconds) for chain in chains)
    return Posterior(potential.model, sequences, draws_of(potential, theta), stats, method="NUTS", seconds=seconds)


def draws_of(potential: Potential, theta: Array) -> dict[str, Tensor]:
    """Public values (chains, draws, *shape) by name, at theta (chains, draws, size)."""
    flat: list[dict[str, Tensor]] = []
    for row in theta.reshape(-1, theta.shape[-1]):
        potential.place(row)
        flat.append(potential.values())
    return {
        name: torch.stack([one[name] for one in flat]).reshape(*theta.shape[:2], *flat[0][name].shape)
        for name in flat[0]
    }


def _complain(posterior: Posterior) -> None:
    divergences = int(posterior.stats["diverging"].sum())
    if divergences:
        warnings.warn(
            f"{divergences} of {posterior.n_draws} draws ended in a divergence: what the posterior says of its narrow "
            "parts may be wrong; raise target_accept, or give tighter priors",
            ConvergenceWarning,
        )
    worst = posterior.worst_r_hat()
    if worst is not None and worst[1] > 1.01:
        warnings.warn(
            f"R-hat of {worst[0]} is {worst[1]:.3f}: the chains have not mixed; draw more, or warm up longer",
            ConvergenceWarning,
        )
