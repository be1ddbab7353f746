"""A peephole LSTM that reads a text through a soft window, over whole sequences, as one torch function.

    for t in range(T):
        h_t, c_t = LSTM(W x_t + b + U h_{t-1} + V w_{t-1}, c_{t-1})       # peepholes p
        alpha, beta, step = exp(P h_t + q);    kappa_t = kappa_{t-1} + step
        phi_t(u) = sum_k alpha_k exp(-beta_k (kappa_tk - u)^2)            # u = 1 .. length of the text
        w_t = sum_u phi_t(u) one_hot(character u)

| argument          | shape             | meaning                                                        |
|-------------------|-------------------|----------------------------------------------------------------|
| inputs            | (B, T, X)         | x                                                              |
| input_weights     | (4 H, X)          | W, blocks in the order i, f, g, o                              |
| recurrent_weights | (4 H, H)          | U                                                              |
| bias              | (4 H,)            | b                                                              |
| peepholes         | (3, H)            | p of i, f, o                                                   |
| reading_weights   | (4 H, A)          | V                                                              |
| window_weights    | (3 K, H)          | P, rows of alpha, beta, step                                   |
| window_bias       | (3 K,)            | q                                                              |
| start             | (B, 2 H + A + K)  | h, c, w, kappa before the first step                           |
| codes             | (B, M)            | characters 1 .. A of each text, 0 beyond its end; int64        |
| n_read            | (B,)              | steps after which there is no text any more, w = 0; int64      |

float32 and float64, on the CPU, differentiable once in reverse mode. Kernel: `probseq.kernels.soft_window`.
Graves (2013), arXiv:1308.0850, section 5.1.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probseq.kernels import soft_window as kernels
from probseq.kernels.tiles import ROWS, width_of
from probseq.ops.cells import Parts, _Plan, _with_ones
from probseq.ops.modes import OnceDifferentiable, array_of, operator


def soft_window(
    inputs: Float[Tensor, "batch time input"],
    input_weights: Float[Tensor, "rows input"],
    recurrent_weights: Float[Tensor, "rows hidden"],
    bias: Float[Tensor, " rows"],
    peepholes: Float[Tensor, "3 hidden"],
    reading_weights: Float[Tensor, "rows characters"],
    window_weights: Float[Tensor, "shapes hidden"],
    window_bias: Float[Tensor, " shapes"],
    start: Float[Tensor, "batch state"],
    codes: Int[Tensor, "batch place"],
    n_read: Int[Tensor, " batch"],
) -> Float[Tensor, "batch time shown"]:
    """h_t and w_t side by side, (B, T, H + A); T > 0, B > 0."""
    weights = (input_weights, recurrent_weights, bias, peepholes, reading_weights, window_weights, window_bias)
    wanted = inputs.requires_grad and torch.is_grad_enabled()
    return _differentiable(inputs.transpose(0, 1), *weights, start, codes, n_read, wanted)[0].transpose(0, 1)


def soft_window_states(inputs: Tensor, *arguments: Any) -> Tensor:
    """h, c, w, kappa after every step, (B, T, 2 H + A + K), without derivatives; arguments as for `soft_window`."""
    outputs, _, memory, *_, kappa = _forward(inputs.transpose(0, 1), *arguments, False)
    plan = _plan(inputs.transpose(0, 1), *arguments)
    hidden, window = outputs.split([plan.hidden, outputs.shape[-1] - plan.hidden], -1)
    return torch.cat([hidden, plan.rows(memory[1:], plan.hidden), window, kappa[1:]], -1).transpose(0, 1)


_ARGUMENTS = (
    "Tensor inputs, Tensor input_weights, Tensor recurrent_weights, Tensor bias, Tensor peepholes, "
    "Tensor reading_weights, Tensor window_weights, Tensor window_bias, Tensor start, Tensor codes, "
    "Tensor n_read, bool pull_inputs"
)


def _plan(inputs: Tensor, *arguments: Any) -> _Plan:
    hidden = arguments[1].shape[1]
    return _Plan(Parts(), inputs.shape[0], inputs.shape[1], hidden, hidden, width_of(str(inputs.dtype)[6:]))


def _buffers(inputs: Tensor, *arguments: Any) -> list[Tensor]:
    """Outputs, then what the adjoint reads: gates, memory, squashed, hidden, window, shape, kappa."""
    plan = _plan(inputs, *arguments)
    n_characters, k = arguments[4].shape[1], arguments[5].shape[0] // 3
    t, length = plan.steps, plan.length(plan.hidden)
    shapes = [
        (t + 1, 4, length),
        (t + 1, length),
        (t, length),
        (t + 1, length),
        (t + 1, plan.length(n_characters)),
        (t, plan.batch, 3, k),
        (t + 1, plan.batch, k),
    ]
    outputs = inputs.new_empty((plan.batch, t, plan.hidden + n_characters)).transpose(0, 1)
    return [outputs, *(inputs.new_empty(shape) for shape in shapes)]


def _shapes(inputs: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(_buffers(inputs, *arguments))


@torch.no_grad()
def _forward(inputs: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    into, recurrent, bias, peepholes, reading, looking, push, start, codes, n_read, *_ = arguments
    plan, made = _plan(inputs, *arguments), _buffers(inputs, *arguments)
    outputs, gates, memory, _, hidden, window, _, kappa = made
    gates[0] = 0
    first = start.split([plan.hidden, plan.hidden, reading.shape[1], kappa.shape[2]], -1)
    hidden[0], memory[0], window[0] = (plan.panels(part).flatten() for part in first[:3])
    kappa[0] = first[3]
    kernels.forward(
        array_of(_with_ones(inputs)),
        array_of(codes),
        array_of(n_read),
        plan.factor(plan.inside(torch.cat([into, bias.unsqueeze(1)], 1)).t()),
        plan.factor(plan.inside(recurrent).t()),
        plan.factor(plan.inside(reading).t()),
        plan.factor(looking.t()),
        plan.panels(push.expand(plan.batch, -1)).numpy(),
        plan.peeps(peepholes),
        *(tensor.numpy() for tensor in made[1:]),
    )
    outputs[..., : plan.hidden] = plan.rows(hidden[1:], plan.hidden)
    outputs[..., plan.hidden :] = plan.rows(window[1:], reading.shape[1])
    return tuple(made)


def _adjoint_shapes(gradient: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in arguments[:9])


@torch.no_grad()
def _backward(gradient: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """d loss / d of the nine tensors from d loss / d (h_t, w_t), (T, B, H + A)."""
    inputs, into, recurrent, _, peepholes, reading, looking, *_ = arguments
    codes, n_read, pull_inputs, *saved = arguments[9:]
    plan = _plan(*arguments[:9])
    width, rows, hidden = plan.width, 4 * plan.padded(plan.hidden), plan.hidden
    d_hidden, d_window = torch.zeros_like(saved[3]), torch.zeros_like(saved[4])
    plan.write(gradient[..., :hidden], d_hidden[1:])
    plan.write(gradient[..., hidden:], d_window[1:])
    lines = -(-(inputs.shape[2] + 1) // ROWS) * ROWS
    wide, characters, shapes = plan.padded(inputs.shape[2]), reading.shape[1], looking.shape[0]
    d_x = inputs.new_empty(plan.steps, wide // width, plan.batch, width)
    d_w, d_u = inputs.new_empty(lines, rows), inputs.new_empty(plan.padded(hidden), rows)
    d_v = inputs.new_empty(plan.padded(characters), rows)
    d_p = inputs.new_empty(plan.padded(hidden), plan.padded(shapes))
    d_push = inputs.new_zeros(plan.batch, plan.padded(shapes))
    d_peep, d_memory = inputs.new_zeros(3, plan.length(hidden)), inputs.new_empty(plan.length(hidden))
    d_kappa = torch.empty_like(saved[6][0])
    made = (d_x, d_w, d_u, d_v, d_p, d_push, d_peep, d_memory, d_kappa, d_hidden, d_window)
    kernels.backward(
        array_of(_with_ones(inputs, ROWS).unsqueeze(1)),
        array_of(codes),
        array_of(n_read),
        plan.factor(plan.inside(into) if pull_inputs else into[:0]),
        plan.factor(plan.inside(recurrent)),
        plan.factor(plan.inside(reading)),
        plan.factor(torch.nn.functional.pad(looking, (0, 0, 0, plan.padded(shapes) - shapes))),
        plan.peeps(peepholes),
        *(tensor.numpy() for tensor in (*saved, *made)),
    )
    starts = [plan.rows(d_hidden[0], hidden), plan.rows(d_memory, hidden), plan.rows(d_window[0], characters), d_kappa]
    d_into = plan.outside(d_w.t())
    return (
        plan.rows(d_x.flatten(1), inputs.shape[2]).contiguous() if pull_inputs else torch.zeros_like(inputs),
        d_into[:, : inputs.shape[2]].contiguous(),
        plan.outside(d_u.t())[:, :hidden].contiguous(),
        d_into[:, inputs.shape[2]].contiguous(),
        plan.rows(d_peep, hidden).sum(1),
        plan.outside(d_v.t())[:, :characters].contiguous(),
        d_p.t()[:shapes, :hidden].contiguous(),
        d_push.sum(0)[:shapes].contiguous(),
        torch.cat(starts, -1),
    )


_differentiable = OnceDifferentiable(
    "fused soft window",
    operator(
        "soft_window",
        f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        _shapes,
    )(_forward),
    operator(
        "soft_window_backward",
        f"(Tensor gradient, {_ARGUMENTS}, Tensor gates, Tensor memory, Tensor squashed, Tensor hidden, Tensor window,"
        " Tensor shape, Tensor kappa)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        _adjoint_shapes,
    )(_backward),
    n_inputs=9,
    kept=range(12),
)
