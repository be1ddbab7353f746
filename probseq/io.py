"""Files: parameters in safetensors, everything else in one JSON header; nothing in a file is ever executed.

The header names the class, the constructor's sizes (parts of models nested), the versions and the trace of the
fit. Only classes that are imported already, or this library's own, can be loaded, and the tensors must be exactly
those that the rebuilt model has: same names, shapes and types, finite but for minus infinity in logits.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probseq._version import __version__
from probseq.base import StateSpaceModel
from probseq.cells import Bidirectional, Cell, Initialization
from probseq.durations import Duration
from probseq.emissions import Emission
from probseq.emissions.heads import Head
from probseq.errors import FileRefused
from probseq.functions import StateFunction
from probseq.labelling import SequenceLabeller
from probseq.learning.history import History
from probseq.ops.linearise import Linearisation
from probseq.parameters import allocation_limit, parametric_modules
from probseq.priors import Prior

FORMAT = 1
DTYPES = {"float32": torch.float32, "float64": torch.float64}
MODELS = (StateSpaceModel, SequenceLabeller)
PARTS = (Emission, Duration, Cell, Initialization, Bidirectional, Head, StateFunction, Linearisation, Prior)
ROOTS: tuple[type[Any], ...] = (*MODELS, *PARTS)


def known_classes() -> dict[str, type[Any]]:
    """Every concrete model and part of a model that is imported, by dotted name."""
    found: dict[str, type[Any]] = {f"{Bidirectional.__module__}.{Bidirectional.__qualname__}": Bidirectional}
    queue: list[type[Any]] = list(ROOTS)
    while queue:
        for child in queue.pop().__subclasses__():
            found[f"{child.__module__}.{child.__qualname__}"] = child
            queue.append(child)
    return found


def describe(part: Any) -> dict[str, Any]:
    """A JSON description of a model or part from which `build` makes an equal one, parameters apart."""
    sizes = {name: _plain(value) for name, value in part.sizes().items()}
    return {"class": f"{type(part).__module__}.{type(part).__qualname__}", "sizes": sizes}


def _plain(value: Any) -> Any:
    if isinstance(value, ROOTS):
        return describe(value)
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if callable(value):
        raise ValueError(f"a file cannot hold the function {value!r}; make it a probseq.StateFunction")
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


def build(description: Any) -> Any:
    """The model or part that `describe` described."""
    classes = known_classes()
    if not isinstance(description, dict) or set(description) != {"class", "sizes"}:
        raise FileRefused("the header describes no model")
    name, sizes = description["class"], description["sizes"]
    if str(name).startswith("probseq.bayes."):  # not imported before someone asks for it
        importlib.import_module("probseq.bayes")
        classes = known_classes()
    if name not in classes:
        raise FileRefused(f"the file holds a {name}, which is not known here; import the module that defines it first")
    if not isinstance(sizes, dict):
        raise FileRefused(f"the header gives no sizes for {name}")
    arguments = {key: _built(value) for key, value in sizes.items()}
    if "dtype" in arguments:
        arguments["dtype"] = DTYPES.get(str(arguments["dtype"]))
    try:
        return classes[name](**arguments)
    except (TypeError, ValueError) as error:
        raise FileRefused(f"the header's sizes do not make a {name}: {error}") from error


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return [_built(entry) for entry in value]
    return build(value) if isinstance(value, dict) else value


def save(model: StateSpaceModel[Any] | SequenceLabeller, path: str | Path) -> None:
    """Write a model; the file appears whole or not at all."""
    from safetensors.torch import save_file

    header = {
        "format": FORMAT,
        "probseq": __version__,
        "torch": torch.__version__.partition("+")[0],
        "model": describe(model),
        "unset": {name: sorted(names) for name, names in model.snapshot().unset.items() if names},
        "history": None if model.history is None else dataclasses.asdict(model.history),
    }
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    save_file(tensors, partial, metadata={"probseq": json.dumps(header)})
    os.replace(partial, target)


def load(path: str | Path) -> Any:
    """Read a model written by `save`. Raises FileRefused for anything else, FileNotFoundError where there is none."""
    header, tensors = _read(Path(path))
    with allocation_limit(sum(tensor.numel() for tensor in tensors.values())):
        model = build(header.get("model"))
    if not isinstance(model, MODELS):
        raise FileRefused(f"{path} describes a {type(model).__name__}, not a model")
    expected = model.state_dict()
    if set(tensors) != set(expected):
        raise FileRefused(f"{path} has other tensors than its model: {sorted(set(tensors) ^ set(expected))}")
    unset = header.get("unset") or {}
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, expected[name], unset)
    model.load_state_dict(tensors)
    for _, module in parametric_modules(model):
        for name in set(module.params()) - module.unset:
            try:
                module.params()[name].check(module)
            except ValueError as error:
                raise FileRefused(f"{path} holds no legal model: {error}") from error
    history = header.get("history")
    model.history = History(**history) if isinstance(history, dict) else None
    return model.eval()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["probseq"])
            if header.get("format") != FORMAT:
                raise FileRefused(f"{path} has format {header.get('format')}; this version reads {FORMAT}")
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, AttributeError, json.JSONDecodeError, OSError) as error:
        raise FileRefused(f"{path} is no file written by probseq") from error


def _check_tensor(name: str, tensor: Tensor, expected: Tensor, unset: Any) -> None:
    if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
        raise FileRefused(
            f"{name} must be {expected.dtype} of shape {tuple(expected.shape)}, "
            f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    path, _, leaf = name.rpartition(".")
    if leaf.removeprefix("raw_") in unset.get(path, []):
        return
    allowed = torch.isfinite(tensor) | ((tensor == -torch.inf) & leaf.startswith("raw_"))
    if not bool(allowed.all()):
        raise FileRefused(f"{name} must be finite, got {tensor[~allowed][0]}")
