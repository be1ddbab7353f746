"""What a reader may know of the language: log p(next character | those before).

| class            | p(next | before)                                                                    |
|------------------|-------------------------------------------------------------------------------------|
| `NGram`          | Witten-Bell: p_n = (count + kinds p_{n-1}) / (total + kinds) after n - 1 characters |
| `SequenceModel`  | that of any model of symbols under the contract, such as an RNN or HMM              |

Witten, I. & Bell, T. (1991). The zero-frequency problem. IEEE Trans. Information Theory 37, method C.
"""

from __future__ import annotations

import abc
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch

from probseq.base import StateSpaceModel
from probseq.checks import whole_number


class Language(abc.ABC):
    """log p(next character | text before it) over an alphabet."""

    alphabet: str

    @abc.abstractmethod
    def log_probs(self, before: str) -> np.ndarray:
        """log p of every character of the alphabet after this text, (characters,); exp of it sums to 1."""


class NGram(Language):
    """`NGram(alphabet, order=4).fit(texts)`: the next character given the order - 1 before it."""

    def __init__(self, alphabet: str, order: int = 4) -> None:
        self.alphabet, self.order = alphabet, whole_number("order", order)
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)

    def fit(self, texts: Iterable[str]) -> Self:
        """Count. ValueError for a character that the alphabet does not have."""
        for text in texts:
            strange = sorted(set(text) - set(self.alphabet))
            if strange:
                raise ValueError(f"texts must have characters of {self.alphabet!r}, got {strange}")
            for place, character in enumerate(text):
                for length in range(min(self.order, place + 1)):
                    self._counts[text[place - length : place]][character] += 1
        return self

    def log_probs(self, before: str) -> np.ndarray:
        probs = np.full(len(self.alphabet), 1 / len(self.alphabet))
        for length in range(self.order):
            counts = self._counts.get(before[len(before) - length :]) if length <= len(before) else None
            if counts is None:
                break
            seen = np.array([counts[character] for character in self.alphabet], float)
            probs = (seen + len(counts) * probs) / (seen.sum() + len(counts))
        return np.log(probs)


class SequenceModel(Language):
    """A model under the contract whose symbols 0, 1, ... are the characters of the alphabet."""

    def __init__(self, model: StateSpaceModel[Any], alphabet: str) -> None:
        self.model, self.alphabet = model, alphabet
        self._kept: dict[str, Any] = {}

    @torch.no_grad()
    def log_probs(self, before: str) -> np.ndarray:
        symbols = torch.arange(len(self.alphabet), dtype=torch.float64).reshape(-1, 1, 1)
        emitted = self.model.emit(self._belief(before))
        return np.array([float(emitted.log_prob(symbol)) for symbol in symbols])

    def _belief(self, before: str) -> Any:
        """The predicted belief after a text, one step from that of the text before its last character."""
        if before not in self._kept:
            if not before:
                self._kept[before] = self.model.initial_belief((1,))
            else:
                y = torch.tensor([[float(self.alphabet.index(before[-1]))]], dtype=torch.float64)
                updated, _ = self.model.update(self._belief(before[:-1]), y)
                self._kept[before] = self.model.predict(updated)
        return self._kept[before]
