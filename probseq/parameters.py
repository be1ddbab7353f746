"""Parameters: declared once, stored unconstrained, read and assigned constrained.

    class Model(Parametric):
        rates = Param(nonnegative, "n_states", "dim")      # shapes are names of attributes

Reading `model.rates` maps the stored `raw_rates` through the constraint, differentiably; assigning maps a
value back, after checking its shape and range. A model made from sizes alone has no values yet, and reading
one raises `NotFitted`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from probseq.constraints import (
    Constraint,
    definite,
    nonnegative,
    probability,
    psd_factor,
    real,
    semidefinite,
    simplex,
)
from probseq.errors import NotFitted
from probseq.kernels.simplex import maximise_rows
from probseq.ops.elementwise import softmax
from probseq.ops.modes import array_of, untracked


def as_parameter(name: str, value: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """`value` as a finite tensor, or a ValueError that names the parameter."""
    try:
        tensor = torch.as_tensor(value if isinstance(value, Tensor) else np.array(value, dtype=np.float64, order="C"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, got {value!r}") from error
    tensor = tensor.to(dtype)
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} must be finite, got an entry {tensor[~torch.isfinite(tensor)][0]}")
    return tensor


_limit: ContextVar[int | None] = ContextVar("allocation_limit", default=None)


@contextmanager
def allocation_limit(n_numbers: int) -> Generator[None]:
    """Inside, no single parameter may have more entries than this: a file cannot ask for more than it holds."""
    token = _limit.set(n_numbers)
    try:
        yield
    finally:
        _limit.reset(token)


def allow(*shape: int) -> tuple[int, ...]:
    """The same shape, or a ValueError beyond the allocation limit in force."""
    limit = _limit.get()
    if limit is not None and math.prod(shape) > limit:
        raise ValueError(f"a parameter of shape {shape} would be larger than the file")
    return shape


class Param:
    """A constrained parameter of a `Parametric` module; shape entries are integers or names of its attributes."""

    def __init__(self, constraint: Constraint, *shape: str | int) -> None:
        self.constraint = constraint
        self.shape = shape

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.raw_name = f"raw_{name}"

    def raw_shape(self, instance: Parametric) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else getattr(instance, size) for size in self.shape)

    def value_shape(self, instance: Parametric) -> tuple[int, ...]:
        return self.raw_shape(instance)

    def forward(self, instance: Parametric, raw: Tensor) -> Tensor:
        return self.constraint.forward(raw)

    def inverse(self, instance: Parametric, value: Tensor) -> Tensor:
        return self.constraint.inverse(value)

    def complaint(self, instance: Parametric, value: Tensor) -> str | None:
        wrong = self.constraint.complaint(value)
        return None if wrong is None else f"must be {self.constraint.words}; {wrong}"

    def check(self, instance: Parametric) -> None:
        """Raise ValueError when the stored numbers give no legal value (a damaged file)."""
        value = self.forward(instance, self.raw(instance)).detach()
        wrong = "must be finite" if not bool(torch.isfinite(value).all()) else self.complaint(instance, value)
        if wrong is not None:
            raise ValueError(f"{self.name} {wrong}, {tuple(value.shape)}")

    def degrees_of_freedom(self, instance: Parametric) -> int:
        return self.constraint.degrees_of_freedom(instance._parameters[self.raw_name])  # type: ignore[arg-type]

    def raw(self, instance: Parametric) -> Tensor:
        """The stored numbers, or `NotFitted` when there are none yet."""
        if self.name in instance.unset:
            raise NotFitted(
                f"{type(instance).__name__}.{self.name} has no value yet: pass it to the constructor or call fit(y)"
            )
        raw = instance._parameters[self.raw_name]
        assert raw is not None
        return raw if torch.is_grad_enabled() else raw.detach()

    def log(self, instance: Parametric) -> Tensor:
        """log of a simplex parameter, exact at structural zeros."""
        if self.name in instance.overrides:
            return instance.overrides[self.name].log()
        return softmax(self.raw(instance), logarithms=True)

    def __get__(self, instance: Parametric | None, owner: type) -> Any:
        if instance is None:
            return self
        if self.name in instance.overrides:
            return instance.overrides[self.name]
        return self.forward(instance, self.raw(instance))

    def __set__(self, instance: Parametric, value: Any) -> None:
        value = as_parameter(self.name, value).detach()
        expected = self.value_shape(instance)
        if tuple(value.shape) != expected:
            raise ValueError(f"{self.name} must have shape {expected}, got {tuple(value.shape)}")
        wrong = self.complaint(instance, value)
        if wrong is not None:
            raise ValueError(f"{self.name} {wrong}, {tuple(value.shape)}")
        with torch.no_grad():
            instance._parameters[self.raw_name].copy_(self.inverse(instance, value))  # type: ignore[union-attr]
        instance.unset.discard(self.name)


class Parametric(nn.Module):
    """A module with declared parameters. Call `declare` once the sizes are known."""

    def __init__(self) -> None:
        super().__init__()
        self.unset: set[str] = set()
        self.started = False
        self.overrides: dict[str, Tensor] = {}
        #: by name, which of the stored numbers are held while the others are learned
        self.held_entries: dict[str, Tensor] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        param = self.params().get(name)
        if param is not None:  # torch would register another module's parameter under this name
            param.__set__(self, value)
        else:
            super().__setattr__(name, value)

    _declared: ClassVar[dict[str, Param]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._declared = {}
        for base in reversed(cls.__mro__):
            cls._declared.update({name: entry for name, entry in vars(base).items() if isinstance(entry, Param)})

    def params(self) -> dict[str, Param]:
        """Every declared parameter by name, base classes first."""
        return type(self)._declared

    def stored(self, *names: str, watched: bool = False) -> list[Any] | None:
        """The stored numbers as arrays, for kernels; None where they are overridden or, unless `watched`, derived."""
        if self.overrides or self.unset or (torch.is_grad_enabled() and not watched):
            return None
        raw: list[Any] = [self._parameters[f"raw_{name}"] for name in names]
        return [array_of(tensor) for tensor in raw] if watched or untracked(*raw) else None

    def declare(self, **values: Any) -> None:
        """Make room for every declared parameter and assign those values that are not None."""
        for name, param in self.params().items():
            raw = torch.full(allow(*param.raw_shape(self)), torch.nan, dtype=torch.float64)
            self.register_parameter(param.raw_name, nn.Parameter(raw))
            if raw.numel():
                self.unset.add(name)
            if values.get(name) is not None:
                setattr(self, name, values[name])

    def assign(self, **values: Any) -> None:
        """Assign values, leaving frozen parameters and held entries as they are (what an M-step wants)."""
        for name, value in values.items():
            if self.is_frozen(name):
                continue
            raw, held = self._parameters[self.params()[name].raw_name], self.held_entries.get(name)
            kept = None if held is None or raw is None else raw.detach()[held]
            setattr(self, name, value)
            if kept is not None and raw is not None and held is not None:
                with torch.no_grad():
                    raw[held] = kept

    def store(self, **stored: Any) -> None:
        """`assign` for numbers as they are stored, from a computation that needs no check."""
        for name, array in stored.items():
            raw = self._parameters[f"raw_{name}"]
            if raw is not None and raw.requires_grad:
                held, own, new = self.held_entries.get(name), raw.detach(), torch.from_numpy(array)
                own.copy_(new if held is None else torch.where(held, own, new))

    def store_rows(self, name: str, counts: Tensor, share: float = 0.0) -> None:
        """Make the rows of a simplex parameter proportional to counts; one with at most this share of all stays."""
        if not self.is_frozen(name):
            rows = array_of(self.params()[name].raw(self)).copy()
            maximise_rows(array_of(counts).reshape(-1, rows.shape[-1]), share, rows.reshape(-1, rows.shape[-1]))
            self.store(**{name: rows})

    def is_frozen(self, name: str) -> bool:
        param = self._parameters[self.params()[name].raw_name]
        return param is not None and not param.requires_grad

    def degrees_of_freedom(self) -> int:
        """Free parameters of this module alone, frozen ones and held entries not counted."""
        return sum(
            param.degrees_of_freedom(self) - int(self.held_entries[name].sum() if name in self.held_entries else 0)
            for name, param in self.params().items()
            if not self.is_frozen(name)
        )

    def snapshot(self) -> Snapshot:
        """A copy of all parameters, for `restore`."""
        tensors = {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}
        unset = {path: frozenset(module.unset) for path, module in parametric_modules(self)}
        return Snapshot(tensors, unset, self.started)

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` took."""
        with torch.no_grad():
            for name, tensor in self.state_dict(keep_vars=True).items():
                tensor.copy_(snapshot.tensors[name])
        for path, module in parametric_modules(self):
            if frozenset(module.unset) != snapshot.unset[path]:
                module.unset = set(snapshot.unset[path])
        if self.started != snapshot.started:
            self.started = snapshot.started

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)  # type: ignore[arg-type]
        for name, param in self.params().items():
            stored = state_dict.get(prefix + param.raw_name)
            if isinstance(stored, Tensor) and not stored.isnan().any():
                self.unset.discard(name)


