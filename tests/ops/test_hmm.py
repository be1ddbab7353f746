"""Inference in hidden Markov models against path enumeration, a plain loop, many digits and hmmlearn."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from probseq.kernels import hmm as kernels
from probseq.ops import hmm, hmm_arrays, threads

INF = math.inf


class Case(NamedTuple):
    log_initial: Tensor
    log_transition: Tensor
    log_observation: Tensor
    lengths: Tensor


def random_case(batch: int, time: int, state: int, *, sets: int = 1, times: int = 1, seed: int = 0) -> Case:
    """Proper probabilities and ordinary emissions, every sequence complete."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return Case(
        draw(batch, state).log_softmax(-1),
        draw(sets, times, state, state).log_softmax(-1),
        2.0 * draw(batch, time, state),
        torch.full((batch,), time),
    )


def with_zeros(case: Case, seed: int = 0) -> Case:
    """The case with about a third of initial, transition and emission entries forbidden (each row keeps one)."""
    generator = torch.Generator().manual_seed(seed)

    def forbid(table: Tensor) -> Tensor:
        mask = torch.rand(table.shape, generator=generator) < 0.35
        keep = torch.randint(table.shape[-1], (*table.shape[:-1], 1), generator=generator)
        return table.masked_fill(mask.scatter(-1, keep, False), -INF)

    initial, transition = forbid(case.log_initial).log_softmax(-1), forbid(case.log_transition).log_softmax(-1)
    return Case(initial, transition, forbid(case.log_observation), case.lengths)


def left_right(time: int, state: int, stay: float, gap: float) -> Case:
    """A chain that only moves up, with emissions that favour the states one after the other by `gap` nats."""
    transition = torch.full((state, state), -INF, dtype=torch.float64)
    for i in range(state):
        transition[i, i] = math.log(stay) if i + 1 < state else 0.0
        if i + 1 < state:
            transition[i, i + 1] = math.log1p(-stay)
    initial = torch.full((1, state), -INF, dtype=torch.float64)
    initial[0, 0] = 0.0
    favoured = torch.arange(time) * state // time
    observation = -gap * (torch.arange(state) - favoured[:, None]).abs().double()
    return Case(initial, transition[None, None], observation[None], torch.tensor([time]))


# --------------------------------------------------------------------------------- oracles


class Enumerated(NamedTuple):
    log_prob: float
    gamma: np.ndarray  # (T, K)
    xi: np.ndarray  # (T, K, K), entry 0 unused
    filtered: np.ndarray  # (T,) log p(y_t | y_<t)
    best: tuple[int, ...]
    best_score: float


def transition_at(case: Case, b: int, t: int) -> np.ndarray:
    table = case.log_transition[b if case.log_transition.shape[0] > 1 else 0]
    return table[t if table.shape[0] > 1 else 0].numpy()


def joint(case: Case, b: int, path: tuple[int, ...]) -> float:
    """log p(z, y_0 .. y_{len(z) - 1}) of one path."""
    value = float(case.log_initial[b, path[0]])
    for t, z in enumerate(path):
        value += float(case.log_observation[b, t, z])
        if t > 0:
            value += transition_at(case, b, t)[path[t - 1], z]
    return value


def log_sum(values: list[float]) -> float:
    top = max(values)
    return top if top == -INF else top + math.log(math.fsum(math.exp(value - top) for value in values))


def enumerate_paths(case: Case, b: int) -> Enumerated:
    """Everything by summing over all K^T paths."""
    k, n = case.log_initial.shape[1], int(case.lengths[b])
    scores = {path: joint(case, b, path) for path in itertools.product(range(k), repeat=n)}
    total = log_sum(list(scores.values()))
    gamma, xi = np.zeros((n, k)), np.zeros((n, k, k))
    for path, score in scores.items():
        probability = math.exp(score - total) if total > -INF else 0.0
        for t, z in enumerate(path):
            gamma[t, z] += probability
            if t > 0:
                xi[t, path[t - 1], z] += probability
    prefix = [0.0]
    for t in range(1, n + 1):
        prefix.append(log_sum([joint(case, b, path) for path in itertools.product(range(k), repeat=t)]))
    filtered = np.array([after - before if after > -INF else -INF for before, after in itertools.pairwise(prefix)])
    best = max(scores, key=lambda path: scores[path])
    return Enumerated(total, gamma, xi, filtered, best, scores[best])


def loop_log_prob(case: Case) -> Tensor:
    """log p(y) by torch's own operations; forbidden entries must not meet in one sum (torch returns NaN gradients)."""
    results = []
    for b in range(case.log_initial.shape[0]):
        alpha = case.log_initial[b]
        for t in range(int(case.lengths[b])):
            if t > 0:
                table = case.log_transition[b if case.log_transition.shape[0] > 1 else 0]
                alpha = (alpha[:, None] + table[t if table.shape[0] > 1 else 0]).logsumexp(0)
            alpha = alpha + case.log_observation[b, t]
        results.append(alpha.logsumexp(0) if int(case.lengths[b]) else alpha.new_zeros(()))
    return torch.stack(results)


