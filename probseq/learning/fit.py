"""The front door of learning: one call for every family and method.

    fit(y, method=None, n_restarts=1, validation=None, seed=None, max_iterations=None, tolerance=None,
        fixed=(), optimizer=None, checkpoint=None, **options)

- Values given, fitted or loaded before are the start (restart 0); what has none yet starts from the data, as do
  all further restarts. The best restart is kept, by validation score if there is one, else by likelihood.
- Real-valued data are standardised inside and the model is mapped back, so that units and offsets do not matter.
- `fixed={"transition_matrix", "emission.means"}` holds parameters.
- `validation` is a share, sequences (with inputs: a pair), or False, which holds nothing back.
- `optimizer` climbs the gradient: "lbfgs" on all the data, or one that takes small steps on pieces of it, with the
  options of `probseq.learning.settings`: `fit(y, optimizer="rmsprop", learning_rate=1e-3, truncate=64, streams=32)`.
- `method="hessian_free"` is for networks, with the options of `probseq.learning.hessian_free.Settings`.
- Where a family accelerates EM (`em_accelerates`), up to 50 steps of L-BFGS finish what it found.
- `checkpoint="file"`: the same call goes on after a kill, to the very same end (`probseq.learning.checkpoint`).
- Ctrl-C returns the best so far with a warning. If anything else goes wrong the model is as it was before.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from probseq.base import StateSpaceModel
from probseq.checks import whole_number
from probseq.errors import ConvergenceWarning, each_once
from probseq.learning.allocation import freed_memory_kept
from probseq.learning.checkpoint import Checkpoint
from probseq.learning.em import LOST, SETTLED, run_em
from probseq.learning.gradient import run_lbfgs
from probseq.learning.hessian_free import Settings, hessian_free_settings, run_hessian_free
from probseq.learning.history import History
from probseq.learning.problem import Problem, Run, one_thread, split
from probseq.learning.settings import Training, training
from probseq.learning.stochastic import run_stochastic
from probseq.learning.units import Units
from probseq.learning.variational import run_variational_em
from probseq.parameters import Snapshot, freeze, parametric_modules
from probseq.randomness import fresh_seed, spawn
from probseq.sequences import Sequences

logger = logging.getLogger("probseq")
#: most iterations of L-BFGS after an accelerated EM has settled: its gains are small long before the maximum is near
POLISH = 50
#: a run from where the model is, with the seed of its random numbers
Climb = Callable[[StateSpaceModel[Any], Problem, int], Run]


class Plan(NamedTuple):
    """What a fit does after the data are ready."""

    climb: Climb
    n_restarts: int
    seed: int | None
    ledger: Checkpoint | None = None


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
    optimizer: Any = None,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> None:
    """Learn `model` in place from validated sequences and set `model.history`.

    `tolerance` is in nats per observed step, 1e-5 for EM and the model's `gradient_tolerance` for L-BFGS unless given.
    Raises ValueError for a method the family does not have, data without a single observation, unknown names in
    `fixed`, or options that the method does not have.
    """
    method = _method(model, method)
    whole_number("n_restarts", n_restarts)
    fixed = {fixed} if isinstance(fixed, str) else set(fixed)
    climb = _climb(model, method, optimizer, max_iterations, tolerance, options)
    plan = Plan(climb, n_restarts, seed)
    if checkpoint is not None:
        plan = _written(plan, checkpoint, fixed)
    data = data.flat()
    if not bool(data.observed.any()):
        raise ValueError("y must have at least one observed value to fit, all are missing")
    start = time.perf_counter()
    with each_once(), freed_memory_kept():
        runs, jacobian, held_jacobian = _all(model, data, fixed, validation, plan)
    model.eval()
    model.history = _history(method, runs, jacobian, held_jacobian, time.perf_counter() - start)
    _report(model)


def _climb(
    model: StateSpaceModel[Any],
    method: str,
    optimizer: Any,
    max_iterations: int | None,
    tolerance: float | None,
    options: Mapping[str, Any],
) -> Climb:
    """What one run does after its start; arguments are checked here."""
    if max_iterations is not None:
        whole_number("max_iterations", max_iterations, least=0)
    if method == "hessian_free":
        limit, own = _limit(max_iterations, 100), hessian_free_settings(optimizer, options)
        return partial(_by_hessian_free, limit=limit, tolerance=tolerance, settings=own)
    chosen = model.optimizer if optimizer is None else optimizer
    settings = training("adam" if chosen == "lbfgs" else chosen, options)
    if method == "gradient" and chosen != "lbfgs":
        return partial(_by_stochastic_gradient, limit=_limit(max_iterations, 500), settings=settings)
    if options:
        raise ValueError(f"{', '.join(sorted(options))} are for stochastic gradients; method is {method!r}")
    if method == "em":
        return partial(_by_em, limit=_limit(max_iterations, 2000), tolerance=tolerance)
    if method == "variational_em":
        return partial(_by_variational_em, limit=_limit(max_iterations, 500), tolerance=tolerance)
    if method == "gradient":
        return partial(_by_lbfgs, limit=_limit(max_iterations, 500), tolerance=tolerance)
    return _by_closed_form


def _written(plan: Plan, path: str | Path, fixed: set[str]) -> Plan:
    """The same plan with a checkpoint, where the climb can have one."""
    climb = plan.climb
    if not isinstance(climb, partial) or climb.func is not _by_stochastic_gradient:
        raise ValueError('checkpoint is for stochastic gradients, such as method="gradient", optimizer="adam"')
    settings: dict[str, Any] = {**vars(climb.keywords["settings"]), "max_iterations": climb.keywords["limit"]}
    settings |= {"n_restarts": plan.n_restarts, "fixed": sorted(fixed)}
    ledger = Checkpoint(path, settings)
    return plan._replace(climb=partial(climb, ledger=ledger), ledger=ledger)


def _limit(given: int | None, usual: int) -> int:
    return usual if given is None else given


def _by_stochastic_gradient(
    model: StateSpaceModel[Any],
    problem: Problem,
    seed: int,
    *,
    limit: int,
    settings: Training,
    ledger: Checkpoint | None = None,
) -> Run:
    return run_stochastic(model, problem, limit, settings, seed, ledger)


def _by_hessian_free(
    model: StateSpaceModel[Any], problem: Problem, seed: int, *, limit: int, tolerance: float | None, settings: Settings
) -> Run:
    return run_hessian_free(model, problem, limit, _precision(model, tolerance), settings, seed)


def _by_em(model: StateSpaceModel[Any], problem: Problem, seed: int, *, limit: int, tolerance: float | None) -> Run:
    with one_thread():
        run = run_em(model, problem, limit, 1e-5 if tolerance is None else tolerance)
        if model.em_accelerates and run.reason in (SETTLED, LOST):
            left = min(POLISH, limit - len(run.objective) + 1)
            run.extend(run_lbfgs(model, problem, left, _precision(model, tolerance)))
        return run


def _by_variational_em(
    model: StateSpaceModel[Any], problem: Problem, seed: int, *, limit: int, tolerance: float | None
) -> Run:
    with one_thread():
        return run_variational_em(model, problem, limit, 1e-5 if tolerance is None else tolerance)


def _by_lbfgs(model: StateSpaceModel[Any], problem: Problem, seed: int, *, limit: int, tolerance: float | None) -> Run:
    with one_thread():
        return run_lbfgs(model, problem, limit, _precision(model, tolerance))


def _by_closed_form(model: StateSpaceModel[Any], problem: Problem, seed: int) -> Run:
    model._solve(problem.train, seed)
    run = Run(model)
    run.record(problem.train_score(), model.snapshot(), problem.validation_score())
    run.settled(True, "closed form")
    return run


def _precision(model: StateSpaceModel[Any], tolerance: float | None) -> float:
    return model.gradient_tolerance if tolerance is None else tolerance


def _history(method: str, runs: list[Run], jacobian: float, held_jacobian: float, seconds: float) -> History:
    """The trace of the best run, in the units of the data."""
    best = max(runs, key=lambda run: run.best_score)
    return History(
        method=method,
        objective=[value + jacobian for value in best.objective],
        validation=[value + held_jacobian for value in best.validation],
        restarts=[run.best_score + (held_jacobian if run.validation else jacobian) for run in runs],
        converged=best.converged,
        reason=best.reason,
        seconds=seconds,
    )


def _all(
    model: StateSpaceModel[Any],
    data: Sequences,
    fixed: set[str],
    validation: Any,
    plan: Plan,
) -> tuple[list[Run], float, float]:
    """Every restart in the units of the fit, the model left at the best; and what maps scores to the data's units."""
    before, history_before = model.snapshot(), model.history
    try:
        with freeze(model, fixed), Units(model, data) as units:
            problem = split(model, units.convert(data), _held_back(model, validation, units))
            jacobian = units.jacobian(problem.train)
            held_jacobian = 0.0 if problem.held_back is None else units.jacobian(problem.held_back)
            held_jacobian -= jacobian if problem.given_train else 0.0
            runs = _runs(model, problem, plan)
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


