"""The table of symbols and its derivative, against indexing by torch."""

from __future__ import annotations

import pytest
import torch

from probseq.ops import symbols


@pytest.mark.parametrize("partial", [False, True])
def test_table_and_gradient(partial: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(5, 3, dtype=torch.float64, generator=generator).log_softmax(-1).requires_grad_()
    numbers = torch.randint(3, (40,), generator=generator)
    seen = torch.rand(40, generator=generator) < 0.7 if partial else torch.empty(0, dtype=torch.bool)
    weights = torch.randn(40, 5, dtype=torch.float64, generator=generator)
    arguments = (log_probs, numbers.double(), seen)
    expected = log_probs.mT[numbers]
    expected = torch.where(seen[:, None], expected, 0.0) if partial else expected
    table = symbols.log_prob(*arguments)
    assert torch.equal(table, expected)
    (ours,), (theirs,) = (torch.autograd.grad((weights * x).sum(), log_probs) for x in (table, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)
    torch.library.opcheck(torch.ops.probseq.symbol_log_prob.default, arguments)


def test_no_second_derivative_and_no_other_symbols() -> None:
    log_probs = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    table = symbols.log_prob(log_probs, torch.tensor([2.0, 0.0], dtype=torch.float64), torch.empty(0, dtype=torch.bool))
    (gradient,) = torch.autograd.grad((table**2).sum(), log_probs, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivative only"):
        gradient.sum().backward()
    for wrong in (3.0, -1.0):
        with pytest.raises(ValueError, match=r"0 \.\. 2"):
            symbols.log_prob(log_probs, torch.tensor([wrong], dtype=torch.float64), torch.empty(0, dtype=torch.bool))
