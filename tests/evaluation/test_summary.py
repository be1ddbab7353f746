"""The page says what the parts say."""

from __future__ import annotations

import numpy as np
import pytest

import probseq as ps


def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(4.2, size=60).astype(float)


def one_state() -> ps.HMM:
    emission = ps.emissions.Poisson(rates=[[counts().mean()]])
    return ps.HMM(initial_probs=[1.0], transition_matrix=[[1.0]], emission=emission)


def test_the_text_holds_what_the_methods_return() -> None:
    y = counts()
    page = one_state().summary(y)
    text = repr(page)
    assert page.n_parameters == 1
    assert page.n_steps == 60
    assert "HMM(n_states=1, emission=Poisson(dim=1))" in text
    assert f"{page.log_prob:.4f} nats" in text
    assert page.log_prob == pytest.approx(60 * one_state().score(y), rel=1e-12)
    assert f"{one_state().aic(y):.4f}" in text
    assert f"{one_state().bic(y):.4f}" in text
    row = one_state().standard_errors(y).loc["emission.rates[0, 0]"]
    line = next(line for line in text.splitlines() if line.startswith("emission.rates[0, 0]"))
    for part in (f"{row['estimate']:.5g}", f"({row['standard_error']:.3g})", f"{row['lower']:.5g} .. "):
        assert part in line
    assert "none: parameters as given" in text


def test_a_fit_is_described_and_held_parameters_are_not_counted() -> None:
    nile = ps.datasets.nile()
    model = ps.AR(transition_matrices=[[[0.5]]], transition_offset=[450.0], transition_cov=[[2e4]])
    model.fit(nile, fixed="transition_cov", tolerance=1e-12)
    page = model.summary(nile, fixed="transition_cov")
    assert page.n_parameters == 2
    assert page.aic == pytest.approx(4 - 2 * model.score(nile) * 100, rel=1e-12)
    assert "transition_cov[0, 0]" not in repr(page)
    assert f"{model.history.method}, {model.history.n_iterations} iterations, converged" in repr(page)


def test_without_data_the_parameters_are_shown() -> None:
    text = repr(one_state().summary())
    assert "transition_matrix\n  [[1.]]" in text
    assert "AIC" not in text
    assert "no parameter has a value yet" in repr(ps.HMM(2, emission=ps.emissions.Poisson(1)).summary())
