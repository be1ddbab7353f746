"""Ridge regression as Bayesian inference: many features, few outputs, the strength of the ridge from the evidence.

    W | S ~ matrix normal(0, S / penalty, I);    y_n = W x_n + e_n,  e_n ~ N(0, S)

| symbol  | shape  | meaning            |   | symbol | shape  | meaning                         |
|---------|--------|--------------------|---|--------|--------|---------------------------------|
| x_n     | (F,)   | features           |   | W      | (D, F) | weights                         |
| y_n     | (D,)   | targets            |   | S      | (D, D) | covariance of the noise         |
| X, Y    | (N, .) | all of them        |   | A      | (F, F) | X'X + penalty I                 |

Given the data, W is matrix normal with mean Y'X A^-1, S over rows and A^-1 over columns, so that a new target is
predicted by N(W x, (1 + x' A^-1 x) S): the second term is what is not known of the weights. The evidence integrates W
out, log p(Y) = -1/2 (D log |I + X X' / penalty| + N log |2 pi S| + tr(S^-1 C)) with C = Y'(I + X X' / penalty)^-1 Y.
It is largest at S = C / N, and along the penalty it is searched, a grid first, for it may have several maxima.

With the singular values s_i of X and B = U'Y all of it costs next to nothing once they are known:
C = sum_i b_i b_i' / (1 + s_i^2 / penalty) + the part of Y'Y outside the range of X. They come from one QR
decomposition of (X, Y), never from X'X, which would lose half of the digits.

MacKay, D. (1992). Bayesian interpolation. Neural Computation 4. Bishop, C. (2006). Pattern recognition and machine
learning, sec. 3.5. Rasmussen, C. & Williams, C. (2006). Gaussian processes for machine learning, sec. 2.1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from probseq.errors import say

#: penalties tried before the best one is refined, evenly on a logarithmic scale
GRID = 200
EPS = float(torch.finfo(torch.float64).eps)


class Ridge(NamedTuple):
    """W (D, F), S (D, D), a root of A^-1 (F, F), root root' = A^-1, the penalty and the log evidence."""

    weights: Tensor
    noise_cov: Tensor
    root: Tensor
    penalty: float
    log_evidence: float


class _Problem(NamedTuple):
    """(X, Y) rotated: squared singular values (F,), B (F, D), right vectors (F, F), Y'Y outside (D, D), N, a floor."""

    squares: Tensor
    rotated: Tensor
    vectors: Tensor
    outside: Tensor
    n_rows: int
    floor: Tensor


def fit_ridge(features: Tensor, targets: Tensor) -> Ridge:
    """The ridge of largest evidence from x (N, F) and y (N, D), N >= 1; a noise-free fit is told and given a floor."""
    problem = _rotate(features, targets)
    penalty = _best_penalty(problem)
    noise = _noise(problem._replace(floor=torch.zeros_like(problem.floor)), torch.tensor([penalty]).double())[0]
    shrunk = problem.squares + penalty
    weights = (problem.rotated * (problem.squares.sqrt() / shrunk).unsqueeze(-1)).mT @ problem.vectors.mT
    evidence = float(_log_evidence(problem, torch.tensor([penalty], dtype=torch.float64)))
    return Ridge(weights, with_floor(noise, targets), problem.vectors / shrunk.sqrt(), penalty, evidence)


def _rotate(features: Tensor, targets: Tensor) -> _Problem:
    n_rows, n_features = features.shape
    triangle = torch.linalg.qr(torch.cat([features, targets], -1), mode="r").R
    triangle = torch.nn.functional.pad(triangle, (0, 0, 0, triangle.shape[1] - triangle.shape[0]))
    left, values, right = torch.linalg.svd(triangle[:n_features, :n_features])
    rest = triangle[n_features:, n_features:]
    rotated = left.mT @ triangle[:n_features, n_features:]
    return _Problem(values.square(), rotated, right.mT, rest.mT @ rest, n_rows, _floor(targets))


def _noise(problem: _Problem, penalties: Tensor) -> Tensor:
    """S = C / N for every penalty, with the floor, (P, D, D)."""
    kept = penalties.unsqueeze(-1) / (problem.squares + penalties.unsqueeze(-1))
    inside = (problem.rotated.mT.unsqueeze(0) * kept.unsqueeze(-2)) @ problem.rotated
    return (inside + problem.outside) / problem.n_rows + problem.floor


def _log_evidence(problem: _Problem, penalties: Tensor) -> Tensor:
    """log p(Y) at the best S for every penalty, (P,)."""
    dim = problem.rotated.shape[1]
    spread = torch.log1p(problem.squares / penalties.unsqueeze(-1)).sum(-1)
    log_det = torch.linalg.slogdet(_noise(problem, penalties)).logabsdet
    return -0.5 * (dim * spread + problem.n_rows * (log_det + dim * (math.log(2 * math.pi) + 1)))


def _best_penalty(problem: _Problem) -> float:
    """Between the square of rounding error and far above the largest squared singular value."""
    from scipy.optimize import minimize_scalar

    largest = float(problem.squares.max())
    size = max(problem.n_rows, len(problem.squares))
    low, high = 2 * math.log(size * EPS) + math.log(largest), math.log(largest) - math.log(EPS)
    grid = np.linspace(low, high, GRID)
    values = _log_evidence(problem, torch.as_tensor(grid).exp())
    best = int(values.argmax())
    ends = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]

    def loss(log_penalty: float) -> float:
        return -float(_log_evidence(problem, torch.tensor([log_penalty], dtype=torch.float64).exp()))

    found = minimize_scalar(loss, bounds=ends, method="bounded")
    return math.exp(found.x if found.fun <= -float(values[best]) else grid[best])


def with_floor(cov: Tensor, targets: Tensor) -> Tensor:
    """The covariance with a rounding error of the targets' (N, D) mean square added, said if that is all there is."""
    floor = _floor(targets)
    units = floor.diagonal().sqrt()
    if float(torch.linalg.eigvalsh(cov / units / units.unsqueeze(-1))[0]) < 1:
        say("noise floor", "y follows exactly from what is known; its noise is held at rounding error")
    return cov + floor


def _floor(targets: Tensor) -> Tensor:
    sizes = targets.square().mean(0)
    return targets.shape[1] * EPS * torch.diag(torch.where(sizes > 0, sizes, 1.0))
