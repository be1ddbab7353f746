"""How long a state lasts: p(d | z = k) for d = 1 .. D, the durations of a hidden semi-Markov model.

    Table:              p_k(d) = probs[k, d - 1]
    Poisson:            p_k(d) proportional to Poisson(d - 1; rates[k]),                          d = 1 .. D
    NegativeBinomial:   p_k(d) proportional to NegativeBinomial(d - 1; mean means[k], shape shapes[k]),  d = 1 .. D

Every state has at least one step and at most D; D is part of the model and the probabilities are renormalised on
{1 .. D}. `means` and `rates` are those of d - 1 before the renormalisation. The variance of d - 1 is then
means + means^2 / shapes: shape 1 is the geometric law, a large shape the Poisson one.

With S_k(d) = p(duration >= d), a state that has lasted e steps

    ends with probability p_k(e) / S_k(e),     lasts on with probability S_k(e + 1) / S_k(e).

The M-step maximises sum_d counts[k, d] log p_k(d): a relative frequency for the table, a damped Newton ascent in the
logarithms of the parameters for the others, which never takes a step down.

References: Guedon (2003), J. Comput. Graph. Stat. 12, section 2; Yu (2010), Artificial Intelligence 174.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from probseq import parameters as P
from probseq.emissions.base import positive
from probseq.parameters import Param, Parametric
from probseq.randomness import generator

#: Newton steps of one M-step, and halvings of one step
STEPS, HALVINGS = 100, 40


class Duration(Parametric, abc.ABC):
    """The duration distributions of K states on {1 .. max_duration}."""

    def __init__(self, max_duration: int | None, n_states: int | None, values: dict[str, Any]) -> None:
        super().__init__()
        self.max_duration = positive("max_duration", max_duration)
        self.n_states = 0
        self._values = {name: value for name, value in values.items() if value is not None}
        if n_states is not None:
            self.bind(n_states)

    def bind(self, n_states: int) -> None:
        """Fix the number of states; parameters exist from here on."""
        if self.n_states not in (0, n_states):
            raise ValueError(f"duration has {self.n_states} states, the model has {n_states}")
        if self.n_states == 0:
            self.n_states = n_states
            self.declare(**self._values)
            self._values = {}

    def sizes(self) -> dict[str, Any]:
        """The constructor's arguments up to parameter values."""
        return {"max_duration": self.max_duration}

    @abc.abstractmethod
    def log_probs(self) -> Tensor:
        """log p(d | z = k) at [k, d - 1], (K, D). Satisfies log_probs().exp().sum(-1) == 1."""

    @abc.abstractmethod
    def start(self, seed: int) -> None:
        """Set the free parameters, the beginning of a fit: broad, perturbed by the seed."""

    @abc.abstractmethod
    def maximise(self, counts: Tensor) -> None:
        """The M-step: maximise sum_kd counts[k, d - 1] log p(d | z = k) over the free parameters."""

    def log_survivor(self) -> Tensor:
        """log p(duration >= d | z = k) at [k, d - 1], (K, D)."""
        return log_tail(self.log_probs())

    def log_hazards(self) -> tuple[Tensor, Tensor]:
        """log of the probabilities to end and to last on after e steps, each (K, D).

        Satisfies exp(ends) + exp(lasts) == 1. After D steps a state ends.
        """
        log_probs = self.log_probs()
        tail = log_tail(log_probs)
        reached = tail > -torch.inf
        safe = torch.where(reached, tail, 0.0)
        ends = torch.where(reached, log_probs - safe, 0.0)
        lasts = torch.where(reached[:, :-1], tail[:, 1:] - safe[:, :-1], -torch.inf)
        return ends, torch.nn.functional.pad(lasts, (0, 1), value=-torch.inf)


