"""The compiled filter of switching systems equals the four-step loop, for all sizes, lengths and gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.errors import SingularInnovation
from tests import zoo


@pytest.mark.parametrize("filtering", ["imm", "gpb2"])
@pytest.mark.parametrize(("k", "n", "m"), [(1, 1, 1), (2, 3, 1), (3, 1, 4), (4, 2, 3)])
def test_kernel_is_the_loop(filtering: str, k: int, n: int, m: int) -> None:
    rng = np.random.default_rng([k, n, m])
    model = zoo.switching(k, k, n, m, filtering=filtering)
    y = torch.as_tensor(rng.normal(size=(4, 9, m)))
    y[torch.as_tensor(rng.random((4, 9, m)) < 0.3)] = torch.nan
    lengths = [9, 0, 1, 6]
    fast = model.filter(y, lengths=lengths).log_prob
    with torch.no_grad():
        loop = torch.stack([super(ps.SwitchingLDS, model)._filter(model._door(y, None, lengths).flat(), None).log_prob])
    assert torch.allclose(fast, loop[0], rtol=1e-10, atol=1e-12)


def test_impossible_moves_leave_nothing_behind() -> None:
    """A regime that cannot be reached has weight zero and no part in any moment."""
    parts = zoo.switching_parts(3, 2, 2, 2)
    alone = {name: value[:1] for name, value in parts.items() if name.startswith("transition")}
    parts |= {"initial_probs": [1.0, 0.0], "regime_transition_matrix": [[1.0, 0.0], [0.0, 1.0]]}
    single = {**parts, **alone, "initial_probs": [1.0], "regime_transition_matrix": [[1.0]]}
    y = torch.as_tensor(np.random.default_rng(3).normal(size=(20, 2)))
    for filtering in ("imm", "gpb2"):
        both = ps.SwitchingLDS(**parts, filtering=filtering)
        one = ps.SwitchingLDS(**single, filtering=filtering).filter(y)
        found = both.filter(y)
        assert torch.allclose(found.log_prob, one.log_prob, rtol=1e-10)
        assert torch.allclose(found.updated.mean, one.updated.mean, rtol=1e-10)
        assert torch.equal(found.updated.probs[:, 1], torch.zeros(20).double())
        assert torch.allclose(both.smooth(y).mean, ps.SwitchingLDS(**single).smooth(y).mean, rtol=1e-10)
        assert bool((both.decode(y) == 0).all())
        value = both.log_prob(y)
        value.backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in both.parameters() if p.grad is not None)


def test_a_singular_innovation_is_refused() -> None:
    parts = zoo.switching_parts(1, 2, 2, 2)
    parts |= {"emission_matrices": np.zeros((2, 2)), "emission_covs": np.zeros((2, 2))}
    with pytest.raises(SingularInnovation, match="singular at step 0"):
        ps.SwitchingLDS(**parts).filter(np.zeros((3, 2)))
