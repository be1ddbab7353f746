"""Inference in hidden semi-Markov models against an ordinary hidden Markov model of K D states."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from probseq.ops import hmm, hsmm

INF = math.inf


class Case(NamedTuple):
    log_initial: Tensor
    log_transition: Tensor
    log_ends: Tensor
    log_lasts: Tensor
    log_observation: Tensor
    lengths: Tensor


def random_case(batch: int, time: int, state: int, longest: int, *, seed: int = 0, spread: float = 2.0) -> Case:
    """A proper chain in which about a third of the durations are impossible; every sequence complete."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    initial = torch.full((batch, state, longest), -INF, dtype=torch.float64)
    initial[..., 0] = draw(batch, state).log_softmax(-1)
    diagonal = torch.eye(state, dtype=torch.bool) & torch.tensor(state > 1)
    jumps = draw(state, state).masked_fill(diagonal, -INF).log_softmax(-1)
    ends = draw(state, longest).sigmoid()
    ends = torch.where(torch.rand(ends.shape, generator=generator) < 0.3, 0.0, ends)
    ends[:, -1] = 1.0
    observation = spread * draw(batch, time, state)
    return Case(initial, jumps, ends.log(), (-ends).log1p(), observation, torch.full((batch,), time))


def expanded(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The arguments of the hidden Markov model over (k, e), e innermost."""
    k, d = case.log_ends.shape
    transition = torch.full((k, d, k, d), -INF, dtype=torch.float64)
    for e in range(d):
        transition[:, e, :, 0] = case.log_ends[:, e, None] + case.log_transition
    for i in range(k):
        for e in range(d - 1):
            transition[i, e, i, e + 1] = case.log_lasts[i, e]
    table = case.log_observation.repeat_interleave(d, -1)
    return case.log_initial.flatten(1), transition.reshape(1, 1, k * d, k * d), table, case.lengths


SIZES = [(1, 1, 2, 3), (2, 7, 3, 4), (1, 30, 2, 9), (3, 12, 1, 5), (2, 9, 4, 1), (1, 200, 3, 6)]


@pytest.mark.parametrize("spread", [1.0, 60.0])
@pytest.mark.parametrize("size", SIZES)
def test_everything_equals_the_expanded_chain(size, spread):
    case = random_case(*size, seed=sum(size), spread=spread)
    k, d = size[2:]
    other = expanded(case)
    close = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(hsmm.log_prob(*case), hmm.log_prob(*other), **close)
    mine, theirs = hsmm.filter(*case), hmm.filter(*other)
    torch.testing.assert_close(mine.log_prob, theirs.log_prob, **close)
    for name in ("log_predicted", "log_updated"):
        torch.testing.assert_close(getattr(mine, name).flatten(2), getattr(theirs, name), **close)
    smoothed, truth = hsmm.posterior(*case), hmm.posterior(*other)
    torch.testing.assert_close(smoothed.log_gamma.flatten(2).exp(), truth.log_gamma.exp(), rtol=0, atol=1e-12)
    pairs = truth.xi_sum.sum((0, 1)).reshape(k, d, k, d)
    torch.testing.assert_close(smoothed.jumps, pairs[..., 0].sum(1), **close)
    torch.testing.assert_close(smoothed.ends, pairs[..., 0].sum(-1), **close)
    found, best = hsmm.viterbi(*case), hmm.viterbi(*other)
    torch.testing.assert_close(found.score, best.score, **close)
    assert torch.equal(found.states, best.states // d)


def test_sharp_late_evidence_is_not_lost():
    """A state thousands of nats behind returns when the favourite cannot last: nothing may underflow."""
    case = random_case(1, 40, 2, 45, seed=3)
    jumps = torch.tensor([[-INF, 0.0], [0.0, -INF]], dtype=torch.float64)
    table = torch.zeros(1, 40, 2, dtype=torch.float64)
    table[:, :20, 1] = -500.0
    table[:, 20:, 0] = -600.0
    case = case._replace(log_transition=jumps, log_observation=table)
    torch.testing.assert_close(hsmm.log_prob(*case), hmm.log_prob(*expanded(case)), rtol=1e-12, atol=0)
    mine, truth = hsmm.posterior(*case).log_gamma, hmm.posterior(*expanded(case)).log_gamma
    torch.testing.assert_close(mine.flatten(2).exp(), truth.exp(), rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_expanded_chain():
    case = random_case(2, 8, 3, 4, seed=1)._replace(lengths=torch.tensor([8, 5]))
    inputs = [x.clone().requires_grad_(True) for x in case[:5]]
    weights = torch.tensor([1.5, -0.5], dtype=torch.float64)
    mine = torch.autograd.grad((weights * hsmm.log_prob(*inputs, case.lengths)).sum(), inputs)
    again = Case(*inputs, case.lengths)
    theirs = torch.autograd.grad((weights * hmm.log_prob(*expanded(again))).sum(), inputs)
    for name, a, b in zip(Case._fields, mine, theirs, strict=False):
        torch.testing.assert_close(a, b.nan_to_num(0.0), rtol=1e-11, atol=1e-12, msg=name)


def test_gradients_pass_gradcheck():
    case = random_case(2, 5, 2, 3, seed=2)
    jumps = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = [case.log_initial, jumps, case.log_ends, case.log_lasts, case.log_observation]
    inputs = [x.clone().requires_grad_(True) for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: hsmm.log_prob(*x, torch.tensor([5, 3])), inputs)


def test_operators_obey_torch():
    case = random_case(2, 5, 2, 3)
    torch.library.opcheck(torch.ops.probseq.hsmm_log_prob.default, tuple(case))
    tracked = tuple(x.clone().requires_grad_(True) for x in case[:5])
    torch.library.opcheck(torch.ops.probseq.hsmm_log_prob.default, (*tracked, case.lengths))
    (first,) = torch.autograd.grad(hsmm.log_prob(*tracked, case.lengths).sum(), tracked[-1], create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivative only"):
        first.square().sum().backward()


def test_padding_and_empty_sequences_do_not_matter():
    case = random_case(3, 6, 2, 3)._replace(lengths=torch.tensor([6, 0, 4]))
    dirty = case.log_observation.clone()
    dirty[1] = torch.nan
    dirty[2, 4:] = torch.nan
    padded = case._replace(log_observation=dirty)
    alone = [Case(c[None], *case[1:4], o[None, :n], torch.tensor([n])) for c, o, n in zip(
        case.log_initial, case.log_observation, (6, 0, 4), strict=True
    )]  # fmt: skip
    torch.testing.assert_close(hsmm.log_prob(*padded), torch.cat([hsmm.log_prob(*c) for c in alone]))
    tracked = [x.clone().requires_grad_(True) for x in padded[:5]]
    gradients = torch.autograd.grad(hsmm.log_prob(*tracked, padded.lengths).sum(), tracked)
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert bool((gradients[-1][1] == 0).all() and (gradients[-1][2, 4:] == 0).all())
    posterior = hsmm.posterior(*padded)
    torch.testing.assert_close(posterior.jumps, sum(hsmm.posterior(*c).jumps for c in alone))
    assert posterior.impossible_at.tolist() == [-1, -1, -1]
    assert hsmm.viterbi(*padded).states[1].tolist() == [-1] * 6
    nothing = Case(case.log_initial, *case[1:4], case.log_observation[:, :0], torch.zeros(3, dtype=torch.int64))
    assert hsmm.log_prob(*nothing).tolist() == [0, 0, 0]
    assert hsmm.posterior(*nothing).log_gamma.shape == (3, 0, 2, 3)
    empty = [x.clone().requires_grad_(True) for x in nothing[:5]]
    hsmm.log_prob(*empty, nothing.lengths).sum().backward()
    assert all(bool((x.grad == 0).all()) for x in empty)


def test_impossible_sequences():
    case = random_case(2, 6, 2, 3)
    table = case.log_observation.clone()
    table[1, 3] = -INF
    inputs = [x.clone().requires_grad_(True) for x in (*case[:4], table)]
    value = hsmm.log_prob(*inputs, case.lengths)
    assert value[1].item() == -INF
    assert math.isfinite(value[0].item())
    gradients = torch.autograd.grad(value[0] + value[1], inputs)
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert bool((gradients[-1][1] == 0).all())
    posterior = hsmm.posterior(*case[:4], table, case.lengths)
    assert posterior.impossible_at.tolist() == [-1, 3]
    assert hsmm.filter(*case[:4], table, case.lengths).log_prob[1, 4:].isfinite().all()
    assert hsmm.viterbi(*case[:4], table, case.lengths).score[1] == -INF
    uniforms = torch.rand(4, 2, 6, dtype=torch.float64)
    assert bool((hsmm.sample_paths(*case[:4], table, case.lengths, uniforms)[:, 1] == -1).all())


def test_sampled_paths_have_the_law_of_the_posterior():
    """Single steps and neighbouring pairs, within six standard deviations."""
    case, n = random_case(1, 6, 3, 3, seed=4, spread=0.5), 20_000
    uniforms = torch.rand(n, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = hsmm.sample_paths(*case, uniforms)[:, 0]
    probs = hsmm.posterior(*case).log_gamma[0].exp().sum(-1)
    shares = torch.nn.functional.one_hot(drawn, 3).double().mean(0)
    assert bool(((shares - probs).abs() <= 6 * (probs * (1 - probs) / n).sqrt() + 6 / n).all())
    jumps = hsmm.posterior(*case).jumps
    counted = np.zeros((3, 3))
    for before, after in zip(drawn[:, :-1].reshape(-1), drawn[:, 1:].reshape(-1), strict=True):
        counted[before, after] += before != after
    np.testing.assert_allclose(counted / n, jumps, atol=6 * math.sqrt(5 * 0.25 / n))
