"""Restricted parameters of a linear dynamical system: structured covariances, stable transitions.

| covariance  | stored                              | value                      |
|-------------|-------------------------------------|----------------------------|
| "full"      | L, lower triangular (d, d)          | L L', any rank             |
| "diag"      | log variances (d,), -inf for zero   | diag(exp)                  |
| "spherical" | log variance (1,), -inf for zero    | exp times the identity     |

A transition matrix under `stable=True` is stored as any matrix X and read as X min(1, INSIDE / radius(X)):
inside the circle nothing changes, and what lies outside is drawn back to it, with exact derivatives.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from probseq import parameters as P
from probseq.models.normal import STABLE
from probseq.parameters import Param, Parametric

Covariance = Literal["full", "diag", "spherical"]

#: the largest spectral radius under `stable=True`: rounding does not take it to STABLE, where a stationary start ends
INSIDE = 2 * STABLE - 1


class Timed(Param):
    """A parameter of an LDS that may vary in time: its value then has a leading time axis."""

    def raw_shape(self, instance: Any) -> tuple[int, ...]:
        steps = instance.varying.get(self.name)
        return super().raw_shape(instance) if steps is None else (steps, *super().raw_shape(instance))


class CovarianceParam(Timed):
    """A covariance whose type is the attribute `<stem>_covariance` of the model; always read as a full matrix."""

    def __init__(self, size: str) -> None:
        super().__init__(P.semidefinite, size, size)

    def kind(self, instance: Any) -> Covariance:
        return getattr(instance, self.name.replace("_cov", "_covariance"))

    def raw_shape(self, instance: Parametric) -> tuple[int, ...]:
        shape = self.value_shape(instance)
        if self.kind(instance) != "full" and len(shape) > 2:
            raise ValueError(f"{self.name} varies in time, so its type must be full, not {self.kind(instance)}")
        return {"full": shape, "diag": shape[:1], "spherical": (1,)}[self.kind(instance)]

    def value_shape(self, instance: Parametric) -> tuple[int, ...]:
        return Timed.raw_shape(self, instance)

    def forward(self, instance: Parametric, raw: Tensor) -> Tensor:
        if self.kind(instance) == "full":
            return P.semidefinite.forward(raw)
        return torch.diag_embed(raw.exp().expand(self.value_shape(instance)[0]))

    def inverse(self, instance: Parametric, value: Tensor) -> Tensor:
        if self.kind(instance) == "full":
            return P.semidefinite.inverse(value)
        return value.diagonal()[: self.raw_shape(instance)[0]].log()

    def complaint(self, instance: Parametric, value: Tensor) -> str | None:
        wrong = super().complaint(instance, value)
        if wrong is not None or self.kind(instance) == "full" or not value.numel():
            return wrong
        allowed = self.restricted(instance, value)
        off = (value - allowed).abs().max()
        return (
            f"must be {self.kind(instance)}; an entry is off by {off:.3g}" if off > 1e-8 * value.abs().max() else None
        )

    def restricted(self, instance: Parametric, value: Tensor) -> Tensor:
        """The covariance of this type with the largest expected log-density for residuals of covariance `value`."""
        kind, variances = self.kind(instance), value.diagonal()
        if kind == "full":
            return value
        return torch.diag(variances if kind == "diag" else variances.mean().expand_as(variances))

    def degrees_of_freedom(self, instance: Parametric) -> int:
        return super().degrees_of_freedom(instance) if self.kind(instance) == "full" else self.raw_shape(instance)[0]


class TransitionParam(Timed):
    """A matrix whose spectral radius stays below 1 where the model says `stable`."""

    def raw_shape(self, instance: Any) -> tuple[int, ...]:
        shape = super().raw_shape(instance)
        if instance.stable and len(shape) > 2:
            raise ValueError("stable=True is for a transition_matrix that does not vary in time")
        return shape

    def forward(self, instance: Any, raw: Tensor) -> Tensor:
        if not instance.stable or float(spectral_radius(raw.detach())) <= INSIDE:
            return raw
        return raw * (INSIDE / spectral_radius(raw))

    def complaint(self, instance: Any, value: Tensor) -> str | None:
        radius = float(spectral_radius(value)) if instance.stable else 0.0
        return f"must have a spectral radius below 1 as stable=True says; it is {radius:.6g}" if radius >= 1 else None


def spectral_radius(matrix: Tensor) -> Tensor:
    """The largest modulus of an eigenvalue; differentiable where it is simple."""
    return torch.linalg.eigvals(matrix).abs().max() if matrix.numel() else matrix.new_zeros(())


def stable_step(old: Tensor, new: Tensor, n_states: int) -> Tensor:
    """The point nearest to `new` on the way from `old` whose leading square block is stable, found by bisection.

    The expected log-density is concave along the way and largest at `new`, so every point of it is an improvement.
    """

    def is_stable(weights: Tensor) -> bool:
        return float(spectral_radius(weights[:, :n_states])) <= INSIDE

    if is_stable(new):
        return new
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if is_stable(old + middle * (new - old)) else (low, middle)
    return old + low * (new - old)


def n_identifiable(model: Any) -> int | None:
    """How many numbers the law of y tells of an unrestricted system, (n, m) states and coordinates; None of others.

    States may be taken in any coordinates, and the noise in part as that of the states or of the observations. What a
    long series tells are its autocovariances C A^k P C' and C P C' + R, with P that of the stationary states: A and C
    up to n^2 coordinates, n m; P C', of which C P C' is symmetric, n r - r (r - 1) / 2 with r = min(n, m); and R,
    m (m + 1) / 2. The matrices of inputs, the level of y and, over many sequences, the moments of the start are told
    beside these. A start that is held adds nothing. See Hannan and Deistler, The Statistical Theory of Linear Systems
    (1988), ch. 2; Anderson and Moore, Optimal Filtering (1979), sec. 9.4 (Q and R from autocovariances).
    """
    covariances, matrices = ("transition_cov", "emission_cov"), ("transition_matrix", "emission_matrix")
    params: Any = model.params()
    full = all(params[name].kind(model) == "full" for name in covariances) and not model.held_entries
    free = {name for name in params if not model.is_frozen(name)}
    learned = {*covariances, *matrices, *(["transition_input_matrix"] if model.input_dim else [])}
    shifted = "transition_offset" in free and "emission_offset" not in free
    if not full or model.varying or learned - free or shifted or model.has_held_offset:
        return None
    n, m, p = model.state_dim, model.obs_dim, model.input_dim
    r = min(n, m)
    count = n * m + n * r - r * (r - 1) // 2 + m * (m + 1) // 2 + n * p
    beside = {"emission_input_matrix": m * p, "emission_offset": m, "initial_mean": n, "initial_cov": n * (n + 1) // 2}
    return count + sum(size for name, size in beside.items() if name in free)


def covariance_type(name: str, value: Any) -> Covariance:
    if value not in get_args(Covariance):
        raise ValueError(f"{name} must be one of {get_args(Covariance)}, got {value!r}")
    return value


def hold_entries(model: Any, fixed: dict[str, Any]) -> None:
    """Marks in the shape of the public values become marks on the stored numbers of the model."""
    for name, given in fixed.items():
        if name not in model.params():
            raise ValueError(f"fixed_entries must name parameters among {sorted(model.params())}, got {name!r}")
        param, held = model.params()[name], torch.as_tensor(given)
        shape = param.value_shape(model)
        if held.dtype != torch.bool or tuple(held.shape) != shape:
            got = f"{held.dtype} of shape {tuple(held.shape)}"
            raise ValueError(f"fixed_entries of {name} must be booleans of shape {shape}, got {got}")
        if name == "transition_matrix" and model.stable and bool(held.any()):
            raise ValueError("stable=True moves all of transition_matrix, so no entry of it can be held")
        if param.constraint is P.semidefinite:
            kind = param.kind(model) if isinstance(param, CovarianceParam) else "full"
            if kind != "diag":
                raise ValueError(f'entries of {name} can be held where it is "diag", not "{kind}"')
            held = held.diagonal()
        model.held_entries[name] = held.clone()


def entries_by_name(model: Any) -> list[list[Any]]:
    """What `hold_entries` was given, as JSON pairs of names and marks."""
    return [
        [name, (torch.diag(held) if model.params()[name].constraint is P.semidefinite else held).tolist()]
        for name, held in model.held_entries.items()
    ]
