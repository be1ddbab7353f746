"""The switching autoregression: the regime chooses how y_t follows from the rows before; exact throughout.

    s_0 ~ Categorical(initial_probs)
    for t in range(T):
        y_t ~ N(A_k1 y_{t-1} + ... + A_kp y_{t-p} + b_k, S_k),       k = s_t
        s_{t+1} ~ Categorical(transition_matrix[s_t])

| name              | shape        |   | name           | shape        |                                     |
|-------------------|--------------|---|----------------|--------------|-------------------------------------|
| initial_probs     | (K,)         |   | coefficients   | (K, p, D, D) | A[k, j - 1] multiplies y_{t-j}      |
| transition_matrix | (K, K)       |   | intercepts     | (K, D)       | b                                   |
|                   |              |   | covs           | (K, D, D)    | S                                   |
|                   |              |   | initial_window | (p, D)       | y_{-1}, .., y_{-p}, a held constant |

A `SwitchingLDS` whose state is the window and is seen without noise. Then a Gaussian per regime is the whole posterior
and nothing is collapsed: this is the AR-HMM, an `HMM` with `Autoregressive` emissions, whose forward-backward, Viterbi
and EM it is. Unlike a z_0, the first row depends on its regime too.

References: Hamilton (1989), A new approach to the economic analysis of nonstationary time series, Econometrica 57; Kim
and Nelson, State-Space Models with Regime Switching (1999), ch. 4.
"""

from __future__ import annotations

from typing import Any, cast

from probseq.emissions.autoregressive import Autoregressive
from probseq.emissions.gaussian import Covariance
from probseq.models.hmm import HMM


class SwitchingAR(HMM):
    """A switching autoregression from sizes, `SwitchingAR(2, obs_dim=1, order=4)`, or from its parameters.

    `coefficients` (K, order, D, D) come with `covs` (K, D, D); `intercepts` and `initial_window` are zeros where they
    are left out. A gap in the data enters later windows as its expectation (`likelihood_kind` stays that of complete
    data).
    """

    def __init__(
        self,
        n_regimes: int | None = None,
        obs_dim: int | None = None,
        order: int | None = None,
        *,
        covariance: Covariance = "full",
        initial_probs: Any = None,
        transition_matrix: Any = None,
        coefficients: Any = None,
        intercepts: Any = None,
        covs: Any = None,
        initial_window: Any = None,
    ) -> None:
        if order is None and coefficients is None:
            order = 1
        emission = Autoregressive(
            obs_dim, order, coefficients=coefficients, intercepts=intercepts, covs=covs, initial_window=initial_window,
            covariance=covariance,
        )  # fmt: skip
        super().__init__(n_regimes, emission=emission, initial_probs=initial_probs, transition_matrix=transition_matrix)

    @property
    def autoregression(self) -> Autoregressive:
        """The emission, with `coefficients`, `intercepts`, `covs` and `initial_window`."""
        return cast(Autoregressive, self.emission)

    @property
    def n_regimes(self) -> int:
        """Another word for `n_states`."""
        return self.n_states

    def sizes(self) -> dict[str, Any]:
        own = self.autoregression
        return {"n_regimes": self.n_states, "obs_dim": own.dim, "order": own.order, "covariance": own.covariance}
