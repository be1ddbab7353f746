"""Every tutorial runs, writes its figure where it is told and prints its number beside a trivial baseline."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
#: result: -6.197 nats per year for the hidden Markov model (trivial baseline: -6.420, the random walk)
RESULT = re.compile(rf"^result: ({NUMBER}) .*\(trivial baseline: ({NUMBER})\b.*\)$", re.MULTILINE)


#: libraries beyond those of the extra "plot" that a tutorial needs
NEEDS = {"13_search_space": "optuna"}


def run(tutorial: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", str(tutorial), "--smoke", "--output", str(folder / "figure.png")]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_there_are_tutorials() -> None:
    assert TUTORIALS


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs_and_prints_its_number(tutorial: Path, tmp_path: Path) -> None:
    if tutorial.stem in NEEDS:
        pytest.importorskip(NEEDS[tutorial.stem], reason="an optional extra")
    before = {path: path.stat().st_mtime for path in ROOT.rglob("*.png")}
    done = run(tutorial, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(RESULT.findall(done.stdout)) == 1, done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert {path: path.stat().st_mtime for path in ROOT.rglob("*.png")} == before


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("result: -6.197 nats per year (trivial baseline: -6.420, iid)", [("-6.197", "-6.420")]),
        ("result: 3e-4 error (trivial baseline: 1)", [("3e-4", "1")]),
        ("result: nan nats per year (trivial baseline: -6.420)", []),
        ("result: -6.197 nats per year", []),
    ],
)
def test_the_pattern_wants_both_numbers(line: str, found: list[tuple[str, str]]) -> None:
    assert RESULT.findall(f"before\n{line}\nafter") == found
