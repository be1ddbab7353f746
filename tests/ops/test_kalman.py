"""The Kalman operators against a dense joint Gaussian, a plain torch loop, statsmodels and published numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from probseq.errors import SingularInnovation, StateOverflow
from probseq.ops import kalman
from probseq.ops.kalman import LinearGaussianSystem

VARYING = ["none", "transition_matrix", "transition_cov", "transition_offset", "emission_matrix", "emission_cov", "all"]
SCALES = [1e-8, 1e-5, 1.0, 1e5, 1e8]


def random_cov(generator: torch.Generator, *shape: int, rank: int | None = None) -> Tensor:
    root = torch.randn(*shape, shape[-1] if rank is None else rank, generator=generator, dtype=torch.float64)
    return root @ root.mT + (0.1 * torch.eye(shape[-1], dtype=torch.float64) if rank is None else 0.0)


def random_system(
    n: int = 2, m: int = 2, batch: int = 3, steps: int = 5, *, varying: str = "none", own_start: bool = False,
    process_rank: int | None = None, seed: int = 0,
) -> tuple[LinearGaussianSystem, Tensor]:  # fmt: skip
    """A stable random system and data that it did not make."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def axis(name: str) -> int:
        return steps if varying in (name, "all") else 1

    system = LinearGaussianSystem(
        initial_mean=normal(batch, n),
        initial_cov=random_cov(generator, batch if own_start else 1, n),
        transition_matrix=0.4 * normal(axis("transition_matrix"), n, n),
        transition_cov=random_cov(generator, axis("transition_cov"), n, rank=process_rank),
        transition_offset=normal(batch if own_start else 1, axis("transition_offset"), n),
        emission_matrix=normal(axis("emission_matrix"), m, n),
        emission_cov=random_cov(generator, axis("emission_cov"), m),
    )
    return system, normal(batch, steps, m)


