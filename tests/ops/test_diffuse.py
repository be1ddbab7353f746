"""Exact diffuse starts against limits in many digits, statsmodels, autograd through a loop, and published numbers."""

from __future__ import annotations

import math
import warnings
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

import probseq as ps
from probseq.errors import ImproperBelief, SingularInnovation, StateOverflow
from probseq.ops import diffuse, kalman
from probseq.ops.kalman import LinearGaussianSystem
from tests.test_golden import golden


def make_local_level(case: dict[str, Any]) -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[1.0]],
        transition_cov=[[case["transition_var"]]],
        emission_matrix=[[1.0]],
        emission_cov=[[case["emission_var"]]],
        initial="diffuse",
    )


def trend(q: tuple[float, float] = (2.0, 0.5), r: float = 3.0) -> ps.LDS:
    return ps.LDS(
        transition_matrix=[[1.0, 1.0], [0.0, 1.0]],
        transition_cov=np.diag(q),
        emission_matrix=[[1.0, 0.0]],
        emission_cov=[[r]],
        initial="diffuse",
    )


def random_problem(
    seed: int, n: int = 3, m: int = 2, steps: int = 6, batch: int = 3, d: int = 2, *, noise: float = 1.0
) -> tuple[LinearGaussianSystem, Tensor, Tensor, Tensor, Tensor]:
    """System, y, observed, lengths, diffuse: singular Q, partly diffuse start, gaps, uneven lengths."""
    rng = np.random.default_rng(seed)

    def tensor(value: Any) -> Tensor:
        return torch.as_tensor(np.asarray(value, dtype=float))

    def cov(size: int, rank: int) -> np.ndarray:
        root = rng.normal(size=(size, rank))
        return root @ root.T

    system = LinearGaussianSystem(
        tensor(rng.normal(size=(batch, n))),
        tensor(cov(n, n - d))[None],
        tensor(rng.normal(size=(1, n, n)) / math.sqrt(n)),
        tensor(cov(n, 1))[None],
        tensor(rng.normal(size=(1, 1, n))),
        tensor(rng.normal(size=(1, m, n))),
        noise * tensor(cov(m, m))[None],
    )
    observed = torch.as_tensor(rng.random((batch, steps, m)) > 0.3)
    observed[0, 0] = False
    lengths = torch.as_tensor(steps - np.arange(batch) % 3)
    return system, tensor(rng.normal(size=(batch, steps, m))), observed, lengths, tensor(rng.normal(size=(1, n, d)))


# ------------------------------------------------------------------------------------------- published numbers


@pytest.mark.parametrize("unit", [1e-8, 1e-3, 1.0, 1e8])
def test_nile(unit: float) -> None:
    case, y = golden("nile"), ps.datasets.nile().to_numpy()
    model = make_local_level(case).rescale(unit)
    assert model.log_prob(unit * y).item() + len(y) * math.log(unit) == pytest.approx(case["diffuse"], abs=1e-7)
    filtered = model.filter(unit * y)
    assert filtered.updated.mean[-1].item() == pytest.approx(case["last_filtered"]["mean"], abs=1e-5)
    assert filtered.updated.cov[-1].item() == pytest.approx(case["last_filtered"]["var"], abs=1e-5)
    smoothed = model.smooth(unit * y).mean[:, 0]
    for step, mean in case["smoothed_mean"].items():
        assert float(smoothed[int(step) - 1]) == pytest.approx(mean, abs=1e-5)


def test_ten_observations() -> None:
    case = golden("diffuse_level")
    y, model = np.array(case["y"]), make_local_level(case)
    assert model.log_prob(y).item() == pytest.approx(case["log_prob"], abs=1e-8)
    predicted, smoothed = model.filter(y).predicted, model.smooth(y)
    assert predicted.mean[1].item() == pytest.approx(y[0], abs=1e-13)
    assert predicted.cov[1].item() == pytest.approx(case["emission_var"] + case["transition_var"], abs=1e-13)
    assert predicted.mean[2].item() == pytest.approx(case["third_mean"], abs=1e-13)
    assert smoothed.mean[0].item() == pytest.approx(case["first_smoothed"]["mean"], abs=1e-13)
    assert smoothed.cov[0].item() == pytest.approx(case["first_smoothed"]["var"], abs=1e-13)


