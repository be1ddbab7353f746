"""The likelihood from stored numbers against the one whose matrices and gradients are torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.models.lds_stored import Stored
from probseq.models.linear_gaussian import LinearGaussianModel
from probseq.parameters import overriding

CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "diag": {"transition_covariance": "diag", "emission_covariance": "spherical"},
    "diffuse": {"initial": "diffuse"},
    "offsets": {"transition_offset": [0.3, -0.2], "emission_offset": [5.0, 1.0]},
}


def model_of(**options: Any) -> ps.LDS:
    start = {} if "initial" in options else {"initial_mean": [0.5, 1.0], "initial_cov": [[2.0, 0.3], [0.3, 1.0]]}
    full = options.get("transition_covariance") is None
    return ps.LDS(
        transition_matrix=[[0.9, 0.2], [-0.1, 0.7]],
        transition_cov=[[0.5, 0.1], [0.1, 0.3]] if full else [[0.5, 0.0], [0.0, 0.3]],
        emission_matrix=[[1.0, 0.5], [0.0, 1.0]],
        emission_cov=[[0.4, 0.2], [0.2, 0.6]] if full else [[0.4, 0.0], [0.0, 0.4]],
        **start,
        **options,
    )


def data(n_sequences: int, gaps: bool) -> Any:
    draws = np.random.default_rng(0)
    y = 3 + draws.normal(size=(n_sequences, 40, 2))
    y[draws.random(y.shape) < (0.3 if gaps else 0.0)] = np.nan
    return y[0] if n_sequences == 1 else y


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("n_sequences", [1, 12])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_torch(case: str, n_sequences: int, gaps: bool) -> None:
    model = model_of(**CASES[case])
    flat = ps.Sequences.of(data(n_sequences, gaps)).flat()
    learned = [one for one in model.parameters() if one.requires_grad]
    expected = LinearGaussianModel._log_prob(model, flat)
    slopes: Any = torch.autograd.grad(expected.sum(), learned, allow_unused=True)
    stored = Stored.of(model, flat)
    assert stored is not None
    torch.testing.assert_close(stored.log_prob(), expected.detach(), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(model._log_prob(flat), expected.detach(), rtol=1e-12, atol=1e-12)
    value, gradients = model._value_and_gradient(flat, learned)
    torch.testing.assert_close(value, expected.detach().sum(), rtol=1e-12, atol=1e-12)
    public = torch.autograd.grad(3 * model.log_prob(flat).sum(), learned, allow_unused=True)
    for ours, also, theirs in zip(gradients, public, slopes, strict=True):
        if theirs is None:
            assert ours is None or not bool(ours.any())
            continue
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(also, 3 * theirs, rtol=1e-9, atol=1e-9)


def test_what_is_left_to_torch() -> None:
    flat = ps.Sequences.of(data(1, False)).flat()
    assert Stored.of(model_of(), flat) is not None
    assert Stored.of(model_of(initial="stationary"), flat) is None
    assert Stored.of(model_of(stable=True), flat) is None
    with overriding(model := model_of(), {"emission_matrix": torch.eye(2).double()}):
        assert Stored.of(model, flat) is None


def test_second_derivatives_raise() -> None:
    model = model_of()
    raw = model.get_parameter("raw_transition_matrix")
    (slope,) = torch.autograd.grad(model.log_prob(data(1, False)), raw, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivative only"):
        slope.sum().backward()
