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
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from probseq import parameters as P
from probseq.checks import whole_number
from probseq.errors import ImproperBelief
from probseq.matrix_priors import priors_of
from probseq.models.lds_initial import initial_moments
from probseq.models.lds_learning import maximise, maximise_stationary
from probseq.models.lds_parameters import (
    Covariance,
    CovarianceParam,
    Timed,
    TransitionParam,
    covariance_type,
    entries_by_name,
    hold_entries,
    n_identifiable,
)
from probseq.models.lds_start import start
from probseq.models.lds_stored import Stored
from probseq.models.lds_units import balancing, rescale, rescale_states
from probseq.models.linear_gaussian import LinearGaussianModel, System
from probseq.ops import kalman
from probseq.parameters import Param
from probseq.sequences import Sequences

MATRICES = ("transition_matrix", "transition_cov", "emission_matrix", "emission_cov", "initial_mean", "initial_cov")
OFFSETS = ("transition_offset", "emission_offset")
STARTS = ("initial_mean", "initial_cov")


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

    Restrictions, in EM as in gradient fits: `transition_covariance` and `emission_covariance` are "full", "diag" or
    "spherical"; `stable=True` keeps the eigenvalues of transition_matrix inside the unit circle; `fixed_entries` holds
    single entries, `{"transition_matrix": [[True, False], ...]}`, at the values they have; `priors` are maximised with
    the likelihood, `{"transition_cov": InverseWishart(scale, v), "transition_matrix": Normal(0.0, 0.5)}`.
    """

    fit_methods: ClassVar[tuple[str, ...]] = ("em", "gradient")
    em_accelerates: ClassVar[bool] = True

    transition_matrix = TransitionParam(P.real, "state_dim", "state_dim")
    transition_cov = CovarianceParam("state_dim")
    emission_matrix = Timed(P.real, "obs_dim", "state_dim")
    emission_cov = CovarianceParam("obs_dim")
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
        transition_covariance: Covariance = "full",
        emission_covariance: Covariance = "full",
        stable: bool = False,
        fixed_entries: Any = None,
        priors: Any = None,
        numerics: Literal["auto", "joseph", "square_root"] = "auto",
        varying: Iterable[tuple[str, int]] = (),
        **values: Any,
    ) -> None:
        super().__init__()
        self.transition_covariance = covariance_type("transition_covariance", transition_covariance)
        self.emission_covariance = covariance_type("emission_covariance", emission_covariance)
        self.common_scale = emission_covariance == "spherical"
        self.stable = stable
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
        if self.varying:
            vars(self)["fit_methods"] = ("gradient",)  # the M-step knows no time
        shapes = {name: param.value_shape(self) for name, param in self.params().items()}
        self.priors = priors_of(priors, shapes)
        hold_entries(self, dict(fixed_entries or {}))
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
        scale = self._buffers.get("diffuse_scale")
        marked = None if scale is None or self.initial == "diffuse" else (scale != 0).tolist()
        chosen = {
            "initial": (self.initial, "given"),
            "initial_diffuse": (marked, None),
            "varying": ([list(pair) for pair in self.varying.items()], []),
            "numerics": (self.numerics, "auto"),
            "transition_covariance": (self.transition_covariance, "full"),
            "emission_covariance": (self.emission_covariance, "full"),
            "stable": (self.stable, False),
            "fixed_entries": (entries_by_name(self), []),
            "priors": ([[name, prior.numbers()] for name, prior in self.priors.items()], []),
        }
        return {
            "state_dim": self.state_dim,
            "obs_dim": self.obs_dim,
            "input_dim": self.input_dim,
            "offsets": [name for name in OFFSETS if not self.is_frozen(name)],
            **{name: value for name, (value, default) in chosen.items() if value != default},
        }

    def degrees_of_freedom(self) -> int:
        """Of an unrestricted model the numbers that the law of y tells (`n_identifiable`), else all learned."""
        count = n_identifiable(self)
        return super().degrees_of_freedom() if count is None else count

    @property
    def has_held_offset(self) -> bool:
        """Whether the transition has an offset that is not learned, which ties the states to their coordinates."""
        return self.is_frozen("transition_offset") and self.has_offset("transition_offset")

    def system(self) -> System:
        matrix, cov = self.transition_matrix, self.transition_cov
        mean, spread, improper = initial_moments(self, matrix, cov)
        return System(mean, spread, matrix, cov, self.emission_matrix, self.emission_cov, improper)

    def has_offset(self, name: str) -> bool:
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
        if not self.has_offset(name):
            return None
        return getattr(self, name) if name not in self.varying or step is None else getattr(self, name)[step]

    def _log_prob(self, sequences: Sequences) -> Tensor:
        """From the stored numbers, where that is possible."""
        watched = torch.is_grad_enabled() and any(
            one.requires_grad for one in self._parameters.values() if one is not None
        )
        stored = Stored.of(self, sequences)
        if stored is None:
            return super()._log_prob(sequences)
        return stored.differentiable() if watched else stored.log_prob()

    def _value_and_gradient(
        self, sequences: Sequences, parameters: list[nn.Parameter]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        stored = None if self.priors else Stored.of(self, sequences)
        if stored is None:
            return super()._value_and_gradient(sequences, parameters)
        value, pairs = stored.value_and_gradient()
        by_parameter = {id(raw): gradient for raw, gradient in pairs}
        return value.sum(), tuple(by_parameter.get(id(one)) for one in parameters)

    def transition_offset_at(self, u: Tensor | None, step: Tensor | None = None) -> Tensor | None:
        offset = self._offset("transition_offset", step)
        return _plus(offset, None if u is None else u @ self.transition_input_matrix.mT)

    def emission_offset_at(self, u: Tensor | None, step: Tensor | None = None) -> Tensor | None:
        offset = self._offset("emission_offset", step)
        return _plus(offset, None if u is None else u @ self.emission_input_matrix.mT)

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        rescale(self, scale, shift)

    def _balance(self) -> Callable[[], None]:
        if self.unset & set(MATRICES) or self.varying:
            return lambda: None
        factor = balancing(self)
        rescale_states(self, factor)
        return lambda: rescale_states(self, 1 / factor)

    # ---- learning

    def _start(self, sequences: Sequences, seed: int) -> None:
        """Subspace identification; see `probseq.models.lds_start`."""
        loose = sorted(set(self.held_entries) & self.unset)
        if loose:
            raise ValueError(f"fixed_entries holds entries of {loose[0]}, which has no value: pass it to LDS")
        with torch.no_grad():
            start(self, sequences, seed)

    def _unidentified(self, sequences: Sequences) -> set[str]:
        """A sequence shows one start: a belief that narrows around what all y_0 need has an unbounded likelihood.

        What the inputs of the first step add can bend that need too, one sequence more for each of them.
        """
        few = int((sequences.lengths > 0).sum()) <= self.state_dim + self.input_dim
        return {"initial_mean", "initial_cov"} if few else set()

    def _em_step(self, sequences: Sequences) -> Tensor:
        smoothed = kalman.smooth(*self._arguments(sequences))
        if smoothed.diffuse is not None and bool(smoothed.diffuse.any()):
            raise ImproperBelief(
                "EM needs proper posteriors, but a sequence does not resolve the diffuse start: leave out sequences "
                'with fewer observed values than diffuse elements, or use method="gradient"'
            )
        objective = smoothed.log_prob.sum() + self.log_prior()
        moments = smoothed.mean, smoothed.cov, smoothed.lag_one_cov
        if self.initial == "stationary":
            maximise_stationary(self, sequences, *moments, objective)
        else:
            maximise(self, sequences, *moments)
        return objective

    def log_prior(self) -> Tensor:
        """log density of the `priors` at the parameters, 0 without; the same number in every unit of the data."""
        terms = [prior.log_density(getattr(self, name)) for name, prior in self.priors.items()]
        return torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float64)


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
