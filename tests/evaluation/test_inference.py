"""Standard errors against closed forms, published numbers, statsmodels and differences of log_prob itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import statsmodels.api as sm
import torch
from hmmlearn import hmm as hmmlearn
from scipy import optimize, stats

import probseq as ps
from probseq import parameters as P
from probseq.errors import ConvergenceWarning, IllConditionedWarning
from probseq.evaluation.inference import standard_errors
from probseq.evaluation.information import coordinates
from probseq.models.lds_parameters import n_identifiable
from probseq.parameters import Param
from tests import zoo

LEVEL_FIXED = {"transition_matrix", "emission_matrix"}


def counts(n: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(4.2, size=n).astype(float)


def autoregressive(n: int = 300, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y = [0.0]
    for noise in rng.normal(size=n + 50):
        y.append(1.0 + 0.6 * y[-1] + 1.3 * noise)
    return np.array(y[51:])


def level(q: float, h: float, start: float) -> ps.LDS:
    one = [[1.0]]
    return ps.LDS(
        transition_matrix=one, transition_cov=[[q]], emission_matrix=one, emission_cov=[[h]],
        initial_mean=[0.0], initial_cov=[[start]],
    )  # fmt: skip


def one_state(y: np.ndarray, unit: float = 1.0) -> ps.HMM:
    emission = ps.emissions.Gaussian(means=[[unit * y.mean()]], covs=[[[unit**2 * y.var()]]])
    return ps.HMM(initial_probs=[1.0], transition_matrix=[[1.0]], emission=emission)


def two_states(seed: int = 0) -> tuple[ps.HMM, torch.Tensor]:
    """A two-state Gaussian HMM at the maximum for three drawn sequences, started anywhere."""
    emission = ps.emissions.Gaussian(means=[[0.0], [3.0]], covs=[[[1.0]], [[2.0]]])
    model = ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=[[0.8, 0.2], [0.3, 0.7]], emission=emission)
    y = model.sample(60, (12,), seed=seed)
    return model.fit(y, method="gradient", tolerance=1e-12), y


# ---- information criteria


@pytest.mark.parametrize("covariance", ["full", "diag", "tied", "spherical"])
def test_criteria_are_those_of_hmmlearn(covariance: Any) -> None:
    ours = zoo.hmm(0, zoo.gaussian_emission(2, covariance))
    y = np.random.default_rng(0).normal(size=(50, 2))
    theirs = hmmlearn.GaussianHMM(3, covariance_type=covariance)
    theirs.n_features = 2
    theirs.startprob_, theirs.transmat_ = ours.initial_probs.detach().numpy(), ours.transition_matrix.detach().numpy()
    covs = ours.emission.covs.detach().numpy()
    theirs.means_ = ours.emission.means.detach().numpy()
    diagonals = np.einsum("kdd->kd", covs)
    theirs.covars_ = {"full": covs, "tied": covs[0], "diag": diagonals, "spherical": diagonals[:, 0]}[covariance]
    assert ours.aic(y) == pytest.approx(theirs.aic(y), rel=1e-12)
    assert ours.bic(y) == pytest.approx(theirs.bic(y), rel=1e-12)


def test_criteria_are_those_of_statsmodels() -> None:
    y = autoregressive()
    fit = sm.tsa.ARIMA(y, order=(2, 0, 0), trend="c").fit()
    const, first, second, variance = fit.params
    ours = ps.AR(
        transition_matrices=[[[first]], [[second]]],
        transition_offset=[const * (1 - first - second)],
        transition_cov=[[variance]],
    )
    assert ours.aic(y) == pytest.approx(fit.aic, rel=1e-9)
    assert ours.bic(y) == pytest.approx(fit.bic, rel=1e-9)


def test_criteria_count_what_is_free_and_what_is_seen() -> None:
    y = counts()
    y[[3, 4, 20]] = np.nan
    model = ps.HMM(initial_probs=[1.0], transition_matrix=[[1.0]], emission=ps.emissions.Poisson(rates=[[4.0]]))
    total = float(model.log_prob(y).detach())
    assert model.aic(y) == pytest.approx(2 - 2 * total, rel=1e-14)
    assert model.bic(y) == pytest.approx(math.log(57) - 2 * total, rel=1e-14)
    assert model.bic(y, fixed="emission.rates") == pytest.approx(-2 * total, rel=1e-14)
    nile = ps.datasets.nile()
    walk = level(1469.1, 15099.0, 1e7)  # the start is not told by one sequence; two sequences count it
    once = float(walk.log_prob(nile).detach())
    assert walk.aic(nile, fixed=LEVEL_FIXED) == pytest.approx(4 - 2 * once, rel=1e-14)
    assert walk.aic([nile, nile], fixed=LEVEL_FIXED) == pytest.approx(8 - 4 * once, rel=1e-14)
    with pytest.raises(ValueError, match="at least one observed step"):
        model.bic([np.nan, np.nan])


# ---- coordinates


@pytest.mark.parametrize("row", zoo.ROWS, ids=lambda row: row.name)
def test_coordinates_are_minimal(row: Any) -> None:
    model = row.make(0)
    found = sum(int(block.free.sum()) for block in coordinates(model))
    systems = [part for part in model.modules() if isinstance(part, ps.LDS)]
    free = any(n_identifiable(part) is not None for part in systems)  # whose states have no coordinates of their own
    if free or row.name == "switching-recurrent":  # of its weights only differences between moves count
        assert found > model.n_parameters
    else:
        assert found == model.n_parameters


# ---- standard errors


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_one_gaussian_state_has_the_closed_form(unit: float) -> None:
    y = np.random.default_rng(3).normal(2.0, 1.7, size=80)
    table = one_state(y, unit).standard_errors(unit * y)
    errors = table["standard_error"]
    assert errors["emission.means[0, 0]"] == pytest.approx(unit * math.sqrt(y.var() / 80), rel=1e-9)
    assert errors["emission.covs[0, 0, 0]"] == pytest.approx(unit**2 * math.sqrt(2 / 80) * y.var(), rel=1e-9)
    assert dict(table["status"]) == {
        "initial_probs[0]": "held", "transition_matrix[0, 0]": "held",
        "emission.means[0, 0]": "", "emission.covs[0, 0, 0]": "",
    }  # fmt: skip
    away = stats.norm.ppf(0.975) * math.sqrt(y.var() / 80)
    assert table.loc["emission.means[0, 0]", "lower"] == pytest.approx(unit * (y.mean() - away), rel=1e-9)
    factor = math.exp(stats.norm.ppf(0.975) * math.sqrt(2 / 80))
    assert table.loc["emission.covs[0, 0, 0]", "upper"] == pytest.approx(unit**2 * y.var() * factor, rel=1e-9)


def test_independent_counts_and_coins_have_the_closed_form() -> None:
    y = counts()
    model = ps.HMM(initial_probs=[1.0], transition_matrix=[[1.0]], emission=ps.emissions.Poisson(rates=[[y.mean()]]))
    errors = model.standard_errors(y, level=0.9)
    assert errors.loc["emission.rates[0, 0]", "standard_error"] == pytest.approx(math.sqrt(y.mean() / 60), rel=1e-9)
    coins = (y > 4).astype(float)
    p = coins.mean()
    coin = ps.HMM(initial_probs=[1.0], transition_matrix=[[1.0]], emission=ps.emissions.Bernoulli(probs=[[p]]))
    row = coin.standard_errors(coins).loc["emission.probs[0, 0]"]
    assert row["standard_error"] == pytest.approx(math.sqrt(p * (1 - p) / 60), rel=1e-9)
    assert math.log(row["upper"] / (1 - row["upper"])) == pytest.approx(
        math.log(p / (1 - p)) + stats.norm.ppf(0.975) / math.sqrt(60 * p * (1 - p)), rel=1e-9
    )


def test_moves_driven_by_inputs_have_the_errors_of_a_logistic_regression() -> None:
    """With states that are seen each row is a logistic regression of its moves: I = X' diag(p (1 - p)) X."""
    visible = ps.emissions.Categorical(probs=np.eye(2))
    matrix, weights = [[0.7, 0.3], [0.4, 0.6]], np.array([[[0.5], [-0.7]], [[0.3], [0.9]]])
    given = {"initial_probs": [0.5, 0.5], "transition_matrix": matrix, "transition_weights": weights}
    model = ps.HMM(**given, emission=visible)
    u = np.random.default_rng(0).normal(size=(400, 1))
    y = model.sample(400, u=u, seed=0)
    model.fit(y, u, tolerance=1e-13)
    table = model.standard_errors(y, u)
    rows, found = model.transition_matrix.detach().numpy(), model.transition_weights.detach().numpy()[..., 0]
    before = y[:-1, 0].numpy()
    for i in range(2):
        stay, other = int(rows[i].argmax()), 1 - int(rows[i].argmax())
        design = np.column_stack([np.ones(399), u[1:, 0]])[before == i]
        slope = found[i, other] - found[i, stay]
        p = 1 / (1 + np.exp(-design @ [math.log(rows[i, other] / rows[i, stay]), slope]))
        cov = np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)
        line = table.loc[f"transition_weights[{i}, {other}, 0]"]
        assert line["status"] == ""
        assert line["estimate"] == pytest.approx(slope, rel=1e-12)
        assert line["standard_error"] == pytest.approx(math.sqrt(cov[1, 1]), rel=1e-6)
        held = table.loc[f"transition_weights[{i}, {stay}, 0]"]
        assert (held["estimate"], held["status"]) == (0.0, "held")
        share = table.loc[f"transition_matrix[{i}, {other}]", "standard_error"]
        assert share == pytest.approx(rows[i, 0] * rows[i, 1] * math.sqrt(cov[0, 0]), rel=1e-6)


