"""How certain fitted parameters are: standard errors from the observed information.

    theta                        the free stored numbers: K - 1 per row of probabilities, triangles of factors
    I = - d2 log p(y) / d theta2   central differences of the exact gradient, Richardson-extrapolated
    Cov(theta) = I^-1,   Cov(public) = J I^-1 J',   J = d public / d theta          (the delta method)

Steps are shares of each entry's own standard error 1 / sqrt(I_ii), so units do not matter. What has no standard
error says why in the column `status`:

| status             | means                                                                                     |
|--------------------|-------------------------------------------------------------------------------------------|
| "at the boundary"  | moving the entry onto the edge of its set costs next to no log p(y); it is held there     |
| "held"             | nothing to estimate: a structural zero, or a row with a single possible outcome           |
| "not identified"   | y says nothing about it: it moves along a direction of zero information                   |
| "not a maximum"    | log p(y) curves upwards somewhere: the parameters are no maximum of it                    |

`transition_weights` are told only up to a constant per row and input. They are given as differences to the row's most
probable move at u = 0, whose own are held at 0: changes of log-odds per unit of the input.

Entries at the boundary are held when the others get theirs. Intervals lie inside the parameter's set: they are
symmetric in the logarithm of positive quantities, in the log-odds of probabilities, otherwise in the value.

References: Efron and Hinkley (1978), Biometrika 65 (observed information); Zucchini and MacDonald, Hidden Markov
Models for Time Series (2009), sec. 3.6 (boundaries); Lehmann and Casella, Theory of Point Estimation, 2nd ed.
(1998), sec. 6.5 (delta method).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq import parameters as P
from probseq.base import StateSpaceModel
from probseq.evaluation.information import FACTORS, Block, Curvature
from probseq.learning.problem import one_thread
from probseq.parameters import freeze

SHARES = (P.simplex, P.probability)


def standard_errors(
    model: StateSpaceModel[Any],
    y: Any,
    u: Any = None,
    *,
    lengths: Any = None,
    fixed: Iterable[str] = (),
    level: float = 0.95,
) -> Any:
    """A pandas table by parameter entry: `estimate`, `standard_error`, `lower`, `upper`, `status`.

    `lower` and `upper` bound an interval of probability `level`.
    The model must be at a maximum of log p(y); `fixed` names parameters that the fit held. Warns where the
    information is singular or the maximum is not reached, and leaves NaN with a reason in `status`.
    """
    import pandas as pd

    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}")
    data = model._door(y, u, lengths, least=1).flat()
    fixed = {fixed} if isinstance(fixed, str) else set(fixed)
    with freeze(model, fixed | model._unidentified(data)), one_thread():
        curvature = Curvature.at(model, data)
        rows = [row for block in curvature.blocks for row in _public(block, curvature, level)]
    columns = ["parameter", "estimate", "standard_error", "lower", "upper", "status"]
    table = pd.DataFrame(rows, columns=columns).set_index("parameter")
    table.attrs["distance"] = curvature.distance
    return table


def _public(block: Block, curvature: Curvature, level: float) -> list[tuple[str, float, float, float, float, str]]:
    """One row per entry of a parameter; of symmetric matrices the lower triangle."""
    raw = block.raw.detach()
    with torch.enable_grad():
        jacobian: Any = torch.autograd.functional.jacobian(block.value, raw)
    value = block.value(raw)
    jacobian = jacobian.reshape(value.numel(), -1)[:, block.free.flatten()]
    held = curvature.held[block.place]
    moved = jacobian * curvature.scale[block.place]
    wide = moved.new_zeros(len(moved), len(curvature.held))
    wide[:, block.place] = moved
    errors, status = _errors(wide[:, ~curvature.held], curvature)
    status = _edges(block, held, jacobian, status)
    only_held = (moved[:, ~held] == 0).all(-1).tolist()  # the last outcome of a row is as sure as the others are not
    status = [
        "at the boundary" if lone and word != "held" else word for lone, word in zip(only_held, status, strict=True)
    ]
    rows: list[tuple[str, float, float, float, float, str]] = []
    for n, index in enumerate(np.ndindex(*value.shape)):
        if block.constraint in FACTORS and _redundant(index, float(value[index]), jacobian[n]):
            continue
        estimate, error = float(value[index]), float(errors[n]) if not status[n] else np.nan
        low, high = _interval(_kind(block, index), estimate, error, level)
        label = f"{block.name}[{', '.join(map(str, index))}]" if index else block.name
        rows.append((label, estimate, error, low, high, status[n]))
    return rows


def _errors(jacobian: Tensor, curvature: Curvature) -> tuple[Tensor, list[str]]:
    """Standard errors of functions with these derivatives in the scaled free entries, and why there are none."""
    if not curvature.maximum:
        return jacobian.new_full((len(jacobian),), torch.nan), ["not a maximum"] * len(jacobian)
    size = jacobian.square().sum(-1)
    lost = (jacobian @ curvature.null).square().sum(-1) > 1e-6 * size
    variance = torch.einsum("ni,ij,nj->n", jacobian, curvature.cov, jacobian)
    return variance.clamp(min=0).sqrt(), ["not identified" if one else "" for one in lost.tolist()]


def _edges(block: Block, held: Tensor, jacobian: Tensor, status: list[str]) -> list[str]:
    """Mark what stands at a boundary, and what nothing free moves."""
    raw = block.raw.detach()
    edge = torch.zeros_like(block.free)
    edge[block.free] = held
    if block.constraint is not P.simplex:  # zeros in there are structural
        edge = edge | ~torch.isfinite(raw)
    still = "at the boundary" if block.constraint is P.semidefinite else "held"
    value = block.value(raw)
    if block.constraint in FACTORS or not edge.ndim or len(edge) in (1, len(value)):
        marked = _on_value(block, edge).flatten().tolist()
    else:  # shared by groups: an entry is at its edge if the number that it follows in proportion is
        marked = (jacobian[:, held].abs() > value.abs().reshape(-1, 1) / 2).any(-1).tolist()
    inert = (jacobian == 0).all(-1).tolist()
    return [
        "at the boundary" if at_edge else still if is_inert else old
        for at_edge, is_inert, old in zip(marked, inert, status, strict=True)
    ]


def _on_value(block: Block, edge: Tensor) -> Tensor:
    """Marks on stored numbers as marks on the public value: of a matrix, on its diagonal."""
    raw = block.raw.detach()
    value = block.value(raw)
    if block.constraint not in FACTORS:
        return edge.expand_as(value)
    if not block.is_factor():
        return torch.diag_embed(edge.expand(value.shape[:-1]))
    if block.constraint is P.semidefinite:  # a variance that other columns of the factor carry is not at its edge
        own = raw.diagonal(dim1=-2, dim2=-1).square()
        edge = edge & torch.diag_embed(own >= value.diagonal(dim1=-2, dim2=-1) / 2)
    return (edge & torch.eye(raw.shape[-1], dtype=torch.bool)).expand_as(value)


def _redundant(index: tuple[int, ...], value: float, jacobian: Tensor) -> bool:
    """The upper triangle of a symmetric matrix, and zeros that its type fixes."""
    return index[-2] < index[-1] or (index[-2] != index[-1] and value == 0 and bool((jacobian == 0).all()))


def _kind(block: Block, index: tuple[int, ...]) -> str:
    if block.constraint in SHARES:
        return "share"
    positive = block.constraint is P.nonnegative or (block.constraint in FACTORS and index[-1] == index[-2])
    return "positive" if positive else "real"


def _interval(kind: str, estimate: float, error: float, level: float) -> tuple[float, float]:
    """A central interval inside the set, by the delta method for log(x) or log(x / (1 - x))."""
    from scipy.special import ndtri

    if not error >= 0:
        return np.nan, np.nan
    away = float(ndtri(0.5 + level / 2)) * error
    if kind == "positive" and estimate > 0:
        factor = np.exp(away / estimate)
        return estimate / factor, estimate * factor
    if kind == "share" and 0 < estimate < 1:
        centre, width = np.log(estimate) - np.log1p(-estimate), away / (estimate * (1 - estimate))
        low, high = (1 / (1 + np.exp(-(centre + sign * width))) for sign in (-1, 1))
        return float(low), float(high)
    return estimate - away, estimate + away
