"""How a switching linear system learns: a start from the data, and the iteration of structured variational EM.

    start    an LDS (emission and smoothed states), then an AR-HMM of these states (regimes and their dynamics)
    E-step   q(z) and q(s) in turn, from where the last iteration left them (`probseq.models.switching_variational`)
    M-step   initial_probs ~ g_0,  regime_transition_matrix ~ expected moves,  and with weights g_t(k)
             z_t on (z_{t-1}, 1)  [transition_matrices_k | transition_offsets_k]   transition_covs_k
             y_t on (z_t, 1)      [emission_matrices_k | emission_offsets_k]       emission_covs_k
             (of counts, by Newton: `probseq.models.switching_regression`; they start as log(y + 1/2))

weighted regressions with expected moments; a shared emission adds up over the regimes. A missing coordinate of y_t
enters through its conditional mean and covariance given the state and what was observed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from probseq.emissions.autoregressive import Autoregressive
from probseq.errors import SingularInnovation, say
from probseq.models.hmm import HMM
from probseq.models.lds import LDS
from probseq.models.normal import symmetric
from probseq.models.states import EMPTY_STATE, NO_MASS
from probseq.models.switching_recurrent import infer_recurrent, maximise_moves
from probseq.models.switching_regression import maximise_counts
from probseq.models.switching_variational import Posterior, infer
from probseq.ops import semidefinite
from probseq.parameters import freeze
from probseq.randomness import spawn
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from probseq.models.switching import SwitchingLDS

#: rounds of q(z) and q(s) in one E-step
PASSES = 3
#: EM iterations of the LDS and of the AR-HMM that make a start, and AR-HMMs tried
LDS_STEPS, HMM_STEPS, STARTS = 20, 40, 3
#: the smallest share of the variance of all rows that the noise of a regime may shrink to
FLOOR = 1e-8


class Rows(NamedTuple):
    """Expected moments of a regression y = W (x, 1) + noise: means, and covariances given the data, row by row."""

    x: Tensor  # (N, p)
    y: Tensor  # (N, d)
    x_cov: Tensor  # (N, p, p)
    cross: Tensor  # (N, d, p), Cov(y, x)
    y_cov: Tensor  # (N, d, d)


# ---- the iteration


def variational_step(
    model: SwitchingLDS, sequences: Sequences, before: list[tuple[int, Posterior]] | None
) -> tuple[Tensor, list[tuple[int, Posterior]]]:
    """One iteration in place from q of every sequence that is not empty: the bound at the old parameters, and new q."""
    parts, found = model.regimes(), list[tuple[int, Posterior]]()
    first = enumerate(responsibilities(model, sequences)) if before is None else before
    for b, q in first:
        if (parts.recurrent is not None or parts.counts) and (isinstance(q, Posterior) or len(q)):
            found.append((b, infer_recurrent(parts, sequences, b, q, PASSES)))
        elif isinstance(q, Posterior) or len(q):
            known = q.responsibilities if isinstance(q, Posterior) else q
            found.append((b, infer(parts, sequences, b, known, PASSES)))
    bound = torch.stack([posterior.bound for _, posterior in found]).sum()
    maximise(model, sequences, found)
    return bound, found


def responsibilities(model: SwitchingLDS, sequences: Sequences) -> list[Tensor]:
    """q(s_t = k) of every sequence from the model's own smoother, (T, K) each."""
    probs = model._smooth(sequences).log_weights.exp()
    return [probs[b, :length] for b, length in enumerate(sequences.lengths.tolist())]


def maximise(model: SwitchingLDS, sequences: Sequences, found: list[tuple[int, Posterior]]) -> None:
    """Set every free parameter to its best under q."""
    own = [posterior for _, posterior in found]
    weights = torch.cat([one.responsibilities for one in own])
    if bool((weights.sum(0) < NO_MASS).any()):
        say("empty state", EMPTY_STATE)
    first = torch.stack([one.responsibilities[0] for one in own]).sum(0)
    model.store_rows("initial_probs", first)
    if model.recurrent:
        maximise_moves(model, own)
    else:
        model.store_rows("regime_transition_matrix", torch.stack([one.pairs for one in own]).sum(0))
    means = torch.stack([one.states.mean[0] for one in own])
    away = means - (model.initial_mean if model.is_frozen("initial_mean") else means.mean(0))
    spread = torch.stack([one.states.cov[0] for one in own]).mean(0) + away.mT @ away / len(own)
    model.assign(initial_mean=means.mean(0), initial_cov=symmetric(spread))
    _maximise_transition(model, own)
    _maximise_emission(model, sequences, found, weights)