def test_a_full_covariance_has_the_closed_form() -> None:
    """Anderson, Multivariate Statistical Analysis, 3rd ed. (2003), th. 3.4.4: n Var(s_ij) = s_ii s_jj + s_ij^2."""
    y = np.random.default_rng(4).normal(size=(90, 2)) @ np.array([[1.0, 0.4], [0.0, 2.0]])
    s = np.cov(y.T, bias=True)
    emission = ps.emissions.Gaussian(means=y.mean(0)[None], covs=s[None])
    table = ps.HMM(initial_probs=[1.0], transition_matrix=[[1.0]], emission=emission).standard_errors(y)
    for i, j in ((0, 0), (1, 0), (1, 1)):
        expected = math.sqrt((s[i, i] * s[j, j] + s[i, j] ** 2) / 90)
        assert table.loc[f"emission.covs[0, {i}, {j}]", "standard_error"] == pytest.approx(expected, rel=1e-8)
    assert "emission.covs[0, 0, 1]" not in table.index


def test_multinomial_shares_have_the_closed_form_and_zeros_are_held() -> None:
    p = np.array([0.5, 0.3, 0.2])
    symbols = np.repeat([0.0, 1.0, 2.0], [50, 30, 20])
    emission = ps.emissions.Categorical(probs=[[*p, 0.0]])
    table = ps.HMM(initial_probs=[1.0], transition_matrix=[[1.0]], emission=emission).standard_errors(symbols)
    for i in range(3):
        row = table.loc[f"emission.probs[0, {i}]"]
        assert row["standard_error"] == pytest.approx(math.sqrt(p[i] * (1 - p[i]) / 100), rel=1e-8)
    assert table.loc["emission.probs[0, 3]", "status"] == "held"
    assert math.isnan(table.loc["emission.probs[0, 3]", "standard_error"])