def test_two_observations_fix_a_trend() -> None:
    y = np.array([3.1, 5.0, 9.0, 2.0])
    predicted = trend().filter(y).predicted
    torch.testing.assert_close(predicted.mean[2], torch.tensor([2 * y[1] - y[0], y[1] - y[0]]), rtol=0, atol=1e-13)
    assert [int(torch.linalg.matrix_rank(cov)) for cov in predicted.diffuse_cov] == [2, 1, 0, 0]
    assert not predicted.diffuse_cov[2:].any()


# ------------------------------------------------------------------------------------------- limits and rivals


def limit(
    system: LinearGaussianSystem, y: Tensor, observed: Tensor, length: int, loading: Tensor, b: int
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """log p and the smoothed moments for a variance of 1e60, from the joint Gaussian in 200 digits."""
    with mpmath.workdps(200):
        exact = [mpmath.matrix(np.asarray(value[b if value.shape[0] > 1 else 0]).tolist()) for value in system[:4]]
        mean, cov, a, q = exact
        c, r = (mpmath.matrix(np.asarray(value[0]).tolist()) for value in system[5:])
        offset, wide = mpmath.matrix(np.asarray(system[4][0, 0]).tolist()), mpmath.matrix(loading[0].tolist())
        n, kappa = a.rows, mpmath.mpf(10) ** 60
        means, joint = [mean], {(0, 0): cov + kappa * wide * wide.T}
        for t in range(1, length):
            means.append(a * means[-1] + offset)
            for s in range(t):
                joint[t, s] = a * joint[t - 1, s]
            joint[t, t] = a * joint[t - 1, t - 1] * a.T + q

        def between(t: int, s: int) -> Any:
            return joint[t, s] if t >= s else joint[s, t].T

        places = [(t, j) for t in range(length) for j in range(c.rows) if bool(observed[b, t, j])]
        inner = mpmath.matrix(len(places), len(places))
        cross = [mpmath.matrix(n, len(places)) for _ in range(length)]
        left = mpmath.matrix([mpmath.mpf(float(y[b, t, j])) - (c * means[t])[j] for t, j in places])
        for i, (t, j) in enumerate(places):
            for k, (s, column) in enumerate(places):
                inner[i, k] = (c * between(t, s) * c.T)[j, column] + (r[j, column] if s == t else 0)
            for s in range(length):
                cross[s][:, i] = (between(s, t) * c.T)[:, j]
        inverse = inner**-1
        resolved = int(np.linalg.matrix_rank(_seen_loading(system, loading, places)))
        value = -0.5 * (
            (left.T * inverse * left)[0]
            + mpmath.log(mpmath.det(inner))
            + len(places) * mpmath.log(2 * mpmath.pi)
            - resolved * mpmath.log(kappa)
        )
        found = [means[t] + cross[t] * inverse * left for t in range(length)]
        spreads = [between(t, t) - cross[t] * inverse * cross[t].T for t in range(length)]
        lags = [between(t + 1, t) - cross[t + 1] * inverse * cross[t].T for t in range(length - 1)]
        moments = [np.array([np.array(x.tolist(), dtype=float) for x in xs]) for xs in (found, spreads, lags)]
        return float(value), moments[0], moments[1], moments[2]


def _seen_loading(system: LinearGaussianSystem, loading: Tensor, places: list[tuple[int, int]]) -> np.ndarray:
    a, c = np.asarray(system.transition_matrix[0]), np.asarray(system.emission_matrix[0])
    return np.array([c[j] @ np.linalg.matrix_power(a, t) @ np.asarray(loading[0]) for t, j in places])


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (4, 3, 3)])
def test_limit_of_a_large_variance(n: int, m: int, d: int, noise: float) -> None:
    """Correlated and vanishing emission noise, singular Q, missing first rows: every moment in the limit."""
    system, y, observed, lengths, loading = random_problem(n + 10 * m, n, m, d=d, noise=noise)
    if noise == 0.0:
        system = system._replace(transition_cov=system.transition_cov + torch.eye(n, dtype=torch.float64))
    value = kalman.log_prob(system, y, observed, lengths, loading)
    smoothed = kalman.smooth(system, y, observed, lengths, loading)
    assert not smoothed.diffuse.any()
    torch.testing.assert_close(
        kalman.filter(system, y, observed, lengths, loading).log_prob.sum(-1), value, rtol=1e-12, atol=1e-12
    )
    for b, length in enumerate(lengths.tolist()):
        expected, mean, cov, lag = limit(system, y, observed, length, loading, b)
        assert value[b].item() == pytest.approx(expected, rel=1e-10)
        np.testing.assert_allclose(smoothed.mean[b, :length], mean[..., 0], rtol=1e-8, atol=1e-9 * abs(mean).max())
        np.testing.assert_allclose(smoothed.cov[b, :length], cov, rtol=1e-8, atol=1e-9 * abs(cov).max())
        lagged = smoothed.lag_one_cov[b, : length - 1]
        np.testing.assert_allclose(lagged, lag, rtol=1e-8, atol=1e-9 * abs(cov).max())


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_statsmodels(missing: float) -> None:
    from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

    system, y, observed, _, _ = random_problem(5, 3, 2, 30, 1)
    observed = torch.as_tensor(np.random.default_rng(1).random((1, 30, 2)) >= missing)
    system = system._replace(initial_mean=torch.zeros(1, 3).double(), initial_cov=torch.zeros(1, 3, 3).double())
    other = KalmanSmoother(2, 3)
    other.bind(np.where(observed[0], y[0], np.nan).copy())
    names = {"transition": 2, "state_cov": 3, "design": 5, "obs_cov": 6}
    for name, place in names.items():
        other[name] = np.asarray(system[place][0])
    other["state_intercept"] = np.asarray(system.transition_offset[0, 0])
    other["selection"] = np.eye(3)
    other.initialize("diffuse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it makes the noise diagonal
        theirs = other.smooth()
    ours = kalman.smooth(system, y, observed, torch.tensor([30]), torch.eye(3).double()[None])
    assert ours.log_prob.item() == pytest.approx(theirs.llf, rel=1e-9)
    np.testing.assert_allclose(ours.mean[0], theirs.smoothed_state.T, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(ours.cov[0], theirs.smoothed_state_cov.transpose(2, 0, 1), rtol=1e-7, atol=1e-7)


# ---------------------------------------------------------------------------------------------------- gradients


def looped(system: LinearGaussianSystem, y: Tensor, observed: Tensor, lengths: Tensor, loading: Tensor) -> Tensor:
    """The one-step updates of `ops.diffuse` in a loop, which autograd differentiates."""
    totals = []
    for b in range(len(y)):
        mean, cov, improper = system.initial_mean[b], system.initial_cov[0], loading[0] @ loading[0].mT
        a, q, o, c, r = (value[0] for value in (*system[2:4], system[4][0], *system[5:]))
        total = y.new_zeros(())
        for t in range(int(lengths[b])):
            if t:
                mean, cov, improper = a @ mean + o, a @ cov @ a.mT + q, a @ improper @ a.mT
            mean, cov, improper, score = diffuse.update(mean, cov, improper, y[b, t], observed[b, t], c, r)
            total = total + score
        totals.append(total)
    return torch.stack(totals)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (13, 2, 3)])
