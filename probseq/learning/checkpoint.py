"""A fit on disk: killed at any moment, it goes on from its last completed pass to the very same end.

    fit(y, checkpoint="run.ckpt", seed=0)         # killed
    fit(y, checkpoint="run.ckpt", seed=0)         # the same call again: goes on; once finished, returns the result

One safetensors file holds what changes: parameters and the best of them, the optimiser's memory, the state of torch's
generator, the counter that the schedules read, carried states of windows and the trace; of finished restarts what a
choice among them needs. Its JSON header holds what must not change: what the model, the data and the settings were. The
file appears whole or not at all (written beside and moved into place). Passes are written as often as keeps writing
at a few hundredths of the time, and the last one always.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.errors import FileRefused
from probseq.learning.problem import Problem, Run
from probseq.learning.stochastic import Trainer
from probseq.parameters import Snapshot
from probseq.sequences import Sequences

FORMAT = 1
#: passes are not written while writing would take more than one part in so many of the time
SHARE = 25
RUN = ("objective", "validation", "best_score", "best_at", "converged", "reason")


class Checkpoint:
    """The file of one fit: what it has, and where to write."""

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.settings = {name: _words(value) for name, value in settings.items()}
        self.header: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.identity: dict[str, Any] = {}
        self.finished: list[dict[str, Any]] = []
        self.restart = 0
        self.due = 0.0
        if self.path.exists():
            self.header, self.tensors = _read(self.path)

    def agree(self, model: StateSpaceModel[Any], problem: Problem, seed: int, given: int | None) -> int:
        """Check that the file belongs to this fit; returns the seed to use: that of the file where none was given.

        Raises FileRefused naming what is different.
        """
        self.identity = {"model": _model_digest(model), "data": _data_digest(problem), "settings": self.settings}
        if self.header:
            for part in ("model", "data"):
                if self.header["identity"][part] != self.identity[part]:
                    raise FileRefused(f"{self.path} is the checkpoint of a fit to another {part}: remove it first")
            for name, value in self.settings.items():
                other = self.header["identity"]["settings"].get(name)
                if other != value:
                    raise FileRefused(f"{self.path} is the checkpoint of a fit with {name} {other}, got {value}")
            if given is not None and self.header["seed"] != seed:
                raise FileRefused(f"{self.path} is the checkpoint of a fit with another seed, got {given}")
            seed = self.header["seed"]
        self.identity["seed"] = seed
        self.finished = list(self.header.get("finished", []))
        return seed

    # ---------------------------------------------------------------- reading

    def finished_run(self, model: StateSpaceModel[Any], restart: int) -> Run | None:
        """A restart that was completed, with the model at its end."""
        self.restart = restart
        if restart >= len(self.finished):
            return None
        run = Run(model)
        self._restore_run(run, self.finished[restart], f"finished/{restart}")
        model.restore(run.best)
        return run

    @property
    def is_under_way(self) -> bool:
        """Whether the file holds the middle of the restart at hand."""
        current = self.header.get("current")
        return current is not None and current["restart"] == self.restart

    def resume(self, run: Run, trainer: Trainer) -> None:
        """Put everything back as it was after the last pass that was written."""
        current = self.header["current"]
        self._restore_run(run, current["run"], "current")
        run.model.restore(self._snapshot("current/now", current["run"]))
        trainer.remember(_under(self.tensors, "current/trainer"), current["trainer"])
        torch.default_generator.set_state(self.tensors["current/generator"])

    def _restore_run(self, run: Run, entry: Mapping[str, Any], place: str) -> None:
        for name in RUN:
            setattr(run, name, entry[name])
        run.best = self._snapshot(f"{place}/best", entry)

    def _snapshot(self, place: str, entry: Mapping[str, Any]) -> Snapshot:
        unset = {path: frozenset(names) for path, names in entry["unset"].items()}
        return Snapshot(_under(self.tensors, place), unset, entry["started"])

    # ---------------------------------------------------------------- writing

    def note(self, run: Run, trainer: Trainer) -> None:
        """After a pass: write it, unless one was written a moment ago."""
        if time.perf_counter() < self.due:
            return
        tensors, plain = trainer.memory()
        kept = {f"current/trainer/{name}": tensor for name, tensor in tensors.items()}
        kept |= {f"current/now/{name}": tensor for name, tensor in run.model.snapshot().tensors.items()}
        kept |= {f"current/best/{name}": tensor for name, tensor in run.best.tensors.items()}
        kept["current/generator"] = torch.default_generator.get_state()
        self._write(kept, {"restart": self.restart, "run": _run_entry(run), "trainer": plain})

    def finish(self, run: Run) -> None:
        """After a restart that ended by itself: write what a choice among restarts needs."""
        self.finished.append(_run_entry(run))
        kept = {f"finished/{self.restart}/best/{name}": tensor for name, tensor in run.best.tensors.items()}
        self._write(kept, None)

    def _write(self, tensors: dict[str, Tensor], current: dict[str, Any] | None) -> None:
        from safetensors.torch import save_file

        start = time.perf_counter()
        kept = {name: tensor for name, tensor in self.tensors.items() if name.startswith("finished/")} | tensors
        self.tensors = {name: tensor.detach().clone().contiguous() for name, tensor in kept.items()}
        identity = {name: self.identity[name] for name in ("model", "data", "settings")}
        self.header = {"format": FORMAT, "identity": identity, "seed": self.identity["seed"]}
        self.header |= {"finished": self.finished, "current": current}
        partial = self.path.with_name(self.path.name + ".partial")
        save_file(self.tensors, partial, metadata={"probseq_checkpoint": json.dumps(self.header)})
        os.replace(partial, self.path)
        self.due = time.perf_counter() + SHARE * (time.perf_counter() - start)


def _run_entry(run: Run) -> dict[str, Any]:
    entry = {name: getattr(run, name) for name in RUN}
    unset = {path: sorted(names) for path, names in run.best.unset.items()}
    return {**entry, "unset": unset, "started": run.best.started}


def _under(tensors: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    return {name.removeprefix(place + "/"): tensor for name, tensor in tensors.items() if name.startswith(place + "/")}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["probseq_checkpoint"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise FileRefused(f"{path} is no checkpoint written by probseq") from error
    if header.get("format") != FORMAT:
        raise FileRefused(f"{path} is a checkpoint of format {header.get('format')}; this version reads {FORMAT}")
    return header, tensors


# ---------------------------------------------------------------- what must not change


def _words(value: Any) -> str:
    """A setting as text that is the same in another process: a function by its name, without its address."""
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _model_digest(model: StateSpaceModel[Any]) -> str:
    """Class, sizes, which parameters are learned and the values of those that are held; not where the fit began."""
    digest = hashlib.sha256(_words(type(model)).encode())
    digest.update(re.sub(r" at 0x[0-9a-f]+", "", repr(model)).encode())
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    held = {name for name, _ in model.named_parameters()} - learned
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {name in learned}".encode())
        if model.is_started and name in held:
            digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _data_digest(problem: Problem) -> str:
    digest = hashlib.sha256(str(problem.given_train).encode())
    for data in (problem.train, problem.held_back):
        digest.update(b"none" if data is None else _bytes(data))
    return digest.hexdigest()


def _bytes(data: Sequences) -> bytes:
    parts = [data.values, data.observed, data.lengths] + ([] if data.inputs is None else [data.inputs])
    return b"".join(str(tuple(part.shape)).encode() + part.detach().contiguous().numpy().tobytes() for part in parts)
