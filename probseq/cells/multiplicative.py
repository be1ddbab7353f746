"""The forward algorithm as a recurrent cell: what was believed is multiplied by what the observation says.

    s_t = (log p_t, 1):  p_t(k) = p(z_t = k | y_<t);   x_t(k) = log p(y_{t-1} | z_{t-1} = k), what the cell reads
    p_{t+1}(j) = sum_i p_t(i) exp x_{t+1}(i) A_t(i, j) / sum_i p_t(i) exp x_{t+1}(i)

Evidence enters as a factor for every unit, not as a sum: a multiplicative network (Sutskever, Martens and Hinton
2011, sec. 3, has a matrix for every symbol likewise). It belongs to `heads.StateMixture`, whose encoding is x_t, and
together they are a hidden Markov model with any emission.

| parameter               | shape     | meaning                                                                      |
|-------------------------|-----------|------------------------------------------------------------------------------|
| `raw_initial_probs`     | (K,)      | p_0 = softmax of it                                                          |
| `raw_transition_matrix` | (K, K)    | A = softmax of its rows; minus infinity is a move that is impossible         |
| `transition_weights`    | (K, K, P) | W, with P inputs: A_t[i] = softmax(log A[i] + W[i] u_t)                      |

The last entry of the state is 0 before the first step, which has seen nothing and stays at the start.

References: Rabiner (1989), A tutorial on hidden Markov models, Proc. IEEE 77, eqs. 19-21. Sutskever, I., Martens, J. &
Hinton, G. (2011). Generating text with recurrent neural networks. ICML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probseq.cells.base import Cell, uniform
from probseq.checks import whole_number
from probseq.ops.log_space import safe_logsumexp
from probseq.transitions import driven


class Multiplicative(Cell):
    """The filter of a chain with `n_states` states: reads log-likelihoods of the states, then inputs."""

    raw_initial_probs: Tensor
    raw_transition_matrix: Tensor
    transition_weights: Tensor

    def __init__(self, n_states: int) -> None:
        k = whole_number("n_states", n_states)
        super().__init__(k, state_size=k + 1)
        self.n_states = k
        self._room("raw_initial_probs", "raw_transition_matrix", "transition_weights")

    def sizes(self) -> dict[str, Any]:
        return {"n_states": self.n_states}

    def _build(self, input_size: int, dtype: torch.dtype) -> None:
        k = self.n_states
        if input_size < k:
            raise ValueError(
                f"a Multiplicative cell of {k} states reads {k} log-likelihoods (heads.StateMixture) and the inputs, "
                f"got {input_size} columns"
            )
        self.raw_initial_probs = self._zeros(k, dtype=dtype)
        self.raw_transition_matrix = self._zeros(k, k, dtype=dtype)
        self.transition_weights = self._zeros(k, k, input_size - k, dtype=dtype)

    def _draw(self, draws: torch.Generator) -> None:
        """States that stay with odds of about one half, like the start of a hidden Markov model."""
        k = self.n_states
        self.raw_initial_probs.zero_()
        matrix = 0.5 * torch.eye(k, dtype=torch.float64) + 0.5 * (1 + uniform((k, k), 0.5, draws)) / k
        self.raw_transition_matrix.copy_(matrix.log())
        self.transition_weights.zero_()

    def initial_state(self, batch_shape: Sequence[int] = ()) -> Float[Tensor, "*batch state"]:
        """log p_0 and a mark that nothing has been seen yet, (*batch, K + 1)."""
        self._require_bound()
        start = torch.cat([self.raw_initial_probs.log_softmax(-1), self.raw_initial_probs.new_zeros(1)])
        return start.expand(*batch_shape, self.state_size)

    def step(
        self, inputs: Float[Tensor, "*batch input"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """Multiply by the likelihoods of the step before, normalise and move on; the first step stays at the start.

        Where an observation was impossible the belief stays as it was before it.
        """
        belief, begun = state.split((self.n_states, 1), -1)
        evidence, u = inputs.split((self.n_states, inputs.shape[-1] - self.n_states), -1)
        joint = belief + evidence
        norm = safe_logsumexp(joint, -1).unsqueeze(-1)
        updated = torch.where(norm > -torch.inf, joint - norm, belief)
        moved = safe_logsumexp(updated.unsqueeze(-1) + self._log_moves(u), -2)
        return torch.cat([torch.where(begun == 0, belief, moved), torch.ones_like(begun)], -1)

    def _log_moves(self, u: Tensor) -> Tensor:
        log_rows = self.raw_transition_matrix.log_softmax(-1)
        return driven(log_rows, self.transition_weights, u) if u.shape[-1] else log_rows

    def _fused(self, inputs: Tensor, state: Tensor) -> Tensor:
        return self.output(self._unroll(inputs, state))