def log_tail(log_probs: Tensor) -> Tensor:
    """log sum_{d' >= d} p(d'), -inf where nothing is left; gradients without NaN."""
    possible = log_probs > -torch.inf
    left = possible.flip(-1).cummax(-1).values.flip(-1)
    tiny = 2 * math.log(torch.finfo(log_probs.dtype).tiny)  # exp(tiny) is 0
    lowest = torch.where(possible, log_probs.detach(), torch.inf).amin(-1, keepdim=True) + tiny
    tail = torch.where(possible, log_probs, lowest).flip(-1).logcumsumexp(-1).flip(-1)
    return torch.where(left, tail, -torch.inf)


class Table(Duration):
    """Free probabilities, from sizes `Table(max_duration)` or from `probs` (K, D)."""

    probs = Param(P.simplex, "n_states", "max_duration")

    def __init__(self, max_duration: int | None = None, *, probs: Any = None) -> None:
        n_states = None
        if probs is not None:
            shape = tuple(P.as_parameter("probs", probs).shape)
            if len(shape) != 2:
                raise ValueError(f"probs must have shape (n_states, max_duration), got {shape}")
            n_states, max_duration = shape[0], shape[1] if max_duration is None else max_duration
        super().__init__(max_duration, n_states, {"probs": probs})

    def log_probs(self) -> Tensor:
        return type(self).probs.log(self)

    def start(self, seed: int) -> None:
        noise = torch.rand(self.n_states, self.max_duration, dtype=torch.float64, generator=generator(seed)) + 1
        self.assign(probs=noise / noise.sum(-1, keepdim=True))

    def maximise(self, counts: Tensor) -> None:
        mass = counts.sum(-1, keepdim=True)
        self.assign(probs=torch.where(mass > 0, counts / torch.where(mass > 0, mass, 1.0), self.probs))


class _Shaped(Duration):
    """Durations whose table follows from a few positive numbers per state."""

    #: the parameters, in the order in which `_table` takes their logarithms
    names: ClassVar[tuple[str, ...]]

    @staticmethod
    @abc.abstractmethod
    def _ratios(steps: Tensor, *values: Tensor) -> Tensor:
        """log p(d + 1) - log p(d) for d = 1 .. D - 1 (steps), with values (..., 1)."""

    def _table(self, *values: Tensor) -> Tensor:
        """log p(d), (..., D), for values (..., 1)."""
        steps = torch.arange(1, self.max_duration, dtype=torch.float64)
        ratios = self._ratios(steps, *values)
        return torch.nn.functional.pad(ratios.cumsum(-1), (1, 0)).log_softmax(-1)

    def log_probs(self) -> Tensor:
        return self._table(*(getattr(self, name).unsqueeze(-1) for name in self.names))

    def maximise(self, counts: Tensor) -> None:
        before = torch.stack([getattr(self, name) for name in self.names], -1).detach()
        free = torch.tensor([not self.is_frozen(name) for name in self.names])
        movable = (counts.sum(-1) > 0) & (before > 0).all(-1)
        if self.max_duration == 1 or not bool(movable.any()):
            return

        def objective(logs: Tensor, mine: Tensor) -> Tensor:
            return (mine * self._table(*logs.exp().unsqueeze(-1).unbind(-2))).sum(-1)

        after = before.clone()
        after[movable] = ascend(objective, before[movable].log(), counts[movable], free).exp()
        self.assign(**dict(zip(self.names, after.unbind(-1), strict=True)))


def _given(duration: str, max_duration: int | None, **values: Any) -> tuple[int | None, int | None]:
    """(max_duration, number of states) of a distribution made from parameters (K,)."""
    found = {name: tuple(P.as_parameter(name, value).shape) for name, value in values.items() if value is not None}
    for name, shape in found.items():
        if len(shape) != 1:
            raise ValueError(f"{name} must have shape (n_states,), got {shape}")
    if len(set(found.values())) > 1:
        raise ValueError(f"the parameters of {duration} must have one entry per state each, got {found}")
    return max_duration, next((shape[0] for shape in found.values()), None)


def _log(value: Tensor) -> Tensor:
    """log with -inf at zero, and no gradient there."""
    some = value > 0
    return torch.where(some, torch.where(some, value, 1.0).log(), -torch.inf)


