"""How much of what was written was read wrongly: insertions, deletions and substitutions for each thing written.

    distance(i, j) = min(distance(i-1, j) + 1, distance(i, j-1) + 1, distance(i-1, j-1) + (a_i != b_j))

Levenshtein, V. (1966). Soviet Physics Doklady 10, 707-710.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ErrorRates(NamedTuple):
    """Edits for each character, and for each word, that was written (CER, WER); above 1 where more was read."""

    characters: float
    words: float


def error_rates(written: Sequence[str], read: Sequence[str]) -> ErrorRates:
    """Over all texts together. ValueError where these are not as many, or nothing was written."""
    if len(written) != len(read):
        raise ValueError(f"read must be one text for each of {len(written)} written, got {len(read)}")
    if not any(text.split() for text in written):
        raise ValueError("written must have at least one word, got none")
    pairs = list(zip(written, read, strict=True))
    by_words = [(one.split(), other.split()) for one, other in pairs]
    return ErrorRates(
        sum(edit_distance(one, other) for one, other in pairs) / sum(map(len, written)),
        sum(edit_distance(one, other) for one, other in by_words) / sum(len(one) for one, _ in by_words),
    )


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions that make `other` of `one`."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
