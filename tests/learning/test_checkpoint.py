"""Checkpoints: killed and resumed equals uninterrupted, to the last bit; files of other fits are refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.errors import FileRefused
from probseq.learning import AdaptiveNoise
from probseq.learning.stochastic import Trainer

Y = np.sin(0.5 * np.arange(60)).reshape(3, 20, 1) + 0.1 * np.random.default_rng(0).normal(size=(3, 20, 1))
#: everything that has a memory: two restarts, shuffled batches, dropout, noise, windows of streams, a schedule
OPTIONS: dict[str, Any] = {
    "max_iterations": 6,
    "n_restarts": 2,
    "seed": 3,
    "batch_size": 4,
    "truncate": 5,
    "streams": 2,
    "schedule": "linear",
    "weight_noise": AdaptiveNoise(0.05),
}


def network() -> ps.RNN:
    cell = ps.cells.Stack([ps.cells.LSTM(4), ps.cells.GRU(3)], dropout=0.3)
    return ps.RNN(cell=cell, head=ps.heads.Gaussian())


def outcome(model: ps.RNN) -> tuple[torch.Tensor, list[float], list[float], list[float], str]:
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    history = model.history
    return weights, history.objective, history.validation, history.restarts, history.reason


def same(first: ps.RNN, second: ps.RNN) -> bool:
    a, b = outcome(first), outcome(second)
    return torch.equal(a[0], b[0]) and a[1:] == b[1:]


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_after(n_passes: int, path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    passes, a_pass = [], Trainer.a_pass

    def mortal(self: Trainer) -> float:
        passes.append(1)
        if len(passes) > n_passes:
            raise Killed
        return a_pass(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "a_pass", mortal)
        patch.setattr("probseq.learning.checkpoint.SHARE", 0)  # write every pass
        with pytest.raises(Killed):
            network().fit(Y, checkpoint=path, **options)


@pytest.mark.parametrize(("optimizer", "n_passes"), [("adam", 3), ("nesterov", 9), ("nadam", 4)])
def test_resumed_equals_uninterrupted(optimizer, n_passes, tmp_path, monkeypatch):
    options = {**OPTIONS, "optimizer": optimizer, "learning_rate": 3e-3}
    killed_after(n_passes, tmp_path / "run", monkeypatch, **options)
    resumed = network().fit(Y, checkpoint=tmp_path / "run", **options)
    assert same(resumed, network().fit(Y, **options))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    monkeypatch.setattr(Trainer, "a_pass", None)  # finished: nothing is done again
    assert same(network().fit(Y, checkpoint=tmp_path / "run", **options), resumed)


def test_a_seed_of_chance_is_remembered(tmp_path, monkeypatch):
    options = {"max_iterations": 4, "n_restarts": 2, "batch_size": 2}
    killed_after(5, tmp_path / "run", monkeypatch, **options)
    first = network().fit(Y, checkpoint=tmp_path / "run", **options)
    assert same(first, network().fit(Y, checkpoint=tmp_path / "run", **options))


PROGRAM = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import probseq.learning.checkpoint as checkpoint
from probseq.learning.stochastic import Trainer
from test_checkpoint import OPTIONS, Y, network

def update(self, piece, update=Trainer.update, calls=[]):
    calls.append(1)
    if len(calls) == 31:  # the middle of a pass
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, piece)

checkpoint.SHARE, Trainer.update = 0, update
network().fit(Y, checkpoint={path!r}, **OPTIONS)
"""


def test_a_real_kill_in_the_middle(tmp_path):
    path = tmp_path / "run"
    program = PROGRAM.format(tests=str(Path(__file__).parent), path=str(path))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.exists()
    resumed = network().fit(Y, checkpoint=path, **OPTIONS)
    assert same(resumed, network().fit(Y, **OPTIONS))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_iterations": 9}, "max_iterations 6, got 9"),
        ({"learning_rate": 0.5}, "learning_rate 0.01, got 0.5"),
        ({"schedule": None}, "schedule 'linear', got None"),
        ({"weight_noise": 0.1}, "weight_noise AdaptiveNoise"),
        ({"seed": 4}, "another seed, got 4"),
        ({"fixed": {"head.bias"}}, "another model"),
    ],
)
def test_another_setting_is_refused(change, words, tmp_path, monkeypatch):
    killed_after(3, tmp_path / "run", monkeypatch, **OPTIONS)
    with pytest.raises(FileRefused, match=words):
        network().fit(Y, checkpoint=tmp_path / "run", **{**OPTIONS, **change})


def test_other_data_models_and_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "run"
    killed_after(3, path, monkeypatch, **OPTIONS)
    with pytest.raises(FileRefused, match="another data"):
        network().fit(Y + np.linspace(0, 1e-9, 20)[:, None], checkpoint=path, **OPTIONS)
    with pytest.raises(FileRefused, match="another model"):
        ps.RNN(cell=ps.cells.GRU(4), head=ps.heads.Gaussian()).fit(Y, checkpoint=path, **OPTIONS)
    (tmp_path / "other").write_bytes(b"no checkpoint at all")
    with pytest.raises(FileRefused, match="no checkpoint written by probseq"):
        network().fit(Y, checkpoint=tmp_path / "other", **OPTIONS)
    model = network()
    model.save(tmp_path / "model")
    with pytest.raises(FileRefused, match="no checkpoint written by probseq"):
        network().fit(Y, checkpoint=tmp_path / "model", **OPTIONS)
    with pytest.raises(ValueError, match="checkpoint is for stochastic gradients"):
        ps.HMM(2, emission=ps.emissions.Gaussian(1)).fit(Y, checkpoint=path)
