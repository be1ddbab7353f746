"""The way to ArviZ, which is imported when it is first asked for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from probseq.bayes.posterior import Posterior


@contextmanager
def quietly() -> Generator[None]:
    """Constant entries and single chains have no R-hat; ArviZ divides by zero, or logs, to say so."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


def arviz() -> Any:
    """ArviZ, whose own announcements are not ours to repeat. ImportError says how to install it."""
    try:
        with quietly():
            import arviz
    except ImportError as error:
        raise ImportError('ArviZ is not installed: pip install "probseq[bayes]"') from error
    return arviz


def to_arviz(posterior: Posterior, log_likelihood: bool = False) -> Any:
    groups: dict[str, Any] = {"posterior": {name: np.asarray(values) for name, values in posterior.draws.items()}}
    if posterior.stats:
        groups["sample_stats"] = dict(posterior.stats)
    flat = posterior.sequences.flat()
    groups["observed_data"] = {"y": np.where(flat.observed.numpy(), flat.values.detach().numpy(), np.nan)}
    if log_likelihood:
        groups["log_likelihood"] = {"y": pointwise(posterior)}
    with quietly():
        return arviz().from_dict(**groups)


def pointwise(posterior: Posterior) -> Any:
    """(chains, draws, units): log p(y_t | y_<t) of the steps of one sequence, or log p(y) of each of many."""
    terms, flat = posterior.log_likelihood(), posterior.sequences.flat()
    if len(flat.lengths) == 1:
        units = terms[:, 0][:, flat.seen[0]]
    else:
        units = terms.sum(-1)[:, flat.lengths > 0]
    return units.reshape(posterior.n_chains, -1, units.shape[-1]).numpy()


def waic(posterior: Posterior) -> Any:
    data = to_arviz(posterior, log_likelihood=True)
    with quietly():
        return arviz().waic(data)


def summary(posterior: Posterior, names: list[str] | None) -> Any:
    with quietly():
        return arviz().summary(to_arviz(posterior), var_names=names, round_to="none")


def worst_r_hat(posterior: Posterior) -> tuple[str, float] | None:
    if posterior.n_chains < 2 or posterior.n_draws < 4 * posterior.n_chains:
        return None
    with quietly():
        found = arviz().rhat(to_arviz(posterior))
    worst = {str(name): float(np.nanmax(values)) for name, values in found.items() if not np.isnan(values).all()}
    name = max(worst, key=lambda key: worst[key], default=None)
    return None if name is None else (name, worst[name])


def min_ess(posterior: Posterior) -> float:
    with quietly():
        found = arviz().ess(to_arviz(posterior), method="bulk")
    return min(float(np.nanmin(values)) for values in found.values() if not np.isnan(values).all())


def psis(log_ratios: Any) -> tuple[Any, float]:
    """Pareto-smoothed normalised log weights (draws,) and the shape k (Vehtari et al. 2024, JMLR 25)."""
    with quietly():
        weights, k = arviz().psislw(np.asarray(log_ratios))
    return np.asarray(weights), float(k)
