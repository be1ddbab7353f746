"""Sets that parameters live in, each with a map from unconstrained numbers onto it.

| constraint      | stored                      | value              | singular members                      |
|-----------------|-----------------------------|--------------------|---------------------------------------|
| `real`          | x                           | x                  |                                       |
| `nonnegative`   | log x                       | exp                | 0 is kept, with zero gradient         |
| `probability`   | log-odds                    | sigmoid            | 0 and 1 are kept, with zero gradient  |
| `simplex`       | log p                       | softmax            | zeros are kept, with zero gradient    |
| `semidefinite`  | L, lower triangular         | L L'               | any rank                              |
| `definite`      | L with a log diagonal       | L L'               | none                                  |
| `Interval`      | log-odds of the share       | low + share width  | none                                  |
| `stationary_..` | atanh partial correlations  | AR coefficients    | none                                  |
"""

from __future__ import annotations

import torch
from torch import Tensor

from probseq.ops.elementwise import softmax

#: how far a row of given probabilities may be from summing to 1
ROW_SUM = 1e-6


class Constraint:
    """A set of values with a map from unconstrained numbers onto it."""

    words = "real numbers"

    def forward(self, raw: Tensor) -> Tensor:
        """The value for unconstrained numbers. Satisfies forward(inverse(value)) == value."""
        return raw

    def inverse(self, value: Tensor) -> Tensor:
        return value

    def complaint(self, value: Tensor) -> str | None:
        """What is wrong with a finite value, in words; None if nothing is."""
        return None

    def degrees_of_freedom(self, raw: Tensor) -> int:
        """The number of free parameters in a minimal description."""
        return raw.numel()


class _Nonnegative(Constraint):
    words = "non-negative numbers"

    def forward(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def inverse(self, value: Tensor) -> Tensor:
        return value.log()

    def complaint(self, value: Tensor) -> str | None:
        return f"smallest entry {value.min():.4g}" if value.numel() and value.min() < 0 else None


class _Probability(Constraint):
    words = "probabilities in [0, 1]"

    def forward(self, raw: Tensor) -> Tensor:
        return raw.sigmoid()

    def inverse(self, value: Tensor) -> Tensor:
        return torch.logit(value)

    def complaint(self, value: Tensor) -> str | None:
        bad = (value < 0) | (value > 1)
        return f"found {value[bad][0]:.4g}" if bad.any() else None


class _Simplex(Constraint):
    words = "probabilities that sum to 1 along the last axis"

    def forward(self, raw: Tensor) -> Tensor:
        return softmax(raw)

    def inverse(self, value: Tensor) -> Tensor:
        return value.log()

    def complaint(self, value: Tensor) -> str | None:
        if value.numel() and value.min() < 0:
            return f"smallest entry {value.min():.4g}"
        sums = value.sum(-1)
        worst = (sums - 1).abs()
        return f"a row sums to {sums.flatten()[worst.argmax()]:.6g}" if (worst > ROW_SUM).any() else None

    def degrees_of_freedom(self, raw: Tensor) -> int:
        return int((raw > -torch.inf).sum()) - raw[..., 0].numel() if raw.numel() else 0


class _Semidefinite(Constraint):
    words = "positive semidefinite"
    strict = False

    def forward(self, raw: Tensor) -> Tensor:
        lower = raw.tril()
        return lower @ lower.mT

    def inverse(self, value: Tensor) -> Tensor:
        return psd_factor(value)

    def complaint(self, value: Tensor) -> str | None:
        if not value.numel():
            return None
        scale = value.abs().amax()
        if (value - value.mT).abs().max() > 1e-8 * scale:
            return "it is not symmetric"
        smallest = float(torch.linalg.eigvalsh(value / scale).min() * scale) if scale > 0 else 0.0
        return self.judge(smallest, float(scale))

    def judge(self, smallest: float, scale: float) -> str | None:
        return f"smallest eigenvalue {smallest:.4g}" if smallest < -1e-9 * scale else None

    def degrees_of_freedom(self, raw: Tensor) -> int:
        n = raw.shape[-1]
        return raw[..., 0, 0].numel() * n * (n + 1) // 2 if n else 0


class _Definite(_Semidefinite):
    words = "positive definite"

    def forward(self, raw: Tensor) -> Tensor:
        lower = raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())
        return lower @ lower.mT

    def inverse(self, value: Tensor) -> Tensor:
        lower = torch.linalg.cholesky(value)
        return lower.tril(-1) + torch.diag_embed(lower.diagonal(dim1=-2, dim2=-1).log())

    def judge(self, smallest: float, scale: float) -> str | None:
        return f"smallest eigenvalue {smallest:.4g}" if smallest <= 0 else None


class Interval(Constraint):
    """Numbers strictly between two ends."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.width = low, high - low
        self.words = f"strictly between {low:.6g} and {high:.6g}"

    def forward(self, raw: Tensor) -> Tensor:
        return self.low + self.width * raw.sigmoid()

    def inverse(self, value: Tensor) -> Tensor:
        return torch.logit((value - self.low) / self.width)

    def complaint(self, value: Tensor) -> str | None:
        bad = (value <= self.low) | (value >= self.low + self.width)
        return f"found {value[bad][0]:.6g}" if bad.any() else None


class _StationaryCoefficients(Constraint):
    """Coefficients of a stationary autoregression, by its partial autocorrelations (Monahan 1984, Biometrika 71)."""

    words = "the coefficients of a stationary autoregression"

    def forward(self, raw: Tensor) -> Tensor:
        coefficients = raw[:0]
        for partial in raw.tanh().split(1):
            coefficients = torch.cat([coefficients - partial * coefficients.flip(0), partial])
        return coefficients

    def inverse(self, value: Tensor) -> Tensor:
        return self.partial(value).atanh()

    def complaint(self, value: Tensor) -> str | None:
        partial = self.partial(value)
        bad = ~(partial.abs() < 1)
        return f"it has a partial autocorrelation of {partial[bad][-1]:.6g}" if bad.any() else None

    def partial(self, value: Tensor) -> Tensor:
        """The partial autocorrelations; beyond the last one of modulus 1 or more they mean nothing."""
        found: list[Tensor] = []
        while len(value):
            last = value[-1:]
            found.append(last)
            value = (value[:-1] + last * value[:-1].flip(0)) / (1 - last.square())
        return torch.cat(found[::-1]) if found else value


real = Constraint()
nonnegative = _Nonnegative()
probability = _Probability()
simplex = _Simplex()
semidefinite = _Semidefinite()
definite = _Definite()
stationary_coefficients = _StationaryCoefficients()


def psd_factor(cov: Tensor) -> Tensor:
    """A lower-triangular L with L L' == cov for any positive semidefinite cov (..., n, n), singular ones too."""
    factor, info = torch.linalg.cholesky_ex(cov)
    good = (info == 0) & torch.isfinite(factor).flatten(-2).all(-1)
    if bool(good.all()):
        return factor
    scale = cov.abs().amax((-2, -1), keepdim=True)
    values, vectors = torch.linalg.eigh(cov / torch.where(scale > 0, scale, 1.0))
    root = vectors * values.clamp(min=0).sqrt().unsqueeze(-2) * scale.sqrt()
    lower = torch.linalg.qr(root.mT)[1].mT
    signs = torch.where(lower.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(cov.dtype)
    return torch.where(good[..., None, None], factor, lower * signs.unsqueeze(-2))
