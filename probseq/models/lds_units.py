"""Other units for a linear dynamical system: of the data, and of the states.

    s y + b     C -> s C,  R -> s R s,  emission offset -> s offset + b
    f z         A -> f A / f,  C -> C / f,  Q -> f Q f,  initial_mean -> f m,  initial_cov -> f P f

with s and f diagonal. Everything happens in the stored numbers: rows of factors are multiplied, logarithms of variances
moved, so that nothing is factored or checked, and powers of two leave no rounding in factors and matrices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from probseq import parameters as P
from probseq.models.lds_parameters import CovarianceParam

if TYPE_CHECKING:
    from probseq.models.lds import LDS


def rescale(model: LDS, scale: Tensor, shift: Tensor) -> None:
    """Make `model` that of scale * y + shift."""
    rows = scale.unsqueeze(-1)
    _scale(model, "emission_matrix", rows)
    _scale(model, "emission_input_matrix", rows)
    _scale(model, "emission_cov", scale)
    _scale(model, "emission_offset", scale, shift)
    _rescale_priors(model, {"emission_matrix": rows, "emission_input_matrix": rows, "emission_cov": scale})
    _rescale_priors(model, {"emission_offset": scale}, shift)


def rescale_states(model: LDS, factor: Tensor) -> None:
    """Make the state factor * z, in the same law of y."""
    column = factor.unsqueeze(-1)
    factors = {
        "transition_matrix": column / factor,
        "emission_matrix": 1 / factor,
        "transition_input_matrix": column,
        **dict.fromkeys(("transition_cov", "initial_cov", "initial_mean", "transition_offset"), factor),
    }
    for name, own in factors.items():
        _scale(model, name, own)
    if "diffuse_scale" in model._buffers:
        model.get_buffer("diffuse_scale").mul_(factor)
    _rescale_priors(model, factors)


def balancing(model: LDS) -> Tensor:
    """The factors by which one unit of every state moves some observation, now or n steps on, by about one.

    Powers of two: held parameters come back as they were.
    """
    with torch.no_grad():
        response, reach = model.emission_matrix, model.emission_matrix.abs().amax(0)
        for _ in range(model.state_dim - 1):
            response = response @ model.transition_matrix
            reach = torch.maximum(reach, response.abs().amax(0))
    seen = (reach > 0) & torch.isfinite(reach)
    factor = torch.where(seen, torch.where(seen, reach, 1.0).log2().round().exp2(), 1.0)
    if model.transition_covariance == "spherical":
        factor = factor.log2().mean().round().exp2().expand_as(factor)
    return factor


def _scale(model: LDS, name: str, factor: Tensor, shift: Any = 0.0) -> None:
    """Make a parameter factor * value + shift, or a covariance factor * cov * factor', in its stored numbers."""
    stored = model._parameters[f"raw_{name}"]
    if stored is None or name in model.unset:
        return
    param, raw = model.params()[name], stored.detach()
    if param.constraint is not P.semidefinite:
        raw.mul_(factor).add_(shift)
    elif isinstance(param, CovarianceParam) and param.kind(model) != "full":  # logarithms of variances
        raw.add_(2 * factor.abs().log()[: len(raw)])
    else:
        raw.mul_(factor.unsqueeze(-1))


def _rescale_priors(model: LDS, factors: dict[str, Tensor], shift: Tensor | None = None) -> None:
    for name, factor in factors.items():
        if name in model.priors:
            model.priors[name] = model.priors[name].rescaled(factor, torch.zeros(()) if shift is None else shift)
