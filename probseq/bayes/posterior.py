"""Draws from a posterior, and what they are for: forecasts, states, criteria, diagnostics.

    posterior.draws["emission.means"]      (chains, draws, K, D), by public name
    posterior.predict(5)                   p(y_{T+h} | y) = mean over draws of p(y_{T+h} | y, parameters)
    posterior.states()                     p(z_t | y) = mean over draws of p(z_t | y, parameters)
    posterior.to_arviz()                   all of ArviZ: plots, R-hat, effective samples
    posterior.waic(), .leave_future_out(first=50)

Means of densities over draws are mixtures with equal weights, exact for the draws there are. Beliefs are collapsed to
the mixture's first two moments (Gaussian) or averaged (probabilities); others stay mixtures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq import beliefs as B
from probseq.base import StateSpaceModel
from probseq.bayes import arviz_bridge as bridge
from probseq.bayes.mixing import stacked
from probseq.beliefs import Categorical, Gaussian
from probseq.checks import share, whole_number
from probseq.forecasting import Forecast, mixture_of_paths
from probseq.layout import leave
from probseq.parameters import find_parameter
from probseq.randomness import fresh_seed, spawn
from probseq.sequences import Sequences


class Posterior:
    """Draws of a model's parameters given data, with `stats` by draw: lp, diverging, ...

    `relabelled` says how many draws had their states renamed; None where none could be.
    """

    def __init__(
        self,
        model: StateSpaceModel[Any],
        sequences: Sequences,
        draws: Mapping[str, Tensor],
        stats: Mapping[str, Any] | None = None,
        *,
        method: str = "",
        seconds: float = float("nan"),
        relabelled: int | None = None,
        pareto_k: float | None = None,
        again: Callable[[Any], Posterior] | None = None,
    ) -> None:
        self.model, self.sequences, self.draws = copy.deepcopy(model), sequences, dict(draws)
        self.stats = {name: np.asarray(values) for name, values in (stats or {}).items()}
        self.method, self.seconds, self.relabelled = method, seconds, relabelled
        #: of draws from a guide: how far that is from the posterior, above 0.7 too far
        self.pareto_k = pareto_k
        #: draws the posterior given other data in the same way
        self.again = again

    @property
    def n_chains(self) -> int:
        return next(iter(self.draws.values())).shape[0]

    @property
    def n_draws(self) -> int:
        """Of all chains together."""
        return self.n_chains * next(iter(self.draws.values())).shape[1]

    def __repr__(self) -> str:
        named = "" if self.relabelled is None else f", states of {self.relabelled} draws renamed"
        return (
            f"Posterior of {type(self.model).__name__} by {self.method}: {self.n_chains} chains, {self.n_draws} draws "
            f"of {', '.join(self.draws)}{named}"
        )

    # ---- the parameters

    def mean(self, name: str) -> Tensor:
        """The posterior mean of a parameter, its public shape."""
        return self._named(name).mean((0, 1))

    def interval(self, name: str, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """The central interval of probability `level`, per entry."""
        share("level", level)
        flat = self._named(name).flatten(0, 1)
        return flat.quantile((1 - level) / 2, 0), flat.quantile((1 + level) / 2, 0)

    def _named(self, name: str) -> Tensor:
        if name not in self.draws:
            raise ValueError(f"{name!r} was not drawn; there are {', '.join(self.draws)}")
        return self.draws[name]

    def models(self, n_draws: int | None = None) -> Generator[StateSpaceModel[Any]]:
        """The model at `n_draws` draws, evenly spaced over the chains (all of them by default): one model, moved."""
        for place in self._places(n_draws):
            yield self._at(place)

    def _places(self, n_draws: int | None) -> list[int]:
        if n_draws is None or n_draws >= self.n_draws:
            return list(range(self.n_draws))
        whole_number("n_draws", n_draws)
        return np.linspace(0, self.n_draws - 1, n_draws).round().astype(int).tolist()

    def _at(self, place: int) -> StateSpaceModel[Any]:
        place_values(self.model, {name: values.flatten(0, 1)[place] for name, values in self.draws.items()})
        return self.model

    # ---- forecasts and states

    @torch.no_grad()
    def predict(
        self, steps: int, *, future_u: Any = None, n_draws: int | None = 200, n_paths: int = 20, seed: int | None = None
    ) -> Forecast:
        """The posterior predictive of the coming steps, which carries the uncertainty about the parameters.

        A mixture of the forecasts at `n_draws` draws with equal weights. `samples` are `n_paths` paths of each;
        families without exact forecasts use the same paths for theirs.
        """
        places = self._places(n_draws)
        forecasts = [  # each with a model of its own: distributions may share its memory, and samples are drawn later
            copy.deepcopy(self._at(place)).forecast(
                self.sequences, steps, future_u=future_u, n_samples=n_paths, seed=own
            )
            for place, own in zip(places, spawn(fresh_seed(seed), len(places)), strict=True)
        ]
        parts = [forecast.distribution for forecast in forecasts]
        mixture = mixture_of_paths(stacked(parts, len(parts[0].batch_shape)))
        return Forecast(mixture, lambda: torch.cat([one.samples for one in forecasts]), self.sequences)

    @torch.no_grad()
    def states(self, n_draws: int | None = 200) -> Any:
        """p(z_t | y) averaged over the posterior, a belief with fields (*batch, time, ...); a list for a list."""
        flat = self.sequences.flat()
        found = [model._smooth(flat) for model in self._latent(n_draws)]  # type: ignore[attr-defined]
        return leave(averaged(found), self.sequences)

    def _latent(self, n_draws: int | None) -> Generator[StateSpaceModel[Any]]:
        from probseq.base import LatentStateModel

        if not isinstance(self.model, LatentStateModel):
            raise TypeError(f"a {type(self.model).__name__} has no latent states to smooth")
        return self.models(n_draws)

    # ---- criteria

    @torch.no_grad()
    def log_likelihood(self, n_draws: int | None = None) -> Tensor:
        """log p(y_t | y_<t, parameters) at every draw, (draws, B, T) for the flat batch; 0 where nothing was seen."""
        flat = self.sequences.flat()
        return torch.stack([model._filter(flat, None).log_prob for model in self.models(n_draws)])

    def waic(self) -> Any:
        """ArviZ's WAIC over the steps, each scored given those before it (of many sequences: over the sequences)."""
        return bridge.waic(self)

    def leave_future_out(self, first: int, *, threshold: float = 0.7, refit: Any = None) -> Any:
        """sum_t log p(y_t | y_<t), t = first .. T - 1, from these draws; see `probseq.bayes.leave_future_out`."""
        from probseq.bayes.leave_future_out import leave_future_out

        return leave_future_out(self, first, threshold=threshold, refit=refit)

    # ---- diagnostics

    def to_arviz(self, log_likelihood: bool = False) -> Any:
        """An `arviz.InferenceData` with the groups posterior, sample_stats, observed_data (and log_likelihood)."""
        return bridge.to_arviz(self, log_likelihood)

    def summary(self, names: Iterable[str] | None = None) -> Any:
        """ArviZ's table: mean, sd, interval, Monte Carlo error, effective samples, R-hat, by entry."""
        return bridge.summary(self, None if names is None else list(names))

    def worst_r_hat(self) -> tuple[str, float] | None:
        """The entry with the largest R-hat; None with one chain or too few draws."""
        return bridge.worst_r_hat(self)

    def min_ess(self) -> float:
        """The smallest bulk effective sample size of all entries."""
        return bridge.min_ess(self)


