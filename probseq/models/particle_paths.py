"""Whole state paths from the clouds of a particle filter, backwards (FFBSi: Godsill, Doucet and West 2004).

z_{T-1} ~ the last cloud
for t = T - 2 .. 0:   z_t among the particles of step t, with probabilities proportional to W_t^i p(z_{t+1} | z_t^i)
"""

from __future__ import annotations

import torch
from torch import Tensor

from probseq.beliefs import Particles
from probseq.models.additive_noise import AdditiveNoise
from probseq.ops import semidefinite
from probseq.ops.resampling import origins
from probseq.sequences import Sequences


def paths(
    parts: AdditiveNoise, filtered: Particles, sequences: Sequences, n_paths: int, randomness: torch.Generator
) -> Tensor:
    """Draws (n_paths, B, T, n); beyond its end a sequence's path goes on freely."""
    inside, u = sequences.inside, sequences.inputs
    size, steps = len(sequences.lengths), sequences.n_steps
    uniforms = torch.rand((steps, n_paths, size), dtype=torch.float64, generator=randomness).mT
    unit = semidefinite.cholesky(parts.transition_cov)
    if steps > 1 and bool((unit.diagonal() == 0).any()):
        raise ValueError("transition_cov is singular, so no other particle could have led to a path's next state")
    path: list[Tensor] = []
    for t in reversed(range(steps)):
        values, log_weights = filtered.values[:, t], filtered.log_weights[:, t]
        if path:
            moved = parts.transition(values, None if u is None else u[:, t + 1].unsqueeze(1))
            coming, free = path[-1], ~inside[:, t + 1]
        else:
            moved, coming, free = values, values[:, :1].expand(-1, n_paths, -1), inside.new_ones(size)
        ends = (torch.linalg.solve_triangular(unit, x.mT, upper=False).mT for x in (moved, coming))
        chosen = origins(log_weights, *ends, free, uniforms[t])
        path.append(values.gather(1, chosen.unsqueeze(-1).expand(-1, -1, values.shape[-1])))
    if not path:
        return torch.zeros(n_paths, size, 0, parts.initial_mean.shape[-1], dtype=torch.float64)
    return torch.stack(path[::-1], 2).movedim(1, 0)
