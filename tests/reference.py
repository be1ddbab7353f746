"""Oracles: the definitions themselves, slow and plain, with nothing taken from the algorithms under test.

| oracle                | of                | how                                                                   |
|-----------------------|-------------------|-----------------------------------------------------------------------|
| `enumerate_paths`     | HMM               | the sum, or the largest, over all K^T state paths                     |
| `joint_of_lds`        | LDS               | one dense Gaussian over all states and observations                   |
| `joint_of_ar`         | AR                | the same by the recursion on observations, pre-sample values included |
| `four_step_loop`      | every family      | the executable specification, one sequence at a time                  |
| `grid_posterior`      | one nonlinear state | filter and smoother on a dense grid                                 |
| `grid`, `counts_grid` | densities, counts | points and weights for sums over the next observation                 |

Arrays are numpy, `y` is (T, D) with NaN where missing, inputs `u` are (T, P).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor

import probseq as ps

Array = NDArray[np.float64]


def array(value: Any) -> Array:
    """A parameter or result as float64 numpy."""
    return np.asarray(value.detach() if isinstance(value, Tensor) else value, dtype=np.float64)


# ------------------------------------------------------------------------------------------ hidden Markov models


@dataclass(frozen=True)
class Enumerated:
    """What K^T paths say: evidence, posteriors and the best path."""

    log_prob: float
    path_log_probs: Array  # (K ** T,), log p(path, y)
    paths: NDArray[np.int64]  # (K ** T, T), in lexicographic order
    smoothed: Array  # (T, K)
    best_path: NDArray[np.int64]
    best_score: float


def enumerate_paths(initial: Array, transition: Array, log_observation: Array) -> Enumerated:
    """log p(y), p(z_t | y) and argmax p(z, y) by listing every path.

    `log_observation` is (T, K); `transition` is (K, K), or (T, K, K) with the matrix into each step.
    """
    steps, states = log_observation.shape
    paths = np.array(list(itertools.product(range(states), repeat=steps)), dtype=np.int64).reshape(-1, steps)
    with np.errstate(divide="ignore"):
        log_initial, log_transition = np.log(initial), np.log(transition)
    scores = log_initial[paths[:, 0]] + log_observation[0, paths[:, 0]]
    for t in range(1, steps):
        into = log_transition if log_transition.ndim == 2 else log_transition[t]
        scores = scores + into[paths[:, t - 1], paths[:, t]] + log_observation[t, paths[:, t]]
    return weigh_paths(paths, scores, states)


def weigh_paths(paths: NDArray[np.int64], scores: Array, states: int) -> Enumerated:
    """Evidence, posteriors and the best path from every path's log p(path, y)."""
    steps = paths.shape[1]
    total = float(np.logaddexp.reduce(scores))
    weights = np.exp(scores - total)
    smoothed = np.array([[weights[paths[:, t] == k].sum() for k in range(states)] for t in range(steps)])
    best = int(scores.argmax())
    return Enumerated(total, scores, paths, smoothed, paths[best], float(scores[best]))


def observation_table(emission: Any, y: Array, x: Array | None = None) -> Array:
    """log p(y_t | z_t = k, x_t) over the observed coordinates, (T, K), from scipy's densities."""
    inputs = [None] * len(y) if x is None else x
    rows = zip(y, inputs, strict=True)
    return np.array([[_log_density(emission, k, row, x_t) for k in range(emission.n_states)] for row, x_t in rows])


