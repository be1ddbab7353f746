"""A network that labels sequences: a label for every step, or one for the whole.

    h = reader(u)                                  # a cell, or two that read from both ends
    p(label_t | u) = softmax(V h_t + c)            # per="step"
    p(label | u) = softmax(V h_end + c)            # per="sequence": after the last step each cell reads

Labels given u are independent, so the log-probability of a labelling is a sum and the best one is the best label at
each step. A label that is missing (NaN) adds nothing. Inputs are brought to mean 0 and spread 1 by a fit.

Graves, A. & Schmidhuber, J. (2005). Framewise phoneme classification with bidirectional LSTM. Neural Networks 18.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from probseq import beliefs as B
from probseq.beliefs import Point
from probseq.cells import Bidirectional, Cell
from probseq.cells.bidirectional import joined, last
from probseq.checks import whole_number
from probseq.emissions.head import Activities
from probseq.emissions.heads import Categorical
from probseq.labelling import SequenceLabeller
from probseq.layout import Paths, leave
from probseq.randomness import spawn
from probseq.sequences import Sequences


class Labeller(SequenceLabeller):
    """p(labels | u) by a recurrent network, `Labeller(9, input_dim=12, reader=Bidirectional(LSTM(32), LSTM(32)))`.

    Labels are integers 0 .. n_labels - 1: one for each step of u, or with `per="sequence"` one for each sequence.
    """

    fit_methods: ClassVar[tuple[str, ...]] = ("gradient", "hessian_free")
    optimizer: ClassVar[Literal["lbfgs", "adam"]] = "adam"
    gradient_tolerance: ClassVar[float] = 1e-6
    real_valued: ClassVar[bool] = False

    def __init__(
        self,
        n_labels: int,
        *,
        input_dim: int,
        reader: Cell | Bidirectional,
        per: Literal["step", "sequence"] = "step",
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(reader, (Cell, Bidirectional)):
            raise TypeError(f"reader must be a Cell or Bidirectional, got {reader!r}")
        if per not in ("step", "sequence"):
            raise ValueError(f'per must be "step" or "sequence", got {per!r}')
        self.n_labels, self.input_dim = whole_number("n_labels", n_labels), whole_number("input_dim", input_dim)
        self.per, self.dtype = per, dtype
        reader_seed, head_seed = spawn(seed, 2)
        self.reader, self.head = reader, Categorical(self.n_labels)
        reader.bind(self.input_dim, dtype=dtype, generator_seed=reader_seed)
        self.head.bind(reader.output_size, 1, dtype=dtype, generator_seed=head_seed)
        self.input_shift: Tensor
        self.input_scale: Tensor
        self.register_buffer("input_shift", torch.zeros(self.input_dim, dtype=torch.float64))
        self.register_buffer("input_scale", torch.ones(self.input_dim, dtype=torch.float64))
        self.validation_share: float | None = None
        self.eval()

    def sizes(self) -> dict[str, Any]:
        names = ("n_labels", "input_dim", "reader", "per", "dtype")
        return {name: getattr(self, name) for name in names}

    # ---------------------------------------------------------------- what a labeller does

    def log_prob(self, labels: Any, u: Any, *, lengths: Any = None) -> Tensor:
        """log p(labels | u), (*batch,), differentiable; labels (*batch, time), or (*batch,) per sequence."""
        sequences = self._door(labels, u, lengths)
        return self._log_prob(sequences.flat()).reshape(sequences.batch_shape)

    @torch.no_grad()
    def probs(self, u: Any, *, lengths: Any = None) -> Any:
        """p(label | u), (*batch, time, n_labels), or (*batch, n_labels) per sequence; a list for a list."""
        sequences = self._unlabelled(u, lengths)
        logits = self.head._outputs(self._outputs(sequences.flat())).to(torch.float64)
        return self._leave(torch.softmax(logits, -1), sequences)

    @torch.no_grad()
    def decode(self, u: Any, *, lengths: Any = None) -> Any:
        """The most probable labels, (*batch, time) int64, or (*batch,) per sequence; a list of labels for a list."""
        sequences = self._unlabelled(u, lengths)
        return self._leave(self.head._outputs(self._outputs(sequences.flat())).argmax(-1), sequences)

    def fit(self, labels: Any, u: Any, *, lengths: Any = None, seed: int | None = None, **options: Any) -> Self:
        """Learn in place by Adam and return self; options as for `probseq.learning.fit.fit`.

        `validation` is a share, or a pair (labels, u). Of ten sequences or more a fifth is held back for early stopping
        unless it is given.
        """
        sequences = self._door(labels, u, lengths)
        self.validation_share = 0.2 if sequences.lengths.numel() >= 10 else None
        return self._fit(sequences, seed=seed, **options)

    # ---------------------------------------------------------------- data

    def _door(self, labels: Any, u: Any, lengths: Any = None) -> Sequences:
        """Labels as observations, with the inputs; per sequence they stand at the last step."""
        if self.per == "sequence":
            sequences = self._unlabelled(u, lengths)
            given = torch.as_tensor(labels, dtype=torch.float64)
            if tuple(given.shape) != sequences.batch_shape:
                raise ValueError(
                    f"labels must have one entry for each sequence, {sequences.batch_shape}; got {tuple(given.shape)}"
                )
            ends = torch.arange(sequences.n_steps) == sequences.lengths.unsqueeze(-1) - 1
            values = torch.where(ends, given.unsqueeze(-1), torch.nan).unsqueeze(-1)
            packed = Sequences.of(values, sequences.inputs, lengths=sequences.lengths if values.ndim > 2 else None)
        else:
            packed = Sequences.of(labels, u, lengths=lengths)
        if packed.event_shape != (1,):
            raise ValueError(f"labels must be integers (*batch, time), got {tuple(packed.values.shape)}")
        if packed.inputs is None or packed.inputs.shape[-1] != self.input_dim:
            width = None if packed.inputs is None else packed.inputs.shape[-1]
            raise ValueError(f"u must have {self.input_dim} columns (input_dim), got {width}")
        bad = self.head.invalid(packed.values) & packed.observed
        if bool(bad.any()):
            raise ValueError(f"labels must be {self.head.support}, got {packed.values[bad][0].item():g}")
        if int(packed.lengths.min() if packed.lengths.numel() else 0) < 1:
            raise ValueError("u must have at least one step in every sequence, got none in some")
        return packed

    def _unlabelled(self, u: Any, lengths: Any) -> Sequences:
        """The inputs through the door, as inputs of nothing."""
        read = Sequences.of(u, lengths=lengths)
        if not read.complete:
            raise ValueError("u must be complete, got missing values")
        if read.event_shape != (self.input_dim,):
            raise ValueError(f"u must have {self.input_dim} columns (input_dim), got shape {tuple(read.values.shape)}")
        return replace(read, inputs=read.values, one_batch_axis=None)._with_flat()

    def _leave(self, result: Tensor, sequences: Sequences) -> Any:
        if self.per == "step":
            return leave(Paths(result), sequences, unwrap=True)
        return result.reshape(*sequences.batch_shape, *result.shape[1:])

    # ---------------------------------------------------------------- the network

    def _standard(self, sequences: Sequences) -> Tensor:
        assert sequences.inputs is not None
        return ((sequences.inputs - self.input_shift) / self.input_scale).to(self.dtype)

    def _outputs(self, sequences: Sequences) -> Tensor:
        """What the head reads for a flat batch: (B, T, output) or (B, output)."""
        into = self._standard(sequences)
        if isinstance(self.reader, Bidirectional):
            return self.reader.read(into, sequences.lengths)[self.per == "sequence"]
        outputs = self.reader.sequence(into, self.reader.begin((len(into),), into[:, 0]))
        return outputs if self.per == "step" else last(outputs, sequences.lengths)

    def _log_prob(self, sequences: Sequences) -> Tensor:
        outputs, (labels, observed) = self._outputs(sequences), self._targets(sequences)
        scores = self.head.log_prob(outputs, labels, observed)
        return scores.sum(-1) if self.per == "step" else scores

    def _targets(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """Labels and which of them are there, beside what the head reads."""
        if self.per == "step":
            return sequences.values, sequences.observed
        return last(sequences.values, sequences.lengths), last(sequences.observed, sequences.lengths)

    def _unrolled(self, sequences: Sequences) -> Activities:
        """What the network does with a flat batch, twice differentiable; for curvature."""
        into, lengths, reader = self._standard(sequences), sequences.lengths, self.reader
        if isinstance(reader, Bidirectional):
            cells, parts = (reader.ahead, reader.back), reader.unrolled(into, lengths)
            shown = reader.ahead.output(parts[0]), reader.back.output(parts[1])
            outputs = joined(*shown, lengths)[self.per == "sequence"]
        else:
            cells, parts = (reader,), (reader.unrolled(into, reader.initial_state((len(into),))),)
            outputs = reader.output(parts[0])
            outputs = outputs if self.per == "step" else last(outputs, lengths)
        metric = torch.cat([c.state_metric(s.detach()) for c, s in zip(cells, parts, strict=True)], -1)
        metric = torch.where(sequences.inside.unsqueeze(-1), metric, 0.0)
        values, observed = self._targets(sequences)
        return Activities(outputs, values, observed, torch.cat(parts, -1), metric)

    def _before(self, sequences: Sequences) -> Point:
        if self.per == "sequence" or isinstance(self.reader, Bidirectional):
            raise ValueError("truncate needs a reader that runs forwards and labels for every step")
        start = self.reader.begin((len(sequences.lengths),), self._standard(sequences)[:, 0])
        return Point(start, start.new_zeros(len(start), 0))

    def _log_prob_onward(self, sequences: Sequences, before: Point) -> tuple[Tensor, Point]:
        """log p(labels | u) of a window, (B,), from the reader's state before it, and that at its end, detached."""
        assert isinstance(self.reader, Cell)
        into = self._standard(sequences)
        outputs, state = self.reader.carry(into, before.state)
        if not sequences.rectangular:
            with torch.no_grad():
                state = last(self.reader.states(into, before.state), sequences.lengths)
        log_prob = self.head.log_prob(outputs, sequences.values, sequences.observed).sum(-1)
        return log_prob, B.detach(B.where(sequences.lengths > 0, Point(state, before.previous), before))

    # ---------------------------------------------------------------- what a fit asks

    def _start(self, sequences: Sequences, seed: int) -> None:
        """Draw the weights; the head starts at the labels' shares, inputs are standardised."""
        reader_seed, head_seed = spawn(seed, 2)
        self.reader.reset_parameters(reader_seed)
        self.head.reset_parameters(head_seed)
        self.head.start_from(sequences.values, sequences.observed)
        shift, scale = sequences.input_units(self.reader.n_given if isinstance(self.reader, Cell) else 0)
        self.input_shift.copy_(shift)
        self.input_scale.copy_(scale)
