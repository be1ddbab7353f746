"""What a posterior is for: forecasts, states, criteria, ArviZ, one order of states."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributions as D

import probseq as ps
from probseq.bayes.calibration import ecdf_band, outside
from probseq.bayes.leave_future_out import leave_future_out
from probseq.bayes.posterior import Posterior
from probseq.bayes.potential import prepare
from probseq.bayes.relabelling import exchangeable, relabelled, renamed, stephens
from tests.bayes.calibrated import N_RANKS, ranks
from tests.bayes.test_sampling import FIXED, PRIORS, nile_level

TIGHT = {"rtol": 1e-9, "atol": 1e-11}


def gaussian_hmm() -> ps.HMM:
    emission = ps.emissions.Gaussian(means=[[-1.0], [1.0], [4.0]], covs=np.full((3, 1, 1), 0.8))
    matrix = [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]]
    return ps.HMM(initial_probs=[0.3, 0.3, 0.4], transition_matrix=matrix, emission=emission)


def around(model: ps.StateSpaceModel, y: Tensor, n: int = 6, spread: float = 0.1, chains: int = 2) -> Posterior:
    """Draws around a model's own values: what is asked of a posterior does not ask where it came from."""
    fixed = FIXED if isinstance(model, ps.LDS) else ()
    potential = prepare(model, model._door(y).flat(), None, fixed, 0)
    centre, rng = potential.theta(), np.random.default_rng(0)
    draws: list[dict[str, Tensor]] = []
    for _ in range(chains * n):
        potential.place(centre + spread * rng.standard_normal(len(centre)))
        draws.append(potential.values())
    stacked = {name: torch.stack([one[name] for one in draws]).unflatten(0, (chains, n)) for name in draws[0]}
    stats = {"lp": rng.standard_normal((chains, n))}
    return Posterior(model, model._door(y), stacked, stats, method="test")


@pytest.mark.parametrize("model", [nile_level(), gaussian_hmm()], ids=["LDS", "HMM"])
def test_forecasts_are_mixtures_over_the_draws(model):
    y = torch.tensor(ps.datasets.nile().to_numpy()[:30])
    y = y if isinstance(model, ps.LDS) else model.sample(30, seed=0)
    posterior = around(model, y)
    forecast = posterior.predict(4, n_draws=None, n_paths=3, seed=0)
    each = [one.forecast(y, 4) for one in posterior.models()]
    means = []
    for one in posterior.models():
        means.append(one.forecast(y, 4).mean)
    torch.testing.assert_close(forecast.mean, torch.stack(means).mean(0), **TIGHT)
    at = forecast.mean + 0.3
    densities = []
    for one in posterior.models():
        densities.append(one.forecast(y, 4).distribution.log_prob(at))
    wanted = torch.stack(densities).logsumexp(0) - np.log(len(densities))
    torch.testing.assert_close(forecast.distribution.log_prob(at), wanted, **TIGHT)
    assert forecast.samples.shape == (3 * len(each), 4, 1)
    lower, upper = forecast.interval(0.9)
    assert bool((lower < upper).all())


def test_forecasts_carry_the_uncertainty_of_parameters():
    y = torch.tensor(ps.datasets.nile().to_numpy())
    model = nile_level()
    plain = model.forecast(y, 10)
    wide = around(model, y, n=40, spread=0.8).predict(10, n_draws=None, seed=0)
    assert float(wide.distribution.variance[-1]) > float(plain.distribution.variance[-1])


