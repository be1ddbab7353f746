"""The front door of learning: one call for every family and method.

    fit(y, method=None, n_restarts=1, validation=None, seed=None,
        max_iterations=None, tolerance=None, fixed=(), optimizer=None,
        learning_rate=1e-2, batch_size=64, patience=50, max_gradient_norm=1.0)
    fit(y, method="hessian_free", structural_damping=0.0, ...)      # see probseq.learning.hessian_free.Settings

- Values given, fitted or loaded before are the start (restart 0); what has none yet starts from the data, as do
  all further restarts. The best restart is kept, by validation score if there is one, else by likelihood.
- Real-valued data are standardised inside and the model is mapped back, so that units and offsets do not matter.
- `fixed={"transition_matrix", "emission.means"}` holds parameters.
- Where a family accelerates EM (`em_accelerates`), up to 50 steps of L-BFGS finish what it found.
- Ctrl-C returns the best so far with a warning. If anything else goes wrong the model is as it was before.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.checks import whole_number
from probseq.emissions.base import Emission
from probseq.errors import ConvergenceWarning, each_once, say
from probseq.learning.em import LOST, SETTLED, run_em
from probseq.learning.gradient import run_adam, run_lbfgs
from probseq.learning.hessian_free import Settings, checked_settings, run_hessian_free
from probseq.learning.history import History
from probseq.learning.problem import Problem, Run, one_thread, split
from probseq.parameters import Snapshot, freeze, parametric_modules
from probseq.randomness import fresh_seed, spawn
from probseq.sequences import Sequences

logger = logging.getLogger("probseq")
#: most iterations of L-BFGS after an accelerated EM has settled: its gains are small long before the maximum is near
POLISH = 50


def fit(
    model: StateSpaceModel[Any],
    data: Sequences,
    *,
    method: str | None = None,
    n_restarts: int = 1,
    validation: Any = None,
    seed: int | None = None,
    max_iterations: int | None = None,
    tolerance: float | None = None,
    fixed: Iterable[str] = (),
    optimizer: str | None = None,
    learning_rate: float = 1e-2,
    batch_size: int = 64,
    patience: int = 50,
    max_gradient_norm: float = 1.0,
    **settings: Any,
) -> None:
    """Learn `model` in place from validated sequences and set `model.history`.

    `tolerance` is in nats per observed step, 1e-5 for EM and the model's `gradient_tolerance` for L-BFGS unless given.
    Raises ValueError for a method the family does not have, data without a single observation, or unknown names in
    `fixed`.
    """
    method = _method(model, method)
    whole_number("n_restarts", n_restarts)
    if max_iterations is not None:
        whole_number("max_iterations", max_iterations, least=0)
    if optimizer not in (None, "lbfgs", "adam"):
        raise ValueError(f'optimizer must be "lbfgs" or "adam", got {optimizer!r}')
    fixed = {fixed} if isinstance(fixed, str) else set(fixed)
    data = data.flat()
    if not bool(data.observed.any()):
        raise ValueError("y must have at least one observed value to fit, all are missing")
    options: dict[str, Any] = {
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "patience": patience,
        "max_gradient_norm": max_gradient_norm,
    }
    climb = partial(
        _one,
        method=method,
        optimizer=optimizer or model.optimizer,
        max_iterations=max_iterations,
        tolerance=tolerance,
        options=options,
        settings=checked_settings(method, settings),
    )
    start = time.perf_counter()
    with each_once():
        runs, jacobian, held_jacobian = _all(model, data, fixed, validation, spawn(fresh_seed(seed), n_restarts), climb)
    best = max(runs, key=lambda run: run.best_score)
    model.eval()
    model.history = History(
        method=method,
        objective=[value + jacobian for value in best.objective],
        validation=[value + held_jacobian for value in best.validation],
        restarts=[run.best_score + (held_jacobian if run.validation else jacobian) for run in runs],
        converged=best.converged,
        reason=best.reason,
        seconds=time.perf_counter() - start,
    )
    _report(model)


def _all(
    model: StateSpaceModel[Any],
    data: Sequences,
    fixed: set[str],
    validation: Any,
    seeds: list[int],
    climb: Callable[..., Run],
) -> tuple[list[Run], float, float]:
    """Every restart in the units of the fit, the model left at the best; and what maps scores to the data's units."""
    before, history_before = model.snapshot(), model.history
    try:
        with freeze(model, fixed), _Units(model, data) as units:
            problem = split(model, units.convert(data), _held_back(model, validation, units))
            jacobian = units.jacobian(problem.train)
            held_jacobian = 0.0 if problem.held_back is None else units.jacobian(problem.held_back)
            held_jacobian -= jacobian if problem.given_train else 0.0
            runs = [climb(model, problem, restart, seed=seed) for restart, seed in enumerate(seeds)]
            model.restore(max(runs, key=lambda run: run.best_score).best)
            prior = _log_prior(model)
        _put_back(model, fixed, before)
        jacobian += _log_prior(model) - prior
    except BaseException:
        model.restore(before)
        model.history = history_before
        raise
    return runs, jacobian, held_jacobian


