"""Where a fit of a linear dynamical system starts: subspace identification.

    past_t = (y_{t-1}, u_{t-1}, ..., y_{t-h}, u_{t-h})      future_t = (y_t, ..., y_{t+h-1})
    s_t = J past_t                                          the n leading canonical directions towards the future
    y_t = C s_t + D' u_t + e_t,   s_{t+1} = A s_t + B' u_t + K e_t          regressions on the states found

What future inputs explain is taken off past and future first, so that driven and free motion do not mix. s_t is the
state that is predicted before u_t acts, hence B = A^-1 B' and D = D' - C B here, where u_t moves z_t itself. The noise
follows from the gain: with Lambda = Cov(e) and W = P C' = A^-1 K Lambda, R = Lambda - C W and Q = P - A P A' +
K Lambda K' for the P of least rank with P C' = W, damped where C W is small and cut to positive semidefinite.

Sequences of any lengths add up in the moments; gaps are filled by straight lines, and the past before a beginning by
the mean. Of such starts, more and less damped, and one whose states are plain delay coordinates, the most probable is
taken. Where the matrices of the motion are given, only the size of the noise is searched.

References: Larimore (1990), Proc. 29th IEEE CDC (canonical variates); Van Overschee and De Moor, Subspace
Identification for Linear Systems (1996), ch. 4; Katayama, Subspace Methods for System Identification (2005), ch. 8.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from probseq.errors import SingularInnovation, StateOverflow
from probseq.models.normal import symmetric
from probseq.parameters import Snapshot
from probseq.randomness import generator
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from probseq.models.lds import LDS

#: the least variance of a start, relative to the variance of the data or states
FLOOR = 0.01
#: lengths of the windows, at least twice what the states need, and how the noise is damped
HORIZONS, DAMPINGS = (4, 12), (0.1, 0.4, 0.0)
#: how often gaps are filled anew by the best start there is
PASSES = 3
#: most numbers in a window of the past
WIDEST = 300
#: noise levels tried where the motion is given, relative to the variance of the data
LEVELS = (1e-3, 1e-2, 0.1, 0.5)


def start(model: LDS, sequences: Sequences, seed: int) -> None:
    """Set the free parameters of the model to the most probable of the starts."""
    before = model.snapshot()
    best, most = _most_probable(model, sequences, _filled(sequences), seed)
    gaps = not sequences.complete and not _motion_is_given(model)
    for _ in range(PASSES if gaps and most > -float("inf") else 0):
        again, higher = _most_probable(model, sequences, _expected(model, sequences), seed, before)
        if not higher > most:
            break
        best, most = again, higher
    model.restore(best)


def _most_probable(
    model: LDS, sequences: Sequences, filled: Tensor, seed: int, before: Snapshot | None = None
) -> tuple[Snapshot, float]:
    """The best of the candidates from values without gaps, where the model is left, and its log-probability."""
    before = model.snapshot() if before is None else before
    best, most = None, -float("inf")
    for candidate in _candidates(model, _Data.of(sequences, filled), seed):
        model.restore(before)
        _assign(model, candidate)
        try:
            score = float(model._log_prob(sequences).sum())
        except (SingularInnovation, StateOverflow):
            score = -float("inf")
        if best is None or score > most:
            best, most = model.snapshot(), score
    assert best is not None
    model.restore(best)
    return best, most


def _expected(model: LDS, sequences: Sequences) -> Tensor:
    """Values with each gap filled by what the smoothed states say."""
    offset = model.emission_offset_at(sequences.inputs)
    expected = model._smooth(sequences).mean @ model.emission_matrix.mT
    return torch.where(sequences.observed, sequences.values, expected if offset is None else expected + offset)


def _motion_is_given(model: LDS) -> bool:
    return model.is_frozen("transition_matrix") or model.is_frozen("emission_matrix")


def _assign(model: LDS, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        param = model.params()[name]
        restricted = getattr(param, "restricted", None)
        model.assign(**{name: value if restricted is None else restricted(model, value)})


class _Data(NamedTuple):
    """Centred values (B, T, m) and inputs (B, T, p) without gaps, their means, and the rows inside, (B, T)."""

    y: Tensor
    u: Tensor
    y_mean: Tensor
    u_mean: Tensor
    inside: Tensor

    @classmethod
    def of(cls, sequences: Sequences, y: Tensor) -> _Data:
        inside = sequences.inside
        u = y.new_zeros(*y.shape[:2], 0) if sequences.inputs is None else sequences.inputs
        y_mean, u_mean = y[inside].mean(0), u[inside].mean(0)
        return cls((y - y_mean) * inside.unsqueeze(-1), (u - u_mean) * inside.unsqueeze(-1), y_mean, u_mean, inside)


def _candidates(model: LDS, data: _Data, seed: int) -> list[dict[str, Tensor]]:
    n, order = model.state_dim, -(-model.state_dim // model.obs_dim)
    found = [_system(_delay_states(data, n, seed), data, n, 0.0)]
    if _motion_is_given(model):
        return [*found, *_noise_levels(model, found[0], data)]
    for horizon in sorted({max(2 * order + 1, least) for least in HORIZONS}):
        states = _subspace_states(data, n, horizon, seed if model.started else None)
        if states is not None:
            found += [_system(states, data, n, damping) for damping in DAMPINGS]
    return found


def _noise_levels(model: LDS, delay: dict[str, Tensor], data: _Data) -> list[dict[str, Tensor]]:
    """Noise in the state and in the emission of several sizes, in the directions and units of a given motion."""
    emission = model.emission_matrix if model.is_frozen("emission_matrix") else delay["emission_matrix"]
    emission = (
        emission.square().mean(0).sqrt() if emission.ndim == 3 else emission
    )  # of one that varies, the usual size
    power = data.y[data.inside].square().mean()
    reach = emission.square().sum(0)
    unit = torch.where(reach > 0, power / torch.where(reach > 0, reach, 1.0), 0.0)
    typical = unit.sum() / max(int((reach > 0).sum()), 1)
    unit = torch.where(unit > 0, unit, typical)
    if float(power) == 0:
        power, unit = torch.ones_like(power), torch.ones_like(unit)
    rest = {**delay, "emission_matrix": emission, "initial_cov": torch.diag(4 * unit)}
    return [
        {
            **rest,
            "transition_cov": torch.diag(moved * unit),
            "emission_cov": seen * power * torch.eye(len(emission), dtype=emission.dtype),
        }
        for moved, seen in itertools.product(LEVELS, LEVELS)
    ]


# ---- states from data


def _subspace_states(data: _Data, n: int, h: int, seed: int | None) -> Tensor | None:
    """s_0 .. s_T, (B, T + 1, n), in units of about 1; None where the data are too short. A seed perturbs them."""
    m, p = data.y.shape[-1], data.u.shape[-1]
    longest = int(data.inside.sum(-1).max())
    h = max(min(h, longest // 3, WIDEST // (m + p)), -(-n // m) + 1)
    past = _past(data, h)
    rows = data.inside.unfold(1, h, 1).all(-1) if longest >= h else data.inside[:, :0]
    if int(rows.sum()) < 2 * (h * (m + p) + 1):
        return None
    x = past[:, : rows.shape[1]][rows]
    future = data.y.unfold(1, h, 1).flatten(-2)[rows]
    if p:
        ahead = data.u.unfold(1, h, 1).flatten(-2)[rows]
        future, x = future - ahead @ _least_squares(ahead, future), x - ahead @ _least_squares(ahead, x)
    x_root, f_root = _inverse_root(x.mT @ x / len(x)), _inverse_root(future.mT @ future / len(x))
    directions = torch.linalg.svd(f_root @ (future.mT @ x / len(x)) @ x_root)[2][:n] @ x_root
    if seed is not None:
        noise = torch.randn(directions.shape, dtype=x.dtype, generator=generator(seed))
        directions = directions + 0.3 * noise @ x_root
    states = past @ directions.mT
    return torch.nn.functional.pad(states, (0, n - states.shape[-1]))


def _past(data: _Data, h: int) -> Tensor:
    """(y, u) at t - 1, ..., t - h for t = 0 .. T, zero before the beginning, (B, T + 1, h (m + p))."""
    both = torch.nn.functional.pad(torch.cat([data.y, data.u], -1), (0, 0, h, 0))
    return both.unfold(1, h, 1).flip(-1).mT.flatten(-2)


def _delay_states(data: _Data, n: int, seed: int) -> Tensor:
    """Unit-variance coordinates of the windows (y_t, y_{t-1}, ...) in their leading directions, (B, T + 1, n)."""
    lags = max(2, -(-n // data.y.shape[-1]) + 1)
    padded = torch.nn.functional.pad(data.y, (0, 0, lags - 1, 1))
    windows = padded.unfold(1, lags, 1).flip(-1).mT.flatten(-2)
    inside = windows[:, :-1][data.inside]
    _, spread, directions = torch.linalg.svd(inside, full_matrices=False)
    scale = spread[:n] / len(inside) ** 0.5
    largest = scale.max() if scale.numel() else windows.new_tensor(0.0)
    scale = torch.where(scale > 1e-3 * largest, scale, 1e-3 * largest)
    states = windows @ directions[:n].mT / torch.where(scale > 0, scale, 1.0)
    states = torch.nn.functional.pad(states, (0, n - states.shape[-1]))
    return states + 0.1 * torch.randn(states.shape, dtype=states.dtype, generator=generator(seed))


# ---- a system from states


def _system(states: Tensor, data: _Data, n: int, damping: float) -> dict[str, Tensor]:
    """Matrices by regression on states s_0 .. s_T; with damping > 0 these are predicted states, and their gain tells
    the noise, else it is what the regressions leave."""
    m, inside = data.y.shape[-1], data.inside
    now, y, u = states[:, :-1][inside], data.y[inside], data.u[inside]
    pairs = inside[:, 1:] if damping == 0 else inside
    before, after, driven = states[:, :-1][:, : pairs.shape[1]][pairs], states[:, 1:][:, : pairs.shape[1]][pairs], None
    driven = data.u[:, : pairs.shape[1]][pairs]
    weights = _least_squares(torch.cat([before, driven], -1), after).mT
    matrix, drive = weights[:, :n], weights[:, n:]
    seen = _least_squares(torch.cat([now, u], -1), y).mT
    emission, feed = seen[:, :n], seen[:, n:]
    error = y - torch.cat([now, u], -1) @ seen.mT
    residual = after - torch.cat([before, driven], -1) @ weights.mT
    spread, innovation = now.mT @ now / max(len(now), 1), error.mT @ error / max(len(error), 1)
    if damping == 0:
        noise, emission_noise = residual.mT @ residual / max(len(residual), 1), innovation
    else:
        gain = _least_squares(error, residual).mT
        noise, emission_noise = _noise(matrix, emission, gain, innovation, damping)
    limit = 1 - 1 / (1 + int(inside.sum(-1).max()))
    radius = float(torch.linalg.eigvals(matrix).abs().max())
    matrix = matrix * (limit / radius) if radius > limit else matrix
    drive = torch.linalg.lstsq(matrix, drive, driver="gelsd").solution if drive.numel() else drive
    feed = feed - emission @ drive
    eye = torch.eye(n, dtype=matrix.dtype)
    level = torch.linalg.solve(eye - matrix, (drive @ data.u_mean).unsqueeze(-1)).squeeze(-1)
    return {
        "transition_matrix": matrix,
        "transition_cov": _floored(noise, spread),
        "emission_matrix": emission,
        "emission_cov": _floored(emission_noise, y.mT @ y / max(len(y), 1)),
        "initial_mean": level,
        "initial_cov": _floored(spread, spread),
        "transition_offset": torch.zeros(n, dtype=matrix.dtype),
        "emission_offset": data.y_mean - feed @ data.u_mean - emission @ level,
        "transition_input_matrix": drive,
        "emission_input_matrix": feed.reshape(m, -1),
    }


def _noise(matrix: Tensor, emission: Tensor, gain: Tensor, innovation: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Q and R of a system whose one-step predictor has this gain and innovation covariance."""
    root = _semidefinite_root(innovation)
    inverse = torch.linalg.pinv(root)
    reach = torch.linalg.lstsq(matrix, gain @ innovation, driver="gelsd").solution @ inverse.mT
    shares, vectors = torch.linalg.eigh(symmetric(inverse @ emission @ reach))
    reach = reach @ vectors
    cov = (reach / shares.clamp(min=damping)) @ reach.mT
    shares, vectors = torch.linalg.eigh(symmetric(inverse @ emission @ cov @ emission.mT @ inverse.mT))
    inner = root @ vectors
    noise = cov - matrix @ cov @ matrix.mT + gain @ innovation @ gain.mT
    return _positive(noise), symmetric((inner * (1 - shares).clamp(min=0.1)) @ inner.mT)


