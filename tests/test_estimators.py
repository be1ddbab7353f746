"""scikit-learn's own checks, and its tools over lists of sequences."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import probseq as ps
from probseq.estimators import HMMEstimator, SequenceEstimator
from probseq.ops import hmm_stored, kalman_arrays, kalman_backward, kalman_single

WHOLE = "a step's state depends on the whole sequence, so neither parts nor other orders of it are the same question"
DECLARED = {"check_methods_sample_order_invariance": WHOLE, "check_methods_subset_invariance": WHOLE}
CHECKED = [
    HMMEstimator(max_iterations=20, random_state=0),
    SequenceEstimator(functools.partial(ps.LDS, 1), max_iterations=20, random_state=0),
]


@pytest.fixture
def kernels_for_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of one to ten columns: the kernels that know their sizes would be compiled for each."""
    monkeypatch.setattr(hmm_stored, "MOST_STATES", 0)
    for module in (kalman_arrays, kalman_backward, kalman_single):
        monkeypatch.setattr(module, "KNOWN_STATES", 0)


@pytest.mark.filterwarnings("ignore::probseq.errors.ProbseqWarning")
@pytest.mark.usefixtures("kernels_for_all_sizes")
@parametrize_with_checks(CHECKED, expected_failed_checks=lambda _: DECLARED, xfail_strict=True)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def chain() -> ps.HMM:
    """Three states far apart, with correlated coordinates."""
    means = [[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]]
    emission = ps.emissions.Gaussian(means=means, covs=[[[1.0, 0.6], [0.6, 1.0]]] * 3)
    return ps.HMM(
        initial_probs=[1 / 3] * 3, transition_matrix=np.full((3, 3), 0.1) + 0.7 * np.eye(3), emission=emission
    )


def sequences(n: int = 8) -> list[np.ndarray]:
    """Sequences of lengths 30, 31, ..., some entries missing."""
    drawn = [chain().sample(30 + i, seed=i).numpy() for i in range(n)]
    drawn[0][3, 1] = drawn[1][5] = np.nan
    return drawn


def test_a_grid_over_states_and_covariances_finds_the_truth() -> None:
    grid = {"n_states": [2, 3], "covariance": ["full", "diag"]}
    search = GridSearchCV(HMMEstimator(n_restarts=2, random_state=0), grid, cv=KFold(4)).fit(sequences())
    assert search.best_params_ == {"n_states": 3, "covariance": "full"}
    assert search.best_estimator_.model_.emission.covariance == "full"
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()


def test_every_fold_scores_what_the_model_scores() -> None:
    """Each fold by hand: fit on the other sequences, mean log-probability per observed step of its own."""
    data = sequences()
    scores = cross_val_score(HMMEstimator(3, random_state=0), data, cv=KFold(4))
    for score, (train, test) in zip(scores, KFold(4).split(data), strict=True):
        model = ps.HMM(3, emission=ps.emissions.Gaussian(2)).fit([data[i] for i in train], seed=0)
        held = [data[i] for i in test]
        assert score == model.score(held)
        n_seen = sum(int((~np.isnan(part)).any(1).sum()) for part in held)
        assert score == pytest.approx(model.log_prob(held).sum().item() / n_seen, rel=1e-12)


def test_a_grid_over_families() -> None:
    models = [chain(), ps.HMM(1, emission=ps.emissions.Gaussian(2)), ps.LDS(2, 2), functools.partial(ps.LDS, 1)]
    search = GridSearchCV(SequenceEstimator(ps.LDS(1, 2), random_state=0), {"model": models}, cv=2)
    search.fit(sequences())
    assert search.best_index_ == 0
    assert isinstance(search.best_estimator_.model_, ps.HMM)


