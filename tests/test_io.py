"""Files: what is written comes back, what is not ours is refused."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import probseq as ps
from probseq.errors import FileRefused, NotFitted


def hmm() -> ps.HMM:
    return ps.HMM(
        initial_probs=[1.0, 0.0],
        transition_matrix=[[0.9, 0.1], [0.0, 1.0]],
        emission=ps.emissions.Gaussian(means=[[0.0], [1.0]], covs=[[[1.0]], [[2.0]]], covariance="diag"),
    )


MODELS = {
    "hmm": hmm,
    "lds": lambda: ps.LDS(2, 1).fit(np.sin(np.arange(40.0)), seed=0, method="gradient", max_iterations=400),
    "ar": lambda: ps.AR(2).fit(np.sin(np.arange(40.0)) + np.arange(40) % 3, seed=0),
    "gru": lambda: ps.RNN(cell=ps.cells.GRU(3), head=ps.heads.Gaussian()).fit(np.arange(9.0), seed=0, max_iterations=2),
    "lstm": lambda: ps.RNN(cell=ps.cells.LSTM(3, forget_bias=2.0), head=ps.heads.Gaussian("full"), dtype=torch.float64),
    "elman": lambda: ps.RNN(cell=ps.cells.Elman(3, "relu"), head=ps.heads.Bernoulli(), seed=1),
}


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.filterwarnings("ignore::probseq.errors.ConvergenceWarning")
def test_round_trip(name, tmp_path):
    model, y = MODELS[name](), np.array([0.0, 1.0, 1.0, 0.0])
    model.save(tmp_path / "model.safetensors")
    again = ps.load(tmp_path / "model.safetensors")
    assert type(again) is type(model)
    assert again.log_prob(y).item() == model.log_prob(y).item()
    assert again.history == model.history
    assert again.is_started == model.is_started or model.history is None
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_models_without_values_come_back_without(tmp_path):
    ps.HMM(2, emission=ps.emissions.Poisson(1)).save(tmp_path / "m")
    with pytest.raises(NotFitted):
        ps.load(tmp_path / "m").log_prob([1, 2])


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "f"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        ps.load(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(FileRefused, match="no file written by probseq"):
        ps.load(path)
    path.write_bytes(b"")
    with pytest.raises(FileRefused):
        ps.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(FileRefused, match="no file written by probseq"):
        ps.load(path)


def tamper(tmp_path, change_header=None, change_tensors=None):
    """Save a model, change the file, and return its path."""
    from safetensors import safe_open

    path = tmp_path / "m"
    hmm().save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["probseq"])
    tensors = load_file(path)
    if change_header:
        change_header(header)
    if change_tensors:
        change_tensors(tensors)
    save_file(tensors, path, metadata={"probseq": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (lambda h: h["model"].update({"class": "os.system"}), "os.system, which is not known here"),
        (lambda h: h.update(format=99), "format 99"),
        (lambda h: h.update(model=None), "describes no model"),
        (lambda h: h["model"]["sizes"].update(n_states=-1), "do not make"),
        (lambda h: h["model"]["sizes"].update(n_states=10**7), "the number of states|larger than the file"),
        (lambda h: h["model"]["sizes"].update(evil=1), "do not make"),
    ],
)
def test_tampered_headers_are_refused(header, words, tmp_path):
    with pytest.raises(FileRefused, match=words):
        ps.load(tamper(tmp_path, header))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (lambda t: t.pop("raw_initial_probs"), "other tensors"),
        (lambda t: t.update(more=torch.zeros(1)), "other tensors"),
        (lambda t: t.update({"emission.raw_means": torch.zeros(3, 1).double()}), "emission.raw_means must be"),
        (lambda t: t.update({"emission.raw_means": torch.zeros(2, 1)}), "emission.raw_means must be"),
        (lambda t: t["emission.raw_means"].fill_(torch.nan), "emission.raw_means must be finite"),
        (lambda t: t["emission.raw_means"].fill_(torch.inf), "emission.raw_means must be finite"),
        (lambda t: t["raw_initial_probs"].fill_(-torch.inf), "initial_probs must be finite"),
    ],
)
def test_tampered_tensors_are_refused(tensors, words, tmp_path):
    with pytest.raises(FileRefused, match=words):
        ps.load(tamper(tmp_path, change_tensors=tensors))
