"""The result of a comparison: tables, the fitted models, a text, a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.evaluation.calibration import calibration
from probseq.evaluation.significance import DieboldMariano, diebold_mariano
from probseq.evaluation.text_table import aligned, number
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
        lines = [self.title, "", *aligned(self.to_rows()), "", *self.legend()]
        if with_warnings:
            lines += [f"{name}: {message}" for name, messages in self.warnings.items() for message in messages]
        return "\n".join(lines)

    def plot(self, axes: Any = None, *, column: int = 0) -> Any:
        """Data with forecast fans above, cumulative score differences below; returns the matplotlib Figure.

        `axes` are two existing axes to draw into, `column` the coordinate shown above.
        """
        from probseq.evaluation.comparison_plot import draw

        return draw(self, axes, column)

    def report(self, path: Any, *, title: str | None = None) -> None:
        """Write one self-contained HTML page: table, forecasts, calibration, score differences, beliefs."""
        from probseq.evaluation.report import write_report

        write_report(self, path, title=title)

    # ---- more of what was found

    def ranked(self) -> list[tuple[str, StateSpaceModel[Any]]]:
        """The fitted models in the order of the table."""
        return [(str(name), self.models[str(name)]) for name in self.table.index]

    @property
    def shown_origin(self) -> int:
        """The step that pictures of the first sequence forecast from: the end of its training part, or half way."""
        n_train = int(self.train_lengths[0])
        return n_train if n_train else int(self.data.lengths.reshape(-1)[0]) // 2

    def score_rows(self, name: str) -> Any:
        """log scores of one model as (sequences, steps), NaN where there is none."""
        lengths = self.data.lengths.reshape(-1).tolist()
        spans = zip(lengths, self.train_lengths.tolist(), strict=True)
        sizes = [length - start for length, start in spans if length > start]
        parts = np.split(self.log_scores[name].to_numpy(), np.cumsum(sizes)[:-1])
        table = np.full((len(parts), max(sizes)), np.nan)
        for row, part in zip(table, parts, strict=True):
            row[: len(part)] = part
        return table[~np.isnan(table).all(1)]

    def per_sequence(self) -> Any:
        """Mean log score by sequence (rows) and model, of the sequences with a test part."""
        if self.train_lengths.numel() == 1:
            return self.log_scores.mean().to_frame().T
        return self.log_scores.groupby(level="sequence").mean()

    def pit_values(self) -> dict[str, Any]:
        """Probability integral transforms of the first column at the test steps by model, (B, T)."""
        from probseq.evaluation.report_figures import table_pit

        return {name: table_pit(model, self.data, self.train_lengths, self.seed) for name, model in self.ranked()}

    def calibration(self) -> Any:
        """Tests of these transforms, a row per model (`evaluation.calibration`); models without any are left out."""
        import pandas as pd

        rows: dict[str, dict[str, float]] = {}
        for name, values in self.pit_values().items():
            if int((~np.isnan(values)).sum()) < 8:
                continue
            found = calibration(values)
            rows[name] = {"n": found.n, "inside_50": found.inside_50, "inside_90": found.inside_90}
            for test in ("uniform", "berkowitz", "coverage_90", "independence_90"):
                rows[name][f"{test}_p"] = getattr(found, test).p_value
        return pd.DataFrame(rows).T.rename_axis(index="model")

    def diebold_mariano(self, first: str, second: str, **options: Any) -> DieboldMariano:
        """Test equal log scores of two models of one kind; positive differences favour the first."""
        kinds = [self.table.loc[name, "likelihood"] for name in (first, second)]
        if len(set(kinds)) > 1:
            raise ValueError(f"log scores of kinds {kinds[0]!r} and {kinds[1]!r} are not on one scale")
        return diebold_mariano(self.score_rows(first), self.score_rows(second), **options)

    # ---- text

    @property
    def title(self) -> str:
        """How many steps were scored after how many of training."""
        held_out = int((self.train_lengths == 0).sum())
        if held_out:
            n_rest = self.train_lengths.numel() - held_out
            n_steps = int(self.log_scores.notna().any(axis=1).sum())
            n_train = int(self.train_lengths.sum())
            return f"{n_steps} observed steps of {held_out} held-out sequences, {n_train} training steps of {n_rest}"
        n_sequences = self.train_lengths.numel()
        over = "" if n_sequences == 1 else f" over {n_sequences} sequences"
        n_steps = int(self.log_scores.notna().any(axis=1).sum())
        n_train = int(self.train_lengths.sum())
        return f"{n_steps} observed test steps after {n_train} training steps{over}, no refits"

    def to_rows(self) -> list[list[str]]:
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
                    number(row["log_score"], ".3f"),
                    number(row["log_score_se"], "(.3f)"),
                    "best" if best else number(row["difference"], ".3f"),
                    "" if best else number(row["difference_se"], "(.3f)"),
                    *(number(row[f"crps_{h}"], "#.4g") for h in self.horizons),
                    *(number(row[f"coverage_{h}"], ".0%") for h in self.horizons),
                    str(row["parameters"]),
                    number(row["fit_seconds"], ".1f"),
                    group,
                ]
            )
        return rows

    def legend(self) -> list[str]:
        """What the columns are, a line each."""
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