def random_pattern(batch: int, steps: int, m: int, seed: int = 1) -> Tensor:
    """Missing entries at random; a whole row, a first row, and an entire sequence missing."""
    observed = torch.rand(batch, steps, m, generator=torch.Generator().manual_seed(seed)) > 0.3
    observed[0, steps // 2] = False
    observed[1, 0] = False
    observed[-1] = False
    return observed


def all_seen(y: Tensor) -> Tensor:
    return torch.full((y.shape[0],), y.shape[1])


def close(actual: Tensor, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=torch.float64), rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------------- references


def dense_posterior(
    system: LinearGaussianSystem, y: Tensor, observed: Tensor | None, b: int, length: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """log p of the observed entries and the posterior N(mean (T n,), cov) of all states, from the joint Gaussian."""
    n, m = system.initial_mean.shape[1], y.shape[2]
    pick = [np.asarray(value[b if value.shape[0] > 1 else 0]) for value in system[:2]]
    a, q, c, r = (
        [np.asarray(value[t if value.shape[0] > 1 else 0]) for t in range(length)]
        for value in (system[2], system[3], system[5], system[6])
    )
    offset = system.transition_offset[b if system.transition_offset.shape[0] > 1 else 0]
    mean, cov = np.zeros(length * n), np.zeros((length * n, length * n))
    for t in range(length):
        now = slice(t * n, (t + 1) * n)
        if t == 0:
            mean[now], cov[now, now] = pick
            continue
        before, past = slice((t - 1) * n, t * n), slice(0, t * n)
        mean[now] = a[t] @ mean[before] + np.asarray(offset[t if offset.shape[0] > 1 else 0])
        cov[now, past] = a[t] @ cov[before, past]
        cov[past, now] = cov[now, past].T
        cov[now, now] = a[t] @ cov[before, before] @ a[t].T + q[t]
    emission, noise = np.zeros((length * m, length * n)), np.zeros((length * m, length * m))
    for t in range(length):
        emission[t * m : (t + 1) * m, t * n : (t + 1) * n] = c[t]
        noise[t * m : (t + 1) * m, t * m : (t + 1) * m] = r[t]
    seen = np.ones(length * m, bool) if observed is None else np.asarray(observed[b, :length]).reshape(-1)
    emission, noise = emission[seen], noise[np.ix_(seen, seen)]
    residual = np.asarray(y[b, :length]).reshape(-1)[seen] - emission @ mean
    innovation = emission @ cov @ emission.T + noise
    gain = np.linalg.solve(innovation, emission @ cov).T
    log_prob = -0.5 * (
        len(residual) * math.log(2 * math.pi)
        + np.linalg.slogdet(innovation)[1]
        + residual @ np.linalg.solve(innovation, residual)
    )
    return float(log_prob), mean + gain @ residual, cov - gain @ emission @ cov


def loop_log_prob(system: LinearGaussianSystem, y: Tensor, observed: Tensor | None, lengths: Tensor) -> Tensor:
    """The textbook filter, step by step in torch, one sequence at a time."""
    m0, p0, a, q, d, c, r = system

    def at(value: Tensor, t: int) -> Tensor:
        return value[t if value.shape[0] > 1 else 0]

    totals = []
    for b in range(y.shape[0]):
        mean, cov, total = m0[b], at(p0, b), y.new_zeros(())
        for t in range(int(lengths[b])):
            if t > 0:
                mean = at(a, t) @ mean + at(at(d, b), t)
                cov = at(a, t) @ cov @ at(a, t).mT + at(q, t)
            rows = torch.arange(y.shape[2]) if observed is None else observed[b, t].nonzero()[:, 0]
            if len(rows) == 0:
                continue
            emission = at(c, t)[rows]
            innovation = emission @ cov @ emission.mT + at(r, t)[rows][:, rows]
            residual = y[b, t][rows] - emission @ mean
            total = total + torch.distributions.MultivariateNormal(
                torch.zeros_like(residual), innovation, validate_args=False
            ).log_prob(residual)
            gain = torch.linalg.solve(innovation, emission @ cov).mT
            mean, cov = mean + gain @ residual, cov - gain @ emission @ cov
        totals.append(total)
    return torch.stack(totals)


# ---------------------------------------------------------------------- exact inference


@pytest.mark.parametrize("varying", VARYING)
@pytest.mark.parametrize("own_start", [False, True])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("process_rank", [None, 1, 0])
def test_dense_joint_gaussian(varying: str, own_start: bool, missing: bool, process_rank: int | None) -> None:
    system, y = random_system(varying=varying, own_start=own_start, process_rank=process_rank)
    observed = random_pattern(*y.shape) if missing else None
    lengths = torch.tensor([5, 4, 5])
    smoothed = kalman.smooth(system, y, observed, lengths)
    log_prob = kalman.log_prob(system, y, observed, lengths)
    filtered = kalman.filter(system, y, observed, lengths)
    close(filtered.log_prob.sum(-1), log_prob)
    close(smoothed.log_prob, log_prob)
    n = 2
    for b, length in enumerate(lengths.tolist()):
        value, mean, cov = dense_posterior(system, y, observed, b, length)
        close(log_prob[b], value)
        close(smoothed.mean[b, :length].reshape(-1), mean)
        for t in range(length):
            now = slice(t * n, (t + 1) * n)
            close(smoothed.cov[b, t], cov[now, now])
            if t + 1 < length:
                close(smoothed.lag_one_cov[b, t], cov[(t + 1) * n : (t + 2) * n, now])
            else:
                assert not smoothed.lag_one_cov[b, t:].any()
            _, until, until_cov = dense_posterior(system, y, observed, b, t + 1)
            close(filtered.updated_mean[b, t], until[now])
            close(filtered.updated_cov[b, t], until_cov[now, now])
            hidden = torch.ones_like(y, dtype=torch.bool) if observed is None else observed.clone()
            hidden[b, t] = False
            _, before, before_cov = dense_posterior(system, y, hidden, b, t + 1)
            close(filtered.predicted_mean[b, t], before[now])
            close(filtered.predicted_cov[b, t], before_cov[now, now])


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 1), (1, 3), (5, 4), (13, 2), (14, 13)])
def test_dense_joint_gaussian_sizes(n: int, m: int) -> None:
    system, y = random_system(n, m, batch=3, steps=4, varying="all", seed=n)
    observed = random_pattern(*y.shape)
    smoothed = kalman.smooth(system, y, observed, all_seen(y))
    for b in range(3):
        value, mean, cov = dense_posterior(system, y, observed, b, 4)
        close(smoothed.log_prob[b], value)
        close(smoothed.mean[b].reshape(-1), mean)
        close(smoothed.cov[b, 1], cov[n : 2 * n, n : 2 * n])
        close(smoothed.lag_one_cov[b, 2], cov[3 * n :, 2 * n : 3 * n])


