"""Handwriting from files: InkML, a user's own copy of IAM-OnDB (which must be asked for; nothing of it is here), and
drawings such as Omniglot's.

IAM-OnDB is a folder with `lineStrokes/a01/a01-000/a01-000u-01.xml`, one file a line of writing, and
`ascii/a01/a01-000/a01-000u.txt`, whose lines after "CSR:" are the texts (Liwicki & Bunke 2005, ICDAR, 956-961). Lists
of forms such as those of Graves (2013), one name a line ("a01-000u"), choose among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from probseq.handwriting.strokes import Strokes


def read_inkml(path: str | Path) -> Strokes:
    """The traces of an InkML file (W3C 2011): the first two channels of each, and its truth annotation if there is one.

    ValueError where there is no trace, or a point has no two numbers.
    """
    path = Path(path)
    root = _tree(path)
    text = next((e.text for e in root.iter() if _tag(e) == "annotation" and e.get("type") in ("truth", "label")), None)
    traces = [_trace(element.text or "", path) for element in root.iter() if _tag(element) == "trace"]
    if not traces:
        raise ValueError(f"{path.name} must have at least one <trace>, it has none")
    return Strokes.from_traces(traces, None if text is None else text.strip())


def read_iam(folder: str | Path, forms: str | Path | None = None) -> list[Strokes]:
    """The lines of IAM-OnDB in `folder`, in the order of their names; of the forms in the file `forms` if given.

    FileNotFoundError where `folder` has no lineStrokes; ValueError where a listed form has no line.
    """
    folder = Path(folder)
    if not (folder / "lineStrokes").is_dir():
        raise FileNotFoundError(f"{folder} must have a folder lineStrokes, as IAM-OnDB has")
    files = sorted((folder / "lineStrokes").rglob("*.xml"))
    if forms is not None:
        wanted = set(Path(forms).read_text(encoding="utf-8").split())
        files = [file for file in files if _form(file) in wanted]
        missing = sorted(wanted - {_form(file) for file in files})
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(wanted)} listed forms have no line in {folder}, first {missing[0]}"
            )
    return list(_lines(folder, files))


def read_sketches(path: str | Path, part: str = "train") -> list[Strokes]:
    """Drawings from an .npz file with `<part>_points` (n, 3), rows dx, dy, lifted one after another, and `_lengths`.

    Such as Omniglot's (Lake, Salakhutdinov & Tenenbaum 2015, Science 350; hardmaru/sketch-rnn-datasets) re-packed
    without pickled objects. ValueError where there is no such part.
    """
    with np.load(path, allow_pickle=False) as file:
        parts = sorted(name.removesuffix("_points") for name in file.files if name.endswith("_points"))
        if part not in parts:
            raise ValueError(f"part must be one of {', '.join(parts)}, got {part!r}")
        points, lengths = file[f"{part}_points"], file[f"{part}_lengths"]
    return [Strokes.from_array(rows) for rows in np.split(points, lengths.cumsum()[:-1])]


def _lines(folder: Path, files: list[Path]) -> Iterator[Strokes]:
    texts: dict[Path, list[str]] = {}
    for file in files:
        written = folder / "ascii" / file.relative_to(folder / "lineStrokes").parent / f"{_form(file)}.txt"
        if written not in texts:
            texts[written] = _transcript(written) if written.exists() else []
        number = int(file.stem.rsplit("-", 1)[1]) - 1
        text = texts[written][number] if number < len(texts[written]) else None
        yield Strokes.from_traces(
            [
                [(float(point.get("x", "nan")), float(point.get("y", "nan"))) for point in stroke.iter("Point")]
                for stroke in _tree(file).iter("Stroke")
            ],
            text,
        )


def _transcript(path: Path) -> list[str]:
    """The lines after "CSR:", the corrected text."""
    _, _, after = path.read_text(encoding="utf-8").partition("CSR:")
    return [line.strip() for line in after.splitlines() if line.strip()]


def _form(file: Path) -> str:
    return file.stem.rsplit("-", 1)[0]


def _tree(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path.name} must be XML: {error}") from None


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _trace(text: str, path: Path) -> np.ndarray:
    try:
        points = [[float(word) for word in point.split()[:2]] for point in text.split(",") if point.strip()]
        return np.array(points, np.float64).reshape(len(points), 2)
    except ValueError:
        raise ValueError(f"{path.name}: a trace must be points 'x y, x y, ...', got {text.strip()[:40]!r}") from None
