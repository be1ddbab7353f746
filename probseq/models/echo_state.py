"""The echo state network: a random reservoir that is not trained, read by a Bayesian linear regression.

    h_0 = cell(0, 0, u_0)
    for t in range(T):
        x_t = (h_t, y_{t-1}, u_t, 1)
        y_t ~ N(W x_t, (1 + x_t' A^-1 x_t) S)                   # t >= washout; N(m, C) before
        h_{t+1} = cell(h_t, y_t, u_{t+1})

| symbol  | name             | shape           | meaning                                                            |
|---------|------------------|-----------------|--------------------------------------------------------------------|
| W       | readout_matrix   | (D, F)          | the only weights that are learned, by ridge regression             |
| S       | noise_cov        | (D, D)          | what no weights explain                                            |
| A^-1    | readout_root     | (F, F), a root  | what is not known of the weights (`probseq.models.ridge`)          |
| m, C    | washout_mean/cov | (D,), (D, D)    | the moments of the data, told while the network forgets its start  |
| x_t     |                  | (F,)            | H + D + P + 1 features, and the squares of h_t with `squares=True` |

All of these live in standardised units, y = shift + scale * standardised y. The regression takes the steps from
`washout` on whose targets are complete. Its strength is the one of largest evidence, so nothing is left to be tuned but
the reservoir: `spectral_radius`, `leak`, `sparsity`, `input_scaling` (of its weights for standardised inputs and
observations, and of its biases), and `feedback_scaling`, by which observations are multiplied before. Noise that is
added in the fit alone makes free runs robust: `feedback_noise` to what is fed back, `state_noise` to the activities,
both standard deviations.

What the network reads where y is missing is its expectation, and log p(y) then an approximation; a fit reads the last
observed value instead, then once more the expectation under what it found. Computes in float64: the readout of a smooth
series lives on digits that float32 does not have.

Jaeger, H. (2001). The "echo state" approach to analysing and training recurrent neural networks. GMD report 148.
Jaeger, H. & Haas, H. (2004). Harnessing nonlinearity. Science 304. Lukosevicius, M. (2012). A practical guide to
applying echo state networks. Jaeger, H. (2003). Adaptive nonlinear system identification with echo state networks (the
squares).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import MultivariateNormal

from probseq import parameters as P
from probseq.base import Filtered, StateSpaceModel
from probseq.beliefs import Point
from probseq.cells import Reservoir
from probseq.checks import whole_number
from probseq.emissions.head import argument_checks, seen_sum
from probseq.emissions.heads.scales import whiten
from probseq.models.ridge import fit_ridge, with_floor
from probseq.parameters import Param, psd_factor
from probseq.randomness import generator, spawn
from probseq.sequences import Sequences, step_input


class EchoState(StateSpaceModel[Point]):
    """An echo state network, `EchoState(hidden_size=400, spectral_radius=0.9, obs_dim=1)`; see the module's equations.

    With `feedback=False` it reads the inputs alone (a transducer). The reservoir is drawn from `seed`, and drawn anew
    by a first fit and by further restarts.
    """

    fit_methods: ClassVar[tuple[str, ...]] = ("ridge",)
    real_valued = True

    readout_matrix = Param(P.real, "obs_dim", "feature_dim")
    noise_cov = Param(P.semidefinite, "obs_dim", "obs_dim")
    washout_mean = Param(P.real, "obs_dim")
    washout_cov = Param(P.semidefinite, "obs_dim", "obs_dim")
    readout_root: Tensor
    shift: Tensor
    scale: Tensor
    input_shift: Tensor
    input_scale: Tensor

    def __init__(
        self,
        hidden_size: int = 400,
        spectral_radius: float = 0.9,
        leak: float = 1.0,
        input_scaling: float = 0.2,
        sparsity: float = 0.0,
        *,
        obs_dim: int = 1,
        input_dim: int = 0,
        feedback: bool = True,
        feedback_scaling: float = 1.0,
        feedback_noise: float = 0.0,
        state_noise: float = 0.0,
        squares: bool = False,
        washout: int = 100,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("feedback_scaling", feedback_scaling),
            ("feedback_noise", feedback_noise),
            ("state_noise", state_noise),
        ):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value!r}")
        self.obs_dim = whole_number("obs_dim", obs_dim)
        self.input_dim = whole_number("input_dim", input_dim, least=0)
        if not feedback and not self.input_dim:
            raise ValueError("a network with feedback=False reads only inputs, so input_dim must be positive")
        self.washout = whole_number("washout", washout, least=0)
        self.feedback, self.squares = bool(feedback), bool(squares)
        self.feedback_scaling, self.feedback_noise = float(feedback_scaling), float(feedback_noise)
        self.state_noise, self.reads_observations = float(state_noise), self.feedback
        width = self._width + self.input_dim
        self.cell = Reservoir(hidden_size, spectral_radius, leak, input_scaling, sparsity)
        self.cell.bind(width, dtype=torch.float64, generator_seed=seed)
        self.feature_dim = self.cell.hidden_size * (2 if self.squares else 1) + width + 1
        self.event_shape = torch.Size([self.obs_dim])
        for name, size in (("", self.obs_dim), ("input_", self.input_dim)):
            self.register_buffer(f"{name}shift", torch.zeros(size, dtype=torch.float64))
            self.register_buffer(f"{name}scale", torch.ones(size, dtype=torch.float64))
        root = torch.zeros(P.allow(self.feature_dim, self.feature_dim), dtype=torch.float64)
        self.register_buffer("readout_root", root)
        self.declare()
        self.eval()

    @property
    def _width(self) -> int:
        return self.obs_dim if self.feedback else 0

    def sizes(self) -> dict[str, Any]:
        own = ("obs_dim", "input_dim", "feedback", "feedback_scaling", "feedback_noise", "state_noise", "squares")
        return {**self.cell.sizes(), **{name: getattr(self, name) for name in (*own, "washout")}}

    # ---- the four steps

    def initial_belief(self, batch_shape: tuple[int, ...] = (), u: Tensor | None = None) -> Point:
        """The reservoir, at rest, after it has read u_0 (and zeros for the observation before the first)."""
        nothing = torch.zeros(*batch_shape, self._width, dtype=torch.float64)
        state = self.cell.step(self._read(nothing, u), self.cell.initial_state(batch_shape))
        return Point(state, nothing, torch.zeros(batch_shape, dtype=torch.int64))

    def predict(self, belief: Point, u: Tensor | None = None) -> Point:
        """One step of the reservoir on the last observation and the input moved into."""
        state = self.cell.step(self._read(belief.previous, u), belief.state)
        return Point(state, belief.previous, self._time(belief) + 1)

    def update(
        self, belief: Point, y: Tensor, observed: Tensor | None = None, u: Tensor | None = None
    ) -> tuple[Point, Tensor]:
        """Store y, standardised, or its expectation where missing; update(b, y)[1] == emit(b).log_prob(y)."""
        mean, factor = self._predictive(belief, u)
        y = y if observed is None else torch.where(observed, y, self.shift)
        score = self._log_density(y, mean, factor, observed)
        encoded = self._encode(y)
        if self.feedback and observed is not None:
            encoded = torch.where(observed, encoded, mean)
        return Point(belief.state, encoded, belief.step), score

    def emit(self, belief: Point, u: Tensor | None = None) -> MultivariateNormal:
        """N(W x, (1 + x' A^-1 x) S), in the units of the data; during the washout N(m, C)."""
        mean, factor = self._predictive(belief, u)
        lower = self.scale.unsqueeze(-1) * factor
        return MultivariateNormal(self.shift + self.scale * mean, scale_tril=lower, validate_args=argument_checks(mean))

    def _time(self, belief: Point) -> Tensor:
        if belief.step is None:
            raise ValueError("belief must say its step: take it from initial_belief or filter")
        return belief.step

    def _read(self, previous: Tensor, u: Tensor | None) -> Tensor:
        """What the reservoir reads: the fed-back observation and the input, (*batch, width)."""
        inputs = [] if u is None else [self._standard(u)]
        return torch.cat([self.feedback_scaling * previous, *inputs], -1)

    def _standard(self, u: Tensor) -> Tensor:
        return (u - self.input_shift) / self.input_scale

    def _encode(self, y: Tensor) -> Tensor:
        return ((y - self.shift) / self.scale)[..., : self._width]

    def _features(self, state: Tensor, previous: Tensor, u: Tensor | None) -> Tensor:
        """x_t, (*batch, feature_dim)."""
        squares = [state.square()] if self.squares else []
        inputs = [] if u is None else [self._standard(u)]
        return torch.cat([state, *squares, previous, *inputs, torch.ones_like(state[..., :1])], -1)

    def _predictive(self, belief: Point, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean (*batch, D) and lower factor of the covariance (*batch, D, D), standardised."""
        features = self._features(belief.state, belief.previous, u)
        spread = (1 + (features @ self.readout_root).square().sum(-1)).sqrt()
        early = (self._time(belief) < self.washout).unsqueeze(-1)
        mean = torch.where(early, self.washout_mean, F.linear(features, self.readout_matrix))
        factor = spread.unsqueeze(-1).unsqueeze(-1) * psd_factor(self.noise_cov)
        return mean, torch.where(early.unsqueeze(-1), psd_factor(self.washout_cov), factor)

    def _log_density(self, y: Tensor, mean: Tensor, factor: Tensor, observed: Tensor | None) -> Tensor:
        score, log_scale = whiten(factor, (y - self.shift) / self.scale - mean, observed)
        constant = 0.5 * math.log(2 * math.pi) + self.scale.log()
        return seen_sum(-0.5 * score.square() - log_scale - constant, observed)

    # ---- whole sequences

    def _filter(self, sequences: Sequences, initial: Point | None) -> Filtered[Point]:
        if not sequences.complete or sequences.n_steps == 0:
            return super()._filter(sequences, initial)
        u = sequences.inputs
        start = self.initial_belief((len(sequences.values),), step_input(u, 0)) if initial is None else initial
        after = self._encode(sequences.values)
        before = torch.cat([start.previous.unsqueeze(1), after[:, :-1]], 1)
        moved = self.cell.states(self._read(before, u)[:, 1:], start.state)
        states = torch.cat([start.state.unsqueeze(1), moved], 1)
        steps = self._time(start).unsqueeze(-1) + torch.arange(sequences.n_steps)
        predicted = Point(states, before, steps)
        observed = None if sequences.rectangular else sequences.observed
        score = self._log_density(sequences.values, *self._predictive(predicted, u), observed)
        return Filtered(predicted, Point(states, after, steps), score)

    @torch.no_grad()
    def free_run(self, y: Any, steps: int, u: Any = None, *, lengths: Any = None, future_u: Any = None) -> Any:
        """The steps after the end of y when each mean is fed back as if it had been seen, (*batch, steps, D).

        Not the mean of `forecast`, which averages over what may happen. A list of sequences gives a list.
        """
        sequences = self._door(y, u, lengths)
        steps = whole_number("steps", steps)
        future = self._future(future_u, sequences, steps)
        inputs = None if future is None else future.reshape(-1, steps, self.input_dim)
        belief = self._beyond(sequences.flat(), step_input(inputs, 0))
        values: list[Tensor] = []
        for h in range(steps):
            belief = belief if h == 0 else self.predict(belief, step_input(inputs, h))
            mean = self._predictive(belief, step_input(inputs, h))[0]
            values.append(self.shift + self.scale * mean)
            belief = belief._replace(previous=mean[..., : self._width])
        run = torch.stack(values, 1)
        return list(run) if sequences.layout == "list" else run.reshape(*sequences.batch_shape, steps, self.obs_dim)

    # ---- learning

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        self.shift.copy_(scale * self.shift + shift)
        self.scale.mul_(scale)

    def _start(self, sequences: Sequences, seed: int) -> None:
        self.cell.reset_parameters(spawn(seed, 2)[0])

    @torch.no_grad()
    def _solve(self, sequences: Sequences, seed: int) -> None:
        """The readout of this reservoir, by ridge regression in the units of the data given."""
        self.shift.zero_()
        self.scale.fill_(1.0)
        if sequences.inputs is not None:
            shift, scale = sequences.input_units()
            self.input_shift.copy_(shift)
            self.input_scale.copy_(scale)
        complete = sequences.observed.all(-1) & sequences.inside
        used = complete & (torch.arange(sequences.n_steps) >= self.washout)
        if int(used.sum()) <= self.obs_dim:
            raise ValueError(
                f"y must have more than {self.obs_dim} complete steps (obs_dim) after the washout of {self.washout}, "
                f"got {int(used.sum())}: lower washout"
            )
        rows = sequences.values[complete]
        away = rows - rows.mean(0)
        self.assign(washout_mean=rows.mean(0), washout_cov=with_floor(away.mT @ away / len(rows), rows))
        read = _carried(sequences)
        for attempt in range(1 if sequences.complete or not self.feedback else 2):
            if attempt:
                read = self._filter(sequences, None).updated.previous
            features = self._teacher_forced(read, sequences.inputs, spawn(seed, 2)[1])
            ridge = fit_ridge(features[used], sequences.values[used])
            self.assign(readout_matrix=ridge.weights, noise_cov=ridge.noise_cov)
            self.readout_root.copy_(ridge.root)

    def _teacher_forced(self, values: Tensor, u: Tensor | None, seed: int) -> Tensor:
        """x_t (B, T, F) when the network reads `values` (B, T, D), with the noise of a fit."""
        draws = generator(seed)
        before = F.pad(values[..., : self._width], (0, 0, 1, 0))[:, :-1]
        noisy = before + self.feedback_noise * _normal(before, draws) if self.feedback_noise else before
        inputs, state = self._read(noisy, u), self.cell.initial_state((len(values),))
        if not self.state_noise:
            return self._features(self.cell.states(inputs, state), noisy, u)
        states: list[Tensor] = []
        for inputs_now in inputs.unbind(1):
            state = self.cell.step(inputs_now, state)
            state = state + self.state_noise * _normal(state, draws)
            states.append(state)
        return self._features(torch.stack(states, 1), noisy, u)


def _normal(like: Tensor, draws: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=draws, dtype=like.dtype)


def _carried(sequences: Sequences) -> Tensor:
    """The values (B, T, D), each missing one replaced by the last observed before it, or zero."""
    values, seen = sequences.values, sequences.observed
    times = torch.arange(sequences.n_steps).reshape(1, -1, 1).expand_as(values)
    last = torch.where(seen, times, -1).cummax(1).values
    return torch.where(last >= 0, torch.where(seen, values, 0.0).gather(1, last.clamp(min=0)), 0.0)
