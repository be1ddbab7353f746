"""What a forecast can be asked: mean, intervals, quantiles, draws, the distribution itself.

`distribution` is the per-step marginal p(y_{T+h} | y_{0:T}) with batch shape (*batch, steps). Means and
quantiles are per coordinate (`probseq.marginals`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D

from probseq import beliefs as B
from probseq.beliefs import BeliefT
from probseq.checks import share
from probseq.marginals import coordinates_of, is_symbolic, quantile
from probseq.randomness import seeded
from probseq.sequences import Sequences, step_input

if TYPE_CHECKING:
    from probseq.base import StateSpaceModel


class Forecast:
    """The predictive distribution of the coming steps; pandas indexes continue in `to_frame`."""

    def __init__(self, distribution: D.Distribution, draw: Callable[[], Tensor], sequences: Sequences) -> None:
        self.distribution = distribution
        self._draw = draw
        self._sequences = sequences

    @property
    def steps(self) -> int:
        return self.distribution.batch_shape[-1]

    @property
    def mean(self) -> Tensor:
        """E[y_{T+h} | y], (*batch, steps, *event); symbols have none."""
        self._numeric("mean")
        return self.distribution.mean

    @property
    def probs(self) -> Tensor:
        """Probabilities of discrete events: (*batch, steps, M) for symbols, (*batch, steps, D) for binary vectors."""
        weights, base = coordinates_of(self.distribution)
        if not isinstance(base, (D.Categorical, D.Bernoulli)):
            raise ValueError(f"probs is for symbols and binary data, this forecast is {type(base).__name__}")
        symbols = isinstance(base, D.Categorical)
        probs = base.probs.squeeze(-2) if symbols else base.probs
        return probs if weights is None else (weights.unsqueeze(-1) * probs).sum(-2)

    @cached_property
    def samples(self) -> Tensor:
        """Joint draws of whole future paths, (n_samples, *batch, steps, *event)."""
        return self._draw()

    def quantile(self, q: float) -> Tensor:
        """The q-quantile per coordinate, (*batch, steps, *event)."""
        share("q", q)
        self._numeric("quantile")
        return quantile(self.distribution, q)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """The central interval of probability `level`, per coordinate."""
        share("level", level)
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def to_frame(self, level: float = 0.9) -> Any:
        """A pandas table that continues the index of the data: mean and interval, or the probabilities of symbols.

        Raises ValueError when the data had dates whose frequency cannot be told.
        """
        import pandas as pd

        columns = self._columns(level)
        batch = self.distribution.batch_shape[:-1]
        frames: list[Any] = []
        for i, place in enumerate(np.ndindex(*batch)):
            index = continue_index(self._index(i), self.steps, int(self._sequences.lengths[place]))
            frames.append(pd.DataFrame({name: values[place].numpy() for name, values in columns.items()}, index=index))
        if not batch:
            return frames[0]
        keys = [place[0] if len(place) == 1 else place for place in np.ndindex(*batch)]
        return pd.concat(frames, keys=keys, names=["sequence"])

    def _index(self, i: int) -> Any:
        indexes = self._sequences.indexes
        return indexes[i] if i < len(indexes) else None

    def _columns(self, level: float) -> dict[str, Tensor]:
        if is_symbolic(self.distribution):
            return {f"prob_{k}": self.probs[..., k] for k in range(self.probs.shape[-1])}
        percent = f"{100 * level:g}"
        lower, upper = self.interval(level)
        parts = {"mean": self.mean, f"lower_{percent}": lower, f"upper_{percent}": upper}
        width = self.distribution.event_shape[0]
        if width == 1:
            return {name: values[..., 0] for name, values in parts.items()}
        names = self._sequences.names or ()
        if len(set(names)) < width:  # none, or some that are the same
            names = tuple(str(i) for i in range(width))
        return {f"{column}_{part}": parts[part][..., i] for i, column in enumerate(names) for part in parts}

    def _numeric(self, what: str) -> None:
        if is_symbolic(self.distribution):
            raise ValueError(f"symbols have no {what}; use probs")


def forecast_from(
    model: StateSpaceModel[BeliefT],
    belief: BeliefT,
    future: Tensor | None,
    sequences: Sequences,
    steps: int,
    *,
    n_samples: int | None,
    seed: int | None,
) -> Forecast:
    """The forecast from a predicted belief of flat batch shape; `future` inputs are (*batch, steps, P).

    A family that marginalises is predicted without updates and its marginals are exact; elsewhere the marginals
    are the equal-weight mixture of `emit` over simulated paths.
    """
    batch, event = sequences.batch_shape, tuple(model.event_shape)
    flat = None if future is None else future.reshape(-1, steps, model.input_dim)
    n_paths = 1000 if n_samples is None else n_samples

    def draw() -> tuple[Tensor, BeliefT]:
        u = None if flat is None else flat.unsqueeze(1).expand(-1, n_paths, -1, -1)
        with torch.no_grad(), seeded(seed):
            return model._simulate(B.repeat(belief, n_paths), steps, u)

    def arranged(values: Tensor) -> Tensor:
        return values.movedim(1, 0).reshape(n_paths, *batch, steps, *event)

    if model.marginalises:
        path = [belief]
        for h in range(1, steps):
            path.append(model.predict(path[-1], step_input(flat, h)))
        distribution = model.emit(B.reshape_batch(B.stack(path), 1, batch), future)
        return Forecast(distribution, lambda: arranged(draw()[0]), sequences)
    values, paths = draw()
    by_step = B.map_tensors(lambda field, _: field.movedim(1, 2), paths)
    u = None if future is None else future.unsqueeze(-2).expand(*batch, steps, n_paths, -1)
    distribution = mixture_of_paths(model.emit(B.reshape_batch(by_step, 1, batch), u))
    drawn = arranged(values)
    return Forecast(distribution, lambda: drawn, sequences)


def continue_index(index: Any, steps: int, length: int) -> Any:
    """The next `steps` labels after a pandas index (0-based step numbers when there is none)."""
    import pandas as pd

    if index is None:
        return pd.RangeIndex(length, length + steps)
    name = index.name
    if isinstance(index, pd.PeriodIndex) and len(index):
        return pd.period_range(index[-1] + 1, periods=steps, freq=index.freq, name=name)
    if isinstance(index, (pd.DatetimeIndex, pd.TimedeltaIndex)):
        freq = index.freq or _inferred_frequency(index)
        if freq is None:
            raise ValueError(
                "the index of y has no frequency that can be inferred, so its dates cannot be continued; "
                "set one (y.asfreq(...)) or use .mean and .interval, which need no dates"
            )
        make = pd.date_range if isinstance(index, pd.DatetimeIndex) else pd.timedelta_range
        return make(index[-1], periods=steps + 1, freq=freq, name=name)[1:]
    if pd.api.types.is_integer_dtype(index) and len(index):
        gaps = np.diff(np.asarray(index))
        if not len(gaps) or (gaps == gaps[0]).all():
            step = int(gaps[0]) if len(gaps) else 1
            return pd.Index(index[-1] + step * np.arange(1, steps + 1), name=name)
    return pd.RangeIndex(length, length + steps)


def _inferred_frequency(index: Any) -> Any:
    import warnings

    import pandas as pd

    if len(index) < 3:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas announces another return type, both of which are understood
        return pd.infer_freq(index)


def mixture_of_paths(components: D.Distribution) -> D.Distribution:
    """The equal-weight mixture over the last batch axis."""
    equal = torch.zeros(components.batch_shape, dtype=torch.float64)
    return D.MixtureSameFamily(D.Categorical(logits=equal), components, validate_args=False)
