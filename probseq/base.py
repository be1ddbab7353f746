"""The contract: one belief-state updater with an emission distribution, whatever the family.

    belief = model.initial_belief(batch_shape, u[0])                        # p(z_0 | u_0)
    for t in range(T):
        p_y = model.emit(belief, u[t])                                      # p(y_t | y_<t)
        belief, log_prob = model.update(belief, y[t], observed[t], u[t])    # condition on y_t
        if t + 1 < T: belief = model.predict(belief, u[t + 1])              # move to t + 1

Four steps define a family (`probseq.steps`: all that a family writes or overrides); filter, log_prob, stream, forecast,
sample, fit, score and save follow. A compiled fast path (`_filter`, `_log_prob`) is an optimisation that is tested
against this loop.

Conventions
- Time: `initial_*` describes z_0 before y_0 is seen; z_0 emits y_0; u_t acts on the transition into z_t and on
  the emission at t.
- Shape: `(*batch, time, *event)`; 1-D data get an event axis (1,); results have the layout of the data: a list
  in, a list out.
- Missing: NaN in y, per coordinate. An unobserved entry adds 0 to `log_prob`.
- Numbers: torch tensors out; exact families compute in float64. Only `log_prob` and the four steps carry
  gradients.
- Randomness: `seed=` everywhere; global generators are left as they were.
- Values given to a constructor, fitted or loaded are the start of a fit; from sizes the start comes from data.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from probseq import beliefs as B
from probseq.beliefs import BeliefT
from probseq.checks import whole_number
from probseq.forecasting import Forecast, forecast_from
from probseq.layout import Paths, leave
from probseq.parameters import count_free, freeze, parametric_modules
from probseq.randomness import generator, seeded
from probseq.sequences import Sequences, future_inputs
from probseq.steps import Filtered, LikelihoodKind, Steps
from probseq.streaming import Stream

__all__ = ["Filtered", "LatentStateModel", "LikelihoodKind", "StateSpaceModel"]


class StateSpaceModel(Steps[BeliefT]):
    """To write: initial_belief, predict, update, emit.  You get: filter, log_prob, stream, forecast, sample, fit."""

    @torch.no_grad()
    def filter(self, y: Any, u: Any = None, *, lengths: Any = None, initial: BeliefT | None = None) -> Any:
        """Beliefs and log p(y_t | y_<t) at every step. `initial` is a predicted belief for the first step given.

        Satisfies filter(y).log_prob.sum(-1) == log_prob(y). Returns `Filtered` with fields (*batch, time, *event),
        or a list of them for a list of sequences.
        """
        sequences = self._door(y, u, lengths)
        if initial is not None:
            self._check_belief(initial, sequences.batch_shape)
            initial = B.reshape_batch(initial, len(sequences.batch_shape), (sequences.lengths.numel(),))
        return leave(self._filter(sequences.flat(), initial), sequences)

    def log_prob(self, y: Any, u: Any = None, *, lengths: Any = None) -> Tensor:
        """log p(y), (*batch,), in nats with all constants: the one differentiable entry."""
        sequences = self._door(y, u, lengths)
        return self._log_prob(sequences.flat()).reshape(sequences.batch_shape)

    @torch.no_grad()
    def score(self, y: Any, u: Any = None, *, lengths: Any = None) -> float:
        """Mean log-probability per observed step, in nats; a step counts if any of its coordinates is observed."""
        sequences = self._door(y, u, lengths, least=1)
        n_seen = int(sequences.seen.sum())
        if n_seen == 0:
            raise ValueError("y must have at least one observed step to be scored, got none")
        return float(self.log_prob(sequences).sum() / n_seen)

    @torch.no_grad()
    def aic(self, y: Any, u: Any = None, *, lengths: Any = None, fixed: Iterable[str] = ()) -> float:
        """Akaike's criterion, 2 k - 2 log p(y): smaller is better. `fixed` names parameters that the fit held.

        k is `n_parameters` without those that these data cannot tell (the start of an LDS seen in one sequence).
        """
        return self._criterion(y, u, lengths, fixed, 2.0)

    @torch.no_grad()
    def aicc(self, y: Any, u: Any = None, *, lengths: Any = None, fixed: Iterable[str] = ()) -> float:
        """`aic` corrected for few data, aic + 2 k (k + 1) / (n - k - 1) with n observed steps (Hurvich and Tsai 1989).

        ValueError where n <= k + 1: there is no such correction.
        """
        n = int(self._door(y, u, lengths, least=1).seen.sum())
        aic, none = (self._criterion(y, u, lengths, fixed, price) for price in (2.0, 0.0))
        k = round((aic - none) / 2)
        if n <= k + 1:
            raise ValueError(f"y must have more observed steps than {k} parameters and 1, got {n}")
        return aic + 2 * k * (k + 1) / (n - k - 1)

    @torch.no_grad()
    def bic(self, y: Any, u: Any = None, *, lengths: Any = None, fixed: Iterable[str] = ()) -> float:
        """Schwarz's criterion, k log n - 2 log p(y), with k as for `aic` and n the number of observed steps.

        A step counts if any of its coordinates is observed, over all sequences.
        """
        n_seen = int(self._door(y, u, lengths, least=1).seen.sum())
        if n_seen == 0:
            raise ValueError("y must have at least one observed step, got none")
        return self._criterion(y, u, lengths, fixed, math.log(n_seen))

    def standard_errors(
        self, y: Any, u: Any = None, *, lengths: Any = None, fixed: Iterable[str] = (), level: float = 0.95
    ) -> Any:
        """A pandas table of estimates with standard errors and intervals; see `probseq.evaluation.inference`."""
        from probseq.evaluation.inference import standard_errors

        return standard_errors(self, y, u, lengths=lengths, fixed=fixed, level=level)

    def confidence_intervals(
        self, y: Any, u: Any = None, *, lengths: Any = None, fixed: Iterable[str] = (), level: float = 0.95
    ) -> Any:
        """The intervals alone, `lower` and `upper` by parameter entry."""
        return self.standard_errors(y, u, lengths=lengths, fixed=fixed, level=level)[["lower", "upper"]]

    def summary(self, y: Any = None, u: Any = None, *, lengths: Any = None, fixed: Iterable[str] = ()) -> Any:
        """Family, sizes, fit and parameters to print; with y also its likelihood and standard errors."""
        from probseq.evaluation.summary import summary

        return summary(self, y, u, lengths=lengths, fixed=fixed)

    def stream(self, *, initial: BeliefT | None = None, batch_shape: tuple[int, ...] = ()) -> Stream[BeliefT]:
        """An online filter; `initial` is a predicted belief for the first step that will be given."""
        return Stream(self, initial, batch_shape)

    @torch.no_grad()
    def forecast(
        self,
        y: Any,
        steps: int,
        u: Any = None,
        *,
        lengths: Any = None,
        future_u: Any = None,
        n_samples: int | None = None,
        seed: int | None = None,
    ) -> Forecast:
        """p(y_{T+h} | y) for h = 1 .. steps, from each sequence's own end; u covers the past, `future_u` the future.

        Exact where the family marginalises; elsewhere the equal-weight mixture of `emit` over `n_samples` paths.
        """
        sequences = self._door(y, u, lengths)
        steps, n_samples = (
            whole_number("steps", steps),
            None if n_samples is None else whole_number("n_samples", n_samples),
        )
        future = self._future(future_u, sequences, steps)
        flat = sequences.flat()
        belief = self._beyond(flat, None if future is None else future.reshape(-1, steps, self.input_dim)[:, 0])
        return forecast_from(self, belief, future, sequences, steps, n_samples=n_samples, seed=seed)

    @torch.no_grad()
    def sample(
        self, length: int, sample_shape: tuple[int, ...] = (), *, u: Any = None, seed: int | None = None
    ) -> Tensor:
        """Draws of y_0 .. y_{length-1}, (*sample_shape, length, *event_shape); u has shape (length, input_dim)."""
        length = whole_number("length", length, least=0)
        if not isinstance(sample_shape, (tuple, list)):
            raise ValueError(f"sample_shape must be a tuple, such as (3,), got {sample_shape!r}")
        inputs = None
        if self.input_dim or u is not None:
            self._need_inputs(u, "u")
            inputs = future_inputs(u, sample_shape, length, "u")
            self._need_inputs(inputs, "u")
        if length == 0:
            return torch.zeros(*sample_shape, 0, *self.event_shape, dtype=torch.float64)
        with seeded(seed):
            return self._draw_series(tuple(sample_shape), length, inputs)

    def fit(
        self,
        y: Any,
        u: Any = None,
        *,
        lengths: Any = None,
        method: str | None = None,
        n_restarts: int = 1,
        validation: Any = None,
        seed: int | None = None,
        **options: Any,
    ) -> Self:
        """Learn the parameters in place and return self; `history` is the trace. See `probseq.learning.fit.fit`."""
        from probseq.learning.fit import fit

        fit(
            self,
            self._door(y, u, lengths, least=1),
            method=method,
            n_restarts=n_restarts,
            validation=validation,
            seed=seed,
            **options,
        )
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.started = True

    def rescale(self, scale: Any, shift: Any = 0.0) -> Self:
        """Make this the model of scale * y + shift. Then log_prob moves by -(observed coordinates) log scale."""
        one = torch.ones(self.event_shape, dtype=torch.float64)
        for name, value in (("scale", scale), ("shift", shift)):
            shape = tuple(torch.as_tensor(value).shape)
            if shape not in ((), tuple(self.event_shape)):
                raise ValueError(f"{name} must be a number or have shape {tuple(self.event_shape)}, got {shape}")
        factor = torch.as_tensor(scale, dtype=torch.float64) * one
        if not bool((factor > 0).all() and torch.isfinite(factor).all()):
            raise ValueError(f"scale must be positive and finite, got {scale!r}")
        with torch.no_grad():
            self._rescale(factor, torch.as_tensor(shift, dtype=torch.float64) * one)
        return self

    @property
    def is_started(self) -> bool:
        """Whether the parameters have values that a fit should start from: given, fitted or loaded ones."""
        modules = [module for _, module in parametric_modules(self) if module.params()]
        return self.started or (bool(modules) and not any(module.unset for module in modules))

    @property
    def n_parameters(self) -> int:
        """Free parameters in a minimal description: K - 1 for a distribution over K states, and so on."""
        return count_free(self)

    def save(self, path: str | Path) -> None:
        """Write parameters (safetensors) and a JSON header; `probseq.load` reads them back."""
        from probseq.io import save

        save(self, path)

    # ---- inside

    def _door(self, y: Any, u: Any = None, lengths: Any = None, *, least: int = 0) -> Sequences:
        """Validated sequences of this model's event shape, with at least `least` steps in all."""
        sequences = Sequences.of(y, u, lengths=lengths)
        if sequences.event_shape != tuple(self.event_shape):
            raise ValueError(self._shape_complaint(sequences))
        if self.input_dim or sequences.inputs is not None:
            self._need_inputs(sequences.inputs, "u")
        if least and int(sequences.lengths.sum()) < least:
            raise ValueError("y must have at least one step, got none")
        outside = self._outside(sequences.values)
        if outside is not None:
            bad = outside[0] & sequences.observed
            if bad.any():
                place = bad.nonzero()[0].tolist()
                *batch, step, column = place
                where = f"sequence {batch[0]}, " if batch else ""
                value = sequences.values[tuple(place)].item()
                raise ValueError(f"y must hold {outside[1]}, got {value:g} at {where}step {step}, column {column}")
        return sequences

    def _criterion(self, y: Any, u: Any, lengths: Any, fixed: Iterable[str], price: float) -> float:
        """price * k - 2 log p(y), where k counts what is free on these data."""
        sequences = self._door(y, u, lengths, least=1).flat()
        with freeze(self, ({fixed} if isinstance(fixed, str) else set(fixed)) | self._unidentified(sequences)):
            k = self.n_parameters
        return price * k - 2 * float(self._log_prob(sequences).sum())

    def _check_belief(self, initial: BeliefT, batch_shape: tuple[int, ...]) -> None:
        """ValueError where `initial` is no belief of this model for a batch of this shape."""
        u = torch.zeros(*batch_shape, self.input_dim, dtype=torch.float64) if self.input_dim else None
        own = self.initial_belief(batch_shape, u)
        if not B.same_shape(initial, own):
            raise ValueError(f"initial must be a {B.describe(own)} for this y, got a {B.describe(initial)}")

    def _shape_complaint(self, sequences: Sequences) -> str:
        got = tuple(sequences.values.shape)
        text = f"y must have shape (*batch, time, {', '.join(map(str, self.event_shape))}), got {got}"
        if tuple(self.event_shape) == (1,):
            text += f"; if these are {got[-2]} sequences of length {got[-1]}, pass y[..., None]"
        return text

    def _need_inputs(self, u: Any, name: str) -> None:
        if not self.input_dim:
            raise ValueError(f"{name} was given, but this {type(self).__name__} takes no inputs (input_dim is 0)")
        if u is None:
            raise ValueError(f"{name} must be given: this {type(self).__name__} has input_dim {self.input_dim}")
        if isinstance(u, Tensor) and u.shape[-1] != self.input_dim:
            raise ValueError(f"{name} must have {self.input_dim} columns (input_dim), got {u.shape[-1]}")

    def _future(self, future_u: Any, sequences: Sequences, steps: int) -> Tensor | None:
        if not self.input_dim and future_u is None:
            return None
        self._need_inputs(future_u, "future_u")
        future = future_inputs(future_u, sequences.batch_shape, steps)
        self._need_inputs(future, "future_u")
        return future

    def _beyond(self, flat: Sequences, u: Tensor | None) -> BeliefT:
        """The predicted belief for the step after each sequence's own end."""
        fresh = self.initial_belief((flat.lengths.numel(),), u)
        if flat.n_steps == 0:
            return fresh
        last = B.at(self._filter(flat, None).updated, (flat.lengths - 1).clamp(min=0))
        beyond = self.predict(last, u)
        return beyond if bool((flat.lengths > 0).all()) else B.where(flat.lengths > 0, beyond, fresh)


