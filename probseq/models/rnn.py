"""The recurrent network as a belief-state updater: the hidden state is a learned, deterministic belief.

    h_0 = cell(start, 0, u_0)
    for t in range(T):
        y_t ~ head(h_t)
        h_{t+1} = cell(h_t, y_t, u_{t+1})

`start`, the initial activities, is learned like the weights. The belief before y_t is h_t; conditioning on y_t
only stores its encoding, which the cell reads in the next `predict`. With `feedback=False` the network reads the
inputs alone (a transducer) and y is nothing but its target.

A network cannot integrate out what it has not seen: where a coordinate of y_t is missing, its expectation under
the head is fed back instead, and log p(y) is then an approximation. Missing targets with `feedback=False`, and
missing steps after the last observed one, are exact.

With `start_from_inputs`, the cell's start depends on the first step's inputs, start + S u_0 with S learned: one to
many, a sequence from features that stand in u_0 (zeros may follow), as a caption from what was seen in a picture.

Weights on what is read start at a size for columns of mean square 1, as standardised inputs have. Of M symbols only one
column is on at a time, so their weights start sqrt(M) times as large; with small ones a network is slow to tell symbols
apart.

Reference: Elman (1990), Finding structure in time; Graves (2013), arXiv:1308.0850, sec. 2, for next-step models.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from probseq import beliefs as B
from probseq.base import Filtered, StateSpaceModel
from probseq.beliefs import Point
from probseq.cells import Bidirectional, Cell
from probseq.cells.bidirectional import last
from probseq.checks import whole_number
from probseq.emissions.head import Activities, Head
from probseq.models.padding import hold, seen_first
from probseq.randomness import spawn
from probseq.sequences import Sequences, step_input

#: steps that are scored at once where no gradient is wanted
PIECE = 1024
#: steps of all sequences together, likewise
TOGETHER = 65_536


class RNN(StateSpaceModel[Point]):
    """A recurrent network with an output density, `RNN(1, cell=GRU(hidden_size=16), head=heads.Gaussian())`.

    `obs_dim` is the width of y (1 for symbols), `input_dim` that of u. In training a share `dropout` of what the head
    reads is set to zero (Zaremba et al. 2014). Computes in `dtype`; log-probabilities are float64. The weights are
    drawn from `seed`, and drawn anew by a fit unless they were fitted or loaded.
    """

    fit_methods: ClassVar[tuple[str, ...]] = ("gradient", "hessian_free")
    optimizer: ClassVar[Literal["lbfgs", "adam"]] = "adam"
    validation_share: ClassVar[float | None] = 0.2

    def __init__(
        self,
        obs_dim: int = 1,
        *,
        cell: Cell,
        head: Head,
        input_dim: int = 0,
        feedback: bool = True,
        start_from_inputs: bool = False,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(cell, Bidirectional):
            raise TypeError(
                "Bidirectional reads the whole sequence before it answers: use it in a Labeller, not an RNN"
            )
        if not isinstance(cell, Cell):
            raise TypeError(f"cell must be a Cell such as probseq.cells.GRU(16), got {cell!r}")
        if not isinstance(head, Head):
            raise TypeError(f"head must be a Head such as probseq.heads.Gaussian(), got {head!r}")
        if not feedback and not input_dim:
            raise ValueError("a network with feedback=False reads only inputs, so input_dim must be positive")
        if start_from_inputs and not input_dim:
            raise ValueError("start_from_inputs=True reads u_0, so input_dim must be positive")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be a share in [0, 1), got {dropout!r}")
        obs_dim = whole_number("obs_dim", obs_dim)
        self.input_dim = whole_number("input_dim", input_dim, least=0)
        self.feedback, self.dropout, self.dtype = feedback, float(dropout), dtype
        self.reads_observations = feedback
        cell_seed, head_seed = spawn(seed, 2)
        self.head = head
        head.bind(cell.output_size, obs_dim, dtype=dtype, generator_seed=head_seed)
        self.cell = cell
        if cell.input_size is None:
            cell.bind(self._width + self.input_dim, dtype=dtype, generator_seed=cell_seed)
            cell.scale_inputs(self._input_gains())
        else:
            cell.bind(self._width + self.input_dim, dtype=dtype)
        shape = (cell.state_size, self.input_dim)
        self.start_map = torch.nn.ParameterDict(
            {"weights": torch.zeros(shape, dtype=dtype)} if start_from_inputs else {}
        )
        self.event_shape = torch.Size([obs_dim])
        self.real_valued = head.real_valued
        self.input_shift: Tensor
        self.input_scale: Tensor
        self.register_buffer("input_shift", torch.zeros(self.input_dim, dtype=torch.float64))
        self.register_buffer("input_scale", torch.ones(self.input_dim, dtype=torch.float64))
        self.eval()

    @classmethod
    def from_lds(cls, lds: Any, *, steady_state: bool = False) -> RNN:
        """The Kalman filter of an LDS as a network: `cells.Kalman`, or a linear network whose gain has settled.

        See `probseq.evaluation.convert`. Satisfies from_lds(lds).log_prob(y) == lds.log_prob(y).
        """
        from probseq.evaluation.convert import from_lds

        return from_lds(lds, steady_state=steady_state)

    @classmethod
    def from_hmm(cls, hmm: Any) -> RNN:
        """The forward algorithm of an HMM as a network. Satisfies from_hmm(hmm).log_prob(y) == hmm.log_prob(y)."""
        from probseq.evaluation.convert import from_hmm

        return from_hmm(hmm)

    @property
    def start_weights(self) -> Tensor | None:
        """S (state_size, input_dim), or None without `start_from_inputs`."""
        return self.start_map.get("weights")

    def _input_gains(self) -> Tensor:
        """1 / the root mean square of what the cell reads, by column; inputs are standardised by a fit."""
        fed_back = self.head.input_gains() if self.feedback else torch.zeros(0, dtype=torch.float64)
        return torch.cat([fed_back, torch.ones(self.input_dim, dtype=torch.float64)])

    @property
    def _width(self) -> int:
        return self.head.input_width if self.feedback else 0

    def sizes(self) -> dict[str, Any]:
        return {
            "obs_dim": self.event_shape[0],
            "cell": self.cell,
            "head": self.head,
            "input_dim": self.input_dim,
            "feedback": self.feedback,
            "start_from_inputs": self.start_weights is not None,
            "dropout": self.dropout,
            "dtype": self.dtype,
        }

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Point:
        """The cell's state after its learned start has read u_0 (and zeros for the observation before the first)."""
        nothing = torch.zeros(*batch_shape, self._width, dtype=self.dtype)
        return Point(self.cell.step(self._read(nothing, u), self._begin(batch_shape, u)), nothing)

    def predict(self, belief: Point, u: Tensor | None = None) -> Point:
        """One step of the cell on the last observation and the input moved into."""
        return Point(self.cell.step(self._read(belief.previous, u), belief.state), belief.previous)

    def update(
        self, belief: Point, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Point, Tensor]:
        """Store y's encoding, its expectation where missing. Satisfies update(b, y)[1] == emit(b).log_prob(y)."""
        output = self._shown(self.cell.output(belief.state))
        return Point(belief.state, self._encode(output, y, observed)), self.head.log_prob(output, y, observed)

    def emit(self, belief: Point, u: Tensor | None = None) -> Distribution:
        """The head's density at the network's output."""
        return self.head.distribution(self.cell.output(belief.state))

    def _shown(self, outputs: Tensor) -> Tensor:
        """What the head reads of the cell's outputs: all of them, but for dropout in training."""
        return torch.nn.functional.dropout(outputs, self.dropout, self.training) if self.dropout else outputs

    def _read(self, previous: Tensor, u: Tensor | None) -> Tensor:
        if u is None:
            return previous
        inputs = self._standard(u)
        return torch.cat([previous, inputs], -1) if self.feedback else inputs

    def _standard(self, u: Tensor) -> Tensor:
        return ((u - self.input_shift) / self.input_scale).to(self.dtype)

    def _begin(self, batch_shape: tuple[int, ...], u: Tensor | None) -> Tensor:
        """The cell's state before the first step, whose inputs are u: start + S u_0, or the start alone."""
        first = None if u is None else self._standard(u)
        start = self.cell.begin(batch_shape, first)
        if self.start_weights is None or first is None:
            return start
        return start + torch.nn.functional.linear(first, self.start_weights)

    def _first(self, sequences: Sequences) -> Tensor:
        """The same for a flat batch."""
        u = None if sequences.inputs is None or not sequences.n_steps else sequences.inputs[:, 0]
        return self._begin((len(sequences.values),), u)

    def _encode(self, output: Tensor, y: Tensor, observed: Tensor | None) -> Tensor:
        if not self.feedback:
            return y.new_zeros(*y.shape[:-1], 0, dtype=self.dtype)
        return self.head.fill(output, self.head.encode(y), observed)

    # ---- whole sequences

    def _log_prob(self, sequences: Sequences) -> Tensor:
        if not sequences.n_steps or (self.feedback and not seen_first(sequences)):
            return super()._log_prob(sequences)
        if not torch.is_grad_enabled() and len(sequences.lengths) > max(1, TOGETHER // sequences.n_steps):
            return self._log_prob_by_rows(sequences)
        if sequences.complete and sequences.n_steps > PIECE and not torch.is_grad_enabled():
            return self._log_prob_in_pieces(sequences)
        values = sequences.values
        observed = None if sequences.complete and sequences.rectangular else sequences.observed
        outputs = self._shown(self.cell.sequence(self._inputs(sequences), self._first(sequences)))
        return self.head.log_prob(outputs, values, observed).sum(-1)

    def _unrolled(self, sequences: Sequences) -> Activities:
        """What the network does with a flat batch, twice differentiable; for curvature."""
        if self.feedback and not seen_first(sequences):
            states = super()._filter(sequences, None).predicted.state
        else:
            states = self.cell.unrolled(self._inputs(sequences), self._first(sequences))
        metric = torch.where(sequences.inside.unsqueeze(-1), self.cell.state_metric(states.detach()), 0.0)
        return Activities(self.cell.output(states), sequences.values, sequences.observed, states, metric)

    def _log_prob_by_rows(self, sequences: Sequences) -> Tensor:
        """The same a few sequences at a time, in memory that does not grow with their number; without gradients."""
        rows = torch.arange(len(sequences.lengths)).split(max(1, TOGETHER // sequences.n_steps))
        parts = [sequences.select(some) for some in rows]
        return torch.cat([self._log_prob(part.steps(0, int(part.lengths.max()))) for part in parts])

    def _log_prob_in_pieces(self, sequences: Sequences) -> Tensor:
        """The same a piece at a time, in memory that does not grow with the length; without gradients."""
        before = self._before(sequences)
        total = sequences.values.new_zeros(len(sequences.values))
        for start in range(0, sequences.n_steps, PIECE):
            piece = sequences.steps(start, min(start + PIECE, sequences.n_steps))
            log_prob, before = self._log_prob_onward(piece, before)
            total = total + log_prob
        return total

    def _before(self, sequences: Sequences) -> Point:
        first = self._first(sequences)
        return Point(first, first.new_zeros(len(first), self._width))

    def _log_prob_onward(self, sequences: Sequences, before: Point) -> tuple[Tensor, Point]:
        if self.feedback and not sequences.complete:
            filtered = super()._filter(sequences, self.predict(before, step_input(sequences.inputs, 0)))
            log_prob, after = filtered.log_prob.sum(-1), B.at(filtered.updated, -1)
        else:
            inputs, values = self._inputs(sequences, before.previous), sequences.values
            outputs, state = self.cell.carry(inputs, before.state)
            if not sequences.rectangular:
                with torch.no_grad():
                    state = last(self.cell.states(inputs, before.state), sequences.lengths)
            observed = None if sequences.complete and sequences.rectangular else sequences.observed
            log_prob = self.head.log_prob(self._shown(outputs), values, observed).sum(-1)
            after = Point(state, self._encode(outputs[:, -1], last(values, sequences.lengths), None))
        return log_prob, B.detach(B.where(sequences.lengths > 0, after, before))

    def _filter(self, sequences: Sequences, initial: Point | None) -> Filtered[Point]:
        if not sequences.complete or sequences.n_steps == 0:
            return super()._filter(sequences, initial)
        inputs = self._inputs(sequences)
        if initial is None:
            states = self.cell.states(inputs, self._first(sequences))
            first = inputs.new_zeros(len(inputs), self._width)
        else:
            states, first = initial.state.unsqueeze(1), initial.previous
            states = torch.cat([states, self.cell.states(inputs[:, 1:], initial.state)], 1)
        states = hold(states, sequences)
        outputs = self.cell.output(states)
        previous = hold(self._encode(outputs, sequences.values, None), sequences)
        before = torch.cat([first.unsqueeze(1), previous[:, :-1]], 1)
        observed = None if sequences.rectangular else sequences.observed
        score = self.head.log_prob(outputs, sequences.values, observed)
        return Filtered(Point(states, before), Point(states, previous), score)

    def _inputs(self, sequences: Sequences, first: Tensor | None = None) -> Tensor:
        """What the cell reads at every step: the encoded observation before it, zeros at first, and the input."""
        values = sequences.values
        if not self.feedback:
            return self._read(values, sequences.inputs)
        encoded = self.head.encode(values)
        if first is not None:
            shifted = torch.cat([first.unsqueeze(1), encoded[:, :-1]], 1)
        else:
            shifted = torch.nn.functional.pad(encoded[:, :-1], (0, 0, 1, 0)) if sequences.n_steps else encoded
        return self._read(shifted, sequences.inputs)

    def _outside(self, values: Tensor) -> tuple[Tensor, str] | None:
        return None if self.real_valued else (self.head.invalid(values), self.head.support)

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        self.head.standardise(scale * self.head.shift + shift, scale * self.head.scale)

    def _start(self, sequences: Sequences, seed: int) -> None:
        """Draw the weights; the head starts at the marginal of the data, inputs are standardised."""
        cell_seed, head_seed = spawn(seed, 2)
        self.cell.reset_parameters(cell_seed)
        self.cell.scale_inputs(self._input_gains())
        self.head.reset_parameters(head_seed)
        if self.start_weights is not None:
            torch.nn.init.zeros_(self.start_weights)
        if self.real_valued:
            self.head.standardise(torch.zeros_like(self.head.shift), torch.ones_like(self.head.scale))
        self.head.start_from(sequences.values, sequences.observed, head_seed)
        if sequences.inputs is not None:
            shift, scale = sequences.input_units(self.cell.n_given)
            self.input_shift.copy_(shift)
            self.input_scale.copy_(scale)
