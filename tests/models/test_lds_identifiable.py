"""How many numbers of a linear dynamical system the data tell, against the rank of the moments of y in all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import probseq as ps
from probseq.models.normal import stationary_cov


def joint_moments(parts: dict[str, Tensor], steps: int) -> Tensor:
    """Mean and covariance of y_0, ..., y_{steps - 1} as one vector."""
    a, c, q, r = parts["a"], parts["c"], parts["q"] @ parts["q"].mT, parts["r"] @ parts["r"].mT
    if "p" in parts:
        mean, cov = parts["m"], parts["p"] @ parts["p"].mT
    else:
        mean, cov = torch.zeros(len(a)).double(), stationary_cov(a, q)
    found = []
    for t in range(steps):
        found += [c @ mean + parts["e"], (c @ cov @ c.mT + r).flatten()]
        reach = c
        for _ in range(t + 1, steps):
            reach = reach @ a
            found.append((reach @ cov @ c.mT).flatten())
        mean, cov = a @ mean, a @ cov @ a.mT + q
    return torch.cat(found)


@pytest.mark.parametrize("start", ["stationary", "given"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (1, 2), (2, 3)])
def test_parameters_that_the_data_tell(n: int, m: int, start: Any) -> None:
    torch.manual_seed(10 * n + m)
    a = torch.randn(n, n).double()
    a *= 0.8 / torch.linalg.eigvals(a).abs().max()
    parts = {"a": a, "c": torch.randn(m, n), "q": torch.randn(n, n).tril(), "r": torch.randn(m, m).tril()}
    parts |= {"e": torch.randn(m)} | ({"m": torch.randn(n), "p": torch.randn(n, n).tril()} if start == "given" else {})
    parts = {name: part.double() for name, part in parts.items()}
    sizes = [part.numel() for part in parts.values()]

    def moments(flat: Tensor) -> Tensor:
        pieces = zip(parts.items(), flat.split(sizes), strict=True)
        return joint_moments({name: piece.view_as(part) for (name, part), piece in pieces}, 2 * n + 3)

    flat = torch.cat([part.flatten() for part in parts.values()])
    jacobian: Any = torch.autograd.functional.jacobian(moments, flat)
    told = int((torch.linalg.svdvals(jacobian) > 1e-8 * torch.linalg.matrix_norm(jacobian, 2)).sum())
    assert ps.LDS(n, m, initial=start).n_parameters == told


def test_what_is_held_is_counted_as_it_is_stored() -> None:
    model = ps.LDS(2, 1, transition_matrix=[[1.0, 1.0], [0.0, 1.0]], emission_covariance="diag")
    assert model.n_parameters == 4 + 3 + 2 + 1 + 1 + 2 + 3
    assert ps.LDS(2, 1).n_parameters == 5 + 1 + 2 + 3
