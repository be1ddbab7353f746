"""Gibbs sampling where conditionals are conjugate: hidden Markov models, linear dynamical systems, structural series.

    repeat:
        z_{0:T} ~ p(z_{0:T} | y, parameters)          # one draw of the whole path, by the compiled samplers
        every parameter ~ p(parameter | z, y, others)  # closed forms of `probseq.bayes.conjugate`

| family       | parameter                             | prior                                                        |
|--------------|---------------------------------------|--------------------------------------------------------------|
| HMM          | initial_probs, transition_matrix      | Dirichlet                                                    |
|              | emission.means, emission.covs         | Normal; InverseWishart, or InverseGamma of single variances  |
|              | emission.probs of symbols, of bits    | Dirichlet, Beta                                              |
|              | emission.rates                        | Gamma                                                        |
| LDS          | matrices, offsets, initial_mean       | Normal of every entry                                        |
|              | covariances                           | InverseWishart, or InverseGamma of single variances          |
| Structural   | variances (not of a cycle or `ar`)    | InverseGamma                                                 |

Priors are those of `nuts`, so that both draw from one posterior; where none is given a single variance has
InverseGamma(1, s^2 / 100). Whole rows of y may be missing; the draws are not tuned, so that warm-up only forgets the
start.

References: Carter and Kohn (1994), Biometrika 81; Frühwirth-Schnatter (1994), J. Time Series Analysis 15 (paths);
Chib (1996), J. Econometrics 75 (Markov chains); Frühwirth-Schnatter (2006), Finite Mixture and Markov Switching Models.
"""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from probseq.base import StateSpaceModel
from probseq.bayes.gibbs_updates import updates_of
from probseq.bayes.posterior import Posterior
from probseq.bayes.potential import Array, Potential, prepare
from probseq.bayes.relabelling import relabelled
from probseq.checks import whole_number
from probseq.errors import ConvergenceWarning
from probseq.evaluation.parallel import run_tasks
from probseq.learning.problem import one_thread
from probseq.models.hmm import HMM
from probseq.models.lds import LDS
from probseq.models.structural import Structural
from probseq.randomness import fresh_seed, generator, spawn


class Sweeps(NamedTuple):
    """What one chain hands back: draws by name, and log p(y | parameters) of each."""

    draws: dict[str, Array]
    log_likelihood: Array
    seconds: float


def gibbs(
    model: StateSpaceModel[Any],
    y: Any,
    u: Any = None,
    *,
    lengths: Any = None,
    priors: Mapping[str, Any] | None = None,
    fixed: Iterable[str] = (),
    n_samples: int = 1000,
    n_warmup: int = 500,
    n_chains: int = 2,
    thin: int = 1,
    seed: int | None = None,
    relabel: bool = True,
    n_jobs: int | None = None,
) -> Posterior:
    """Draws from p(parameters | y) of an HMM, LDS or Structural; every `thin`-th of n_samples * thin sweeps is kept.

    `priors`, `fixed`, `n_jobs` and label switching are as for `nuts`. Raises TypeError for other families and
    ValueError for a parameter or prior that has no closed conditional: use `nuts` there, or hold it (`fixed`).
    """
    if not isinstance(model, (HMM, LDS, Structural)):
        raise TypeError(f"gibbs is for HMM, LDS and Structural, got a {type(model).__name__}; use nuts")
    fixed = {fixed} if isinstance(fixed, str) else set(fixed)
    sizes = (
        whole_number("n_samples", n_samples, least=4),
        whole_number("n_warmup", n_warmup, least=0),
        whole_number("thin", thin),
    )
    n_chains = whole_number("n_chains", n_chains)
    sequences = model._door(y, u, lengths, least=1)
    seed = fresh_seed(seed)
    with one_thread():
        potential = prepare(model, sequences.flat(), priors, fixed, seed, conjugate=True)
        updates_of(potential)  # complains before the work begins
    tasks = [(potential, sizes, own) for own in spawn(seed, n_chains)]
    n_jobs = min(n_chains, os.cpu_count() or 1) if n_jobs is None else n_jobs
    found, _ = run_tasks(_chain, tasks, n_jobs=n_jobs, description="Gibbs")
    if not found:
        raise KeyboardInterrupt
    chains = [found[i] for i in sorted(found)]
    n = min(len(chain.log_likelihood) for chain in chains)
    draws = {name: torch.from_numpy(np.stack([chain.draws[name][:n] for chain in chains])) for name in chains[0].draws}
    stats = {"log_likelihood": np.stack([chain.log_likelihood[:n] for chain in chains])}
    seconds = max(chain.seconds for chain in chains)
    posterior = Posterior(potential.model, sequences, draws, stats, method="Gibbs", seconds=seconds)
    posterior.again = partial(
        _again, copy.deepcopy(model), priors=priors, fixed=fixed, n_samples=n_samples, n_warmup=n_warmup,
        n_chains=n_chains, thin=thin, seed=seed, relabel=relabel, n_jobs=n_jobs,
    )  # fmt: skip
    posterior = relabelled(posterior, potential) if relabel else posterior
    worst = posterior.worst_r_hat()
    if worst is not None and worst[1] > 1.01:
        warnings.warn(
            f"R-hat of {worst[0]} is {worst[1]:.3f}: the chains have not mixed; draw more, thin, or use nuts",
            ConvergenceWarning,
        )
    return posterior


def _again(model: StateSpaceModel[Any], data: Any, **options: Any) -> Posterior:
    return gibbs(model, data, **options)


def _chain(task: tuple[Potential, tuple[int, int, int], int]) -> Sweeps:
    """One chain; Ctrl-C keeps the draws there are."""
    potential, (n_samples, n_warmup, thin), seed = task
    model: Any = potential.model
    data, updates = potential.data, updates_of(potential)
    rng, paths = np.random.default_rng(seed), generator(seed)
    kept: dict[str, list[Array]] = {block.name: [] for block in potential.blocks}
    scores: list[float] = []
    start = time.perf_counter()
    with one_thread(), torch.no_grad():
        try:
            for sweep in range(n_warmup + n_samples * thin):
                _sweep(model, data, updates, rng, paths)
                if sweep >= n_warmup and (sweep - n_warmup + 1) % thin == 0:
                    for block in potential.blocks:
                        kept[block.name].append(block.value().numpy())
                    scores.append(float(model._log_prob(data).sum()))
        except KeyboardInterrupt:
            if len(scores) < 4:
                raise
    draws = {name: np.stack(values[: len(scores)]) for name, values in kept.items()}
    return Sweeps(draws, np.array(scores), time.perf_counter() - start)


def _sweep(model: Any, data: Any, updates: list[Callable[..., None]], rng: Any, paths: torch.Generator) -> None:
    states = model._sample_states(data, 1, paths)[0].numpy()
    for update in updates:
        update(states, rng)
