"""The switching linear dynamical system: a Markov chain of regimes chooses the linear system of every step.

    s_0 ~ Categorical(initial_probs),   z_0 ~ N(initial_mean, initial_cov)
    for t in range(T):
        y_t ~ N(C_k z_t + d_k, R_k),                       k = s_t
        s_{t+1} ~ Categorical(regime_transition_matrix[s_t])
        z_{t+1} ~ N(F_k z_t + b_k, Q_k),                   k = s_{t+1}

| symbol | name                | shape     |   | symbol | name                     | shape     |
|--------|---------------------|-----------|---|--------|--------------------------|-----------|
| F      | transition_matrices | (K, n, n) |   | C      | emission_matrices        | (K, m, n) |
| b      | transition_offsets  | (K, n)    |   | d      | emission_offsets         | (K, m)    |
| Q      | transition_covs     | (K, n, n) |   | R      | emission_covs            | (K, m, m) |
|        | initial_mean, _cov  | (n, n)    |   | A      | regime_transition_matrix | (K, K)    |

With `recurrent=True` the regimes listen to the state: p(s_{t+1} = j given s_t = i, z_t) is the softmax over j of
log A_ij + W_ij z_t, with `recurrent_weights` W (K, K, n) (Linderman et al. 2017).

The exact posterior has K^t Gaussians at step t. The belief is a `Mixture` of as many as the filter keeps:

| filtering | p(z_t given y_<t)              | after y_t                                                            |
|-----------|--------------------------------|----------------------------------------------------------------------|
| "imm"     | K: pairs are collapsed before  | K; interacting multiple models (Blom and Bar-Shalom 1988)            |
|           | they move                      |                                                                      |
| "gpb2"    | K^2: every pair moves          | collapsed to K; generalised pseudo-Bayes of order 2 (Bar-Shalom 1978)|

With `emission="poisson"` the observations are counts, y_t ~ Poisson(exp(C_k z_t + d_k)) coordinate by coordinate, and
every Gaussian is updated by Laplace's method (`probseq.models.switching_counts`).

Collapsing keeps weight, mean and covariance, so log_prob is approximate; it is exact with one regime, with equal
ones, and where y_t tells z_t. `estimate_log_prob` is unbiased (Rao-Blackwellised particles) or, for short sequences,
exact (`kind="enumeration"`). Smoothing is Barber's or Kim's, decoding an approximate Viterbi recursion.

References: Bar-Shalom, Li and Kirubarajan (2001), sec. 11.6; Kim (1994), J. Econometrics 60; Murphy (1998), Switching
Kalman filters; Pavlovic, Rehg and MacCormick (2000), NIPS 13; Ghahramani and Hinton (2000), Neural Computation 12.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from probseq import beliefs as B
from probseq import parameters as P
from probseq.base import Filtered, LatentStateModel
from probseq.beliefs import Gaussian, Mixture
from probseq.checks import whole_number
from probseq.models import switching_filter as compiled
from probseq.models import switching_learning as learning
from probseq.models import switching_paths as paths
from probseq.models.normal import symmetric
from probseq.models.particle_filter import Estimate
from probseq.models.switching_counts import CountMixture
from probseq.models.switching_estimates import estimated
from probseq.models.switching_parameters import EmissionParam, size_of
from probseq.models.switching_smoother import Smoothing, smooth, viterbi
from probseq.models.switching_steps import Regimes, branch, collapse, condition, move
from probseq.models.switching_units import rescale
from probseq.ops import semidefinite
from probseq.ops.log_space import safe_logsumexp
from probseq.ops.modes import untracked
from probseq.parameters import Param
from probseq.randomness import seeded
from probseq.sequences import Sequences

Filtering = Literal["imm", "gpb2"]
Emitted = Literal["gaussian", "poisson"]


class SwitchingPath(NamedTuple):
    """A draw of everything: regimes (*batch, T), states (*batch, T, n) and observations (*batch, T, m)."""

    regimes: Tensor
    states: Tensor
    values: Tensor


class SwitchingLDS(LatentStateModel[Mixture]):
    """A switching linear dynamical system from sizes, `SwitchingLDS(3, state_dim=2, obs_dim=2)`, or from parameters.

    - `shared_emission=False`: every regime has its own C, d and R; else one for all, which may be given as (m, n).
    - `recurrent=True`: the moves between regimes depend on the state, through `recurrent_weights`.
    - `filtering` says how the exact mixture is collapsed, "imm" or "gpb2"; `smoothing` how it is smoothed,
      "expectation_correction" or "kim" (`probseq.models.switching_smoother`).
    - `emission="poisson"`: counts with log-rates C z + d, and no `emission_covs`.

    Offsets that are left out are zero where the matrices are given, and then not learned.
    """

    likelihood_kind = "approximate"
    marginalises = True
    real_valued = True
    fit_methods: ClassVar[tuple[str, ...]] = ("variational_em", "gradient")

    initial_probs = Param(P.simplex, "n_regimes")
    regime_transition_matrix = Param(P.simplex, "n_regimes", "n_regimes")
    recurrent_weights = Param(P.real, "n_regimes", "n_regimes", "n_drivers")
    initial_mean = Param(P.real, "state_dim")
    initial_cov = Param(P.semidefinite, "state_dim", "state_dim")
    transition_matrices = Param(P.real, "n_regimes", "state_dim", "state_dim")
    transition_offsets = Param(P.real, "n_regimes", "state_dim")
    transition_covs = Param(P.semidefinite, "n_regimes", "state_dim", "state_dim")
    emission_matrices = EmissionParam(P.real, "n_regimes", "obs_dim", "state_dim")
    emission_offsets = EmissionParam(P.real, "n_regimes", "obs_dim")
    emission_covs = EmissionParam(P.semidefinite, "n_regimes", "noise_dim", "noise_dim")

    def __init__(
        self,
        n_regimes: int | None = None,
        state_dim: int | None = None,
        obs_dim: int | None = None,
        *,
        shared_emission: bool = True,
        recurrent: bool = False,
        filtering: Filtering = "imm",
        smoothing: Smoothing = "expectation_correction",
        emission: Emitted = "gaussian",
        **values: Any,
    ) -> None:
        super().__init__()
        unknown = set(values) - set(self.params())
        if unknown:
            known = sorted(self.params())
            raise TypeError(f"SwitchingLDS got unknown arguments {sorted(unknown)}; parameters are {known}")
        if filtering not in ("imm", "gpb2"):
            raise ValueError(f'filtering must be "imm" or "gpb2", got {filtering!r}')
        if smoothing not in get_args(Smoothing):
            raise ValueError(f"smoothing must be one of {get_args(Smoothing)}, got {smoothing!r}")
        if emission not in get_args(Emitted):
            raise ValueError(f"emission must be one of {get_args(Emitted)}, got {emission!r}")
        if emission == "poisson" and values.get("emission_covs") is not None:
            raise ValueError('emission_covs must be left out where emission="poisson", whose variance is its mean')
        self.emission: Emitted = emission
        self.real_valued = emission == "gaussian"
        given = {name: P.as_parameter(name, value) for name, value in values.items() if value is not None}
        self.filtering: Filtering = filtering
        self.smoothing: Smoothing = smoothing
        self.shared_emission, self.recurrent = bool(shared_emission), bool(recurrent or "recurrent_weights" in given)
        self.n_regimes, self.state_dim, self.obs_dim = (
            size_of(name, size, given)
            for name, size in (("n_regimes", n_regimes), ("state_dim", state_dim), ("obs_dim", obs_dim))
        )
        self.noise_dim = self.obs_dim if self.real_valued else 0
        self.n_drivers = self.state_dim if self.recurrent else 0
        self.event_shape = torch.Size([self.obs_dim])
        self.declare(**given)
        for name, beside in (("transition_offsets", "transition_matrices"), ("emission_offsets", "emission_matrices")):
            if beside in given and name not in given:
                self.assign(**{name: torch.zeros(self.params()[name].value_shape(self))})

    def sizes(self) -> dict[str, Any]:
        return {
            "n_regimes": self.n_regimes,
            "state_dim": self.state_dim,
            "obs_dim": self.obs_dim,
            "shared_emission": self.shared_emission,
            "recurrent": self.recurrent,
            "filtering": self.filtering,
            "smoothing": self.smoothing,
            "emission": self.emission,
        }

    def degrees_of_freedom(self) -> int:
        """Of recurrent weights only contrasts between the moves of a regime count."""
        common = self.n_regimes * self.n_drivers
        return super().degrees_of_freedom() - (0 if self.is_frozen("recurrent_weights") else common)

    def regimes(self) -> Regimes:
        """The parameters at their current values, differentiable."""
        own = type(self)
        return Regimes(
            own.initial_probs.log(self),
            own.regime_transition_matrix.log(self),
            self.recurrent_weights if self.recurrent else None,
            self.initial_mean,
            self.initial_cov,
            self.transition_matrices,
            self.transition_offsets,
            self.transition_covs,
            self.emission_matrices,
            self.emission_offsets,
            self.emission_covs,
            not self.real_valued,
        )

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Mixture:
        """p(s_0) p(z_0) as a mixture: one component per regime, "gpb2" n_regimes equal ones."""
        parts, copies = self.regimes(), self.n_regimes if self.filtering == "gpb2" else 1
        weights = parts.log_initial.repeat(copies) - torch.tensor(float(copies), dtype=torch.float64).log()
        shape = (*batch_shape, len(weights), self.state_dim)
        components = Gaussian(parts.initial_mean.expand(shape), parts.initial_cov.expand(*shape, self.state_dim))
        return Mixture(weights.expand(shape[:-1]), components)

    def predict(self, belief: Mixture, u: Tensor | None = None) -> Mixture:
        """Branch into pairs of regimes; collapse those with one end ("imm"); move."""
        parts = self.regimes()
        if belief.log_weights.shape[-1] > self.n_regimes:  # a step without an update
            belief = _merged(belief, self.n_regimes)
        pairs = branch(parts, belief)
        pairs = collapse(pairs, -2) if self.filtering == "imm" else _flat(pairs)
        return Mixture(pairs.log_weights, move(parts, pairs.components, self._regime_of(pairs)))

    def update(
        self, belief: Mixture, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Mixture, Tensor]:
        """Condition every component on what is observed of y, reweigh them, and collapse pairs ("gpb2").

        Satisfies update(b, y)[1] == emit(b).log_prob(y).
        """
        components, scores = condition(self.regimes(), belief.components, self._regime_of(belief), y, observed)
        joint = belief.log_weights + scores
        log_prob = safe_logsumexp(joint, -1)
        updated = Mixture(joint - log_prob.unsqueeze(-1), components)
        return (_merged(updated, self.n_regimes) if self.filtering == "gpb2" else updated), log_prob

    def emit(self, belief: Mixture, u: Tensor | None = None) -> Distribution:
        """The mixture of N(C m + d, C P C' + R) over the components; of counts a `CountMixture`."""
        parts, regimes = self.regimes(), self._regime_of(belief)
        if parts.counts:
            return CountMixture(parts, belief, regimes)
        matrix = parts.emission_matrix[regimes]
        mean = (matrix @ belief.components.mean.unsqueeze(-1)).squeeze(-1) + parts.emission_offset[regimes]
        cov = symmetric(matrix @ belief.components.cov @ matrix.mT) + parts.emission_cov[regimes]
        says = MultivariateNormal(mean, scale_tril=semidefinite.cholesky(cov), validate_args=False)
        weights = Categorical(logits=belief.log_weights, validate_args=False)
        return MixtureSameFamily(weights, says, validate_args=False)

    def _regime_of(self, belief: Mixture) -> Tensor:
        """The regime of every component: pairs (i, j) stand in the order i K + j."""
        return torch.arange(belief.log_weights.shape[-1]) % self.n_regimes

    def _outside(self, values: Tensor) -> tuple[Tensor, str] | None:
        if self.real_valued:
            return None
        return (values < 0) | (values != values.round()), "counts 0, 1, 2, ..."

    # ---- whole sequences

    def _filter(self, sequences: Sequences, initial: Mixture | None) -> Filtered[Mixture]:
        if torch.is_grad_enabled() or self.recurrent or not self.real_valued or sequences.n_steps == 0:
            return super()._filter(sequences, initial)
        start = self.initial_belief((len(sequences.lengths),)) if initial is None else initial
        return compiled.filtered(self.regimes(), self.filtering == "gpb2", start, sequences)

    def _log_prob(self, sequences: Sequences) -> Tensor:
        if not untracked(sequences.values, *self.parameters()):
            return super()._log_prob(sequences)
        with torch.no_grad():
            return self._filter(sequences, None).log_prob.sum(-1)

    @torch.no_grad()
    def _smooth(self, sequences: Sequences) -> Mixture:
        return smooth(self.regimes(), self._filter(sequences, None).updated, sequences, self.smoothing)

    @torch.no_grad()
    def _decode(self, sequences: Sequences) -> Tensor:
        return viterbi(self.regimes(), sequences)

    def _sample_states(self, sequences: Sequences, n_samples: int, randomness: torch.Generator) -> Tensor:
        """Paths of regime and state, (n_samples, B, T, 1 + n), backwards through a cloud of particles."""
        return paths.sample_paths(self.regimes(), sequences, n_samples, randomness)

    def _path_log_prob(self, states: Tensor, sequences: Sequences) -> Tensor:
        """log p(s, y) of regimes (B, T), exactly; of regimes and states (B, T, 1 + n) log p(s, z, y)."""
        return paths.path_log_prob(self.regimes(), states, sequences)

    @torch.no_grad()
    def estimate_log_prob(
        self,
        y: Any,
        u: Any = None,
        *,
        lengths: Any = None,
        kind: Literal["particle", "enumeration"] = "particle",
        n_samples: int = 10,
        n_particles: int = 200,
        seed: int | None = None,
    ) -> Estimate:
        """log p(y) without collapsing, (*batch,), with its standard error.

        "particle" is the log of the mean of `n_samples` independent unbiased estimates by `n_particles`
        Rao-Blackwellised particles each; "enumeration" follows every regime path (n_regimes ** T) and is exact.
        """
        sequences = self._door(y, u, lengths)
        found = estimated(self.regimes(), sequences.flat(), kind, n_samples, n_particles, seed)
        shape = sequences.batch_shape
        return Estimate(found.value.reshape(shape), kind, found.standard_error.reshape(shape))

    def _simulate(self, belief: Mixture, steps: int, u: Tensor | None) -> tuple[Tensor, Mixture]:
        """Draws of the model itself: the belief only says where regime and state begin."""
        drawn = self._draw_from(belief, steps)
        weights = torch.nn.functional.one_hot(drawn.regimes, self.n_regimes).double().log()
        copies = belief.log_weights.shape[-1] // self.n_regimes
        if copies > 1:  # the first of the pairs that end in this regime
            weights = torch.nn.functional.pad(weights, (0, (copies - 1) * self.n_regimes), value=-torch.inf)
        shape = (*weights.shape, self.state_dim)
        means = drawn.states.unsqueeze(-2).expand(shape)
        return drawn.values, Mixture(weights, Gaussian(means, means.new_zeros(*shape, self.state_dim)))

    def _draw_from(self, belief: Mixture, steps: int) -> SwitchingPath:
        chosen = Categorical(logits=belief.log_weights).sample()
        own = B.at(belief.components, chosen)
        start = own.mean + (semidefinite.cholesky(own.cov) @ torch.randn_like(own.mean).unsqueeze(-1)).squeeze(-1)
        return SwitchingPath(*paths.simulate(self.regimes(), chosen % self.n_regimes, start, steps))

    # ---- learning

    def _start(self, sequences: Sequences, seed: int) -> None:
        learning.start(self, sequences, seed)

    def _variational_step(self, sequences: Sequences, posterior: Any) -> tuple[Tensor, Any]:
        return learning.variational_step(self, sequences, posterior)

    def _unidentified(self, sequences: Sequences) -> set[str]:
        """A sequence shows one start: a belief that narrows around what all y_0 need has an unbounded likelihood."""
        few = int((sequences.lengths > 0).sum()) <= self.state_dim
        return {"initial_mean", "initial_cov"} if few else set()

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        if not self.real_valued:
            raise ValueError('SwitchingLDS with emission="poisson" has no unit to rescale: y are counts')
        rescale(self, scale, shift)

    @torch.no_grad()
    def sample_paths(
        self, length: int, sample_shape: tuple[int, ...] = (), *, seed: int | None = None
    ) -> SwitchingPath:
        """Draws of regimes, states and observations together. Satisfies sample_paths(...).values == sample(...)."""
        with seeded(seed):
            return self._draw_from(self.initial_belief(tuple(sample_shape)), whole_number("length", length))


def _flat(pairs: Mixture) -> Mixture:
    """Pairs (*batch, K, K) as components (*batch, K^2)."""
    mean, cov = pairs.components.mean, pairs.components.cov
    return Mixture(pairs.log_weights.flatten(-2), Gaussian(mean.flatten(-3, -2), cov.flatten(-4, -3)))


def _merged(belief: Mixture, k: int) -> Mixture:
    """Components (*batch, K^2) collapsed over the regime they came from."""
    mean, cov = belief.components.mean, belief.components.cov
    split = Gaussian(mean.unflatten(-2, (k, k)), cov.unflatten(-3, (k, k)))
    return collapse(Mixture(belief.log_weights.unflatten(-1, (k, k)), split), -2)
