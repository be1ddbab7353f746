"""How well a finite number of states can stand for a network: hidden Markov and spectral approximations of an RNN.

    found = approximate(network, n_states=8)                    # by EM on the network's own samples
    found = approximate(network, n_states=3, method="spectral") # by the singular vectors of what it says of words
    found.divergence, found.standard_error                      # nats per step, on fresh samples

The divergence rate of the network P from its approximation Q is

    d = lim 1/T E_P[log P(y_0 .. y_{T-1}) - log Q(y_0 .. y_{T-1})],

measured as a mean over sequences that the network draws, with the standard error of that mean.

Spectral learning reads a table H[a, b] = P(word a, then word b) and, for every symbol x, H_x[a, b] = P(a x b). With V
the right singular vectors of H that go with its `n_states` largest singular values,

    A_x = (H V)^+ H_x V,   alpha' = h' V,   omega = (H V)^+ P(a),    P(x_1 .. x_n) = alpha' A_{x_1} .. A_{x_n} omega,

exactly where H has that rank (Hsu, Kakade and Zhang 2012; Balle et al. 2014). The operators are no probabilities:
from estimates they can give a word less than nothing. Such steps are set to `floor` times the smallest share of a
symbol, the others rescaled, and their number is told.

References: Hsu, D., Kakade, S. & Zhang, T. (2012), A spectral algorithm for learning hidden Markov models, J. Computer
and System Sciences 78. Balle, B., Carreras, X., Luque, F. & Quattoni, A. (2014), Spectral learning of weighted
automata, Machine Learning 96. Juang, B. & Rabiner, L. (1985), A probabilistic distance measure for hidden Markov
models, AT&T Technical Journal 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.checks import whole_number
from probseq.emissions import Bernoulli, Categorical, Emission, Gaussian, heads
from probseq.models.hmm import HMM
from probseq.models.rnn import RNN
from probseq.randomness import fresh_seed, spawn

Array = NDArray[np.float64]
#: the largest table of words that is made
MOST_WORDS = 1024


@dataclass
class Approximation:
    """A simpler model of a network, and how many nats per step it loses on what the network draws."""

    model: HMM | ObservableOperators
    divergence: float
    standard_error: float
    #: the share of steps at which spectral operators gave no legal probabilities
    repaired: float = 0.0

    def __str__(self) -> str:
        kind = type(self.model).__name__
        return f"{kind}, {self.model.n_states} states: {self.divergence:.4f} ± {self.standard_error:.4f} nats a step"


@dataclass(frozen=True)
class ObservableOperators:
    """A process of symbols as products of matrices: P(x_1 .. x_n) = start A_{x_1} .. A_{x_n} end.

    `operators` (M, K, K), `start` and `end` (K,). Scaled so that start @ end is 1.
    """

    operators: Array
    start: Array
    end: Array
    floor: float = 1e-3

    @property
    def n_states(self) -> int:
        return len(self.start)

    def word_probability(self, word: Any) -> float:
        """The product itself, which may be negative where the operators are estimates."""
        state = self.start
        for symbol in np.asarray(word, dtype=np.int64).reshape(-1):
            state = state @ self.operators[symbol]
        return float(state @ self.end)

    def log_prob(self, symbols: Any) -> tuple[Array, Array]:
        """log Q of sequences (N, T) per step, (N, T), and where the operators gave no legal probabilities."""
        words = np.asarray(symbols, dtype=np.int64)
        state = np.broadcast_to(self.start, (len(words), self.n_states))
        scores, repaired = np.empty(words.shape), np.zeros(words.shape, dtype=bool)
        for t in range(words.shape[1]):
            moved = np.einsum("nk,xkl->nxl", state, self.operators)
            shares, repaired[:, t] = self._legal(moved @ self.end)
            chosen = (np.arange(len(words)), words[:, t])
            scores[:, t] = np.log(shares[chosen])
            total = moved[chosen] @ self.end
            usable = total > 0
            state = np.where(usable[:, None], moved[chosen] / np.where(usable, total, 1.0)[:, None], self.start)
        return scores, repaired

    def _legal(self, raw: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Shares (N, M) that are positive and sum to 1, and which rows were not."""
        least = self.floor / raw.shape[1]
        wrong: NDArray[np.bool_] = np.any((raw <= 0) | ~np.isfinite(raw), axis=1)
        lifted = np.where(wrong[:, None], np.maximum(np.nan_to_num(raw), least), raw)
        return lifted / lifted.sum(1, keepdims=True), wrong


