"""Output heads: from the activities of a network to the distribution of the next observation.

    a_t = V h_t + c                                             # one linear layer, in the network's precision
    y_t ~ Gaussian:     N(shift + scale * m(a_t), scale * S(a_t) * scale)
          Categorical:  softmax(a_t) over the symbols 0 .. M - 1
          Bernoulli:    each coordinate is 1 with probability sigma(a_t)

| symbol         | shape                | meaning                                                               |
|----------------|----------------------|-----------------------------------------------------------------------|
| h_t            | (*batch, H)          | activities, the cell's output                                         |
| V, c           | (n_outputs, H), (.,) | `weights`, `bias`                                                     |
| y_t            | (*batch, D)          | the observation, in the units of the data, float64                    |
| shift, scale   | (D,)                 | the units: y = shift + scale * standardised y; float64 buffers        |
| encoded y_t    | (*batch, width)      | what the network reads: standardised, one-hot, or the 0 or 1 itself   |

The network lives in standardised units and in its own precision; densities are taken in float64 and hold in the
units of the data, so log p moves by -log(scale) per observed coordinate. A standard deviation is
`scale_floor + softplus(.)` in standardised units: the floor is relative to the data. It bounds the density of a
network that finds a point it can hit exactly (integer data, constant stretches).

Missing coordinates are marginalised within the step: they add exactly 0 and their gradient is exactly 0, whatever
`y` holds there (NaN included). Fed back, they are replaced by their expectation given the past, `expected_input`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from probseq.emissions.head import Head, argument_checks, seen_sum

__all__ = ["Bernoulli", "Categorical", "Gaussian", "Head", "inverse_softplus", "softplus"]

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) to full precision; torch's own drops exp(-x) above 20."""
    return -F.logsigmoid(-x)


def inverse_softplus(x: Tensor) -> Tensor:
    """The x' with softplus(x') == x, for x > 0."""
    return x + torch.log(-torch.expm1(-x))


