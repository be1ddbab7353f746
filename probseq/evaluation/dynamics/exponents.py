"""How fast neighbours part and how long a state remembers: Lyapunov exponents, time scales, mixing times.

    Z = J_t Q_t;  Q_{t+1} R_t = Z (QR);    exponent_i = lim 1/T sum_t log |R_t[i, i]|           (per step)

A negative largest exponent means that the start is forgotten (a driven network has echo states), zero an oscillation,
a positive one chaos. Of a linear system they are the logarithms of the moduli of its eigenvalues; of a hidden Markov
model those of its transition matrix on differences of probabilities, the second eigenvalue first.

Benettin, G., Galgani, L., Giorgilli, A. & Strelcyn, J.-M. (1980). Lyapunov characteristic exponents for smooth
    dynamical systems. Meccanica 15. Engelken, R., Wolf, F. & Abbott, L. (2023). Lyapunov spectra of chaotic recurrent
    neural networks. Physical Review Research 5 (the driven and the autonomous spectrum).
Levin, D., Peres, Y. & Wilmer, E. (2009). Markov chains and mixing times, sec. 4.5 and 12.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probseq.beliefs import at
from probseq.checks import whole_number
from probseq.evaluation.dynamics.fixed_points import fixed_points
from probseq.evaluation.dynamics.maps import (
    closed_loop,
    driven,
    jacobian,
    linear_map,
    network,
    run,
    same_length,
    start_states,
)
from probseq.models.hmm import HMM
from probseq.stationary import stationary_law

#: entries of the Jacobians that are held at a time
CHUNK = 4_000_000


class TimeScales(NamedTuple):
    """Of each mode, the slowest first: `multipliers` (S,) complex, per step; `decay` -1 / log |m|, the steps to fall by
    a factor e (negative where it grows); `period` 2 pi / |arg m|, in steps, infinite without oscillation."""

    multipliers: Tensor
    decay: Tensor
    period: Tensor


@torch.no_grad()
def lyapunov_exponents(
    model: Any,
    y: Any = None,
    u: Any = None,
    *,
    n_exponents: int | None = None,
    steps: int = 2000,
    washout: int | None = None,
) -> Tensor:
    """The exponents in descending order, (*batch, n), in nats per step.

    With y those of the network driven by data (and inputs u), how fast it forgets its start; without y those of its
    closed loop, the mean fed back and `u` (P,) held, over `steps` steps. The first `washout` steps, a tenth unless
    given, turn the axes and are not counted. An LDS or HMM needs no data: y is not used.
    """
    exact = linear_map(model, u if y is None else None)
    if exact is not None:
        values = torch.linalg.eigvals(exact.matrix).abs().log().sort(descending=True).values
        return values[:n_exponents]
    net = network(model, "lyapunov_exponents")
    if y is None:
        matrices, total, shape, size = _closed(net, u, whole_number("steps", steps)), steps, (), start_states(net, u)
    else:
        sequences = net._door(y, u, None, least=1)
        flat = same_length(sequences)
        matrices, total, shape = _along(net, flat), flat.n_steps - 1, sequences.batch_shape
        size = net.initial_belief((len(flat.values),), None if flat.inputs is None else flat.inputs[:, 0]).state
        if total < 1:
            raise ValueError("y must have at least two steps, got one")
    n = size.shape[1] if n_exponents is None else min(whole_number("n_exponents", n_exponents), size.shape[1])
    skipped = total // 10 if washout is None else whole_number("washout", washout, least=0)
    if skipped >= total:
        raise ValueError(f"washout must leave some of the {total} steps, got {skipped}")
    return _spectrum(matrices, len(size), size.shape[1], n, skipped, total).reshape(*shape, n)


def _spectrum(matrices: Iterator[Tensor], batch: int, size: int, n: int, skipped: int, total: int) -> Tensor:
    axes = torch.eye(size, dtype=torch.float64)[:, :n].expand(batch, size, n)
    logs = torch.zeros(batch, n, dtype=torch.float64)
    for t, matrix in enumerate(matrices):
        axes, triangle = torch.linalg.qr(matrix @ axes)
        if t >= skipped:
            logs = logs + triangle.diagonal(dim1=-2, dim2=-1).abs().log()
    return (logs / (total - skipped)).sort(-1, descending=True).values


def _closed(net: Any, u: Any, steps: int) -> Iterator[Tensor]:
    """The Jacobians (1, S, S) of the closed loop from its start."""
    step = closed_loop(net, u)
    path = run(step, start_states(net, u), steps - 1)[0]
    for states in path.split(max(1, CHUNK // path.shape[1] ** 2)):
        yield from jacobian(step, states).unsqueeze(1)


def _along(net: Any, flat: Any) -> Iterator[Tensor]:
    """The Jacobians (B, S, S) along data."""
    predicted = net._filter(flat, None).predicted
    length = max(1, CHUNK // (predicted.state.shape[0] * predicted.state.shape[2] ** 2))
    for start in range(0, flat.n_steps - 1, length):
        part = flat.steps(start, min(start + length + 1, flat.n_steps))
        yield from driven(net, part, at(predicted, start)).jacobians.unbind(1)


@torch.no_grad()
def time_scales(model: Any, y: Any = None, u: Any = None) -> TimeScales:
    """The time scales of a state: of an LDS or HMM from its eigenvalues, of a network around its most stable fixed
    point, or, with y, from its Lyapunov exponents along the data. ValueError where a network has no fixed point."""
    exact = linear_map(model, u if y is None else None)
    if exact is not None:
        values = torch.linalg.eigvals(exact.matrix)
    elif y is not None:
        exponents = lyapunov_exponents(model, y, u)
        if exponents.ndim > 1:
            raise ValueError(f"y must be one sequence, got a batch of {exponents.shape[0]}")
        values = exponents.exp().to(torch.complex128)
    else:
        points = fixed_points(model, u, seed=0)
        if not len(points.states):
            raise ValueError("this network has no fixed point to linearise around: pass y")
        values = points.eigenvalues[0]
    values = values.gather(-1, values.abs().argsort(descending=True))
    return TimeScales(values, -1 / values.abs().log(), 2 * math.pi / values.angle().abs())


@torch.no_grad()
def mixing_time(model: HMM, u: Any = None, *, threshold: float = 0.25) -> float:
    """The steps until, from every state, the chain is within `threshold` of its stationary law in total variation.

    Infinite for a chain that is periodic. ValueError where the stationary law is not unique.
    """
    if not isinstance(model, HMM):
        raise TypeError(f"mixing_time is for an HMM, got a {type(model).__name__}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold!r}")
    exact = linear_map(model, u)
    assert exact is not None
    moves = model._log_moves(None if u is None else torch.as_tensor(u, dtype=torch.float64).reshape(-1)).exp()
    law = stationary_law(moves)

    def distance(power: Tensor) -> float:
        return float(0.5 * (power - law).abs().sum(-1).max())

    powers = [moves]  # A, A^2, A^4, ...
    while distance(powers[-1]) > threshold:
        if len(powers) > 60:
            return math.inf
        powers.append(powers[-1] @ powers[-1])
    steps, power = 0, torch.eye(len(moves), dtype=moves.dtype)
    if distance(power) <= threshold:
        return 0
    for k in range(len(powers) - 1, -1, -1):  # the largest number of steps that is not enough
        further = power @ powers[k]
        if distance(further) > threshold:
            steps, power = steps + 2**k, further
    return steps + 1
