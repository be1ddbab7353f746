"""Learning of linear dynamical systems: EM never falls, restrictions hold, and the M-step is a maximum."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.learning.em import SETTLED
from probseq.models.lds_learning import maximise
from probseq.models.lds_parameters import spectral_radius, stable_step
from probseq.ops import kalman
from probseq.priors import InverseWishart, Normal


def chance(rng: np.random.Generator, share: float = 0.5) -> bool:
    return bool(rng.random() < share)


def random_cov(rng: np.random.Generator, d: int, kind: str) -> np.ndarray:
    if kind == "spherical":
        return np.eye(d) * rng.uniform(0.2, 2)
    if kind == "diag":
        return np.diag(rng.uniform(0.2, 2, size=d))
    root = rng.normal(size=(d, d))
    return root @ root.T / d + 0.1 * np.eye(d)


def random_parts(rng: np.random.Generator, n: int, m: int, p: int, kinds: tuple[str, str]) -> dict[str, Any]:
    matrix = rng.normal(size=(n, n))
    parts = {
        "transition_matrix": 0.9 * matrix / np.abs(np.linalg.eigvals(matrix)).max(),
        "transition_cov": random_cov(rng, n, kinds[0]),
        "emission_matrix": rng.normal(size=(m, n)),
        "emission_cov": random_cov(rng, m, kinds[1]),
        "initial_mean": rng.normal(size=n),
        "initial_cov": random_cov(rng, n, "full"),
        "transition_offset": rng.normal(size=n),
        "emission_offset": rng.normal(size=m),
    }
    if p:
        parts |= {"transition_input_matrix": rng.normal(size=(n, p)), "emission_input_matrix": rng.normal(size=(m, p))}
    return parts


def random_priors(rng: np.random.Generator, parts: dict[str, Any]) -> dict[str, Any]:
    priors: dict[str, Any] = {}
    for name, value in parts.items():
        shape = np.shape(value)
        if not chance(rng):
            continue
        if name.endswith("_cov"):
            priors[name] = InverseWishart(random_cov(rng, shape[0], "full"), shape[0] + rng.uniform(0, 5))
        else:
            priors[name] = Normal(rng.normal(size=shape), rng.uniform(0.1, 2, size=shape))
    return priors


def random_problem(seed: int) -> tuple[ps.LDS, list[Any], list[Any] | None, set[str]]:
    """A model with random restrictions at a random start, and uneven sequences with gaps from another one."""
    rng = np.random.default_rng([seed, 11])
    n, m, p = int(rng.integers(1, 5)), int(rng.integers(1, 4)), int(rng.integers(0, 3))
    kinds = (str(rng.choice(["full", "diag", "spherical"])), str(rng.choice(["full", "diag", "spherical"])))
    parts, stable = random_parts(rng, n, m, p, kinds), chance(rng, 0.3)
    held: dict[str, Any] = {}
    for name, value in parts.items():
        covariance = name.endswith("_cov")
        if chance(rng, 0.3) and not (stable and name == "transition_matrix"):
            mask = rng.random(np.shape(value)) < 0.4
            if not covariance:
                held[name] = mask
            elif name != "initial_cov" and kinds[name == "emission_cov"] == "diag":
                held[name] = mask & np.eye(len(mask), dtype=bool)
    initial = str(rng.choice(["given", "given", "stationary", "diffuse"]))
    if initial != "given":
        parts = {name: value for name, value in parts.items() if not name.startswith("initial")}
        held = {name: mask for name, mask in held.items() if not name.startswith("initial")}
    fixed = {name for name in parts if chance(rng, 0.15)}
    if initial == "diffuse":  # the density of what resolves the start grows without bound as the matrices shrink
        fixed |= {"transition_matrix", "emission_matrix"}
    model = ps.LDS(
        **parts,
        initial=initial,
        transition_covariance=kinds[0],
        emission_covariance=kinds[1],
        stable=stable,
        fixed_entries=held,
        priors=random_priors(rng, parts) if chance(rng) else None,
    )
    lengths = rng.integers(20 if initial == "diffuse" else 1, 40, size=int(rng.integers(1, 8)))
    lengths[0] += 30  # of two rows or so the likelihood has no bound
    truth = ps.LDS(**random_parts(rng, n, m, p, ("full", "full")))
    u = [rng.normal(size=(t, p)) for t in lengths] if p else None
    y = [truth.sample(int(t), u=None if u is None else u[i], seed=seed + i).numpy() for i, t in enumerate(lengths)]
    gaps = rng.choice([0.0, 0.2, 0.6])
    y = [np.where(rng.random(one.shape) < gaps, np.nan, one) * 10.0 ** rng.integers(-3, 4) for one in y]
    if all(np.isnan(one).all() for one in y):
        y[0][0, 0] = 1.0
    return model, y, u, fixed


def check_em(seed: int) -> bool:
    """True if EM did what it was asked, False if it stopped because its posterior had become ill-conditioned."""
    model, y, u, fixed = random_problem(seed)
    before = {name: getattr(model, name).clone() for name in model.params()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant data and an iteration limit are said aloud elsewhere
        model.fit(y, u, method="em", fixed=fixed, max_iterations=12, tolerance=1e-14)
    trace = np.array(model.history.objective)
    size = np.abs(trace).max() + sum(np.isfinite(one).sum() for one in y)
    assert (np.diff(trace) >= -1e-9 * size).all(), f"seed {seed}: EM fell by {-np.diff(trace).min():.3g} of {size:.3g}"
    with torch.no_grad():
        end = float(model.log_prob(y, u).sum() + model.log_prior())
        assert abs(end - trace.max()) <= 1e-8 * size, f"seed {seed}: {end} at the end, {trace.max()} recorded"
        for name in fixed:
            assert torch.equal(before[name], getattr(model, name)), f"seed {seed}: {name} moved"
        for name, mask in model.held_entries.items():
            held = torch.diag(mask) if name.endswith("_cov") else mask
            assert torch.equal(before[name][held], getattr(model, name)[held]), f"seed {seed}: {name} moved"
        if model.stable:
            assert float(spectral_radius(model.transition_matrix)) < 1
    well = model.history.n_iterations <= 12 and model.history.reason in ("max_iterations", SETTLED)
    assert well or model.initial != "given", f"seed {seed}: {model.history}"
    return well


@pytest.mark.parametrize("seed", [*range(20), 271])
def test_em_never_falls(seed):
    """Twenty, and one that ends on the border of what is stable, with a stationary start."""
    assert check_em(seed)


@pytest.mark.slow
def test_em_never_falls_on_1000_problems():
    assert sum(check_em(seed) for seed in range(1000)) >= 985


def bound_points(model: ps.LDS, y: Any, u: Any) -> torch.Tensor:
    """Paths (2 N, T, n) whose mean of any quadratic function is its mean over p(z | y): N = T n directions."""
    sequences = model._door(y, u).flat()
    smoothed = kalman.smooth(*model._arguments(sequences))
    cov, lagged = smoothed.cov[0], smoothed.lag_one_cov[0]
    steps, n = cov.shape[:2]
    joint = torch.zeros(steps, n, steps, n, dtype=torch.float64)
    for t in range(steps):
        joint[t, :, t] = cov[t]
        for s in range(t):  # a Markov chain: z_t depends on the past through z_{t-1}
            joint[t, :, s] = lagged[t - 1] @ torch.linalg.solve(cov[t - 1], joint[t - 1, :, s])
            joint[s, :, t] = joint[t, :, s].mT
    root = torch.linalg.cholesky(joint.reshape(steps * n, steps * n)) * (steps * n) ** 0.5
    away = root.mT.reshape(-1, steps, n)
    return torch.cat([smoothed.mean + away, smoothed.mean - away])


@pytest.mark.parametrize("kinds", [("full", "full"), ("diag", "spherical"), ("full", "diag")])
@pytest.mark.parametrize("restricted", [False, True])
def test_the_m_step_is_the_maximum_of_its_bound(kinds, restricted):
    """Repeated with the same posterior, the step ends where E[log p(z, y)] + log prior has no slope."""
    rng = np.random.default_rng(5)
    parts = random_parts(rng, 2, 3, 1, kinds)
    held = {"transition_matrix": [[True, False], [False, False]], "emission_matrix": [[False] * 2] * 2 + [[True] * 2]}
    priors = {
        "transition_matrix": Normal(0.1, 0.2),
        "emission_matrix": Normal(0.0, 0.5),
        "emission_cov": InverseWishart(0.3 * np.eye(3), 7.0),
        "emission_offset": Normal([1.0, 0.0, -1.0], 0.1),
        "initial_mean": Normal(0.0, 1.0),
        "initial_cov": InverseWishart(1.0, 5.0),
    }
    more = {"fixed_entries": held, "priors": priors} if restricted else {}
    model = ps.LDS(**parts, transition_covariance=kinds[0], emission_covariance=kinds[1], **more)
    u = rng.normal(size=(12, 1))
    y = model.sample(12, u=u, seed=1)
    points, sequences = bound_points(model, y, u), model._door(y, u).flat()
    smoothed = kalman.smooth(*model._arguments(sequences))
    with torch.no_grad():
        for _ in range(200 if restricted else 1):
            maximise(model, sequences, smoothed.mean, smoothed.cov, smoothed.lag_one_cov)
    many = model._door(y.expand(len(points), -1, -1), np.broadcast_to(u, (len(points), 12, 1)))
    bound = model._path_log_prob(points, many).mean() + model.log_prior()
    learned = [(n.removeprefix("raw_"), p) for n, p in model.named_parameters() if p.requires_grad]
    for (name, _), slope in zip(learned, torch.autograd.grad(bound, [p for _, p in learned]), strict=True):
        held_mask = model.held_entries.get(name)
        free = slope if held_mask is None else slope[~held_mask]
        assert free.abs().max() < 1e-8 * (1 + abs(bound.item())), name


def test_a_single_held_entry_stays_and_the_others_move():
    parts = random_parts(np.random.default_rng(1), 2, 2, 0, ("full", "diag"))
    held = {"transition_matrix": [[True, False], [False, True]], "emission_cov": [[True, False], [False, False]]}
    for method in ("em", "gradient"):
        model = ps.LDS(**parts, emission_covariance="diag", fixed_entries=held)
        y = model.sample(100, seed=3)
        free = model.n_parameters
        assert free == ps.LDS(**parts, emission_covariance="diag").n_parameters - 3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(7.3 * y + 2, method=method, max_iterations=10)
        matrix, noise = model.transition_matrix.detach().numpy(), model.emission_cov.detach().numpy()
        assert (matrix.diagonal() == parts["transition_matrix"].diagonal()).all()
        assert noise[0, 0] == pytest.approx(parts["emission_cov"][0, 0], rel=1e-15)
        assert abs(matrix[0, 1] - parts["transition_matrix"][0, 1]) > 1e-3
        assert abs(noise[1, 1] - parts["emission_cov"][1, 1]) > 1e-3


@pytest.mark.parametrize("method", ["em", "gradient"])
def test_a_stable_transition_stays_inside_the_circle(method):
    """An exploding series: without the restriction the fit leaves the circle, with it the radius ends at the edge."""
    y = 0.5 * 1.05 ** np.arange(60.0) + np.random.default_rng(0).normal(size=60) * 0.1
    parts = {
        "transition_matrix": [[0.9]], "transition_cov": [[0.1]], "emission_matrix": [[1.0]], "emission_cov": [[0.1]],
        "initial_mean": [0.0], "initial_cov": [[1.0]],
    }  # fmt: skip
    radius = {}
    for stable in (False, True):
        model = ps.LDS(**parts, stable=stable)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(y, method=method, fixed={"emission_matrix"}, max_iterations=200)
        radius[stable] = float(spectral_radius(model.transition_matrix.detach()))
    assert radius[False] > 1.01
    assert 0.99 < radius[True] < 1
    with pytest.raises(ValueError, match="spectral radius below 1"):
        ps.LDS(**{**parts, "transition_matrix": [[1.2]]}, stable=True)


def test_a_stable_step_stops_at_the_circle():
    old, new = torch.tensor([[0.5, 0.1]]).double(), torch.tensor([[1.5, 0.3]]).double()
    step = stable_step(old, new, 1)
    assert float(step[0, 0]) == pytest.approx(1.0, abs=1e-7)
    assert float(step[0, 1]) == pytest.approx(0.2, abs=1e-7)
    assert torch.equal(stable_step(old, old + 0.1, 1), old + 0.1)


def test_stable_matrices_have_exact_gradients():
    model = ps.LDS(**random_parts(np.random.default_rng(2), 3, 1, 0, ("full", "full")), stable=True)
    outside = torch.tensor(np.random.default_rng(3).normal(size=(3, 3)) * 2, requires_grad=True)
    param = model.params()["transition_matrix"]
    assert float(spectral_radius(param.forward(model, outside.detach()))) < 1
    assert torch.autograd.gradcheck(lambda raw: param.forward(model, raw), (outside,))


def test_priors_are_densities_and_do_not_depend_on_the_unit():
    """Against scipy; and `rescale` leaves log_prior where it was."""
    from scipy import stats

    parts = random_parts(np.random.default_rng(4), 2, 2, 0, ("full", "full"))
    scale = np.array([[2.0, 0.3], [0.3, 1.0]])
    priors = {
        "emission_cov": InverseWishart(scale, 5.0),
        "transition_cov": InverseWishart(0.5, 4.0),
        "emission_matrix": Normal(0.2, [[1.0, 2.0], [0.5, 1.0]]),
        "emission_offset": Normal(1.0, 3.0),
    }
    model = ps.LDS(**parts, priors=priors)
    expected = (
        stats.invwishart(5, scale).logpdf(parts["emission_cov"])
        + stats.invwishart(4, 0.5 * np.eye(2)).logpdf(parts["transition_cov"])
        + stats.norm(0.2, [[1.0, 2.0], [0.5, 1.0]]).logpdf(parts["emission_matrix"]).sum()
        + stats.norm(1.0, 3.0).logpdf(parts["emission_offset"]).sum()
    )
    with torch.no_grad():
        assert float(model.log_prior()) == pytest.approx(expected, rel=1e-12)
        model.rescale(torch.tensor([8.0, 0.5]), 3.0)
        assert float(model.log_prior()) == pytest.approx(expected, rel=1e-12)
        model._balance()
        assert float(model.log_prior()) == pytest.approx(expected, rel=1e-12)


def test_a_strong_prior_decides():
    parts = random_parts(np.random.default_rng(6), 1, 1, 0, ("full", "full"))
    y = ps.LDS(**parts).sample(50, seed=0)
    priors = {"transition_matrix": Normal(0.3, 1e-4), "emission_cov": InverseWishart(1e6 * 0.7, 1e6)}
    for method in ("em", "gradient"):
        # with a held start and a free emission matrix the likelihood rises for ever as the state's unit shrinks
        model = ps.LDS(**parts, priors=priors).fit(y, method=method, fixed={"emission_matrix"})
        assert float(model.transition_matrix.detach()) == pytest.approx(0.3, abs=1e-3)
        assert float(model.emission_cov.detach()) == pytest.approx(0.7, rel=1e-2)


def test_restrictions_survive_a_file(tmp_path):
    parts = random_parts(np.random.default_rng(7), 2, 2, 1, ("diag", "spherical"))
    model = ps.LDS(
        **parts,
        transition_covariance="diag",
        emission_covariance="spherical",
        fixed_entries={"transition_cov": [[True, False], [False, False]], "emission_matrix": np.eye(2, dtype=bool)},
        priors={"transition_matrix": Normal(0.0, 0.5), "emission_cov": InverseWishart(1.0, 4.0)},
    )
    model.rescale(3.0)
    model.save(tmp_path / "model")
    again = ps.load(tmp_path / "model")
    assert again.sizes() == model.sizes()
    with torch.no_grad():
        assert float(again.log_prior()) == pytest.approx(float(model.log_prior()), rel=1e-14)
    assert again.n_parameters == model.n_parameters


def test_restricted_shapes_are_checked():
    parts = random_parts(np.random.default_rng(8), 2, 2, 0, ("full", "full"))
    for options, words in [
        ({"transition_covariance": "tied"}, "transition_covariance must be one of"),
        ({"emission_covariance": "diag"}, "emission_cov must be diag; an entry is off by"),
        ({"fixed_entries": {"nothing": True}}, "fixed_entries must name parameters among"),
        ({"fixed_entries": {"emission_matrix": [True, False]}}, r"must be booleans of shape \(2, 2\)"),
        ({"fixed_entries": {"emission_cov": np.eye(2, dtype=bool)}}, 'can be held where it is "diag", not "full"'),
        ({"stable": True, "fixed_entries": {"transition_matrix": np.eye(2, dtype=bool)}}, "no entry of it can be held"),
        ({"priors": {"nothing": Normal()}}, "priors must name parameters among"),
        ({"priors": {"emission_matrix": Normal(0.0, -1.0)}}, "standard deviation of the prior .* must be positive"),
        ({"priors": {"emission_cov": InverseWishart(1.0, 0.5)}}, "degrees of freedom .* must exceed 1"),
        ({"priors": {"emission_cov": InverseWishart(-1.0, 5)}}, "must be symmetric and positive definite"),
    ]:
        with pytest.raises(ValueError, match=words):
            ps.LDS(**parts, **options)
    with pytest.raises(TypeError, match="must be a InverseWishart"):
        ps.LDS(**parts, priors={"emission_cov": Normal()})
    with pytest.raises(ValueError, match="holds entries of transition_matrix, which has no value"):
        ps.LDS(1, 1, fixed_entries={"transition_matrix": [[True]]}).fit(np.arange(9.0))


@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_the_subspace_start_is_near_the_truth(gaps):
    """Two oscillations and an input: within 0.05 nats per step of the model that drew the data, before any learning."""
    turns = [(0.95, 0.4), (0.8, 1.3)]
    blocks = [r * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for r, a in turns]
    matrix = np.zeros((4, 4))
    matrix[:2, :2], matrix[2:, 2:] = blocks
    rng = np.random.default_rng(0)
    truth = ps.LDS(
        transition_matrix=matrix, transition_cov=0.3 * np.eye(4), emission_matrix=rng.normal(size=(2, 4)),
        emission_cov=np.diag([0.5, 1.0]), initial_mean=np.zeros(4), initial_cov=np.eye(4),
        transition_input_matrix=rng.normal(size=(4, 1)), emission_input_matrix=rng.normal(size=(2, 1)),
    )  # fmt: skip
    u = [rng.normal(size=(t, 1)) for t in (900, 400, 700)]
    y = [truth.sample(len(one), u=one, seed=i).numpy() for i, one in enumerate(u)]
    y = [np.where(rng.random(one.shape) < gaps, np.nan, 100 * one + 5) for one in y]
    model = ps.LDS(4, 2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(y, u, max_iterations=0)
    truth.rescale(100.0, 5.0)
    assert model.score(y, u) > truth.score(y, u) - (0.05 if gaps == 0 else 0.15)
    eigenvalues = torch.linalg.eigvals(model.transition_matrix.detach()).abs().sort().values
    torch.testing.assert_close(eigenvalues, torch.tensor([0.8, 0.8, 0.95, 0.95]).double(), rtol=0, atol=0.06)


def test_starts_for_few_and_constant_data():
    for y in (np.ones(3), np.arange(4.0), np.array([1.0]), [np.array([1.0, 2.0]), np.array([3.0])]):
        model = ps.LDS(3, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(y, seed=0, max_iterations=3)
        assert np.isfinite(model.score(y))


@pytest.mark.parametrize("method", ["em", "gradient"])
def test_the_nile_from_the_default_start(method):
    """Durbin and Koopman, 2nd ed., sec. 2.10: 15098.5 and 1469.2; standard errors from the observed information."""
    y = ps.datasets.nile()
    model = ps.LDS(transition_matrix=[[1.0]], emission_matrix=[[1.0]], initial="diffuse", offsets=())
    known = {"transition_matrix", "emission_matrix"}
    model.fit(y, method=method, fixed=known)
    found = model.standard_errors(y, fixed=known)
    assert found["estimate"].to_list() == pytest.approx([1469.18, 15098.52], rel=1e-4)
    assert found["standard_error"].to_list() == pytest.approx([1280.37, 3145.54], rel=1e-3)
    bands = model.confidence_intervals(y, fixed=known)
    assert (bands["lower"] < found["estimate"]).all()
    assert (bands["upper"] > found["estimate"]).all()
    aic = model.aic(y, fixed=known)
    assert aic == pytest.approx(4 + 2 * 633.4645636, rel=1e-9)
    assert model.aicc(y, fixed=known) == pytest.approx(aic + 12 / 97, rel=1e-12)


@pytest.mark.parametrize("kinds", [("diag", "full"), ("full", "diag"), ("full", "full")])
def test_mixed_covariance_types_reach_the_same_maximum(kinds):
    """However covariances are stored: noise is small beside a trend, so a factor and a logarithm differ in unit."""
    rng = np.random.default_rng(0)
    slope = np.cumsum(0.05 * rng.normal(size=400))
    y = np.cumsum(slope + 0.5 * rng.normal(size=400)) + rng.normal(size=400)
    motion = {"transition_matrix": [[1.0, 1.0], [0.0, 1.0]], "emission_matrix": [[1.0, 0.0]], "initial": "diffuse"}
    best = []
    for transition, emission in (("diag", "diag"), kinds):
        noise = {"transition_cov": np.eye(2), "emission_cov": [[1.0]]}
        model = ps.LDS(**motion, **noise, transition_covariance=transition, emission_covariance=emission)
        model.fit(y, method="gradient", fixed={"transition_matrix", "emission_matrix"})
        best.append(model.score(y) * 400)
    assert best[1] > best[0] - 1e-3


def test_few_sequences_with_inputs_do_not_collapse():
    """Two starts and one input: a mean and a slope would meet both first values, with no noise at all."""
    draws = np.random.default_rng(3)
    u = [draws.normal(size=(12, 1)) for _ in range(2)]
    y = [draws.normal(size=(12, 1)) + 0.5 * one for one in u]
    model = ps.LDS(1, 1, input_dim=1).fit(y, u, seed=0)
    assert model.emission_cov.item() + model.transition_cov.item() > 1e-3
    assert abs(model.score([draws.normal(size=(12, 1))], [draws.normal(size=(12, 1))])) < 10
