"""Tails of predictive distributions against mpmath's integrals and scipy's laws."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

import probseq as ps
from probseq.evaluation.tails import circular_log_tails, log_tails, student_log_tail


def predicted(model: ps.HMM) -> Any:
    """p(y_0)."""
    with torch.no_grad():
        return model.emit(model.initial_belief())


@pytest.mark.parametrize("dofs", [0.3, 1.0, 2.5, 30.0, 1e3, 1e6])
def test_student_tails_are_those_of_mpmath(dofs: float) -> None:
    """P(T > t) = I_x(v / 2, 1 / 2) / 2 at x = v / (v + t^2), or one minus the same from the other side."""
    for t in (0.0, 1e-6, 0.1, 1.0, 5.0, 40.0, 1e3, 1e40, 1e160):
        with mpmath.workdps(60):
            v, half, square = mpmath.mpf(dofs), mpmath.mpf(1) / 2, mpmath.mpf(t) ** 2
            if t > 0.5:
                share = mpmath.betainc(v / 2, half, 0, v / (v + square), regularized=True) / 2
            else:
                share = mpmath.betainc(half, v / 2, square / (v + square), 1, regularized=True) / 2
            expected = float(mpmath.log(share))
        assert student_log_tail(np.array([t]), np.array([dofs])).item() == pytest.approx(expected, rel=1e-12)


def arc(start: Any, end: Any, mean: float, c: float) -> Any:
    """The integral of exp(c (cos(x - mean) - 1)) over pieces on which it changes by a few factors of e at most."""
    n = 4 + int(c)
    pieces = [start + (end - start) * mpmath.mpf(i) / n for i in range(n + 1)]
    return mpmath.quad(lambda x: mpmath.exp(c * (mpmath.cos(x - mean) - 1)), pieces, maxdegree=4)


@pytest.mark.parametrize("c", [0.0, 0.7, 30.0])
@pytest.mark.parametrize("mean", [0.0, 2.0, -3.0])
def test_von_mises_tails_are_those_of_mpmath(c: float, mean: float) -> None:
    for y in (-3.1, -0.5, 1.9):
        with mpmath.workdps(25):
            parts = arc(-mpmath.pi, mpmath.mpf(y), mean, c), arc(mpmath.mpf(y), mpmath.pi, mean, c)
            expected = [float(mpmath.log(part / sum(parts))) for part in parts]
        arguments = (torch.tensor([value], dtype=torch.float64) for value in (y, mean, c))
        found = [float(tail) for tail in circular_log_tails(*arguments)]
        assert found == pytest.approx(expected, rel=1e-11, abs=1e-14)


def test_concentrated_angles_have_the_tails_of_a_normal_law() -> None:
    """For large c, y is normal with variance 1 / c up to terms of order z^4 / c; at the mean both sides are even."""
    c = torch.full((5,), 1e12, dtype=torch.float64)
    z = torch.tensor([-40.0, -3.0, 0.0, 2.0, 50.0], dtype=torch.float64)
    below, above = circular_log_tails(1.0 + z / c.sqrt(), torch.ones(5, dtype=torch.float64), c)
    np.testing.assert_allclose(below, stats.norm.logcdf(z), rtol=1e-8)
    np.testing.assert_allclose(above, stats.norm.logsf(z), rtol=1e-8)
    turned = circular_log_tails(1.0 + z / c.sqrt() - 4 * math.pi, torch.ones(5, dtype=torch.float64), c)
    np.testing.assert_allclose(turned[0], below, rtol=1e-6)


def test_students_and_mixtures_in_a_product() -> None:
    """Every column is the weighted sum of scipy's laws, with mixtures inside the mixture over states."""
    t = ps.emissions.StudentT(
        means=[[0.0, 1.0], [2.0, 3.0]], scales=[[[1.0, 0.3], [0.3, 0.5]], [[2.0, 0.0], [0.0, 4.0]]], dofs=[3.0, 8.0]
    )
    inner = ps.emissions.GaussianMixture(
        weights=[[0.3, 0.7], [0.6, 0.4]], means=[[[0.0], [4.0]], [[8.0], [1.0]]], covs=[[[[1.0]], [[2.0]]]] * 2
    )
    emission = ps.emissions.Product(t, inner)
    model = ps.HMM(initial_probs=[0.4, 0.6], transition_matrix=[[0.5, 0.5], [0.5, 0.5]], emission=emission)
    y = torch.tensor([-1.0, 2.5, 3.0], dtype=torch.float64)
    lower, upper = log_tails(predicted(model), y)
    assert lower is upper
    first = 0.4 * stats.t.cdf(-1.0, 3, 0, 1) + 0.6 * stats.t.cdf(-1.0, 8, 2, math.sqrt(2))
    second = 0.4 * stats.t.cdf(2.5, 3, 1, math.sqrt(0.5)) + 0.6 * stats.t.cdf(2.5, 8, 3, 2)
    weights, centers = [0.12, 0.28, 0.36, 0.24], [0.0, 4.0, 8.0, 1.0]
    third = sum(w * stats.norm.cdf(3.0, m, s) for w, m, s in zip(weights, centers, np.sqrt([1, 2, 1, 2]), strict=True))
    np.testing.assert_allclose(lower[0].exp(), [first, second, third], rtol=1e-12)
    np.testing.assert_allclose(lower[1].exp(), [1 - first, 1 - second, 1 - third], rtol=1e-12)


def test_multinomial_rows_are_binomial_given_their_total() -> None:
    probs = [[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]]
    emission = ps.emissions.Multinomial(probs=probs)
    model = ps.HMM(initial_probs=[0.4, 0.6], transition_matrix=[[0.5, 0.5], [0.5, 0.5]], emission=emission)
    y = torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64)
    lower, upper = log_tails(predicted(model), y)
    for d, count in enumerate(y.tolist()):
        laws = [(0.4, stats.binom(7, probs[0][d])), (0.6, stats.binom(7, probs[1][d]))]
        assert lower[0][d].exp().item() == pytest.approx(sum(w * law.cdf(count - 1) for w, law in laws), rel=1e-12)
        assert upper[0][d].exp().item() == pytest.approx(sum(w * law.cdf(count) for w, law in laws), rel=1e-12)
    for tails in itertools.chain([lower], [upper]):
        np.testing.assert_allclose(tails[0].exp() + tails[1].exp(), 1.0, rtol=1e-13)
