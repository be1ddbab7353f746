"""The reader that the package comes with: lines of words seen and not seen, what the writing network wrote, where it
looked; the four rows; the command `read`."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from probseq.__main__ import main
from probseq.cells import LSTM
from probseq.errors import FileRefused
from probseq.handwriting import (
    Reader,
    Strokes,
    error_rates,
    load_reader,
    load_writer,
    plot_reading,
    synthesis_network,
    write,
)  # fmt: skip
from probseq.handwriting.train_reader import SEEN, UNSEEN, as_trained, lines

needs_fonts = pytest.mark.skipif("PROBSEQ_DATA" not in os.environ, reason="needs hersheytext.json in PROBSEQ_DATA")


def written(texts: list[str], seed: int, bias: float = 0.5) -> list[Strokes]:
    """Lines of the writing network's, in the unit that both networks learned from."""
    model = load_writer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a line that the stop rule does not end is a line too
        return [write(model, text, bias=bias, seed=seed + k).strokes for k, text in enumerate(texts)]


def some_texts(n_texts: int, seed: int) -> list[str]:
    draws = np.random.default_rng(seed)
    return [" ".join(draws.choice(SEEN, size=2)) for _ in range(n_texts)]


def test_it_reads_what_the_other_network_writes() -> None:
    texts = some_texts(12, 0)
    rates = error_rates(texts, load_reader().decode(written(texts, 0)))
    assert rates.characters <= 0.2, rates


@pytest.mark.slow
@needs_fonts
def test_error_rates_of_the_reader() -> None:
    reader = load_reader()
    rates = {}
    for name, words in (("words seen", SEEN), ("words not seen", UNSEEN)):
        held = lines(300, words, seed=12345)
        rates[name] = error_rates([line.text or "" for line in held], reader.decode(held))
    for bias in (0.0, 0.5):
        texts = some_texts(100, 1)
        rates[f"the writing network's lines, bias {bias:g}"] = error_rates(
            texts, reader.decode(written(texts, 99, bias))
        )
    for name, (characters, words_wrong) in rates.items():
        print(f"{name}: {characters:.2%} of characters wrong, {words_wrong:.2%} of words")
    assert rates["words seen"].characters <= 0.12
    assert rates["the writing network's lines, bias 0.5"].characters <= 0.10


@pytest.mark.slow
@needs_fonts
def test_it_looks_at_the_character_that_it_names() -> None:
    reader, inside, total = load_reader(), 0, 0
    for line in lines(100, SEEN, seed=777):
        if reader.decode(line) != line.text:
            continue
        best = reader.log_probs(line).argmax(1)
        begins = np.flatnonzero((best > 0) & (best != np.r_[0, best[:-1]]))
        assert line.characters is not None
        for place, begin in enumerate(begins):
            if line.text[place] == " ":  # which no point belongs to
                continue
            peak = int(np.hypot(*reader.sensitivity(line, int(begin)).T).argmax())
            inside, total = inside + int(line.characters[peak] == place), total + 1
    print(f"the largest gradient lies inside the character for {inside} of {total}, {inside / total:.1%}")
    assert total >= 300
    assert inside >= 0.8 * total


def test_four_rows(tmp_path: Path) -> None:
    line = written(["the sun"], 5)[0]
    reader = load_reader()
    rows = plot_reading(reader, line)
    assert len(rows) == 4
    named = {text.get_text() for text in rows[0].texts}
    assert named >= set(reader.decode(line).replace(" ", "\u2423"))
    assert rows[3].get_ylabel().startswith("gradient of")
    of_x = rows[3].lines[0].get_ydata()
    step = int(rows[3].lines[2].get_xdata()[0])
    np.testing.assert_allclose(of_x, reader.sensitivity(line, step)[:, 0])
    plt.close(rows[0].figure)
    with pytest.raises(ValueError, match="axes must be four, got 1"):
        plot_reading(reader, line, axes=plt.figure().add_subplot())
    with pytest.raises(ValueError, match=r"step must be a point 0 \.\. \d+ of the line, got 5000"):
        plot_reading(reader, line, 5000)
    plt.close("all")


def test_a_line_of_any_size_is_read_alike() -> None:
    line = written(["some words"], 3)[0]
    for factor in (1e-3, 40.0):
        other = as_trained(Strokes(factor * line.offsets, line.lifts))
        np.testing.assert_allclose(other.offsets, as_trained(line).offsets, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="points of different heights"):
        as_trained(Strokes(np.ones((4, 2)) * [1.0, 0.0], np.zeros(4)))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, out = written(["hand made"], 1)[0], tmp_path / "reading.png"
    path = tmp_path / "strokes.json"
    path.write_text(json.dumps({"text": "", "strokes": line.to_array().tolist()}))
    assert main(["read", str(path), "--beam", "5", "--plot", str(out)]) == 0
    said = capsys.readouterr().out.strip()
    assert error_rates(["hand made"], [said]).characters <= 0.4
    assert out.read_bytes().startswith(b"\x89PNG")
    path.write_text("{}")
    assert main(["read", str(path)]) != 0
    assert "must be JSON" in capsys.readouterr().err


def test_other_models_are_no_readers(tmp_path: Path) -> None:
    synthesis_network("ab", (3,), 2, 2).save(tmp_path / "writer.safetensors")
    with pytest.raises(FileRefused, match="not a Reader"):
        load_reader(tmp_path / "writer.safetensors")
    reader = Reader("ab", reader=LSTM(3), seed=0)
    reader.save(tmp_path / "reader.safetensors")
    assert load_reader(tmp_path / "reader.safetensors").alphabet == "ab"
