"""What Hessian-free optimisation is known for: long dependencies by plain tanh networks (Martens & Sutskever 2011)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.errors import ConvergenceWarning

SETTINGS = {"method": "hessian_free", "structural_damping": 0.03, "curvature_batch_size": 500, "validation": False}


def trained(task, head, iterations):
    """50 tanh units on 5,000 sequences of 30 steps; predictions and targets of 2,000 new ones at the last step."""
    model = ps.RNN(input_dim=2, obs_dim=1, cell=ps.cells.Elman(50), head=head, feedback=False)
    u, y = task(5000, 30, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(y, u=u, seed=0, max_iterations=iterations, **SETTINGS)
    assert np.diff(model.history.objective).min() >= 0
    u, y = task(2000, 30, seed=1)
    predicted = model.filter(y, u).predicted
    with torch.no_grad():
        mean = model.emit(ps.at(predicted, -1)).mean
    return mean[:, 0].numpy(), y[:, -1, 0], model.history


@pytest.mark.slow
def test_the_adding_problem():
    mean, target, history = trained(ps.datasets.adding, ps.heads.Gaussian(), 27)
    error = float((np.abs(mean - target) > 0.04).mean())
    print(f"\nadding, T = 30, 50 tanh units: {100 * error:.2f} % of answers off by more than .04; {history}")
    assert error < 0.05


@pytest.mark.slow
def test_the_xor_problem():
    mean, target, history = trained(ps.datasets.xor, ps.heads.Bernoulli(), 22)
    error = float(((mean > 0.5) != (target > 0.5)).mean())
    print(f"\nxor, T = 30, 50 tanh units: {100 * error:.2f} % of bits wrong; {history}")
    assert error < 0.05