def _maximise_transition(model: SwitchingLDS, own: list[Posterior]) -> None:
    states = [one.states for one in own]
    rows = Rows(
        torch.cat([one.mean[:-1] for one in states]),
        torch.cat([one.mean[1:] for one in states]),
        torch.cat([one.cov[:-1] for one in states]),
        torch.cat([one.lag_one for one in states]),
        torch.cat([one.cov[1:] for one in states]),
    )
    weights = torch.cat([one.responsibilities[1:] for one in own])
    names = ("transition_matrices", "transition_offsets", "transition_covs")
    values = [getattr(model, name).clone() for name in names]
    for k in range(model.n_regimes):
        if float(weights[:, k].sum()) >= NO_MASS:
            _regress(model, names, [value[k] for value in values], rows, weights[:, k])
    model.assign(**dict(zip(names, values, strict=True)))


def _maximise_emission(
    model: SwitchingLDS, sequences: Sequences, found: list[tuple[int, Posterior]], weights: Tensor
) -> None:
    names = ("emission_matrices", "emission_offsets", "emission_covs")
    means, covs = torch.cat([one.states.mean for _, one in found]), torch.cat([one.states.cov for _, one in found])
    ends = sequences.lengths.tolist()
    y, seen = (torch.cat([data[b, : ends[b]] for b, _ in found]) for data in (sequences.values, sequences.observed))
    if model.emission == "poisson":
        maximise_counts(model, y, seen, means, covs, weights)
        return
    shown = seen.any(-1)
    values = [getattr(model, name).clone() for name in names]
    groups = [list(range(model.n_regimes))] if model.shared_emission else [[k] for k in range(model.n_regimes)]
    for group in groups:
        k, own = group[0], weights[:, group].sum(-1)[shown]
        if float(own.sum()) < NO_MASS:
            continue
        rows = _completed([value[k] for value in values], y[shown], seen[shown], means[shown], covs[shown])
        _regress(model, names, [value[k] for value in values], rows, own)
        for value in values:
            value[group] = value[k].clone()
    model.assign(**dict(zip(names, values, strict=True)))


def _completed(old: list[Tensor], y: Tensor, seen: Tensor, mean: Tensor, cov: Tensor) -> Rows:
    """Regression of y on the state, with the unobserved coordinates of y in expectation."""
    matrix, offset, noise = old
    if bool(seen.all()):
        d = y.shape[-1]
        return Rows(mean, y, cov, y.new_zeros(len(y), d, mean.shape[-1]), y.new_zeros(len(y), d, d))
    marks = seen.double()
    inner = marks.unsqueeze(-1) * noise * marks.unsqueeze(-2)
    gain = semidefinite.solve(inner, marks.unsqueeze(-1) * noise).mT * marks.unsqueeze(-2)
    gain = torch.where(seen.unsqueeze(-1), torch.diag_embed(marks), gain)  # what is seen is itself
    expected = mean @ matrix.mT + offset
    residual = torch.where(seen, y - expected, 0.0)
    filled = expected + (gain @ residual.unsqueeze(-1)).squeeze(-1)
    reach = matrix - gain @ matrix
    left = symmetric(noise - gain @ noise) * (~seen).unsqueeze(-1) * (~seen).unsqueeze(-2)
    return Rows(mean, filled, cov, reach @ cov, reach @ cov @ reach.mT + left)


def _regress(
    model: SwitchingLDS, names: tuple[str, str, str], values: list[Tensor], rows: Rows, weights: Tensor
) -> None:
    """Write the best matrix, offset and noise covariance (views of one regime) for these weighted rows."""
    matrix, offset, noise = values
    free = [not model.is_frozen(name) for name in names]
    total = weights.sum()
    x_mean, y_mean = weights @ rows.x / total, weights @ rows.y / total
    if not free[1]:  # through the given offset
        x_mean, y_mean = torch.zeros_like(x_mean), offset
    x, y = rows.x - x_mean, rows.y - y_mean
    x_cov, cross, y_cov = (torch.einsum("t,tij->ij", weights, part) for part in (rows.x_cov, rows.cross, rows.y_cov))
    if free[0]:
        gram, moment = (x * weights.unsqueeze(-1)).mT @ x + x_cov, (y * weights.unsqueeze(-1)).mT @ x + cross
        matrix.copy_(torch.linalg.lstsq(gram, moment.mT, driver="gelsd").solution.mT)
    if free[1]:
        offset.copy_(y_mean - matrix @ x_mean)
    if free[2]:
        residual = rows.y - rows.x @ matrix.mT - offset
        scatter = (residual * weights.unsqueeze(-1)).mT @ residual
        scatter = scatter + y_cov - matrix @ cross.mT - cross @ matrix.mT + matrix @ x_cov @ matrix.mT
        unit = (rows.y.var(0, unbiased=False) + rows.y_cov.diagonal(dim1=-2, dim2=-1).mean(0)).mean()
        noise.copy_(_floored(symmetric(scatter / total), FLOOR * unit))


