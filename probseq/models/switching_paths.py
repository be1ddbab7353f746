"""Whole paths of a switching linear system: drawn from the model, drawn given the data, and scored.

Given the data, from clouds of Rao-Blackwellised particles, backwards:

    s_{T-1}, z_{T-1} ~ the last cloud
    for t = T - 2 .. 0:
        i in proportion to W_t^i p(s_{t+1} given s_t^i) N(z_{t+1}; F m^i + b, F P^i F' + Q)
        s_t = s_t^i,   z_t ~ p(z_t given z_{t+1}, i)

References: Fong, Godsill, Doucet and West (2002), Monte Carlo smoothing with application to audio signal enhancement,
IEEE Trans. Signal Processing 50; Lindsten, Bunch, Sarkka, Schon and Godsill (2016), IEEE J. Sel. Topics Sig. Proc. 10.
"""

from __future__ import annotations

import torch
from torch import Tensor

from probseq.beliefs import Gaussian
from probseq.models.normal import LOG_2PI, log_normal, whitener
from probseq.models.switching_counts import draw_counts, joint_of_counts
from probseq.models.switching_particles import Cloud, clouds
from probseq.models.switching_smoother import regress
from probseq.models.switching_steps import Regimes, condition, move
from probseq.ops import semidefinite
from probseq.sequences import Sequences

#: particles of the forward pass from which posterior paths are drawn
PARTICLES = 300


