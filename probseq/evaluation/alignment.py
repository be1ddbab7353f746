"""Hidden states have no names: bring the states of one fit into the order of another.

    overlap[i, j] = sum_t p(z_t = i | y; model) p(z_t = j | y; reference)
    order = the permutation with the largest sum_j overlap[order[j], j]           (Hungarian method)
    permute_states(model, order)        # its state j is what model called order[j]

References: Kuhn (1955), Naval Research Logistics Quarterly 2 (the assignment problem); Stephens (2000), JRSS B 62
(label switching).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.base import LatentStateModel
from probseq.beliefs import Categorical
from probseq.emissions.base import Emission
from probseq.models.hmm import HMM
from probseq.models.hsmm import Elapsed
from probseq.parameters import Param, Parametric, parametric_modules


@torch.no_grad()
def align(
    model: LatentStateModel[Any], reference: LatentStateModel[Any], y: Any, u: Any = None, *, lengths: Any = None
) -> list[int]:
    """The order in which the states of `model` overlap most with those of `reference`, by their posteriors on y.

    Satisfies align(permute_states(model, order), model, y) == the inverse of order, where states differ on y.
    """
    overlap = _posterior(model, "model", y, u, lengths).mT @ _posterior(reference, "reference", y, u, lengths)
    if overlap.shape[0] != overlap.shape[1]:
        raise ValueError(f"model and reference must have the same number of states, got {tuple(overlap.shape)}")
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(overlap.numpy(), maximize=True)
    order = [0] * len(rows)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        order[column] = row
    return order


def permute_states(model: LatentStateModel[Any], order: Sequence[int]) -> Any:
    """A copy whose state j is state order[j] of `model`, in every parameter with an axis over states.

    The law of y does not change: log_prob(y) is that of `model`. Raises ValueError where groups of states share
    parameters.
    """
    k = _n_states(model, "model")
    places = [int(i) for i in order]
    if sorted(places) != list(range(k)):
        raise ValueError(f"order must be a permutation of 0 .. {k - 1}, got {list(order)}")
    renamed = copy.deepcopy(model)
    with torch.no_grad():
        for _, module in parametric_modules(renamed):
            for param in module.params().values():
                raw = module._parameters[param.raw_name]
                if raw is not None and raw.numel():
                    _reorder(raw, module, param, places)
            if isinstance(module, Emission) and module.prior is not None:
                module.prior = module.prior.permute(_blocks(module, places))
    if isinstance(renamed, HMM):
        both = np.ix_(places, places)
        renamed.initial_prior = None if renamed.initial_prior is None else renamed.initial_prior[places]
        renamed.transition_prior = None if renamed.transition_prior is None else renamed.transition_prior[both]
    return renamed


def _reorder(raw: Tensor, module: Parametric, param: Param, places: list[int]) -> None:
    """Take the stored entries in a new order along every axis over states; a part with several per state in blocks."""
    size = getattr(module, "n_states", len(places))
    blocks = _blocks(module, places)
    for axis, name in enumerate(param.shape):
        if name != "n_states" or raw.shape[axis] == 1:  # one entry is shared by all states
            continue
        if raw.shape[axis] != size:
            raise ValueError(f"{param.name} is shared by groups of states, so states cannot be renamed one by one")
        raw.copy_(raw.index_select(axis, blocks))


def _blocks(module: Parametric, places: list[int]) -> Tensor:
    """The new order of a part's states, of which a model's state may own several in a row."""
    size = getattr(module, "n_states", len(places))
    return torch.arange(size).reshape(len(places), -1)[places].flatten()


def _n_states(model: Any, name: str) -> int:
    k = getattr(model, "n_states", None)
    if not isinstance(model, LatentStateModel) or not isinstance(k, int):
        raise TypeError(f"{name} must have discrete hidden states, got {type(model).__name__}")
    return k


def _posterior(model: Any, name: str, y: Any, u: Any, lengths: Any) -> Tensor:
    """p(z_t | y) at all steps of all sequences, (N, K)."""
    _n_states(model, name)
    data = model._door(y, u, lengths, least=1).flat()
    belief = model._smooth(data)
    if not isinstance(belief, (Categorical, Elapsed)):
        raise TypeError(f"{name} must smooth to probabilities of states, got {type(belief).__name__}")
    return belief.probs[data.inside]
