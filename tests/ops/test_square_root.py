"""The square-root form against filters and smoothers in 60 digits, on badly scaled and ill-conditioned systems."""

from __future__ import annotations

from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from probseq.ops import kalman
from probseq.ops.kalman import LinearGaussianSystem
from tests.ops.test_kalman import leaves_of, loop_log_prob, random_system


class Truth(NamedTuple):
    log_prob: float
    filtered_cov: np.ndarray
    mean: np.ndarray
    cov: np.ndarray


def truth(system: LinearGaussianSystem, y: Tensor) -> Truth:
    """The textbook filter and smoother on the numbers of the matrices, in 60 digits."""
    with mpmath.workdps(60):
        matrices = [mpmath.matrix(np.asarray(value[0]).tolist()) for value in system]
        mean, cov, a, q, _, c, r = matrices
        data, value = mpmath.matrix(y[0].tolist()), mpmath.mpf(0)
        predicted, filtered = [], []
        for t in range(data.rows):
            if t:
                mean, cov = a * mean, a * cov * a.T + q
            predicted.append((mean, cov))
            left, spread = data[t, :].T - c * mean, c * cov * c.T + r
            inverse = spread**-1
            value -= (mpmath.log(mpmath.det(2 * mpmath.pi * spread)) + (left.T * inverse * left)[0]) / 2
            gain = cov * c.T * inverse
            mean, cov = mean + gain * left, cov - gain * c * cov
            filtered.append((mean, cov))
        smoothed = [filtered[-1]]
        for t in range(data.rows - 2, -1, -1):
            back = filtered[t][1] * a.T * predicted[t + 1][1] ** -1
            mean = filtered[t][0] + back * (smoothed[0][0] - predicted[t + 1][0])
            smoothed.insert(0, (mean, filtered[t][1] + back * (smoothed[0][1] - predicted[t + 1][1]) * back.T))

        def arrays(values: Any) -> np.ndarray:
            return np.array([np.array(value.tolist(), dtype=float) for value in values])

        return Truth(
            float(value),
            arrays(cov for _, cov in filtered),
            arrays(mean for mean, _ in smoothed)[..., 0],
            arrays(cov for _, cov in smoothed),
        )


def system_of(a: Any, q: Any, c: Any, r: Any, p0: Any) -> LinearGaussianSystem:
    a, q, c, r, p0 = (torch.as_tensor(np.atleast_2d(np.asarray(x, dtype=float))) for x in (a, q, c, r, p0))
    zero = torch.zeros(1, len(a), dtype=torch.float64)
    return LinearGaussianSystem(zero, p0[None], a[None], q[None], zero[None], c[None], r[None])


def badly_scaled(seed: int) -> tuple[LinearGaussianSystem, Tensor]:
    """At most three states and sensors, fourteen steps, variances from 1e-8 to 1e8; data of the model itself."""
    rng = np.random.default_rng([seed, 99])
    n, m, steps = *rng.integers(1, 4, 2), rng.integers(1, 15)

    def cov(size: int) -> np.ndarray:
        scale, root = 10 ** rng.uniform(-4, 4, size), rng.normal(size=(size, size + 1))
        joint = root @ root.T
        unit = np.sqrt(np.diag(joint))
        joint = np.outer(scale / unit, scale / unit) * joint
        return (joint + joint.T) / 2

    p0, q, r = cov(n), cov(n), cov(m)
    a, c = rng.normal(size=(n, n)), rng.normal(size=(m, n))
    a *= rng.uniform(0.3, 1.1) / max(np.abs(np.linalg.eigvals(a)).max(), 1e-3)
    state, y = rng.multivariate_normal(np.zeros(n), p0, method="eigh"), []
    for _ in range(steps):
        y.append(c @ state + rng.multivariate_normal(np.zeros(m), r, method="eigh"))
        state = a @ state + rng.multivariate_normal(np.zeros(n), q, method="eigh")
    return system_of(a, q, c, r, p0), torch.as_tensor(np.array(y))[None]


