"""Types are checked from the first import on; a run of the law suite prints which laws do not concern a family."""

from __future__ import annotations

import gc
from collections import defaultdict
from typing import Any

from tests import typed

typed.install()


def pytest_collection_finish() -> None:
    """All that was imported stays: the collector need not look at it again, and at what compiling leaves, rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """One line per law and reason: which rows it does not run on."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    if not any("test_laws" in getattr(report, "nodeid", "") for report in reports):
        return
    from tests.laws import LAWS
    from tests.zoo import ROWS

    terminalreporter.write_sep("-", f"laws not run ({len(LAWS)} laws, {len(ROWS)} rows)")
    for law in LAWS:
        excused: dict[str, list[str]] = defaultdict(list)
        for row in ROWS:
            reason = law.excuse(row)
            if reason is not None:
                excused[reason].append(row.name)
        for reason, names in excused.items():
            terminalreporter.write_line(f"law {law.name:4} {law.title}: {reason} ({_short(names, ROWS)})")


def _short(names: list[str], rows: Any) -> str:
    """Whole families by their prefix, the others by name."""
    families = {name.partition("-")[0] for name in names}
    whole = {f for f in families if all(r.name in names for r in rows if r.name.partition("-")[0] == f)}
    kept = [name for name in names if name.partition("-")[0] not in whole]
    return ", ".join([f"every {family}" for family in sorted(whole)] + kept)
