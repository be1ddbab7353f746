"""Starts of simple recurrent networks: spectral radius, fan-in, scales, and what a fit makes of inputs and targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.cells import EchoStateInit, Elman, NormalInit, RotationInit


def test_an_echo_state_start_has_its_radius_fan_in_and_input_scale():
    cell = Elman(100, initialization=EchoStateInit(1.1, 15, 0.001), input_size=50, dtype=torch.float64, seed=0)
    assert torch.linalg.eigvals(cell.recurrent_weights).abs().max().item() == pytest.approx(1.1, rel=1e-10)
    assert ((cell.recurrent_weights != 0).sum(-1) == 15).all()
    assert abs(cell.input_weights.std().item() / 0.001 - 1) < 5 / 10_000**0.5
    assert not cell.bias.any()
    again = Elman(100, initialization=EchoStateInit(1.1, 15, 0.001), input_size=50, dtype=torch.float64, seed=0)
    other = Elman(100, initialization=EchoStateInit(1.1, 15, 0.001), input_size=50, dtype=torch.float64, seed=1)
    assert torch.equal(cell.recurrent_weights, again.recurrent_weights)
    assert not torch.equal(cell.recurrent_weights, other.recurrent_weights)


def test_a_normal_start_has_its_scale():
    cell = Elman(100, initialization=NormalInit(0.01), input_size=3, dtype=torch.float64, seed=0)
    assert abs(cell.recurrent_weights.std().item() / 0.01 - 1) < 5 / 20_000**0.5


def test_a_rotation_turns_and_stretches():
    cell = Elman(20, initialization=RotationInit(3.0), input_size=4, dtype=torch.float64, seed=0)
    u = cell.recurrent_weights.detach()
    torch.testing.assert_close(u @ u.mT, 9.0 * torch.eye(20).double())
    assert 0.9 * 3 < cell.input_weights.abs().max().item() * 20**0.5 <= 3.0


def test_a_fit_starts_there_with_centred_inputs_and_the_mean_target():
    draws = np.random.default_rng(0)
    u, y = 7.0 + 3.0 * draws.normal(size=(20, 8, 2)), 100.0 + draws.normal(size=(20, 8, 1))
    cell = Elman(30, initialization=EchoStateInit(0.9, 5, 0.1))
    model = ps.RNN(cell=cell, head=ps.heads.Gaussian(), input_dim=2, feedback=False, seed=0)
    model.fit(y, u, seed=0, max_iterations=0, validation=False)
    assert torch.linalg.eigvals(model.cell.recurrent_weights.double()).abs().max().item() == pytest.approx(
        0.9, rel=1e-5
    )
    inputs = model._standard(torch.as_tensor(u)).double()
    torch.testing.assert_close(inputs.mean((0, 1)), torch.zeros(2).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(inputs.std((0, 1), correction=0), torch.ones(2).double(), rtol=1e-5, atol=0)
    bias = model.head.shift + model.head.scale * model.head.bias[:1].double()
    assert bias.item() == pytest.approx(y.mean(), rel=1e-7)


def test_a_start_is_kept_in_files(tmp_path):
    for start in (EchoStateInit(0.8, 3, 0.5), NormalInit(0.2), RotationInit(2.0), None):
        model = ps.RNN(cell=Elman(4, initialization=start), head=ps.heads.Gaussian(), seed=0)
        model.save(tmp_path / "model")
        loaded = ps.load(tmp_path / "model")
        assert repr(loaded.cell.initialization) == repr(start)
        assert torch.equal(loaded.cell.recurrent_weights, model.cell.recurrent_weights)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: EchoStateInit(0.0), ValueError, "spectral_radius must be a positive number"),
        (lambda: EchoStateInit(fan_in=0), ValueError, "fan_in must be a positive integer"),
        (lambda: EchoStateInit(input_scale=-1.0), ValueError, "input_scale must be"),
        (lambda: NormalInit(float("nan")), ValueError, "scale must be"),
        (lambda: RotationInit(0.0), ValueError, "scale must be"),
        (lambda: Elman(2, initialization="echo"), Exception, "initialization"),
    ],
)
def test_bad_starts_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
