"""Functions that keep their digits, against forty of them."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

from probseq.emissions.special import LARGE, climb, log_rising, slope_of


@pytest.mark.parametrize("x", [1e-8, 0.3, 5.0, LARGE - 1e-9, LARGE, 40.0, 1e5, 1e10, 1e16])
@pytest.mark.parametrize("a", [0.0, 0.5, 1.0, 7.5, 1e4])
def test_rising_factorial(x, a):
    with mpmath.workdps(60):
        exact = mpmath.loggamma(mpmath.mpf(x) + mpmath.mpf(a)) - mpmath.loggamma(mpmath.mpf(x))
        slope = mpmath.digamma(mpmath.mpf(x) + mpmath.mpf(a)) - mpmath.digamma(mpmath.mpf(x))
    point = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = log_rising(point, torch.tensor(a, dtype=torch.float64))
    assert value.item() == pytest.approx(float(exact), rel=1e-13, abs=1e-13)
    value.backward()
    assert point.grad.item() == pytest.approx(float(slope), rel=1e-9, abs=1e-14)


def test_the_top_of_hills_from_anywhere():
    tops = torch.tensor([-30.0, -1.0, 0.0, 0.3, 25.0]).double()
    for start in (-40.0, 0.3, 50.0):
        found = climb(
            lambda x: tops - x, torch.full((5,), start).double(), tops.new_full((5,), -60), tops.new_full((5,), 60)
        )
        np.testing.assert_allclose(found, tops, atol=1e-13)
    ends = climb(
        lambda x: torch.ones(2).double() * torch.tensor([1.0, -1.0]),
        torch.zeros(2).double(),
        -torch.ones(2).double(),
        torch.ones(2).double(),
    )
    np.testing.assert_allclose(ends, [1, -1])


def test_slopes_under_no_grad():
    with torch.no_grad():
        assert torch.equal(slope_of(lambda x: x.square())(torch.tensor([1.0, -3.0])), torch.tensor([2.0, -6.0]))
