"""Back-tests against plain loops over origins that fit and forecast one at a time."""

from __future__ import annotations

import sys
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import scoringrules
import torch
from scipy import special, stats

import probseq as ps
from probseq.evaluation import parallel
from probseq.evaluation.backtest import backtest as run
from probseq.evaluation.parallel import run_tasks


def series(n: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y = np.zeros(n)
    for t in range(1, n):
        y[t] = 0.8 * y[t - 1] + rng.normal()
    return 5 + 2 * y


def record(found: Any, model: str, horizon: int, target: int, sequence: int = 0) -> Any:
    s = found.scores
    rows = s[(s["model"] == model) & (s["horizon"] == horizon) & (s["target"] == target) & (s["sequence"] == sequence)]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize(("window", "gap"), [(None, 0), (15, 0), (None, 3), (15, 2)])
def test_scores_are_those_of_a_loop_that_refits_at_every_origin(window: int | None, gap: int) -> None:
    y = series()
    found = run({"ar": ps.AR(1)}, y, first=30, step=3, window=window, gap=gap, horizons=(1, 2), baselines=False)
    for origin in range(30, 39, 3):
        start = 0 if window is None else origin - gap - window
        known = y[start : origin - gap]
        model = ps.AR(1).fit(known, seed=0)
        forecast = model.forecast(known, gap + 2)
        low, high = forecast.interval(0.9)
        for h in (1, 2):
            if origin + h > 40:
                continue
            row = record(found, "ar", h, origin + h - 1)
            at = gap + h - 1
            mean, deviation = forecast.mean[at, 0].item(), forecast.distribution.variance[at, 0].sqrt().item()
            target = y[origin + h - 1]
            assert row["origin"] == origin
            assert row["log_score"] == pytest.approx(stats.norm.logpdf(target, mean, deviation), rel=1e-9)
            assert row["crps"] == pytest.approx(scoringrules.crps_normal(target, mean, deviation), rel=1e-9)
            assert row["error"] == pytest.approx(target - mean, rel=1e-9)
            assert row["pit"] == pytest.approx(stats.norm.cdf(target, mean, deviation), rel=1e-9)
            ends = low[at, 0].item(), high[at, 0].item()
            assert row["interval_score"] == pytest.approx(scoringrules.interval_score(target, *ends, 0.1), rel=1e-9)
            assert row["inside"] == (ends[0] <= target <= ends[1])
    assert sorted(found.scores["origin"].unique()) == [30, 33, 36, 39]


def test_between_refits_the_model_reads_on_with_its_old_parameters() -> None:
    y = series()
    found = run({"ar": ps.AR(1)}, y, first=30, refit_every=4, baselines=False)
    for begin in (30, 34, 38):
        scores = ps.AR(1).fit(y[:begin], seed=0).filter(y).log_prob
        for target in range(begin, min(begin + 4, 40)):
            assert record(found, "ar", 1, target)["log_score"] == pytest.approx(scores[target].item(), rel=1e-9)
    assert len(found.fits) == 3
    whole = run({"ar": ps.AR(1)}, y, first=30, refit_every=100)
    same = ps.compare({"ar": ps.AR(1)}, y, train=30, horizons=(1,))
    for name in ("ar", "random walk", "iid"):
        np.testing.assert_allclose(whole.table_of("log_score", 1)[name], same.log_scores[name], rtol=1e-9)


def test_a_panel_is_fitted_together_or_each_on_its_own() -> None:
    y = [series(30, 1), series(24, 2)]
    y[1][3] = np.nan
    pooled = run({"ar": ps.AR(1)}, y, first=20, step=5, baselines=False)
    each = run({"ar": ps.AR(1)}, y, first=20, step=5, panel="each", baselines=False)
    together = ps.AR(1).fit([one[:20] for one in y], seed=0)
    for i, one in enumerate(y):
        alone = ps.AR(1).fit(one[:20], seed=0)
        for found, model in ((pooled, together), (each, alone)):
            expected = model.filter(one).log_prob[20].item()
            assert record(found, "ar", 1, 20, sequence=i)["log_score"] == pytest.approx(expected, rel=1e-9)
    assert sorted(pooled.scores[pooled.scores["sequence"] == 1]["target"]) == [20]
    assert pooled.per_sequence().shape == (2, 4)


def test_a_network_is_scored_by_the_mixture_over_its_paths() -> None:
    y = series()
    given = {"gru": ps.RNN(1, cell=ps.cells.GRU(3), head=ps.heads.Gaussian(), seed=0, dtype=torch.float64)}
    options = {"gru": {"max_iterations": 5}}
    found = run(
        given, y, first=38, horizons=(1, 2), refit_every=9, n_samples=4000, fit_options=options, baselines=False
    )
    model = given["gru"].__class__(**given["gru"].sizes(), seed=0).fit(y[:38], seed=0, max_iterations=5)
    paths = model.forecast(y[:38], 2, n_samples=4000, seed=1).distribution
    expected = paths.log_prob(torch.as_tensor(y[38:, None]))[1].item()
    row = record(found, "gru", 2, 39)
    assert row["log_score"] == pytest.approx(expected, abs=0.05)
    assert (row["likelihood"], record(found, "gru", 1, 38)["likelihood"]) == ("estimate", "exact")
    parts = paths.component_distribution.log_prob(torch.as_tensor(y[38:, None]).unsqueeze(1))
    assert special.logsumexp(parts[1].numpy()) - np.log(4000) == pytest.approx(expected, rel=1e-9)


def test_inputs_reach_fits_and_forecasts() -> None:
    rng = np.random.default_rng(0)
    u = rng.normal(size=(40, 1))
    y = 3 * u[:, 0] + 0.1 * rng.normal(size=40)
    found = run({"lds": ps.LDS(1, 1, input_dim=1)}, y, u, first=30, step=5, horizons=(1, 2))
    table = found.per_horizon()
    assert table.loc[("lds", 1), "rmse"] < 0.5 < table.loc[("iid", 1), "rmse"]


def test_jobs_and_backends_change_nothing() -> None:
    y = series()
    arguments: dict[str, Any] = {"first": 34, "step": 3, "horizons": (1, 2)}
    models = {"ar": ps.AR(1)}
    one = run(models, y, **arguments)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        threads = run(models, y, **arguments)
    pd.testing.assert_frame_equal(one.scores, threads.scores)
    assert one.stopped == threads.stopped == "complete"


@pytest.mark.slow
def test_processes_change_nothing() -> None:
    y = series()
    one, two = (run({"ar": ps.AR(1)}, y, first=34, n_jobs=n) for n in (1, 2))
    pd.testing.assert_frame_equal(one.scores, two.scores)


def test_a_spent_budget_and_ctrl_c_keep_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    y = series()
    short = run({"ar": ps.AR(1)}, y, first=30, time_budget=1e-9)
    assert (short.done, short.planned, short.stopped) == (1, 10, "time budget")
    assert set(short.scores["target"]) == {30}
    backtest = sys.modules[run.__module__]  # the package has a function of that name
    work, seen = backtest._work, []

    def interrupted(task: Any) -> Any:
        seen.append(task)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return work(task)

    monkeypatch.setattr(backtest, "_work", interrupted)
    cut = run({"ar": ps.AR(1)}, y, first=30)
    assert (cut.done, cut.stopped) == (2, "interrupted")
    assert set(cut.scores["target"]) == {30, 31}
    assert "2 of 10 fits (interrupted)" in repr(cut)


def test_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tasks(abs, [-1, -2]) == ({0: 1, 1: 2}, "complete")
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="time_budget"):
        parallel.run_tasks(abs, [1], time_budget=0)