class Gaussian(Head):
    """Independent coordinates (`"diag"`), or a Cholesky factor that the network writes row by row (`"full"`)."""

    real_valued = True

    def __init__(self, covariance: Literal["diag", "full"] = "diag", *, scale_floor: float = 1e-4) -> None:
        super().__init__()
        if covariance not in ("diag", "full"):
            raise ValueError(f"covariance must be 'diag' or 'full', got {covariance!r}")
        if not 0.0 <= scale_floor < 1.0:
            raise ValueError(f"scale_floor must be in [0, 1), in standardised units, got {scale_floor!r}")
        self.covariance: Literal["diag", "full"] = covariance
        self.scale_floor = float(scale_floor)

    def sizes(self) -> dict[str, Any]:
        return {"covariance": self.covariance, "scale_floor": self.scale_floor}

    @property
    def input_width(self) -> int:
        return self.shift.shape[0]

    @property
    def support(self) -> str:
        return "finite real numbers"

    def invalid(self, values: Tensor) -> Tensor:
        return ~values.isfinite()

    def encode(self, y: Tensor) -> Tensor:
        return ((y - self.shift) / self.scale).to(self.weights.dtype)

    def expected_input(self, output: Tensor) -> Tensor:
        return self._outputs(output)[..., : self.input_width]

    def _parts(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (*, D), standard deviations (*, D) and what stands below the diagonal, standardised, in float64."""
        raw, dim = self._outputs(output).to(torch.float64), self.input_width
        mean, spread, below = raw.split((dim, dim, raw.shape[-1] - 2 * dim), dim=-1)
        return mean, self.scale_floor + softplus(spread), below

    def _factor(self, diagonal: Tensor, below: Tensor) -> Tensor:
        """The lower triangular factor (*, D, D) of the standardised covariance."""
        dim = self.input_width
        rows, columns = torch.tril_indices(dim, dim, -1, device=below.device)
        lower = below.new_zeros(*below.shape[:-1], dim * dim).index_add(-1, rows * dim + columns, below)
        return lower.unflatten(-1, (dim, dim)) + torch.diag_embed(diagonal)

    def distribution(self, output: Tensor) -> Distribution:
        mean, deviation, below = self._parts(output)
        location, checks = self.shift + self.scale * mean, argument_checks(mean)
        if self.covariance == "diag":
            return Independent(Normal(location, self.scale * deviation, validate_args=checks), 1, validate_args=checks)
        factor = self.scale.unsqueeze(-1) * self._factor(deviation, below)
        return MultivariateNormal(location, scale_tril=factor, validate_args=checks)

    def log_prob(self, output: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        mean, deviation, below = self._parts(output)
        if observed is not None:  # before any arithmetic: 0 * NaN is NaN in a gradient
            y = torch.where(observed, y, self.shift)
        residual = (y - self.shift) / self.scale - mean
        if self.covariance == "diag":
            score, log_scale = residual / deviation, deviation.log()
        else:
            score, log_scale = whiten(self._factor(deviation, below), residual, observed)
        log_density = -0.5 * score.square() - log_scale - self.scale.log() - HALF_LOG_TWO_PI
        return seen_sum(log_density, observed)

    def _n_outputs(self, obs_dim: int) -> int:
        return 2 * obs_dim + (obs_dim * (obs_dim - 1) // 2 if self.covariance == "full" else 0)

    def _neutral_bias(self) -> Tensor:
        dim = self.input_width
        bias = torch.zeros(self.bias.shape, dtype=torch.float64)
        bias[dim : 2 * dim] = inverse_softplus(torch.tensor(1.0 - self.scale_floor, dtype=torch.float64))
        return bias

    def _marginal_bias(self, values: Tensor, seen: Tensor) -> Tensor:
        dim = self.input_width
        standard = torch.where(seen, (values - self.shift) / self.scale, 0.0)
        count = seen.sum(0).clamp(min=1)
        mean = standard.sum(0) / count
        centred = torch.where(seen, standard - mean, 0.0)
        factor = torch.diag((centred.square().sum(0) / count).sqrt())
        if self.covariance == "full":
            complete = centred[seen.all(-1)]
            cov = complete.mT @ complete / max(len(complete), 1)
            cholesky, failed = torch.linalg.cholesky_ex(cov)
            factor = factor if int(failed) else cholesky
        smallest = max(2.0 * self.scale_floor, torch.finfo(self.bias.dtype).eps)
        spread = inverse_softplus(factor.diagonal().clamp(min=smallest) - self.scale_floor)
        rows, columns = torch.tril_indices(dim, dim, -1, device=factor.device)
        below = factor[rows, columns] if self.covariance == "full" else factor.new_zeros(0)
        return torch.cat([mean, spread, below])


class Categorical(Head):
    """One symbol out of `n_symbols` per step, 0 .. n_symbols - 1, event shape (1,)."""

    real_valued = False

    def __init__(self, n_symbols: int) -> None:
        super().__init__()
        if n_symbols < 1:
            raise ValueError(f"n_symbols must be at least 1, got {n_symbols!r}")
        self.n_symbols = int(n_symbols)

    def sizes(self) -> dict[str, Any]:
        return {"n_symbols": self.n_symbols}

    @property
    def input_width(self) -> int:
        return self.n_symbols

    @property
    def support(self) -> str:
        return f"integers 0..{self.n_symbols - 1}"

    def invalid(self, values: Tensor) -> Tensor:
        return ~((values >= 0) & (values < self.n_symbols) & (values == values.floor()))

    def encode(self, y: Tensor) -> Tensor:
        return (y == torch.arange(self.n_symbols, device=y.device)).to(self.weights.dtype)

    def expected_input(self, output: Tensor) -> Tensor:
        return torch.softmax(self._outputs(output), dim=-1)

    def distribution(self, output: Tensor) -> Distribution:
        logits = self._outputs(output).to(torch.float64).unsqueeze(-2)
        checks = argument_checks(logits)
        return Independent(TorchCategorical(logits=logits, validate_args=checks), 1, validate_args=checks)

    def log_prob(self, output: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        log_probs = torch.log_softmax(self._outputs(output).to(torch.float64), dim=-1)
        symbols = (y if observed is None else torch.where(observed, y, 0)).long()
        batch_shape = torch.broadcast_shapes(log_probs.shape[:-1], symbols.shape[:-1])
        table = log_probs.expand(*batch_shape, self.n_symbols)
        return seen_sum(table.gather(-1, symbols.expand(*batch_shape, 1)), observed)

    def _n_outputs(self, obs_dim: int) -> int:
        if obs_dim != 1:
            raise ValueError(f"a Categorical head says one symbol per step: obs_dim must be 1, got {obs_dim}")
        return self.n_symbols

    def _neutral_bias(self) -> Tensor:
        return torch.zeros(self.n_symbols, dtype=torch.float64)

    def _marginal_bias(self, values: Tensor, seen: Tensor) -> Tensor:
        counts = torch.bincount(values[seen].long(), minlength=self.n_symbols).to(torch.float64)
        return ((counts + 0.5) / (counts.sum() + 0.5 * self.n_symbols)).log()  # half a count: no symbol is impossible


class Bernoulli(Head):
    """Each coordinate is 0 or 1, independently given the activities."""

    real_valued = False

    def sizes(self) -> dict[str, Any]:
        return {}

    @property
    def input_width(self) -> int:
        return self.shift.shape[0]

    @property
    def support(self) -> str:
        return "0 or 1"

    def invalid(self, values: Tensor) -> Tensor:
        return ~((values == 0) | (values == 1))

    def encode(self, y: Tensor) -> Tensor:
        return y.to(self.weights.dtype)

    def expected_input(self, output: Tensor) -> Tensor:
        return torch.sigmoid(self._outputs(output))

    def distribution(self, output: Tensor) -> Distribution:
        logits = self._outputs(output).to(torch.float64)
        checks = argument_checks(logits)
        return Independent(TorchBernoulli(logits=logits, validate_args=checks), 1, validate_args=checks)

    def log_prob(self, output: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        logits = self._outputs(output).to(torch.float64)
        if observed is not None:
            y = torch.where(observed, y, 0)
        # y log sigma(a) + (1 - y) log sigma(-a), where only one term is ever non-zero
        return seen_sum(F.logsigmoid((2 * y.to(torch.float64) - 1) * logits), observed)

    def _n_outputs(self, obs_dim: int) -> int:
        return obs_dim

    def _neutral_bias(self) -> Tensor:
        return torch.zeros(self.input_width, dtype=torch.float64)

    def _marginal_bias(self, values: Tensor, seen: Tensor) -> Tensor:
        ones = torch.where(seen, values, 0.0).sum(0)
        return ((ones + 0.5) / (seen.sum(0) - ones + 0.5)).log()  # half a count each way: finite odds


def whiten(factor: Tensor, residual: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores z (*, D) and log |diag R| (*, D) of N(residual; 0, marginal of factor factor').

    The rows of the factor that belong to observed coordinates, beside unit rows for the others, are a wide
    square root of the marginal covariance; its QR triangle is a square one, and no covariance is ever formed.
    """
    if observed is not None and not bool(observed.all()):
        shape = torch.broadcast_shapes(factor.shape[:-1], residual.shape, observed.shape)
        factors, seen = (
            factor.expand(*shape, shape[-1]).reshape(-1, shape[-1], shape[-1]),
            observed.expand(shape).reshape(-1, shape[-1]),
        )
        rows = (~seen.all(-1)).nonzero().squeeze(-1)  # complete rows keep their factor as it is
        part = seen[rows].unsqueeze(-1)
        wide = torch.cat([torch.where(part, factors[rows], 0.0), torch.diag_embed((~seen[rows]).to(factor))], dim=-1)
        triangles = torch.linalg.qr(wide.mT).R.mT
        factor, residual = factors.index_copy(0, rows, triangles).reshape(*shape, shape[-1]), residual.expand(shape)
    score = torch.linalg.solve_triangular(factor, residual.unsqueeze(-1), upper=False).squeeze(-1)
    return score, factor.diagonal(dim1=-2, dim2=-1).abs().log()
