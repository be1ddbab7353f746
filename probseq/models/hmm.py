"""The hidden Markov model: one of K states, a transition matrix, a stochastic output.

    z_0 ~ Categorical(initial_probs)
    for t in range(T):
        y_t ~ emission(z_t)
        z_{t+1} ~ Categorical(transition_matrix[z_t])

| name              | shape  |                                             |
|-------------------|--------|---------------------------------------------|
| initial_probs     | (K,)   | pi, the law of z_0 before y_0 is seen       |
| transition_matrix | (K, K) | A[i, j] = p(z_{t+1} = j given z_t = i)      |
| emission          |        | b_t(k) = p(y_t given z_t = k)               |

The belief is the table log p(z_t = k | y). predict: p'_j = sum_i p_i A_ij; update: p_k proportional to p_k b_t(k),
and the normaliser is p(y_t | y_<t). The gradient of log p(y) in log b_t, log A and log pi is the posterior of
state, pair and first state, so smoothing, EM and backpropagation share one backward kernel.

References: Rabiner (1989), A tutorial on hidden Markov models, Proc. IEEE 77; Zucchini and MacDonald (2009).
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from probseq import parameters as P
from probseq.base import Filtered, LatentStateModel
from probseq.beliefs import Categorical
from probseq.emissions.base import Emission
from probseq.errors import DegenerateWarning, ImpossibleSequence
from probseq.ops import hmm
from probseq.parameters import Param
from probseq.randomness import generator
from probseq.sequences import Sequences


class HMM(LatentStateModel[Categorical]):
    """A hidden Markov model from sizes, `HMM(2, emission=Gaussian(1))`, or from its probabilities.

    `initial_probs` (K,), `transition_matrix` (K, K) with rows that sum to 1, `emission` an `Emission` with K
    states. Zeros in either stay zero in every fit.
    """

    marginalises: ClassVar[bool] = True
    fit_methods: ClassVar[tuple[str, ...]] = ("em", "gradient")

    initial_probs = Param(P.simplex, "n_states")
    transition_matrix = Param(P.simplex, "n_states", "n_states")

    def __init__(
        self,
        n_states: int | None = None,
        *,
        emission: Emission,
        initial_probs: Any = None,
        transition_matrix: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(emission, Emission):
            raise TypeError(f"emission must be an Emission such as probseq.emissions.Gaussian(1), got {emission!r}")
        self.n_states = count_states(n_states, initial_probs, transition_matrix, emission=emission.n_states)
        emission.bind(self.n_states)
        self.emission = emission
        self.event_shape = emission.event_shape
        self.real_valued = emission.real_valued
        self.common_scale = emission.common_scale
        self.declare(initial_probs=initial_probs, transition_matrix=transition_matrix)

    def sizes(self) -> dict[str, Any]:
        return {"n_states": self.n_states, "emission": self.emission}

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Categorical:
        """log initial_probs, the belief before y_0 is seen."""
        return Categorical(self._log_initial().expand(*batch_shape, self.n_states))

    def predict(self, belief: Categorical, u: Tensor | None = None) -> Categorical:
        """log sum_i p_i A_ij."""
        return Categorical(safe_logsumexp(belief.log_probs.unsqueeze(-1) + self._log_transition(), -2))

    def update(
        self, belief: Categorical, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Categorical, Tensor]:
        """Condition on y. Satisfies update(b, y)[1] == emit(b).log_prob(y).

        Where y is impossible the log-probability is -inf and the belief stays as it was.
        """
        joint = belief.log_probs + self.emission.log_prob(y, observed)
        log_prob = safe_logsumexp(joint, -1)
        possible = log_prob > -torch.inf
        updated = joint - torch.where(possible, log_prob, 0.0).unsqueeze(-1)
        return Categorical(torch.where(possible.unsqueeze(-1), updated, belief.log_probs)), log_prob

    def emit(self, belief: Categorical, u: Tensor | None = None) -> Distribution:
        """The mixture of the states' emissions, weighted by the belief."""
        return self.emission.mixture(belief.log_probs)

    # ---- the compiled path

    def _log_initial(self) -> Tensor:
        return type(self).initial_probs.log(self)

    def _log_transition(self) -> Tensor:
        return type(self).transition_matrix.log(self)

    def _arguments(
        self, sequences: Sequences, initial: Categorical | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log_initial (B, K), log_transition (1, 1, K, K), log_observation (B, T, K), lengths (B,)."""
        first = self._log_initial() if initial is None else initial.log_probs
        table = self.emission.log_prob(sequences.values, None if sequences.complete else sequences.observed)
        log_transition = self._log_transition().reshape(1, 1, self.n_states, self.n_states)
        return first.expand(len(sequences.values), self.n_states), log_transition, table, sequences.lengths

    def _log_prob(self, sequences: Sequences) -> Tensor:
        return hmm.log_prob(*self._arguments(sequences))

    def _filter(self, sequences: Sequences, initial: Categorical | None) -> Filtered[Categorical]:
        predicted, updated, log_prob = hmm.filter(*self._arguments(sequences, initial))
        return Filtered(Categorical(predicted), Categorical(updated), log_prob)

    def _posterior(self, sequences: Sequences) -> hmm.Posterior:
        arguments = self._arguments(sequences)
        posterior = hmm.posterior(*arguments)
        refuse_impossible(posterior.impossible_at, sequences)
        return posterior

    def _smooth(self, sequences: Sequences) -> Categorical:
        return Categorical(self._posterior(sequences).log_gamma)

    def _decode(self, sequences: Sequences) -> Tensor:
        arguments = self._arguments(sequences)
        states, score = hmm.viterbi(*arguments)
        if bool((score == -torch.inf).any()):
            refuse_impossible(hmm.posterior(*arguments).impossible_at, sequences)
        return states

    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor:
        arguments = self._arguments(sequences)
        refuse_impossible(hmm.posterior(*arguments).impossible_at, sequences)
        uniforms = torch.rand((n_samples, *sequences.values.shape[:2]), dtype=torch.float64, generator=randomness)
        return hmm.sample_paths(*arguments, uniforms)

    def _path_log_prob(self, states: Tensor, sequences: Sequences) -> Tensor:
        """log pi(z_0) + sum log A(z_{t-1}, z_t) + sum log b_t(z_t)."""
        inside = sequences.inside
        if states.ndim != 2:
            raise ValueError(f"states must be single numbers at every step, got shape {tuple(states.shape[2:])}")
        path = torch.where(inside, states.long(), 0)
        if path.numel() and (int(path.min()) < 0 or int(path.max()) >= self.n_states):
            raise ValueError(f"states must lie in 0 .. {self.n_states - 1}, got {int(path.min())} .. {int(path.max())}")
        if sequences.n_steps == 0:
            return torch.zeros(len(path), dtype=torch.float64)
        log_initial, log_transition, table, _ = self._arguments(sequences)
        emitted = table.gather(-1, path.unsqueeze(-1)).squeeze(-1)
        moved = log_transition[0, 0][path[:, :-1], path[:, 1:]]
        first = torch.where(sequences.lengths > 0, log_initial.gather(-1, path[:, :1]).squeeze(-1), 0.0)
        total = first + torch.where(inside, emitted, 0.0).sum(-1)
        return total + torch.where(inside[:, 1:], moved, 0.0).sum(-1)

    def _outside(self, values: Tensor) -> tuple[Tensor, str] | None:
        return self.emission.invalid(values)

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        self.emission.rescale(scale, shift)

    # ---- learning

    def _start(self, sequences: Sequences, seed: int) -> None:
        """Emissions from clusters of the data; sticky transitions, perturbed by the seed."""
        k = self.n_states
        rows = sequences.inside
        self.emission.start(sequences.values[rows], sequences.observed[rows], seed)
        noise = torch.rand(k, k, dtype=torch.float64, generator=generator(seed)) + 0.5
        matrix = 0.5 * torch.eye(k, dtype=torch.float64) + 0.5 * noise / noise.sum(-1, keepdim=True)
        self.assign(transition_matrix=matrix, initial_probs=torch.full((k,), 1 / k, dtype=torch.float64))

    def _em_step(self, sequences: Sequences) -> Tensor:
        posterior = self._posterior(sequences)
        used = sequences.lengths > 0
        gamma = posterior.log_gamma.exp()
        first = gamma[used, 0].sum(0)
        pairs = posterior.xi_sum.sum((0, 1))
        mass = pairs.sum(-1, keepdim=True)
        if bool((gamma[sequences.inside].sum(0) < 1e-8).any()):
            warnings.warn(
                "a state explains no data any more and keeps its last parameters; fewer states may be enough",
                DegenerateWarning,
                stacklevel=2,
            )
        matrix = torch.where(mass > 0, pairs / torch.where(mass > 0, mass, 1.0), self.transition_matrix)
        self.assign(transition_matrix=matrix, initial_probs=first / first.sum())
        rows = sequences.inside
        self.emission.maximise(sequences.values[rows], sequences.observed[rows], gamma[rows])
        return posterior.log_prob.sum()


def safe_logsumexp(x: Tensor, dim: int) -> Tensor:
    """log sum exp with -inf for an empty sum and zero, never NaN, gradients at terms of -inf."""
    top = x.detach().amax(dim, keepdim=True)
    top = torch.where(torch.isfinite(top), top, 0.0)
    total = (x - top).exp().sum(dim)
    some = total > 0
    return torch.where(some, torch.where(some, total, 1.0).log() + top.squeeze(dim), -torch.inf)


def refuse_impossible(impossible_at: Tensor, sequences: Sequences) -> None:
    bad = (impossible_at >= 0).nonzero()
    if len(bad):
        sequence = int(bad[0, 0])
        where = f"sequence {sequence}, " if len(sequences.values) > 1 else ""
        raise ImpossibleSequence(
            f"y has probability zero under this model from {where}step {int(impossible_at[sequence])} on, "
            "so it has no posterior; check zeros in initial_probs, transition_matrix and the emission"
        )


def count_states(n_states: int | None, initial_probs: Any, transition_matrix: Any, **parts: int) -> int:
    """n_states as passed or as read off what was given; a part that is not bound yet has 0 states."""
    found: dict[str, int] = {}
    if n_states is not None:
        if isinstance(n_states, bool) or int(n_states) != n_states or n_states < 1:
            raise ValueError(f"n_states must be a positive integer, got {n_states!r}")
        found["n_states"] = int(n_states)
    for name, value in (("initial_probs", initial_probs), ("transition_matrix", transition_matrix)):
        if value is not None:
            shape = tuple(P.as_parameter(name, value).shape)
            if not shape:
                raise ValueError(f"{name} must be an array, got a single number")
            found[name] = shape[0]
    found.update({name: size for name, size in parts.items() if size})
    if not found:
        raise ValueError("n_states must be given, or parameters from which it follows")
    if len(set(found.values())) > 1:
        raise ValueError(f"the number of states must be the same everywhere, got {found}")
    return next(iter(found.values()))
