"""Every law on every row of the zoo that it concerns, for fixed cases; many more are drawn in the slow run."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

from tests.laws import LAWS, REDUCTIONS, SCALES, Case, Law, law_16
from tests.zoo import ROWS, Row

#: what a law looks at first comes first: a single step; gaps; all data there; no data; the largest unit
CASES = [
    Case(seed=1, steps=1),
    Case(seed=7268, steps=6, batch=(3,), missing=0.3, scale=1e-8),
    Case(seed=3, steps=6, batch=(2, 2), scale=1e-8),
    Case(seed=428, steps=6, batch=(2, 2), missing=1.0, scale=1e8),
    Case(seed=4, steps=5, missing=0.4),
    Case(seed=2, steps=2, batch=(2,), missing=0.3, scale=1e8),
]
#: laws whose statement is about one sequence, or about complete data
SINGLE = {"04", "04b"}
COMPLETE = {"02", "04b"}

PAIRS = [(law, row) for law in LAWS for row in ROWS if law.excuse(row) is None]


def drawn(pair: tuple[Law, Row], count: int) -> list[Case]:
    """Cases of the pair's own."""
    rng = np.random.default_rng(zlib.crc32(identity(pair).encode()))
    return [
        Case(
            seed=int(rng.integers(10_001)),
            steps=int(rng.integers(1, 7)),
            batch=[(), (1,), (3,), (2, 2)][rng.integers(4)],
            missing=[0.0, 0.3, 1.0][rng.integers(3)],
            scale=SCALES[rng.integers(3)],
        )
        for _ in range(count)
    ]


def fit_for(law: Law, case: Case) -> Case:
    """The case as far as the law's statement covers it."""
    batch = () if law.name in SINGLE else case.batch
    return Case(case.seed, case.steps, batch, 0.0 if law.name in COMPLETE else case.missing, case.scale)


def identity(pair: Any) -> str:
    law, row = pair
    return f"law{law.name}-{row.name}"


@pytest.mark.parametrize("pair", PAIRS, ids=identity)
def test_law(pair: tuple[Law, Row]) -> None:
    law, row = pair
    for case in CASES[: law.examples]:
        law.check(row, fit_for(law, case))


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_laws_on_drawn_cases(row: Row) -> None:
    failed = []
    for pair in (pair for pair in PAIRS if pair[1] is row):
        for case in drawn(pair, 2 * pair[0].examples):
            try:
                pair[0].check(row, fit_for(pair[0], case))
            except (AssertionError, RuntimeError, ValueError) as error:
                failed.append(f"{identity(pair)}, {case}: {error}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_law16(name: str, scale: float) -> None:
    law_16(name, scale)
