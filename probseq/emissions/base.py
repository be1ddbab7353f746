"""What a hidden state says: p(y_t | z_t = k) for k = 1 .. K.

An emission answers three questions: the log-probability table of some rows, (N, K); the distribution of a row
given a belief over the states; and the parameters that maximise the expected log-probability of rows with
responsibilities w (N, K), the M-step of EM. Unobserved coordinates are integrated out.

What a state says may depend on more than the state: on inputs u_t (`input_dim`), or on the rows before (a window).
Models therefore ask `emission.given(u, window)`, which is the emission itself where it depends on neither; see
`probseq.emissions.conditional`.
"""

from __future__ import annotations

import abc
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from probseq.checks import whole_number as positive
from probseq.parameters import Param, Parametric, as_parameter
from probseq.priors import Prior


@runtime_checkable
class Says(Protocol):
    """An emission once everything beside the state is known."""

    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor: ...

    def distribution(self) -> Distribution: ...

    def mixture(self, log_probs: Tensor) -> Distribution: ...

    def start(self, values: Tensor, observed: Tensor, seed: int) -> None: ...

    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None: ...


class Emission(Parametric, abc.ABC):
    """The emission distributions of K states over rows of `dim` coordinates."""

    #: the number of inputs that rows depend on
    input_dim: int = 0
    #: rows are real numbers with a unit
    real_valued: bool = False
    #: only one factor common to all coordinates keeps the emission in its family
    common_scale: bool = False
    #: a conjugate prior on the parameters, which makes a fit a MAP fit
    prior: Prior | None = None

    def __init__(self, dim: int, n_states: int | None, values: dict[str, Any]) -> None:
        super().__init__()
        self.dim = dim
        self.event_shape = torch.Size([dim])
        self.n_states = 0
        self._values = {name: value for name, value in values.items() if value is not None}
        if n_states is not None:
            self.bind(n_states)

    def bind(self, n_states: int) -> None:
        """Fix the number of states; parameters exist from here on."""
        if self.n_states not in (0, n_states):
            raise ValueError(f"emission has {self.n_states} states, the model has {n_states}")
        if self.n_states == 0:
            self.n_states = n_states
            self.declare(**self._values)
            self._values = {}

    @abc.abstractmethod
    def sizes(self) -> dict[str, Any]:
        """The constructor's arguments up to parameter values."""

    def given(self, u: Tensor | None = None, window: Tensor | None = None) -> Says:
        """This emission at inputs u (*batch, P) and after the rows of `window` (*batch, order, dim)."""
        return self

    @abc.abstractmethod
    def log_prob(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(y | z = k) of rows (*batch, dim) over their observed coordinates, (*batch, K)."""

    def compact(self, watched: bool = False) -> tuple[Any, ...] | None:
        """The stored parameters as arrays for `probseq.ops.hmm_stored`, which needs no table then; None without that.

        To be overridden together with `log_prob`; `watched` as for `stored`.
        """
        return None

    def pull_sums(self, sums: Any) -> tuple[Any, ...]:
        """The derivatives of sum(weights * table) in what `compact` returns, from what kernels collected.

        Sums are those of `probseq.kernels.state_densities`, (stretches, groups of states, sums, L).
        """
        raise NotImplementedError

    def maximise_sums(self, sums: Any) -> bool:
        """`maximise` from such sums; False, and nothing done, where it needs the rows."""
        return False

    @abc.abstractmethod
    def distribution(self) -> Distribution:
        """p(y | z = k): batch shape (K,), event shape (dim,)."""

    def mixture(self, log_probs: Tensor) -> Distribution:
        """p(y) under a belief (*batch, K): the mixture of the states' distributions."""
        return mixture_of(self.distribution(), log_probs)

    @abc.abstractmethod
    def start(self, values: Tensor, observed: Tensor, seed: int) -> None:
        """Set the free parameters from rows (N, dim), the beginning of a fit."""

    @abc.abstractmethod
    def maximise(self, values: Tensor, observed: Tensor, weights: Tensor) -> None:
        """The M-step: maximise sum_nk weights[n, k] log p(y_n | k) over the free parameters."""

    def maximise_compact(self, values: Any, weights: Any) -> bool:
        """`maximise` over complete rows as arrays, where it is as plain as that; else False, and nothing done."""
        return False

    def log_prior(self) -> Tensor:
        """log density of the parameters under `prior`, 0 without one."""
        return torch.zeros((), dtype=torch.float64)

    def invalid(self, values: Tensor) -> tuple[Tensor, str] | None:
        """Marks entries outside the support, with the support in words; None where every number is allowed."""
        return None

    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        """Become the emission of scale * y + shift."""
        raise ValueError(f"{type(self).__name__} emissions have no unit to rescale")

    def keeps_origin(self) -> bool:
        """Whether a held parameter ties the emission to the origin of the data, so that a fit must not shift them."""
        return False


def mixture_of(distribution: Distribution, log_probs: Tensor) -> Distribution:
    """The mixture of distributions with last batch axis K, weighted by log_probs (*batch, K)."""
    components = distribution.expand(log_probs.shape)
    return MixtureSameFamily(Categorical(logits=log_probs, validate_args=False), components, validate_args=False)


def shared_inputs(own: int, emission: Emission) -> int:
    """The number of inputs of a model whose transitions read `own` and whose emission reads its own number."""
    if own and emission.input_dim and own != emission.input_dim:
        raise ValueError(
            f"transitions and emission read the same inputs, but input_dim is {own} and the emission's is "
            f"{emission.input_dim}"
        )
    return own or emission.input_dim


def rows_of(values: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Flatten the batch axes of rows."""
    dim = values.shape[-1]
    return values.reshape(-1, dim), None if observed is None else observed.reshape(-1, dim)


def leading_size(name: str, value: Any, what: str) -> tuple[int, int]:
    """(K, dim) of a two-dimensional parameter."""
    shape = tuple(as_parameter(name, value).shape)
    if len(shape) != 2:
        raise ValueError(f"{name} must have shape {what}, got {shape}")
    return shape[0], shape[1]


def cluster(values: Tensor, observed: Tensor, n_states: int, seed: int) -> Tensor:
    """Responsibilities (N, K) from k-means, each gap filled with its column's mean."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    mean = (values * observed).sum(0) / observed.sum(0).clamp(min=1)
    filled = torch.where(observed, values, mean).numpy()
    n_clusters = min(n_states, len(filled))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted: Any = cast(Any, KMeans)(n_clusters, n_init=3, random_state=seed % 2**32).fit(filled)
    labels = torch.as_tensor(fitted.labels_, dtype=torch.long)
    return torch.nn.functional.one_hot(labels, n_states).to(torch.float64)


__all__ = [
    "Emission",
    "Param",
    "Says",
    "cluster",
    "leading_size",
    "mixture_of",
    "positive",
    "rows_of",
    "shared_inputs",
]
