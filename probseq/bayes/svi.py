"""Variational inference: the nearest member of a family of densities, for models too large or too slow to sample.

    theta = mode + root eta,    eta ~ q                 # root of Laplace's covariance
    q climbs  E_q[log p(theta, y) - log q(eta)],  the evidence lower bound, by Adam on draws of q

| guide      | q                                                                        |
|------------|--------------------------------------------------------------------------|
| "normal"   | independent normal eta                                                   |
| "low_rank" | a normal of covariance diagonal + low rank (rank about sqrt(size))       |
| "flow"     | a normal through two affine autoregressive maps                          |

The guides are Pyro's. The draws come with importance ratios p / q, whose Pareto shape k says how far q is from the
posterior: above 0.7 it cannot be trusted (Yao et al.), and a warning says so.

References: Kucukelbir et al. (2017), JMLR 18; Kingma et al. (2016), NeurIPS 29 (autoregressive flows); Yao, Vehtari,
Simpson and Gelman (2018), ICML (PSIS diagnostics).
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from probseq.base import StateSpaceModel
from probseq.bayes import arviz_bridge as bridge
from probseq.bayes.nuts import LogDensity, Rescaled, draws_of
from probseq.bayes.posterior import Posterior
from probseq.bayes.potential import Array, prepare
from probseq.bayes.relabelling import relabelled
from probseq.checks import whole_number
from probseq.errors import ConvergenceWarning
from probseq.learning.problem import one_thread
from probseq.randomness import fresh_seed, seeded

Guide = Literal["normal", "low_rank", "flow"]
GUIDES = ("normal", "low_rank", "flow")
#: Pareto shapes above this mean that the guide misses too much
UNRELIABLE = 0.7


def svi(
    model: StateSpaceModel[Any],
    y: Any,
    u: Any = None,
    *,
    lengths: Any = None,
    priors: Mapping[str, Any] | None = None,
    fixed: Iterable[str] = (),
    guide: Guide = "normal",
    n_steps: int = 2000,
    n_samples: int = 1000,
    learning_rate: float = 0.02,
    n_particles: int = 4,
    seed: int | None = None,
) -> Posterior:
    """Draws from the guide nearest to p(parameters | y), as a `Posterior` of one chain with its `pareto_k`.

    `priors` and `fixed` as for `nuts`; `n_particles` draws of the guide make one step. Ctrl-C keeps the guide there is.
    """
    if guide not in GUIDES:
        raise ValueError(f"guide must be one of {GUIDES}, got {guide!r}")
    n_steps, n_samples = whole_number("n_steps", n_steps), whole_number("n_samples", n_samples, least=4)
    n_particles = whole_number("n_particles", n_particles)
    sequences, given, fixed = model._door(y, u, lengths, least=1), copy.deepcopy(model), set(fixed)
    seed, start = fresh_seed(seed), time.perf_counter()
    with one_thread(), seeded(seed):
        potential = prepare(model, sequences.flat(), priors, fixed, seed)
        centre = potential.mode(potential.theta())
        target = Rescaled(potential, centre, potential.spread(centre))
        eta, log_q = _fitted(target, guide, n_steps, n_samples, learning_rate, n_particles)
        log_p = np.array([-target.energy(one)[0] for one in eta])
    theta = target.theta(eta)[None]
    k = bridge.psis(np.where(np.isfinite(log_p), log_p - log_q, -1e300))[1]
    posterior = Posterior(
        potential.model, sequences, draws_of(potential, theta), {"lp": log_p[None]}, method=f"SVI ({guide})",
        seconds=time.perf_counter() - start, pareto_k=k,
        again=partial(
            _again, given, priors=priors, fixed=fixed, guide=guide, n_steps=n_steps, n_samples=n_samples, seed=seed,
        ),
    )  # fmt: skip
    if k > UNRELIABLE:
        warnings.warn(
            f"the {guide} guide is far from the posterior (Pareto k {k:.2f} > {UNRELIABLE}): try another, or nuts",
            ConvergenceWarning,
        )
    return relabelled(posterior, potential)


def _again(model: StateSpaceModel[Any], data: Any, **options: Any) -> Posterior:
    return svi(model, data, **options)


def _fitted(
    target: Rescaled, guide: Guide, n_steps: int, n_samples: int, learning_rate: float, n_particles: int
) -> tuple[Array, Array]:
    """Draws (n_samples, size) of the fitted guide, and their log-densities under it."""
    import pyro
    from pyro import distributions as dist
    from pyro import poutine
    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import ClippedAdam

    size = len(target.centre)

    wide = dist.Normal(torch.zeros(size, dtype=torch.float64), 1.0).to_event(1)

    def program() -> None:
        """A density that can be drawn from, for Pyro, and the factor that makes it the posterior."""
        eta = pyro.sample("eta", wide)
        pyro.factor("joint", -LogDensity.apply(eta, target) - wide.log_prob(eta))  # pyright: ignore

    with pyro.get_param_store().scope(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro warns of flows of one coordinate, which are affine and fine
        family = _guide_of(guide, program, size)
        rate = 0.1 ** (1 / n_steps)  # down to a tenth at the end
        optimizer = ClippedAdam({"lr": learning_rate, "lrd": rate, "betas": (0.9, 0.99)})
        climb: Any = SVI(program, family, optimizer, Trace_ELBO(num_particles=n_particles))
        try:
            for _ in range(n_steps):
                climb.step()
        except KeyboardInterrupt:
            warnings.warn("the climb was interrupted; the guide so far is kept", ConvergenceWarning)
        eta, log_q = np.empty((n_samples, size)), np.empty(n_samples)
        with torch.no_grad():
            for i in range(n_samples):
                trace: Any = poutine.trace(family).get_trace()  # pyright: ignore[reportArgumentType]
                eta[i] = trace.nodes["eta"]["value"].numpy()
                log_q[i] = float(trace.log_prob_sum(lambda name, _: name != "eta"))
    return eta, log_q


def _guide_of(guide: Guide, program: Any, size: int) -> Any:
    from pyro.distributions.transforms import affine_autoregressive, iterated
    from pyro.infer import autoguide

    start = autoguide.init_to_value(values={"eta": torch.zeros(size, dtype=torch.float64)})
    if guide == "normal":
        return autoguide.AutoDiagonalNormal(program, init_loc_fn=start, init_scale=1.0)
    if guide == "low_rank":
        return autoguide.AutoLowRankMultivariateNormal(program, init_loc_fn=start, init_scale=1.0)
    maps = partial(iterated, 2, partial(affine_autoregressive, hidden_dims=[4 * size + 8]))
    return autoguide.AutoNormalizingFlow(program, maps)