def _runs(model: StateSpaceModel[Any], problem: Problem, plan: Plan) -> list[Run]:
    """Every restart: from the values there are (the first) or from the data, then a climb; Ctrl-C ends all."""
    runs: list[Run] = []
    seed, ledger = fresh_seed(plan.seed), plan.ledger
    if ledger is not None:
        seed = ledger.agree(model, problem, seed, plan.seed)
    for restart, own in enumerate(spawn(seed, plan.n_restarts)):
        finished = None if ledger is None else ledger.finished_run(model, restart)
        if finished is not None:
            runs.append(finished)
            continue
        _begin(model, problem, restart, own)
        with freeze(model, model._unidentified(problem.train)):
            runs.append(plan.climb(model, problem, own))
        if runs[-1].reason == "interrupted":
            break
        if ledger is not None:
            ledger.finish(runs[-1])
    return runs


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


def _held_back(model: StateSpaceModel[Any], validation: Any, units: Units) -> Any:
    """A share, or validation sequences through the door and in the units of the fit; None for none."""
    if validation is None:
        return model.validation_share
    if validation is False:
        return None
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
        advice = "; raise max_iterations or tolerance" if history.reason == "max_iterations" else ""
        warnings.warn(
            f"the fit stopped before it settled ({history.reason} after {history.n_iterations} iterations){advice}",
            ConvergenceWarning,
        )
