"""What a posterior would have said of each next observation, from few fits: leave-future-out by importance sampling.

    elpd = sum_{t >= first} log p(y_t | y_<t),     p(y_t | y_<t) = integral p(y_t | y_<t, theta) p(theta | y_<t)

Leaving out single observations of a series lets the future tell of the past; this does not. Draws theta_s given y_{<n}
stand for draws given y_{<t}, t < n, with the weights

    w_s = 1 / prod_{t <= i < n} p(y_i | y_<i, theta_s),        smoothed (Pareto), normalised

going back from the end. Where the Pareto shape k passes the threshold, the posterior given y_<t is drawn anew, and the
way back goes on from there.

Reference: Bürkner, Gabry and Vehtari (2020), Approximate leave-future-out cross-validation for Bayesian time series
models, J. Statistical Computation and Simulation 90 (backward mode; threshold 0.7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from probseq.bayes import arviz_bridge as bridge
from probseq.checks import whole_number

if TYPE_CHECKING:
    from probseq.bayes.posterior import Posterior

Array = np.ndarray[Any, Any]


class FutureScores(NamedTuple):
    """log p(y_t | y_<t) of the steps `first` .. T - 1, the Pareto shapes (nan at a new fit), and how many new fits."""

    elpd: float
    pointwise: Array
    pareto_k: Array
    n_refits: int


def leave_future_out(
    posterior: Posterior, first: int, *, threshold: float = 0.7, refit: Callable[[Any], Posterior] | None = None
) -> FutureScores:
    """See above. `refit(data)` draws a posterior given the beginning of the data, by default as this one was drawn.

    Raises ValueError for several sequences, or a `first` that leaves nothing to score.
    """
    data = posterior.sequences.flat()
    n = data.n_steps
    if len(data.lengths) != 1:
        raise ValueError(f"leave_future_out is for one sequence, got {len(data.lengths)}")
    if not 0 < whole_number("first", first) < n:
        raise ValueError(f"first must lie in 1 .. {n - 1}, got {first}")
    again = posterior.again if refit is None else refit
    pointwise, shapes, n_refits = np.empty(n - first), np.full(n - first, np.nan), 0
    terms, known = posterior.log_likelihood()[:, 0].numpy(), n
    for t in range(n - 1, first - 1, -1):
        log_weights, k = bridge.psis(-terms[:, t:known].sum(-1))
        if k > threshold and again is not None:
            shorter = again(data.steps(0, t))
            terms, known, n_refits = _terms_of(shorter, posterior), t, n_refits + 1
            log_weights, k = np.full(len(terms), -np.log(len(terms))), np.nan
        pointwise[t - first], shapes[t - first] = np.logaddexp.reduce(log_weights + terms[:, t]), k
    return FutureScores(float(pointwise.sum()), pointwise, shapes, n_refits)


def _terms_of(shorter: Posterior, whole: Posterior) -> Array:
    """log p(y_t | y_<t, theta_s) of all the data at draws given their beginning, (draws, T)."""
    shorter.sequences = whole.sequences
    return shorter.log_likelihood()[:, 0].numpy()
