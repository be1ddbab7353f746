"""Samplers: one posterior by NUTS, Gibbs, guides and a grid; what comes out, how it is seeded, what it warns of."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import distributions as D

import probseq as ps
from probseq.bayes import conjugate
from probseq.bayes.potential import prepare
from probseq.errors import ConvergenceWarning
from tests.zoo import ROWS

FIXED = {"transition_matrix", "emission_matrix"}


def inverse_gamma(a: float, b: float) -> D.InverseGamma:
    return D.InverseGamma(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))


PRIORS = {"transition_cov": inverse_gamma(2.0, 2000.0), "emission_cov": inverse_gamma(2.0, 15000.0)}


def nile_level() -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[1.0]], transition_cov=[[1469.1]], emission_matrix=[[1.0]], emission_cov=[[15099.0]],
        initial="diffuse",
    )  # fmt: skip


def grid_posterior(n: int = 60) -> dict[str, tuple[float, float]]:
    """Means and standard deviations of both variances by a dense grid over their logarithms."""
    model, y = nile_level(), ps.datasets.nile()
    q, r = np.linspace(np.log(40), np.log(40_000), n), np.linspace(np.log(4_000), np.log(50_000), n)
    logs = np.empty((n, n))
    for i, j in np.ndindex(n, n):
        model.transition_cov, model.emission_cov = [[np.exp(q[i])]], [[np.exp(r[j])]]
        with torch.no_grad():
            logs[i, j] = float(model.log_prob(y)) + q[i] + r[j]
    for axis, name in ((q[:, None], "transition_cov"), (r[None], "emission_cov")):
        logs = logs + PRIORS[name].log_prob(torch.as_tensor(np.exp(axis))).numpy()
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    found = {}
    for name, values, own in (
        ("transition_cov", np.exp(q), weights.sum(1)), ("emission_cov", np.exp(r), weights.sum(0))
    ):  # fmt: skip
        mean = float(own @ values)
        found[name] = mean, float(own @ (values - mean) ** 2) ** 0.5
    return found


def agrees(posterior: ps.bayes.Posterior, grid: dict[str, tuple[float, float]], widest: float = 4.5) -> None:
    """Means and standard deviations within their Monte Carlo errors."""
    table = posterior.summary()
    for name, (mean, deviation) in grid.items():
        row = table.loc[f"{name}[0, 0]"]
        print(f"{posterior.method:12} {name:15} {row['mean']:8.0f} ± {row['mcse_mean']:.0f} sd {row['sd']:7.0f}"
              f" ± {row['mcse_sd']:.0f}   grid {mean:8.0f} sd {deviation:7.0f}")  # fmt: skip
        assert abs(row["mean"] - mean) < widest * row["mcse_mean"]
        assert abs(row["sd"] - deviation) < widest * row["mcse_sd"] + 0.05 * deviation


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::probseq.errors.ConvergenceWarning")
def test_nuts_gibbs_guides_and_a_grid_agree_on_the_nile():
    grid, y = grid_posterior(), ps.datasets.nile()
    common = {"priors": PRIORS, "fixed": FIXED, "seed": 0}
    agrees(ps.bayes.nuts(nile_level(), y, n_samples=800, n_warmup=300, n_jobs=1, **common), grid)
    agrees(ps.bayes.gibbs(nile_level(), y, n_samples=1000, n_warmup=200, thin=8, n_jobs=1, **common), grid)
    agrees(ps.bayes.svi(nile_level(), y, guide="flow", n_steps=800, n_particles=2, **common), grid, widest=10.0)


@pytest.fixture(scope="module")
def nile_posterior() -> ps.bayes.Posterior:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return ps.bayes.nuts(
            nile_level(), ps.datasets.nile(), priors=PRIORS, fixed=FIXED, n_samples=60, n_warmup=60, seed=0, n_jobs=1
        )


def test_a_short_run_is_near_the_grid(nile_posterior):
    for name, (mean, deviation) in grid_posterior(25).items():
        assert abs(float(nile_posterior.mean(name)) - mean) < deviation / 2


def test_runs_depend_on_their_seed_alone():
    y = ps.datasets.nile()[:30]

    def run(seed: int) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            posterior = ps.bayes.nuts(
                nile_level(), y, priors=PRIORS, fixed=FIXED, n_samples=6, n_warmup=6, n_chains=1, seed=seed, n_jobs=1
            )
        return posterior.draws["emission_cov"]

    torch.manual_seed(1)
    first, after = run(0), torch.rand(3)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.rand(3), after)  # the global state is left alone
    torch.testing.assert_close(run(0), first, rtol=0, atol=0)
    assert not torch.equal(run(1), first)


@pytest.mark.slow
def test_processes_draw_what_one_process_draws():
    y, kept = ps.datasets.nile()[:30], {"priors": PRIORS, "fixed": FIXED, "n_samples": 20, "n_warmup": 20, "seed": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in (ps.bayes.nuts, ps.bayes.gibbs):
            one, two = (method(nile_level(), y, n_jobs=n, **kept).draws for n in (1, 2))
            for name in one:
                torch.testing.assert_close(one[name], two[name], rtol=0, atol=0)


CHOSEN = [
    "hmm-categorical", "hmm-negative-binomial", "hmm-product-mixed", "hmm-stationary-tied-prior", "hmm-inputs",
    "hsmm-poisson-negative", "lds-plain", "lds-inputs", "lds-diffuse-trend", "structural-quarterly", "ar-2",
    "nonlinear-pendulum-cubature", "rnn-gru-gaussian-diag", "neural-ar-linear", "poisson-gamma",
]  # fmt: skip


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in CHOSEN], ids=lambda row: row.name)
def test_the_gradient_of_a_posterior_is_its_slope(row):
    model = row.make(0)
    y, u = row.data(0, 8)
    potential = prepare(model, model._door(y, u).flat(), None, (), 0)
    theta = potential.theta()
    _, gradient = potential(theta)
    along = np.random.default_rng(0).standard_normal(len(theta))

    def slope(step: float) -> float:
        return (potential(theta + step * along)[0] - potential(theta - step * along)[0]) / (2 * step)

    wanted = (4 * slope(5e-4) - slope(1e-3)) / 3
    assert float(gradient @ along) == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_the_pieces_of_a_posterior_add_up():
    """log p(theta, y) = log p(y) + log prior + log volume, by torch's distributions."""
    model = nile_level()
    potential = prepare(model, model._door(ps.datasets.nile()).flat(), PRIORS, FIXED, 0)
    theta = potential.theta() + 0.3
    value, _ = potential(theta)
    with torch.no_grad():
        likelihood = float(potential.model.log_prob(ps.datasets.nile()))
    assert value == pytest.approx(likelihood + potential.log_prior(theta), rel=1e-12)


