"""Beliefs: what a model knows about its hidden state, as NamedTuples of tensors.

Every field has shape `(*batch, *event)`, and `(*batch, time, *event)` in what `filter` and `smooth`
return. How many trailing axes belong to the event is said by `event_dims`, one entry per field; a belief
class of your own that does not say has one event axis per field.

| belief           | of                     | fields                                                             |
|------------------|------------------------|--------------------------------------------------------------------|
| `Gaussian`       | LDS, AR                | `mean (n,)`, `cov (n, n)`, `diffuse_cov (n, n)` and `step` or None |
| `GaussianFactor` | square-root filters    | `mean (n,)`, `factor (n, n)` with cov = factor factor'             |
| `Categorical`    | HMM                    | `log_probs (K,)`, `window (order, D)` of an AR-HMM or None         |
| `Point`          | RNN                    | `state (H,)`, `previous (D,)`: the encoded observation fed back    |
| `Window`         | NeuralAR               | `values (order, width)`, as the head encodes observations          |
| `Mixture`        | switching models       | `log_weights (M,)`, `components`: a belief with batch `(*batch, M)`|
| `Particles`      | Monte Carlo filters    | `log_weights (N,)`, `values (N, n)`; `draw ()`, `origins (N, n)`   |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from probseq.ops.elementwise import exponential

BeliefT = TypeVar("BeliefT", bound=tuple[Any, ...])


class Gaussian(NamedTuple):
    """N(mean, cov); while `diffuse_cov` is non-zero the density is improper in those directions.

    `step` is the time that the belief is about, an integer, where the model's matrices vary in time.
    """

    mean: Tensor
    cov: Tensor
    diffuse_cov: Tensor | None = None
    step: Tensor | None = None

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (1, 2, 2, 0)

    @property
    def std(self) -> Tensor:
        """Marginal standard deviations, (*batch, n)."""
        return torch.diagonal(self.cov, dim1=-2, dim2=-1).clamp(min=0).sqrt()


class GaussianFactor(NamedTuple):
    """N(mean, factor factor')."""

    mean: Tensor
    factor: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (1, 2)

    @property
    def cov(self) -> Tensor:
        return self.factor @ self.factor.mT


class Categorical(NamedTuple):
    """A table of log-probabilities over K states; of an AR-HMM also the last rows, the newest first."""

    log_probs: Tensor
    window: Tensor | None = None

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (1, 2)

    @property
    def probs(self) -> Tensor:
        return exponential(self.log_probs)


class Point(NamedTuple):
    """The activities of a recurrent network and the encoded observation that its next step reads.

    `step` is the time that the belief is about, an integer, of an echo state network: its first steps are a washout.
    """

    state: Tensor
    previous: Tensor
    step: Tensor | None = None

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (1, 1, 0)


class Window(NamedTuple):
    """The last `order` observations as a network reads them, the newest first."""

    values: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (2,)


class Mixture(NamedTuple):
    """Weighted components: a belief whose batch shape ends in the number of components."""

    log_weights: Tensor
    components: Any

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (1, 1)

    @property
    def probs(self) -> Tensor:
        """The weights, (*batch, M): of a switching model the probabilities of its regimes."""
        return exponential(self.log_weights)

    @property
    def mean(self) -> Tensor:
        """The mean of the whole, (*batch, n), of Gaussian components."""
        return (self.probs.unsqueeze(-1) * self.components.mean).sum(-2)

    @property
    def cov(self) -> Tensor:
        """The covariance of the whole, (*batch, n, n), of Gaussian components."""
        away = self.components.mean - self.mean.unsqueeze(-2)
        inside = (self.probs[..., None, None] * self.components.cov).sum(-3)
        return inside + (self.probs.unsqueeze(-1) * away).mT @ away


class Particles(NamedTuple):
    """Weighted draws of the state.

    A filter also keeps the number of the next random draw and, before an update, what the values were drawn around.
    """

    log_weights: Tensor
    values: Tensor
    draw: Tensor | None = None
    origins: Tensor | None = None

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (1, 2, 0, 2)

    @property
    def mean(self) -> Tensor:
        """The weighted mean, (*batch, n)."""
        return (self.log_weights.exp().unsqueeze(-1) * self.values).sum(-2)

    @property
    def cov(self) -> Tensor:
        """The weighted covariance, (*batch, n, n)."""
        away = self.values - self.mean.unsqueeze(-2)
        return (self.log_weights.exp().unsqueeze(-1) * away).mT @ away

    @property
    def effective_size(self) -> Tensor:
        """1 / sum of squared weights, from 1 to N, (*batch,)."""
        return (-torch.logsumexp(2 * self.log_weights, -1)).exp()


def map_tensors(function: Callable[[Tensor, int], Tensor], belief: BeliefT, extra: int = 0) -> BeliefT:
    """Apply `function(field, number of its event axes)` to every tensor of a belief."""
    dims: tuple[int, ...] = getattr(belief, "event_dims", (1,) * len(belief))

    def one(field: Any, dim: int) -> Any:
        if field is None:
            return None
        if isinstance(field, Tensor):
            return function(field, dim + extra)
        return map_tensors(function, field, extra + dim)

    return type(belief)(*(one(field, dim) for field, dim in zip(belief, dims, strict=True)))


def zip_tensors(function: Callable[[list[Tensor], int], Tensor], beliefs: Sequence[BeliefT]) -> BeliefT:
    """Apply `function(the same field of every belief, number of its event axes)` to every field."""
    columns: list[list[Tensor]] = []

    def collect(field: Tensor, dim: int) -> Tensor:
        rows.append(field)
        return field

    for belief in beliefs:
        rows: list[Tensor] = []
        map_tensors(collect, belief)
        columns.append(rows)
    fields = iter([list(column) for column in zip(*columns, strict=True)])
    return map_tensors(lambda _, dim: function(next(fields), dim), beliefs[0])


def at(belief: BeliefT, time: int | slice | Tensor) -> BeliefT:
    """The belief at one step (int, or one step per sequence as a (*batch,) tensor) or over a slice of steps."""

    def pick(field: Tensor, dim: int) -> Tensor:
        axis = field.ndim - dim - 1
        if isinstance(time, Tensor):
            index = time.reshape(*time.shape, *(1,) * (dim + 1)).expand(*time.shape, 1, *field.shape[axis + 1 :])
            return field.gather(axis, index).squeeze(axis)
        return field[(slice(None),) * axis + (time,)]

    return map_tensors(pick, belief)


def stack(beliefs: Sequence[BeliefT]) -> BeliefT:
    """Stack beliefs of successive steps along a new time axis. Satisfies at(stack(b), t) == b[t]."""
    return zip_tensors(lambda fields, dim: torch.stack(fields, dim=fields[0].ndim - dim), beliefs)


def where(mask: Tensor, first: BeliefT, second: BeliefT) -> BeliefT:
    """The first belief where `mask` (*batch,) holds, the second elsewhere."""

    def choose(fields: list[Tensor], dim: int) -> Tensor:
        return torch.where(mask.reshape(*mask.shape, *(1,) * dim), fields[0], fields[1])

    return zip_tensors(choose, [first, second])


def detach(belief: BeliefT) -> BeliefT:
    """The same belief without its history of gradients."""
    return map_tensors(lambda field, _: field.detach(), belief)


def reshape_batch(belief: BeliefT, old: int, batch_shape: Sequence[int]) -> BeliefT:
    """Replace the first `old` axes of every field by `batch_shape`."""
    return map_tensors(lambda field, _: field.reshape(*batch_shape, *field.shape[old:]), belief)


def repeat(belief: BeliefT, n_copies: int) -> BeliefT:
    """Add a last batch axis of `n_copies` equal beliefs."""

    def copies(field: Tensor, dim: int) -> Tensor:
        axis = field.ndim - dim
        return field.unsqueeze(axis).expand(*field.shape[:axis], n_copies, *field.shape[axis:])

    return map_tensors(copies, belief)


def same_shape(first: Any, second: Any) -> bool:
    """Whether two beliefs are of one class with fields of equal shapes; a field that one of them lacks is no matter."""
    return type(first) is type(second) and all(
        a is None or b is None or (a.shape == b.shape if isinstance(b, Tensor) else same_shape(a, b))
        for a, b in zip(first, second, strict=True)
    )


def describe(belief: Any) -> str:
    """The class and the shapes of a belief, in words."""
    if not isinstance(belief, tuple):
        return type(belief).__name__
    fields = zip(getattr(belief, "_fields", range(len(belief))), belief, strict=True)
    shapes = [f"{name} {tuple(field.shape)}" for name, field in fields if isinstance(field, Tensor)]
    return f"{type(belief).__name__} ({', '.join(shapes)})"


def to_numpy(belief: BeliefT) -> BeliefT:
    """The same NamedTuple with numpy arrays for tensors."""

    def array(field: Any) -> Any:
        if isinstance(field, Tensor):
            return np.asarray(field.detach().cpu())
        return None if field is None else to_numpy(field)

    return type(belief)(*(array(field) for field in belief))
