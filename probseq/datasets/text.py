"""A text as symbols: the characters of a file, numbered in the order of their code points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Characters:
    """A text of T characters: `symbols` (T,), integers 0 .. M - 1 into `vocabulary`, M characters.

    Satisfies decode(symbols) == the text, encode(the text) == symbols.
    """

    symbols: NDArray[np.int64]
    vocabulary: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> NDArray[np.int64]:
        """The symbols of a text, (T,). Raises ValueError at a character that the vocabulary lacks."""
        number = {character: index for index, character in enumerate(self.vocabulary)}
        for place, character in enumerate(text):
            if character not in number:
                raise ValueError(f"text must be made of the vocabulary; character {place} is {character!r}")
        return np.array([number[character] for character in text], dtype=np.int64)

    def decode(self, symbols: Iterable[float]) -> str:
        """The text of symbols (T,) or (T, 1), an array or tensor. Raises ValueError outside 0 .. M - 1."""
        numbers = np.asarray(symbols).reshape(-1)
        legal = (numbers >= 0) & (numbers < len(self.vocabulary)) & (numbers == np.floor(numbers))
        if not legal.all():
            raise ValueError(f"symbols must be integers 0..{len(self.vocabulary) - 1}, got {numbers[~legal][0]}")
        return "".join(self.vocabulary[int(number)] for number in numbers)


def characters(path: str | PathLike[str], *, encoding: str = "utf-8") -> Characters:
    """The characters of a text file. Raises ValueError when it is empty."""
    text = Path(path).read_text(encoding=encoding)
    if not text:
        raise ValueError(f"path must name a text file with at least one character, got the empty {path}")
    vocabulary = tuple(sorted(set(text)))
    return Characters(Characters(np.zeros(0, dtype=np.int64), vocabulary).encode(text), vocabulary)
