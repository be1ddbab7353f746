"""How a hidden Markov model asks the kernels: which question can go to a compiled call, and with what.

| the model and the data                                  | who answers                                                |
|---------------------------------------------------------|------------------------------------------------------------|
| one matrix for all steps, no window, nothing watching   | `probseq.ops.hmm_stored`, from the parameters as stored    |
| the same under reverse mode, parameters that are free   | the same, with the gradient in what is stored              |
| all else, and what these leave                          | `probseq.ops.hmm`, from tables                             |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from probseq.ops import hmm
from probseq.ops import hmm_stored as compiled
from probseq.ops.modes import array_of, derivatives_wanted, untracked
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from probseq.models.hmm import HMM


def stored_of(model: HMM, sequences: Sequences, most: int | None = None) -> compiled.Stored | None:
    """What compiled calls read; None where the model, the data or the call is not as plain as that.

    `most` states, for questions that they answer only then.
    """
    plain = is_plain(model, sequences) and (most is None or model.n_states <= most)
    chain = model.stored("initial_probs", "transition_matrix") if plain else None
    if chain is None or not untracked(sequences.values):
        return None
    if model.initial != "free" or model.tied_rows is not None:
        chain = [array_of(model._log_initial()), array_of(model._log_transition())]
    emission, values = model.emission.compact() if sequences.complete else None, sequences.values
    if emission is None:
        emission, values = (), model._table(sequences)
    return compiled.Stored(chain[0], chain[1], emission, array_of(values), array_of(sequences.lengths))


def is_plain(model: HMM, sequences: Sequences) -> bool:
    return model.n_states <= compiled.MOST_STATES and sequences.inputs is None and not model._remembers


def derived(model: HMM, sequences: Sequences) -> Tensor | None:
    """log p(y) with its gradient in the parameters and the data, where reverse mode is all that watches."""
    plain = is_plain(model, sequences)
    chain = model.stored("initial_probs", "transition_matrix", watched=True) if plain else None
    if chain is None or model.initial != "free" or model.tied_rows is not None:
        return None
    whole = sequences.complete and not sequences.values.requires_grad
    compact, emission = model.emission.compact(watched=True) if whole else None, model.emission
    own = list(emission._parameters.values()) if compact else [model._table(sequences)]
    leaves: list[Any] = [model._parameters[f"raw_{name}"] for name in ("initial_probs", "transition_matrix")] + own
    if not derivatives_wanted(*leaves):
        return None
    data = array_of(sequences.values if compact else leaves[2])
    stored = compiled.Stored(chain[0], chain[1], compact or (), data, array_of(sequences.lengths))

    def pull(found: compiled.Expectations) -> tuple[Any, ...]:
        return emission.pull_sums(found.sums) if compact else (found.gamma,)

    def otherwise() -> Tensor:
        return hmm.log_prob(*model._arguments(sequences, table=None if compact else leaves[2]))

    return compiled.differentiable(stored, leaves, pull, otherwise)


def value_and_gradient(
    model: HMM, sequences: Sequences, parameters: list[nn.Parameter]
) -> tuple[Tensor, tuple[Tensor | None, ...]] | None:
    """log p(y) and its gradient in one call of the kernels; None where more enters than stored numbers, or a prior."""
    emission = model.emission
    priors = (model.initial_prior, model.transition_prior, emission.prior)
    if any(prior is not None for prior in priors) or model.initial != "free" or model.tied_rows is not None:
        return None
    if not (is_plain(model, sequences) and sequences.complete) or sequences.values.requires_grad:
        return None
    chain = model.stored("initial_probs", "transition_matrix", watched=True)
    compact = emission.compact(watched=True)
    if chain is None or compact is None:
        return None
    stored = compiled.Stored(chain[0], chain[1], compact, array_of(sequences.values), array_of(sequences.lengths))
    found = compiled.expectations(stored, np.ones(len(sequences.lengths)))
    if found is None:
        return None
    pulled = (*compiled.pull_chain(stored, found), *emission.pull_sums(found.sums))
    leaves = [model._parameters["raw_initial_probs"], model._parameters["raw_transition_matrix"]]
    by_parameter = dict(zip(map(id, [*leaves, *emission._parameters.values()]), pulled, strict=True))
    gradients = (by_parameter.get(id(one)) for one in parameters)
    own = tuple(None if array is None else torch.from_numpy(array) for array in gradients)
    return torch.from_numpy(found.log_probs).sum(), own


def path_log_prob(model: HMM, states: Tensor, sequences: Sequences) -> Tensor:
    """log pi(z_0) + sum log A(z_{t-1}, z_t) + sum log b_t(z_t)."""
    inside = sequences.inside
    if states.ndim != 2:
        raise ValueError(f"states must be single numbers at every step, got shape {tuple(states.shape[2:])}")
    path = torch.where(inside, states.long(), 0)
    if path.numel() and (int(path.min()) < 0 or int(path.max()) >= model.n_states):
        raise ValueError(f"states must lie in 0 .. {model.n_states - 1}, got {int(path.min())} .. {int(path.max())}")
    if sequences.n_steps == 0:
        return torch.zeros(len(path), dtype=torch.float64)
    log_initial, log_transition, table, _ = model._arguments(sequences)
    emitted = table.gather(-1, path.unsqueeze(-1)).squeeze(-1)
    moves = log_transition.expand(*path.shape, -1, -1)[:, 1:].flatten(0, 1)
    moved = moves[torch.arange(len(moves)), path[:, :-1].flatten(), path[:, 1:].flatten()].reshape(path[:, 1:].shape)
    first = torch.where(sequences.lengths > 0, log_initial.gather(-1, path[:, :1]).squeeze(-1), 0.0)
    total = first + torch.where(inside, emitted, 0.0).sum(-1)
    return total + torch.where(inside[:, 1:], moved, 0.0).sum(-1)
