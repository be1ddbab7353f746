"""`python -m probseq write`."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from probseq.__main__ import main
from probseq.handwriting import Font, Strokes, load_writer
from probseq.handwriting.command import write_page
from probseq.handwriting.page import read_drawn


def run(*arguments: str) -> int:
    try:
        return main(["write", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize("kind", ["svg", "html", "json"])
def test_it_writes(tmp_path, capsys, kind):
    out = tmp_path / f"text.{kind}"
    assert run("some text", "--out", str(out), "--seed", "3") == 0
    assert re.fullmatch(r"\d+ points in .*", capsys.readouterr().out.strip())
    text = out.read_text()
    assert {"svg": "<svg", "html": "<!doctype html>", "json": '{"text": "some text"'}[kind] in text
    if kind == "json":
        line = read_drawn(out)
        assert 50 < len(line) < 1000
        assert json.loads(text)["text"] == "some text"


def test_the_network_writes_and_no_font(tmp_path, monkeypatch):
    """Without the fonts, and never twice the same."""
    monkeypatch.delenv("PROBSEQ_DATA", raising=False)
    monkeypatch.setattr(Font, "load", None)
    for seed in ("0", "1"):
        assert run("no font", "--out", str(tmp_path / f"{seed}.svg"), "--seed", seed) == 0
    assert (tmp_path / "0.svg").read_text() != (tmp_path / "1.svg").read_text()


def test_long_texts_are_broken_into_lines():
    page = write_page(load_writer(), "one line and another one and a third", seed=0, width=14, bias=1.0)
    tops = [trace[:, 1].mean() for trace in page.traces]
    assert np.ptp(tops) > 40  # font units: three lines
    assert np.ptp(page.points[:, 0]) < 14 * 40
    assert isinstance(page, Strokes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["UPPER", "--out", "{}/a.svg"], "got ['E', 'P', 'R', 'U']"),
        (["text", "--out", "{}/a.png"], "--out must end in one of"),
        (["text", "--out", "{}/no/a.svg"], "there is no"),
        (["text", "--bias", "-1"], "must be a number from 0"),
        (["text", "--out", "{}/a.svg", "--model", "{}/none.safetensors"], "there is no file"),
        (["", "--out", "{}/a.svg"], "there are none"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, capsys, arguments, message):
    assert run(*(a.format(tmp_path) for a in arguments)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
