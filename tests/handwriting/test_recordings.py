"""Files as other programs write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from probseq.handwriting import read_iam, read_inkml

INKML = """<ink xmlns="http://www.w3.org/2003/InkML"><annotation type="truth"> hi </annotation>
<trace id="0">10 0, 9 -5, 8 -10 7</trace><trace>
 1.5 2, 3 4</trace></ink>"""


def iam(folder: Path) -> Path:
    """Two forms, three lines, made up in IAM-OnDB's layout."""
    for form, n_lines in (("a01-000u", 2), ("a01-000x", 1)):
        strokes, ascii = folder / "lineStrokes/a01/a01-000", folder / "ascii/a01/a01-000"
        strokes.mkdir(parents=True, exist_ok=True)
        ascii.mkdir(parents=True, exist_ok=True)
        lines = "\n".join(f"{form} line {k + 1}" for k in range(n_lines))
        (ascii / f"{form}.txt").write_text(f"OCR:\n\nwrong\n\nCSR:\n\n{lines}\n")
        for k in range(n_lines):
            stroke = f'<Stroke><Point x="{k}" y="1" time="0"/><Point x="{k + 2}" y="4" time="0.1"/></Stroke>'
            text = f"<WhiteboardCaptureSession><StrokeSet>{stroke}{stroke}</StrokeSet></WhiteboardCaptureSession>"
            (strokes / f"{form}-0{k + 1}.xml").write_text(text)
    return folder


def test_inkml(tmp_path):
    (tmp_path / "a.inkml").write_text(INKML)
    read = read_inkml(tmp_path / "a.inkml")
    assert read.text == "hi"
    np.testing.assert_allclose(read.points, [[0, 0], [-1, -5], [-2, -10], [-8.5, 2], [-7, 4]])
    np.testing.assert_array_equal(read.lifts, [0, 0, 1, 0, 1])


def test_iam_lines_and_their_texts(tmp_path):
    lines = read_iam(iam(tmp_path))
    assert [line.text for line in lines] == ["a01-000u line 1", "a01-000u line 2", "a01-000x line 1"]
    np.testing.assert_allclose(lines[1].offsets, [[0, 0], [2, 3], [-2, -3], [2, 3]])
    np.testing.assert_array_equal(lines[1].lifts, [0, 1, 0, 1])


def test_lists_choose_forms(tmp_path):
    folder = iam(tmp_path)
    (tmp_path / "trainset.txt").write_text("a01-000x\n")
    assert [line.text for line in read_iam(folder, tmp_path / "trainset.txt")] == ["a01-000x line 1"]
    (tmp_path / "trainset.txt").write_text("a01-000x\nz99-999z\n")
    with pytest.raises(ValueError, match=r"1 of 2 listed forms have no line .* z99-999z"):
        read_iam(folder, tmp_path / "trainset.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<ink/>", "at least one <trace>"),
        ("<ink><trace>1 2, 3</trace></ink>", "a trace must be points"),
        ("ink", "XML"),
    ],
)
def test_broken_inkml_is_refused(tmp_path, content, message):
    (tmp_path / "a.inkml").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_inkml(tmp_path / "a.inkml")


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="lineStrokes"):
        read_iam(tmp_path)
