"""How a hidden Markov model learns: a start from the data, and the iteration of EM.

    E-step:  gamma_t[k] = p(z_t = k | y),  xi = sum_t p(z_{t-1}, z_t | y)
    M-step:  p(z_0) ~ gamma_0,  A ~ xi,  and the emission's own, weighted by gamma

each with the prior's pseudo-counts; ties, a stationary start and inputs make the second a problem of its own
(`probseq.transitions`). Where the chain's step is relative frequencies and the emission's needs only sums over steps,
no gamma is kept (`probseq.ops.hmm_stored`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from probseq import dirichlet
from probseq import transitions as T
from probseq.errors import say
from probseq.kernels.simplex import maximise_chain
from probseq.models.hmm_inference import stored_of
from probseq.models.states import EMPTY_STATE, NO_MASS, refuse_impossible
from probseq.models.windows import start_windows
from probseq.ops import hmm
from probseq.ops import hmm_stored as compiled
from probseq.randomness import generator
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from probseq.models.hmm import HMM


def start(model: HMM, sequences: Sequences, seed: int) -> None:
    """Emissions from clusters of the data; sticky transitions, perturbed by the seed."""
    k = model.n_states
    rows = sequences.inside
    windows = None if model._memory is None else start_windows(model._memory, sequences)
    says = model._says(sequences, windows, rows)
    says.start(sequences.values[rows], sequences.observed[rows], seed)
    noise = torch.rand(k, k, dtype=torch.float64, generator=generator(seed)) + 0.5
    matrix = 0.5 * torch.eye(k, dtype=torch.float64) + 0.5 * noise / noise.sum(-1, keepdim=True)
    model.assign(transition_matrix=T.spread(T.mean_of_groups(matrix, model.tied_rows), model.tied_rows))
    model.assign(transition_weights=torch.zeros(k, k, model.n_drivers, dtype=torch.float64))
    if model.initial == "free":
        model.assign(initial_probs=torch.full((k,), 1 / k, dtype=torch.float64))


def em_step(model: HMM, sequences: Sequences) -> Tensor:
    """One iteration in place; returns the objective of the parameters it started from."""
    stored = stored_of(model, sequences)
    found = None if stored is None else compiled.expectations(stored)
    if found is not None and _has_plain_steps(model):
        return _compact_step(model, sequences, stored, found)  # type: ignore[arg-type]
    if found is not None and not found.gamma.size:
        found = compiled.expectations(stored, steps=True)  # type: ignore[arg-type]
    if found is not None:
        log_prob, gamma, xi_sum = map(torch.from_numpy, (*found[:2], found.xi.sum(0)[None, None]))
    else:
        log_prob, gamma, xi_sum, impossible_at = hmm.expectations(*model._arguments(sequences))
        refuse_impossible(impossible_at, sequences)
    objective = log_prob.sum() + model.log_prior()
    table = gamma.numpy().reshape(-1, model.n_states)  # 0 in padding
    if (np.ones(len(table)) @ table < NO_MASS).any():
        say("empty state", EMPTY_STATE)
    plain = sequences.inputs is None and not model._remembers
    says = model.emission if plain else model._says(sequences, model._windows(sequences), sequences.inside)
    _maximise_chain(model, gamma[:, 0].sum(0), xi_sum, sequences.inputs)
    says.maximise(*sequences.rows(sequences.values, sequences.observed, gamma))
    return objective


def _has_plain_steps(model: HMM) -> bool:
    """Whether the chain's M-step is relative frequencies."""
    priors = model.initial_prior is not None or model.transition_prior is not None
    return model.initial == "free" and model.tied_rows is None and not priors


def _compact_step(model: HMM, sequences: Sequences, stored: compiled.Stored, found: compiled.Expectations) -> Tensor:
    """An iteration on arrays alone, the parameters read and written once."""
    objective = torch.from_numpy(found.log_probs).sum() + model.log_prior()
    chain = stored.log_initial[None].copy(), stored.log_transition.copy()
    if maximise_chain(found.first, found.xi, T.NO_COUNT, *chain) < NO_MASS:
        say("empty state", EMPTY_STATE)
    if not (found.sums.size and model.emission.maximise_sums(found.sums)):
        steps = found if found.gamma.size else compiled.expectations(stored, steps=True)
        assert steps is not None
        rows = sequences.rows(sequences.values, sequences.observed, torch.from_numpy(steps.gamma))
        model.emission.maximise(*rows)
    model.store(initial_probs=chain[0][0], transition_matrix=chain[1])
    return objective


def _maximise_chain(model: HMM, first: Tensor, pairs: Tensor, u: Tensor | None) -> None:
    """The M-step of start and transitions, from expected first states (K,) and moves (B, R, K, K)."""
    ties, free = model.tied_rows, model.initial == "free"
    if free:
        _store_rows(model, "initial_probs", first, model.initial_prior)
    prior = None if model.transition_prior is None else T.mean_of_groups(model.transition_prior, ties)
    if free and (u is None or not model.n_drivers):
        _store_rows(model, "transition_matrix", T.sum_of_groups(pairs.sum((0, 1)), ties), prior)
        return
    rows = T.mean_of_groups(model.transition_matrix, ties)
    extra = dirichlet.extra_counts(prior, rows)
    held = (model.is_frozen("transition_matrix"), model.is_frozen("transition_weights"))
    if model.n_drivers and u is not None:
        counts = T.sum_of_groups(pairs.flatten(0, 1), ties, 1)
        weights = T.mean_of_groups(model.transition_weights, ties)
        if not all(held):
            log_rows = T.mean_of_groups(model._log_transition(), ties)
            extra = dirichlet.extra_counts(prior, torch.isfinite(log_rows).to(rows.dtype))
            log_rows, weights = T.maximise_regression(log_rows, weights, u.flatten(0, 1), counts, extra, held)
            if not held[0]:  # in logarithms: a move that underflows at u = 0 can be the likely one elsewhere
                with torch.no_grad():
                    model._parameters["raw_transition_matrix"].copy_(log_rows)  # type: ignore[union-attr]
        model.assign(transition_weights=T.spread(weights, ties))
        return
    counts = T.sum_of_groups(pairs.sum((0, 1)), ties) + extra
    if not held[0]:
        rows = T.maximise_rows_and_start(rows, ties, counts, first)
        model.assign(transition_matrix=T.spread(rows, ties))


def _store_rows(model: HMM, name: str, counts: Tensor, prior: Tensor | None) -> None:
    """Relative frequencies, with those of a prior, as the rows of a parameter or of its groups."""
    if prior is not None:
        counts = counts + dirichlet.extra_counts(prior, model.params()[name].raw(model).exp())
    model.store_rows(name, counts, T.NO_COUNT)
