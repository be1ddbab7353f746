"""AR-HMMs: least squares, other libraries, windows across gaps, EM, forecasts, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.evaluation import choose_n_states
from probseq.evaluation.summary import likelihood_kind
from tests import reference, zoo


def example(seed: int = 0, k: int = 2, dim: int = 2, order: int = 2, kind: str = "full") -> ps.HMM:
    return zoo.hmm(seed, zoo.autoregressive_emission(dim, order, kind), k)


def two_rhythms(seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """A series that alternates between a slow and a fast rhythm of AR(2) type."""
    rng = np.random.default_rng(seed)
    states = np.cumsum(rng.random(steps) < 0.02) % 2
    taps = np.array([[1.6, -0.9], [-0.4, -0.7]])
    y = np.zeros(steps)
    for t in range(2, steps):
        y[t] = taps[states[t]] @ y[t - 2 : t][::-1] + 0.3 * rng.normal()
    return y, states


def test_it_runs_as_the_readme_says():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 2)).cumsum(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ps.HMM(5, emission=ps.emissions.Autoregressive(dim=2, order=2)).fit(y, max_iterations=30, seed=0)
    assert np.isfinite(model.score(y))
    assert model.forecast(y, 3, n_samples=50, seed=0).mean.shape == (3, 2)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_one_state_is_least_squares_given_the_window(scale):
    rng = np.random.default_rng(1)
    y = scale * rng.normal(size=(50, 2)).cumsum(0)
    window = scale * rng.normal(size=(2, 2))
    emission = ps.emissions.Autoregressive(2, 2, initial_window=window)
    model = ps.HMM(1, emission=emission).fit(y, seed=0)
    padded = np.concatenate([window[::-1], y])
    design = np.column_stack([padded[1:-1], padded[:-2], np.ones(50) * scale])
    truth, *_ = np.linalg.lstsq(design, y, rcond=None)
    np.testing.assert_allclose(reference.array(emission.coefficients)[0, 0], truth[:2].T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(reference.array(emission.coefficients)[0, 1], truth[2:4].T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(reference.array(emission.intercepts)[0], scale * truth[4], rtol=1e-8)
    np.testing.assert_allclose(reference.array(emission.initial_window), window, rtol=1e-15)
    residual = y - design @ truth
    density = sum(reference.log_normal(r, np.zeros(2), residual.T @ residual / 50) for r in residual)
    assert model.log_prob(y).item() == pytest.approx(density, rel=1e-10)


def test_one_state_is_an_autoregression():
    """After the first steps, p(y_t | y_<t) of `AR` with the same taps."""
    ar = zoo.ar(2, 2, 2)
    emission = ps.emissions.Autoregressive(
        coefficients=ar.transition_matrices.detach()[None],
        intercepts=ar.transition_offset.detach()[None],
        covs=ar.transition_cov.detach()[None],
    )
    model = ps.HMM(emission=emission, initial_probs=[1.0], transition_matrix=[[1.0]])
    y = np.random.default_rng(2).normal(size=(30, 2))
    mine, theirs = (m.filter(y).log_prob[2:] for m in (model, ar))
    np.testing.assert_allclose(mine, theirs, rtol=1e-10)


def test_order_without_coefficients_is_gaussian():
    plain = zoo.hmm(3, zoo.gaussian_emission(2))
    emission = ps.emissions.Autoregressive(
        coefficients=np.zeros((3, 2, 2, 2)), intercepts=plain.emission.means.detach(), covs=plain.emission.covs.detach()
    )
    model = ps.HMM(
        emission=emission,
        initial_probs=plain.initial_probs.detach(),
        transition_matrix=plain.transition_matrix.detach(),
    )
    y = np.random.default_rng(3).normal(size=(20, 2))
    y[4, 0] = y[7] = np.nan  # nothing depends on the window, so that gaps are exact
    assert model.log_prob(y).item() == pytest.approx(plain.log_prob(y).item(), rel=1e-12)


def test_statsmodels_markov_regression_on_lags_has_the_same_likelihood():
    from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

    y, _ = two_rhythms(4, 90)
    y = y + 0.1
    lags = np.column_stack([y[1:-1], y[:-2]])
    theirs = MarkovRegression(y[2:], k_regimes=2, exog=lags, switching_variance=True)
    stay, leave, levels, variances = 0.9, 0.2, [0.5, -0.3], [0.4, 1.5]
    taps = np.array([[0.5, -0.2], [-0.5, 0.3]])
    emission = ps.emissions.Autoregressive(
        coefficients=taps[:, :, None, None],
        intercepts=np.array(levels)[:, None],
        covs=np.array(variances)[:, None, None],
        initial_window=y[1::-1][:, None],
    )
    model = ps.HMM(emission=emission, transition_matrix=[[stay, 0.1], [leave, 0.8]], initial="stationary")
    expected = theirs.loglike([stay, leave, *levels, *taps.T.ravel(), *variances])
    assert model.log_prob(y[2:]).item() == pytest.approx(expected, rel=1e-10)


def test_statsmodels_markov_autoregression_has_the_same_likelihood():
    """Where the mean does not switch, y_t - m = phi_k (y_{t-1} - m) + e is an AR-HMM with intercepts m (1 - phi_k)."""
    from statsmodels.tsa.regime_switching.markov_autoregression import MarkovAutoregression

    y, _ = two_rhythms(5, 90)
    theirs = MarkovAutoregression(y, k_regimes=2, order=1, switching_trend=False, switching_ar=True)
    mean, variance, phi = 0.3, 0.7, np.array([0.6, -0.4])
    names = theirs.param_names
    values = dict(zip(names, [0.9, 0.2, mean, variance, *phi], strict=True))
    assert [n.split(".")[0].split("[")[0] for n in names] == ["p", "p", "const", "sigma2", "ar", "ar"]
    emission = ps.emissions.Autoregressive(
        coefficients=phi[:, None, None, None],
        intercepts=(mean * (1 - phi))[:, None],
        covs=np.full((2, 1, 1), variance),
        initial_window=y[:1, None],
    )
    model = ps.HMM(emission=emission, transition_matrix=[[0.9, 0.1], [0.2, 0.8]], initial="stationary")
    assert model.log_prob(y[1:]).item() == pytest.approx(theirs.loglike(list(values.values())), rel=1e-10)


def test_rhythms_are_found():
    y, states = two_rhythms(6, 600)
    model = ps.HMM(2, emission=ps.emissions.Autoregressive(1, 2)).fit(y, seed=0)
    path = model.decode(y).numpy()
    assert max((path == states).mean(), (path != states).mean()) > 0.93


# ---- gaps


def test_windows_across_gaps_hold_what_was_expected():
    model = example(7)
    y = np.random.default_rng(7).normal(size=(6, 2))
    y[1], y[3, 0] = np.nan, np.nan
    _, windows = reference.windowed_table(model, y)
    filtered = model.filter(y)
    np.testing.assert_allclose(filtered.updated.window, np.array(windows), rtol=1e-10)
    np.testing.assert_allclose(filtered.predicted.window[1:], np.array(windows)[:-1], rtol=1e-10)
    np.testing.assert_array_equal(filtered.predicted.window[0], reference.array(model.emission.initial_window))


def test_a_gap_makes_it_approximate_from_where_it_enters_a_window():
    model = example(8)
    y = np.random.default_rng(8).normal(size=(8, 2))
    data = {"complete": y, "end": y.copy(), "middle": y.copy()}
    data["end"][7], data["middle"][3, 1] = np.nan, np.nan
    kinds = {name: likelihood_kind(model, ps.Sequences.of(rows)) for name, rows in data.items()}
    assert kinds == {"complete": "exact", "end": "exact", "middle": "approximate"}
    before = model.filter(y).log_prob[:3]
    torch.testing.assert_close(model.filter(data["middle"]).log_prob[:3], before, rtol=1e-12, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert model.summary(y).likelihood_kind == "exact"
        assert model.summary(data["middle"]).likelihood_kind == "approximate"


def test_em_across_gaps_never_falls():
    y, _ = two_rhythms(9, 120)
    y[np.random.default_rng(0).random(120) < 0.15] = np.nan
    model = ps.HMM(2, emission=ps.emissions.Autoregressive(1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(y, seed=0, max_iterations=15)
    trace = np.array(model.history.objective)
    assert len(trace) > 3
    assert (np.diff(trace) >= -1e-9 * np.abs(trace).max()).all()


# ---- learning and statistics


def test_gradient_and_em_agree():
    y, _ = two_rhythms(10, 200)
    first = ps.HMM(2, emission=ps.emissions.Autoregressive(1, 1)).fit(y, seed=0, tolerance=1e-10)
    before = first.log_prob(y).item()
    first.fit(y, method="gradient", tolerance=1e-9)
    assert first.log_prob(y).item() == pytest.approx(before, abs=1e-3)


def test_held_intercepts_keep_the_origin():
    y, _ = two_rhythms(11, 150)
    y = y + 5.0
    emission = ps.emissions.Autoregressive(1, 1, intercepts=[[0.0]])
    model = ps.HMM(1, emission=emission).fit(y, fixed={"emission.intercepts"}, seed=0)
    padded = np.concatenate([[y.mean()], y])
    assert reference.array(emission.coefficients).item() == pytest.approx(
        padded[:-1] @ y / (padded[:-1] @ padded[:-1]), rel=1e-10
    )
    assert model.emission.intercepts.item() == 0.0


def test_statistics_of_an_ar_hmm():
    y, _ = two_rhythms(12, 300)
    model = ps.HMM(2, emission=ps.emissions.Autoregressive(1, 1)).fit(y, seed=0, tolerance=1e-10)
    model.fit(y, method="gradient", tolerance=1e-10)
    table = model.standard_errors(y)
    assert not any("initial_window" in name for name in table.index)
    assert np.isfinite(table.loc["emission.coefficients[0, 0, 0, 0]", "standard_error"])
    assert model.n_parameters == 1 + 2 + 2 * 3  # start, moves; tap, level and variance of each state
    other = ps.evaluation.permute_states(model, [1, 0])
    assert other.log_prob(y).item() == pytest.approx(model.log_prob(y).item(), rel=1e-12)
    assert ps.evaluation.align(other, model, y) == [1, 0]


def test_number_of_states_by_cross_validation():
    y, _ = two_rhythms(13, 400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        choice = choose_n_states(
            lambda k: ps.HMM(k, emission=ps.emissions.Autoregressive(1, 2)), y, [1, 2], n_folds=3, seed=0
        )
    assert choice.best == 2


def test_forecast_of_two_steps_is_the_mixture_over_paths():
    """Two steps ahead, the mean by sampling is that of the K^2 Gaussian paths."""
    model = example(14, dim=1, order=1)
    y = np.random.default_rng(14).normal(size=(10, 1))
    matrix, probs = reference.array(model.transition_matrix), reference.array(model.filter(y).updated.probs)[-1]
    taps, levels = (reference.array(getattr(model.emission, n)).ravel() for n in ("coefficients", "intercepts"))
    variances = reference.array(model.emission.covs).ravel()
    one = probs @ matrix
    mean = square = 0.0
    for i in range(2):
        for j in range(2):
            weight, first = one[i] * matrix[i, j], levels[i] + taps[i] * y[-1, 0]
            centre, spread = levels[j] + taps[j] * first, variances[j] + taps[j] ** 2 * variances[i]
            mean, square = mean + weight * centre, square + weight * (spread + centre**2)
    says = model.forecast(y, 2, n_samples=20_000, seed=0)
    sd = np.sqrt(square - mean**2)
    assert says.mean[1].item() == pytest.approx(mean, abs=5 * sd / np.sqrt(20_000))
    assert says.distribution.variance[1].sqrt().item() == pytest.approx(sd, rel=0.03)
    lower, upper = says.interval(0.5)
    inside = (says.samples[:, 1] >= lower[1]) & (says.samples[:, 1] <= upper[1])
    assert inside.double().mean().item() == pytest.approx(0.5, abs=0.02)


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ps.emissions.Autoregressive(2, 0), "order must be"),
        (lambda: ps.emissions.Autoregressive(2), "order must be"),
        (lambda: ps.emissions.Autoregressive(coefficients=np.zeros((2, 1, 1))), "coefficients must have shape"),
        (
            lambda: ps.HMM(2, emission=ps.emissions.Autoregressive(2, 2, initial_window=[[0.0, 0.0]])),
            r"initial_window must have shape \(2, 2\), got \(1, 2\)",
        ),
        (
            lambda: ps.HSMM(2, emission=ps.emissions.Autoregressive(1, 1), duration=ps.durations.Poisson(5)),
            "an HSMM takes no emission that reads the rows before",
        ),
    ],
)
def test_wrong_sizes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_belief_without_window_is_refused():
    model = example(15)
    y = np.zeros((3, 2))
    belief = ps.beliefs.Categorical(model.initial_belief().log_probs.detach())
    with pytest.raises(ValueError, match="initial must carry a window of the 2 rows before"):
        model.filter(y, initial=belief)
    with pytest.raises(ValueError, match="read a window of the 2 rows before"):
        model.emit(belief)
