"""Switching linear dynamical systems against enumeration of regime paths, against an LDS and against an AR-HMM."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import probseq as ps
from probseq.errors import ProbseqWarning
from probseq.models.switching_learning import responsibilities
from probseq.models.switching_recurrent import infer_recurrent
from probseq.models.switching_variational import infer
from tests import reference, zoo

FILTERINGS = ("imm", "gpb2")
NAMES = ("transition_matrices", "transition_offsets", "transition_covs")


def gaps(y: Tensor, seed: int, share: float = 0.2) -> Tensor:
    mask = torch.as_tensor(np.random.default_rng([seed, 5]).random(tuple(y.shape)) < share)
    return torch.where(mask, torch.nan, y)


def data(seed: int, steps: int, dim: int = 2, batch: tuple[int, ...] = ()) -> Tensor:
    return torch.as_tensor(1.5 * np.random.default_rng([seed, 6]).normal(size=(*batch, steps, dim)))


def twin(model: ps.SwitchingLDS, path: Any) -> ps.LDS:
    """The linear system that varies in time along a regime path."""
    path = list(path)
    with torch.no_grad():
        return ps.LDS(
            transition_matrix=model.transition_matrices[path],
            transition_cov=model.transition_covs[path],
            transition_offset=model.transition_offsets[path],
            emission_matrix=model.emission_matrices[path],
            emission_cov=model.emission_covs[path],
            emission_offset=model.emission_offsets[path],
            initial_mean=model.initial_mean,
            initial_cov=model.initial_cov,
        )


class Enumerated:
    """log p(y), regime probabilities and state moments over all regime paths, each a dense Gaussian in numpy."""

    def __init__(self, model: ps.SwitchingLDS, y: Tensor) -> None:
        k, steps = model.n_regimes, len(y)
        start, moves = (np.log(reference.array(x)) for x in (model.initial_probs, model.regime_transition_matrix))
        self.paths = np.array(list(itertools.product(range(k), repeat=steps)))
        found = [reference.joint_of_lds(twin(model, path), steps).condition(y.numpy()) for path in self.paths]
        prior = np.array([start[p[0]] + sum(moves[i, j] for i, j in itertools.pairwise(p)) for p in self.paths])
        self.scores = prior + np.array([one.log_prob for one in found])
        self.log_prob = np.logaddexp.reduce(self.scores)
        weights = np.exp(self.scores - self.log_prob)
        self.probs = np.array([[weights[self.paths[:, t] == j].sum() for j in range(k)] for t in range(steps)])
        means, covs = np.array([one.mean for one in found]), np.array([one.cov for one in found])
        self.mean = np.einsum("p,ptn->tn", weights, means)
        away = means - self.mean
        self.cov = np.einsum("p,ptij->tij", weights, covs + away[..., :, None] * away[..., None, :])


def alike(seed: int, k: int, filtering: str) -> tuple[ps.SwitchingLDS, ps.LDS]:
    """k equal regimes, and their one linear system."""
    one = zoo.switching(seed, 1)
    rng = np.random.default_rng([seed, 7])
    with torch.no_grad():
        values = {name: getattr(one, name).repeat(k, *[1] * (getattr(one, name).ndim - 1)) for name in NAMES}
        shared = {name: getattr(one, name)[0] for name in ("emission_matrices", "emission_offsets", "emission_covs")}
        model = ps.SwitchingLDS(
            initial_probs=zoo.simplex(rng, k),
            regime_transition_matrix=zoo.simplex(rng, k, k),
            initial_mean=one.initial_mean,
            initial_cov=one.initial_cov,
            filtering=filtering,  # type: ignore[arg-type]
            **values,
            **shared,
        )
        linear = ps.LDS(
            **{name.replace("matrices", "matrix").rstrip("s"): value[0] for name, value in values.items()},
            **{name.replace("matrices", "matrix").rstrip("s"): value for name, value in shared.items()},
            initial_mean=one.initial_mean,
            initial_cov=one.initial_cov,
        )
    return model, linear


# ------------------------------------------------------------------------------------------------ exact members


@pytest.mark.parametrize("filtering", FILTERINGS)
@pytest.mark.parametrize("k", [1, 3])
def test_equal_regimes_are_the_linear_system(filtering: str, k: int) -> None:
    model, linear = alike(3, k, filtering)
    y = gaps(data(3, 40, batch=(3,)), 3)
    with torch.no_grad():
        truth = linear.log_prob(y)
        assert torch.allclose(model.log_prob(y), truth, rtol=1e-10, atol=0)
    assert torch.allclose(model.log_prob(y).detach(), truth, rtol=1e-10, atol=0)  # the loop, under autograd
    filtered, smoothed = model.filter(y).updated, model.smooth(y)
    for mine, other in ((filtered, linear.filter(y).updated), (smoothed, linear.smooth(y))):
        assert torch.allclose(mine.mean, other.mean, rtol=0, atol=1e-10 * float(other.mean.abs().max()))
        assert torch.allclose(mine.cov, other.cov, rtol=0, atol=1e-10 * float(other.cov.abs().max()))
    assert torch.allclose(smoothed.probs.sum(-1), torch.ones(3, 40).double(), rtol=1e-12)
    exact = model.estimate_log_prob(y[:, :6], kind="enumeration").value
    assert torch.allclose(exact, linear.log_prob(y[:, :6]), rtol=1e-10)
    particles = model.estimate_log_prob(y, n_samples=2, n_particles=5, seed=0)
    assert torch.allclose(particles.value, truth, rtol=1e-10)
    bounds = [float(_bound(model, y, b)) for b in range(3)]
    assert torch.allclose(torch.tensor(bounds, dtype=torch.float64), truth, rtol=1e-10)


def _bound(model: ps.SwitchingLDS, y: Tensor, b: int, passes: int = 2) -> Tensor:
    with torch.no_grad():
        sequences = model._door(y).flat()
        return infer(model.regimes(), sequences, b, responsibilities(model, sequences)[b], passes).bound


@pytest.mark.parametrize("seed", range(4))
def test_enumeration_is_that_of_dense_gaussians(seed: int) -> None:
    model = (zoo.switching(seed, 3), zoo.switching_sensors(seed))[seed % 2]
    y = gaps(data(seed, 5 - seed % 2, model.obs_dim), seed)
    truth = Enumerated(model, y)
    value = model.estimate_log_prob(y, kind="enumeration").value
    assert float(value) == pytest.approx(truth.log_prob, rel=1e-10)
    scores = model.path_log_prob(torch.as_tensor(truth.paths), y.expand(len(truth.paths), *y.shape)).detach()
    assert np.allclose(scores, truth.scores, rtol=1e-10)
    best = model.path_log_prob(model.decode(y), y).detach()
    assert float(best) <= truth.scores.max() + 1e-9


def test_where_the_state_is_seen_every_filter_is_exact() -> None:
    """C = I, R = 0: the AR-HMM of order 1, whose likelihood is exact."""
    rng = np.random.default_rng(4)
    chain = zoo.hmm(4, zoo.autoregressive_emission(2, 1), 3)
    y = torch.as_tensor(rng.normal(size=(2, 60, 2)))
    for filtering in FILTERINGS:
        model = of_chain(chain, y[0, 0], filtering)
        truth = chain.log_prob(y[0]).detach() - chain.log_prob(y[0, :1]).detach()
        mine = model.filter(y[0]).log_prob[1:].sum()
        assert float(mine) == pytest.approx(float(truth), rel=1e-10)


def of_chain(chain: ps.HMM, first: Tensor, filtering: str) -> ps.SwitchingLDS:
    emission: Any = chain.emission
    with torch.no_grad():
        densities = emission.given(None, emission.initial_window).log_prob(first)
        return ps.SwitchingLDS(
            initial_probs=(chain.initial_probs.log() + densities).softmax(-1),
            regime_transition_matrix=chain.transition_matrix,
            transition_matrices=emission.coefficients[:, 0],
            transition_offsets=emission.intercepts,
            transition_covs=emission.covs,
            emission_matrices=torch.eye(2).double(),
            emission_covs=torch.zeros(2, 2).double(),
            initial_mean=torch.zeros(2).double(),
            initial_cov=torch.eye(2).double(),
            filtering=filtering,  # type: ignore[arg-type]
        )


def test_switching_autoregression_is_the_hidden_markov_model() -> None:
    model = zoo.switching_ar(2, 3, 2, 2)
    emission = model.autoregression
    values = {name: getattr(emission, name).detach() for name in emission.params()}
    twin_of = ps.HMM(
        emission=ps.emissions.Autoregressive(**values),
        initial_probs=model.initial_probs.detach(),
        transition_matrix=model.transition_matrix.detach(),
    )
    y = data(2, 6)
    truth = reference.hmm_oracle(model, y.numpy())
    assert float(model.log_prob(y).detach()) == pytest.approx(truth.log_prob, rel=1e-10)
    assert torch.equal(model.decode(y), twin_of.decode(y))
    assert model.likelihood_kind == "exact"
    assert model.n_regimes == 3


def test_switching_autoregression_learns() -> None:
    """EM rises, and two rhythms are told apart."""
    truth = ps.SwitchingAR(
        initial_probs=[0.5, 0.5],
        transition_matrix=[[0.98, 0.02], [0.02, 0.98]],
        coefficients=[[[[1.6]], [[-0.9]]], [[[-0.4]], [[-0.7]]]],
        covs=[[[0.1]], [[0.1]]],
    )
    y = truth.sample(500, seed=3)
    model = ps.SwitchingAR(2, obs_dim=1, order=2).fit(y, seed=0)
    trace = np.array(model.history.objective)
    assert np.diff(trace).min() >= -1e-9 * abs(trace).max()
    agreement = accuracy(model.decode(y), truth.decode(y), 2)
    assert agreement > 0.97


# ---------------------------------------------------------------------------------- approximations, and how good


def _errors(seed: int, steps: int = 7) -> dict[str, float]:
    """Absolute errors of log p(y), by filter."""
    found = {}
    y = zoo.switching(seed, 3).sample(steps, seed=seed)
    for filtering in FILTERINGS:
        model = zoo.switching(seed, 3, filtering=filtering)
        exact = float(model.estimate_log_prob(y, kind="enumeration").value)
        with torch.no_grad():
            found[filtering] = abs(float(model.log_prob(y)) - exact)
    return found


def test_filters_against_enumeration() -> None:
    """GPB2, which collapses later, is nearer than IMM; neither is far."""
    rows = [_errors(seed) for seed in range(20)]
    worst, middle = {}, {}
    for filtering in FILTERINGS:
        errors = np.array([row[filtering] for row in rows])
        worst[filtering], middle[filtering] = errors.max(), np.median(errors)
        print(f"{filtering}: |log p - exact| over 20 systems, 7 steps: median {middle[filtering]:.2e}", end=" ")
        print(f"largest {worst[filtering]:.2e} nats")
    assert middle["gpb2"] < middle["imm"]
    assert worst["gpb2"] < 0.1
    assert worst["imm"] < 0.5


def test_smoothed_beliefs_against_enumeration() -> None:
    errors: dict[str, list[tuple[float, float]]] = {"expectation_correction": [], "kim": []}
    for seed in range(6):
        model = zoo.switching(seed, 2, filtering="gpb2")
        y = model.sample(5, seed=seed)
        truth = Enumerated(model, y)
        for smoothing, found in errors.items():
            smoothed = zoo.switching(seed, 2, filtering="gpb2", smoothing=smoothing).smooth(y)
            off = smoothed.probs.numpy() - truth.probs, smoothed.mean.numpy() - truth.mean
            found.append((abs(off[0]).max(), abs(off[1]).max()))
        drawn = model.sample_states(y, 2000, seed=seed).numpy()
        shares = (drawn[..., 0] == 1).mean(0)
        slack = 5 * np.sqrt(truth.probs[:, 1] * (1 - truth.probs[:, 1]) / 2000) + 5 / 2000
        assert (abs(shares - truth.probs[:, 1]) < slack + 0.02).all()
        spread = np.sqrt(np.diagonal(truth.cov, axis1=1, axis2=2))
        assert (abs(drawn[..., 1:].mean(0) - truth.mean) < 5 * spread / np.sqrt(2000) + 0.03 * spread).all()
    for smoothing, found in errors.items():
        probs, means = np.array(found).max(0)
        print(f"{smoothing} after GPB2: regime probabilities within {probs:.3f}, means within {means:.3f}")
    worst = {smoothing: np.array(found).max(0)[0] for smoothing, found in errors.items()}
    assert worst["expectation_correction"] < min(0.05, worst["kim"])


def _unbiased(runs: int, seed: int, n_particles: int = 4) -> tuple[float, float]:
    """The mean of likelihood / exact likelihood over runs, and its standard error."""
    model = zoo.switching(seed, 3)
    y = gaps(model.sample(7, seed=seed), seed)
    exact = model.estimate_log_prob(y, kind="enumeration").value
    found = model.estimate_log_prob(y, n_samples=runs, n_particles=n_particles, seed=seed)
    ratio, error = float((found.value - exact).exp()), float(found.standard_error * (found.value - exact).exp())
    print(f"{runs} runs of {n_particles} particles: mean likelihood / exact = {ratio:.4f} +- {error:.4f}")
    return ratio, error


def test_particles_are_unbiased() -> None:
    ratio, error = _unbiased(200, 1)
    assert error > 0
    assert abs(ratio - 1) < 3 * error


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_particles_are_unbiased_over_many_runs(seed: int) -> None:
    ratio, error = _unbiased(2000, seed)
    assert abs(ratio - 1) < 3 * error


def test_recurrent_particles_agree_with_many_draws_of_the_model() -> None:
    """p(y) of a recurrent system by plain Monte Carlo over paths, an estimate that has nothing in common."""
    model = zoo.switching_recurrent(2)
    y = model.sample(4, seed=3)
    found = model.estimate_log_prob(y, n_samples=200, n_particles=50, seed=0)
    drawn = model.sample_paths(4, (100_000,), seed=5)
    with torch.no_grad():
        matrix, offset = model.emission_matrices[0], model.emission_offsets[0]
        says = torch.distributions.MultivariateNormal(drawn.states @ matrix.mT + offset, model.emission_covs[0])
        scores = says.log_prob(y).sum(-1)
        plain = torch.logsumexp(scores, 0) - math.log(len(scores))
        spread = float((scores - plain).exp().std() / math.sqrt(len(scores)))
        assert abs(float((found.value - plain).exp()) - 1) < 4 * math.hypot(spread, float(found.standard_error))
        assert abs(float(model.log_prob(y) - found.value)) < 0.3


def test_recurrent_without_weights_is_markov() -> None:
    plain, y = zoo.switching(5, 2), data(5, 12)
    with torch.no_grad():
        values = {name: getattr(plain, name) for name in plain.params() if name != "recurrent_weights"}
        other = ps.SwitchingLDS(**values, recurrent_weights=torch.zeros(2, 2, 2))
        assert torch.allclose(other.log_prob(y), plain.log_prob(y), rtol=1e-10)


def test_joint_density_integrates_to_that_of_the_regimes() -> None:
    """log p(s, z, y) = log p(s, y) + log p(z given s, y)."""
    model, y = zoo.switching(6, 3), data(6, 4)
    path = [0, 2, 1, 1]
    truth = reference.joint_of_lds(twin(model, path), 4).condition(y.numpy())
    z = truth.joint_mean + 0.1
    density = reference.log_normal(z, truth.joint_mean, truth.joint_cov)
    states = torch.cat([torch.tensor(path).double().unsqueeze(-1), torch.as_tensor(z.reshape(4, 2))], -1)
    joint, marginal = model.path_log_prob(states, y), model.path_log_prob(torch.tensor(path), y)
    assert float(joint.detach()) == pytest.approx(float(marginal.detach()) + density, rel=1e-9)


# ----------------------------------------------------------------------------------------------------- learning


def accuracy(path: Tensor, truth: Tensor, k: int) -> float:
    """The share of steps with the right regime, under the best names."""
    names = itertools.permutations(range(k))
    return max(float((torch.tensor(order)[path] == truth).double().mean()) for order in names)


def three_regimes(seed: int = 0) -> ps.SwitchingLDS:
    """Two rotations at different speeds and a decay, seen through five sensors."""

    def turn(angle: float, radius: float) -> np.ndarray:
        return radius * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    return ps.SwitchingLDS(
        initial_probs=[1 / 3] * 3,
        regime_transition_matrix=np.full((3, 3), 0.015) + 0.955 * np.eye(3),
        transition_matrices=[turn(0.1, 0.98), turn(-0.5, 0.95), np.diag([0.9, 0.6])],
        transition_offsets=[[0.2, 0.0], [0.0, 0.3], [-0.3, -0.2]],
        transition_covs=np.stack([0.05 * np.eye(2)] * 3),
        emission_matrices=np.random.default_rng(seed).normal(size=(5, 2)),
        emission_covs=0.05 * np.eye(5),
        initial_mean=[0.0, 0.0],
        initial_cov=np.eye(2),
    )


@pytest.mark.slow
def test_regimes_are_recovered() -> None:
    drawn = three_regimes().sample_paths(600, seed=1)
    model = ps.SwitchingLDS(3, state_dim=2, obs_dim=5).fit(drawn.values, seed=0, tolerance=1e-4)
    share = accuracy(model.decode(drawn.values), drawn.regimes, 3)
    most = accuracy(three_regimes().decode(drawn.values), drawn.regimes, 3)
    print(f"regimes recovered after fit: {share:.3f} (true parameters {most:.3f}); {model.history}")
    assert share >= 0.95
    trace = np.array(model.history.objective)
    assert np.diff(trace).min() >= -1e-9 * (abs(trace).max() + 600)
    with torch.no_grad():
        assert trace.max() < float(model.log_prob(drawn.values)) + 1.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_regimes_are_recovered_in_other_systems(seed: int) -> None:
    drawn = three_regimes(seed).sample_paths(1000, seed=10 + seed)
    model = ps.SwitchingLDS(3, state_dim=2, obs_dim=5).fit(drawn.values, seed=seed)
    share = accuracy(model.decode(drawn.values), drawn.regimes, 3)
    print(f"seed {seed}: {share:.3f}")
    assert share >= 0.95


def _largest_fall(seed: int) -> float:
    """How far the bound falls at most, relative, over fits of random sizes to random data with gaps."""
    rng = np.random.default_rng([seed, 8])
    k, n, m = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    shared = bool(rng.integers(2))
    truth = zoo.switching(seed, k, n, m)
    lengths = rng.integers(5, 40, size=rng.integers(1, 4)).tolist()
    y = [gaps(truth.sample(length, seed=seed + i), seed + i, 0.15) for i, length in enumerate(lengths)]
    model = ps.SwitchingLDS(k, n, m, shared_emission=shared)
    with _quiet():
        model.fit(y, seed=seed, max_iterations=15, tolerance=1e-12)
    trace = np.array(model.history.objective)
    return float((trace[:-1] - trace[1:]).max() / (abs(trace).max() + sum(map(len, y))))


def _quiet() -> Any:
    """Fits that are stopped early on purpose."""
    return warnings.catch_warnings(action="ignore", category=ProbseqWarning)


def test_the_bound_never_falls() -> None:
    falls = [_largest_fall(seed) for seed in range(2)]
    print("largest fall of the bound, relative:", max(falls))
    assert max(falls) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("block", range(5))
def test_the_bound_never_falls_on_many_problems(block: int) -> None:
    falls = [_largest_fall(100 + 20 * block + i) for i in range(20)]
    print("largest fall of the bound, relative:", max(falls))
    assert max(falls) <= 1e-9


def test_the_bound_lies_below_the_likelihood() -> None:
    for seed in range(4):
        model = zoo.switching(seed, 3)
        y = gaps(data(seed, 6, batch=(2,)), seed)
        exact = model.estimate_log_prob(y, kind="enumeration").value
        bounds = [[float(_bound(model, y, b, passes)) for passes in (1, 3, 20)] for b in range(2)]
        for own, truth in zip(bounds, exact.tolist(), strict=True):
            assert own == sorted(own)
            assert own[-1] <= truth + 1e-9


def test_the_bound_of_a_recurrent_system() -> None:
    """Without weights it is that of the Markov chain; with them it rises and stays below the likelihood."""
    plain, start = zoo.switching(5, 2), torch.full((6, 2), 0.5, dtype=torch.float64)
    y = plain.sample(6, seed=1)
    with torch.no_grad():
        values = {name: getattr(plain, name) for name in plain.params() if name != "recurrent_weights"}
        other = ps.SwitchingLDS(**values, recurrent_weights=torch.zeros(2, 2, 2))
        sequences = plain._door(y).flat()
        for passes in (1, 3):
            mine = infer_recurrent(other.regimes(), sequences, 0, start, passes - 1).bound
            same = infer(plain.regimes(), sequences, 0, start, passes).bound
            assert float(mine) == pytest.approx(float(same), rel=1e-10)
        for seed in range(3):
            model = zoo.switching_recurrent(seed)
            y = model.sample(6, seed=seed)
            sequences = model._door(y).flat()
            bounds = [float(infer_recurrent(model.regimes(), sequences, 0, start, n).bound) for n in (0, 1, 3, 8)]
            found = model.estimate_log_prob(y, n_samples=100, seed=0)
            assert bounds == sorted(bounds)
            assert bounds[-1] <= float(found.value + 4 * found.standard_error)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_recurrent_systems_learn(seed: int) -> None:
    y = zoo.switching_recurrent(seed).sample(60, (2,), seed=seed)
    model = ps.SwitchingLDS(2, 2, 1, recurrent=True)
    with _quiet():
        model.fit(y, seed=0, max_iterations=20)
    trace = np.array(model.history.objective)
    assert np.diff(trace).min() >= -1e-9 * abs(trace).max()
    assert float(model.recurrent_weights.detach().abs().max()) > 0


def test_one_regime_learns_like_an_lds() -> None:
    """Variational EM of one regime is EM of its LDS, step by step."""
    model, linear = alike(8, 1, "imm")
    y = gaps(data(8, 30, batch=(4,)), 8)
    for _ in range(3):
        sequences = model._door(y).flat()
        with torch.no_grad():
            bound, _ = model._variational_step(sequences, None)
            value = linear._em_step(sequences)
        assert float(bound) == pytest.approx(float(value), rel=1e-9)
    assert torch.allclose(model.transition_matrices[0], linear.transition_matrix, rtol=1e-7)


def test_held_parameters_stay() -> None:
    truth = three_regimes()
    y = truth.sample(120, seed=2)
    with torch.no_grad():
        model = ps.SwitchingLDS(3, 2, 5, emission_matrices=truth.emission_matrices[0])
        before = model.emission_matrices.clone()
        with _quiet():
            model.fit(y, seed=0, max_iterations=3, fixed={"emission_matrices", "emission_offsets"})
        assert torch.equal(model.emission_matrices, before)
        assert bool((model.emission_offsets == 0).all())


@pytest.mark.parametrize("y", [np.full(40, 3.7), np.zeros(40), [0.3]], ids=["constant", "zeros", "one step"])
def test_data_without_noise_end_the_fit_where_they_still_had_a_density(y: Any) -> None:
    with pytest.warns() as said:
        model = ps.SwitchingLDS(2, 2, 1).fit(y, seed=0)
    assert {str(warning.message).partition(";")[0] for warning in said} >= {"y is constant in a coordinate"}
    assert any("became degenerate" in str(warning.message) for warning in said)
    assert not any("raise max_iterations" in str(warning.message) for warning in said)
    assert np.isfinite(model.score(y))
    np.testing.assert_allclose(model.forecast(y, 2, seed=0).mean[:, 0], y[-1], atol=1e-6)


# ------------------------------------------------------------------------------------------------------ refusals


def test_refusals() -> None:
    model = zoo.switching(1, 2)
    with pytest.raises(ValueError, match='filtering must be "imm" or "gpb2"'):
        zoo.switching(1, 2, filtering="kim")
    with pytest.raises(TypeError, match="unknown arguments"):
        ps.SwitchingLDS(2, 1, 1, transition_matrix=[[1.0]])
    with pytest.raises(ValueError, match="n_regimes must be given"):
        ps.SwitchingLDS(state_dim=1, obs_dim=1)
    with pytest.raises(ValueError, match="same in every regime"):
        zoo.switching(1, 2, 2, 1).emission_offsets = [[0.0], [1.0]]
    with pytest.raises(ValueError, match="regime paths to enumerate"):
        model.estimate_log_prob(data(1, 30), kind="enumeration")
    with pytest.raises(ValueError, match="regimes that do not depend"):
        zoo.switching_recurrent(1).estimate_log_prob(data(1, 3, 1), kind="enumeration")
    with pytest.raises(ValueError, match='kind must be "particle"'):
        model.estimate_log_prob(data(1, 3), kind="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"regimes must lie in 0 \.\. 1, got 0 \.\. 2"):
        model.path_log_prob(torch.tensor([0, 1, 2]), data(1, 3))
    with pytest.raises(ValueError, match="states must be a regime"):
        model.path_log_prob(torch.zeros(3, 2), data(1, 3))
    with pytest.raises(ValueError, match="continuous state too"):
        zoo.switching_recurrent(1).path_log_prob(torch.tensor([0, 1, 0]), data(1, 3, 1))