def _log_prior(model: StateSpaceModel[Any]) -> float:
    """log_prior in the units of the moment: a density of parameters that have a unit moves by its logarithm."""
    with torch.no_grad():
        return float(model.log_prior())


def _put_back(model: StateSpaceModel[Any], fixed: Iterable[str], before: Snapshot) -> None:
    """Give held parameters their very numbers back: the change of units costs them the last digit."""
    with freeze(model, fixed), torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad and not before.tensors[name].isnan().any():
                parameter.copy_(before.tensors[name])
        for path, module in parametric_modules(model):
            for name, held in module.held_entries.items():
                raw_name = module.params()[name].raw_name
                raw = module._parameters[raw_name]
                assert raw is not None
                raw[held] = before.tensors[f"{path}.{raw_name}" if path else raw_name][held]


def _one(
    model: StateSpaceModel[Any],
    problem: Problem,
    restart: int,
    *,
    seed: int,
    method: str,
    optimizer: str,
    max_iterations: int | None,
    tolerance: float | None,
    options: dict[str, Any],
    settings: Settings,
) -> Run:
    """One run: start from the values there are (restart 0) or from the data, then climb."""
    _begin(model, problem, restart, seed)
    precision = model.gradient_tolerance if tolerance is None else tolerance
    with freeze(model, model._unidentified(problem.train)):
        if method == "em":
            with one_thread():
                limit = 2000 if max_iterations is None else max_iterations
                run = run_em(model, problem, limit, 1e-5 if tolerance is None else tolerance)
                if model.em_accelerates and run.reason in (SETTLED, LOST):
                    left = min(POLISH, limit - len(run.objective) + 1)
                    run.extend(run_lbfgs(model, problem, left, precision))
                return run
        if method == "hessian_free":
            limit = 100 if max_iterations is None else max_iterations
            return run_hessian_free(
                model, problem, limit, precision, seed=seed, patience=options["patience"], settings=settings
            )
        if method == "gradient" and optimizer == "adam":
            return run_adam(model, problem, 500 if max_iterations is None else max_iterations, seed=seed, **options)
        if method == "gradient":
            with one_thread():
                limit = 500 if max_iterations is None else max_iterations
                return run_lbfgs(model, problem, limit, precision)
    run = Run(model)
    run.record(problem.train_score(), model.snapshot(), problem.validation_score())
    run.settled(True, "closed form")
    return run


def _begin(model: StateSpaceModel[Any], problem: Problem, restart: int, seed: int) -> None:
    complete = not any(module.unset for _, module in parametric_modules(model))
    if restart == 0 and model.is_started and complete:
        return
    if restart == 0:
        given = [
            f"{path}.{name}" if path else name
            for path, module in parametric_modules(model)
            for name in module.params()
            if name not in module.unset
        ]
        with freeze(model, given):
            model._start(problem.train, seed)
    else:
        model._start(problem.train, seed)
    model.started = True


