"""The finite automaton inside a recurrent network: quantise its states, merge, minimise, verify.

    machine = automaton(network, alphabet)       # Automaton, or NotAnAutomaton with the reason
    machine.outputs, machine.transitions         # what each state says, and where each letter leads

A transducer (`feedback=False`) reads a letter as its inputs u_t, a next-step network as the symbol y_t. After each it
says something: the bits or the symbol that it holds for most probable (`read` for other heads).

1. From the start, every letter is tried from every state that is found. A state nearer than `precision` times the
   spread of the network's activities to a known one with the same answer counts as that one; others are new.
2. States that answer alike after every word are one (`hopcroft`). Before its first letter a transducer has said
   nothing, so its start is whatever state the same letters lead from to the same places, if there is one.
3. The automaton's answers are compared with the network's on all words of `verify_length` letters and on random long
   ones, step by step. One difference, and it is refused.

A network is no automaton where it creeps: where the states of ever longer words stay apart at any precision. Too coarse
a precision merges states that differ; too fine a one never ends. Without a `precision`, coarse ones are tried first.

References: Giles et al. (1992), Learning and extracting finite state automata with second-order recurrent neural
networks, Neural Computation 4. Omlin and Giles (1996), Extraction of rules from discrete-time recurrent neural
networks, Neural Networks 9.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from probseq.beliefs import Point
from probseq.checks import whole_number
from probseq.emissions import heads
from probseq.errors import NotAnAutomaton
from probseq.evaluation.hopcroft import minimise
from probseq.models.rnn import RNN
from probseq.randomness import fresh_seed

#: what is tried where no precision is asked for, as shares of the spread of the activities
PRECISIONS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
#: words that are verified at once
AT_ONCE = 1 << 16

Read = Callable[[Distribution], Tensor]


@dataclass(frozen=True)
class Automaton:
    """A Moore machine: `transitions` (S, K) between states, what each state says, and the letters' names.

    `outputs[start]` is None where nothing is said before the first letter and no other state is like the start.
    """

    transitions: NDArray[np.int64]
    outputs: tuple[Hashable, ...]
    letters: tuple[Any, ...]
    start: int = 0
    precision: float | None = None
    #: how many distinct states the network showed before those alike were merged
    n_found: int = 0
    #: how many words were compared with the network, and the length of the longest
    verified: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        shape, n = np.shape(self.transitions), len(self.outputs)
        if shape != (n, len(self.letters)):
            raise ValueError(f"transitions must be ({n}, {len(self.letters)}), states by letters, got {shape}")
        if np.size(self.transitions) and not 0 <= np.min(self.transitions) <= np.max(self.transitions) < n:
            raise ValueError(f"transitions must lead to states 0 .. {n - 1}")

    @property
    def n_states(self) -> int:
        return len(self.outputs)

    def run(self, words: Any) -> list[list[Hashable]]:
        """What is said after every letter of words (N, T) of letter numbers."""
        numbers = np.atleast_2d(np.asarray(words, dtype=np.int64))
        return [[self.outputs[state] for state in row] for row in self.states(numbers)]

    def states(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        """The state after every letter, (N, T)."""
        state, path = np.full(len(words), self.start), np.empty(words.shape, dtype=np.int64)
        for t in range(words.shape[1]):
            state = self.transitions[state, words[:, t]]
            path[:, t] = state
        return path

    def minimal(self) -> Automaton:
        """The smallest automaton that says the same after every word; states in the order in which words reach them."""
        kept = self._reachable()
        index = {state: i for i, state in enumerate(kept)}
        moves = np.array([[index[int(after)] for after in self.transitions[state]] for state in kept])
        said = [self.outputs[state] for state in kept]
        return self._quotient(moves, said, minimise(moves, said))

    def _quotient(self, moves: NDArray[np.int64], said: list[Hashable], block_of: NDArray[np.int64]) -> Automaton:
        """One state for every block; a start that says nothing joins a state whose letters do the same."""
        n = int(block_of.max()) + 1
        first = [int(np.flatnonzero(block_of == block)[0]) for block in range(n)]
        table, outputs, start = block_of[moves[first]], [said[state] for state in first], int(block_of[0])
        if outputs[start] is None and not (table == start).any():
            alike = [b for b in range(n) if b != start and (table[b] == table[start]).all()]
            if alike:
                start = alike[0]
        small = Automaton(table, tuple(outputs), self.letters, start, self.precision, self.n_found, self.verified)
        kept = small._reachable()
        index = {state: i for i, state in enumerate(kept)}
        return Automaton(
            np.array([[index[int(after)] for after in table[state]] for state in kept]),
            tuple(outputs[state] for state in kept),
            self.letters,
            0,
            self.precision,
            self.n_found,
            self.verified,
        )

    def _reachable(self) -> list[int]:
        found = {self.start: None}
        for state in (queue := [self.start]):
            for after in map(int, self.transitions[state]):
                if after not in found:
                    found[after] = None
                    queue.append(after)
        return list(found)

    def equals(self, other: Automaton) -> bool:
        """Whether both say the same after every word that is not empty."""
        seen, queue = {(self.start, other.start)}, [(self.start, other.start)]
        for mine, theirs in queue:
            for pair in zip(map(int, self.transitions[mine]), map(int, other.transitions[theirs]), strict=True):
                if self.outputs[pair[0]] != other.outputs[pair[1]]:
                    return False
                if pair not in seen:
                    seen.add(pair)
                    queue.append(pair)
        return True

    def to_dot(self) -> str:
        """The graph in Graphviz's language."""
        from probseq.evaluation.automaton_plot import to_dot

        return to_dot(self)

    def plot(self, axes: Any = None) -> Any:
        """The graph, laid out by Graphviz where it is installed and in a circle otherwise; returns the Axes."""
        from probseq.evaluation.automaton_plot import plot_automaton

        return plot_automaton(self, axes)


