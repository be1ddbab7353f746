"""Memory by leaving the past out: known excess entropies, a bound that holds, every family on the same steps."""

from __future__ import annotations

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import probseq as ps
from probseq.evaluation import context_ablation
from probseq.evaluation.memory import used


def block_entropies(model: ps.HMM, longest: int) -> list[float]:
    found = [0.0]
    for length in range(1, longest + 1):
        words = torch.tensor(list(itertools.product((0.0, 1.0), repeat=length)), dtype=torch.float64)
        log_prob = model.log_prob(words[..., None]).detach()
        found.append(-float((log_prob.exp() * torch.where(log_prob > -math.inf, log_prob, 0.0)).sum()))
    return found


def test_scores_are_conditional_entropies():
    """On all words of a process, weighted by how often they come, h_k is a difference of block entropies."""
    model = ps.datasets.random_random_xor()
    y = model.sample(4000, (5,), seed=0)
    memory = context_ablation({"rrxor": model}, y, max_context=6, n_windows=20_000)
    exact = -np.diff(block_entropies(model, 7))
    np.testing.assert_allclose(memory.scores["rrxor"], exact, atol=0.01)


def test_the_golden_mean_remembers_what_a_markov_chain_must():
    """E = H(1) - h = log2 3 - 2/3 - 2/3 bits of the golden mean: one symbol back says all there is to say."""
    model = ps.datasets.golden_mean()
    memory = context_ablation({"golden mean": model}, model.sample(3000, (4,), seed=0), max_context=3, n_windows=12_000)
    expected = math.log2(3) - 2 / 3 - 2 / 3  # H(1/3, 2/3) = log2 3 - 2/3
    assert memory.information["golden mean"] == pytest.approx(expected, abs=0.03)
    assert memory.information["golden mean"] < memory.bounds["golden mean"] == 1.0


def test_every_family_on_the_same_steps():
    teacher = ps.datasets.oscillator()
    y = teacher.sample(60, (10,), seed=0)
    models = {
        "lds": teacher,
        "ar": ps.AR(2).fit(y),
        "hmm": ps.HMM(3, emission=ps.emissions.Gaussian(1)).fit(y, seed=0),
        "network": ps.RNN.from_lds(teacher),
    }
    y[2, 5] = torch.nan
    memory = context_ablation(models, y, max_context=8, n_windows=100)
    assert list(memory.scores.columns) == list(models)
    np.testing.assert_allclose(memory.scores["network"], memory.scores["lds"], rtol=1e-9)
    assert memory.information["lds"] > memory.information["hmm"] > 0
    assert set(memory.bounds) == {"hmm"}
    assert "at most log2 K = 1.58" in str(memory)
    axes = memory.plot()
    assert len(axes.lines) == 4 + 1 + 1
    np.testing.assert_allclose(axes.lines[0].get_ydata(), used(memory.scores["lds"]))
    plt.close("all")


def test_bits_are_areas():
    np.testing.assert_allclose(used([-3.0, -2.0, -1.5, -1.5]), np.array([0.0, 1.5, 2.0, 2.0]) / math.log(2))


def test_inputs_go_along():
    lds = ps.LDS(
        transition_matrix=[[0.9]],
        transition_cov=[[0.1]],
        emission_matrix=[[1.0]],
        emission_cov=[[0.2]],
        initial_mean=[0.0],
        initial_cov=[[1.0]],
        emission_input_matrix=[[1.0]],
    )
    u = torch.randn(30, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = lds.sample(30, u=u, seed=0)
    memory = context_ablation({"lds": lds}, y, u, max_context=29, n_windows=5)
    assert memory.scores["lds"].iloc[-1] == pytest.approx(float(lds.filter(y, u).log_prob[-1]))


def test_arguments_are_checked():
    lds = ps.datasets.oscillator()
    with pytest.raises(ValueError, match="at least 17 steps"):
        context_ablation({"lds": lds}, lds.sample(16, seed=0))
    y = lds.sample(30, seed=0)
    y[::5] = torch.nan
    with pytest.raises(ValueError, match="complete steps in a row"):
        context_ablation({"lds": lds}, y, max_context=8)
    with pytest.raises(ValueError, match="at least one model"):
        context_ablation({}, y)
