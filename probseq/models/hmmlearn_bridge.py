"""To and from hmmlearn: the same numbers under the other library's names, priors included.

| hmmlearn                       | here                                              |
|--------------------------------|---------------------------------------------------|
| startprob_, transmat_          | initial_probs, transition_matrix                  |
| startprob_prior, transmat_prior| initial_prior, transition_prior (None where 1)    |
| GaussianHMM means_, covars_    | emission.means, emission.covs (always full)       |
| CategoricalHMM emissionprob_   | emission.probs                                    |
| PoissonHMM lambdas_            | emission.rates                                    |
| emissionprob_prior             | priors.Dirichlet                                  |

Its M-step of a Gaussian state, with N = sum_n w_n the weight of the state, W = `covars_weight`, P = `covars_prior`,
k and m0 = `means_weight` and `means_prior`, and S the scatter around the new mean plus k (m - m0)(m - m0)', is

    full, tied         (P + S) / (max(W - D, 0) + N)            tied: S and N summed over states
    diag, spherical    (P + diag S) / (max(W - 1, 0) + N)       spherical: then averaged over coordinates

which are the modes under a NormalInverseWishart(scale=P, dofs=max(W - D, 0) - D - 1 - h) and a
NormalInverseGamma(shape=max(W - 1, 0) / 2 - 1 - h / 2, scale=P / 2), h = 1 if k > 0 for each mean that shares the
covariance (spherical: both multiplied by D first). A number P fills the *whole* matrix for "full" and "tied", so that
the default of 0.01 is a scale of rank one. The defaults are improper (W - D and W - 1 are zero or cut off at zero), but
their modes are exact; hmmlearn's history still falls at times because it logs log p(y) without the prior.

A PoissonHMM with lambdas_prior = a and lambdas_weight = b sets (a + n s_k / N_k) / (b + n), where s_k is the weighted
sum of counts and n the weight of *all* states. That is the mode (a' + s_k) / (b' + N_k) for a' = a N_k / n and
b' = b N_k / n, a prior that moves with the posterior: no fixed one has this M-step unless there is one state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probseq import emissions, priors

if TYPE_CHECKING:
    from probseq.models.hmm import HMM

Array = np.ndarray[Any, Any]


def arguments_from(model: Any, with_priors: bool) -> dict[str, Any]:
    """The constructor's arguments of the HMM that equals a fitted hmmlearn model.

    Raises TypeError for a kind that has no counterpart, ValueError for a prior that has none.
    """
    if not hasattr(model, "transmat_"):
        raise ValueError(f"model must be fitted: this {type(model).__name__} has no transmat_")
    chain = {} if not with_priors else {
        "initial_prior": _concentration(model, "startprob_prior"),
        "transition_prior": _concentration(model, "transmat_prior"),
    }  # fmt: skip
    return {
        "initial_probs": model.startprob_,
        "transition_matrix": model.transmat_,
        "emission": emission_from(model, with_priors),
        **chain,
    }


def emission_from(model: Any, with_priors: bool) -> emissions.Emission:
    """The emission of a fitted hmmlearn model."""
    kind = type(model).__name__
    if kind == "GaussianHMM":
        prior = gaussian_prior(model) if with_priors else None
        covariance = model.covariance_type
        return emissions.Gaussian(means=model.means_, covs=_full(model), covariance=covariance, prior=prior)
    if kind == "CategoricalHMM":
        alpha = _concentration(model, "emissionprob_prior") if with_priors else None
        prior = None if alpha is None else priors.Dirichlet(alpha)
        return emissions.Categorical(probs=model.emissionprob_, prior=prior)
    if kind == "PoissonHMM":
        return emissions.Poisson(rates=model.lambdas_, prior=_poisson_prior(model) if with_priors else None)
    raise TypeError(f"model must be a GaussianHMM, CategoricalHMM or PoissonHMM of hmmlearn, got {kind}")


def _concentration(model: Any, name: str) -> Array | None:
    """A Dirichlet's concentrations, None where they are flat."""
    value = np.asarray(getattr(model, name), dtype=float)
    if (value < 1).any():
        raise _inexpressible(name, "an entry is below 1, where the density has no mode")
    return None if (value == 1).all() else value


def _inexpressible(name: str, reason: str) -> ValueError:
    return ValueError(f"model has a {name} without counterpart: {reason}; from_hmmlearn(model, priors=False) drops it")


def gaussian_prior(model: Any) -> priors.Prior | None:
    """The prior whose MAP M-step is that of a GaussianHMM, None where that is maximum likelihood."""
    k, d = model.means_.shape
    weight, precision = np.asarray(model.covars_weight, float), np.asarray(model.means_weight, float)
    full = model.covariance_type in ("full", "tied")
    if weight.ndim or (precision.ndim and full):
        raise _inexpressible("covars_weight or means_weight", "it is an array where a number was expected")
    count = max(float(weight) - (d if full else 1), 0.0)
    held = 1.0 if (precision > 0).any() else 0.0
    if precision.ndim and not ((precision > 0).all() or not held):
        raise _inexpressible("means_weight", "some entries are zero and some are not")
    if not held and count == 0 and not np.asarray(model.covars_prior).any():
        return None
    means = {"mean": model.means_prior, "mean_precision": precision} if held else {}
    if full:
        tied = model.covariance_type == "tied"
        shape = (d, d) if tied else (k, d, d)
        matrix = np.broadcast_to(np.asarray(model.covars_prior, float), shape)
        return priors.NormalInverseWishart(scale=matrix, dofs=count - d - 1 - held * (k if tied else 1), **means)
    if model.covariance_type == "diag":
        scale = np.asarray(model.covars_prior, float) / 2
        return priors.NormalInverseGamma(shape=count / 2 - 1 - held / 2, scale=scale, **means)
    total = np.broadcast_to(np.asarray(model.covars_prior, float), (k, d)).sum(1, keepdims=True)
    return priors.NormalInverseGamma(shape=d * count / 2 - 1 - d * held / 2, scale=total / 2, **means)


