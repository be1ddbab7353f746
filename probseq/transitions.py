"""How a chain moves: transition rows, tied ones, the stationary law, Dirichlet priors, and their M-steps.

    z_0 ~ pi;   z_{t+1} ~ A[z_t]

| symbol | shape  |                                                                                     |
|--------|--------|-------------------------------------------------------------------------------------|
| A      | (K, K) | transition_matrix, rows that sum to 1; states i and j may share a row (tied)         |
| pi     | (K,)   | initial_probs: free, or the stationary law pi A = pi of a stationary start           |
| N      | (K, K) | expected transition counts, sum_t p(z_{t-1} = i, z_t = j given y)                    |
| g      | (K,)   | expected first states, p(z_0 = k given y), summed over sequences                     |
| alpha  | (K, K) | concentrations of a Dirichlet prior on each row, 1 (flat) or more                    |

The M-step maximises sum_k g_k log pi_k + sum_ij (N_ij + alpha_ij - 1) log A_ij. With a free start it is closed,
A_ij proportional to N_ij + alpha_ij - 1 (Rabiner 1989, eq. 40b; MAP: Gauvain and Lee 1994, eq. 35). With a
stationary start log pi depends on A and nothing is closed (Zucchini and MacDonald 2009, sec. 4.2.5): the M-step
climbs this objective by L-BFGS and moves only if it rose, which is a generalised EM and never falls (Dempster,
Laird and Rubin 1977, theorem 1). The stationary law comes from the elimination of Grassmann, Taksar and Heyman
(1985), which subtracts nothing and is accurate in every entry however rarely the chain moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq import constraints as C
from probseq.parameters import Param, as_parameter

# ------------------------------------------------------------------------------------------- the stationary law


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


# ----------------------------------------------------------------------------------------------- the parameters


class InitialLaw(Param):
    """The law of z_0: free, or following from `transition_matrix` where the owner's `initial` is "stationary"."""

    def raw_shape(self, instance: Any) -> tuple[int, ...]:
        return (0,) if instance.initial == "stationary" else super().raw_shape(instance)

    def value_shape(self, instance: Any) -> tuple[int, ...]:
        return (instance.n_states,)

    def forward(self, instance: Any, raw: Tensor) -> Tensor:
        return (
            stationary_law(instance.transition_matrix)
            if instance.initial == "stationary"
            else super().forward(instance, raw)
        )

    def check(self, instance: Any) -> None:
        if instance.initial == "free" or "transition_matrix" not in instance.unset:
            super().check(instance)

    def log(self, instance: Any) -> Tensor:
        if instance.initial == "free" or self.name in instance.overrides:
            return super().log(instance)
        return log_or_minus_infinity(self.__get__(instance, type(instance)))

    def __set__(self, instance: Any, value: Any) -> None:
        if instance.initial == "stationary":
            raise ValueError(f'{self.name} follows from transition_matrix (initial="stationary") and cannot be set')
        super().__set__(instance, value)


class TransitionRows(Param):
    """Rows of probabilities (K, K), stored once per group of tied rows."""

    def raw_shape(self, instance: Any) -> tuple[int, ...]:
        k = instance.n_states
        return (k if instance.tied_rows is None else max(instance.tied_rows) + 1, k)

    def value_shape(self, instance: Any) -> tuple[int, ...]:
        return (instance.n_states, instance.n_states)

    def forward(self, instance: Any, raw: Tensor) -> Tensor:
        return spread(super().forward(instance, raw), instance.tied_rows)

    def inverse(self, instance: Any, value: Tensor) -> Tensor:
        return super().inverse(instance, mean_of_groups(value, instance.tied_rows))

    def log(self, instance: Any) -> Tensor:
        own = super().log(instance)
        return own if self.name in instance.overrides else spread(own, instance.tied_rows)

    def complaint(self, instance: Any, value: Tensor) -> str | None:
        away = (value - spread(mean_of_groups(value, instance.tied_rows), instance.tied_rows)).abs().amax(-1)
        if bool((away > C.ROW_SUM).any()):
            return f"must have equal rows where tied_rows says so; row {int(away.argmax())} differs from its group"
        return super().complaint(instance, value)


