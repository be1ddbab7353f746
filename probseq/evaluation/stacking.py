"""Stacking: a mixture of forecasters with weights from held-out log scores, itself a forecaster under the contract.

    p(y_t | y_<t) = sum_k w_k p_k(y_t | y_<t)

    belief = the beliefs of all members
    emit(belief)      = sum_k w_k emit_k(belief_k)           the linear pool
    update(belief, y) = every member's own update            log p = log sum_k w_k p_k(y)
    predict(belief)   = every member's own move

The weights maximise sum_t log sum_k w_k p_k(y_t | y_<t) over steps that took no part in the members' fits. That is
concave in w, and EM climbs it: w_k becomes the mean over t of w_k p_k / sum_j w_j p_j. Unlike posterior probabilities
of models, the weights do not run to a corner when no member is right.

References: Breiman (1996), Machine Learning 24; Hall and Mitchell (2007), International Journal of Forecasting 23; Yao,
Vehtari, Simpson and Gelman (2018), Bayesian Analysis 13, sec. 3.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch import distributions as D

from probseq.base import Filtered, StateSpaceModel
from probseq.errors import ProbseqWarning
from probseq.evaluation.fitting import check_models, fit_copies, held_out_scores
from probseq.evaluation.kinds import kinds_of, measure_of
from probseq.evaluation.pool import linear_pool
from probseq.evaluation.splitting import check_parts, head, train_lengths
from probseq.parameters import Param, simplex
from probseq.sequences import Sequences

#: EM stops when no weight can gain more than this per step, in nats; the bound is exact for a concave objective
GAP = 1e-10
MOST_ITERATIONS = 100_000


def stacking_weights(log_scores: Any, names: Any = None) -> dict[str, float]:
    """Weights on the simplex that maximise the mean over steps of log sum_k w_k exp(score_k).

    `log_scores` maps names to arrays of log scores (T,) or (B, T); steps that one lacks are left out. A DataFrame will
    do. The result is within 1e-10 nats per step of the best. Raises ValueError where all members call one step
    impossible.
    """
    chosen = list(log_scores) if names is None else list(names)
    if not chosen:
        raise ValueError("log_scores must hold at least one member, got none")
    columns = [np.asarray(log_scores[name], dtype=np.float64).ravel() for name in chosen]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"log_scores must be of the same steps, got {[len(column) for column in columns]} of them")
    return dict(zip(map(str, chosen), best_weights(np.stack(columns, -1)).tolist(), strict=True))


def best_weights(table: ArrayLike) -> NDArray[np.float64]:
    """`stacking_weights` of log scores (N, K), (K,)."""
    scores = np.asarray(table, dtype=np.float64)
    scores = scores[~np.isnan(scores).any(-1)]
    if not len(scores):
        raise ValueError("log_scores must have a step in common, got none")
    most = scores.max(-1, keepdims=True)
    if np.isneginf(most).any():
        raise ValueError(f"every member calls step {int(np.isneginf(most).argmax())} impossible")
    ratios = np.exp(scores - most)
    weights = np.full(scores.shape[1], 1 / scores.shape[1])
    for _ in range(MOST_ITERATIONS):
        # w_k times the gradient is EM's step; its largest entry less 1 bounds what any weights could still gain
        gradient = (ratios / (ratios @ weights)[:, None]).mean(0)
        weights = weights * gradient
        if gradient.max() - 1 < GAP:
            break
    return weights / weights.sum()


class Together(tuple[Any, ...]):
    """The beliefs of all members, in order."""

    def __new__(cls, *members: Any) -> Together:
        return super().__new__(cls, members)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(f"member_{i}" for i in range(len(self)))

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (0,) * len(self)


class Stacked(StateSpaceModel[Together]):
    """The linear pool of fitted members with fixed weights; `fit` learns the weights and leaves the members alone.

    The h-step forecast is that of the pooled process: every member reads what the pool drew. An unobserved step is left
    to each member, which is approximate for what comes after.
    """

    weights = Param(simplex, "n_members")
    fit_methods: ClassVar[tuple[str, ...]] = ("em",)

    def __init__(self, members: list[StateSpaceModel[Any]], weights: Any = None) -> None:
        super().__init__()
        if not members:
            raise ValueError("members must hold at least one model, got none")
        shapes = [tuple(member.event_shape) for member in members]
        if len(set(shapes)) > 1:
            raise ValueError(f"members must be of the same event shape, got {shapes}")
        inputs = {member.input_dim for member in members}
        if len(inputs - {0}) > 1:
            raise ValueError(f"members must take the same inputs or none, got input_dim {sorted(inputs)}")
        if len({member.real_valued for member in members}) > 1:
            raise ValueError("members must all give densities or all give probabilities, got both")
        self.members = nn.ModuleList(members)
        self.n_members = len(members)
        self.event_shape = members[0].event_shape
        self.input_dim = max(inputs)
        self.real_valued = members[0].real_valued
        self.reads_observations = any(member.reads_observations for member in members)
        same = len({member.likelihood_kind for member in members}) == 1
        self.likelihood_kind = members[0].likelihood_kind if same else "approximate"
        self.common_scale = any(member.common_scale for member in members)
        self.declare(weights=torch.full((len(members),), 1 / len(members)) if weights is None else weights)
        self.started = all(member.is_started for member in members)

    def sizes(self) -> dict[str, Any]:
        return {"members": list(self.members)}

    def _each(self) -> list[StateSpaceModel[Any]]:
        return list(self.members)  # type: ignore[arg-type]

    def _inputs(self, member: StateSpaceModel[Any], u: Tensor | None) -> Tensor | None:
        return u if member.input_dim else None

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Together:
        return Together(*(member.initial_belief(batch_shape, self._inputs(member, u)) for member in self._each()))

    def predict(self, belief: Together, u: Tensor | None = None) -> Together:
        pairs = zip(self._each(), belief, strict=True)
        return Together(*(member.predict(own, self._inputs(member, u)) for member, own in pairs))

    def update(
        self, belief: Together, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Together, Tensor]:
        pairs = zip(self._each(), belief, strict=True)
        found = [member.update(own, y, observed, self._inputs(member, u)) for member, own in pairs]
        pooled = self._pooled([score for _, score in found])
        if observed is not None:
            pooled = torch.where(observed.any(-1), pooled, 0.0)
        return Together(*(own for own, _ in found)), pooled

    def emit(self, belief: Together, u: Tensor | None = None) -> D.Distribution:
        pairs = zip(self._each(), belief, strict=True)
        return linear_pool(self.weights, [member.emit(own, self._inputs(member, u)) for member, own in pairs])

    # ---- faster, and learning

    def _filter(self, sequences: Sequences, initial: Together | None) -> Any:
        """Every member's own fast filter, and the pool of their scores."""
        found = [
            member._filter(self._given(member, sequences), None if initial is None else initial[i])
            for i, member in enumerate(self._each())
        ]
        predicted, updated = (Together(*(getattr(one, name) for one in found)) for name in ("predicted", "updated"))
        pooled = self._pooled([one.log_prob for one in found])
        return Filtered(predicted, updated, torch.where(sequences.seen, pooled, 0.0))

    def _log_prob(self, sequences: Sequences) -> Tensor:
        """The loop where gradients are wanted: the members' fast filters carry none."""
        filtered = super()._filter(sequences, None) if torch.is_grad_enabled() else self._filter(sequences, None)
        return filtered.log_prob.sum(-1)

    def _start(self, sequences: Sequences, seed: int) -> None:
        """Members without values are fitted to the same data; `stack` gives them data of their own."""
        for member in self._each():
            if not member.is_started:
                member.fit(self._given(member, sequences), seed=seed)
        self.assign(weights=torch.full((self.n_members,), 1 / self.n_members))

    def _given(self, member: StateSpaceModel[Any], sequences: Sequences) -> Sequences:
        return sequences if member.input_dim or sequences.inputs is None else replace(sequences, inputs=None)

    def _pooled(self, scores: list[Tensor]) -> Tensor:
        table = torch.stack([score.to(torch.float64) for score in scores], -1)
        return torch.logsumexp(table + self.weights.log(), -1)

    def _em_step(self, sequences: Sequences) -> Tensor:
        scores = [member._filter(self._given(member, sequences), None).log_prob for member in self._each()]
        table = torch.stack([score.to(torch.float64) for score in scores], -1)[sequences.seen]
        joint = table + self.weights.detach().log()
        total = torch.logsumexp(joint, -1)
        with torch.no_grad():
            self.weights = torch.softmax(joint, -1).mean(0)
        return total.sum()

    def _outside(self, values: Tensor) -> tuple[Tensor, str] | None:
        found = [marked for member in self._each() if (marked := member._outside(values)) is not None]
        return None if not found else (torch.stack([mark for mark, _ in found]).any(0), found[0][1])

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        for member in self._each():
            member._rescale(scale, shift)


