"""Functions of a state: built again from their sizes, checked when a model takes them."""

from __future__ import annotations

import pytest
import torch

import probseq as ps
from probseq.functions import checked_function
from probseq.io import build, describe
from tests import zoo


def test_functions_are_rebuilt_from_their_sizes():
    for function in (zoo.Swing(0.2), zoo.Affine(2, 3, 1), zoo.Shadow()):
        twin = build(describe(function))
        assert type(twin) is type(function)
        assert twin.sizes() == function.sizes()
    assert ps.StateFunction().sizes() == {}


def test_parameters_must_be_double():
    assert checked_function("transition", torch.nn.Linear(1, 1).double()) is not None
    with pytest.raises(TypeError, match="transition must have float64 parameters, got weight"):
        checked_function("transition", torch.nn.Linear(1, 1))