@torch.no_grad()
def automaton(
    network: RNN,
    alphabet: Any,
    *,
    precision: float | None = None,
    max_states: int = 200,
    verify_length: int = 8,
    n_long: int = 1000,
    long_length: int = 200,
    read: Read | None = None,
    seed: int | None = 0,
) -> Automaton:
    """The minimal automaton of a network over `alphabet`: input rows (K, P) of a transducer, or symbols.

    Raises `probseq.errors.NotAnAutomaton`, with the reason, where the network is none at this precision (at any that
    was tried). Too large an alphabet for all words of `verify_length` is a ValueError.
    """
    subject = _Subject(network, alphabet, read)
    verify_length, n_long = whole_number("verify_length", verify_length), whole_number("n_long", n_long)
    if len(subject.letters) ** verify_length > 1 << 24:
        raise ValueError(f"verify_length must be smaller: {len(subject.letters)}**{verify_length} words are too many")
    reasons: list[str] = []
    for tried in PRECISIONS if precision is None else (precision,):
        try:
            found = _explore(subject, tried, whole_number("max_states", max_states)).minimal()
            return _verify(subject, found, verify_length, n_long, whole_number("long_length", long_length), seed)
        except NotAnAutomaton as error:
            reasons.append(str(error))
    raise NotAnAutomaton("; ".join(reasons))


class _Subject:
    """A network that reads letters: its state after each, and what it says there."""

    def __init__(self, network: RNN, alphabet: Any, read: Read | None) -> None:
        if not isinstance(network, RNN):
            raise TypeError(f"network must be a probseq.RNN, got a {type(network).__name__}")
        rows = torch.as_tensor(np.asarray(alphabet), dtype=torch.float64)
        rows = rows.unsqueeze(-1) if rows.ndim == 1 else rows
        width = int(network.event_shape[0]) if network.feedback else network.input_dim
        if network.feedback and network.input_dim:
            raise ValueError("network must read either symbols or inputs, not both: nothing tells which is the letter")
        if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
            raise ValueError(f"alphabet must be rows of {width} numbers, one for each letter, got {tuple(rows.shape)}")
        self.network, self.rows = network, rows
        self.letters = tuple(_label(row) for row in rows)
        self.read = _reader(network) if read is None else read

    def start(self) -> Tensor:
        """What is known before the first letter, (1, S): a transducer's start, a next-step network's first belief."""
        if self.network.feedback:
            return self.network.initial_belief((1,)).state
        return self.network.cell.initial_state((1,)).clone()

    def step(self, states: Tensor, letters: Tensor) -> Tensor:
        """The states (N, S) after letters (N,)."""
        rows = self.rows[letters]
        if self.network.feedback:
            return self.network.predict(Point(states, self.network.head.encode(rows))).state
        return self.network.predict(Point(states, states[:, :0]), rows).state

    def says(self, states: Tensor) -> Tensor:
        """What is said at states (N, S), (N, w) whole numbers."""
        said = self.read(self.network.emit(Point(states, states[:, :0])))
        return said.reshape(len(states), -1).long()

    def begins_silent(self) -> bool:
        return not self.network.feedback