def test_gradient_equals_autograd_through_a_loop(n: int, m: int, d: int, gaps: bool) -> None:
    system, y, observed, lengths, loading = random_problem(n, n, m, 7, 4, d)
    if not gaps:
        observed, lengths = torch.ones_like(observed), torch.full((4,), 7)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    results = []
    for function in (kalman.log_prob, looped):
        leaves = [value.clone().requires_grad_() for value in (*system, y)]
        total = function(LinearGaussianSystem(*leaves[:7]), leaves[7], observed, lengths, loading) @ weights
        results.append((total.detach(), torch.autograd.grad(total, leaves)))
    largest = max(float(gradient.abs().max()) for gradient in results[1][1])
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-10, atol=1e-10)
    for name, ours, loops in zip((*LinearGaussianSystem._fields, "y"), results[0][1], results[1][1], strict=True):
        expected = 0.5 * (loops + loops.mT) if name.endswith("_cov") else loops
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-11 * largest, msg=name)


def test_gradcheck() -> None:
    """In the factors of covariances: those of the start and of the transition are singular here."""
    system, y, observed, lengths, loading = random_problem(2, 2, 2, 4, 3, 1)
    names = (*LinearGaussianSystem._fields, "y")

    def function(*leaves: Tensor) -> Tensor:
        values = [x @ x.mT if name.endswith("_cov") else x for name, x in zip(names, leaves, strict=True)]
        return kalman.log_prob(LinearGaussianSystem(*values[:7]), values[7], observed, lengths, loading)

    factors = [
        kalman.semidefinite_root(value) if name.endswith("_cov") else value
        for name, value in zip(names, (*system, y), strict=True)
    ]
    leaves = [value.clone().requires_grad_() for value in factors]
    assert torch.autograd.gradcheck(function, leaves, atol=1e-6, rtol=1e-5)


