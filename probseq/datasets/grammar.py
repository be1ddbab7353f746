"""The Reber grammar: strings of a small automaton, and the same with a long-range agreement around them.

    B -> 1;   1 -T-> 2, -P-> 3;   2 -S-> 2, -X-> 4;   3 -T-> 3, -V-> 5;   4 -X-> 3, -S-> 6;   5 -P-> 4, -V-> 6;   6 -E->

Where two letters are legal each has probability 1/2. An embedded string is B, then T or P, a whole string, the same
T or P again, and E: only the letter at the second place tells the last but one.

Reber, A. S. (1967). Implicit learning of artificial grammars. J. Verbal Learning and Verbal Behavior 6.
Cleeremans, A., Servan-Schreiber, D. & McClelland, J. L. (1989). Finite state automata and simple recurrent
    networks. Neural Computation 1. Hochreiter & Schmidhuber (1997), section 5.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probseq.checks import whole_number
from probseq.datasets.streams import draws

#: letter i stands for the symbol i
REBER_SYMBOLS = "BTPSXVE"

ARCS = {
    0: (("B", 1),),
    1: (("T", 2), ("P", 3)),
    2: (("S", 2), ("X", 4)),
    3: (("T", 3), ("V", 5)),
    4: (("X", 3), ("S", 6)),
    5: (("P", 4), ("V", 6)),
    6: (("E", 7),),
}


def reber_grammar(n_sequences: int, *, embedded: bool = False, seed: int | None = None) -> list[NDArray[np.int64]]:
    """Strings of the grammar as arrays of symbols, (T_i,), 0 .. 6 for the letters of `REBER_SYMBOLS`."""
    n, random = whole_number("n_sequences", n_sequences), draws(seed)
    return [_symbols(_embedded(random) if embedded else _string(random)) for _ in range(n)]


def _string(random: np.random.Generator) -> str:
    letters, state = "", 0
    while state in ARCS:
        letter, state = ARCS[state][random.integers(len(ARCS[state]))]
        letters += letter
    return letters


def _embedded(random: np.random.Generator) -> str:
    side = "TP"[random.integers(2)]
    return f"B{side}{_string(random)}{side}E"


def _symbols(letters: str) -> NDArray[np.int64]:
    return np.array([REBER_SYMBOLS.index(letter) for letter in letters], dtype=np.int64)
