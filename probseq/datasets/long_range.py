"""Tasks whose answer hangs on inputs long past (Hochreiter and Schmidhuber 1997; Martens and Sutskever 2011).

    adding           u_t = (value, mark); at the end y is the sum of the two marked values; multiplication, xor likewise
    temporal_order   u_t one-hot: among random letters two of X, Y; at the end y says which came in which order
    memory           u_t one-hot: a word, a long wait, a cue; after the cue y repeats the word

| task                 | inputs                                     | targets y (n, T, 1)                              |
|----------------------|--------------------------------------------|--------------------------------------------------|
| adding, product, xor | (n, T, 2); marks in the first half         | last step only, NaN before                       |
| `temporal_order`     | (n, T, 8): E B a b c d X Y                 | 0 XX, 1 XY, 2 YX, 3 YY at the last step only     |
| `five_bit_memory`    | (n, delay + 10, 4): two values, wait, cue  | every step: the value, or 2 while there is none  |
| `twenty_bit_memory`  | (n, delay + 20, 7): five values, wait, cue | every step: the value, or 5 while there is none  |

Sequences of one call have one length; in the paper lengths vary by a tenth.

Hochreiter, S. & Schmidhuber, J. (1997). Long short-term memory. Neural Computation 9, sections 5.4 to 5.6.
Martens, J. & Sutskever, I. (2011). Learning recurrent neural networks with Hessian-free optimization. ICML.
Jaeger, H. (2012). Long short-term memory in echo state networks: details of a simulation study. Jacobs University
    report 27 (the layout of both memory tasks).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probseq.checks import whole_number
from probseq.datasets.streams import Arrays, draws


def adding(n_sequences: int, length: int, seed: int | None = None) -> Arrays:
    """u (n, length, 2): uniform values on (0, 1) and two marks; y (n, length, 1): the marked values' sum, at the end.

    One mark is among the first ten steps, the other among the first half; guessing the mean costs a squared error
    of 1/6. Needs length >= 4.
    """
    u, marked = _marked(n_sequences, length, seed, binary=False)
    return u, _last(marked.sum(-1), length)


def multiplication(n_sequences: int, length: int, seed: int | None = None) -> Arrays:
    """Like `adding`, with the product of the two marked values; guessing its mean costs 7/144."""
    u, marked = _marked(n_sequences, length, seed, binary=False)
    return u, _last(marked.prod(-1), length)


def xor(n_sequences: int, length: int, seed: int | None = None) -> Arrays:
    """Like `adding` with values 0 or 1; y is whether exactly one of the two marked ones is 1."""
    u, marked = _marked(n_sequences, length, seed, binary=True)
    return u, _last(marked.sum(-1) % 2, length)


def temporal_order(n_sequences: int, length: int, seed: int | None = None) -> Arrays:
    """u (n, length, 8), one-hot E, B, a, b, c, d, X, Y; y (n, length, 1): 0 XX, 1 XY, 2 YX, 3 YY at the last step.

    E begins and B ends; the two letters that count stand between 10 % and 20 %, and between 50 % and 60 %, of the
    sequence. Needs length >= 10. (Task 6a of Hochreiter and Schmidhuber.)
    """
    n, length = whole_number("n_sequences", n_sequences), whole_number("length", length, least=10)
    random = draws(seed)
    letters = random.integers(2, 6, (n, length))
    letters[:, 0], letters[:, -1] = 0, 1
    which = random.integers(0, 2, (n, 2))
    for column, (first, last) in enumerate(((0.1, 0.2), (0.5, 0.6))):
        place = random.integers(round(first * length), round(last * length) + 1, n)
        letters[np.arange(n), place] = 6 + which[:, column]
    return np.eye(8)[letters], _last(2.0 * which[:, 0] + which[:, 1], length)


def five_bit_memory(n_sequences: int, delay: int, seed: int | None = None) -> Arrays:
    """A word of five bits, recalled after `delay` steps; u (n, delay + 10, 4), y (n, delay + 10, 1) in 0, 1, 2.

    All 32 words come once in a random order before any comes again.
    """
    n = whole_number("n_sequences", n_sequences)
    words = draws(seed).permutation(np.arange(n) % 32)
    return _recall(words[:, None] // 2 ** np.arange(5) % 2, delay, 2)


def twenty_bit_memory(n_sequences: int, delay: int, seed: int | None = None) -> Arrays:
    """Ten symbols out of five (over twenty bits), recalled after `delay` steps; u (n, delay + 20, 7), y in 0 .. 5."""
    n = whole_number("n_sequences", n_sequences)
    return _recall(draws(seed).integers(0, 5, (n, 10)), delay, 5)


def _marked(n: int, length: int, seed: int | None, *, binary: bool) -> Arrays:
    """Values and marks (n, length, 2), and the two marked values (n, 2), in the order of their drawing."""
    n, length = whole_number("n_sequences", n), whole_number("length", length, least=4)
    random = draws(seed)
    values = random.integers(0, 2, (n, length)).astype(np.float64) if binary else random.random((n, length))
    half = length // 2
    first = random.integers(0, min(10, half), n)
    second = random.integers(0, half - 1, n)
    second += second >= first  # among those not marked yet
    rows, u = np.arange(n), np.stack([values, np.zeros((n, length))], -1)
    for place in (first, second):
        u[rows, place, 1] = 1.0
    return u, np.stack([values[rows, first], values[rows, second]], -1)


def _last(answer: NDArray[Any], length: int) -> NDArray[np.float64]:
    """Targets (n, length, 1) that are known at the last step only."""
    y = np.full((len(answer), length, 1), np.nan)
    y[:, -1, 0] = answer
    return y


def _recall(words: NDArray[np.int64], delay: int, n_values: int) -> Arrays:
    """Inputs and targets of a memory task from words (n, k): the word, `delay` - 1 waits, the cue, k waits."""
    n, k = words.shape
    delay = whole_number("delay", delay)
    wait, cue = n_values, n_values + 1
    shown = np.full((n, delay + 2 * k), wait)
    shown[:, :k], shown[:, k + delay - 1] = words, cue
    y = np.full((n, delay + 2 * k, 1), float(wait))
    y[:, k + delay :, 0] = words
    return np.eye(n_values + 2)[shown], y
