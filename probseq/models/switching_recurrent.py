"""Variational inference where regimes listen to the state: p(s_{t+1} given i, z_t) = softmax(log A_i + W_i z_t).

The softmax has no conjugate form, so q(z) gets readings in its place: those of its second-order expansion at the mean
(Laplace), with p_i = softmax(log A_i + W_i m_t), x_t(i, j) = q(s_t = i, s_{t+1} = j) and its row sums g_t(i),

    sqrt(g_i p_ij) (W_ij - sum_l p_il W_il) z_t ~ N(the same times m_t + (x_ij - g_i p_ij) / sqrt(g_i p_ij), 1).

Counts, too, have no conjugate form. Where `parts.counts`, with the expected rates r = E exp(C_k z + d_k), the readings

    sqrt(g_k r_i) C_ki z_t ~ N(the same times m_t + g_k (y_i - r_i) / sqrt(g_k r_i), 1)

are those whose fixed point is the best Gaussian q(z), and l_t(k) has the expected Poisson term in closed form.

The bound itself is that of the softmax: with H the entropy of a Gaussian chain q(z) and l of
`probseq.models.switching_variational`,

    bound = log Z_s + E log p(z_0) + H(q(z)),

where q(s) also has E_q(z) log p(s_{t+1} given s_t, z_t) in its moves, a mean over the points of a cubature rule. A new
expansion is mixed with the old one, half, a quarter ... of it, until the bound does not fall, or not taken: so no
update lowers it, nor does the M-step of A and W, which climbs the same sum over points.

References: Linderman et al. (2017), Bayesian learning and inference in recurrent switching linear dynamical systems,
AISTATS; Zoltowski, Pillow and Linderman (2020), A general recurrent state space framework, ICML (Laplace).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from probseq.models.normal import LOG_2PI, whitener
from probseq.models.switching_counts import expected_log_poisson, expected_rates
from probseq.models.switching_steps import Regimes
from probseq.models.switching_variational import (
    Posterior,
    States,
    Whitened,
    expected_log_densities,
    states_given,
    whitened,
)
from probseq.ops import hmm, semidefinite
from probseq.sequences import Sequences
from probseq.transitions import driven, maximise_regression

if TYPE_CHECKING:
    from probseq.models.switching import SwitchingLDS

#: shares of a new expansion that are tried
SHARES = (1.0, 0.5, 0.25, 0.1)
#: the smallest probability of a move in an expansion
TINY = 1e-12


class Chain(NamedTuple):
    """q(z) with its entropy, the readings (T, r, n + 1) that made it, q(s) given it, and the bound."""

    states: States
    entropy: Tensor
    readings: Tensor
    responsibilities: Tensor  # (T, K)
    moves: Tensor  # (T, K, K), entry t into step t, 0 at t = 0
    bound: Tensor


def infer_recurrent(parts: Regimes, sequences: Sequences, b: int, before: Tensor | Posterior, passes: int) -> Posterior:
    """Ascent on q(z) and q(s) of sequence b, from q(s) or from the last q of all."""
    length = int(sequences.lengths[b])
    y, seen = sequences.values[b, :length], sequences.observed[b, :length]
    roots = whitened(parts, None if bool(seen.all()) else seen)
    if isinstance(before, Posterior):
        old = before.chain
        assert isinstance(old, Chain)
        now = _given(parts, roots, y, old.states, old.entropy, old.readings)
    else:
        begin = y.new_zeros(length, 1, len(parts.initial_mean) + 1)
        if parts.counts:  # log-rates near log y
            near = (y + 0.5).unsqueeze(-2)
            begin = _readings_of_counts(parts, roots, before, near, near.log() - parts.emission_offset)
        now = _updated(parts, roots, y, before, begin)
    for _ in range(passes):
        fresh, found = _expanded(parts, roots, y, now), now
        for share in SHARES:
            mixed = torch.cat([math.sqrt(share) * fresh, math.sqrt(1 - share) * now.readings], 1)
            tried = _updated(parts, roots, y, now.responsibilities, _compressed(mixed))
            if bool(tried.bound >= now.bound):
                found = tried
                break
        if found is now:
            break
        now = found
    return Posterior(now.states, now.responsibilities, now.moves.sum(0), now.bound, now)


def _updated(parts: Regimes, roots: Whitened, y: Tensor, g: Tensor, readings: Tensor) -> Chain:
    """q(z) given q(s) and readings, then q(s) given q(z)."""
    states = states_given(parts, roots, y, g, readings)
    table = expected_log_densities(parts, roots, y, states)
    said = (readings[..., :-1] @ states.mean.unsqueeze(-1)).squeeze(-1) + readings[..., -1]
    spread = ((readings[..., :-1] @ states.cov) * readings[..., :-1]).sum()
    rest = (g * table).sum() - 0.5 * (said.square().sum() + spread) + _begun(parts, states)
    return _given(parts, roots, y, states, states.log_normaliser - rest, readings)


def _given(parts: Regimes, roots: Whitened, y: Tensor, states: States, entropy: Tensor, readings: Tensor) -> Chain:
    """q(s) and the bound, given q(z)."""
    table = expected_log_densities(parts, roots, y, states)
    if parts.counts:
        table = table + expected_log_poisson(parts, states.mean, states.cov, y, roots.seen)
    moves = expected_log_moves(parts, states)
    ends = torch.tensor([len(y)])
    found = hmm.expectations(parts.log_initial.unsqueeze(0), moves.unsqueeze(0), table.unsqueeze(0), ends)
    pairs = found.xi_sum[0].expand(len(y), -1, -1).clone()
    pairs[0] = 0.0
    bound = found.log_prob[0] + _begun(parts, states) + entropy
    return Chain(states, entropy, readings, found.gamma[0], pairs, bound)


def _begun(parts: Regimes, states: States) -> Tensor:
    """E log p(z_0)."""
    factor, unit = whitener(parts.initial_cov, torch.ones_like(parts.initial_mean))
    away = states.mean[0] - parts.initial_mean
    second = unit.unsqueeze(-1) * (states.cov[0] + torch.outer(away, away)) * unit
    log_det = 2 * (factor.diagonal().log().sum() - unit.log().sum())
    return -0.5 * (torch.cholesky_solve(second, factor).diagonal().sum() + log_det + len(away) * LOG_2PI)


def points_of(states: States) -> Tensor:
    """Equally weighted points (2 n, T - 1, n) with the moments of z_0 .. z_{T-2}."""
    n = states.mean.shape[-1]
    arms = math.sqrt(n) * semidefinite.cholesky(states.cov[:-1]).mT  # (T - 1, n, n)
    mean = states.mean[:-1].unsqueeze(-2)
    return torch.cat([mean + arms, mean - arms], -2).movedim(-2, 0)


def expected_log_moves(parts: Regimes, states: States) -> Tensor:
    """E log p(s_t = j given s_{t-1} = i, z_{t-1}), (T, K, K); 0 at t = 0, which no move enters."""
    if parts.recurrent is None:
        inside = parts.log_moves.expand(len(states.mean) - 1, -1, -1)
        return torch.nn.functional.pad(inside, (0, 0, 0, 0, 1, 0))
    inside = driven(parts.log_moves, parts.recurrent, points_of(states)).mean(0)
    return torch.nn.functional.pad(inside, (0, 0, 0, 0, 1, 0))


def _expanded(parts: Regimes, roots: Whitened, y: Tensor, now: Chain) -> Tensor:
    """New readings of z_0 .. z_{T-1}, (T, r, n + 1): rows a, c of a z + c ~ N(0, 1)."""
    found = list[Tensor]()
    if parts.recurrent is not None:
        found.append(_readings_of_moves(parts, now))
    if parts.counts:
        level, rates = expected_rates(parts, now.states.mean, now.states.cov)
        rates = rates.clamp(min=TINY)
        goal = level - parts.emission_offset + (y.unsqueeze(-2) - rates) / rates
        found.append(_readings_of_counts(parts, roots, now.responsibilities, rates, goal))
    return _compressed(torch.cat(found, 1))


def _readings_of_counts(parts: Regimes, roots: Whitened, g: Tensor, rates: Tensor, goal: Tensor) -> Tensor:
    """C z_t ~ N(goal, 1 / (g rates)), for goals (T, K, m)."""
    weight = g.unsqueeze(-1) * rates
    if roots.seen is not None:
        weight = weight * roots.seen.unsqueeze(-2)
    matrix = parts.emission_matrix.expand(len(g), -1, -1, -1)
    rows = torch.cat([matrix, -goal.unsqueeze(-1)], -1) * weight.sqrt().unsqueeze(-1)
    return _compressed(rows.flatten(1, 2))


def _readings_of_moves(parts: Regimes, now: Chain) -> Tensor:
    assert parts.recurrent is not None
    mean, pairs = now.states.mean[:-1], now.moves[1:]
    probs = driven(parts.log_moves, parts.recurrent, mean).exp().clamp(min=TINY)  # (T - 1, K, K)
    centre = torch.einsum("tij,ijn->tin", probs, parts.recurrent)
    weight = (pairs.sum(-1, keepdim=True) * probs).clamp(min=TINY**2).sqrt()
    rows = weight.unsqueeze(-1) * (parts.recurrent - centre.unsqueeze(-2))
    goal = (rows @ mean[:, None, :, None]).squeeze(-1) + (pairs - weight.square()) / weight
    both = torch.cat([rows, -goal.unsqueeze(-1)], -1).flatten(1, 2)
    return _compressed(torch.nn.functional.pad(both, (0, 0, 0, 0, 0, 1)))


def _compressed(rows: Tensor) -> Tensor:
    """Rows (T, r, n + 1) as n + 1 of them with the same sum of squares."""
    wide = torch.nn.functional.pad(rows, (0, 0, 0, max(rows.shape[-1] - rows.shape[-2], 0)))
    return torch.linalg.qr(wide, mode="r").R


def maximise_moves(model: SwitchingLDS, found: list[Posterior]) -> None:
    """The M-step of regime_transition_matrix and recurrent_weights, a softmax regression on points of q(z)."""
    points = [points_of(one.states) for one in found]
    counts = [one.chain.moves[1:] / len(cloud) for one, cloud in zip(found, points, strict=True)]
    inputs = torch.cat([cloud.flatten(0, 1) for cloud in points])
    wide = [own.expand(len(cloud), *own.shape) for own, cloud in zip(counts, points, strict=True)]
    table = torch.cat([own.flatten(0, 1) for own in wide])
    held = (model.is_frozen("regime_transition_matrix"), model.is_frozen("recurrent_weights"))
    log_rows = type(model).regime_transition_matrix.log(model)
    if all(held) or not len(inputs):
        return
    extra = torch.zeros_like(log_rows)
    log_rows, weights = maximise_regression(log_rows, model.recurrent_weights, inputs, table, extra, held)
    if not held[0]:
        model.get_parameter("raw_regime_transition_matrix").copy_(log_rows)
    model.assign(recurrent_weights=weights)