def test_nile_has_its_published_standard_errors() -> None:
    """A start so vague that it is diffuse to the digits published; the maximum is taken by scipy."""
    nile = ps.datasets.nile()

    def minus(logs: np.ndarray) -> float:
        return -level(math.exp(logs[0]), math.exp(logs[1]), 1e10).log_prob(nile).item()

    with torch.no_grad():
        best = np.exp(optimize.minimize(minus, np.log([1469.0, 15099.0]), jac="3-point", options={"gtol": 1e-7}).x)
    assert best == pytest.approx([1469.18, 15098.52], rel=1e-5)
    table = level(*best, 1e10).standard_errors(nile, fixed=LEVEL_FIXED)
    assert list(table.index) == ["transition_cov[0, 0]", "emission_cov[0, 0]"]
    assert table["standard_error"].to_numpy() == pytest.approx([1280.37, 3145.54], rel=1e-5)


def test_nile_with_a_known_start_is_the_hessian_of_the_dense_joint_density() -> None:
    """mpmath differences of the log-density of the whole series as one Gaussian vector, 40 digits."""
    nile = ps.datasets.nile().to_numpy()[20:44]
    best = ps.LDS(
        transition_matrix=[[1.0]], transition_cov=[[900.0]], emission_matrix=[[1.0]], emission_cov=[[15000.0]],
        initial_mean=[0.0], initial_cov=[[1e7]],
    ).fit(nile, method="gradient", fixed=LEVEL_FIXED, tolerance=1e-14)  # fmt: skip
    q, h = best.transition_cov.item(), best.emission_cov.item()
    with mpmath.workdps(40):

        def log_density(variance: Any, noise: Any) -> Any:
            n = len(nile)
            cov = mpmath.matrix(n, n)
            for i in range(n):
                for j in range(n):
                    cov[i, j] = mpmath.mpf(1e7) + min(i, j) * variance + (noise if i == j else 0)
            factor = mpmath.cholesky(cov)
            white = mpmath.lu_solve(factor, mpmath.matrix(nile.tolist()))
            return -sum(x * x for x in white) / 2 - sum(mpmath.log(factor[i, i]) for i in range(n))

        second = [
            [mpmath.diff(log_density, (q, h), order) for order in pair] for pair in (((2, 0), (1, 1)), ((1, 1), (0, 2)))
        ]
        information = -np.array([[float(x) for x in row] for row in second])
    expected = np.sqrt(np.diag(np.linalg.inv(information)))
    table = best.standard_errors(nile, fixed=LEVEL_FIXED)
    assert table["standard_error"].to_numpy() == pytest.approx(expected, rel=1e-5)