def test_a_fit_that_fails_is_reported_and_leaves_the_others_alone() -> None:
    found = run({"ar": ps.AR(1), "long": ps.AR(30)}, series(), first=20, step=10)
    failed = found.fits[found.fits["error"] != ""]
    assert set(failed["model"]) == {"long"}
    assert "longer than the order" in failed["error"].iloc[0]
    assert "2 fits failed" in repr(found)
    assert len(found.scores[found.scores["model"] == "ar"]) == 2


def test_tests_sets_and_weights_come_from_the_tables() -> None:
    y = series(90)
    found = run({"ar": ps.AR(1)}, y, first=30, refit_every=100, horizons=(1, 3))
    table = found.table_of("log_score", 1)
    test = found.diebold_mariano("ar", "iid")
    assert test.difference == pytest.approx((table["ar"] - table["iid"]).mean(), rel=1e-12)
    assert test.n == 60
    assert found.models[0] == "ar"
    assert "ar" in found.confidence_set(n_bootstrap=200).members
    weights = found.stacking_weights()
    assert sum(weights.values()) == pytest.approx(1)
    assert found.diebold_mariano("iid", "ar", score="crps", horizon=3).difference < 0
    assert 0 <= found.calibration("ar").uniform.p_value <= 1
    per = found.per_horizon()
    part = found.scores[(found.scores["model"] == "iid") & (found.scores["horizon"] == 3)]
    assert per.loc[("iid", 3), "mase"] == pytest.approx(part["error"].abs().mean() / np.abs(np.diff(y[:30])).mean())
    assert per.loc[("iid", 3), "rmse"] == pytest.approx(np.sqrt((part["error"] ** 2).mean()))
    assert found.per_step().shape == (60, 3)


def test_log_scores_of_different_kinds_are_not_ranked() -> None:
    y = np.abs(np.round(series(30)))
    poisson = ps.HMM(2, emission=ps.emissions.Poisson(1))
    models = {"gru": ps.RNN(1, cell=ps.cells.GRU(2), head=ps.heads.Gaussian(), seed=0), "hmm": poisson}
    options = {"gru": {"max_iterations": 2}, "hmm": {"max_iterations": 5}}
    found = run(models, y, first=25, horizons=(2,), refit_every=9, fit_options=options, n_samples=50)
    with pytest.raises(ValueError, match="different kinds are not ranked"):
        found.diebold_mariano("gru", "hmm")
    assert np.isfinite(found.diebold_mariano("gru", "hmm", score="crps").p_value)
    assert "iid (discrete)" in found.models


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first": 40}, "train must leave"),
        ({"step": 0}, "step must be"),
        ({"window": 1}, "window must be"),
        ({"gap": 20}, "gap must leave a step"),
        ({"horizons": (0,)}, "horizons must be"),
        ({"refit_every": 0}, "refit_every must be"),
        ({"panel": "both"}, "panel must be"),
        ({"level": 1.0}, "level must lie"),
        ({"fit_options": {"b": {}}}, "no models"),
    ],
)
def test_what_cannot_be_tested_is_refused_in_words(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run({"a": ps.AR(1)}, series(), **arguments)


def test_unknown_names_are_refused() -> None:
    found = run({"ar": ps.AR(1)}, series(), first=38)
    with pytest.raises(ValueError, match="no scores of"):
        found.diebold_mariano("ar", "svm")
    with pytest.raises(ValueError, match="horizon must be"):
        found.per_step(2)
    with pytest.raises(ValueError, match="score must be"):
        found.table_of("accuracy", 1)
