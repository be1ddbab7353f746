"""Connectionist temporal classification against the sum over all paths, and against torch's loss."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby, product

import numpy as np
import pytest
import torch

from probseq.handwriting import ctc


def random_table(steps: int, n_labels: int, seed: int) -> np.ndarray:
    logits = 2 * np.random.default_rng(seed).normal(size=(steps, n_labels))
    return logits - np.logaddexp.reduce(logits, 1, keepdims=True)


def every_labelling(table: np.ndarray) -> dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]]:
    """Of each labelling the log-probabilities of its paths, and these."""
    found = defaultdict(list)
    for path in product(range(table.shape[1]), repeat=len(table)):
        labels = tuple(k for k, _ in groupby(path) if k)
        found[labels].append((sum(row[k] for row, k in zip(table, path, strict=True)), path))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_against_all_paths(seed: int) -> None:
    table = random_table(6, 4, seed)
    labellings = every_labelling(table)
    total = 0.0
    for labels, paths in labellings.items():
        aligned = ctc.align(table, labels)
        expected = np.logaddexp.reduce([value for value, _ in paths])
        assert aligned.log_prob == pytest.approx(expected, rel=1e-12)
        weights = np.exp([value - expected for value, _ in paths])
        says = np.zeros(table.shape)
        for weight, (_, path) in zip(weights, paths, strict=True):
            says[np.arange(6), path] += weight
        np.testing.assert_allclose(aligned.labels, says, atol=1e-12)
        path = ctc.best_alignment(table, labels)
        said = np.where(path < 0, 0, np.array([0, *labels])[path + 1])
        assert table[np.arange(6), said].sum() == pytest.approx(max(value for value, _ in paths), rel=1e-12)
        assert tuple(k for k, _ in groupby(said) if k) == labels
        total += np.exp(expected)
    assert total == pytest.approx(1, rel=1e-12)
    best = max(labellings, key=lambda labels: np.logaddexp.reduce([value for value, _ in labellings[labels]]))
    found = ctc.prefix_search(table, beam=10_000, margin=np.inf)
    assert found[0].labels == best
    for reading in found:
        assert reading.score == pytest.approx(ctc.align(table, reading.labels).log_prob, rel=1e-10)


def test_against_torch() -> None:
    table = torch.tensor(random_table(40, 7, 3)).requires_grad_()
    labels = [1, 1, 4, 6, 2, 2, 2, 5]
    loss = torch.nn.functional.ctc_loss(
        table.unsqueeze(1), torch.tensor([labels]), torch.tensor([40]), torch.tensor([8]), reduction="sum"
    )
    aligned = ctc.align(table.detach().numpy(), labels)
    assert aligned.log_prob == pytest.approx(-float(loss.detach()), rel=1e-12)
    eps = 1e-6
    for t, k in [(0, 1), (7, 0), (20, 4), (39, 5)]:  # torch's gradient is one through a softmax; differences are ours
        ends = []
        for sign in (1, -1):
            moved = table.detach().numpy().copy()
            moved[t, k] += sign * eps
            ends.append(ctc.align(moved, labels).log_prob)
        assert aligned.labels[t, k] == pytest.approx((ends[0] - ends[1]) / (2 * eps), abs=1e-8)
    np.testing.assert_allclose(aligned.labels.sum(1), 1, rtol=1e-12)


def test_a_language_model_decides_between_equals() -> None:
    table = np.log(np.array([[0.02, 0.49, 0.49], [0.98, 0.01, 0.01], [0.02, 0.49, 0.49]]))

    def language(prefix: tuple[int, ...]) -> np.ndarray:
        return np.log([0.9, 0.1] if not prefix or prefix[-1] == 2 else [0.1, 0.9])

    assert ctc.prefix_search(table, language=language)[0].labels == (1, 2)
    with_bonus = ctc.prefix_search(table, bonus=-50.0)[0].labels
    assert with_bonus == ()


def test_too_few_steps_and_bad_labels() -> None:
    table = random_table(3, 3, 0)
    assert ctc.align(table, [1, 1, 2]).log_prob == -np.inf
    with pytest.raises(ValueError, match="4 steps or more"):
        ctc.best_alignment(table, [1, 1, 2])
    with pytest.raises(ValueError, match=r"labels must be whole numbers 1 \.\. 2"):
        ctc.align(table, [0, 1])
    with pytest.raises(ValueError, match="beam must be at least 1"):
        ctc.prefix_search(table, 0)
    assert ctc.steps_needed([1, 1, 2]) == 4
