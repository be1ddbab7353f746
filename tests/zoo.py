"""One small instance per family and variant, and what each of them promises.

A new family adds one `Row`; every law of `laws.py` with a matching trait then runs on it, and the others are
listed with their reason. Models and data are functions of a seed, in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

import probseq as ps
from probseq.beliefs import Point, Window
from probseq.evaluation.stacking import Stacked
from probseq.handwriting import synthesis_network
from probseq.parameters import parametric_modules
from tests import reference
from tests.poisson_gamma import PoissonGamma

Kind = Literal["real", "count", "symbol", "binary", "angle", "mixed", "shares", "positive", "parts"]
Data = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Row:
    """One zoo member: how to make it, data it can explain, and its traits."""

    name: str
    make: Callable[[int], Any]
    kind: Kind
    dim: int = 1
    input_dim: int = 0
    n_symbols: int = 0
    likelihood_kind: str = "exact"
    marginalises: bool = False
    #: has smooth, decode, sample_states, path_log_prob
    latent: bool = False
    #: state paths have a density under the model
    path_density: bool = True
    #: the first beliefs may be diffuse, so that they have no predictive density
    improper: bool = False
    #: "enumeration" or "dense": an oracle for the whole posterior, which handles missing entries
    oracle: Literal["enumeration", "dense"] | None = None
    #: what `rescale` does to a belief: nothing ("state"), the same as to the data ("data"), or that to its window
    belief_unit: Literal["state", "data", "window"] = "state"
    #: only one factor common to all coordinates keeps the model in its family
    common_scale: bool = False
    #: a posterior belief that a step without observation leaves behind, where it does not marginalise
    missing_rule: Callable[[Any, Any, Tensor, Tensor], Any] | None = None
    fit_methods: tuple[str, ...] = ()
    #: functions that were given tie the model to one unit of the data, so that a fit from sizes depends on it
    own_unit: bool = False
    #: diffuse elements in the unit of the data: a fit from sizes moves by -(n - these) log s, not by -n log s
    diffuse_in_unit: int = 0
    #: another row's likelihood under a prior of its own: only the laws of learning and of files concern it
    prior_only: bool = False
    #: exp log_prob sums to one over all data; an approximate evidence need not
    normalised: bool = True
    #: log_prob has a gradient
    differentiable: bool = True
    #: the log-likelihood is one of the compiled ops: no second derivative, no forward mode
    compiled: bool = False
    #: the model with its states or symbols renamed by a permutation
    relabel: Callable[[Any, list[int]], Any] | None = None

    @property
    def scalable(self) -> bool:
        return self.kind == "real"

    @property
    def whole_rows(self) -> bool:
        """A row is observed or missing as a whole."""
        return self.kind in ("shares", "parts")

    def data(self, seed: int, steps: int, batch: tuple[int, ...] = ()) -> Data:
        """Legal y (*batch, T, D) and u (*batch, T, P) or None, a function of the seed."""
        rng = np.random.default_rng([seed, 17])
        shape = (*batch, steps, self.dim)
        if self.kind == "real":
            y = rng.normal(size=shape) * 1.5 + 0.3
        elif self.kind == "count":
            y = rng.poisson(3.0, size=shape).astype(float)
        elif self.kind == "symbol":
            y = rng.integers(0, self.n_symbols, size=shape).astype(float)
        elif self.kind == "angle":
            y = rng.uniform(-np.pi, np.pi, size=shape)
        elif self.kind == "shares":  # rows of counts that sum to 6
            y = rng.multinomial(6, np.full(self.dim, 1 / self.dim), size=shape[:-1]).astype(float)
        elif self.kind == "positive":
            y = rng.gamma(2.0, size=shape)
        elif self.kind == "parts":  # positive rows that sum to 1
            y = rng.dirichlet(np.full(self.dim, 2.0), size=shape[:-1])
        elif self.kind == "mixed":  # a real number, then symbols
            numbers, symbols = rng.normal(size=shape[:-1]) + 0.3, rng.integers(0, self.n_symbols, size=shape)
            y = np.concatenate([numbers[..., None], symbols[..., 1:]], -1)
        else:
            y = rng.integers(0, 2, size=shape).astype(float)
        u = torch.as_tensor(rng.normal(size=(*batch, steps, self.input_dim))) if self.input_dim else None
        return torch.as_tensor(y), u

    def exact(self, model: Any, y: Tensor, u: Tensor | None) -> Any:
        """The oracle for one sequence: `Enumerated` or `Conditioned`."""
        if self.oracle == "enumeration":
            if isinstance(model, ps.HSMM):
                return reference.hsmm_oracle(model, y.numpy(), None if u is None else u.numpy())
            return reference.hmm_oracle(model, y.numpy(), None if u is None else u.numpy())
        return self.joint(model, len(y), u).condition(y.numpy())

    def joint(self, model: Any, steps: int, u: Tensor | None) -> reference.Joint:
        if isinstance(model, ps.Structural):
            return reference.joint_of_lds(regression_twin(model, steps, u), steps)
        model = linear_twin(model) if isinstance(model, ps.NonlinearGaussian) else model
        unroll = reference.joint_of_ar if isinstance(model, ps.AR) else reference.joint_of_lds
        return unroll(model, steps, None if u is None else u.numpy())


# -------------------------------------------------------------------------------------------------- random parts


def simplex(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Probability vectors along the last axis, none of them near zero."""
    weights = rng.gamma(2.0, size=shape) + 0.1
    return weights / weights.sum(-1, keepdims=True)


def covariance(rng: np.random.Generator, dim: int, count: int | None = None) -> np.ndarray:
    """Well-conditioned covariances, (dim, dim) or (count, dim, dim)."""
    root = rng.normal(size=(1 if count is None else count, dim, dim + 2)) / math.sqrt(dim)
    covs = root @ root.swapaxes(-1, -2) + 0.2 * np.eye(dim)
    return covs[0] if count is None else covs


def rotation(rng: np.random.Generator, dim: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(dim, dim)))[0]


# ------------------------------------------------------------------------------------------ hidden Markov models


def hmm(seed: int, emission: Callable[[np.random.Generator, int], Any], n_states: int = 3) -> ps.HMM:
    rng = np.random.default_rng([seed, 1])
    return ps.HMM(
        emission=emission(rng, n_states),
        initial_probs=simplex(rng, n_states),
        transition_matrix=simplex(rng, n_states, n_states),
    )


def chain(seed: int, emission: Callable[[np.random.Generator, int], Any], **options: Any) -> ps.HMM:
    """Three states whose rows 0 and 2 are equal if `tied_rows` says so, and what the options say of start and prior."""
    rng = np.random.default_rng([seed, 11])
    matrix = simplex(rng, 3, 3)
    if "tied_rows" in options:
        matrix[2] = matrix[0]
    if options.get("input_dim"):
        weights = rng.normal(size=(3, 3, options["input_dim"]))
        options["transition_weights"] = weights[options.get("tied_rows", [0, 1, 2])]
    start = {} if options.get("initial") == "stationary" else {"initial_probs": simplex(rng, 3)}
    return ps.HMM(emission=emission(rng, 3), transition_matrix=matrix, **start, **options)


def left_right(seed: int) -> ps.HMM:
    """States in order, none skipped, the last absorbing; emissions overlap so that all data are possible."""
    rng = np.random.default_rng([seed, 2])
    stay = rng.uniform(0.3, 0.7, size=2)
    matrix = [[stay[0], 1 - stay[0], 0], [0, stay[1], 1 - stay[1]], [0, 0, 1]]
    return ps.HMM(emission=gaussian_emission(1)(rng, 3), initial_probs=[1, 0, 0], transition_matrix=matrix)


def gaussian_emission(dim: int, kind: str = "full") -> Callable[[np.random.Generator, int], Any]:
    def make(rng: np.random.Generator, k: int) -> Any:
        means = 1.5 * rng.normal(size=(k, dim))
        if kind == "full":
            covs = covariance(rng, dim, k)
        elif kind == "tied":
            covs = np.repeat(covariance(rng, dim)[None], k, 0)
        elif kind == "diag":
            covs = np.array([np.diag(v) for v in rng.uniform(0.3, 1.5, size=(k, dim))])
        else:
            covs = rng.uniform(0.3, 1.5, size=(k, 1, 1)) * np.eye(dim)
        return ps.emissions.Gaussian(means=means, covs=covs, covariance=kind)  # type: ignore[arg-type]

    return make


