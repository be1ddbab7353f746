"""The stationary law of a chain: the pi with pi A = pi.

It is unique where the chain has one closed class of states, and 0 outside that class. The elimination of Grassmann,
Taksar and Heyman (1985, Operations Research 33) censors one state after the other: with the last state n unseen,

    A'_ij = A_ij + A_in A_nj / s_n,    s_n = sum_{j < n} A_nj,    and afterwards    pi_n = sum_{i < n} pi_i A_in / s_n

Nothing is subtracted (1 - A_nn is s_n), so every entry is accurate to rounding however rarely the chain moves.
"""

from __future__ import annotations

import torch
from torch import Tensor


def closed_classes(matrix: Tensor) -> list[list[int]]:
    """The sets of states that lead to each other and to nothing else; a chain has at least one."""
    k = len(matrix)
    reach = (matrix > 0) | torch.eye(k, dtype=torch.bool)
    for _ in range(k.bit_length()):
        reach = reach.double() @ reach.double() > 0
    closed = (reach <= reach.mT).all(-1)
    firsts = [i for i in closed.nonzero().flatten().tolist() if not reach[i, :i].any()]
    return [reach[i].nonzero().flatten().tolist() for i in firsts]


def stationary_law(matrix: Tensor) -> Tensor:
    """The one pi with pi A == pi and sum 1, (K,), differentiable; 0 for states that are left for good.

    ValueError where the chain has several closed classes, so that the law is not unique.
    """
    classes = [list(range(len(matrix)))] if bool((matrix > 0).all()) else closed_classes(matrix.detach())
    if len(classes) > 1:
        raise ValueError(
            "transition_matrix must have one closed class of states, so that its stationary law is unique, "
            f"got {len(classes)}: {', '.join(map(str, classes))}"
        )
    members = torch.tensor(classes[0])
    rest = matrix if len(members) == len(matrix) else matrix[members][:, members]
    columns: list[Tensor] = []
    while len(rest) > 1:  # censor the last state: the chain as seen on the others
        column = rest[:-1, -1] / rest[-1, :-1].sum()
        columns.append(column)
        rest = rest[:-1, :-1] + column.unsqueeze(-1) * rest[-1, :-1]
    law = matrix.new_ones(1)
    for column in reversed(columns):
        law = torch.cat([law, (law @ column).unsqueeze(0)])
        law = law / law.sum()
    return law if len(members) == len(matrix) else law.new_zeros(len(matrix)).index_put((members,), law)


def log_or_minus_infinity(probs: Tensor) -> Tensor:
    """log p, -inf at zeros, whose gradient is zero."""
    some = probs > 0
    return torch.where(some, torch.where(some, probs, 1.0).log(), -torch.inf)