class LatentStateModel(StateSpaceModel[BeliefT]):
    """A model with a true latent state: it can also be smoothed, decoded and its state paths drawn and scored."""

    @abc.abstractmethod
    def _smooth(self, sequences: Sequences) -> BeliefT:
        """p(z_t | y) for a flat batch."""

    @abc.abstractmethod
    def _decode(self, sequences: Sequences) -> Tensor:
        """The most probable path for a flat batch, (B, T, ...)."""

    @abc.abstractmethod
    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor:
        """Posterior paths for a flat batch, (n_samples, B, T, ...)."""

    @abc.abstractmethod
    def _path_log_prob(self, states: Tensor, sequences: Sequences) -> Tensor:
        """log p(z, y) for a flat batch, (B,)."""

    @torch.no_grad()
    def smooth(self, y: Any, u: Any = None, *, lengths: Any = None) -> Any:
        """p(z_t | y_{0:T}) at every step. Satisfies at(smooth(y), -1) == at(filter(y).updated, -1)."""
        sequences = self._door(y, u, lengths)
        return leave(self._smooth(sequences.flat()), sequences)

    @torch.no_grad()
    def decode(self, y: Any, u: Any = None, *, lengths: Any = None) -> Any:
        """The most probable state path: Viterbi's for an HMM, the smoothed mean (*batch, time, n) for an LDS."""
        sequences = self._door(y, u, lengths, least=1)
        return leave(Paths(self._decode(sequences.flat())), sequences, unwrap=True)

    @torch.no_grad()
    def sample_states(
        self, y: Any, n_samples: int = 1, *, u: Any = None, lengths: Any = None, seed: int | None = None
    ) -> Any:
        """Draws from p(z_{0:T} | y), (n_samples, *batch, time, ...)."""
        sequences = self._door(y, u, lengths)
        n_samples = whole_number("n_samples", n_samples)
        draws = self._sample_states(sequences.flat(), n_samples, generator(seed))
        left = leave(Paths(draws.movedim(0, 1)), sequences, unwrap=True, samples=1)
        if isinstance(left, list):
            return left
        return left.movedim(len(sequences.batch_shape), 0)

    def path_log_prob(self, states: Any, y: Any, u: Any = None, *, lengths: Any = None) -> Tensor:
        """log p(z_{0:T}, y), (*batch,), where a density exists."""
        sequences = self._door(y, u, lengths)
        if sequences.layout == "list" and isinstance(states, (list, tuple)):
            states = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(path) for path in states], batch_first=True)
        paths = torch.as_tensor(states)
        ndim = len(sequences.batch_shape)
        expected = (*sequences.batch_shape, sequences.n_steps)
        if tuple(paths.shape[: ndim + 1]) != expected:
            raise ValueError(f"states must begin with shape {expected}, got {tuple(paths.shape)}")
        flat = paths.reshape(-1, *paths.shape[ndim:])
        return self._path_log_prob(flat, sequences.flat()).reshape(sequences.batch_shape)
