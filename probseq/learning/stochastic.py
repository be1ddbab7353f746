"""Maximum likelihood by stochastic gradients: small steps, each on a piece of the data.

    for every pass:
        for piece in batches or windows:                    # probseq.learning.batches
            g = gradient of -log p(piece) / observed steps
            clip g;  step of the optimiser                  # probseq.learning.optimizers
        score on what is held back; keep the best; stop when it has not risen for `patience` passes

It climbs `log_prob` in unconstrained coordinates. Entries that stand at minus infinity are structural zeros; they are
no variables and stay where they are. `probseq.learning.settings` has the options.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.learning.batches import Batches, Piece, Windows
from probseq.learning.optimizers import clip, make_optimizer
from probseq.learning.problem import Problem, Run
from probseq.learning.schedules import momentum_schedule, rate_schedule
from probseq.learning.settings import Training
from probseq.parameters import free_entries

#: updates skipped for want of a finite gradient, after which there is no hope
HOPELESS = 20


def run_stochastic(
    model: StateSpaceModel[Any], problem: Problem, max_iterations: int, settings: Training, seed: int
) -> Run:
    """Passes over the training data until validation stops rising; the model is left at the best."""
    run, trainer = Run(model), Trainer(model, problem, max_iterations, settings)
    run.record(problem.train_score(), model.snapshot(), problem.validation_score())
    if not trainer.parameters:
        run.settled(True, "nothing to learn")
        return run
    with torch.random.fork_rng(devices=[]), run.progress(max_iterations, settings.label) as bar:
        torch.default_generator.manual_seed(seed)
        for _ in bar:
            total = trainer.a_pass()
            run.record(total, model.snapshot(), problem.validation_score())
            if run.is_overfitting(settings.patience):
                break
            if trainer.skipped >= HOPELESS:
                run.reason = "non-finite gradients"
                break
        else:
            run.reason = "max_iterations"
    model.eval()
    model.restore(run.best)
    if not run.validation:  # a pass adds up what its pieces scored on the way
        run.best_score = problem.train_score()
    return run


class Trainer:
    """The updates of a model, and everything they remember from one to the next."""

    def __init__(self, model: StateSpaceModel[Any], problem: Problem, max_iterations: int, settings: Training) -> None:
        self.model, self.settings = model, settings
        free = free_entries(model)
        self.parameters = [p for p, _ in free]
        self.held = [(i, mask) for i, (_, mask) in enumerate(free) if not bool(mask.all())]
        self.optimiser = make_optimizer(settings.optimizer, self.parameters, settings.optimizer_options)
        self.batches = _batches(model, problem, settings)
        self.n_planned = max(max_iterations * self.batches.n_pieces, 1)
        self.factor, self.momentum = rate_schedule(settings.schedule), momentum_schedule(settings.momentum)
        self.n_done = self.skipped = 0

    def a_pass(self) -> float:
        """Update on every piece; the sum of their log-probabilities, each under the parameters it met."""
        self.model.train()
        total = sum(self.update(piece) for piece in self.batches.a_pass())
        self.model.eval()
        return total

    def update(self, piece: Piece) -> float:
        """One step against the gradient of a piece; returns its log-probability before."""
        rate = self.settings.learning_rate * self.factor(self.n_done, self.n_planned)
        momentum = self.momentum(self.n_done, self.n_planned)
        self.n_done += 1
        if not piece.n_seen:  # nothing to learn, but the state goes on
            with torch.no_grad():
                return float(piece.log_prob().sum())
        with self.optimiser.ahead(momentum):
            value, gradients = self._gradients(piece)
        gradients, norm = clip(gradients, self.settings.clip_norm, self.settings.clip_value)
        if math.isfinite(norm):
            self.optimiser.step(gradients, rate, momentum)
        else:
            self.skipped += 1
        return value

    def _gradients(self, piece: Piece) -> tuple[float, list[Tensor]]:
        """log p(piece) with its share of the log prior, and the gradient of minus that per observed step."""
        with torch.enable_grad():
            value = piece.log_prob().sum() + self.model.log_prior() * (piece.n_seen / self.batches.n_seen)
            loss = -value / piece.n_seen
            found = list(torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True))
        for i, mask in self.held:
            found[i] = torch.where(mask, found[i], 0.0)
        return float(value.detach()), found


def _batches(model: StateSpaceModel[Any], problem: Problem, settings: Training) -> Batches:
    if settings.truncate is None:
        return Batches(model, problem.train, settings.batch_size)
    return Windows(model, problem.train, settings.batch_size, settings.truncate, settings.streams)
