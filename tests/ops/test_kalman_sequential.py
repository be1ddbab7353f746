"""Sensors one by one, and the adjoint of few states: fast paths that must be invisible."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from probseq.errors import StateOverflow
from probseq.ops import kalman, kalman_arrays, kalman_backward, kalman_single
from probseq.ops.kalman import LinearGaussianSystem
from tests.ops.test_kalman import all_seen, close, dense_posterior, loop_log_prob, random_pattern, random_system

SIZES = [(2, 1), (2, 3), (5, 2), (13, 4)]  # each n known to the compiler is compiled anew


def independent(
    n: int, m: int, batch: int, steps: int = 6, *, own: bool = False, process_rank: int | None = None
) -> tuple[LinearGaussianSystem, Tensor, Tensor]:
    """A system with a diagonal emission covariance, data, and patterns of missing entries that differ."""
    system, y = random_system(n, m, batch, steps, own_start=own, process_rank=process_rank)
    noise = torch.diag(system.emission_cov[0].diagonal())[None].contiguous()
    observed = random_pattern(batch, steps, m) if batch > 2 else torch.rand(batch, steps, m) > 0.3
    return system._replace(emission_cov=noise), torch.where(observed, y, math.nan), observed


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which fast paths served, by name."""
    served: list[str] = []
    watched_for = [
        (kalman_arrays, "run_sequential"),
        (kalman_backward, "run_small_adjoint"),
        (kalman_single, "value_and_gradient"),
    ]
    for module, name in watched_for:
        own = getattr(module, name)

        def watched(*arguments: object, name: str = name, own: object = own) -> object:
            result = own(*arguments)  # type: ignore[operator]
            if result if name == "run_sequential" else result is not None:
                served.append(name)
            return result

        monkeypatch.setattr(module, name, watched)
    return served


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("batch", [1, 3, 11, 70])
@pytest.mark.parametrize("own", [False, True])
def test_log_prob_is_the_one_of_a_loop(n: int, m: int, batch: int, own: bool, calls: list[str]) -> None:
    system, y, observed = independent(n, m, batch, own=own)
    lengths = torch.arange(batch) % 4 + 3
    expected = loop_log_prob(system, y, observed, lengths)
    close(kalman.log_prob(system, y, observed, lengths), expected)
    assert calls == ["run_sequential"]
    close(kalman.log_prob(system, y, observed, lengths, None, "joseph"), expected)


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("batch", [1, 11])
def test_complete_rows_from_starts_of_their_own(n: int, m: int, batch: int, calls: list[str]) -> None:
    system, y, _ = independent(n, m, batch, own=True)
    y = torch.where(y.isnan(), 0.3, y)
    close(kalman.log_prob(system, y, None, all_seen(y)), loop_log_prob(system, y, None, all_seen(y)))
    assert calls == (["run_sequential"] if batch > 1 or n <= 10 else [])


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("missing", [False, True])
def test_diffuse_start(n: int, missing: bool, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The head on square roots, the rest one by one: the same numbers, moments and gradients."""
    system, y, observed = independent(n, 2, 1, 60)
    system = system._replace(initial_mean=torch.zeros(1, n).double(), initial_cov=torch.zeros(1, n, n).double())
    diffuse = torch.eye(n, dtype=torch.float64)[None]
    seen = observed if missing else None
    y = y if missing else torch.where(observed, y, 0.3)
    leaves = [value.clone().requires_grad_() for value in (*system, y)]

    def everything() -> list[Tensor]:
        own = LinearGaussianSystem(*leaves[:7]), leaves[7], seen, all_seen(y), diffuse
        value = kalman.log_prob(*own).sum()
        return [*torch.autograd.grad(value, leaves), *kalman.smooth(*own)[:4], value.detach()]

    fast = everything()
    with torch.no_grad():
        close(kalman.log_prob(system, y, seen, all_seen(y), diffuse).sum(), fast[-1], 1e-12)
    assert calls == ["value_and_gradient", "run_sequential", "run_small_adjoint", "run_sequential"]
    monkeypatch.setattr(kalman_arrays, "HEAD", 60)
    for module in (kalman_arrays, kalman_backward, kalman_single):
        monkeypatch.setattr(module, "KNOWN_STATES", 0)
    slow = everything()
    largest = max(float(other.abs().max()) for other in slow)  # some derivatives are zero
    for ours, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-13 * largest)


@pytest.mark.parametrize("batch", [8, 1000])
@pytest.mark.parametrize("missing", [False, True])
def test_two_threads_give_the_same_digits(batch: int, missing: bool) -> None:
    system, y, observed = independent(2, 1, batch, 40)
    seen = observed if missing else None
    y = y if missing else torch.where(observed, y, 0.3)
    leaves = [value.clone().requires_grad_() for value in (*system, y)]

    def everything(threads: int) -> list[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            own = LinearGaussianSystem(*leaves[:7]), leaves[7], seen, all_seen(y)
            value = kalman.log_prob(*own)
            with torch.no_grad():
                plain = kalman.log_prob(*own)
            return [*torch.autograd.grad(value.sum(), leaves), *kalman.smooth(*own)[:4], plain]
        finally:
            torch.set_num_threads(before)

    for one, two in zip(everything(1), everything(2), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("process_rank", [None, 0])
def test_smoother_is_the_dense_posterior(n: int, m: int, process_rank: int | None, calls: list[str]) -> None:
    system, y, observed = independent(n, m, 3, process_rank=process_rank)
    lengths = torch.tensor([6, 4, 5])
    smoothed = kalman.smooth(system, y, observed, lengths)
    assert calls == ["run_sequential", "run_small_adjoint"][: 2 if n <= 10 else 1]
    for b in range(3):
        length = int(lengths[b])
        log_prob, mean, cov = dense_posterior(system, y, observed, b, length)
        close(smoothed.log_prob[b], log_prob)
        close(smoothed.mean[b, :length].flatten(), mean)
        blocks = cov.reshape(length, n, length, n)
        for t in range(length):
            close(smoothed.cov[b, t], blocks[t, :, t])
            if t + 1 < length:
                close(smoothed.lag_one_cov[b, t], blocks[t + 1, :, t])


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize("own", [False, True])
def test_gradient_is_the_one_of_the_other_kernels(
    n: int, m: int, batch: int, own: bool, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    system, y, observed = independent(n, m, batch, own=own)
    leaves = [value.clone().requires_grad_() for value in (*system, y)]
    weights = torch.linspace(-1.0, 2.0, batch, dtype=torch.float64)

    def gradients(numerics: str) -> tuple[Tensor, ...]:
        value = kalman.log_prob(LinearGaussianSystem(*leaves[:7]), leaves[7], observed, all_seen(y), None, numerics)
        return torch.autograd.grad(value @ weights, leaves)

    fast = gradients("auto")
    assert calls == ["run_sequential", "run_small_adjoint"][: 2 if n <= 10 else 1]
    for module in (kalman_arrays, kalman_backward, kalman_single):
        monkeypatch.setattr(module, "KNOWN_STATES", 0)
    for ours, expected in zip(fast, gradients("joseph"), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("missing", [False, True])
def test_adjoint_of_a_settled_filter(missing: bool, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough for repeated steps to be counted, with a gap behind which all begins anew."""
    system, y = random_system(2, 1, 1, 900)
    observed = torch.ones_like(y, dtype=torch.bool)
    if missing:
        observed[:, 400:403] = False
    leaves = [value.clone().requires_grad_() for value in (*system, y)]

    def both() -> tuple[tuple[Tensor, ...], kalman.SmoothedMoments]:
        own = LinearGaussianSystem(*leaves[:7]), leaves[7], observed, all_seen(y), None, "joseph"
        return torch.autograd.grad(kalman.log_prob(*own).sum(), leaves), kalman.smooth(*own)

    fast, smoothed = both()
    assert calls == ["run_small_adjoint"] * 2
    for module in (kalman_arrays, kalman_backward):
        monkeypatch.setattr(module, "KNOWN_STATES", 0)
    slow, expected = both()
    for ours, other in zip((*fast, *smoothed[:4]), (*slow, *expected[:4]), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-10 * float(other.abs().max()))


@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize("s", [1e-8, 1e8])
def test_unit_equivariance(batch: int, s: float) -> None:
    system, y, observed = independent(2, 2, batch)
    scaled = system._replace(
        initial_mean=s * system.initial_mean, initial_cov=s * s * system.initial_cov,
        transition_cov=s * s * system.transition_cov, transition_offset=s * system.transition_offset,
        emission_cov=s * s * system.emission_cov,
    )  # fmt: skip
    moved = kalman.log_prob(scaled, s * y, observed, all_seen(y)) + observed.double().sum((1, 2)) * math.log(s)
    close(moved, kalman.log_prob(system, y, observed, all_seen(y)))


@pytest.mark.parametrize("batch", [1, 20])
def test_a_sensor_far_better_than_what_was_known_is_left_to_square_roots(batch: int, calls: list[str]) -> None:
    system, y, observed = independent(2, 2, batch)
    system = system._replace(emission_cov=1e-12 * system.emission_cov)
    found = kalman.log_prob(system, y, observed, all_seen(y))
    assert calls == []
    close(found, kalman.log_prob(system, y, observed, all_seen(y), None, "square_root"), 1e-8)


@pytest.mark.parametrize("batch", [1, 20])
def test_overflow_is_named(batch: int) -> None:
    system, y, observed = independent(2, 2, batch)
    y[batch - 1, 4, 0], observed[batch - 1, 4, 0] = np.inf, True
    with pytest.raises(StateOverflow, match=f"sequence {batch - 1}, step 4"):
        kalman.log_prob(system, y, observed, all_seen(y))
