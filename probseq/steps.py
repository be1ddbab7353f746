"""What a family writes: its four steps and sizes; and the hooks that it may override, with what they do otherwise.

What follows from these is in `probseq.base`, and no family overrides it. Hooks take flat batches: `Sequences` with one
batch axis that the door has let in.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from probseq import beliefs as B
from probseq.beliefs import BeliefT
from probseq.parameters import Parametric
from probseq.sequences import Sequences, step_input

LikelihoodKind = Literal["exact", "approximate", "bound", "estimate"]


class Filtered(NamedTuple, Generic[BeliefT]):
    """What filtering gives, per step: p(z_t | y_<t), p(z_t | y_<=t) and log p(y_t | y_<t)."""

    predicted: BeliefT
    updated: BeliefT
    log_prob: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (0, 0, 0)


class Steps(Parametric, abc.ABC, Generic[BeliefT]):
    """To write: initial_belief, predict, update, emit, sizes."""

    event_shape: torch.Size
    likelihood_kind: LikelihoodKind = "exact"
    input_dim: int = 0
    #: an unobserved step is integrated out exactly, so predicting without updating gives exact forecasts
    marginalises: bool = False
    #: observations enter the belief, so that a gap matters to what comes after it
    reads_observations: bool = True
    #: observations are real numbers with a unit, so that `rescale` is defined
    real_valued: bool = False
    #: names that `fit(method=...)` accepts, the default first
    fit_methods: ClassVar[tuple[str, ...]] = ("gradient",)
    #: what climbs the gradient unless `fit(optimizer=...)` says otherwise
    optimizer: ClassVar[Literal["lbfgs", "adam"]] = "lbfgs"
    #: where it stops unless `fit(tolerance=...)` says otherwise, in nats per observed step
    gradient_tolerance: ClassVar[float] = 1e-6
    #: whether EM extrapolates its steps
    em_accelerates: ClassVar[bool] = False
    #: the share of the data that `fit` holds back by default
    validation_share: ClassVar[float | None] = None
    #: only one factor common to all coordinates keeps the model in its family
    common_scale: bool = False

    def __init__(self) -> None:
        super().__init__()
        #: the trace of the last fit, a `probseq.learning.History`
        self.history: Any = None

    # ---- the four steps

    @abc.abstractmethod
    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> BeliefT:
        """p(z_0 | u_0), with fields (*batch_shape, *event); u has shape (*batch_shape, input_dim)."""

    @abc.abstractmethod
    def predict(self, belief: BeliefT, u: Tensor | None = None) -> BeliefT:
        """From p(z_t | y_<=t) to p(z_{t+1} | y_<=t), with the input u_{t+1} of the step moved into."""

    @abc.abstractmethod
    def update(
        self, belief: BeliefT, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[BeliefT, Tensor]:
        """Condition on y (*batch, *event). Satisfies update(b, y)[1] == emit(b).log_prob(y) where all is observed."""

    @abc.abstractmethod
    def emit(self, belief: BeliefT, u: Tensor | None = None) -> Distribution:
        """p(y_t | y_<t): event shape `event_shape`, batch shape exactly that of the belief."""

    # ---- hooks: speed, checks, learning

    def _filter(self, sequences: Sequences, initial: BeliefT | None) -> Filtered[BeliefT]:
        """Speed hook: filter a flat batch; the executable specification is the loop below."""
        y, seen, u = sequences.values, sequences.observed, sequences.inputs
        inside = sequences.inside
        if u is not None and sequences.n_steps == 0:
            u = u.new_zeros(u.shape[0], 1, u.shape[2])  # only the shape of a belief is wanted
        belief = self.initial_belief((y.shape[0],), step_input(u, 0)) if initial is None else initial
        if sequences.n_steps == 0:
            empty = B.at(B.stack([belief]), slice(0, 0))
            return Filtered(empty, empty, y.new_zeros(y.shape[0], 0))
        predicted, updated, scores = [belief], [], []
        for t in range(sequences.n_steps):
            observed = None if sequences.complete and bool(inside[:, t].all()) else seen[:, t]
            belief, score = self.update(predicted[-1], y[:, t], observed, step_input(u, t))
            if updated and not bool(inside[:, t].all()):
                belief = B.where(inside[:, t], belief, updated[-1])
            updated.append(belief)
            scores.append(torch.where(inside[:, t], score, 0.0))
            if t + 1 < sequences.n_steps:
                predicted.append(self.predict(belief, step_input(u, t + 1)))
        return Filtered(B.stack(predicted), B.stack(updated), torch.stack(scores, -1))

    def _log_prob(self, sequences: Sequences) -> Tensor:
        """Speed hook: log p(y) of a flat batch, (B,), differentiable."""
        return self._filter(sequences, None).log_prob.sum(-1)

    def _objective(self, sequences: Sequences) -> Tensor:
        """What stochastic gradients climb and scores of a fit add up, (B,): log p(y), or a bound that is learned by."""
        return self._log_prob(sequences)

    def _before(self, sequences: Sequences) -> BeliefT:
        """What `_log_prob_onward` goes on from at the first step of a flat batch."""
        raise ValueError(f"truncate is for recurrent networks, got a {type(self).__name__}")

    def _log_prob_onward(self, sequences: Sequences, before: BeliefT) -> tuple[Tensor, BeliefT]:
        """log p(y) of a flat batch, (B,), that goes on from updated beliefs, and those at its ends, detached.

        Satisfies _log_prob_onward(s, _before(s))[0] == _log_prob(s), and windows of s add up to it.
        """
        raise ValueError(f"truncate is for recurrent networks, got a {type(self).__name__}")

    def _value_and_gradient(
        self, sequences: Sequences, parameters: list[torch.nn.Parameter]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Speed hook: log p(y) of a flat batch plus log prior, and its gradient; None where nothing depends on one."""
        with torch.enable_grad():
            value = self._log_prob(sequences).sum() + self.log_prior()
            return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)

    def _outside(self, values: Tensor) -> tuple[Tensor, str] | None:
        """Marks the entries that no emission could produce, with the support in words; None if all are fine."""
        return None

    def _start(self, sequences: Sequences, seed: int) -> None:
        """Set every free parameter from the data, the beginning of a fit from sizes."""

    def _solve(self, sequences: Sequences, seed: int) -> None:
        """What a closed form sets, from the start there is; by default nothing beyond that start."""

    def _unidentified(self, sequences: Sequences) -> set[str]:
        """Parameters that these data cannot tell, held by a fit because their likelihood has no maximum."""
        return set()

    def _em_step(self, sequences: Sequences) -> Tensor:
        """One EM iteration in place; returns the objective of the parameters it started from."""
        raise ValueError(f"{type(self).__name__} has no EM; method must be one of {self.fit_methods}")

    def _variational_step(self, sequences: Sequences, posterior: Any) -> tuple[Tensor, Any]:
        """One variational EM iteration in place from the q of the last (None at first): its bound, and the new q."""
        raise ValueError(f"{type(self).__name__} has no variational EM; method must be one of {self.fit_methods}")

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        """Make this the model of scale * y + shift, per coordinate."""
        raise ValueError(f"{type(self).__name__} has no unit to rescale")

    def _keeps_origin(self) -> bool:
        """Whether a held parameter ties the model to the origin of the data, so that a fit must not shift them."""
        return False

    def _balance(self) -> Callable[[], None]:
        """Give hidden quantities a unit in which a fit is well conditioned; returns what gives the old unit back."""
        return lambda: None

    @abc.abstractmethod
    def sizes(self) -> dict[str, Any]:
        """The constructor's arguments that rebuild this model up to its parameter values."""

    def log_prior(self) -> Tensor:
        """log density of the parameters, 0 without a prior; `fit` maximises log_prob + log_prior."""
        return torch.zeros((), dtype=torch.float64)

    def _draw_series(self, sample_shape: tuple[int, ...], length: int, inputs: Tensor | None) -> Tensor:
        """Draws (*sample_shape, length, *event) from the start; a family of latent paths may draw those first."""
        belief = self.initial_belief(sample_shape, step_input(inputs, 0, axis=len(sample_shape)))
        return self._simulate(belief, length, inputs)[0]

    def _simulate(self, belief: BeliefT, steps: int, u: Tensor | None) -> tuple[Tensor, BeliefT]:
        """Ancestral draws (*batch, steps, *event) from a predicted belief, and the predicted beliefs on the way."""
        axis = 0 if u is None else u.ndim - 2
        values: list[Tensor] = []
        path = [belief]
        for t in range(steps):
            y = self.emit(path[-1], step_input(u, t, axis)).sample().to(torch.float64)
            updated, _ = self.update(path[-1], y, None, step_input(u, t, axis))
            values.append(y)
            if t + 1 < steps:
                path.append(self.predict(updated, step_input(u, t + 1, axis)))
        return torch.stack(values, -1 - len(self.event_shape)), B.stack(path)
