"""Gradients of log p(y) in raw parameters where they are hardest, and the compiled operators under torch's own checks.

The laws gradcheck every family once; here are the corners: structural zeros, singular covariances, gaps, ragged
batches, an impossible sequence, and what gradients mean (posterior expectations).
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import probseq as ps
from probseq.ops import hmm_stored, modes
from probseq.parameters import overriding
from tests import reference, zoo
from tests.laws import learnable, near


def ragged(seed: int, dim: int, steps: int = 5, missing: float = 0.3) -> tuple[Tensor, list[int]]:
    """Three sequences with gaps, one of them empty."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(3, steps, dim))
    y[rng.random(y.shape) < missing] = np.nan
    return torch.as_tensor(y), [steps, 0, steps - 2]


def check(model: Any, y: Tensor, lengths: list[int]) -> None:
    """torch's gradcheck of log_prob in all raw parameters at once."""
    parameters = learnable(model)
    assert gradcheck(lambda *_: model.log_prob(y, lengths=lengths), parameters)


# ------------------------------------------------------------------------------------------ hidden Markov models


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_gaussian_hmm_with_gaps(kind: str) -> None:
    check(zoo.hmm(1, zoo.gaussian_emission(2, kind)), *ragged(1, 2))


def test_structural_zeros_have_zero_gradient() -> None:
    model = zoo.left_right(2)
    y, lengths = ragged(2, 1)
    check(model, y, lengths)
    raw = model.raw_transition_matrix
    (gradient,) = torch.autograd.grad(model.log_prob(y, lengths=lengths).sum(), raw)
    assert bool((gradient[raw == -torch.inf] == 0).all())
    assert bool((gradient[0, :2] != 0).all())


def test_gradient_is_the_posterior() -> None:
    """d log p / d log initial, d log transition: the posterior of the first state and the expected transitions."""
    model = zoo.hmm(3, zoo.gaussian_emission(2), n_states=2)
    y = torch.as_tensor(np.random.default_rng(3).normal(size=(5, 2)))
    truth = reference.hmm_oracle(model, y.numpy())
    weights = np.exp(truth.path_log_probs - truth.log_prob)
    pairs = np.zeros((2, 2))
    for path, weight in zip(truth.paths, weights, strict=True):
        for i, j in itertools.pairwise(path):
            pairs[i, j] += weight
    matrix = model.transition_matrix.detach().clone().requires_grad_(True)
    initial = model.initial_probs.detach().clone().requires_grad_(True)
    with overriding(model, {"transition_matrix": matrix, "initial_probs": initial}):
        gradients = torch.autograd.grad(model.log_prob(y), [initial, matrix])
    near(gradients[0] * initial, torch.as_tensor(truth.smoothed[0]), "first state")
    near(gradients[1] * matrix, torch.as_tensor(pairs), "pairs")


def test_impossible_sequence_has_zero_gradient() -> None:
    """log p is -inf; the gradient is 0 and not NaN, so that a batch with one such sequence can be learned from."""
    emission = ps.emissions.Categorical(probs=[[1.0, 0.0], [0.5, 0.5]])
    model = ps.HMM(emission=emission, initial_probs=[1.0, 0.0], transition_matrix=[[0.9, 0.1], [0.0, 1.0]])
    scores = model.log_prob(np.array([[[1.0], [0.0]], [[0.0], [1.0]]]))
    assert scores[0].item() == -np.inf
    gradients = torch.autograd.grad(scores[0], list(model.parameters()), allow_unused=True, retain_graph=True)
    assert all(bool((g == 0).all()) for g in gradients if g is not None)
    gradients = torch.autograd.grad(scores.sum(), list(model.parameters()), allow_unused=True)
    assert all(bool(torch.isfinite(g).all()) for g in gradients if g is not None)


# ---------------------------------------------------------------------------------------- linear Gaussian models


def rank(n: int, r: int, seed: int = 0) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(n, r))
    return root @ root.T


@pytest.mark.parametrize("start_rank", [0, 1, 2])
@pytest.mark.parametrize("noise_rank", [0, 1, 2])
def test_lds_with_singular_covariances(noise_rank: int, start_rank: int) -> None:
    """Every combination of rank-deficient transition_cov and initial_cov: the case in which QR's derivative is NaN."""
    parts = {**zoo.lds_parts(4, 2, 2), "transition_cov": rank(2, noise_rank, 1), "initial_cov": rank(2, start_rank, 2)}
    check(ps.LDS(**parts), *ragged(4, 2))