def parametric_modules(module: nn.Module) -> Iterator[tuple[str, Parametric]]:
    """Every `Parametric` inside a module with its dotted path ("" for the module itself)."""
    for path, child in module.named_modules():
        if isinstance(child, Parametric):
            yield path, child


def count_free(module: nn.Module) -> int:
    """The number of free parameters in a minimal description: K - 1 for a distribution over K, and so on."""
    declared = {
        id(child._parameters[p.raw_name]) for _, child in parametric_modules(module) for p in child.params().values()
    }
    plain = sum(p.numel() for p in module.parameters() if p.requires_grad and id(p) not in declared)
    return plain + sum(child.degrees_of_freedom() for _, child in parametric_modules(module))


def free_entries(module: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
    """Every learnable tensor with a mark on its variables: neither held entries nor structural zeros (-inf)."""
    held = {
        id(child._parameters[child.params()[name].raw_name]): mask
        for _, child in parametric_modules(module)
        for name, mask in child.held_entries.items()
    }
    learned = [p for p in module.parameters() if p.requires_grad and p.numel()]
    return [
        (p, torch.isfinite(p.detach()) & ~held[id(p)] if id(p) in held else torch.isfinite(p.detach())) for p in learned
    ]


def find_parameter(module: nn.Module, name: str) -> tuple[nn.Module, str, bool]:
    """The module that owns the parameter "emission.means", its name there, and whether it is a declared one."""
    path, _, leaf = name.rpartition(".")
    known = [f"{p}.{n}" if p else n for p, child in parametric_modules(module) for n in child.params()]
    known += [n for n, _ in module.named_parameters() if "raw_" not in n]
    if name not in known:
        raise ValueError(f"unknown parameter {name!r}; this {type(module).__name__} has {', '.join(known)}")
    owner = module.get_submodule(path)
    return owner, leaf, isinstance(owner, Parametric) and leaf in owner.params()


@contextmanager
def freeze(module: nn.Module, names: Iterable[str]) -> Generator[None]:
    """Inside, the named parameters ("transition_matrix", "emission.means") are held fixed."""
    changed: list[nn.Parameter] = []
    for name in names:
        owner, leaf, declared = find_parameter(module, name)
        parameter = owner._parameters[f"raw_{leaf}" if declared else leaf]
        if parameter is not None and parameter.requires_grad:
            changed.append(parameter)
    for parameter in changed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


@contextmanager
def overriding(module: nn.Module, values: Mapping[str, Tensor]) -> Generator[None]:
    """Inside, reading the named parameters gives these constrained tensors, gradients and all."""
    touched: list[tuple[Parametric, str]] = []
    try:
        for name, value in values.items():
            owner, leaf, declared = find_parameter(module, name)
            if not declared or not isinstance(owner, Parametric):
                raise ValueError(f"{name} is no declared parameter and cannot be overridden")
            owner.overrides[leaf] = value
            touched.append((owner, leaf))
        yield
    finally:
        for owner, leaf in touched:
            owner.overrides.pop(leaf, None)


@dataclass(frozen=True)
class Snapshot:
    """All parameters and buffers of a model at one moment, and which had no value yet."""

    tensors: dict[str, Tensor]
    unset: dict[str, frozenset[str]]
    started: bool


__all__ = [
    "Constraint",
    "Param",
    "Parametric",
    "Snapshot",
    "allocation_limit",
    "allow",
    "as_parameter",
    "count_free",
    "definite",
    "free_entries",
    "freeze",
    "nonnegative",
    "overriding",
    "parametric_modules",
    "probability",
    "psd_factor",
    "real",
    "semidefinite",
    "simplex",
]