def test_first_order_autoregression_has_the_standard_errors_of_statsmodels() -> None:
    y = autoregressive()
    theirs = sm.tsa.ARIMA(y, order=(1, 0, 0), trend="c").fit(cov_type="approx", method_kwargs={"pgtol": 1e-10})
    const, slope, variance = theirs.params
    ours = ps.AR(transition_matrices=[[[slope]]], transition_offset=[const * (1 - slope)], transition_cov=[[variance]])
    errors = ours.fit(y, tolerance=1e-13).standard_errors(y)["standard_error"]
    assert errors["transition_matrices[0, 0, 0]"] == pytest.approx(theirs.bse[1], rel=1e-3)
    assert errors["transition_cov[0, 0]"] == pytest.approx(theirs.bse[2], rel=1e-3)
    gradient = np.array([1 - slope, -const])  # offset = const (1 - slope)
    cov = theirs.cov_params()[:2, :2]
    assert errors["transition_offset[0]"] == pytest.approx(math.sqrt(gradient @ cov @ gradient), rel=1e-3)


def test_two_states_have_the_hessian_of_log_prob_itself() -> None:
    """Second differences of the value alone, in natural coordinates: p00, p10, pi_0, means, variances."""
    model, y = two_states()
    best = [model.transition_matrix[0, 0].item(), model.transition_matrix[1, 0].item(), model.initial_probs[0].item()]
    best += [*model.emission.means.flatten().tolist(), *model.emission.covs.flatten().tolist()]

    def value(x: np.ndarray) -> float:
        emission = ps.emissions.Gaussian(means=x[3:5, None], covs=x[5:, None, None])
        matrix = [[x[0], 1 - x[0]], [x[1], 1 - x[1]]]
        other = ps.HMM(initial_probs=[x[2], 1 - x[2]], transition_matrix=matrix, emission=emission)
        with torch.no_grad():
            return float(other.log_prob(y).sum())

    h, at = 2e-3, np.array(best)
    eye = np.eye(7) * h
    hessian = np.array(
        [
            [(value(at + a + b) - value(at + a - b) - value(at - a + b) + value(at - a - b)) / (4 * h * h) for b in eye]
            for a in eye
        ]
    )
    expected = np.sqrt(np.diag(np.linalg.inv(-hessian)))
    names = ["transition_matrix[0, 0]", "transition_matrix[1, 0]", "initial_probs[0]", "emission.means[0, 0]"]
    names += ["emission.means[1, 0]", "emission.covs[0, 0, 0]", "emission.covs[1, 0, 0]"]
    table = model.standard_errors(y)
    assert table.loc[names, "standard_error"].to_numpy() == pytest.approx(expected, rel=1e-3)
    both = table["standard_error"]
    assert both["transition_matrix[0, 1]"] == pytest.approx(both["transition_matrix[0, 0]"], rel=1e-9)


