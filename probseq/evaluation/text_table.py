"""Tables of results as text: how numbers and columns are written."""

from __future__ import annotations

import math


def number(value: float, form: str) -> str:
    """A formatted number, a dash where there is none; "(.3f)" puts it in parentheses."""
    if math.isnan(value):
        return "-"
    return f"({value:{form[1:-1]}})" if form.startswith("(") else f"{value:{form}}".rstrip(".")


def aligned(rows: list[list[str]]) -> list[str]:
    """Columns of equal width: the first and the last to the left, numbers to the right; a rule under the header."""
    widths = [max(len(row[i]) for row in rows if row) for i in range(len(rows[0]))]
    last = len(widths) - 1
    lines = [
        "  ".join(
            c.ljust(w) if i in (0, last) else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=False))
        )
        for row in rows
    ]
    lines = [line.rstrip() for line in lines]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