def place_values(model: StateSpaceModel[Any], values: Mapping[str, Tensor]) -> None:
    """Give a model public values by name."""
    for name, value in values.items():
        owner, leaf, declared = find_parameter(model, name)
        if declared:
            setattr(owner, leaf, value)
        else:
            with torch.no_grad():
                owner._parameters[leaf].copy_(value)  # type: ignore[union-attr]


def averaged(found: list[Any]) -> Any:
    """One belief from those at the draws: Gaussians by their moments, probabilities by their mean, else a mixture."""
    first = found[0]
    if isinstance(first, Gaussian):
        means, covs = torch.stack([one.mean for one in found]), torch.stack([one.cov for one in found])
        away = means - means.mean(0)
        between = torch.einsum("s...i,s...j->...ij", away, away) / len(found)
        return Gaussian(means.mean(0), covs.mean(0) + between, first.diffuse_cov, first.step)
    if isinstance(first, Categorical):
        logs = torch.stack([one.log_probs for one in found])
        return Categorical(torch.logsumexp(logs, 0) - np.log(len(found)), first.window)
    many = B.zip_tensors(lambda fields, dim: torch.stack(fields, fields[0].ndim - dim), found)
    shape = next(field.shape[: field.ndim - dim] for field, dim in zip(first, first.event_dims, strict=True))
    weights = torch.full((*shape, len(found)), -float(np.log(len(found))), dtype=torch.float64)
    return B.Mixture(weights, many)