def with_prior(
    emission: Callable[[np.random.Generator, int], Any], prior: Callable[[], Any]
) -> Callable[[np.random.Generator, int], Any]:
    """The same emission under a conjugate prior, told through the constructor."""

    def make(rng: np.random.Generator, k: int) -> Any:
        plain = emission(rng, k)
        values = {name: getattr(plain, name).detach() for name in plain.params()}
        options = {"covariance": plain.covariance} if isinstance(plain, ps.emissions.Gaussian) else {}
        return type(plain)(**values, **options, prior=prior())

    return make


def wishart() -> Any:
    return ps.priors.NormalInverseWishart(scale=[[0.5, 0.1], [0.1, 0.3]], dofs=4, mean=[0.2, -0.1], mean_precision=0.5)


def inverse_gamma() -> Any:
    return ps.priors.NormalInverseGamma(shape=2.0, scale=0.4, mean=0.2, mean_precision=0.5)


def beta() -> Any:
    return ps.priors.Beta(2.0, 1.5)


def gamma() -> Any:
    return ps.priors.Gamma(2.0, 0.7)


def categorical_emission(rng: np.random.Generator, k: int) -> Any:
    return ps.emissions.Categorical(probs=simplex(rng, k, 4))


def poisson_emission(rng: np.random.Generator, k: int) -> Any:
    return ps.emissions.Poisson(rates=rng.uniform(0.5, 6.0, size=(k, 2)))


def bernoulli_emission(rng: np.random.Generator, k: int) -> Any:
    return ps.emissions.Bernoulli(probs=rng.uniform(0.1, 0.9, size=(k, 2)))


def negative_binomial_emission(rng: np.random.Generator, k: int) -> Any:
    means, dispersions = rng.uniform(0.5, 6.0, size=(2, k, 2))
    return ps.emissions.NegativeBinomial(means=means, dispersions=0.2 * dispersions)


def student_emission(dim: int, kind: str = "full") -> Callable[[np.random.Generator, int], Any]:
    def make(rng: np.random.Generator, k: int) -> Any:
        scales = covariance(rng, dim, k) * (np.eye(dim) if kind == "diag" else 1.0)
        return ps.emissions.StudentT(
            means=1.5 * rng.normal(size=(k, dim)),
            scales=scales,
            dofs=rng.uniform(1.5, 9.0, size=k),
            covariance=kind,  # type: ignore[arg-type]
        )

    return make


def von_mises_emission(rng: np.random.Generator, k: int) -> Any:
    return ps.emissions.VonMises(
        means=rng.uniform(-np.pi, np.pi, size=(k, 2)), concentrations=rng.uniform(0.2, 5, size=(k, 2))
    )


def gaussian_mixture_emission(kind: str) -> Callable[[np.random.Generator, int], Any]:
    def make(rng: np.random.Generator, k: int) -> Any:
        covs = covariance(rng, 2, 2 * k) * (np.eye(2) if kind == "diag" else 1.0)
        return ps.emissions.GaussianMixture(
            weights=simplex(rng, k, 2),
            means=1.5 * rng.normal(size=(k, 2, 2)),
            covs=covs.reshape(k, 2, 2, 2),
            covariance=kind,  # type: ignore[arg-type]
        )

    return make


def multinomial_emission(rng: np.random.Generator, k: int) -> Any:
    return ps.emissions.Multinomial(trials=6, probs=simplex(rng, k, 3))


def mixed_emission(rng: np.random.Generator, k: int) -> Any:
    return ps.emissions.Product(gaussian_emission(1)(rng, k), symbols=categorical_emission(rng, k))


def side_by_side_emission(rng: np.random.Generator, k: int) -> Any:
    return ps.emissions.Product(gaussian_emission(1, "diag")(rng, k), student_emission(1)(rng, k))


def regression_emission(dim: int, kind: str = "full", inputs: int = 2) -> Callable[[np.random.Generator, int], Any]:
    def make(rng: np.random.Generator, k: int) -> Any:
        covs = covariance(rng, dim, k) * (np.eye(dim) if kind == "diag" else 1.0)
        weights, intercepts = rng.normal(size=(k, dim, inputs)), rng.normal(size=(k, dim))
        return ps.emissions.LinearRegression(
            weights=weights,
            intercepts=intercepts,
            covs=covs,
            covariance=kind,  # type: ignore[arg-type]
        )

    return make


def autoregressive_emission(dim: int, order: int, kind: str = "full") -> Callable[[np.random.Generator, int], Any]:
    def make(rng: np.random.Generator, k: int) -> Any:
        return ps.emissions.Autoregressive(
            coefficients=rng.normal(size=(k, order, dim, dim)) / (2 * order * dim),
            intercepts=rng.normal(size=(k, dim)),
            covs=covariance(rng, dim, k) * (np.eye(dim) if kind == "diag" else 1.0),
            initial_window=rng.normal(size=(order, dim)),
            covariance=kind,  # type: ignore[arg-type]
        )

    return make


def window_rule(model: Any, belief: Any, y: Tensor, observed: Tensor) -> Any:
    """What was not seen enters the window as its expectation given what was seen up to now."""
    row = np.where(observed.numpy(), y.numpy(), np.nan)
    window, weights = reference.array(belief.window), reference.array(belief.log_probs)
    pairs = [reference.conditional(model.emission, k, row, window) for k in range(model.n_states)]
    joint = weights + np.array([density for density, _ in pairs])
    after = joint - np.logaddexp.reduce(joint)
    newest = np.where(np.isnan(row), np.exp(after) @ np.array([mean for _, mean in pairs]), row)
    return type(belief)(torch.as_tensor(after), torch.as_tensor(np.concatenate([newest[None], window[:-1]])))


def gamma_emission(rng: np.random.Generator, k: int) -> Any:
    concentration, rate = rng.uniform(0.8, 4.0, size=(2, k, 2))
    return ps.emissions.FromDistribution(torch.distributions.Gamma, concentration=concentration, rate=rate)


def gumbel_emission(rng: np.random.Generator, k: int) -> Any:
    loc, scale = rng.normal(size=(k, 2)), rng.uniform(0.5, 2, (k, 2))
    return ps.emissions.FromDistribution(torch.distributions.Gumbel, loc=loc, scale=scale)


def dirichlet_emission(rng: np.random.Generator, k: int) -> Any:
    return ps.emissions.FromDistribution(torch.distributions.Dirichlet, concentration=rng.uniform(0.8, 4, (k, 3)))


def mixed_driven_emission(rng: np.random.Generator, k: int) -> Any:
    return ps.emissions.Product(regression_emission(1, inputs=1)(rng, k), symbols=categorical_emission(rng, k))


def permute_states(model: Any, order: list[int]) -> ps.HMM:
    """The same HMM with state i called order^-1(i)."""
    emission = copy.deepcopy(model.emission)
    for _, part in parametric_modules(emission):
        for name, param in part.params().items():
            if param.shape[0] != "n_states":
                continue
            value = reference.array(getattr(part, name))
            blocks = value.reshape(model.n_states, -1, *value.shape[1:])  # one per state
            setattr(part, name, blocks[order].reshape(value.shape))
    free = model.initial == "free"
    both, alphas = np.ix_(order, order), (model.initial_prior, model.transition_prior)
    return ps.HMM(
        emission=emission,
        initial=model.initial,
        initial_probs=reference.array(model.initial_probs)[order] if free else None,
        transition_matrix=reference.array(model.transition_matrix)[both],
        transition_weights=reference.array(model.transition_weights)[both] if model.n_drivers else None,
        tied_rows=None if model.tied_rows is None else [model.tied_rows[i] for i in order],
        initial_prior=None if alphas[0] is None else reference.array(alphas[0])[order],
        transition_prior=None if alphas[1] is None else reference.array(alphas[1])[both],
    )


