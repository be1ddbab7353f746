"""The contract: one belief-state updater with an emission distribution, whatever the family.

    belief = model.initial_belief(batch_shape, u[0])                        # p(z_0 | u_0)
    for t in range(T):
        p_y = model.emit(belief, u[t])                                      # p(y_t | y_<t)
        belief, log_prob = model.update(belief, y[t], observed[t], u[t])    # condition on y_t
        if t + 1 < T: belief = model.predict(belief, u[t + 1])              # move to t + 1

Four steps define a family; filter, log_prob, stream, forecast, sample, fit, score and save follow. A compiled
fast path (`_filter`, `_log_prob`) is an optimisation that is tested against this loop.

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
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from probseq import beliefs as B
from probseq.beliefs import BeliefT
from probseq.checks import whole_number
from probseq.forecasting import Forecast, forecast_from
from probseq.layout import Paths, leave
from probseq.parameters import Parametric, count_free, freeze, parametric_modules
from probseq.randomness import generator, seeded
from probseq.sequences import Sequences, future_inputs, step_input
from probseq.streaming import Stream

LikelihoodKind = Literal["exact", "approximate", "bound", "estimate"]


class Filtered(NamedTuple, Generic[BeliefT]):
    """What filtering gives, per step: p(z_t | y_<t), p(z_t | y_<=t) and log p(y_t | y_<t)."""

    predicted: BeliefT
    updated: BeliefT
    log_prob: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (0, 0, 0)


class StateSpaceModel(Parametric, abc.ABC, Generic[BeliefT]):
    """To write: initial_belief, predict, update, emit.  You get: filter, log_prob, stream, forecast, sample, fit."""

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

    # ---- what follows

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

    def log_prior(self) -> Tensor:
        """log density of the parameters, 0 without a prior; `fit` maximises log_prob + log_prior."""
        return torch.zeros((), dtype=torch.float64)

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
