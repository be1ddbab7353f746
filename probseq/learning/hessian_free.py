"""Hessian-free optimisation: Newton's method for networks, by products with the curvature matrix alone.

    f(theta) = -log p(y) / n + weight_decay |theta|^2 / 2           # n: observed steps
    g, G, S = gradient; Gauss-Newton matrix of f; that of the hidden states
    for each iteration:
        minimise  g' d + d' (G + lambda (I + mu S)) d / 2           # conjugate gradients from 0.95 times the last d
        d = the best of the path's kept points, from its end backwards
        theta += rate * d                                           # rate 1, made smaller until f falls enough
        rho = (f(theta + d) - f(theta)) / (g' d + d' G d / 2)       # was the quadratic to be trusted?
        lambda *= 2/3 if rho > 3/4; 3/2 if rho < 1/4

| symbol | argument             | meaning                                                                             |
|--------|----------------------|-------------------------------------------------------------------------------------|
| lambda | `damping`            | how far parameters are kept from moving, at the start; adapted from there           |
| mu     | `structural_damping` | how much a change of hidden states costs beside one of parameters, 0.03 for example |

Directions along which the objective curves little are followed as far as they lead, which a gradient step does not:
where gradients vanish through time the curvature does too, and their ratio, the step, stays. What the quadratic does
not see is that a small change of weights can upset hidden states; structural damping makes that cost.

The gradient is taken on all sequences, or on `gradient_batch_size` drawn anew in each iteration; the curvature on
`curvature_batch_size` of them. A path of conjugate gradients is preconditioned by (diag(sum g_i^2) / n + lambda)^0.75
with g_i the gradients of parts of the batch. A step that does not lower f on the data of the gradient is not taken:
without batches of the gradient the objective cannot fall. Dropout does not act here.

Martens, J. (2010). Deep learning via Hessian-free optimization. ICML.
Martens, J. & Sutskever, I. (2011). Learning recurrent neural networks with Hessian-free optimization. ICML.
Martens, J. & Sutskever, I. (2012). Training deep and recurrent networks with Hessian-free optimization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.checks import whole_number
from probseq.learning.conjugate_gradient import Iterate, conjugate_gradient
from probseq.learning.curvature import FreeVector, GaussNewton
from probseq.learning.problem import Problem, Run
from probseq.randomness import generator
from probseq.sequences import Sequences

#: the part of the last direction from which conjugate gradients start
MOMENTUM = 0.95
#: the exponent of the preconditioner
EXPONENT = 0.75
#: the batch is cut into so many parts, whose gradients are squared
PARTS = 20
#: iterations without gain after which a fit has settled
QUIET = 5


@dataclass(frozen=True)
class Settings:
    """What `fit(method="hessian_free")` can be told beyond a fit's common options; sizes count sequences."""

    #: lambda at the start, in nats per observed step and squared parameter; None: the mean eigenvalue of G
    damping: float | None = None
    #: mu
    structural_damping: float = 0.0
    #: of the penalty on squared parameters, in nats per observed step
    weight_decay: float = 0.0
    #: how many sequences give the gradient, None for all
    gradient_batch_size: int | None = None
    #: how many of these give the curvature, None for all
    curvature_batch_size: int | None = 1000
    #: the most products with G in one iteration
    max_products: int = 250
    #: iterations without a better validation score after which a fit stops
    patience: int = 50

    def __post_init__(self) -> None:
        for name in ("damping", "structural_damping", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value!r}")
        if self.damping == 0:
            raise ValueError("damping must be positive where a search starts, got 0")
        for name in ("gradient_batch_size", "curvature_batch_size", "max_products", "patience"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name))


def hessian_free_settings(optimizer: Any, options: Mapping[str, Any]) -> Settings:
    """The settings, or a ValueError that names an option that this method does not have."""
    if optimizer is not None:
        raise ValueError(f'optimizer is for method "gradient"; "hessian_free" takes its own steps, got {optimizer!r}')
    known = [entry.name for entry in fields(Settings)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f'unknown option {unknown[0]!r} of method "hessian_free"; there are {", ".join(known)}')
    return Settings(**options)


def run_hessian_free(
    model: StateSpaceModel[Any], problem: Problem, max_iterations: int, tolerance: float, settings: Settings, seed: int
) -> Run:
    """Hessian-free steps until the gain is below `tolerance` nats per observed step, or validation stops rising."""
    run, search = Run(model), _Search(model, problem, settings, seed)
    run.record(search.objective(), model.snapshot(), problem.validation_score())
    if not search.free.size:
        run.settled(True, "nothing to learn")
        return run
    quiet = 0
    with run.progress(max_iterations, "Hessian-free") as bar:
        for _ in bar:
            gain = search.step()
            if not math.isfinite(gain):
                run.reason = "non-finite gradients"
                break
            run.record(search.objective(), model.snapshot(), problem.validation_score())
            quiet = quiet + 1 if gain <= tolerance else 0
            if run.settled(quiet >= QUIET, "gain below tolerance") or run.is_overfitting(settings.patience):
                break
        else:
            run.reason = "max_iterations"
    model.restore(run.best)
    return run


class _Slope(NamedTuple):
    """f, its gradient, and the mean square of the gradients of parts."""

    value: float
    gradient: Tensor
    squares: Tensor


