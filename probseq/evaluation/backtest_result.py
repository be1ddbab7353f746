"""The result of a back-test: every score of every forecast, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probseq.evaluation.calibration import Calibration, calibration
from probseq.evaluation.judging import SCORES
from probseq.evaluation.point_scores import naive_scale, rmse
from probseq.evaluation.scores import default_bandwidth, hac_standard_error, mean_score
from probseq.evaluation.significance import (
    ConfidenceSet,
    DieboldMariano,
    diebold_mariano,
    model_confidence_set,
)
from probseq.evaluation.stacking import stacking_weights
from probseq.evaluation.text_table import aligned, number
from probseq.sequences import Sequences

#: whether more of a score is better; the others have no such direction
SIGN = {"log_score": 1.0, "crps": -1.0, "energy": -1.0, "interval_score": -1.0}


@dataclass(frozen=True, repr=False)
class Backtest:
    """What `backtest` found; `print` it for a table.

    | field     | is                                                                                          |
    |-----------|---------------------------------------------------------------------------------------------|
    | `scores`  | a row per model, sequence, origin and horizon, with every score of `evaluation.judging`      |
    | `fits`    | a row per fit: training steps, seconds, warnings, and the error of one that failed          |
    | `stopped` | "complete", "time budget" or "interrupted"; `done` of `planned` fits are there              |
    """

    scores: Any
    fits: Any
    done: int
    planned: int
    stopped: str
    data: Sequences = field(repr=False)
    horizons: tuple[int, ...]
    first: NDArray[np.int64]
    level: float
    scheme: str

    @staticmethod
    def of(done: list[Any], planned: int, stopped: str, data: Sequences, plan: Any) -> Backtest:
        """Put the pieces of all tasks into two tables."""
        import pandas as pd

        records = [pd.DataFrame(record) for one in done for record in one.scores]
        order = ["model", "horizon", "sequence", "target"]
        columns = [*order[:1], "sequence", "origin", "target", "horizon", *SCORES, "likelihood"]
        scores: Any = pd.concat(records, ignore_index=True) if records else pd.DataFrame(columns=columns)
        scores = scores[columns].sort_values(by=order, ignore_index=True)
        fits = pd.DataFrame([row for one in done for row in one.fits])
        kind = "expanding" if plan.window is None else f"rolling windows of {plan.window} steps"
        every = f"a refit every {plan.refit_every} origins" if plan.refit_every > 1 else "a refit at every origin"
        gap = f", {plan.gap} steps withheld" if plan.gap else ""
        scheme = f"{kind}, origins {plan.step} apart, {every}{gap}"
        return Backtest(
            scores, fits, len(done), planned, stopped, data, plan.horizons, plan.first.numpy(), plan.level, scheme
        )

    @property
    def models(self) -> list[str]:
        """Names, the best log score at the shortest horizon first."""
        first = self.scores[self.scores["horizon"] == self.horizons[0]]
        return [str(name) for name in first.groupby("model")["log_score"].mean().sort_values(ascending=False).index]

    # ---- tables

    def per_horizon(self) -> Any:
        """Means by (model, horizon), with Newey-West errors (at least h - 1 lags), coverage, RMSE, MASE and counts."""
        import pandas as pd

        unit = naive_scale(self._training())
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for name in self.models:
            for h in self.horizons:
                part = self._part(name, h)
                table = self.table_of("log_score", h)[name].to_numpy()
                lags = max(default_bandwidth(max(len(part), 1)), h - 1)
                rows[name, h] = {
                    "log_score": mean_score(part["log_score"]),
                    "log_score_se": hac_standard_error(self._rows(table, h), lags),
                    **{score: mean_score(part[score]) for score in ("crps", "energy", "interval_score")},
                    "coverage": mean_score(part["inside"]),
                    "rmse": rmse(part["error"]),
                    "mase": mean_score(np.abs(part["error"])) / float(unit[0]) if len(unit) == 1 else float("nan"),
                    "n": len(part),
                    "likelihood": "/".join(sorted(set(part["likelihood"]))),
                }
        return pd.DataFrame(rows).T.rename_axis(index=["model", "horizon"])

    def per_sequence(self, horizon: int | None = None) -> Any:
        """Mean scores by (model, sequence)."""
        h = self.horizons[0] if horizon is None else self._known(horizon)
        part = self.scores[self.scores["horizon"] == h]
        return part.groupby(["model", "sequence"])[["log_score", "crps", "interval_score", "inside"]].mean()

    def per_step(self, horizon: int | None = None) -> Any:
        """Mean log score by target step (rows) and model, over sequences."""
        h = self.horizons[0] if horizon is None else self._known(horizon)
        part = self.scores[self.scores["horizon"] == h]
        return part.pivot_table(index="target", columns="model", values="log_score", aggfunc="mean")

    def table_of(self, score: str, horizon: int) -> Any:
        """One score, a row per (sequence, target) and a column per model, NaN where a model has none."""
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        part = self.scores[self.scores["horizon"] == self._known(horizon)]
        return part.pivot(index=["sequence", "target"], columns="model", values=score)

    # ---- what follows

    def diebold_mariano(
        self, first: str, second: str, *, horizon: int | None = None, score: str = "log_score", **options: Any
    ) -> DieboldMariano:
        """Test equal scores of two models at the targets that both have; positive differences favour the first.

        `options` go to `evaluation.diebold_mariano`. ValueError for log scores of different kinds.
        """
        h = self.horizons[0] if horizon is None else horizon
        table = self._directed(score, h, [first, second])
        a, b = (self._rows(table[name].to_numpy(), h) for name in (first, second))
        return diebold_mariano(a, b, horizon=h, **options)

    def confidence_set(self, *, horizon: int | None = None, score: str = "log_score", **options: Any) -> ConfidenceSet:
        """The models that cannot be told from the best; see `evaluation.model_confidence_set`."""
        h = self.horizons[0] if horizon is None else horizon
        table = self._directed(score, h, self.models)
        return model_confidence_set({name: self._rows(table[name].to_numpy(), h) for name in self.models}, **options)

    def stacking_weights(self, *, horizon: int | None = None) -> dict[str, float]:
        """Weights of the linear pool with the best log score at these targets."""
        h = self.horizons[0] if horizon is None else horizon
        return stacking_weights(self._directed("log_score", h, self.models), self.models)

    def calibration(self, model: str, *, horizon: int | None = None) -> Calibration:
        """Tests of the PIT values of one model. Forecasts of more than one step overlap: there they are indicative."""
        h = self.horizons[0] if horizon is None else horizon
        values = self.table_of("pit", h)[model].to_numpy()
        return calibration(self._rows(values.astype(np.float64), h))

    # ---- text

    def __repr__(self) -> str:
        per = self.per_horizon()
        head = ["", "h", "log score", "(se)", "CRPS", "interval", "cover", "RMSE", "targets", "likelihood"]
        rows = [head]
        for (name, h), row in per.iterrows():
            cells = [number(row["log_score"], ".3f"), number(row["log_score_se"], "(.3f)")]
            cells += [number(row[score], "#.4g") for score in ("crps", "interval_score")]
            cells += [number(row["coverage"], ".0%"), number(row["rmse"], "#.4g"), str(row["n"])]
            rows.append([str(name), str(h), *cells, str(row["likelihood"])])
        failed = int((self.fits["error"] != "").sum()) if len(self.fits) else 0
        lines = [
            f"back-test: {self.scheme}",
            f"{self.done} of {self.planned} fits ({self.stopped})",
            "",
            *aligned(rows),
        ]
        lines += [
            "",
            "log score: mean log p(target | data known at the origin), nats, higher is better; the rest lower",
        ]
        lines += [f"cover: share of targets inside the central {self.level:.0%} interval"]
        if failed:
            lines.append(f"{failed} fits failed: see .fits")
        return "\n".join(lines)

    # ---- inside

    def _known(self, horizon: int) -> int:
        if horizon not in self.horizons:
            raise ValueError(f"horizon must be one of {self.horizons}, got {horizon!r}")
        return horizon

    def _part(self, name: str, horizon: int) -> Any:
        return self.scores[(self.scores["model"] == name) & (self.scores["horizon"] == horizon)]

    def _directed(self, score: str, horizon: int, names: list[str]) -> Any:
        """Scores of these models, higher is better; log scores of one kind only."""
        if score not in SIGN:
            raise ValueError(f"score must be one of {', '.join(SIGN)} to rank models, got {score!r}")
        table = self.table_of(score, horizon)
        unknown = [name for name in names if name not in table.columns]
        if unknown:
            raise ValueError(f"there are no scores of {unknown}; the models are {list(table.columns)}")
        if score == "log_score":
            kinds = {name: set(self._part(name, horizon)["likelihood"]) for name in names}
            if len(set.union(*kinds.values())) > 1:
                said = ", ".join(f"{name} {'/'.join(sorted(own))}" for name, own in kinds.items())
                raise ValueError(f"log scores of different kinds are not ranked ({said}); score='crps' ranks them")
        return table[names] * SIGN[score]

    def _rows(self, values: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
        """Values of the rows of `table_of` as (sequences, targets), NaN between."""
        index = self.table_of("log_score", horizon).index
        sequences, targets = (index.get_level_values(name).to_numpy() for name in ("sequence", "target"))
        step = np.gcd.reduce(np.diff(np.unique(targets))) if len(np.unique(targets)) > 1 else 1
        known = np.unique(sequences)
        place = (targets - targets.min()) // step
        table = np.full((len(known), int(place.max()) + 1), np.nan)
        table[np.searchsorted(known, sequences), place] = values
        return table

    def _training(self) -> list[Any]:
        flat = self.data.flat()
        return [flat.values[i, : int(end)] for i, end in enumerate(self.first)]