def test_perfect_observation() -> None:
    """With R = 0 the updated covariance vanishes along the observed directions, and nothing is repaired."""
    system, y = random_system(3, 2)
    system = system._replace(emission_cov=torch.zeros(1, 2, 2, dtype=torch.float64))
    filtered = kalman.filter(system, y, None, all_seen(y))
    close(torch.einsum("mi,btij->btmj", system.emission_matrix[0], filtered.updated_cov), torch.zeros(3, 5, 2, 3))
    for b in range(3):
        close(filtered.log_prob[b].sum(), dense_posterior(system, y, None, b, 5)[0])


def test_gradient_shape_when_nothing_is_observed() -> None:
    system, y = random_system()
    system = LinearGaussianSystem(*(value.requires_grad_() for value in system))
    value = kalman.log_prob(system, y, torch.zeros_like(y, dtype=torch.bool), all_seen(y))
    gradients = torch.autograd.grad(value.sum(), system)
    assert not value.any()
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("batch", [1, 3, 150])
@pytest.mark.parametrize("missing", [False, True])
def test_batch_equals_stack_whatever_the_padding(batch: int, missing: bool) -> None:
    system, y = random_system(batch=batch, steps=7)
    pattern = torch.rand(7, 2, generator=torch.Generator().manual_seed(3)) > 0.3
    observed = pattern.expand(batch, 7, 2).clone() if missing else torch.ones(batch, 7, 2, dtype=torch.bool)
    lengths = (torch.arange(batch) * 5 + 7) % 8
    inside = torch.arange(7) < lengths[:, None]
    rubbish = torch.where(inside[..., None] & observed, y, math.nan)
    expected = [loop_log_prob(at_sequence(system, b), y[b : b + 1], observed[b : b + 1], lengths[b : b + 1]) for b in
                range(batch)]  # fmt: skip
    close(kalman.log_prob(system, rubbish, observed, lengths), torch.cat(expected))
    observed[~inside] = False
    close(kalman.log_prob(system, rubbish, observed, lengths), torch.cat(expected))
    filtered, smoothed = (call(system, rubbish, observed, lengths) for call in (kalman.filter, kalman.smooth))
    close(smoothed.log_prob, torch.cat(expected))
    close(filtered.log_prob.sum(-1), torch.cat(expected))
    for b in range(min(batch, 9)):
        one = at_sequence(system, b), y[b : b + 1, : lengths[b]], observed[b : b + 1, : lengths[b]], lengths[b : b + 1]
        for together, alone in zip((filtered, smoothed), (kalman.filter(*one), kalman.smooth(*one)), strict=True):
            close(together[0][b, : lengths[b]], alone[0][0])
            close(together[1][b, : lengths[b]], alone[1][0])
            last = max(int(lengths[b]) - 1, 0)
            close(together[1][b, last:], together[1][b, last].expand(7 - last, -1, -1), 0.0)
        if lengths[b] == 0:
            close(smoothed.mean[b, 3], system.initial_mean[b], 0.0)
            close(filtered.updated_cov[b, 3], system.initial_cov[0], 0.0)


def at_sequence(system: LinearGaussianSystem, b: int) -> LinearGaussianSystem:
    start, offset = system.initial_cov, system.transition_offset
    return system._replace(
        initial_mean=system.initial_mean[b : b + 1],
        initial_cov=start[b : b + 1] if start.shape[0] > 1 else start,
        transition_offset=offset[b : b + 1] if offset.shape[0] > 1 else offset,
    )


def test_leading_axes_of_one_may_be_left_out() -> None:
    """The same values, and gradients of the shapes given; a shared initial mean collects those of its sequences."""
    short = LinearGaussianSystem(*(value[0] for value in random_system()[0]))
    short = short._replace(transition_offset=short.transition_offset[0])
    y, lengths = random_system()[1], torch.tensor([5, 2, 4])
    full = LinearGaussianSystem(short.initial_mean.expand(3, 2).clone(), *(value[None] for value in short[1:4]),
                                short.transition_offset[None, None], *(value[None] for value in short[5:]))  # fmt: skip
    for call in (kalman.filter, kalman.smooth):
        for one, other in zip(call(short, y, None, lengths), call(full, y, None, lengths), strict=True):
            assert one is other is None or torch.equal(one, other)
    gradients = []
    for system in (short, full):
        leaves = leaves_of(system)
        value = kalman.log_prob(leaves, y, None, lengths)
        close(value, kalman.log_prob(full, y, None, lengths), 1e-14)
        gradients.append(torch.autograd.grad(value.sum(), leaves))
    for one, other in zip(*gradients, strict=True):
        close(one, other.sum(0) if one.ndim == 1 and other.shape[0] == 3 else other.view(one.shape), 1e-14)
    options = None, all_seen(y), 0, None, "joseph", ""
    torch.library.opcheck(torch.ops.probseq.kalman_forward, (*leaves_of(short), y, *options))