def log_or_minus_infinity(probs: Tensor) -> Tensor:
    """log p, -inf at zeros, whose gradient is zero."""
    some = probs > 0
    return torch.where(some, torch.where(some, probs, 1.0).log(), -torch.inf)


# -------------------------------------------------------------------------------------------------- tied rows


def groups_of(tied_rows: Any, n_states: int) -> list[int] | None:
    """Labels per state renamed 0, 1, ... in order of appearance; None where no two states share a row."""
    if tied_rows is None:
        return None
    labels = np.asarray(tied_rows)
    if labels.shape != (n_states,) or labels.dtype.kind not in "iu":
        raise ValueError(f"tied_rows must be {n_states} integers, one per state, got {tied_rows!r}")
    order = list(dict.fromkeys(labels.tolist()))
    return [order.index(label) for label in labels.tolist()]


def spread(rows: Tensor, tied_rows: list[int] | None) -> Tensor:
    """Every state's row from those of the groups."""
    return rows if tied_rows is None else rows[torch.tensor(tied_rows)]


def sum_of_groups(rows: Tensor, tied_rows: list[int] | None) -> Tensor:
    """One row per group, the adjoint of `spread`."""
    if tied_rows is None:
        return rows
    return rows.new_zeros(max(tied_rows) + 1, rows.shape[-1]).index_add(0, torch.tensor(tied_rows), rows)


def mean_of_groups(rows: Tensor, tied_rows: list[int] | None) -> Tensor:
    """One row per group. Satisfies mean_of_groups(spread(x)) == x."""
    if tied_rows is None:
        return rows
    return sum_of_groups(rows, tied_rows) / sum_of_groups(torch.ones_like(rows[:, :1]), tied_rows)


# --------------------------------------------------------------------------------------------------- M-steps


def maximise_rows(rows: Tensor, counts: Tensor) -> Tensor:
    """argmax sum counts * log rows over rows of probabilities; a row without counts stays as it is."""
    mass = counts.sum(-1, keepdim=True)
    return torch.where(mass > 0, counts / torch.where(mass > 0, mass, 1.0), rows)


def maximise_rows_and_start(rows: Tensor, tied_rows: list[int] | None, counts: Tensor, first: Tensor) -> Tensor:
    """Rows (G, K) that raise sum first * log pi(A) + sum counts * log rows, or the old ones; zeros stay zeros."""
    support = rows > 0

    def score(log_rows: Tensor) -> Tensor:
        law = log_or_minus_infinity(stationary_law(spread(log_rows.exp(), tied_rows)))
        total = (counts * torch.where(support, log_rows, 0.0)).sum()
        return total + torch.where(first > 0, first * law, 0.0).sum()

    simple = maximise_rows(rows, counts)
    starts = [rows, simple] if torch.equal(simple > 0, support) else [rows]
    best = max(starts, key=lambda start: float(score(start.log())))
    return _climb(best, support, score, float((counts.sum() + first.sum()).clamp(min=1)))


def _climb(rows: Tensor, support: Tensor, score: Any, size: float) -> Tensor:
    """L-BFGS over the logits of the supported entries; the start itself unless the score rose."""
    from scipy.optimize import minimize

    def logits(vector: Any) -> Tensor:
        raw = torch.full(rows.shape, -torch.inf, dtype=torch.float64)
        return raw.masked_scatter(support, torch.as_tensor(vector)).log_softmax(-1)

    def minus(vector: Any) -> tuple[float, Any]:
        with torch.enable_grad():
            variables = torch.tensor(vector, requires_grad=True)
            try:
                value = -score(logits(variables)) / size
            except ValueError:  # an entry has underflowed and cuts the chain in two
                return worst, np.zeros_like(vector)
            (gradient,) = torch.autograd.grad(value, variables)
        finite = bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all())
        return (float(value.detach()), gradient.numpy()) if finite else (worst, np.zeros_like(vector))

    begun = -float(score(rows.log())) / size
    worst = 1 + 1e3 * abs(begun)
    found = minimize(
        minus, rows.log()[support].numpy(), jac=True, method="L-BFGS-B", options={"ftol": 0.0, "gtol": 1e-9}
    )
    return logits(found.x).exp() if found.fun < begun else rows


