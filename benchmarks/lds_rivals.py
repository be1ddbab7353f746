"""The same linear dynamical system in our words and in those of six libraries.

A rival is a table of calls on a container prepared beforehand; a call that a library does not have is left out. The
start is what one transition makes of N(0, I), so that Pyro, which moves once before the first observation, has the same
model.

| operation      | returns                                                                                   |
|----------------|-------------------------------------------------------------------------------------------|
| log-likelihood | log p(y), (sequences,) or their sum                                                       |
| smoother       | E[z_t given y], (sequences, steps, n); covariances are computed too                       |
| gradient       | the value, and its gradient in A, L_Q, C, L_R, the lower factors of Q and R, as one vector |
| EM iteration   | A, Q, C, R after it                                                                       |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

import probseq as ps

Calls = dict[str, Callable[[], Any]]
OPERATIONS = ("log-likelihood", "smoother", "gradient", "EM iteration")
MOST_NUMERICAL = 60
"""Parameters up to which a numerical gradient is asked for."""


class Problem(NamedTuple):
    """Parameters and data (sequences, steps, m), NaN where missing."""

    A: np.ndarray
    Q: np.ndarray
    C: np.ndarray
    R: np.ndarray
    P0: np.ndarray
    y: np.ndarray

    @property
    def sizes(self) -> tuple[int, int]:
        return self.C.shape[1], self.C.shape[0]

    @property
    def leaves(self) -> list[np.ndarray]:
        """A, L_Q, C, L_R."""
        return [self.A, np.linalg.cholesky(self.Q), self.C, np.linalg.cholesky(self.R)]


def our_model(problem: Problem) -> ps.LDS:
    return ps.LDS(
        transition_matrix=problem.A, transition_cov=problem.Q, emission_matrix=problem.C, emission_cov=problem.R,
        initial_mean=np.zeros(len(problem.A)), initial_cov=problem.P0,
    )  # fmt: skip


def problem_of(n: int, m: int, t: int, sequences: int, missing: float) -> Problem:
    """A stable random system with correlated states and independent sensors; the data are drawn from it."""
    draws = np.random.default_rng(n)
    matrix = draws.normal(size=(n, n))
    matrix *= 0.95 / np.abs(np.linalg.eigvals(matrix)).max()
    cov = 0.1 * np.eye(n) + 0.02
    problem = Problem(
        matrix, cov, draws.normal(size=(m, n)), 0.5 * np.eye(m), matrix @ matrix.T + cov, np.empty((0, 0, m))
    )
    y = our_model(problem).sample(t, (sequences,), seed=0).numpy().copy()
    y[draws.random(y.shape) < missing] = np.nan
    return problem._replace(y=y)


def flat_gradient(parts: list[Any]) -> np.ndarray:
    """One vector of gradients in A, L_Q, C, L_R; of a factor the lower triangle."""
    a, q, c, r = (np.asarray(part) for part in parts)
    return np.concatenate([a.ravel(), q[np.tril_indices(len(q))], c.ravel(), r[np.tril_indices(len(r))]])


def ours(problem: Problem) -> Calls:
    model = our_model(problem)
    sequences = ps.Sequences.of(problem.y if len(problem.y) > 1 else problem.y[0])
    names = ("transition_matrix", "transition_cov", "emission_matrix", "emission_cov")
    leaves, begun = [model.get_parameter(f"raw_{name}") for name in names], model.snapshot()
    for name in ("initial_mean", "initial_cov"):
        model.get_parameter(f"raw_{name}").requires_grad_(False)

    def iterate() -> list[Any]:
        model._em_step(sequences.flat())
        found = [getattr(model, name).clone() for name in names]
        model.restore(begun)
        return found

    def gradient() -> Any:
        value = model.log_prob(sequences).sum()
        return value.detach(), torch.autograd.grad(value, leaves)

    quietly = torch.no_grad()
    return {
        "log-likelihood": quietly(lambda: model.log_prob(sequences)),
        "smoother": quietly(lambda: model.smooth(sequences).mean),
        "gradient": gradient,
        "EM iteration": quietly(iterate),
    }


def statsmodels(problem: Problem, **options: Any) -> Calls:
    from statsmodels.tsa.statespace import kalman_smoother as K
    from statsmodels.tsa.statespace.mlemodel import MLEModel

    n, m = problem.sizes
    tolerance = options.pop("tolerance", None)

    def set_up(model: Any) -> Any:
        model["transition"], model["state_cov"], model["selection"] = problem.A, problem.Q, np.eye(n)
        model["design"], model["obs_cov"] = problem.C, problem.R
        model.initialize_known(np.zeros(n), problem.P0)
        for name, value in options.items():
            setattr(model, name, value)
        if tolerance is not None:
            model.tolerance = tolerance
        return model

    models: list[Any] = []
    for y in problem.y:
        model = K.KalmanSmoother(m, n)
        model.bind(y.copy())
        models.append(set_up(model))
    output = K.SMOOTHER_STATE | K.SMOOTHER_STATE_COV
    calls: Calls = {
        "log-likelihood": lambda: [model.loglike() for model in models],
        "smoother": lambda: np.stack([model.smooth(smoother_output=output).smoothed_state.T for model in models]),
    }
    lower, lower_noise = np.tril_indices(n), np.tril_indices(m)
    ends = np.cumsum([n * n, len(lower[0]), m * n])

    class Free(MLEModel):
        """Its score is numerical, by complex steps: statsmodels has no other of a general system."""

        def update(self, params: Any, **_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            a, q, c, r = np.split(params, ends)
            factor, noise = np.zeros((n, n), params.dtype), np.zeros((m, m), params.dtype)
            factor[lower], noise[lower_noise] = q, r
            self["transition"], self["state_cov"] = a.reshape(n, n), factor @ factor.T
            self["design"], self["obs_cov"] = c.reshape(m, n), noise @ noise.T

    start = flat_gradient(problem.leaves)
    if len(start) <= MOST_NUMERICAL and len(models) == 1:
        free = Free(problem.y[0].copy(), n)
        set_up(free.ssm)

        def gradient() -> Any:
            value = free.loglike(start, transformed=True)
            return value, free.score(start, transformed=True)

        if np.isfinite(free.loglike(start)):
            calls["gradient"] = gradient
    return calls


def dynamax(problem: Problem, parallel: bool) -> Calls:
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from dynamax.linear_gaussian_ssm import LinearGaussianSSM, inference, parallel_inference

    if np.isnan(problem.y).any():
        raise ValueError("no missing data")
    n, m = problem.sizes
    model = LinearGaussianSSM(n, m, has_dynamics_bias=parallel, has_emissions_bias=parallel)  # zero
    parameters, properties = model.initialize(
        jax.random.PRNGKey(0), initial_mean=jnp.zeros(n), initial_covariance=jnp.asarray(problem.P0),
        dynamics_weights=jnp.asarray(problem.A), dynamics_covariance=jnp.asarray(problem.Q),
        emission_weights=jnp.asarray(problem.C), emission_covariance=jnp.asarray(problem.R),
    )  # fmt: skip
    parameters = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), parameters)
    one, y = len(problem.y) == 1, jnp.asarray(problem.y)
    y = y[0] if one else y
    module = parallel_inference if parallel else inference

    def over(function: Callable[..., Any]) -> Callable[..., Any]:
        return function if one else jax.vmap(function, in_axes=(None, 0))

    def total(leaves: Any, y: Any) -> Any:
        a, q, c, r = leaves
        own = parameters._replace(
            dynamics=parameters.dynamics._replace(weights=a, cov=q @ q.T),
            emissions=parameters.emissions._replace(weights=c, cov=r @ r.T),
        )
        return over(lambda p, y: module.lgssm_filter(p, y).marginal_loglik)(own, y).sum()

    def iterate(p: Any, y: Any) -> Any:
        statistics, _ = over(model.e_step)(p, y)
        statistics = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], statistics) if one else statistics
        found, _ = model.m_step(p, properties, statistics, state)
        return found.dynamics.weights, found.dynamics.cov, found.emissions.weights, found.emissions.cov

    state = model.initialize_m_step_state(parameters, properties)
    value_and_gradient = jax.jit(jax.value_and_grad(total))
    leaves = [jnp.asarray(leaf) for leaf in problem.leaves]
    compiled = {
        "log-likelihood": jax.jit(over(lambda p, y: module.lgssm_filter(p, y).marginal_loglik)),
        "smoother": jax.jit(over(lambda p, y: module.lgssm_smoother(p, y)[3:5])),
    }
    if not parallel:
        compiled["EM iteration"] = jax.jit(iterate)

    def run(name: str) -> Any:
        result = jax.block_until_ready(compiled[name](parameters, y))
        return result[0].reshape(*problem.y.shape[:2], n) if name == "smoother" else result

    calls: Calls = {name: lambda name=name: run(name) for name in compiled}
    calls["gradient"] = lambda: jax.block_until_ready(value_and_gradient(leaves, y))
    return calls


def pykalman(problem: Problem) -> Calls:
    from pykalman import KalmanFilter

    if problem.y.shape[0] * problem.y.shape[1] > 20_000:
        raise ValueError("minutes")
    n, _ = problem.sizes
    y = [np.ma.masked_invalid(each) for each in problem.y]

    def make() -> Any:
        return KalmanFilter(
            problem.A, problem.C, problem.Q, problem.R, initial_state_mean=np.zeros(n),
            initial_state_covariance=problem.P0, em_vars=[
                "transition_matrices", "transition_covariance", "observation_matrices", "observation_covariance",
                "initial_state_mean", "initial_state_covariance"],
        )  # fmt: skip

    model = make()

    def iterate() -> Any:
        fitted = make().em(y[0], n_iter=1)
        return (
            fitted.transition_matrices, fitted.transition_covariance,
            fitted.observation_matrices, fitted.observation_covariance,
        )  # fmt: skip

    calls: Calls = {
        "log-likelihood": lambda: [model.loglikelihood(each) for each in y],
        "smoother": lambda: np.stack([model.smooth(each)[0] for each in y]),
    }
    if len(y) == 1:
        calls["EM iteration"] = iterate
    return calls


def filterpy(problem: Problem) -> Calls:
    from filterpy.kalman import KalmanFilter

    if problem.y.shape[0] * problem.y.shape[1] > 20_000:
        raise ValueError("half a minute")
    n, m = problem.sizes
    gaps: Any = np.isnan(problem.y).any(-1)
    rows = problem.y[..., None]

    def make() -> Any:
        model = KalmanFilter(n, m)
        model.F, model.Q, model.H, model.R = problem.A, problem.Q, problem.C, problem.R
        model.x, model.P = np.zeros((n, 1)), problem.P0.copy()
        return model

    def log_likelihood() -> list[float]:
        totals: list[float] = []
        for values, absent in zip(rows, gaps, strict=True):
            model, total = make(), 0.0
            for t in range(len(values)):
                if t:
                    model.predict()
                model.update(None if absent[t] else values[t])
                total += 0.0 if absent[t] else model.log_likelihood
            totals.append(total)
        return totals

    def smooth() -> np.ndarray:
        found: list[np.ndarray] = []
        for values, absent in zip(rows, gaps, strict=True):
            model, means, covs = make(), np.empty((len(values), n, 1)), np.empty((len(values), n, n))
            for t in range(len(values)):
                if t:
                    model.predict()
                model.update(None if absent[t] else values[t])
                means[t], covs[t] = model.x, model.P
            found.append(model.rts_smoother(means, covs)[0][..., 0])
        return np.stack(found)

    return {"log-likelihood": log_likelihood, "smoother": smooth}


def simdkalman(problem: Problem) -> Calls:
    import simdkalman

    n, m = problem.sizes
    model = simdkalman.KalmanFilter(problem.A, problem.Q, problem.C, problem.R)
    start = {"initial_value": np.zeros(n), "initial_covariance": problem.P0}
    y = problem.y if m > 1 else problem.y[..., 0]
    constant = 0.5 * np.log(2 * np.pi) * (~np.isnan(problem.y)).sum((1, 2))  # which it leaves out

    def log_likelihood() -> np.ndarray:
        found = model.compute(y, 0, **start, smoothed=False, filtered=False, observations=False, log_likelihood=True)
        return found.log_likelihood - constant

    def smooth() -> np.ndarray:
        return model.compute(y, 0, **start, smoothed=True, observations=False).smoothed.states.mean

    return {"log-likelihood": log_likelihood, "smoother": smooth}


def pyro(problem: Problem) -> Calls:
    import pyro.distributions as D

    if np.isnan(problem.y).any():
        raise ValueError("no missing data")
    n, _ = problem.sizes
    leaves, y = [torch.tensor(leaf) for leaf in problem.leaves], torch.tensor(problem.y)

    def normal(factor: torch.Tensor) -> Any:
        return D.MultivariateNormal(torch.zeros(len(factor), dtype=torch.float64), scale_tril=factor)

    def value(leaves: list[torch.Tensor]) -> torch.Tensor:
        a, q, c, r = leaves
        start = normal(torch.eye(n, dtype=torch.float64))
        return D.GaussianHMM(start, a.mT, normal(q), c.mT, normal(r), duration=y.shape[1]).log_prob(y)

    def gradient() -> Any:
        own = [leaf.clone().requires_grad_() for leaf in leaves]
        result = value(own).sum()
        return result.detach(), torch.autograd.grad(result, own)

    # its start moves with A and Q, ours does not: only the value is compared
    return {"log-likelihood": torch.no_grad()(lambda: value(leaves)), "gradient": lambda: (gradient()[0], None)}


RIVALS: dict[str, Callable[[Problem], Calls]] = {
    "statsmodels": statsmodels,
    "statsmodels univariate": lambda problem: statsmodels(problem, filter_univariate=True),
    "statsmodels, no steady state": lambda problem: statsmodels(problem, tolerance=0.0),
    "dynamax": lambda problem: dynamax(problem, parallel=False),
    "dynamax parallel": lambda problem: dynamax(problem, parallel=True),
    "pykalman": pykalman,
    "filterpy": filterpy,
    "simdkalman": simdkalman,
    "Pyro": pyro,
}


trend_words: Any = "lltrend"


def trend_data(t: int = 1_000) -> np.ndarray:
    """A local linear trend: variances 1 (level), 0.01 (slope), 1 (noise)."""
    draws = np.random.default_rng(0)
    slope = np.cumsum(0.1 * draws.normal(size=t))
    return np.cumsum(slope + draws.normal(size=t)) + draws.normal(size=t)


def our_trend(y: np.ndarray) -> ps.LDS:
    """An exact diffuse start, variances from the second differences, the matrices held."""
    size = float(np.var(np.diff(y)))
    return ps.LDS(
        transition_matrix=[[1.0, 1.0], [0.0, 1.0]], transition_cov=size * np.eye(2), emission_matrix=[[1.0, 0.0]],
        emission_cov=[[size]], initial="diffuse", transition_covariance="diag", emission_covariance="diag",
    )  # fmt: skip


def trend_fits(y: np.ndarray) -> Calls:
    """Complete maximum-likelihood fits; each returns the variances of noise, level and slope."""
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    def fit() -> list[float]:
        model = our_trend(y).fit(y, method="gradient", fixed=("transition_matrix", "emission_matrix"))
        with torch.no_grad():
            return [float(model.emission_cov[0, 0]), *model.transition_cov.diagonal().tolist()]

    def other(exact: bool) -> Callable[[], list[float]]:
        def run() -> list[float]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model: Any = UnobservedComponents(y, trend_words, use_exact_diffuse=exact)
                fitted: Any = model.fit(disp=0)
                return list(fitted.params)

        return run

    return {"probseq": fit, "statsmodels": other(False), "statsmodels exact diffuse": other(True)}


def trend_gradients(y: np.ndarray) -> Calls:
    """Value and gradient in the logarithms of the three variances, all 1, from an exact diffuse start."""
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    model, sequences = our_trend(y), ps.Sequences.of(y)
    with torch.no_grad():
        model.transition_cov, model.emission_cov = torch.eye(2).double(), torch.ones(1, 1).double()
    leaves = [model.get_parameter("raw_emission_cov"), model.get_parameter("raw_transition_cov")]
    for name in ("transition_matrix", "emission_matrix"):
        model.get_parameter(f"raw_{name}").requires_grad_(False)
    ones = np.ones(3)

    def gradient() -> Any:
        value = model.log_prob(sequences)
        return value.detach(), torch.autograd.grad(value, leaves)

    def other(exact: bool) -> Callable[[], Any]:
        rival: Any = UnobservedComponents(y, trend_words, use_exact_diffuse=exact)
        return lambda: (rival.loglike(ones), rival.score(ones))

    return {"probseq": gradient, "statsmodels exact diffuse": other(True)}
