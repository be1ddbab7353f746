"""Handwriting on the command line: `python -m probseq write "some text" --out text.svg`, and `read strokes.json`.

The text is broken into short lines; from the second on the network goes on in the hand that began the first.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from probseq.handwriting.page import read_drawn, replay_page
from probseq.handwriting.reader import Reader
from probseq.handwriting.reading_picture import plot_reading
from probseq.handwriting.soft_window import WindowedStack
from probseq.handwriting.strokes import Strokes
from probseq.handwriting.synthesis import load_writer
from probseq.handwriting.train_reader import as_trained, load_reader
from probseq.handwriting.writing import write
from probseq.models.rnn import RNN
from probseq.randomness import spawn

#: characters in a line, and its height in heights of what is written on it
WIDTH, SPACING = 26, 1.25
#: of the first line, so many characters at most are shown to the network again, as it has learned from short lines
SHOWN = 8
#: what can be written
KINDS = (".svg", ".html", ".htm", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command `write`."""
    parser.add_argument("text", metavar="TEXT", help="what to write: lower-case letters, spaces, . and ,")
    parser.add_argument(
        "--out", type=Path, default=Path("writing.svg"), metavar="FILE", help="text.svg, .html or .json"
    )
    parser.add_argument("--bias", type=_bias, default=0.5, metavar="B", help="0: as varied as learned; 1: neat (0.5)")
    parser.add_argument("--model", type=Path, metavar="FILE", help="another network, from probseq.handwriting.train")


def run(given: argparse.Namespace) -> None:
    """Write, and say where. ValueError or OSError for whatever is wrong."""
    if given.out.suffix.lower() not in KINDS:
        raise ValueError(f"--out must end in one of {', '.join(KINDS)}, got {given.out.name!r}")
    if not given.out.parent.is_dir():
        raise ValueError(f"--out must be in a folder that exists, there is no {given.out.parent}")
    page = write_page(load_writer(given.model), given.text, bias=given.bias, seed=given.seed)
    given.out.write_text(_as(page, given.out.suffix.lower()), encoding="utf-8")
    print(f"{len(page)} points in {given.out}")


def write_page(model: RNN, text: str, *, bias: float = 0.5, seed: int | None = None, width: int = WIDTH) -> Strokes:
    """A text of any length in lines of at most `width` characters, all in the hand of the first."""
    if isinstance(model.cell, WindowedStack):
        model.cell.encode(text)
    parts = textwrap.wrap(text, width) or [text]
    seeds = spawn(seed, len(parts))
    lines = [write(model, parts[0], bias=bias, seed=seeds[0]).strokes]
    style = beginning(lines[0], SHOWN)
    for part, own in zip(parts[1:], seeds[1:], strict=True):
        lines.append(write(model, part, bias=bias, style=style, seed=own).strokes)
    return _below(lines, text)


def beginning(line: Strokes, most_characters: int) -> Strokes:
    """The first words of a line whose alignment is known, or of a long word the first letters, in whole strokes."""
    if line.text is None or line.characters is None or len(line.text) <= most_characters:
        return line
    space = line.text.rfind(" ", 0, most_characters + 1)
    size = space if space > 0 else most_characters
    ends = np.flatnonzero(line.lifts) + 1
    strokes = np.split(line.characters, ends)  # at the end of a stroke the window may be at the next character already
    inside = [int(end) for end, owners in zip(ends, strokes, strict=False) if np.median(owners) < size]
    n_points = max(inside, default=len(line))
    return Strokes(line.offsets[:n_points], line.lifts[:n_points], line.text[:size])


def _below(lines: list[Strokes], text: str) -> Strokes:
    """Lines under each other, all beginning at the left; the middle of what is written is the same height of each."""
    height = SPACING * max(float(np.ptp(line.points[:, 1])) for line in lines if len(line))
    traces: list[Any] = []
    for k, line in enumerate(line for line in lines if len(line)):
        corner = np.array([line.points[:, 0].min(), np.median(line.points[:, 1]) - k * height])
        traces += [trace - corner for trace in line.traces]
    return Strokes.from_traces(traces, text)


def _as(line: Strokes, kind: str) -> str:
    if kind == ".svg":
        return line.to_svg()
    if kind == ".json":
        return json.dumps({"text": line.text, "strokes": line.to_array().round(3).tolist()})
    return replay_page(line)


# ---- read


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command `read`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="strokes as JSON, saved by the page or by `write`")
    parser.add_argument(
        "--beam", type=int, metavar="N", help="search with so many prefixes; the best path unless given"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw how it was read, such as reading.png")
    parser.add_argument("--model", type=Path, metavar="FILE", help="another, from probseq.handwriting.train_reader")


def read(given: argparse.Namespace) -> None:
    """Print what is read. ValueError or OSError for whatever is wrong."""
    if given.beam is not None and given.beam < 1:
        raise ValueError(f"--beam must be at least 1, got {given.beam}")
    reader, line = load_reader(given.model), as_trained(read_drawn(given.file))
    print(reader.decode(line, beam=given.beam))
    if given.plot is not None:
        _save_reading(reader, line, given.plot)


def _save_reading(reader: Reader, line: Strokes, path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError('--plot needs matplotlib: pip install "probseq[plot]"') from error
    figure = Figure(figsize=(9, 8), layout="constrained")
    plot_reading(reader, line, axes=figure.subplots(4, 1))
    figure.savefig(path, dpi=150)


def _bias(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < np.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 0, got {text!r}")
    return value