def test_results_are_those_of_the_model() -> None:
    data = sequences(3)
    given = chain()
    before = given.transition_matrix.clone()
    estimator = SequenceEstimator(given, random_state=0).fit(data)
    model: Any = estimator.model_
    assert torch.equal(given.transition_matrix, before)
    assert not torch.equal(model.transition_matrix, before)
    for i, one in enumerate(data):
        np.testing.assert_array_equal(estimator.predict(data)[i], model.decode(one))
        np.testing.assert_allclose(estimator.predict_proba(data)[i], model.smooth(one).probs, rtol=1e-12)
        np.testing.assert_allclose(estimator.score_samples(data)[i], model.filter(one).log_prob, rtol=1e-12)
        np.testing.assert_array_equal(estimator.predict(one), model.decode(one))
    objects = np.empty(3, dtype=object)
    objects[:] = data
    assert estimator.score(objects) == estimator.score(tuple(data)) == model.score(data)
    np.testing.assert_array_equal(estimator.fit_predict(data)[0], estimator.predict(data)[0])
    np.testing.assert_array_equal(estimator.sample(5, random_state=1), model.sample(5, seed=1))
    assert estimator.sample(5).shape == (5, 2)
    assert estimator.predict_proba(data[0]).shape == (30, 3)
    assert SequenceEstimator(ps.LDS(3, 2), max_iterations=500, tolerance=1e-3).fit_predict(data)[0].shape == (30, 3)


def test_parameters_reach_the_model() -> None:
    estimator = HMMEstimator(
        2, emission=ps.emissions.Poisson, initial="stationary", transition_prior=2.0, n_restarts=3, method="gradient",
        random_state=np.random.RandomState(0),
    )  # fmt: skip
    counts = ps.datasets.earthquakes().to_frame()
    model: Any = clone(estimator).fit(counts).model_
    assert (model.initial, model.history.method, len(model.history.restarts)) == ("stationary", "gradient", 3)
    assert float(model.transition_prior.min()) == 2.0
    assert isinstance(model.emission, ps.emissions.Poisson)
    plain = HMMEstimator(2, emission=ps.emissions.Poisson(1), random_state=0).fit(counts)
    assert plain.emission.n_states == 0  # type: ignore[union-attr]
    assert list(plain.feature_names_in_) == ["earthquakes"]  # type: ignore[attr-defined]
    assert plain.score(counts) == plain.model_.score(ps.datasets.earthquakes())


def test_pipelines() -> None:
    data = sequences()
    table = make_pipeline(StandardScaler(), HMMEstimator(3, random_state=0)).fit(data[2])
    assert table.predict(data[2]).shape == (32,)
    scaled = StandardScaler().fit_transform(data[2])
    assert table.score(data[2]) == HMMEstimator(3, random_state=0).fit(scaled).score(scaled)
    first_column = FunctionTransformer(lambda X: [part[:, :1] for part in X])
    listed = make_pipeline(first_column, HMMEstimator(random_state=0))
    search = GridSearchCV(listed, {"hmmestimator__n_states": [1, 2]}, cv=2).fit(data)
    assert search.best_params_ == {"hmmestimator__n_states": 2}
    assert [len(path) for path in search.predict(data)] == [len(part) for part in data]


def test_frames_keep_their_columns() -> None:
    frames = [pd.DataFrame(part, columns=["a", "b"]) for part in sequences(2)]
    estimator = HMMEstimator(3, random_state=0).fit(frames)
    assert estimator.score(frames) == HMMEstimator(3, random_state=0).fit(sequences(2)).score(sequences(2))
    with pytest.raises(ValueError, match="feature names"):
        estimator.predict([frames[0][["b", "a"]]])


def test_errors_say_what_is_wrong() -> None:
    data = sequences(2)
    with pytest.raises(NotFittedError):
        HMMEstimator().predict(data)
    with pytest.raises(ValueError, match="1 features, but HMMEstimator is expecting 2 features"):
        HMMEstimator(random_state=0).fit([data[0], data[1][:, :1]])
    with pytest.raises(ValueError, match="covariance='diag' needs an emission that is still to be made"):
        HMMEstimator(emission=ps.emissions.Poisson(2), covariance="diag").fit(data)
    with pytest.raises(TypeError, match="model must be a probseq model or a function"):
        SequenceEstimator(lambda dim: dim).fit(data)  # type: ignore[arg-type, return-value]
    network = ps.RNN(2, cell=ps.cells.GRU(hidden_size=2), head=ps.heads.Gaussian())
    with pytest.raises(AttributeError, match="predict"):
        SequenceEstimator(network).predict(data)
    with pytest.raises(AttributeError, match="predict_proba"):
        SequenceEstimator(ps.LDS(1, 2)).predict_proba(data)
    assert not hasattr(SequenceEstimator(functools.partial(ps.LDS, 1), random_state=0).fit(data[0]), "predict_proba")


def test_importing_probseq_does_not_import_scikit_learn() -> None:
    code = "import sys, probseq; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
