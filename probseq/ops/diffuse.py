"""The exact diffuse start, one step at a time and in plain torch: what the compiled filter is tested against.

While a belief is N(mean, cov) plus a part of infinite variance with covariance proportional to `diffuse_cov`, an
observation is taken coordinate by coordinate.  Put its noise v beside the state and let c be the row (emission, unit
vector), so that the coordinate is c' (z, v):

    h = diffuse_cov c,  F = c' h,  M = cov c,  S = c' M,  e = y - c' mean
    F > 0:   K = h / F,  log p = -1/2 (log 2 pi + log F),              diffuse_cov <- diffuse_cov - h h' / F
    F = 0:   K = M / S,  log p = -1/2 (log 2 pi + log S + e^2 / S)
    mean <- mean + K e,   cov <- (I - K c') cov (I - K c')'

Reference: Durbin and Koopman, Time Series Analysis by State Space Methods, 2nd ed. (2012), sec. 5.2 and 6.4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from probseq.errors import SingularInnovation

LOG_2PI = math.log(2 * math.pi)
EPSILON = 2.0**-52
#: size of a coordinate's diffuse part, relative to the sum of its terms, from which it is no rounding error
STILL_DIFFUSE = 1e-10
#: share of a variance (a diffuse covariance scaled to a unit diagonal) that rounding may have left
SPENT = 1e-10


def factor_of(diffuse_cov: Tensor) -> Tensor:
    """B (n, d) of full column rank with B B' == diffuse_cov, by Cholesky's recursion on the largest pivots."""
    variance = diffuse_cov.diagonal()
    unit = torch.where(variance > 0, variance, 1.0).detach().sqrt()
    rest = diffuse_cov / unit / unit.unsqueeze(-1)
    columns: list[Tensor] = []
    for _ in range(len(unit)):
        pivot = int(rest.diagonal().argmax())
        if float(rest[pivot, pivot].detach()) <= SPENT:
            break
        columns.append(rest[:, pivot] / rest[pivot, pivot].sqrt())
        rest = rest - columns[-1].unsqueeze(-1) * columns[-1]
    return unit.unsqueeze(-1) * torch.stack(columns, -1) if columns else diffuse_cov[:, :0]


def factors_of(diffuse_covs: Tensor) -> Tensor:
    """The same for a batch (B, n, n), padded with zero columns to (B, n, d)."""
    factors = [factor_of(diffuse_cov) for diffuse_cov in diffuse_covs]
    widest = max((factor.shape[1] for factor in factors), default=0)
    padded = [torch.nn.functional.pad(factor, (0, widest - factor.shape[1])) for factor in factors]
    return torch.stack(padded) if padded else diffuse_covs[:, :, :0]


def update(
    mean: Tensor, cov: Tensor, diffuse_cov: Tensor, y: Tensor, seen: Tensor, emission: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Condition one belief on the coordinates of y (m,) that are `seen`; returns mean, cov, diffuse_cov and log p.

    SingularInnovation where a coordinate is known before it is seen.
    """
    n, m = len(mean), len(y)
    cov = torch.block_diag(cov, noise)
    mean = torch.cat([mean, mean.new_zeros(m)])
    factor, log_prob = factor_of(diffuse_cov), mean.new_zeros(())
    left = factor.shape[1]
    sizes, variances = factor.detach().norm(dim=1), cov.detach().diagonal().clamp(min=0).sqrt()
    for j in seen.nonzero().flatten().tolist():
        reading = torch.cat([emission[j], torch.nn.functional.one_hot(torch.tensor(j), m).to(y.dtype)])
        slope, innovation = factor.mT @ emission[j], y[j] - reading @ mean
        if left and float(slope.detach().norm()) > STILL_DIFFUSE * float(emission[j].detach().abs() @ sizes):
            variance = slope @ slope
            gain = torch.cat([factor @ slope / variance, mean.new_zeros(m)])
            factor, left = factor - (factor @ slope).unsqueeze(-1) * slope / variance, left - 1
            log_prob = log_prob - 0.5 * (LOG_2PI + variance.log())
        else:
            variance = reading @ cov @ reading
            if not float(variance.detach()) > (16 * (n + m) * EPSILON * float(reading.detach().abs() @ variances)) ** 2:
                raise SingularInnovation(
                    "an observed coordinate is known exactly before it is seen; add emission noise"
                )
            gain = cov @ reading / variance
            log_prob = log_prob - 0.5 * (LOG_2PI + variance.log() + innovation.square() / variance)
        keep = torch.eye(n + m, dtype=y.dtype) - gain.unsqueeze(-1) * reading
        mean, cov = mean + gain * innovation, keep @ cov @ keep.mT
    rest = factor @ factor.mT if left else torch.zeros_like(diffuse_cov)
    return mean[:n], (cov[:n, :n] + cov[:n, :n].mT) / 2, rest, log_prob
