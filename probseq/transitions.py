"""How a chain moves: transition rows, tied ones, rows driven by inputs, Dirichlet priors, and their M-steps.

    z_0 ~ pi;   z_t ~ A_t[z_{t-1}],   A_t[i] = softmax(log A[i] + W[i] u_t)

| symbol | shape  |                                                                                     |
|--------|--------|-------------------------------------------------------------------------------------|
| A      | (K, K) | transition_matrix, rows that sum to 1; states i and j may share a row (tied)         |
| W      | (K, K, | transition_weights, the effect of the P inputs on the log-odds of a move (0 without  |
|        |  P)    | inputs, so that A_t = A); a constant added to W[i, :, p] changes nothing             |
| pi     | (K,)   | initial_probs: free, or the stationary law pi A = pi of a stationary start           |
| N      | (K, K) | expected transition counts, sum_t p(z_{t-1} = i, z_t = j given y)                    |
| g      | (K,)   | expected first states, p(z_0 = k given y), summed over sequences                     |
| alpha  | (K, K) | concentrations of a Dirichlet prior on each row, 1 (flat) or more                    |

The M-step maximises sum_k g_k log pi_k + sum_ij (N_ij + alpha_ij - 1) log A_ij. With a free start it is closed,
A_ij proportional to N_ij + alpha_ij - 1 (Rabiner 1989, eq. 40b; MAP: Gauvain and Lee 1994, eq. 35). With a
stationary start log pi depends on A (Zucchini and MacDonald 2009, sec. 4.2.5), and with inputs every step has counts
and rows of its own (Bengio and Frasconi 1996); nothing is closed then. The M-step climbs its objective by L-BFGS and
moves only if that rose: a generalised EM, which never falls (Dempster, Laird and Rubin 1977, theorem 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from probseq import constraints as C
from probseq.parameters import Param, as_parameter
from probseq.stationary import log_or_minus_infinity, stationary_law

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


class InputWeights(Param):
    """The effect of the inputs on each move (K, K, P), stored once per group of tied rows; empty without inputs."""

    def raw_shape(self, instance: Any) -> tuple[int, ...]:
        k = instance.n_states
        return (k if instance.tied_rows is None else max(instance.tied_rows) + 1, k, instance.n_drivers)

    def value_shape(self, instance: Any) -> tuple[int, ...]:
        return (instance.n_states, instance.n_states, instance.n_drivers)

    def forward(self, instance: Any, raw: Tensor) -> Tensor:
        return spread(raw, instance.tied_rows)

    def inverse(self, instance: Any, value: Tensor) -> Tensor:
        return mean_of_groups(value, instance.tied_rows)

    def complaint(self, instance: Any, value: Tensor) -> str | None:
        if equal_in_groups(value, instance.tied_rows):
            return None
        return "must have equal rows where tied_rows says so"


def driven(log_rows: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """log A_t (*batch, G, K) = log softmax(log A + W u_t), from (G, K), (G, K, P) and (*batch, P)."""
    return (log_rows + torch.einsum("gkp,...p->...gk", weights, u)).log_softmax(-1)


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


def sum_of_groups(rows: Tensor, tied_rows: list[int] | None, dim: int = 0) -> Tensor:
    """One row per group along an axis, the adjoint of `spread`."""
    if tied_rows is None:
        return rows
    shape = list(rows.shape)
    shape[dim] = max(tied_rows) + 1
    return rows.new_zeros(shape).index_add(dim, torch.tensor(tied_rows), rows)


def mean_of_groups(rows: Tensor, tied_rows: list[int] | None) -> Tensor:
    """One row per group. Satisfies mean_of_groups(spread(x)) == x."""
    if tied_rows is None:
        return rows
    return sum_of_groups(rows, tied_rows) / sum_of_groups(torch.ones_like(rows), tied_rows)


def equal_in_groups(rows: Tensor, tied_rows: list[int] | None) -> bool:
    """Whether tied states have equal rows, to the last digit (which a mean over three would not keep)."""
    if tied_rows is None:
        return True
    first = [tied_rows.index(group) for group in range(max(tied_rows) + 1)]
    return torch.equal(rows, spread(rows[first], tied_rows))


# --------------------------------------------------------------------------------------------------- M-steps


#: a row with less than this share of all expected moves has not been observed
NO_COUNT = 1e-14
#: steps of L-BFGS in one M-step
CLIMB = 50


def maximise_rows(rows: Tensor, counts: Tensor) -> Tensor:
    """argmax sum counts * log rows over rows of probabilities; a row without counts stays as it is.

    So does one whose counts, from a state that is all but never left, are rounding noise beside those of the others.
    """
    mass = counts.sum(-1, keepdim=True)
    return torch.where(mass > NO_COUNT * counts.sum(), counts / torch.where(mass > 0, mass, 1.0), rows)


def maximise_rows_and_start(rows: Tensor, tied_rows: list[int] | None, counts: Tensor, first: Tensor) -> Tensor:
    """Rows (G, K) that raise sum first * log pi(A) + sum counts * log rows, or the old ones; zeros stay zeros."""
    support = rows > 0

    def logits(vector: Tensor) -> Tensor:
        return torch.full_like(rows, -torch.inf).masked_scatter(support, vector).log_softmax(-1)

    def score(vector: Tensor) -> Tensor:
        log_rows = logits(vector)
        law = log_or_minus_infinity(stationary_law(spread(log_rows.exp(), tied_rows)))
        total = (counts * torch.where(support, log_rows, 0.0)).sum()
        return total + torch.where(first > 0, first * law, 0.0).sum()

    simple = maximise_rows(rows, counts)
    starts = [start.log()[support] for start in (rows, simple) if torch.equal(start > 0, support)]
    best = max(starts, key=lambda start: float(score(start)))
    return logits(climb(best, score, float(counts.sum() + first.sum()))).exp()


def maximise_regression(
    log_rows: Tensor, weights: Tensor, inputs: Tensor, counts: Tensor, extra: Tensor, held: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """log rows (G, K) and weights (G, K, P) that raise the expected log-probability of the moves, or the old ones.

    `counts` (N, G, K) belong to the inputs (N, P), `extra` (G, K) to a prior on the rows at u = 0; `held` says which of
    the two stay. The objective is concave. Zeros stay zeros.
    """
    support = log_rows > -torch.inf
    unit = inputs.square().mean(0).sqrt() if len(inputs) else torch.ones_like(inputs.sum(0))
    unit = torch.where(unit > 0, unit, 1.0)
    sizes = [0 if held[0] else int(support.sum()), 0 if held[1] else weights.numel()]

    def parts(vector: Tensor) -> tuple[Tensor, Tensor]:
        free, slopes = vector.split(sizes)
        base = log_rows if held[0] else torch.full_like(log_rows, -torch.inf).masked_scatter(support, free)
        return base.log_softmax(-1), weights if held[1] else slopes.reshape(weights.shape) / unit

    def score(vector: Tensor) -> Tensor:
        base, slopes = parts(vector)
        moves = torch.where(support, driven(base, slopes, inputs), 0.0)
        return (counts * moves).sum() + (extra * torch.where(support, base, 0.0)).sum()

    slopes = (weights * unit).flatten()[: sizes[1]]
    start = torch.cat([log_rows[support][: sizes[0]], slopes])
    return parts(climb(start, score, float(counts.sum() + extra.sum())))


def climb(start: Tensor, score: Callable[[Tensor], Tensor], size: float) -> Tensor:
    """L-BFGS on score / size from `start`: where it ends, or `start` itself unless the score rose.

    A generalised EM needs a rise and no maximum, so it stops after `CLIMB` steps at the latest.
    """
    from scipy.optimize import minimize

    size = size if size > 0 else 1.0

    def minus(vector: Any) -> tuple[float, Any]:
        with torch.enable_grad():
            variables = torch.tensor(vector, requires_grad=True)
            try:
                value = -score(variables) / size
            except ValueError:  # a probability has underflowed and cuts the chain in two
                return worst, np.zeros_like(vector)
            (gradient,) = torch.autograd.grad(value, variables)
        finite = bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all())
        return (float(value.detach()), gradient.numpy()) if finite else (worst, np.zeros_like(vector))

    begun = -float(score(start)) / size
    worst = 1 + 1e3 * abs(begun)
    options = {"ftol": 0.0, "gtol": 1e-9, "maxiter": CLIMB}
    found = minimize(minus, start.numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.as_tensor(found.x) if found.fun < begun else start


# ------------------------------------------------------------------------------------------ what was asked for


def refuse_untied(name: str, rows: Tensor | None, tied_rows: list[int] | None) -> None:
    """ValueError where tied rows are given different values."""
    if rows is not None and not equal_in_groups(rows, tied_rows):
        raise ValueError(f"{name} must have equal rows where tied_rows says so")


def start_of(initial: Any, initial_probs: Any, initial_prior: Any, input_dim: int) -> Literal["free", "stationary"]:
    """`initial`, checked to agree with what was given."""
    if initial not in ("free", "stationary"):
        raise ValueError(f'initial must be "free" or "stationary", got {initial!r}')
    for name, value in (("initial_probs", initial_probs), ("initial_prior", initial_prior)):
        if initial == "stationary" and value is not None:
            raise ValueError(f'{name} must be left out with initial="stationary": the start follows from the rows')
    if initial == "stationary" and input_dim:
        raise ValueError(f'initial must be "free" where inputs drive the transitions (input_dim {input_dim})')
    return initial


def count_inputs(input_dim: Any, transition_weights: Any) -> int:
    """input_dim as passed or as read off the weights."""
    if isinstance(input_dim, bool) or int(input_dim) != input_dim or input_dim < 0:
        raise ValueError(f"input_dim must be a non-negative integer, got {input_dim!r}")
    if transition_weights is None:
        return int(input_dim)
    shape = tuple(as_parameter("transition_weights", transition_weights).shape)
    if len(shape) != 3 or shape[2] != (input_dim or shape[2]):
        wanted = f"(n_states, n_states, {input_dim or 'input_dim'})"
        raise ValueError(f"transition_weights must have shape {wanted}, got {shape}")
    return shape[2]