def hmm_row(name: str, make: Callable[[int], Any], kind: Kind, dim: int, **traits: Any) -> Row:
    return Row(
        name=f"hmm-{name}",
        make=make,
        kind=kind,
        dim=dim,
        marginalises=True,
        latent=True,
        oracle="enumeration",
        fit_methods=("em", "gradient"),
        compiled=True,
        relabel=permute_states,
        **traits,
    )


def windowed_row(name: str, make: Callable[[int], Any], dim: int) -> Row:
    row = hmm_row(name, make, "real", dim, belief_unit="window", missing_rule=window_rule)
    return replace(row, marginalises=False)


HMM_ROWS = [
    hmm_row("gaussian-full", lambda s: hmm(s, gaussian_emission(2, "full")), "real", 2),
    hmm_row("gaussian-diag", lambda s: hmm(s, gaussian_emission(2, "diag")), "real", 2),
    hmm_row("gaussian-tied", lambda s: hmm(s, gaussian_emission(2, "tied")), "real", 2),
    hmm_row("gaussian-spherical", lambda s: hmm(s, gaussian_emission(2, "spherical")), "real", 2, common_scale=True),
    hmm_row("categorical", lambda s: hmm(s, categorical_emission), "symbol", 1, n_symbols=4),
    hmm_row("poisson", lambda s: hmm(s, poisson_emission), "count", 2),
    hmm_row("bernoulli", lambda s: hmm(s, bernoulli_emission, 2), "binary", 2),
    hmm_row("negative-binomial", lambda s: hmm(s, negative_binomial_emission), "count", 2),
    hmm_row("student-full", lambda s: hmm(s, student_emission(2, "full")), "real", 2),
    hmm_row("student-diag", lambda s: hmm(s, student_emission(2, "diag")), "real", 2),
    hmm_row("von-mises", lambda s: hmm(s, von_mises_emission), "angle", 2),
    hmm_row("product-mixed", lambda s: hmm(s, mixed_emission), "mixed", 2, n_symbols=4),
    hmm_row("product-real", lambda s: hmm(s, side_by_side_emission), "real", 2),
    hmm_row("gaussian-mixture-full", lambda s: hmm(s, gaussian_mixture_emission("full")), "real", 2),
    hmm_row("gaussian-mixture-diag", lambda s: hmm(s, gaussian_mixture_emission("diag"), 2), "real", 2),
    hmm_row("multinomial", lambda s: hmm(s, multinomial_emission), "shares", 3),
    hmm_row("left-right", left_right, "real", 1),
    hmm_row("stationary", lambda s: chain(s, gaussian_emission(1), initial="stationary"), "real", 1),
    hmm_row("tied-rows", lambda s: chain(s, poisson_emission, tied_rows=[0, 1, 0]), "count", 2),
    hmm_row(
        "stationary-tied-prior",
        lambda s: chain(s, bernoulli_emission, initial="stationary", tied_rows=[0, 1, 0], transition_prior=2.5),
        "binary",
        2,
    ),
    hmm_row(
        "priors",
        lambda s: chain(s, gaussian_emission(1), initial_prior=[1.5, 2.0, 1.0], transition_prior=np.eye(3) + 1.5),
        "real",
        1,
        prior_only=True,
    ),
    hmm_row("map-full", lambda s: hmm(s, with_prior(gaussian_emission(2), wishart), 2), "real", 2, prior_only=True),
    hmm_row(
        "map-tied", lambda s: hmm(s, with_prior(gaussian_emission(2, "tied"), wishart), 2), "real", 2, prior_only=True
    ),
    hmm_row(
        "map-diag",
        lambda s: hmm(s, with_prior(gaussian_emission(2, "diag"), inverse_gamma), 2),
        "real",
        2,
        prior_only=True,
    ),
    hmm_row(
        "map-spherical",
        lambda s: hmm(s, with_prior(gaussian_emission(2, "spherical"), inverse_gamma), 2),
        "real",
        2,
        common_scale=True,
        prior_only=True,
    ),
    hmm_row(
        "map-categorical",
        lambda s: hmm(s, with_prior(categorical_emission, lambda: ps.priors.Dirichlet(1.5)), 2),
        "symbol",
        1,
        n_symbols=4,
        prior_only=True,
    ),
    hmm_row(
        "map-bernoulli",
        lambda s: hmm(s, with_prior(bernoulli_emission, beta), 2),
        "binary",
        2,
        prior_only=True,
    ),
    hmm_row("map-poisson", lambda s: hmm(s, with_prior(poisson_emission, gamma), 2), "count", 2, prior_only=True),
    hmm_row(
        "map-negative-binomial",
        lambda s: hmm(s, with_prior(negative_binomial_emission, gamma), 2),
        "count",
        2,
        prior_only=True,
    ),
    hmm_row("inputs", lambda s: chain(s, gaussian_emission(1), input_dim=2), "real", 1, input_dim=2),
    hmm_row(
        "inputs-tied-prior",
        lambda s: chain(s, categorical_emission, input_dim=1, tied_rows=[0, 1, 0], transition_prior=1.5),
        "symbol",
        1,
        input_dim=1,
        n_symbols=4,
    ),
    hmm_row("regression-full", lambda s: hmm(s, regression_emission(2)), "real", 2, input_dim=2),
    hmm_row("regression-diag", lambda s: hmm(s, regression_emission(2, "diag")), "real", 2, input_dim=2),
    hmm_row("all-driven", lambda s: chain(s, regression_emission(1), input_dim=2), "real", 1, input_dim=2),
    hmm_row("product-driven", lambda s: hmm(s, mixed_driven_emission), "mixed", 2, input_dim=1, n_symbols=4),
    windowed_row("autoregressive-1", lambda s: hmm(s, autoregressive_emission(1, 1, "diag")), 1),
    windowed_row("autoregressive-2", lambda s: hmm(s, autoregressive_emission(2, 2), 2), 2),
    hmm_row("torch-gamma", lambda s: hmm(s, gamma_emission), "positive", 2),
    hmm_row("torch-gumbel", lambda s: hmm(s, gumbel_emission, 2), "real", 2),
    hmm_row("torch-dirichlet", lambda s: hmm(s, dirichlet_emission, 2), "parts", 3),
    hmm_row("one-state", lambda s: hmm(s, gaussian_emission(2, "full"), 1), "real", 2),
]


# ------------------------------------------------------------------------------------- hidden semi-Markov models


def hsmm(seed: int, emission: Callable[[np.random.Generator, int], Any], duration: str, n_states: int = 3) -> ps.HSMM:
    """Durations up to 4 or 9 steps: shorter and longer than the sequences of the laws."""
    rng = np.random.default_rng([seed, 11])
    jumps = zero_diagonal(rng, n_states)
    means, shapes = rng.uniform(0.5, 3.0, size=n_states), rng.uniform(0.5, 4.0, size=n_states)
    made: dict[str, Callable[[], Any]] = {
        "table": lambda: ps.durations.Table(probs=simplex(rng, n_states, 4)),
        "poisson": lambda: ps.durations.Poisson(9, rates=means),
        "negative": lambda: ps.durations.NegativeBinomial(4, means=means, shapes=shapes),
    }
    start = simplex(rng, n_states)
    return ps.HSMM(
        emission=emission(rng, n_states), duration=made[duration](), initial_probs=start, transition_matrix=jumps
    )


def zero_diagonal(rng: np.random.Generator, k: int) -> np.ndarray:
    """Transition probabilities between different states; [[1]] for one state."""
    weights = (rng.gamma(2.0, size=(k, k)) + 0.1) * (1 - np.eye(k) if k > 1 else 1)
    return weights / weights.sum(-1, keepdims=True)


def permute_segments(model: Any, order: list[int]) -> ps.HSMM:
    """The same HSMM with state i called order^-1(i)."""
    parts = []
    for part in (model.emission, model.duration):
        values = {name: reference.array(getattr(part, name))[order] for name in part.params()}
        options = {"covariance": part.covariance} if isinstance(part, ps.emissions.Gaussian) else {}
        options |= {"max_duration": part.max_duration} if isinstance(part, ps.durations.Duration) else {}
        parts.append(type(part)(**values, **options))
    return ps.HSMM(
        emission=parts[0],
        duration=parts[1],
        initial_probs=reference.array(model.initial_probs)[order],
        transition_matrix=reference.array(model.transition_matrix)[np.ix_(order, order)],
    )


