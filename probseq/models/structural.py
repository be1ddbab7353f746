"""Structural time series: a series as a sum of parts, each with a state and a variance of its own.

    signal_t = level_t + seasonal_t + fourier_t + cycle_t + autoregression_t + regression_t
    y_t ~ N(signal_t, emission_var)
    level_{t+1} ~ N(level_t + trend_t, level_var),    trend_{t+1} ~ N(trend_damping trend_t, trend_var)

| part             | the step of its state                                                  | states    | start      |
|------------------|------------------------------------------------------------------------|-----------|------------|
| level            | above                                                                  | 1         | diffuse    |
| trend            | above; the slope of the level, in the level already                    | 1         | diffuse    |
| seasonal = s     | g_{t+1} ~ N(- g_t - ... - g_{t-s+2}, seasonal_var): dummy effects      | s - 1     | diffuse    |
| fourier          | waves (a, b) turned by 2 pi j / period, j = 1 .. harmonics, each plus  | 2 or 1    | diffuse    |
|                  | N(0, fourier_var[period]) on a and on b; the wave of period 2 has no b | per wave  |            |
| cycle            | (a, b) turned by cycle_frequency, times cycle_damping, plus            | 2         | stationary |
|                  | N(0, cycle_var) on a and on b                                          |           |            |
| autoregression   | x_{t+1} ~ N(sum_k ar_coefficients[k] x_{t-k}, ar_var)                  | its order | stationary |
| regression       | coefficients that stand still, seen through u_t: coefficients . u_t    | regressors| diffuse    |

It is a linear dynamical system with one observed coordinate, so filter, smoother, gradient and gaps are those of
`linear_gaussian`; a diffuse start is exact. A damped trend starts diffuse too: what the slope is at first is unknown
as it is in the undamped model, whose likelihood is then the limit for a damping of 1.

A variance that is given as 0 stays 0 in a fit: `Structural(trend=True, level_var=0.0)` is the smooth trend,
`trend_var=0.0` a fixed slope. The fit is maximum likelihood by L-BFGS on the logarithms of the variances.

References: Harvey, Forecasting, Structural Time Series Models and the Kalman Filter (1989), ch. 2 and 4;
Durbin and Koopman, Time Series Analysis by State Space Methods, 2nd ed. (2012), ch. 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from probseq import parameters as P
from probseq.base import Filtered, StateSpaceModel
from probseq.beliefs import Gaussian, map_tensors, zip_tensors
from probseq.checks import whole_number
from probseq.constraints import Interval, stationary_coefficients
from probseq.errors import StateOverflow
from probseq.layout import leave
from probseq.models.linear_gaussian import LinearGaussianModel, System
from probseq.models.normal import STABLE, stationary_cov
from probseq.models.structural_components import Components, smoothed_parts
from probseq.models.structural_layout import Layout, turn, waves_of
from probseq.models.structural_start import start
from probseq.ops import kalman
from probseq.parameters import Param
from probseq.sequences import Sequences

VARIANCES = ("emission_var", "level_var", "trend_var", "seasonal_var", "fourier_var", "cycle_var", "ar_var")


class Optional(Param):
    """A scalar parameter of a part that a model may lack; it is empty there."""

    def __init__(self, constraint: P.Constraint, part: str) -> None:
        super().__init__(constraint)
        self.part = part

    def raw_shape(self, instance: Any) -> tuple[int, ...]:
        return () if getattr(instance, self.part) else (0,)


class Structural(LinearGaussianModel):
    """A structural time series of one coordinate, from its parts: `Structural(level=True, trend=True, seasonal=12)`.

    `seasonal` is the number of seasons; `fourier` a period or periods with their numbers of waves,
    `{12: 2, 365.25: 3}`, all floor(period / 2) of them for a period alone; `ar` an order; `regressors` the number of
    inputs u_t, whose coefficients are part of the state. The parameters may be given by name: `level_var`,
    `trend_var`, `trend_damping`, `seasonal_var`, `fourier_var` (number of periods,), `cycle_var`, `cycle_damping`,
    `cycle_frequency` (radians per step), `ar_var`, `ar_coefficients` (order,), `emission_var`. Variances are in the
    squared unit of the data. Raises ValueError for parts that do not go together.
    """

    fit_methods: ClassVar[tuple[str, ...]] = ("gradient",)
    gradient_tolerance: ClassVar[float] = 1e-8  # a handful of parameters: the last digits are cheap

    emission_var = Param(P.nonnegative)
    level_var = Optional(P.nonnegative, "level")
    trend_var = Optional(P.nonnegative, "trend")
    trend_damping = Optional(P.probability, "damped")
    seasonal_var = Optional(P.nonnegative, "seasonal")
    fourier_var = Param(P.nonnegative, "n_periods")
    cycle_var = Optional(P.nonnegative, "cycle")
    cycle_damping = Optional(P.probability, "cycle")
    cycle_frequency = Optional(Interval(0.0, math.pi), "cycle")
    ar_var = Optional(P.nonnegative, "ar")
    ar_coefficients = Param(stationary_coefficients, "ar")

    unit: Tensor
    origin: Tensor

    def __init__(
        self,
        level: bool = True,
        trend: bool = False,
        damped: bool = False,
        seasonal: int | None = None,
        fourier: float | Mapping[float, int] | Sequence[Any] | None = None,
        cycle: bool = False,
        ar: int | None = None,
        regressors: int = 0,
        **values: Any,
    ) -> None:
        super().__init__()
        unknown = set(values) - set(self.params())
        if unknown:
            raise TypeError(
                f"Structural got unknown arguments {sorted(unknown)}; parameters are {sorted(self.params())}"
            )
        self.level, self.trend, self.damped, self.cycle = bool(level), bool(trend), bool(damped), bool(cycle)
        self.seasonal = 0 if seasonal is None else whole_number("seasonal", seasonal, least=2)
        self.fourier = waves_of(fourier)
        self.n_periods = len(self.fourier)
        self.ar = 0 if ar is None else whole_number("ar", ar)
        self.input_dim = self.regressors = whole_number("regressors", regressors, least=0)
        if self.trend and not self.level:
            raise ValueError("trend=True needs level=True: the trend is the slope of the level")
        if self.damped and not self.trend:
            raise ValueError("damped=True needs trend=True")
        self.event_shape = torch.Size([1])
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))
        self.register_buffer("origin", torch.zeros(1, dtype=torch.float64))
        self.layout = Layout(self.level, self.trend, self.seasonal, self.fourier, self.cycle, self.ar, self.regressors)
        self.state_dim = self.layout.state_dim
        if not self.state_dim:
            raise ValueError("Structural needs at least one part: level, seasonal, fourier, cycle, ar or regressors")
        absent = [n for n, p in self.params().items() if 0 in p.raw_shape(self) and values.get(n) is not None]
        if absent:
            raise ValueError(f"{absent[0]} was given, but this model has no part with such a parameter")
        self.declare(**values)

    def sizes(self) -> dict[str, Any]:
        names = ("level", "trend", "damped", "cycle")
        sizes: dict[str, Any] = {name: getattr(self, name) for name in names}
        return {
            **sizes,
            "seasonal": self.seasonal or None,
            "fourier": [list(pair) for pair in self.fourier] or None,
            "ar": self.ar or None,
            "regressors": self.regressors,
        }

    @property
    def state_names(self) -> list[str]:
        """What every element of the state is, "level", "trend", "seasonal[0]", ..., (state_dim,)."""
        return self.layout.state_names

    # ---- the system

    def system(self) -> System:
        """The matrices; with regressors the emission matrix is that of u = 0."""
        layout, spans = self.layout, self.layout.spans
        matrix, cov, noise = (
            layout.matrix.clone(),
            torch.zeros_like(layout.matrix),
            layout.matrix.new_zeros(self.state_dim),
        )
        if self.level:
            noise[0] = self.level_var
        if self.trend:
            noise[1] = self.trend_var
        if self.damped:
            matrix[1, 1] = self.trend_damping
        if self.seasonal:
            noise[spans["seasonal"].start] = self.seasonal_var
        if self.fourier:
            noise[spans["fourier"]] = self.fourier_var.repeat_interleave(torch.tensor(layout.widths))
        if self.cycle:
            own, damping = spans["cycle"], self.cycle_damping
            if not float(damping.detach()) < STABLE:
                raise StateOverflow(f"cycle_damping must be below 1 for a stationary cycle, got {damping.item():.10g}")
            matrix[own, own] = damping * turn(self.cycle_frequency)
            noise[own] = self.cycle_var
            cov[own, own] = self.cycle_var / (1 - damping.square()) * torch.eye(2, dtype=cov.dtype)
        if self.ar:
            own = spans["autoregression"]
            matrix[own.start, own] = self.ar_coefficients
            noise[own.start] = self.ar_var
            cov[own, own] = stationary_cov(matrix[own, own], torch.diag(noise[own]))
        scale = 1 / self.unit.square()
        emission = self.unit * layout.rows.sum(0, keepdim=True)
        mean, seen = cov.new_zeros(self.state_dim), self.emission_var.reshape(1, 1)
        return System(mean, scale * cov, matrix, scale * torch.diag(noise), emission, seen, layout.diffuse)

    def system_at(self, step: Tensor | None, u: Tensor | None = None) -> System:
        system = self.system()
        if not self.regressors or u is None:
            return system
        fixed = system.emission_matrix[:, : -self.regressors].expand(*u.shape[:-1], 1, -1)
        return system._replace(emission_matrix=torch.cat([fixed, self.unit * u.unsqueeze(-2)], -1))

    def transition_offset_at(self, u: Tensor | None, step: Tensor | None = None) -> Tensor | None:
        return None

    def emission_offset_at(self, u: Tensor | None, step: Tensor | None = None) -> Tensor | None:
        return self.origin if bool(self.origin != 0) else None

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        """The state stays as it is: its unit and its origin in the data are kept beside it."""
        for name in VARIANCES:
            if name not in self.unset and getattr(self, name).numel():
                setattr(self, name, scale.squeeze(0).square() * getattr(self, name))
        self.unit.mul_(scale.squeeze(0))
        self.origin.mul_(scale).add_(shift)

    @property
    def cycle_period(self) -> Tensor:
        """The period of the cycle in steps, 2 pi / cycle_frequency."""
        return 2 * math.pi / self.cycle_frequency

    # ---- sequences with inputs of their own: the compiled filter takes one emission matrix per step

    def _arguments(
        self, sequences: Sequences, initial: Gaussian | None = None
    ) -> tuple[kalman.LinearGaussianSystem, Tensor, Tensor | None, Tensor, Tensor | None, str]:
        if self._is_apart(sequences):
            raise ValueError("u differs between the sequences: pass them one at a time")
        u = sequences.inputs
        if u is not None and not sequences.rectangular:  # padding may hold anything
            sequences = replace(sequences, inputs=torch.where(sequences.inside.unsqueeze(-1), u, 0.0))
        arrays, *rest = super()._arguments(sequences, initial)
        rows = arrays.emission_matrix
        if rows.ndim == 4:
            longest = rows[int(sequences.lengths.argmax())] if len(rows) else rows.new_zeros(rows.shape[1:])
            arrays = arrays._replace(emission_matrix=longest)
        return arrays, *rest  # type: ignore[return-value]

    def _is_apart(self, sequences: Sequences) -> bool:
        """Whether sequences have inputs, or gradients of inputs, of their own."""
        u = sequences.inputs
        return u is not None and len(u) > 1 and (u.requires_grad or not bool((u == u[0]).all()))

    def _log_prob(self, sequences: Sequences) -> Tensor:
        if not self._is_apart(sequences):
            return super()._log_prob(sequences)
        return torch.cat([super(Structural, self)._log_prob(one) for one in _each(sequences)])

    def _value_and_gradient(self, sequences: Sequences, parameters: Any) -> Any:
        if not self._is_apart(sequences):
            return super()._value_and_gradient(sequences, parameters)
        return StateSpaceModel._value_and_gradient(self, sequences, parameters)

    def _filter(self, sequences: Sequences, initial: Gaussian | None) -> Filtered[Gaussian]:
        if not self._is_apart(sequences):
            return super()._filter(sequences, initial)
        found: list[Any] = []
        for i, one in enumerate(_each(sequences)):
            found.append(super()._filter(one, None if initial is None else _row(initial, i)))
        return _joined(found)

    def _smooth(self, sequences: Sequences) -> Gaussian:
        if not self._is_apart(sequences):
            return super()._smooth(sequences)
        return _joined([super(Structural, self)._smooth(one) for one in _each(sequences)])

    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor:
        if not self._is_apart(sequences):
            return super()._sample_states(sequences, n_samples, randomness)
        draws = [super(Structural, self)._sample_states(one, n_samples, randomness) for one in _each(sequences)]
        return torch.cat(draws, 1)

    # ---- learning, reading

    def _start(self, sequences: Sequences, seed: int) -> None:
        """The best of many shares of the variance; see `structural_start`."""
        with torch.no_grad():
            start(self, sequences, seed)

    @torch.no_grad()
    def components(self, y: Any, u: Any = None, *, lengths: Any = None) -> Any:
        """The parts given all of y, by name, as `Components`; for a list of sequences a list of them.

        Satisfies the sum of the means of the additive parts == the mean of `signal`, C E[z_t | y].
        """
        data = self._door(y, u, lengths, least=1)
        flat = data.flat()
        names, parts = smoothed_parts(self.layout, self._smooth(flat), flat.inputs, self.unit, self.origin)
        left = leave(parts, data)
        if isinstance(left, list):
            indexes = data.indexes or (None,) * len(left)
            return [Components(names, part, index) for part, index in zip(left, indexes, strict=True)]
        return Components(names, left, data.index)


def _each(sequences: Sequences) -> list[Sequences]:
    return [sequences.select([i]) for i in range(len(sequences.lengths))]


def _row(belief: Gaussian, i: int) -> Gaussian:
    """One member of a batch, still a batch."""
    return map_tensors(lambda field, _: field[i : i + 1], belief)


def _joined(results: list[Any]) -> Any:
    """Results of one sequence each as those of a batch."""
    return zip_tensors(lambda fields, _: torch.cat(fields), results)
