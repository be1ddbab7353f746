"""Dirichlet priors, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from probseq import dirichlet
from probseq.stationary import log_or_minus_infinity
from tests import zoo


def test_dirichlet_density_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    rows, alpha = zoo.simplex(rng, 3, 4), 1 + rng.gamma(2.0, size=(3, 4))
    expected = sum(scipy.stats.dirichlet.logpdf(row, a) for row, a in zip(rows, alpha, strict=True))
    actual = dirichlet.log_density(torch.tensor(alpha), torch.tensor(rows).log())
    assert actual.item() == pytest.approx(expected, rel=1e-12)
    rows[0] = [0.5, 0.0, 0.5, 0.0]  # structural zeros: a Dirichlet over the rest
    expected += scipy.stats.dirichlet.logpdf([0.5, 0.5], alpha[0, [0, 2]])
    expected -= scipy.stats.dirichlet.logpdf(zoo.simplex(np.random.default_rng(0), 3, 4)[0], alpha[0])
    actual = dirichlet.log_density(torch.tensor(alpha), log_or_minus_infinity(torch.tensor(rows)))
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_concentrations() -> None:
    assert dirichlet.concentration("prior", None, (2,)) is None
    np.testing.assert_array_equal(dirichlet.concentration("prior", 2, (2, 3)), np.full((2, 3), 2.0))
    for value, words in (
        ([1.0, 2.0], r"prior must be a number or have shape \(3,\), got \(2,\)"),
        ([1.0, 0.5, 2.0], "prior must be at least 1, where the density has a mode, got 0.5"),
        ("x", "prior must be an array of numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            dirichlet.concentration("prior", value, (3,))
