"""The result of a comparison: tables, the fitted models, a text, a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.sequences import Sequences


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `compare` found. `print` it for a readable table with units; `plot` it for a picture.

    | field             | is                                                                                     |
    |-------------------|----------------------------------------------------------------------------------------|
    | `table`           | one row per model, the best first: scores, standard errors, sizes (a pandas DataFrame) |
    | `log_scores`      | log p(y_t given all earlier y) per test step (rows, index of the data) and model       |
    | `forecast_scores` | CRPS with its standard error, coverage and number of targets per (model, horizon)      |
    | `models`          | the fitted copies, baselines included                                                  |
    | `warnings`        | what each fit warned of                                                                |
    """

    table: Any
    log_scores: Any
    forecast_scores: Any
    models: dict[str, StateSpaceModel[Any]]
    warnings: dict[str, list[str]]
    data: Sequences = field(repr=False)
    train_lengths: Tensor = field(repr=False)
    horizons: tuple[int, ...]
    level: float
    bandwidth: int
    seed: int

    def __repr__(self) -> str:
        return self.to_text()

    def to_text(self, *, with_warnings: bool = True) -> str:
        """The table for reading, with units and how the standard errors were computed."""
        lines = [self._title(), "", *_aligned(self._rows()), "", *self._legend()]
        if with_warnings:
            lines += [f"{name}: {message}" for name, messages in self.warnings.items() for message in messages]
        return "\n".join(lines)

    def plot(self, axes: Any = None, *, column: int = 0) -> Any:
        """Data with forecast fans above, cumulative score differences below; returns the matplotlib Figure.

        `axes` are two existing axes to draw into, `column` the coordinate shown above.
        """
        from probseq.evaluation.comparison_plot import draw

        return draw(self, axes, column)

    def _title(self) -> str:
        n_sequences = self.train_lengths.numel()
        over = "" if n_sequences == 1 else f" over {n_sequences} sequences"
        n_steps = int(self.log_scores.notna().any(axis=1).sum())
        n_train = int(self.train_lengths.sum())
        return f"{n_steps} observed test steps after {n_train} training steps{over}, no refits"

    def _rows(self) -> list[list[str]]:
        """Header and body cells; an empty row stands between groups that are not ranked against each other."""
        ahead = [f"h={h}" for h in self.horizons]
        head = ["", "log score", "(se)", "to best", "(se)", *(f"CRPS {h}" for h in ahead[:1]), *ahead[1:]]
        head += [f"cover {h}" for h in ahead[:1]] + ahead[1:] + ["parameters", "fit s", "likelihood"]
        rows, group = [head], None
        for name, row in self.table.iterrows():
            if group not in (None, row["likelihood"]):
                rows.append([])
            best = group != row["likelihood"]
            group = row["likelihood"]
            rows.append(
                [
                    str(name),
                    _number(row["log_score"], ".3f"),
                    _number(row["log_score_se"], "(.3f)"),
                    "best" if best else _number(row["difference"], ".3f"),
                    "" if best else _number(row["difference_se"], "(.3f)"),
                    *(_number(row[f"crps_{h}"], "#.4g") for h in self.horizons),
                    *(_number(row[f"coverage_{h}"], ".0%") for h in self.horizons),
                    str(row["parameters"]),
                    _number(row["fit_seconds"], ".1f"),
                    group,
                ]
            )
        return rows

    def _legend(self) -> list[str]:
        lags = "1 lag" if self.bandwidth == 1 else f"{self.bandwidth} lags"
        lines = [
            "log score: mean log p(y_t | all earlier y), nats per observed test step, higher is better",
            f"(se): Newey-West standard errors (Bartlett kernel, {lags}) of the mean and of the paired difference",
            "CRPS: mean over rolling origins, h steps ahead, in the units of y, lower is better",
            f"cover: share of targets inside the central {self.level:.0%} interval",
        ]
        if self.table["likelihood"].nunique() > 1:
            lines.append("likelihoods of different kinds are not comparable: each group has its own best")
        return lines


def _number(value: float, form: str) -> str:
    """A formatted number, a dash where there is none; "(.3f)" puts it in parentheses."""
    if math.isnan(value):
        return "-"
    return f"({value:{form[1:-1]}})" if form.startswith("(") else f"{value:{form}}".rstrip(".")


def _aligned(rows: list[list[str]]) -> list[str]:
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
