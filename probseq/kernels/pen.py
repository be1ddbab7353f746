"""A network that writes, point after point in one loop: says where the pen goes, draws it, reads what it drew.

    until the pen is lifted after phi_{U+1} > phi_u for all u <= U:     # the window has left the text
        weights w, means m, factors L, lift e = head(h)
        k ~ softmax((1 + bias) logits);    offset = m_k + exp(-bias) L_k noise;    lift ~ Bernoulli(e)
        h, c, window, kappa = layers(offset, lift; window)

| symbol      | shape              | meaning                                                                     |
|-------------|--------------------|-----------------------------------------------------------------------------|
| layers      | (4 H, in + H + 1)  | one for each layer: on what it reads, on its own h, bias; rows i, f, g, o   |
| peepholes   | (3, H)             | likewise                                                                    |
| hidden, memory | (H,)            | likewise; changed in place, as are window (A,) and kappa (K,)               |
| looking     | (3 K, H + 1)       | of the window, bias last; without rows there is no text and no end          |
| head        | (6 C + 1, sum H + 1)| C logits, then for each component mean (2), spread (2), L_21; then the lift |
| codes       | (U,)               | characters 1 .. A                                                           |
| uniforms, normals | (T, 2) each  | draws: which component, whether the pen is lifted; the noise                |
| drawn       | (T, 3)             | dx, dy (standardised) and lift                                              |
| looks       | (T, U + 1)         | phi when each of them was drawn                                             |

Graves (2013), arXiv:1308.0850, sections 5.3 and 5.4 (the stop rule, bias).
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def write(
    layers, peepholes, looking, head, codes, hidden, memory, window, kappa, uniforms, normals, bias, floor, drawn, looks
):
    """Fill `drawn` and `looks` from a state that has read all before; returns how many points there are."""
    size = 0
    for k in range(len(hidden)):
        size += hidden[k].size
    shown = np.ones(size + 1, head.dtype)
    look = np.zeros(codes.size + 1, head.dtype)
    left = False
    for t in range(len(drawn)):
        if looking.shape[0]:
            _look(looking, hidden[0], kappa, look, False)
            looks[t] = look
            left = left or (look[codes.size] > look[: codes.size]).all()
            if left and (t == 0 or drawn[t - 1, 2] > 0):
                return t
        first = 0
        for k in range(len(hidden)):
            shown[first : first + hidden[k].size] = hidden[k]
            first += hidden[k].size
        _draw(np.dot(head, shown), uniforms[t], normals[t], bias, floor, drawn[t])
        for k in range(len(layers)):
            _step(layers[k], peepholes[k], drawn[t], window, hidden[k - 1][: 0 if k == 0 else hidden[k - 1].size],
                  hidden[k], memory[k])  # fmt: skip
            if k == 0 and looking.shape[0]:
                _look(looking, hidden[0], kappa, look, True)
                window[:] = 0
                for place in range(codes.size):
                    window[codes[place] - 1] += look[place]
    return len(drawn)


@njit(cache=True, nogil=True, error_model="numpy")
def _step(weights, peepholes, pen, window, below, hidden, memory):
    """One peephole LSTM, in place."""
    n, read = hidden.size, np.ones(weights.shape[1], weights.dtype)
    read[: pen.size] = pen
    read[pen.size : pen.size + window.size] = window
    at = pen.size + window.size
    read[at : at + below.size] = below
    read[at + below.size : at + below.size + n] = hidden
    a = np.dot(weights, read)
    for j in range(n):
        keep = _logistic(a[n + j] + peepholes[1, j] * memory[j])
        let_in = _logistic(a[j] + peepholes[0, j] * memory[j])
        memory[j] = keep * memory[j] + let_in * np.tanh(a[2 * n + j])
        hidden[j] = _logistic(a[3 * n + j] + peepholes[2, j] * memory[j]) * np.tanh(memory[j])


@njit(cache=True, nogil=True, error_model="numpy")
def _look(looking, hidden, kappa, look, moves):
    """phi at every place and one beyond; kappa first moves on if `moves`."""
    read = np.ones(hidden.size + 1, hidden.dtype)
    read[: hidden.size] = hidden
    said = np.exp(np.dot(looking, read))
    n = kappa.size
    if moves:
        kappa += said[2 * n :]
    for place in range(look.size):
        look[place] = 0
        for k in range(n):
            away = kappa[k] - (place + 1)
            look[place] += said[k] * np.exp(-said[n + k] * away * away)


@njit(cache=True, nogil=True, error_model="numpy")
def _draw(said, uniforms, normals, bias, floor, pen):
    """A point from the outputs of the head."""
    n = (said.size - 1) // 6
    weights = np.exp((1 + bias) * (said[:n] - said[:n].max()))
    left, k = uniforms[0] * weights.sum(), 0
    while k < n - 1 and left >= weights[k]:
        left -= weights[k]
        k += 1
    part = said[n + 5 * k : n + 5 * k + 5]
    narrow = np.exp(-bias)
    first, second = narrow * normals[0], narrow * normals[1]
    pen[0] = part[0] + (floor + _softplus(part[2])) * first
    pen[1] = part[1] + part[4] * first + (floor + _softplus(part[3])) * second
    pen[2] = 1.0 if uniforms[1] < _logistic(said[said.size - 1]) else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _logistic(x):
    return 1 / (1 + np.exp(-x))


@njit(cache=True, nogil=True, error_model="numpy")
def _softplus(x):
    return max(x, 0) + np.log1p(np.exp(-abs(x)))