def test_guides_warn_where_they_miss():
    """A guide that has not climbed is far away, and its Pareto shape says so."""
    y = ps.datasets.nile()[:40]
    common = {"priors": PRIORS, "fixed": FIXED, "seed": 0, "n_samples": 200}
    good = ps.bayes.svi(nile_level(), y, n_steps=60, n_particles=2, learning_rate=0.05, **common)
    assert good.pareto_k is not None
    assert good.draws["emission_cov"].shape == (1, 200, 1, 1)
    with pytest.warns(ConvergenceWarning, match="far from the posterior"):
        ps.bayes.svi(nile_level(), y, n_steps=3, n_particles=1, learning_rate=3.0, **common)
    with pytest.raises(ValueError, match="guide must be one of"):
        ps.bayes.svi(nile_level(), y, guide="exact")


# ---- conditionals


def test_regressions_are_drawn_from_their_conditional():
    """Moments against the normal equations, with correlated noise."""
    rng = np.random.default_rng(0)
    x, cov = rng.normal(size=(30, 2)), np.array([[1.0, 0.6], [0.6, 2.0]])
    y = x @ np.array([[1.0, -1.0], [0.5, 2.0]]).T + rng.multivariate_normal([0, 0], cov, 30)
    mean, deviation = np.full((2, 2), 0.3), np.array([[0.5, 1.0], [2.0, 0.2]])
    precision = np.zeros((4, 4))
    right = np.zeros(4)
    for xi, yi in zip(x, y, strict=True):
        design = np.kron(np.eye(2), xi)  # rows of B one after the other
        precision += design.T @ np.linalg.solve(cov, design)
        right += design.T @ np.linalg.solve(cov, yi)
    precision += np.diag(1 / deviation.ravel() ** 2)
    right += mean.ravel() / deviation.ravel() ** 2
    centre, spread = np.linalg.solve(precision, right), np.linalg.inv(precision)
    draws = np.array([conjugate.regression(rng, y, x, cov, mean, deviation).ravel() for _ in range(20_000)])
    assert (np.abs(draws.mean(0) - centre) < 4 * np.sqrt(np.diag(spread) / 20_000)).all()
    np.testing.assert_allclose(np.cov(draws.T), spread, atol=0.04 * np.diag(spread).max())