def _least_squares(x: Tensor, y: Tensor) -> Tensor:
    """W of least norm with x W nearest to y."""
    if len(x) == 0 or x.shape[1] == 0:
        return y.new_zeros(x.shape[1], y.shape[1])
    return torch.linalg.lstsq(x, y, driver="gelsd").solution


def _inverse_root(cov: Tensor) -> Tensor:
    """A symmetric root of the inverse on the range of a covariance."""
    values, vectors = torch.linalg.eigh(cov)
    proper = values > 1e-10 * values[-1]
    return (vectors[:, proper] * values[proper].rsqrt()) @ vectors[:, proper].mT


def _semidefinite_root(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp(min=0).sqrt()


def _positive(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric(cov))
    return symmetric((vectors * values.clamp(min=0)) @ vectors.mT)


def _floored(cov: Tensor, total: Tensor) -> Tensor:
    """A covariance with at least a share FLOOR of the total variance along the diagonal, and 1 where there is none."""
    floor = FLOOR * total.diagonal().mean() if total.numel() else total.new_tensor(1.0)
    return symmetric(cov) + torch.eye(len(cov), dtype=cov.dtype) * (floor if floor > 0 else 1.0)


def _filled(sequences: Sequences) -> Tensor:
    """Values with each gap bridged by a line in time, level beyond the ends; the mean where nothing is seen."""
    import numpy as np

    values, seen = sequences.values.detach(), sequences.observed
    if sequences.complete:
        return values
    mean = (values * seen).sum((0, 1)) / seen.sum((0, 1)).clamp(min=1)
    filled = torch.where(seen, values, mean)
    for b, length in enumerate(sequences.lengths.tolist()):
        for column in range(values.shape[-1]):
            there = seen[b, :length, column].nonzero().squeeze(-1).numpy()
            if 0 < len(there) < length:
                line = np.interp(np.arange(length), there, values[b, there, column].numpy())
                filled[b, :length, column] = torch.as_tensor(line)
    return filled
