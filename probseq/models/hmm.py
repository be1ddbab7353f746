"""The hidden Markov model: one of K states, a transition matrix, a stochastic output.

    z_0 ~ Categorical(initial_probs)
    for t in range(T):
        y_t ~ emission(z_t)
        z_{t+1} ~ Categorical(transition_matrix[z_t])

| name              | shape  |                                             |
|-------------------|--------|---------------------------------------------|
| initial_probs     | (K,)   | pi, the law of z_0 before y_0 is seen; with |
|                   |        | initial="stationary" the one with pi A = pi |
| transition_matrix | (K, K) | A[i, j] = p(z_{t+1} = j given z_t = i)      |
| transition_weights| (K, K, | W, with inputs: the moves into step t follow|
|                   |  P)    | A_t[i] = softmax(log A[i] + W[i] u_t)       |
| emission          |        | b_t(k) = p(y_t given z_t = k), or given also|
|                   |        | u_t (a regression) or y_{t-1}, .. (AR-HMM)  |

The belief is the table log p(z_t = k | y). predict: p'_j = sum_i p_i A_ij; update: p_k proportional to p_k b_t(k),
and the normaliser is p(y_t | y_<t). The gradient of log p(y) in log b_t, log A and log pi is the posterior of
state, pair and first state, so smoothing, EM and backpropagation share one backward kernel. Tied rows, priors and
the M-step of the chain are in `probseq.transitions`.

References: Rabiner (1989), A tutorial on hidden Markov models, Proc. IEEE 77; Zucchini and MacDonald (2009);
Hernando, Crespi and Cybenko (2005), Efficient computation of the hidden Markov model entropy for a given
observation sequence, IEEE Trans. Information Theory 51.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from probseq import dirichlet
from probseq import parameters as P
from probseq import transitions as T
from probseq.base import Filtered, LatentStateModel
from probseq.beliefs import Categorical
from probseq.emissions.autoregressive import Autoregressive
from probseq.emissions.base import Emission, Says, shared_inputs
from probseq.models import hmm_learning as learning
from probseq.models.ancestral import draw_rows
from probseq.models.hmm_inference import derived, path_log_prob, stored_of, value_and_gradient
from probseq.models.hmmlearn_bridge import arguments_from, to_hmmlearn
from probseq.models.states import count_states, refuse_impossible
from probseq.models.windows import rising_step, windows_of
from probseq.ops import hmm
from probseq.ops import hmm_stored as compiled
from probseq.ops.hmm_entropy import path_entropy
from probseq.ops.log_space import safe_logsumexp
from probseq.sequences import Sequences
from probseq.stationary import stationary_law


class HMM(LatentStateModel[Categorical]):
    """A hidden Markov model from sizes, `HMM(2, emission=Gaussian(1))`, or from its probabilities.

    `initial_probs` (K,), `transition_matrix` (K, K) with rows that sum to 1, `emission` an `Emission` with K
    states. Zeros in either stay zero in every fit.

    - an emission with inputs (`LinearRegression`) is driven by u_t, and so is then the model; one with a window
      (`Autoregressive`) makes an AR-HMM, whose belief carries the last rows and which is `approximate` across gaps.
    - `input_dim=1`: inputs drive the transitions through `transition_weights` (K, K, P), a softmax regression of each
      row; `transition_matrix` is the law of the moves at u = 0. Inference then holds a matrix per step, O(T K^2).
      An emission with inputs reads the same ones.
    - `initial="stationary"`: z_0 has the stationary law of `transition_matrix`, which must be unique.
    - `tied_rows=[0, 0, 1]`: states with equal labels share one row of `transition_matrix`.
    - `initial_prior`, `transition_prior`: concentrations (1 or more; a number or an array) of Dirichlet priors on
      `initial_probs` and on each (distinct) row of `transition_matrix`; a fit then maximises log_prob + log_prior.
      Emissions take priors of their own, `emission=Gaussian(2, prior=...)` (`probseq.priors`).
    """

    fit_methods: ClassVar[tuple[str, ...]] = ("em", "gradient")

    initial_probs = T.InitialLaw(P.simplex, "n_states")
    transition_matrix = T.TransitionRows(P.simplex, "n_states", "n_states")
    transition_weights = T.InputWeights(P.real)

    def __init__(
        self,
        n_states: int | None = None,
        *,
        emission: Emission,
        initial_probs: Any = None,
        transition_matrix: Any = None,
        transition_weights: Any = None,
        input_dim: int = 0,
        initial: Literal["free", "stationary"] = "free",
        tied_rows: Sequence[int] | None = None,
        initial_prior: Any = None,
        transition_prior: Any = None,
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
        #: the number of inputs that drive the transitions
        self.n_drivers = T.count_inputs(input_dim, transition_weights)
        self.input_dim = shared_inputs(self.n_drivers, emission)
        #: whether the emission reads the rows before
        self._remembers = isinstance(emission, Autoregressive)
        self.marginalises = not self._remembers
        self.initial = T.start_of(initial, initial_probs, initial_prior, self.n_drivers)
        self.tied_rows = T.groups_of(tied_rows, self.n_states)
        k = self.n_states
        self.initial_prior = dirichlet.concentration("initial_prior", initial_prior, (k,))
        self.transition_prior = dirichlet.concentration("transition_prior", transition_prior, (k, k))
        T.refuse_untied("transition_prior", self.transition_prior, self.tied_rows)
        self.declare(
            transition_matrix=transition_matrix, transition_weights=transition_weights, initial_probs=initial_probs
        )
        if self.initial == "stationary" and transition_matrix is not None:
            stationary_law(self.transition_matrix.detach())

    def sizes(self) -> dict[str, Any]:
        options: dict[str, Any] = {} if self.initial == "free" else {"initial": self.initial}
        options.update({"input_dim": self.n_drivers} if self.n_drivers else {})
        options.update({} if self.tied_rows is None else {"tied_rows": self.tied_rows})
        for name, prior in (("initial_prior", self.initial_prior), ("transition_prior", self.transition_prior)):
            options.update({} if prior is None else {name: prior.tolist()})
        return {"n_states": self.n_states, "emission": self.emission, **options}

    @classmethod
    def from_hmmlearn(cls, model: Any, *, priors: bool = True) -> Self:
        """The HMM that equals a fitted GaussianHMM, CategoricalHMM or PoissonHMM of hmmlearn, and fits like it.

        hmmlearn's default priors come along, so that EM takes the same steps; `priors=False` leaves them out.
        """
        return cls(**arguments_from(model, priors))

    def to_hmmlearn(self) -> Any:
        """An hmmlearn model with these parameters and priors."""
        return to_hmmlearn(self)

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Categorical:
        """log initial_probs, the belief before y_0 is seen."""
        window = None if self._memory is None else self._memory.initial_window.expand(*batch_shape, -1, -1)
        return Categorical(self._log_initial().expand(*batch_shape, self.n_states), window)

    def predict(self, belief: Categorical, u: Tensor | None = None) -> Categorical:
        """log sum_i p_i A_ij, A_t with inputs."""
        moved = safe_logsumexp(belief.log_probs.unsqueeze(-1) + self._log_moves(u), -2)
        return Categorical(moved, belief.window)

    def update(
        self, belief: Categorical, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Categorical, Tensor]:
        """Condition on y. Satisfies update(b, y)[1] == emit(b).log_prob(y).

        Where y is impossible the log-probability is -inf and the belief stays as it was.
        """
        joint = belief.log_probs + self.emission.given(u, belief.window).log_prob(y, observed)
        log_prob = safe_logsumexp(joint, -1)
        possible = log_prob > -torch.inf
        updated = joint - torch.where(possible, log_prob, 0.0).unsqueeze(-1)
        log_probs, window = torch.where(possible.unsqueeze(-1), updated, belief.log_probs), belief.window
        if self._memory is not None and window is not None:
            window = self._memory.remember(window, log_probs, y, observed)
        return Categorical(log_probs, window), log_prob

    def emit(self, belief: Categorical, u: Tensor | None = None) -> Distribution:
        """The mixture of the states' emissions, weighted by the belief."""
        return self.emission.given(u, belief.window).mixture(belief.log_probs)

    @property
    def _memory(self) -> Autoregressive | None:
        """The emission if it reads the rows before."""
        return cast(Autoregressive, self.emission) if self._remembers else None

    # ---- the compiled path

    def _log_initial(self) -> Tensor:
        return type(self).initial_probs.log(self)

    def _log_transition(self) -> Tensor:
        return type(self).transition_matrix.log(self)

    def _log_moves(self, u: Tensor | None) -> Tensor:
        """log A_t for inputs (*batch, P), (*batch, K, K); (K, K) where there are none."""
        log_rows = self._log_transition()
        return log_rows if u is None or not self.n_drivers else T.driven(log_rows, self.transition_weights, u)

    def degrees_of_freedom(self) -> int:
        """Of the weights only contrasts between possible moves count: those of a row less one, per input."""
        total = super().degrees_of_freedom()
        if not self.n_drivers or self.is_frozen("transition_weights"):
            return total
        impossible = self._parameters["raw_transition_matrix"] == -torch.inf
        return total - self.n_drivers * (int(impossible.sum()) + len(impossible))

    def _arguments(
        self,
        sequences: Sequences,
        initial: Categorical | None = None,
        windows: Tensor | None = None,
        table: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log_initial (B, K), log_transition (1, 1, K, K), (B, T, K, K) with inputs, table (B, T, K), lengths."""
        first = self._log_initial() if initial is None else initial.log_probs
        if table is None:
            says = self._says(sequences, self._windows(sequences, initial) if windows is None else windows)
            table = says.log_prob(sequences.values, None if sequences.complete else sequences.observed)
        log_transition = self._log_moves(sequences.inputs if sequences.n_steps else None)
        if log_transition.ndim == 2:
            log_transition = log_transition.reshape(1, 1, self.n_states, self.n_states)
        return first.expand(sequences.values.shape[0], self.n_states), log_transition, table, sequences.lengths

    def _table(self, sequences: Sequences) -> Tensor:
        """log b_t(k) of an emission that reads nothing but the state, (B, T, K)."""
        return self.emission.log_prob(sequences.values, None if sequences.complete else sequences.observed)

    def _log_prob(self, sequences: Sequences) -> Tensor:
        stored = stored_of(self, sequences)
        result = derived(self, sequences) if stored is None else compiled.log_prob(stored)
        return hmm.log_prob(*self._arguments(sequences)) if result is None else result

    def _value_and_gradient(
        self, sequences: Sequences, parameters: list[nn.Parameter]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        found = value_and_gradient(self, sequences, parameters)
        return super()._value_and_gradient(sequences, parameters) if found is None else found

    def _windows(self, sequences: Sequences, initial: Categorical | None = None) -> Tensor | None:
        """The rows that an AR-HMM reads at every step, and after the last, (B, T + 1, order, D)."""
        return windows_of(self, sequences, initial) if self._remembers else None

    def _says(self, sequences: Sequences, windows: Tensor | None, rows: Tensor | None = None) -> Says:
        """The emission at every step, or at those that `rows` (B, T) marks, in a row."""
        u, window = sequences.inputs, None if windows is None else windows[:, :-1]
        if rows is not None:
            u, window = None if u is None else u[rows], None if window is None else window[rows]
        return self.emission.given(u, window)

    def _filter(self, sequences: Sequences, initial: Categorical | None) -> Filtered[Categorical]:
        stored = stored_of(self, sequences, compiled.FEW) if initial is None else None
        found = None if stored is None else compiled.filter(stored)
        if found is not None:
            return Filtered(Categorical(found.log_predicted), Categorical(found.log_updated), found.log_prob)
        windows = self._windows(sequences, initial)
        predicted, updated, log_prob = hmm.filter(*self._arguments(sequences, initial, windows))
        before, after = (None, None) if windows is None else (windows[:, :-1], windows[:, 1:])
        return Filtered(Categorical(predicted, before), Categorical(updated, after), log_prob)

    def _posterior(self, sequences: Sequences) -> hmm.Posterior:
        arguments = self._arguments(sequences)
        posterior = hmm.posterior(*arguments)
        refuse_impossible(posterior.impossible_at, sequences)
        return posterior

    def _smooth(self, sequences: Sequences) -> Categorical:
        stored = stored_of(self, sequences, compiled.FEW)
        log_gamma = None if stored is None else compiled.log_gamma(stored)
        if log_gamma is not None:
            return Categorical(log_gamma)
        windows = self._windows(sequences)
        return Categorical(self._posterior(sequences).log_gamma, None if windows is None else windows[:, 1:])

    def _decode(self, sequences: Sequences) -> Tensor:
        stored = stored_of(self, sequences, compiled.FEW)
        path = None if stored is None else compiled.viterbi(stored)
        if path is not None:
            return path.states
        arguments = self._arguments(sequences)
        states, score = hmm.viterbi(*arguments)
        if score.numpy().min(initial=0.0) == -np.inf:
            refuse_impossible(hmm.posterior(*arguments).impossible_at, sequences)
        return states

    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor:
        arguments = self._arguments(sequences)
        refuse_impossible(hmm.posterior(*arguments).impossible_at, sequences)
        uniforms = torch.rand((n_samples, *sequences.values.shape[:2]), dtype=torch.float64, generator=randomness)
        return hmm.sample_paths(*arguments, uniforms)

    def _draw_series(self, sample_shape: tuple[int, ...], length: int, inputs: Tensor | None) -> Tensor:
        draw = super()._draw_series if self._remembers else partial(draw_rows, self)
        return draw(sample_shape, length, inputs)

    def _path_log_prob(self, states: Tensor, sequences: Sequences) -> Tensor:
        return path_log_prob(self, states, sequences)

    # ---- posterior quantities of the chain

    @torch.no_grad()
    def expected_transitions(self, y: Any, u: Any = None, *, lengths: Any = None) -> Tensor:
        """E[number of moves i -> j given y] = sum_{t >= 1} p(z_{t-1} = i, z_t = j | y), (*batch, K, K).

        The entries sum to the number of steps less one, and equal the gradient of log_prob in log A.
        """
        sequences = self._door(y, u, lengths)
        counts = self._posterior(sequences.flat()).xi_sum.sum(1)
        return counts.reshape(*sequences.batch_shape, self.n_states, self.n_states)

    @torch.no_grad()
    def path_entropy(self, y: Any, u: Any = None, *, lengths: Any = None) -> Tensor:
        """Entropy of p(z_{0:T} | y) in nats, (*batch,): how uncertain the whole path is, 0 if y tells it.

        H = H(z_{T-1} | y) + sum_t sum_j p(z_t = j | y) H(z_{t-1} | z_t = j, y) (Hernando et al. 2005, eq. 14-17).
        """
        sequences = self._door(y, u, lengths)
        flat = sequences.flat()
        gamma = self._posterior(flat).log_gamma.exp()
        if flat.n_steps == 0:
            return gamma.new_zeros(sequences.batch_shape)
        arguments = self._arguments(flat)
        entropy = path_entropy(hmm.filter(*arguments).log_updated, gamma, arguments[1], flat.lengths)
        return entropy.reshape(sequences.batch_shape)

    def log_prior(self) -> Tensor:
        """log density of the priors: on `initial_probs`, the distinct rows of `transition_matrix`, and the emission."""
        total = self.emission.log_prior()
        if self.transition_prior is not None:
            rows, prior = (T.mean_of_groups(x, self.tied_rows) for x in (self._log_transition(), self.transition_prior))
            total = total + dirichlet.log_density(prior, rows)
        if self.initial_prior is not None:
            total = total + dirichlet.log_density(self.initial_prior, self._log_initial())
        return total

    def _outside(self, values: Tensor) -> tuple[Tensor, str] | None:
        return self.emission.invalid(values)

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        self.emission.rescale(scale, shift)

    def _keeps_origin(self) -> bool:
        return self.emission.keeps_origin()

    # ---- learning

    def _start(self, sequences: Sequences, seed: int) -> None:
        learning.start(self, sequences, seed)

    def _em_step(self, sequences: Sequences) -> Tensor:
        moving = self._memory is not None and not sequences.complete
        return rising_step(self, sequences) if moving else self._plain_em_step(sequences)

    def _plain_em_step(self, sequences: Sequences) -> Tensor:
        return learning.em_step(self, sequences)