def hsmm_row(name: str, make: Callable[[int], Any], kind: Kind, dim: int, **traits: Any) -> Row:
    row = hmm_row(name, make, kind, dim, **traits)
    return replace(row, name=f"hsmm-{name}", relabel=permute_segments)


HSMM_ROWS = [
    hsmm_row("gaussian-table", lambda s: hsmm(s, gaussian_emission(2, "full"), "table"), "real", 2),
    hsmm_row("gaussian-negative", lambda s: hsmm(s, gaussian_emission(1), "negative", 2), "real", 1),
    hsmm_row("categorical-poisson", lambda s: hsmm(s, categorical_emission, "poisson"), "symbol", 1, n_symbols=4),
    hsmm_row("poisson-negative", lambda s: hsmm(s, poisson_emission, "negative"), "count", 2),
    hsmm_row("regression", lambda s: hsmm(s, regression_emission(1), "table", 2), "real", 1, input_dim=2),
    hsmm_row("one-state", lambda s: hsmm(s, gaussian_emission(2, "full"), "poisson", 1), "real", 2),
]


# ---------------------------------------------------------------------------------------- linear Gaussian models


def lds_parts(seed: int, n: int, m: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, 3])
    return {
        "transition_matrix": 0.9 * rotation(rng, n),
        "transition_cov": 0.5 * covariance(rng, n),
        "emission_matrix": rng.normal(size=(m, n)),
        "emission_cov": 0.5 * covariance(rng, m),
        "initial_mean": rng.normal(size=n),
        "initial_cov": covariance(rng, n),
    }


def lds_inputs(seed: int) -> ps.LDS:
    rng = np.random.default_rng([seed, 4])
    drives = {"transition_input_matrix": rng.normal(size=(2, 1)), "emission_input_matrix": rng.normal(size=(1, 1))}
    return ps.LDS(**lds_parts(seed, 2, 1), **drives)


def lds_singular(seed: int) -> ps.LDS:
    """Noise enters along one direction of two, as in every structural model."""
    direction = np.random.default_rng([seed, 5]).normal(size=(2, 1))
    return ps.LDS(**{**lds_parts(seed, 2, 1), "transition_cov": direction @ direction.T})


def lds_restricted(seed: int) -> ps.LDS:
    """Structured covariances, a stable transition and a prior at once."""
    rng = np.random.default_rng([seed, 12])
    parts = lds_parts(seed, 2, 1)
    parts |= {"transition_cov": np.diag(rng.uniform(0.2, 1.0, size=2)), "emission_matrix": [[1.0, rng.normal()]]}
    return ps.LDS(
        **parts,
        transition_covariance="diag",
        emission_covariance="spherical",
        stable=True,
        priors={"transition_matrix": ps.priors.Normal(0.0, 0.5)},
    )


def lds_offsets(seed: int) -> ps.LDS:
    rng = np.random.default_rng([seed, 6])
    offsets = {"transition_offset": rng.normal(size=2), "emission_offset": 3 * rng.normal(size=3)}
    return ps.LDS(**lds_parts(seed, 2, 3), **offsets)


def noiseless_walk(seed: int) -> ps.LDS:
    """A random walk that is seen exactly."""
    rng = np.random.default_rng([seed, 7])
    q, p = rng.uniform(0.5, 2.0, size=2)
    return ps.LDS(
        transition_matrix=[[1.0]],
        transition_cov=[[q]],
        emission_matrix=[[1.0]],
        emission_cov=[[0.0]],
        initial_mean=[rng.normal()],
        initial_cov=[[p]],
    )


def diffuse_level(seed: int) -> ps.LDS:
    """A random walk seen with noise, of which nothing is known before."""
    q, r = np.random.default_rng([seed, 12]).uniform(0.5, 2.0, size=2)
    one = [[1.0]]
    return ps.LDS(
        transition_matrix=one, transition_cov=[[q]], emission_matrix=one, emission_cov=[[r]], initial="diffuse"
    )


def diffuse_trend(seed: int) -> ps.LDS:
    """A local linear trend, of which nothing is known, and a stationary cycle, seen together and apart."""
    rng = np.random.default_rng([seed, 13])
    matrix, noise = np.eye(3), np.zeros((3, 3))
    matrix[0, 1], matrix[2, 2] = 1.0, rng.uniform(0.3, 0.9)
    noise[0, 0], noise[2, 2] = rng.uniform(0.5, 2.0, size=2)
    return ps.LDS(
        transition_matrix=matrix,
        transition_cov=noise,
        emission_matrix=[[1.0, 0.0, 1.0], [0.0, 0.5, -1.0]],
        emission_cov=0.5 * covariance(rng, 2),
        initial="stationary",
        initial_diffuse=[True, True, False],
    )


def lds_varying(seed: int) -> ps.LDS:
    """Everything varies, over 21 steps; the length of the time axis says so, not a shape that it happens to have."""
    rng, steps = np.random.default_rng([seed, 14]), 21
    return ps.LDS(
        transition_matrix=0.5 * rng.normal(size=(steps, 2, 2)),
        transition_cov=covariance(rng, 2, steps),
        emission_matrix=rng.normal(size=(steps, 2, 2)),
        emission_cov=covariance(rng, 2, steps),
        transition_offset=rng.normal(size=(steps, 2)),
        emission_offset=rng.normal(size=(steps, 2)),
        initial_mean=rng.normal(size=2),
        initial_cov=covariance(rng, 2),
    )


def lds_regression(seed: int) -> ps.LDS:
    """Coefficients that stand still and of which nothing is known, seen through a known row for every step."""
    rng = np.random.default_rng([seed, 15])
    return ps.LDS(
        transition_matrix=np.eye(2),
        transition_cov=np.zeros((2, 2)),
        emission_matrix=rng.normal(size=(21, 1, 2)),
        emission_cov=[[rng.uniform(0.5, 2.0)]],
        initial="diffuse",
    )


def quarterly(seed: int) -> ps.Structural:
    """A level, four seasons and a regressor whose coefficient nobody knows."""
    values = np.random.default_rng([seed, 16]).uniform(0.3, 2.0, size=3)
    names = ("level_var", "seasonal_var", "emission_var")
    return ps.Structural(seasonal=4, regressors=1, **dict(zip(names, values, strict=True)))


def regression_twin(model: Any, steps: int, u: Tensor | None) -> ps.LDS:
    """The model of `quarterly` with the textbook's matrices, the regressor in the emission matrix of its step."""
    matrix = np.zeros((5, 5))
    matrix[0, 0] = matrix[4, 4] = matrix[2, 1] = matrix[3, 2] = 1.0
    matrix[1, 1:4] = -1.0
    emission = np.zeros((steps, 1, 5))
    emission[:, 0, :2] = 1.0
    emission[:, :, 4] = reference.array(u)
    unit = model.unit.item()
    noise = [model.level_var.item(), model.seasonal_var.item(), 0.0, 0.0, 0.0]
    return ps.LDS(
        transition_matrix=matrix,
        transition_cov=np.diag(noise) / unit**2,
        emission_matrix=unit * emission,
        emission_cov=reference.array(model.emission_var).reshape(1, 1),
        emission_offset=model.origin,
        initial="diffuse",
    )


def lds_stationary(seed: int) -> ps.LDS:
    parts = {name: value for name, value in lds_parts(seed, 2, 2).items() if not name.startswith("initial")}
    return ps.LDS(**parts, initial="stationary", transition_offset=[0.5, -0.2])


