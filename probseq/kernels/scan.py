"""A linear recurrence with its own factor for every number, step by step, and its adjoint.

    for t in range(T):
        h_t = a_t h_{t-1} + b_t                            # elementwise
    for t in reversed(range(T)):
        d b_t = g_t + conj(a_{t+1}) d b_{t+1}              # g: the derivative in h
        d a_t = conj(h_{t-1}) d b_t

a, b, h, g are (B, T, N), real or complex; the start is (B, N).
"""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def forward(decay, drive, start, out):
    """out[:, t] = decay[:, t] * out[:, t - 1] + drive[:, t]."""
    for i in range(out.shape[0]):
        before = start[i]
        for t in range(out.shape[1]):
            now, a, b = out[i, t], decay[i, t], drive[i, t]
            for j in range(now.size):
                now[j] = a[j] * before[j] + b[j]
            before = now


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def backward(incoming, decay, start, out, d_decay, d_drive, d_start):
    """The adjoint: the derivatives in decay, drive and start."""
    n_steps = out.shape[1]
    for i in range(out.shape[0]):
        for t in range(n_steps - 1, -1, -1):
            here, g = d_drive[i, t], incoming[i, t]
            if t + 1 < n_steps:
                later, a = d_drive[i, t + 1], decay[i, t + 1]
                for j in range(here.size):
                    here[j] = g[j] + a[j].conjugate() * later[j]
            else:
                for j in range(here.size):
                    here[j] = g[j]
            before = out[i, t - 1] if t else start[i]
            into = d_decay[i, t]
            for j in range(here.size):
                into[j] = before[j].conjugate() * here[j]
        for j in range(d_start.shape[1]):
            d_start[i, j] = decay[i, 0, j].conjugate() * d_drive[i, 0, j]
