"""The reader that comes with the package, trained on handwriting that is made up.

    PROBSEQ_DATA=folder python -m probseq.handwriting.train_reader --output reader.safetensors

reads hersheytext.json (techninja/hersheytextjs) there, lets people write lines of common words, those of
`probseq.handwriting.train` and others drawn at random, and trains two LSTMs that read from both ends for about ten
minutes on one core. `python -m probseq read strokes.json --model reader.safetensors` then uses it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from probseq.cells import LSTM, Bidirectional
from probseq.errors import FileRefused
from probseq.handwriting.error_rates import error_rates
from probseq.handwriting.reader import Reader
from probseq.handwriting.strokes import Strokes
from probseq.handwriting.synthetic import LATIN, Font, Writer
from probseq.handwriting.train import ALPHABET, hands
from probseq.io import load

#: of the lines: how far the tenth and the ninetieth hundredth of the heights of their points are apart, and points
HEIGHT, SPACING = 14.4, 4.7
#: words that the lines are made of; those of `UNSEEN` never in training
SEEN, UNSEEN = (
    tuple(part.split())
    for part in (resources.files("probseq.handwriting") / "words.txt").read_text(encoding="utf-8").split("\n\n")
)


def lines(n_lines: int, words: Sequence[str], seed: int, path: str | Path | None = None) -> list[Strokes]:
    """Lines of one to three words in turn by the hands that the writing network learned from, and by somebody new."""
    draws, people, fonts = np.random.default_rng(seed), hands(path), [Font.load(name, path) for name in LATIN]
    made: list[Strokes] = []
    for k in range(n_lines):
        text, own = _text(draws, words), int(draws.integers(2**31))
        if k % 2:
            made.append(people[k // 2 % len(people)].write(text, seed=own))
        else:
            line = Writer.draw(own).write(text, fonts[k // 2 % len(fonts)], seed=own)
            made.append(line.resample(draws.uniform(4.0, 5.5)).dequantise(own, width=0.5))
    return made


def _text(draws: np.random.Generator, words: Sequence[str]) -> str:
    chosen = draws.choice(list(words), size=int(draws.integers(1, 4)))
    return " ".join(f"{word}{draws.choice(['', '.', ','], p=[0.84, 0.08, 0.08])}" for word in chosen)


def train(
    data: Sequence[Strokes], hidden_size: int = 80, passes: int = 30, seed: int = 0, checkpoint: Path | None = None
) -> Reader:
    """A reader fitted to these lines, a twentieth of them held back to choose the best."""
    model = Reader(ALPHABET, reader=Bidirectional(LSTM(hidden_size), LSTM(hidden_size)), seed=seed)
    return model.fit(
        [line.text or "" for line in data], list(data), learning_rate=5e-3, schedule="linear", batch_size=32,
        clip_norm=1.0, max_iterations=passes, patience=passes, validation=0.05, seed=seed, checkpoint=checkpoint,
    )  # fmt: skip


def as_trained(line: Strokes) -> Strokes:
    """A line of any size as those that the reader was trained on: its height theirs, its points as far apart."""
    heights = line.points[:, 1]
    middle = float(np.diff(np.quantile(heights, [0.1, 0.9]))[0]) if len(line) else 0.0
    if middle <= 0:
        raise ValueError("line must have points of different heights")
    scale = HEIGHT / middle
    return replace(line, offsets=line.offsets * scale).resample(SPACING)


def load_reader(path: str | Path | None = None) -> Reader:
    """The reader in a file, or the small one that the package comes with. FileRefused for another model."""
    found: Any = None
    if path is not None:
        found = load(path)
    else:
        with resources.as_file(resources.files("probseq.handwriting") / "weights" / "reader.safetensors") as own:
            found = load(own)
    if not isinstance(found, Reader):
        raise FileRefused(f"{path} holds a {type(found).__name__}, not a Reader")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(
        prog="python -m probseq.handwriting.train_reader", description="Train a network that reads."
    )
    parser.add_argument("--output", type=Path, required=True, help="where it goes, such as reader.safetensors")
    parser.add_argument("--fonts", type=Path, help="hersheytext.json; in the folder PROBSEQ_DATA unless given")
    parser.add_argument("--hidden", type=int, default=80, help="cells that read from either end")
    parser.add_argument("--lines", type=int, default=3000, help="lines to train on")
    parser.add_argument("--passes", type=int, default=30, help="times that each is read")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="a file from which the same call goes on after it was stopped")
    given = parser.parse_args(arguments)
    data = lines(given.lines, SEEN, given.seed, given.fonts)
    model = train(data, given.hidden, given.passes, given.seed, given.checkpoint)
    for name, words in (("seen", SEEN), ("not seen", UNSEEN)):
        held = lines(200, words, given.seed + 1, given.fonts)
        texts = [line.text or "" for line in held]
        rates = error_rates(texts, model.decode(held))
        print(f"words {name}: {rates[0]:.1%} of characters wrong, {rates[1]:.1%} of words")
    model.save(given.output)


if __name__ == "__main__":
    main()