class _Search:
    """Where the search stands: the damping, the last direction, and the draws of batches."""

    def __init__(self, model: StateSpaceModel[Any], problem: Problem, settings: Settings, seed: int) -> None:
        self.model, self.problem, self.settings = model, problem, settings
        self.free = FreeVector(model)
        self.draws = generator(seed)
        self.damping = settings.damping
        self.direction = torch.zeros(self.free.size, dtype=torch.float64)

    # ---------------------------------------------------------------- one iteration

    def step(self) -> float:
        """Move the model and adapt the damping; returns by how much f fell, NaN where it has no finite gradient."""
        batch = self._some(self.problem.train, self.settings.gradient_batch_size)
        here, slope = self.free.read(), self._slope(batch)
        if not bool(slope.gradient.isfinite().all()):
            return math.nan
        part = self._some(batch, self.settings.curvature_batch_size)
        curvature = GaussNewton(self.model, part, self.free, structural=self.settings.structural_damping > 0)
        damping = self._first_damping(curvature) if self.damping is None else self.damping
        path = self._path(curvature, slope, damping)
        found = self._backtrack(path, here, batch)
        if found is None:
            self.free.write(here)
            return 0.0
        direction, value = found
        decay = self.settings.weight_decay
        self.free.write(here)
        bent = direction @ (curvature.product(direction) + decay * direction)
        promised = float(slope.gradient @ direction + 0.5 * bent)
        ratio = (value - slope.value) / promised if promised < 0 else -math.inf
        self.damping = damping * (2 / 3 if ratio > 0.75 else 3 / 2 if not ratio > 0.25 else 1.0)
        gain = slope.value - self._line_search(here, slope, direction, value, batch)
        self.direction = direction if gain > 0 else torch.zeros_like(direction)
        return gain

    def _path(self, curvature: GaussNewton, slope: _Slope, damping: float) -> list[Iterate]:
        settings = self.settings
        structural, ridge = damping * settings.structural_damping, damping + settings.weight_decay
        return conjugate_gradient(
            lambda v: curvature.product(v, structural) + ridge * v,
            slope.gradient,
            MOMENTUM * self.direction,
            (slope.squares + ridge) ** EXPONENT,
            max_iterations=settings.max_products,
        )

    def _backtrack(self, path: list[Iterate], here: Tensor, batch: Sequences) -> tuple[Tensor, float] | None:
        """From the end of the path backwards as long as f falls; the point and f there."""
        best: tuple[Tensor, float] | None = None
        for point in reversed(path):
            value = self._loss(here + point.point, batch)
            if best is not None and math.isfinite(best[1]) and not value < best[1]:
                break
            best = (point.point, value)
        return best

    def _line_search(self, here: Tensor, slope: _Slope, direction: Tensor, value: float, batch: Sequences) -> float:
        """Shrink the step until f falls by a hundredth of what the gradient promises; f where the model is left."""
        promised, rate = float(slope.gradient @ direction), 1.0
        while not value <= slope.value + 0.01 * rate * min(promised, 0.0):
            rate *= 0.8
            if rate < 1e-6:
                self.free.write(here)
                return slope.value
            value = self._loss(here + rate * direction, batch)
        self.free.write(here + rate * direction)
        return value

    # ---------------------------------------------------------------- what it is computed from

    def objective(self) -> float:
        """log p(train) less the penalty, in nats, at the parameters of the moment."""
        return -self._loss(self.free.read(), self.problem.train) * self.problem.n_steps

    def _some(self, data: Sequences, size: int | None) -> Sequences:
        """So many sequences, drawn without replacement, or all."""
        n = len(data.lengths)
        if size is None or size >= n:
            return data
        return data.select(torch.randperm(n, generator=self.draws)[:size])

    def _loss(self, vector: Tensor, data: Sequences) -> float:
        """f at `vector`, infinite where there is no density; the model is left there."""
        self.free.write(vector)
        try:
            with torch.no_grad():
                value = float(self.model._log_prob(data).sum())
        except torch.linalg.LinAlgError:
            return math.inf
        value = 0.5 * self.settings.weight_decay * float(vector @ vector) - value / _count(data)
        return value if math.isfinite(value) else math.inf

    def _slope(self, data: Sequences) -> _Slope:
        """f and its gradient at the parameters of the moment, in parts."""
        here, n = self.free.read(), _count(data)
        total, gradient, squares = 0.0, torch.zeros_like(here), torch.zeros_like(here)
        for rows in torch.arange(len(data.lengths)).chunk(PARTS):
            with torch.enable_grad():
                value = self.model._log_prob(data.select(rows)).sum()
                found = torch.autograd.grad(value, self.free.parameters, allow_unused=True, materialize_grads=True)
            part = self.free.gather(found)
            total, gradient, squares = total - float(value.detach()), gradient - part, squares + part.square()
        decay = self.settings.weight_decay
        value = total / n + 0.5 * decay * float(here @ here)
        return _Slope(value, gradient / n + decay * here, squares / n)

    def _first_damping(self, curvature: GaussNewton) -> float:
        """The mean eigenvalue of G, estimated by one vector of random signs."""
        signs = torch.randint(0, 2, (self.free.size,), generator=self.draws).to(torch.float64) * 2 - 1
        return float(signs @ curvature.product(signs)) / self.free.size


def _count(data: Sequences) -> int:
    """Observed steps, at least 1."""
    return max(int(data.seen.sum()), 1)
