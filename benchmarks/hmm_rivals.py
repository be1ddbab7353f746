"""The same hidden Markov model in our words and in those of hmmlearn, dynamax, pomegranate and Pyro.

A rival is a table of calls on a container prepared beforehand; a call that a library does not have is left out. The
chain starts from its stationary law, so that Pyro, which moves once before the first observation, has the same model.

| operation      | returns                                                                      |
|----------------|------------------------------------------------------------------------------|
| log-likelihood | log p(y), (sequences,) or their sum                                          |
| posterior      | p(z_t given y), (steps of all sequences, K)                                  |
| Viterbi        | the most probable path, (steps of all sequences,)                            |
| EM iteration   | initial and transition probabilities, means (or symbol probabilities) after  |
| gradient       | the value, with the gradient in all parameters computed                      |
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

import probseq as ps

Calls = dict[str, Callable[[], Any]]
OPERATIONS = ("log-likelihood", "posterior", "Viterbi", "EM iteration", "gradient")
N_SYMBOLS = 16


class Problem(NamedTuple):
    """Parameters and data (sequences, steps, D); symbols have D = 1."""

    kind: str
    start: np.ndarray
    matrix: np.ndarray
    parameters: dict[str, np.ndarray]
    y: np.ndarray

    @property
    def flat(self) -> np.ndarray:
        return self.y.reshape(-1, self.y.shape[-1])

    @property
    def lengths(self) -> list[int]:
        return [self.y.shape[1]] * len(self.y)


def our_model(problem: Problem) -> ps.HMM:
    gaussian = problem.kind == "Gaussian"
    emission = (ps.emissions.Gaussian if gaussian else ps.emissions.Categorical)(**problem.parameters)
    return ps.HMM(initial_probs=problem.start, transition_matrix=problem.matrix, emission=emission)


def problem_of(kind: str, k: int, d: int, t: int, n: int) -> Problem:
    """Sticky chains, overlapping states; the data are drawn from the model."""
    draws = np.random.default_rng(k)
    matrix = 0.7 * np.eye(k) + 0.3 * draws.dirichlet(np.ones(k), size=k)
    start = np.linalg.matrix_power(matrix, 4096)[0]
    if kind == "Gaussian":
        half = 0.3 * np.tril(draws.normal(size=(k, d, d))) + 0.8 * np.eye(d)
        parameters = {"means": 1.5 * draws.normal(size=(k, d)), "covs": half @ half.transpose(0, 2, 1)}
    else:
        parameters = {"probs": draws.dirichlet(np.ones(N_SYMBOLS), size=k)}
    problem = Problem(kind, start / start.sum(), matrix, parameters, np.empty(0))
    return problem._replace(y=our_model(problem).sample(t, (n,), seed=0).numpy())


def ours(problem: Problem) -> Calls:
    model = our_model(problem)
    sequences = ps.Sequences.of(problem.y)
    leaves, begun = [p for p in model.parameters() if p.requires_grad and p.numel()], model.snapshot()
    own = "means" if problem.kind == "Gaussian" else "probs"

    def iterate() -> list[Any]:
        with torch.no_grad():
            model._em_step(sequences.flat())
            found = [model.initial_probs, model.transition_matrix, getattr(model.emission, own).clone()]
            model.restore(begun)
        return found

    def gradient() -> Any:
        value = model.log_prob(sequences).sum()
        torch.autograd.grad(value, leaves)
        return value.detach()

    def quietly(call: Callable[[], Any]) -> Callable[[], Any]:
        return torch.no_grad()(call)

    return {
        "log-likelihood": quietly(lambda: model.log_prob(sequences)),
        "posterior": quietly(lambda: model.smooth(sequences).probs.flatten(0, 1)),
        "Viterbi": quietly(lambda: model.decode(sequences).flatten()),
        "EM iteration": iterate,
        "gradient": gradient,
    }


def hmmlearn(problem: Problem, implementation: str) -> Calls:
    from hmmlearn import hmm

    logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # it counts parameters at every fit
    k, y, lengths = len(problem.start), problem.flat, problem.lengths
    options: dict[str, Any] = {"implementation": implementation, "n_iter": 1, "init_params": ""}
    if problem.kind == "Gaussian":
        model: Any = hmm.GaussianHMM(k, "full", covars_prior=0.0, covars_weight=0.0, **options)
        model.means_, model.covars_ = problem.parameters["means"], problem.parameters["covs"]
    else:
        model = hmm.CategoricalHMM(k, n_features=N_SYMBOLS, **options)
        model.emissionprob_, y = problem.parameters["probs"], y.astype(int)
    model.startprob_, model.transmat_ = problem.start, problem.matrix

    def iterate() -> list[Any]:
        fitted = copy.copy(model)
        fitted.fit(y, lengths)
        own = fitted.means_ if problem.kind == "Gaussian" else fitted.emissionprob_
        return [fitted.startprob_, fitted.transmat_, own]

    return {
        "log-likelihood": lambda: model.score(y, lengths),
        "posterior": lambda: model.predict_proba(y, lengths),
        "Viterbi": lambda: model.decode(y, lengths)[1],
        "EM iteration": iterate,
    }


def dynamax(problem: Problem) -> Calls:
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import CategoricalHMM, GaussianHMM

    k, d = len(problem.start), problem.y.shape[-1]
    flat = 1.0 + 1e-12  # at 1.0 a probability that vanishes beside it turns the mode of the whole row to NaN
    flat_priors: dict[str, Any] = {"initial_probs_concentration": flat, "transition_matrix_concentration": flat}
    start, matrix = jnp.asarray(problem.start), jnp.asarray(problem.matrix)
    names: dict[str, Any] = {"initial_probs": start, "transition_matrix": matrix}
    if problem.kind == "Gaussian":
        vague = {"emission_prior_concentration": 1e-12, "emission_prior_scale": 1e-12, "emission_prior_extra_df": 1e-12}
        model: Any = GaussianHMM(k, d, **flat_priors, **vague)
        names |= {
            "emission_means": jnp.asarray(problem.parameters["means"]),
            "emission_covariances": jnp.asarray(problem.parameters["covs"]),
        }
        y = jnp.asarray(problem.y)
    else:
        model = CategoricalHMM(k, 1, N_SYMBOLS, emission_prior_concentration=flat, **flat_priors)
        names["emission_probs"] = jnp.asarray(problem.parameters["probs"])[:, None]
        y = jnp.asarray(problem.y.astype(int))
    parameters, properties = model.initialize(jax.random.PRNGKey(0), **names)
    state = model.initialize_m_step_state(parameters, properties)
    one = len(y) == 1
    y = y[0] if one else y

    def over(function: Callable[..., Any]) -> Callable[..., Any]:
        return function if one else jax.vmap(function, in_axes=(None, 0))

    def total(parameters: Any, y: Any) -> Any:
        return over(model.marginal_log_prob)(parameters, y).sum()

    def iterate(parameters: Any, y: Any) -> Any:
        statistics, _ = over(model.e_step)(parameters, y)
        statistics = jax.tree.map(lambda leaf: leaf[None], statistics) if one else statistics
        found, _ = model.m_step(parameters, properties, statistics, state)
        own = found.emissions.means if problem.kind == "Gaussian" else found.emissions.probs[:, 0]
        return found.initial.probs, found.transitions.transition_matrix, own, found

    compiled = {
        "log-likelihood": jax.jit(over(model.marginal_log_prob)),
        "posterior": jax.jit(over(lambda p, y: model.smoother(p, y).smoothed_probs)),
        "Viterbi": jax.jit(over(model.most_likely_states)),
        "EM iteration": jax.jit(iterate),
        "gradient": jax.jit(jax.value_and_grad(total)),
    }
    shapes = {"posterior": (-1, k), "Viterbi": (-1,)}

    def run(name: str) -> Any:
        result = jax.block_until_ready(compiled[name](parameters, y))
        if name == "gradient":
            return result[0]
        if name == "EM iteration":
            return result[:3]
        return result.reshape(shapes[name]) if name in shapes else result

    return {name: lambda name=name: run(name) for name in compiled}


def pomegranate(problem: Problem) -> Calls:
    from pomegranate.distributions import Categorical, Normal
    from pomegranate.hmm import DenseHMM

    def make() -> Any:
        if problem.kind == "Gaussian":
            pairs = zip(problem.parameters["means"], problem.parameters["covs"], strict=True)
            own: list[Any] = [Normal(torch.tensor(mean), torch.tensor(cov)) for mean, cov in pairs]
        else:
            own = [Categorical(torch.tensor(row)[None]) for row in problem.parameters["probs"]]
        ends = torch.ones(len(problem.start), dtype=torch.float64)  # no cost of ending
        return DenseHMM(own, torch.tensor(problem.matrix), torch.tensor(problem.start), ends)

    torch.set_default_dtype(torch.float64)
    try:
        model = make()
    finally:
        torch.set_default_dtype(torch.float32)
    y = torch.tensor(problem.y if problem.kind == "Gaussian" else problem.y.astype(int))
    k = len(problem.start)

    def quietly(call: Callable[[], Any]) -> Callable[[], Any]:
        """Without gradients, in float64, which is the type of what it makes on the way."""

        def run() -> Any:
            torch.set_default_dtype(torch.float64)
            try:
                with torch.no_grad():
                    return call()
            finally:
                torch.set_default_dtype(torch.float32)

        return run

    return {
        "log-likelihood": quietly(lambda: model.log_probability(y)),
        "posterior": quietly(lambda: model.predict_proba(y).reshape(-1, k)),
    }


def pyro(problem: Problem) -> Calls:
    import pyro.distributions as D

    leaves = [torch.tensor(problem.start).log(), torch.tensor(problem.matrix).log()]
    if problem.kind == "Gaussian":
        covs = torch.tensor(problem.parameters["covs"])
        leaves += [torch.tensor(problem.parameters["means"]), torch.linalg.cholesky(covs)]
        y = torch.tensor(problem.y)
    else:
        leaves.append(torch.tensor(problem.parameters["probs"]).log())
        y = torch.tensor(problem.y[..., 0]).long()

    def value(leaves: list[torch.Tensor]) -> torch.Tensor:
        if problem.kind == "Gaussian":
            emission: Any = D.MultivariateNormal(leaves[2], scale_tril=leaves[3])
        else:
            emission = D.Categorical(logits=leaves[2])
        model = D.DiscreteHMM(leaves[0], leaves[1], emission, validate_args=False, duration=y.shape[1])
        return model.log_prob(y).sum()

    def gradient() -> torch.Tensor:
        own = [leaf.clone().requires_grad_() for leaf in leaves]
        result = value(own)
        torch.autograd.grad(result, own)
        return result.detach()

    return {"log-likelihood": torch.no_grad()(lambda: value(leaves)), "gradient": gradient}


RIVALS: dict[str, Callable[[Problem], Calls]] = {
    "hmmlearn scaling": lambda problem: hmmlearn(problem, "scaling"),
    "hmmlearn log": lambda problem: hmmlearn(problem, "log"),
    "dynamax": dynamax,
    "pomegranate": pomegranate,
    "Pyro": pyro,
}
