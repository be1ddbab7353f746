"""Linear autoregression: a memoryless model on delay taps, made a belief-state updater by its window.

    y_t ~ N(transition_offset + sum_k transition_matrices[k] y_{t-1-k}, transition_cov)

In companion form the state is the window z_t = (y_t, y_{t-1}, ..., y_{t-p+1}), emitted without noise:

    z_{t+1} = [ A_1 A_2 ... A_p ]       [ c ]   [ w ]
              [  I   0  ...  0  ] z_t + [ 0 ] + [ 0 ],   w ~ N(0, transition_cov),   y_t = [ I 0 ... 0 ] z_t

so the Kalman filter integrates gaps exactly. The start is the stationary law when all eigenvalues of the
companion matrix lie inside the unit circle: mean (I - sum A_k)^-1 c and the covariance P = A P A' + Q, summed
by doubling (Anderson and Moore, Optimal Filtering, 1979, sec. 6.7). Otherwise it is N(initial_mean,
initial_cov), fitted as the pooled moments of all windows: their maximum-likelihood estimate from one sequence
would be a point. Reference: Hamilton, Time Series Analysis (1994), sec. 5.2 (exact likelihood), 10.1 (companion).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from probseq import parameters as P
from probseq.checks import whole_number
from probseq.errors import say
from probseq.models.linear_gaussian import LinearGaussianModel, System
from probseq.models.normal import STABLE, stationary_cov, symmetric
from probseq.parameters import Param
from probseq.sequences import Sequences

#: the least noise that least squares may leave, relative to the variance of the data
NOISE_FLOOR = 1e-12


class AR(LinearGaussianModel):
    """A vector autoregression from sizes, `AR(2)`, or from `transition_matrices` (order, D, D).

    `transition_offset` is (D,), `transition_cov` (D, D), `initial_mean` (order D,) and `initial_cov`
    (order D, order D) over the window, the newest first. `initial="auto"` starts a stable model in its stationary
    law and any other at the fitted moments; "stationary" and "fitted" force one.
    """

    fit_methods: ClassVar[tuple[str, ...]] = ("gradient", "least_squares")

    transition_matrices = Param(P.real, "order", "obs_dim", "obs_dim")
    transition_offset = Param(P.real, "obs_dim")
    transition_cov = Param(P.semidefinite, "obs_dim", "obs_dim")
    initial_mean = Param(P.real, "window_dim")
    initial_cov = Param(P.semidefinite, "window_dim", "window_dim")

    def __init__(
        self,
        order: int | None = None,
        obs_dim: int | None = None,
        *,
        initial: Literal["auto", "stationary", "fitted"] = "auto",
        **values: Any,
    ) -> None:
        super().__init__()
        unknown = set(values) - set(self.params())
        if unknown:
            raise TypeError(f"AR got unknown arguments {sorted(unknown)}; parameters are {sorted(self.params())}")
        if initial not in ("auto", "stationary", "fitted"):
            raise ValueError(f'initial must be "auto", "stationary" or "fitted", got {initial!r}')
        taps = values.get("transition_matrices")
        if taps is not None:
            taps = P.as_parameter("transition_matrices", taps)
            if taps.ndim != 3:
                raise ValueError(f"transition_matrices must have shape (order, D, D), got {tuple(taps.shape)}")
            order, obs_dim = taps.shape[0] if order is None else order, taps.shape[1] if obs_dim is None else obs_dim
            values.setdefault("transition_offset", torch.zeros(taps.shape[1]))
        self.order = whole_number("order", order)
        self.obs_dim = whole_number("obs_dim", 1 if obs_dim is None else obs_dim)
        self.window_dim = self.order * self.obs_dim
        self.event_shape = torch.Size([self.obs_dim])
        self.initial: Literal["auto", "stationary", "fitted"] = initial
        self.declare(**values)
        for name in ("initial_mean", "initial_cov"):
            self._parameters[f"raw_{name}"].requires_grad_(False)  # type: ignore[union-attr]

    def sizes(self) -> dict[str, Any]:
        return {"order": self.order, "obs_dim": self.obs_dim, "initial": self.initial}

    def companion(self) -> Tensor:
        """The transition matrix of the window, (order D, order D)."""
        top = self.transition_matrices.permute(1, 0, 2).reshape(self.obs_dim, self.window_dim)
        shift = torch.eye(self.window_dim, dtype=torch.float64)[: -self.obs_dim]
        return torch.cat([top, shift])

    @property
    def is_stable(self) -> bool:
        """Whether a stationary law exists."""
        with torch.no_grad():
            return bool(torch.linalg.eigvals(self.companion()).abs().max() < STABLE)

    def system(self) -> System:
        matrix = self.companion()
        cov = torch.nn.functional.pad(self.transition_cov, (0, self.window_dim - self.obs_dim) * 2)
        emission = torch.eye(self.window_dim, dtype=torch.float64)[: self.obs_dim]
        mean, spread = self._initial_moments(matrix, cov)
        return System(mean, spread, matrix, cov, emission, torch.zeros(self.obs_dim, self.obs_dim, dtype=torch.float64))

    def _initial_moments(self, matrix: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
        if self.initial == "fitted" or (self.initial == "auto" and not self.is_stable):
            return self.initial_mean, self.initial_cov
        if not self.is_stable:
            raise ValueError(
                'initial="stationary" needs all eigenvalues of the companion matrix inside the unit circle'
            )
        level = torch.eye(self.obs_dim, dtype=torch.float64) - self.transition_matrices.sum(0)
        mean = torch.linalg.solve(level, self.transition_offset)
        return mean.repeat(self.order), stationary_cov(matrix, cov)

    def transition_offset_at(self, u: Tensor | None, step: Tensor | None = None) -> Tensor | None:
        return torch.nn.functional.pad(self.transition_offset, (0, self.window_dim - self.obs_dim))

    def emission_offset_at(self, u: Tensor | None, step: Tensor | None = None) -> Tensor | None:
        return None

    def _keeps_origin(self) -> bool:
        return self.is_frozen("transition_offset")  # what it means about another origin depends on the taps

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        if "transition_matrices" not in self.unset:
            taps = scale.unsqueeze(-1) * self.transition_matrices / scale
            self.transition_matrices = taps
            if "transition_offset" not in self.unset:
                self.transition_offset = scale * self.transition_offset + shift - (taps @ shift).sum(0)
        if "transition_cov" not in self.unset:
            self.transition_cov = scale.unsqueeze(-1) * self.transition_cov * scale
        if "initial_mean" not in self.unset:
            factor = scale.repeat(self.order)
            self.initial_mean = factor * self.initial_mean + shift.repeat(self.order)
            self.initial_cov = factor.unsqueeze(-1) * self.initial_cov * factor

    def _start(self, sequences: Sequences, seed: int) -> None:
        """Conditional least squares on the complete windows (gaps filled with the mean when there are too few)."""
        seen = sequences.observed.all(-1) & sequences.inside
        mean = (sequences.values * sequences.observed).sum((0, 1)) / sequences.observed.sum((0, 1)).clamp(min=1)
        windows, usable = _windows(sequences.values, seen, self.order + 1)
        if int(usable.sum()) <= self.window_dim + 1:
            values = torch.where(sequences.observed, sequences.values, mean)
            windows, usable = _windows(values, sequences.inside, self.order + 1)
        if int(usable.sum()) == 0:
            raise ValueError(f"y must have a sequence longer than the order {self.order} to fit AR, got none")
        rows = windows[usable]
        past = torch.cat([rows[:, self.obs_dim :] - mean.repeat(self.order), rows.new_ones(len(rows), 1)], -1)
        present = rows[:, : self.obs_dim] - mean
        weights = torch.linalg.lstsq(past, present, driver="gelsd").solution.mT
        residual = present - past @ weights.mT
        taps = weights[:, :-1].reshape(self.obs_dim, self.order, self.obs_dim).permute(1, 0, 2)
        self.assign(
            transition_matrices=taps,
            transition_offset=weights[:, -1] + mean - (taps @ mean).sum(0),
            transition_cov=_with_floor(symmetric(residual.mT @ residual) / len(rows), present),
        )
        window = rows[:, : self.window_dim]
        spread = window - window.mean(0)
        self.initial_mean = window.mean(0)
        self.initial_cov = symmetric(spread.mT @ spread) / len(rows)


def _with_floor(cov: Tensor, values: Tensor) -> Tensor:
    """A noise covariance with at least NOISE_FLOOR of the data's variance in every direction, said if it was raised."""
    total = values.square().mean()
    floor = NOISE_FLOOR * (total if total > 0 else 1.0)
    smallest = torch.linalg.eigvalsh(cov)[0]
    if smallest >= floor:
        return cov
    say("variance floor", "y follows from its past exactly; the noise is held at a floor")
    return cov + floor * torch.eye(len(cov), dtype=cov.dtype)


def _windows(values: Tensor, usable: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Windows (y_t, ..., y_{t-width+1}) flattened, (B, T - width + 1, width D), and where all their rows are usable."""
    if values.shape[1] < width:
        return values.new_zeros(len(values), 0, width * values.shape[2]), usable[:, :0]
    rows = values.unfold(1, width, 1).flip(-1).mT.flatten(-2)
    return rows, usable.unfold(1, width, 1).all(-1)
