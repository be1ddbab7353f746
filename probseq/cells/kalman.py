"""The Kalman filter as a recurrent cell: the belief about a linear system is its activities, the matrices its weights.

    s_t = (m_t, P_t, d_t, 1):  z_t ~ N(m_t, P_t) before y_t is seen;  d_t = D u_t + d
    S = C P C' + R;  K = P C' S^-1
    m' = m + K (y - C m - d_t);         P' = (I - K C) P (I - K C)' + K R K'        # condition on y
    m_{t+1} = A m' + B u_{t+1} + b;     P_{t+1} = A P' A' + Q                       # move on

| parameter                     | shape    | meaning                                                     |
|-------------------------------|----------|-------------------------------------------------------------|
| `transition_matrix`           | (n, n)   | A                                                           |
| `raw_transition_cov`          | (n, n)   | the lower triangle L of Q = L L'                            |
| `emission_matrix`             | (m, n)   | C                                                           |
| `raw_emission_cov`            | (m, m)   | the same of R                                               |
| `initial_mean`                | (n,)     | m_0                                                         |
| `raw_initial_cov`             | (n, n)   | the same of P_0                                             |
| `transition_input_matrix`     | (n, p)   | B                                                           |
| `emission_input_matrix`       | (m, p)   | D                                                           |
| `transition_offset`, `emission_offset` | (n,), (m,) | b, d                                             |

The inputs of the cell are y_{t-1} as the head encodes it, then u_t. What it shows is what `heads.Gaussian("full",
scale_floor=0.0)` reads with the identity for its weights: the mean C m + d_t and the triangle of S. The last entry of
the state is 0 before the first step, which conditions on nothing.

Reference: Kalman (1960), A new approach to linear filtering and prediction problems, J. Basic Engineering 82.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probseq.cells.base import Cell, uniform
from probseq.checks import whole_number

NAMES = (
    "transition_matrix",
    "raw_transition_cov",
    "emission_matrix",
    "raw_emission_cov",
    "initial_mean",
    "raw_initial_cov",
    "transition_input_matrix",
    "emission_input_matrix",
    "transition_offset",
    "emission_offset",
)


class Kalman(Cell):
    """The filter of a linear system with `state_dim` states and `obs_dim` observed coordinates."""

    transition_matrix: Tensor
    raw_transition_cov: Tensor
    emission_matrix: Tensor
    raw_emission_cov: Tensor
    initial_mean: Tensor
    raw_initial_cov: Tensor
    transition_input_matrix: Tensor
    emission_input_matrix: Tensor
    transition_offset: Tensor
    emission_offset: Tensor

    def __init__(self, state_dim: int, obs_dim: int = 1) -> None:
        n, m = whole_number("state_dim", state_dim), whole_number("obs_dim", obs_dim)
        super().__init__(n, state_size=n + n * n + m + 1, output_size=2 * m + m * (m - 1) // 2)
        self.state_dim, self.obs_dim = n, m
        self._room(*NAMES)

    def sizes(self) -> dict[str, Any]:
        return {"state_dim": self.state_dim, "obs_dim": self.obs_dim}

    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        n, m = self.state_dim, self.obs_dim
        p = input_size - m
        if p < 0:
            raise ValueError(f"a Kalman cell reads {m} observed coordinates and the inputs, got {input_size} columns")
        shapes = ((n, n), (n, n), (m, n), (m, m), (n,), (n, n), (n, p), (m, p), (n,), (m,))
        for name, shape in zip(NAMES, shapes, strict=True):
            setattr(self, name, self._zeros(*shape, dtype=dtype))

    def _draw(self, draws: torch.Generator) -> None:
        """A slow system in units of the data: a state that loses a tenth of itself, seen through random directions."""
        n, m = self.state_dim, self.obs_dim
        for name in NAMES:
            getattr(self, name).zero_()
        self.transition_matrix.copy_(0.9 * torch.eye(n) + uniform((n, n), 0.05, draws))
        self.emission_matrix.copy_(uniform((m, n), 1.0, draws))
        for name, scale, size in (("transition", 0.3, n), ("emission", 0.7, m), ("initial", 1.0, n)):
            getattr(self, f"raw_{name}_cov").copy_(scale * torch.eye(size))

    def initial_state(self, batch_shape: Sequence[int] = ()) -> Float[Tensor, "*batch state"]:
        """m_0, P_0 and a mark that nothing has been seen yet, (*batch, state_size)."""
        self._require_bound()
        none = self.initial_mean.new_zeros(self.obs_dim + 1)
        start = torch.cat([self.initial_mean, _square(self.raw_initial_cov).flatten(), none])
        return start.expand(*batch_shape, self.state_size)

    def split(self, state: Float[Tensor, "*batch state"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """m (*batch, n), P (*batch, n, n), d_t (*batch, m) and whether anything was seen (*batch, 1)."""
        n = self.state_dim
        mean, cov, offset, begun = state.split((n, n * n, self.obs_dim, 1), -1)
        return mean, cov.unflatten(-1, (n, n)), offset, begun

    def step(
        self, inputs: Float[Tensor, "*batch input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """Condition on the observation of the step before and move on; the first step stays at the start."""
        mean, cov, offset, begun = self.split(state)
        y, u = inputs.split((self.obs_dim, inputs.shape[-1] - self.obs_dim), -1)
        moved, spread = self._move(*self._condition(mean, cov, y - offset), u)
        first = begun == 0
        mean = torch.where(first, mean, moved)
        cov = torch.where(first.unsqueeze(-1), cov, spread)
        offset = u @ self.emission_input_matrix.mT + self.emission_offset
        return torch.cat([mean, cov.flatten(-2), offset.expand(*mean.shape[:-1], -1), torch.ones_like(begun)], -1)

    def _innovation(self, cov: Tensor) -> tuple[Tensor, Tensor]:
        """C P (*batch, m, n), and the triangle of S = C P C' + R."""
        cross = self.emission_matrix @ cov
        return cross, torch.linalg.cholesky(cross @ self.emission_matrix.mT + _square(self.raw_emission_cov))

    def _condition(self, mean: Tensor, cov: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        cross, factor = self._innovation(cov)
        gain = torch.cholesky_solve(cross, factor).mT
        innovation = y - mean @ self.emission_matrix.mT
        keep = torch.eye(self.state_dim, dtype=cov.dtype) - gain @ self.emission_matrix
        noise = gain @ self.raw_emission_cov.tril()
        return mean + (gain @ innovation.unsqueeze(-1)).squeeze(-1), keep @ cov @ keep.mT + noise @ noise.mT

    def _move(self, mean: Tensor, cov: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        moved = mean @ self.transition_matrix.mT + u @ self.transition_input_matrix.mT + self.transition_offset
        spread = self.transition_matrix @ cov @ self.transition_matrix.mT
        return moved, (spread + spread.mT) / 2 + _square(self.raw_transition_cov)

    def output(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch output"]:
        """The mean of y_t and the triangle of its covariance, as a Gaussian head reads them."""
        mean, cov, offset, _ = self.split(state)
        factor = self._innovation(cov)[1]
        spread = factor.diagonal(dim1=-2, dim2=-1)
        rows, columns = torch.tril_indices(self.obs_dim, self.obs_dim, -1)
        location = mean @ self.emission_matrix.mT + offset
        return torch.cat([location, spread + torch.log(-torch.expm1(-spread)), factor[..., rows, columns]], -1)

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self.output(self._unroll(inputs, state))


def _square(triangle: Tensor) -> Tensor:
    lower = triangle.tril()
    return lower @ lower.mT