def leaves_of(system: LinearGaussianSystem) -> LinearGaussianSystem:
    return LinearGaussianSystem(*(value.clone().requires_grad_() for value in system))


def test_empty() -> None:
    system, y = random_system(steps=0)
    assert kalman.log_prob(system, y, None, all_seen(y)).tolist() == [0.0, 0.0, 0.0]
    assert kalman.filter(system, y, None, all_seen(y)).predicted_cov.shape == (3, 0, 2, 2)
    assert kalman.smooth(system, y, None, all_seen(y)).lag_one_cov.shape == (3, 0, 2, 2)
    assert kalman.sample_paths(system, y, None, all_seen(y), torch.zeros(4, 3, 0, 4).double()).shape == (4, 3, 0, 2)
    nobody = system._replace(initial_mean=system.initial_mean[:0])
    assert kalman.log_prob(nobody, y[:0], None, all_seen(y)[:0]).shape == (0,)


# ---------------------------------------------------------------------- gradients


@pytest.mark.parametrize("varying", ["none", "all"])
@pytest.mark.parametrize("own_start", [False, True])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("states", [3, 13])
def test_gradient_equals_autograd_through_a_loop(varying: str, own_start: bool, missing: bool, states: int) -> None:
    system, y = random_system(states, 2, varying=varying, own_start=own_start, process_rank=1)
    observed, lengths = random_pattern(*y.shape) if missing else None, torch.tensor([5, 2, 4])
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    results = []
    for function in (kalman.log_prob, loop_log_prob):
        leaves = [value.clone().requires_grad_() for value in (*system, y)]
        total = function(LinearGaussianSystem(*leaves[:7]), leaves[7], observed, lengths) @ weights
        results.append(torch.autograd.grad(total, leaves))
    for name, ours, loops in zip((*LinearGaussianSystem._fields, "y"), *results, strict=True):
        # the plain loop does not give symmetric gradients for symmetric matrices: compare along symmetric directions
        symmetric = name.endswith("_cov")
        expected = 0.5 * (loops + loops.mT) if symmetric else loops
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()), msg=name)
        if symmetric:
            close(ours, ours.mT, 1e-13)


@pytest.mark.parametrize("varying", VARYING)
@pytest.mark.parametrize("own_offset", [False, True])
def test_gradient_of_many_sequences(varying: str, own_offset: bool) -> None:
    """More than LANES sequences that share covariances: the same as one at a time, whatever the padding."""
    system, y = random_system(3, 2, batch=140, varying=varying)
    if own_offset:
        system = system._replace(transition_offset=system.transition_offset * torch.rand(140, 1, 1).double())
    lengths, weights = torch.arange(140) % 6, torch.linspace(-1.0, 2.0, 140, dtype=torch.float64)
    y[torch.arange(5) >= lengths[:, None]] = math.nan
    leaves = [value.clone().requires_grad_() for value in (*system, y)]
    system, y = LinearGaussianSystem(*leaves[:7]), leaves[7]
    together = torch.autograd.grad(kalman.log_prob(system, y, None, lengths) @ weights, leaves)
    alone = torch.stack([
        kalman.log_prob(at_sequence(system, b), y[b : b + 1], None, lengths[b : b + 1])[0] for b in range(140)
    ])  # fmt: skip
    for ours, expected in zip(together, torch.autograd.grad(alone @ weights, leaves), strict=True):
        close(ours, expected)


@pytest.mark.parametrize("process_rank", [None, 1, 0])
@pytest.mark.parametrize("missing", [False, True])
def test_gradcheck(process_rank: int | None, missing: bool) -> None:
    system, y = random_system(steps=4, batch=3, varying="all", own_start=True, process_rank=process_rank)
    observed, lengths = random_pattern(*y.shape) if missing else None, torch.tensor([4, 3, 4])
    names = LinearGaussianSystem._fields

    def function(*leaves: Tensor) -> Tensor:
        symmetric = [
            0.5 * (leaf + leaf.mT) if name.endswith("_cov") else leaf for name, leaf in zip(names, leaves, strict=False)
        ]
        return kalman.log_prob(LinearGaussianSystem(*symmetric), leaves[7], observed, lengths)

    leaves = [value.clone().requires_grad_() for value in (*system, y)]
    assert torch.autograd.gradcheck(function, leaves, atol=1e-6, rtol=1e-5)