def exact_forward_backward(case: Case, digits: int = 50) -> tuple[float, np.ndarray]:
    """log p(y) and gamma of a single sequence in many digits."""
    with mpmath.workdps(digits):
        exp = lambda table: [[mpmath.exp(mpmath.mpf(float(x))) for x in row] for row in table]  # noqa: E731
        n, k = int(case.lengths[0]), case.log_initial.shape[1]
        emission, matrix = exp(case.log_observation[0, :n]), exp(case.log_transition[0, 0])
        alpha = [[p * e for p, e in zip(exp(case.log_initial)[0], emission[0], strict=True)]]
        for t in range(1, n):
            alpha.append(
                [emission[t][j] * mpmath.fsum(alpha[-1][i] * matrix[i][j] for i in range(k)) for j in range(k)]
            )
        beta = [[mpmath.mpf(1)] * k]
        for t in range(n - 1, 0, -1):
            ahead = [emission[t][j] * beta[0][j] for j in range(k)]
            beta.insert(0, [mpmath.fsum(matrix[i][j] * ahead[j] for j in range(k)) for i in range(k)])
        total = mpmath.fsum(alpha[-1])
        gamma = [
            [float(mpmath.log(a * b / total)) for a, b in zip(*rows, strict=True)]
            for rows in zip(alpha, beta, strict=True)
        ]
        return float(mpmath.log(total)), np.array(gamma)


def gradients(case: Case, weights: Tensor | None = None) -> list[Tensor]:
    inputs = [table.clone().requires_grad_() for table in case[:3]]
    value = hmm.log_prob(*inputs, case.lengths)
    weights = torch.ones_like(value) if weights is None else weights
    return list(torch.autograd.grad(value, inputs, weights))


def status_of(case: Case) -> list[int]:
    """Which recursion served each sequence."""
    problem = hmm_arrays.problem_of(*(table.numpy() for table in case))
    return hmm_arrays.run_forward(problem, keep=False).status.tolist()


# --------------------------------------------------------------------------------- enumeration

LAYOUTS = [(1, False), (1, True), (3, False), (3, True)]