def _log_density(emission: Any, k: int, row: Array, x: Array | None = None) -> float:
    seen = ~np.isnan(row)
    if not seen.any():
        return 0.0
    if isinstance(emission, ps.emissions.LinearRegression):
        mean = array(emission.weights)[k] @ x + array(emission.intercepts)[k]
        return log_normal(row[seen], mean[seen], array(emission.covs)[k][np.ix_(seen, seen)])
    if isinstance(emission, ps.emissions.FromDistribution):
        return _adapted(emission, k, row, seen)
    if isinstance(emission, ps.emissions.Gaussian):
        return log_normal(row[seen], array(emission.means)[k][seen], array(emission.covs)[k][np.ix_(seen, seen)])
    if isinstance(emission, ps.emissions.Categorical):
        with np.errstate(divide="ignore"):
            return float(np.log(array(emission.probs)[k, int(row[0])]))
    if isinstance(emission, ps.emissions.Poisson):
        return float(scipy.stats.poisson.logpmf(row[seen], array(emission.rates)[k][seen]).sum())
    if isinstance(emission, ps.emissions.Bernoulli):
        return float(scipy.stats.bernoulli.logpmf(row[seen], array(emission.probs)[k][seen]).sum())
    if isinstance(emission, ps.emissions.GaussianMixture):
        means, covs = array(emission.means)[k][:, seen], array(emission.covs)[k][:, seen][:, :, seen]
        terms = [log_normal(row[seen], m, c) for m, c in zip(means, covs, strict=True)]
        return float(np.logaddexp.reduce(np.log(array(emission.weights)[k]) + terms))
    if isinstance(emission, ps.emissions.Multinomial):
        return float(scipy.stats.multinomial.logpmf(row, row.sum(), array(emission.probs)[k]))
    if isinstance(emission, ps.emissions.Product):
        ends = np.cumsum([part.dim for part in emission.parts])
        return sum(_log_density(p, k, row[end - p.dim : end], x) for p, end in zip(emission.parts, ends, strict=True))
    if isinstance(emission, ps.emissions.NegativeBinomial):
        means, sizes = array(emission.means)[k][seen], 1 / array(emission.dispersions)[k][seen]
        return float(scipy.stats.nbinom.logpmf(row[seen], sizes, sizes / (sizes + means)).sum())
    if isinstance(emission, ps.emissions.StudentT):
        scale = array(emission.scales)[k][np.ix_(seen, seen)]
        law = scipy.stats.multivariate_t(array(emission.means)[k][seen], scale, df=float(array(emission.dofs)[k]))
        return float(law.logpdf(row[seen]))
    if isinstance(emission, ps.emissions.VonMises):
        means, concentrations = array(emission.means)[k][seen], array(emission.concentrations)[k][seen]
        return float(scipy.stats.vonmises.logpdf(row[seen], concentrations, loc=means).sum())
    raise TypeError(f"no oracle for {type(emission).__name__}")


def _adapted(emission: Any, k: int, row: Array, seen: NDArray[np.bool_]) -> float:
    """The distributions that the zoo adapts, as scipy knows them."""
    name = emission.kind.__name__
    if name == "Gamma":
        shape, rate = array(emission.concentration)[k][seen], array(emission.rate)[k][seen]
        return float(scipy.stats.gamma.logpdf(row[seen], shape, scale=1 / rate).sum())
    if name == "Gumbel":
        loc, scale = array(emission.loc)[k][seen], array(emission.scale)[k][seen]
        return float(scipy.stats.gumbel_r.logpdf(row[seen], loc, scale).sum())
    if name == "Dirichlet":
        alpha = array(emission.concentration)[k]
        log_beta = scipy.special.gammaln(alpha).sum() - scipy.special.gammaln(alpha.sum())
        return float(((alpha - 1) * np.log(row)).sum() - log_beta)
    raise TypeError(f"no oracle for {name}")


def hmm_oracle(model: Any, y: Array, u: Array | None = None) -> Enumerated:
    """All paths of an `HMM` for one sequence."""
    if isinstance(model.emission, ps.emissions.Autoregressive):
        table = windowed_table(model, y)[0]
    else:
        table = observation_table(model.emission, y, u)
    matrix = array(model.transition_matrix)
    moves = driven_matrices(matrix, array(model.transition_weights), u) if u is not None and model.n_drivers else matrix
    return enumerate_paths(array(model.initial_probs), moves, table)