def approximate(
    network: RNN,
    n_states: int,
    method: Literal["baum_welch", "spectral"] = "baum_welch",
    *,
    emission: Emission | None = None,
    n_sequences: int = 500,
    length: int = 100,
    word_length: int = 3,
    n_restarts: int = 1,
    seed: int | None = None,
    **options: Any,
) -> Approximation:
    """The approximation of a network with `n_states` states that is learned from its samples, and its divergence rate.

    `options` are those of the hidden Markov model's `fit`. "spectral" is for symbols; it counts words of up to twice
    `word_length` and one symbol, and takes the process for stationary.
    """
    if not isinstance(network, RNN) or network.input_dim:
        raise TypeError(f"network must be a probseq.RNN without inputs, which can be sampled, got {network!r}")
    n_states = whole_number("n_states", n_states)
    n_sequences, length = whole_number("n_sequences", n_sequences, least=2), whole_number("length", length)
    data_seed, new_seed, fit_seed = spawn(fresh_seed(seed), 3)
    data = network.sample(length, (n_sequences,), seed=data_seed)
    new = network.sample(length, (n_sequences,), seed=new_seed)
    if method == "spectral":
        if not isinstance(network.head, heads.Categorical):
            raise ValueError(f"the spectral method is for symbols, the head is a {type(network.head).__name__}")
        symbols = data.squeeze(-1).long().numpy()
        operators = spectral(word_tables(symbols, network.head.n_symbols, word_length), n_states)
        scores, repaired = operators.log_prob(new.squeeze(-1).long().numpy())
        return Approximation(operators, *_rate(network, new, scores.sum(1)), float(repaired.mean()))
    if method != "baum_welch":
        raise ValueError(f'method must be "baum_welch" or "spectral", got {method!r}')
    model = HMM(n_states, emission=emission_for(network) if emission is None else emission)
    model.fit(data, n_restarts=n_restarts, seed=fit_seed, **options)
    return Approximation(model, *divergence_rate(network, model, new))


def emission_for(network: RNN) -> Emission:
    """An emission for what the network says: symbols, binary vectors, real numbers."""
    head, dim = network.head, int(network.event_shape[0])
    if isinstance(head, heads.Categorical):
        return Categorical(head.n_symbols)
    if isinstance(head, (heads.Bernoulli, heads.MixtureOfBernoullis)):
        return Bernoulli(dim)
    if isinstance(head, heads.StateMixture):
        return type(head.emission)(**head.emission.sizes())
    if head.real_valued:
        return Gaussian(dim)
    raise ValueError(f"emission must be given for a {type(head).__name__} head")


@torch.no_grad()
def divergence_rate(truth: StateSpaceModel[Any], model: StateSpaceModel[Any], y: Tensor) -> tuple[float, float]:
    """E[log P(y) - log Q(y)] / T over samples y (N, T, D) of `truth`, and the standard error of the mean."""
    return _rate(truth, y, model.log_prob(y).numpy())


@torch.no_grad()
def _rate(truth: StateSpaceModel[Any], y: Tensor, scores: Array) -> tuple[float, float]:
    gaps = (truth.log_prob(y).numpy() - scores) / y.shape[-2]
    return float(gaps.mean()), float(gaps.std(ddof=1) / np.sqrt(len(gaps)))


# ---- spectral learning


class WordTables(dict[str, Array]):
    """`joint` (A, A), `between` (M, A, A) and `alone` (A,): P(a b), P(a x b) and P(a) of words a, b of one length."""


def word_tables(symbols: NDArray[np.int64], n_symbols: int, word_length: int) -> WordTables:
    """Relative frequencies over all places of sequences (N, T)."""
    word_length = whole_number("word_length", word_length)
    n_words = n_symbols**word_length
    if n_words > MOST_WORDS:
        raise ValueError(f"word_length must be smaller: {n_symbols}**{word_length} words are more than {MOST_WORDS}")
    if symbols.shape[1] < 2 * word_length + 1:
        raise ValueError(f"length must be at least {2 * word_length + 1} for words of {word_length} symbols")
    powers = n_symbols ** np.arange(word_length)[::-1]
    windows = np.lib.stride_tricks.sliding_window_view(symbols, word_length, axis=1)
    words: NDArray[np.int64] = windows @ powers
    alone = np.bincount(words.reshape(-1), minlength=n_words) / words.size
    joint = _counted(words[:, :-word_length], words[:, word_length:], n_words)
    first, last = words[:, : -word_length - 1], words[:, word_length + 1 :]
    middle = symbols[:, word_length : word_length + first.shape[1]]
    between = np.zeros((n_symbols, n_words, n_words))
    np.add.at(between, (middle.reshape(-1), first.reshape(-1), last.reshape(-1)), 1.0 / first.size)
    return WordTables(joint=joint, between=between, alone=alone)


def _counted(first: NDArray[np.int64], second: NDArray[np.int64], n_words: int) -> Array:
    table = np.zeros((n_words, n_words))
    np.add.at(table, (first.reshape(-1), second.reshape(-1)), 1.0 / first.size)
    return table


def spectral(tables: WordTables, n_states: int) -> ObservableOperators:
    """The operators of rank `n_states`; see the module's equations. ValueError where the tables have a lower rank."""
    joint, alone = tables["joint"], tables["alone"]
    _, sizes, right = np.linalg.svd(joint)
    if n_states > len(sizes) or sizes[n_states - 1] <= 1e-12 * sizes[0]:
        raise ValueError(
            f"n_states must be at most the rank of the table of words, {int((sizes > 1e-12 * sizes[0]).sum())}"
        )
    basis = right[:n_states].T
    inverse = np.linalg.pinv(joint @ basis)
    operators = np.stack([inverse @ between @ basis for between in tables["between"]])
    start, end = alone @ basis, inverse @ alone
    return ObservableOperators(operators, start / (start @ end), end)
