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
| gates        | (T, blocks, L)      | i, f, o, g of those there are                                                  |
| memory       | (T + 1, L)          | c, the start first                                                             |
| squashed     | (T, L)              | tanh(c_t), or nothing                                                          |
| read         | (T, L)              | m, or nothing where there is no projection                                     |
| hidden       | (T + 1, Lr)         | r, the start first                                                             |
| before       | (L per gate,)       | q before the first step                                                        |
| peep         | (i, f, o there, L)  | p of the gates there are, repeated for each sequence; or nothing               |
| w, u, v, r   | panels              | W', U', V', R', as right factors; v and r may be empty                         |
| flags        |                     | coupled (f = 1 - i), g squashed, c squashed                                    |

The adjoint reads what the forward pass wrote. Graves (2013), arXiv:1308.0850, equations (7)-(11); Greff et al. (2017),
LSTM: a search space odyssey, section II (forward and backward pass).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.activations import logistic_, peephole_logistic_, tanh_to
from probseq.kernels.tiles import product

_BLOCK = 256  # rows of inputs multiplied at once: enough to reuse the weights, few enough to stay in the cache


@njit(cache=True, nogil=True, error_model="numpy")
def forward(x, w, u, v, r, peep, before, places, flags, gates, memory, squashed, read, hidden):
    """Fill gates, memory, squashed, read and hidden from the inputs and the starts in memory[0], hidden[0], before."""
    n_steps, rows, n_inputs = x.shape
    width, length = w.shape[2], memory.shape[1]
    step = gates.shape[1] * length
    flat_x, flat_gates, flat_hidden, flat_read = x.reshape(-1), gates.reshape(-1), hidden.reshape(-1), read.reshape(-1)
    panel = rows * width
    ones, scratch = np.ones_like(memory[0]), np.empty_like(memory[0])
    block = max(1, _BLOCK // max(rows, 1))
    for t in range(n_steps):
        if t % block == 0:
            for q in range(w.shape[0]):
                for s in range(t, min(t + block, n_steps)):
                    at = s * step + q * panel
                    product(flat_x, s * rows * n_inputs, n_inputs, width, w, q, q + 1, flat_gates, at, rows, False)
        product(flat_hidden, t * hidden.shape[1], width, panel, u, 0, u.shape[0], flat_gates, t * step, rows, True)
        if v.size:
            if t:
                product(flat_gates, (t - 1) * step, width, panel, v, 0, v.shape[0], flat_gates, t * step, rows, True)
            else:
                product(before, 0, width, panel, v, 0, v.shape[0], flat_gates, 0, rows, True)
        now = memory[t + 1]
        _write(gates[t], memory[t], peep, places, flags, ones, scratch, now)
        shown = now
        if flags[2]:
            shown = squashed[t]
            tanh_to(now, shown)
        out = read[t] if r.size else hidden[t + 1]
        _read(gates[t], now, shown, peep, places, ones, out)
        if r.size:
            to = (t + 1) * hidden.shape[1]
            product(flat_read, t * length, width, panel, r, 0, r.shape[0], flat_hidden, to, rows, False)


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
        tanh_to(new, new)
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
    rows, u, v, r, peep, places, flags, gates, memory, squashed, d_gates, d_hidden, d_memory, d_before, d_peep
):
    """The adjoint. u, v, r are the panels of U, V, R; d_hidden (T + 1, Lr) comes with the derivative in r_t alone.

    Completes d_hidden and fills d_gates (T, blocks, L), the derivatives in the gates' arguments, from which those in
    the weights and inputs follow as products; d_memory (L,) and d_before, those in the start; adds to d_peep.
    """
    n_steps, n_blocks, length = gates.shape
    width, step, panel = u.shape[2], n_blocks * length, rows * u.shape[2]
    flat, flat_hidden = d_gates.reshape(-1), d_hidden.reshape(-1)
    ones, scratch, keep = np.ones_like(d_memory), np.empty_like(d_memory), np.empty_like(d_memory)
    d_read, extra = np.zeros_like(d_memory), np.zeros_like(gates[0])
    flat_extra = extra.reshape(-1)
    d_memory[:] = 0
    for t in range(n_steps - 1, -1, -1):
        at = (t + 1) * d_hidden.shape[1]
        if t + 1 < n_steps:
            product(flat, (t + 1) * step, width, panel, u, 0, u.shape[0], flat_hidden, at, rows, True)
            if v.size:
                product(flat, (t + 1) * step, width, panel, v, 0, v.shape[0], flat_extra, 0, rows, False)
        d_out = d_hidden[t + 1]
        if r.size:
            product(flat_hidden, at, width, panel, r, 0, r.shape[0], d_read, 0, rows, False)
            d_out = d_read
        shown = squashed[t] if flags[2] else memory[t + 1]
        gate = gates[t, places[2]] if places[2] >= 0 else ones
        _pull(d_out, gate, shown, flags[2], d_memory)
        if places[2] >= 0:
            _pull_gate(d_out, shown, extra[places[2]], gate, d_gates[t, places[2]])
            if peep.size:
                _pull_peephole(d_gates[t, places[2]], peep[places[2]], memory[t + 1], d_memory, d_peep[places[2]])
        _pull_write(gates[t], memory[t], extra, places, flags, ones, scratch, keep, d_memory, d_gates[t])
        if peep.size:
            for k in range(2):
                if places[k] >= 0:
                    _pull_peephole(d_gates[t, places[k]], peep[places[k]], memory[t], d_memory, d_peep[places[k]])
    product(flat, 0, width, panel, u, 0, u.shape[0], flat_hidden, 0, rows, True)
    if v.size:
        product(flat, 0, width, panel, v, 0, v.shape[0], d_before, 0, rows, False)


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


@njit(cache=True, nogil=True, error_model="numpy")
def pull_inputs(d_gates, w, out):
    """The derivative in the inputs, out (T, panels, B, width), from d_gates (T, blocks, L) and the panels of W."""
    n_steps, rows, width = out.shape[0], out.shape[2], out.shape[3]
    step, flat, to = d_gates.shape[1] * d_gates.shape[2], d_gates.reshape(-1), out.reshape(-1)
    block = max(1, _BLOCK // max(rows, 1))
    for t in range(0, n_steps, block):
        for q in range(w.shape[0]):
            for s in range(t, min(t + block, n_steps)):
                at = (s * w.shape[0] + q) * rows * width
                product(flat, s * step, width, rows * width, w, q, q + 1, to, at, rows, False)