# ----------------------------------------------------------------------------------------- entropy of the path

#: numbers held at once while summing over steps
CHUNK = 2**20


def path_entropy(log_filtered: Tensor, gamma: Tensor, log_transition: Tensor, lengths: Tensor) -> Tensor:
    """H(z_{0:T} | y) (B,), from log p(z_t | y_<=t) and p(z_t | y), (B, T, K), and log_transition (S, R, K, K).

    Given z_t and y, z_{t-1} has the law proportional to p(z_{t-1} | y_<t) A[z_{t-1}, z_t], whatever comes after t.
    """
    b, t, k = gamma.shape
    last = (lengths - 1).clamp(min=0).reshape(b, 1, 1).expand(b, 1, k)
    total = torch.special.entr(gamma.gather(1, last)).sum((1, 2))
    inside = torch.arange(t) < lengths.unsqueeze(-1)
    size = max(1, CHUNK // max(b * k * k, 1))
    for begin in range(1, t, size):
        steps = slice(begin, min(begin + size, t))
        moves = log_transition if log_transition.shape[1] == 1 else log_transition[:, steps]
        joint = log_filtered[:, begin - 1 : steps.stop - 1].unsqueeze(-1) + moves
        top = joint.amax(-2, keepdim=True)
        weights = (joint - torch.where(top > -torch.inf, top, 0.0)).exp()
        mass = weights.sum(-2, keepdim=True)
        backward = weights / torch.where(mass > 0, mass, 1.0)
        terms = (gamma[:, steps] * torch.special.entr(backward).sum(-2)).sum(-1)
        total = total + torch.where(inside[:, steps], terms, 0.0).sum(-1)
    return torch.where(lengths > 0, total, 0.0)


# ---------------------------------------------------------------------------------------------------- priors


def concentration(name: str, value: Any, shape: tuple[int, ...], tied_rows: list[int] | None = None) -> Tensor | None:
    """Concentrations of a Dirichlet prior on rows of this shape (a number stands for all), None for no prior."""
    if value is None:
        return None
    given = as_parameter(name, value)
    if tuple(given.shape) not in ((), shape):
        raise ValueError(f"{name} must be a number or have shape {shape}, got {tuple(given.shape)}")
    if bool((given < 1).any()):
        raise ValueError(f"{name} must be at least 1, where the density has a mode, got {given.min():.4g}")
    full = given.expand(shape).clone()
    if len(shape) == 2 and not torch.equal(full, spread(mean_of_groups(full, tied_rows), tied_rows)):
        raise ValueError(f"{name} must have equal rows where tied_rows says so")
    return full


def extra_counts(prior: Tensor | None, rows: Tensor) -> Tensor:
    """alpha - 1 at the entries that are not structurally zero: what a prior adds to expected counts."""
    return torch.zeros_like(rows) if prior is None else torch.where(rows > 0, prior - 1, 0.0)


def dirichlet_log_density(prior: Tensor | None, log_rows: Tensor) -> Tensor:
    """The sum over rows of log Dirichlet(row; alpha), each over its entries that are not structurally zero."""
    if prior is None:
        return log_rows.new_zeros(())
    free = log_rows > -torch.inf
    terms = (prior - 1) * torch.where(free, log_rows, 0.0) - torch.lgamma(prior)
    total = torch.where(free, prior, 0.0).sum(-1)
    return (torch.where(free, terms, 0.0).sum(-1) + torch.lgamma(total)).sum()


__all__ = ["InitialLaw", "TransitionRows", "closed_classes", "stationary_law"]
