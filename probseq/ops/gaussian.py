"""The log-density table of Gaussian states as one differentiable torch function."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probseq.kernels import gaussian as kernel
from probseq.kernels import state_densities as densities
from probseq.kernels.rows import width_of
from probseq.ops import memory
from probseq.ops.modes import OnceDifferentiable, array_of, operator, untracked
from probseq.ops.threads import WORTHWHILE, group, n_groups, over_blocks


def log_prob(
    rows: Float[Tensor, "row coord"],
    means: Float[Tensor, "state coord"],
    whitener: Float[Tensor, "state coord coord"],
    diagonal: bool = False,
) -> Float[Tensor, "row state"]:
    """log N(rows[n]; means[k], (W_k' W_k)^-1) with W lower triangular; differentiable once in rows, means and W.

    With `diagonal` only the diagonals of W are read (and get gradients).
    """
    if untracked(rows, means, whitener):
        return _value.run(rows, means, whitener, diagonal, False)
    data_alone = type(rows) is Tensor and not rows.requires_grad and not torch._C._are_functorch_transforms_active()
    return _differentiable(rows, means, whitener, diagonal, not data_alone)


def table_of(rows: Tensor, means: Any, stored: Any, diagonal: bool) -> Tensor:
    """`log_prob` of rows (*batch, D) without derivatives; means (K, D) and covariances as `Gaussian` stores them."""
    whitener = np.empty((*means.shape, means.shape[1]))
    (kernel.invert_variances if diagonal else kernel.invert_factors)(stored, whitener)
    table = _table(array_of(rows).reshape(-1, means.shape[1]), means, whitener, diagonal)
    return torch.from_numpy(table.reshape(*rows.shape[:-1], len(means)))


@torch.no_grad()
def scatter(
    rows: Float[Tensor, "row coord"],
    seen: Bool[Tensor, "row coord"] | None,
    means: Float[Tensor, "state coord"],
    weights: Float[Tensor, "row state"],
    diagonal: bool = False,
) -> Float[Tensor, "state coord coord"]:
    """sum_n weights[n, k] (x_n - mu_k)(x_n - mu_k)', only its diagonal when `diagonal`; what is not seen counts 0."""
    return torch.from_numpy(_moments(rows, seen, means, weights, diagonal)[2])


def _moments(rows: Tensor, seen: Tensor | None, means: Tensor, weights: Tensor, diagonal: bool) -> tuple[Any, Any, Any]:
    """Sums over n of w, w (x - mu) and w (x - mu)(x - mu)': (K,), (K, D), (K, D, D); in threads over the rows."""
    mask = _ALL_SEEN if seen is None else array_of(seen.to(torch.float64))
    sums = _sums(array_of(rows), mask, array_of(means), array_of(weights), diagonal)
    mass, away_sum, total = (one.sum(0) for one in sums)
    return mass, away_sum, total + np.tril(total, -1).swapaxes(-1, -2)


Moments = tuple[Any, Any, Any]  # (G, K), (G, K, D), (G, K, D, D): w, w (x - mu), w (x - mu)(x - mu)', lower triangle


def _sums(data: Any, mask: Any, centres: Any, w: Any, diagonal: bool) -> Moments:
    """The parts of `_moments` by group of rows, the last one's lower triangle alone."""
    n, (k, d) = data.shape[0], centres.shape
    n_operations = n * k * d * (d + 1) // 2
    groups = n_groups(n) if n_operations >= WORTHWHILE else 1
    plain = d <= densities.WIDEST and not (mask.size or diagonal)
    sums = () if plain else (np.zeros((groups, k)), np.zeros((groups, k, d)), np.zeros((groups, k, d, d)))
    size = densities.ZEROS[: min(width_of(k), 8)]
    kind = densities.ZEROS[: densities.GAUSSIAN + d - 1]
    packed = np.zeros((groups, -(-k // len(size)), densities.n_sums(kind, 0), len(size)) if plain else (0, 0, 0, 0))

    def run(block: slice) -> None:
        first, last = (0, 0) if groups == 1 else (group(block.start, n), group(block.stop - 1, n))
        if plain:
            densities.moments(size, kind, first, last, data[None], w, centres, packed)
        else:
            kernel.scatter_groups(first, last, groups, data, mask, centres, w, diagonal, *sums)

    over_blocks(run, n, n_operations)
    return unpacked(packed, centres) if plain else sums  # type: ignore[return-value]


def unpacked(packed: Any, means: Any) -> Moments:
    """Moments about the means from what `state_densities.collect` added up, in one group."""
    k, d = means.shape
    made = np.empty((1, k)), np.empty((1, k, d)), np.zeros((1, k, d, d))
    densities.unpack_moments(packed, *(array[0] for array in made))
    return made


def maximise(moments: Moments, means: Any, stored: Any, share: float, data: Any = None, w: Any = None) -> Any:
    """Weighted means (K, D) and factors (K, D, D) of complete rows, or one factor for all, as emissions store them.

    From moments about the means given, or those of `data` weighted by w. A state without mass keeps its own. None where
    a variance would fall below `share` of that of the rows, or digits would be lost and there are no data.
    """
    means, stored = means.copy(), stored.copy()
    mass, _, total = moments
    if not kernel.recentre(*moments, means):
        if data is None:
            return None
        total = _sums(data, _ALL_SEEN, means, w, False)[2].sum(0, keepdims=True)
    return (means, stored) if kernel.store_factors(total[0], mass[0], means, share, stored) else None


def moments(data: Any, w: Any, means: Any) -> Moments:
    """Moments of complete rows weighted by w (N, K)."""
    return _sums(data, _ALL_SEEN, means, w, False)


def pull_stored(sums: Moments, means: Any, stored: Any) -> tuple[Any, Any]:
    """The derivatives of sum(w * table) in means and factors as emissions store them, from moments about the means."""
    into_means, into_stored = np.empty(means.shape), np.zeros(stored.shape)
    kernel.pull_stored(*sums, stored, into_means, into_stored)
    return into_means, into_stored


_ALL_SEEN = np.zeros((0, 0))
_INPUTS = "Tensor rows, Tensor means, Tensor whitener, bool diagonal, bool pulls_rows"


def _shape_of_value(rows: Tensor, means: Tensor, *_: Any) -> Tensor:
    return rows.new_empty(rows.shape[0], means.shape[0])


@operator("gaussian_log_prob", f"({_INPUTS}) -> Tensor", _shape_of_value)
def _value(rows: Tensor, means: Tensor, whitener: Tensor, diagonal: bool, pulls_rows: bool) -> Tensor:
    """The table (N, K)."""
    return torch.from_numpy(_table(array_of(rows), array_of(means), array_of(whitener), diagonal))


def _table(rows: Any, means: Any, whitener: Any, diagonal: bool) -> Any:
    n, (k, d) = rows.shape[0], means.shape
    table = memory.empty("table", (n, k))
    over_blocks(partial(_fill, rows, means, whitener, diagonal, table), n, n * k * d * (d + 1) // 2)
    return table


def _fill(rows: Any, means: Any, whitener: Any, diagonal: bool, table: Any, block: slice) -> None:
    kernel.forward(rows[block], means, whitener, diagonal, table[block])


def _shapes_of_adjoint(weight: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(argument.new_empty(argument.shape) for argument in arguments[:3])


@operator("gaussian_log_prob_backward", f"(Tensor weight, {_INPUTS}) -> (Tensor, Tensor, Tensor)", _shapes_of_adjoint)
def _adjoint(
    weight: Tensor, rows: Tensor, means: Tensor, whitener: Tensor, diagonal: bool, pulls_rows: bool
) -> tuple[Tensor, ...]:
    """Gradients of sum(weight * table) in rows (0 unless `pulls_rows`), means and whitener, from weighted moments.

    With mass m, first moment a and second moment S about the mean: W'W a in the mean, diag(m / W) - W S in W.
    """
    mass, away_sum, total = _moments(rows, None, means, weight, diagonal)
    w, into_rows = array_of(whitener), np.zeros(rows.shape)
    if diagonal:
        w = w * np.eye(w.shape[-1])
    into_whitener = -np.tril(w @ total)
    places = np.arange(w.shape[-1])
    if diagonal:
        into_whitener *= np.eye(w.shape[-1])
    into_whitener[:, places, places] += mass[:, None] / w[:, places, places]
    into_means = np.einsum("kba,kbc,kc->ka", w, w, away_sum)
    if pulls_rows:
        kernel.pull_rows(array_of(rows), array_of(means), w, diagonal, array_of(weight), into_rows)
    return torch.from_numpy(into_rows), torch.from_numpy(into_means), torch.from_numpy(into_whitener)


_differentiable = OnceDifferentiable("Gaussian log-density", _value, _adjoint, n_inputs=3, kept=(0, 1, 2, 3, 4))
