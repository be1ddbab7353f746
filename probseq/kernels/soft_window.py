"""A peephole LSTM that reads a text through a soft window, over whole sequences: a forward pass and its adjoint.

    for t in range(T):
        a = W x_t + U h_{t-1} + V w_{t-1}                       # of gates i, f, o, g; then c_t and h_t as in `cells`
        s = P h_t + p
        alpha, beta = exp(s_alpha), exp(s_beta);    kappa_t = kappa_{t-1} + exp(s_kappa)
        phi_u = sum_k alpha_k exp(-beta_k (kappa_k - u)^2)            # u = 1 .. length of the text
        w_t = sum_u phi_u one_hot(character u)

| symbol     | shape             | meaning                                                                         |
|------------|-------------------|---------------------------------------------------------------------------------|
| x          | (T, B, X)         | inputs, the last of them one, whose weights are the bias                        |
| codes      | (B, M)            | characters 1 .. A of each text, 0 beyond its end                                |
| n_read     | (B,)              | steps after which there is no text any more, w = 0                              |
| gates      | (T + 1, 4, L)     | i, f, o, g in panels (`tiles`); likewise memory, squashed, hidden as in `cells` |
| window     | (T + 1, La)       | w in panels, the start first                                                    |
| shape      | (T, B, 3, K)      | alpha, beta and how far kappa moves                                             |
| kappa      | (T + 1, B, K)     | the places, the start first                                                     |
| w, u, v, p | panels            | W', U', V', P' as right factors; in the adjoint W, U, V, P                      |
| push       | (panels, B, width)| p in panels, for every row                                                      |

Graves (2013), arXiv:1308.0850, equations (46)-(51); the adjoint is written from these.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from probseq.kernels.cells_steps import hold_peephole_step, pull_peephole_step
from probseq.kernels.tiles import NO, YES, ZERO, outer, product, steps_at_once


@njit(cache=True, nogil=True, error_model="numpy")
def forward(
    x, codes, n_read, w, u, v, p, push, peep,
    gates, memory, squashed, hidden, window, shape, kappa,
):  # fmt: skip
    """Fill gates, memory, squashed, hidden, window, shape, kappa from the inputs and the starts in their first rows."""
    n_steps, rows, n_inputs = x.shape
    width, length = w.shape[2], memory.shape[1]
    step, panel = 4 * length, rows * width
    flat_x, flat_gates = x.reshape(-1), gates.reshape(-1)
    flat_hidden, flat_window = hidden.reshape(-1), window.reshape(-1)
    said, panels = np.empty(push.size, x.dtype), length // panel
    block = steps_at_once(rows)
    for t in range(n_steps):
        if t % block == 0:
            for q in range(w.shape[0]):
                for s in range(t, min(t + block, n_steps)):
                    at = (s + 1) * step + q * panel
                    product(flat_x, s * rows * n_inputs, n_inputs, width, w, q, q + 1, flat_gates, at, rows, NO)
        at = (t + 1) * step
        product(flat_hidden, t * length, width, panel, u, ZERO, u.shape[0], flat_gates, at, rows, YES)
        product(flat_window, t * window.shape[1], width, panel, v, ZERO, v.shape[0], flat_gates, at, rows, YES)
        hold_peephole_step(
            gates[t + 1], memory[t], peep, memory[t + 1], squashed[t], hidden[t + 1], 0, panels, panels, rows
        )
        said[:] = push.reshape(-1)
        product(flat_hidden, (t + 1) * length, width, panel, p, ZERO, p.shape[0], said, ZERO, rows, YES)
        _shape(said, kappa[t], shape[t], kappa[t + 1], width)
        _look(codes, n_read, t, shape[t], kappa[t + 1], window[t + 1], width)


@njit(cache=True, nogil=True, error_model="numpy")
def _shape(said, before, shape, kappa, width):
    """alpha, beta, the step and the new kappa from the panels s."""
    rows, n = kappa.shape
    for b in range(rows):
        for j in range(3):
            for k in range(n):
                column = j * n + k
                shape[b, j, k] = np.exp(said[(column // width * rows + b) * width + column % width])
        for k in range(n):
            kappa[b, k] = before[b, k] + shape[b, 2, k]


@njit(cache=True, nogil=True, error_model="numpy")
def _look(codes, n_read, t, shape, kappa, window, width):
    """w of every row, in panels."""
    rows, n = kappa.shape
    window[:] = 0
    for b in range(rows):
        if t >= n_read[b]:
            continue
        for place in range(codes.shape[1]):
            code = codes[b, place] - 1
            if code < 0:
                break
            phi = window.dtype.type(0)
            for k in range(n):
                away = kappa[b, k] - window.dtype.type(place + 1)
                phi += shape[b, 0, k] * np.exp(-shape[b, 1, k] * away * away)
            window[(code // width * rows + b) * width + code % width] += phi


@njit(cache=True, nogil=True, error_model="numpy")
def backward(
    x, codes, n_read, w, u, v, p, peep, gates, memory, squashed, hidden, window, shape, kappa,
    d_x, d_w, d_u, d_v, d_p, d_push, d_peep, d_memory, d_kappa, d_hidden, d_window,
):  # fmt: skip
    """The adjoint. x is (T, 1, B, X); d_hidden (T + 1, L) and d_window (T + 1, La) come with what is asked of h and w.

    Completes both, whose first rows are the start's; fills d_x, d_w, d_u, d_v, d_p (derivatives in W', U', V', P'),
    d_memory and d_kappa (B, K) of the start; adds to d_push (B, 3 K padded) and d_peep.
    """
    n_steps, _, rows, _ = x.shape
    length, width = gates.shape[2], u.shape[2]
    panels, shown, said = length // (rows * width), window.shape[1] // (rows * width), p.shape[1]
    block = steps_at_once(rows)
    d_gates = np.empty((block, 4 * panels, rows, width), x.dtype)
    d_said = np.zeros((block, said // width, rows, width), x.dtype)
    d_memory[:] = 0
    d_kappa[:] = 0
    end = n_steps
    while end > 0:
        start = max(0, end - block)
        _pull_steps(
            start, end, rows, codes, n_read, u, v, p, peep, gates, memory, squashed, shape, kappa,
            d_gates.reshape(block, 4, length), d_said, d_hidden, d_window, d_memory, d_kappa, d_peep,
        )  # fmt: skip
        here, keep = d_gates[: end - start], end < n_steps
        outer(x[start:end], here, 4 * panels, d_w, keep)
        before = hidden.reshape(n_steps + 1, panels, rows, width)
        outer(before[start:end], here, 4 * panels, d_u, keep)
        outer(window.reshape(n_steps + 1, shown, rows, width)[start:end], here, 4 * panels, d_v, keep)
        outer(before[start + 1 : end + 1], d_said[: end - start], d_said.shape[1], d_p, keep)
        for s in range(end - start):
            for q in range(d_said.shape[1]):
                d_push[:, q * width : (q + 1) * width] += d_said[s, q]
        for q in range(w.shape[0]):
            for s in range(start, end):
                at, source = (s * w.shape[0] + q) * rows * width, (s - start) * 4 * length
                product(d_gates.reshape(-1), source, width, rows * width, w, q, q + 1, d_x.reshape(-1), at, rows, NO)
        end = start
    panel = rows * width
    product(d_gates.reshape(-1), ZERO, width, panel, u, ZERO, u.shape[0], d_hidden.reshape(-1), ZERO, rows, YES)
    product(d_gates.reshape(-1), ZERO, width, panel, v, ZERO, v.shape[0], d_window.reshape(-1), ZERO, rows, YES)


@njit(cache=True, nogil=True, error_model="numpy")
def _pull_steps(
    start, end, rows, codes, n_read, u, v, p, peep, gates, memory, squashed, shape, kappa,
    d_gates, d_said, d_hidden, d_window, d_memory, d_kappa, d_peep,
):  # fmt: skip
    """Steps end - 1 down to start; d_gates[0] comes with the derivatives of step `end`, unless that is the last."""
    n_steps, length, width = gates.shape[0] - 1, gates.shape[2], u.shape[2]
    step, panel = 4 * length, rows * u.shape[2]
    flat, flat_hidden, flat_window = d_gates.reshape(-1), d_hidden.reshape(-1), d_window.reshape(-1)
    for t in range(end - 1, start - 1, -1):
        if t + 1 < n_steps:
            later = (t + 1 - start) * step if t + 1 < end else 0
            at = (t + 1) * d_hidden.shape[1]
            product(flat, later, width, panel, u, ZERO, u.shape[0], flat_hidden, at, rows, YES)
            at = (t + 1) * d_window.shape[1]
            product(flat, later, width, panel, v, ZERO, v.shape[0], flat_window, at, rows, YES)
        s, now, d_now, d_out = t - start, gates[t + 1], d_gates[t - start], d_hidden[t + 1]
        _pull_look(codes, n_read, t, shape[t], kappa[t + 1], d_window[t + 1], d_kappa, d_said[s])
        at = (t + 1) * d_hidden.shape[1]
        product(d_said[s].reshape(-1), ZERO, width, panel, p, ZERO, p.shape[0], flat_hidden, at, rows, YES)
        pull_peephole_step(
            now, memory[t], memory[t + 1], squashed[t], peep, d_out, d_memory, d_now, d_peep, length // panel, rows
        )


@njit(cache=True, nogil=True, error_model="numpy")
def _pull_look(codes, n_read, t, shape, kappa, d_window, d_kappa, d_said):
    """d_said (panels, B, width) and, moved from kappa_t to kappa_{t-1}, d_kappa, from the derivative in w_t."""
    rows, n = kappa.shape
    width = d_said.shape[2]
    number = d_said.dtype.type
    for b in range(rows):
        for k in range(n):
            by_alpha, by_beta, by_kappa = number(0), number(0), d_kappa[b, k]
            alpha, beta = shape[b, 0, k], shape[b, 1, k]
            for place in range(codes.shape[1] if t < n_read[b] else 0):
                code = codes[b, place] - 1
                if code < 0:
                    break
                away = kappa[b, k] - number(place + 1)
                bell = np.exp(-beta * away * away) * d_window[(code // width * rows + b) * width + code % width]
                by_alpha += bell
                by_beta -= bell * away * away
                by_kappa -= number(2) * alpha * beta * bell * away
            d_kappa[b, k] = by_kappa
            for j, pulled in enumerate((alpha * by_alpha, alpha * beta * by_beta, shape[b, 2, k] * by_kappa)):
                column = j * n + k
                d_said[column // width, b, column % width] = pulled
