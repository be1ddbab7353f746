"""The network that `python -m probseq write` comes with, trained on handwriting that is made up.

    PROBSEQ_DATA=folder python -m probseq.handwriting.train --output writer.safetensors

reads hersheytext.json (techninja/hersheytextjs) there, lets three writers with a font each write random words, and
trains a synthesis network on their lines for about ten minutes on one core. `python -m probseq write "some text"
--model writer.safetensors` then uses it. `--layers 400 400 400 --bells 10 --components 20` is the network of the paper.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probseq.handwriting.strokes import Strokes
from probseq.handwriting.synthesis import synthesis_network
from probseq.handwriting.synthetic import Font, Writer
from probseq.models.rnn import RNN

#: what the writers can write
ALPHABET = " abcdefghijklmnopqrstuvwxyz.,"
#: how often they use each letter: the square roots of the shares in English, so that no letter is rare
SHARES = dict(
    zip("etaoinshrdlcumwfgypbvkjxqz", (3.6, 3, 2.9, 2.7, 2.6, 2.6, 2.5, 2.5, 2.4, 2.1, 2, 1.7, 1.7, 1.6, 1.5, 1.5, 1.4,
        1.4, 1.4, 1.2, 1, 1, 0.8, 0.8, 0.8, 0.8), strict=True)
)  # fmt: skip


class Hand:
    """Somebody who writes with one font, in points at equal distances."""

    def __init__(self, font: str, spacing: float, path: str | Path | None = None, **writer: float) -> None:
        self.font, self.spacing, self.writer = Font.load(font, path), spacing, Writer(**writer)

    def write(self, text: str, seed: int) -> Strokes:
        """The line, each point a little off its place: a density needs some room."""
        return self.writer.write(text, self.font, seed=seed).resample(self.spacing).dequantise(seed, width=0.5)


def hands(path: str | Path | None = None) -> list[Hand]:
    """A printer, one who slants, and one who does not."""
    fixed = {"wobble": 0.35, "drift": 0.2, "tremor": 0.02}
    return [
        Hand("futural", 4.5, path, slant=0.1, **fixed),
        Hand("scripts", 5.0, path, size=1.4, width=0.95, slant=0.0, **fixed),
        Hand("cursive", 5.0, path, size=1.2, width=1.25, slant=-0.45, **fixed),
    ]


def random_text(draws: np.random.Generator, low: int = 8, high: int = 14) -> str:
    """Words that mean nothing, `low` to `high` characters in all."""
    size, text = int(draws.integers(low, high + 1)), ""
    letters, shares = list(SHARES), np.array(list(SHARES.values()))
    while len(text) < size:
        word = "".join(draws.choice(letters, size=int(draws.integers(1, 8)), p=shares / shares.sum()))
        text += word + draws.choice(["", ".", ","], p=[0.8, 0.1, 0.1]) + " "
    return text[:size].strip()


def lines(n_lines: int, seed: int, path: str | Path | None = None) -> list[Strokes]:
    """Lines by the hands in turn, their alignment in `characters`."""
    draws, people = np.random.default_rng(seed), hands(path)
    return [people[k % len(people)].write(random_text(draws), seed=int(draws.integers(2**31))) for k in range(n_lines)]


def train(
    data: Sequence[Strokes],
    layers: Sequence[int],
    updates: int,
    seed: int = 0,
    checkpoint: Path | None = None,
    **sizes: Any,
) -> RNN:
    """A synthesis network fitted to these lines; a tenth of a pass of them or so is held back to choose the best."""
    pace = sum(len(line.text or "") for line in data) / sum(len(line) for line in data)
    model = synthesis_network(ALPHABET, layers, pace=pace, seed=seed, **sizes)
    inputs = [model.cell.inputs_for(line.text or "", len(line)) for line in data]  # type: ignore[operator]
    passes = max(1, round(updates * 32 / (0.97 * len(data))))
    return model.fit(
        [line.to_array() for line in data], inputs, optimizer="adam", learning_rate=3e-3, schedule="linear",
        batch_size=32, clip_norm=1.0, max_iterations=passes, validation=0.03, patience=passes, seed=seed,
        checkpoint=checkpoint,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(prog="python -m probseq.handwriting.train", description="Train a writing network.")
    parser.add_argument("--output", type=Path, required=True, help="where it goes, such as writer.safetensors")
    parser.add_argument("--fonts", type=Path, help="hersheytext.json; in the folder PROBSEQ_DATA unless given")
    parser.add_argument("--layers", type=int, nargs="+", default=[144, 144], help="cells of every layer")
    parser.add_argument("--bells", type=int, default=8, help="Gaussians of the window")
    parser.add_argument("--components", type=int, default=10, help="Gaussians of the next offset")
    parser.add_argument("--lines", type=int, default=3000, help="lines to train on")
    parser.add_argument("--updates", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="a file from which the same call goes on after it was stopped")
    given = parser.parse_args(arguments)
    sizes = {"n_bells": given.bells, "n_components": given.components, "most_characters": 32}
    model = train(
        lines(given.lines, given.seed, given.fonts), given.layers, given.updates, given.seed, given.checkpoint, **sizes
    )
    print(model.history)
    model.save(given.output)


if __name__ == "__main__":
    main()
