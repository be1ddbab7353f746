"""The hidden semi-Markov model: a hidden Markov model whose states last as long as a distribution of theirs says.

    k ~ Categorical(initial_probs)
    while t < T:
        d ~ duration(k)
        y_t, .., y_{t+d-1} ~ emission(k)
        k ~ Categorical(transition_matrix[k])          t = t + d

| name              | shape  |                                                                     |
|-------------------|--------|---------------------------------------------------------------------|
| initial_probs     | (K,)   | the law of the first segment, which starts at t = 0                 |
| transition_matrix | (K, K) | A[i, j] = p(next segment in j given the last in i); zero diagonal   |
| duration          |        | p_k(d) on {1 .. D}, D part of the model                             |
| emission          |        | b_t(k) = p(y_t given z_t = k)                                       |

The last segment is cut off by the end of the data: it counts with S_k(e) = p_k(duration >= e). With one state there
is nothing to jump to: A = [[1]], segments of the same state follow each other, and the durations leave no trace.

The belief is the table log p(state k, elapsed e | y), e = 1 .. D steps with this one. predict: (k, e) lasts on to
(k, e + 1) with probability S_k(e + 1) / S_k(e), else it ends and jumps to (j, 1); update: p_{k,e} proportional to
p_{k,e} b_t(k). That is a hidden Markov model of K D states with a sparse transition, and O(T K (K + D)) in time.

References: Guedon (2003), Estimating hidden semi-Markov chains from discrete sequences, J. Comput. Graph. Stat. 12;
Yu (2010), Hidden semi-Markov models, Artificial Intelligence 174.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from probseq import parameters as P
from probseq.base import Filtered, LatentStateModel
from probseq.durations import Duration, log_tail
from probseq.emissions.base import Emission, Says, shared_inputs
from probseq.emissions.conditional import Conditional
from probseq.errors import say
from probseq.models.ancestral import draw_rows
from probseq.models.states import EMPTY_STATE, count_states, refuse_impossible
from probseq.ops import hsmm
from probseq.ops.log_space import safe_logsumexp
from probseq.parameters import Param, Parametric
from probseq.randomness import generator
from probseq.sequences import Sequences

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Elapsed(NamedTuple):
    """log p(state k, which has lasted e steps) at [k, e - 1], (*batch, K, D)."""

    log_probs: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        return (2,)

    @property
    def probs(self) -> Tensor:
        """p(state k), whatever has elapsed, (*batch, K)."""
        return self.log_probs.exp().sum(-1)


class _Jumps(Param):
    """Transition probabilities between different states."""

    def complaint(self, instance: Parametric, value: Tensor) -> str | None:
        wrong = super().complaint(instance, value)
        largest = value.diagonal().max()
        if wrong is None and len(value) > 1 and largest > 0:
            return (
                f"must have a zero diagonal (the duration says how long a state lasts), got {float(largest):.4g} there"
            )
        return wrong


class HSMM(LatentStateModel[Elapsed]):
    """A hidden semi-Markov model from sizes, `HSMM(2, emission=..., duration=...)`, or from its probabilities.

    `initial_probs` (K,), `transition_matrix` (K, K) with zero diagonal ([[1]] for one state) and rows that sum to 1,
    `emission` and `duration` of K states. Zeros stay zero in every fit.
    """

    marginalises: bool = True
    fit_methods: ClassVar[tuple[str, ...]] = ("em", "gradient")

    initial_probs = Param(P.simplex, "n_states")
    transition_matrix = _Jumps(P.simplex, "n_states", "n_states")

    def __init__(
        self,
        n_states: int | None = None,
        *,
        emission: Emission,
        duration: Duration,
        initial_probs: Any = None,
        transition_matrix: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(emission, Emission):
            raise TypeError(f"emission must be an Emission such as probseq.emissions.Gaussian(1), got {emission!r}")
        if not isinstance(duration, Duration):
            raise TypeError(f"duration must be a Duration such as probseq.durations.Poisson(20), got {duration!r}")
        if isinstance(emission, Conditional) and emission.order:
            raise ValueError("an HSMM takes no emission that reads the rows before; use an HMM for Autoregressive")
        self.n_states = count_states(
            n_states, initial_probs, transition_matrix, emission=emission.n_states, duration=duration.n_states
        )
        self.max_duration = duration.max_duration
        emission.bind(self.n_states)
        duration.bind(self.n_states)
        self.emission, self.duration = emission, duration
        self.input_dim = shared_inputs(0, emission)
        self.event_shape = emission.event_shape
        self.real_valued = emission.real_valued
        self.common_scale = emission.common_scale
        self.declare(initial_probs=initial_probs, transition_matrix=transition_matrix)

    def sizes(self) -> dict[str, Any]:
        return {"n_states": self.n_states, "emission": self.emission, "duration": self.duration}

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Elapsed:
        """A segment has just begun: log initial_probs at e = 1."""
        first = type(self).initial_probs.log(self).unsqueeze(-1)
        table = torch.nn.functional.pad(first, (0, self.max_duration - 1), value=-torch.inf)
        return Elapsed(table.expand(*batch_shape, self.n_states, self.max_duration))

    def predict(self, belief: Elapsed, u: Tensor | None = None) -> Elapsed:
        """Last on to (k, e + 1), or end and jump to (j, 1)."""
        ends, lasts = self.duration.log_hazards()
        ended = safe_logsumexp(belief.log_probs + ends, -1)
        begun = safe_logsumexp(ended.unsqueeze(-1) + self._log_transition(), -2)
        lasting = (belief.log_probs + lasts)[..., :-1]
        return Elapsed(torch.cat([begun.unsqueeze(-1), lasting], -1))

    def update(
        self, belief: Elapsed, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Elapsed, Tensor]:
        """Condition on y. Satisfies update(b, y)[1] == emit(b).log_prob(y).

        Where y is impossible the log-probability is -inf and the belief stays as it was.
        """
        table = self.emission.given(u).log_prob(y, observed)
        log_prob = safe_logsumexp(safe_logsumexp(belief.log_probs, -1) + table, -1)
        possible = (log_prob > -torch.inf).unsqueeze(-1)
        gain = torch.where(possible, table - torch.where(possible, log_prob.unsqueeze(-1), 0.0), 0.0)
        return Elapsed(belief.log_probs + gain.unsqueeze(-1)), log_prob

    def emit(self, belief: Elapsed, u: Tensor | None = None) -> Distribution:
        """The mixture of the states' distributions."""
        return self.emission.given(u).mixture(safe_logsumexp(belief.log_probs, -1))

    # ---- the compiled path

    def _log_transition(self) -> Tensor:
        return type(self).transition_matrix.log(self)

    def _arguments(self, sequences: Sequences, initial: Elapsed | None = None) -> Arguments:
        """What every function of `probseq.ops.hsmm` takes."""
        size = len(sequences.values)
        first = self.initial_belief((size,)) if initial is None else initial
        observed = None if sequences.complete else sequences.observed
        table = self.emission.given(sequences.inputs).log_prob(sequences.values, observed)
        return first.log_probs, self._log_transition(), *self.duration.log_hazards(), table, sequences.lengths

    def _log_prob(self, sequences: Sequences) -> Tensor:
        return hsmm.log_prob(*self._arguments(sequences))

    def _filter(self, sequences: Sequences, initial: Elapsed | None) -> Filtered[Elapsed]:
        predicted, updated, log_prob = hsmm.filter(*self._arguments(sequences, initial))
        return Filtered(Elapsed(predicted), Elapsed(updated), log_prob)

    def _posterior(self, sequences: Sequences) -> hsmm.Posterior:
        posterior = hsmm.posterior(*self._arguments(sequences))
        refuse_impossible(posterior.impossible_at, sequences)
        return posterior

    def _smooth(self, sequences: Sequences) -> Elapsed:
        return Elapsed(self._posterior(sequences).log_gamma)

    def _decode(self, sequences: Sequences) -> Tensor:
        """The states of the most probable segmentation."""
        states, score = hsmm.viterbi(*self._arguments(sequences))
        if bool((score == -torch.inf).any()):
            self._posterior(sequences)
        return states

    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor:
        self._posterior(sequences)
        uniforms = torch.rand((n_samples, *sequences.values.shape[:2]), dtype=torch.float64, generator=randomness)
        return hsmm.sample_paths(*self._arguments(sequences), uniforms)

    def _draw_series(self, sample_shape: tuple[int, ...], length: int, inputs: Tensor | None) -> Tensor:
        return draw_rows(self, sample_shape, length, inputs)

    def _path_log_prob(self, states: Tensor, sequences: Sequences) -> Tensor:
        """log pi(z_0) + sum over steps of lasting on or jumping + sum log b_t(z_t); runs of a state are its segments.

        With one state, where segments cannot be told from states, the sum over all segmentations.
        """
        inside = sequences.inside
        if states.ndim != 2:
            raise ValueError(f"states must be single numbers at every step, got shape {tuple(states.shape[2:])}")
        path = torch.where(inside, states.long(), 0)
        if path.numel() and (int(path.min()) < 0 or int(path.max()) >= self.n_states):
            raise ValueError(f"states must lie in 0 .. {self.n_states - 1}, got {int(path.min())} .. {int(path.max())}")
        if sequences.n_steps == 0:
            return torch.zeros(len(path), dtype=torch.float64)
        start, jumps, ends, lasts, table, lengths = self._arguments(sequences)
        emitted = table.gather(-1, path.unsqueeze(-1)).squeeze(-1)
        first = torch.where(lengths > 0, start[..., 0].gather(-1, path[:, :1]).squeeze(-1), 0.0)
        total = first + torch.where(inside, emitted, 0.0).sum(-1)
        if self.n_states == 1:
            return total
        before, after = path[:, :-1], path[:, 1:]
        elapsed = _run_lengths(path)[:, :-1].clamp(max=self.max_duration) - 1
        leaving = ends[before, elapsed] + jumps[before, after]
        moved = torch.where(before == after, lasts[before, elapsed], leaving)
        return total + torch.where(inside[:, 1:], moved, 0.0).sum(-1)

    def log_prior(self) -> Tensor:
        """log density of the prior of the emission."""
        return self.emission.log_prior()

    def _outside(self, values: Tensor) -> tuple[Tensor, str] | None:
        return self.emission.invalid(values)

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        self.emission.rescale(scale, shift)

    # ---- learning

    def _start(self, sequences: Sequences, seed: int) -> None:
        """Emissions from clusters of the data; broad durations and even jumps, perturbed by the seed."""
        k = self.n_states
        rows = sequences.inside
        self._says(sequences).start(sequences.values[rows], sequences.observed[rows], seed)
        self.duration.start(seed)
        noise = torch.rand(k, k, dtype=torch.float64, generator=generator(seed)) + 0.5
        noise = noise * (1 - torch.eye(k)) if k > 1 else noise
        matrix = noise / noise.sum(-1, keepdim=True)
        self.assign(transition_matrix=matrix, initial_probs=torch.full((k,), 1 / k, dtype=torch.float64))

    def _says(self, sequences: Sequences) -> Says:
        """The emission at all steps, in a row."""
        return self.emission.given(None if sequences.inputs is None else sequences.inputs[sequences.inside])

    def _em_step(self, sequences: Sequences) -> Tensor:
        """Baum-Welch with durations; the end of the last segment is imputed, as p(d | d >= elapsed)."""
        posterior = self._posterior(sequences)
        objective = posterior.log_prob.sum() + self.log_prior()
        used = sequences.lengths > 0
        gamma = posterior.log_gamma.exp()
        first = gamma[used, 0].sum((0, 2))
        cut = gamma[used, sequences.lengths[used] - 1].sum(0)
        log_probs = self.duration.log_probs()
        durations = posterior.ends + impute(cut, log_probs)
        mass = posterior.jumps.sum(-1, keepdim=True)
        of_states = gamma[sequences.inside].sum(-1)
        if bool((of_states.sum(0) < 1e-8).any()):
            say("empty state", EMPTY_STATE)
        matrix = torch.where(mass > 0, posterior.jumps / torch.where(mass > 0, mass, 1.0), self.transition_matrix)
        self.assign(transition_matrix=matrix, initial_probs=first / first.sum())
        if self.n_states > 1:
            self.duration.maximise(durations)
        rows = sequences.inside
        self._says(sequences).maximise(sequences.values[rows], sequences.observed[rows], of_states)
        return objective


def impute(cut: Tensor, log_probs: Tensor) -> Tensor:
    """Expected durations of segments cut off after e steps: sum_{e <= d} cut[k, e] p_k(d) / S_k(e), (K, D)."""
    tail = log_tail(log_probs)
    reached = cut > 0
    rates = torch.where(reached, cut.log() - torch.where(reached, tail, 0.0), -torch.inf)
    return (log_probs + rates.logcumsumexp(-1)).exp()


def _run_lengths(path: Tensor) -> Tensor:
    """How long the current value has lasted at every step, 1, 2, ..., (B, T)."""
    steps = torch.arange(path.shape[1]).expand(path.shape)
    new = torch.nn.functional.pad(path[:, 1:] != path[:, :-1], (1, 0), value=True)
    return steps - torch.where(new, steps, 0).cummax(-1).values + 1
