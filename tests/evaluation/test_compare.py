"""The comparison against a plain loop over origins, numpy formulas, statsmodels, and its own promises."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scoringrules
import statsmodels.api as sm
import torch
from scipy import stats

import probseq as ps
from probseq.evaluation import Comparison, compare, rolling


def series(n: int = 60, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y = np.zeros(n)
    for t in range(1, n):
        y[t] = 0.8 * y[t - 1] + rng.normal()
    return 5 + 2 * y


def hmm() -> ps.HMM:
    return ps.HMM(2, emission=ps.emissions.Gaussian(1))


def gru(**options: Any) -> ps.RNN:
    return ps.RNN(1, cell=ps.cells.GRU(3), head=ps.heads.Gaussian(), seed=0, **options)


def short(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"max_iterations": 15} for name in names}


@functools.cache
def example() -> tuple[Any, Comparison]:
    """One comparison with a gap in the training part and one in the test part."""
    y = pd.Series(series(), index=pd.period_range("2001-01", periods=60, freq="M"), name="flow")
    y.iloc[[10, 45]] = np.nan
    models = {"ar": ps.AR(1), "lds": ps.LDS(1, 1), "hmm": hmm(), "gru": gru()}
    return y, compare(models, y, train=40, horizons=(3, 1), n_samples=400, fit_options=short("gru", "lds"))


def test_log_scores_are_those_of_one_filter_given_all_earlier_data() -> None:
    y, found = example()
    for name, model in found.models.items():
        expected = model.filter(y).log_prob[40:].numpy()
        expected[5] = np.nan
        np.testing.assert_array_equal(found.log_scores[name].to_numpy(), expected)
        assert found.table.loc[name, "log_score"] == pytest.approx(np.nanmean(expected), rel=1e-12)
    pd.testing.assert_index_equal(found.log_scores.index, y.index[40:])


def test_baselines_are_there_with_their_direct_formulas() -> None:
    y, found = example()
    values = y.to_numpy()
    train, test = values[:40][~np.isnan(values[:40])], values[40:]
    marginal = stats.norm.logpdf(test, train.mean(), train.std())
    assert found.table.loc["iid", "log_score"] == pytest.approx(np.nanmean(marginal), rel=1e-6)
    place = np.flatnonzero(~np.isnan(values))
    early = place[place < 40]
    variance = np.mean(np.diff(values[early]) ** 2 / np.diff(early))
    late = place[place >= 39]
    steps = stats.norm.logpdf(values[late[1:]], values[late[:-1]], np.sqrt(variance * np.diff(late)))
    assert found.table.loc["random walk", "log_score"] == pytest.approx(steps.mean(), rel=1e-9)


def test_rows_are_in_score_order_with_paired_differences_to_the_best_of_their_kind() -> None:
    _, found = example()
    exact = found.table[found.table["likelihood"] == "exact"]
    assert exact["log_score"].is_monotonic_decreasing
    assert exact["difference"].iloc[0] == 0
    best = found.log_scores[exact.index[0]]
    for name, row in exact.iterrows():
        difference = found.log_scores[name] - best
        assert row["difference"] == pytest.approx(difference.mean(), abs=1e-12)
    assert found.table.loc["gru", "likelihood"] == "approximate"
    assert found.table.loc["gru", "difference"] == 0
    assert list(found.table.index[-1:]) == ["gru"]


def test_standard_errors_are_those_of_statsmodels() -> None:
    y = series()
    found = compare({"ar": ps.AR(1), "hmm": hmm()}, y, horizons=(1,))
    n = len(found.log_scores)
    lags = int(4 * (n / 100) ** (2 / 9))
    best = found.log_scores[found.table.index[0]]
    for name, row in found.table.iloc[1:].iterrows():
        for column, scores in (
            ("log_score_se", found.log_scores[name]),
            ("difference_se", found.log_scores[name] - best),
        ):
            fit = sm.OLS(scores.to_numpy(), np.ones(n)).fit(cov_type="HAC", cov_kwds={"maxlags": lags})
            assert row[column] == pytest.approx(fit.bse[0], rel=1e-9)
    assert found.bandwidth == lags


@pytest.mark.parametrize("name", ["ar", "lds", "hmm", "random walk"])
@pytest.mark.parametrize("h", [1, 3])
def test_crps_and_coverage_are_those_of_a_loop_over_origins(name: str, h: int) -> None:
    y, found = example()
    model, values = found.models[name], y.to_numpy()
    scores, inside = [], []
    for origin in range(39, 60 - h):
        target = values[origin + h]
        if np.isnan(target):
            continue
        forecast = model.forecast(y.iloc[: origin + 1], h)
        mean, (low, high) = forecast.mean[-1, 0].item(), forecast.interval(0.9)
        inside.append(low[-1, 0].item() <= target <= high[-1, 0].item())
        last = forecast.distribution
        if name == "hmm":
            weights, parts = last.mixture_distribution.probs[-1], model.emission
            m, s = parts.means.detach()[:, 0].numpy(), parts.covs.detach()[:, 0, 0].sqrt().numpy()
            scores.append(scoringrules.crps_mixnorm(target, m, s, weights.numpy()))
        else:
            scores.append(scoringrules.crps_normal(target, mean, last.variance[-1, 0].sqrt().item()))
    row = found.forecast_scores.loc[name, h]
    assert row["n_targets"] == len(scores) == 20 - h
    assert row["crps"] == pytest.approx(np.mean(scores), rel=1e-9)
    assert row["coverage"] == pytest.approx(np.mean(inside), rel=1e-12)
    assert found.table.loc[name, f"crps_{h}"] == row["crps"]


def test_forecasts_of_a_network_are_exact_at_one_step_and_sampled_beyond() -> None:
    y = series()
    found = compare({"gru": gru()}, y, train=40, horizons=(1, 3), n_samples=2000, fit_options=short("gru"))
    model = found.models["gru"]
    one, three = [], []
    for origin in range(39, 59):
        forecast = model.forecast(y[: origin + 1], 3, n_samples=2000, seed=origin)
        first = model.emit(model.predict(ps.at(model.filter(y[: origin + 1]).updated, -1)))
        one.append(scoringrules.crps_normal(y[origin + 1], first.mean.item(), first.stddev.item()))
        if origin + 3 < 60:
            three.append(scoringrules.crps_ensemble(y[origin + 3], forecast.samples[:, 2, 0].numpy()))
    assert found.table.loc["gru", "crps_1"] == pytest.approx(np.mean(one), rel=1e-6)  # a float32 network
    assert found.table.loc["gru", "crps_3"] == pytest.approx(np.mean(three), rel=0.03)


def test_origins_can_be_split_into_chunks_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    y, found = example()
    own = ps.Sequences.of([y])
    task = rolling.Rolling((1, 3), torch.tensor([40]), 0.9, 400, 0)
    for name in ("ar", "hmm"):
        model = found.models[name]
        updated = model.filter(own)[0].updated
        updated = ps.beliefs.map_tensors(lambda field, _: field.unsqueeze(0), updated)
        whole = rolling.rolling_scores(model, own, updated, task)
        with monkeypatch.context() as patch:
            patch.setattr(rolling, "MOST_ORIGINS", 7)
            parts = rolling.rolling_scores(model, own, updated, task)
        for h in (1, 3):
            np.testing.assert_allclose(parts[h]["crps"], whole[h]["crps"], rtol=1e-12)
            np.testing.assert_allclose(parts[h]["log_score"], whole[h]["log_score"], rtol=1e-12)
            np.testing.assert_array_equal(parts[h]["inside"], whole[h]["inside"])


def test_the_models_given_are_left_as_they_were_and_the_seed_reproduces() -> None:
    y = series()
    models: dict[str, Any] = {"hmm": hmm(), "gru": gru()}
    before = {name: model.snapshot() for name, model in models.items()}
    state = torch.get_rng_state()
    runs = [
        compare(models, y, seed=seed, horizons=(1, 2), n_samples=50, fit_options=short("gru")) for seed in (0, 0, 1)
    ]
    assert torch.equal(state, torch.get_rng_state())
    for name, model in models.items():
        now = model.snapshot()
        assert now.unset == before[name].unset
        assert now.started == before[name].started
        assert all(torch.equal(now.tensors[k], v) or v.isnan().all() for k, v in before[name].tensors.items())
        assert model.history is None
        assert runs[0].models[name] is not model
    columns = [column for column in runs[0].table if column != "fit_seconds"]
    pd.testing.assert_frame_equal(runs[0].table[columns], runs[1].table[columns])
    pd.testing.assert_frame_equal(runs[0].log_scores, runs[1].log_scores)
    assert runs[0].table.loc["gru", "log_score"] != runs[2].table.loc["gru", "log_score"]


def test_several_sequences_are_split_in_time_and_pooled() -> None:
    parts = [series(40, 1), series(30, 2), series(25, 3)]
    found = compare({"ar": ps.AR(1)}, parts, train=0.6, horizons=(1, 2))
    model = found.models["ar"]
    alone = [model.filter(part).log_prob[round(0.6 * len(part)) :].numpy() for part in parts]
    np.testing.assert_allclose(found.log_scores["ar"], np.concatenate(alone), rtol=1e-10)
    assert found.log_scores.loc[1].index[0] == 18
    direct = ps.AR(1).fit([part[: round(0.6 * len(part))] for part in parts], seed=0)
    assert model.score(parts) == pytest.approx(direct.score(parts), rel=1e-9)
    assert found.forecast_scores.loc[("ar", 2), "n_targets"] == sum(len(part) for part in alone) - 3
    assert "3 sequences" in str(found)


def test_inputs_go_to_the_models_that_take_them() -> None:
    rng = np.random.default_rng(5)
    u = rng.normal(size=(60, 1))
    y = 3 * u[:, 0] + 0.3 * rng.normal(size=60)
    models = {"driven": ps.LDS(1, 1, 1), "ar": ps.AR(1)}
    found = compare(models, y, u, train=40, horizons=(1, 4), fit_options=short("driven"))
    assert found.table.index[0] == "driven"
    model = found.models["driven"]
    np.testing.assert_array_equal(found.log_scores["driven"], model.filter(y, u).log_prob[40:])
    scores = []
    for origin in range(39, 56):
        last = model.forecast(y[: origin + 1], 4, u[: origin + 1], future_u=u[origin + 1 : origin + 5]).distribution
        mean, deviation = last.mean[-1, 0].item(), last.variance[-1, 0].sqrt().item()
        scores.append(scoringrules.crps_normal(y[origin + 4], mean, deviation))
    assert found.table.loc["driven", "crps_4"] == pytest.approx(np.mean(scores), rel=1e-9)
    with pytest.raises(ValueError, match="none of the models takes inputs"):
        compare({"ar": ps.AR(1)}, y, u)


def test_several_columns_average_over_the_observed_coordinates() -> None:
    y = np.stack([series(50, 6), 10 * series(50, 7)], 1)
    y[44, 0] = np.nan
    y[46] = np.nan
    found = compare({"ar": ps.AR(1, 2)}, y, train=40, horizons=(1,))
    updated = found.models["ar"].filter(y).updated
    scores = []
    for t in range(40, 50):
        last = found.models["ar"].emit(found.models["ar"].predict(ps.at(updated, t - 1)))
        each = scoringrules.crps_normal(y[t], last.mean.detach().numpy(), last.stddev.detach().numpy())
        scores.append(np.mean(each[~np.isnan(y[t])]) if not np.isnan(y[t]).all() else np.nan)
    assert found.table.loc["ar", "crps_1"] == pytest.approx(np.nanmean(scores), rel=1e-9)
    assert found.forecast_scores.loc[("ar", 1), "n_targets"] == 9
    assert found.log_scores["ar"].isna().sum() == 1


def test_gaps_make_a_network_approximate_only_where_they_matter() -> None:
    y = series(40)
    u = np.random.default_rng(8).normal(size=(40, 1))
    reader = gru(input_dim=1, feedback=False)
    options = short("fed", "reader")
    whole = compare({"fed": gru()}, y, horizons=(1,), fit_options=short("fed"))
    assert whole.table.loc["fed", "likelihood"] == "exact"
    y[20] = np.nan
    gappy = compare({"fed": gru(input_dim=1), "reader": reader}, y, u, horizons=(1,), fit_options=options)
    assert gappy.table.loc["fed", "likelihood"] == "approximate"
    assert gappy.table.loc["reader", "likelihood"] == "exact"
    y[20], y[-1] = 0.0, np.nan
    tail = compare({"fed": gru()}, y, horizons=(1,), fit_options=short("fed"))
    assert tail.table.loc["fed", "likelihood"] == "exact"


def test_densities_and_probabilities_are_not_ranked_against_each_other() -> None:
    y = np.random.default_rng(9).poisson(4, size=60)
    counts = ps.HMM(2, emission=ps.emissions.Poisson(1))
    found = compare({"counts": counts, "ar": ps.AR(1)}, y, horizons=(1,))
    kinds = dict(found.table["likelihood"])
    assert kinds["counts"] == kinds["iid (discrete)"] == "exact probability"
    assert kinds["ar"] == kinds["iid"] == kinds["random walk"] == "exact density"
    assert (found.table["difference"] == 0).sum() == 2
    assert "not comparable" in str(found)


def test_symbols_have_log_scores_and_no_crps() -> None:
    y = np.random.default_rng(10).integers(0, 3, size=60)
    network = ps.RNN(1, cell=ps.cells.GRU(2), head=ps.heads.Categorical(3), seed=0)
    symbols = {"hmm": ps.HMM(2, emission=ps.emissions.Categorical(3)), "gru": network}
    found = compare(symbols, y, horizons=(1, 2), n_samples=20, fit_options=short(*symbols))
    assert found.table[["crps_1", "crps_2", "coverage_1"]].isna().all(axis=None)
    assert np.isfinite(found.table["log_score"]).all()
    assert list(found.models) == list(found.table.index)
    assert "iid" in found.models
    assert "random walk" not in found.models
    assert len(found.plot().axes) == 2


def test_discrete_data_with_inputs() -> None:
    rng = np.random.default_rng(12)
    u = rng.normal(size=(50, 1))
    y = (u[:, 0] + 0.3 * rng.normal(size=50) > 0).astype(float)
    reader = ps.RNN(1, cell=ps.cells.GRU(3), head=ps.heads.Bernoulli(), input_dim=1, feedback=False, seed=0)
    found = compare({"reader": reader}, y, u, horizons=(1, 2), n_samples=20)
    assert found.table.index[0] == "reader"
    assert found.table.loc["reader", "crps_2"] < found.table.loc["iid", "crps_2"]


def test_binary_data_have_brier_scores_and_no_coverage() -> None:
    y = np.random.default_rng(11).integers(0, 2, size=60)
    network = ps.RNN(1, cell=ps.cells.GRU(2), head=ps.heads.Bernoulli(), seed=0)
    found = compare({"gru": network}, y, horizons=(1, 2), n_samples=500, fit_options=short("gru"))
    prob = found.models["iid"].emission.probs.item()
    expected = np.mean((y[42:] - prob) ** 2)
    assert found.table.loc["iid", "crps_1"] == pytest.approx(expected, rel=1e-9)
    assert found.table.loc["gru", "crps_2"] == pytest.approx(expected, rel=0.2)
    assert found.table[["coverage_1", "coverage_2"]].isna().all(axis=None)
    assert len(found.plot().axes) == 2


def test_horizons_beyond_the_test_part_are_empty() -> None:
    found = compare({"ar": ps.AR(1)}, series(20), train=15, horizons=(1, 5, 6))
    assert list(found.forecast_scores.loc["ar"]["n_targets"]) == [5, 1, 0]
    assert np.isnan(found.table.loc["ar", "crps_6"])


def test_warnings_of_fits_are_kept_by_name_and_not_issued() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare({"lds": ps.LDS(2, 1)}, series(), horizons=(1,), fit_options={"lds": {"max_iterations": 1}})
    assert list(found.warnings) == ["lds"]
    assert "before it settled" in found.warnings["lds"][0]
    assert "lds: the fit stopped" in str(found)
    assert "lds: the fit stopped" not in found.to_text(with_warnings=False)


def test_the_text_says_units_and_how_errors_were_computed() -> None:
    _, found = example()
    text = repr(found)
    assert text == str(found)
    for words in ("nats per observed test step", "Newey-West", "Bartlett", "2 lags", "units of y", "90%", "no refits"):
        assert words in text
    assert "not comparable" in text
    for name in found.table.index:
        assert any(line.startswith(name) for line in text.splitlines())
    assert "19 observed test steps after 40 training steps" in text


def test_the_picture_shows_data_fans_and_differences() -> None:
    from matplotlib.figure import Figure

    _, found = example()
    figure = Figure()
    axes = figure.subplots(2, 1)
    assert found.plot(axes) is figure
    labels = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert labels == ["data", *found.table.index]
    lower = {line.get_color(): line.get_ydata() for line in axes[1].lines if len(line.get_ydata()) == 21}
    assert len(lower) == len(found.table)
    exact = found.table[found.table["likelihood"] == "exact"].index
    total = (found.log_scores[exact[1]] - found.log_scores[exact[0]]).sum()
    assert any(values[-1] == pytest.approx(total) for values in lower.values())
    pooled = compare({"ar": ps.AR(1)}, [series(30, 1), series(20, 2)], horizons=(1,))
    assert len(pooled.plot().axes) == 2
    with pytest.raises(ValueError, match="column must be"):
        found.plot(column=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": {}}, "at least one model"),
        ({"models": {"iid": ps.AR(1)}}, "that of a baseline"),
        ({"models": {"a": ps.AR(1, 2)}}, r"models\['a'\]: y must have shape"),
        ({"train": 0}, "train must leave at least one step"),
        ({"train": 60}, "got 60 of the 60 steps"),
        ({"train": 1.0}, "train must be a share"),
        ({"train": True}, "train must be a share"),
        ({"horizons": ()}, "horizons must be positive integers"),
        ({"horizons": (0, 1)}, "horizons must be positive integers"),
        ({"horizons": (1.5,)}, "horizons must be positive integers"),
        ({"level": 1.0}, "level must lie"),
        ({"n_samples": 1}, "n_samples must be at least 2"),
        ({"fit_options": {"b": {}}}, "no models"),
        ({"y": np.ones(60)}, "constant"),
        ({"y": np.r_[series(42), np.full(18, np.nan)]}, "observed step in the test part"),
        ({"y": [series(30), series(1)]}, "sequence 1 of y"),
    ],
)
@pytest.mark.filterwarnings("ignore::probseq.errors.ProbseqWarning")
def test_what_cannot_be_compared_is_refused_in_words(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(**{"models": {"a": ps.AR(1)}, "y": series(), **arguments})


def test_a_thing_that_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"models\['a'\] must be a model"):
        compare({"a": 3}, series())  # type: ignore[dict-item]
    for models in (ps.AR(1), [ps.AR(1)]):
        with pytest.raises(TypeError, match="models must be a mapping such as"):
            compare(models, series())  # type: ignore[arg-type]


def test_an_error_in_a_fit_says_which_model() -> None:
    with pytest.raises(ValueError, match="longer than the order") as caught:
        compare({"long": ps.AR(30)}, series(), train=20)
    assert caught.value.__notes__ == ["while fitting models['long']"]


def test_held_out_sequences_are_scored_whole_and_not_learned_from() -> None:
    train, test = [series(40, 1), series(30, 2)], [series(20, 3), series(15, 4)]
    found = compare({"ar": ps.AR(1)}, train, test=test, horizons=(1, 2))
    alone = ps.AR(1).fit(train, seed=0)
    expected = np.concatenate([one.log_prob.numpy() for one in alone.filter(test)])
    np.testing.assert_allclose(found.log_scores["ar"], expected, rtol=1e-9)
    assert "35 observed steps of 2 held-out sequences, 70 training steps of 2" in str(found)
    assert found.per_sequence().shape == (2, 3)
    assert found.forecast_scores.loc[("ar", 2), "n_targets"] == 18 + 13
    assert len(found.plot().axes) == 2
    with pytest.raises(ValueError, match="test must have 1 columns"):
        compare({"ar": ps.AR(1)}, train, test=[np.ones((4, 2))])
    with pytest.raises(ValueError, match="both or neither"):
        compare({"ar": ps.AR(1)}, train, test=test, test_u=[np.ones((20, 1)), np.ones((15, 1))])


def test_held_out_sequences_with_inputs() -> None:
    rng = np.random.default_rng(3)
    u = [rng.normal(size=(30, 1)) for _ in range(4)]
    y = [3 * one[:, 0] + 0.1 * rng.normal(size=30) for one in u]
    found = compare({"lds": ps.LDS(1, 1, input_dim=1)}, y[:2], u[:2], test=y[2:], test_u=u[2:], horizons=(1,))
    mine = np.concatenate([one.log_prob.numpy() for one in found.models["lds"].filter(y[2:], u[2:])])
    np.testing.assert_allclose(found.log_scores["lds"], mine, rtol=1e-10)


def test_strokes_are_compared_with_strokes() -> None:
    """dx, dy and the pen: the baseline is a Gaussian beside a Bernoulli, and CRPS is the mean over columns."""
    rng = np.random.default_rng(4)
    pens = [(rng.random((40, 1)) < 0.2).astype(float) for _ in range(4)]
    y = [np.concatenate([rng.normal(size=(40, 2)) + 2 * pen, pen], 1) for pen in pens]
    emission = ps.emissions.Product(ps.emissions.Gaussian(2), ps.emissions.Bernoulli(1))
    found = compare({"hmm": ps.HMM(2, emission=emission)}, y[:2], test=y[2:], horizons=(1,))
    rows = np.concatenate(y[:2])
    mean, cov, p = rows[:, :2].mean(0), np.cov(rows[:, :2].T, bias=True), rows[:, 2].mean()
    tested = np.concatenate(y[2:])
    expected = stats.multivariate_normal(mean, cov).logpdf(tested[:, :2]) + stats.bernoulli(p).logpmf(tested[:, 2])
    np.testing.assert_allclose(found.log_scores["iid"], expected, rtol=1e-5)
    assert set(found.table["likelihood"]) == {"exact"}
    assert np.isfinite(found.table["crps_1"]).all()
    mine = np.concatenate([one.log_prob.numpy() for one in found.models["hmm"].filter(y[2:])])
    np.testing.assert_allclose(found.log_scores["hmm"], mine, rtol=1e-10)


def test_symbols_have_a_markov_baseline_by_counting() -> None:
    chain = ps.HMM(
        initial_probs=[0.5, 0.5],
        transition_matrix=[[0.9, 0.1], [0.2, 0.8]],
        emission=ps.emissions.Categorical(probs=np.eye(2)),
    )
    y = chain.sample(200, seed=0)[:, 0].numpy()
    found = compare({"hmm": ps.HMM(1, emission=ps.emissions.Categorical(2))}, y, train=150, horizons=(1,))
    counts = np.full((2, 2), 0.5)
    for a, b in zip(y[:149].astype(int), y[1:150].astype(int), strict=True):
        counts[a, b] += 1
    moves = np.log(counts / counts.sum(1, keepdims=True))
    expected = [moves[int(y[t - 1]), int(y[t])] for t in range(150, 200)]
    np.testing.assert_allclose(found.log_scores["Markov"], expected, rtol=1e-10)
    bits = compare({"hmm": ps.HMM(1, emission=ps.emissions.Bernoulli(1))}, y, train=150, horizons=(1,))
    np.testing.assert_allclose(bits.log_scores["Markov"], expected, rtol=1e-10)