def _floored(cov: Tensor, least: Tensor) -> Tensor:
    """The covariance with eigenvalues of at least `least`."""
    values, vectors = torch.linalg.eigh(cov)
    if bool((values >= least).all()):
        return cov
    return symmetric((vectors * values.clamp(min=float(least))) @ vectors.mT)


# ---- the start


@torch.no_grad()
def start(model: SwitchingLDS, sequences: Sequences, seed: int) -> None:
    """Set the free parameters: emission from an LDS, regimes from an AR-HMM of its smoothed states."""
    if model.emission == "poisson":
        sequences = replace(sequences, values=(sequences.values + 0.5).log())
    lds, states = _linear(model, sequences, seed)
    inside = sequences.inside
    if "emission_matrices" in model.unset or not model.is_frozen("emission_matrices"):
        spread = states[inside].std(0, unbiased=False)
        factor = torch.where(spread > 0, 1 / spread, 1.0).log2().round().exp2()
    else:
        factor = torch.ones(model.state_dim, dtype=torch.float64)
    states = states * factor
    column, k = factor.unsqueeze(-1), model.n_regimes
    model.assign(
        emission_matrices=(lds.emission_matrix / factor).expand(k, -1, -1),
        emission_offsets=lds.emission_offset.expand(k, -1),
        emission_covs=lds.emission_cov[: model.noise_dim, : model.noise_dim].expand(k, -1, -1),
        initial_mean=factor * lds.initial_mean,
        initial_cov=column * lds.initial_cov * factor,
        recurrent_weights=torch.zeros(k, k, model.n_drivers, dtype=torch.float64),
    )
    chain = _regimes_of(states, sequences, k, seed)
    emission = chain.emission
    assert isinstance(emission, Autoregressive)
    model.assign(
        initial_probs=chain.initial_probs,
        regime_transition_matrix=chain.transition_matrix,
        transition_matrices=emission.coefficients[:, 0],
        transition_offsets=emission.intercepts,
        transition_covs=emission.covs,
    )


def _linear(model: SwitchingLDS, sequences: Sequences, seed: int) -> tuple[LDS, Tensor]:
    """A linear dynamical system of the same sizes and its smoothed states, (B, T, n).

    Its emission is that of the model where that is given and held. Data that it explains to the last digit end the
    iteration where they still had a density.
    """
    lds = LDS(model.state_dim, model.obs_dim)
    held: set[str] = set()
    for own, other in (
        ("emission_matrices", "emission_matrix"),
        ("emission_offsets", "emission_offset"),
        ("emission_covs", "emission_cov"),
    ):
        if own not in model.unset and model.is_frozen(own) and getattr(model, own).numel():
            lds.assign(**{other: getattr(model, own).mean(0)})
            held.add(other)
    with freeze(lds, held):
        lds._start(sequences, seed)
        proper = lds.snapshot()
        with freeze(lds, lds._unidentified(sequences)):
            try:
                for _ in range(LDS_STEPS):
                    before = lds.snapshot()
                    lds._em_step(sequences)
                    proper = before
                return lds, lds._smooth(sequences).mean
            except SingularInnovation:
                lds.restore(proper)
                return lds, lds._smooth(sequences).mean


def _regimes_of(states: Tensor, sequences: Sequences, k: int, seed: int) -> HMM:
    """The most probable of a few AR-HMMs of order 1 of the states (B, T, n)."""
    data = Sequences.of([x[:length] for x, length in zip(states, sequences.lengths.tolist(), strict=True) if length])
    best, most = None, -torch.inf
    for own in spawn(seed, STARTS if k > 1 else 1):
        chain = HMM(k, emission=Autoregressive(states.shape[-1], 1))
        chain._start(data.flat(), own)
        for _ in range(HMM_STEPS):
            chain._em_step(data.flat())
        score = float(chain._log_prob(data.flat()).sum())
        if best is None or score > most:
            best, most = chain, score
    assert best is not None
    return best
