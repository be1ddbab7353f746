"""What a user of hidden Markov models writes from fitting to forecasting, line by line as documented."""

from __future__ import annotations

import numpy as np
import pytest

import probseq as ps


@pytest.mark.filterwarnings("ignore::probseq.errors.ConvergenceWarning")
def test_counts_from_restarts_to_standard_errors():
    counts = ps.datasets.earthquakes()
    m = ps.HMM(3, emission=ps.emissions.Poisson(1)).fit(counts, n_restarts=20, seed=0)
    # Zucchini & MacDonald (2009), table 3.1: -log L = 328.5275 with three states, AIC 679.1; 11 parameters, 107 years.
    assert -m.log_prob(counts).item() == pytest.approx(328.5275, abs=2e-4)
    assert float(m.aic(counts)) == pytest.approx(679.1, abs=0.05)
    assert float(m.bic(counts)) == pytest.approx(2 * 328.5275 + 11 * np.log(107), abs=4e-4)
    assert "emission.rate" in str(m.summary())
    errors = m.standard_errors(counts)["standard_error"]
    assert (errors[[name for name in errors.index if name.startswith("emission.rate")]] > 0).sum() == 3


def test_given_parameters_answer_all_three_questions():
    y = [0, 1, 1, 0, 0, 1]
    m = ps.HMM(
        initial_probs=[0.5, 0.5],
        transition_matrix=[[0.7, 0.3], [0.3, 0.7]],
        emission=ps.emissions.Categorical(probs=[[0.1, 0.9], [0.8, 0.2]]),
    )
    assert m.decode(y).shape == (6,)
    probs = m.forecast(y, steps=10).probs
    assert probs.shape == (10, 2)
    # The chain rule: the first forecast is the ratio of two likelihoods.
    extended = [(m.log_prob([*y, symbol]) - m.log_prob(y)).item() for symbol in (0, 1)]
    np.testing.assert_allclose(np.exp(extended), probs[0], rtol=1e-12)


@pytest.mark.filterwarnings("ignore::probseq.errors.ConvergenceWarning")
def test_lists_of_uneven_sequences_with_inputs():
    random = np.random.default_rng(0)
    list_of_arrays = [random.normal(size=(length, 2)).cumsum(0) for length in (40, 25, 33)]
    list_of_inputs = [random.normal(size=(len(y), 1)) for y in list_of_arrays]
    m = ps.HMM(4, emission=ps.emissions.Gaussian(2), input_dim=1).fit(list_of_arrays, u=list_of_inputs, seed=0)
    scores = m.log_prob(list_of_arrays, u=list_of_inputs)
    assert len(scores) == 3
    assert scores.isfinite().all()


@pytest.mark.filterwarnings("ignore::probseq.errors.ConvergenceWarning")
def test_regimes_of_autoregression_and_of_given_durations():
    random = np.random.default_rng(1)
    regime = np.repeat(np.arange(20) % 2, 15)
    y = random.normal(size=(300, 2)) * np.where(regime, 0.3, 2.0)[:, None]
    m = ps.HMM(5, emission=ps.emissions.Autoregressive(dim=2, order=2)).fit(y, seed=0)
    assert m.smooth(y).probs.shape == (300, 5)
    x = np.abs(y[:, :1]) + regime[:, None]
    m = ps.HSMM(3, emission=ps.emissions.Gaussian(1), duration=ps.durations.NegativeBinomial(max_duration=50)).fit(x)
    assert float(m.score(x)) > ps.HMM(1, emission=ps.emissions.Gaussian(1)).fit(x).score(x)
