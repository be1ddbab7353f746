"""Expectation maximisation: alternate the posterior over states and closed-form maximisation.

Every iteration raises log p(y) or leaves it (Dempster, Laird and Rubin 1977); a fall beyond rounding is a
defect or a variance floor at work, and is said aloud.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from probseq.base import StateSpaceModel
from probseq.errors import ConvergenceWarning, SingularInnovation, StateOverflow
from probseq.learning.problem import Problem, Run

#: rounding noise in the objective, relative to its size
ROUNDING = 1e-9


def run_em(model: StateSpaceModel[Any], problem: Problem, max_iterations: int, tolerance: float) -> Run:
    """EM until the gain per observed step stays below `tolerance` nats."""
    run = Run(model)
    fell = 0.0
    with torch.no_grad(), run.progress(max_iterations, "EM") as bar:
        for _ in bar:
            before = model.snapshot()
            try:
                objective = float(model._em_step(problem.train))
            except (SingularInnovation, StateOverflow) as error:
                if not run.objective:
                    raise
                run.reason = f"the model became degenerate: {error}"
                break
            previous = run.objective[-1] if run.objective else None
            run.record(objective, before, problem.validation_score(before))
            if previous is not None:
                gain = objective - previous
                fell = max(fell, -gain) if gain < -ROUNDING * (abs(objective) + problem.n_steps) else fell
                if run.settled(abs(gain) < tolerance * problem.n_steps, "gain below tolerance"):
                    break
            if run.is_overfitting(patience=10):
                break
        else:
            run.reason = run.reason or "max_iterations"
    if fell:
        warnings.warn(f"EM lowered its objective by up to {fell:.3g} nats", ConvergenceWarning, stacklevel=2)
    if run.reason.startswith("the model became degenerate"):
        model.restore(run.best)
    else:
        run.close(problem)
    return run
