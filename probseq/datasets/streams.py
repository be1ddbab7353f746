"""Tasks of a finite automaton, with a target at every step: binary addition, parity, two streams at once.

    s_t = f(s_{t-1}, u_t);    y_t = g(s_t, u_t)

| task              | u_t                    | state        | y_t                                            |
|-------------------|------------------------|--------------|------------------------------------------------|
| `binary_addition` | a column of two bits   | the carry    | the bit of the sum, from right to left         |
| `parity`          | a bit                  | odd or even  | whether the number of ones so far is odd       |
| `two_streams`     | two unrelated bits     | both of them | the parity of each                             |

An automaton for two streams needs the square of the states; a network needs twice the units.

Hinton, G. (2012). Neural networks for machine learning, lecture 7c.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probseq.checks import whole_number
from probseq.randomness import fresh_seed

Arrays = tuple[NDArray[np.float64], NDArray[np.float64]]


def draws(seed: int | None) -> np.random.Generator:
    """A numpy generator started from `seed`, a new one each time for None."""
    return np.random.default_rng(fresh_seed(seed))


def _bits(n_sequences: int, length: int, width: int, seed: int | None) -> NDArray[np.float64]:
    shape = (whole_number("n_sequences", n_sequences), whole_number("length", length), width)
    return draws(seed).integers(0, 2, shape).astype(np.float64)


def binary_addition(n_sequences: int, length: int, seed: int | None = None) -> Arrays:
    """Two binary numbers, the units first: u (n, length, 2), y (n, length, 1) with y = u[..., 0] + u[..., 1].

    Satisfies sum_t 2^t y_t == (sum_t 2^t (u_t0 + u_t1)) mod 2^length: the last carry is dropped.
    """
    u = _bits(n_sequences, length, 2, seed)
    y, carry = np.empty((n_sequences, length, 1)), np.zeros(n_sequences)
    for t in range(length):
        total = u[:, t].sum(-1) + carry
        y[:, t, 0], carry = total % 2, total // 2
    return u, y


def parity(n_sequences: int, length: int, seed: int | None = None) -> Arrays:
    """Random bits u (n, length, 1) and, in y (n, length, 1), whether the number of ones so far is odd."""
    u = _bits(n_sequences, length, 1, seed)
    return u, u.cumsum(1) % 2


def two_streams(n_sequences: int, length: int, seed: int | None = None) -> Arrays:
    """Two independent streams of bits, u (n, length, 2), and the running parity of each, y (n, length, 2)."""
    u = _bits(n_sequences, length, 2, seed)
    return u, u.cumsum(1) % 2
