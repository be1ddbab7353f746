"""The entropy of the posterior path, against all paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probseq.ops import hmm, hmm_entropy
from tests import reference, zoo


def enumerated(seed: int, steps: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return zoo.simplex(rng, 3), zoo.simplex(rng, 3, 3), rng.normal(size=(steps, 3)) * 2


def test_path_entropy_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few steps are held at once."""
    start, matrix, table = enumerated(1, 6)
    truth = reference.enumerate_paths(start, matrix, table)
    weights = truth.path_log_probs - truth.log_prob
    arguments = torch.tensor(start).log()[None], torch.tensor(matrix).log()[None, None], torch.tensor(table)[None]
    lengths = torch.tensor([6])
    updated, gamma = hmm.filter(*arguments, lengths).log_updated, hmm.posterior(*arguments, lengths).log_gamma.exp()
    for chunk in (1, 20, 2**20):
        monkeypatch.setattr(hmm_entropy, "CHUNK", chunk)
        entropy = hmm_entropy.path_entropy(updated, gamma, arguments[1], lengths)
        assert entropy.item() == pytest.approx(-(np.exp(weights) * weights).sum(), rel=1e-12)