def ar(seed: int, order: int, dim: int, radius: float = 0.8) -> ps.AR:
    """Random taps, scaled so that the companion matrix has the given spectral radius."""
    rng = np.random.default_rng([seed, 8])
    taps = rng.normal(size=(order, dim, dim))
    companion = np.zeros((order * dim, order * dim))
    companion[:dim] = np.concatenate(list(taps), axis=1)
    companion[dim:, :-dim] = np.eye((order - 1) * dim)
    shrink = radius / np.abs(np.linalg.eigvals(companion)).max()
    taps = taps * shrink ** np.arange(1, order + 1)[:, None, None]  # scales every eigenvalue by `shrink`
    window = order * dim
    fitted = {} if radius < 1 else {"initial_mean": rng.normal(size=window), "initial_cov": covariance(rng, window)}
    return ps.AR(
        transition_matrices=taps, transition_offset=rng.normal(size=dim), transition_cov=covariance(rng, dim), **fitted
    )


def linear_row(name: str, make: Callable[[int], Any], dim: int, **traits: Any) -> Row:
    given: dict[str, Any] = {"fit_methods": ("em", "gradient"), **traits}
    given.update(marginalises=True, latent=True, oracle="dense", compiled=True)
    return Row(name=name, make=make, kind="real", dim=dim, **given)


def ar_row(name: str, make: Callable[[int], Any], dim: int) -> Row:
    methods = ("gradient", "least_squares")
    return linear_row(name, make, dim, belief_unit="data", path_density=False, fit_methods=methods)


LINEAR_ROWS = [
    linear_row("lds-plain", lambda s: ps.LDS(**lds_parts(s, 2, 1)), 1),
    linear_row("lds-inputs", lds_inputs, 1, input_dim=1),
    linear_row("lds-singular", lds_singular, 1, path_density=False),
    linear_row("lds-offsets", lds_offsets, 3),
    linear_row("lds-restricted", lds_restricted, 1),
    linear_row("lds-noiseless-walk", noiseless_walk, 1, path_density=False),
    linear_row("lds-diffuse-level", diffuse_level, 1, improper=True),
    linear_row("lds-diffuse-trend", diffuse_trend, 2, improper=True, path_density=False, fit_methods=("gradient",)),
    linear_row("lds-square-root", lambda s: ps.LDS(**lds_parts(s, 2, 2), numerics="square_root"), 2),
    linear_row("lds-varying", lds_varying, 2, fit_methods=()),
    linear_row("lds-regression", lds_regression, 1, improper=True, path_density=False, fit_methods=()),
    linear_row(
        "structural-quarterly",
        quarterly,
        1,
        input_dim=1,
        improper=True,
        diffuse_in_unit=5,
        path_density=False,
        fit_methods=("gradient",),
    ),
    linear_row("lds-stationary", lds_stationary, 2, fit_methods=("gradient",)),
    ar_row("ar-1", lambda s: ar(s, 1, 1), 1),
    ar_row("ar-2", lambda s: ar(s, 2, 1), 1),
    ar_row("ar-vector", lambda s: ar(s, 2, 2), 2),
    ar_row("ar-unstable", lambda s: ar(s, 2, 1, radius=1.1), 1),
]


# ------------------------------------------------------------------------------- nonlinear models, and particles


class Affine(ps.StateFunction):
    """matrix z + input_matrix u"""

    def __init__(self, rows: int, columns: int, inputs: int = 0) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.eye(rows, columns, dtype=torch.float64))
        self.input_matrix = torch.nn.Parameter(torch.zeros(rows, inputs, dtype=torch.float64))

    def sizes(self) -> dict[str, Any]:
        return dict(zip(("rows", "columns", "inputs"), (*self.matrix.shape, self.input_matrix.shape[1]), strict=True))

    def forward(self, z: Tensor, u: Tensor | None = None) -> Tensor:
        return z @ self.matrix.mT if u is None else z @ self.matrix.mT + u @ self.input_matrix.mT


class Swing(ps.StateFunction):
    """One Euler step of a pendulum, state (angle, velocity)."""

    def __init__(self, step: float = 0.3) -> None:
        super().__init__()
        self.step = step
        self.gravity = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def sizes(self) -> dict[str, Any]:
        return {"step": self.step}

    def forward(self, z: Tensor) -> Tensor:
        angle, velocity = z.unbind(-1)
        return torch.stack([angle + self.step * velocity, velocity - self.step * self.gravity * angle.sin()], -1)


class Shadow(ps.StateFunction):
    """What a camera below sees of the pendulum, and a speedometer."""

    def forward(self, z: Tensor) -> Tensor:
        angle, velocity = z.unbind(-1)
        return torch.stack([angle.sin(), velocity + 0.3 * velocity.square()], -1)


def affine(matrix: Any, input_matrix: Any = None) -> Affine:
    function = Affine(*matrix.shape, 0 if input_matrix is None else input_matrix.shape[1])
    with torch.no_grad():
        function.matrix.copy_(torch.as_tensor(matrix))
        if input_matrix is not None:
            function.input_matrix.copy_(torch.as_tensor(input_matrix))
    return function


def linear_in_disguise(lds: ps.LDS, linearize: Any) -> ps.NonlinearGaussian:
    """A linear dynamical system as two functions that happen to be affine."""
    names = ("transition_cov", "emission_cov", "initial_mean", "initial_cov")
    drives = (lds.transition_input_matrix, lds.emission_input_matrix) if lds.input_dim else (None, None)
    with torch.no_grad():
        return ps.NonlinearGaussian(
            transition=affine(lds.transition_matrix, drives[0]),
            emission=affine(lds.emission_matrix, drives[1]),
            linearize=linearize,
            input_dim=lds.input_dim,
            **{name: getattr(lds, name) for name in names},
        )


def linear_twin(model: Any) -> ps.LDS:
    """The linear dynamical system that a model of affine functions is."""
    scale = model.emission_scale.unsqueeze(-1)
    with torch.no_grad():
        return ps.LDS(
            transition_matrix=model.transition.matrix,
            transition_input_matrix=model.transition.input_matrix,
            emission_matrix=scale * model.emission.matrix,
            emission_input_matrix=scale * model.emission.input_matrix,
            emission_offset=model.emission_shift,
            **{
                name: getattr(model, name) for name in ("transition_cov", "emission_cov", "initial_mean", "initial_cov")
            },
        )


def pendulum(seed: int, linearize: Any) -> ps.NonlinearGaussian:
    rng = np.random.default_rng([seed, 12])
    return ps.NonlinearGaussian(
        transition=Swing(),
        emission=Shadow(),
        transition_cov=0.1 * covariance(rng, 2),
        emission_cov=0.5 * covariance(rng, 2),
        initial_mean=rng.normal(size=2),
        initial_cov=covariance(rng, 2),
        linearize=linearize,
    )


def cubature_rule(model: Any, belief: Any, y: Tensor, observed: Tensor) -> Any:
    """The textbook's update with covariances, on the observed coordinates alone."""
    mean, cov = reference.array(belief.mean), reference.array(belief.cov)
    arms = np.sqrt(2) * np.linalg.cholesky(cov).T
    points = mean + np.concatenate([arms, -arms])
    seen = observed.numpy()
    values = reference.array(model.observe(torch.as_tensor(points)))[:, seen]
    said = values.mean(0)
    inner = (values - said).T @ (values - said) / 4 + reference.array(model.emission_cov)[np.ix_(seen, seen)]
    cross = (points - mean).T @ (values - said) / 4
    gain = np.linalg.solve(inner, cross.T).T if seen.any() else np.zeros((2, 0))
    moved = mean + gain @ (y.numpy()[seen] - said)
    return type(belief)(torch.as_tensor(moved), torch.as_tensor(cov - gain @ inner @ gain.T))


def nonlinear_row(name: str, make: Callable[[int], Any], dim: int, **traits: Any) -> Row:
    fixed: dict[str, Any] = {"likelihood_kind": "approximate", "latent": True, "fit_methods": ("gradient",)}
    return Row(f"nonlinear-{name}", make, "real", dim, own_unit=True, **{**fixed, **traits})


def disguised_row(name: str, make: Callable[[int], Any], linearize: Any, dim: int, **traits: Any) -> Row:
    traits = {"marginalises": True, "oracle": "dense", **traits}
    return nonlinear_row(f"linear-{name}", lambda s: linear_in_disguise(make(s), linearize), dim, **traits)


