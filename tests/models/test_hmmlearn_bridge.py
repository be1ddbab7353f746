"""Models travel to hmmlearn and back with the same likelihood."""

from __future__ import annotations

import numpy as np
import pytest
from hmmlearn import hmm as rival

import probseq as ps

DRAWS = np.random.default_rng(0)
MATRIX = np.array([[0.9, 0.1], [0.3, 0.7]])


def fitted(kind: str) -> tuple[rival.GaussianHMM, np.ndarray]:
    if kind == "categorical":
        y = DRAWS.integers(0, 4, size=(80, 1))
        return rival.CategoricalHMM(2, random_state=0, n_iter=3).fit(y), y
    if kind == "poisson":
        y = DRAWS.poisson([[3.0, 9.0]], size=(80, 2))
        return rival.PoissonHMM(2, random_state=0, n_iter=3).fit(y), y
    y = DRAWS.normal(size=(80, 2)) + 3 * DRAWS.integers(0, 2, size=(80, 1))
    return rival.GaussianHMM(2, kind, random_state=0, n_iter=3).fit(y), y


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical", "categorical", "poisson"])
def test_there_and_back(kind):
    other, y = fitted(kind)
    ours = ps.HMM.from_hmmlearn(other)
    assert ours.log_prob(y).item() == pytest.approx(other.score(y), rel=1e-9)
    again = ours.to_hmmlearn()
    assert again.score(y) == pytest.approx(other.score(y), rel=1e-9)
    best, path = other.decode(y)
    assert ours.path_log_prob(ours.decode(y), y).item() == pytest.approx(best, rel=1e-9)
    assert ours.path_log_prob(path, y).item() == pytest.approx(best, rel=1e-9)


def test_what_has_no_counterpart_is_refused():
    with pytest.raises(ValueError, match="must be fitted"):
        ps.HMM.from_hmmlearn(rival.GaussianHMM(2))
    other = rival.GMMHMM(2)
    other.transmat_ = other.startprob_ = MATRIX
    with pytest.raises(TypeError, match="of hmmlearn, got GMMHMM"):
        ps.HMM.from_hmmlearn(other)
    bernoulli = ps.emissions.Bernoulli(probs=[[0.5], [0.1]])
    with pytest.raises(TypeError, match="no counterpart of Bernoulli"):
        ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=MATRIX, emission=bernoulli).to_hmmlearn()
