"""Any torch distribution as an emission: y_t | z_t = k ~ Distribution(its arguments of state k).

    FromDistribution(torch.distributions.Gamma, dim=2)                                    # from sizes
    FromDistribution(torch.distributions.Gamma, concentration=[[2.0], [9.0]], rate=[[1.0], [3.0]])
    FromDistribution(torch.distributions.Binomial, dim=1, constants={"total_count": 10})

| symbol    | shape      |                                                                                       |
|-----------|------------|---------------------------------------------------------------------------------------|
| argument  | (K, D)     | of a univariate distribution: coordinates are independent given the state             |
| argument  | (K, ...)   | of a multivariate one, ... as the distribution wants it for one row                   |
| constant  |            | an argument that is the same for all states and never learned                         |

Arguments live where the distribution's own `arg_constraints` say, by torch's `transform_to`. What a row may be is
said by its `support`. A univariate distribution integrates missing coordinates out exactly; a row of a multivariate
one is observed or missing as a whole, and where some of its entries are missing it counts as missing.

There is no closed M-step: it climbs the expected log-probability by L-BFGS and moves only if that rose, a generalised
EM, which never falls (Dempster, Laird and Rubin 1977). The start is the same climb, from clusters of the rows.

A file names the distribution by module and name. Loading looks it up in `torch.distributions` or among the modules
that are imported already, and accepts nothing but a subclass of torch's `Distribution`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import constraints

from probseq.emissions.arguments import Argument, event_axes, find, shapes_of, width_of
from probseq.emissions.base import Emission, cluster, rows_of
from probseq.emissions.location import LOCATION_SCALE, guesses
from probseq.parameters import Param, as_parameter
from probseq.transitions import climb

WORDS = {
    "positive": "positive numbers",
    "nonnegative": "numbers of 0 or more",
    "nonnegative_integer": "counts 0, 1, 2, ...",
    "positive_integer": "counts 1, 2, ...",
    "unit_interval": "numbers in [0, 1]",
    "boolean": "0 or 1",
    "simplex": "rows of non-negative numbers that sum to 1",
}
#: distributions with a finite density where their support ends
FINITE_AT_EDGES = (D.Exponential, D.HalfNormal, D.HalfCauchy, D.ContinuousBernoulli)
EDGES = {
    id(constraints.nonnegative): ", not 0 itself",
    id(constraints.unit_interval): ", not its ends",
    id(constraints.simplex): ", none of them 0",
}
#: climbs of a start until it settles, and what counts as settled, relative
ROUNDS, SETTLED = 10, 1e-8


class FromDistribution(Emission):
    """The emission of a distribution class; see the module. `dim` is the length of a row.

    Keyword arguments are those of the distribution, arrays with a first axis over states; from sizes all that the
    distribution needs are learned. `arguments` lists (name, shape for one state) where that does not follow from
    `dim`, `constants` fixes arguments.
    """

    def __init__(
        self,
        distribution: type[D.Distribution] | str,
        dim: int | None = None,
        *,
        constants: Mapping[str, Any] | Iterable[Any] = (),
        arguments: Iterable[Any] | None = None,
        **values: Any,
    ) -> None:
        self._own: dict[str, Param] = {}
        kind = find(distribution) if isinstance(distribution, str) else distribution
        if not (isinstance(kind, type) and issubclass(kind, D.Distribution)):
            raise TypeError(f"distribution must be a class of torch.distributions such as Gamma, got {distribution!r}")
        fixed = {str(n): torch.as_tensor(value, dtype=torch.float64).tolist() for n, value in dict(constants).items()}
        constraint_of: Any = kind.arg_constraints
        known: dict[str, Any] = dict(constraint_of)
        unknown = (set(values) | set(fixed)) - set(known)
        if unknown:
            raise TypeError(f"{kind.__name__} has no arguments {sorted(unknown)}; it has {sorted(known)}")
        given = {name: as_parameter(name, value) for name, value in values.items()}
        multivariate = event_axes(kind) > 0
        n_states = next((len(value) for value in given.values() if value.ndim), None)
        own = shapes_of(kind, known, given, fixed, arguments, dim, multivariate)
        width = width_of(given, known, dim, multivariate)
        Emission.__init__(self, width, n_states, given)
        self.kind, self.constants, self.multivariate = kind, fixed, multivariate
        self._own = {name: Argument(name, known[name], shape) for name, shape in own.items()}
        self.real_valued = kind in LOCATION_SCALE and {"loc", "scale"} <= set(self._own)
        if n_states is not None:
            self.bind(n_states)

    def bind(self, n_states: int) -> None:
        if self._own:  # not before the arguments are known
            super().bind(n_states)

    def params(self) -> dict[str, Param]:
        return self.__dict__.get("_own", {})

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__.get("_own", {})
        return own[name].__get__(self, type(self)) if name in own else super().__getattr__(name)

    def sizes(self) -> dict[str, Any]:
        shapes = [[name, list(param.shape[1:])] for name, param in self._own.items()]
        name = f"{self.kind.__module__}.{self.kind.__qualname__}"
        return {"distribution": name, "dim": self.dim, "constants": list(self.constants.items()), "arguments": shapes}

    def extra_repr(self) -> str:
        return f"{self.kind.__name__}, dim={self.dim}"

    # ---- what it says

    def _of_states(self) -> D.Distribution:
        """The distribution of every state: batch (K, D), or (K,) with rows as events."""
        arguments = {name: getattr(self, name) for name in self._own}
        fixed = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in self.constants.items()}
        return self.kind(**arguments, **fixed, validate_args=False)  # type: ignore[call-arg]

    def distribution(self) -> D.Distribution:
        one = self._of_states()
        return one if self.multivariate else D.Independent(one, 1)

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        rows, seen = rows_of(values, observed)
        law = self._of_states()
        if self.multivariate:
            seen = None if seen is None else seen.all(-1, keepdim=True)
        possible = law.support.check(rows.unsqueeze(-2)) & ~self._at_edge(rows.unsqueeze(-2))  # type: ignore[union-attr]
        known = possible.unsqueeze(-1) if self.multivariate else possible
        known = known if seen is None else known & seen.unsqueeze(-2)
        terms = law.log_prob(torch.where(known, rows.unsqueeze(-2), inside(law)))
        terms = torch.where(possible, terms, -torch.inf)
        if not self.multivariate:
            terms = (terms if seen is None else torch.where(seen.unsqueeze(-2), terms, 0.0)).sum(-1)
        elif seen is not None:
            terms = torch.where(seen, terms, 0.0)
        return terms.reshape(*values.shape[:-1], self.n_states)

    def _at_edge(self, values: Tensor) -> Tensor:
        """Where rows lie on the edge of the support and the density there may be infinite, (*batch, D) or (*batch,)."""
        edges = {id(constraints.nonnegative): (0.0,), id(constraints.unit_interval): (0.0, 1.0)}
        edges[id(constraints.simplex)] = (0.0,)
        marks = torch.zeros_like(values, dtype=torch.bool)
        if self.kind not in FINITE_AT_EDGES:
            for edge in edges.get(id(self.kind.support), ()):
                marks = marks | (values == edge)
        return marks.any(-1) if self.multivariate else marks

    def invalid(self, values: Tensor) -> tuple[Tensor, str] | None:
        support: Any = self.kind.support
        if constraints.is_dependent(support):
            if self.unset:
                return None
            support = self._of_states().support
            allowed = support.check(values.unsqueeze(-2))
            allowed = allowed.any(-1, keepdim=True) if self.multivariate else allowed.any(-2)
            return ~allowed.expand_as(values), f"values in {support!r} of a state"
        allowed = support.check(values) & ~self._at_edge(values)
        allowed = allowed.unsqueeze(-1) if self.multivariate else allowed
        inner = "" if self.kind in FINITE_AT_EDGES else EDGES.get(id(support), "")
        return ~allowed.expand_as(values), _in_words(support) + inner

    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        if not self.real_valued:
            raise ValueError(f"{self.kind.__name__} emissions have no unit to rescale")
        if "loc" not in self.unset:
            setattr(self, "loc", scale * getattr(self, "loc") + shift)  # noqa: B009, B010
        if "scale" not in self.unset:
            setattr(self, "scale", scale * getattr(self, "scale"))  # noqa: B009, B010

    # ---- learning

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        """Weighted maximum likelihood from clusters, climbed from the best of a few first guesses."""
        count = observed.sum(0).clamp(min=1)
        mean = (values * observed).sum(0) / count
        spread = (((values - mean).square() * observed).sum(0) / count).sqrt()
        spread = torch.where(spread > 0, spread, 1.0)
        weights = cluster((values - mean) / spread, observed, self.n_states, seed)
        weights = 0.9 * weights + 0.1 / self.n_states
        whole = observed.all(-1, keepdim=True).expand_as(observed) if self.multivariate else observed
        best, most = None, -torch.inf
        for guess in guesses(self._own, self.n_states, values, whole, weights):
            with torch.no_grad():
                for name, raw in guess.items():
                    if not self.is_frozen(name):
                        self._parameters[f"raw_{name}"].copy_(raw)  # type: ignore[union-attr]
                        self.unset.discard(name)
            score = self._expected(values, observed, weights)
            if best is None or score > most:
                best, most = self.snapshot(), score
        assert best is not None
        self.restore(best)
        for _ in range(ROUNDS):
            before = most
            self.maximise(values, observed, weights)
            most = self._expected(values, observed, weights)
            if most - before <= SETTLED * abs(most):
                break

    def _expected(self, values: Tensor, observed: Tensor, weights: Tensor) -> float:
        """sum w log p, -inf where it is no number."""
        with torch.no_grad():
            table = self.log_prob(values, observed)
            total = float(torch.where(weights > 0, weights * table, 0.0).sum())
        return total if total == total else -torch.inf

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        """L-BFGS on the expected log-probability in the unconstrained numbers; the old ones unless it rose."""
        free = {name: param for name, param in self._own.items() if not self.is_frozen(name)}
        raws = [self._parameters[param.raw_name].detach() for param in free.values()]  # type: ignore[union-attr]
        if not raws:
            return
        sizes = [raw.numel() for raw in raws]

        def place(vector: Tensor) -> dict[str, Tensor]:
            parts = vector.split(sizes)
            return {
                name: param.forward(self, part.reshape(raw.shape))
                for (name, param), part, raw in zip(free.items(), parts, raws, strict=True)
            }

        def score(vector: Tensor) -> Tensor:
            self.overrides = {**kept, **place(vector)}
            table = self.log_prob(values, observed)
            return torch.where(weights > 0, weights * table, 0.0).sum()

        kept = self.overrides
        try:
            best = climb(torch.cat([raw.flatten() for raw in raws]), score, float(weights.sum()))
        finally:
            self.overrides = kept
        with torch.no_grad():
            for raw, part, param in zip(raws, best.split(sizes), free.values(), strict=True):
                self._parameters[param.raw_name].copy_(part.reshape(raw.shape))  # type: ignore[union-attr]


def inside(law: D.Distribution) -> Tensor:
    """Numbers that the distribution of each state allows, (K, D), to stand where nothing was observed."""
    zeros = torch.zeros((*law.batch_shape, *law.event_shape), dtype=torch.float64)
    try:
        with torch.no_grad():
            place: Callable[[Tensor], Tensor] = D.transform_to(law.support)  # type: ignore[arg-type]
            return place(zeros)
    except NotImplementedError:  # counts: 0 is one, or 1
        return zeros if bool(law.support.check(zeros).all()) else zeros + 1  # type: ignore[union-attr]


def _in_words(support: Any) -> str:
    named = {id(getattr(constraints, name)): text for name, text in WORDS.items()}
    return named.get(id(support), f"values in {support!r}")
