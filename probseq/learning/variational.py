"""Variational EM: EM with a posterior of a kind that can be handled, and a bound for its objective.

    bound = log p(y) - KL(q || p(. given y))

Updates of q, which every iteration takes up where the last one left it, and of the parameters raise the bound or leave
it (Neal and Hinton 1998); a fall beyond rounding is said aloud.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from probseq.base import StateSpaceModel
from probseq.errors import ConvergenceWarning, SingularInnovation, StateOverflow
from probseq.learning.em import ROUNDING, SETTLED
from probseq.learning.problem import Problem, Run


def run_variational_em(model: StateSpaceModel[Any], problem: Problem, max_iterations: int, tolerance: float) -> Run:
    """Iterate until the gain per observed step stays below `tolerance` nats; the best bound is kept."""
    run, posterior, fell = Run(model), None, 0.0
    with torch.no_grad(), run.progress(max_iterations + 1, "variational EM") as bar:
        for _ in bar:
            before = model.snapshot()
            try:
                bound, posterior = model._variational_step(problem.train, posterior)
            except (SingularInnovation, StateOverflow) as error:
                if not run.objective:
                    raise
                run.reason = f"the model became degenerate: {error}"
                break
            objective = float(bound)
            if run.objective:
                fell = max(fell, run.objective[-1] - objective)
            run.record(objective, before, problem.validation_score(before))
            if len(run.objective) > 1:
                gain = run.objective[-1] - run.objective[-2]
                if run.settled(abs(gain) < tolerance * problem.n_steps, SETTLED):
                    break
            if run.is_overfitting(patience=10):
                break
        else:
            run.reason = "max_iterations"
    if fell > ROUNDING * (abs(run.best_score) + problem.n_steps):
        warnings.warn(f"variational EM lowered its bound by up to {fell:.3g} nats", ConvergenceWarning, stacklevel=2)
    model.restore(run.best)
    return run