def _label(row: Tensor) -> Any:
    numbers = [int(x) if float(x).is_integer() else float(x) for x in row]
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _reader(network: RNN) -> Read:
    head = network.head
    if isinstance(head, heads.Categorical):
        return lambda said: said.base_dist.probs.argmax(-1)  # type: ignore[attr-defined]
    if isinstance(head, (heads.Bernoulli, heads.MixtureOfBernoullis)):
        return lambda said: said.mean > 0.5
    raise ValueError(
        f"read must be given for a {type(head).__name__} head: a function of its distribution that says whole numbers"
    )


def _answer(said: Tensor) -> Hashable:
    numbers = tuple(int(x) for x in said)
    return numbers[0] if len(numbers) == 1 else numbers


def _explore(subject: _Subject, precision: float, max_states: int) -> Automaton:
    """The automaton of the states that words reach, told apart at `precision`."""
    if not precision > 0:
        raise ValueError(f"precision must be positive, got {precision!r}")
    n_letters = len(subject.letters)
    every = torch.arange(n_letters)
    states = subject.start()
    outputs: list[Hashable] = [None if subject.begins_silent() else _answer(subject.says(states)[0])]
    moves: list[list[int]] = []
    radius = precision * _spread(subject)
    while len(moves) < len(states):
        after = subject.step(states[len(moves)].expand(n_letters, -1), every)
        row: list[int] = []
        for state, said in zip(after, subject.says(after), strict=True):
            answer = _answer(said)
            apart = (states - state).abs().amax(-1)
            near = [i for i in torch.argsort(apart).tolist() if outputs[i] == answer and apart[i] <= radius]
            if not near:
                if len(states) >= max_states:
                    raise NotAnAutomaton(
                        f"at precision {precision:g} there are more than {max_states} states: words lead to new ones"
                    )
                states = torch.cat([states, state.unsqueeze(0)])
                outputs.append(answer)
            row.append(near[0] if near else len(states) - 1)
        moves.append(row)
    return Automaton(np.array(moves), tuple(outputs), subject.letters, 0, precision, len(states))


def _spread(subject: _Subject) -> Tensor:
    """The range of each activity over the states that short words reach, the largest of them, at least 0."""
    states = subject.start()
    seen = [states]
    for _ in range(8):
        n, k = len(states), len(subject.letters)
        after = subject.step(states.repeat_interleave(k, 0), torch.arange(k).repeat(n))
        states = after[torch.linspace(0, len(after) - 1, min(len(after), 256)).long()]
        seen.append(states)
    points = torch.cat(seen[1:])
    return (points.amax(0) - points.amin(0)).amax()


def _verify(
    subject: _Subject, found: Automaton, length: int, n_long: int, long_length: int, seed: int | None
) -> Automaton:
    """The same automaton, or NotAnAutomaton with the word on which the network says something else."""
    n_letters, n_words = len(subject.letters), len(subject.letters) ** length
    for begin in range(0, n_words, AT_ONCE):
        numbers = np.arange(begin, min(begin + AT_ONCE, n_words))
        _compare(subject, found, numbers[:, None] // n_letters ** np.arange(length)[::-1] % n_letters)
    random = np.random.default_rng(fresh_seed(seed))
    _compare(subject, found, random.integers(0, n_letters, (n_long, long_length)))
    words = n_words + n_long, max(length, long_length)
    return Automaton(
        found.transitions, found.outputs, found.letters, found.start, found.precision, found.n_found, words
    )


def _compare(subject: _Subject, found: Automaton, words: NDArray[np.int64]) -> None:
    said = [np.atleast_1d(np.array(o if o is not None else -1)) for o in found.outputs]
    width = max(len(o) for o in said)
    table = torch.from_numpy(np.array([np.broadcast_to(o, width) for o in said]))
    path = torch.from_numpy(found.states(words))
    letters = torch.from_numpy(words)
    states = subject.start().expand(len(words), -1)
    for t in range(words.shape[1]):
        states = subject.step(states, letters[:, t])
        wrong = (subject.says(states) != table[path[:, t]]).any(-1)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            word = " ".join(str(subject.letters[letter]) for letter in words[row, : t + 1][-12:])
            raise NotAnAutomaton(
                f"at precision {found.precision:g} the {found.n_states} states that are left say something else than "
                f"the network after {t + 1} letters, the last of them {word}"
            )


def from_table(transitions: Sequence[Sequence[int]], outputs: Sequence[Hashable], letters: Sequence[Any]) -> Automaton:
    """An automaton by hand, to compare with: rows are states, the first one is the start."""
    return Automaton(np.array(transitions, dtype=np.int64), tuple(outputs), tuple(letters))