def windowed_table(model: Any, y: Array) -> tuple[Array, list[Array]]:
    """log p(y_t | z_t, window_t) of an AR-HMM, (T, K), and the windows after every step, newest row first.

    What is missing of y_t enters the window as its expectation given y up to t, by the sum over all K^t paths so far.
    """
    emission, matrix = model.emission, array(model.transition_matrix)
    window, scores = array(emission.initial_window), np.log(array(model.initial_probs))  # one score per path so far
    table, windows = [], []
    for t, row in enumerate(y):
        if t:
            scores = (scores.reshape(-1, len(matrix))[:, :, None] + np.log(matrix)).reshape(-1)
        densities, means = zip(*(conditional(emission, k, row, window) for k in range(len(matrix))), strict=True)
        table.append(densities)
        scores = (scores.reshape(-1, len(matrix)) + np.array(densities)).reshape(-1)
        ends = np.logaddexp.reduce(scores.reshape(-1, len(matrix)), 0)
        expected = np.exp(ends - np.logaddexp.reduce(ends)) @ np.array(means)
        window = np.concatenate([np.where(np.isnan(row), expected, row)[None], window[:-1]])
        windows.append(window)
    return np.array(table).reshape(len(y), -1), windows


def conditional(emission: Any, k: int, row: Array, window: Array) -> tuple[float, Array]:
    """log p(observed part of a row | z = k, window), and the expectation of the row given that part."""
    taps, cov = array(emission.coefficients)[k], array(emission.covs)[k]
    mean = array(emission.intercepts)[k] + sum(tap @ past for tap, past in zip(taps, window, strict=True))
    seen = ~np.isnan(row)
    if not seen.any():
        return 0.0, mean
    inner = cov[np.ix_(seen, seen)]
    expected = mean + cov[:, seen] @ np.linalg.solve(inner, row[seen] - mean[seen])
    return log_normal(row[seen], mean[seen], inner), expected


def driven_matrices(matrix: Array, weights: Array, u: Array) -> Array:
    """A_t[i, j] proportional to A[i, j] exp(sum_p W[i, j, p] u_t[p]), (T, K, K)."""
    odds = matrix * np.exp(np.tensordot(u, weights, axes=(1, 2)))
    return odds / odds.sum(-1, keepdims=True)


def duration_table(duration: Any) -> Array:
    """p(d | z = k) on {1 .. D}, (K, D), from scipy's probabilities, renormalised."""
    d = np.arange(duration.max_duration)
    if isinstance(duration, ps.durations.Table):
        return array(duration.probs)
    if isinstance(duration, ps.durations.Poisson):
        table = scipy.stats.poisson.pmf(d, array(duration.rates)[:, None])
    else:
        shapes, means = array(duration.shapes)[:, None], array(duration.means)[:, None]
        table = scipy.stats.nbinom.pmf(d, shapes, shapes / (shapes + means))
    return table / table.sum(-1, keepdims=True)


def segment_prior(path: Any, initial: Array, transition: Array, durations: Array) -> float:
    """p(z) of one path of an HSMM from its runs: complete ones count with p(d), the last with p(duration >= e)."""
    if len(initial) == 1:
        return 1.0
    runs = [(int(state), len(list(run))) for state, run in itertools.groupby(path)]
    if max(length for _, length in runs) > durations.shape[1]:
        return 0.0
    prior = initial[runs[0][0]]
    for (state, length), (following, _) in itertools.pairwise(runs):
        prior *= durations[state, length - 1] * transition[state, following]
    state, length = runs[-1]
    return float(prior * durations[state, length - 1 :].sum())