def _poisson_prior(model: Any) -> priors.Gamma | None:
    shape, rate = np.asarray(model.lambdas_prior, float), np.asarray(model.lambdas_weight, float)
    if not shape.any() and not rate.any():
        return None
    if model.n_components > 1:
        raise _inexpressible("lambdas_prior or lambdas_weight", "its weight follows the posterior of the states")
    return priors.Gamma(shape + 1, rate)


def to_hmmlearn(model: HMM) -> Any:
    """An hmmlearn model with these parameters. Raises TypeError for an emission that hmmlearn does not have.

    ValueError for a prior that it does not have.
    """
    from hmmlearn import hmm

    emission, k = model.emission, model.n_states
    options: dict[str, Any] = {}
    for name, value in (("startprob_prior", model.initial_prior), ("transmat_prior", model.transition_prior)):
        options |= {} if value is None else {name: _array(value)}
    if isinstance(emission, emissions.Gaussian):
        other: Any = hmm.GaussianHMM(k, emission.covariance, **_gaussian_options(emission), **options)
        other.means_ = _array(emission.means)
        other.covars_ = _covariances(emission)
    elif isinstance(emission, emissions.Categorical):
        if isinstance(emission.prior, priors.Dirichlet):
            options["emissionprob_prior"] = _array(emission.prior.concentration)
        other = hmm.CategoricalHMM(k, **options)
        other.emissionprob_ = _array(emission.probs)
        other.n_features = emission.n_symbols
    elif isinstance(emission, emissions.Poisson):
        if isinstance(emission.prior, priors.Gamma):
            if k > 1:
                raise ValueError("hmmlearn has no counterpart of a Gamma prior on Poisson rates of several states")
            options |= {
                "lambdas_prior": _array(emission.prior.shape) - 1,
                "lambdas_weight": _array(emission.prior.rate),
            }
        other = hmm.PoissonHMM(k, **options)
        other.lambdas_ = _array(emission.rates)
    else:
        raise TypeError(f"hmmlearn has no counterpart of {type(emission).__name__} emissions")
    other.startprob_, other.transmat_ = _array(model.initial_probs), _array(model.transition_matrix)
    return other


def _gaussian_options(emission: emissions.Gaussian) -> dict[str, Any]:
    """means_prior, means_weight, covars_prior and covars_weight with the same M-step: `gaussian_prior` backwards."""
    k, d, prior, kind = emission.n_states, emission.dim, emission.prior, emission.covariance
    if not isinstance(prior, (priors.NormalInverseWishart, priors.NormalInverseGamma)):
        return {"covars_prior": 0.0, "covars_weight": 0.0}
    precision = _array(prior.mean_precision)
    held = 1.0 if (precision > 0).any() else 0.0
    means = {"means_prior": _array(prior.mean), "means_weight": precision} if held else {}
    if isinstance(prior, priors.NormalInverseWishart):
        counts, least = _array(prior.dofs) + d + 1 + held * (k if kind == "tied" else 1), d
        scale = _array(prior.scale) if prior.scale.ndim else float(prior.scale) * np.eye(d)
        precise = precision.ndim == 0
    else:
        sizes = d if kind == "spherical" else 1
        counts, least = 2 * (_array(prior.shape) + 1) / sizes + held, 1
        scale = 2 * _array(prior.scale) / sizes
        precise = True
    if not precise or np.ptp(counts):
        raise ValueError("hmmlearn has no counterpart of a prior whose dofs, shape or mean_precision differ by state")
    count = float(counts.flat[0])
    return {"covars_prior": scale, "covars_weight": count + least if count > 0 else 0.0, **means}


def _array(value: Any) -> Array:
    return value.detach().numpy().copy()


def _full(model: Any) -> Array:
    """The covariances of a GaussianHMM as (K, D, D); its own property has another shape after a spherical fit."""
    k, d = model.means_.shape
    stored, kind = np.asarray(model._covars_), model.covariance_type
    if kind == "full":
        return stored
    if kind == "tied":
        return np.repeat(stored[None], k, 0)
    variances = stored if kind == "diag" else np.repeat(stored.reshape(k, -1).mean(1, keepdims=True), d, 1)
    return variances[:, :, None] * np.eye(d)


def _covariances(emission: emissions.Gaussian) -> Array:
    """The covariances in the shape that hmmlearn's covariance type wants."""
    covs = _array(emission.covs)
    if emission.covariance == "diag":
        return np.ascontiguousarray(np.diagonal(covs, axis1=1, axis2=2))
    if emission.covariance == "spherical":
        return covs[:, 0, 0]
    return covs[0] if emission.covariance == "tied" else covs
