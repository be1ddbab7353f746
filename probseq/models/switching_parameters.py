"""Parameters of a switching linear system: per regime, or one for all where the model shares its emission."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from probseq import parameters as P
from probseq.checks import whole_number
from probseq.parameters import Param

#: which axis of which given array says a size, from the back
SOURCES = {
    "n_regimes": {"regime_transition_matrix": -1, "initial_probs": -1, "transition_matrices": -3},
    "state_dim": {"transition_matrices": -1, "initial_mean": -1, "emission_matrices": -1, "transition_covs": -1},
    "obs_dim": {"emission_matrices": -2, "emission_covs": -1, "emission_offsets": -1},
}


class EmissionParam(Param):
    """A value per regime (K, ...), stored once where the model says `shared_emission`."""

    def raw_shape(self, instance: Any) -> tuple[int, ...]:
        own = super().raw_shape(instance)
        return (1, *own[1:]) if instance.shared_emission else own

    def value_shape(self, instance: Any) -> tuple[int, ...]:
        return (instance.n_regimes, *self.raw_shape(instance)[1:])

    def forward(self, instance: Any, raw: Tensor) -> Tensor:
        value = super().forward(instance, raw)
        return value.expand(self.value_shape(instance)) if value.shape[0] == 1 else value

    def inverse(self, instance: Any, value: Tensor) -> Tensor:
        return super().inverse(instance, value[:1] if instance.shared_emission else value)

    def __set__(self, instance: Any, value: Any) -> None:
        """One for all may be given for all."""
        value = P.as_parameter(self.name, value).detach()
        wanted = self.value_shape(instance)
        if tuple(value.shape) in (wanted[1:], (1, *wanted[1:])):
            value = value.expand(wanted)
        super().__set__(instance, value)

    def complaint(self, instance: Any, value: Tensor) -> str | None:
        if instance.shared_emission and not bool((value == value[:1]).all()):
            return "must be the same in every regime where shared_emission is True"
        return super().complaint(instance, value)


def size_of(name: str, given: int | None, values: dict[str, Tensor]) -> int:
    """A size as passed, or as read off a given array."""
    if given is not None:
        return whole_number(name, given)
    for source, axis in SOURCES[name].items():
        if source in values:
            if values[source].ndim < -axis:
                raise ValueError(f"{source} must have {-axis} axes or more, got shape {tuple(values[source].shape)}")
            return values[source].shape[axis]
    raise ValueError(f"{name} must be given, or one of {', '.join(SOURCES[name])} from which it follows")