def test_zero_noise_gradient() -> None:
    """R = 0 and a singular start: the derivative of a textbook loop, which inverts neither."""
    system, y = random_system(3, 1, batch=1)
    system = system._replace(
        emission_cov=torch.zeros(1, 1, 1, dtype=torch.float64),
        initial_cov=torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))[None],
    )
    leaves = [value.clone().requires_grad_() for value in system]
    ours = torch.autograd.grad(kalman.log_prob(LinearGaussianSystem(*leaves), y, None, all_seen(y)).sum(), leaves)
    loops = torch.autograd.grad(loop_log_prob(LinearGaussianSystem(*leaves), y, None, all_seen(y)).sum(), leaves)
    for name, mine, loop in zip(LinearGaussianSystem._fields, ours, loops, strict=True):
        close(mine, 0.5 * (loop + loop.mT) if name.endswith("_cov") else loop, 1e-9)


def test_gradient_of_a_settled_filter() -> None:
    """Long enough that both recursions stop computing covariances: the sum of steps is still the right one."""
    system, y = random_system(2, 1, batch=2, steps=300)
    leaves = [value.clone().requires_grad_() for value in (*system, y)]
    lengths = torch.tensor([300, 120])
    arguments = LinearGaussianSystem(*leaves[:7]), leaves[7], None, lengths
    space = torch.ops.probseq.kalman_forward(*leaves, None, lengths, 0, None, "joseph", "")
    assert space[6].max() < 100, "the covariance did not settle, so that this test would not test anything"
    ours = torch.autograd.grad(kalman.log_prob(*arguments).sum(), leaves)
    loops = torch.autograd.grad(loop_log_prob(*arguments).sum(), leaves)
    for name, mine, loop in zip((*LinearGaussianSystem._fields, "y"), ours, loops, strict=True):
        close(mine, 0.5 * (loop + loop.mT) if name.endswith("_cov") else loop, 1e-9)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # inside torch's own forward mode
def test_forward_mode_and_second_derivatives_raise() -> None:
    system, y = random_system()
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda data: kalman.log_prob(system, data, None, all_seen(y)).sum(), (y,), (y,))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        kalman.smooth(system._replace(emission_cov=torch.autograd.forward_ad.make_dual(
            system.emission_cov, system.emission_cov)), y, None, all_seen(y))  # fmt: skip
    data = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        kalman.log_prob(system, data, None, all_seen(y)).sum(), data, create_graph=True
    )  # fmt: skip
    with pytest.raises(NotImplementedError, match="first derivative only"):
        gradient.sum().backward()


@pytest.mark.parametrize("missing", [False, True])
def test_opcheck(missing: bool) -> None:
    system, y = random_system(steps=3)
    observed, lengths = random_pattern(*y.shape) if missing else None, all_seen(y)
    lead = -1 if missing else 0
    leaves = [value.clone().requires_grad_() for value in (*system, y)]
    for diffuse in (None, torch.eye(2, dtype=torch.float64)[None]):
        options = observed, lengths, lead, diffuse, "joseph", ""
        torch.library.opcheck(torch.ops.probseq.kalman_forward, (*leaves, *options))
        value, *space = torch.ops.probseq.kalman_forward(*system, y, *options)
        torch.library.opcheck(torch.ops.probseq.kalman_backward, (value, *system, y, observed, lengths, *space))


# ---------------------------------------------------------------------- units


def rescaled(system: LinearGaussianSystem, s: float) -> LinearGaussianSystem:
    """The same system with states and observations in other units."""
    return system._replace(
        initial_mean=s * system.initial_mean,
        initial_cov=s * s * system.initial_cov,
        transition_cov=s * s * system.transition_cov,
        transition_offset=s * system.transition_offset,
        emission_cov=s * s * system.emission_cov,
    )