NONLINEAR_ROWS = [
    disguised_row("unscented-inputs", lds_inputs, ps.UnscentedTransform(), 1, input_dim=1),
    disguised_row("extended-singular", lds_singular, ps.ExtendedKalman(), 1, path_density=False),
    disguised_row("cubature", lambda s: ps.LDS(**lds_parts(s, 3, 2)), ps.Cubature(), 2),
    nonlinear_row("pendulum-cubature", lambda s: pendulum(s, ps.Cubature()), 2, missing_rule=cubature_rule),
    nonlinear_row("pendulum-iterated", lambda s: pendulum(s, ps.ExtendedKalman(iterations=2)), 2),
]


def bootstrap(seed: int) -> ps.ParticleFilter:
    return ps.ParticleFilter(pendulum(seed, ps.UnscentedTransform()), 16, ess_threshold=0.8, seed=seed)


def guided(seed: int) -> ps.ParticleFilter:
    return ps.ParticleFilter(lds_inputs(seed), 16, proposal="guided", resampling="stratified", seed=seed)


def reweighting_rule(model: Any, belief: Any, y: Tensor, observed: Tensor) -> Any:
    """Particles stay where they are; what was observed of y weighs them."""
    seen = observed.numpy()
    means = reference.array(model.model.observe(belief.values))[:, seen]
    cov = reference.array(model.model.emission_cov)[np.ix_(seen, seen)]
    scores = np.array([reference.log_normal(y.numpy()[seen], mean, cov) if seen.any() else 0.0 for mean in means])
    total = reference.array(belief.log_weights) + scores
    return belief._replace(log_weights=torch.as_tensor(total - np.logaddexp.reduce(total)), origins=None)


PARTICLE_ROWS = [
    Row(
        "particles-bootstrap",
        bootstrap,
        "real",
        2,
        likelihood_kind="estimate",
        missing_rule=reweighting_rule,
        differentiable=False,
    ),
    Row("particles-guided", guided, "real", 1, 1, likelihood_kind="estimate", differentiable=False),
]


# ------------------------------------------------------------------------------------------- switching dynamics


def switching_parts(seed: int, k: int, n: int, m: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, 31])
    return {
        "initial_probs": simplex(rng, k),
        "regime_transition_matrix": simplex(rng, k, k),
        "transition_matrices": np.stack([0.9 * rotation(rng, n) for _ in range(k)]),
        "transition_offsets": rng.normal(size=(k, n)),
        "transition_covs": 0.5 * covariance(rng, n, k),
        "emission_matrices": rng.normal(size=(m, n)),
        "emission_offsets": rng.normal(size=m),
        "emission_covs": 0.5 * covariance(rng, m),
        "initial_mean": rng.normal(size=n),
        "initial_cov": covariance(rng, n),
    }


def switching(seed: int, k: int = 2, n: int = 2, m: int = 2, **options: Any) -> ps.SwitchingLDS:
    return ps.SwitchingLDS(**switching_parts(seed, k, n, m), **options)


def switching_sensors(seed: int) -> ps.SwitchingLDS:
    """The regimes differ in what they show, too."""
    rng, parts = np.random.default_rng([seed, 32]), switching_parts(seed, 2, 2, 1)
    parts |= {"emission_matrices": rng.normal(size=(2, 1, 2)), "emission_offsets": rng.normal(size=(2, 1))}
    parts |= {"emission_covs": covariance(rng, 1, 2)}
    return ps.SwitchingLDS(**parts, shared_emission=False, filtering="gpb2")


def switching_recurrent(seed: int) -> ps.SwitchingLDS:
    weights = np.random.default_rng([seed, 33]).normal(size=(2, 2, 2))
    return switching(seed, 2, 2, 1, recurrent_weights=weights)


def switching_counts(seed: int, k: int = 2, n: int = 2, m: int = 2, **options: Any) -> ps.SwitchingLDS:
    """Counts; the log-rates move by about one."""
    parts = switching_parts(seed, k, n, m)
    del parts["emission_covs"]
    parts |= {"emission_matrices": 0.4 * parts["emission_matrices"]}
    return ps.SwitchingLDS(**parts, emission="poisson", **options)


def components_rule(model: Any, belief: Any, y: Tensor, observed: Tensor) -> Any:
    """Every component by the textbook's update on the observed coordinates, then pairs of the same end together."""
    k, seen = model.n_regimes, observed.numpy()
    weights, means, covs = (
        reference.array(x) for x in (belief.log_weights, belief.components.mean, belief.components.cov)
    )
    emission, level, noise = (
        reference.array(x)[:, seen] for x in (model.emission_matrices, model.emission_offsets, model.emission_covs)
    )
    scores, new_means, new_covs = weights.copy(), means.copy(), covs.copy()
    for c in range(len(weights)) if seen.any() else ():
        matrix, r = emission[c % k], noise[c % k][:, seen]
        said, spread = matrix @ means[c] + level[c % k], matrix @ covs[c] @ matrix.T + r
        gain = np.linalg.solve(spread, matrix @ covs[c]).T
        scores[c] += reference.log_normal(y.numpy()[seen], said, spread)
        new_means[c] = means[c] + gain @ (y.numpy()[seen] - said)
        new_covs[c] = covs[c] - gain @ spread @ gain.T
    scores -= np.logaddexp.reduce(scores)
    groups = [np.arange(j, len(scores), k) for j in range(k)]
    totals = np.array([np.logaddexp.reduce(scores[g]) for g in groups])
    shares = [np.exp(scores[g] - total) for g, total in zip(groups, totals, strict=True)]
    centres = [share @ new_means[g] for g, share in zip(groups, shares, strict=True)]
    spreads = [
        sum(w * (new_covs[c] + np.outer(new_means[c] - m, new_means[c] - m)) for c, w in zip(g, share, strict=True))
        for g, share, m in zip(groups, shares, centres, strict=True)
    ]
    made = ps.beliefs.Gaussian(torch.as_tensor(np.stack(centres)), torch.as_tensor(np.stack(spreads)))
    return ps.beliefs.Mixture(torch.as_tensor(totals), made)


def switching_row(name: str, make: Callable[[int], Any], dim: int, **traits: Any) -> Row:
    given: dict[str, Any] = {"likelihood_kind": "approximate", "latent": True, "missing_rule": components_rule}
    given |= {"fit_methods": ("variational_em",)}
    return Row(f"switching-{name}", make, "real", dim, **{**given, **traits})


def switching_ar(seed: int, k: int, dim: int, order: int) -> ps.SwitchingAR:
    rng = np.random.default_rng([seed, 34])
    return ps.SwitchingAR(
        initial_probs=simplex(rng, k),
        transition_matrix=simplex(rng, k, k),
        coefficients=rng.normal(size=(k, order, dim, dim)) / (2 * order * dim),
        intercepts=rng.normal(size=(k, dim)),
        covs=covariance(rng, dim, k),
        initial_window=rng.normal(size=(order, dim)),
    )


SWITCHING_ROWS = [
    replace(windowed_row("ar", lambda s: switching_ar(s, 2, 2, 2), 2), name="switching-ar"),
    switching_row("imm", lambda s: switching(s, 3), 2),
    switching_row("gpb2", lambda s: switching(s, filtering="gpb2"), 2, fit_methods=()),
    switching_row("sensors", switching_sensors, 1),
    switching_row("recurrent", switching_recurrent, 1, missing_rule=None, fit_methods=()),
    replace(
        switching_row("poisson", switching_counts, 2, missing_rule=None, fit_methods=(), normalised=False), kind="count"
    ),
    switching_row("one-regime", lambda s: switching(s, 1), 2, fit_methods=("gradient",)),
]


# -------------------------------------------------------------------------------------------- recurrent networks