def test_states_are_averages_over_the_draws():
    y = torch.tensor(ps.datasets.nile().to_numpy())
    posterior = around(nile_level(), y)
    belief, means, squares = posterior.states(None), [], []
    for one in posterior.models():
        smooth = one.smooth(y)
        means.append(smooth.mean)
        squares.append(smooth.cov[..., 0] + smooth.mean**2)
    torch.testing.assert_close(belief.mean, torch.stack(means).mean(0), **TIGHT)
    torch.testing.assert_close(belief.cov[..., 0], torch.stack(squares).mean(0) - belief.mean**2, rtol=1e-7, atol=1e-6)
    hmm = gaussian_hmm()
    z = hmm.sample(20, (2,), seed=0)
    found, probs = around(hmm, z).states(None), []
    for one in around(hmm, z).models():
        probs.append(one.smooth(z).probs)
    torch.testing.assert_close(found.probs, torch.stack(probs).mean(0), **TIGHT)
    with pytest.raises(TypeError, match="no latent states"):
        around(ps.RNN(cell=ps.cells.Elman(2), head=ps.heads.Gaussian(), obs_dim=1), z[0]).states()


def test_arviz_gets_everything():
    y = torch.tensor(ps.datasets.nile().to_numpy())
    posterior = around(nile_level(), y, n=20)
    data = posterior.to_arviz(log_likelihood=True)
    assert set(data.groups()) == {"posterior", "sample_stats", "observed_data", "log_likelihood"}
    assert data.log_likelihood["y"].shape == (2, 20, 100)
    total = data.log_likelihood["y"].sum("y_dim_0" if "y_dim_0" in data.log_likelihood["y"].dims else "y_dim_1")
    scores = []
    for one in posterior.models():
        scores.append(float(one.log_prob(y).detach()))
    np.testing.assert_allclose(np.asarray(total).ravel(), scores, rtol=1e-9)
    table = posterior.summary(["emission_cov"])
    assert table["mean"].iloc[0] == pytest.approx(float(posterior.mean("emission_cov")), rel=1e-9)
    waic, terms = posterior.waic(), np.asarray(data.log_likelihood["y"]).reshape(40, 100)
    wanted = (np.log(np.exp(terms).mean(0)) - terms.var(0)).sum()
    assert float(waic.elpd_waic) == pytest.approx(wanted, rel=1e-6)
    assert posterior.min_ess() > 0
    assert "40 draws of transition_cov, emission_cov" in repr(posterior)


def exact_predictive(y: np.ndarray, first: int, n: int = 30) -> np.ndarray:
    """log p(y_t | y_<t), t >= first, with both variances integrated out on a grid."""
    model = nile_level()
    q, r = np.linspace(np.log(30), np.log(60_000), n), np.linspace(np.log(3_000), np.log(80_000), n)
    totals = np.empty((n * n, len(y)))
    for k, (i, j) in enumerate(np.ndindex(n, n)):
        model.transition_cov, model.emission_cov = [[np.exp(q[i])]], [[np.exp(r[j])]]
        prior = float(PRIORS["transition_cov"].log_prob(torch.tensor(np.exp(q[i])))) + q[i]
        prior += float(PRIORS["emission_cov"].log_prob(torch.tensor(np.exp(r[j])))) + r[j]
        totals[k] = prior + np.cumsum(model.filter(y).log_prob.numpy())
    marginal = np.logaddexp.reduce(totals, 0)
    return np.diff(marginal)[first - 1 :]


@pytest.mark.filterwarnings("ignore::probseq.errors.ConvergenceWarning")
def test_leave_future_out_is_the_predictive_density_by_a_grid():
    y = ps.datasets.nile().to_numpy()[:60]
    common = {"priors": PRIORS, "fixed": FIXED, "seed": 0, "n_warmup": 100, "n_samples": 150, "thin": 4}
    posterior = ps.bayes.gibbs(nile_level(), y, n_chains=1, n_jobs=1, **common)
    found, wanted = posterior.leave_future_out(50), exact_predictive(y, 50)
    np.testing.assert_allclose(found.pointwise, wanted, atol=0.1)
    assert found.elpd == pytest.approx(wanted.sum(), abs=0.3)
    assert found.n_refits == int(np.isnan(found.pareto_k).sum())
    calls = []

    def refit(shorter):
        calls.append(shorter.n_steps)
        return around(nile_level(), shorter.values[0], n=20)

    again = leave_future_out(posterior, 55, threshold=-10.0, refit=refit)
    assert calls == [59, 58, 57, 56, 55]
    assert again.n_refits == 5
    with pytest.raises(ValueError, match=r"first must lie in 1 \.\. 59"):
        posterior.leave_future_out(60)


