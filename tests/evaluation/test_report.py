"""The page: complete, self-contained, readable without seeing; its numbers are those of the comparison."""

from __future__ import annotations

import base64
import functools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import probseq as ps
from probseq.evaluation import Comparison, compare
from probseq.evaluation.calibration import calibration, pit_values
from probseq.evaluation.report import html_report, verdict
from probseq.evaluation.significance import diebold_mariano

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Tags with attributes; complains about what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


@functools.cache
def example() -> tuple[Comparison, str]:
    rng = np.random.default_rng(0)
    y = np.zeros(60)
    for t in range(1, 60):
        y[t] = 0.8 * y[t - 1] + rng.normal()
    index = pd.period_range("2001-01", periods=60, freq="M", name="month")
    found = compare({"<ar>": ps.AR(1)}, pd.Series(y, index=index, name="flow & ebb"), horizons=(1, 2))
    return found, html_report(found)


def test_the_page_is_one_well_formed_file_with_nothing_outside() -> None:
    _, text = example()
    page = Page(text)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.of("img"))
    assert all(link["href"].startswith("#") for link in page.of("a"))
    assert "@import" not in text
    assert "url(" not in text
    assert re.findall(r"https?://", text) == []
    ids = [attributes.get("id") for attributes in page.of("section")]
    assert ids == [link["href"][1:] for link in page.of("a")]
    assert {"table", "forecasts", "calibration", "difference", "beliefs", "made"} == set(ids)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.of("meta")


def test_every_picture_is_a_png_of_its_size_and_says_what_it_shows() -> None:
    _, text = example()
    images = Page(text).of("img")
    assert len(images) == 3 + 3 + 1 + 2  # forecasts, transforms, differences, beliefs (one state believes nothing)
    for image in images:
        data = base64.b64decode(image["src"].partition(",")[2])
        assert data.startswith(b"\x89PNG")
        size = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        assert size == (int(image["width"]), int(image["height"]))
        assert len(image["alt"]) > 40


def test_the_numbers_are_those_of_the_comparison() -> None:
    found, text = example()
    words = " ".join(Page(text).words)
    for name, row in found.table.iterrows():
        assert str(name) in words
        assert f"{row['log_score']:.3f}" in words
    assert "flow & ebb" in words
    assert "<ar>" not in text
    said = verdict(found)
    best, second = found.table.index[:2]
    test = diebold_mariano(found.score_rows(best), found.score_rows(second))
    assert said.startswith(f"{best} scores best: {found.table['log_score'].iloc[0]:.3f}")
    assert f"p = {test.p_value:.2g}" in said


def test_transforms_and_tests_are_those_of_the_test_part() -> None:
    found, _ = example()
    values = pit_values(found.models["<ar>"], found.data, seed=found.seed)[42:, 0].numpy()
    np.testing.assert_array_equal(found.pit_values()["<ar>"][0, 42:], values)
    assert np.isnan(found.pit_values()["<ar>"][0, :42]).all()
    assert found.calibration().loc["<ar>", "uniform_p"] == pytest.approx(calibration(values).uniform.p_value)
    gap = found.table.loc["<ar>", "log_score"] - found.table.loc["iid", "log_score"]
    assert found.diebold_mariano("<ar>", "iid").difference == pytest.approx(gap, rel=1e-12)
    pd.testing.assert_series_equal(found.per_sequence().iloc[0], found.log_scores.mean(), check_names=False)


def test_report_writes_the_page_with_its_title(tmp_path: Path) -> None:
    found, _ = example()
    found.report(tmp_path / "page.html", title="A < B")
    text = (tmp_path / "page.html").read_text()
    assert "<title>A &lt; B</title>" in text
