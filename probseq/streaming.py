"""Filtering step by step, as the data arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

import torch
from torch import Tensor
from torch.distributions import Distribution

from probseq.beliefs import BeliefT

if TYPE_CHECKING:
    from probseq.base import StateSpaceModel


class Stream(Generic[BeliefT]):
    """An online filter: `emit` says what comes next, `update` takes what came; the cost per step does not grow.

    It keeps the updated belief and moves on lazily, when the next step's input is known.
    """

    def __init__(self, model: StateSpaceModel[BeliefT], initial: BeliefT | None, batch_shape: tuple[int, ...]) -> None:
        self._model = model
        self._batch_shape = tuple(batch_shape)
        self._updated: BeliefT | None = None
        self._initial = initial

    @property
    def belief(self) -> BeliefT | None:
        """p(z_t | y_<=t) after the last update; None before the first."""
        return self._updated

    def _predicted(self, u: Tensor | None) -> BeliefT:
        if self._updated is not None:
            return self._model.predict(self._updated, u)
        return self._model.initial_belief(self._batch_shape, u) if self._initial is None else self._initial

    def _input(self, u_t: Any) -> Tensor | None:
        if u_t is None and not self._model.input_dim:
            return None
        u = None if u_t is None else torch.atleast_1d(_numbers("u_t", u_t))
        self._model._need_inputs(u, "u_t")
        assert u is not None
        if not torch.isfinite(u).all():
            raise ValueError("u_t must be finite")
        return u.expand(*self._batch_shape, u.shape[-1])

    @torch.no_grad()
    def emit(self, u_t: Any = None) -> Distribution:
        """p(y_t | y_<t) for the step to come."""
        u = self._input(u_t)
        return self._model.emit(self._predicted(u), u)

    @torch.no_grad()
    def update(self, y_t: Any, u_t: Any = None) -> Tensor:
        """Condition on y_t (NaN where missing) and return log p(y_t | y_<t), (*batch_shape,)."""
        model, u = self._model, self._input(u_t)
        y = _numbers("y_t", y_t)
        if tuple(model.event_shape) == (1,) and y.shape == torch.Size(self._batch_shape):
            y = y.unsqueeze(-1)
        expected = (*self._batch_shape, *model.event_shape)
        if tuple(y.shape) != expected:
            raise ValueError(f"y_t must have shape {expected}, got {tuple(y.shape)}")
        step = model._door(y.reshape(-1, 1, *model.event_shape), None if u is None else u.reshape(-1, 1, u.shape[-1]))
        observed = None if step.complete else step.observed.reshape(expected)
        self._updated, log_prob = model.update(self._predicted(u), step.values.reshape(expected), observed, u)
        return log_prob


def _numbers(name: str, value: Any) -> Tensor:
    """One step as float64; ValueError for what holds no numbers."""
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be numbers, got {value!r}") from error
