"""Baselines that every comparison contains, as models under the same contract and scored the same way.

    random walk    y_{t+1} ~ N(y_t, step_cov)         no drift; step_cov by maximum likelihood
    iid, real      y_t ~ N(mean, cov)                 an HMM with one state
    iid, counts    y_t ~ Poisson(rate)                likewise, per coordinate
    iid, binary    y_t ~ Bernoulli(prob)              likewise; half a count is added to zeros and to ones,
    iid, symbols   y_t ~ Categorical(frequencies)     likewise; and to every symbol, so that none is impossible
    iid, mixed     side by side                       likewise, such as pen strokes: Gaussian and Bernoulli
    Markov         y_{t+1} ~ P[y_t]                   one column of symbols or bits; half a count on every transition

A model that does not beat the best of these has learned nothing about time. Between two complete rows k steps apart
a random walk moves by N(0, k step_cov), so step_cov is the mean of d d' / k over such neighbours, gaps included.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from probseq import emissions
from probseq.base import StateSpaceModel
from probseq.evaluation.kinds import column_kinds, marginal_parts
from probseq.marginals import coordinates_of
from probseq.models.autoregressive import AR
from probseq.models.hmm import HMM
from probseq.sequences import Sequences

#: what a singular covariance is lifted by, relative to its own diagonal
LIFT = 1e-6
#: beyond this many symbols a table of transitions is no baseline any more
MOST_SYMBOLS = 256


def naive_models(data: Sequences, models: list[StateSpaceModel[Any]]) -> dict[str, StateSpaceModel[Any]]:
    """Fitted baselines for the observations that these fitted models describe: densities, probabilities or both."""
    found: dict[str, StateSpaceModel[Any]] = {}
    if any(model.real_valued for model in models):
        found = {"random walk": random_walk(data), "iid": iid(data, emissions.Gaussian(data.event_shape[0]))}
    discrete = [model for model in models if not model.real_valued]
    if discrete:
        suffix = " (discrete)" if found else ""
        emission = emission_like(discrete[0], data)
        few = getattr(emission, "n_symbols", 2) <= MOST_SYMBOLS
        if few and data.event_shape == (1,) and isinstance(emission, (emissions.Categorical, emissions.Bernoulli)):
            found[f"Markov{suffix}"] = markov(data, emission)
        found[f"iid{suffix}"] = iid(data, emission)
    return found


def markov(data: Sequences, emission: emissions.Categorical | emissions.Bernoulli) -> HMM:
    """What came last decides: a chain with one state per symbol, at the counted transitions plus a half each.

    Steps beside a gap are not counted; the chain starts where the sequences do, and from anywhere with half a count.
    """
    flat = data.flat()
    n = emission.n_symbols if isinstance(emission, emissions.Categorical) else 2
    symbols, seen = flat.values[..., 0].long(), flat.observed[..., 0]
    both = seen[:, 1:] & seen[:, :-1]
    pairs = (symbols[:, :-1] * n + symbols[:, 1:])[both]
    moves = torch.bincount(pairs, minlength=n * n).reshape(n, n).to(torch.float64) + 0.5
    begun = seen[:, :1]
    starts = torch.bincount(symbols[:, :1][begun], minlength=n).to(torch.float64) + 0.5
    says: Any = emissions.Categorical(probs=torch.eye(n))
    if isinstance(emission, emissions.Bernoulli):
        says = emissions.Bernoulli(probs=torch.tensor([[0.0], [1.0]]))
    return HMM(
        initial_probs=starts / starts.sum(), transition_matrix=moves / moves.sum(-1, keepdim=True), emission=says
    ).eval()


def random_walk(data: Sequences) -> AR:
    """A drift-free Gaussian random walk, its step covariance estimated in closed form.

    Only that covariance counts as a parameter. Raises ValueError where a column never moves.
    """
    data = data.flat()
    dim = data.event_shape[0]
    mean, variance = _moments(data)
    model = AR(
        transition_matrices=torch.eye(dim).unsqueeze(0),
        transition_cov=_step_cov(data),
        initial_mean=mean,
        initial_cov=torch.diag(variance),
        initial="fitted",
    )
    for name in ("raw_transition_matrices", "raw_transition_offset"):
        model.get_parameter(name).requires_grad_(False)
    model.started = True
    return model.eval()


def iid(data: Sequences, emission: emissions.Emission) -> HMM:
    """Independent draws from one distribution: a hidden Markov model with a single state, at maximum likelihood.

    Binary data and symbols get half a count of each outcome on top.
    """
    data = replace(data.flat(), inputs=None)
    always: dict[str, Any] = {"initial_probs": [1.0], "transition_matrix": [[1.0]]}
    if isinstance(emission, emissions.Categorical):
        symbols = data.values[data.observed].long()
        counts = torch.bincount(symbols, minlength=emission.n_symbols).to(torch.float64) + 0.5
        return HMM(emission=emissions.Categorical(probs=(counts / counts.sum()).unsqueeze(0)), **always).eval()
    if isinstance(emission, emissions.Bernoulli):
        ones = (data.values * data.observed).sum((0, 1)) + 0.5
        probs = ones / (data.observed.sum((0, 1)) + 1.0)
        return HMM(emission=emissions.Bernoulli(probs=probs.unsqueeze(0)), **always).eval()
    if isinstance(emission, emissions.Gaussian):
        refuse_constant(data)
        mean, variance = _moments(data)
        covs = torch.diag(variance).unsqueeze(0)
        emission = emissions.Gaussian(means=mean.unsqueeze(0), covs=covs, covariance=emission.covariance)
    return HMM(1, emission=emission).fit(data, seed=0)


def emission_like(model: StateSpaceModel[Any], data: Sequences) -> emissions.Emission:
    """The emission for the kind of discrete observation that a fitted model predicts."""
    inputs = data.flat().inputs
    u = None if inputs is None or not model.input_dim else inputs[0, 0]
    parts = [_emission_of(part) for part in marginal_parts(model.emit(model.initial_belief((), u), u))]
    return parts[0] if len(parts) == 1 else emissions.Product(*parts)


def _emission_of(law: D.Distribution) -> emissions.Emission:
    kind, width = column_kinds(law)[0], law.event_shape[0]
    if kind == "symbol":
        return emissions.Categorical(coordinates_of(law)[1].probs.shape[-1])
    if kind == "binary":
        return emissions.Bernoulli(width)
    if kind == "angle":
        return emissions.VonMises(width)
    return emissions.Gaussian(width) if kind == "real" else emissions.Poisson(width)


def _moments(data: Sequences) -> tuple[Tensor, Tensor]:
    """Mean and variance per column over what is observed."""
    seen = data.observed.to(torch.float64)
    count = seen.sum((0, 1)).clamp(min=1)
    mean = (data.values * seen).sum((0, 1)) / count
    return mean, ((data.values - mean) * seen).square().sum((0, 1)) / count


def _step_cov(data: Sequences) -> Tensor:
    """The mean of d d' / gap over neighbouring complete rows; per coordinate where those are too few."""
    refuse_constant(data)
    dim = data.event_shape[0]
    steps = _scaled_steps(data.values, data.observed.all(-1))
    if len(steps) > dim and bool((steps != 0).any(0).all()):
        cov = steps.mT @ steps / len(steps)
    else:
        columns = [_scaled_steps(data.values[..., [i]], data.observed[..., i]) for i in range(dim)]
        cov = torch.diag(torch.stack([column.square().mean() for column in columns]))
    unit = cov.diagonal().rsqrt()
    smallest = torch.linalg.eigvalsh(unit.unsqueeze(-1) * cov * unit).min()
    return cov if smallest > LIFT else cov + LIFT * torch.diag(cov.diagonal())


def _scaled_steps(values: Tensor, complete: Tensor) -> Tensor:
    """(y_next - y) / sqrt(gap) over neighbouring complete rows of every sequence, (N, D)."""
    found: list[Tensor] = []
    for row, usable in zip(values, complete, strict=True):
        place = usable.nonzero().squeeze(-1)
        found.append(row[place].diff(dim=0) / place.diff().sqrt().unsqueeze(-1))
    return torch.cat(found)


def refuse_constant(data: Sequences) -> None:
    """Every column must move within some sequence, or no variance of a step can be told."""
    for column in range(data.event_shape[0]):
        steps = _scaled_steps(data.values[..., [column]], data.observed[..., column])
        if not bool((steps != 0).any()):
            raise ValueError(
                f"y must vary in the training part, column {column} is constant there or has no two values"
            )
