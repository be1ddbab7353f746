"""Hidden Markov models whose emissions read the rows before: windows of whole sequences, and EM across gaps.

With complete data windows are lagged rows, known beforehand; across gaps a window holds what the filter expected, so
that it is found step by step and moves with the parameters: by a compiled recursion, and where gradients are wanted by
the four steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq import beliefs as B
from probseq.emissions.autoregressive import Autoregressive
from probseq.kernels import windows as kernel
from probseq.sequences import Sequences, step_input

#: an EM step across gaps is halved at most this often
HALVINGS = 12


def windows_of(model: Any, sequences: Sequences, initial: Any) -> Tensor:
    """The windows before every step and after the last of a flat batch, (B, T + 1, order, D); differentiable."""
    emission: Autoregressive = model.emission
    y, u, inside = sequences.values, sequences.inputs, sequences.inside
    if initial is None:
        first = emission.initial_window.expand(len(y), -1, -1)
    else:
        first = initial.window
    if first is None:
        raise ValueError(f"initial must carry a window of the {emission.order} rows before, got None")
    if sequences.complete:
        return emission.windows(y, first)
    start = model.initial_belief((len(y),), step_input(u, 0)) if initial is None else initial
    if not torch.is_grad_enabled():
        return _filled(model, sequences, start)
    belief, windows = start, [first]
    for t in range(sequences.n_steps):
        updated, _ = model.update(belief, y[:, t], sequences.observed[:, t], step_input(u, t))
        windows.append(torch.where(inside[:, t, None, None], updated.window, windows[-1]))
        if t + 1 < sequences.n_steps:
            moved = model.predict(updated, step_input(u, t + 1))
            belief = B.Categorical(moved.log_probs, windows[-1])
    return torch.stack(windows, 1)


def _filled(model: Any, sequences: Sequences, start: B.Categorical) -> Tensor:
    """The same by compiled recursion, without gradients."""
    emission: Autoregressive = model.emission
    y, n_states = sequences.values, emission.n_states
    moves = model._log_moves(sequences.inputs if sequences.n_steps else None)
    moves = moves.reshape(1, 1, n_states, n_states) if moves.ndim == 2 else moves
    assert start.window is not None
    windows = y.new_empty(len(y), y.shape[1] + 1, emission.order, emission.dim)
    windows[:, 0] = start.window
    parts = (y, sequences.observed, sequences.lengths, start.log_probs, moves)
    parts += (emission.slopes(), emission.intercepts, emission.covs)
    fill: Any = kernel.fill
    fill(*(np.ascontiguousarray(part.detach().numpy()) for part in parts), windows.numpy())
    return windows


def start_windows(emission: Autoregressive, sequences: Sequences) -> Tensor:
    """The windows of a start, (B, T + 1, order, D): gaps hold the mean of the data."""
    inside = sequences.inside
    mean = emission.settle_window(sequences.values[inside], sequences.observed[inside])
    filled = torch.where(sequences.observed, sequences.values, mean)
    return emission.windows(filled, emission.initial_window.expand(len(filled), -1, -1))


def rising_step(model: Any, sequences: Sequences) -> Tensor:
    """An EM step that is halved until the objective does not fall, or not taken.

    Its M-step holds the windows, which then follow the parameters, so that a full step may fall.
    """
    before = [p.detach().clone() for p in model.parameters()]
    objective = model._plain_em_step(sequences)
    after = [p.detach().clone() for p in model.parameters()]
    for halving in range(HALVINGS + 1):
        if float(model._log_prob(sequences).sum() + model.log_prior()) >= float(objective):
            return objective
        share = 0.0 if halving == HALVINGS else 0.5 ** (halving + 1)
        for parameter, old, new in zip(model.parameters(), before, after, strict=True):
            both = torch.isfinite(old) & torch.isfinite(new)
            parameter.copy_(torch.where(both, old + share * torch.where(both, new - old, 0.0), old))
    return objective
