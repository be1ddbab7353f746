"""Label switching: the states of a hidden Markov model have no names, and chains may swap them.

Where prior and likelihood do not change when states are renamed, the posterior has K! equal parts. Averages over draws
mean something only after every draw is renamed into one order. Stephens' algorithm does that by what the states are,
not by one of their parameters: with p_s[t, k] = p(z_t = k | y, draw s),

    repeat:  Q = mean over draws of p_s[:, order_s]
             order_s = the permutation with the smallest sum_tk p_s[t, order_s[k]] log(p_s[t, order_s[k]] / Q[t, k])

each by the Hungarian method. `Posterior.relabelled` says how many draws were renamed.

Reference: Stephens (2000), Dealing with label switching in mixture models, JRSS B 62, algorithm 2.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.base import LatentStateModel
from probseq.bayes.posterior import Posterior, place_values
from probseq.bayes.potential import Array, Potential
from probseq.parameters import find_parameter

logger = logging.getLogger("probseq")
#: most steps of the data that are compared
MOST_STEPS = 500
MOST_ROUNDS = 50


def relabelled(posterior: Posterior, potential: Potential) -> Posterior:
    """The posterior with one order of states in all draws, where the prior does not tell them apart."""
    k = n_states_of(posterior.model)
    if k < 2 or not exchangeable(potential, posterior):
        return posterior
    orders = stephens(
        state_probabilities(posterior),
        int(np.argmax(posterior.stats["lp" if "lp" in posterior.stats else "log_likelihood"])),
    )
    return renamed(posterior, orders)


def renamed(posterior: Posterior, orders: Array) -> Posterior:
    """State j of draw s is what the draw called orders[s, j]; orders (draws, K)."""
    moved = int((orders != np.arange(orders.shape[1])).any(-1).sum())
    logger.info("label switching: the states of %d of %d draws were renamed", moved, len(orders))
    draws = {
        name: permuted(values.flatten(0, 1), state_axes(posterior.model, name), orders).reshape(values.shape)
        for name, values in posterior.draws.items()
    }
    return Posterior(
        posterior.model, posterior.sequences, draws, posterior.stats,
        method=posterior.method, seconds=posterior.seconds, relabelled=moved, pareto_k=posterior.pareto_k,
        again=posterior.again,
    )  # fmt: skip


def ordered(posterior: Posterior, by: str, column: int = 0) -> Posterior:
    """States by the size of one parameter, `ordered(posterior, "emission.means")`: for priors that say so."""
    values = posterior.draws[by].flatten(0, 1)
    return renamed(posterior, np.argsort(values.reshape(*values.shape[:2], -1)[..., column].numpy(), -1))


def n_states_of(model: Any) -> int:
    k = vars(model).get("n_states")
    return k if isinstance(model, LatentStateModel) and isinstance(k, int) else 0


def state_axes(model: Any, name: str) -> list[int]:
    """The axes of a parameter's public value that run over the states."""
    owner, leaf, declared = find_parameter(model, name)
    if not declared:
        return []
    shape = owner.params()[leaf].shape  # type: ignore[operator]
    return [axis for axis, size in enumerate(shape) if size == "n_states"]


def permuted(values: Tensor, axes: list[int], orders: Array) -> Tensor:
    """values (draws, *shape) with each draw's own order along some axes of the shape."""
    for axis in axes:
        index = torch.as_tensor(orders).reshape(len(orders), *(1,) * axis, -1, *(1,) * (values.ndim - axis - 2))
        shape = (*values.shape[: axis + 1], orders.shape[1], *values.shape[axis + 2 :])
        values = values.gather(axis + 1, index.expand(shape))
    return values


def exchangeable(potential: Potential, posterior: Posterior) -> bool:
    """Whether renaming states changes neither prior nor likelihood, tried with every swap of neighbours at one draw."""
    values = {name: draws[0, 0] for name, draws in posterior.draws.items()}
    if not all(_is_renamed_whole(posterior.model, name, value) for name, value in values.items()):
        return False
    here = _joint(potential, values)
    k = n_states_of(posterior.model)
    for j in range(k - 1):
        order = np.arange(k)[None].copy()
        order[0, [j, j + 1]] = order[0, [j + 1, j]]
        swapped = {n: permuted(v[None], state_axes(posterior.model, n), order)[0] for n, v in values.items()}
        try:
            there = _joint(potential, swapped)
        except ValueError:  # groups of states that share parameters
            return False
        if any(abs(a - b) > 1e-6 * (1 + abs(a)) for a, b in zip(here, there, strict=True)):
            return False
    return True


def _is_renamed_whole(model: Any, name: str, value: Tensor) -> bool:
    k = n_states_of(model)
    return all(value.shape[axis] == k for axis in state_axes(model, name))


def _joint(potential: Potential, values: dict[str, Tensor]) -> tuple[float, float]:
    place_values(potential.model, values)
    with torch.no_grad():
        likelihood = float(potential.model._log_prob(potential.data).sum())
    return likelihood, potential.log_prior(potential.theta())


@torch.no_grad()
def state_probabilities(posterior: Posterior) -> Array:
    """p(z_t = k | y, draw), (draws, steps, K), at up to MOST_STEPS steps spread over the data."""
    flat = posterior.sequences.flat()
    inside = flat.inside.numpy()
    chosen = np.linspace(0, int(inside.sum()) - 1, min(int(inside.sum()), MOST_STEPS)).round().astype(int)
    return np.stack([model._smooth(flat).probs.numpy()[inside][chosen] for model in posterior.models()])  # type: ignore[attr-defined]


def stephens(probs: Array, reference: int) -> Array:
    """Orders (draws, K) that bring probabilities (draws, steps, K) together, that of draw `reference` the first."""
    from scipy.optimize import linear_sum_assignment

    floor = np.finfo(float).tiny
    target, orders = probs[reference], np.tile(np.arange(probs.shape[-1]), (len(probs), 1))
    for _ in range(MOST_ROUNDS):
        score = np.einsum(
            "stj,tk->sjk", probs, np.log(target + floor)
        )  # the entropy of p_s does not depend on the order
        new = np.stack([_columns(*linear_sum_assignment(one, maximize=True)) for one in score])
        settled, orders = bool((new == orders).all()), new
        target = np.take_along_axis(probs, orders[:, None, :], -1).mean(0)
        if settled:
            break
    return orders


def _columns(rows: Array, columns: Array) -> Array:
    """orders[k] = the state of the draw that is called k."""
    order = np.empty(len(rows), dtype=np.int64)
    order[columns] = rows
    return order