def test_the_model_is_left_as_it_was() -> None:
    model, y = two_states()
    before = model.snapshot().tensors
    model.standard_errors(y, fixed="initial_probs")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("row", [row for row in zoo.ROWS if row.compiled], ids=lambda row: row.name)
@pytest.mark.filterwarnings("ignore::probseq.errors.ProbseqWarning")
def test_every_family_says_an_error_or_why_there_is_none(row: Any) -> None:
    """Parameters far from a maximum, several sequences, gaps and padding."""
    model = row.make(0)
    y, u = row.data(0, 12, (3,))
    y[0, 4] = torch.nan
    before, unset = model.snapshot().tensors, {f"raw_{name}" for name in model.unset}
    table = model.standard_errors(y, u, lengths=[12, 7, 12])
    assert table["standard_error"].isna().to_list() == (table["status"] != "").to_list()
    assert (table["standard_error"].dropna() > 0).all()
    assert (table["lower"].dropna() <= table["estimate"][table["status"] == ""]).all()
    assert all(before[name].equal(tensor) or name in unset for name, tensor in model.state_dict().items())


# ---- where there is none


def earthquakes() -> list[float]:
    return json.loads((Path(__file__).parent.parent / "golden" / "earthquakes.json").read_text())["y"]


def test_boundaries_are_named() -> None:
    """One sequence has one start, and this fit empties a transition."""
    y = earthquakes()
    model = ps.HMM(3, emission=ps.emissions.Poisson(1)).fit(y, seed=0)
    table = model.standard_errors(y)
    status = table["status"]
    assert model.transition_matrix[2, 0].item() < 1e-4
    edges = {"initial_probs[0]", "initial_probs[1]", "initial_probs[2]", "transition_matrix[2, 0]"}
    assert set(status.index[status == "at the boundary"]) == edges
    assert table["standard_error"].isna().to_list() == (status != "").to_list()
    assert (table.loc[status == "", "standard_error"] > 0).all()
    row = table.loc["transition_matrix[2, 1]"]
    assert row["standard_error"] == pytest.approx(table.loc["transition_matrix[2, 2]", "standard_error"], rel=1e-3)


class SharedRows(Param):
    """Three rows of probabilities, the first two of them one."""

    def raw_shape(self, instance: Any) -> tuple[int, ...]:
        return (2, 3)

    def value_shape(self, instance: Any) -> tuple[int, ...]:
        return (3, 3)

    def forward(self, instance: Any, raw: torch.Tensor) -> torch.Tensor:
        return super().forward(instance, raw)[[0, 0, 1]]

    def inverse(self, instance: Any, value: torch.Tensor) -> torch.Tensor:
        return super().inverse(instance, value[[0, 2]])

    def log(self, instance: Any) -> torch.Tensor:
        return super().log(instance)[[0, 0, 1]]


class SharedHMM(ps.HMM):
    transition_matrix = SharedRows(P.simplex, "n_states", "n_states")


@pytest.mark.filterwarnings("ignore::probseq.errors.ProbseqWarning")
def test_boundaries_of_shared_rows_are_named_in_each() -> None:
    rows = [[0.4, 0.6, 1e-9], [0.4, 0.6, 1e-9], [0.2, 0.3, 0.5]]
    emission = ps.emissions.Poisson(rates=[[3.0], [8.0], [20.0]])
    model = SharedHMM(initial_probs=[0.3, 0.3, 0.4], transition_matrix=rows, emission=emission)
    y = np.concatenate([[19.0, 23.0, 21.0], counts()])
    status = model.standard_errors(y)["status"]
    edges = {f"transition_matrix[{i}, 2]" for i in (0, 1)}
    assert edges == {name for name in status.index[status == "at the boundary"] if name.startswith("transition")}