def stack(
    models: Mapping[str, StateSpaceModel[Any]],
    y: Any,
    u: Any = None,
    *,
    train: float | int = 0.7,
    seed: int = 0,
    fit_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Stacked:
    """Fit copies of the models on the first part of y and weigh them by their log scores on the rest.

    Members of different measures (densities, probabilities) are refused, those of different likelihood kinds too: a
    bound would be undercut by an exact likelihood of the same model.
    """
    data = Sequences.of(y, u)
    check_models(models, data, fit_options or {})
    first = train_lengths(data, train)
    training = head(data, first)
    check_parts(models, data, training, first)
    fits = fit_copies(models, training, seed, fit_options or {})
    for fit in fits:
        for message in fit.warnings:
            warnings.warn(f"{fit.name}: {message}", ProbseqWarning, stacklevel=2)
    members = [fit.model for fit in fits]
    measures = {measure_of(kinds_of(member, data)) for member in members}
    kinds = {member.likelihood_kind for member in members}
    if len(measures) > 1 or len(kinds) > 1:
        raise ValueError(f"members must be of one kind, got {sorted(kinds)} of measure {sorted(measures)}")
    scores = [held_out_scores(member, data, first)[0].ravel() for member in members]
    weights = best_weights(np.stack(scores, -1))
    return Stacked(members, weights)
