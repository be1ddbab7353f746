"""Coordinates: round trips, volumes against autograd, and the terms on arrays against torch's distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributions as D

import probseq as ps
from probseq.bayes.coordinates import Block, blocks_of
from probseq.bayes.priors import HalfNormalRoot, InverseWishart, priors_of
from probseq.bayes.terms import term_of
from probseq.parameters import freeze

TIGHT = {"rtol": 1e-9, "atol": 1e-11}


def models() -> dict[str, ps.StateSpaceModel]:
    means, covs = np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([[[2.0, 0.3], [0.3, 1.0]], [[1.0, -0.2], [-0.2, 0.5]]])
    rows = {"initial_probs": [0.3, 0.7], "transition_matrix": [[0.9, 0.1], [0.2, 0.8]]}
    gaussian = {
        kind: ps.emissions.Gaussian(means=means, covs=own, covariance=kind)
        for kind, own in {
            "full": covs, "tied": covs[[0, 0]], "diag": np.array([np.diag([2.0, 1.0]), np.diag([0.5, 3.0])]),
            "spherical": np.array([2.0 * np.eye(2), 0.5 * np.eye(2)]),
        }.items()
    }  # fmt: skip
    return {
        **{kind: ps.HMM(emission=emission, **rows) for kind, emission in gaussian.items()},
        "bits": ps.HMM(emission=ps.emissions.Bernoulli(probs=[[0.2, 0.7], [0.5, 0.9]]), **rows),
        "zeros": ps.HMM(
            initial_probs=[1.0, 0.0, 0.0], transition_matrix=[[0.5, 0.2, 0.3], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]],
            emission=ps.emissions.Poisson(rates=[[1.0], [3.0], [9.0]]),
        ),
        "lds": ps.LDS(
            transition_matrix=[[0.5, 0.1], [0.0, 0.7]], transition_cov=covs[0], emission_matrix=[[1.0, 0.3]],
            emission_cov=[[0.7]], initial_mean=[0.0, 1.0], initial_cov=covs[1],
        ),
        "structural": ps.Structural(
            trend=True, damped=True, ar=3, cycle=True, level_var=1.0, trend_var=0.1, trend_damping=0.9, ar_var=0.5,
            ar_coefficients=[0.5, -0.3, 0.2], cycle_var=0.2, cycle_damping=0.8, cycle_frequency=0.7, emission_var=2.0,
        ),
    }  # fmt: skip


CASES = [(name, block.name) for name, model in models().items() for block in blocks_of(model)]


def block_of(case: str, name: str) -> Block:
    return next(block for block in blocks_of(models()[case]) if block.name == name)


def free_numbers(block: Block, raw: torch.Tensor) -> torch.Tensor:
    """What the density is over, as a vector: K - 1 of each row, lower triangles, everything else as it is."""
    value = block.public(raw)
    if block.kind == "simplex":
        rows, free = value.reshape(-1, value.shape[-1]), block.free.reshape(-1, value.shape[-1])
        return torch.cat([row[mask][:-1] for row, mask in zip(rows, free, strict=True)])
    if block.kind == "factor":
        n = value.shape[-1]
        return value.reshape(-1, n, n)[:, torch.ones(n, n).tril().bool()].flatten()
    return value[block.free]


@pytest.mark.parametrize(("case", "name"), CASES)
def test_volumes_are_those_of_autograd(case, name):
    block = block_of(case, name)
    size = block.place.stop - block.place.start
    theta = block.theta(block.stored) + 0.1 * torch.randn(size, generator=torch.Generator().manual_seed(0)).double()
    jacobian = torch.autograd.functional.jacobian(lambda at: free_numbers(block, block.raw(at)), theta)
    assert jacobian.shape == (size, size)
    wanted = torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(block.log_volume(theta, block.raw(theta)), wanted, **TIGHT)


@pytest.mark.parametrize(("case", "name"), CASES)
def test_there_and_back(case, name):
    block = block_of(case, name)
    theta = block.theta(block.stored)
    torch.testing.assert_close(block.public(block.raw(theta)), block.public(block.template), **TIGHT)
    torch.testing.assert_close(block.theta(block.raw(theta)), theta, **TIGHT)


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


PRIORS = {
    "real": [D.Normal(number(0.3), number(2.0))],
    "log": [D.InverseGamma(number(2.0), number(1.5)), D.Gamma(number(2.0), number(0.5)), HalfNormalRoot(1.7),
            D.LogNormal(number(0.2), number(0.9)), None],
    "share": [D.Beta(number(2.0), number(3.5)), None],
    "simplex": [D.Dirichlet(torch.tensor([2.0, 3.0], dtype=torch.float64))],
    "factor": [InverseWishart(np.array([[2.0, 0.4], [0.4, 1.0]]), 4.5)],
}  # fmt: skip


@pytest.mark.parametrize(("case", "name"), [c for c in CASES if c[0] not in ("zeros", "structural")])
def test_terms_on_arrays_are_those_of_torch(case, name):
    model = models()[case]
    block = next(block for block in blocks_of(model) if block.name == name)
    data = model._door(model.sample(6, seed=0)).flat()
    for prior in PRIORS[block.kind]:
        if block.kind == "factor" and block.template.shape[-1] == 1:
            prior = D.InverseGamma(number(2.0), number(1.5))
        own = priors_of(model, data, [block], {name: prior})[name]
        term = term_of(block, own)
        if name == "transition_matrix" and case == "lds":
            assert term is None
            continue
        theta = block.theta(block.stored).requires_grad_()
        raw = block.raw(theta)
        density = 0.0 if own is None else own.log_prob(block.public(raw)).sum()
        wanted = density + block.log_volume(theta, raw)
        value, slope, stored = term(theta.detach().numpy())
        assert value == pytest.approx(float(wanted.detach()), rel=1e-10)
        np.testing.assert_allclose(slope, torch.autograd.grad(wanted, theta)[0].numpy(), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(stored, raw.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_what_is_held_is_no_coordinate():
    model = models()["zeros"]
    names = {block.name: block.size for block in blocks_of(model)}
    assert names == {"transition_matrix": 3, "emission.rates": 3}
    with freeze(model, {"transition_matrix"}):
        assert [block.name for block in blocks_of(model)] == ["emission.rates"]
        with freeze(model, {"emission.rates"}), pytest.raises(ValueError, match="no free parameter"):
            blocks_of(model)
