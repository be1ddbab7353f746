"""Simulation-based calibration: does a sampler draw from the posterior that prior and model define?

    for every data set:
        parameters ~ prior;   y ~ model(parameters)
        draws ~ the sampler, given y
        rank of q(parameters) among q(draws), for every quantity q

If the sampler is right, and its draws are independent, each rank is uniform on 0 .. L. Quantities are all entries of
the parameters and log p(y | parameters), which sees errors that single parameters hide (Modrak et al.). Uniformity is
judged by the ranks' distribution function: `ecdf_band` is the narrowest band of equally unlikely edges that holds the
whole function of N uniform ranks with probability `level`, exactly, by a recursion over counts.

References: Talts, Betancourt, Simpson, Vehtari and Gelman (2018), arXiv:1804.06788; Modrak et al. (2023), Bayesian
Analysis; Säilynoja, Bürkner and Vehtari (2022), Statistics and Computing 32, sec. 2 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.bayes.posterior import Posterior, place_values
from probseq.checks import whole_number
from probseq.randomness import seeded, spawn

Array = np.ndarray[Any, Any]
#: parameters by public name, from a seed
DrawPrior = Callable[[int], Mapping[str, Tensor]]
#: a posterior from a model, data and a seed
Infer = Callable[[StateSpaceModel[Any], Tensor, int], Posterior]


def simulated_ranks(
    model: StateSpaceModel[Any],
    prior: DrawPrior,
    infer: Infer,
    *,
    length: int,
    n_data: int = 200,
    n_ranks: int = 63,
    seed: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Array]:
    """Ranks (n_data,) in 0 .. n_ranks by quantity. Each posterior is thinned to n_ranks draws, evenly spaced."""
    found: list[dict[str, int]] = []
    for i, own in enumerate(spawn(seed, whole_number("n_data", n_data))):
        first, second, third = spawn(own, 3)
        with seeded(first):
            truth = dict(prior(first))
        place_values(model, truth)
        y = model.sample(length, seed=second)
        with torch.no_grad():
            score = float(model.log_prob(y))
        posterior = infer(model, y, third)
        found.append(_ranks(posterior, truth, score, n_ranks))
        progress(i + 1)
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def _ranks(posterior: Posterior, truth: Mapping[str, Tensor], score: float, n_ranks: int) -> dict[str, int]:
    if posterior.n_draws < n_ranks:
        raise ValueError(f"a posterior must have at least n_ranks = {n_ranks} draws, got {posterior.n_draws}")
    places = posterior._places(n_ranks)
    ranks: dict[str, int] = {}
    for name, value in truth.items():
        draws = posterior.draws[name].flatten(0, 1)[places]
        for index in np.ndindex(*value.shape):
            label = f"{name}[{', '.join(map(str, index))}]" if index else name
            ranks[label] = int((draws[(slice(None), *index)] < value[index]).sum())
    scores = posterior.log_likelihood(n_ranks).sum((-2, -1))
    ranks["log p(y)"] = int((scores < score).sum())
    return ranks


def ecdf_band(n: int, n_ranks: int, level: float = 0.95) -> tuple[Array, Array]:
    """Counts (n_ranks,) between which #{ranks < i}, i = 1 .. n_ranks, of n uniform ranks on 0 .. n_ranks all stay.

    The probability of that is at least `level`, and nearly that: counts are whole numbers.
    """
    from scipy.stats import binom

    at = np.arange(1, n_ranks + 1) / (n_ranks + 1)
    moves = _moves(n, at)
    low, high = 0.0, 1.0 - level  # the edges' own tail probability: no larger than for a single point
    for _ in range(30):
        middle = (low + high) / 2
        edges = binom.ppf(middle / 2, n, at), binom.ppf(1 - middle / 2, n, at)
        low, high = (middle, high) if _inside(moves, *edges) >= level else (low, middle)
    return binom.ppf(low / 2, n, at).astype(int), binom.ppf(1 - low / 2, n, at).astype(int)


def _moves(n: int, at: Array) -> list[Array]:
    """p(#{u < at_i} = b given #{u < at_{i-1}} = a), (n + 1, n + 1), for every i."""
    from scipy.stats import binom

    counts = np.arange(n + 1)
    left, came = (n - counts)[:, None], counts[None] - counts[:, None]
    shares = np.diff(at, prepend=0.0) / (1 - np.concatenate([[0.0], at[:-1]]))
    return [np.where(came >= 0, binom.pmf(came, left, share), 0.0) for share in shares]


def _inside(moves: list[Array], low: Array, high: Array) -> float:
    """P(low_i <= #{u < at_i} <= high_i for all i), by the chain of counts."""
    counts = np.arange(len(moves[0]))
    mass = (counts == 0).astype(float)
    for move, least, most in zip(moves, low, high, strict=True):
        mass = mass @ move
        mass = np.where((counts >= least) & (counts <= most), mass, 0.0)
    return float(mass.sum())


def outside(ranks: Mapping[str, Array], n_ranks: int, level: float = 0.95) -> dict[str, int]:
    """By quantity, at how many ranks the distribution function leaves its band."""
    n = len(next(iter(ranks.values())))
    low, high = ecdf_band(n, n_ranks, level)
    at = np.arange(1, n_ranks + 1)
    found: dict[str, int] = {}
    for name, values in ranks.items():
        counts = (values[:, None] < at).sum(0)
        found[name] = int(((counts < low) | (counts > high)).sum())
    return found
