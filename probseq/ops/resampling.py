"""Resampling: from weighted particles to equally weighted ones, unbiasedly.

Whatever the scheme, particle k gets N w_k copies on average, and that is all that the unbiasedness of a particle
filter's likelihood asks for. The schemes differ in how far a single count strays from its mean: `multinomial` the
most, then `residual` and `stratified`, `systematic` by less than one copy.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probseq.kernels import resampling as kernel
from probseq.ops.modes import array_of

Scheme = Literal["systematic", "stratified", "multinomial", "residual"]
SCHEMES: tuple[str, ...] = get_args(Scheme)


@torch.no_grad()
def ancestors(
    weights: Float[Tensor, "*batch particle"],
    uniforms: Float[Tensor, "*batch particle"],
    scheme: Scheme = "systematic",
) -> Int[Tensor, "*batch particle"]:
    """Indices of the particles to go on from, given independent uniforms in [0, 1).

    Satisfies E[#(ancestors == k)] == N weights[k] / sum(weights). `systematic` reads the first uniform only.
    """
    size = weights.shape[-1]
    rows, drawn = weights.reshape(-1, size), uniforms.reshape(-1, size)
    chosen = torch.empty(rows.shape, dtype=torch.int64)
    if scheme == "residual":
        kernel.residual(array_of(rows), array_of(drawn), chosen.numpy())
    else:
        kernel.invert(array_of(rows), array_of(_points(drawn, scheme)), chosen.numpy())
    return chosen.reshape(weights.shape)


@torch.no_grad()
def origins(
    log_weights: Float[Tensor, "batch particle"],
    moved: Float[Tensor, "batch particle state"],
    reached: Float[Tensor, "batch path state"],
    free: Bool[Tensor, " batch"],
    uniforms: Float[Tensor, "batch path"],
) -> Int[Tensor, "batch path"]:
    """Draw the particle that every path came from: k in proportion to W_k N(reached; moved_k, I), or W_k where `free`.

    One step of backward simulation (Godsill, Doucet and West 2004), in units of the transition noise.
    """
    chosen = torch.empty(uniforms.shape, dtype=torch.int64)
    ends = (array_of(moved), array_of(reached))
    kernel.trace(array_of(log_weights), *ends, array_of(free), array_of(uniforms), chosen.numpy())
    return chosen


def _points(uniforms: Tensor, scheme: Scheme) -> Tensor:
    """Sorted points in [0, 1) at which the cumulative weights are inverted."""
    if scheme == "multinomial":
        return uniforms.sort(-1).values
    size = uniforms.shape[-1]
    inside = uniforms[:, :1] if scheme == "systematic" else uniforms
    return (torch.arange(size, dtype=uniforms.dtype) + inside) / size