def case_for(sets: int, varying: bool, time: int, zeros: bool) -> Case:
    case = random_case(3, time, 3, sets=sets, times=time if varying else 1, seed=time)
    case = with_zeros(case, seed=time) if zeros else case
    return case._replace(lengths=torch.tensor([time, max(time - 2, 0), (time + 1) // 2]))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("time", [1, 2, 5])
@pytest.mark.parametrize(("sets", "varying"), LAYOUTS)
def test_everything_agrees_with_enumeration(sets: int, varying: bool, time: int, zeros: bool) -> None:
    case = case_for(sets, varying, time, zeros)
    log_prob, filtered = hmm.log_prob(*case), hmm.filter(*case)
    posterior, path = hmm.posterior(*case), hmm.viterbi(*case)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    by_initial, by_transition, by_observation = gradients(case, weights)
    expected_transition = np.zeros(case.log_transition.shape)
    for b in range(3):
        n = int(case.lengths[b])
        if n == 0:
            assert log_prob[b] == 0.0
            assert path.score[b] == 0.0
            continue
        exact = enumerate_paths(case, b)
        np.testing.assert_allclose(log_prob[b], exact.log_prob, rtol=1e-12)
        np.testing.assert_allclose(posterior.log_prob[b], exact.log_prob, rtol=1e-12)
        possible = (
            n if exact.log_prob > -INF else int(posterior.impossible_at[b]) + 1
        )  # the filter goes on, the sum not
        np.testing.assert_allclose(filtered.log_prob[b, :possible], exact.filtered[:possible], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(posterior.log_gamma[b, :n].exp(), exact.gamma, rtol=1e-11, atol=1e-15)
        per_step = exact.xi if posterior.xi_sum.shape[1] > 1 else exact.xi.sum(0, keepdims=True)
        np.testing.assert_allclose(posterior.xi_sum[b, : len(per_step)], per_step, rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(by_initial[b], float(weights[b]) * exact.gamma[0], rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(by_observation[b, :n], float(weights[b]) * exact.gamma, rtol=1e-11, atol=1e-15)
        expected_transition[b if sets > 1 else 0, : len(per_step)] += float(weights[b]) * per_step
        assert (posterior.impossible_at[b] >= 0) == (exact.log_prob == -INF)
        np.testing.assert_allclose(path.score[b], exact.best_score, rtol=1e-12)
        if exact.log_prob > -INF:
            assert tuple(path.states[b, :n].tolist()) == exact.best
        else:
            assert (path.states[b] == -1).all()
    np.testing.assert_allclose(by_transition, expected_transition, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("zeros", [False, True])
def test_filtered_beliefs_are_those_of_shorter_sequences(zeros: bool) -> None:
    case = case_for(3, True, 5, zeros)._replace(lengths=torch.tensor([5, 5, 5]))
    filtered = hmm.filter(*case)
    for b, t in itertools.product(range(3), range(5)):
        short = case._replace(lengths=torch.full((3,), t + 1))
        exact = enumerate_paths(short, b)
        if exact.log_prob == -INF:
            continue
        np.testing.assert_allclose(filtered.log_updated[b, t].exp(), exact.gamma[-1], rtol=1e-11, atol=1e-15)
        silent = short._replace(log_observation=short.log_observation.clone())
        silent.log_observation[:, t] = 0.0
        predicted = enumerate_paths(silent, b).gamma[-1]
        np.testing.assert_allclose(filtered.log_predicted[b, t].exp(), predicted, rtol=1e-11, atol=1e-15)


def test_log_prob_is_the_sum_of_the_filter_and_the_last_smoothed_belief_is_the_filtered_one() -> None:
    case = with_zeros(random_case(5, 40, 6, sets=5, seed=2), seed=3)._replace(lengths=torch.tensor([40, 1, 17, 0, 33]))
    filtered, posterior = hmm.filter(*case), hmm.posterior(*case)
    np.testing.assert_allclose(hmm.log_prob(*case), filtered.log_prob.sum(-1), rtol=1e-13)
    for b in (0, 1, 2, 4):
        if posterior.impossible_at[b] < 0:
            last = int(case.lengths[b]) - 1
            np.testing.assert_allclose(posterior.log_gamma[b, last], filtered.log_updated[b, last], rtol=1e-11)


# --------------------------------------------------------------------------------- padding, emptiness


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("filling", [math.nan, INF, -INF, 1e300])
def test_padding_does_not_matter(filling: float, varying: bool) -> None:
    lengths = torch.tensor([7, 0, 3, 1])
    clean = random_case(4, 7, 3, sets=4, times=7 if varying else 1)._replace(lengths=lengths)
    observation, transition = clean.log_observation.clone(), clean.log_transition.clone()
    for b, n in enumerate(lengths.tolist()):
        observation[b, n:] = filling
        if varying:
            transition[b, n:] = filling
            transition[b, 0] = filling
    dirty = clean._replace(log_observation=observation, log_transition=transition)
    uniforms = torch.rand(2, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for name in ("log_prob", "filter", "posterior", "viterbi"):
        function = getattr(hmm, name)
        for one, other in zip(_tensors(function(*clean)), _tensors(function(*dirty)), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert torch.equal(hmm.sample_paths(*clean, uniforms), hmm.sample_paths(*dirty, uniforms))
    for one, other in zip(gradients(clean), gradients(dirty), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def _tensors(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def test_padding_of_results() -> None:
    case = random_case(3, 5, 2)._replace(lengths=torch.tensor([5, 2, 0]))
    filtered, posterior = hmm.filter(*case), hmm.posterior(*case)
    assert (filtered.log_prob[1, 2:] == 0).all()
    assert (filtered.log_prob[2] == 0).all()
    for t in range(2, 5):
        assert torch.equal(filtered.log_predicted[1, t], filtered.log_updated[1, 1])
        assert torch.equal(filtered.log_updated[2, t], case.log_initial[2])
    assert (posterior.log_gamma[1, 2:] == -INF).all()
    assert (hmm.viterbi(*case).states[1] >= 0).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("shape", [(2, 0), (0, 4), (0, 0)])
@pytest.mark.parametrize("varying", [False, True])
def test_no_steps_and_no_sequences(shape: tuple[int, int], varying: bool) -> None:
    batch, time = shape
    case = random_case(batch, time, 3, times=time if varying else 1)
    assert torch.equal(hmm.log_prob(*case), torch.zeros(batch, dtype=torch.float64))
    assert hmm.filter(*case).log_updated.shape == (batch, time, 3)
    assert hmm.posterior(*case).xi_sum.shape == (batch, time if varying else 1, 3, 3)
    assert hmm.viterbi(*case).states.shape == (batch, time)
    assert hmm.sample_paths(*case, torch.zeros(2, batch, time, dtype=torch.float64)).shape == (2, batch, time)
    assert all(not gradient.any() for gradient in gradients(case))


def test_one_state_is_independent_data() -> None:
    case = random_case(2, 9, 1)
    torch.testing.assert_close(hmm.log_prob(*case), case.log_observation.sum((1, 2)), rtol=1e-13, atol=0)
    assert not hmm.viterbi(*case).states.any()


# --------------------------------------------------------------------------------- impossible data


def test_an_impossible_step_is_named_and_passed_over() -> None:
    case = random_case(3, 6, 3)
    case.log_observation[1, 2] = -INF
    filtered, posterior = hmm.filter(*case), hmm.posterior(*case)
    assert posterior.impossible_at.tolist() == [-1, 2, -1]
    assert hmm.log_prob(*case)[1] == -INF
    assert torch.isneginf(filtered.log_prob[1]).tolist() == [False, False, True, False, False, False]
    assert torch.equal(filtered.log_updated[1, 2], filtered.log_predicted[1, 2])
    silent = case._replace(log_observation=case.log_observation.clone())
    silent.log_observation[1, 2] = 0.0  # afterwards the filter is that of a missing step
    torch.testing.assert_close(filtered.log_updated[1, 3:], hmm.filter(*silent).log_updated[1, 3:], rtol=1e-12, atol=0)
    for gradient in gradients(case):
        assert torch.isfinite(gradient).all()
    assert not gradients(case)[2][1].any()
    assert torch.isneginf(posterior.log_gamma[1]).all()
    assert not posterior.xi_sum[1].any()
    assert hmm.viterbi(*case).score[1] == -INF
    assert (hmm.sample_paths(*case, torch.full((2, 3, 6), 0.5, dtype=torch.float64))[:, 1] == -1).all()


def test_contradicting_zeros_and_a_start_without_states() -> None:
    case = left_right(6, 3, 0.5, 1.0)
    case.log_observation[0, 4, 2] = -INF
    case.log_observation[0, 5, :2] = -INF  # state 2 can only be entered from 1, with p = 1/2: still possible
    assert hmm.posterior(*case).impossible_at.item() == -1
    case.log_observation[0, 4, 1] = -INF  # state 0 cannot reach state 2 in one step
    assert hmm.posterior(*case).impossible_at.item() == 5
    dead = random_case(1, 4, 3)._replace(log_initial=torch.full((1, 3), -INF, dtype=torch.float64))
    assert hmm.log_prob(*dead).item() == -INF
    assert hmm.posterior(*dead).impossible_at.item() == 0
    assert not any(table.isnan().any() for table in hmm.filter(*dead))
    assert not any(gradient.any() for gradient in gradients(dead))


def test_nan_in_the_data_gives_nan_in_that_sequence_alone() -> None:
    case = random_case(3, 6, 3)
    case.log_observation[1, 2, 0] = math.nan
    assert torch.isnan(hmm.log_prob(*case)).tolist() == [False, True, False]
    assert torch.isnan(hmm.filter(*case).log_prob).any(-1).tolist() == [False, True, False]


# --------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize(("sets", "varying"), LAYOUTS)
def test_gradient_is_that_of_the_loop(sets: int, varying: bool) -> None:
    case = random_case(3, 11, 4, sets=sets, times=11 if varying else 1, seed=5)
    case = case._replace(lengths=torch.tensor([11, 4, 1]))
    inputs = [table.clone().requires_grad_() for table in case[:3]]
    weights = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    reference = torch.autograd.grad(loop_log_prob(Case(*inputs, case.lengths)), inputs, weights)
    for ours, theirs in zip(gradients(case, weights), reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("varying", [False, True])
def test_gradcheck(varying: bool) -> None:
    case = random_case(2, 4, 3, times=4 if varying else 1)._replace(lengths=torch.tensor([4, 2]))
    inputs = tuple(table.clone().requires_grad_() for table in case[:3])
    assert torch.autograd.gradcheck(lambda *tables: hmm.log_prob(*tables, case.lengths), inputs)


def test_gradient_through_logits_with_structural_zeros_is_finite() -> None:
    case = with_zeros(random_case(2, 12, 4, seed=8), seed=1)
    logits = case.log_transition.clone().requires_grad_()
    hmm.log_prob(case.log_initial, logits.log_softmax(-1), case.log_observation, case.lengths).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[case.log_transition == -INF].any()


def test_potentials_that_are_no_probabilities() -> None:
    case = random_case(2, 8, 3, sets=2, times=8)
    shifted = case._replace(log_initial=case.log_initial + 700.0, log_transition=case.log_transition + 800.0)._replace(
        lengths=torch.tensor([8, 5])
    )
    reference = hmm.log_prob(*case._replace(lengths=shifted.lengths))
    moved = 700.0 + 800.0 * (shifted.lengths - 1).double()
    torch.testing.assert_close(hmm.log_prob(*shifted), reference + moved, rtol=1e-13, atol=0)
    lowered = case._replace(log_initial=case.log_initial - 900.0, log_transition=case.log_transition - 800.0)
    expected = hmm.log_prob(*case) - 900.0 - 800.0 * 7
    torch.testing.assert_close(hmm.log_prob(*lowered), expected, rtol=1e-13, atol=0)
    for one, other in zip(gradients(lowered), gradients(case), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("varying", [False, True])
def test_opcheck(zeros: bool, varying: bool) -> None:
    case = case_for(1, varying, 4, zeros)
    inputs = tuple(table.clone().requires_grad_() for table in case[:3])
    torch.library.opcheck(torch.ops.probseq.hmm_log_prob.default, (*inputs, case.lengths))
    workspaces = torch.ops.probseq.hmm_log_prob(*case)[1:]
    assert not any(workspace.requires_grad for workspace in torch.ops.probseq.hmm_log_prob(*inputs, case.lengths)[1:])
    incoming = torch.ones(3, dtype=torch.float64)
    torch.library.opcheck(torch.ops.probseq.hmm_log_prob_backward.default, (incoming, *case, *workspaces))


def test_second_derivatives_raise() -> None:
    case = random_case(1, 5, 3)
    observation = case.log_observation.clone().requires_grad_()
    value = hmm.log_prob(case.log_initial, case.log_transition, observation, case.lengths).sum()
    (gradient,) = torch.autograd.grad(value, observation, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        gradient.pow(2).sum().backward()
    value = torch.ops.probseq.hmm_log_prob(case.log_initial, case.log_transition, observation, case.lengths)[0].sum()
    (gradient,) = torch.autograd.grad(value, observation, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        gradient.pow(2).sum().backward()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")  # torch's own, on first use
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("tracked", [False, True])
def test_forward_mode_raises(which: int, tracked: bool) -> None:
    case = random_case(1, 5, 3)
    tables = [table.clone().requires_grad_(tracked) for table in case[:3]]
    with torch.autograd.forward_ad.dual_level():
        tables[which] = torch.autograd.forward_ad.make_dual(tables[which], torch.ones_like(tables[which]))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            hmm.log_prob(*tables, case.lengths)

    def of(table: Tensor) -> Tensor:
        return hmm.log_prob(*[table if i == which else other for i, other in enumerate(case[:3])], case.lengths)

    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(of, (case[which],), (torch.ones_like(case[which]),))
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.functional.hessian(lambda table: of(table).sum(), case[which])
    with pytest.raises(RuntimeError):  # goes through vmap, which has no rule here
        torch.func.hessian(lambda table: of(table).sum())(case[which])


def test_functional_gradient_is_the_gradient() -> None:
    case = random_case(2, 5, 3)
    ours = torch.func.grad(lambda table: hmm.log_prob(*case[:2], table, case.lengths).sum())(case.log_observation)
    torch.testing.assert_close(ours, gradients(case)[2])


# --------------------------------------------------------------------------------- careful cases


def test_ordinary_data_stay_with_the_scaled_recursion() -> None:
    assert status_of(random_case(4, 300, 5, seed=1)) == [kernels.SCALED] * 4
    assert status_of(left_right(60, 4, 0.8, 1.0)) == [kernels.SCALED]


def test_a_long_left_right_chain_whose_early_states_underflow() -> None:
    case = left_right(20_000, 5, 0.9997, 2.0)
    assert status_of(case) == [kernels.CAREFUL]
    torch.testing.assert_close(hmm.log_prob(*case), loop_log_prob(case), rtol=1e-11, atol=0)
    posterior = hmm.posterior(*case)
    np.testing.assert_allclose(posterior.xi_sum.sum(), 19_999, rtol=1e-12)
    np.testing.assert_allclose(posterior.log_gamma[0].logsumexp(-1), 0.0, atol=1e-12)
    assert torch.isfinite(posterior.log_gamma[0, -1, 0])  # the first state is still possible, and its weight known
    np.testing.assert_allclose(posterior.log_gamma[0, -1], hmm.filter(*case).log_updated[0, -1], rtol=1e-11)


def test_a_state_that_was_flushed_and_is_then_needed() -> None:
    transition = torch.tensor([[0.0, -INF], [-INF, 0.0]], dtype=torch.float64)  # two sealed chambers
    observation = torch.zeros(1, 6, 2, dtype=torch.float64)
    observation[0, 1, 0] = -900.0  # chamber 0 is flushed
    observation[0, 3, 1] = -1200.0  # and was right after all
    observation[0, 4, 1] = -1000.0
    half = torch.full((1, 2), math.log(0.5), dtype=torch.float64)
    case = Case(half, transition[None, None], observation, torch.tensor([6]))
    assert status_of(case) == [kernels.CAREFUL]
    np.testing.assert_allclose(hmm.log_prob(*case), [-900.0 + math.log(0.5)], rtol=1e-14)
    posterior = hmm.posterior(*case)
    np.testing.assert_allclose(posterior.log_gamma[0, :, 1], -1300.0, rtol=1e-13)
    np.testing.assert_allclose(gradients(case)[2][0, :, 0], 1.0, rtol=1e-13)
    np.testing.assert_allclose(posterior.xi_sum[0, 0], [[5.0, 0.0], [0.0, 0.0]], atol=1e-14)
    paths = hmm.sample_paths(*case, torch.rand(20, 1, 6, dtype=torch.float64))
    assert not paths.any()


def test_gradual_decay_in_sealed_chambers() -> None:
    """Each step is harmless, the sum of many is not: 40 steps of 30 nats against a chamber, then 41 for it."""
    transition = torch.tensor([[0.0, -INF], [-INF, 0.0]], dtype=torch.float64)
    observation = torch.zeros(1, 81, 2, dtype=torch.float64)
    observation[0, :40, 0] = -30.0
    observation[0, 40:, 1] = -30.0
    half = torch.full((1, 2), math.log(0.5), dtype=torch.float64)
    case = Case(half, transition[None, None], observation, torch.tensor([81]))
    expected = math.log(0.5) - 1200.0 + math.log1p(math.exp(-30.0))
    np.testing.assert_allclose(hmm.log_prob(*case), [expected], rtol=1e-14)
    np.testing.assert_allclose(hmm.posterior(*case).log_gamma[0, :, 1], -30.0, rtol=1e-12)


def test_a_sequence_that_only_the_backward_pass_cannot_represent() -> None:
    transition = torch.tensor([[0.5, 0.5], [-INF, 0.0]], dtype=torch.float64)
    transition[0] = transition[0].log()
    observation = torch.zeros(1, 40, 2, dtype=torch.float64)
    observation[0, 20:, 0] = -30.0  # looking back from the end, state 0 decays below 1e-200
    observation[0, :20, 1] = -2.0
    initial = torch.tensor([[0.0, -INF]], dtype=torch.float64)
    case = Case(initial, transition[None, None], observation, torch.tensor([40]))
    total, log_gamma = exact_forward_backward(case)
    np.testing.assert_allclose(hmm.log_prob(*case), [total], rtol=1e-13)
    posterior = hmm.posterior(*case)
    np.testing.assert_allclose(posterior.log_gamma[0], log_gamma, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradients(case)[2][0], np.exp(log_gamma), rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(posterior.xi_sum[0, 0].sum(), 39.0, rtol=1e-13)


@pytest.mark.parametrize("gap", [30.0, 750.0, 5000.0])
@pytest.mark.parametrize("zeros", [False, True])
def test_sharp_emissions_against_fifty_digits(gap: float, zeros: bool) -> None:
    time, state = 120, 4
    base = random_case(1, time, state, seed=11)
    sharp = base._replace(log_observation=base.log_observation * (gap / 2.0))
    if zeros:
        ring = torch.eye(state, dtype=torch.bool) | torch.eye(state, dtype=torch.bool).roll(1, 1)
        sharp = sharp._replace(
            log_transition=base.log_transition.masked_fill(~ring, -INF).log_softmax(-1),
        )
    total, log_gamma = exact_forward_backward(sharp)
    np.testing.assert_allclose(hmm.log_prob(*sharp), [total], rtol=1e-14)
    posterior = hmm.posterior(*sharp)
    possible = np.isfinite(log_gamma)
    ours = posterior.log_gamma[0].numpy()
    digits = 1e-16 * max(gap, 30.0)  # the data themselves carry this many
    np.testing.assert_allclose(ours[possible], log_gamma[possible], rtol=1e-13, atol=50 * digits)
    np.testing.assert_allclose(np.exp(ours), np.exp(log_gamma), rtol=1e-13, atol=200 * digits)
    np.testing.assert_allclose(gradients(sharp)[2][0], np.exp(log_gamma), rtol=1e-13, atol=200 * digits)


def sparse_and_sharp(seed: int) -> Case:
    """A random chain with structural zeros, unlikely transitions, missing steps and emissions up to 1500 nats apart."""
    generator = np.random.default_rng(seed)
    time, state = int(generator.integers(2, 20)), int(generator.integers(2, 5))
    case = random_case(1, time, state, seed=seed)
    case = with_zeros(case, seed=seed) if generator.random() < 0.8 else case
    observation = case.log_observation * float(generator.choice([0.5, 15.0, 75.0, 125.0, 225.0, 350.0, 750.0]))
    if generator.random() < 0.5:
        observation[0, torch.from_numpy(generator.random(time) < 0.6)] = 0.0
    unlikely = (case.log_transition * float(generator.choice([1.0, 20.0, 200.0]))).log_softmax(-1)
    return case._replace(log_transition=unlikely, log_observation=observation)


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_random_sparse_and_sharp_chains_against_sixty_digits(first: int) -> None:
    statuses = set()
    for seed in range(first, first + 50):
        case = sparse_and_sharp(seed)
        posterior = hmm.posterior(*case)
        statuses.update(status_of(case))
        if posterior.impossible_at.item() >= 0:
            path = hmm.viterbi(*case)
            assert posterior.log_prob.item() == path.score.item() == -INF
            continue
        total, log_gamma = exact_forward_backward(case, digits=60)
        finite = case.log_observation[torch.isfinite(case.log_observation)]
        atol = 1e-13 * max(1.0, finite.abs().max().item())  # the data carry no more digits
        np.testing.assert_allclose(posterior.log_prob, [total], rtol=1e-13, atol=atol)
        np.testing.assert_allclose(posterior.log_gamma[0], log_gamma, rtol=1e-13, atol=atol)
        gamma = np.exp(log_gamma)
        np.testing.assert_allclose(gradients(case)[2][0], gamma, rtol=1e-11, atol=atol)
        np.testing.assert_allclose(posterior.xi_sum[0, 0].sum(1), gamma[:-1].sum(0), rtol=1e-11, atol=atol)
        np.testing.assert_allclose(posterior.xi_sum[0, 0].sum(0), gamma[1:].sum(0), rtol=1e-11, atol=atol)
    assert statuses >= {kernels.SCALED, kernels.CAREFUL}


def test_thirty_nats_over_two_thousand_steps() -> None:
    base = random_case(1, 2000, 6, seed=4)
    case = base._replace(log_observation=30.0 * base.log_observation)
    total, log_gamma = exact_forward_backward(case, digits=30)
    np.testing.assert_allclose(hmm.log_prob(*case), [total], rtol=1e-14)
    probable = log_gamma > -30.0
    ours = hmm.posterior(*case).log_gamma[0].exp().numpy()
    np.testing.assert_allclose(ours[probable], np.exp(log_gamma)[probable], rtol=2e-13)


@pytest.mark.parametrize("zeros", [False, True])
def test_careful_and_scaled_agree_where_both_apply(zeros: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_for(3, True, 9, zeros)
    filtered, posterior, gradient = hmm.filter(*case), hmm.posterior(*case), gradients(case)
    original = kernels.shift_parameters

    def all_careful(*arrays: np.ndarray) -> bool:
        result = original(*arrays)
        arrays[-1][:] = kernels.CAREFUL
        return result

    monkeypatch.setattr(kernels, "shift_parameters", all_careful)
    for ours, theirs in zip((*hmm.filter(*case), *gradients(case)), (*filtered, *gradient), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    careful = hmm.posterior(*case)
    torch.testing.assert_close(careful.xi_sum, posterior.xi_sum, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(careful.log_gamma, posterior.log_gamma, rtol=1e-12, atol=1e-13)


def test_tiny_probabilities_in_the_parameters() -> None:
    """Entries below the range of doubles count: the only way into the state that explains the data."""
    transition = torch.tensor([[0.0, -800.0], [-INF, 0.0]], dtype=torch.float64)
    observation = torch.zeros(1, 5, 2, dtype=torch.float64)
    observation[0, 2:, 0] = -500.0
    initial = torch.tensor([[0.0, -INF]], dtype=torch.float64)
    case = Case(initial, transition[None, None], observation, torch.tensor([5]))
    exact = enumerate_paths(case, 0)
    np.testing.assert_allclose(hmm.log_prob(*case), [exact.log_prob], rtol=1e-14)
    np.testing.assert_allclose(gradients(case)[2][0], exact.gamma, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(gradients(case)[1][0, 0], exact.xi.sum(0), rtol=1e-12, atol=1e-15)
    start = case._replace(log_initial=torch.tensor([[0.0, -800.0]], dtype=torch.float64))
    np.testing.assert_allclose(hmm.log_prob(*start), [enumerate_paths(start, 0).log_prob], rtol=1e-14)
    np.testing.assert_allclose(hmm.filter(*start).log_predicted[0, 0], [0.0, -800.0], rtol=1e-14)


def test_a_million_steps() -> None:
    """Two states that emit alike: log p(y) is the sum of the emissions, known exactly."""
    generator = torch.Generator().manual_seed(0)
    emission = torch.randn(1, 1_000_000, 1, generator=generator, dtype=torch.float64) - 40.0
    base = random_case(1, 1, 2)
    case = base._replace(log_observation=emission.expand(1, -1, 2).contiguous(), lengths=torch.tensor([1_000_000]))
    expected = math.fsum(emission.flatten().tolist())
    np.testing.assert_allclose(hmm.log_prob(*case), [expected], rtol=0, atol=1e-6)
    path = hmm.viterbi(*case)
    np.testing.assert_allclose(path.score.item(), joint_of_path(case, path.states[0]), rtol=0, atol=1e-6)


def joint_of_path(case: Case, states: Tensor) -> float:
    emission = case.log_observation[0].gather(-1, states[:, None]).flatten()
    moves = case.log_transition[0, 0][states[:-1], states[1:]]
    return math.fsum([float(case.log_initial[0, states[0]]), *emission.tolist(), *moves.tolist()])


# --------------------------------------------------------------------------------- paths


def test_ties_go_to_the_lowest_state() -> None:
    same = torch.full((1, 4), math.log(0.25), dtype=torch.float64)
    case = Case(same, same.expand(4, 4)[None, None], torch.zeros(1, 5, 4, dtype=torch.float64), torch.tensor([5]))
    assert hmm.viterbi(*case).states.tolist() == [[0] * 5]
    case.log_observation[0, 3, [1, 3]] = 1.0
    assert hmm.viterbi(*case).states.tolist() == [[0, 0, 0, 1, 0]]


@pytest.mark.parametrize("gap", [1.0, 900.0])
def test_the_decoded_path_scores_its_joint_and_no_draw_scores_higher(gap: float) -> None:
    base = random_case(1, 50, 5, seed=9)
    case = base._replace(log_observation=gap * base.log_observation)
    path = hmm.viterbi(*case)
    np.testing.assert_allclose(path.score.item(), joint(case, 0, tuple(path.states[0].tolist())), rtol=1e-13)
    draws = hmm.sample_paths(*case, torch.rand(50, 1, 50, dtype=torch.float64))
    scores = [joint(case, 0, tuple(draw[0].tolist())) for draw in draws]
    assert max(scores) <= path.score.item() + 1e-13 * abs(path.score.item())


@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("careful", [False, True])
def test_sampled_paths_have_the_posterior_frequencies(sets: int, careful: bool) -> None:
    case = with_zeros(random_case(2, 4, 2, sets=sets, times=4, seed=3), seed=6)._replace(lengths=torch.tensor([4, 3]))
    if careful:
        case.log_initial[:, 0] = -1000.0  # possible, but below the range of numbers
        case.log_initial[:, 1] = 0.0
        case.log_observation[:, 0] = torch.tensor([1000.0, 0.0])
        assert status_of(case) == [kernels.CAREFUL] * 2
    n_draws = 40_000
    uniforms = torch.rand(n_draws, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    draws = hmm.sample_paths(*case, uniforms)
    for b in range(2):
        n = int(case.lengths[b])
        exact = enumerate_paths(case, b)
        assert (draws[:, b, n:] == -1).all()
        for path in itertools.product(range(2), repeat=n):
            expected = math.exp(joint(case, b, path) - exact.log_prob)
            found = (draws[:, b, :n] == torch.tensor(path)).all(-1).double().mean().item()
            assert abs(found - expected) <= 5 * math.sqrt(expected * (1 - expected) / n_draws)


def test_uniforms_at_the_ends_choose_possible_states() -> None:
    case = with_zeros(random_case(20, 6, 4, seed=1), seed=2)
    possible = hmm.posterior(*case)
    for value in (0.0, 1.0 - 2.0**-53):
        states = hmm.sample_paths(*case, torch.full((1, 20, 6), value, dtype=torch.float64))[0]
        for b in range(20):
            if possible.impossible_at[b] < 0:
                assert math.isfinite(joint(case, b, tuple(states[b].tolist())))


# --------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("state", [2, 3, 7, 8, 13, 40])
def test_agrees_with_hmmlearn(state: int) -> None:
    from hmmlearn import _hmmc

    case = random_case(1, 500, state, seed=state)
    initial, transition = case.log_initial[0].exp().numpy(), case.log_transition[0, 0].exp().numpy()
    observation = case.log_observation[0].numpy()
    log_prob, forward = _hmmc.forward_log(initial, transition, observation)
    backward = _hmmc.backward_log(initial, transition, observation)
    posterior = hmm.posterior(*case)
    np.testing.assert_allclose(posterior.log_prob, [log_prob], rtol=1e-12)
    np.testing.assert_allclose(posterior.log_gamma[0], forward + backward - log_prob, rtol=1e-9, atol=1e-10)
    counts = np.exp(_hmmc.compute_log_xi_sum(forward, transition, backward, observation))
    np.testing.assert_allclose(posterior.xi_sum[0, 0], counts, rtol=1e-9)
    score, states = _hmmc.viterbi(initial, transition, observation)
    path = hmm.viterbi(*case)
    np.testing.assert_allclose(path.score, [score], rtol=1e-12)
    np.testing.assert_array_equal(path.states[0], states)


@pytest.mark.parametrize("segment", [0, 50 * 8, 1 << 16])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("sets", [1, 4])
def test_checkpoints_change_nothing(sets: int, zeros: bool, segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filtering segments again instead of keeping everything: the same posterior, statistics and gradient."""
    case = random_case(4, 300, 5, sets=sets, seed=2)._replace(lengths=torch.tensor([300, 0, 1, 117]))
    case = with_zeros(case, seed=3) if zeros else case
    case.log_observation[3] *= 100.0  # small posteriors, for their logarithms
    plain = [*hmm.posterior(*case), *hmm.expectations(*case), *gradients(case)]
    assert hmm_arrays.keeps(4, 300, 5, 1)
    monkeypatch.setattr(hmm_arrays, "KEPT", 0)
    monkeypatch.setattr(hmm_arrays, "SEGMENT", segment)
    assert not hmm_arrays.keeps(4, 300, 5, 1)
    assert hmm_arrays.keeps(4, 300, 5, 300)
    for ours, expected in zip([*hmm.posterior(*case), *hmm.expectations(*case), *gradients(case)], plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


def test_memory_is_used_again_once_nothing_refers_to_it() -> None:
    """Two graphs alive at once have their own; so has a call between value and gradient."""
    cases = [random_case(3, 20, 4, seed=seed) for seed in range(3)]
    expected = [gradients(case) for case in cases]
    inputs = [[table.clone().requires_grad_() for table in case[:3]] for case in cases]
    values = [hmm.log_prob(*tables, case.lengths).sum() for tables, case in zip(inputs, cases, strict=True)]
    hmm.posterior(*cases[0])
    for value, tables, gradient in zip(values, inputs, expected, strict=True):
        for ours, alone in zip(torch.autograd.grad(value, tables), gradient, strict=True):
            assert torch.equal(ours, alone)


def test_checkpoints_of_a_sequence_that_needs_logarithms(monkeypatch: pytest.MonkeyPatch) -> None:
    case = left_right(3_000, 5, 0.99, 4.0)
    assert status_of(case) == [kernels.CAREFUL]
    plain = [*hmm.posterior(*case), *hmm.expectations(*case), *gradients(case)]
    monkeypatch.setattr(hmm_arrays, "KEPT", 0)
    monkeypatch.setattr(hmm_arrays, "SEGMENT", 0)
    for ours, expected in zip([*hmm.posterior(*case), *hmm.expectations(*case), *gradients(case)], plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("varying", [False, True])
def test_expectations_are_the_posterior(varying: bool) -> None:
    case = with_zeros(random_case(9, 12, 5, times=12 if varying else 1, seed=8), seed=1)
    case = case._replace(lengths=torch.tensor([12, 1, 0, 7, 12, 3, 2, 5, 4]))
    case.log_observation[4] *= 500.0
    posterior, found = hmm.posterior(*case), hmm.expectations(*case)
    torch.testing.assert_close(found.gamma, posterior.log_gamma.exp(), rtol=1e-13, atol=1e-300)
    xi = posterior.xi_sum if varying else posterior.xi_sum.sum(0, keepdim=True)
    torch.testing.assert_close(found.xi_sum, xi, rtol=1e-13, atol=1e-300)
    assert torch.equal(found.log_prob, posterior.log_prob)
    assert torch.equal(found.impossible_at, posterior.impossible_at)


@pytest.mark.parametrize("sets", [1, 50])
def test_threads_give_the_same_digits(sets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = with_zeros(random_case(50, 40, 5, sets=sets, seed=4), seed=2)
    case = case._replace(lengths=torch.arange(50) % 41)
    monkeypatch.setattr(threads, "WORTHWHILE", 0)

    def everything() -> list[Tensor]:
        return [
            *hmm.filter(*case),
            *hmm.posterior(*case),
            *hmm.expectations(*case),
            *hmm.viterbi(*case),
            *gradients(case),
        ]

    before, one = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            one = one or everything()
            for ours, expected in zip(everything(), one, strict=True):
                torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)


def test_a_batch_is_the_stack_of_its_members() -> None:
    case = with_zeros(random_case(6, 15, 4, sets=6, seed=1))._replace(lengths=torch.tensor([15, 3, 0, 9, 15, 1]))
    case.log_observation[3] *= 500.0
    whole = hmm.log_prob(*case)
    for b in range(6):
        n = int(case.lengths[b])
        alone = Case(*(table[b : b + 1] for table in case))._replace(
            log_observation=case.log_observation[b : b + 1, :n]
        )
        assert hmm.log_prob(*alone).item() == whole[b].item()


def test_wrong_arguments_are_named() -> None:
    """By the operator, or before it by the shape annotations where those are checked."""
    case = random_case(2, 5, 3)
    with pytest.raises((TypeError, ValueError), match="log_observation"):
        hmm.log_prob(*case._replace(log_observation=case.log_observation.float()))
    with pytest.raises((TypeError, ValueError), match=r"shapes do not fit|log_transition"):
        hmm.log_prob(*case._replace(log_initial=case.log_initial[:, :2]))
    with pytest.raises((TypeError, ValueError), match="log_transition"):
        hmm.filter(*case._replace(log_transition=case.log_transition.expand(1, 4, 3, 3)))
    with pytest.raises((TypeError, ValueError), match="lengths must be between 0 and 5"):
        hmm.viterbi(*case._replace(lengths=torch.tensor([5, 6])))
    with pytest.raises((TypeError, ValueError), match="uniforms"):
        hmm.sample_paths(*case, torch.zeros(1, 2, 4, dtype=torch.float64))


# -------------------------------------------------------------------------------- many sequences at once


@pytest.mark.parametrize("n_threads", [2, 3])
def test_threads_change_no_digit_of_many_sequences(n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(61, 45, 4, seed=4)._replace(lengths=torch.arange(61) % 46)
    case.log_observation[::5] *= 300.0
    monkeypatch.setattr(threads, "WORTHWHILE", 0)

    def everything() -> list[Tensor]:
        return [*hmm.posterior(*case), *hmm.expectations(*case), *hmm.viterbi(*case), *gradients(case)]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = everything()
        torch.set_num_threads(n_threads)
        for ours, expected in zip(everything(), one, strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)
