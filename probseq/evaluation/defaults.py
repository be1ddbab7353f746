"""The models that the command line compares: small ones for one column of real numbers, by name.

| name | model                                                                            |
|------|----------------------------------------------------------------------------------|
| ar   | autoregression, order 1 .. 5 by BIC on the training part                         |
| lds  | linear dynamical system with two state dimensions                                |
| hmm  | hidden Markov model with two states and Gaussian emissions                       |
| gru  | recurrent network, 16 gated units, Gaussian head                                 |

BIC(p) = k_p log n - 2 log p(y_0, ..., y_{n-1}), with the exact likelihood of all n observed steps for every order, so
that orders are compared on the same data (Schwarz 1978; Brockwell and Davis (1991), sec. 9.3).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from probseq import cells, emissions
from probseq.base import StateSpaceModel
from probseq.emissions import heads
from probseq.errors import ProbseqWarning
from probseq.models.autoregressive import AR
from probseq.models.hmm import HMM
from probseq.models.lds import LDS
from probseq.models.rnn import RNN

NAMES = ("ar", "lds", "hmm", "gru")
MOST_LAGS = 5


def default_model(name: str, y: Any, *, seed: int = 0) -> StateSpaceModel[Any]:
    """A new model by name for one column; only the order of "ar" looks at y, which is the training part."""
    if name == "ar":
        return AR(ar_order(y, seed=seed))
    if name == "lds":
        return LDS(2, 1)
    if name == "hmm":
        return HMM(2, emission=emissions.Gaussian(1))
    if name == "gru":
        return RNN(1, cell=cells.GRU(16), head=heads.Gaussian(), seed=seed)
    raise ValueError(f"unknown model {name!r}; there are {', '.join(NAMES)}")


def ar_order(y: Any, *, most: int = MOST_LAGS, seed: int = 0) -> int:
    """The order 1 .. `most` with the smallest BIC; short series allow fewer lags than a third of their length."""
    orders = range(1, max(min(most, (len(y) - 1) // 3), 1) + 1)
    return min(orders, key=lambda order: ar_bic(y, order, seed=seed))


def ar_bic(y: Any, order: int, *, seed: int = 0) -> float:
    """k log n - 2 log p(y) at maximum likelihood, n observed steps."""
    model = AR(order)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProbseqWarning)
        model.fit(y, seed=seed)
    data = model._door(y)
    n_steps = int(data.seen.sum())
    return model.n_parameters * math.log(n_steps) - 2 * n_steps * model.score(data)
