"""What comparison, back-test and stacking share: checks before the first fit, fitted copies, their held-out scores."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.sequences import Sequences

Array = np.ndarray[Any, Any]

#: names of baselines
RESERVED = ("random walk", "Markov", "iid", "Markov (discrete)", "iid (discrete)")


@dataclass(frozen=True)
class FittedModel:
    """A fitted model, the seconds that took and what it warned of."""

    name: str
    model: StateSpaceModel[Any]
    seconds: float
    warnings: list[str]


def check_models(
    models: Mapping[str, StateSpaceModel[Any]], data: Sequences, options: Mapping[str, Mapping[str, Any]]
) -> None:
    """Everything that can be refused before the first fit."""
    if not isinstance(models, Mapping):
        raise TypeError(f'models must be a mapping such as {{"LDS": LDS(2, 1)}}, got {type(models).__name__}')
    if not models:
        raise ValueError("models must hold at least one model, got none")
    for name, model in models.items():
        if not isinstance(model, StateSpaceModel):
            raise TypeError(f"models[{name!r}] must be a model with the four steps, got {type(model).__name__}")
        if name in RESERVED:
            raise ValueError(f"models must not use the name {name!r}, which is that of a baseline")
        try:
            model._door(data_for(model, data))
        except ValueError as error:
            raise ValueError(f"models[{name!r}]: {error}") from error
    if data.inputs is not None and not any(model.input_dim for model in models.values()):
        raise ValueError("u was given, but none of the models takes inputs (input_dim is 0)")
    unknown = set(options) - set(models)
    if unknown:
        raise ValueError(f"fit_options has names that are no models: {sorted(unknown)}")


def data_for(model: StateSpaceModel[Any], data: Sequences) -> Sequences:
    """The data as a flat batch, with inputs only for a model that takes them."""
    flat = replace(data.flat(), layout="batch")
    return flat if model.input_dim else replace(flat, inputs=None)


def fit_copy(name: str, model: StateSpaceModel[Any], training: Sequences, options: dict[str, Any]) -> FittedModel:
    """A fitted deep copy, with the time it took and what it warned of."""
    own = copy.deepcopy(model)
    start = time.perf_counter()
    with kept_warnings() as messages:
        try:
            own.fit(data_for(own, training), **options)
        except Exception as error:
            error.add_note(f"while fitting models[{name!r}]")
            raise
    return FittedModel(name, own, time.perf_counter() - start, messages)


def fit_copies(
    models: Mapping[str, StateSpaceModel[Any]],
    training: Sequences,
    seed: int,
    options: Mapping[str, Mapping[str, Any]],
) -> list[FittedModel]:
    """A fitted deep copy of each, with further options by name."""
    return [fit_copy(name, model, training, {"seed": seed, **options.get(name, {})}) for name, model in models.items()]


@contextmanager
def kept_warnings() -> Generator[list[str]]:
    """Inside, warnings are not issued; afterwards the list holds their texts, each once and on one line."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught)


def held_out_scores(model: StateSpaceModel[Any], data: Sequences, first: Tensor) -> tuple[Array, Sequences, Any]:
    """log p(y_t | y_<t) at the test steps (B, T), with the data as the model takes them, and its filter."""
    own = data_for(model, data)
    filtered = model.filter(own)
    tested = own.seen & (torch.arange(own.n_steps) >= first.unsqueeze(-1))
    return torch.where(tested, filtered.log_prob, torch.nan).numpy(), own, filtered