def no_negative(covs: Tensor) -> bool:
    """No eigenvalue below rounding, in units of the variances."""
    unit = covs.diagonal(dim1=-2, dim2=-1).sqrt()
    unit = torch.where(unit > 0, unit, 1.0)
    return bool((torch.linalg.eigvalsh(covs / unit.unsqueeze(-1) / unit.unsqueeze(-2)) > -1e-12).all())


@pytest.mark.parametrize("numerics", ["auto", "square_root"])
@pytest.mark.parametrize("block", range(10))
def test_three_hundred_badly_scaled_systems(numerics: str, block: int) -> None:
    for seed in range(30 * block, 30 * block + 30):
        system, y = badly_scaled(seed)
        arguments = system, y, None, torch.tensor([y.shape[1]]), None, numerics
        expected, smoothed = truth(system, y), kalman.smooth(*arguments)
        assert abs(kalman.log_prob(*arguments).item() - expected.log_prob) < 1e-7, seed
        assert no_negative(kalman.filter(*arguments).updated_cov), seed
        assert no_negative(smoothed.cov), seed
        near(smoothed.mean[0], smoothed.cov[0], expected, 1e-5 if numerics == "auto" else 1e-7)


def drawn(system: LinearGaussianSystem, steps: int) -> Tensor:
    """Data of the model itself, from the state (1, ..., 1) on."""
    rng = np.random.default_rng(0)
    a, q, c, r = (np.asarray(system[place][0]) for place in (2, 3, 5, 6))
    state, y = np.ones(len(a)), []
    for _ in range(steps):
        y.append(c @ state + rng.multivariate_normal(np.zeros(len(r)), r, method="eigh"))
        state = a @ state + rng.multivariate_normal(np.zeros(len(q)), q, method="eigh")
    return torch.as_tensor(np.array(y))[None]


def near(mean: Tensor, cov: Tensor, expected: Truth, tolerance: float) -> None:
    """In units of the standard deviations themselves."""
    unit = np.sqrt(np.diagonal(expected.cov, axis1=1, axis2=2))
    assert (np.abs(mean.numpy() - expected.mean) <= tolerance * (unit + np.abs(expected.mean))).all()
    assert (np.abs(cov.numpy() - expected.cov) <= tolerance * unit[:, :, None] * unit[:, None]).all()


TREND = [[1.0, 1.0], [0.0, 1.0]]
JERK = np.array([[1.0, 1e-3, 5e-7], [0.0, 1.0, 1e-3], [0.0, 0.0, 1.0]])
PUSH = np.array([1e-9 / 6, 5e-7, 1e-3])
ILL_CONDITIONED: dict[str, LinearGaussianSystem] = {
    "55-precise-sensor": system_of(TREND, np.diag([1e-3, 1e-3]), [[1.0, 0.0]], 1e-14, 1e6 * np.eye(2)),
    "56-wide-start": system_of(TREND, np.diag([0.5, 0.1]), [[1.0, 0.0]], 1.0, 1e12 * np.eye(2)),
    "57-wider-start": system_of(TREND, np.diag([0.5, 0.1]), [[1.0, 0.0]], 1.0, 1e16 * np.eye(2)),
    "58-nearly-the-same-sensor": system_of(
        0.9 * np.eye(2), 0.1 * np.eye(2), [[1.0, 1.0], [1.0, 1.0 + 1e-6]], 1e-12 * np.eye(2), np.eye(2)
    ),
    "59-still-nearer": system_of(
        0.9 * np.eye(2), 0.1 * np.eye(2), [[1.0, 1.0], [1.0, 1.0 + 1e-8]], 1e-16 * np.eye(2), np.eye(2)
    ),
    "60-jerk-chain": system_of(JERK, np.outer(PUSH, PUSH), [[1.0, 0.0, 0.0]], 1e-4, np.eye(3)),
    "61-unstable": system_of([[1.1, 0.3], [0.0, 0.7]], np.eye(2), [[1.0, 0.5]], 1.0, np.eye(2)),
}


