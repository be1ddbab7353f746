"""The smallest automaton that answers as a given one does (Hopcroft 1971).

States that differ in what they say are apart; then blocks of states are split by where a letter leads, until every
letter leads from all states of a block into one block. A block that is split is looked at again only in its smaller
half, so that a state is touched at most log2(states) times per letter.

Reference: Hopcroft, J. (1971), An n log n algorithm for minimizing states in a finite automaton.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def minimise(transitions: NDArray[np.int64], outputs: Sequence[Hashable]) -> NDArray[np.int64]:
    """The block (S,) of every state, numbered in order of appearance.

    `transitions` (S, K) leads from a state by a letter; two states share a block if and only if they say the same
    after every word.
    """
    n_letters = transitions.shape[1]
    before = _inverse(transitions)
    blocks = _by_output(outputs)
    block_of = np.empty(len(outputs), dtype=np.int64)
    for number, members in enumerate(blocks):
        block_of[list(members)] = number
    waiting = {(number, letter) for number in range(len(blocks)) for letter in range(n_letters)}
    while waiting:
        target, letter = waiting.pop()
        arriving = {state for after in blocks[target] for state in before[letter][after]}
        for number in {int(block_of[state]) for state in arriving}:
            inside = blocks[number] & arriving
            outside = blocks[number] - inside
            if not outside:
                continue
            fresh = len(blocks)
            blocks[number] = inside
            blocks.append(outside)
            block_of[list(outside)] = fresh
            for other in range(n_letters):
                smaller = fresh if len(outside) < len(inside) or (number, other) in waiting else number
                waiting.add((smaller, other))
    return _in_order(block_of)


def _inverse(transitions: NDArray[np.int64]) -> list[list[list[int]]]:
    """From where a letter leads into a state, [letter][state]."""
    n_states, n_letters = transitions.shape
    found: list[list[list[int]]] = [[[] for _ in range(n_states)] for _ in range(n_letters)]
    for state in range(n_states):
        for letter in range(n_letters):
            found[letter][int(transitions[state, letter])].append(state)
    return found


def _by_output(outputs: Sequence[Hashable]) -> list[set[int]]:
    groups: dict[Hashable, set[int]] = {}
    for state, said in enumerate(outputs):
        groups.setdefault(said, set()).add(state)
    return list(groups.values())


def _in_order(block_of: NDArray[np.int64]) -> NDArray[np.int64]:
    names: dict[int, int] = {}
    return np.array([names.setdefault(int(block), len(names)) for block in block_of], dtype=np.int64)