def test_a_variance_of_zero_is_at_the_boundary() -> None:
    """White noise has no walk in it: the walk's variance has its maximum at zero."""
    y = 5 + np.resize([1.0, -1.0, 0.3, -0.3], 40)
    model = level(0.0, 1.0, 100.0).fit(y, method="gradient", fixed=LEVEL_FIXED | {"transition_cov"}, tolerance=1e-13)
    table = model.standard_errors(y, fixed=LEVEL_FIXED)
    assert table.loc["transition_cov[0, 0]", "status"] == "at the boundary"
    assert math.isnan(table.loc["transition_cov[0, 0]", "standard_error"])
    assert table.loc["emission_cov[0, 0]", "standard_error"] == pytest.approx(
        table.loc["emission_cov[0, 0]", "estimate"] * math.sqrt(2 / 39), rel=1e-4
    )


def test_what_is_not_identified_has_none_and_the_rest_has() -> None:
    """The unit of a hidden state is free: its matrices are not identified, its persistence is."""
    model = ps.LDS(
        transition_matrix=[[0.8]], transition_cov=[[1.0]], emission_matrix=[[2.0]], emission_cov=[[1.0]],
        initial_mean=[1.0], initial_cov=[[2.0]],
    )  # fmt: skip
    y = model.sample(25, (20,), seed=0)
    model.fit(y, method="gradient", tolerance=1e-14)
    with pytest.warns(IllConditionedWarning, match="singular in 1 directions"):
        table = model.standard_errors(y)
    status = table["status"]
    known = ["transition_matrix[0, 0]", "emission_cov[0, 0]"]
    assert set(status.index[status == ""]) == set(known)
    assert set(status) == {"", "not identified"}
    given = model.standard_errors(y, fixed="emission_matrix")
    assert list(given["status"]) == [""] * 5
    expected = given.loc[known, "standard_error"].to_numpy()
    assert table.loc[known, "standard_error"].to_numpy() == pytest.approx(expected, rel=1e-6)


def test_a_state_that_is_never_visited_is_not_identified() -> None:
    emission = ps.emissions.Poisson(rates=[[4.0], [9.0]])
    model = ps.HMM(initial_probs=[1.0, 0.0], transition_matrix=[[1.0, 0.0], [0.5, 0.5]], emission=emission)
    y = counts()
    model.emission.rates = [[y.mean()], [9.0]]
    table = model.standard_errors(y, fixed="transition_matrix")
    assert table.loc["emission.rates[0, 0]", "standard_error"] == pytest.approx(math.sqrt(y.mean() / 60), rel=1e-9)
    assert table.loc["emission.rates[1, 0]", "status"] != ""


def test_what_is_no_maximum_says_so() -> None:
    y = np.random.default_rng(3).normal(2.0, 1.7, size=80)
    wide = one_state(y)
    wide.emission.means = [[y.mean() + 0.3 * y.std() / math.sqrt(80)]]
    with pytest.warns(ConvergenceWarning, match="standard errors away"):
        assert wide.standard_errors(y).attrs["distance"] == pytest.approx(0.3, rel=0.1)
    saddle = ps.HMM(
        initial_probs=[0.5, 0.5],
        transition_matrix=[[0.5, 0.5], [0.5, 0.5]],
        emission=ps.emissions.Gaussian(means=[[-1.9], [1.9]], covs=[[[1.0]], [[1.0]]]),
    )
    split = np.array([-2.0, 2.0] * 30)
    saddle.emission.means = [[-0.1], [0.1]]
    with pytest.warns(ConvergenceWarning, match="no maximum"):
        table = saddle.standard_errors(split, fixed={"transition_matrix", "initial_probs", "emission.covs"})
    assert set(table["status"]) == {"not a maximum"}
    assert table["standard_error"].isna().all()


def test_bad_arguments_are_named() -> None:
    y = counts()
    model = ps.HMM(initial_probs=[1.0], transition_matrix=[[1.0]], emission=ps.emissions.Poisson(rates=[[4.0]]))
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        standard_errors(model, y, level=95)
    with pytest.raises(ValueError, match="unknown parameter 'rates'"):
        standard_errors(model, y, fixed="rates")
    network = ps.RNN(cell=ps.cells.GRU(2), head=ps.heads.Gaussian()).fit(y, max_iterations=1, seed=0)
    with pytest.raises(ValueError, match="float64"):
        standard_errors(network, y)
    with pytest.raises(ps.errors.NotFitted):
        ps.HMM(2, emission=ps.emissions.Poisson(1)).standard_errors(y)
