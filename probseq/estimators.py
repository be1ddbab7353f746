"""Sequence models as scikit-learn estimators, for `GridSearchCV`, `cross_val_score`, `Pipeline` and `clone`.

| scikit-learn             | here                                                                            |
|--------------------------|---------------------------------------------------------------------------------|
| `X`, a table (n, D)      | one sequence of n steps; NaN means missing                                      |
| `X`, a list of tables    | sequences of their own lengths; a splitter deals out whole sequences            |
| `fit(X)`                 | `model_`, a copy of the model that was given, fitted                            |
| `score(X)`               | mean log p(y_t given y_<t) per observed step, in nats: comparable across folds  |
| `score_samples(X)`       | log p(y_t given y_<t) of every step                                             |
| `predict(X)`             | the most probable path: Viterbi's states, the smoothed mean of an LDS           |
| `predict_proba(X)`       | p(z_t = k given all of X), (n, K)                                               |
| `sample(n)`              | one new sequence of n steps, (n, D)                                             |

`SequenceEstimator(model)` takes any model; `HMMEstimator(n_states, covariance=...)` has the numbers of a hidden
Markov model as parameters of its own, so that a grid can run over them:

    GridSearchCV(HMMEstimator(n_restarts=5, random_state=0), {"n_states": [2, 3, 4], "covariance": ["full", "diag"]})

A step's prediction depends on its whole sequence, so predicting parts of a table is not part of predicting it, and
rows must not be shuffled. In a list, items are arrays or frames with two axes; nested lists of numbers are one
table, and one column is `x[:, None]`. Results are numpy arrays, a list of them for a list. There is no place for
inputs u.

This module imports scikit-learn, and `import probseq` does not import this module.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from probseq.base import LatentStateModel, StateSpaceModel
from probseq.emissions import Emission, Gaussian
from probseq.models.hmm import HMM

Array = np.ndarray[Any, Any]
Model = StateSpaceModel[Any]


def _has_path(estimator: SequenceEstimator) -> bool:
    """Whether the model has a latent state; a function that makes one may do so until it has been asked."""
    model = estimator._template()
    return model is None or isinstance(model, LatentStateModel)


def _has_states(estimator: SequenceEstimator) -> bool:
    """Whether there are probabilities of states, as far as is known."""
    model = estimator._template()
    return model is None or (isinstance(model, LatentStateModel) and "n_states" in model.sizes())


class SequenceEstimator(DensityMixin, BaseEstimator):
    """Any probseq model as an estimator.

    `model` is a model, or a function that makes one for a number of columns, such as `functools.partial(LDS, 2)`. It
    is never changed: every `fit` works on a copy. `method`, `n_restarts`, `max_iterations` and `tolerance` go to the
    model's own `fit`; `random_state` is scikit-learn's, its seed.
    """

    model_: Model
    n_features_in_: int

    def __init__(
        self,
        model: Model | Callable[[int], Model],
        *,
        method: str | None = None,
        n_restarts: int = 1,
        max_iterations: int | None = None,
        tolerance: float | None = None,
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.method = method
        self.n_restarts = n_restarts
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.random_state = random_state

    # ---- the model

    def _make(self, dim: int) -> Model:
        """A model of `dim` columns of this estimator's own."""
        made = copy.deepcopy(self.model) if isinstance(self.model, StateSpaceModel) else self.model(dim)
        if not isinstance(made, StateSpaceModel):
            raise TypeError(f"model must be a probseq model or a function dim -> model, got {self.model!r}")
        return made

    def _template(self) -> Model | None:
        """The fitted model, else the one that was given; None while only a function is known."""
        if "model_" in vars(self):
            return self.model_
        return self.model if isinstance(self.model, StateSpaceModel) else None

    # ---- what scikit-learn calls

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from one sequence (n, D) or a list of sequences; y is ignored."""
        data = self._tables(X, reset=True)
        self.model_ = self._make(self.n_features_in_).fit(
            data,
            method=self.method,
            n_restarts=self.n_restarts,
            max_iterations=self.max_iterations,
            tolerance=self.tolerance,
            seed=_seed(self.random_state),
        )
        return self

    def score(self, X: Any, y: Any = None) -> Any:
        """Mean log-probability per observed step, in nats; y is ignored."""
        return self._fitted().score(self._tables(X))

    def score_samples(self, X: Any) -> Any:
        """log p(y_t | y_<t), (n,). Satisfies mean(score_samples(X)) == score(X) where nothing is missing."""
        filtered = self._fitted().filter(self._tables(X))
        return _each(filtered, lambda one: one.log_prob.numpy())

    @available_if(_has_path)
    def predict(self, X: Any) -> Any:
        """The most probable path: states (n,) of integers, or the smoothed mean (n, state_dim)."""
        model: Any = self._fitted()
        return _each(model.decode(self._tables(X)), lambda one: one.numpy())

    @available_if(_has_states)
    def predict_proba(self, X: Any) -> Any:
        """p(z_t = k | X), (n, K); rows sum to 1."""
        model: Any = self._fitted()
        return _each(model.smooth(self._tables(X)), lambda one: one.probs.numpy())

    @available_if(_has_path)
    def fit_predict(self, X: Any, y: Any = None) -> Any:
        """fit(X).predict(X)."""
        return self.fit(X).predict(X)

    def sample(self, n_samples: int = 1, *, random_state: Any = None) -> Array:
        """One new sequence (n_samples, D) of the fitted model."""
        return self._fitted().sample(n_samples, seed=_seed(random_state)).numpy()

    # ---- the door

    def _fitted(self) -> Model:
        check_is_fitted(self, "model_")
        return self.model_

    def _tables(self, X: Any, *, reset: bool = False) -> Any:
        """X as float64, checked by scikit-learn: one array, or a list of them with equal numbers of columns."""
        if not reset:
            check_is_fitted(self, "model_")
        if not _is_list_of_sequences(X):
            return self._table(X, reset)
        return [self._table(part, reset and i == 0) for i, part in enumerate(X)]

    def _table(self, part: Any, reset: bool) -> Array:
        checked: Any = validate_data(self, part, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")
        return checked

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class HMMEstimator(SequenceEstimator):
    """A hidden Markov model as an estimator.

    `emission` is an emission (copied for every fit) or a function that makes one for a number of columns, Gaussians by
    default; `covariance`, if it is given, goes to that function. `initial`, `initial_prior` and `transition_prior` are
    those of `HMM`; the others are explained at `SequenceEstimator`.
    """

    initial: Literal["free", "stationary"]

    def __init__(
        self,
        n_states: int = 2,
        *,
        emission: Emission | Callable[..., Emission] = Gaussian,
        covariance: Literal["full", "diag", "tied", "spherical"] | None = None,
        initial: Literal["free", "stationary"] = "free",
        initial_prior: Any = None,
        transition_prior: Any = None,
        method: str | None = None,
        n_restarts: int = 1,
        max_iterations: int | None = None,
        tolerance: float | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_states = n_states
        self.emission = emission
        self.covariance = covariance
        self.initial = initial
        self.initial_prior = initial_prior
        self.transition_prior = transition_prior
        self.method = method
        self.n_restarts = n_restarts
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.random_state = random_state

    def _make(self, dim: int) -> HMM:
        return HMM(
            self.n_states,
            emission=self._emission(dim),
            initial=self.initial,
            initial_prior=self.initial_prior,
            transition_prior=self.transition_prior,
        )

    def _emission(self, dim: int) -> Emission:
        if not isinstance(self.emission, Emission):
            return self.emission(dim) if self.covariance is None else self.emission(dim, covariance=self.covariance)
        if self.covariance is not None:
            raise ValueError(
                f"covariance={self.covariance!r} needs an emission that is still to be made, such as "
                f"probseq.emissions.Gaussian itself, got {self.emission!r}"
            )
        return copy.deepcopy(self.emission)

    def _template(self) -> Model | None:
        return vars(self).get("model_")


def _is_list_of_sequences(X: Any) -> bool:
    """A list of arrays (or one-dimensional array of them), and no nested list of numbers."""
    if isinstance(X, np.ndarray):
        return X.dtype == object and X.ndim == 1 and len(X) > 0 and all(np.ndim(part) == 2 for part in X)
    return isinstance(X, (list, tuple)) and len(X) > 0 and all(hasattr(part, "ndim") and part.ndim == 2 for part in X)


def _each(result: Any, convert: Callable[[Any], Any]) -> Any:
    """`convert` for the one result, or for every one of a list."""
    return [convert(one) for one in result] if isinstance(result, list) else convert(result)


def _seed(random_state: Any) -> int | None:
    """scikit-learn's None, integer or RandomState as a seed."""
    if random_state is None or isinstance(random_state, int):
        return random_state
    return int(check_random_state(random_state).randint(2**31 - 1))
