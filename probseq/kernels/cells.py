"""The LSTM with any of its parts, over whole sequences: a forward pass and its adjoint.

    for t in range(T):
        a = W x_t + U r_{t-1} + V q_{t-1}                       # one block for each gate there is
        i, f = logistic(a_i + p_i c_{t-1}), logistic(a_f + p_f c_{t-1})
        g = tanh(a_g)
        c_t = f c_{t-1} + i g
        o = logistic(a_o + p_o c_t)
        m = o tanh(c_t);    r_t = R m;    q_t = (i, f, o)

Everything is kept in panels (see `tiles`), zero beyond the last unit, so that each gate is one contiguous stretch of
L numbers and every elementwise step one loop over it. Blocks of gates stand in the order i, f, o, g; `places` has
the place of each among those there are, or -1. x carries a last column of ones, whose weights are the bias.

| symbol       | shape               | meaning                                                                        |
|--------------|---------------------|--------------------------------------------------------------------------------|
| x            | (T, B, X)           | inputs                                                                         |
| gates        | (T + 1, blocks, L)  | i, f, o, g of those there are, q before the first step first                   |
| memory       | (T + 1, L)          | c, the start first                                                             |
| squashed     | (T, L)              | tanh(c_t), or nothing                                                          |
| read         | (T, L)              | m, or nothing where there is no projection                                     |
| hidden       | (T + 1, Lr)         | r, the start first                                                             |
| peep         | (i, f, o there, L)  | p of the gates there are, repeated for each sequence; or nothing               |
| w, u, v, r   | panels              | W', U', V', R', as right factors; v and r may be empty                         |
| flags        |                     | coupled (f = 1 - i), g squashed, c squashed                                    |

The adjoint reads what the forward pass wrote. Graves (2013), arXiv:1308.0850, equations (7)-(11); Greff et al. (2017),
LSTM: a search space odyssey, section II (forward and backward pass).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.activations import logistic_, peephole_logistic_, tanh_, tanh_to
from probseq.kernels.cells_steps import hold_peephole_step, pull_peephole_step
from probseq.kernels.tiles import NO, YES, ZERO, outer, product, steps_at_once


@njit(cache=True, nogil=True, error_model="numpy")
def forward(x, w, u, v, r, peep, places, flags, outputs, gates, memory, squashed, read, hidden):
    """Fill gates, memory, squashed, read, hidden from the inputs and the starts in gates[0], memory[0], hidden[0].

    outputs (B, T, P) are the rows of hidden after the start.
    """
    n_steps, rows, n_inputs = x.shape
    width, length = w.shape[2], memory.shape[1]
    step = gates.shape[1] * length
    flat_x, flat_gates, flat_hidden, flat_read = x.reshape(-1), gates.reshape(-1), hidden.reshape(-1), read.reshape(-1)
    panel = rows * width
    ones, scratch = np.ones_like(memory[0]), np.empty_like(memory[0])
    whole, parts = _is_whole(gates, peep, flags), length // panel
    block = steps_at_once(rows)
    narrow = n_inputs <= width
    for t in range(n_steps):
        now, out, at = memory[t + 1], read[t] if r.size else hidden[t + 1], (t + 1) * step
        if t % block == 0 and not narrow:
            for q in range(w.shape[0]):
                for s in range(t, min(t + block, n_steps)):
                    to = (s + 1) * step + q * panel
                    product(flat_x, s * rows * n_inputs, n_inputs, width, w, q, q + 1, flat_gates, to, rows, NO)
        for k in range(parts):
            for q in range(k, w.shape[0], parts):
                to = at + q * panel
                if narrow:
                    product(flat_x, t * rows * n_inputs, n_inputs, width, w, q, q + 1, flat_gates, to, rows, NO)
                product(flat_hidden, t * hidden.shape[1], width, panel, u, q, q + 1, flat_gates, to, rows, YES)
                if q < v.shape[0]:  # g has none
                    product(flat_gates, t * step, width, panel, v, q, q + 1, flat_gates, to, rows, YES)
            if whole:
                hold_peephole_step(gates[t + 1], memory[t], peep, now, squashed[t], out, k, k + 1, parts, rows)
        if not whole:
            _write(gates[t + 1], memory[t], peep, places, flags, ones, scratch, now)
            shown = now
            if flags[2]:
                shown = squashed[t]
                tanh_to(now, shown)
            _read(gates[t + 1], now, shown, peep, places, ones, out)
        if r.size:
            to = (t + 1) * hidden.shape[1]
            product(flat_read, t * length, width, panel, r, ZERO, r.shape[0], flat_hidden, to, rows, NO)
        to_rows(hidden[t + 1], width, outputs, t)


@njit(cache=True, nogil=True, error_model="numpy")
def _is_whole(gates, peep, flags):
    """Whether this is the cell with every part, whose elementwise steps are in `cells_steps`."""
    return peep.size > 0 and gates.shape[1] == 4 and not flags[0] and flags[1] and flags[2]


@njit(cache=True, nogil=True, error_model="numpy")
def to_rows(panels, width, matrix, t):
    """matrix[:, t] = the rows in these panels, without what is beyond the last column."""
    rows, _, columns = matrix.shape
    for q in range((columns + width - 1) // width):
        for b in range(rows):
            at = (q * rows + b) * width
            for j in range(min(width, columns - q * width)):
                matrix[b, t, q * width + j] = panels[at + j]


@njit(cache=True, nogil=True, error_model="numpy")
def from_rows(matrix, t, width, panels):
    """The inverse of `to_rows`, zeros beyond the last column."""
    rows, _, columns = matrix.shape
    for q in range((columns + width - 1) // width):
        for b in range(rows):
            at, there = (q * rows + b) * width, min(width, columns - q * width)
            for j in range(there):
                panels[at + j] = matrix[b, t, q * width + j]
            for j in range(there, width):
                panels[at + j] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def _write(gates, memory, peep, places, flags, ones, scratch, out):
    """The gates i, f and g from their arguments, and out = f * memory + i * g."""
    write, keep, new = ones, ones, gates[places[3]]
    for k in range(2):
        if places[k] >= 0:
            gate = gates[places[k]]
            if peep.size:
                peephole_logistic_(gate, peep[places[k]], memory)
            else:
                logistic_(gate)
            if k == 0:
                write = gate
            else:
                keep = gate
    if flags[0]:
        _less(write, scratch)
        keep = scratch
    if flags[1]:
        tanh_(new)
    _combine(write, new, keep, memory, out)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _combine(write, new, keep, memory, out):
    for j in range(out.size):
        out[j] = keep[j] * memory[j] + write[j] * new[j]


@njit(cache=True, nogil=True, error_model="numpy")
def _read(gates, memory, shown, peep, places, ones, out):
    """The gate o from its argument, and out = o * shown."""
    gate = ones
    if places[2] >= 0:
        gate = gates[places[2]]
        if peep.size:
            peephole_logistic_(gate, peep[places[2]], memory)
        else:
            logistic_(gate)
    for j in range(out.size):
        out[j] = gate[j] * shown[j]


@njit(cache=True, nogil=True, error_model="numpy")
def backward(
    x, w, u, v, r, peep, places, flags, d_outputs, gates, memory, squashed, read, hidden,
    d_x, d_w, d_u, d_v, d_r, d_peep, d_before, d_memory, d_hidden, d_gates,
):  # fmt: skip
    """The adjoint. w, u, v, r are the panels of W, U, V, R; d_outputs (B, T, P) is the derivative in r alone.

    Fills d_hidden (T + 1, Lr), all that reaches r, the start's first; the panels d_x (T, ., B, .) and d_memory and
    d_before, of the start; d_w, d_u, d_v, d_r, the derivatives in W', U', V', R' with gates padded; adds to d_peep.
    d_gates (steps, blocks * panels, B, width) has room for the derivatives in the gates' arguments of as many steps as
    one product takes, `steps_at_once`.
    """
    n_steps, _, rows, _ = x.shape
    n_blocks, length, width = gates.shape[1], gates.shape[2], u.shape[2]
    panels, shown = length // (rows * width), hidden.shape[1] // (rows * width)
    block = d_gates.shape[0]
    extra = np.zeros((n_blocks, length), x.dtype)
    d_memory[:] = 0
    d_hidden[0] = 0
    end = n_steps
    while end > 0:
        start = max(0, end - block)
        _pull_steps(
            start, end, rows, u, v, r, peep, places, flags, d_outputs, gates, memory, squashed,
            d_gates.reshape(block, n_blocks, length), d_hidden, d_memory, extra, d_peep,
        )  # fmt: skip
        here, keep, n_gates = d_gates[: end - start], end < n_steps, n_blocks * panels
        outer(x[start:end], here, n_gates, d_w, keep)
        outer(hidden.reshape(n_steps + 1, shown, rows, width)[start:end], here, n_gates, d_u, keep)
        if v.size:
            before = gates.reshape(n_steps + 1, n_gates, rows, width)[start:end]
            outer(before, here, d_v.shape[1] // width, d_v, keep)
        if r.size:
            into = d_hidden.reshape(n_steps + 1, shown, rows, width)[start + 1 : end + 1]
            outer(read.reshape(n_steps, panels, rows, width)[start:end], into, shown, d_r, keep)
        for q in range(w.shape[0]):
            for s in range(start, end):
                at = (s * w.shape[0] + q) * rows * width
                from_gates = (s - start) * n_blocks * length
                product(
                    d_gates.reshape(-1), from_gates, width, rows * width, w, q, q + 1, d_x.reshape(-1), at, rows, NO
                )
        end = start
    product(d_gates.reshape(-1), ZERO, width, rows * width, u, ZERO, u.shape[0], d_hidden.reshape(-1), ZERO, rows, YES)
    if v.size:
        product(d_gates.reshape(-1), ZERO, width, rows * width, v, ZERO, v.shape[0], d_before, ZERO, rows, NO)


@njit(cache=True, nogil=True, error_model="numpy")
def _pull_steps(
    start, end, rows, u, v, r, peep, places, flags, d_outputs, gates, memory, squashed,
    d_gates, d_hidden, d_memory, extra, d_peep,
):  # fmt: skip
    """Steps end - 1 down to start: d_gates[t - start], d_hidden[t + 1] and, for the step before them, d_memory.

    d_gates[0] comes with the derivatives of step `end`, unless that is the last.
    """
    n_steps, n_blocks, length = gates.shape[0] - 1, gates.shape[1], gates.shape[2]
    width, step, panel = u.shape[2], n_blocks * length, rows * u.shape[2]
    flat, flat_hidden, flat_extra = d_gates.reshape(-1), d_hidden.reshape(-1), extra.reshape(-1)
    ones, scratch, keep = np.ones_like(d_memory), np.empty_like(d_memory), np.empty_like(d_memory)
    d_read = np.zeros_like(d_memory)
    whole = _is_whole(gates, peep, flags) and v.size == 0
    for t in range(end - 1, start - 1, -1):
        at = (t + 1) * d_hidden.shape[1]
        from_rows(d_outputs, t, width, d_hidden[t + 1])
        if t + 1 < n_steps:
            later = (t + 1 - start) * step if t + 1 < end else 0
            product(flat, later, width, panel, u, ZERO, u.shape[0], flat_hidden, at, rows, YES)
            if v.size:
                product(flat, later, width, panel, v, ZERO, v.shape[0], flat_extra, ZERO, rows, NO)
        d_out, d_now, now = d_hidden[t + 1], d_gates[t - start], gates[t + 1]
        if r.size:
            product(flat_hidden, at, width, panel, r, ZERO, r.shape[0], d_read, ZERO, rows, NO)
            d_out = d_read
        shown = squashed[t] if flags[2] else memory[t + 1]
        if whole:
            pull_peephole_step(
                now, memory[t], memory[t + 1], shown, peep, d_out, d_memory, d_now, d_peep, length // panel, rows
            )
            continue
        gate = now[places[2]] if places[2] >= 0 else ones
        _pull(d_out, gate, shown, flags[2], d_memory)
        if places[2] >= 0:
            _pull_gate(d_out, shown, extra[places[2]], gate, d_now[places[2]])
            if peep.size:
                _pull_peephole(d_now[places[2]], peep[places[2]], memory[t + 1], d_memory, d_peep[places[2]])
        _pull_write(now, memory[t], extra, places, flags, ones, scratch, keep, d_memory, d_now)
        if peep.size:
            for k in range(2):
                if places[k] >= 0:
                    _pull_peephole(d_now[places[k]], peep[places[k]], memory[t], d_memory, d_peep[places[k]])


@njit(cache=True, nogil=True, error_model="numpy")
def _pull_write(gates, memory, extra, places, flags, ones, scratch, keep, d_memory, d_gates):
    """The derivatives in the arguments of i, f, g, and d_memory moved from c_t to c_{t-1} (f's path alone)."""
    new = gates[places[3]]
    write = gates[places[0]] if places[0] >= 0 else ones
    for j in range(keep.size):
        keep[j] = 1
    if places[1] >= 0:
        keep[:] = gates[places[1]]
        _pull_gate(d_memory, memory, extra[places[1]], keep, d_gates[places[1]])
    if places[0] >= 0:
        scratch[:] = new
        if flags[0]:
            _less(write, keep)
            for j in range(keep.size):
                scratch[j] -= memory[j]
        _pull_gate(d_memory, scratch, extra[places[0]], write, d_gates[places[0]])
    d_new = d_gates[places[3]]
    for j in range(keep.size):
        d_new[j] = d_memory[j] * write[j]
    if flags[1]:
        _less_square(new, d_new)
    for j in range(keep.size):
        d_memory[j] *= keep[j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _pull_gate(incoming, other, extra, gate, out):
    for j in range(out.size):
        out[j] = (incoming[j] * other[j] + extra[j]) * gate[j] * (gate.dtype.type(1) - gate[j])


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _pull(incoming, gate, shown, curved, out):
    if curved:
        for j in range(out.size):
            out[j] += incoming[j] * gate[j] * (shown.dtype.type(1) - shown[j] * shown[j])
    else:
        for j in range(out.size):
            out[j] += incoming[j] * gate[j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _pull_peephole(d_gate, weights, memory, d_memory, d_weights):
    for j in range(d_gate.size):
        d_memory[j] += weights[j] * d_gate[j]
    for j in range(d_gate.size):
        d_weights[j] += d_gate[j] * memory[j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _less(x, out):
    for j in range(out.size):
        out[j] = x.dtype.type(1) - x[j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _less_square(x, out):
    for j in range(out.size):
        out[j] *= x.dtype.type(1) - x[j] * x[j]
