"""The laws that every family obeys, each a function of a zoo row and a case.

`LAWS` lists them in the order of the design; a law says which rows it does not concern, and why. Numeric laws
hold to 1e-10 relative in float64, in every unit: a scalable row is rescaled together with its data first.
"""

from __future__ import annotations

import copy
import math
import pickle
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import probseq as ps
from probseq import beliefs as B
from probseq.emissions.student import MultivariateStudentT
from probseq.errors import ImproperBelief, ProbseqWarning
from probseq.io import build, describe
from probseq.models.linear_gaussian import is_diffuse
from probseq.parameters import overriding, parametric_modules
from tests import reference, zoo
from tests.poisson_gamma import PoissonGamma
from tests.zoo import Row

TOLERANCE = 1e-10
SCALES = (1e-8, 1.0, 1e8)


@dataclass(frozen=True)
class Case:
    """The seed of model and data, a length, a batch shape, how much is missing, a unit."""

    seed: int = 0
    steps: int = 5
    batch: tuple[int, ...] = ()
    missing: float = 0.0
    scale: float = 1.0

    def rng(self, key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.steps, key])


@dataclass(frozen=True)
class Law:
    """A law, why it does not concern a row (None where it does), and on how many of the fixed cases it is tried."""

    name: str
    title: str
    check: Callable[[Row, Case], None]
    excuse: Callable[[Row], str | None] = lambda row: None
    examples: int = 6


# ------------------------------------------------------------------------------------------------------- helpers


def model_of(row: Row, case: Case) -> Any:
    model = row.make(case.seed)
    return model.rescale(case.scale) if row.scalable and case.scale != 1 else model


def data_of(row: Row, case: Case, steps: int | None = None) -> tuple[Tensor, Tensor | None]:
    """y (*batch, T, D) with NaN where missing, in the unit of the case, and u."""
    y, u = row.data(case.seed + 1, case.steps if steps is None else steps, case.batch)
    if row.scalable:
        y = y * case.scale
    if case.missing:
        gaps = torch.as_tensor(case.rng(1).random(tuple(y.shape)) < case.missing)
        y[gaps[..., :1].expand_as(y) if row.whole_rows else gaps] = torch.nan
    return y, u


def given(u: Tensor | None, index: Any) -> Tensor | None:
    return None if u is None else u[index]


def as_tensor(value: Any) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def near(actual: Any, expected: Any, what: str, tolerance: float = TOLERANCE, size: float | None = None) -> None:
    """|actual - expected| <= tolerance * size, where size is the largest expected number unless it is given."""
    actual, expected = as_tensor(actual), as_tensor(expected)
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)} is not {tuple(expected.shape)}"
    if not actual.numel():
        return
    infinite = torch.isinf(expected)
    assert torch.equal(actual[infinite], expected[infinite]), f"{what}: infinite entries differ"
    first, second = actual[~infinite].double(), expected[~infinite].double()
    if size is None:
        size = float(second.abs().max()) if second.numel() else 0.0
    worst = float((first - second).abs().max()) if second.numel() else 0.0
    assert worst <= tolerance * size, f"{what}: off by {worst:.3g}, allowed {tolerance:g} * {size:.3g}"


def near_log(actual: Any, expected: Any, what: str, tolerance: float = TOLERANCE) -> None:
    """Log-probabilities have no unit: the size of an error is judged against 1 as well."""
    expected = as_tensor(expected)
    finite = expected[torch.isfinite(expected)]
    near(actual, expected, what, tolerance, 1.0 + (float(finite.abs().max()) if finite.numel() else 0.0))


def near_belief(actual: Any, expected: Any, like: Any, what: str, tolerance: float = TOLERANCE) -> None:
    """Field by field; errors are judged against the sizes of the fields of `like`, e.g. the predicted belief."""
    for name, mine, other, scale in zip(expected._fields, actual, expected, like, strict=True):
        if other is None:
            continue
        if isinstance(other, tuple):
            near_belief(mine, other, scale, f"{what}.{name}", tolerance)
        elif name == "log_probs":
            near(mine.exp(), other.exp(), f"{what}.{name}", tolerance, 1.0)
            near_log(mine, other, f"{what}.{name}", tolerance)
        else:
            sizes = [float(x.detach().abs().max()) for x in (other, scale) if x.numel()]
            near(mine, other, f"{what}.{name}", tolerance, max(sizes, default=0.0))


def still_improper(row: Row, belief: Any) -> bool:
    """Whether a belief is diffuse, which only some rows may be."""
    assert row.improper or getattr(belief, "diffuse_cov", None) is None
    return row.improper and is_diffuse(belief)


def refuses_density(call: Callable[[], Any]) -> None:
    with pytest.raises(ImproperBelief, match="diffuse"):
        call()


def flat_rows(value: Tensor | None, n_batch: int) -> list[Any]:
    """The members of a batch."""
    return [] if value is None else list(value.reshape(-1, *value.shape[n_batch:]))