def test_covariances_and_rows_are_drawn_from_their_conditionals():
    rng = np.random.default_rng(0)
    scale, e = np.array([[2.0, 0.5], [0.5, 1.0]]), rng.normal(size=(9, 2))
    draws = np.array([conjugate.covariance(rng, e.T @ e, 9, scale, 5.0) for _ in range(20_000)])
    spread = draws.std(0) / np.sqrt(20_000)
    assert (np.abs(draws.mean(0) - (scale + e.T @ e) / (5 + 9 - 3)) < 4 * spread).all()
    singles = np.array(
        [conjugate.variances(rng, np.array(7.0), np.array(9), np.array(3.0), np.array(2.0)) for _ in range(20_000)]
    )
    assert singles.mean() == pytest.approx((2 + 3.5) / (3 + 4.5 - 1), rel=0.02)
    rows = np.array([conjugate.rows(rng, np.array([[3.0, 0.0, 1.0], [0.5, 0.5, 0.5]])) for _ in range(20_000)])
    np.testing.assert_allclose(rows.mean(0), [[0.75, 0, 0.25], [1 / 3] * 3], atol=0.01)
    assert (rows[:, 0, 1] == 0).all()


GIBBS = {
    "gaussian": (ps.emissions.Gaussian(2), lambda rng: rng.normal(size=(40, 2))),
    "tied": (ps.emissions.Gaussian(2, covariance="tied"), lambda rng: rng.normal(size=(40, 2))),
    "diag": (ps.emissions.Gaussian(2, covariance="diag"), lambda rng: rng.normal(size=(40, 2))),
    "spherical": (ps.emissions.Gaussian(2, covariance="spherical"), lambda rng: rng.normal(size=(40, 2))),
    "symbols": (ps.emissions.Categorical(3), lambda rng: rng.integers(0, 3, size=(40, 1)).astype(float)),
    "counts": (ps.emissions.Poisson(2), lambda rng: rng.poisson(3.0, size=(40, 2)).astype(float)),
    "bits": (ps.emissions.Bernoulli(2), lambda rng: rng.integers(0, 2, size=(40, 2)).astype(float)),
}


@pytest.mark.parametrize("name", GIBBS)
@pytest.mark.filterwarnings("ignore::probseq.errors.ConvergenceWarning")
def test_gibbs_draws_legal_parameters_of_every_emission(name):
    import copy

    emission, make = GIBBS[name]
    y = make(np.random.default_rng(0))
    y[7] = np.nan
    model = ps.HMM(2, emission=copy.deepcopy(emission)).fit(y, seed=0, max_iterations=3)
    posterior = ps.bayes.gibbs(model, [y, y[:20]], n_samples=10, n_warmup=2, seed=0, n_chains=1, n_jobs=1)
    for moved in posterior.models():
        assert bool(torch.isfinite(moved.log_prob(y)).all())
    spread = [values.flatten(0, 1).std(0).max() for values in posterior.draws.values()]
    assert min(spread) > 0


def test_gibbs_draws_all_of_an_lds_and_of_a_structural_series():
    y = np.random.default_rng(0).normal(size=(3, 30, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        lds = ps.LDS(2, 2, offsets=["transition_offset", "emission_offset"]).fit(y, seed=0, max_iterations=2)
        posterior = ps.bayes.gibbs(
            lds, y, priors={"initial_mean": D.Normal(0.0, 1.0), "initial_cov": ps.priors.InverseWishart(1.0, 4.0)},
            n_samples=8, n_warmup=2, seed=0, n_chains=1, n_jobs=1,
        )  # fmt: skip
        assert set(posterior.draws) >= {"initial_mean", "initial_cov", "transition_offset", "emission_matrix"}
        series = ps.Structural(
            trend=True, seasonal=4, fourier={12: 2}, level_var=1.0, trend_var=0.1, seasonal_var=0.2,
            fourier_var=[0.1], emission_var=1.0,
        )  # fmt: skip
        drawn = ps.bayes.gibbs(series, y[0, :, 0], n_samples=8, n_warmup=2, seed=0, n_chains=1, n_jobs=1)
    assert all(bool((values > 0).all()) for values in drawn.draws.values())


def test_gibbs_says_what_it_cannot_do():
    y = ps.datasets.nile()
    with pytest.raises(TypeError, match="HMM, LDS and Structural"):
        ps.bayes.gibbs(ps.AR(1), y)
    with pytest.raises(ValueError, match="must be InverseGamma for gibbs, got HalfNormalRoot"):
        ps.bayes.gibbs(nile_level(), y, priors={"emission_cov": ps.bayes.HalfNormalRoot(100.0)}, fixed=FIXED)
    cycle = ps.Structural(
        cycle=True, level_var=1.0, cycle_var=1.0, cycle_damping=0.5, cycle_frequency=1.0, emission_var=1.0
    )
    with pytest.raises(ValueError, match="no closed conditional for cycle_var"):
        ps.bayes.gibbs(cycle, y)
