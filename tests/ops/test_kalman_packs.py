"""Packs of sequences in registers against the dense joint Gaussian and a plain torch loop."""

from __future__ import annotations

import pytest
import torch

from probseq.errors import StateOverflow
from probseq.ops import kalman, kalman_packs, threads
from probseq.ops.kalman import LinearGaussianSystem
from probseq.ops.kalman_workspace import Inputs
from tests.ops.test_kalman import (
    all_seen,
    close,
    dense_posterior,
    leaves_of,
    loop_log_prob,
    random_system,
)

SIZES = [(1, 1, 9, 5), (2, 1, 8, 17), (3, 4, 21, 6), (4, 2, 33, 9)]


def served(system: LinearGaussianSystem, y: torch.Tensor) -> bool:
    return applicable(system, y, None, all_seen(y), 0, None)


def applicable(
    system: LinearGaussianSystem, y: torch.Tensor, observed: torch.Tensor | None, lengths: torch.Tensor, lead: int,
    diffuse: torch.Tensor | None,
) -> bool:  # fmt: skip
    return kalman_packs.applicable(Inputs.of(system, y, observed, lengths, diffuse), lead)


@pytest.mark.parametrize(("n", "m", "batch", "steps"), SIZES)
def test_values_and_means_are_those_of_the_joint_gaussian(n: int, m: int, batch: int, steps: int) -> None:
    system, y = random_system(n, m, batch, steps, process_rank=1)
    assert served(system, y)
    values, smoothed = kalman.log_prob(system, y, None, all_seen(y)), kalman.smooth(system, y, None, all_seen(y))
    for b in (0, batch // 2, batch - 1):
        log_prob, mean, cov = dense_posterior(system, y, None, b, steps)
        close(values[b], log_prob)
        close(smoothed.log_prob[b], log_prob)
        close(smoothed.mean[b].flatten(), mean)
        for t in range(steps):
            close(smoothed.cov[b, t], cov[t * n : (t + 1) * n, t * n : (t + 1) * n])


@pytest.mark.parametrize("learned_data", [False, True])
@pytest.mark.parametrize(("n", "m", "batch", "steps"), SIZES)
def test_gradients_are_those_of_a_loop(n: int, m: int, batch: int, steps: int, learned_data: bool) -> None:
    system, y = random_system(n, m, batch, steps, process_rank=1)
    weights = torch.linspace(-1.0, 2.0, batch, dtype=torch.float64)
    results = []
    for function in (kalman.log_prob, loop_log_prob):
        leaves = [*leaves_of(system), y.clone().requires_grad_(learned_data)]
        total = function(LinearGaussianSystem(*leaves[:7]), leaves[7], None, all_seen(y)) @ weights
        results.append(torch.autograd.grad(total, leaves if learned_data else leaves[:7]))
    for place, (ours, loops) in enumerate(zip(*results, strict=True)):
        symmetric = place in (1, 3, 6)
        close(ours, 0.5 * (loops + loops.mT) if symmetric else loops, 1e-9)


def test_value_and_gradient_in_parameters_shared_by_all() -> None:
    system, y = random_system(2, 1, 19, 12)
    leaves = leaves_of(system._replace(initial_mean=system.initial_mean[0]))
    expected = torch.autograd.grad(kalman.log_prob(leaves, y, None, all_seen(y)).sum(), leaves)
    value, gradients = kalman.value_and_gradient(leaves, y, None, all_seen(y))
    close(value, kalman.log_prob(leaves, y, None, all_seen(y)).detach(), 1e-14)
    for one, other in zip(gradients[:7], expected, strict=True):
        close(one, other, 1e-14)


def test_threads_do_not_change_a_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "WORTHWHILE", 0)
    system, y = random_system(2, 1, 300, 20)
    found, before = [], torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            leaves = leaves_of(system)
            value = kalman.log_prob(leaves, y, None, all_seen(y))
            smoothed = kalman.smooth(system, y, None, all_seen(y)).mean
            found.append([value.detach(), smoothed, *torch.autograd.grad(value.sum(), leaves)])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_what_they_do_not_serve() -> None:
    """Sequences of other lengths or with gaps, parameters that vary, diffuse starts, few sequences, many states."""
    system, y = random_system(2, 1, 8, 5)
    uneven = all_seen(y).clone()
    uneven[3] = 4
    one, seen = torch.ones(1, 2, 2, dtype=torch.float64), torch.ones_like(y, dtype=torch.bool)
    assert served(system, y)
    assert not applicable(system, y, None, uneven, 0, None)
    assert not applicable(system, y, seen, all_seen(y), 0, None)
    assert not applicable(system, y, None, all_seen(y), -1, None)
    assert not applicable(system, y, None, all_seen(y), 0, one)
    for varying in ("transition_matrix", "transition_cov", "transition_offset", "emission_matrix", "emission_cov"):
        assert not served(*random_system(2, 1, 8, 5, varying=varying))
    assert not served(*random_system(2, 1, 7, 5))
    assert not served(*random_system(5, 1, 8, 5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named(bad: float) -> None:
    system, y = random_system(2, 1, 12, 5)
    y[9, 3] = bad
    with pytest.raises(StateOverflow, match="sequence 9"):
        kalman.log_prob(system, y, None, all_seen(y))
    with pytest.raises(StateOverflow, match="sequence 9"):
        kalman.value_and_gradient(system, y, None, all_seen(y))


@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_ill_conditioned_steps_are_smoothed_on_roots(unit: float) -> None:
    """A sensor far better than what was known before it: "auto" goes over to roots, whatever the unit."""
    system, y = random_system(2, 1, 8, 5)
    system = system._replace(
        initial_cov=1e10 * system.initial_cov * unit**2,
        initial_mean=system.initial_mean * unit,
        transition_offset=system.transition_offset * unit,
        transition_cov=system.transition_cov * unit**2,
        emission_cov=system.emission_cov * unit**2,
    )
    assert served(system, y)
    forced = kalman.smooth(system, y * unit, None, all_seen(y), None, "square_root")
    chosen = kalman.smooth(system, y * unit, None, all_seen(y))
    close(chosen.mean / unit, forced.mean / unit, 1e-12)
    leaves = leaves_of(system)
    close(kalman.log_prob(leaves, y * unit, None, all_seen(y)).detach(), forced.log_prob, 1e-8)