def members(case: Case, y: Tensor, u: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    n = len(case.batch)
    rows = flat_rows(y, n)
    return list(zip(rows, flat_rows(u, n) or [None] * len(rows), strict=True))


def lengths_for(case: Case, size: int) -> list[int]:
    """Random lengths of 0 .. T, one of them T."""
    drawn = case.rng(2).integers(0, case.steps + 1, size=size)
    drawn[case.rng(3).integers(size)] = case.steps
    return drawn.tolist()


def quietly(action: Callable[[], Any]) -> Any:
    """Run a fit that is stopped early on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProbseqWarning)
        return action()


# --------------------------------------------------------------------------------------------- 1 - 4: the filter


def law_01(row: Row, case: Case) -> None:
    """log_prob(y) == filter(y).log_prob.sum(-1)"""
    model, (y, u) = model_of(row, case), data_of(row, case)
    scores = model.filter(y, u).log_prob
    assert scores.shape == y.shape[:-1]
    near_log(model.log_prob(y, u), scores.sum(-1), "log_prob")


def law_02(row: Row, case: Case) -> None:
    """emit(at(predicted, t)).log_prob(y_t) == filter(y).log_prob[t]"""
    model, (y, u) = model_of(row, case), data_of(row, case)
    filtered = model.filter(y, u)
    for t in range(case.steps):
        u_t, before = given(u, (..., t, slice(None))), ps.at(filtered.predicted, t)
        if still_improper(row, before):
            refuses_density(lambda b=before, i=u_t: model.emit(b, i))
            continue
        says = model.emit(before, u_t)
        assert says.batch_shape == torch.Size(case.batch)
        assert says.event_shape == model.event_shape
        near_log(says.log_prob(y[..., t, :]), filtered.log_prob[..., t], f"emit at step {t}")


def law_03(row: Row, case: Case) -> None:
    """the compiled filter equals the four-step loop"""
    model, (y, u) = model_of(row, case), data_of(row, case)
    filtered = model.filter(y, u)
    flat = B.reshape_batch(filtered, len(case.batch), (math.prod(case.batch),))
    for b, (y_b, u_b) in enumerate(members(case, y, u)):
        looped = reference.four_step_loop(model, y_b, u_b)
        near_log(flat.log_prob[b], looped.log_prob, "log_prob")
        predicted, updated = B.stack(looped.predicted), B.stack(looped.updated)
        near_belief(B.map_tensors(lambda x, _, b=b: x[b], flat.predicted), predicted, predicted, "predicted")
        near_belief(B.map_tensors(lambda x, _, b=b: x[b], flat.updated), updated, predicted, "updated")


def law_04(row: Row, case: Case) -> None:
    """brute force"""
    model, (y, u) = model_of(row, case), data_of(row, case)
    truth = row.exact(model, y, u)
    near_log(model.log_prob(y, u), truth.log_prob, "log_prob")
    smoothed = model.smooth(y, u)
    if row.oracle == "enumeration":
        near(smoothed.probs, truth.smoothed, "smoothed", size=1.0)
        _enumerated_forecast(row, case, model, y, u)
    else:
        spread = float(abs(truth.cov).max()) or 1.0
        near(smoothed.mean, truth.mean, "smoothed mean", size=abs(truth.mean).max() + spread**0.5)
        cov, true_cov = smoothed.cov, torch.as_tensor(truth.cov)
        if row.improper:
            near(smoothed.diffuse_cov, truth.diffuse, "what stays diffuse", size=1.0)
            sizes, axes = torch.linalg.eigh(smoothed.diffuse_cov)
            proper = axes @ ((sizes < 1e-9).double().unsqueeze(-1) * axes.mT)  # onto the directions that are known
            cov, true_cov = proper @ cov @ proper, proper @ true_cov @ proper
        near(cov, true_cov, "smoothed cov", size=max(abs(model.filter(y, u).predicted.cov).max(), spread))
        _dense_forecast(row, model, y, u)


def _enumerated_forecast(row: Row, case: Case, model: Any, y: Tensor, u: Tensor | None) -> None:
    """p(y_{T+2} | y) is a quotient of two evidences, with y_{T+1} missing."""
    future = None if u is None else row.data(5, 2)[1]
    says = model.forecast(y, 2, u, future_u=future, n_samples=2, seed=0).distribution
    coming = y[:1] if not y[:1].isnan().any() else data_of(row, Case(scale=case.scale), steps=1)[0]
    gap = torch.full_like(coming, torch.nan)
    both = (coming, torch.cat([gap, coming]))
    for h, ahead in enumerate(both if row.marginalises else both[:1]):
        inputs = None if u is None or future is None else torch.cat([u, future[: h + 1]])
        longer = row.exact(model, torch.cat([y, ahead]), inputs).log_prob
        near_log(says.log_prob(coming)[h], longer - row.exact(model, y, u).log_prob, f"forecast {h + 1}")


def _dense_forecast(row: Row, model: Any, y: Tensor, u: Tensor | None) -> None:
    """The moments of the unobserved end of a longer sequence."""
    future = None if u is None else row.data(5, 2)[1]
    longer = torch.cat([y, torch.full((2, row.dim), torch.nan, dtype=torch.float64)])
    truth = row.exact(model, longer, None if u is None or future is None else torch.cat([u, future]))
    if still_improper(row, ps.at(model.filter(y, u).updated, -1)):
        refuses_density(lambda: model.forecast(y, 2, u, future_u=future))
        return
    says = model.forecast(y, 2, u, future_u=future)
    cov = truth.observed_cov[-2:]
    near(says.mean, truth.observed_mean[-2:], "forecast mean", size=abs(truth.observed_mean).max() + cov.max() ** 0.5)
    near(says.distribution.covariance_matrix, cov, "forecast cov")


def law_04_sums(row: Row, case: Case) -> None:
    """the next observation sums or integrates to 1, whatever came before"""
    model, (y, u) = model_of(row, case), data_of(row, case, steps=3)
    for k in range(3):
        before = model.filter(y[: k + 1], given(u, slice(k + 1)))
        nodes, weights = _support(row, model.emit(ps.at(before.predicted, k), given(u, k)))
        paths = torch.cat([y[:k].expand(len(nodes), k, row.dim), nodes.unsqueeze(1)], 1)
        inputs = None if u is None else u[: k + 1].expand(len(nodes), k + 1, row.input_dim)
        evidence = model.log_prob(y[:k], given(u, slice(k))).detach()
        total = (weights * (model.log_prob(paths, inputs).detach() - evidence).exp()).sum()
        near(total, torch.tensor(1.0, dtype=torch.float64), f"total probability of step {k}")


def _support(row: Row, says: Any) -> tuple[Tensor, Tensor]:
    if isinstance(says, MultivariateStudentT):
        return reference.heavy_grid(says.means, says.factor[..., 0])
    if row.kind == "mixed":
        numbers, symbols = _support_of_number(says.parts[0]), reference.symbols_grid(row.n_symbols)
        place = torch.cartesian_prod(torch.arange(len(numbers[0])), torch.arange(len(symbols[0])))
        nodes = torch.cat([numbers[0][place[:, 0]], symbols[0][place[:, 1]]], -1)
        return nodes, numbers[1][place[:, 0]] * symbols[1][place[:, 1]]
    if row.kind == "real":
        return _support_of_number(says)
    if row.kind == "count":
        return reference.counts_grid(row.dim, int((says.mean + 60 * says.variance.sqrt() + 100).max()))
    return reference.symbols_grid(row.n_symbols) if row.kind == "symbol" else reference.binary_grid(row.dim)


def _support_of_number(says: Any) -> tuple[Tensor, Tensor]:
    spread = says.variance.sqrt()
    if not isinstance(says, torch.distributions.MixtureSameFamily):
        return reference.grid(says.mean, spread, points=121, reach=9.0)
    reach = 14.0  # a rare component may be wider than the whole, or much narrower
    points = 161 if spread.numel() > 1 else max(161, int(2 * reach * spread / (0.8 * _narrowest(says))))
    return reference.grid(says.mean, spread, points=points, reach=reach)


def _narrowest(says: Any) -> Tensor:
    """The smallest standard deviation of the components of a mixture, of mixtures too."""
    for inner in ("component_distribution", "base_dist"):
        if hasattr(says, inner):
            return _narrowest(getattr(says, inner))
    return says.variance.sqrt().min()


# -------------------------------------------------------------------------------- 5 - 7: many, missing, in parts


def law_05(row: Row, case: Case) -> None:
    """a batch equals the stack of its members, however it is packed and whatever the padding holds"""
    size = 3
    case = Case(case.seed, case.steps, (size,), case.missing, case.scale)
    model, (y, u) = model_of(row, case), data_of(row, case)
    lengths = lengths_for(case, size)
    alone = [(y[b, :n], given(u, (b, slice(n)))) for b, n in enumerate(lengths)]
    one_by_one = torch.stack([model.log_prob(y_b, u_b) for y_b, u_b in alone])
    inputs = [u_b for _, u_b in alone] if u is not None else None
    near_log(model.log_prob([y_b for y_b, _ in alone], inputs), one_by_one, "list")
    joined = None if u is None else torch.cat([u_b for _, u_b in alone])  # type: ignore[misc]
    near_log(model.log_prob(torch.cat([y_b for y_b, _ in alone]), joined, lengths=lengths), one_by_one, "concatenated")
    outside = torch.arange(case.steps) >= torch.tensor(lengths).unsqueeze(-1)
    for garbage in (torch.nan, torch.inf, -1e300):
        padded = torch.where(outside.unsqueeze(-1), garbage, y)
        inputs = None if u is None else torch.where(outside.unsqueeze(-1), garbage, u)
        near_log(model.log_prob(padded, inputs, lengths=lengths), one_by_one, f"padded with {garbage}")
    _batched_filter(row, model, (y, u), alone, lengths, outside)
    order = [2, 0, 1]
    permuted = model.log_prob(y[order], given(u, order), lengths=[lengths[i] for i in order])
    near_log(permuted, one_by_one[order], "permuted")


def _batched_filter(row: Row, model: Any, data: Any, alone: Any, lengths: list[int], outside: Tensor) -> None:
    y, u = data
    padded = model.filter(torch.where(outside.unsqueeze(-1), torch.nan, y), u, lengths=lengths)
    smoothed = model.smooth(y, u, lengths=lengths) if row.latent else None
    assert bool((padded.log_prob[outside] == 0).all())
    listed = model.filter([y_b for y_b, _ in alone], None if u is None else [u_b for _, u_b in alone])
    for b, (y_b, u_b) in enumerate(alone):
        if not len(y_b):
            continue
        truth, cut = model.filter(y_b, u_b), slice(lengths[b])
        for name, result in (("padded", B.map_tensors(lambda x, _, b=b, c=cut: x[b][c], padded)), ("list", listed[b])):
            near_log(result.log_prob, truth.log_prob, f"{name} log_prob")
            near_belief(result.predicted, truth.predicted, truth.predicted, f"{name} predicted")
            near_belief(result.updated, truth.updated, truth.predicted, f"{name} updated")
        if smoothed is not None:
            mine = B.map_tensors(lambda x, _, b=b, c=cut: x[b][c], smoothed)
            near_belief(mine, model.smooth(y_b, u_b), truth.predicted, "smoothed")


def law_06(row: Row, case: Case) -> None:
    """an unobserved tail adds 0"""
    model, (y, u) = model_of(row, case), data_of(row, case)
    for tail in {1, case.steps}:
        shown = y.clone()
        shown[..., case.steps - tail :, :] = torch.nan
        cut = (..., slice(case.steps - tail), slice(None))
        near_log(model.log_prob(shown, u), model.log_prob(y[cut], given(u, cut)), f"tail of {tail}")
        scores = model.filter(shown, u).log_prob[..., case.steps - tail :]
        near_log(scores, torch.zeros_like(scores), "scores of the tail", 1e-14)


def law_06_middle(row: Row, case: Case) -> None:
    """an unobserved middle is integrated out"""
    case = Case(case.seed, max(case.steps, 3), (), 0.4, case.scale)
    model, (y, u) = model_of(row, case), data_of(row, case)
    y[1] = torch.nan
    near_log(model.log_prob(y, u), row.exact(model, y, u).log_prob, "log_prob with gaps")


def law_06_rule(row: Row, case: Case) -> None:
    """an unobserved middle follows the documented rule"""
    assert row.missing_rule is not None
    case = Case(case.seed, max(case.steps, 3), (), 0.4, case.scale)
    model, (y, u) = model_of(row, case), data_of(row, case)
    y[1] = torch.nan
    filtered = model.filter(y, u)
    observed, values = ~y.isnan(), torch.where(y.isnan(), 0.0, y)
    belief = model.initial_belief((), given(u, 0))
    for t in range(case.steps):
        near_belief(ps.at(filtered.predicted, t), belief, belief, f"predicted at {t}")
        belief = row.missing_rule(model, belief, values[t], observed[t])
        near_belief(ps.at(filtered.updated, t), belief, belief, f"updated at {t}")
        belief = model.predict(belief, given(u, t + 1)) if t + 1 < case.steps else belief
    near_log(model.log_prob(y, u), filtered.log_prob.sum(-1), "log_prob with gaps")


def law_07(row: Row, case: Case) -> None:
    """filtering in two parts, or step by step, equals filtering"""
    case = Case(case.seed, max(case.steps, 2), case.batch, case.missing, case.scale)
    model, (y, u) = model_of(row, case), data_of(row, case)
    whole = model.filter(y, u)
    for k in {1, case.steps - 1}:
        first, rest = (..., slice(k), slice(None)), (..., slice(k, None), slice(None))
        begun = model.filter(y[first], given(u, first))
        with torch.no_grad():
            belief = model.predict(ps.at(begun.updated, -1), given(u, (..., k, slice(None))))
        resumed = model.filter(y[rest], given(u, rest), initial=belief)
        near_log(torch.cat([begun.log_prob, resumed.log_prob], -1), whole.log_prob, f"resumed at {k}")
        near_belief(resumed.updated, ps.at(whole.updated, slice(k, None)), whole.predicted, f"resumed at {k}")
        _stream(row, model, case, (y, u), whole, belief, k)
    _stream(row, model, case, (y, u), whole, None, 0)


def _stream(row: Row, model: Any, case: Case, data: Any, whole: Any, initial: Any, k: int) -> None:
    y, u = data
    stream = model.stream(initial=initial, batch_shape=case.batch)
    for t in range(k, case.steps):
        y_t, u_t = y[..., t, :], given(u, (..., t, slice(None)))
        improper = still_improper(row, ps.at(whole.predicted, t))
        if improper:
            refuses_density(lambda i=u_t: stream.emit(i))
        said = None if improper else stream.emit(u_t)
        score = stream.update(y_t, u_t)
        near_log(score, whole.log_prob[..., t], f"streamed step {t}")
        near_belief(stream.belief, ps.at(whole.updated, t), whole.predicted, f"streamed step {t}")
        if said is not None and not y_t.isnan().any():
            near_log(said.log_prob(y_t), score, f"streamed emit {t}")


# ------------------------------------------------------------------------------------------ 8 - 9: latent states


def law_08(row: Row, case: Case) -> None:
    """the smoothed belief at the last step equals the filtered one"""
    model, (y, u) = model_of(row, case), data_of(row, case)
    filtered, smoothed = model.filter(y, u), model.smooth(y, u)
    near_belief(ps.at(smoothed, -1), ps.at(filtered.updated, -1), filtered.predicted, "last step")
    assert not any(x.requires_grad for x in smoothed if isinstance(x, Tensor))


def law_09(row: Row, case: Case) -> None:
    """the decoded path is the best one, and drawn paths have the posterior's law"""
    case = Case(case.seed, case.steps, (), case.missing, case.scale)
    model, (y, u) = model_of(row, case), data_of(row, case)
    truth = row.exact(model, y, u)
    path = model.decode(y, u)
    if still_improper(row, ps.at(model.filter(y, u).updated, -1)):
        refuses_density(lambda: model.sample_states(y, 400, u=u, seed=case.seed))
        return
    drawn = model.sample_states(y, 400, u=u, seed=case.seed)
    assert torch.equal(drawn, model.sample_states(y, 400, u=u, seed=case.seed))
    if row.oracle == "enumeration":
        near_log(model.path_log_prob(path, y, u).detach(), truth.best_score, "score of the decoded path")
        scores = model.path_log_prob(truth.paths, y.expand(len(truth.paths), *y.shape), u)
        near_log(scores, truth.path_log_probs, "path_log_prob")
        assert model.path_log_prob(drawn, y.expand(400, *y.shape), u).max().item() <= truth.best_score + 1e-9
        shares = torch.nn.functional.one_hot(drawn, model.n_states).double().mean(0)
        _like_binomial(shares, torch.as_tensor(truth.smoothed), 400)
        return
    near(path, truth.mean, "decoded path", size=abs(truth.mean).max() + abs(truth.cov).max() ** 0.5)
    spread = np.sqrt(np.diagonal(truth.cov, axis1=1, axis2=2).clip(0))
    slack = 6 * spread / 20 + 1e-7 * (abs(truth.mean).max() + spread.max())
    assert bool((abs(drawn.mean(0).numpy() - truth.mean) <= slack).all()), "drawn states miss the smoothed mean"
    _path_density(row, model, y, u, truth)


def _like_binomial(shares: Tensor, probs: Tensor, n: int) -> None:
    """Within six standard deviations of n draws, and exactly where there is no choice."""
    allowed = 6 * (probs * (1 - probs) / n).clamp(min=0).sqrt() + 6 / n
    assert bool(((shares - probs).abs() <= allowed).all()), "drawn states miss the smoothed probabilities"


def _path_density(row: Row, model: Any, y: Tensor, u: Tensor | None, truth: Any) -> None:
    """log p(z, y) == log p(y) + log N(z; smoothed moments)"""
    if not row.path_density:
        if y.isnan().all() or len(y) == 1:
            return  # nothing that is singular comes into play
        with pytest.raises(ValueError, match="_cov is singular"):
            model.path_log_prob(torch.as_tensor(truth.mean), y, u)
        return
    states = truth.joint_mean + 0.3 * np.sqrt(np.diag(truth.joint_cov)) * np.cos(np.arange(truth.joint_mean.size))
    density = truth.log_prob + reference.log_normal(states, truth.joint_mean, truth.joint_cov)
    path = torch.as_tensor(states).reshape(len(y), -1)
    near_log(model.path_log_prob(path, y, u), density, "path_log_prob", tolerance=1e-9)  # the joint is ill-conditioned


# ------------------------------------------------------------------------------------------------- 10: gradients


def learnable(model: Any) -> list[torch.nn.Parameter]:
    """Every parameter that has a value, held ones too, made to require a gradient."""
    unset = {id(module._parameters[f"raw_{name}"]) for _, module in parametric_modules(model) for name in module.unset}
    found = [p for p in model.parameters() if id(p) not in unset and p.numel()]
    for parameter in found:
        parameter.requires_grad_(True)
    return found


def law_10(row: Row, case: Case) -> None:
    """gradients of log_prob in every parameter, input and continuous observation"""
    case = Case(case.seed, min(case.steps, 4), (2,), case.missing, case.scale)
    model, (y, u) = model_of(row, case), data_of(row, case)
    inputs: list[Tensor] = learnable(model)
    gap = y.isnan()
    if row.kind == "real":
        y = torch.where(gap, 0.0, y).requires_grad_(True)
        inputs.append(y)
    if u is not None:
        inputs.append(u.requires_grad_(True))

    def score(*_: Tensor) -> Tensor:
        return model.log_prob(torch.where(gap, torch.nan, y), u, lengths=[case.steps, case.steps - 1])

    if case.scale == 1:
        assert torch.autograd.gradcheck(score, inputs, check_batched_grad=False)
    else:
        directional(score, inputs, case.rng(4))


def directional(score: Callable[..., Tensor], inputs: list[Tensor], rng: np.random.Generator) -> None:
    """The gradient along one direction, in units of the inputs themselves, against central differences."""
    value = score().sum()
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    step, slope, moves = 3e-5, 0.0, []  # longer ones leave 1e-6 where a logarithm of 1e-16 moves
    for x, gradient in zip(inputs, gradients, strict=True):
        finite = torch.isfinite(x.detach())
        move = torch.where(finite, x.detach() * torch.as_tensor(rng.normal(size=tuple(x.shape))), 0.0)
        moves.append(move)
        if gradient is not None:
            assert bool((gradient[~finite] == 0).all()), "a structural zero must have no gradient"
            slope += float((gradient * move).sum())

    def at(h: float) -> float:
        with torch.no_grad():
            kept = [x.clone() for x in inputs]
            for x, move in zip(inputs, moves, strict=True):
                x += h * move
            result = float(score().sum())
            for x, old in zip(inputs, kept, strict=True):
                x.copy_(old)
        return result

    wide, narrow = (at(2 * step) - at(-2 * step)) / (4 * step), (at(step) - at(-step)) / (2 * step)
    near(torch.tensor(slope), torch.tensor((4 * narrow - wide) / 3), "directional derivative", 1e-6, 1 + abs(slope))


def _refuses_forward_mode(model: Any, name: str, value: Tensor, y: Tensor, u: Tensor | None) -> None:
    tracked = value.clone().requires_grad_(True)
    with overriding(model, {name: tracked}):
        if torch.autograd.grad(model.log_prob(y, u).sum(), tracked, allow_unused=True)[0] is None:
            return  # an offset that is zero and held there
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(value, torch.ones_like(value))
        with overriding(model, {name: dual}), pytest.raises((NotImplementedError, RuntimeError)):
            model.log_prob(y, u)


def law_10_forward(row: Row, case: Case) -> None:
    """forward mode and second derivatives raise instead of being silently wrong"""
    model, (y, u) = model_of(row, case), data_of(row, case)
    names = [
        f"{path}.{name}".lstrip(".")
        for path, module in parametric_modules(model)
        for name in module.params()
        if name not in module.unset and module._parameters[f"raw_{name}"].numel()
    ]
    for name in names if not isinstance(model, ps.AR) else ["transition_matrices", "transition_cov"]:
        owner = model.get_submodule(name.rpartition(".")[0])
        with torch.no_grad():
            value = getattr(owner, name.rpartition(".")[2]).clone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, on first use of forward mode
            _refuses_forward_mode(model, name, value, y, u)
    parameters = [p for p in model.parameters() if p.requires_grad and bool(torch.isfinite(p).all())]
    (first, *_) = [
        g
        for g in torch.autograd.grad(model.log_prob(y, u).sum(), parameters, create_graph=True, allow_unused=True)
        if g is not None and g.requires_grad
    ] or [None]
    if first is not None:
        with pytest.raises((NotImplementedError, RuntimeError)):
            torch.autograd.grad(first.square().sum(), parameters, allow_unused=True)


# ------------------------------------------------------------------------------- 11 - 14: learning, files, edges


def law_11(row: Row, case: Case) -> None:
    """EM never lowers its objective, priors included"""
    case = Case(case.seed, 30, (2,), min(case.missing, 0.3), case.scale)
    given_values, (y, u) = model_of(row, case), data_of(row, case)
    for model in (given_values, build(describe(given_values))):
        quietly(lambda m=model: m.fit(y, u, method="em", seed=case.seed, max_iterations=8, tolerance=1e-12))
        trace = torch.tensor(model.history.objective, dtype=torch.float64)
        assert len(trace) > 2
        falls = (trace[:-1] - trace[1:]).max()
        assert float(falls) <= 1e-9 * (1 + float(trace.abs().max())), f"EM fell by {float(falls):.3g}: {trace.tolist()}"
        near_log(model.log_prob(y, u).sum() + model.log_prior(), trace.max(), "objective after the fit", 1e-9)


def law_12(row: Row, case: Case) -> None:
    """save and load, state_dict, pickle and deepcopy keep log_prob"""
    model, (y, u) = model_of(row, case), data_of(row, case)
    expected = model.log_prob(y, u).detach()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        loaded = ps.load(path)
    fresh = build(describe(model))
    fresh.load_state_dict(model.state_dict())
    others = {"load": loaded, "state_dict": fresh, "copy": copy.deepcopy(model)}
    others["pickle"] = pickle.loads(pickle.dumps(model))
    for how, other in others.items():
        assert torch.equal(other.log_prob(y, u).detach(), expected), f"{how} changed log_prob"
        assert other.n_parameters == model.n_parameters, f"{how} changed n_parameters"
        assert other.is_started or not model.is_started


def law_13(row: Row, case: Case) -> None:
    """a forecast of one step is emit(predict(last belief))"""
    model, (y, u) = model_of(row, case), data_of(row, case)
    _, future = row.data(case.seed + 7, 1, case.batch)
    if still_improper(row, ps.at(model.filter(y, u).updated, -1)):
        refuses_density(lambda: model.forecast(y, 1, u, future_u=future))
        return
    says = model.forecast(y, 1, u, future_u=future, n_samples=3, seed=0)
    u_next = given(future, (..., 0, slice(None)))
    with torch.no_grad():
        truth = model.emit(model.predict(ps.at(model.filter(y, u).updated, -1), u_next), u_next)
    points, _ = row.data(case.seed + 8, 1, case.batch)
    points = points * case.scale if row.scalable else points
    near_log(says.distribution.log_prob(points)[..., 0], truth.log_prob(points[..., 0, :]), "log_prob of a point")
    if row.kind not in ("symbol", "mixed"):
        near(says.mean[..., 0, :], truth.mean, "mean")
        lower, upper = says.interval(0.8)
        assert bool((lower <= upper).all())
    assert says.samples.shape == (3, *case.batch, 1, row.dim)


def _of_length(field: Tensor, steps: int) -> Tensor:
    assert len(field) == steps
    return field


def law_14(row: Row, case: Case) -> None:
    """every length of 0 .. 19, and what there is to say about nothing"""
    model, (y, u) = model_of(row, case), data_of(row, Case(case.seed, 19, (), case.missing, case.scale))
    prefixes = torch.cat([torch.zeros(1), model.filter(y, u).log_prob.cumsum(-1)])
    for steps in range(20):
        near_log(model.log_prob(y[:steps], given(u, slice(steps))), prefixes[steps], f"length {steps}")
        assert model.filter(y[:steps], given(u, slice(steps))).log_prob.shape == (steps,)
        if row.latent:
            smoothed = model.smooth(y[:steps], given(u, slice(steps)))
            B.map_tensors(lambda x, _, n=steps: _of_length(x, n), smoothed)
    nothing, no_inputs = y[:0], given(u, slice(0))
    assert model.log_prob(nothing, no_inputs).item() == 0
    first = model.filter(nothing, no_inputs).predicted[0]
    assert (first[0] if isinstance(first, tuple) else first).shape[0] == 0
    future = None if u is None else u[:2]
    assert model.sample(0, u=no_inputs).shape == (0, row.dim)
    if row.improper:
        refuses_density(lambda: model.forecast(nothing, 2, no_inputs, future_u=future))
        refuses_density(lambda: model.sample(1, u=given(u, slice(1))))
    else:
        assert model.forecast(nothing, 2, no_inputs, future_u=future, n_samples=2, seed=0).steps == 2
        assert model.sample(1, u=given(u, slice(1)), seed=0).shape == (1, row.dim)
    refused = [model.score, model.fit, *([model.decode] if row.latent else [])]
    for call in refused:
        with pytest.raises(ValueError, match="y must have at least one step"):
            call(nothing, no_inputs)
    if row.latent:
        assert model.sample_states(nothing, 2, u=no_inputs, seed=0).shape[:2] == (2, 0)


# ------------------------------------------------------------------------------------------- 15: units and names


def law_15(row: Row, case: Case) -> None:
    """scaling and shifting the data with the model rescales beliefs and moves log_prob by the Jacobian"""
    model, (y, u) = row.make(case.seed), data_of(row, Case(case.seed, case.steps, case.batch, case.missing))
    plain = model.filter(y, u)
    for s in (1e-8, 1e-3, 1.0, 1e8):
        scale = torch.full((row.dim,), s, dtype=torch.float64)
        if not row.common_scale:
            scale = scale * torch.logspace(0, 2, row.dim, dtype=torch.float64)
        shift = 3 * scale * torch.cos(torch.arange(row.dim, dtype=torch.float64))
        other = copy.deepcopy(model).rescale(scale, shift)
        moved = other.filter(scale * y + shift, u)
        jacobian = ((~y.isnan()).double() * scale.log()).sum(-1)
        near_log(moved.log_prob, plain.log_prob - jacobian, f"log_prob in units of {s:g}")
        for name in ("predicted", "updated"):
            expected, like = (_rescaled(row, b, scale, shift) for b in (getattr(plain, name), plain.predicted))
            beliefs = (_whitened(row, b, scale) for b in (getattr(moved, name), expected, like))
            near_belief(*beliefs, f"{name} in units of {s:g}")


def _rescaled(row: Row, belief: Any, scale: Tensor, shift: Tensor) -> Any:
    if row.belief_unit == "state":
        return belief
    if row.belief_unit == "window":
        return B.Categorical(belief.log_probs, scale * belief.window + shift)
    times = belief.mean.shape[-1] // row.dim
    s, b = scale.repeat(times), shift.repeat(times)
    return B.Gaussian(s * belief.mean + b, s.unsqueeze(-1) * belief.cov * s)


def _whitened(row: Row, belief: Any, scale: Tensor) -> Any:
    """In units of the scale, so that coordinates of different units are judged alike."""
    if row.belief_unit == "state":
        return belief
    if row.belief_unit == "window":
        return B.Categorical(belief.log_probs, belief.window / scale)
    s = scale.repeat(belief.mean.shape[-1] // row.dim)
    return B.Gaussian(belief.mean / s, belief.cov / s / s.unsqueeze(-1))


def law_15_fit(row: Row, case: Case) -> None:
    """a fit in other units is the same fit"""
    case = Case(case.seed, 24, (2,), min(case.missing, 0.3))
    y, u = data_of(row, case)
    for method in row.fit_methods:
        fits = []
        for s in (2.0**-26, 1.0, 2.0**26):
            given_values = row.make(case.seed)
            model = given_values.rescale(s) if row.own_unit else build(describe(given_values))
            for part in model.modules():  # a prior has the unit of the data
                if isinstance(part, ps.emissions.Emission) and part.prior is not None:
                    part.prior = part.prior.rescale(torch.full((row.dim,), s).double(), torch.zeros(row.dim).double())
            options = {"max_iterations": 3, "seed": case.seed, "method": method}
            quietly(lambda m=model, s=s, o=options: m.fit(s * y, u, **o))
            jacobian = (float((~y.isnan()).sum()) - len(y) * row.diffuse_in_unit) * math.log(s)
            fits.append((model, s, model.log_prob(s * y, u).sum().item() + jacobian))
        for model, s, value in fits:
            near_log(value, fits[1][2], f"{method} in units of {s:g}", 1e-8)
            back = copy.deepcopy(model).rescale(1 / s)
            mapped = back.log_prob(y, u) - row.diffuse_in_unit * math.log(s)
            near_log(mapped, fits[1][0].log_prob(y, u), f"{method}, mapped back from {s:g}", 1e-8)


def law_15_relabel(row: Row, case: Case) -> None:
    """renaming the states permutes beliefs and leaves probabilities alone"""
    assert row.relabel is not None
    model, (y, u) = model_of(row, case), data_of(row, case)
    order = case.rng(5).permutation(model.n_states).tolist()
    other = row.relabel(model, order)
    near_log(other.log_prob(y, u), model.log_prob(y, u), "log_prob")
    filtered = model.filter(y, u).updated
    renamed = filtered.log_probs.index_select(-filtered.event_dims[0], torch.tensor(order))
    near_log(other.filter(y, u).updated.log_probs, renamed, "filtered")
    near(other.smooth(y, u).probs, model.smooth(y, u).probs[..., order], "smoothed", size=1.0)
    scores = [m.path_log_prob(m.decode(y, u), y, u) for m in (other, model)]
    near_log(scores[0], scores[1], "score of the decoded path")


# ---------------------------------------------------------------------------------------- 16: degenerate members


def _same_hmm(covariance: str, diagonal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """A full covariance that happens to be of a special type says what the special type says."""
    rng = np.random.default_rng(3)
    shared = {"initial_probs": zoo.simplex(rng, 3), "transition_matrix": zoo.simplex(rng, 3, 3)}
    means, cov = scale * rng.normal(size=(3, 2)), scale**2 * zoo.covariance(rng, 2)
    covs = np.stack([cov] * 3) if not diagonal else scale**2 * np.stack([np.eye(2) * v for v in (0.5, 1.0, 2.0)])
    y = scale * torch.as_tensor(rng.normal(size=(4, 5, 2)))
    y[0, 2, 1] = torch.nan
    pair = [
        ps.HMM(emission=ps.emissions.Gaussian(means=means, covs=covs, covariance=kind), **shared).log_prob(y)  # type: ignore[arg-type]
        for kind in (covariance, "full")
    ]
    return pair[0], pair[1]


def _mixture(scale: float) -> tuple[Tensor, Tensor]:
    """Equal rows, and that row as the start: every step is an independent draw from one mixture."""
    rng = np.random.default_rng(4)
    weights = zoo.simplex(rng, 3)
    emission = zoo.gaussian_emission(2)(rng, 3)
    model = ps.HMM(emission=emission, initial_probs=weights, transition_matrix=np.stack([weights] * 3)).rescale(scale)
    y = scale * rng.normal(size=(6, 2))
    table = reference.observation_table(model.emission, y)
    return model.log_prob(y), torch.tensor(np.logaddexp.reduce(np.log(weights) + table, axis=1).sum())


def _one_state(scale: float) -> tuple[Tensor, Tensor]:
    model = zoo.hmm(5, zoo.gaussian_emission(2), 1).rescale(scale)
    y = scale * np.random.default_rng(5).normal(size=(6, 2))
    return model.log_prob(y), torch.tensor(reference.observation_table(model.emission, y).sum())


def _two_symbols(scale: float) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(6)
    shared = {"initial_probs": zoo.simplex(rng, 3), "transition_matrix": zoo.simplex(rng, 3, 3)}
    ones = rng.uniform(size=(3, 1))
    y = rng.integers(0, 2, size=(4, 6, 1)).astype(float)
    symbols = ps.HMM(emission=ps.emissions.Categorical(probs=np.hstack([1 - ones, ones])), **shared)
    return symbols.log_prob(y), ps.HMM(emission=ps.emissions.Bernoulli(probs=ones), **shared).log_prob(y)


def _geometric(scale: float) -> tuple[Tensor, Tensor]:
    """Geometric durations, cut off beyond the data: a hidden Markov model."""
    rng = np.random.default_rng(10)
    chain = zoo.hmm(10, zoo.gaussian_emission(2)).rescale(scale)
    matrix = reference.array(chain.transition_matrix)
    stay, steps = np.diag(matrix), 7
    durations = (1 - stay[:, None]) * stay[:, None] ** np.arange(steps)
    durations[:, -1] = stay ** (steps - 1)
    segments = ps.HSMM(
        emission=copy.deepcopy(chain.emission),
        duration=ps.durations.Table(probs=durations),
        initial_probs=chain.initial_probs.detach(),
        transition_matrix=(matrix - np.diag(stay)) / (1 - stay)[:, None],
    )
    y = scale * rng.normal(size=(4, steps, 2))
    y[0, 2, 1] = np.nan
    return segments.log_prob(y), chain.log_prob(y)


def _one_segmented_state(scale: float) -> tuple[Tensor, Tensor]:
    model = zoo.hsmm(5, zoo.gaussian_emission(2), "negative", 1).rescale(scale)
    y = scale * np.random.default_rng(5).normal(size=(6, 2))
    return model.log_prob(y), torch.tensor(reference.observation_table(model.emission, y).sum())


def _linear_recursion(scale: float) -> tuple[Tensor, Tensor]:
    """No transition noise and a fixed start: y_t ~ N(C A^t m, R), independently."""
    parts = zoo.lds_parts(7, 2, 2)
    parts.update(transition_cov=np.zeros((2, 2)), initial_cov=np.zeros((2, 2)))
    model, y = ps.LDS(**parts).rescale(scale), scale * np.random.default_rng(7).normal(size=(6, 2))
    state, total = parts["initial_mean"], 0.0
    for row in y:
        total += reference.log_normal(row, scale * parts["emission_matrix"] @ state, scale**2 * parts["emission_cov"])
        state = parts["transition_matrix"] @ state
    return model.log_prob(y), torch.tensor(total, dtype=torch.float64)


def _companion(scale: float) -> tuple[Tensor, Tensor]:
    """An autoregression is the linear dynamical system of its window, seen without noise."""
    model = zoo.ar(8, 2, 2).rescale(scale)
    y = scale * np.random.default_rng(8).normal(size=(6, 2))
    mean, cov = reference.ar_start(model)
    noise = np.zeros((4, 4))
    noise[:2, :2] = reference.array(model.transition_cov)
    system = ps.LDS(
        transition_matrix=model.companion().detach(),
        transition_cov=noise,
        transition_offset=np.concatenate([reference.array(model.transition_offset), np.zeros(2)]),
        emission_matrix=np.eye(2, 4),
        emission_cov=np.zeros((2, 2)),
        initial_mean=mean,
        initial_cov=cov,
    )
    return model.log_prob(y), system.log_prob(y)


def _constant_network(scale: float) -> tuple[Tensor, Tensor]:
    """A cell without weights always says the same."""
    model = zoo.rnn(9, "elman", ps.heads.Gaussian("full"), 2)
    with torch.no_grad():
        model.cell.input_weights.zero_()
        model.cell.recurrent_weights.zero_()
    model.rescale(scale)
    y = scale * torch.as_tensor(np.random.default_rng(9).normal(size=(6, 2)))
    return model.log_prob(y), model.emit(model.initial_belief()).log_prob(y).sum()


def _one_component(scale: float) -> tuple[Tensor, Tensor]:
    """A mixture of one Gaussian is a Gaussian head."""
    models = [zoo.rnn(9, "elman", head, 2) for head in (ps.heads.MixtureDensity(1, "full"), ps.heads.Gaussian("full"))]
    with torch.no_grad():
        models[1].head.weights.copy_(models[0].head.weights[1:])
        models[1].head.bias.copy_(models[0].head.bias[1:])
        models[1].cell.load_state_dict(models[0].cell.state_dict())
    y = scale * torch.as_tensor(np.random.default_rng(9).normal(size=(6, 2)))
    y[2, 1] = torch.nan
    one, other = (model.rescale(scale).log_prob(y) for model in models)
    return one, other


def _one_vector(scale: float) -> tuple[Tensor, Tensor]:
    """A mixture of one vector of Bernoullis is a Bernoulli head."""
    models = [zoo.rnn(9, "elman", head, 2) for head in (ps.heads.MixtureOfBernoullis(1), ps.heads.Bernoulli())]
    with torch.no_grad():
        models[1].head.weights.copy_(models[0].head.weights[1:])
        models[1].head.bias.copy_(models[0].head.bias[1:])
        models[1].cell.load_state_dict(models[0].cell.state_dict())
    y = torch.as_tensor(np.random.default_rng(9).integers(0, 2, size=(6, 2)).astype(float))
    y[2, 1] = torch.nan
    return models[0].log_prob(y), models[1].log_prob(y)


def _no_layers(scale: float) -> tuple[Tensor, Tensor]:
    """A network without layers is the linear autoregression, given the window it starts from."""
    network = zoo.neural_ar(9, 2, ps.heads.Gaussian("full"), 2)
    with torch.no_grad():
        network.head.weights[2:] = 0.0  # the covariance does not depend on the past
        taps, (mean, *_) = network.head.weights[:2], network.head.bias.split((2, 3))
        shift, scales = network.head.shift.clone(), network.head.scale.clone()
        noise = network.emit(network.initial_belief()).covariance_matrix / scales / scales.unsqueeze(-1)
    linear = ps.AR(
        transition_matrices=taps.unflatten(-1, (2, 2)).transpose(0, 1),
        transition_offset=mean.detach(),
        transition_cov=noise,
        initial_mean=torch.zeros(4),
        initial_cov=torch.eye(4),
        initial="fitted",
    )
    y = scale * torch.as_tensor(np.random.default_rng(9).normal(size=(8, 2)))
    network.rescale(scale)
    linear.rescale(scales, shift).rescale(scale)
    return network.filter(y).log_prob[2:], linear.filter(y).log_prob[2:]


def _constant_rate(scale: float) -> tuple[Tensor, Tensor]:
    """A discount of 1: exchangeable counts with a gamma mixing law, in closed form."""
    a, b = torch.tensor(2.5, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    model = PoissonGamma(1, initial_shape=[a], initial_rate=[b], discount=[1.0])
    y = torch.tensor([3.0, 0.0, 5.0, 2.0], dtype=torch.float64)
    n, total = len(y), y.sum()
    mixing = torch.lgamma(a + total) - torch.lgamma(a) + a * b.log() - (a + total) * (b + n).log()
    return model.log_prob(y), mixing - torch.lgamma(y + 1).sum()


REDUCTIONS: dict[str, Callable[[float], tuple[Tensor, Tensor]]] = {
    "hmm-equal-rows-is-mixture": _mixture,
    "hmm-one-state-is-iid": _one_state,
    "hmm-tied-is-full": lambda scale: _same_hmm("tied", False, scale),
    "hmm-diag-is-full": lambda scale: _same_hmm("diag", True, scale),
    "hmm-spherical-is-full": lambda scale: _same_hmm("spherical", True, scale),
    "hmm-two-symbols-is-bernoulli": _two_symbols,
    "hsmm-geometric-is-hmm": _geometric,
    "hsmm-one-state-is-iid": _one_segmented_state,
    "lds-noiseless-is-recursion": _linear_recursion,
    "ar-is-lds": _companion,
    "rnn-without-weights-is-iid": _constant_network,
    "mixture-density-of-one-is-gaussian": _one_component,
    "mixture-of-one-bernoulli-is-bernoulli": _one_vector,
    "neural-ar-without-layers-is-ar": _no_layers,
    "poisson-gamma-undiscounted-is-static": _constant_rate,
}


def law_16(name: str, scale: float) -> None:
    """a degenerate member equals the simpler model"""
    actual, expected = REDUCTIONS[name](scale)
    near_log(actual, expected, name)


# ------------------------------------------------------------------------------------------------------ the list


def _unless(condition: Callable[[Row], Any], reason: str) -> Callable[[Row], str | None]:
    return lambda row: None if condition(row) else reason


def _likelihood(excuse: Callable[[Row], str | None] = lambda row: None) -> Callable[[Row], str | None]:
    """The law is about the likelihood and beliefs, in which a prior has no part."""
    return lambda row: "another row's likelihood, under a prior" if row.prior_only else excuse(row)


_latent = _unless(lambda row: row.latent, "no latent state")
_paths = _unless(lambda row: row.latent and row.oracle, "no latent state, or no oracle for its posterior")
_differentiable = _unless(lambda row: row.differentiable, "an estimate without a gradient")
_oracle = _unless(lambda row: row.oracle, "no brute-force oracle: law 4b instead")
_no_oracle = _unless(lambda row: not row.oracle, "has a brute-force oracle: law 4")
_density = _unless(lambda row: row.normalised, "Laplace evidence, whose sum over data is near one only")
_marginalises = _unless(lambda row: row.marginalises, "does not marginalise: law 6c instead")
_rule = _unless(lambda row: row.missing_rule, "marginalises: law 6b")
_compiled = _unless(lambda row: row.compiled, "plain torch, where forward mode and second derivatives work")
_em = _unless(lambda row: "em" in row.fit_methods, "no EM")
_scalable = _unless(lambda row: row.scalable, "discrete data have no unit")
_fitted = _unless(lambda row: row.scalable and row.fit_methods, "discrete data have no unit, or nothing to fit")
_states = _unless(lambda row: row.relabel, "no discrete states")

LAWS = [
    Law("01", "log_prob is the sum of the filter's", law_01),
    Law("02", "emit agrees with the filter", law_02, _likelihood()),
    Law("03", "compiled filter equals the four-step loop", law_03, _likelihood()),
    Law("04", "brute force", law_04, _likelihood(_oracle)),
    Law("04b", "sums or integrates to one", law_04_sums, _likelihood(lambda row: _no_oracle(row) or _density(row)), 2),
    Law("05", "batches, padding, packing", law_05, _likelihood(), examples=4),
    Law("06", "an unobserved tail adds nothing", law_06, _likelihood(), examples=4),
    Law("06b", "an unobserved middle is integrated out", law_06_middle, _likelihood(_marginalises)),
    Law("06c", "an unobserved middle follows the rule", law_06_rule, _likelihood(_rule)),
    Law("07", "resuming and streaming", law_07, _likelihood(), examples=4),
    Law("08", "smoothed equals filtered at the end", law_08, _likelihood(_latent)),
    Law("09", "decoded and drawn paths", law_09, _likelihood(_paths), 4),
    Law("10", "gradients", law_10, _likelihood(_differentiable), 4),
    Law("10b", "forward and second order raise", law_10_forward, _likelihood(_compiled), 1),
    Law("11", "EM never falls", law_11, _em, 4),
    Law("12", "files, pickles and copies", law_12, examples=2),
    Law("13", "one-step forecast", law_13, _likelihood(), examples=4),
    Law("14", "every length", law_14, _likelihood(), examples=2),
    Law("15", "units", law_15, _likelihood(_scalable), 4),
    Law("15b", "fits in other units", law_15_fit, _fitted, 1),
    Law("15c", "renamed states", law_15_relabel, _likelihood(_states), 4),
]
