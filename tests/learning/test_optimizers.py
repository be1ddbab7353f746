"""The optimisers against torch's own."""

from __future__ import annotations

import pytest
import torch

from probseq.learning.optimizers import Adam, clip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_equals_torchs(dtype):
    draws = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=draws, dtype=dtype) for shape in [(3,), (2, 4)]]
    ours, theirs = [p.clone() for p in start], [torch.nn.Parameter(p.clone()) for p in start]
    mine, other = Adam(ours), torch.optim.Adam(theirs, lr=0.03)
    for _ in range(50):
        gradients = [torch.randn(p.shape, generator=draws, dtype=dtype) for p in start]
        mine.step(gradients, 0.03)
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = g
        other.step()
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q.detach(), rtol=tolerance, atol=tolerance)


def test_the_norm_is_capped_together():
    gradients = [torch.tensor([3.0]), torch.tensor([0.0, 4.0])]
    capped, norm = clip(gradients, 1.0)
    assert norm == pytest.approx(5.0)
    torch.testing.assert_close(torch.cat(capped), torch.tensor([0.6, 0.0, 0.8]))
    same, _ = clip(gradients, 10.0)
    assert torch.equal(torch.cat(same), torch.cat(gradients))