def test_many_sequences_share_their_covariances() -> None:
    """The compiled lanes equal one sequence at a time, values and gradients, with lengths inside the diffuse steps."""
    system, y, _, _, loading = random_problem(3, 3, 1, 9, 140, 2)
    lengths = torch.arange(140) % 10
    leaves = [value.clone().requires_grad_() for value in (*system, y)]
    together = kalman.log_prob(LinearGaussianSystem(*leaves[:7]), leaves[7], None, lengths, loading)
    gradients = torch.autograd.grad(together.sum(), leaves)
    alone = []
    for b in range(140):
        own = LinearGaussianSystem(leaves[0][b : b + 1], *leaves[1:7])
        alone.append(kalman.log_prob(own, leaves[7][b : b + 1], None, lengths[b : b + 1], loading)[0])
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-12, atol=1e-12)
    for ours, other in zip(gradients, torch.autograd.grad(torch.stack(alone).sum(), leaves), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-10 * float(other.abs().max()))


# --------------------------------------------------------------------------------------------------- particular


@pytest.mark.parametrize("s", [1e-8, 1e-3, 1e8])
def test_the_whole_model_in_other_units(s: float) -> None:
    """States in other units too: log p moves by -(n - d) log s with d diffuse elements resolved."""
    y = np.array([3.1, 5.0, np.nan, 2.0, 4.0])
    plain, other = trend(), trend((2.0 * s * s, 0.5 * s * s), 3.0 * s * s)
    assert other.log_prob(s * y).item() + (4 - 2) * math.log(s) == pytest.approx(plain.log_prob(y).item(), rel=1e-10)
    torch.testing.assert_close(other.smooth(s * y).mean / s, plain.smooth(y).mean, rtol=1e-10, atol=1e-10)


def test_seasonal_start_with_gaps() -> None:
    """Twelve elements, of which a gap delays some: what is resolved agrees with a very large variance."""
    n, y = 12, np.random.default_rng(3).normal(size=60) + np.tile(np.arange(12.0), 5)
    y[[2, 3, 7, 14, 20]] = np.nan
    matrix = np.zeros((n, n))
    matrix[0, 0], matrix[1, 1:] = 1.0, -1.0
    matrix[np.arange(2, n), np.arange(1, n - 1)] = 1.0
    parts = {
        "transition_matrix": matrix,
        "transition_cov": np.diag([0.1, 0.05] + [0.0] * (n - 2)),
        "emission_matrix": np.eye(1, n) + np.eye(1, n, 1),
        "emission_cov": [[0.3]],
    }
    model = ps.LDS(**parts, initial="diffuse")
    wide = ps.LDS(**parts, initial_mean=np.zeros(n), initial_cov=1e7 * np.eye(n))
    assert model.log_prob(y).item() == pytest.approx(wide.log_prob(y).item() + n / 2 * math.log(1e7), abs=1e-3)
    torch.testing.assert_close(model.smooth(y).mean, wide.smooth(y).mean, rtol=1e-4, atol=1e-4)
    steps = model.filter(y).predicted.diffuse_cov.abs().amax((1, 2)) > 0
    assert int(steps.sum()) == 27  # the third month is missing twice and first seen at step 26


def test_a_direction_that_dies_unseen_does_not_stay() -> None:
    """A transition matrix that forgets an element before it is seen leaves nothing diffuse."""
    model = ps.LDS(
        transition_matrix=[[0.0, 0.0], [0.0, 1.0]], transition_cov=np.eye(2), emission_matrix=[[1.0, 1.0]],
        emission_cov=[[1.0]], initial="diffuse",
    )  # fmt: skip
    y = np.array([np.nan, 1.0, 2.0])
    assert not model.filter(y).predicted.diffuse_cov[2].any()
    left = model.smooth(y).diffuse_cov
    assert left[0, 0, 0].item() == pytest.approx(1.0)
    assert not left[0, 1].any()
    assert not left[1:].any()


