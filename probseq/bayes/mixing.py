"""Distributions of one kind with different parameters, stacked along a new last batch axis."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D


def stacked(parts: list[Any], n_batch: int) -> Any:
    """One distribution whose batch shape is that of each of `parts` (`n_batch` axes) and one more, over the parts."""
    first = parts[0]
    if isinstance(first, D.Independent):
        inner = stacked([part.base_dist for part in parts], n_batch)
        return D.Independent(inner, first.reinterpreted_batch_ndims, validate_args=False)
    if isinstance(first, D.MixtureSameFamily):
        weights = stacked([part.mixture_distribution for part in parts], n_batch)
        components = stacked([part.component_distribution for part in parts], n_batch)
        return D.MixtureSameFamily(weights, components, validate_args=False)
    if isinstance(first, D.MultivariateNormal):
        factors = _along([part.scale_tril for part in parts], n_batch)
        return D.MultivariateNormal(
            _along([part.loc for part in parts], n_batch), scale_tril=factors, validate_args=False
        )
    names = [name for name in type(first).arg_constraints if name in vars(first)]
    if "probs" in names and "logits" in names:
        names.remove("probs")
    if not names:
        raise ValueError(f"forecasts of the kind {type(first).__name__} cannot be mixed over draws")
    return type(first)(**{name: _values(parts, name, n_batch) for name in names}, validate_args=False)


def _values(parts: list[Any], name: str, n_batch: int) -> Any:
    values = [getattr(part, name) for part in parts]
    return _along(values, n_batch) if isinstance(values[0], Tensor) and values[0].ndim >= n_batch else values[0]


def _along(values: list[Tensor], n_batch: int) -> Tensor:
    return torch.stack(values, n_batch)