class Poisson(_Shaped):
    """d - 1 ~ Poisson(rates[k]) renormalised on {0 .. D - 1}; `rates` (K,)."""

    names: ClassVar[tuple[str, ...]] = ("rates",)
    rates = Param(P.nonnegative, "n_states")

    def __init__(self, max_duration: int | None = None, *, rates: Any = None) -> None:
        max_duration, n_states = _given("Poisson", max_duration, rates=rates)
        super().__init__(max_duration, n_states, {"rates": rates})

    @staticmethod
    def _ratios(steps: Tensor, *values: Tensor) -> Tensor:
        return _log(values[0]) - steps.log()

    def start(self, seed: int) -> None:
        self.assign(rates=_broad(self, seed))


class NegativeBinomial(_Shaped):
    """d - 1 ~ NegativeBinomial(mean means[k], shape shapes[k]) renormalised on {0 .. D - 1}; both (K,)."""

    names: ClassVar[tuple[str, ...]] = ("means", "shapes")
    means = Param(P.nonnegative, "n_states")
    shapes = Param(P.nonnegative, "n_states")

    def __init__(self, max_duration: int | None = None, *, means: Any = None, shapes: Any = None) -> None:
        max_duration, n_states = _given("NegativeBinomial", max_duration, means=means, shapes=shapes)
        super().__init__(max_duration, n_states, {"means": means, "shapes": shapes})

    @staticmethod
    def _ratios(steps: Tensor, *values: Tensor) -> Tensor:
        """(shape + d - 1) mean / ((shape + mean) d), written so that nothing cancels as the shape grows."""
        mean, shape = values
        return _log(mean) + torch.log1p((steps - 1 - mean) / (shape + mean)) - steps.log()

    def start(self, seed: int) -> None:
        self.assign(means=_broad(self, seed), shapes=torch.ones(self.n_states, dtype=torch.float64))


def _broad(duration: Duration, seed: int) -> Tensor:
    """Means of d - 1 about the middle of the range, (K,)."""
    noise = torch.rand(duration.n_states, dtype=torch.float64, generator=generator(seed)) + 0.5
    return noise * max(duration.max_duration - 1, 1) / 2


def _derivatives(objective: Callable[[Tensor, Tensor], Tensor], x: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivatives of every objective[k] in x[k], (K, P) and (K, P, P)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(objective(x, data).sum(), x, create_graph=True)
        rows = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in slope.unbind(-1)]
    return slope.detach(), torch.stack(rows, -2)


def ascend(objective: Callable[[Tensor, Tensor], Tensor], start: Tensor, data: Tensor, free: Tensor) -> Tensor:
    """Maximise every objective(x, data)[k] from x = start (K, P), in the coordinates that are free (P,).

    Newton's step with the absolute values of the curvatures, no longer than 1, halved until it does not go down.
    """
    rounding = torch.finfo(start.dtype).eps
    x, best = start, objective(start, data)
    for _ in range(STEPS):
        slope, bend = _derivatives(objective, x, data)
        slope, bend = slope * free, bend * (free.unsqueeze(-1) * free)
        scales, axes = torch.linalg.eigh(bend)
        scales = scales.abs()
        scales = torch.maximum(scales, rounding * scales.amax(-1, keepdim=True))
        along = (axes.mT @ slope.unsqueeze(-1)).squeeze(-1)
        step = (axes @ torch.where(scales > 0, along / scales, 0.0).unsqueeze(-1)).squeeze(-1) * free
        step = step / step.norm(dim=-1, keepdim=True).clamp(min=1)
        before, reached = best, objective(x + step, data)
        for _ in range(HALVINGS):
            step = torch.where((reached >= best).unsqueeze(-1), step, step / 2)
            reached = objective(x + step, data)
            if bool((reached >= best).all()):
                break
        up = reached >= best
        x = torch.where(up.unsqueeze(-1), x + step, x)
        best = torch.where(up, reached, best)
        if bool((best - before <= rounding * best.abs()).all()):
            break
    return x