def test_an_element_that_is_never_seen_stays_diffuse() -> None:
    model = ps.LDS(
        transition_matrix=np.eye(2), transition_cov=np.eye(2), emission_matrix=[[1.0, 0.0]], emission_cov=[[1.0]],
        initial="diffuse",
    )  # fmt: skip
    y = np.array([1.0, 2.0, 0.5])
    level = make_local_level({"transition_var": 1.0, "emission_var": 1.0})
    assert model.log_prob(y).item() == pytest.approx(level.log_prob(y).item(), rel=1e-12)
    torch.testing.assert_close(model.smooth(y).cov[:, 0, 0], level.smooth(y).cov[:, 0, 0])
    for call in (lambda: model.forecast(y, 2), lambda: model.sample_states(y), lambda: model.sample(2)):
        with pytest.raises(ImproperBelief, match="diffuse"):
            call()


def test_a_perfect_sensor_and_no_noise() -> None:
    walk = ps.LDS(transition_matrix=[[1.0]], transition_cov=[[2.0]], emission_matrix=[[1.0]], emission_cov=[[0.0]],
                  initial="diffuse")  # fmt: skip
    y = np.array([1.0, 3.0, 2.0])
    expected = -0.5 * (3 * math.log(2 * math.pi) + 2 * math.log(2.0) + (4 + 1) / 2)
    assert walk.log_prob(y).item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(walk.smooth(y).mean[:, 0], torch.tensor(y))
    line = trend((0.0, 0.0), 0.0)
    assert line.log_prob(y[:2]).item() == pytest.approx(-math.log(2 * math.pi), rel=1e-12)
    with pytest.raises(SingularInnovation, match="step 2"):
        line.log_prob(y)


@pytest.mark.parametrize("root", [1.0, 1.1, -1.0])
def test_no_stationary_law_at_the_unit_root(root: float) -> None:
    model = ps.LDS(transition_matrix=[[root]], transition_cov=[[1.0]], emission_matrix=[[1.0]], emission_cov=[[1.0]],
                   initial="stationary")  # fmt: skip
    with pytest.raises(StateOverflow, match=r"unit circle.*diffuse"):
        model.log_prob(np.zeros(3))


def test_stationary_moments() -> None:
    import scipy.linalg

    rng = np.random.default_rng(0)
    matrix, root = 0.4 * rng.normal(size=(3, 3)), rng.normal(size=(3, 2))
    model = ps.LDS(
        transition_matrix=matrix, transition_cov=root @ root.T, emission_matrix=np.eye(1, 3), emission_cov=[[1.0]],
        transition_offset=[1.0, 2.0, 3.0], initial="stationary",
    )  # fmt: skip
    start = model.initial_belief()
    expected = scipy.linalg.solve_discrete_lyapunov(matrix, root @ root.T)
    np.testing.assert_allclose(start.cov.detach(), expected, rtol=1e-12)
    np.testing.assert_allclose(matrix @ start.mean.detach().numpy() + [1.0, 2.0, 3.0], start.mean.detach(), rtol=1e-12)
    ahead = model.predict(start)
    torch.testing.assert_close(ahead.cov, start.cov, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"initial": "vague"}, 'initial must be "given", "stationary" or "diffuse"'),
        ({"initial": "diffuse", "initial_cov": [[1.0]]}, "leaves no choice of initial_cov"),
        ({"initial": "diffuse", "initial_diffuse": [True]}, "initial_diffuse goes with"),
        ({"initial_diffuse": [True, False]}, "initial_diffuse must be 1 booleans"),
        ({"initial_diffuse": [1.0]}, "initial_diffuse must be 1 booleans"),
    ],
)
def test_starts_that_are_none(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ps.LDS(1, 1, **keywords)


def test_fits_a_local_level_from_its_likelihood() -> None:
    y = ps.datasets.nile()
    model = make_local_level({"transition_var": 1000.0, "emission_var": 10000.0})
    held = {"transition_matrix", "emission_matrix"}
    model.fit(y, fixed=held, method="gradient", tolerance=1e-10)
    assert model.emission_cov.item() == pytest.approx(15098.52, rel=1e-4)
    assert model.transition_cov.item() == pytest.approx(1469.18, rel=1e-4)
    assert model.history.objective[-1] == pytest.approx(model.log_prob(y).item(), abs=1e-6)
    by_em = make_local_level({"transition_var": 1000.0, "emission_var": 10000.0})
    by_em.fit(y, fixed=held, method="em", max_iterations=20000, tolerance=1e-12)
    assert by_em.log_prob(y).item() == pytest.approx(model.log_prob(y).item(), abs=1e-6)
