"""Every law on every row of the zoo that it concerns, for fixed cases and for drawn ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.laws import LAWS, REDUCTIONS, SCALES, Case, Law, law_16
from tests.zoo import ROWS, Row

CASES = [
    Case(seed=1, steps=1),
    Case(seed=2, steps=2, batch=(2,), missing=0.3, scale=1e8),
    Case(seed=3, steps=6, batch=(2, 2), scale=1e-8),
    Case(seed=4, steps=5, missing=0.4),
]
#: laws whose statement is about one sequence, or about complete data
SINGLE = {"04", "04b"}
COMPLETE = {"02", "04b"}

PAIRS = [(law, row) for law in LAWS for row in ROWS if law.excuse(row) is None]

cases = st.builds(
    Case,
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 6),
    batch=st.sampled_from([(), (1,), (3,), (2, 2)]),
    missing=st.sampled_from([0.0, 0.3, 1.0]),
    scale=st.sampled_from(SCALES),
)


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

    @settings(
        max_examples=law.examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def drawn(case: Case) -> None:
        law.check(row, fit_for(law, case))

    drawn()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_law16(name: str, scale: float) -> None:
    law_16(name, scale)