def hsmm_oracle(model: Any, y: Array, u: Array | None = None) -> Enumerated:
    """All paths of an `HSMM` for one sequence: with a zero diagonal, the runs of a path are its segments."""
    table = observation_table(model.emission, y, u)
    steps, states = table.shape
    listed = np.array(list(itertools.product(range(states), repeat=steps)), dtype=np.int64).reshape(-1, steps)
    parts = (array(model.initial_probs), array(model.transition_matrix), duration_table(model.duration))
    with np.errstate(divide="ignore"):
        prior = np.log([segment_prior(path, *parts) for path in listed])
    return weigh_paths(listed, prior + table[np.arange(steps), listed].sum(-1), states)


# ---------------------------------------------------------------------------------------- linear Gaussian models


@dataclass(frozen=True)
class Joint:
    """A dense Gaussian over (states, observations) of T steps."""

    state_mean: Array  # (T, n)
    mean: Array  # (T n + T m,)
    cov: Array
    steps: int
    state_dim: int
    #: (T n + T m, d): what a diffuse delta adds to the mean
    loading: Array | None = None

    def condition(self, y: Array) -> Conditioned:
        """Condition on the entries of y that are not NaN.

        With a diffuse delta by generalised least squares: log p(y) is that of the residuals with its density of the
        estimate taken off, and directions of delta that y does not show stay diffuse.
        """
        n_states = self.steps * self.state_dim
        seen = n_states + np.flatnonzero(~np.isnan(y.reshape(-1)))
        values = y.reshape(-1)[seen - n_states]
        inner = self.cov[np.ix_(seen, seen)]
        cross = self.cov[:, seen]
        # in units where every observed variance is 1, so that mixed units do not hurt the oracle
        unit = np.sqrt(np.diag(inner))
        gain = scipy.linalg.solve(inner / np.outer(unit, unit), (cross / unit).T, assume_a="sym").T / unit
        mean = self.mean + gain @ (values - self.mean[seen])
        cov = self.cov - gain @ cross.T
        log_prob, diffuse = log_normal(values, self.mean[seen], inner), None
        if self.loading is not None:
            shown = self.loading[seen]
            effect = self.loading - gain @ shown
            weighted = scipy.linalg.solve(inner / np.outer(unit, unit), shown / unit[:, None], assume_a="sym").T / unit
            information, directions = np.linalg.eigh(weighted @ shown)
            known = information > 1e-9 * max(information.max(), 1e-300)
            axes, sizes = directions[:, known], information[known]
            estimate = axes.T @ weighted @ (values - self.mean[seen]) / sizes
            log_prob += 0.5 * float(estimate**2 @ sizes - np.log(sizes).sum())
            mean, cov = mean + effect @ axes @ estimate, cov + (effect @ axes / sizes) @ (effect @ axes).T
            left = (effect @ directions[:, ~known])[:n_states].reshape(self.steps, self.state_dim, -1)
            diffuse = left @ left.swapaxes(1, 2)
        means, covs = mean[:n_states].reshape(self.steps, -1), cov[:n_states, :n_states]
        blocks = covs.reshape(self.steps, self.state_dim, self.steps, self.state_dim)
        marginals = np.array([blocks[t, :, t] for t in range(self.steps)])
        m = (len(self.mean) - n_states) // self.steps
        rest = cov[n_states:, n_states:].reshape(self.steps, m, self.steps, m)
        return Conditioned(
            log_prob=log_prob,
            mean=means,
            cov=marginals,
            joint_mean=mean[:n_states],
            joint_cov=covs,
            observed_mean=mean[n_states:].reshape(self.steps, m),
            observed_cov=np.array([rest[t, :, t] for t in range(self.steps)]),
            diffuse=diffuse,
        )


@dataclass(frozen=True)
class Conditioned:
    """log p(y) and the posterior moments of states and of unobserved entries of y."""

    log_prob: float
    mean: Array  # (T, n)
    cov: Array  # (T, n, n)
    joint_mean: Array  # (T n,)
    joint_cov: Array  # (T n, T n)
    observed_mean: Array  # (T, m)
    observed_cov: Array  # (T, m, m)
    diffuse: Array | None = None  # (T, n, n), what is left of a diffuse start