CELLS: dict[str, Callable[[], Any]] = {
    "elman": lambda: ps.cells.Elman(2),
    "gru": lambda: ps.cells.GRU(2),
    "lstm": lambda: ps.cells.LSTM(2),
}
MORE_CELLS: dict[str, Callable[[], Any]] = {
    "peephole": lambda: ps.cells.LSTM(2, peepholes=True),
    "projected": lambda: ps.cells.LSTM(3, coupled=True, projection_size=2),
    "gate-recurrent": lambda: ps.cells.LSTM(2, peepholes=True, full_gate_recurrence=True),
    "gateless": lambda: ps.cells.LSTM(2, input_gate=False, output_gate=False, output_activation=False),
    "min-gru": lambda: ps.cells.MinGRU(2),
    "min-lstm": lambda: ps.cells.MinLSTM(2),
    "linear-modes": lambda: ps.cells.LRU(2),
    "stack": lambda: ps.cells.Stack([ps.cells.LSTM(2, peepholes=True), ps.cells.Elman(2)], skip=True, dropout=0.5),
    "logistic": lambda: ps.cells.Elman(2, "logistic"),
    "normalised": lambda: ps.cells.LSTM(3, peepholes=True, layer_norm=True),
    "reservoir": lambda: ps.cells.Reservoir(3, leak=0.7),
    "echo-state": lambda: ps.cells.Elman(3, initialization=ps.cells.EchoStateInit(1.1, fan_in=2, input_scale=0.5)),
}
CLAMPED_CELLS: dict[str, Callable[[], Any]] = {
    "clamped": lambda: ps.cells.Clamped(ps.cells.LSTM(2), units=[0, 3]),
    "given-start": lambda: ps.cells.Clamped(ps.cells.GRU(3), units=[0, 1, 2], at="start"),
}


FILTER_CELLS: dict[str, Callable[[], Any]] = {
    "kalman": lambda: ps.cells.Kalman(2, 2),
    "multiplicative": lambda: ps.cells.Multiplicative(3),
}


def rnn(seed: int, cell: str, head: Any, obs_dim: int, **options: Any) -> ps.RNN:
    """Weights large enough that the output depends on the past; unit-free data are shifted and scaled."""
    model = ps.RNN(
        obs_dim,
        cell={**CELLS, **MORE_CELLS, **CLAMPED_CELLS, **FILTER_CELLS}[cell](),
        head=head,
        dtype=torch.float64,
        seed=seed,
        **options,
    )
    rng = np.random.default_rng([seed, 9])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.as_tensor(0.4 * rng.normal(size=tuple(parameter.shape))))
        if model.real_valued:
            model.head.standardise(torch.full((obs_dim,), 0.3).double(), torch.full((obs_dim,), 1.5).double())
    model.started = True
    return model


def expected_input_rule(model: Any, belief: Point, y: Tensor, observed: Tensor) -> Point:
    """Feed back the expectation of what was not seen: means (standardised), or probabilities."""
    if not model.feedback:
        return Point(belief.state, belief.previous)
    return Point(belief.state, expected_row(model, model.emit(belief), y, observed))


def expected_row(model: Any, said: Distribution, y: Tensor, observed: Tensor) -> Tensor:
    """What a network reads of a row that was not all seen."""
    if isinstance(model.head, ps.heads.StateMixture):
        return torch.where(observed.all(-1, keepdim=True), model.head.encode(y), 0.0)
    if isinstance(model.head, ps.heads.Categorical):
        one_hot = torch.nn.functional.one_hot(y.squeeze(-1).long(), model.head.n_symbols).double()
        return torch.where(observed, one_hot, said.base_dist.probs.squeeze(-2))  # type: ignore[attr-defined]
    return (torch.where(observed, y, said.mean) - model.head.shift) / model.head.scale


def rnn_row(
    name: str, cell: str, head: Callable[[], Any], kind: Kind, dim: int, n_symbols: int = 0, **options: Any
) -> Row:
    return Row(
        name=f"rnn-{cell}-{name}",
        make=lambda s: rnn(s, cell, head(), dim, **options),
        kind=kind,
        dim=dim,
        input_dim=int(options.get("input_dim", 0)),
        n_symbols=n_symbols,
        missing_rule=expected_input_rule,
        fit_methods=("gradient",),
    )


def three_states() -> Any:
    return ps.heads.StateMixture(ps.emissions.Gaussian(means=[[-0.5], [0.0], [0.7]], covs=[[[1.0]], [[0.8]], [[0.9]]]))


def strokes() -> Any:
    return ps.heads.Product([ps.heads.MixtureDensity(2), ps.heads.Bernoulli()], [1, 1])


RNN_ROWS = [
    *(rnn_row("gaussian-diag", cell, lambda: ps.heads.Gaussian(), "real", 2) for cell in CELLS),
    *(rnn_row("gaussian-full", cell, lambda: ps.heads.Gaussian("full"), "real", 2) for cell in ("elman", "gru")),
    *(rnn_row("categorical", cell, lambda: ps.heads.Categorical(3), "symbol", 1, 3) for cell in ("elman", "lstm")),
    *(rnn_row("bernoulli", cell, lambda: ps.heads.Bernoulli(), "binary", 2) for cell in ("elman", "gru")),
    *(rnn_row("gaussian-diag", cell, lambda: ps.heads.Gaussian(), "real", 1) for cell in MORE_CELLS),
    rnn_row("gaussian-full", "kalman", lambda: ps.heads.Gaussian("full"), "real", 2),
    rnn_row("states", "multiplicative", three_states, "real", 1),
    rnn_row("student", "elman", lambda: ps.heads.StudentT(), "real", 1),
    rnn_row("mixture-diag", "elman", lambda: ps.heads.MixtureDensity(2), "real", 1),
    rnn_row("mixture-full", "elman", lambda: ps.heads.MixtureDensity(2, "full"), "real", 2),
    rnn_row("bernoullis", "elman", lambda: ps.heads.MixtureOfBernoullis(2), "binary", 2),
    rnn_row("poisson", "elman", lambda: ps.heads.Poisson(), "count", 1),
    rnn_row("pen", "elman", strokes, "mixed", 2, 2),
    rnn_row("transducer", "clamped", lambda: ps.heads.Gaussian(), "real", 1, input_dim=3, feedback=False),
    rnn_row("gaussian-diag", "given-start", lambda: ps.heads.Gaussian(), "real", 1, input_dim=4),
    rnn_row("features", "lstm", lambda: ps.heads.Gaussian(), "real", 1, input_dim=2, start_from_inputs=True),
    rnn_row("inputs", "gru", lambda: ps.heads.Gaussian(), "real", 1, input_dim=2),
    rnn_row("transducer", "lstm", lambda: ps.heads.Gaussian(), "real", 1, input_dim=2, feedback=False),
]


@dataclass(frozen=True)
class WritingRow(Row):
    """Pens that write a text, which is given at every step."""

    def data(self, seed: int, steps: int, batch: tuple[int, ...] = ()) -> Data:
        rng = np.random.default_rng([seed, 17])
        shape = (*batch, steps, 1)
        y = np.concatenate([rng.normal(size=(*batch, steps, 2)) + 0.3, rng.integers(0, 2, size=shape)], -1)
        text = rng.integers(1, 4, size=(*batch, 1, self.input_dim)).astype(float)
        text[..., 2:] *= rng.integers(0, 2, size=(*batch, 1, 1))
        return torch.as_tensor(y), torch.as_tensor(np.repeat(text, steps, axis=-2))


def writer(seed: int) -> ps.RNN:
    """Weights large enough that the window moves along the text and what it shows matters."""
    model = synthesis_network("abc", [3, 2], 2, 2, most_characters=4, pace=0.5, dtype=torch.float64, seed=seed)
    rng = np.random.default_rng([seed, 9])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.as_tensor(0.3 * rng.normal(size=tuple(parameter.shape))))
    model.started = True
    return model


RNN_ROWS.append(
    WritingRow(
        "rnn-soft-window",
        writer,
        "mixed",
        3,
        4,
        2,
        missing_rule=expected_input_rule,
        fit_methods=("gradient",),
    )
)


# ------------------------------------------------------------------------------------------- echo state networks


def echo_state(seed: int, dim: int, **options: Any) -> ps.EchoState:
    """A readout that was not fitted, with weights that are not known well."""
    model = ps.EchoState(3, obs_dim=dim, leak=0.8, input_scaling=0.7, seed=seed, **options)
    rng = np.random.default_rng([seed, 12])
    size = model.feature_dim
    model.assign(
        readout_matrix=0.4 * rng.normal(size=(dim, size)),
        noise_cov=covariance(rng, dim),
        washout_mean=rng.normal(size=dim),
        washout_cov=covariance(rng, dim),
    )
    model.readout_root.copy_(torch.as_tensor(0.3 * rng.normal(size=(size, size))))
    return model.rescale(1.5, 0.3)


