"""Expectation maximisation: alternate the posterior over states and closed-form maximisation.

Every iteration raises the objective, log p(y) plus log prior, or leaves it (Dempster, Laird and Rubin 1977); a fall
beyond rounding is a defect or a variance floor at work, and is said aloud.

EM creeps where much is hidden. Families that say so (`em_accelerates`) extrapolate it: with two steps r = x_1 - x_0 and
s = x_2 - x_1 of the stored numbers, x_0 + 2 a r + a^2 (s - r), a = |r| / |s - r|, is tried in place of x_2 (SQUAREM:
Varadhan and Roland 2008, Scandinavian J. Statistics 35, scheme S3). The next iteration values it before it moves on; a
point no better than x_1 is dropped for x_2, which is at least as good, so the recorded objective never falls.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.errors import ConvergenceWarning, SingularInnovation, StateOverflow
from probseq.learning.problem import Problem, Run
from probseq.parameters import Snapshot, free_entries

#: why a run ends well
SETTLED = "gain below tolerance"
#: why a run of an exact family ends where its posterior is too ill-conditioned for another step
LOST = "a step lost more digits than it gained"
#: rounding noise in the objective, relative to its size
ROUNDING = 1e-9


def run_em(model: StateSpaceModel[Any], problem: Problem, max_iterations: int, tolerance: float) -> Run:
    """EM until the gain per observed step stays below `tolerance` nats."""
    run, leaps = Run(model), _Leaps(model)
    fell = 0.0
    with torch.no_grad(), run.progress(max_iterations, "EM") as bar:
        for _ in bar:
            before, leapt = model.snapshot(), leaps.fallback is not None
            previous = run.objective[-1] if run.objective else None
            try:
                objective = float(model._em_step(problem.train))
            except (SingularInnovation, StateOverflow) as error:
                if leapt:
                    leaps.refuse()
                    continue
                if not run.objective:
                    raise
                run.reason = f"the model became degenerate: {error}"
                break
            if leapt and previous is not None and not objective >= previous:
                leaps.refuse()
                continue
            noise = ROUNDING * (abs(objective) + problem.n_steps)
            if model.em_accelerates and previous is not None and objective < previous - noise:
                model.restore(run.best)
                run.reason = LOST
                break
            leaps.fallback = None
            run.record(objective, before, problem.validation_score(before))
            if previous is not None:
                gain = objective - previous
                fell = max(fell, -gain) if gain < -noise else fell
                if run.settled(abs(gain) < tolerance * problem.n_steps and not leapt, SETTLED):
                    break
            if run.is_overfitting(patience=10):
                break
            if model.em_accelerates:
                leaps.visit(before)
        else:
            run.reason = run.reason or "max_iterations"
    if leaps.fallback is not None and run.reason != LOST:  # a leap that was never valued
        model.restore(leaps.fallback)
    if fell:
        warnings.warn(f"EM lowered its objective by up to {fell:.3g} nats", ConvergenceWarning, stacklevel=2)
    if run.reason == LOST or run.reason.startswith("the model became degenerate"):
        model.restore(run.best)
    else:
        run.close(problem)
    return run


class _Leaps:
    """The extrapolation of EM: two plain steps, then a leap in the direction in which they went."""

    def __init__(self, model: StateSpaceModel[Any]) -> None:
        self.model = model
        self.entries = free_entries(model)
        self.path: list[Tensor] = []
        self.fallback: Snapshot | None = None
        self.longest = 1.0

    def visit(self, before: Snapshot) -> None:
        """Note a step from `before` to where the model is; after the second one, leap."""
        after = self.vector()
        if not self.path:
            now = self.model.snapshot()
            self.model.restore(before)
            self.path = [self.vector()]
            self.model.restore(now)
        self.path.append(after)
        if len(self.path) < 3:
            return
        start, first, second = self.path
        step, bend = first - start, second - 2 * first + start
        self.path = []
        if not bool(torch.isfinite(bend).all()) or not float(bend.norm()) > 0:
            return
        length = min(float(step.norm() / bend.norm()), self.longest)
        self.longest = 4 * self.longest if length == self.longest else self.longest
        if length > 1:
            self.fallback = self.model.snapshot()
            self.put(start + 2 * length * step + length**2 * bend)

    def refuse(self) -> None:
        """Go back to where the plain steps had led."""
        assert self.fallback is not None
        self.model.restore(self.fallback)
        self.fallback, self.path = None, []
        self.longest = max(self.longest / 4, 1.0)

    def vector(self) -> Tensor:
        return torch.cat([p.detach()[mask] for p, mask in self.entries])

    def put(self, vector: Tensor) -> None:
        parts = vector.split([int(mask.sum()) for _, mask in self.entries])
        for (p, mask), part in zip(self.entries, parts, strict=True):
            p[mask] = part
