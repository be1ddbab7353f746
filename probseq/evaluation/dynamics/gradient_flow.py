"""How an error travels back through time: why recurrent networks are hard to train.

    L = - sum_t log p(y_t | y_<t);    d L / d h_t = d L_t / d h_t + J_t' d L / d h_{t+1},    J_t = d h_{t+1} / d h_t

An error s - t steps later reaches h_t through the product J_{s-1} ... J_t: it shrinks or grows by the singular values
of the product, at most by the product of the largest ones. For an Elman network J_t = diag(f') U, so that
|d L_s / d h_t| <= (g |U|)^(s - t) |d L_s / d h_s| with g the largest slope of f: gradients vanish if g |U| < 1, and can
explode only if g |U| > 1.

Hochreiter, S. (1991). Untersuchungen zu dynamischen neuronalen Netzen. Diploma thesis, TU Munich.
Bengio, Y., Simard, P. & Frasconi, P. (1994). Learning long-term dependencies with gradient descent is difficult.
Pascanu, R., Mikolov, T. & Bengio, Y. (2013). On the difficulty of training recurrent neural networks. ICML, sec. 2.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from probseq.beliefs import reshape_batch
from probseq.cells import Elman
from probseq.evaluation.dynamics.maps import Driven, driven, network, same_length

#: the largest slope of each activation
SLOPES = {"tanh": 1.0, "relu": 1.0, "logistic": 0.25}
EPS = float(torch.finfo(torch.float64).eps)


class GradientFlow(NamedTuple):
    """Gradients back through time, with L_t = -log p(y_t | y_<t) and h_t the state before y_t; float64.

    | field                 | shape             | meaning                                                           |
    |-----------------------|-------------------|-------------------------------------------------------------------|
    | `norms`               | (*batch, T)       | norm of d L / d h_t, L the sum over all steps                     |
    | `by_step`             | (*batch, T, T)    | at [s, t] the norm of d L_s / d h_t, 0 where s < t                |
    | `last`                | (*batch, T)       | norm of d L_s / d h_t for s the last observed step                |
    | `bound`               | (*batch, T)       | its bound: the product of the largest singular values of J        |
    | `weight_bound`        | (*batch, T), None | its bound from the weights of an Elman network, (g times norm U)  |
    | `log_singular_values` | (*batch, T, S)    | of d h_s / d h_t for that s, descending; NaN where lost in        |
    |                       |                   | rounding, beside the largest or because t > s                     |
    """

    norms: Tensor
    by_step: Tensor
    last: Tensor
    bound: Tensor
    weight_bound: Tensor | None
    log_singular_values: Tensor


@torch.no_grad()
def gradient_flow(model: Any, y: Any, u: Any = None, *, lengths: Any = None) -> GradientFlow:
    """How the error of each step reaches the states before it; sequences of one length, T >= 1.

    Satisfies norms[t] == |d (-log_prob(y)) / d h_t|. TypeError for models that are no networks.
    """
    net = network(model, "gradient_flow")
    sequences = net._door(y, u, lengths, least=1)
    along = driven(net, same_length(sequences))
    last = _last_observed(along)
    by_step, norms = _norms(along)
    rows = torch.arange(len(last))
    values = _log_singular_values(along, last)
    local = by_step[rows, last, last]
    result = GradientFlow(
        norms,
        by_step,
        by_step[rows, last],
        _bound(along, last, local),
        _weight_bound(net.cell, last, local, norms.shape[1]),
        values,
    )
    return reshape_batch(result, 1, sequences.batch_shape)


def _last_observed(along: Driven) -> Tensor:
    """The last step with an observation, (B,)."""
    if not bool(along.observed.any(-1).all()):
        raise ValueError("y must have an observed step in every sequence")
    steps = torch.arange(along.observed.shape[1])
    return torch.where(along.observed, steps, -1).amax(-1)


def _norms(along: Driven) -> tuple[Tensor, Tensor]:
    """|d L_s / d h_t|, (B, T, T), and |d L / d h_t|, (B, T), by one sweep back over t with all s at once."""
    n, steps, size = along.slopes.shape
    gradients = along.slopes.new_zeros(n, steps, size)
    by_step = along.slopes.new_zeros(n, steps, steps)
    norms = along.slopes.new_zeros(n, steps)
    for t in range(steps - 1, -1, -1):
        if t + 1 < steps:
            gradients = gradients @ along.jacobians[:, t]
        gradients[:, t] = -along.slopes[:, t]
        by_step[:, :, t] = gradients.norm(dim=-1)
        norms[:, t] = gradients.sum(1).norm(dim=-1)
    return by_step, norms


def _bound(along: Driven, last: Tensor, local: Tensor) -> Tensor:
    """|d L_s / d h_s| times the product of the largest singular values of J_{s-1} .. J_t, (B, T), 0 where t > s."""
    logs = torch.linalg.matrix_norm(along.jacobians, 2).log()
    steps = torch.arange(along.slopes.shape[1])
    logs = torch.where(steps[:-1] < last.unsqueeze(-1), logs, 0.0)
    back = torch.nn.functional.pad(logs.flip(1).cumsum(1).flip(1), (0, 1))
    return torch.where(steps <= last.unsqueeze(-1), local.unsqueeze(-1) * back.exp(), 0.0)


def _weight_bound(cell: Any, last: Tensor, local: Tensor, steps: int) -> Tensor | None:
    if not isinstance(cell, Elman) or cell.layer_norm:
        return None
    gain = SLOPES[cell.activation] * torch.linalg.matrix_norm(cell.recurrent_weights, 2)
    lags = last.unsqueeze(-1) - torch.arange(steps)
    return torch.where(lags >= 0, local.unsqueeze(-1) * gain**lags, 0.0)


def _log_singular_values(along: Driven, last: Tensor) -> Tensor:
    """Of J_{s-1} ... J_t, (B, T, S), the product kept at norm one and its size apart."""
    n, steps, size = along.slopes.shape
    result = along.slopes.new_full((n, steps, size), torch.nan)
    product, log_size = torch.eye(size, dtype=torch.float64).expand(n, size, size), along.slopes.new_zeros(n)
    for t in range(steps - 1, -1, -1):
        if t + 1 < steps:
            moved = product @ along.jacobians[:, t]
            length = torch.linalg.matrix_norm(moved)
            alive = (t < last) & (length > 0)
            factor = torch.where(alive, length, 1.0)
            product = torch.where((t < last)[:, None, None], moved / factor[:, None, None], product)
            log_size = log_size + factor.log()
        values = torch.linalg.svdvals(product)
        known = (values > size * EPS * values[:, :1]) & (t <= last).unsqueeze(-1)
        result[:, t] = torch.where(known, values.log() + log_size.unsqueeze(-1), torch.nan)
    return result
