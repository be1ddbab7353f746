"""Baselines against numpy and scipy formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import probseq as ps
from probseq.evaluation.naive import emission_like, iid, naive_models, random_walk


def walk(n: int = 60, dim: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dim, dim)) + 2 * np.eye(dim)
    return 10 + (rng.normal(size=(n, dim)) @ mixing).cumsum(0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_random_walk_scores_each_step_as_a_normal_around_the_last(scale: float) -> None:
    y = walk()[:, 0] * scale
    model = random_walk(ps.Sequences.of(y[:40]))
    deviation = np.sqrt(np.mean(np.diff(y[:40]) ** 2))
    expected = stats.norm.logpdf(y[1:], y[:-1], deviation)
    np.testing.assert_allclose(model.filter(y).log_prob[1:], expected, rtol=1e-9)
    assert model.n_parameters == 1


def test_random_walk_across_gaps_adds_variance_per_step() -> None:
    y = walk()[:, 0]
    y[[5, 6, 30, 50]] = np.nan
    place = np.flatnonzero(~np.isnan(y))
    early = place[place < 40]
    variance = np.mean(np.diff(y[early]) ** 2 / np.diff(early))
    model = random_walk(ps.Sequences.of(y[:40]))
    expected = stats.norm.logpdf(y[place[1:]], y[place[:-1]], np.sqrt(variance * np.diff(place)))
    np.testing.assert_allclose(model.filter(y).log_prob[place[1:]], expected, rtol=1e-9)
    best = model.score(y[:40])
    for factor in (0.99, 1.01):
        model.transition_cov = factor * variance * torch.eye(1)
        assert model.score(y[:40]) < best


def test_random_walk_in_two_dimensions() -> None:
    y = walk(dim=2)
    steps = np.diff(y[:40], axis=0)
    model = random_walk(ps.Sequences.of(y[:40]))
    expected = stats.multivariate_normal(cov=steps.T @ steps / 39).logpdf(np.diff(y, axis=0))
    np.testing.assert_allclose(model.filter(y).log_prob[1:], expected, rtol=1e-9)
    assert model.n_parameters == 3


def test_random_walk_of_a_repeated_column_has_a_density() -> None:
    y = walk()[:, [0, 0]]
    assert bool(torch.isfinite(random_walk(ps.Sequences.of(y)).log_prob(y)))


def test_random_walk_pools_sequences_without_the_jump_between_them() -> None:
    parts = [walk(20, seed=1)[:, 0], 1000 + walk(30, seed=2)[:, 0]]
    model = random_walk(ps.Sequences.of(parts))
    expected = np.mean(np.concatenate([np.diff(part) ** 2 for part in parts]))
    np.testing.assert_allclose(model.transition_cov.detach()[0, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("dim", [1, 2])
def test_iid_gaussian_is_the_marginal_at_maximum_likelihood(dim: int) -> None:
    y = walk(dim=dim)
    model = iid(ps.Sequences.of(y[:40]), ps.emissions.Gaussian(dim))
    marginal = stats.multivariate_normal(y[:40].mean(0), np.cov(y[:40].T, bias=True))
    np.testing.assert_allclose(model.filter(y).log_prob, marginal.logpdf(y), rtol=1e-7)
    assert model.n_parameters == dim + dim * (dim + 1) // 2


def test_iid_counts_binary_data_and_symbols() -> None:
    rng = np.random.default_rng(3)
    counts, bits = rng.poisson(4, size=(50, 2)), rng.integers(0, 2, size=(50, 2))
    symbols = rng.integers(0, 3, size=50)
    model = iid(ps.Sequences.of(counts), ps.emissions.Poisson(2))
    np.testing.assert_allclose(model.filter(counts).log_prob, stats.poisson.logpmf(counts, counts.mean(0)).sum(1))
    model = iid(ps.Sequences.of(bits), ps.emissions.Bernoulli(2))
    probs = (bits.sum(0) + 0.5) / 51
    np.testing.assert_allclose(model.filter(bits).log_prob, stats.bernoulli.logpmf(bits, probs).sum(1), rtol=1e-9)
    model = iid(ps.Sequences.of(symbols), ps.emissions.Categorical(4))
    frequencies = (np.bincount(symbols, minlength=4) + 0.5) / 52
    np.testing.assert_allclose(model.filter(symbols).log_prob, np.log(frequencies)[symbols], rtol=1e-9)
    assert model.n_parameters == 3


def test_the_kind_of_data_is_read_from_what_a_model_emits() -> None:
    counts = ps.Sequences.of(np.random.default_rng(4).poisson(3, size=40))
    bits = ps.Sequences.of(np.random.default_rng(4).integers(0, 2, size=40))
    hmm = ps.HMM(2, emission=ps.emissions.Poisson(1)).fit(counts, seed=0)
    assert isinstance(emission_like(hmm, counts), ps.emissions.Poisson)
    network = ps.RNN(1, cell=ps.cells.GRU(2), head=ps.heads.Bernoulli(), seed=0)
    assert isinstance(emission_like(network, bits), ps.emissions.Bernoulli)
    network = ps.RNN(1, cell=ps.cells.GRU(2), head=ps.heads.Categorical(5), seed=0)
    found = emission_like(network, bits)
    assert isinstance(found, ps.emissions.Categorical)
    assert found.n_symbols == 5
    assert list(naive_models(counts, [hmm])) == ["iid"]
    assert list(naive_models(counts, [hmm, ps.AR(1)])) == ["random walk", "iid", "iid (discrete)"]


def test_a_column_that_never_moves_is_refused() -> None:
    y = walk(dim=2)
    y[:, 1] = 0.1
    with pytest.raises(ValueError, match="column 1 is constant"):
        random_walk(ps.Sequences.of(y))
    with pytest.raises(ValueError, match="column 1 is constant"):
        iid(ps.Sequences.of(y), ps.emissions.Gaussian(2))


def test_baselines_can_be_saved(tmp_path) -> None:
    y = walk()[:, 0]
    for name, model in naive_models(ps.Sequences.of(y), [ps.AR(1)]).items():
        model.save(tmp_path / f"{name}.safetensors")
        again = ps.load(tmp_path / f"{name}.safetensors")
        assert torch.equal(again.log_prob(y), model.log_prob(y))
