"""Maximum likelihood by stochastic gradients: small steps, each on a piece of the data.

    for every pass:
        for piece in batches or windows:                    # probseq.learning.batches
            g = gradient of -log p(piece) / observed steps  # at blurred weights: probseq.learning.weight_noise
            clip g;  step of the optimiser                  # probseq.learning.optimizers
        score on what is held back; keep the best; stop when it has not risen for `patience` passes
        write a checkpoint                                  # probseq.learning.checkpoint

It climbs `log_prob` in unconstrained coordinates. Entries that stand at minus infinity are structural zeros; they are
no variables and stay where they are. `probseq.learning.settings` has the options.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.beliefs import Point
from probseq.learning.batches import Batches, Piece, Windows
from probseq.learning.optimizers import clip, make_optimizer
from probseq.learning.problem import Problem, Run
from probseq.learning.schedules import momentum_schedule, rate_schedule
from probseq.learning.settings import Training
from probseq.learning.weight_noise import WeightNoise
from probseq.parameters import free_entries

#: updates skipped for want of a finite gradient, after which there is no hope
HOPELESS = 20


class Ledger(Protocol):
    """Where a run is noted after every pass, and taken up again."""

    @property
    def is_under_way(self) -> bool: ...

    def resume(self, run: Run, trainer: Trainer) -> None: ...

    def note(self, run: Run, trainer: Trainer) -> None: ...


def run_stochastic(
    model: StateSpaceModel[Any],
    problem: Problem,
    max_iterations: int,
    settings: Training,
    seed: int,
    ledger: Ledger | None = None,
) -> Run:
    """Passes over the training data until validation stops rising; the model is left at the best."""
    run, trainer = Run(model), Trainer(model, problem, max_iterations, settings)
    if not trainer.parameters:
        run.record(problem.train_score(), model.snapshot(), problem.validation_score())
        run.settled(True, "nothing to learn")
        return run
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if ledger is not None and ledger.is_under_way:
            ledger.resume(run, trainer)
        else:
            run.record(problem.train_score(), model.snapshot(), problem.validation_score())
        _climb(run, trainer, max_iterations, ledger)
    model.eval()
    model.restore(run.best)
    if not run.validation:  # a pass adds up what its pieces scored on the way
        run.best_score = problem.train_score()
    return run


def _climb(run: Run, trainer: Trainer, max_iterations: int, ledger: Ledger | None) -> None:
    """Pass after pass until there is a reason to stop."""
    settings, problem, model = trainer.settings, trainer.problem, run.model
    with run.progress(max_iterations, settings.label, done=len(run.objective) - 1) as bar:
        for _ in bar:
            total = trainer.a_pass()
            run.record(total, model.snapshot(), problem.validation_score())
            if run.is_overfitting(settings.patience):
                return
            if trainer.skipped >= HOPELESS:
                run.reason = "non-finite gradients"
                return
            if ledger is not None:
                ledger.note(run, trainer)
        run.reason = "max_iterations"


class Trainer:
    """The updates of a model, and everything they remember from one to the next."""

    def __init__(self, model: StateSpaceModel[Any], problem: Problem, max_iterations: int, settings: Training) -> None:
        self.model, self.problem, self.settings = model, problem, settings
        free = free_entries(model)
        self.parameters = [p for p, _ in free]
        self.held = [(i, mask) for i, (_, mask) in enumerate(free) if not bool(mask.all())]
        self.noise = None if settings.weight_noise is None else WeightNoise(self.parameters, settings.weight_noise)
        if self.noise is not None and self.held:
            raise ValueError("weight_noise needs weights that are all free, but some entries are held or infinite")
        variables = self.parameters + ([] if self.noise is None else self.noise.variables)
        self.optimiser = make_optimizer(settings.optimizer, variables, settings.optimizer_options)
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
            value, gradients = self._gradients(piece) if self.noise is None else self._noisy(piece, self.noise)
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

    def _noisy(self, piece: Piece, noise: WeightNoise) -> tuple[float, list[Tensor]]:
        """The same at weights drawn around their means, with the share of what it costs to describe them."""
        with noise.drawn():
            value, found = self._gradients(piece)
        cost = noise.cost() * piece.n_seen / self.batches.n_seen
        return value - cost, noise.gradients(found, 1 / self.batches.n_seen)

    def memory(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next pass depends on beside the model and torch's generator; `remember` puts it back."""
        tensors, plain = self.optimiser.memory()
        named = {f"optimiser.{name}": tensor for name, tensor in tensors.items()}
        if self.noise is not None:
            named |= {f"noise.{i}": tensor for i, tensor in enumerate(self.noise.variables)}
        if self.batches.carried is not None:
            fields = self.batches.carried._asdict()
            named |= {f"carried.{name}": tensor for name, tensor in fields.items() if tensor is not None}
        return named, {"optimiser": plain, "n_done": self.n_done, "skipped": self.skipped}

    @torch.no_grad()
    def remember(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Go on from what `memory` gave."""
        parts: dict[str, dict[str, Tensor]] = {"optimiser": {}, "noise": {}, "carried": {}}
        for name, tensor in tensors.items():
            part, _, leaf = name.partition(".")
            parts[part][leaf] = tensor.clone()
        self.optimiser.remember(parts["optimiser"], plain["optimiser"])
        for i, variable in enumerate([] if self.noise is None else self.noise.variables):
            variable.copy_(parts["noise"][str(i)])
        if parts["carried"]:
            self.batches.carried = Point(**parts["carried"])
        self.n_done, self.skipped = int(plain["n_done"]), int(plain["skipped"])


def _batches(model: StateSpaceModel[Any], problem: Problem, settings: Training) -> Batches:
    if settings.truncate is None:
        return Batches(model, problem.train, settings.batch_size)
    return Windows(model, problem.train, settings.batch_size, settings.truncate, settings.streams)
