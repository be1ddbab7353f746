"""The reader: its score against the forward-backward algorithm, streaming, derivatives, learning, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.cells import LSTM, Bidirectional
from probseq.handwriting import Strokes, ctc
from probseq.handwriting.language import NGram, SequenceModel
from probseq.handwriting.reader import Reader

ALPHABET = "ab "


def zigzags(n_lines: int, seed: int = 0) -> tuple[list[str], list[Strokes]]:
    """An "a" goes up and down, a "b" in a square; a space is a jump."""
    draws = np.random.default_rng(seed)
    shapes = {"a": [(1, -3), (1, 3)], "b": [(0, -2), (2, 0), (0, 2)], " ": [(3, 0)]}
    texts = ["".join(draws.choice(list("ab"), size=draws.integers(2, 4))) + " a" for _ in range(n_lines)]
    lines: list[Strokes] = []
    for text in texts:
        steps = [step for character in text for step in shapes[character] for _ in range(2)]
        offsets = np.array(steps) + 0.1 * draws.normal(size=(len(steps), 2))
        lines.append(Strokes(offsets, np.arange(len(steps)) % 5 == 4, text))
    return texts, lines


def small(online: bool = False, dtype: torch.dtype = torch.float64) -> Reader:
    cell = LSTM(5, peepholes=True)
    return Reader(ALPHABET, reader=cell if online else Bidirectional(cell, LSTM(4)), dtype=dtype, seed=3)


@pytest.mark.parametrize("online", [False, True])
def test_score_is_that_of_the_forward_backward_algorithm(online: bool) -> None:
    texts, lines = zigzags(5)
    reader = small(online)
    found = reader.log_prob(texts, lines)
    for value, text, line in zip(found.tolist(), texts, lines, strict=True):
        labels = [1 + ALPHABET.index(character) for character in text]
        assert value == pytest.approx(ctc.align(reader.log_probs(line), labels).log_prob, rel=1e-8)
        assert value == pytest.approx(float(reader.log_prob(text, line).detach()), rel=1e-10)


def test_gradient_is_that_of_the_score() -> None:
    texts, lines = zigzags(2)
    reader = small()
    parameters = list(reader.parameters())

    def value() -> torch.Tensor:
        return reader.log_prob(texts, lines).sum()

    for parameter, found in zip(parameters, torch.autograd.grad(value(), parameters), strict=True):
        flat, step = parameter.data.reshape(-1), 1e-6
        for place in range(0, len(flat), max(1, len(flat) // 3)):
            ends: list[float] = []
            for sign in (1, -1):
                flat[place] += sign * step
                ends.append(float(value().detach()))
                flat[place] -= sign * step
            assert float(found.reshape(-1)[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


def test_streaming_is_reading_on_line() -> None:
    (_, *_), (line, *_) = zigzags(1)
    reader = small(online=True)
    stream, table = reader.stream(), reader.log_probs(line)
    for row, (dx, dy, lifted) in zip(table, line.to_array(), strict=True):
        heard = stream.update((dx, dy), bool(lifted))
        np.testing.assert_allclose(heard.log_probs, row, rtol=1e-10)
    assert heard.text == reader.decode(line)
    with pytest.raises(TypeError, match="reads from both ends"):
        small().stream()
    with pytest.raises(TypeError, match="has no filter"):
        reader.filter(line)


def test_sensitivity_is_a_derivative_in_positions() -> None:
    _, (line, *_) = zigzags(1)
    reader = small()
    found, at, step = reader.sensitivity(line, 3, "b"), 5, 1e-6
    for axis in (0, 1):
        ends: list[float] = []
        for sign in (1, -1):
            moved = line.offsets.copy()
            moved[at, axis] += sign * step
            moved[at + 1, axis] -= sign * step
            ends.append(reader.log_probs(Strokes(moved, line.lifts))[3, 2])
        assert found[at, axis] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-9)
    assert reader.memory(line).shape == (len(line), 2 * 5 + 2 * 4)


def test_learns_to_read(tmp_path: Path) -> None:
    texts, lines = zigzags(60)
    reader = Reader(ALPHABET, reader=Bidirectional(LSTM(8), LSTM(8)), seed=0)
    reader.fit(texts, lines, batch_size=20, learning_rate=2e-2, max_iterations=40, validation=zigzags(10, 1), seed=0)
    new_texts, new_lines = zigzags(20, 2)
    wrong = sum(text != read for text, read in zip(new_texts, reader.decode(new_lines), strict=True))
    assert wrong <= 1, reader.decode(new_lines)
    reader.save(tmp_path / "reader.safetensors")
    again = ps.load(tmp_path / "reader.safetensors")
    torch.testing.assert_close(again.log_prob(new_texts, new_lines), reader.log_prob(new_texts, new_lines))
    with_beam = reader.decode(new_lines, beam=10, language=NGram(ALPHABET, 3).fit(texts))
    assert sum(a != b for a, b in zip(new_texts, with_beam, strict=True)) <= 1


def test_language_models_are_distributions() -> None:
    ngram = NGram(ALPHABET, 3).fit(["abab a", "bab a"])
    hmm = ps.HMM(2, emission=ps.emissions.Categorical(3))
    hmm.fit([np.array([0, 1, 0, 1, 2, 0]), np.array([1, 0, 1, 2, 0])], seed=0)
    for language in (ngram, SequenceModel(hmm, ALPHABET)):
        for before in ("", "a", "ab", "bab "):
            assert np.logaddexp.reduce(language.log_probs(before)) == pytest.approx(0, abs=1e-10)
    # after "ba" came "b" twice, after "a" three times
    first = np.array([5 + 3 / 3, 4 + 3 / 3, 2 + 3 / 3]) / (11 + 3)
    second = (np.array([0, 3, 0]) + first) / (3 + 1)
    third = (np.array([0, 2, 0]) + second) / (2 + 1)
    np.testing.assert_allclose(np.exp(ngram.log_probs("ba")), third)
    by_steps = sum(SequenceModel(hmm, ALPHABET).log_probs("aba"[:k])[ALPHABET.index("aba"[k])] for k in range(3))
    assert by_steps == pytest.approx(float(hmm.log_prob(np.array([0, 1, 0])).detach()), rel=1e-10)


def test_refusals() -> None:
    texts, lines = zigzags(2)
    reader = small()
    with pytest.raises(ValueError, match="alphabet must be a string of different characters"):
        Reader("aba", reader=LSTM(3))
    with pytest.raises(TypeError, match="reader must be a Cell or Bidirectional"):
        Reader("ab", reader="lstm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"labels\[0\] has \['x'\]"):
        reader.log_prob(["x"], lines[:1])
    with pytest.raises(ValueError, match="must have 4 points or more to be read as 'aab'"):
        reader.log_prob("aab", Strokes(np.ones((3, 2)), np.zeros(3)))
    with pytest.raises(ValueError, match="one text for each of 2 lines, got 1"):
        reader.log_prob(texts[:1], lines)
    with pytest.raises(TypeError, match="labels must be texts and u Strokes"):
        reader.log_prob("a", lines[0].to_array())
    with pytest.raises(ValueError, match="language needs a beam"):
        reader.decode(lines[0], language=NGram(ALPHABET))
    with pytest.raises(ValueError, match="language must have the alphabet"):
        reader.decode(lines[0], beam=3, language=NGram("xyz"))
    with pytest.raises(ValueError, match="character must be one of"):
        reader.sensitivity(lines[0], 0, "x")