# ---- label switching


def test_shuffled_states_are_put_in_one_order(caplog):
    model = gaussian_hmm()
    y = model.sample(80, seed=0)
    straight = around(model, y, n=20, spread=0.05)
    rng = np.random.default_rng(1)
    shuffled = renamed(straight, np.stack([rng.permutation(3) for _ in range(40)]))
    potential = prepare(model, model._door(y).flat(), None, (), 0)
    assert float(shuffled.draws["emission.means"].std((0, 1)).min()) > 1
    with caplog.at_level(logging.INFO, logger="probseq"):
        found = relabelled(shuffled, potential)
    assert "label switching" in caplog.text
    assert found.relabelled is not None
    assert found.relabelled > 10
    order = found.draws["emission.means"][0, 0, :, 0].argsort()
    for name, axes in {"emission.means": (2,), "initial_probs": (2,), "transition_matrix": (2, 3)}.items():
        values = found.draws[name]
        for axis in axes:
            values = values.index_select(axis, order)
        torch.testing.assert_close(values, straight.draws[name], **TIGHT)
    sorted_by_mean = ps.bayes.ordered(shuffled, "emission.means")
    torch.testing.assert_close(sorted_by_mean.draws["transition_matrix"], straight.draws["transition_matrix"], **TIGHT)


def test_states_that_the_prior_tells_apart_keep_their_names():
    model = gaussian_hmm()
    y = model.sample(30, seed=0)
    told = {"emission.means": D.Normal(torch.tensor([[-1.0], [1.0], [4.0]], dtype=torch.float64), 1.0)}
    for priors, wanted in ((None, True), (told, False)):
        potential = prepare(model, model._door(y).flat(), priors, (), 0)
        posterior = around(model, y)
        assert exchangeable(potential, posterior) is wanted
        assert (relabelled(posterior, potential).relabelled is not None) is wanted


def test_stephens_undoes_permutations():
    rng = np.random.default_rng(0)
    base = rng.dirichlet([0.3] * 4, size=50)
    probs = np.stack([base * 0.9 + 0.1 * rng.dirichlet([1] * 4, size=50) for _ in range(30)])
    shuffles = np.stack([rng.permutation(4) for _ in range(30)])
    mixed = np.stack([one[:, order] for one, order in zip(probs, shuffles, strict=True)])
    orders = stephens(mixed, 0)
    undone = np.stack([one[:, order] for one, order in zip(mixed, orders, strict=True)])
    np.testing.assert_allclose(undone, probs[:, :, shuffles[0]])


# ---- calibration


def test_bands_hold_uniform_ranks_as_often_as_they_say():
    low, high = ecdf_band(100, 31)
    rng = np.random.default_rng(0)
    simulated = rng.integers(0, 32, size=(4000, 100))
    counts = np.stack([np.bincount(one, minlength=32).cumsum()[:-1] for one in simulated])
    inside = ((counts >= low) & (counts <= high)).all(1).mean()
    assert 0.94 < inside < 0.98  # counts are whole numbers, so a little above 95 %
    skewed = rng.binomial(31, 0.4, size=100)
    assert outside({"good": simulated[0], "bad": skewed}, 31)["bad"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["nuts", "gibbs"])
@pytest.mark.parametrize("case", ["level", "states"])
def test_calibration_over_200_data_sets(case, sampler):
    found = outside(ranks(case, sampler, 200), N_RANKS)
    print(case, sampler, found)
    assert set(found.values()) == {0}


def test_calibration_over_20_data_sets():
    """Gibbs on a local level: the whole path of a simulation."""
    found = ranks("level", "gibbs", 20, thin=12, n_ranks=15)
    assert set(outside(found, 15, level=0.999).values()) == {0}  # of three quantities, one leaves 95 % too often
    biased = {name: values // 4 for name, values in found.items()}
    assert min(outside(biased, 15, level=0.999).values()) > 0