def echo_rule(model: Any, belief: Point, y: Tensor, observed: Tensor) -> Point:
    """Feed back the mean, standardised."""
    if not model.feedback:
        return belief
    filled = torch.where(observed, y, model.emit(belief).mean)
    return Point(belief.state, (filled - model.shift) / model.scale, belief.step)


def echo_row(name: str, dim: int, **options: Any) -> Row:
    return Row(
        name=f"echo-{name}",
        make=lambda s: echo_state(s, dim, **options),
        kind="real",
        dim=dim,
        input_dim=int(options.get("input_dim", 0)),
        missing_rule=echo_rule,
        fit_methods=("ridge",),
    )


ECHO_ROWS = [
    echo_row("feedback", 2, washout=2, feedback_noise=0.01, state_noise=0.01),
    echo_row("transducer", 1, washout=0, input_dim=2, feedback=False, squares=True),
]


# ------------------------------------------------------------------------------ feed-forward networks


def neural_ar(seed: int, order: int, head: Any, obs_dim: int, **options: Any) -> ps.NeuralAR:
    model = ps.NeuralAR(order, obs_dim, head=head, dtype=torch.float64, seed=seed, **options)
    rng = np.random.default_rng([seed, 13])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.as_tensor(0.4 * rng.normal(size=tuple(parameter.shape))))
        if model.real_valued:
            model.head.standardise(torch.full((obs_dim,), 0.3).double(), torch.full((obs_dim,), 1.5).double())
    model.started = True
    return model


def pushed_rule(model: Any, belief: Window, y: Tensor, observed: Tensor) -> Window:
    """The expectation of what was not seen goes into the window."""
    newest = expected_row(model, model.emit(belief), y, observed)
    return Window(torch.cat([newest.unsqueeze(0), belief.values[:-1]]))


def neural_row(name: str, order: int, head: Callable[[], Any], kind: Kind, dim: int, **options: Any) -> Row:
    return Row(
        name=f"neural-ar-{name}",
        make=lambda s: neural_ar(s, order, head(), dim, **options),
        kind=kind,
        dim=dim,
        input_dim=int(options.get("input_dim", 0)),
        n_symbols=3 if kind == "symbol" else 0,
        missing_rule=None if options.get("input_dim") else pushed_rule,
        fit_methods=("gradient",),
    )


NEURAL_ROWS = [
    neural_row("linear", 2, lambda: ps.heads.Gaussian("full"), "real", 2),
    neural_row("inputs", 2, lambda: ps.heads.Gaussian(), "real", 1, hidden=[3], direct=True, input_dim=2),
    neural_row("symbols", 2, lambda: ps.heads.Categorical(3), "symbol", 1, hidden=[3, 2], embedding_dim=2),
]


# ---------------------------------------------------------------------------------- stochastic recurrent networks


def stochastic(seed: int, family: str, head: Any, dim: int, **options: Any) -> Any:
    """A few particles that the transition moves; weights large enough that states matter."""
    own = {"transition_size": 3, "emission_layers": [3], "guide_size": 2}
    if family != "DeepMarkov":
        own = {"cell": ps.cells.GRU(2), "layers": [3]} | ({"guide_size": 2} if family == "SRNN" else {})
    shared = {"n_particles": 8, "proposal": "transition", "dtype": torch.float64, "seed": seed}
    model = getattr(ps, family)(2, dim, head=head, **own, **shared, **options)
    rng = np.random.default_rng([seed, 21])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.as_tensor(0.4 * rng.normal(size=tuple(parameter.shape))))
        if model.real_valued:
            model.head.standardise(torch.full((dim,), 0.3).double(), torch.full((dim,), 1.5).double())
    model.started = True
    return model


def cloud_rule(model: Any, belief: Any, y: Tensor, observed: Tensor) -> Any:
    """What was seen weighs the particles; a memory of y gets each particle's expectation of the rest."""
    z, memory = belief.values[:, :2], belief.values[:, 2:]
    said = model.head.distribution(model._features(z, memory, None))
    scores = torch.where(observed, said.base_dist.log_prob(y), 0.0).sum(-1)
    total = belief.log_weights + scores
    if isinstance(model, ps.SRNN):  # the head's marginal: what it says where its features are zero
        said = model.head.distribution(torch.zeros(8, model.head.hidden_size, dtype=torch.float64))
    if not isinstance(model, ps.DeepMarkov):
        memory = torch.cat([memory[:, : -model.width], expected_row(model, said, y, observed)], -1)
    return belief._replace(log_weights=total - total.logsumexp(-1), values=torch.cat([z, memory], -1))


def stochastic_row(family: str, name: str, head: Callable[[], Any], kind: Kind, dim: int, **options: Any) -> Row:
    return Row(
        name=f"{family.lower()}-{name}",
        make=lambda s: stochastic(s, family, head(), dim, **options),
        kind=kind,
        dim=dim,
        input_dim=int(options.get("input_dim", 0)),
        likelihood_kind="bound",
        missing_rule=None if options else cloud_rule,
        differentiable=False,
        fit_methods=() if options else ("gradient",),
    )


STOCHASTIC_ROWS = [
    stochastic_row("DeepMarkov", "gaussian", lambda: ps.heads.Gaussian(), "real", 1),
    stochastic_row("DeepMarkov", "bernoullis", lambda: ps.heads.MixtureOfBernoullis(2), "binary", 2, input_dim=1),
    stochastic_row("VRNN", "gaussian", lambda: ps.heads.Gaussian(), "real", 1),
    stochastic_row("VRNN", "mixture", lambda: ps.heads.MixtureDensity(2), "real", 1, input_dim=1),
    stochastic_row("SRNN", "bernoulli", lambda: ps.heads.Bernoulli(), "binary", 2),
]


# -------------------------------------------------------------------------------------------------- the newcomer


def poisson_gamma(seed: int) -> PoissonGamma:
    rng = np.random.default_rng([seed, 10])
    prior = {"initial_shape": rng.uniform(1, 5, size=1), "initial_rate": rng.uniform(0.5, 2, size=1)}
    return PoissonGamma(1, **prior, discount=rng.uniform(0.5, 0.95, size=1))


def unchanged_rule(model: Any, belief: Any, y: Tensor, observed: Tensor) -> Any:
    """A count that was not seen says nothing."""
    seen = observed.double()
    return type(belief)(belief.shape + seen * y, belief.rate + seen)


def stacked(seed: int) -> Stacked:
    """A level and a chain behind one belief."""
    rng = np.random.default_rng([seed, 29])
    chain = ps.HMM(
        initial_probs=simplex(rng, 2),
        transition_matrix=simplex(rng, 2, 2),
        emission=ps.emissions.Gaussian(means=rng.normal(size=(2, 1)), covs=covariance(rng, 1, 2)),
    )
    level = ps.LDS(
        transition_matrix=[[0.8]],
        transition_cov=covariance(rng, 1),
        emission_matrix=[[1.2]],
        emission_cov=covariance(rng, 1),
        initial_mean=rng.normal(size=1),
        initial_cov=covariance(rng, 1),
    )
    return Stacked([level, chain], weights=simplex(rng, 2))


def members_rule(model: Stacked, belief: Any, y: Tensor, observed: Tensor) -> Any:
    """Every member integrates the step out on its own."""
    pairs = zip(model.members, belief, strict=True)
    return type(belief)(*(member.update(own, y, observed)[0] for member, own in pairs))


ROWS: list[Row] = [
    *HMM_ROWS,
    *HSMM_ROWS,
    *LINEAR_ROWS,
    *NONLINEAR_ROWS,
    *PARTICLE_ROWS,
    *SWITCHING_ROWS,
    *RNN_ROWS,
    *ECHO_ROWS,
    *NEURAL_ROWS,
    *STOCHASTIC_ROWS,
    Row("poisson-gamma", poisson_gamma, "count", missing_rule=unchanged_rule, fit_methods=("gradient",)),
    Row("stacked", stacked, "real", missing_rule=members_rule),
]
