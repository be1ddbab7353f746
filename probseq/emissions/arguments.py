"""Arguments of torch distributions as parameters: their sets, and distributions by name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch import distributions as D
from torch.distributions import constraints

from probseq import constraints as C
from probseq.emissions.base import positive
from probseq.parameters import Param, Parametric

#: of equivalent arguments the one that is learned
PREFERRED = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}
#: sets for which this library has a constraint of its own, with the same map
OWN = {
    "Real": C.real,
    "GreaterThan": C.nonnegative,
    "GreaterThanEq": C.nonnegative,
    "Simplex": C.simplex,
    "Interval": C.probability,
    "PositiveDefinite": C.definite,
}


class Mapped(C.Constraint):
    """A constraint of torch with its own map from unconstrained numbers."""

    def __init__(self, constraint: constraints.Constraint) -> None:
        self.torch_constraint = constraint
        self.map = D.transform_to(constraint)
        self.words = f"in {constraint!r}"

    def forward(self, raw: Tensor) -> Tensor:
        return self.map(raw)

    def inverse(self, value: Tensor) -> Tensor:
        return self.map.inv(value)

    def complaint(self, value: Tensor) -> str | None:
        return None if bool(self.torch_constraint.check(value).all()) else "an entry lies outside"

    def degrees_of_freedom(self, raw: Tensor) -> int:
        if isinstance(self.torch_constraint, type(constraints.lower_cholesky)):
            n = raw.shape[-1]
            return raw[..., 0, 0].numel() * n * (n + 1) // 2
        return raw.numel()


class Argument(Param):
    """One argument of a distribution for all states."""

    def __init__(self, name: str, constraint: constraints.Constraint, shape: tuple[int, ...]) -> None:
        super().__init__(own_or_mapped(constraint), "n_states", *shape)
        self.torch_constraint = constraint
        self.__set_name__(Parametric, name)

    def __reduce__(self) -> Any:
        return Argument, (
            self.name,
            self.torch_constraint,
            self.shape[1:],
        )  # a copy must share the library's constraints

    def complaint(self, instance: Parametric, value: Tensor) -> str | None:
        wrong = super().complaint(instance, value)
        if wrong is None and not bool(self.torch_constraint.check(value).all()):
            return f"must be in {self.torch_constraint!r}"
        return wrong


def own_or_mapped(constraint: constraints.Constraint) -> C.Constraint:
    inner = getattr(constraint, "base_constraint", constraint)
    name = type(inner).__name__.lstrip("_")
    standard = name not in ("GreaterThan", "GreaterThanEq", "Interval") or getattr(inner, "lower_bound", 0) == 0
    if name == "Interval":
        standard = standard and getattr(inner, "upper_bound", 1) == 1
    return OWN[name] if name in OWN and standard else Mapped(constraint)


def find(name: str) -> type[D.Distribution]:
    """The distribution class of a dotted name, from torch.distributions or a module that is imported already."""
    module, _, leaf = name.rpartition(".")
    home = sys.modules.get(module or "torch.distributions")
    kind = None if home is None else vars(home).get(leaf)
    if not (isinstance(kind, type) and issubclass(kind, D.Distribution)):
        raise ValueError(f"distribution {name!r} is not known here; import the module that defines it first")
    return kind


def event_axes(kind: Any) -> int:
    """The number of axes of one draw, 0 or 1."""
    try:
        n_axes = int(kind.support.event_dim)
    except (NotImplementedError, AttributeError) as error:
        raise TypeError(f"{kind.__name__} does not say its support by itself, so it makes no emission") from error
    if n_axes > 1:
        raise TypeError(f"{kind.__name__} draws arrays with {n_axes} axes, rows have one")
    return n_axes


def shapes_of(
    kind: type[D.Distribution],
    known: dict[str, Any],
    given: dict[str, Tensor],
    fixed: dict[str, Any],
    arguments: Iterable[Any] | None,
    dim: int | None,
    multivariate: bool,
) -> dict[str, tuple[int, ...]]:
    """The learned arguments and their shapes for one state."""
    if arguments is not None:
        shapes = {str(name): tuple(int(size) for size in shape) for name, shape in arguments}
    elif given:
        absent = [name for name in _required(kind) if name in known and name not in {*given, *fixed}]
        if absent:
            raise TypeError(f"{kind.__name__} also needs {', '.join(absent)}")
        shapes = {name: tuple(value.shape[1:]) for name, value in given.items()}
    else:
        width = positive("dim", dim)
        shapes = {}
        for name in _needed(kind, known, fixed):
            if not multivariate and known[name].event_dim:
                raise ValueError(
                    f"{name} of {kind.__name__} has a shape that does not follow from dim; "
                    f"give its values, or arguments=[({name!r}, shape for one state)]"
                )
            shapes[name] = (width,) * (known[name].event_dim if multivariate else 1)
    for name in shapes:
        if name not in known:
            raise TypeError(f"{kind.__name__} has no argument {name!r}; it has {sorted(known)}")
        try:
            D.transform_to(known[name])
        except NotImplementedError as error:
            raise ValueError(
                f"{name} of {kind.__name__} cannot be learned; pass constants={{{name!r}: ...}}"
            ) from error
    return shapes


def _required(kind: type[D.Distribution]) -> list[str]:
    """Arguments without a default."""
    signature = inspect.signature(kind.__init__).parameters
    return [name for name, one in signature.items() if one.default is inspect.Parameter.empty]


def _needed(kind: type[D.Distribution], known: dict[str, Any], fixed: dict[str, Any]) -> list[str]:
    """Arguments in the order of the constructor, one of each group of equivalents, without the constants."""
    ordered = [name for name in inspect.signature(kind.__init__).parameters if name in known]
    replaced = {PREFERRED[name] for name in ordered if PREFERRED.get(name) in ordered}
    return [name for name in ordered if not (PREFERRED.get(name) in replaced or name in fixed)]


def width_of(given: dict[str, Tensor], known: dict[str, Any], dim: int | None, multivariate: bool) -> int:
    for name, value in given.items():
        axes = known[name].event_dim + (0 if multivariate else 1)
        if value.ndim < 1 + axes:
            wanted = "(n_states, ...)" if multivariate else "(n_states, dim)"
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(value.shape)}")
        if dim is None and axes:
            dim = value.shape[-1] if multivariate else value.shape[1]
    return positive("dim", dim)
