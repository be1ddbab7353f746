"""Labellers are no filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps


def test_labellers_have_no_filter():
    class Labeller(ps.SequenceLabeller):
        def log_prob(self, labels, u, *, lengths=None):
            return torch.zeros(())

        def decode(self, u, *, lengths=None):
            return []

        def fit(self, labels, u, *, lengths=None, seed=None, **options):
            return self

    with pytest.raises(TypeError, match="has no filter"):
        Labeller().filter(np.ones(3))
    with pytest.raises(TypeError):
        ps.SequenceLabeller()
