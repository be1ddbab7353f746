"""The README's code runs and says what the library does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_family_in_one_file_is_the_one_in_the_zoo():
    source = (ROOT / "tests" / "poisson_gamma.py").read_text()
    (family,) = [block for block in blocks() if "class PoissonGamma" in block]
    assert family.strip() == source[source.index("from typing import") :].strip()


def test_files_named_in_the_readme_exist():
    for path in re.findall(r"\]\(([^)h#][^)]*)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.filterwarnings("ignore::probseq.errors.ConvergenceWarning")
def test_the_quick_start_runs(capsys):
    quick, streaming = blocks()[:2]
    assert len([line for line in quick.splitlines() if line.strip()]) <= 16
    names: dict[str, object] = {}
    exec(compile(quick, "README", "exec"), names)
    exec(compile(streaming, "README", "exec"), names)
    printed = capsys.readouterr().out
    for word in ("AR(2)", "LDS", "HMM", "GRU", "random walk", "iid", "1975", "nats"):
        assert word in printed
