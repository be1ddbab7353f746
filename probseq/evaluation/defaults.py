"""The models that the command line compares: small ones for one column of real numbers, by name.

| name | model                                                                            |
|------|----------------------------------------------------------------------------------|
| ar   | autoregression, order 1 .. 5 by BIC on the training part                         |
| lds  | linear dynamical system with two state dimensions                                |
| hmm  | hidden Markov model with two states and Gaussian emissions                       |
| gru  | recurrent network, 16 gated units, Gaussian head                                 |

Orders 1 .. P are compared on the same n steps, those that P observed ones precede, by least squares:

    BIC(p) = (p + 2) log n - 2 log p(y_t at these steps | what precedes them)

(Schwarz 1978; Luetkepohl, New Introduction to Multiple Time Series Analysis (2005), sec. 4.3). One regression an order,
where a fit of each by its exact likelihood would compile kernels for every order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from probseq import cells, emissions
from probseq.base import StateSpaceModel
from probseq.emissions import heads
from probseq.models.autoregressive import AR
from probseq.models.hmm import HMM
from probseq.models.lds import LDS
from probseq.models.rnn import RNN

NAMES = ("ar", "lds", "hmm", "gru")
MOST_LAGS = 5


def default_model(name: str, y: Any, *, seed: int = 0) -> StateSpaceModel[Any]:
    """A new model by name for one column; only the order of "ar" looks at y, which is the training part."""
    if name == "ar":
        return AR(ar_order(y))
    if name == "lds":
        return LDS(2, 1)
    if name == "hmm":
        return HMM(2, emission=emissions.Gaussian(1))
    if name == "gru":
        return RNN(1, cell=cells.GRU(16), head=heads.Gaussian(), seed=seed)
    raise ValueError(f"unknown model {name!r}; there are {', '.join(NAMES)}")


def ar_order(y: Any) -> int:
    """The order 1 .. MOST_LAGS with the smallest BIC.

    Short series, and series full of gaps, allow fewer: P lags take 2 P + 1 steps that P observed ones precede.
    """
    values = np.asarray(y, dtype=float)
    windows = next((w for lags in range(MOST_LAGS, 1, -1) if len(w := _windows(values, lags)) > 2 * lags), None)
    if windows is None:
        return 1
    windows = windows / (np.abs(windows).max() or 1.0)  # in any unit
    return min(range(1, windows.shape[1]), key=lambda order: ar_bic(windows, order))


def ar_bic(windows: Any, order: int) -> float:
    """k log n - 2 log p of n steps, the first column of `windows`, given the `order` columns after it."""
    n_steps = len(windows)
    past = np.column_stack([np.ones(n_steps), windows[:, 1 : order + 1]])
    residuals = windows[:, 0] - past @ np.linalg.lstsq(past, windows[:, 0])[0]
    rounding = np.spacing(np.abs(windows).max())  # all that is left where y follows from its past exactly
    log_var = 2 * math.log(max(residuals.std(), rounding))
    return (order + 2) * math.log(n_steps) + n_steps * (math.log(2 * math.pi) + 1 + log_var)


def _windows(values: Any, lags: int) -> Any:
    """(y_t, y_{t-1}, ..., y_{t-lags}) where all are observed, (n, lags + 1)."""
    if len(values) <= lags:
        return np.empty((0, lags + 1))
    windows = np.lib.stride_tricks.sliding_window_view(values, lags + 1)[:, ::-1]
    return windows[~np.isnan(windows).any(1)]