@pytest.mark.parametrize("s", SCALES)
@pytest.mark.parametrize("process_rank", [None, 1])
@pytest.mark.parametrize("missing", [False, True])
def test_unit_equivariance(s: float, process_rank: int | None, missing: bool) -> None:
    system, y = random_system(3, 2, steps=60, process_rank=process_rank)
    observed = random_pattern(*y.shape) if missing else None
    count = (torch.ones_like(y) if observed is None else observed.double()).sum((1, 2))
    lengths = all_seen(y)
    one, other = (
        (kalman.filter(system, y, observed, lengths), kalman.smooth(system, y, observed, lengths)),
        (kalman.filter(rescaled(system, s), s * y, observed, lengths),
         kalman.smooth(rescaled(system, s), s * y, observed, lengths)),
    )  # fmt: skip
    close(other[1].log_prob + count * math.log(s), one[1].log_prob)
    close(other[0].updated_mean / s, one[0].updated_mean)
    close(other[0].updated_cov / s**2, one[0].updated_cov)
    close(other[1].mean / s, one[1].mean)
    close(other[1].cov / s**2, one[1].cov)
    close(other[1].lag_one_cov / s**2, one[1].lag_one_cov)
    normals = torch.randn(2, 3, 60, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    close(
        kalman.sample_paths(rescaled(system, s), s * y, observed, lengths, normals) / s,
        kalman.sample_paths(system, y, observed, lengths, normals),
        1e-9,
    )


@pytest.mark.parametrize("units", [(1e8, 1e-8), (1e-8, 1e8), (1e-8, 1e-8)])
def test_mixed_sensor_units(units: tuple[float, float]) -> None:
    """One sensor in other units than the next: log p moves by the log-Jacobian and nothing else changes."""
    system, y = random_system(3, 2, steps=40)
    scale = torch.tensor(units, dtype=torch.float64)
    other = system._replace(
        emission_matrix=scale[:, None] * system.emission_matrix,
        emission_cov=scale[:, None] * system.emission_cov * scale,
    )
    ours, theirs = kalman.smooth(system, y, None, all_seen(y)), kalman.smooth(other, scale * y, None, all_seen(y))
    close(theirs.log_prob + 40 * scale.log().sum(), ours.log_prob)
    close(theirs.mean, ours.mean)
    close(theirs.cov, ours.cov)


def test_precise_sensor_after_a_vague_start() -> None:
    """R = 1e-14 under P_0 = 1e6: the updated variance of a repeated exact reading is R / t, to full precision."""
    ones = torch.ones(1, 1, 1, dtype=torch.float64)
    system = LinearGaussianSystem(
        torch.zeros(1, 1).double(), 1e6 * ones, ones, 0.0 * ones, 0.0 * ones[0][None], ones, 1e-14 * ones
    )
    y = torch.zeros(1, 20, 1, dtype=torch.float64)
    filtered = kalman.filter(system, y, None, all_seen(y))
    expected = 1.0 / (1e-6 + 1e14 * torch.arange(1, 21, dtype=torch.float64))
    torch.testing.assert_close(filtered.updated_cov[0, :, 0, 0], expected, rtol=1e-12, atol=0.0)


# ---------------------------------------------------------------------- rivals, published numbers


def nile_system(mean: float, variance: float) -> tuple[LinearGaussianSystem, Tensor]:
    from statsmodels.datasets import nile

    one = torch.ones(1, 1, 1, dtype=torch.float64)
    system = LinearGaussianSystem(one[0] * mean, one * variance, one, 1469.1 * one, 0.0 * one, one, 15099.0 * one)
    return system, torch.as_tensor(nile.load_pandas().data["volume"].to_numpy(copy=True), dtype=torch.float64)[
        None, :, None
    ]


def test_nile() -> None:
    """Durbin and Koopman (2012), sec. 2: known starts, and the smoothed level of their figure 2.2."""
    system, y = nile_system(0.0, 1e7)
    value = kalman.log_prob(system, y, None, all_seen(y))
    assert float(value) == pytest.approx(-641.5855785, abs=1e-7)
    started, y = nile_system(1120.0, 15099.0 + 1469.1)
    value = kalman.log_prob(started, y[:, 1:], None, all_seen(y[:, 1:]))
    assert float(value) == pytest.approx(-632.5456251, abs=1e-7)
    filtered = kalman.filter(started, y[:, 1:], None, all_seen(y[:, 1:]))
    assert float(filtered.updated_mean[0, -1, 0]) == pytest.approx(798.37029, abs=1e-5)
    smoothed = kalman.smooth(started, y[:, 1:], None, all_seen(y[:, 1:]))
    assert smoothed.mean[0, [0, 27], 0].tolist() == pytest.approx([1110.85766, 950.93009], abs=1e-5)


@pytest.mark.parametrize("missing", [False, True])
def test_statsmodels(missing: bool) -> None:
    from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

    system, y = random_system(4, 2, batch=1, steps=80)
    observed = torch.rand(1, 80, 2, generator=torch.Generator().manual_seed(2)) > 0.2 if missing else None
    data = y[0].numpy().copy()
    if observed is not None:
        data[~observed[0].numpy()] = np.nan
    rival = KalmanSmoother(k_endog=2, k_states=4, tolerance=0.0)
    rival.bind(data)
    rival["design"], rival["obs_cov"] = system.emission_matrix[0].numpy(), system.emission_cov[0].numpy()
    rival["transition"], rival["state_cov"] = system.transition_matrix[0].numpy(), system.transition_cov[0].numpy()
    rival["selection"], rival["state_intercept"] = np.eye(4), system.transition_offset[0, 0].numpy()
    rival.initialize_known(system.initial_mean[0].numpy(), system.initial_cov[0].numpy())
    theirs = rival.smooth()
    ours = kalman.smooth(system, y, observed, all_seen(y))
    close(ours.log_prob[0], theirs.llf)
    close(ours.mean[0], theirs.smoothed_state.T.copy())
    close(ours.cov[0], theirs.smoothed_state_cov.transpose(2, 0, 1).copy())
    filtered = kalman.filter(system, y, observed, all_seen(y))
    close(filtered.updated_mean[0], theirs.filtered_state.T.copy())
    close(filtered.predicted_cov[0], theirs.predicted_state_cov.transpose(2, 0, 1)[:-1].copy())
    close(filtered.log_prob[0], theirs.llf_obs)


# ---------------------------------------------------------------------- sampling


@pytest.mark.parametrize("process_rank", [None, 0, 1])
@pytest.mark.parametrize("start_rank", [None, 0])
def test_sampled_paths_have_the_smoothed_moments(process_rank: int | None, start_rank: int | None) -> None:
    """An affine map of standard normals: its constant and its matrix are found exactly, so no draw is random."""
    system, y = random_system(batch=2, steps=4, varying="all", own_start=True, process_rank=process_rank)
    if start_rank == 0:
        system = system._replace(initial_cov=torch.zeros_like(system.initial_cov))
    observed, lengths = random_pattern(*y.shape), torch.tensor([4, 3])
    observed[1, 2] = True
    size = 4 * 4
    basis = torch.cat([torch.zeros(1, size), torch.eye(size)]).double().view(size + 1, 1, 4, 4).expand(-1, 2, -1, -1)
    paths = kalman.sample_paths(system, y, observed, lengths, basis)
    smoothed = kalman.smooth(system, y, observed, lengths)
    close(paths[0], smoothed.mean)
    for b, length in enumerate(lengths.tolist()):
        _, mean, cov = dense_posterior(system, y, observed, b, length)
        matrix = (paths[1:, b, :length] - paths[0, b, :length]).reshape(size, -1)
        close(paths[0, b, :length].reshape(-1), mean)
        close(matrix.mT @ matrix, cov)


def test_draws_are_calibrated() -> None:
    system, y = random_system(batch=1, steps=6)
    observed, draws = random_pattern(3, 6, 2)[:1], 20000
    normals = torch.randn(draws, 1, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    paths = kalman.sample_paths(system, y, observed, all_seen(y), normals)[:, 0]
    smoothed = kalman.smooth(system, y, observed, all_seen(y))
    variance = smoothed.cov[0].diagonal(dim1=-2, dim2=-1)
    z_mean = (paths.mean(0) - smoothed.mean[0]) / (variance / draws).sqrt()
    z_variance = (paths.var(0) / variance - 1.0) / math.sqrt(2.0 / draws)
    assert float(z_mean.abs().max()) < 4.0
    assert float(z_variance.abs().max()) < 4.0


# ---------------------------------------------------------------------- steady state, errors


@pytest.mark.parametrize("spectral_radius", [0.5, 0.95, 0.9999])
def test_a_settled_covariance_is_invisible(spectral_radius: float) -> None:
    """The same matrices with a time axis are never held fixed; slow modes are the hard case."""
    system, y = random_system(3, 1, batch=1, steps=3000)
    matrix = torch.diag(torch.tensor([spectral_radius, 0.6, 0.3], dtype=torch.float64))[None]
    slow = system._replace(transition_matrix=matrix, emission_matrix=torch.tensor([[[1e-3, 1.0, 1.0]]]).double())
    varying = slow._replace(transition_matrix=matrix.expand(3000, -1, -1))
    held, computed = (kalman.filter(model, y, None, all_seen(y)) for model in (slow, varying))
    for ours, theirs in zip(held[:4], computed[:4], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 * float(theirs.abs().max()))
    held, computed = (kalman.smooth(model, y, None, all_seen(y)) for model in (slow, varying))
    for ours, theirs in zip(held[:4], computed[:4], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12 * float(theirs.abs().max()))


def test_a_settled_covariance_is_computed_again_after_a_gap() -> None:
    system, y = random_system(2, 2, batch=1, steps=400)
    observed = torch.ones_like(y, dtype=torch.bool)
    observed[0, 200, 0] = False
    observed[0, 300:305] = False
    slots = torch.ops.probseq.kalman_forward(*system, y, observed, all_seen(y), 0, None, "joseph", "")[6][0]
    assert slots[199] < 100
    assert slots[[200, 201, 300]].tolist() == [200, 201, 300]
    assert slots[399] < 399
    close(kalman.log_prob(system, y, observed, all_seen(y)), loop_log_prob(system, y, observed, all_seen(y)), 1e-12)


def duplicate_sensor(noise: float) -> tuple[LinearGaussianSystem, Tensor]:
    system, y = random_system(2, 2, batch=2)
    twice = system.emission_matrix[:, :1].expand(-1, 2, -1).contiguous()
    return system._replace(emission_matrix=twice, emission_cov=noise * torch.eye(2).double()[None]), y


@pytest.mark.parametrize("s", SCALES)
def test_singular_innovation(s: float) -> None:
    system, y = duplicate_sensor(0.0)
    with pytest.raises(SingularInnovation, match=r"sequence 0, step 0.*emission_cov"):
        kalman.log_prob(rescaled(system, s), s * y, None, all_seen(y))
    observed = torch.ones_like(y, dtype=torch.bool)
    observed[0, :, 1] = False
    observed[1, :3, 1] = False
    with pytest.raises(SingularInnovation, match="sequence 1, step 3"):
        kalman.smooth(rescaled(system, s), s * y, observed, all_seen(y))
    system, y = duplicate_sensor(1e-6)
    assert kalman.log_prob(rescaled(system, s), s * y, None, all_seen(y)).isfinite().all()


@pytest.mark.parametrize("s", SCALES)
def test_exhausted_deterministic_state(s: float) -> None:
    """R = Q = 0: two exact readings of position fix position and speed, so the third reading has no density."""
    zero = torch.zeros(1, 2, 2, dtype=torch.float64)
    system = LinearGaussianSystem(
        torch.zeros(1, 2).double(), torch.tensor([[[2.0, 0.3], [0.3, 1.7]]]).double(),
        torch.tensor([[[1.0, 0.1], [0.0, 1.0]]]).double(), zero, zero[:, :1], torch.tensor([[[1.0, 0.0]]]).double(),
        zero[:, :1, :1],
    )  # fmt: skip
    y = torch.zeros(1, 3, 1, dtype=torch.float64)
    with pytest.raises(SingularInnovation, match="step 2"):
        kalman.log_prob(rescaled(system, s), s * y, None, all_seen(y))


def test_overflow_is_named() -> None:
    system, y = random_system(2, 1, batch=1, steps=3000)
    unseen = torch.tensor([[[0.0, 1.0]]]).double()
    system = system._replace(
        transition_matrix=torch.diag(torch.tensor([1.5, 0.5]))[None].double(), emission_matrix=unseen
    )
    with pytest.raises(StateOverflow, match=r"step 8\d\d"):
        kalman.log_prob(system, y, None, all_seen(y))
    for batch in (2, 20):
        system, y = random_system(2, 1, batch=batch)
        y[1, 3] = math.inf
        with pytest.raises(StateOverflow, match="sequence 1, step 3"):
            kalman.log_prob(system, y, None, all_seen(y))


@pytest.mark.parametrize("name", [*LinearGaussianSystem._fields, "y", "observed", "lengths"])
def test_wrong_shapes_are_named(name: str) -> None:
    system, y = random_system(steps=4)
    observed, lengths = torch.ones_like(y, dtype=torch.bool), all_seen(y)
    if name == "y":
        y = y.float()
    elif name == "observed":
        observed = observed[:, 1:]
    elif name == "lengths":
        lengths = lengths + 1
    else:
        system = system._replace(**{name: getattr(system, name)[..., :1]})
    with pytest.raises(ValueError, match=name):
        kalman.log_prob(system, y, observed, lengths)
    if name in ("transition_cov", "transition_offset"):
        axis = 0 if name == "transition_cov" else 1
        longer = torch.cat([getattr(random_system(steps=4)[0], name)] * 3, axis)
        with pytest.raises(ValueError, match=name):
            kalman.log_prob(random_system(steps=4)[0]._replace(**{name: longer}), y, None, lengths)
