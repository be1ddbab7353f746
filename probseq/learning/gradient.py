"""Maximum likelihood by gradient: L-BFGS on all the data for exact families, Adam on batches for networks.

Both climb the same `log_prob` in unconstrained coordinates. Entries that stand at minus infinity are structural
zeros; they are no variables and stay where they are.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.errors import SingularInnovation, StateOverflow
from probseq.learning.optimizers import Adam, cap_norm
from probseq.learning.problem import Problem, Run
from probseq.parameters import free_entries


def run_lbfgs(model: StateSpaceModel[Any], problem: Problem, max_iterations: int, tolerance: float) -> Run:
    """scipy's L-BFGS-B on the mean log-probability per observed step."""
    from scipy.optimize import minimize

    run = Run(model)
    parameters, masks = map(list, zip(*free_entries(model), strict=True)) if free_entries(model) else ([], [])
    run.record(problem.train_score(), model.snapshot(), problem.validation_score())
    if not sum(int(mask.sum()) for mask in masks):
        run.settled(True, "nothing to learn")
        return run

    def put(vector: np.ndarray[Any, Any]) -> None:
        values = torch.as_tensor(vector)
        with torch.no_grad():
            for p, mask, part in zip(parameters, masks, values.split([int(m.sum()) for m in masks]), strict=True):
                p[mask] = part.to(p.dtype)

    def objective(vector: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        put(vector)
        value, gradients = value_and_gradient(model, problem, parameters)
        if value is None:
            return abs(run.objective[0]) / problem.n_steps * 1e3 + 1e3, np.zeros_like(vector)
        flat = [g[mask].to(torch.float64) for g, mask in zip(gradients, masks, strict=True)]
        return -value / problem.n_steps, -torch.cat(flat).numpy() / problem.n_steps

    with run.progress(max_iterations, "L-BFGS") as bar:

        def after(vector: np.ndarray[Any, Any]) -> None:
            put(vector)
            bar.update()
            run.record(problem.train_score(), model.snapshot(), problem.validation_score())
            if run.is_overfitting(patience=10):
                raise StopIteration

        start = torch.cat([p.detach()[mask].to(torch.float64) for p, mask in zip(parameters, masks, strict=True)])
        options = {"maxiter": max_iterations, "ftol": tolerance * 1e-3, "gtol": tolerance, "maxcor": 20}
        result = minimize(objective, start.numpy(), jac=True, method="L-BFGS-B", callback=after, options=options)
        if not run.reason:
            run.converged = bool(result.status != 1)
            run.reason = "max_iterations" if result.status == 1 else str(result.message).strip().lower()
    model.restore(run.best)
    return run


def value_and_gradient(
    model: StateSpaceModel[Any], problem: Problem, parameters: list[torch.nn.Parameter]
) -> tuple[float | None, list[Tensor]]:
    """log p(train), plus log prior, and its gradient; None where the parameters admit no density."""
    try:
        with torch.enable_grad():
            value = model._log_prob(problem.train).sum() + model.log_prior()
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    except (SingularInnovation, StateOverflow, torch.linalg.LinAlgError):
        return None, []
    filled = [torch.zeros_like(p) if g is None else g for g, p in zip(cast(Any, gradients), parameters, strict=True)]
    finite = bool(torch.isfinite(value)) and all(bool(torch.isfinite(g).all()) for g in filled)
    return (float(value.detach()), filled) if finite else (None, [])


def run_adam(
    model: StateSpaceModel[Any],
    problem: Problem,
    max_iterations: int,
    *,
    learning_rate: float,
    batch_size: int,
    patience: int,
    max_gradient_norm: float,
    seed: int,
) -> Run:
    """Adam on shuffled batches of whole sequences, the gradient's norm capped, until validation stops rising."""
    run = Run(model)
    free = free_entries(model)
    parameters = [p for p, _ in free]
    optimiser = Adam(parameters, learning_rate)
    data = problem.train
    run.record(problem.train_score(), model.snapshot(), problem.validation_score())
    skipped = 0
    with torch.random.fork_rng(devices=[]), run.progress(max_iterations, "Adam") as bar:
        torch.default_generator.manual_seed(seed)
        for _ in bar:
            model.train()
            order = torch.randperm(len(data.lengths))
            total = 0.0
            for rows in order.split(batch_size):
                batch = data if len(rows) == len(order) else data.select(rows)
                with torch.enable_grad():
                    value = model._log_prob(batch).sum() + model.log_prior() * (len(rows) / len(order))
                    loss = -value / max(int(batch.seen.sum()), 1)
                    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
                    found = [torch.where(mask, g, 0.0) for g, (_, mask) in zip(found, free, strict=True)]
                gradients, norm = cap_norm(found, max_gradient_norm)
                total += float(value.detach())
                if math.isfinite(norm):
                    optimiser.step(gradients)
                else:
                    skipped += 1
            model.eval()
            run.record(total, model.snapshot(), problem.validation_score())
            if run.is_overfitting(patience):
                break
            if skipped >= 20:
                run.reason = "non-finite gradients"
                break
        else:
            run.reason = "max_iterations"
    model.eval()
    model.restore(run.best)
    return run
