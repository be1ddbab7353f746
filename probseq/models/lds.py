"""The linear dynamical system: a real-valued state with linear dynamics, Gaussian noise and driving inputs.

    z_0 ~ N(initial_mean, initial_cov)
    y_t ~ N(emission_matrix z_t + emission_input_matrix u_t + emission_offset, emission_cov)
    z_{t+1} ~ N(transition_matrix z_t + transition_input_matrix u_{t+1} + transition_offset, transition_cov)

The start is `initial="given"`; or "stationary", the law that the dynamics leave as it is: the mean solves
m = A m + transition_offset and the covariance P = A P A' + Q (inputs apart), with gradients; or "diffuse", nothing
known. `initial_diffuse` makes single elements of a given or stationary start diffuse: the others are then in the
law that is stationary for them by themselves. A diffuse start is exact, not a large variance (see `linear_gaussian`).

EM (Shumway and Stoffer 1982; Ghahramani and Hinton 1996): the E-step is the smoother with lag-one covariances;
the M-step is two weighted regressions, of z_t on (z_{t-1}, u_t, 1) and of y_t on (z_t, u_t, 1). A missing
coordinate of y_t enters through its conditional mean and covariance given the state and the observed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from probseq import parameters as P
from probseq.checks import whole_number
from probseq.errors import StateOverflow
from probseq.models.linear_gaussian import STABLE, LinearGaussianModel, System, stationary_cov, symmetric
from probseq.ops import kalman
from probseq.parameters import Param, Parametric
from probseq.randomness import generator
from probseq.sequences import Sequences

MATRICES = ("transition_matrix", "transition_cov", "emission_matrix", "emission_cov", "initial_mean", "initial_cov")
OFFSETS = ("transition_offset", "emission_offset")
STARTS = ("initial_mean", "initial_cov")


class Timed(Param):
    """A parameter of an LDS that may vary in time: its value then has a leading time axis."""

    def raw_shape(self, instance: Parametric) -> tuple[int, ...]:
        assert isinstance(instance, LDS)
        steps = instance.varying.get(self.name)
        return super().raw_shape(instance) if steps is None else (steps, *super().raw_shape(instance))


class LDS(LinearGaussianModel):
    """A linear dynamical system from sizes, `LDS(2, 1)`, or from its matrices, `LDS(transition_matrix=..., ...)`.

    Shapes: transition_matrix, transition_cov, initial_cov (n, n), emission_matrix (m, n), emission_cov (m, m),
    initial_mean (n,), transition_input_matrix (n, p), emission_input_matrix (m, p), offsets (n,) and (m,).
    Covariances may be singular. `offsets` names those that are learned, "transition_offset" or "emission_offset":
    by default the given ones, and for a model from sizes the emission offset, the level of the data. The others are
    zero and held there.

    Transition and emission matrices, covariances and offsets may vary in time, each by itself: one axis more, time in
    front (entry t of a transition parameter is the step into t). They are known then: held by a fit, which is by
    gradient, and needed as far as a forecast goes. `varying` names them with their steps where values come later.

    `initial` is "given" (by initial_mean and initial_cov), "stationary" or "diffuse"; `initial_diffuse` (n,) marks
    single elements as diffuse, whose initial_mean and initial_cov then do not count. A stationary start raises
    StateOverflow where the dynamics have none (an eigenvalue of modulus 1 or more). `numerics` says how covariances
    are kept: "square_root" for ill-conditioned problems, at some cost, "auto" where one is met, "joseph" never.
    """

    fit_methods: ClassVar[tuple[str, ...]] = ("em", "gradient")

    transition_matrix = Timed(P.real, "state_dim", "state_dim")
    transition_cov = Timed(P.semidefinite, "state_dim", "state_dim")
    emission_matrix = Timed(P.real, "obs_dim", "state_dim")
    emission_cov = Timed(P.semidefinite, "obs_dim", "obs_dim")
    initial_mean = Param(P.real, "state_dim")
    initial_cov = Param(P.semidefinite, "state_dim", "state_dim")
    transition_input_matrix = Param(P.real, "state_dim", "input_dim")
    emission_input_matrix = Param(P.real, "obs_dim", "input_dim")
    transition_offset = Timed(P.real, "state_dim")
    emission_offset = Timed(P.real, "obs_dim")

    def __init__(
        self,
        state_dim: int | None = None,
        obs_dim: int | None = None,
        input_dim: int | None = None,
        *,
        offsets: Iterable[str] | None = None,
        initial: Literal["given", "stationary", "diffuse"] = "given",
        initial_diffuse: Any = None,
        numerics: Literal["auto", "joseph", "square_root"] = "auto",
        varying: Iterable[tuple[str, int]] = (),
        **values: Any,
    ) -> None:
        super().__init__()
        unknown = set(values) - set(self.params())
        if unknown:
            raise TypeError(f"LDS got unknown arguments {sorted(unknown)}; parameters are {sorted(self.params())}")
        given = {name: P.as_parameter(name, value) for name, value in values.items() if value is not None}
        self.state_dim = _size("state_dim", state_dim, given, {"transition_matrix": -2, "initial_mean": -1})
        self.obs_dim = _size("obs_dim", obs_dim, given, {"emission_matrix": -2, "emission_cov": -2})
        inputs = {"transition_input_matrix": -1, "emission_input_matrix": -1}
        self.input_dim = _size("input_dim", input_dim, given, inputs, default=0)
        self.event_shape = torch.Size([self.obs_dim])
        if numerics not in ("auto", "joseph", "square_root"):
            raise ValueError(f'numerics must be "auto", "joseph" or "square_root", got {numerics!r}')
        self.numerics: Literal["auto", "joseph", "square_root"] = numerics
        self.initial: Literal["given", "stationary", "diffuse"] = _start_kind(initial, given)
        self.from_values = all(name in given or (initial != "given" and name in STARTS) for name in MATRICES)
        self._offset_seen: dict[str, tuple[object, bool]] = {}
        self.varying = {name: whole_number("varying", steps) for name, steps in varying}
        for name, param in self.params().items():
            if isinstance(param, Timed) and name in given and given[name].ndim == len(param.shape) + 1:
                self.varying[name] = given[name].shape[0]
        self.declare(**given)
        self._choose_offsets(given, offsets)
        self._choose_start(initial_diffuse)
        for name in self.varying:
            self._parameters[f"raw_{name}"].requires_grad_(False)  # type: ignore[union-attr]
        if self.varying or self.initial == "stationary":
            vars(self)["fit_methods"] = ("gradient",)  # the M-step knows neither
        if self.from_values:
            for name in self.unset & set(inputs):
                setattr(self, name, torch.zeros(self.params()[name].value_shape(self)))

    def _choose_offsets(self, given: dict[str, Tensor], chosen: Iterable[str] | None) -> None:
        """Hold the offsets that are not learned, at zero unless they have a value."""
        if chosen is None:
            chosen = {name for name in OFFSETS if name in given} | (set() if self.from_values else {"emission_offset"})
        learned = {chosen} if isinstance(chosen, str) else set(chosen)
        if learned - set(OFFSETS):
            raise ValueError(f"offsets must be among {OFFSETS}, got {sorted(learned)}")
        for name in OFFSETS:
            if name not in given and (self.from_values or name not in learned):
                setattr(self, name, torch.zeros(self.params()[name].value_shape(self)))
            self._parameters[f"raw_{name}"].requires_grad_(name in learned)  # type: ignore[union-attr]

    def _choose_start(self, marked: Any) -> None:
        """Hold a start that is not given; keep the scale of the diffuse elements, 0 for the others."""
        if self.initial == "diffuse" and marked is not None:
            raise ValueError(
                'initial_diffuse goes with initial="given" or "stationary"; "diffuse" makes all elements so'
            )
        mask = torch.full((self.state_dim,), self.initial == "diffuse") if marked is None else torch.as_tensor(marked)
        if mask.dtype != torch.bool or tuple(mask.shape) != (self.state_dim,):
            raise ValueError(f"initial_diffuse must be {self.state_dim} booleans, one for each state, got {marked!r}")
        if bool(mask.any()):
            self.register_buffer("diffuse_scale", mask.to(torch.float64))
        if self.initial != "given":
            for name in STARTS:
                setattr(self, name, torch.zeros(self.params()[name].value_shape(self)))
                self._parameters[f"raw_{name}"].requires_grad_(False)  # type: ignore[union-attr]

    def sizes(self) -> dict[str, Any]:
        offsets = [name for name in OFFSETS if not self.is_frozen(name)]
        sizes = {"state_dim": self.state_dim, "obs_dim": self.obs_dim, "input_dim": self.input_dim, "offsets": offsets}
        scale = self._buffers.get("diffuse_scale")
        marked = None if scale is None or self.initial == "diffuse" else (scale != 0).tolist()
        start = {"initial": self.initial, "initial_diffuse": marked}
        return {**sizes, **start, "numerics": self.numerics, "varying": [list(pair) for pair in self.varying.items()]}

    def system(self) -> System:
        matrix, cov = self.transition_matrix, self.transition_cov
        mean, spread, improper = self._initial_moments(matrix, cov)
        return System(mean, spread, matrix, cov, self.emission_matrix, self.emission_cov, improper)

    def _initial_moments(self, matrix: Tensor, cov: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mean and covariance of the elements that are not diffuse (0 for the others), and the diffuse directions."""
        scale = self._buffers.get("diffuse_scale")
        if scale is None and self.initial == "given":
            return self.initial_mean, self.initial_cov, None
        proper = torch.ones(self.state_dim, dtype=torch.bool) if scale is None else scale == 0
        improper = None if scale is None else torch.diag(scale)[:, ~proper]
        if self.initial == "stationary":
            if set(self.varying) & {"transition_matrix", "transition_cov", "transition_offset"}:
                raise ValueError('initial="stationary" needs a transition that does not vary in time')
            return *self._stationary_moments(matrix, cov, proper), improper
        both = proper.to(matrix.dtype)
        return both * self.initial_mean, both.unsqueeze(-1) * self.initial_cov * both, improper

    def _stationary_moments(self, matrix: Tensor, cov: Tensor, proper: Tensor) -> tuple[Tensor, Tensor]:
        """m = A m + offset and P = A P A' + Q of the elements `proper` by themselves, without what the others add."""
        places = torch.eye(self.state_dim, dtype=matrix.dtype)[:, proper]
        own = places.mT @ matrix @ places
        with torch.no_grad():
            radius = float(torch.linalg.eigvals(own).abs().max()) if own.numel() else 0.0
        if not radius < STABLE:
            raise StateOverflow(
                f'initial="stationary" needs all eigenvalues of transition_matrix inside the unit circle, the largest '
                f'has modulus {radius:.10g}; make these elements diffuse (initial="diffuse" or initial_diffuse)'
            )
        spread = places @ stationary_cov(own, places.mT @ cov @ places) @ places.mT
        if not self._has("transition_offset"):
            return matrix.new_zeros(self.state_dim), spread
        level = torch.eye(len(own), dtype=matrix.dtype) - own
        return places @ torch.linalg.solve(level, places.mT @ self.transition_offset), spread

    def _has(self, name: str) -> bool:
        """Whether an offset is there at all: learned, or held at something else than zero."""
        raw = self._parameters[f"raw_{name}"]
        assert raw is not None
        if raw.requires_grad or name in self.overrides:
            return True
        key = (id(raw), raw._version)  # looked at again only after it changed
        if self._offset_seen.get(name, (None, False))[0] != key:
            self._offset_seen[name] = (key, bool((raw.detach() != 0).any()))
        return self._offset_seen[name][1]

    def _offset(self, name: str, step: Tensor | None) -> Tensor | None:
        if not self._has(name):
            return None
        return getattr(self, name) if name not in self.varying or step is None else getattr(self, name)[step]

    def transition_offset_at(self, u: Tensor | None, step: Tensor | None = None) -> Tensor | None:
        offset = self._offset("transition_offset", step)
        return _plus(offset, None if u is None else u @ self.transition_input_matrix.mT)

    def emission_offset_at(self, u: Tensor | None, step: Tensor | None = None) -> Tensor | None:
        offset = self._offset("emission_offset", step)
        return _plus(offset, None if u is None else u @ self.emission_input_matrix.mT)

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        if "emission_matrix" not in self.unset:
            self.emission_matrix = scale.unsqueeze(-1) * self.emission_matrix
        if "emission_cov" not in self.unset:
            self.emission_cov = scale.unsqueeze(-1) * self.emission_cov * scale
        if self.input_dim and "emission_input_matrix" not in self.unset:
            self.emission_input_matrix = scale.unsqueeze(-1) * self.emission_input_matrix
        if "emission_offset" not in self.unset:
            self.emission_offset = scale * self.emission_offset + shift

    def _balance(self) -> Callable[[], None]:
        """Choose the unit of every state so that one unit moves some observation, now or n steps on, by about one.

        The law of y does not change. The factors are powers of two: held parameters come back as they were.
        """
        if self.unset & set(MATRICES) or self.varying:
            return lambda: None
        with torch.no_grad():
            response, reach = self.emission_matrix, self.emission_matrix.abs().amax(0)
            for _ in range(self.state_dim - 1):
                response = response @ self.transition_matrix
                reach = torch.maximum(reach, response.abs().amax(0))
        seen = (reach > 0) & torch.isfinite(reach)
        factor = torch.where(seen, torch.where(seen, reach, 1.0).log2().round().exp2(), 1.0)
        self._rescale_states(factor)
        return lambda: self._rescale_states(1 / factor)

    def _rescale_states(self, factor: Tensor) -> None:
        """Make the state factor * z, in the same law of y."""
        column = factor.unsqueeze(-1)
        with torch.no_grad():
            self.transition_matrix = column * self.transition_matrix / factor
            self.emission_matrix = self.emission_matrix / factor
            self.transition_cov = column * self.transition_cov * factor
            self.initial_cov = column * self.initial_cov * factor
            self.initial_mean = factor * self.initial_mean
            if "diffuse_scale" in self._buffers:
                self.get_buffer("diffuse_scale").mul_(factor)
            if "transition_offset" not in self.unset:
                self.transition_offset = factor * self.transition_offset
            if self.input_dim and "transition_input_matrix" not in self.unset:
                self.transition_input_matrix = column * self.transition_input_matrix

    # ---- learning

    def _start(self, sequences: Sequences, seed: int) -> None:
        """States from the leading directions of delay windows, matrices by regression on them."""
        values = _interpolate(sequences)
        mean = values[sequences.inside].mean(0)
        states = _delay_states(values - mean, sequences, self.state_dim, seed)
        before, after = states[:, :-1][sequences.inside[:, 1:]], states[:, 1:][sequences.inside[:, 1:]]
        emitting, seen = states[sequences.inside], (values - mean)[sequences.inside]
        matrix, noise = _regress(before, after)
        radius = torch.linalg.eigvals(matrix).abs().max() if matrix.numel() else torch.tensor(0.0)
        emission, emission_noise = _regress(emitting, seen)
        spread = emitting.mT @ emitting / len(emitting)
        start: dict[str, Tensor] = {
            "transition_matrix": matrix * (0.98 / radius if radius > 0.98 else 1.0),
            "transition_cov": _floored(noise, spread),
            "emission_matrix": emission,
            "emission_cov": _floored(emission_noise, seen.mT @ seen / len(seen)),
            "initial_mean": torch.zeros(self.state_dim),
            "initial_cov": _floored(spread, spread),
            "transition_offset": torch.zeros(self.state_dim),
            "emission_offset": mean,
            "transition_input_matrix": torch.zeros(self.state_dim, self.input_dim),
            "emission_input_matrix": torch.zeros(self.obs_dim, self.input_dim),
        }
        self.assign(**start)

    def _unidentified(self, sequences: Sequences) -> set[str]:
        """One sequence shows one start: a belief that narrows around what y_0 needs has an unbounded likelihood."""
        few = int((sequences.lengths > 0).sum()) <= self.state_dim
        return {"initial_mean", "initial_cov"} if few else set()

    def _em_step(self, sequences: Sequences) -> Tensor:
        smoothed = kalman.smooth(*self._arguments(sequences))
        moments = _Moments.of(sequences, smoothed.mean, smoothed.cov, smoothed.lag_one_cov)
        self._maximise_transition(moments, sequences)
        self._maximise_emission(moments, sequences)
        first = sequences.lengths > 0
        means, covs = smoothed.mean[first, 0], smoothed.cov[first, 0]
        self.assign(initial_mean=means.mean(0))
        spread = means - self.initial_mean
        self.assign(initial_cov=symmetric((covs + spread.unsqueeze(-1) * spread.unsqueeze(-2)).mean(0)))
        return smoothed.log_prob.sum()

    def _maximise_transition(self, moments: _Moments, sequences: Sequences) -> None:
        """Regress z_t on (z_{t-1}, u_t, 1) with the parts that are held taken off first."""
        if not len(moments.pairs):
            return
        names = ["transition_matrix", "transition_input_matrix", "transition_offset"]
        inputs = None if sequences.inputs is None else sequences.inputs[:, 1:][moments.has_past]
        design_mean, design_cov = _design(moments.before, moments.before_cov, inputs)
        cross = _pad_columns(moments.pairs, design_mean.shape[1])
        weights = self._solve(names, design_mean, design_cov, moments.after, cross)
        residual = moments.after - design_mean @ weights.mT
        noise = moments.after_cov.sum(0) - 2 * symmetric(weights @ cross.sum(0).mT) + weights @ design_cov @ weights.mT
        self.assign(transition_cov=_rounded(symmetric(noise + residual.mT @ residual) / len(residual)))

    def _maximise_emission(self, moments: _Moments, sequences: Sequences) -> None:
        """Regress y_t on (z_t, u_t, 1); rows with nothing observed say nothing."""
        rows = sequences.seen
        if not rows.any():
            return
        inputs = None if sequences.inputs is None else sequences.inputs[rows]
        mean, cov = moments.mean[rows], moments.cov[rows]
        y, gain, own = self._complete(sequences.values[rows], sequences.observed[rows], mean, sequences, inputs)
        design_mean, design_cov = _design(mean, cov, inputs)
        cross = _pad_columns(gain @ cov, design_mean.shape[1])
        names = ["emission_matrix", "emission_input_matrix", "emission_offset"]
        weights = self._solve(names, design_mean, design_cov, y, cross)
        residual = y - design_mean @ weights.mT
        y_cov = (gain @ cov @ gain.mT + own).sum(0)
        noise = y_cov - 2 * symmetric(weights @ cross.sum(0).mT) + weights @ design_cov @ weights.mT
        self.assign(emission_cov=_rounded(symmetric(noise + residual.mT @ residual) / len(residual)))

    def _complete(
        self, y: Tensor, observed: Tensor, mean: Tensor, sequences: Sequences, u: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """E[y_t | z_t = mean, observed y_t], its derivative in z_t, and the covariance left, per row."""
        gain, own = y.new_zeros(*y.shape, self.state_dim), y.new_zeros(*y.shape, self.obs_dim)
        if sequences.complete:
            return y, gain, own
        offset = self.emission_offset_at(u)
        expected = mean @ self.emission_matrix.mT + (0.0 if offset is None else offset)
        y = y.clone()
        for pattern in torch.unique(observed, dim=0):
            rows = (observed == pattern).all(-1).nonzero().squeeze(-1)
            o, h = pattern.nonzero().squeeze(-1), (~pattern).nonzero().squeeze(-1)
            if not len(h):
                continue
            slope = self.emission_cov[h][:, o] @ torch.linalg.pinv(self.emission_cov[o][:, o], hermitian=True)
            seen = y[rows][:, o] - expected[rows][:, o]
            y[rows.unsqueeze(-1), h] = expected[rows][:, h] + seen @ slope.mT
            gain[rows.unsqueeze(-1), h] = self.emission_matrix[h] - slope @ self.emission_matrix[o]
            left = self.emission_cov[h][:, h] - slope @ self.emission_cov[o][:, h]
            own[rows.reshape(-1, 1, 1), h.reshape(-1, 1), h] = left
        return y, gain, own

    def _solve(self, names: list[str], mean: Tensor, cov: Tensor, target: Tensor, cross: Tensor) -> Tensor:
        """Least squares for the free blocks of [matrix | input matrix | offset]; held blocks keep their values."""
        held = [self.is_frozen(name) for name in names]
        blocks = [getattr(self, name).reshape(target.shape[1], -1) for name in names]
        weights = torch.cat(blocks, -1)
        mask = torch.cat(
            [torch.full((block.shape[1],), not is_held) for block, is_held in zip(blocks, held, strict=True)]
        )
        if mask.any():
            gram = mean.mT @ mean + cov
            moment = target.mT @ mean + cross.sum(0) - weights[:, ~mask] @ gram[~mask]
            weights[:, mask] = torch.linalg.lstsq(gram[mask][:, mask], moment[:, mask].mT, driver="gelsd").solution.mT
            sections = torch.split(weights, [block.shape[1] for block in blocks], -1)
            for name, section, is_held in zip(names, sections, held, strict=True):
                if not is_held and section.numel():
                    setattr(self, name, section.reshape(self.params()[name].value_shape(self)))
        return weights


class _Moments(NamedTuple):
    """Smoothed moments: per step (B, T, ...), and per transition with the pairs (N, ...) flattened."""

    mean: Tensor
    cov: Tensor
    has_past: Tensor
    before: Tensor
    after: Tensor
    before_cov: Tensor
    after_cov: Tensor
    pairs: Tensor

    @classmethod
    def of(cls, sequences: Sequences, mean: Tensor, cov: Tensor, lag_one: Tensor) -> _Moments:
        rows = sequences.inside[:, 1:]
        return cls(
            mean, cov, rows, mean[:, :-1][rows], mean[:, 1:][rows], cov[:, :-1][rows], cov[:, 1:][rows], lag_one[rows]
        )


def _start_kind(initial: Any, given: dict[str, Tensor]) -> Any:
    """`initial` if it is one of the three and goes with what was given."""
    if initial not in ("given", "stationary", "diffuse"):
        raise ValueError(f'initial must be "given", "stationary" or "diffuse", got {initial!r}')
    both = sorted(set(STARTS) & set(given))
    if initial != "given" and both:
        raise ValueError(f'initial="{initial}" leaves no choice of {", ".join(both)}: drop it, or use initial="given"')
    return initial


def _size(name: str, size: int | None, given: dict[str, Tensor], sources: dict[str, int], default: int = -1) -> int:
    """A size as passed, or as read off a given matrix."""
    if size is not None:
        return whole_number(name, size, least=0 if name == "input_dim" else 1)
    for source, axis in sources.items():
        if source in given:
            if given[source].ndim < -axis:
                raise ValueError(f"{source} must have {-axis} axes or more, got shape {tuple(given[source].shape)}")
            return given[source].shape[axis]
    if default >= 0:
        return default
    raise ValueError(f"{name} must be given, or one of {', '.join(sources)} from which it follows")


def _plus(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _design(mean: Tensor, cov: Tensor, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows (state, u, 1) with the state at its mean, and the summed covariance of such rows."""
    parts = [mean] if inputs is None else [mean, inputs]
    design = torch.cat([*parts, mean.new_ones(len(mean), 1)], -1)
    total = mean.new_zeros(design.shape[1], design.shape[1])
    total[: mean.shape[1], : mean.shape[1]] = cov.sum(0)
    return design, total


def _rounded(cov: Tensor) -> Tensor:
    """A covariance that is a difference of sums: eigenvalues below zero are their rounding errors, and become zero."""
    values, vectors = torch.linalg.eigh(cov)
    if bool((values >= 0).all()):
        return cov
    return symmetric(vectors * values.clamp(min=0).unsqueeze(-2) @ vectors.mT)


def _pad_columns(matrices: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(matrices, (0, width - matrices.shape[-1]))


def _interpolate(sequences: Sequences) -> Tensor:
    """Values with each gap filled by the column's mean: good enough for a start."""
    seen = sequences.observed
    mean = (sequences.values * seen).sum((0, 1)) / seen.sum((0, 1)).clamp(min=1)
    return torch.where(seen, sequences.values, mean)


def _delay_states(values: Tensor, sequences: Sequences, n: int, seed: int) -> Tensor:
    """Unit-variance coordinates of the windows (y_t, y_{t-1}, ...) in their leading directions, (B, T, n)."""
    n_lags = max(2, -(-n // values.shape[-1]) + 1)
    lagged = [torch.nn.functional.pad(values, (0, 0, lag, 0))[:, : values.shape[1]] for lag in range(n_lags)]
    windows = torch.cat(lagged, -1)
    inside = windows[sequences.inside]
    _, spread, directions = torch.linalg.svd(inside, full_matrices=False)
    directions = directions[:n]
    scale = spread[:n] / len(inside) ** 0.5
    largest = scale.max() if scale.numel() else values.new_tensor(0.0)
    scale = torch.where(scale > 1e-3 * largest, scale, 1e-3 * largest)
    states = windows @ directions.mT / torch.where(scale > 0, scale, 1.0)
    states = torch.nn.functional.pad(states, (0, n - states.shape[-1]))
    return states + 0.1 * torch.randn(states.shape, dtype=values.dtype, generator=generator(seed))


def _regress(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares y = W x + noise and the residual covariance."""
    if len(x) == 0:
        return y.new_zeros(y.shape[1], x.shape[1]), y.new_zeros(y.shape[1], y.shape[1])
    weights = torch.linalg.lstsq(x, y, driver="gelsd").solution.mT
    residual = y - x @ weights.mT
    return weights, residual.mT @ residual / len(x)


def _floored(cov: Tensor, total: Tensor) -> Tensor:
    """A covariance with at least 1 % of the total variance along the diagonal, and 1 where there is none."""
    floor = 0.01 * total.diagonal().mean() if total.numel() else total.new_tensor(1.0)
    return symmetric(cov) + torch.eye(len(cov), dtype=cov.dtype) * (floor if floor > 0 else 1.0)
