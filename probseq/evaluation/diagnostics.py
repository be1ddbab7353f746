"""Whether what a Gaussian model leaves over is white noise: standardised one-step residuals and three tests of them.

    e_t = L_t^-1 (y_t - E[y_t | y_<t]),   L_t L_t' = Cov(y_t | y_<t)          independent N(0, 1) under the true model

| test               | statistic                                                          | null distribution  |
|--------------------|--------------------------------------------------------------------|--------------------|
| Ljung-Box          | T (T + 2) sum_{k <= lags} r_k^2 / (T - k), r_k autocorrelations     | chi2(lags - lost)  |
| Jarque-Bera        | T (skew^2 / 6 + (kurtosis - 3)^2 / 24)                             | chi2(2)            |
| heteroskedasticity | sum of squares of the last third / that of the first               | F, rescaled        |

Steps whose belief is still diffuse have no residual, nor have missing entries; lags count steps, so a gap leaves out
its pairs. L_t is lower triangular: the residual of a coordinate is what the ones before it do not explain.

References: Durbin and Koopman, Time Series Analysis by State Space Methods, 2nd ed. (2012), sec. 2.12 and 7.5; Harvey,
Forecasting, Structural Time Series Models and the Kalman Filter (1989), sec. 5.4; Ljung and Box (1978), Biometrika 65;
Jarque and Bera (1980), Economics Letters 6.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from probseq.base import StateSpaceModel
from probseq.layout import Paths, leave


class Outcome(NamedTuple):
    """A statistic and the probability of one as large (two-sided: as far out) under the null hypothesis."""

    statistic: float
    p_value: float


@torch.no_grad()
def standardized_residuals(model: StateSpaceModel[Any], y: Any, u: Any = None, *, lengths: Any = None) -> Any:
    """e_t in the layout of the data, (*batch, time, dim), NaN where there is none.

    TypeError for a family whose predictive distribution is not Gaussian; `pseudo_residuals` serves all of them.
    """
    data = model._door(y, u, lengths)
    flat = data.flat()
    predicted = model._filter(flat, None).predicted
    seen = flat.observed
    diffuse = getattr(predicted, "diffuse_cov", None)
    if diffuse is not None:
        seen = seen & (diffuse == 0).flatten(-2).all(-1, keepdim=True)
        predicted = predicted._replace(diffuse_cov=None)
    mean, cov = _moments(model, model.emit(predicted, flat.inputs))
    inside = seen.to(cov.dtype)
    cov = inside.unsqueeze(-1) * cov * inside.unsqueeze(-2) + torch.diag_embed(1 - inside)
    away = torch.where(seen, flat.values - mean, 0.0).unsqueeze(-1)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), away, upper=False).squeeze(-1)
    return leave(Paths(torch.where(seen, white, torch.nan)), data, unwrap=True)


def _moments(model: StateSpaceModel[Any], emitted: Any) -> tuple[Tensor, Tensor]:
    if isinstance(emitted, MultivariateNormal):
        return emitted.mean, emitted.covariance_matrix
    if isinstance(emitted, Independent) and isinstance(emitted.base_dist, Normal):
        return emitted.mean, torch.diag_embed(emitted.variance)
    raise TypeError(f"standardised residuals need Gaussian predictions; those of {type(model).__name__} are not")


def ljung_box(residuals: Any, lags: int | None = None, *, lost: int = 0) -> Outcome:
    """Test against correlation at the first `lags` lags (min(10, T / 5) by default).

    `lost` is the number of estimated parameters that shape the dynamics, taken off the degrees of freedom.
    """
    from scipy.stats import chi2

    values = _series(residuals)
    n = len(values)
    lags = min(10, n // 5) if lags is None else lags
    if not 1 <= lags < n:
        raise ValueError(f"lags must lie in 1 .. {n - 1} for {n} residuals, got {lags}")
    share = autocorrelations(values, lags)[1:] ** 2 / (n - np.arange(1, lags + 1))
    statistic = float(n * (n + 2) * share.sum())
    return Outcome(statistic, float(chi2.sf(statistic, lags - lost)) if lags > lost else float("nan"))


def jarque_bera(residuals: Any) -> Outcome:
    """Test of normality by skewness and kurtosis."""
    from scipy.stats import chi2

    values = _series(residuals)
    statistic = int(np.isfinite(values).sum()) * (skewness(values) ** 2 / 6 + (kurtosis(values) - 3) ** 2 / 24)
    return Outcome(statistic, float(chi2.sf(statistic, 2)))


def heteroskedasticity(residuals: Any) -> Outcome:
    """Two-sided test of equal variance in the first and the last third."""
    from scipy.stats import f

    squares = _series(residuals) ** 2
    h = round(len(squares) / 3)
    first, last = squares[:h], squares[len(squares) - h :]
    below, above = int(np.isfinite(first).sum()), int(np.isfinite(last).sum())
    if min(below, above) < 2:
        raise ValueError(f"a third of the residuals must hold 2 values or more, got {below} and {above}")
    statistic = float(np.nansum(last) / np.nansum(first))
    scaled = statistic * below / above
    return Outcome(statistic, 2 * float(min(f.cdf(scaled, above, below), f.sf(scaled, above, below))))


def skewness(residuals: Any) -> float:
    """The third central moment in units of the standard deviation, 0 for a normal law."""
    return _standard_moment(_series(residuals), 3)


def kurtosis(residuals: Any) -> float:
    """The fourth central moment in units of the squared variance, 3 for a normal law."""
    return _standard_moment(_series(residuals), 4)


def autocorrelations(residuals: Any, lags: int) -> NDArray[np.float64]:
    """r_0 = 1, ..., r_lags, each divided by the whole sum of squares; pairs with a gap count as zero."""
    values = _series(residuals)
    away = np.nan_to_num(values - np.nanmean(values))
    return np.array([away[: len(away) - k] @ away[k:] for k in range(lags + 1)]) / (away @ away)


def diagnose(model: StateSpaceModel[Any], y: Any, u: Any = None, *, lags: int | None = None, lost: int = 0) -> Any:
    """A pandas table, one row per coordinate of one sequence: the tests with their p-values, skewness, kurtosis."""
    import pandas as pd

    data = model._door(y, u)
    if data.batch_shape:
        raise ValueError(f"one sequence can be diagnosed, y has batch shape {data.batch_shape}: pick one, such as y[0]")
    columns = standardized_residuals(model, data).mT.numpy()
    rows = [_row(column, lags, lost) for column in columns]
    return pd.DataFrame(rows, index=pd.Index(data.names or range(len(rows)), name="coordinate"))


def _row(column: NDArray[np.float64], lags: int | None, lost: int) -> dict[str, float]:
    serial, normal, steady = ljung_box(column, lags, lost=lost), jarque_bera(column), heteroskedasticity(column)
    return {
        "ljung_box": serial.statistic,
        "ljung_box_p": serial.p_value,
        "jarque_bera": normal.statistic,
        "jarque_bera_p": normal.p_value,
        "skewness": skewness(column),
        "kurtosis": kurtosis(column),
        "heteroskedasticity": steady.statistic,
        "heteroskedasticity_p": steady.p_value,
    }


def _series(residuals: Any) -> NDArray[np.float64]:
    """One column without the steps before its first residual; ValueError for fewer than three."""
    values = np.asarray(residuals, dtype=np.float64)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim != 1:
        raise ValueError(f"residuals must be one column, got shape {values.shape}")
    there = np.isfinite(values)
    if there.sum() < 3:
        raise ValueError(f"residuals must hold 3 finite values or more, got {int(there.sum())}")
    return values[int(there.argmax()) :]


def _standard_moment(values: NDArray[np.float64], power: int) -> float:
    away = values[np.isfinite(values)]
    away = away - away.mean()
    return float((away**power).mean() / (away**2).mean() ** (power / 2))
