"""Structured variational inference in a switching linear system: q(s) q(z), each half exact given the other.

    q(z) ~ p(z_0) exp sum_t sum_k g_t(k) [log N(z_t; F_k z_{t-1} + b_k, Q_k) + log N(y_t; C_k z_t + d_k, R_k)]
    q(s) ~ p(s) exp sum_t l_t(s_t),     l_t(k) = E_q(z) of the bracket

| symbol | shape  |                                                                                     |
|--------|--------|-------------------------------------------------------------------------------------|
| g      | (T, K) | q(s_t = k), from the forward-backward kernel                                        |
| l      | (T, K) | expected log-densities; the transition has no term at t = 0                         |
| D, e   | (T, n) | rows of n unit-variance readings D_t z_t + noise = e_t that stand for all factors   |

q(z) is the posterior of a linear system that varies in time, so that the Kalman kernels smooth it. With the weighted
precision L_t = sum_k g_t(k) Q_k^-1 its step into t is F~ = L^-1 sum g Q^-1 F, b~ alike, Q~ = L^-1; what completing the
square leaves over,

    sum_k g |Q_k^-1/2 ((F_k - F~) z_{t-1} + b_k - b~)|^2,

is a reading of z_{t-1}, and the emissions are readings of z_t; a QR decomposition makes n rows of all of them. With Z_z
and Z_s the normalisers of the two exponentials, after q(s) has been updated

    bound = log Z_s + log Z_z - sum g_before l  <=  log p(y),

deterministic, and no update of q(z), q(s) or the parameters lowers it. With one regime, or equal ones, it is log p(y).

Reference: Ghahramani and Hinton (2000), Variational learning for switching state-space models, Neural Computation 12.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from probseq.models.normal import LOG_2PI, symmetric, whitener
from probseq.models.switching_steps import Regimes
from probseq.ops import hmm, kalman
from probseq.sequences import Sequences


class Whitened(NamedTuple):
    """Inverse roots W (W' W the inverse covariance of what is seen) and log det 2 pi of transition and emission."""

    transition: Tensor  # (K, n, n)
    transition_log_det: Tensor  # (K,)
    emission: Tensor  # (T or 1, K, m, m), zero rows and columns where not seen
    emission_log_det: Tensor  # (T or 1, K)
    seen: Tensor | None = None  # (T, m), where something is missing


class States(NamedTuple):
    """q(z) of one sequence: moments, Cov(z_{t+1}, z_t), and log Z_z."""

    mean: Tensor  # (T, n)
    cov: Tensor  # (T, n, n)
    lag_one: Tensor  # (T - 1, n, n)
    log_normaliser: Tensor


class Posterior(NamedTuple):
    """q of one sequence, and the bound; `responsibilities` (T, K) and expected moves `pairs` (K, K) of q(s)."""

    states: States
    responsibilities: Tensor
    pairs: Tensor
    bound: Tensor
    #: what a model with recurrent weights goes on from
    chain: Any = None


def infer(parts: Regimes, sequences: Sequences, b: int, responsibilities: Tensor, passes: int) -> Posterior:
    """Coordinate ascent on q(z) and q(s) of sequence b from q(s), in `passes` rounds."""
    length = int(sequences.lengths[b])
    y, seen = sequences.values[b, :length], sequences.observed[b, :length]
    roots = whitened(parts, None if bool(seen.all()) else seen)
    g, pairs, bound = responsibilities, torch.zeros(0), torch.zeros(0)
    states: States | None = None
    for _ in range(passes):
        states = states_given(parts, roots, y, g)
        table = expected_log_densities(parts, roots, y, states)
        found = hmm.expectations(
            parts.log_initial.unsqueeze(0), parts.log_moves[None, None], table.unsqueeze(0), torch.tensor([length])
        )
        bound = found.log_prob[0] + states.log_normaliser - (g * table).sum()
        g, pairs = found.gamma[0], found.xi_sum[0, 0]
    assert states is not None
    return Posterior(states, g, pairs, bound)


def whitened(parts: Regimes, seen: Tensor | None) -> Whitened:
    """The roots at the parameters; ValueError for singular covariances (the bound needs densities)."""
    transition = _inverse_root(parts.transition_cov, torch.ones_like(parts.transition_offset))
    if parts.counts:  # no Gaussian factor
        k, m = parts.emission_offset.shape
        return Whitened(*transition, torch.zeros(1, k, m, m).double(), torch.zeros(1, k).double(), seen)
    marks = torch.ones_like(parts.emission_offset).unsqueeze(0) if seen is None else seen.double().unsqueeze(1)
    marks = marks.expand(-1, parts.n_regimes, -1)
    noise = marks.unsqueeze(-1) * parts.emission_cov * marks.unsqueeze(-2)
    return Whitened(*transition, *_inverse_root(noise, marks), seen)


def _inverse_root(cov: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    factor, unit = whitener(cov, seen)
    root = torch.linalg.solve_triangular(factor, torch.diag_embed(unit * seen), upper=False) * seen.unsqueeze(-1)
    log_det = 2 * (factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - (seen * unit.log()).sum(-1))
    return root, log_det + seen.sum(-1) * LOG_2PI


def states_given(parts: Regimes, roots: Whitened, y: Tensor, g: Tensor, readings: Tensor | None = None) -> States:
    """q(z) given q(s), and given further readings (T, r, n + 1), rows a, c of a z_t + c ~ N(0, 1) without 2 pi."""
    n, share = len(parts.initial_mean), g.sqrt()[..., None, None]
    weighted = torch.einsum("tk,kij->tij", g, roots.transition.mT @ roots.transition)
    factor = torch.linalg.cholesky(weighted)
    precisions = roots.transition.mT @ roots.transition
    affine = torch.cat([parts.transition_matrix, parts.transition_offset.unsqueeze(-1)], -1)  # (K, n, n + 1)
    mean = torch.cholesky_solve(torch.einsum("tk,kij->tij", g, precisions @ affine), factor)
    left = (share * (roots.transition @ (affine - mean.unsqueeze(1))))[1:]  # rows about z_{t-1}
    left = torch.nn.functional.pad(left, (0, 0, 0, 0, 0, 0, 0, 1))
    own = torch.cat([parts.emission_matrix.expand(len(y), -1, -1, -1), _away(parts, y).unsqueeze(-1)], -1)
    rows = torch.cat([left.flatten(1, 2), (share * (roots.emission @ own)).flatten(1, 2)], 1)
    if readings is not None:
        rows = torch.cat([rows, readings], 1)
    rows = torch.nn.functional.pad(rows, (0, 0, 0, n + 1))  # at least as many as columns
    triangle = torch.linalg.qr(rows, mode="r").R
    design, reading, rest = triangle[:, :n, :n], -triangle[:, :n, n], triangle[:, n, n]
    eye = torch.eye(n, dtype=y.dtype)
    system = kalman.LinearGaussianSystem(
        parts.initial_mean.unsqueeze(0),
        parts.initial_cov.unsqueeze(0),
        mean[..., :n].contiguous(),
        symmetric(torch.cholesky_inverse(factor)),
        mean[..., n].unsqueeze(0).contiguous(),
        design.contiguous(),
        eye.unsqueeze(0),
    )
    found = kalman.smooth(system, reading.unsqueeze(0).contiguous(), None, torch.tensor([len(y)]))
    log_dets = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - n * LOG_2PI  # of 1 / (2 pi Q~)
    moved = -0.5 * (g @ roots.transition_log_det + log_dets)[1:].sum()
    shown = -0.5 * (g * roots.emission_log_det).sum() + len(y) * n / 2 * LOG_2PI - 0.5 * rest.square().sum()
    return States(found.mean[0], found.cov[0], found.lag_one_cov[0], found.log_prob[0] + moved + shown)


def _away(parts: Regimes, y: Tensor) -> Tensor:
    """d - y, (T, K, m)."""
    return parts.emission_offset - y.unsqueeze(1)


def expected_log_densities(parts: Regimes, roots: Whitened, y: Tensor, states: States) -> Tensor:
    """l_t(k), (T, K); of counts its Gaussian part, the transition."""
    m, p = states.mean, states.cov
    off = (parts.emission_matrix @ m[:, None, :, None]).squeeze(-1) + _away(parts, y)
    white = (roots.emission @ off.unsqueeze(-1)).squeeze(-1)
    reach = roots.emission @ parts.emission_matrix
    spread = ((reach @ p.unsqueeze(1)) * reach).sum((-1, -2))
    table = -0.5 * (roots.emission_log_det + white.square().sum(-1) + spread)
    f = parts.transition_matrix
    away = m[1:, None] - (f @ m[:-1, None, :, None]).squeeze(-1) - parts.transition_offset
    white = (roots.transition @ away.unsqueeze(-1)).squeeze(-1)
    cross = f @ states.lag_one.mT.unsqueeze(1)
    cov = p[1:, None] - cross - cross.mT + f @ p[:-1, None] @ f.mT
    spread = torch.einsum("kij,tkjl,kil->tk", roots.transition, cov, roots.transition)
    moved = -0.5 * (roots.transition_log_det + white.square().sum(-1) + spread)
    return table + torch.nn.functional.pad(moved, (0, 0, 1, 0))