def simulate(parts: Regimes, regime: Tensor, state: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Regimes (*batch, steps), states and observations drawn on from s_0 and z_0, by torch's global generator."""
    process = semidefinite.cholesky(parts.transition_cov)
    sensor = process if parts.counts else semidefinite.cholesky(parts.emission_cov)
    regimes, states, values = [regime], [state], list[Tensor]()
    for t in range(steps):
        k, z = regimes[-1], states[-1]
        if parts.counts:
            values.append(draw_counts(parts, k, z))
        else:
            values.append(_affine(parts.emission_matrix[k], z, parts.emission_offset[k], sensor[k]))
        if t + 1 < steps:
            moves = parts.rows_at(k, z)
            k = torch.distributions.Categorical(logits=moves).sample()
            regimes.append(k)
            states.append(_affine(parts.transition_matrix[k], z, parts.transition_offset[k], process[k]))
    return torch.stack(regimes, -1), torch.stack(states, -2), torch.stack(values, -2)


def _affine(matrix: Tensor, z: Tensor, offset: Tensor, root: Tensor) -> Tensor:
    noise = root @ torch.randn(*offset.shape, 1, dtype=torch.float64)
    return (matrix @ z.unsqueeze(-1) + noise).squeeze(-1) + offset


@torch.no_grad()
def sample_paths(parts: Regimes, sequences: Sequences, n_paths: int, randomness: torch.Generator) -> Tensor:
    """Draws of (s, z) given y, (n_paths, B, T, 1 + n), the regime first."""
    found, _ = clouds(parts, sequences, PARTICLES, randomness)
    path: list[Tensor] = []
    for cloud in reversed(found):
        uniforms = torch.rand(len(cloud.regimes), n_paths, 1, dtype=torch.float64, generator=randomness)
        noise = torch.randn(len(uniforms), n_paths, len(parts.initial_mean), dtype=torch.float64, generator=randomness)
        path.append(_earlier(parts, cloud, path[-1] if path else None, uniforms, noise))
    if not path:
        return torch.zeros(n_paths, len(sequences.lengths), 0, 1 + len(parts.initial_mean), dtype=torch.float64)
    return torch.stack(path[::-1], 2).movedim(1, 0)


def _earlier(parts: Regimes, cloud: Cloud, coming: Tensor | None, uniforms: Tensor, noise: Tensor) -> Tensor:
    """(s_t, z_t) of every path (B, P, 1 + n), given (s_{t+1}, z_{t+1})."""
    logits = cloud.log_weights.unsqueeze(1)
    if coming is not None:
        logits = logits + _reach(parts, cloud, coming[..., 0].long(), coming[..., 1:])
    shares = (logits - logits.amax(-1, keepdim=True)).exp().cumsum(-1).expand(*uniforms.shape[:2], -1)
    chosen = (shares < uniforms * shares[..., -1:]).sum(-1).clamp(max=shares.shape[-1] - 1)
    n = noise.shape[-1]
    own = Gaussian(
        cloud.components.mean.gather(1, chosen.unsqueeze(-1).expand(-1, -1, n)),
        cloud.components.cov.gather(1, chosen[..., None, None].expand(-1, -1, n, n)),
    )
    if coming is not None:
        z, into = coming[..., 1:], coming[..., 0].long()
        goal = Gaussian(z, z.new_zeros(*z.shape, n))
        own = regress(parts, own, move(parts, own, into), goal, into)
    state = own.mean + (semidefinite.cholesky(own.cov) @ noise.unsqueeze(-1)).squeeze(-1)
    return torch.cat([cloud.regimes.gather(1, chosen).unsqueeze(-1).double(), state], -1)


def _reach(parts: Regimes, cloud: Cloud, into: Tensor, z: Tensor) -> Tensor:
    """log p(s_{t+1}, z_{t+1} given particle i), (B, P, N), for paths that are in `into` (B, P) at z (B, P, n)."""
    k, components = parts.n_regimes, cloud.components
    wide = Gaussian(components.mean.unsqueeze(-2), components.cov.unsqueeze(-3))
    ahead = move(parts, wide, torch.arange(k))  # (B, N, K)
    factor, unit = whitener(ahead.cov, torch.ones_like(ahead.mean))
    inverse = torch.linalg.solve_triangular(factor, torch.diag_embed(unit), upper=False)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - unit.log().sum(-1)
    moves = parts.rows_at(cloud.regimes, components.mean)
    tables: list[Tensor] = []
    for j in range(k):
        white = torch.einsum("bnij,bpnj->bpni", inverse[:, :, j], z.unsqueeze(2) - ahead.mean[:, None, :, j])
        density = -0.5 * (white.square().sum(-1) + z.shape[-1] * LOG_2PI) - log_det[:, None, :, j]
        tables.append(density + moves[:, None, :, j])
    return torch.stack(tables, -1).gather(-1, into[:, :, None, None].expand(-1, -1, moves.shape[1], 1)).squeeze(-1)


def path_log_prob(parts: Regimes, states: Tensor, sequences: Sequences) -> Tensor:
    """log p(s, y) of regimes (B, T), the states integrated out; log p(s, z, y) of (B, T, 1 + n)."""
    n, inside = len(parts.initial_mean), sequences.inside
    if states.ndim > 3 or (states.ndim == 3 and states.shape[2] != 1 + n):
        got = tuple(states.shape[2:])
        raise ValueError(f"states must be a regime, or a regime and {n} numbers, at every step, got shape {got}")
    regimes = torch.where(inside, (states if states.ndim == 2 else states[..., 0]).long(), 0)
    low, high = (int(regimes.min()), int(regimes.max())) if regimes.numel() else (0, 0)
    if low < 0 or high >= parts.n_regimes:
        raise ValueError(f"regimes must lie in 0 .. {parts.n_regimes - 1}, got {low} .. {high}")
    if sequences.n_steps == 0:
        return torch.zeros(len(regimes), dtype=torch.float64)
    if states.ndim == 2:
        return _marginal(parts, regimes, sequences)
    z = torch.where(inside.unsqueeze(-1), states[..., 1:], parts.initial_mean)
    return _joint(parts, regimes, z, sequences)


def _marginal(parts: Regimes, regimes: Tensor, sequences: Sequences) -> Tensor:
    if parts.recurrent is not None or parts.counts:
        why = "regimes depend on it" if parts.recurrent is not None else "the emission is not Gaussian"
        raise ValueError(f"states must hold the continuous state too (1 + state_dim numbers) where {why}")
    inside = sequences.inside
    total = torch.where(inside[:, 0], parts.log_initial[regimes[:, 0]], 0.0)
    size, n = len(regimes), len(parts.initial_mean)
    belief = Gaussian(parts.initial_mean.expand(size, 1, n), parts.initial_cov.expand(size, 1, n, n))
    for t in range(sequences.n_steps):
        here = regimes[:, t : t + 1]
        if t:
            belief = move(parts, belief, here)
            step = parts.log_moves[regimes[:, t - 1], regimes[:, t]]
            total = total + torch.where(inside[:, t], step, 0.0)
        belief, density = condition(parts, belief, here, sequences.values[:, t], sequences.observed[:, t])
        total = total + torch.where(inside[:, t], density.squeeze(-1), 0.0)
    return total


def _joint(parts: Regimes, regimes: Tensor, z: Tensor, sequences: Sequences) -> Tensor:
    inside, into = sequences.inside, regimes[:, 1:]
    begun = log_normal(z[:, 0] - parts.initial_mean, parts.initial_cov, "initial_cov")
    moved = (parts.transition_matrix[into] @ z[:, :-1].unsqueeze(-1)).squeeze(-1) + parts.transition_offset[into]
    steps = log_normal(z[:, 1:] - moved, parts.transition_cov[into], "transition_covs")
    steps = steps + parts.rows_at(regimes[:, :-1], z[:, :-1]).gather(-1, into.unsqueeze(-1)).squeeze(-1)
    if parts.counts:
        emitted = joint_of_counts(parts, regimes, z, sequences.values, sequences.observed)
    else:
        expected = (parts.emission_matrix[regimes] @ z.unsqueeze(-1)).squeeze(-1) + parts.emission_offset[regimes]
        away, noise = sequences.values - expected, parts.emission_cov[regimes]
        emitted = log_normal(away, noise, "emission_covs", sequences.observed)
    start = torch.where(inside[:, 0], parts.log_initial[regimes[:, 0]] + begun, 0.0)
    return start + torch.where(inside[:, 1:], steps, 0.0).sum(-1) + torch.where(inside, emitted, 0.0).sum(-1)