def log_normal(value: Array, mean: Array, cov: Array) -> float:
    """log N(value; mean, cov), computed in units where the variances are 1."""
    if not value.size:
        return 0.0
    unit = np.sqrt(np.diag(cov))
    factor = np.linalg.cholesky(cov / np.outer(unit, unit))
    white = scipy.linalg.solve_triangular(factor, (value - mean) / unit, lower=True)
    log_det = 2 * np.log(np.diag(factor)).sum() + 2 * np.log(unit).sum()
    return float(-0.5 * (white @ white + log_det + value.size * math.log(2 * math.pi)))


def joint_of_lds(model: Any, steps: int, u: Array | None = None) -> Joint:
    """Unroll z_t and y_t as linear functions of independent noises (z_0, w_1 .., v_0 ..)."""
    a, q, c, r = (
        np.broadcast_to(value if value.ndim == 2 else value[:steps], (steps, *value.shape[-2:]))
        for value in map(
            array, (model.transition_matrix, model.transition_cov, model.emission_matrix, model.emission_cov)
        )
    )
    n, m = a.shape[1], c.shape[1]
    b, d = array(model.transition_input_matrix), array(model.emission_input_matrix)
    moves, levels = array(model.transition_offset), array(model.emission_offset)
    drive = np.zeros((steps, n)) + (moves if moves.ndim == 1 else moves[:steps])
    level = np.zeros((steps, m)) + (levels if levels.ndim == 1 else levels[:steps])
    if u is not None:
        drive, level = drive + u @ b.T, level + u @ d.T
    start = model.system()
    noise = scipy.linalg.block_diag(array(start.initial_cov), *q[1:], *r)
    rows_z = np.zeros((steps, n, noise.shape[0]))
    mean_z = np.zeros((steps, n))
    for t in range(steps):
        if t == 0:
            mean_z[0] = array(start.initial_mean)
        else:
            mean_z[t] = a[t] @ mean_z[t - 1] + drive[t]
            rows_z[t] = a[t] @ rows_z[t - 1]
        rows_z[t][:, t * n : (t + 1) * n] += np.eye(n)
    rows_y = c @ rows_z
    for t in range(steps):
        rows_y[t][:, steps * n + t * m : steps * n + (t + 1) * m] += np.eye(m)
    mean_y = (c @ mean_z[..., None])[..., 0] + level
    rows = np.concatenate([rows_z.reshape(steps * n, -1), rows_y.reshape(steps * m, -1)])
    mean = np.concatenate([mean_z.reshape(-1), mean_y.reshape(-1)])
    loading = None
    if start.initial_diffuse is not None:
        states = [array(start.initial_diffuse)]
        for t in range(1, steps):
            states.append(a[t] @ states[-1])
        loading = np.concatenate([*states, *(emission @ state for emission, state in zip(c, states, strict=True))])
    return Joint(mean_z, mean, rows @ noise @ rows.T, steps, n, loading)


def joint_of_ar(model: Any, steps: int, u: Array | None = None) -> Joint:
    """The Gaussian over y_{1-p} .. y_{T-1} from y_t = c + sum_k A_k y_{t-1-k} + w_t; states are windows of it."""
    taps, noise = array(model.transition_matrices), array(model.transition_cov)
    order, dim = taps.shape[:2]
    mean0, cov0 = ar_start(model)
    total = order + steps - 1
    sources = scipy.linalg.block_diag(cov0, *[noise] * (steps - 1))
    rows, mean = np.zeros((total, dim, sources.shape[0])), np.zeros((total, dim))
    for lag in range(order):  # the window is newest first: its first block is y_0
        rows[order - 1 - lag][:, lag * dim : (lag + 1) * dim] = np.eye(dim)
        mean[order - 1 - lag] = mean0[lag * dim : (lag + 1) * dim]
    for i in range(order, total):
        mean[i] = array(model.transition_offset) + sum(taps[k] @ mean[i - 1 - k] for k in range(order))
        rows[i] = sum(taps[k] @ rows[i - 1 - k] for k in range(order))
        start = order * dim + (i - order) * dim
        rows[i][:, start : start + dim] += np.eye(dim)
    windows = np.array([np.concatenate([rows[order - 1 + t - k] for k in range(order)]) for t in range(steps)])
    window_means = np.array([np.concatenate([mean[order - 1 + t - k] for k in range(order)]) for t in range(steps)])
    everything = np.concatenate([windows.reshape(steps * order * dim, -1), rows[order - 1 :].reshape(steps * dim, -1)])
    mean_all = np.concatenate([window_means.reshape(-1), mean[order - 1 :].reshape(-1)])
    return Joint(window_means, mean_all, everything @ sources @ everything.T, steps, order * dim)


