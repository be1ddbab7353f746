"""The prediction network of Graves: a pen's next move as a mixture of places, from all it did before.

    for t in range(T):
        (dx, dy)_t ~ sum_k w_k N(m_k, S_k);   lift_t ~ Bernoulli(e)     # K = 20; all of them from h^1_t .. h^N_t
        h^1_{t+1} = LSTM(x_t, h^1_t)                                    # x_t = (dx, dy, lift)_t, offsets standardised
        h^n_{t+1} = LSTM(x_t, h^{n-1}_{t+1}, h^n_t)                     # peepholes; skips from x and to the output

| network of the paper (section 4.1) | here                                      |
|------------------------------------|-------------------------------------------|
| one hidden layer of 900 cells      | `prediction_network([900])`               |
| three hidden layers of 400 cells   | `prediction_network([400, 400, 400])`     |

It is a `probseq.RNN`: it filters, scores, samples, forecasts, and `stream()` follows a pen point by point. `PAPER` are
the paper's settings for `fit`, with `weight_noise=AdaptiveNoise()` for its last row.

`evaluate` gives the paper's figures: log-loss per line, and the squared error of the mean. A density has a unit; the
head keeps the one its network works in (mean and spread of the training offsets), so scores are those of the data as
they are given, and `LineScores` says what they are in any other unit, exactly.

Graves, A. (2013). Generating sequences with recurrent neural networks. arXiv:1308.0850, sections 2 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from probseq.base import StateSpaceModel
from probseq.cells import LSTM, Stack
from probseq.emissions.heads import Bernoulli, MixtureDensity, Product
from probseq.handwriting.optimizer import GravesRMSprop
from probseq.handwriting.strokes import Strokes, Units
from probseq.models.rnn import RNN
from probseq.sequences import Sequences

#: the paper's training, as options of `fit`; it clips derivatives inside the network, here the gradient is clipped
PAPER: dict[str, Any] = {"optimizer": GravesRMSprop, "learning_rate": 1e-4, "clip_value": 10.0, "clip_norm": None}
#: lines that are scored together
TOGETHER = 64


def pen_head(n_components: int = 20, scale_floor: float = 1e-3) -> Product:
    """What a network of pens says: a mixture of bivariate Gaussians, and whether the pen is lifted.

    The floor of a standard deviation is in units of the spread of the offsets, and bounds the density where a
    recording repeats itself exactly.
    """
    return Product([MixtureDensity(n_components, "full", scale_floor=scale_floor), Bernoulli()], [2, 1])


def prediction_network(
    hidden_sizes: Sequence[int] = (900,),
    n_components: int = 20,
    *,
    scale_floor: float = 1e-3,
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
) -> RNN:
    """A network for lines (T, 3) of dx, dy, lift; one peephole LSTM for each of `hidden_sizes`."""
    if not hidden_sizes:
        raise ValueError("hidden_sizes must have at least one layer, got none")
    layers = [LSTM(size, peepholes=True) for size in hidden_sizes]
    head = pen_head(n_components, scale_floor)
    return RNN(3, cell=Stack(layers, skip=True), head=head, dtype=dtype, seed=seed)


class LineScores(NamedTuple):
    """What a network makes of lines, in the unit in which they were given.

    `nats` (n_lines,) is -log p of each line, Graves's log-loss; `squared_error` (n_lines, 2) the sum over its points of
    the squares of (dx, dy) minus their mean under the network; `n_points` (n_lines,).
    """

    nats: NDArray[np.float64]
    squared_error: NDArray[np.float64]
    n_points: NDArray[np.int64]

    @property
    def per_line(self) -> float:
        """Nats per line, the paper's figure."""
        return float(self.nats.mean())

    @property
    def per_point(self) -> float:
        """Nats per point."""
        return float(self.nats.sum() / self.n_points.sum())

    @property
    def error_per_point(self) -> float:
        """Squared error per point, both coordinates together."""
        return float(self.squared_error.sum() / self.n_points.sum())

    def within(self, units: Units) -> LineScores:
        """The scores of (offset - shift) / scale: of T points T (log scale_x + log scale_y) nats less."""
        scale = np.array(units.scale)
        return LineScores(self.nats - self.n_points * np.log(scale).sum(), self.squared_error / scale**2, self.n_points)

    def outside(self, units: Units) -> LineScores:
        """Of scores of lines given in `units`, those in the recording's own. Satisfies s.within(u).outside(u) == s."""
        return self.within(Units((0.0, 0.0), (1 / units.scale[0], 1 / units.scale[1])))

    def __str__(self) -> str:
        return (
            f"{self.per_line:.1f} nats per line, {self.per_point:.3f} per point, squared error "
            f"{self.error_per_point:.3g} per point, {len(self.nats)} lines"
        )


@torch.no_grad()
def evaluate(model: StateSpaceModel[Any], lines: Sequence[Strokes], inputs: Sequence[Any] | None = None) -> LineScores:
    """Scores of lines as they are given; `inputs` are a network's, one for each line, such as its text."""
    if not lines:
        raise ValueError("lines must have at least one, got none")
    parts = [_evaluate(model, lines[k : k + TOGETHER], inputs and inputs[k : k + TOGETHER]) for k in _starts(lines)]
    return LineScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _starts(lines: Sequence[Strokes]) -> range:
    return range(0, len(lines), TOGETHER)


def _evaluate(model: StateSpaceModel[Any], lines: Sequence[Strokes], inputs: Any) -> LineScores:
    rows = [line.to_array() for line in lines]
    sequences = Sequences.of(rows, inputs)
    y, u = sequences.values, sequences.inputs
    filtered = model._filter(model._door(sequences).flat(), None)
    error = (y[..., :2] - model.emit(filtered.predicted, u).mean[..., :2]).square()
    inside = sequences.inside
    nats = -torch.where(inside, filtered.log_prob, 0.0).sum(-1)
    squares = torch.where(inside.unsqueeze(-1), error, 0.0).sum(-2)
    return LineScores(nats.numpy(), squares.numpy(), sequences.lengths.numpy())
