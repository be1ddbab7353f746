"""Maximum likelihood by gradient on all the data: L-BFGS, for exact families.

It climbs `log_prob` in unconstrained coordinates. Entries that stand at minus infinity are structural zeros; they are
no variables and stay where they are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.errors import SingularInnovation, StateOverflow
from probseq.learning.problem import Problem, Run
from probseq.ops.modes import array_of
from probseq.parameters import free_entries, parametric_modules, semidefinite


def run_lbfgs(model: StateSpaceModel[Any], problem: Problem, max_iterations: int, tolerance: float) -> Run:
    """scipy's L-BFGS-B on the mean log-probability per observed step."""
    from scipy.optimize import minimize

    run, loss = Run(model), _Loss(model, problem)
    start = loss.vector()
    run.record(loss.objective(start), model.snapshot(), problem.validation_score())
    if not len(start):
        run.settled(True, "nothing to learn")
        return run
    best = start
    with run.progress(max_iterations, "L-BFGS") as bar:

        def after(vector: np.ndarray[Any, Any]) -> None:
            nonlocal best
            bar.update()
            objective = loss.objective(vector)
            if problem.held_back is None:  # a vector is kept: a snapshot takes as long as a short filter
                best = vector.copy() if objective > run.best_score else best
                run.record(objective, run.best)
                return
            run.record(objective, model.snapshot(), problem.validation_score())
            if run.is_overfitting(patience=10):
                raise StopIteration

        options = {"maxiter": max_iterations, "ftol": tolerance * 1e-3, "gtol": tolerance, "maxcor": 20}
        result = minimize(loss, start, jac=True, method="L-BFGS-B", callback=after, options=options)
        if not run.reason:
            run.converged = bool(result.status != 1)
            run.reason = "max_iterations" if result.status == 1 else str(result.message).strip().lower()
    if best is not start:
        loss.put(best)
        run.best = model.snapshot()
    model.restore(run.best)
    return run


class _Loss:
    """Minus the objective per observed step, with its gradient, of the free numbers of a model as one vector."""

    def __init__(self, model: StateSpaceModel[Any], problem: Problem) -> None:
        self.model, self.problem, self.n_steps = model, problem, problem.n_steps
        self.free = free_entries(model)
        self.parameters = [p for p, _ in self.free]
        self.whole = [bool(mask.all()) and p.dtype == torch.float64 for p, mask in self.free]
        self.sizes = [int(mask.sum()) for _, mask in self.free]
        self.unit = _units(model, self.free)
        self.last: tuple[bytes, float, np.ndarray[Any, Any]] | None = None
        self.refused = 0.0

    def vector(self) -> np.ndarray[Any, Any]:
        parts = [p.detach()[mask].to(torch.float64) for p, mask in self.free]
        return torch.cat(parts).numpy() / self.unit if parts else np.zeros(0)

    def objective(self, vector: np.ndarray[Any, Any]) -> float:
        """log p(train) plus log prior, where the model is left; what was valued last is remembered."""
        if not len(vector) or self(vector)[0] == self.refused:
            score = self.problem.train_score()
            self.refused, self.last = self.refused or abs(score) / self.n_steps * 1e3 + 1e3, None
            return score
        return -self(vector)[0] * self.n_steps

    def __call__(self, vector: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        key = vector.tobytes()
        if self.last is None or self.last[0] != key:
            self.put(vector)
            self.last = (key, *self._value(vector))
        return self.last[1], self.last[2].copy()

    def _value(self, vector: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        value, gradients = value_and_gradient(self.model, self.problem, self.parameters)
        if value is None:
            return self.refused, np.zeros_like(vector)
        flat = [
            g.flatten() if whole else g[mask].to(torch.float64)
            for g, whole, (_, mask) in zip(gradients, self.whole, self.free, strict=True)
        ]
        if not self.refused:
            self.refused = abs(value) / self.n_steps * 1e3 + 1e3
        return -value / self.n_steps, -torch.cat(flat).numpy() * self.unit / self.n_steps

    def put(self, vector: np.ndarray[Any, Any]) -> None:
        with torch.no_grad():
            parts = torch.as_tensor(vector * self.unit).split(self.sizes)
            for (p, mask), whole, part in zip(self.free, self.whole, parts, strict=True):
                if whole:
                    p.copy_(part.view_as(p))
                else:
                    p[mask] = part.to(p.dtype)


def _units(model: StateSpaceModel[Any], free: list[tuple[torch.nn.Parameter, Tensor]]) -> np.ndarray[Any, Any]:
    """The size of a step for every variable: the standard deviation of its row in factors of covariances, else 1."""
    factors = {
        id(child._parameters[param.raw_name])
        for _, child in parametric_modules(model)
        for param in child.params().values()
        if param.constraint is semidefinite
    }
    units = [np.ones(0)]
    for p, mask in free:
        unit = torch.ones_like(p.detach(), dtype=torch.float64)
        if id(p) in factors and p.ndim >= 2:
            rows = p.detach().tril().norm(dim=-1, keepdim=True)
            largest = rows.max()
            rows = torch.where(rows > 0, rows, torch.where(largest > 0, largest, 1.0))
            unit = rows.expand_as(p)
        units.append(unit[mask].numpy())
    return np.concatenate(units)


def value_and_gradient(
    model: StateSpaceModel[Any], problem: Problem, parameters: list[torch.nn.Parameter]
) -> tuple[float | None, list[Tensor]]:
    """log p(train), plus log prior, and its gradient; None where the parameters admit no density."""
    try:
        value, gradients = model._value_and_gradient(problem.train, parameters)
    except (SingularInnovation, StateOverflow, torch.linalg.LinAlgError):
        return None, []
    filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
    total = float(value)
    finite = math.isfinite(total) and all(np.isfinite(array_of(g)).all() for g in filled)
    return (total, filled) if finite else (None, [])
