"""To and from hmmlearn: the same numbers under the other library's names.

| hmmlearn                       | here                                              |
|--------------------------------|---------------------------------------------------|
| startprob_, transmat_          | initial_probs, transition_matrix                  |
| GaussianHMM means_, covars_    | emission.means, emission.covs (always full)       |
| CategoricalHMM emissionprob_   | emission.probs                                    |
| PoissonHMM lambdas_            | emission.rates                                    |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probseq import emissions

if TYPE_CHECKING:
    from probseq.models.hmm import HMM


def emission_from(model: Any) -> emissions.Emission:
    """The emission of a fitted hmmlearn model. Raises TypeError for a kind that has no counterpart."""
    kind = type(model).__name__
    if kind == "GaussianHMM":
        return emissions.Gaussian(means=model.means_, covs=_full(model), covariance=model.covariance_type)
    if kind == "CategoricalHMM":
        return emissions.Categorical(probs=model.emissionprob_)
    if kind == "PoissonHMM":
        return emissions.Poisson(rates=model.lambdas_)
    raise TypeError(f"model must be a GaussianHMM, CategoricalHMM or PoissonHMM of hmmlearn, got {kind}")


def arguments_from(model: Any) -> dict[str, Any]:
    """The constructor's arguments of the HMM that equals a fitted hmmlearn model."""
    if not hasattr(model, "transmat_"):
        raise ValueError(f"model must be fitted: this {type(model).__name__} has no transmat_")
    return {
        "initial_probs": model.startprob_,
        "transition_matrix": model.transmat_,
        "emission": emission_from(model),
    }


def to_hmmlearn(model: HMM) -> Any:
    """An hmmlearn model with these parameters. Raises TypeError for an emission that hmmlearn does not have."""
    from hmmlearn import hmm

    emission = model.emission
    if isinstance(emission, emissions.Gaussian):
        other: Any = hmm.GaussianHMM(model.n_states, emission.covariance)
        other.means_ = _array(emission.means)
        other.covars_ = _covariances(emission)
    elif isinstance(emission, emissions.Categorical):
        other = hmm.CategoricalHMM(model.n_states)
        other.emissionprob_ = _array(emission.probs)
        other.n_features = emission.n_symbols
    elif isinstance(emission, emissions.Poisson):
        other = hmm.PoissonHMM(model.n_states)
        other.lambdas_ = _array(emission.rates)
    else:
        raise TypeError(f"hmmlearn has no counterpart of {type(emission).__name__} emissions")
    other.startprob_, other.transmat_ = _array(model.initial_probs), _array(model.transition_matrix)
    return other


def _array(value: Any) -> np.ndarray[Any, Any]:
    return value.detach().numpy().copy()


def _full(model: Any) -> np.ndarray[Any, Any]:
    """The covariances of a GaussianHMM as (K, D, D); its own property has another shape after a spherical fit."""
    k, d = model.means_.shape
    stored, kind = np.asarray(model._covars_), model.covariance_type
    if kind == "full":
        return stored
    if kind == "tied":
        return np.repeat(stored[None], k, 0)
    variances = stored if kind == "diag" else np.repeat(stored.reshape(k, -1).mean(1, keepdims=True), d, 1)
    return variances[:, :, None] * np.eye(d)


def _covariances(emission: emissions.Gaussian) -> np.ndarray[Any, Any]:
    """The covariances in the shape that hmmlearn's covariance type wants."""
    covs = _array(emission.covs)
    if emission.covariance == "diag":
        return np.ascontiguousarray(np.diagonal(covs, axis1=1, axis2=2))
    if emission.covariance == "spherical":
        return covs[:, 0, 0]
    return covs[0] if emission.covariance == "tied" else covs
