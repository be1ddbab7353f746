"""Where a state comes to rest, and what happens around: fixed points, limit cycles, boundaries between attractors.

    h* = F(h*);    h_t - h* ~ M^t (h_0 - h*),  M = dF/dh at h*;    stable if every eigenvalue of M has modulus < 1

Fixed points of a network are minima, with value zero, of q(h) = |F(h) - h|^2 / 2 (Sussillo and Barak 2013), found by
Levenberg-Marquardt steps from many starts at once, stable or not. A limit cycle of period p is a fixed point of F^p;
its multipliers are the eigenvalues of the product of its p Jacobians. Between two attractors lies a boundary, where
d h_T / d h_0 grows without limit: an error that comes back across it explodes (Pascanu et al. 2013, sec. 2.2).

Sussillo, D. & Barak, O. (2013). Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
    networks. Neural Computation 25.
Doya, K. (1992). Bifurcations in the learning of recurrent neural networks. IEEE Symp. Circuits and Systems.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from probseq.checks import whole_number
from probseq.evaluation.dynamics.maps import Map, closed_loop, jacobian, linear_map, network, run, start_states
from probseq.randomness import generator

#: |F(h) - h| of a fixed point, and how far two of them are apart, relative to the size of the states
AT_REST, APART = 1e-9, 1e-5
#: a modulus this near to 1 is told neither from it nor from stability
MARGIN = 1e-9
#: bisections: as many as a double has bits
BITS = 53
#: a damping, relative to the curvature, at which a step is rounding error
STUCK = 1e15
#: Levenberg-Marquardt steps at most
STEPS = 100


class FixedPoints(NamedTuple):
    """N points, the most stable first: `states` (N, S), `residuals` |F(h) - h| (N,), `jacobians` (N, S, S),
    `eigenvalues` (N, S) complex, the largest first, and `stable` (N,)."""

    states: Tensor
    residuals: Tensor
    jacobians: Tensor
    eigenvalues: Tensor
    stable: Tensor


class LimitCycle(NamedTuple):
    """`states` (period, S) in their order, `multipliers` (S,) complex, the largest first, and `stable`."""

    states: Tensor
    multipliers: Tensor
    stable: bool

    @property
    def period(self) -> int:
        return len(self.states)


class Sensitivity(NamedTuple):
    """`ends` (N, S), the states after T steps, and `log_growth` (N,), the log of the norm of d h_T / d h_0."""

    ends: Tensor
    log_growth: Tensor


@torch.no_grad()
def fixed_points(
    model: Any, u: Any = None, *, starts: Any = None, n_starts: int = 128, seed: int | None = None
) -> FixedPoints:
    """The fixed points of a network's closed loop (its mean fed back, `u` held), none of them twice.

    `starts` (N, S) are where the search begins; by default `n_starts` states on the way from random ones. Of an LDS it
    is the one fixed point of its mean, of an HMM the stationary law, (1, n): ValueError where that is not unique.
    """
    exact = linear_map(model, u)
    if exact is not None:
        if exact.fixed_point is None:
            raise ValueError(f"this {type(model).__name__} has no isolated fixed point: 1 is a multiple eigenvalue")
        return _described(exact.fixed_point.unsqueeze(0), torch.zeros(1).double(), exact.matrix.unsqueeze(0))
    net = network(model, "fixed_points")
    step = closed_loop(net, u)
    if starts is None:
        begin = _spread(step, start_states(net, u, whole_number("n_starts", n_starts)), seed)
    else:
        begin = _as_states(starts, start_states(net, u), "starts")
    size = float(begin.norm(dim=-1).median()) or 1.0
    points = _descend(step, begin, size)
    away = (step(points) - points).norm(dim=-1)
    kept = _distinct(points[away <= AT_REST * size], APART * size)
    if not len(kept):
        empty = kept.new_zeros(0, kept.shape[1], kept.shape[1])
        return FixedPoints(kept, away[:0], empty, empty[:, 0].to(torch.complex128), away[:0] > 0)
    return _described(kept, (step(kept) - kept).norm(dim=-1), jacobian(step, kept))


@torch.no_grad()
def limit_cycle(
    model: Any, u: Any = None, *, start: Any = None, washout: int = 1000, max_period: int = 200
) -> LimitCycle | None:
    """The attracting cycle that the closed loop of a network reaches after `washout` steps; None if it repeats nothing.

    A fixed point has period 1. A network that turns by an angle that is no share of the circle never repeats itself.
    """
    net = network(model, "limit_cycle")
    step = closed_loop(net, u)
    begin = start_states(net, u) if start is None else _as_states(start, start_states(net, u), "start")[:1]
    path = run(step, begin, whole_number("washout", washout, least=0))[:, -1]
    path = run(step, path, whole_number("max_period", max_period))[0]
    gaps = (path[1:] - path[0]).norm(dim=-1)
    near = (gaps <= AT_REST * (float(path.norm(dim=-1).mean()) or 1.0)).nonzero().flatten()
    if not len(near):
        return None
    states = path[: int(near[0]) + 1]
    values = _by_size(torch.linalg.eigvals(torch.linalg.multi_dot([*jacobian(step, states).flip(0), _unit(states)])))
    return LimitCycle(states, values, bool(values.abs()[0] < 1 - MARGIN))


@torch.no_grad()
def sensitivity(model: Any, starts: Any, steps: int, u: Any = None) -> Sensitivity:
    """How much a small change of the first state (N, S) has grown after `steps` steps of the closed loop."""
    net = network(model, "sensitivity")
    step = closed_loop(net, u)
    states = _as_states(starts, start_states(net, u), "starts")
    product, log_size = _unit(states).expand(len(states), -1, -1), states.new_zeros(len(states))
    for _ in range(whole_number("steps", steps)):
        product = jacobian(step, states) @ product
        size = torch.linalg.matrix_norm(product)
        factor = torch.where(size > 0, size, 1.0)
        product, log_size = product / factor[:, None, None], log_size + factor.log()
        states = step(states)
    return Sensitivity(states, log_size + torch.linalg.matrix_norm(product, 2).log())


@torch.no_grad()
def attractor_boundary(model: Any, first: Any, second: Any, steps: int = 200, u: Any = None) -> Tensor:
    """The state (S,) between `first` and `second` (S,) from which the closed loop turns from one end to the other.

    Bisected to the last of 53 bits of the way; near it `sensitivity` is largest. ValueError where both end at one
    place after `steps` steps.
    """
    net = network(model, "attractor_boundary")
    step = closed_loop(net, u)
    like = start_states(net, u)
    low, high = (_as_states(x, like, name) for x, name in ((first, "first"), (second, "second")))
    ends = run(step, torch.cat([low, high]), whole_number("steps", steps))[:, -1]
    if float((ends[1] - ends[0]).norm()) <= APART * float(ends.norm()):
        raise ValueError("first and second must end at different attractors; both end at one place")
    for _ in range(BITS):
        middle = (low + high) / 2
        end = run(step, middle, steps)[:, -1]
        if float((end - ends[0]).norm()) < float((end - ends[1]).norm()):
            low = middle
        else:
            high = middle
    return ((low + high) / 2)[0]


def _as_states(states: Any, like: Tensor, name: str) -> Tensor:
    """States (N, S), or a ValueError."""
    rows = torch.as_tensor(states, dtype=torch.float64)
    rows = rows.unsqueeze(0) if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != like.shape[1] or not bool(rows.isfinite().all()):
        raise ValueError(f"{name} must be finite states with {like.shape[1]} entries, got shape {tuple(rows.shape)}")
    return rows


def _unit(states: Tensor) -> Tensor:
    return torch.eye(states.shape[1], dtype=states.dtype)


def _spread(step: Map, begin: Tensor, seed: int | None, n_steps: int = 32) -> Tensor:
    """States between random ones and the attractors they move to: the i-th after i mod 32 steps if it got so far."""
    first = begin + torch.randn(begin.shape, generator=generator(seed), dtype=begin.dtype)
    rows = torch.arange(len(begin))
    moved = run(step, first, n_steps - 1)[rows, rows % n_steps]
    return torch.where(moved.norm(dim=-1, keepdim=True).isfinite(), moved, first)


def _descend(step: Map, states: Tensor, size: float) -> Tensor:
    """Levenberg-Marquardt on |F(h) - h|^2 / 2, a damping for each start, until it is at rest or cannot go down."""
    states, unit = states.clone(), _unit(states)
    residual = step(states) - states
    damping = torch.ones(len(states), dtype=states.dtype)
    for _ in range(STEPS):
        moving = (residual.norm(dim=-1) > 1e-3 * AT_REST * size) & (damping < STUCK)
        rows = moving.nonzero().flatten()
        if not len(rows):
            break
        slope = jacobian(step, states[rows]) - unit
        curvature = slope.mT @ slope
        gradient = (slope.mT @ residual[rows].unsqueeze(-1)).squeeze(-1)
        lift = damping[rows] * curvature.diagonal(dim1=-2, dim2=-1).mean(-1)
        move, _ = torch.linalg.solve_ex(curvature + lift[:, None, None] * unit, -gradient)
        tried = states[rows] + torch.where(move.isfinite(), move, 0.0)
        rest = step(tried) - tried
        better = rest.norm(dim=-1) < residual[rows].norm(dim=-1)
        states[rows] = torch.where(better.unsqueeze(-1), tried, states[rows])
        residual[rows] = torch.where(better.unsqueeze(-1), rest, residual[rows])
        damping[rows] = torch.where(better, damping[rows] / 10, damping[rows] * 4)
    return states


def _distinct(points: Tensor, distance: float) -> Tensor:
    """The points that are farther than `distance` from all that come before them."""
    kept: list[Tensor] = []
    for point in points:
        if all(float((point - other).norm()) > distance for other in kept):
            kept.append(point)
    return torch.stack(kept) if kept else points[:0]


def _by_size(values: Tensor) -> Tensor:
    """Eigenvalues (..., S), the largest modulus first."""
    return values.gather(-1, values.abs().argsort(-1, descending=True))


def _described(states: Tensor, residuals: Tensor, matrices: Tensor) -> FixedPoints:
    values = _by_size(torch.linalg.eigvals(matrices))
    largest = values.abs().amax(-1) if values.shape[-1] else residuals.new_zeros(len(states))
    order = largest.argsort()
    found = FixedPoints(states, residuals, matrices, values, largest < 1 - MARGIN)
    return FixedPoints(*(field[order] for field in found))