def ar_start(model: Any) -> tuple[Array, Array]:
    """The moments of the first window: stationary by scipy's Lyapunov solver, or the model's own."""
    taps, noise = array(model.transition_matrices), array(model.transition_cov)
    order, dim = taps.shape[:2]
    companion = np.zeros((order * dim, order * dim))
    companion[:dim] = np.concatenate(list(taps), axis=1)
    companion[dim:, :-dim] = np.eye((order - 1) * dim)
    stable = np.abs(np.linalg.eigvals(companion)).max() < 1
    if model.initial == "fitted" or not stable:
        return array(model.initial_mean), array(model.initial_cov)
    full = np.zeros_like(companion)
    full[:dim, :dim] = noise
    level = np.linalg.solve(np.eye(dim) - taps.sum(0), array(model.transition_offset))
    return np.tile(level, order), scipy.linalg.solve_discrete_lyapunov(companion, full)


# -------------------------------------------------------------------------------------------------- every family


@dataclass(frozen=True)
class Looped:
    """Per step: predicted and updated beliefs and log p(y_t | y_<t)."""

    predicted: list[Any]
    updated: list[Any]
    log_prob: Tensor


@torch.no_grad()
def four_step_loop(model: Any, y: Tensor, u: Tensor | None = None, initial: Any = None) -> Looped:
    """The loop that defines a family, on one sequence (T, D) with NaN where missing."""
    observed = ~y.isnan()
    values = torch.where(observed, y, 0.0)

    def at(t: int) -> Tensor | None:
        return None if u is None else u[t]

    predicted, updated, scores = [], [], []
    belief = model.initial_belief((), at(0)) if initial is None else initial
    for t in range(len(y)):
        predicted.append(belief)
        belief, log_prob = model.update(belief, values[t], observed[t], at(t))
        updated.append(belief)
        scores.append(log_prob)
        if t + 1 < len(y):
            belief = model.predict(belief, at(t + 1))
    return Looped(predicted, updated, torch.stack(scores) if scores else torch.zeros(0, dtype=torch.float64))


# -------------------------------------------------------------------------------------------- sums and integrals


def grid(centre: Tensor, spread: Tensor, points: int = 121, reach: float = 12.0) -> tuple[Tensor, Tensor]:
    """Nodes (N, D) and weights (N,) of the trapezoid rule on centre +- reach * spread, D at most 2.

    For analytic integrands that vanish at the ends the rule converges faster than any power of the spacing.
    """
    line = torch.linspace(-reach, reach, points, dtype=torch.float64)
    centre, spread = centre.detach(), spread.detach()
    axes = [c + s * line for c, s in zip(centre, spread, strict=True)]
    nodes = torch.cartesian_prod(*axes).reshape(-1, len(centre))
    return nodes, torch.full((len(nodes),), float((spread * (line[1] - line[0])).prod()), dtype=torch.float64)