@pytest.mark.parametrize("numerics", ["auto", "square_root"])
@pytest.mark.parametrize("name", ILL_CONDITIONED)
def test_ill_conditioned(name: str, numerics: str) -> None:
    system = ILL_CONDITIONED[name]
    y = drawn(system, 30)
    arguments = system, y, None, torch.tensor([30]), None, numerics
    if name.startswith("60"):
        expected = truth(system._replace(transition_cov=system.transition_cov + 1e-40 * torch.eye(3)), y)
    else:
        expected = truth(system, y)
    assert kalman.log_prob(*arguments).item() == pytest.approx(expected.log_prob, rel=1e-8)
    filtered, smoothed = kalman.filter(*arguments), kalman.smooth(*arguments)
    unit = np.sqrt(np.diagonal(expected.filtered_cov, axis1=1, axis2=2))
    errors = np.abs(filtered.updated_cov[0].numpy() - expected.filtered_cov) / unit[:, :, None] / unit[:, None]
    assert errors.max() < 1e-8
    assert no_negative(smoothed.cov)
    near(smoothed.mean[0], smoothed.cov[0], expected, 1e-8)


@pytest.mark.parametrize("rank", [None, 1, 0])
@pytest.mark.parametrize("fixed_start", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_both_forms_agree_with_their_gradients(rank: int | None, fixed_start: bool, missing: bool) -> None:
    """Factors of any rank, where the derivative of a QR decomposition would be NaN."""
    system, y = random_system(3, 2, steps=8, process_rank=rank)
    if fixed_start:
        system = system._replace(initial_cov=torch.zeros(1, 3, 3, dtype=torch.float64))
    observed = torch.rand(3, 8, 2, generator=torch.Generator().manual_seed(2)) > 0.3 if missing else None
    lengths, results = torch.tensor([8, 3, 7]), []
    for numerics in ("joseph", "square_root"):
        leaves, data = leaves_of(system), y.clone().requires_grad_()
        value = kalman.log_prob(leaves, data, observed, lengths, None, numerics)
        gradients = torch.autograd.grad(value.sum(), (*leaves, data))
        arguments = system, y, observed, lengths, None, numerics
        normals = torch.randn(2, 3, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        paths = kalman.sample_paths(*arguments[:4], normals, None, numerics)
        results.append(
            (value.detach(), *gradients, *kalman.smooth(*arguments)[:4], *kalman.filter(*arguments)[:5], paths)
        )
    torch.testing.assert_close(results[1][0], loop_log_prob(system, y, observed, lengths), rtol=1e-10, atol=1e-10)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10 * max(1.0, float(one.abs().max())))


def test_settled_covariances_and_long_gaps() -> None:
    system, y = random_system(2, 1, batch=1, steps=700)
    observed = torch.ones_like(y, dtype=torch.bool)
    observed[0, 300:310] = False
    for pattern in (None, observed):
        results = [
            kalman.smooth(system, y, pattern, torch.tensor([700]), None, how) for how in ("joseph", "square_root")
        ]
        for one, other in zip(results[0][:4], results[1][:4], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_factor_keeps_small_shares() -> None:
    """A correlation of 1 - 1e-13 leaves thirteen digits behind: those of the share itself are kept."""
    share = 2.0**-43
    cov = torch.tensor([[[1.0, 1.0 - share], [1.0 - share, 1.0]]], dtype=torch.float64)
    expected = float(mpmath.sqrt(1 - (1 - mpmath.mpf(share)) ** 2))
    assert kalman.semidefinite_root(cov)[0, 1, 1].item() == pytest.approx(expected, rel=1e-14)
