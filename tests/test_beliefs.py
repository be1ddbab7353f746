"""Slicing, stacking and choosing beliefs."""

from __future__ import annotations

import numpy as np
import torch

from probseq import beliefs as B


def random_gaussian(*batch: int, n: int = 2) -> B.Gaussian:
    factor = torch.randn(*batch, n, n, dtype=torch.float64)
    return B.Gaussian(torch.randn(*batch, n, dtype=torch.float64), factor @ factor.mT)


def test_at_slices_time_only():
    belief = random_gaussian(3, 5)
    assert torch.equal(B.at(belief, 2).mean, belief.mean[:, 2])
    assert torch.equal(B.at(belief, -1).cov, belief.cov[:, -1])
    assert B.at(belief, slice(1, 3)).cov.shape == (3, 2, 2, 2)
    assert B.at(belief, 0).diffuse_cov is None


def test_at_gathers_one_step_per_sequence():
    belief = random_gaussian(3, 5)
    picked = B.at(belief, torch.tensor([0, 4, 2]))
    for row, step in enumerate([0, 4, 2]):
        assert torch.equal(picked.mean[row], belief.mean[row, step])
        assert torch.equal(picked.cov[row], belief.cov[row, step])


def test_stack_is_the_inverse_of_at():
    steps = [random_gaussian(3) for _ in range(4)]
    stacked = B.stack(steps)
    assert stacked.mean.shape == (3, 4, 2)
    for t, step in enumerate(steps):
        assert torch.equal(B.at(stacked, t).cov, step.cov)


def test_where_and_repeat():
    first, second = random_gaussian(2), random_gaussian(2)
    mixed = B.where(torch.tensor([True, False]), first, second)
    assert torch.equal(mixed.cov[0], first.cov[0])
    assert torch.equal(mixed.mean[1], second.mean[1])
    assert B.repeat(first, 7).cov.shape == (2, 7, 2, 2)
    assert B.reshape_batch(B.repeat(first, 6), 2, (3, 4)).mean.shape == (3, 4, 2)


def test_nested_beliefs_are_followed():
    mixture = B.Mixture(torch.zeros(4, 5, 3), random_gaussian(4, 5, 3))
    step = B.at(mixture, 1)
    assert step.log_weights.shape == (4, 3)
    assert torch.equal(step.components.cov, mixture.components.cov[:, 1])
    particles = B.Particles(torch.zeros(5, 9), torch.randn(5, 9, 2))
    assert B.at(particles, 0).values.shape == (9, 2)


def test_to_numpy_keeps_the_names():
    belief = B.to_numpy(random_gaussian(3))
    assert isinstance(belief, B.Gaussian)
    assert isinstance(belief.mean, np.ndarray)
    assert belief.diffuse_cov is None


def test_conveniences():
    assert torch.allclose(B.Categorical(torch.tensor([0.25, 0.75]).log()).probs, torch.tensor([0.25, 0.75]))
    gaussian = random_gaussian(3)
    assert torch.allclose(gaussian.std**2, gaussian.cov.diagonal(dim1=-2, dim2=-1))
    factor = torch.randn(2, 2)
    assert torch.allclose(B.GaussianFactor(torch.zeros(2), factor).cov, factor @ factor.T)