def heavy_grid(centre: Tensor, spread: Tensor, points: int = 241, reach: float = 4.5) -> tuple[Tensor, Tensor]:
    """The same for one coordinate whose density falls like a power: y = centre + spread sinh(pi / 2 sinh t).

    Takahasi and Mori (1974), Double exponential formulas for numerical integration.
    """
    line = torch.linspace(-reach, reach, points, dtype=torch.float64)
    inner = math.pi / 2 * torch.sinh(line)
    widths = spread.detach() * (line[1] - line[0]) * math.pi / 2 * torch.cosh(line) * torch.cosh(inner)
    return (centre.detach() + spread.detach() * torch.sinh(inner)).unsqueeze(-1), widths


def counts_grid(dim: int, largest: int) -> tuple[Tensor, Tensor]:
    """All count vectors up to `largest` and unit weights."""
    nodes = torch.cartesian_prod(*[torch.arange(largest + 1, dtype=torch.float64)] * dim).reshape(-1, dim)
    return nodes, torch.ones(len(nodes), dtype=torch.float64)


def symbols_grid(n_symbols: int) -> tuple[Tensor, Tensor]:
    """All symbols, (M, 1), and unit weights."""
    return torch.arange(n_symbols, dtype=torch.float64).unsqueeze(-1), torch.ones(n_symbols, dtype=torch.float64)


def binary_grid(dim: int) -> tuple[Tensor, Tensor]:
    """All binary vectors, (2 ** D, D), and unit weights."""
    nodes = torch.tensor(list(itertools.product((0.0, 1.0), repeat=dim)), dtype=torch.float64)
    return nodes, torch.ones(len(nodes), dtype=torch.float64)


# ------------------------------------------------------------------------------- nonlinear models with one state


@dataclass(frozen=True)
class GridPosterior:
    """What a dense grid says about one state: evidence per step, filtered and smoothed moments."""

    log_probs: Array  # (T,)
    mean: Array  # (T,)
    var: Array
    smoothed_mean: Array
    smoothed_var: Array


def grid_posterior(model: Any, y: Array, low: float, high: float, points: int = 1500) -> GridPosterior:
    """Filter and smoother by the trapezoid rule on a grid of a single state: no approximation but the spacing."""
    line = np.linspace(low, high, points)
    width = line[1] - line[0]
    states = torch.as_tensor(line[:, None])
    moved, said = array(model.move(states))[:, 0], array(model.observe(states))
    q, r = float(array(model.transition_cov)[0, 0]), array(model.emission_cov)
    kernel = scipy.stats.norm.pdf(line[:, None], moved[None, :], math.sqrt(q)) * width  # to, from
    density = scipy.stats.norm.pdf(line, array(model.initial_mean)[0], math.sqrt(array(model.initial_cov)[0, 0]))
    emitted, filtered, scores = [], [], []
    for t, row in enumerate(y):
        density = kernel @ density if t else density
        seen = ~np.isnan(row)
        law = scipy.stats.multivariate_normal(np.zeros(int(seen.sum())), r[np.ix_(seen, seen)]) if seen.any() else None
        emitted.append(np.ones(points) if law is None else law.pdf(row[seen] - said[:, seen]).reshape(points))
        density = density * emitted[-1]
        scores.append(math.log(density.sum() * width))
        density = density / (density.sum() * width)
        filtered.append(density)
    coming, smoothed = np.ones(points), [filtered[-1]]
    for t in reversed(range(len(y) - 1)):
        coming = kernel.T @ (emitted[t + 1] * coming)
        coming = coming / coming.max()
        both = filtered[t] * coming
        smoothed.append(both / (both.sum() * width))
    return GridPosterior(
        np.array(scores), *_grid_moments(filtered, line, width), *_grid_moments(smoothed[::-1], line, width)
    )


def _grid_moments(densities: list[Array], line: Array, width: float) -> tuple[Array, Array]:
    means = np.array([(p * line).sum() * width for p in densities])
    return means, np.array([(p * (line - m) ** 2).sum() * width for p, m in zip(densities, means, strict=True)])
