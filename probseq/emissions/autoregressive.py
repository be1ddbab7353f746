"""Autoregression in every state: y_t | z_t = k ~ N(sum_j A_kj y_{t-j} + b_k, S_k), the AR-HMM.

    for t in range(T):
        y_t ~ N(A_k1 y_{t-1} + ... + A_kp y_{t-p} + b_k, S_k),   k = z_t
        window = (y_t, window without its oldest row)

| name           | shape        |                                                                    |
|----------------|--------------|--------------------------------------------------------------------|
| coefficients   | (K, p, D, D) | A[k, j - 1] multiplies y_{t-j}                                     |
| intercepts     | (K, D)       | b                                                                  |
| covs           | (K, D, D)    | S, of the types of `Gaussian`                                      |
| initial_window | (p, D)       | y_{-1}, ..., y_{-p}: what the first steps read, newest first       |

Every step is scored, the first p given `initial_window`. It is a constant of the model, not estimated: as given, or
the mean of the data where a fit starts from sizes (as many numbers as it has would fit the first p steps exactly).

A window needs numbers. Where y_t is not observed, or not all of it, its own likelihood is exact; into the window goes
the predictive mean, E[y_t given what was observed up to and with t], and what is said of later steps is approximate.

References: Hamilton (1989), Econometrica 57; Poritz (1982), Linear predictive hidden Markov models, ICASSP.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from probseq import parameters as P
from probseq.emissions.base import positive
from probseq.emissions.gaussian import Covariance
from probseq.emissions.regression import Regression
from probseq.parameters import Param


class Autoregressive(Regression):
    """Rows that follow from those before, from sizes `Autoregressive(dim, order)` or from `coefficients`.

    Beside given `coefficients`, `intercepts` and `initial_window` are zeros where they are left out.
    """

    slope_name = "coefficients"
    coefficients = Param(P.real, "n_states", "order", "dim", "dim")
    initial_window = Param(P.real, "order", "dim")

    def __init__(
        self,
        dim: int | None = None,
        order: int | None = None,
        *,
        coefficients: Any = None,
        intercepts: Any = None,
        covs: Any = None,
        initial_window: Any = None,
        covariance: Covariance = "full",
    ) -> None:
        n_states = None
        if coefficients is not None:
            shape = tuple(P.as_parameter("coefficients", coefficients).shape)
            if len(shape) != 4:
                raise ValueError(f"coefficients must have shape (n_states, order, dim, dim), got {shape}")
            n_states, order = shape[0], shape[1] if order is None else order
            dim = shape[2] if dim is None else dim
            intercepts = torch.zeros(shape[0], shape[2]) if intercepts is None else intercepts
            initial_window = torch.zeros(shape[1:3]) if initial_window is None else initial_window
        self.order = positive("order", order)
        values = {
            "coefficients": coefficients,
            "intercepts": intercepts,
            "covs": covs,
            "initial_window": initial_window,
        }
        super().__init__(positive("dim", dim), n_states, covariance, values)

    def declare(self, **values: Any) -> None:
        super().declare(**values)
        self._parameters["raw_initial_window"].requires_grad_(False)  # type: ignore[union-attr]

    def sizes(self) -> dict[str, Any]:
        return {"dim": self.dim, "order": self.order, "covariance": self.covariance}

    @property
    def width(self) -> int:
        return self.order * self.dim

    def slopes(self) -> Tensor:
        return self.coefficients.transpose(1, 2).flatten(-2)

    def assign_slopes(self, slopes: Tensor) -> None:
        self.assign(coefficients=slopes.unflatten(-1, (self.order, self.dim)).transpose(1, 2))

    def keeps_origin(self) -> bool:
        return self.is_frozen("intercepts")  # what they mean about another origin depends on the coefficients

    # ---- the window

    def windows(self, values: Tensor, first: Tensor) -> Tensor:
        """The windows before and after every row of (B, T, D), newest first, (B, T + 1, order, D)."""
        joined = torch.cat([first.flip(-2), values], -2)
        return joined.unfold(1, self.order, 1).flip(-1).mT

    def remember(self, window: Tensor, log_probs: Tensor, values: Tensor, observed: Tensor | None) -> Tensor:
        """The window after a row, from the one before it; `log_probs` (*batch, K) is the belief that has seen the row.

        What is not observed of the row is E[. given the observed part, past], averaged over the states.
        """
        newest = values
        if observed is not None and not bool(observed.all()):
            means = self.means(window.flatten(-2))
            away = (values.unsqueeze(-2) - means).reshape(-1, self.n_states, self.dim)
            filled, _, _ = self.complete(away, observed.reshape(-1, self.dim))
            expected = (log_probs.exp().unsqueeze(-1) * (means + filled.reshape(means.shape))).sum(-2)
            newest = torch.where(observed, values, expected)
        return torch.cat([newest.unsqueeze(-2), window[..., :-1, :]], -2)

    def settle_window(self, values: Tensor, observed: Tensor) -> Tensor:
        """Give `initial_window` the mean of rows (N, D) unless it has a value; that mean."""
        mean = (values * observed).sum(0) / observed.sum(0).clamp(min=1)
        if "initial_window" in self.unset:
            self.initial_window = mean.expand(self.order, self.dim)
        return mean

    def _rescale_location(self, scale: Tensor, shift: Tensor) -> None:
        if "coefficients" not in self.unset:
            coefficients = scale.unsqueeze(-1) * self.coefficients / scale
            self.coefficients = coefficients
            if "intercepts" not in self.unset:
                self.intercepts = scale * self.intercepts + shift - (coefficients @ shift).sum(1)
        if "initial_window" not in self.unset:
            self.initial_window = scale * self.initial_window + shift