def test_lds_with_a_noiseless_sensor() -> None:
    parts = {**zoo.lds_parts(5, 2, 2), "emission_cov": np.diag([0.5, 0.0])}
    check(ps.LDS(**parts), *ragged(5, 2))


@pytest.mark.parametrize("order", [1, 2])
def test_autoregression_with_gaps(order: int) -> None:
    check(zoo.ar(6, order, 2), *ragged(6, 2))
    check(zoo.ar(6, order, 1, radius=1.1), *ragged(6, 1))


def test_gradient_is_exact_in_small_and_large_units() -> None:
    """d log p / d y scales as 1 / s."""
    plain = ps.LDS(**zoo.lds_parts(7, 2, 2))
    y = torch.as_tensor(np.random.default_rng(7).normal(size=(6, 2)))
    slopes = []
    for s in (1e-8, 1.0, 1e8):
        model = ps.LDS(**zoo.lds_parts(7, 2, 2)).rescale(s)
        data = (s * y).requires_grad_(True)
        slopes.append(s * torch.autograd.grad(model.log_prob(data), data)[0])
    near(slopes[0], slopes[1], "gradient in units of 1e-8")
    near(slopes[2], slopes[1], "gradient in units of 1e8")
    filtered = plain.filter(y)
    last = plain.emit(ps.at(filtered.predicted, -1))
    near(-torch.linalg.solve(last.covariance_matrix, y[-1] - last.mean), slopes[1][-1], "slope in the last observation")


# -------------------------------------------------------------------------------------------- torch's own checks


class Spy(TorchDispatchMode):
    """Notes the arguments of every operator of the library that torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "probseq":
            self.calls.setdefault(func.name(), (func, tuple(fresh(argument) for argument in args)))
        return func(*args, **(kwargs or {}))


def fresh(argument: Any) -> Any:
    """A leaf of its own."""
    if not isinstance(argument, Tensor):
        return argument
    return argument.detach().clone().requires_grad_(argument.is_floating_point())


def test_operators_pass_torch_opcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schema, registration of the derivative and shapes, for the arguments that the models pass."""
    monkeypatch.setattr(modes, "_opaque", lambda tensors: True)  # what compilation does: everything by its name
    y, lengths = ragged(8, 2)
    with Spy() as spy:
        for model in (zoo.hmm(8, zoo.gaussian_emission(2)), ps.LDS(**zoo.lds_parts(8, 2, 2))):
            model.log_prob(y, lengths=lengths).sum().backward()
            with torch.no_grad():
                model.log_prob(y, lengths=lengths)
    families = {name.removeprefix("probseq::").partition("_")[0] for name in spy.calls}
    assert families == {"gaussian", "hmm", "kalman"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, (operator, arguments) in spy.calls.items():
            checks = ["test_schema", "test_faketensor"]
            if "backward" not in name:
                checks.append("test_autograd_registration")
            result = torch.library.opcheck(operator, arguments, test_utils=checks)
            assert set(result.values()) == {"SUCCESS"}, (name, result)


def test_dispatched_gradient_equals_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    y, lengths = ragged(10, 2)
    monkeypatch.setattr(hmm_stored, "MOST_STATES", 0)  # its kernels take sums in another order
    for model in (zoo.hmm(10, zoo.gaussian_emission(2)), ps.LDS(**zoo.lds_parts(10, 2, 2))):
        parameters = [p for p in model.parameters() if p.requires_grad and p.numel()]
        gradients = []
        for opaque in (False, True):
            with monkeypatch.context() as patch:
                patch.setattr(modes, "_opaque", lambda tensors, answer=opaque: answer)
                score = model.log_prob(y, lengths=lengths).sum()
                gradients.append(torch.autograd.grad(score, parameters, allow_unused=True))
        for eager, dispatched in zip(*gradients, strict=True):
            # an eager LDS pulls a covariance back to its factor in compiled code: the last digit is the processor's
            torch.testing.assert_close(eager, dispatched, rtol=1e-14, atol=1e-15)


def test_second_derivatives_raise() -> None:
    model = ps.LDS(**zoo.lds_parts(9, 2, 1))
    y, lengths = ragged(9, 1)
    for one in (model, zoo.hmm(9, zoo.gaussian_emission(1))):
        parameters = [p for p in one.parameters() if p.requires_grad]
        score = one.log_prob(y, lengths=lengths).sum()
        first = torch.autograd.grad(score, parameters, create_graph=True, allow_unused=True)
        with pytest.raises((NotImplementedError, RuntimeError)):
            torch.autograd.grad(sum(g.square().sum() for g in first if g is not None), parameters, allow_unused=True)
