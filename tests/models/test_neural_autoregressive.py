"""Feed-forward networks on delay taps: what they reduce to, what they learn, gaps, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps


def test_without_layers_symbols_are_a_bigram():
    """The maximum of the likelihood is the table of counts, and the first symbols have a row of their own."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size=(40, 30, 1)).astype(float)
    y[:, 1:] = np.where(rng.random((40, 29, 1)) < 0.5, y[:, :-1], y[:, 1:])
    model = ps.NeuralAR(1, head=ps.heads.Categorical(3), dtype=torch.float64, seed=0)
    model.fit(y, optimizer="lbfgs", validation=False, seed=0, tolerance=1e-9, max_iterations=1000)
    symbols = y[..., 0].astype(int)
    first = np.bincount(symbols[:, 0], minlength=3) / 40
    table = np.zeros((3, 3))
    np.add.at(table, (symbols[:, :-1].ravel(), symbols[:, 1:].ravel()), 1)
    table /= table.sum(1, keepdims=True)
    truth = np.log(first[symbols[:, 0]]) + np.log(table[symbols[:, :-1], symbols[:, 1:]]).sum(1)
    np.testing.assert_allclose(model.log_prob(y).detach(), truth, atol=2e-4)
    assert model.score(y) == pytest.approx(truth.sum() / y.size, rel=1e-9)


def test_without_layers_a_fit_finds_the_autoregression():
    """Given the window it starts from; a Gaussian head may also move its variance, so a little better, never worse."""
    y = ps.AR(transition_matrices=[[[0.8]]], transition_offset=[1.0], transition_cov=[[0.5]]).sample(400, seed=0)
    linear = ps.AR(1).fit(y, seed=0)
    model = ps.NeuralAR(1, dtype=torch.float64, seed=0).fit(y, optimizer="lbfgs", validation=False, seed=0)
    mine, theirs = (float(m.filter(y).log_prob[1:].mean()) for m in (model, linear))
    assert theirs - 1e-4 < mine < theirs + 0.01


def test_layers_learn_what_a_line_cannot():
    """The logistic map: no linear correlation at all, and yet known from one step to the next."""
    rng = np.random.default_rng(0)
    y = [0.3]
    while len(y) < 300:
        y.append(4 * y[-1] * (1 - y[-1]))
    y = np.array(y) + 0.01 * rng.normal(size=300)
    model = ps.NeuralAR(1, hidden=[16], seed=0)
    model.fit(y, seed=0, learning_rate=2e-2, max_iterations=300, validation=False)
    assert model.score(y) > ps.AR(1).fit(y, seed=0).score(y) + 1.0


def test_one_embedding_serves_all_lags():
    model = ps.NeuralAR(3, hidden=[4], head=ps.heads.Categorical(5), embedding_dim=2, dtype=torch.float64, seed=0)
    assert model.layer_weights[0].shape == (4, 6)
    window = model.filter([0.0, 3.0, 1.0]).updated.values[-1]
    assert window.argmax(-1).tolist() == [1, 3, 0]
    taps = torch.cat([model.embedding[k] for k in (1, 3, 0)])
    hidden = torch.tanh(model.layer_weights[0] @ taps + model.layer_biases[0])
    said = model.forecast([0.0, 3.0, 1.0], 1, n_samples=1).probs[0]
    torch.testing.assert_close(said, torch.softmax(model.head.weights @ hidden + model.head.bias, 0).detach())


def test_a_gap_goes_into_the_window_as_its_expectation():
    model = ps.NeuralAR(2, hidden=[3], dtype=torch.float64, seed=0)
    y = np.array([0.3, np.nan, -1.0, 0.7, 0.1])
    expected = model.emit(ps.at(model.filter(y[:2]).predicted, 1)).mean.item()
    filled = model.filter(np.array([0.3, expected, -1.0, 0.7, 0.1])).log_prob
    assert model.log_prob(y).item() == pytest.approx((filled.sum() - filled[1]).item(), rel=1e-12)


def test_any_head_and_mixed_columns():
    pen = ps.heads.Product([ps.heads.MixtureDensity(2, "full"), ps.heads.Bernoulli()], [2, 1])
    rng = np.random.default_rng(0)
    y = np.concatenate([50 + 1e-3 * rng.normal(size=(60, 2)), rng.integers(0, 2, size=(60, 1))], -1)
    model = ps.NeuralAR(2, 3, hidden=[4], head=pen, seed=0).fit(y, seed=0, max_iterations=5)
    assert model.head.scale[:2].tolist() == pytest.approx([1e-3, 1e-3], rel=0.3)
    assert model.head.scale[2] == 1
    assert model.sample(4, seed=0).shape == (4, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"order": 0}, ValueError, "order must be"),
        ({"order": 1, "hidden": [0]}, ValueError, r"hidden\[0\] must be"),
        ({"order": 1, "activation": "sine"}, ValueError, "activation must be one of"),
        ({"order": 1, "head": ps.heads.Gaussian}, TypeError, "head must be a Head"),
        ({"order": 1, "embedding_dim": 0}, ValueError, "embedding_dim must be"),
        ({"order": 2, "hidden": 8}, ValueError, r"hidden must be a list of sizes, such as \[32\], got 8"),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        ps.NeuralAR(**arguments)
