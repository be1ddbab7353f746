"""Draws from the full conditionals that have a closed form, on arrays.

| what                      | prior                           | given     | conditional                              |
|---------------------------|---------------------------------|-----------|------------------------------------------|
| B (m, p) in Y = X B' + E  | entries Normal(mean, deviation) | S of E    | normal, precision S^-1 x X'X + prior's   |
| S (m, m) of rows of E     | InverseWishart(scale, v)        | E (N, m)  | InverseWishart(scale + E'E, v + N)       |
| variances of columns of E | InverseGamma(a, b)              | E (N, m)  | InverseGamma(a + N / 2, b + sum E^2 / 2) |
| rows of probabilities     | Dirichlet(a)                    | counts    | Dirichlet(a + counts)                    |
| Poisson rates             | Gamma(a, rate)                  | sums of N | Gamma(a + sums, rate + N)                |
| probabilities             | Beta(a, b)                      | bits      | Beta(a + ones, b + zeros)                |

Reference: Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), ch. 3, 14 and appendix A.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def regression(rng: np.random.Generator, y: Array, x: Array, cov: Array, mean: Array, deviation: Array) -> Array:
    """B (m, p) from y (N, m), x (N, p), the noise covariance (m, m) and the prior's means and deviations (m, p)."""
    precision = np.linalg.inv(cov)
    weights = 1 / np.square(deviation).ravel()
    total = np.kron(precision, x.T @ x) + np.diag(weights)
    right = (precision @ (y.T @ x)).ravel() + weights * mean.ravel()
    factor = np.linalg.cholesky(total)
    centre = np.linalg.solve(total, right)
    return (centre + np.linalg.solve(factor.T, rng.standard_normal(len(centre)))).reshape(mean.shape)


def covariance(rng: np.random.Generator, scatter: Array, n: float, scale: Array, dofs: float) -> Array:
    """S ~ InverseWishart(scale + scatter, dofs + n), by Bartlett's decomposition."""
    d = len(scale)
    factor = np.linalg.cholesky(scale + scatter)
    lower = np.tril(rng.standard_normal((d, d)), -1)
    lower[np.diag_indices(d)] = np.sqrt(rng.chisquare(dofs + n - np.arange(d)))
    root = np.linalg.solve(lower, factor.T).T  # S = F (L L')^-1 F' is InverseWishart(F F')
    return root @ root.T


def variances(rng: np.random.Generator, squares: Array, n: Array, shape: Array, scale: Array) -> Array:
    """Variances ~ InverseGamma(shape + n / 2, scale + squares / 2)."""
    return (scale + squares / 2) / rng.standard_gamma(shape + n / 2)


def rows(rng: np.random.Generator, concentration: Array) -> Array:
    """Each row ~ Dirichlet(concentration), (..., K); where that is 0 an outcome stays impossible."""
    drawn = rng.standard_gamma(concentration)
    tiny = drawn.sum(-1, keepdims=True) <= 0  # every gamma underflowed: the largest concentration takes all
    drawn = np.where(tiny, concentration == concentration.max(-1, keepdims=True), drawn)
    drawn = np.where((drawn == 0) & (concentration > 0), np.finfo(float).tiny, drawn)
    return drawn / drawn.sum(-1, keepdims=True)
