"""A network that reads handwriting: from the way of the pen to characters, without being told which point is which.

    x_t = (dx, dy, lifted), brought to mean 0 and spread 1
    h = cell(x)                                     # two cells that read from both ends, or one that reads on line
    p_t = softmax(V h_t + c)                        # over the characters and "nothing yet"
    log p(text | strokes) = log of the sum over all timings of the text      # `probseq.handwriting.ctc`

It is trained by that log-probability (its gradient is the difference of two expectations, Graves et al. 2006, equation
(16)), per character. Read are the labelling of the best path, or that of a prefix search with a model of the language.

Graves, A., Liwicki, M., Fernandez, S., Bertolami, R., Bunke, H. & Schmidhuber, J. (2009). A novel connectionist system
for unconstrained handwriting recognition. IEEE Trans. PAMI 31, 855-868.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from probseq.cells import Bidirectional, Cell
from probseq.cells.bidirectional import reverse
from probseq.emissions.heads import Categorical
from probseq.handwriting import ctc
from probseq.handwriting.language import Language
from probseq.handwriting.strokes import Strokes
from probseq.labelling import SequenceLabeller
from probseq.randomness import spawn
from probseq.sequences import Sequences

INPUT_DIM = 3


class Reader(SequenceLabeller):
    """p(text | strokes), `Reader("abc ", reader=Bidirectional(LSTM(64), LSTM(64)))`.

    Texts are strings of characters of `alphabet`, lines are `Strokes` in one unit (the recordings' own, or all
    normalised alike); a list of one goes with a list of the other. Labels are 1 + the place in the alphabet, 0 is the
    blank. A cell in place of a `Bidirectional` reads on line: `stream()`.
    """

    fit_methods: ClassVar[tuple[str, ...]] = ("gradient",)
    optimizer: ClassVar[Literal["lbfgs", "adam"]] = "adam"
    gradient_tolerance: ClassVar[float] = 1e-6
    real_valued: ClassVar[bool] = False

    def __init__(
        self,
        alphabet: str,
        *,
        reader: Cell | Bidirectional,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(alphabet, str) or not alphabet or len(set(alphabet)) != len(alphabet):
            raise ValueError(f"alphabet must be a string of different characters, got {alphabet!r}")
        if not isinstance(reader, (Cell, Bidirectional)):
            raise TypeError(f"reader must be a Cell or Bidirectional, got {reader!r}")
        self.alphabet, self.dtype = alphabet, dtype
        reader_seed, head_seed = spawn(seed, 2)
        self.reader, self.head = reader, Categorical(len(alphabet) + 1)
        reader.bind(INPUT_DIM, dtype=dtype, generator_seed=reader_seed)
        self.head.bind(reader.output_size, 1, dtype=dtype, generator_seed=head_seed)
        self.input_shift: Tensor
        self.input_scale: Tensor
        self.register_buffer("input_shift", torch.zeros(INPUT_DIM, dtype=torch.float64))
        self.register_buffer("input_scale", torch.ones(INPUT_DIM, dtype=torch.float64))
        self.validation_share: float | None = None
        self.eval()

    def sizes(self) -> dict[str, Any]:
        return {"alphabet": self.alphabet, "reader": self.reader, "dtype": self.dtype}

    # ---------------------------------------------------------------- what a reader does

    def log_prob(self, labels: Any, u: Any, *, lengths: Any = None) -> Tensor:
        """log p(text | line), () for a text and a line, (B,) for lists of them; differentiable."""
        texts, lines, single = _listed(labels, u, lengths)
        found = self._log_prob(self._door(texts, lines))
        return found[0] if single else found

    @torch.no_grad()
    def log_probs(self, line: Strokes) -> np.ndarray:
        """log p_t of the blank and of every character, (T, 1 + characters)."""
        return self._scores(self._inputs([line]))[0].to(torch.float64).numpy()

    def decode(
        self, u: Any, *, lengths: Any = None, beam: int | None = None, language: Language | None = None,
        weight: float = 1.0, bonus: float = 0.0,
    ) -> Any:  # fmt: skip
        """The text of a line, or the texts of a list: along the best path, or the best of a prefix search with `beam`.

        `language` (see `probseq.handwriting.language`) enters the search with `weight`, and every character adds
        `bonus`.
        """
        lines = [u] if isinstance(u, Strokes) else list(u)
        _listed([""] * len(lines), lines, lengths)
        if language is not None and beam is None:
            raise ValueError("language needs a beam, such as beam=25")
        found = [self._decoded(self.log_probs(line), beam, language, weight, bonus) for line in lines]
        return found[0] if isinstance(u, Strokes) else found

    def fit(self, labels: Any, u: Any, *, lengths: Any = None, seed: int | None = None, **options: Any) -> Self:
        """Learn in place by stochastic gradients and return self; options as for `probseq.learning.fit.fit`.

        `validation` is a share, or a pair (texts, lines). Of ten lines or more a fifth is held back unless it is given.
        """
        texts, lines, _ = _listed(labels, u, lengths)
        self.validation_share = 0.2 if len(lines) >= 10 else None
        return self._fit(self._door(texts, lines), seed=seed, **options)

    def stream(self) -> ReaderStream:
        """Read point by point. TypeError where the reader looks at the whole line first."""
        if isinstance(self.reader, Bidirectional):
            raise TypeError("this reader reads from both ends: on line reads one with a cell, Reader(..., LSTM(64))")
        return ReaderStream(self)

    # ---------------------------------------------------------------- what it looked at

    @torch.no_grad()
    def memory(self, line: Strokes) -> np.ndarray:
        """The whole state of the cells after each point, (T, states), in the order of the line."""
        inputs = self._standard(self._inputs([line]))
        if not isinstance(self.reader, Bidirectional):
            return self.reader.states(inputs, self.reader.initial_state((1,)))[0].numpy()
        lengths = torch.tensor([len(line)])
        ahead, back = self.reader.ahead, self.reader.back
        forwards = ahead.states(inputs, ahead.initial_state((1,)))
        backwards = reverse(back.states(reverse(inputs, lengths), back.initial_state((1,))), lengths)
        return torch.cat([forwards, backwards], -1)[0].numpy()

    def sensitivity(self, line: Strokes, step: int, character: str | None = None) -> np.ndarray:
        """d log p_step(character) / d (position of every point), (T, 2), in the unit of the line.

        Of the likeliest character there unless one is named. A point moved alone changes the offset to it and that from
        it: the derivative is the difference of theirs.
        """
        inputs = self._inputs([line]).requires_grad_()
        scores = self._scores(inputs)[0, step]
        label = int(scores[1:].argmax()) + 1 if character is None else 1 + self._place(character)
        (found,) = torch.autograd.grad(scores[label], inputs)
        of_offsets = found[0, :, :2].numpy()
        return of_offsets - np.concatenate([of_offsets[1:], np.zeros((1, 2))])

    # ---------------------------------------------------------------- data and network

    def _place(self, character: str) -> int:
        if len(character) != 1 or character not in self.alphabet:
            raise ValueError(f"character must be one of {self.alphabet!r}, got {character!r}")
        return self.alphabet.index(character)

    def _door(self, texts: Sequence[str], lines: Sequence[Strokes]) -> Sequences:
        """Labels as the observations of the first steps, beside the inputs; the other steps have none."""
        rows: list[np.ndarray] = []
        for k, (text, line) in enumerate(zip(texts, lines, strict=True)):
            strange = sorted(set(text) - set(self.alphabet))
            if strange:
                raise ValueError(f"labels[{k}] has {strange}, which the alphabet {self.alphabet!r} has not")
            labels = [1 + self.alphabet.index(character) for character in text]
            needed = ctc.steps_needed(labels)
            if needed > len(line):
                raise ValueError(f"u[{k}] must have {needed} points or more to be read as {text!r}, got {len(line)}")
            rows.append(np.concatenate([labels, np.full(len(line) - len(labels), np.nan)])[:, None])
        return Sequences.of(rows, [line.to_array() for line in lines])

    def _inputs(self, lines: Sequence[Strokes]) -> Tensor:
        return torch.from_numpy(np.stack([line.to_array() for line in lines]))

    def _standard(self, inputs: Tensor) -> Tensor:
        return ((inputs - self.input_shift) / self.input_scale).to(self.dtype)

    def _scores(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """log p_t, (B, T, 1 + characters)."""
        into, reader = self._standard(inputs), self.reader
        if isinstance(reader, Bidirectional):
            ends = torch.full((len(into),), into.shape[1]) if lengths is None else lengths
            outputs = reader.read(into, ends)[0]
        else:
            outputs = reader.sequence(into, reader.initial_state((len(into),)))
        return self.head._outputs(outputs).log_softmax(-1)

    def _log_prob(self, sequences: Sequences) -> Tensor:
        assert sequences.inputs is not None
        scores = self._scores(sequences.inputs, sequences.lengths)
        seen = sequences.observed[..., 0]
        loss = torch.nn.functional.ctc_loss(
            scores.transpose(0, 1), sequences.values[..., 0][seen].long(), sequences.lengths, seen.sum(1),
            reduction="none",
        )  # fmt: skip
        return -loss.to(torch.float64)

    def _decoded(
        self, table: np.ndarray, beam: int | None, language: Language | None, weight: float, bonus: float
    ) -> str:
        if beam is None:
            return self._text(ctc.best_path(table))
        after: Callable[[tuple[int, ...]], Any] | None = None
        if language is not None:
            if language.alphabet != self.alphabet:
                raise ValueError(f"language must have the alphabet {self.alphabet!r}, got {language.alphabet!r}")
            after = lambda prefix: language.log_probs(self._text(prefix))  # noqa: E731
        return self._text(ctc.prefix_search(table, beam, language=after, weight=weight, bonus=bonus)[0].labels)

    def _text(self, labels: Sequence[int]) -> str:
        return "".join(self.alphabet[k - 1] for k in labels)

    # ---------------------------------------------------------------- what a fit asks

    def _start(self, sequences: Sequences, seed: int) -> None:
        """Draw the weights and standardise the inputs."""
        reader_seed, head_seed = spawn(seed, 2)
        self.reader.reset_parameters(reader_seed)
        self.head.reset_parameters(head_seed)
        shift, scale = sequences.input_units()
        self.input_shift.copy_(shift)
        self.input_scale.copy_(scale)


class Heard(NamedTuple):
    """After a point: log p_t of the blank and of every character, (1 + characters,), and the text so far."""

    log_probs: np.ndarray
    text: str


class ReaderStream:
    """Reads point by point; the cost of one does not grow. Satisfies update(...)[0] == log_probs(line)[t]."""

    def __init__(self, reader: Reader) -> None:
        assert isinstance(reader.reader, Cell)
        self.reader, self.cell = reader, reader.reader
        self.state = self.cell.initial_state((1,)).detach()
        self.text, self._last = "", ctc.BLANK

    @torch.no_grad()
    def update(self, offset: Any, lifted: bool = False) -> Heard:
        """Take in one offset (dx, dy) and whether the pen is lifted after it."""
        row = torch.tensor([[*np.asarray(offset, np.float64).reshape(2), float(lifted)]], dtype=torch.float64)
        self.state = self.cell.step(self.reader._standard(row), self.state)
        scores = self.reader.head._outputs(self.cell.output(self.state)).log_softmax(-1)[0]
        label = int(scores.argmax())
        if label not in (ctc.BLANK, self._last):
            self.text += self.reader._text([label])
        self._last = label
        return Heard(scores.to(torch.float64).numpy(), self.text)


def _listed(labels: Any, u: Any, lengths: Any) -> tuple[list[str], list[Strokes], bool]:
    """Texts and lines as lists, and whether there was one of each."""
    if lengths is not None:
        raise ValueError("lengths must be None: lines know how long they are")
    single = isinstance(u, Strokes)
    texts, lines = ([labels], [u]) if single else (list(labels), list(u))
    bad = [type(one).__name__ for one in lines if not isinstance(one, Strokes)]
    if bad or not all(isinstance(one, str) for one in texts):
        raise TypeError(
            f"labels must be texts and u Strokes, or lists of them; got {labels!r:.60} and {bad or u!r:.60}"
        )
    if len(texts) != len(lines):
        raise ValueError(f"labels must be one text for each of {len(lines)} lines, got {len(texts)}")
    empty = [k for k, line in enumerate(lines) if not len(line)]
    if empty:
        raise ValueError(f"u[{empty[0]}] must have at least one point, got none")
    return texts, lines, single