def _method(model: StateSpaceModel[Any], method: str | None) -> str:
    if not model.fit_methods:
        raise ValueError(f"{type(model).__name__} has nothing to fit: fit the model inside it")
    if method is None:
        return model.fit_methods[0]
    if method not in model.fit_methods:
        raise ValueError(f"method must be one of {model.fit_methods} for {type(model).__name__}, got {method!r}")
    return method


class _Units:
    """Inside, data have zero mean and about unit spread, and states a balanced unit where they can."""

    def __init__(self, model: StateSpaceModel[Any], data: Sequences) -> None:
        self.model, self.data = model, data
        self.shift, self.scale = torch.zeros(1), torch.ones(1)
        self.unbalance = lambda: None
        self.priors = [(part, part.prior) for part in model.modules() if isinstance(part, Emission)]

    def __enter__(self) -> Self:
        if self.model.real_valued:
            self.shift, self.scale = self._moments()
            self.model._rescale(1 / self.scale, -self.shift / self.scale)
        self.unbalance = self.model._balance()
        return self

    def __exit__(self, *_: object) -> None:
        self.unbalance()
        if self.model.real_valued:
            self.model._rescale(self.scale, self.shift)
        for part, prior in self.priors:  # to the last digit
            part.prior = prior

    def convert(self, data: Sequences) -> Sequences:
        """The same sequences in the units of the fit."""
        if not self.model.real_valued:
            return data
        values = torch.where(data.observed, (data.values.detach() - self.shift) / self.scale, 0.0)
        return data.with_values(values)

    def jacobian(self, data: Sequences) -> float:
        """log p in the data's own units minus log p in the units of the fit."""
        return -float((data.observed * self.scale.log()).sum())

    def _moments(self) -> tuple[Tensor, Tensor]:
        values, seen = self.data.values.detach(), self.data.observed.to(torch.float64)
        count = seen.sum((0, 1)).clamp(min=1)
        shift = (values * seen).sum((0, 1)) / count
        away = (values - shift) * seen
        largest = away.abs().amax((0, 1))
        unit = torch.where(largest > 0, largest, 1.0)
        spread = unit * ((away / unit).square().sum((0, 1)) / count).sqrt()
        flat = largest <= 1e-14 * shift.abs()
        if bool(flat.any()):
            say("variance floor", "y is constant in a coordinate; its variance is held at a floor")
            spread = torch.where(flat, torch.where(shift != 0, shift.abs(), 1.0), spread)
        if self.model._keeps_origin():
            shift = torch.zeros_like(shift)
        if self.model.common_scale:
            spread = spread.log().mean().exp().expand_as(spread)
        return shift, spread.log2().round().exp2()  # a power of two: scaling there and back is exact


def _held_back(model: StateSpaceModel[Any], validation: Any, units: _Units) -> Any:
    """A share, or validation sequences through the door and in the units of the fit."""
    if validation is None:
        return model.validation_share
    if isinstance(validation, (int, float)) and not isinstance(validation, bool):
        return validation
    held = model._door(*validation) if isinstance(validation, tuple) else model._door(validation)
    return units.convert(held.flat())


def _report(model: StateSpaceModel[Any]) -> None:
    history: History = model.history
    logger.info("%s: %r", type(model).__name__, history)
    if history.reason == "interrupted":
        warnings.warn("the fit was interrupted; the best parameters so far are kept", ConvergenceWarning)
    elif not history.converged and (model.optimizer != "adam" or history.method == "hessian_free"):
        warnings.warn(
            f"the fit stopped before it settled ({history.reason} after {history.n_iterations} iterations); "
            "raise max_iterations or tolerance",
            ConvergenceWarning,
        )
